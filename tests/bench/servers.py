"""The servers that are compared: how each is started, and what of it is measured. Peers are run as their own
documentation says. A server is one process or two over one Redis, all on the servers' core; it is ended by the ids of
what was started. What is asked of servers, and when, is decided in `measure.py`."""

import contextlib
import os
import pathlib
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
REDIS_IMAGE = "redis:8-alpine"
PATIENCE = 20  # seconds until a server listens, or has ended

# What is compared, by number of nodes, under the names in the table.
NAMES = {
    1: ("echocast", "ws", "socket.io", "nchan", "axum + broadcast"),
    2: ("echocast", "ws + ioredis", "socket.io", "nchan"),
}
# Which of them want more than plain WebSocket, and what `echocast bench` is told then.
SPOKEN = {"socket.io": ("/socket.io/?EIO=4&transport=websocket", ["--socket-io"])}


class Running:
    """What the load is told about a server: where it listens, what it speaks, and the processes that are it."""

    def __init__(self, options):
        self.urls, self.pids, self.options = [], [], options


@contextlib.contextmanager
def serve(name, nodes, settings):
    """`nodes` of server `name`; with two, over a Redis of their own, which counts as part of the server."""
    with contextlib.ExitStack() as stack:
        work = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="echocast-bench-")))
        path, options = SPOKEN.get(name, ("/bench", []))
        running, redis = Running(options), None
        if nodes > 1:
            redis, pid = stack.enter_context(redis_server(settings))
            running.pids.append(pid)
        for number in range(nodes):
            directory = work / str(number)
            directory.mkdir(mode=0o755)
            port = free_port()
            command = STARTED[name](port, redis, directory, settings)
            process = stack.enter_context(started(command, directory, settings))
            wait_until_listening(port, process, directory, name)
            running.urls.append(f"ws://127.0.0.1:{port}{path}")
            running.pids += [process.pid, *children(process.pid)]
        yield running


def echocast(port, redis, _, settings):
    ops = free_port()
    addresses = ["--listen", f"127.0.0.1:{port}", "--ops-listen", f"127.0.0.1:{ops}"]
    return [settings.echocast, "serve", *addresses, *(["--redis-url", redis] if redis else [])]


def ws(port, *_):
    return ["node", HERE / "node/ws.mjs", port]


def ws_redis(port, redis, *_):
    return ["node", HERE / "node/ws-redis.mjs", port, redis]


def socket_io(port, redis, *_):
    return ["node", HERE / "node/socket-io.mjs", port, *([redis] if redis else [])]


def axum(port, _redis, _directory, settings):
    return [settings.axum, f"127.0.0.1:{port}"]


def nginx(port, redis, directory, settings):
    # Workers are another user where nginx is started as root; its path must let them in.
    directory.parent.chmod(0o755)
    names = {
        "FILES": resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        "CONNECTIONS": settings.most_connections + 512,
        "PORT": port,
        "UPSTREAM": f"upstream redis {{ nchan_redis_server {redis}; }}" if redis else "",
        "PASS": "nchan_redis_pass redis;" if redis else "",
    }
    text = (HERE / "nginx.conf").read_text()
    for name, value in names.items():
        text = text.replace(f"@{name}@", str(value))
    (directory / "nginx.conf").write_text(text)
    # Debian has it where only root's path leads.
    binary = shutil.which("nginx") or "/usr/sbin/nginx"
    return [binary, "-p", f"{directory}/", "-c", "nginx.conf", "-e", "stderr", "-g", "daemon off;"]


STARTED = {
    "echocast": echocast,
    "ws": ws,
    "ws + ioredis": ws_redis,
    "socket.io": socket_io,
    "nchan": nginx,
    "axum + broadcast": axum,
}


@contextlib.contextmanager
def started(command, directory, settings):
    # Nobody's own settings of echocast, and what Node's documentation says of production.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ECHOCAST_")}
    environment["NODE_ENV"] = "production"
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            ["taskset", "-c", str(settings.server_cpu), *map(str, command)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=directory, env=environment,
        )  # fmt: skip
    try:
        yield process
    finally:
        end(process)


def end(process):
    """The polite way first: nginx takes its workers along."""
    workers = children(process.pid)
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def redis_server(settings):
    """A Redis that keeps nothing on disk, in a container on the host's network: its URL and its process."""
    port = free_port()
    run = ["docker", "run", "--detach", "--rm", "--network=host", f"--cpuset-cpus={settings.server_cpu}", REDIS_IMAGE]
    options = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    container = output(*run, *options)
    try:
        wait_until_open(port, lambda: None)
        yield f"redis://127.0.0.1:{port}", int(output("docker", "inspect", "--format={{.State.Pid}}", container))
    finally:
        subprocess.run(["docker", "rm", "--force", "--volumes", container], stdout=subprocess.DEVNULL, check=True)


def output(*command):
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def children(pid):
    """nginx does its work in processes of its own."""
    found = subprocess.run(["pgrep", "--parent", str(pid)], stdout=subprocess.PIPE, text=True)
    if found.returncode > 1:
        raise SystemExit(f"error: pgrep ended with {found.returncode}: what {pid} started is unknown")
    return [int(child) for child in found.stdout.split()]


def free_port():
    """Below the ports that connections of the load come from, and another one each time."""
    while True:
        free_port.next += 1
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", free_port.next))
                return free_port.next
            except OSError:
                continue


free_port.next = 18000


def wait_until_listening(port, process, directory, name):
    def check():
        if process.poll() is not None:
            log = (directory / "log").read_text(errors="replace")
            raise SystemExit(f"error: {name} ended with {process.returncode} before it listened:\n{log[-2000:]}")

    wait_until_open(port, check)


def wait_until_open(port, check):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        check()
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            # What is started behind an open port: workers, subscriptions.
            time.sleep(0.5)
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"error: nothing listens on port {port} after {PATIENCE} s")
