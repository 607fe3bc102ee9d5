"""The attacks. Each opens connections of an `Attacker` and names the bytes to send on them. A new
one is a function and a line in `ATTACKS`; its documentation is a line of the table's legend."""

import functools
import re

import wire
from attacker import ANSWER, END

SMALL = 4096  # bytes of a receive buffer that is full at once
PIECE = 16384  # bytes, about, of a chunk of whole frames
MESSAGE = 65536  # bytes: the default of --max-message
MANY = 6000  # connections: more than a node may open here


def nothing(_):
    """nobody attacks: the noise of the machine"""


def unread_stream(attacker):
    """an event stream that is never read, on a channel with deflated messages"""
    attacker.open(asks(wire.get("/unread", wire.EVENTS)), reads=0, receive_buffer=SMALL)
    attacker.open(publishes("/unread", many(BOMB)))


def slow_stream(attacker):
    """an event stream that reads 64 KB/s, on a channel with deflated messages"""
    attacker.open(asks(wire.get("/slow", wire.EVENTS)), reads=64_000, receive_buffer=SMALL)
    attacker.open(publishes("/slow", many(BOMB)))


def tiny_messages(attacker):
    """messages of one byte on 16 channels"""
    publish_on(attacker, 16, many(wire.frame(b"x")))


def deflated_1(attacker):
    """deflated messages of 64 KiB on 1 channel"""
    publish_on(attacker, 1, many(BOMB))


def deflated_16(attacker):
    """deflated messages of 64 KiB on 16 channels"""
    publish_on(attacker, 16, many(BOMB))


def deflated_400(attacker):
    """deflated messages of 64 KiB on 400 channels"""
    publish_on(attacker, 400, many(BOMB))


def one_read(attacker):
    """deflated messages of 64 KiB, 64 KiB of frames with one write"""
    for number in range(4):
        frames = BOMB * (65536 // len(BOMB))
        attacker.open(publishes(f"/one-read/{number}", frames), whole=True)


def v1_escapes(attacker):
    """deflated echocast.v1 of JSON escapes on 8 channels, which are read in every encoding"""
    escapes = many(wire.deflated_frame(b'{"data":"%s"}' % (rb"\u0001" * 65000)))
    for number in range(8):
        attacker.open(publishes(f"/v1/{number}", escapes, wire.V1))
        for request in readers(f"/v1/{number}?last=1000"):
            attacker.open(asks(request))


def keys(attacker):
    """empty messages with keys of 256 bytes, deflated, on endless channels"""
    texts = ((b"%d-" % number).ljust(256, b"k") for number in range(1000))
    frames = b"".join(wire.deflated_frame(b'{"data":"","key":"%s"}' % text) for text in texts)

    def conversation():
        yield wire.upgrade(f"/keys/{next(attacker.numbers)}?echo=false", wire.DEFLATE, wire.V1)
        yield ANSWER
        # The node answers a close when it has read everything before it.
        yield frames + wire.frame(b"\x03\xe8", wire.CLOSE)
        yield ANSWER
        yield END

    attacker.open(conversation, count=8)


def within_limits(attacker):
    """deflated messages within --limits on 12 channels, which are read in every encoding"""
    message = wire.deflated_frame(b"\n" * MESSAGE)

    def publisher(number):
        yield wire.upgrade(f"/within/{number}?echo=false", wire.DEFLATE)
        yield ANSWER
        while True:
            # Below 1 MiB/s of one connection, and below 200 messages a second of all.
            yield message
            yield 1 / 15

    def reader():
        number = next(attacker.numbers)
        requests = list(readers(f"/within/{number % 12}?last=1000"))
        yield requests[number % len(requests)]
        yield ANSWER
        yield 0.5
        yield END

    for number in range(12):
        attacker.open(functools.partial(publisher, number))
    attacker.open(reader, count=7)


def post_flood(attacker):
    """POSTs on one connection, without waiting for answers"""
    posts = wire.post("/flood", b"x") * 200
    attacker.open(repeats(posts))


def post_channels(attacker):
    """POSTs to endless channel names on 4 connections, without waiting for answers"""

    def conversation():
        while True:
            names = (f"/endless/{next(attacker.numbers)}" for _ in range(200))
            yield b"".join(wire.post(name, b"x") for name in names)

    attacker.open(conversation, count=4)


def half_heads(attacker):
    """connections with half a request head"""
    attacker.open(asks(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: "), count=MANY, reads=0)


def idle_connections(attacker):
    """plain connections that are kept after one request"""
    attacker.open(asks(wire.get("/idle", wire.JSON)), count=MANY)


def unread_json(attacker):
    """JSON answers that are never read, of a full channel"""
    fill = many(wire.deflated_frame(b"\x01" * MESSAGE), 200 * 100)
    attacker.open(sends_once("/json", fill))
    request = wire.get("/json?last=1000", wire.JSON)
    attacker.open(asks(request), count=1000, reads=0, receive_buffer=SMALL)


def cold_joins(attacker):
    """joins with `last=1000` on 16 full histories that the node has not read yet"""
    for number in range(COLD):
        for request in readers(f"/cold/{number}?last=1000"):
            attacker.open(leaves_after_an_answer(request))


def fill_cold(attacker):
    """The histories of `cold_joins`."""
    for number in range(COLD):
        attacker.open(sends_once(f"/cold/{number}", BOMB * 1000))


def since_ahead(attacker):
    """JSON requests with `since` far ahead of the channel"""

    def conversation():
        yield wire.post("/ahead", b"x")
        answer = yield ANSWER
        epoch = re.search(rb'"id":"(.*)-\d+"', answer)
        if epoch is None:
            yield END
        request = wire.get(f"/ahead?since={epoch[1].decode()}-999999999", wire.JSON)
        while True:
            yield request
            yield ANSWER

    attacker.open(conversation, count=2000)


def churn(attacker):
    """WebSockets on endless channels that are left at once"""

    def conversation():
        yield wire.upgrade(f"/churn/{next(attacker.numbers)}")
        yield ANSWER
        yield END

    attacker.open(conversation, count=50)


def unfinished(attacker):
    """messages that are never finished: fragments, deflated fragments, large echocast.v1 frames"""
    escapes = b'{"data":"%s' % (rb"\u0001" * 65000)
    fragment = wire.frame(b"x" * (MESSAGE - 1), last=False)
    deflated = wire.frame(wire.deflate(escapes), last=False, deflated=True)
    large = wire.frame_head(len(escapes) + 2) + escapes
    for frames, protocol in ((deflated, wire.V1), (fragment, None), (large, wire.V1)):
        attacker.open(sends_once("/unfinished", frames, protocol), count=600)


def skipped_readers(attacker):
    """readers of every encoding at 1 KB/s, on 16 deflated channels, with --slow-client skip"""
    publish_on(attacker, 16, many(BOMB))
    for number in range(16):
        for request in readers(f"/{number}"):
            attacker.open(asks(request), reads=1000, receive_buffer=SMALL)


def unread_sockets(attacker):
    """128 WebSockets that never read, on 16 channels with deflated messages"""
    publish_on(attacker, 16, many(BOMB))
    for number in range(16):
        attacker.open(asks(wire.upgrade(f"/{number}")), count=8, reads=0, receive_buffer=SMALL)


def unread_refs(attacker):
    """acknowledgements that are never read, of short and of deflated long references"""
    short = many(wire.frame(b'{"data":"","ref":"r"}'))
    long = many(wire.deflated_frame(b'{"data":"","ref":"%s"}' % (b"r" * 60_000)))
    for frames in (short, long):
        conversation = publishes("/refs", frames, wire.V1)
        attacker.open(conversation, count=8, reads=0, receive_buffer=SMALL)


class Attack:
    """`starts` opens its connections. `fills` does so on an earlier node over the same Redis, which
    has ended before the measured one starts. `flags` are the node's."""

    def __init__(self, starts, fills=None, flags=(), redis_only=False):
        self.starts, self.fills, self.flags, self.redis_only = starts, fills, flags, redis_only
        self.about = starts.__doc__


ATTACKS = {
    "nothing": Attack(nothing),
    "unread-stream": Attack(unread_stream),
    "slow-stream": Attack(slow_stream),
    "tiny-messages": Attack(tiny_messages),
    "deflated-1": Attack(deflated_1),
    "deflated-16": Attack(deflated_16),
    "deflated-400": Attack(deflated_400),
    "one-read": Attack(one_read),
    "v1-escapes": Attack(v1_escapes),
    "keys": Attack(keys),
    "within-limits": Attack(within_limits),
    "post-flood": Attack(post_flood),
    "post-channels": Attack(post_channels),
    "half-heads": Attack(half_heads),
    "idle-connections": Attack(idle_connections),
    "unread-json": Attack(unread_json),
    "cold-joins": Attack(cold_joins, fills=fill_cold, redis_only=True),
    "since-ahead": Attack(since_ahead),
    "churn": Attack(churn),
    "unfinished": Attack(unfinished),
    "skipped-readers": Attack(skipped_readers, flags=("--slow-client", "skip")),
    "unread-sockets": Attack(unread_sockets),
    "unread-refs": Attack(unread_refs),
}


def says(*steps, forever=None):
    """These steps; then the connection stays as it is, or says the same without end."""

    def conversation():
        for step in steps:
            yield step
        while forever:
            yield forever

    return conversation


def asks(request):
    return says(request)


def leaves_after_an_answer(request):
    return says(request, ANSWER, END)


def repeats(chunk):
    return says(forever=chunk)


def publishes(path, frames, protocol=None):
    return says(publisher(path, protocol), ANSWER, forever=frames)


def sends_once(path, frames, protocol=None):
    return says(publisher(path, protocol), ANSWER, frames)


def publisher(path, protocol=None):
    """The handshake of a client that does not want to hear itself."""
    return wire.upgrade(f"{path}?echo=false", wire.DEFLATE, protocol)


def publish_on(attacker, channels, frames):
    for number in range(channels):
        attacker.open(publishes(f"/{number}", frames))


def readers(path):
    """A request for each encoding that a node makes of a message."""
    for protocol in (None, wire.V1):
        for extension in (None, wire.DEFLATE, wire.SMALL_WINDOW):
            yield wire.upgrade(path, extension, protocol)
    yield wire.get(path, wire.EVENTS)


def many(frame, size=PIECE):
    return frame * (size // len(frame) + 1)


BOMB = wire.deflated_frame(b"a" * MESSAGE)  # 64 KiB in about 90 bytes
COLD = 16  # channels with a history in Redis that no node has read
