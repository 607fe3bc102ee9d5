// Keeps this folder honest: what stands between the marks of a client is in the README of the installed ws, word for
// word, but for the address. Needs no server. Fails when a new version of ws words its examples differently.

import { readFileSync } from 'node:fs';

const MARKED = /^\/\/ --- README of ws ---\n(.+?)^\/\/ --- until here ---$/ms;
const CLIENTS = ['text.mjs', 'binary.mjs', 'roundtrip.mjs', 'heartbeat.mjs', 'streams.mjs'];

const here = (path) => readFileSync(new URL(path, import.meta.url), 'utf8');
const readme = here('node_modules/ws/README.md').replace(/new WebSocket\('[^']+'\)/g, 'new WebSocket(url)');

const changed = CLIENTS.filter((client) => {
  const snippet = here(client).match(MARKED)?.[1];
  return !snippet || !readme.includes(`\`\`\`js\n${snippet}\`\`\``);
});
if (changed.length) {
  console.error(`failed: not as in the README of ws: ${changed.join(', ')}`);
  process.exit(1);
}
console.log(`ok: ${CLIENTS.length} clients are as in the README of ws`);
