// A conversation through a WebSocket client of JavaScript: `talk.mjs LIBRARY URL`, in Node, Bun or Deno. Its input and
// output are those of tests/clients/talk.py.

import { createInterface } from 'node:readline';

const [library, url] = process.argv.slice(2);
const libraries = {
  ws: async () => (await import('ws')).default,
  undici: async () => (await import('undici')).WebSocket,
  native: async () => globalThis.WebSocket, // Bun's and Deno's
};
const WebSocket = await libraries[library]();

const tell = (...words) => console.log(words.join(' '));
const hex = (bytes) => Buffer.from(bytes).toString('hex');

const socket = new WebSocket(url);
socket.binaryType = 'arraybuffer';
socket.onopen = () => tell('open', socket.extensions.includes('permessage-deflate') ? 'deflate' : 'plain');
socket.onmessage = ({ data }) => tell(typeof data === 'string' ? `text ${hex(data)}` : `binary ${hex(data)}`);
socket.onclose = ({ code }) => {
  tell('closed', code);
  process.exit(0);
};
socket.onerror = ({ message }) => console.error(message);

for await (const line of createInterface({ input: process.stdin })) {
  const [, name, rest] = /^(\w+) ?(.*)$/.exec(line);
  if (name === 'close') {
    const [, code, reason] = /^(\d+) ?(.*)$/.exec(rest);
    socket.close(Number(code), reason);
  } else {
    const bytes = Buffer.from(rest, 'hex');
    socket.send(name === 'text' ? bytes.toString() : new Uint8Array(bytes));
  }
}
