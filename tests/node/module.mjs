// The module static/echocast.js in Node, as the node serves it: `node module.mjs URL [OPTIONS]` prints what it hears, a
// line each, and does what each line of its input says until that ends. Answers to publishes go to standard error: they
// may come before or after the message itself. What must be heard when is for the test that runs it to judge.

import { createInterface } from 'node:readline';
import WebSocket from 'ws';

const [url, options = '{}'] = process.argv.slice(2);
// From a file Node 18 would take it for CommonJS, for want of a package.json beside it.
const source = await (await fetch(`http://${new URL(url).host}/_/echocast.js`)).text();
const { Channel } = await import(`data:text/javascript,${encodeURIComponent(source)}`);

// Prints what a draining server asks for, which the module keeps to itself.
class Overheard extends WebSocket {
  constructor(...all) {
    super(...all);
    this.on('message', (text) => {
      const { event, retry_ms: retryMs } = JSON.parse(text);
      if (event === 'drain') console.log(`drain ${retryMs}`);
    });
  }
}

const channel = new Channel(url, { WebSocket: Overheard, ...JSON.parse(options) });
const words = {
  open: ({ recovered }) => `open ${recovered}`,
  waiting: ({ code, reason, retryMs }) => `waiting ${code} ${Math.round(retryMs)} ${reason}`,
  closed: ({ code }) => `closed ${code}`,
  gap: ({ missed }) => `gap ${missed}`,
  message: ({ data }) => (typeof data === 'string' ? `heard ${data}` : `bytes ${data}`),
};
for (const [type, say] of Object.entries(words)) channel.addEventListener(type, (event) => console.log(say(event)));

function publish(data) {
  const stored = (id) => console.error(`stored ${id}`);
  const refused = ({ message }) => console.error(`refused ${message}`);
  channel.publish(data).then(stored, refused);
}

const commands = {
  publish,
  bytes: (list) => publish(Uint8Array.from(list.split(','), Number)),
  // `flood WORD COUNT`: WORD 0, WORD 1 and so on, about one a millisecond, whatever the connection does meanwhile.
  flood: async (wanted) => {
    const [word, count] = wanted.split(' ');
    for (let number = 0; number < count; number += 1) {
      publish(`${word} ${number}`);
      await new Promise((resolve) => { setTimeout(resolve, 1); });
    }
  },
  reconnect: () => channel.reconnect(),
  id: () => console.log(`id ${channel.id}`),
  close: (code) => channel.close(Number(code)),
};
for await (const line of createInterface({ input: process.stdin })) {
  const [, command, rest] = /^(\w+) ?(.*)$/.exec(line);
  commands[command](rest);
}
channel.close();
