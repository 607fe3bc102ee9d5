// The broadcast server of the README of `ws`, spread over processes by Redis: what is said is published, and everybody
// hears what comes back. Publishing and listening are two connections, as Redis wants it, pipelined as the README of
// `ioredis` advises. Everything is sent as text. Usage: node ws-redis.mjs PORT REDIS_URL
import Redis from 'ioredis';
import WebSocket, { WebSocketServer } from 'ws';

const [port, url] = process.argv.slice(2);
const publisher = new Redis(url, { enableAutoPipelining: true });
const subscriber = new Redis(url);

// A client's first message must find everybody listening.
await subscriber.subscribe('bench');
const wss = new WebSocketServer({ host: '127.0.0.1', port: Number(port) });

subscriber.on('messageBuffer', function message(channel, data) {
  wss.clients.forEach(function each(client) {
    if (client.readyState === WebSocket.OPEN) {
      client.send(data, { binary: false });
    }
  });
});

wss.on('connection', function connection(ws) {
  ws.on('error', console.error);

  ws.on('message', function message(data) {
    publisher.publish('bench', data).catch(console.error);
  });
});
