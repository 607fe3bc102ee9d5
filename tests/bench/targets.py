"""The attacked side: a node and its Redis, and how much memory and CPU they take. Both run on this
machine and end with the block that started them."""

import argparse
import contextlib
import http.client
import os
import pathlib
import re
import socket

import servers

MIB = 1 << 20
FILES = 4096  # that a node may open, as in many containers
LIVEZ_PATIENCE = 1.0  # seconds
REDIS_PATIENCE = 20  # seconds, of a Redis that is busy


class Node:
    """A node: its ports, its process, and the resources that the process has taken."""

    def __init__(self, port, ops, process):
        self.port, self.ops, self.process = port, ops, process
        self.start = self.memory("VmRSS")
        self.last_cpu = self.last_peak = 0.0

    @classmethod
    @contextlib.contextmanager
    def started(cls, binary, flags, redis, work):
        port, ops = servers.free_port(), servers.free_port()
        directory = pathlib.Path(work, f"node-{port}")
        directory.mkdir()
        limited = ["sh", "-c", f'ulimit -n {FILES}; exec "$@"', "sh"]
        addresses = ["--listen", f"127.0.0.1:{port}", "--ops-listen", f"127.0.0.1:{ops}"]
        quick = ["--drain-period", "0s", "--shutdown-grace", "1s"]
        url = ["--redis-url", redis.url] if redis else []
        command = [*limited, binary, "serve", *addresses, *quick, *url, *flags]
        with servers.started(command, directory, every_cpu()) as process:
            servers.wait_until_listening(port, process, directory, binary.name)
            yield cls(port, ops, process)

    def has_ended(self):
        return self.process.poll() is not None

    def memory(self, field):
        """MiB of the process: VmRSS is now, VmHWM the peak. The last one if it has ended."""
        with contextlib.suppress(OSError, TypeError):
            status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
            self.last_peak = int(re.search(rf"^{field}:\s+(\d+)", status, re.M)[1]) / 1024
        return self.last_peak

    def grown(self):
        return self.memory("VmHWM") - self.start

    def cpu(self):
        """Seconds of all its threads."""
        with contextlib.suppress(OSError):
            text = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text()
            fields = text.rsplit(")", 1)[1].split()
            self.last_cpu = sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")
        return self.last_cpu

    def is_alive(self):
        """Whether its probe is answered."""
        connection = http.client.HTTPConnection("127.0.0.1", self.ops, timeout=LIVEZ_PATIENCE)
        try:
            connection.request("GET", "/livez")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


class Redis:
    """A Redis that keeps nothing on disk."""

    def __init__(self, port):
        self.port, self.url = port, f"redis://127.0.0.1:{port}"
        self.start = self.info("used_memory")

    @classmethod
    @contextlib.contextmanager
    def started(cls, work):
        port = servers.free_port()
        directory = pathlib.Path(work, "redis")
        directory.mkdir()
        options = ["--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        with servers.started(["redis-server", *options], directory, every_cpu()) as process:
            servers.wait_until_listening(port, process, directory, "redis-server")
            yield cls(port)

    def info(self, name):
        return int(re.search(rf"^{name}:(\d+)", self.command("INFO"), re.M)[1])

    def memory(self):
        """MiB now."""
        return self.info("used_memory") / MIB

    def grown(self):
        """MiB, at the peak."""
        return (self.info("used_memory_peak") - self.start) / MIB

    def channels(self):
        """Channels of which it has a history."""
        return int(self.command("EVAL \"return #redis.call('keys', '*:history')\" 0")[1:])

    def command(self, line):
        """The answer, which is one line or one string."""
        sock = socket.create_connection(("127.0.0.1", self.port), REDIS_PATIENCE)
        with sock, sock.makefile("rb") as answer:
            sock.sendall(line.encode() + b"\r\n")
            first = answer.readline().decode().strip()
            if first.startswith("-"):
                raise SystemExit(f"error: Redis answers {line!r} with {first!r}")
            return answer.read(int(first[1:])).decode() if first.startswith("$") else first


def tcp_memory():
    """MiB that the kernel holds for TCP, of all programs on this machine."""
    text = pathlib.Path("/proc/net/sockstat").read_text()
    return int(re.search(r"^TCP:.* mem (\d+)", text, re.M)[1]) * os.sysconf("SC_PAGE_SIZE") / MIB


def every_cpu():
    """For `servers.started`: node, attacker and honest client share all CPUs."""
    return argparse.Namespace(server_cpu=",".join(map(str, sorted(os.sched_getaffinity(0)))))
