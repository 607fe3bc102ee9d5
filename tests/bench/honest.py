"""One honest client. It publishes a short message every 20 ms on a channel of its own and receives
it back. It connects anew twice a second. It measures how late messages are, how many do not come,
and how many handshakes fail. Nothing here waits for the node: a node that stands still stops no
clock."""

import select
import socket
import time

import wire

EVERY = 0.02  # seconds between messages
VISIT_EVERY = 0.5  # seconds between handshakes
VISIT_PATIENCE = 2.0  # seconds until a handshake counts as refused
LOST_AFTER = 1.0  # seconds until a message that has not come counts as not received
PATH = "/honest"
DIGITS = 8  # of a message: its number


def measure(port, pipe):
    """The process: sends "ready" when it is connected, measures until something comes through the
    pipe, then sends the result."""
    client = Honest(port)
    try:
        client.connect(patience=15)
    except OSError as error:
        pipe.send(f"the honest client cannot connect: {error}")
        return
    pipe.send("ready")
    client.next_message = client.next_visit = time.monotonic()
    while not pipe.poll():
        client.turn()
    pipe.send(client.result())


class Honest:
    def __init__(self, port):
        self.port = port
        self.poll = select.poll()
        self.sock, self.input, self.output = None, b"", b""
        self.missing = {}  # by message that has not come back: when it was published
        self.late = []  # seconds
        self.visits = {}  # by file: the socket, when it began
        self.published = self.visited = self.refused = self.dropped = 0
        self.next_message = self.next_visit = 0.0  # when they are due

    def connect(self, patience):
        deadline = time.monotonic() + patience
        while True:
            try:
                self.sock = handshake(self.port, min(patience, 1))
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        self.input = self.output = b""
        self.poll.register(self.sock, select.POLLIN)

    def turn(self):
        now = time.monotonic()
        if now >= self.next_message:
            self.publish(now)
        if now >= self.next_visit:
            self.next_visit += VISIT_EVERY
            self.reconnect() if self.sock is None else self.visit(now)
        self.give_up_visits(now)
        pause = min(self.next_message, self.next_visit) - time.monotonic()
        for file, events in self.poll.poll(max(0, 1000 * pause)):
            if self.sock is not None and file == self.sock.fileno():
                self.receive()
            elif file in self.visits:
                self.answered(file, events)

    def publish(self, now):
        self.next_message += EVERY
        self.published += 1
        text = b"%0*d" % (DIGITS, self.published)
        # A message that cannot be sent is missing, too.
        self.missing[text] = now
        if self.sock is not None:
            self.output += wire.frame(text)
            self.flush()

    def flush(self):
        try:
            self.output = self.output[self.sock.send(self.output) :]
        except BlockingIOError:
            pass
        except OSError:
            self.drop()

    def receive(self):
        try:
            data = self.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.drop()
            return
        self.input += data
        now = time.monotonic()
        # All frames that the node sends here are short.
        while len(self.input) >= 2 and len(self.input) >= 2 + self.input[1]:
            end = 2 + self.input[1]
            opcode, payload, self.input = self.input[0] & 0xF, self.input[2:end], self.input[end:]
            if opcode == wire.TEXT and payload in self.missing:
                self.late.append(now - self.missing.pop(payload))
            elif opcode == wire.PING:
                self.output += wire.frame(payload, wire.PONG)
                self.flush()
            elif opcode == wire.CLOSE:
                self.drop()
                return

    def drop(self):
        """The node ended the connection of a client that did nothing wrong."""
        self.dropped += 1
        self.poll.unregister(self.sock)
        self.sock.close()
        self.sock = None

    def reconnect(self):
        self.visited += 1
        try:
            self.connect(patience=0.2)
        except OSError:
            self.refused += 1

    def visit(self, now):
        self.visited += 1
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(("127.0.0.1", self.port))
        self.visits[sock.fileno()] = sock, now
        self.poll.register(sock, select.POLLOUT)

    def answered(self, file, events):
        sock, _ = self.visits[file]
        try:
            if events & select.POLLOUT:
                sock.send(wire.upgrade(PATH + "/visit"))
                self.poll.modify(sock, select.POLLIN)
                return
            welcome = sock.recv(4096).startswith(b"HTTP/1.1 101 ")
        except OSError:
            welcome = False
        self.refused += not welcome
        self.leave(file)

    def give_up_visits(self, now):
        for file in [
            file for file, (_, began) in self.visits.items() if now - began > VISIT_PATIENCE
        ]:
            self.refused += 1
            self.leave(file)

    def leave(self, file):
        sock, _ = self.visits.pop(file)
        self.poll.unregister(sock)
        sock.close()

    def result(self):
        """Milliseconds, and counts. A message that has not come is as late as it is old."""
        now = time.monotonic()
        ages = [now - published for published in self.missing.values()]
        lost = [age for age in ages if age > LOST_AFTER]
        late = sorted(self.late + lost)
        counts = {name: getattr(self, name) for name in ("visited", "refused", "dropped")}
        parts = {"p50": part(late, 0.5), "p99": part(late, 0.99), "max": part(late, 1)}
        return {**parts, "missing": len(lost), **counts}


def part(sorted_seconds, share):
    """Milliseconds that this share of messages did not exceed."""
    last = len(sorted_seconds) - 1
    return 1000 * sorted_seconds[min(last, int(share * (last + 1)))] if sorted_seconds else 0.0


def handshake(port, patience):
    sock = socket.create_connection(("127.0.0.1", port), patience)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(wire.upgrade(PATH))
        answer = sock.recv(4096)
        if not answer.startswith(b"HTTP/1.1 101 "):
            raise OSError(f"the handshake's answer is {answer[:80]!r}")
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock
