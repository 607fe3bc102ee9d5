"""Measures echocast and its peers side by side: `tests/bench/compare` prepares the machine and calls this. What is run
and in which order is decided here; `servers.py` starts servers, `table.py` prints. Exit code 1 if any of echocast's
clients did not hear every message once and in order; what happened to a peer's is a number in the table."""

import argparse
import json
import os
import resource
import signal
import subprocess
import sys

import servers
import table

LONGEST = 120  # seconds of one load, on top of what it measures


def main():
    # So that what was started is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    settings = arguments()
    # Servers inherit it; those that need more than the usual 1,024 files do not all ask for it themselves.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    table.print_machine(settings)
    broken = False
    for nodes in servers.NAMES:
        names = settings.names(nodes)
        for load in settings.loads:
            results = {name: [] for name in names}
            # Taken in turn, so that what disturbs the machine for a while disturbs everybody.
            for turn in range(settings.runs):
                for name in names:
                    tell(f"{name}, {table.how_many(nodes)}, {load}, run {turn + 1} of {settings.runs}")
                    results[name].append(measure(name, nodes, load.options(), settings))
            table.print_load(load, nodes, results)
            broken |= not all(result["ok"] for result in results.get("echocast", ()))
    if settings.idle:
        results = {}
        for name in settings.names(1):
            tell(f"{name}, {settings.idle} idle connections")
            options = ["--subscribers", settings.idle, "--publishers", 0, "--duration", "1s", "--warmup", "0s"]
            results[name] = [measure(name, 1, options, settings)]
        table.print_idle(settings.idle, results)
        broken |= not all(result["ok"] for result in results.get("echocast", ()))
    table.print_notes()
    if broken:
        print("error: clients of echocast did not hear every message once and in order", file=sys.stderr)
    return int(broken)


def measure(name, nodes, options, settings):
    """One load on a fresh server: what `echocast bench --json` says."""
    with servers.serve(name, nodes, settings) as running:
        pids = [text for pid in running.pids for text in ("--pid", str(pid))]
        if "--duration" not in options:
            options = [*options, "--duration", f"{settings.seconds}s"]
        command = [settings.echocast, "bench", "--json", *map(str, options), *running.options, *pids, *running.urls]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("ECHOCAST_")}
        try:
            bench = subprocess.run(
                ["taskset", "-c", str(settings.load_cpu), *command],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                timeout=settings.seconds + LONGEST, env=environment,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise SystemExit(f"error: bench did not end on {name}") from error
    # 1 is a result, too: somebody did not hear everything.
    if bench.returncode not in (0, 1) or not bench.stdout:
        raise SystemExit(f"error: bench ended with {bench.returncode} on {name}: {bench.stderr.strip()}")
    return json.loads(bench.stdout)


def tell(text):
    print(f"== {text}", file=sys.stderr)


class Load:
    """SUBSCRIBERS:PUBLISHERS:WINDOW:BYTES, or a rate such as 100/s as WINDOW"""

    def __init__(self, text):
        self.open = "/s:" in text
        self.subscribers, self.publishers, self.pace, self.size = map(int, text.replace("/s:", ":").split(":"))

    def options(self):
        names = ("--subscribers", "--publishers", "--rate" if self.open else "--window", "--size")
        values = (self.subscribers, self.publishers, self.pace, self.size)
        return [word for pair in zip(names, values) for word in pair]

    def __str__(self):
        pace = f"a steady {self.pace} messages/s" if self.open else f"{self.publishers} × {self.pace} in flight"
        return f"{self.subscribers:,} subscribers, {pace}, {self.size:,} B"


def arguments():
    parser = argparse.ArgumentParser(prog="tests/bench/compare", description="Measures echocast and its peers side by side.")
    # Binaries, given by the script.
    parser.add_argument("echocast", help=argparse.SUPPRESS)
    parser.add_argument("axum", help=argparse.SUPPRESS)
    parser.add_argument("--loads", nargs="+", type=Load, metavar="LOAD", help=Load.__doc__,
                        default=[Load("500:4:16:64"), Load("1000:4:1:200"), Load("1000:4:100/s:200")])  # fmt: skip
    parser.add_argument("--idle", type=int, default=5000, metavar="N", help="idle connections; 0 leaves it out (%(default)s)")
    parser.add_argument("--seconds", type=int, default=5, metavar="N", help="of each load (%(default)s)")
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="of which the median is taken (%(default)s)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="servers, of: " + ", ".join(servers.STARTED))
    parser.add_argument("--server-cpu", type=int, default=0, metavar="N", help="servers and Redis (%(default)s)")
    parser.add_argument("--load-cpu", type=int, default=1, metavar="N", help="the load (%(default)s)")
    settings = parser.parse_args()
    settings.said = sys.argv[3:]
    settings.names = lambda nodes: [name for name in servers.NAMES[nodes] if not settings.only or name in settings.only]
    if unknown := set(settings.only or ()) - set(servers.STARTED):
        parser.error(f"no server is named {', '.join(unknown)}")
    if not 0 <= settings.idle <= 19_000:
        parser.error("--idle: from 0 to 19000")
    if 0 < settings.idle < 1000:
        parser.error("--idle: what fewer than 1000 connections take is not to be seen")
    settings.most_connections = max([settings.idle, *(load.subscribers + load.publishers for load in settings.loads)])
    return settings


if __name__ == "__main__":
    sys.exit(main())
