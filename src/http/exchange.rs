//! State that a connection's stream, its clock, its requests and its task share, because the HTTP
//! server owns the first three and informs nobody about them.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::successor::Successor;
use super::unread::UnreadBody;

/// The shared state of one connection. The connection's task reads and writes all of it, because
/// that task polls everything else.
#[derive(Debug)]
pub(super) struct Exchange {
    /// Nothing that was written waits in the kernel. Written by the stream.
    flushed: AtomicBool,
    /// The task that gets the socket. Written by a request, taken by the connection's task.
    successor: Mutex<Option<Successor>>,
    /// The last read brought something. Written by the stream.
    last_read_brought: AtomicBool,
    /// Something was read since the wait for a head began. Written by the stream, cleared by the
    /// clock.
    head_has_begun: AtomicBool,
    /// The HTTP server waits for a head. Written by the clock, cleared by the request.
    waits_for_head: AtomicBool,
    /// At least one request's head was complete. Written by the request.
    has_served: AtomicBool,
    /// The rest of a request's body. Written when the body is dropped, taken before the answer.
    unread_body: Mutex<Option<UnreadBody>>,
    /// The client may send more that nobody will read. Written by the request and its body.
    left_unread: AtomicBool,
}

impl Exchange {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            flushed: AtomicBool::new(true),
            successor: Mutex::default(),
            last_read_brought: AtomicBool::new(false),
            head_has_begun: AtomicBool::new(false),
            waits_for_head: AtomicBool::new(false),
            has_served: AtomicBool::new(false),
            unread_body: Mutex::default(),
            left_unread: AtomicBool::new(false),
        })
    }

    pub(super) fn set_flushed(&self, flushed: bool) {
        self.flushed.store(flushed, Relaxed);
    }

    /// A request wants the socket.
    pub(super) fn offer(&self, successor: Successor) {
        *lock(&self.successor) = Some(successor);
    }

    /// The task that gets the socket, if a request wants it and nothing waits to be written. The
    /// connection's task asks after each poll of the HTTP server. That poll polls the request, too,
    /// so no other wake is needed.
    pub(super) fn successor(&self) -> Option<Successor> {
        if !self.flushed.load(Relaxed) {
            return None;
        }
        self.withdraw()
    }

    /// The same, whether or not something waits to be written: the request is over.
    pub(super) fn withdraw(&self) -> Option<Successor> {
        lock(&self.successor).take()
    }

    /// A read was ready, with bytes or the end, or had nothing yet.
    pub(super) fn note_read(&self, brought: bool) {
        self.last_read_brought.store(brought, Relaxed);
        if brought {
            self.head_has_begun.store(true, Relaxed);
        }
    }

    /// The HTTP server begins to wait for a head. Returns whether it already has some of it: with
    /// nothing to parse it has just tried to read in vain, so the last read brought something only
    /// if that is still to be parsed.
    pub(super) fn begin_head(&self) -> bool {
        let begun = self.last_read_brought.load(Relaxed);
        self.head_has_begun.store(begun, Relaxed);
        self.waits_for_head.store(true, Relaxed);
        begun
    }

    pub(super) fn head_has_begun(&self) -> bool {
        self.head_has_begun.load(Relaxed)
    }

    /// A head is complete.
    pub(super) fn end_head(&self) {
        self.waits_for_head.store(false, Relaxed);
        self.has_served.store(true, Relaxed);
    }

    /// Whether a request came and the HTTP server does not wait for the next one yet.
    pub(super) fn is_answering(&self) -> bool {
        self.has_served() && !self.waits_for_head.load(Relaxed)
    }

    /// Whether a request was complete on this connection.
    pub(super) fn has_served(&self) -> bool {
        self.has_served.load(Relaxed)
    }

    /// A request's body was dropped with this rest.
    pub(super) fn leave_body(&self, rest: UnreadBody) {
        *lock(&self.unread_body) = Some(rest);
    }

    pub(super) fn take_unread_body(&self) -> Option<UnreadBody> {
        lock(&self.unread_body).take()
    }

    /// This is the connection's last answer: the client may send more, and nobody will read it.
    pub(super) fn leave_unread(&self) {
        self.left_unread.store(true, Relaxed);
    }

    /// Whether the client may send more that nobody reads: the rest of a body, or of a head that is
    /// no HTTP.
    pub(super) fn is_left_unread(&self) -> bool {
        let within_head = self.waits_for_head.load(Relaxed) && self.head_has_begun.load(Relaxed);
        within_head || self.left_unread.load(Relaxed)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
