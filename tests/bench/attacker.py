"""One attacker: many connections in one loop that share a number of bytes a second. This
file decides when bytes are sent and read; `attacks.py` decides which. It connects to 127.0.0.1
only."""

import collections
import errno
import heapq
import ipaddress
import itertools
import math
import select
import socket
import struct
import time

# A conversation yields one of these between its chunks of bytes, or a number: seconds to wait.
ANSWER = object()  # continue when the node has answered: the bytes are the value of this `yield`
END = object()  # close this connection, and open another one in its place

ANSWER_BYTES = 2048  # that are read of an answer
SEGMENTS = 120  # bytes of TCP and IP that opening a connection takes
PIECE = 16384  # bytes of one connection before the next one has its turn
RETRY = 0.2  # seconds before a connection that the node closed is opened again
OPENED_AT_ONCE = 100  # connections before others have their turn
IP_BIND_ADDRESS_NO_PORT = 24  # from <linux/in.h>: the port is chosen when it connects


class Bucket:
    """A token bucket of bytes: `rate` a second, and at most `size` at once."""

    def __init__(self, rate, size):
        self.rate, self.size, self.tokens, self.at = rate, size, 0.0, time.monotonic()

    def left(self):
        """Bytes that may be taken now. Below 1 means: wait."""
        if self.rate == math.inf:
            return self.size
        now = time.monotonic()
        self.tokens = min(self.size, self.tokens + self.rate * (now - self.at))
        self.at = now
        return int(self.tokens)

    def take(self, count):
        if self.rate != math.inf:
            self.tokens -= count


class Plan:
    """How one connection behaves, and those that replace it. `conversation` makes a generator of
    chunks of bytes, ANSWER, END and seconds; when it is over, the connection stays open. `reads` is
    bytes a second; 0 reads nothing but answers that the conversation waits for. `whole` sends each
    chunk with one call. A small `receive_buffer` (bytes) makes the node wait sooner."""

    def __init__(self, conversation, reads, whole, receive_buffer):
        self.conversation, self.reads, self.whole = conversation, reads, whole
        self.receive_buffer = receive_buffer


class Connection:
    """One socket and where its conversation is."""

    def __init__(self, plan, sock):
        self.plan, self.sock = plan, sock
        self.chunks = plan.conversation()
        self.rest = memoryview(b"")  # of the chunk that is being sent
        self.answer = None  # bytes for a `yield ANSWER`
        self.waits = False  # for an answer
        # Its own share of what the attacker may read.
        self.allowance = Bucket(plan.reads, PIECE) if 0 < plan.reads < math.inf else None


class Attacker:
    """Sends at most `rate` bytes a second over all connections, and reads at most as many.
    Connections come from `addresses` addresses in turn, beginning with 127.0.0.2."""

    def __init__(self, port, rate, addresses=1):
        # As much at once as a node reads at once.
        size = max(65536, rate / 10) if rate < math.inf else 1 << 20
        self.sending, self.reading = Bucket(rate, size), Bucket(rate, size)
        first = ipaddress.IPv4Address("127.0.0.2")
        self.addresses = itertools.cycle([str(first + number) for number in range(addresses)])
        self.port = port
        self.numbers = itertools.count()  # for names of channels that are used once
        self.sent = 0
        self.poll = select.epoll()
        self.connections = {}
        self.to_open = collections.deque()  # plans
        self.to_retry = collections.deque()  # (when, plan), the earliest first
        self.paused = []  # a heap of (when, number, connection)
        self.ready = collections.deque()  # connections that have something to send
        self.slow = []  # connections with an allowance of their own

    def open(self, conversation, count=1, reads=math.inf, whole=False, receive_buffer=None):
        """Adds connections, which `run` opens. See `Plan`."""
        self.to_open.extend([Plan(conversation, reads, whole, receive_buffer)] * count)

    def run(self, goes_on):
        """Attacks until `goes_on` returns False."""
        while goes_on():
            now = time.monotonic()
            while self.to_retry and self.to_retry[0][0] <= now:
                self.to_open.append(self.to_retry.popleft()[1])
            while self.paused and self.paused[0][0] <= now:
                self.ready.append(heapq.heappop(self.paused)[2])
            self.open_some()
            self.send_some()
            self.read_slow_ones()
            self.read_some()

    def close(self):
        for connection in self.connections.values():
            connection.sock.close()
        self.poll.close()

    def open_some(self):
        for _ in range(min(OPENED_AT_ONCE, len(self.to_open))):
            if self.sending.left() < SEGMENTS:
                return
            plan = self.to_open.popleft()
            try:
                sock = self.connecting(plan)
            except OSError:
                # Files or ports are used up.
                self.to_retry.append((time.monotonic() + RETRY, plan))
                return
            self.sending.take(SEGMENTS)
            self.sent += SEGMENTS
            connection = Connection(plan, sock)
            self.connections[sock.fileno()] = connection
            self.poll.register(sock, select.EPOLLOUT)
            if connection.allowance:
                self.slow.append(connection)

    def connecting(self, plan):
        sock = socket.socket()
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if plan.receive_buffer:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, plan.receive_buffer)
            sock.bind((next(self.addresses), 0))
            failed = sock.connect_ex(("127.0.0.1", self.port))
            if failed not in (0, errno.EINPROGRESS):
                raise OSError(failed, "cannot connect")
        except OSError:
            sock.close()
            raise
        return sock

    def send_some(self):
        for _ in range(len(self.ready)):
            if self.sending.left() < 1:
                return
            connection = self.ready.popleft()
            if connection.sock.fileno() >= 0:
                self.send_piece(connection)

    def send_piece(self, connection):
        if not connection.rest and not self.next_chunk(connection):
            return
        count = len(connection.rest) if connection.plan.whole else min(PIECE, len(connection.rest))
        left = self.sending.left()
        if connection.plan.whole and left < count:
            self.ready.append(connection)
            return
        try:
            sent = connection.sock.send(connection.rest[: min(count, left)])
        except BlockingIOError:
            self.watch(connection, writes=True)
            return
        except OSError:
            self.end(connection)
            return
        self.sending.take(sent)
        self.sent += sent
        connection.rest = connection.rest[sent:]
        # At once, so that an answer that comes soon is waited for already.
        if connection.rest or self.next_chunk(connection):
            self.ready.append(connection)

    def next_chunk(self, connection):
        """Whether the conversation has something to send now."""
        answer, connection.answer = connection.answer, None
        try:
            chunk = connection.chunks.send(answer)
        except StopIteration:
            self.watch(connection)
            return False
        if chunk is ANSWER:
            connection.waits = True
            self.watch(connection)
            return False
        if isinstance(chunk, float):
            # The number decides between two that are due at once: connections have no order.
            heapq.heappush(self.paused, (time.monotonic() + chunk, next(self.numbers), connection))
            self.watch(connection)
            return False
        if chunk is END:
            # A reset, because the port of a connection closed politely is not free for a minute.
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.end(connection, by_node=False)
            return False
        connection.rest = memoryview(chunk)
        return True

    def watch(self, connection, writes=False):
        """Sets the events to wait for. The kernel always reports a reset. RDHUP is the node's close
        of a connection that is not read."""
        reads = connection.waits or (connection.plan.reads and not connection.allowance)
        events = (select.EPOLLIN if reads else select.EPOLLRDHUP) | (
            select.EPOLLOUT if writes else 0
        )
        self.poll.modify(connection.sock, events)

    def read_slow_ones(self):
        for connection in self.slow:
            if (
                not connection.waits
                and connection.sock.fileno() >= 0
                and connection.allowance.left() > 0
            ):
                self.read(connection)
        self.slow = [connection for connection in self.slow if connection.sock.fileno() >= 0]

    def read_some(self):
        if self.reading.left() < 1:
            # Everything that is readable would wake it at once.
            time.sleep(0.002)
            return
        # Bytes that may be sent come with time, not with an event.
        hurry = self.ready or self.to_open
        for file, events in self.poll.poll(0.002 if hurry else 0.01):
            connection = self.connections.get(file)
            if connection is None:
                continue
            if events & select.EPOLLOUT:
                self.watch(connection)
                self.ready.append(connection)
            if events & select.EPOLLIN:
                self.read(connection)
            elif events & (select.EPOLLERR | select.EPOLLHUP | select.EPOLLRDHUP):
                self.end(connection)

    def read(self, connection):
        # Only the beginning of an answer: an attacker reads as little as it can.
        count = min(ANSWER_BYTES if connection.waits else 65536, self.reading.left())
        if connection.allowance and not connection.waits:
            count = min(count, connection.allowance.left())
        if count < 1:
            return
        try:
            data = connection.sock.recv(count)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.end(connection)
            return
        self.reading.take(len(data))
        if connection.allowance:
            connection.allowance.take(len(data))
        if connection.waits:
            connection.waits, connection.answer = False, data
            self.watch(connection)
            self.ready.append(connection)

    def end(self, connection, by_node=True):
        """Closes a connection and plans the one that replaces it."""
        self.connections.pop(connection.sock.fileno(), None)
        connection.sock.close()
        if by_node:
            self.to_retry.append((time.monotonic() + RETRY, connection.plan))
        else:
            self.to_open.append(connection.plan)
