"""A conversation through a WebSocket client of Python: `talk.py LIBRARY URL`.

Each line of the input is a command: `text HEX`, `binary HEX`, `close CODE REASON`. Each line of the
output is what happened: `open deflate` or `open plain`, `text HEX`, `binary HEX`, `closed CODE`,
after which it ends. The other programs called `talk` do the same. The test that runs them
knows what is right."""

import asyncio
import sys
import threading


def tell(*words):
    print(*words, flush=True)


def heard(message):
    if isinstance(message, str):
        tell("text", message.encode().hex())
    else:
        tell("binary", bytes(message).hex())


def command(line):
    """Its name and its argument."""
    name, _, rest = line.rstrip("\n").partition(" ")
    if name == "close":
        code, _, reason = rest.partition(" ")
        return name, (int(code), reason)
    payload = bytes.fromhex(rest)
    return name, payload.decode() if name == "text" else payload


async def input_lines():
    reader = asyncio.StreamReader(limit=1 << 20)
    protocol = asyncio.StreamReaderProtocol(reader)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    while line := await reader.readline():
        yield line.decode()


async def websockets(url):
    from websockets.asyncio.client import connect
    from websockets.exceptions import ConnectionClosed

    async with connect(url, max_size=None) as socket:
        tell("open", "deflate" if socket.protocol.extensions else "plain")

        async def speak():
            async for line in input_lines():
                name, value = command(line)
                await (socket.close(*value) if name == "close" else socket.send(value))

        speaking = asyncio.create_task(speak())
        try:
            while True:
                heard(await socket.recv())
        except ConnectionClosed:
            tell("closed", socket.close_code)
        speaking.cancel()


async def aiohttp(url):
    from aiohttp import ClientSession

    async with ClientSession() as session:
        async with session.ws_connect(url, max_msg_size=0, compress=15) as socket:
            tell("open", "deflate" if socket.compress else "plain")

            async def speak():
                async for line in input_lines():
                    name, value = command(line)
                    if name == "close":
                        await socket.close(code=value[0], message=value[1].encode())
                    elif name == "text":
                        await socket.send_str(value)
                    else:
                        await socket.send_bytes(value)

            speaking = asyncio.create_task(speak())
            async for message in socket:
                heard(message.data)
            # If it is closing by itself, until it has the answer.
            while not socket.closed:
                await asyncio.sleep(0.01)
            tell("closed", socket.close_code)
            speaking.cancel()


def websocket_client(url):
    import websocket

    app = websocket.WebSocketApp(
        url,
        on_open=lambda _: tell("open plain"),
        on_data=lambda _, data, kind, fin: heard(data),
        on_close=lambda _, code, reason: tell("closed", code),
    )

    def speak():
        for line in sys.stdin:
            name, value = command(line)
            if name == "close":
                code, reason = value
                app.sock.send_close(code, reason.encode())
            elif name == "text":
                app.send_text(value)
            else:
                app.send_bytes(value)

    threading.Thread(target=speak, daemon=True).start()
    app.run_forever()


if __name__ == "__main__":
    library, url = sys.argv[1:]
    if library == "websocket-client":
        websocket_client(url)
    else:
        asyncio.run({"websockets": websockets, "aiohttp": aiohttp}[library](url))
