// The eight-line client many first meet WebSockets with: says one thing, prints what it hears. It passes when it hears
// itself; more lines from others do not disturb it.

import { url, pass, fail, closedTooSoon } from './check.mjs';

// --- the client ---
import WebSocket from 'ws';

const ws = new WebSocket(url);
ws.on('open', () => {
  ws.send('Hello from client');
});
ws.on('message', (message) => {
  console.log(`Received: ${message}`);
});
// --- until here ---

ws.on('error', fail);
ws.on('close', closedTooSoon);
ws.on('message', (message, isBinary) => {
  if (!isBinary && message.toString() === 'Hello from client') pass('heard itself, as text');
});
