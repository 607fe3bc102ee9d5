// "Sending binary data" of the README of ws. It passes when the same floats come back as one binary message.

import { url, pass, fail, closedTooSoon } from './check.mjs';

// --- README of ws ---
import WebSocket from 'ws';

const ws = new WebSocket(url);

ws.on('error', console.error);

ws.on('open', function open() {
  const array = new Float32Array(5);

  for (var i = 0; i < array.length; ++i) {
    array[i] = i / 2;
  }

  ws.send(array);
});
// --- until here ---

const sent = Buffer.from(Float32Array.of(0, 0.5, 1, 1.5, 2).buffer);

ws.on('error', fail);
ws.on('close', closedTooSoon);
ws.on('message', (data, isBinary) => {
  if (isBinary && data.equals(sent)) pass('five floats came back, byte for byte');
});
