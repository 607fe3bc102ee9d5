"""Bytes that clients send: request heads and WebSocket frames. No sockets here."""

import struct
import zlib

DEFLATE = "permessage-deflate"
SMALL_WINDOW = "permessage-deflate; server_max_window_bits=9"
V1 = "echocast.v1"
EVENTS = "text/event-stream"
JSON = "application/json"

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA
KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # the example of RFC 6455


def upgrade(path, extension=None, protocol=None):
    """The head of a WebSocket handshake."""
    headers = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": KEY,
        "Sec-WebSocket-Extensions": extension,
        "Sec-WebSocket-Protocol": protocol,
    }
    return head("GET", path, headers)


def get(path, accept):
    return head("GET", path, {"Accept": accept})


def post(path, body):
    return head("POST", path, {"Content-Length": len(body)}) + body


def head(method, path, headers):
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
    lines += [f"{name}: {value}" for name, value in headers.items() if value is not None]
    return "\r\n".join([*lines, "", ""]).encode()


def frame(payload, opcode=TEXT, last=True, deflated=False):
    """A client's frame. Its mask is zeros, which leave the payload as it is."""
    return frame_head(len(payload), opcode, last, deflated) + payload


def frame_head(length, opcode=TEXT, last=True, deflated=False):
    first = bytes([(0x80 if last else 0) | (0x40 if deflated else 0) | opcode])
    if length < 126:
        size = bytes([0x80 | length])
    elif length < 65536:
        size = b"\xfe" + struct.pack(">H", length)
    else:
        size = b"\xff" + struct.pack(">Q", length)
    return first + size + bytes(4)


def deflated_frame(payload, opcode=TEXT):
    return frame(deflate(payload), opcode, deflated=True)


def deflate(payload):
    stream = zlib.compressobj(9, zlib.DEFLATED, -15)
    # RFC 7692 leaves out the last four bytes of the flush.
    return (stream.compress(payload) + stream.flush(zlib.Z_SYNC_FLUSH))[:-4]
