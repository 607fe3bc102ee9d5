// The page of a channel: a log of the messages on the path where it was opened, and a box to post one. echocast.js
// stays connected, resumes and confirms. The server decides order, history and limits. Looks are in style.css.

import { Channel } from './echocast.js';

const HELLO = 'Hello from browser';
const REPLAY = 50; // messages asked for by a newcomer
const LINES = 500; // lines kept in the document; the oldest give way
const LONG_TEXT = 4_000; // characters of a text shown before the reader asks for the rest
const HEX_BYTES = 64; // bytes of a binary message shown
const ASK_MS = 10_000; // for the server's reason of a rejection; it may wait for its broker meanwhile

const AGAIN = 'not confirmed yet, and will be sent again once connected.';
const KEPT = 'Not connected. Your text stays in the box, post it again once connected.';
const CLOSE_WORDS = {
  1000: 'The server closed the connection.',
  1001: 'The server is going away.',
  1005: 'The server closed the connection without saying why.',
  1006: 'The connection was lost.',
  1008: 'The server does not allow this to go on: a rate limit, or a token that is no longer valid.',
  1009: 'A message was larger than the server takes. It was not delivered.',
  1011: 'Something went wrong in the server.',
  1012: 'The server is restarting.',
  1013: 'This page could not keep up with the channel.',
};

const element = (id) => document.getElementById(id);
const [log, newer, text, hint, name] = ['messages', 'newer', 'text', 'hint', 'name'].map(element);
const channel = subscribed();

function start() {
  const path = decoded(location.pathname.slice(1));
  const title = path === '' || path === 'ws' ? 'lobby' : path;
  element('channel').textContent = title;
  element('channel').title = title; // a long one is cut to two lines
  document.title = `${title} · echocast`;

  element('say').addEventListener('submit', post);
  element('open').addEventListener('submit', openChannel);
  element('retry').addEventListener('click', retry);
  name.addEventListener('input', () => name.setCustomValidity(''));
  text.addEventListener('input', () => { hint.textContent = ''; });
  text.addEventListener('keydown', postOnEnter);
  log.addEventListener('scroll', noticeScroll, { passive: true });
  newer.addEventListener('click', () => { scrollToEnd(); log.focus(); });
  new ResizeObserver(() => following && scrollToEnd()).observe(log);

  // A keyboard that slides over half the page is not what a newcomer on a phone wants to see first.
  if (matchMedia('(pointer: fine)').matches) text.focus();

  channel.addEventListener('connecting', connecting);
  channel.addEventListener('open', opened);
  channel.addEventListener('waiting', disconnected);
  channel.addEventListener('closed', disconnected);
  channel.addEventListener('gap', ({ missed }) => addNote(gapWords(missed)));
  channel.addEventListener('message', received);
  channel.publish(HELLO).catch(({ message }) => addNote(`not posted (${message}):`, HELLO));
}

// The page's own address and query. It asks for a replay unless the query has its own.
function subscribed() {
  const query = new URLSearchParams(location.search);
  return new Channel(location.href, query.has('last') || query.has('since') ? {} : { last: REPLAY });
}

function decoded(path) {
  try {
    return decodeURIComponent(path);
  } catch {
    return path; // not valid percent-encoding: the name as it stands is more use than an error
  }
}

// ---- the connection ----

let everOpen = false;
let isOpen = false;
let refusal; // undefined: not asked since we were connected; else the server's words, or '' if it has none

function connecting() {
  showState('connecting', 'connecting…');
  element('when').textContent = 'Trying now…';
}

function opened({ recovered }) {
  showState('open', 'connected');
  if (element('trouble').contains(document.activeElement)) text.focus();
  element('trouble').hidden = true;
  if (everOpen) addNote(recovered ? 'reconnected, nothing was missed' : 'reconnected');
  everOpen = true;
  isOpen = true;
  refusal = undefined;
  if (hint.textContent === KEPT) hint.textContent = 'Connected again. Your text is still here, not posted yet.';
}

function disconnected({ code, reason, retryMs }) {
  const why = closeWords(isOpen, code, reason);
  if (isOpen) {
    addNote(why);
    if (unconfirmed > 0) showUnconfirmed();
  } else if (refusal === undefined) {
    askWhy();
  }
  isOpen = false;
  showState('waiting', 'not connected');
  element('why').textContent = why;
  element('when').textContent = whenWords(retryMs);
  element('trouble').hidden = false;
}

// Browsers do not reveal the answer to a handshake, so the same address is asked once as an ordinary request.
async function askWhy() {
  refusal = '';
  try {
    const { origin, pathname, search } = location;
    const signal = AbortSignal.timeout(ASK_MS);
    const response = await fetch(origin + pathname + search, { headers: { accept: 'application/json' }, signal });
    if (response.ok) {
      await response.body.cancel();
      return;
    }
    const isOurs = response.headers.get('content-type')?.startsWith('text/plain'); // proxies answer with pages
    const words = isOurs ? (await response.text()).trim() : `HTTP ${response.status}`;
    if (isOpen) return;
    refusal = `The server refused the connection: ${words}`;
    element('why').textContent = refusal;
    // The same address will not be right later.
    if (isOurs && response.status === 400) channel.close();
  } catch {
    refusal = undefined; // it cannot be reached: the words that are there are right, for now
  }
}

function retry() {
  refusal = undefined;
  channel.reconnect();
}

function whenWords(retryMs) {
  if (retryMs === undefined) return '';
  return `Trying again ${retryMs < 1_000 ? 'in a moment' : `in ${Math.round(retryMs / 1_000)} s`}.`;
}

function gapWords(missed) {
  if (missed === null) return 'messages may be missing here';
  return missed === 1 ? 'a message is missing here' : `${missed.toLocaleString()} messages are missing here`;
}

function closeWords(wasOpen, code, reason) {
  if (!wasOpen) return refusal || 'The server cannot be reached, or it refused the connection.';
  const unknown = code >= 4000 ? 'The connection was closed by an application.' : 'The connection was closed.';
  return `${CLOSE_WORDS[code] ?? unknown} (${code}${reason ? `: ${reason}` : ''})`;
}

function showState(state, words) {
  element('state').dataset.state = state;
  element('state').textContent = words;
}

// ---- posting ----

let unconfirmed = 0; // own posts the server has not confirmed yet

function post(event) {
  event.preventDefault();
  const draft = text.value;
  if (draft === '') return;
  // Posted without a connection it would be sent once there is one. Nobody wants that minutes after writing it.
  if (!isOpen) {
    hint.textContent = KEPT;
    return;
  }
  text.value = '';
  hint.textContent = '';
  text.focus();
  publish(draft);
}

async function publish(draft) {
  unconfirmed += 1;
  try {
    await channel.publish(draft);
  } catch (error) {
    giveBack(draft, error.message);
  }
  unconfirmed -= 1;
  if (hint.textContent.endsWith(AGAIN)) showUnconfirmed();
}

function giveBack(draft, why) {
  if (text.value === '') {
    text.value = draft;
    hint.textContent = `This was not posted: ${why}.`;
  } else {
    addNote(`not posted (${why}):`, draft);
  }
}

function showUnconfirmed() {
  const posts = unconfirmed === 1 ? 'A post is' : `${unconfirmed.toLocaleString()} posts are`;
  hint.textContent = unconfirmed === 0 ? '' : `${posts} ${AGAIN}`;
}

function postOnEnter(event) {
  // While an input method composes, Enter picks a word; with a modifier it is a line break or somebody's shortcut.
  if (event.key !== 'Enter' || event.isComposing || event.shiftKey || event.altKey) return;
  event.preventDefault();
  element('say').requestSubmit();
}

// ---- the log ----

// What came since the last animation frame: a flood costs one layout a frame, not one a message.
let waiting = [];
let frame = 0;
let total = 0; // messages received since the page was opened
let unseen = 0; // messages that came while the reader was looking further up
let following = true; // the reader is at the end, and stays there
const shown = log.getElementsByClassName('message');
const clock = new Intl.DateTimeFormat(undefined, { timeStyle: 'medium', hourCycle: 'h23' });
const calendar = new Intl.DateTimeFormat(undefined, { dateStyle: 'short', timeStyle: 'medium', hourCycle: 'h23' });

function received({ data, time }) {
  total += 1;
  enqueue({ data, at: new Date(time) });
}

function addNote(note, quote) {
  enqueue({ note, quote });
}

function enqueue(entry) {
  waiting.push(entry);
  // A hidden page gets no animation frames. What would be dropped from the document anyway is dropped here.
  if (waiting.length >= 2 * LINES) waiting.splice(0, LINES);
  frame ||= requestAnimationFrame(render);
}

function render() {
  frame = 0;
  const fresh = waiting.slice(-LINES);
  waiting = [];
  if (!following) unseen += fresh.filter((entry) => entry.at).length;
  log.append(...fresh.map((entry) => (entry.at ? messageLine(entry) : noteLine(entry))));
  dropOldest();
  if (following) scrollToEnd();
  showCounts();
}

function messageLine({ data, at }) {
  const time = document.createElement('time');
  time.dateTime = at.toISOString();
  const isToday = at.toDateString() === new Date().toDateString();
  time.textContent = (isToday ? clock : calendar).format(at);
  const line = document.createElement('div');
  const isText = typeof data === 'string';
  line.className = isText ? 'message' : 'message binary';
  line.append(time, ...textParts(isText ? data : binaryWords(data)));
  return line;
}

function noteLine({ note, quote }) {
  const line = document.createElement('div');
  const words = document.createElement('span');
  line.className = 'note';
  words.textContent = note;
  line.append(words, ...(quote === undefined ? [] : textParts(quote)));
  return line;
}

// The text, and for a long one a button that shows the rest.
function textParts(whole) {
  const part = document.createElement('span');
  part.className = 'text';
  part.dir = 'auto';
  part.textContent = whole.slice(0, LONG_TEXT);
  if (whole.length <= LONG_TEXT) return [part];
  const more = document.createElement('button');
  more.type = 'button';
  more.className = 'more';
  more.textContent = `… show all ${whole.length.toLocaleString()} characters`;
  more.addEventListener('click', () => {
    part.textContent = whole;
    log.focus({ preventScroll: true });
    more.remove();
  });
  return [part, more];
}

function binaryWords(bytes) {
  const hex = Array.from(bytes.subarray(0, HEX_BYTES), (byte) => byte.toString(16).padStart(2, '0')).join(' ');
  const size = `${bytes.length.toLocaleString()} ${bytes.length === 1 ? 'byte' : 'bytes'}`;
  return `binary, ${size}${hex && `: ${hex}`}${bytes.length > HEX_BYTES ? ' …' : ''}`;
}

function dropOldest() {
  const excess = log.childElementCount - LINES;
  if (excess <= 0) return;
  const before = log.scrollHeight;
  const range = document.createRange();
  range.setStart(log, 0);
  range.setEnd(log, excess);
  range.deleteContents();
  // Someone reading further up keeps their place although lines above it went away.
  if (!following) log.scrollTop -= before - log.scrollHeight;
}

function noticeScroll() {
  following = log.scrollHeight - log.scrollTop - log.clientHeight < 24;
  if (following) unseen = 0;
  showCounts();
}

function scrollToEnd() {
  log.scrollTop = log.scrollHeight;
}

function showCounts() {
  newer.hidden = following || unseen === 0;
  newer.textContent = `↓ ${unseen.toLocaleString()} new ${unseen === 1 ? 'message' : 'messages'}`;
  const all = `${total.toLocaleString()} ${total === 1 ? 'message' : 'messages'}`;
  element('count').textContent = total > shown.length ? `newest ${shown.length} of ${all}` : all;
}

// ---- another channel ----

function openChannel(event) {
  event.preventDefault();
  const wanted = name.value.trim().replace(/^\//, '');
  const problem = channelProblem(wanted);
  name.setCustomValidity(problem);
  // Every character a name may have stands for itself in a path, so a name that passed needs no encoding.
  if (name.reportValidity()) location.assign(`/${wanted}`);
}

function channelProblem(wanted) {
  const segments = wanted.split('/');
  if (wanted === '') return 'Type the name of a channel.';
  if (wanted.length > 128) return `A name has at most 128 characters, this one has ${wanted.length}.`;
  if (!/^[A-Za-z0-9\-_.~:/]+$/.test(wanted)) return 'A name is made of A-Z a-z 0-9 and - _ . ~ : /';
  if (segments.includes('')) {
    const right = segments.filter((segment) => segment !== '').join('/');
    return right === '' ? 'A name is more than slashes.' : `A slash too many: did you mean ${right}?`;
  }
  if (segments.includes('.') || segments.includes('..')) return 'Browsers resolve the segments . and .. before asking.';
  if (segments[0] === '_' && segments.length > 1) return 'Names that begin with _/ belong to the service.';
  return '';
}

start();
