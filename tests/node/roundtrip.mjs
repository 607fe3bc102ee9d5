// "Round-trip time" of the README of ws, written for an echo server. A channel with one client is one, so the channel
// must be its own. It passes after three round trips.

import { url, pass, fail, closedTooSoon } from './check.mjs';

// --- README of ws ---
import WebSocket from 'ws';

const ws = new WebSocket(url);

ws.on('error', console.error);

ws.on('open', function open() {
  console.log('connected');
  ws.send(Date.now());
});

ws.on('close', function close() {
  console.log('disconnected');
});

ws.on('message', function message(data) {
  console.log(`Round-trip time: ${Date.now() - data} ms`);

  setTimeout(function timeout() {
    ws.send(Date.now());
  }, 500);
});
// --- until here ---

let previous = 0;
let trips = 0;

ws.on('error', fail);
ws.on('close', closedTooSoon);
ws.on('message', (data) => {
  const sentAt = Number(data.toString());
  // Each message is a clock reading later than the one before: anything else is not what this client said.
  if (!(sentAt > previous && sentAt <= Date.now())) fail(`heard ${data}, which is not the next clock reading`);
  previous = sentAt;
  trips += 1;
  if (trips === 3) pass('three round trips');
});
