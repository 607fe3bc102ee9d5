//! State that a connection's stream, its clock, its requests and its task share, because the HTTP
//! server owns the first three and tells nobody about them.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use super::body::Rest;
use super::handover::Successor;

/// One connection's. All of it is read and written by the connection's task, which polls the
/// others.
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
    /// A request came to be on this connection.
    heard: AtomicBool,
    /// The rest of the request's body that nobody has read. Written as the body is dropped, taken
    /// before the answer.
    rest: Mutex<Option<Rest>>,
    /// The client may send what nobody will read. Written by the request and its body.
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
            heard: AtomicBool::new(false),
            rest: Mutex::default(),
            left_unread: AtomicBool::new(false),
        })
    }

    pub(super) fn set_flushed(&self, flushed: bool) {
        self.flushed.store(flushed, Relaxed);
    }

    /// A request wants the socket.
    pub(super) fn offer(&self, successor: Successor) {
        *self
            .successor
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(successor);
    }

    /// The task that gets the socket, if a request wants it and nothing waits to be written. The
    /// connection's task asks after each poll of the HTTP server, which polls the request, so that
    /// no other wake is needed.
    pub(super) fn successor(&self) -> Option<Successor> {
        if !self.flushed.load(Relaxed) {
            return None;
        }
        self.withdraw()
    }

    /// The same, whether or not something waits to be written: the request is over.
    pub(super) fn withdraw(&self) -> Option<Successor> {
        self.successor
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// A read brought something, be it the end, or nothing yet.
    pub(super) fn note_read(&self, brought: bool) {
        self.last_read_brought.store(brought, Relaxed);
        if brought {
            self.head_has_begun.store(true, Relaxed);
        }
    }

    /// The HTTP server begins to wait for a head; returns whether it already has some of it. When
    /// it has nothing, it has tried to read just before, in vain: the last read brought something
    /// only if that is still to be parsed.
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
        self.heard.store(true, Relaxed);
    }

    pub(super) fn has_heard(&self) -> bool {
        self.heard.load(Relaxed)
    }

    /// A request's body is dropped, and this was not read of it.
    pub(super) fn leave(&self, rest: Rest) {
        *self.rest.lock().unwrap_or_else(PoisonError::into_inner) = Some(rest);
    }

    pub(super) fn take_rest(&self) -> Option<Rest> {
        self.rest
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// The client may send more, and nobody will read it: this is the connection's last answer.
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
