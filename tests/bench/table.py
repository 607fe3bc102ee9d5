"""What was measured, as Markdown for a README: machine, versions and command first, then a table with one block for each
load, then idle memory. Numbers are medians; ratios are to echocast in the same block, and what was heard wrong is summed
over the runs."""

import json
import os
import pathlib
import platform
import shlex
import statistics
import subprocess
import tomllib

import servers

HERE = pathlib.Path(__file__).resolve().parent
BUSY = 0.9  # of a core: above it the load was what was slow, as for `echocast bench` itself


def how_many(nodes):
    return "one node" if nodes == 1 else "two nodes over Redis"


def print_machine(settings):
    print(f"- machine: {cpu()}, {os.cpu_count()} cores, {memory()}; {system()}, Linux {platform.release()}")
    print(f"- versions: {', '.join(versions(settings))}")
    print(f"- command: `{shlex.join(['tests/bench/compare', *settings.said])}`", end="")
    print(f" (servers on CPU {settings.server_cpu}, load on CPU {settings.load_cpu},", end="")
    print(f" {settings.seconds} s each, medians of {settings.runs})\n", flush=True)


def print_load(load, nodes, results):
    # The head once, so that all blocks are one table.
    if not print_load.headed:
        print("| server | CPU/delivery | deliveries/s | p50 | p99 | lost or wrong |")
        print("|---|---|---|---|---|---|")
        print_load.headed = True
    print(f"| **{how_many(nodes)}: {load}** | | | | | |")
    ours = results.get("echocast")
    for name, runs in results.items():
        print(f"| {name} | {' | '.join(cells(runs, ours))} |", flush=True)


print_load.headed = False


def cells(runs, ours):
    cpu = against(runs, ours, lambda run: run["server"]["cpu_us_per_delivery"], microseconds)
    rate = against(runs, ours, lambda run: run["deliveries_per_second"], thousands)
    p50 = against(runs, ours, lambda run: run["latency_us"] and run["latency_us"]["p50"], milliseconds)
    p99 = against(runs, ours, lambda run: run["latency_us"] and run["latency_us"]["p99"], milliseconds)
    if statistics.median(run["own_cores"] or 0 for run in runs) > BUSY:
        rate += " ¹"
        cells.busy = True
    return cpu, rate, p50, p99, wrong(runs)


cells.busy = False


def print_idle(connections, results):
    print(f"\n| server | process memory per idle connection, of {connections:,} |\n|---|---|")
    ours = results.get("echocast")
    for name, runs in results.items():
        memory = against(runs, ours, lambda run: run["server"]["memory_bytes_per_connection"], kibibytes)
        ended = "" if all(run["ok"] for run in runs) else ", " + wrong(runs)
        print(f"| {name} | {memory}{ended} |")


def print_notes():
    if cells.busy:
        print("\n¹ The load was busy all the time: the server may do more.")
    print("""
CPU of two nodes is that of both and of Redis. Everybody hears every message, senders included. Peers are as their own
documentation has them: NODE_ENV=production, automatic pipelining (ioredis), one worker (nginx), TCP_NODELAY (axum; the
others but nchan set it themselves). socket.io speaks its own protocol over WebSocket, without polling first, and has its
Redis adapter for two nodes. nchan and axum's channel hold 1,000 messages, as echocast does, not fewer. echocast and nchan
keep them in Redis, ws + ioredis and socket.io keep none.""")


def against(runs, ours, value, told):
    """The median, and how many times echocast's it is."""
    known = [value(run) for run in runs if value(run) is not None]
    if not known:
        return "–"
    median = statistics.median(known)
    reference = [value(run) for run in ours or () if value(run) is not None]
    if not reference or ours is runs or not statistics.median(reference):
        return told(median)
    return f"{told(median)} ({digits(median / statistics.median(reference))}×)"


def wrong(runs):
    """Everything a listener could complain of."""
    total = {key: sum(run[key] for run in runs) for key in ("lost", "delivered", "duplicated", "out_of_order", "damaged")}
    ended = sum(sum(run["ended"].values()) for run in runs)
    expected = total["lost"] + total["delivered"]
    found = []
    if total["lost"]:
        found.append(f"{total['lost']:,} lost ({digits(100 * total['lost'] / expected)} %)")
    found += [f"{total[key]:,} {key.replace('_', ' ')}" for key in ("duplicated", "out_of_order", "damaged") if total[key]]
    if most := max((run["orders"] for run in runs if not run["lost"] and run["orders"] > 1), default=0):
        found.append(f"{most} different orders")
    if ended:
        found.append(f"{ended:,} connections ended")
    return ", ".join(found) or ("none" if all(run["ok"] for run in runs) else "nothing was said")


def microseconds(value):
    return f"{digits(value)} µs"


def milliseconds(value):
    return f"{digits(value / 1000)} ms"


def thousands(value):
    return f"{digits(value / 1e6)} M" if value >= 1e6 else f"{digits(value / 1e3)} k"


def kibibytes(value):
    return f"{digits(value / 1024)} KiB"


def digits(value):
    """Two of them count, where there are no more before the point."""
    return f"{value:#.2g}" if value < 9.95 else f"{value:,.0f}"


def cpu():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def memory():
    return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB"


def system():
    return platform.freedesktop_os_release()["PRETTY_NAME"]


def commit():
    """Nothing, where this is not a clone."""
    git = ["git", "-C", HERE, "describe", "--always", "--dirty", "--exclude=*"]
    told = subprocess.run(git, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return f" ({told.stdout.strip()})" if told.returncode == 0 else ""


def versions(settings):
    """Of what is installed, not of what was asked for."""
    yield " ".join(servers.output(settings.echocast, "--version").split()[:2]) + commit()
    for package in ("ws", "ioredis", "socket.io", "@socket.io/redis-adapter"):
        yield f"{package} {json.loads((HERE / 'node/node_modules' / package / 'package.json').read_text())['version']}"
    yield f"Node.js {servers.output('node', '--version').removeprefix('v')}"
    for package in ("nginx", "libnginx-mod-nchan"):
        yield f"{package} {servers.output('dpkg-query', '--show', '--showformat=${Version}', package)}"
    locked = tomllib.loads((HERE / "axum-broadcast/Cargo.lock").read_text())["package"]
    yield from (f"{crate['name']} {crate['version']}" for crate in locked if crate["name"] in ("axum", "tokio"))
    redis = servers.output("docker", "run", "--rm", servers.REDIS_IMAGE, "redis-server", "--version")
    yield f"Redis {redis.split('v=', 1)[1].split()[0]} ({servers.REDIS_IMAGE})"
