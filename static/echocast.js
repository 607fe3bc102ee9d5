// A channel of an echocast server, for programs in browsers and in Node: it stays connected, resumes where it was and
// confirms its publishes. It speaks `echocast.v1`. The server decides the order and how long messages are kept.

const BACKOFF_MS = 500; // upper end of the first random wait; doubles with every failure
const BACKOFF_MAX_MS = 15_000;
const HANDSHAKE_MS = 10_000; // without a welcome by then we give up; browsers would wait for minutes
const STABLE_MS = 5_000; // a connection this old starts the backoff anew; a server that hangs up at once does not

/**
 * A subscription that reconnects for ever. It receives every message once and in order, or a gap where some are lost.
 * Events, with their properties:
 *
 * - `message` `{ data, id, time }`: a string or a Uint8Array. `id` is null if the server cannot replay it. `time` is when
 *   it was published, in milliseconds since 1970 by the clock of the server's machine.
 * - `gap` `{ missed }`: this many messages are missing here; null if nobody knows how many.
 *
 * and one named like the `state` whenever that changes:
 *
 * - `open` `{ id, recovered, node, channel }`: connected. `recovered`: we resumed, and nothing is missing.
 * - `waiting` `{ code, reason, retryMs }`: the connection ended or could not be made. Browsers do not reveal whether
 *   a handshake was rejected or the server is away, so both are 1006 and tried again.
 * - `connecting`: that next try, `retryMs` later.
 * - `closed` `{ code, reason }`: by `close()`, or by a code of 4000 or more. The server sends none of those itself, so
 *   a proxy in front of it does not want us back. Every other code is worth another try.
 *
 * @example
 * const channel = new Channel('wss://example.org/news', { last: 10 });
 * channel.addEventListener('message', ({ data, id }) => console.log(id, data));
 * await channel.publish('hello');
 */
export class Channel extends EventTarget {
  #url;
  #WebSocket;
  #queue;
  #state = 'connecting';
  #socket; // the one that counts; those before it are no longer listened to
  #timer; // of the handshake, then of the next try
  #pulse; // when the last ping came, and the timer of the next; only where pings can be seen
  #openedAt;
  #failures = 0;
  #retryMs; // what a draining server asked for
  #id; // undefined: not known yet; null: this server keeps no history
  #own = new Set(); // with echo off, ids of own messages ahead of #id
  #pending = new Map(); // publishes without their ack by ref, oldest first
  #refs = 0;
  #keys = unique();

  /**
   * Connects at once.
   * @param {string | URL} url `wss://host/channel`, `https:` too; in a page `/channel` will do
   * @param {object} [options] the first four may as well stand in the query of `url`
   * @param {string} [options.since] receive the messages after this id first
   * @param {number} [options.last] receive this many of the newest messages first
   * @param {boolean} [options.echo] false: do not receive our own messages, except those that had to be sent again
   * @param {string} [options.token] see {@link Channel#token}
   * @param {number} [options.queue] how many publishes may wait for a connection: 1000
   * @param {Function} [options.WebSocket] where there is no global one: that of the package `ws`
   */
  constructor(url, { queue = 1000, WebSocket = globalThis.WebSocket, ...query } = {}) {
    super();
    if (!WebSocket) throw new TypeError('there is no WebSocket here: pass one, { WebSocket }');
    this.#url = new URL(url, globalThis.location?.href);
    this.#url.protocol = this.#url.protocol.replace('http', 'ws');
    this.#url.hash = '';
    for (const name of ['since', 'last', 'echo', 'token']) if (query[name] != null) this.#ask(name, query[name]);
    const given = this.#url.searchParams;
    this.#id = given.get('lastEventId') || given.get('since') || undefined;
    given.delete('lastEventId'); // it would win over where we are
    this.#queue = queue;
    this.#WebSocket = WebSocket;
    this.#connect();
  }

  /** The id of the newest message received, or null: `since` for a channel that goes on from here. @type {?string} */
  get id() { return this.#id ?? null; }

  /** `connecting`, `open`, `waiting` or `closed`. */
  get state() { return this.#state; }

  /** Shown to the server by the next connection: set a new one before the old one expires. @type {string} */
  set token(token) { this.#ask('token', token); }

  /**
   * Publishes, in the order of the calls. It waits for a connection; if that ends before the answer it is sent again
   * under the same key, of which the server stores one. A server without history cannot know the key: there the publish
   * is rejected.
   * @param {string | ArrayBuffer | ArrayBufferView} data
   * @param {{ key?: string }} [options] `key`: only the first message with it is stored; made up if left out
   * @returns {Promise<string | null>} the id, once the server holds it; null if it keeps no history. Rejected with the
   *   server's words, or when too many wait, or when the channel is closed.
   */
  async publish(data, { key } = {}) {
    if (this.#state === 'closed') throw new Error('the channel is closed');
    if (this.#state !== 'open' && this.#pending.size >= this.#queue) {
      throw new Error(`not connected, and ${this.#queue} messages wait already`);
    }
    const ref = `${++this.#refs}`;
    const frame = JSON.stringify({ ...encoded(data), ref, key: key ?? `${this.#keys}-${ref}` });
    return new Promise((resolve, reject) => {
      this.#pending.set(ref, { frame, resolve, reject });
      if (this.#state === 'open') this.#send(ref);
    });
  }

  /** Connects now: instead of waiting, in place of a connection that may be dead, or after `close()`. It resumes. */
  reconnect() {
    this.#leave();
    this.#enter('connecting');
    if (this.#state === 'connecting' && !this.#socket) this.#connect(); // unless a listener thought otherwise
  }

  /**
   * Ends it, and rejects publishes that are not confirmed.
   * @param {number} [code] 1000 or 3000 to 4999
   * @param {string} [reason]
   */
  close(code = 1000, reason = '') {
    if (this.#state === 'closed') return;
    this.#leave(code, reason);
    this.#finish(code, reason);
  }

  // ---- the connection ----

  #connect() {
    const query = this.#url.searchParams;
    if (this.#id) this.#ask('since', this.#id);
    else query.delete('since');
    if (this.#id !== undefined) query.delete('last'); // asked again it would repeat messages
    const socket = new this.#WebSocket(this.#url.href, 'echocast.v1');
    const current = (handle) => (event) => { if (socket === this.#socket) handle(event); };
    socket.onmessage = current(({ data }) => this.#receive(data));
    socket.onclose = current(({ code, reason }) => this.#ended(code, reason));
    socket.onerror = () => {}; // the close after it has the same information
    socket.on?.('ping', current(() => this.#pinged()));
    this.#socket = socket;
    this.#retryMs = undefined;
    this.#timer = setTimeout(() => this.#ended(1006, 'no welcome in time'), HANDSHAKE_MS);
    globalThis.addEventListener?.('online', this.#wake);
    globalThis.document?.addEventListener('visibilitychange', this.#wake);
  }

  // A page that was offline may hold a dead connection without knowing; the timers of one that was hidden are slow.
  #wake = ({ type }) => {
    if (type === 'online' || (this.#state === 'waiting' && document.visibilityState === 'visible')) this.reconnect();
  };

  // Two pings show their interval. After that, silence means that the connection is dead.
  #pinged() {
    const at = Date.now();
    const interval = at - this.#pulse?.at;
    clearTimeout(this.#pulse?.timer);
    const dead = () => this.#ended(1006, 'no ping in time');
    this.#pulse = { at, timer: interval >= 0 && setTimeout(dead, 2 * interval + 1_000) };
  }

  #welcome({ id, recovered, node, channel }) {
    clearTimeout(this.#timer);
    this.#openedAt = Date.now();
    const unresumed = this.#id === null;
    // If messages follow, this id is ahead of us. None do if we asked for none; or the server lost what we have.
    const ahead = this.#id ? isNewer(id, this.#id) : Number(this.#url.searchParams.get('last')) > 0;
    if (!id || id === '0-0' || !ahead) this.#id = id;
    this.#state = 'open';
    for (const ref of this.#pending.keys()) this.#send(ref);
    this.#dispatch('open', { id, recovered, node, channel });
    // The server does not know it, because we had no id to ask with.
    if (unresumed && this.#state === 'open') this.#dispatch('gap', { missed: null });
  }

  #ended(code, reason) {
    if (this.#state === 'open') {
      if (Date.now() - this.#openedAt >= STABLE_MS) this.#failures = 0;
      if (code === 1009) this.#rejectLargest();
    }
    this.#leave();
    if (code >= 4000) return this.#finish(code, reason);
    // Full jitter: clients thrown out together do not come back together.
    const backoff = Math.random() * Math.min(BACKOFF_MAX_MS, BACKOFF_MS * 2 ** this.#failures++);
    const retryMs = this.#retryMs ?? backoff;
    this.#timer = setTimeout(() => this.reconnect(), retryMs);
    this.#enter('waiting', { code, reason, retryMs });
  }

  // Lets go of the connection, or of the wait for one.
  #leave(code, reason) {
    this.#socket?.close(code, reason);
    this.#socket = undefined;
    clearTimeout(this.#timer);
    clearTimeout(this.#pulse?.timer);
    this.#pulse = undefined;
    if (this.#state === 'open' && this.#id === null) this.#rejectAll('the connection ended before this was confirmed');
  }

  #finish(code, reason) {
    globalThis.removeEventListener?.('online', this.#wake);
    globalThis.document?.removeEventListener('visibilitychange', this.#wake);
    this.#rejectAll('the channel was closed before this was confirmed');
    this.#enter('closed', { code, reason });
  }

  #enter(state, detail) {
    this.#state = state;
    this.#dispatch(state, detail);
  }

  #dispatch(type, detail) {
    this.dispatchEvent(Object.assign(new Event(type), detail));
  }

  #ask(name, value) {
    this.#url.searchParams.set(name, value);
  }

  // ---- receiving ----

  #receive(text) {
    const frame = parsed(text);
    if (frame?.event === 'welcome') this.#welcome(frame);
    else if (!frame || this.#state !== 'open') this.#ended(1006, 'the server does not speak echocast.v1');
    else if (frame.event === 'gap') this.#dispatch('gap', { missed: frame.missed });
    else if (frame.event === 'drain') this.#retryMs = frame.retry_ms;
    else if ('ack' in frame) this.#acknowledged(frame.ack, frame.id);
    else if ('error' in frame) this.#taken(frame.ref)?.reject(new Error(frame.error));
    else if (!frame.event) this.#message(frame);
  }

  #message({ id = null, time = Date.now(), data, base64 }) {
    if (id) {
      if (!isNewer(id, this.#id) || this.#own.has(id)) return;
      this.#id = id;
      this.#passOwn();
    }
    this.#dispatch('message', { data: data ?? Uint8Array.from(atob(base64), (byte) => byte.charCodeAt(0)), id, time });
  }

  #acknowledged(ref, id) {
    if (id && this.#url.searchParams.get('echo') === 'false') {
      this.#own.add(id);
      this.#passOwn();
    }
    this.#taken(ref)?.resolve(id);
  }

  // With echo off only acks name own messages. They move #id past those, or resuming would bring them, or their gap.
  #passOwn() {
    for (const id of this.#own) {
      if (isNext(id, this.#id)) this.#id = id;
      if (!isNewer(id, this.#id)) this.#own.delete(id);
    }
  }

  // ---- publishing ----

  #send(ref) {
    this.#socket.send(this.#pending.get(ref).frame);
  }

  #taken(ref) {
    const publish = this.#pending.get(ref);
    this.#pending.delete(ref);
    return publish;
  }

  #rejectAll(why) {
    for (const ref of this.#pending.keys()) this.#taken(ref).reject(new Error(why));
  }

  // If one was too large, the largest was. Sent again, it would end every connection.
  #rejectLargest() {
    const sizes = [...this.#pending].map(([ref, { frame }]) => [new TextEncoder().encode(frame).length, ref]);
    const [, largest] = sizes.reduce((one, other) => (other[0] > one[0] ? other : one), [0]);
    this.#taken(largest)?.reject(new Error('larger than the server takes'));
  }
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null; // not ours: some servers accept every subprotocol
  }
}

// Ids are EPOCH-OFFSET. Another epoch is a new history, and all of it is newer.
function isNewer(id, than) {
  const [epoch, offset] = id.split('-');
  const [thanEpoch, thanOffset] = than?.split('-') ?? [];
  return epoch !== thanEpoch || Number(offset) > Number(thanOffset);
}

function isNext(id, after) {
  const [epoch, offset] = id.split('-');
  return after === (offset === '1' ? '0-0' : `${epoch}-${offset - 1}`);
}

function encoded(data) {
  // Halves of characters become what WebSockets make of them; no server could read them.
  if (typeof data === 'string') return { data: data.replace(/\p{Surrogate}/gu, '\ufffd') };
  if (!ArrayBuffer.isView(data) && !(data instanceof ArrayBuffer)) throw new TypeError('neither a text nor bytes');
  const bytes = new Uint8Array(data.buffer ?? data, data.byteOffset, data.byteLength);
  return { base64: btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join('')) };
}

// Node 18 and pages without https lack the better generator.
function unique() {
  return globalThis.crypto?.randomUUID?.() ?? [0, 1, 2].map(() => Math.random().toString(36).slice(2)).join('');
}
