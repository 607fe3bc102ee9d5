// The client of "How to detect and close broken connections?" in the README of ws: it ends its connection if the server
// does not ping for 31 s. It passes when the connection outlives two such spans, which takes a ping in each of them.
// HEARTBEAT_MS shortens the span for servers that ping more often.

import { url, pass, fail, allow, closedTooSoon } from './check.mjs';

const README_MS = 30000 + 1000;
const heartbeatMs = Number(process.env.HEARTBEAT_MS ?? README_MS);
if (!(heartbeatMs > 0)) fail(`HEARTBEAT_MS is ${process.env.HEARTBEAT_MS}, not a number of milliseconds`);
const lifetimeMs = 2 * heartbeatMs;
allow(lifetimeMs + 15_000);

// The README's lines stay as they are; its timer is shortened here, and only its timer.
const setTimeout = (callback, ms) => globalThis.setTimeout(callback, ms === README_MS ? heartbeatMs : ms);

// --- README of ws ---
import WebSocket from 'ws';

function heartbeat() {
  clearTimeout(this.pingTimeout);

  // Use `WebSocket#terminate()`, which immediately destroys the connection,
  // instead of `WebSocket#close()`, which waits for the close timer.
  // Delay should be equal to the interval at which your server
  // sends out pings plus a conservative assumption of the latency.
  this.pingTimeout = setTimeout(() => {
    this.terminate();
  }, 30000 + 1000);
}

const client = new WebSocket(url);

client.on('error', console.error);
client.on('open', heartbeat);
client.on('ping', heartbeat);
client.on('close', function clear() {
  clearTimeout(this.pingTimeout);
});
// --- until here ---

let openedAt = 0;
const pings = [];

client.on('error', fail);
client.on('open', () => {
  openedAt = Date.now();
  setTimeout(() => pass(`connected for ${lifetimeMs} ms, pinged after ${pings.join(', ')} ms`), lifetimeMs);
});
client.on('ping', () => pings.push(Date.now() - openedAt));
client.on('close', (code, reason) => {
  console.error(`pinged after ${pings.join(', ') || 'no time at all'} ms, allowed are ${heartbeatMs} ms between pings`);
  closedTooSoon(code, reason);
});
