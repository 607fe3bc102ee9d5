// "Use the Node.js streams API" of the README of ws. It passes when all that went into the stream came out again, also
// what was said right before the stream ended: a server answers a close only after what came before it. The channel must
// be its own.

import { PassThrough } from 'node:stream';
import { url, pass, fail } from './check.mjs';

// The README pipes the process's own input and output; here two streams this script can write to and read from.
const process = { stdin: new PassThrough(), stdout: new PassThrough() };

// --- README of ws ---
import WebSocket, { createWebSocketStream } from 'ws';

const ws = new WebSocket(url);

const duplex = createWebSocketStream(ws, { encoding: 'utf8' });

duplex.on('error', console.error);

duplex.pipe(process.stdout);
process.stdin.pipe(duplex);
// --- until here ---

const lines = Array.from({ length: 100 }, (_, number) => `line ${number}: naïve café ☕\n`);
let heard = '';

duplex.on('error', fail);
process.stdout.setEncoding('utf8');
process.stdout.on('data', (chunk) => { heard += chunk; });
process.stdout.on('end', () => {
  if (heard !== lines.join('')) fail(`${lines.join('').length} characters went in, out came ${heard.length}: ${heard}`);
  pass('a hundred lines went through the stream and came back before it closed');
});

for (const line of lines) process.stdin.write(line);
process.stdin.end();
