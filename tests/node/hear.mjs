// An event stream through a client of JavaScript: `hear.mjs LIBRARY URL` prints `open` for each connection, then `text HEX`
// and `binary HEX` for what it hears, until its input ends. It reconnects by itself, as pages do.

import { EventSource } from 'eventsource';
import polyfill from 'event-source-polyfill';

const [library, url] = process.argv.slice(2);
const libraries = { eventsource: EventSource, 'event-source-polyfill': polyfill.EventSourcePolyfill };
const source = new libraries[library](url);
const hex = (text, encoding) => Buffer.from(text, encoding).toString('hex');

source.onopen = () => console.log('open');
source.onmessage = ({ data }) => console.log(`text ${hex(data, 'utf8')}`);
source.addEventListener('binary', ({ data }) => console.log(`binary ${hex(data, 'base64')}`));
source.onerror = ({ message = 'the stream ended' }) => console.error(message);
process.stdin.resume();
process.stdin.on('end', () => {
  source.close();
  process.exit(0);
});
