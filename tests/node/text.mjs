// "Sending and receiving text data" of the README of ws. It passes when the text comes back as text.

import { url, pass, fail, closedTooSoon } from './check.mjs';

// --- README of ws ---
import WebSocket from 'ws';

const ws = new WebSocket(url);

ws.on('error', console.error);

ws.on('open', function open() {
  ws.send('something');
});

ws.on('message', function message(data) {
  console.log('received: %s', data);
});
// --- until here ---

ws.on('error', fail);
ws.on('close', closedTooSoon);
ws.on('message', (data, isBinary) => {
  if (!isBinary && data.toString() === 'something') pass('the text came back as text');
});
