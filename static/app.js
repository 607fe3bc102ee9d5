// The page of a channel: one WebSocket to the path the page was opened on, a log of what is said there, a box to say
// something. It speaks the raw format, so it knows messages but no ids: after a lost connection it can say that
// something may be missing, not what. Order, history and limits are the server's; looks are in style.css.

const HELLO = 'Hello from browser';
const REPLAY = 50; // messages asked for by a newcomer
const LINES = 500; // lines kept in the document; the oldest give way
const LONG_TEXT = 4_000; // characters of a text shown before the reader asks for the rest
const HEX_BYTES = 64; // bytes of a binary message shown
const UNCONFIRMED = 100; // own posts remembered until they are heard back
const BACKOFF_MS = 500; // upper end of the first random wait; doubles with every failure
const BACKOFF_MAX_MS = 15_000;
const HANDSHAKE_MS = 10_000; // a handshake this slow is given up; browsers wait for minutes
const STABLE_MS = 5_000; // a connection this old starts the backoff anew; a server that hangs up at once does not

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
const query = location.search.slice(1).split('&').filter(Boolean);
const hearsItself = !query.includes('echo=false');

let socket;
let everOpen = false;
let failures = 0;
let retryTimer;

function start() {
  const path = location.pathname.slice(1);
  const channel = path === '' || path === 'ws' ? 'lobby' : decoded(path);
  element('channel').textContent = channel;
  element('channel').title = channel; // a long one is cut to two lines
  document.title = `${channel} · echocast`;

  element('say').addEventListener('submit', post);
  element('open').addEventListener('submit', openChannel);
  element('retry').addEventListener('click', retryNow);
  name.addEventListener('input', () => name.setCustomValidity(''));
  text.addEventListener('input', () => { hint.textContent = ''; });
  text.addEventListener('keydown', postOnEnter);
  log.addEventListener('scroll', noticeScroll, { passive: true });
  newer.addEventListener('click', () => { scrollToEnd(); log.focus(); });
  new ResizeObserver(() => following && scrollToEnd()).observe(log);
  window.addEventListener('online', retryNow);
  document.addEventListener('visibilitychange', () => document.visibilityState === 'visible' && retryNow());

  // A keyboard that slides over half the page is not what a newcomer on a phone wants to see first.
  if (matchMedia('(pointer: fine)').matches) text.focus();
  connect();
}

function decoded(path) {
  try {
    return decodeURIComponent(path);
  } catch {
    return path; // not valid percent-encoding: the name as it stands says more than an error
  }
}

// ---- the connection ----

function connect() {
  clearTimeout(retryTimer);
  showState('connecting', 'connecting…');
  element('when').textContent = 'Trying now…';
  const opening = new WebSocket(address());
  opening.binaryType = 'arraybuffer';
  let isOpen = false;
  let stable;
  const deadline = setTimeout(() => opening.close(), HANDSHAKE_MS);
  opening.onopen = () => {
    isOpen = true;
    clearTimeout(deadline);
    stable = setTimeout(() => { failures = 0; }, STABLE_MS);
    opened();
  };
  opening.onmessage = ({ data }) => heard(data);
  opening.onclose = ({ code, reason }) => {
    clearTimeout(deadline);
    clearTimeout(stable);
    closed(isOpen, code, reason);
  };
  socket = opening;
}

// The page's own address as a WebSocket's. What to replay is asked once: without ids, a second replay would show again
// what is already on the page.
function address() {
  const isReplay = (part) => /^(last|since)=/.test(part);
  let asked = query;
  if (everOpen) asked = query.filter((part) => !isReplay(part));
  else if (!query.some(isReplay)) asked = [...query, `last=${REPLAY}`];
  const scheme = location.protocol === 'https:' ? 'wss:' : 'ws:';
  return `${scheme}//${location.host}${location.pathname}${asked.length ? '?' : ''}${asked.join('&')}`;
}

function opened() {
  showState('open', 'connected');
  if (element('trouble').contains(document.activeElement)) text.focus();
  element('trouble').hidden = true;
  if (everOpen) addNote('reconnected, what was said in between may be missing');
  else socket.send(HELLO);
  everOpen = true;
  if (hint.textContent === KEPT) hint.textContent = 'Connected again. Your text is still here, not posted yet.';
}

function closed(wasOpen, code, reason) {
  const why = closeWords(wasOpen, code, reason);
  if (wasOpen) {
    addNote(why);
    giveBackUnconfirmed();
  }
  // Full jitter: clients thrown out together do not come back together.
  const wait = Math.random() * Math.min(BACKOFF_MAX_MS, BACKOFF_MS * 2 ** failures);
  failures += 1;
  retryTimer = setTimeout(connect, wait);
  showState('waiting', 'not connected');
  element('why').textContent = why;
  element('when').textContent = `Trying again ${wait < 1_000 ? 'in a moment' : `in ${Math.round(wait / 1_000)} s`}.`;
  element('trouble').hidden = false;
}

function closeWords(wasOpen, code, reason) {
  if (!wasOpen) return 'The server cannot be reached, or it refused the connection.';
  const unknown = code >= 4000 ? 'The connection was closed by an application.' : 'The connection was closed.';
  return `${CLOSE_WORDS[code] ?? unknown} (${code}${reason ? `: ${reason}` : ''})`;
}

function retryNow() {
  if (element('state').dataset.state === 'waiting') connect();
}

function showState(state, words) {
  element('state').dataset.state = state;
  element('state').textContent = words;
}

// ---- saying something ----

// Own posts not yet heard back, oldest first. The raw format has no receipts, but the sender hears itself.
let unconfirmed = [];

function post(event) {
  event.preventDefault();
  const said = text.value;
  if (said === '') return;
  if (socket.readyState !== WebSocket.OPEN) {
    hint.textContent = KEPT;
    return;
  }
  socket.send(said);
  if (hearsItself) unconfirmed = [...unconfirmed, said].slice(-UNCONFIRMED);
  text.value = '';
  hint.textContent = '';
  text.focus();
}

function postOnEnter(event) {
  // While an input method composes, Enter picks a word; with a modifier it is a line break or somebody's shortcut.
  if (event.key !== 'Enter' || event.isComposing || event.shiftKey || event.altKey) return;
  event.preventDefault();
  element('say').requestSubmit();
}

function confirmed(said) {
  const index = unconfirmed.indexOf(said);
  if (index >= 0) unconfirmed.splice(index, 1);
}

function giveBackUnconfirmed() {
  if (unconfirmed.length === 1 && text.value === '') {
    [text.value] = unconfirmed;
    hint.textContent = 'This was posted but not heard back, so it may not have arrived.';
  } else {
    for (const said of unconfirmed) addNote('posted, but not heard back before the connection ended:', said);
  }
  unconfirmed = [];
}

// ---- the log ----

// What came since the last animation frame: a flood costs one layout a frame, not one a message.
let waiting = [];
let frame = 0;
let total = 0; // messages heard since the page was opened
let unseen = 0; // messages that came while the reader was looking further up
let following = true; // the reader is at the end, and stays there
const shown = log.getElementsByClassName('message');
const clock = new Intl.DateTimeFormat(undefined, { timeStyle: 'medium', hourCycle: 'h23' });

function heard(data) {
  total += 1;
  if (typeof data === 'string') confirmed(data);
  enqueue({ data, at: new Date() });
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
  time.textContent = clock.format(at);
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

function binaryWords(buffer) {
  const bytes = new Uint8Array(buffer, 0, Math.min(HEX_BYTES, buffer.byteLength));
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join(' ');
  const size = `${buffer.byteLength.toLocaleString()} ${buffer.byteLength === 1 ? 'byte' : 'bytes'}`;
  return `binary, ${size}${hex && `: ${hex}`}${buffer.byteLength > HEX_BYTES ? ' …' : ''}`;
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
  if (segments.includes('')) return 'There must be something before and after each slash.';
  if (segments.includes('.') || segments.includes('..')) return 'Browsers resolve the segments . and .. before asking.';
  if (segments[0] === '_' && segments.length > 1) return 'Names that begin with _/ belong to the service.';
  return '';
}

start();
