//! HTTP on both ports: the accept loop they share, one connection with what surrounds hyper, the
//! ops routes, and the public routes with an answer a file.
//!
//! ## Parameters
//!
//! A value without a meaning is answered 400 with the name of its parameter, by WebSockets, event
//! streams, the JSON view and POST alike. The same value twice counts once. Different values of one
//! name are answered 400, as is a broken percent-encoding, even if another parameter overrides it.
//! All other parameters are ignored. Names are case-sensitive.
//!
//! | parameter | values | empty |
//! |---|---|---|
//! | `last` | a number in digits; a number above the history asks for all of it | 400 |
//! | `echo` | `true` or `false` | 400 |
//! | `since` | the id of a message; else 400. An id of another history is answered with a gap and then everything that is kept | the same as none |
//! | `lastEventId`, the header `Last-Event-ID` | the same, but text that is no id is a gap, too: an `EventSource` cannot forget an id that another service gave it, and a 400 would end it for good | the same as none |
//!
//! If several are given, the header `Last-Event-ID` wins over `lastEventId`, that over `since`, and
//! that over `last`.
//!
//! ## Headers
//!
//! | header | values |
//! |---|---|
//! | `Idempotency-Key` | 1 to 256 characters of ASCII, else 400 |
//! | `Echocast-Kind` | `text` or `binary`, else 400 |
//! | `Accept` | the type with the highest `q`; of equal ones the one that is named; of several named, event stream, page, JSON. `*/*` is the page; 406 if no type is acceptable. Elements that are no type are left out, and a malformed `q` is 1 |
//! | `Sec-WebSocket-Protocol` | names with the characters of a token (RFC 9110), else 400; empty elements are left out |
//! | `Sec-WebSocket-Key`, `Sec-WebSocket-Version` | as RFC 6455 asks, else 400, or 426 for another version |
//! | `Origin` | with a list in `--allow-origin`, each one sent has to be in it, else 403 |
//! | `traceparent` | a malformed one, or two that differ, are ignored, as the specification asks |
//! | `Content-Type` | ignored |
//! | `Host` | one on HTTP/1.1, else 400 |
//! | `X-Forwarded-For`, `Forwarded` | only of a `--trusted-proxy`: read from the end, as far as its elements are addresses, with or without brackets, quotes and ports |
//!
//! ## Bounds of a request
//!
//! A head has at most 32 KiB, else 431. A rejected request is answered before its body is read,
//! also with `Expect: 100-continue`. Up to 64 KiB of an unread body are read within a second, and
//! the connection is kept. With a larger rest the answer says `Connection: close`, and the node
//! reads on so that the answer is not lost: at most 64 MiB, for 30 s. A client may close its side
//! after its request and still gets its answer (`nc -N`).

pub mod listener;
pub mod server;
pub mod delayed_reset;
pub mod connection;
mod stream;
pub mod keep_alive;
mod exchange;
mod body;
mod unread;
mod handover;
mod successor;
mod linger;
pub mod ops;
pub mod public;
pub mod context;
mod head;
mod accept;
mod cors;
mod page;
mod bad_name;
mod websocket;
mod events;
mod publish;
mod snapshot;
