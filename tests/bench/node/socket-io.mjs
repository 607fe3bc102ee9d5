// The broadcast server of Socket.IO's documentation, the sender included; with a Redis over its Redis adapter, as the
// adapter's README has it with the package `redis`. WebSocket only, which needs no sticky sessions; the request of a
// handshake is let go, as the page about performance tuning advises. Usage: node socket-io.mjs PORT [REDIS_URL]
import { createServer } from 'node:http';
import { createAdapter } from '@socket.io/redis-adapter';
import { createClient } from 'redis';
import { Server } from 'socket.io';

const [port, url] = process.argv.slice(2);
const server = createServer();
const io = new Server(server, { transports: ['websocket'] });

if (url) {
  const pubClient = createClient({ url });
  const subClient = pubClient.duplicate();
  pubClient.on('error', console.error);
  subClient.on('error', console.error);
  await Promise.all([pubClient.connect(), subClient.connect()]);
  io.adapter(createAdapter(pubClient, subClient));
}

io.engine.on('connection', (rawSocket) => {
  rawSocket.request = null;
});

io.on('connection', (socket) => {
  socket.on('message', (data) => {
    io.emit('message', data);
  });
});

server.listen(Number(port), '127.0.0.1');
