// What every client in this folder is judged by: the address it is run with, one verdict, a deadline. The clients
// themselves are elsewhere, as their documentation has them; this file knows nothing about WebSockets.

const DEADLINE_MS = 15_000;

// `node SCRIPT ws://127.0.0.1:PORT/channel`
export const url = process.argv[2];
if (!url) fail('no address: node SCRIPT ws://HOST:PORT/CHANNEL');

let deadline = setTimeout(overdue, DEADLINE_MS, DEADLINE_MS);

// Longer than usual, for a client whose own timers are.
export function allow(ms) {
  clearTimeout(deadline);
  deadline = setTimeout(overdue, ms, ms);
}

export function pass(what) {
  console.log(`ok: ${what}`);
  process.exit(0);
}

export function fail(why) {
  console.error(`failed: ${why instanceof Error ? why.message : why}`);
  process.exit(1);
}

// For `close` listeners of clients that should still be connected.
export function closedTooSoon(code, reason) {
  fail(`the connection closed too soon (${code} ${reason})`);
}

function overdue(ms) {
  fail(`not done after ${ms} ms`);
}
