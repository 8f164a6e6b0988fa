#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What an upgrade of the proxies of two nodes costs those who use them, by hand-over and by draining. By itself, as root, once
tests/bench/bench.sh has installed and built what it needs:

    tests/bench/upgrades.py --build build
    tests/bench/upgrades.py --build build --connections 200 --rounds 1      # a minute

Each lane has a client, and three servers: on the other node (a tunnel), on the same one, and outside the mesh (relays); nothing
goes past the proxy. Half of the connections are idle, the others ask for 1 KiB at a given rate all together, eight through the
tunnel are in bulk at a given rate; new ones come meanwhile. A round is a time without an upgrade and a time in which the proxies
of both nodes are replaced, on each lane in turn. What is cut and what is late is counted by the clients; CPU is that of all
proxies.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time

sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from bench import Bench, say
from meters import calibration
from plan import BULK, ECHO, HTTP
from support.nodes.direct import LONG
from support.nodes.hand_over import QUIET, serving, told
from support.system import Failed, wait_for
from targets import Bruma

STREAMS, SECONDS, SETTLE = 8, 12, 2
SERVERS = "slx"  # pods of targets.py
LANES = {"hand-over": "true", "draining": "false"}


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--build", required=True, help="meson build directory")
    parser.add_argument("--connections", type=int, default=1000, help="that live (default 1000)")
    parser.add_argument("--requests", type=int, default=2000, help="a second, of all (default 2000)")
    parser.add_argument("--rate", type=int, default=200, help="new connections a second (default 200)")
    parser.add_argument("--megabits", type=int, default=400, help="a second, of all in bulk (default 400)")
    parser.add_argument("--drain", type=int, default=5, help="seconds a replaced proxy has (default 5)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", metavar="DIRECTORY", help="logs, results.json (default: a new one in /tmp)")
    return parser.parse_args()


class Lane(Bruma):
    def __init__(self, name, drain):
        super().__init__(name)
        self.agent_options = (*LONG, "--hand-over", LANES[name], "--proxy-drain", f"{drain}s")

    def start(self):
        """Pages of later proxies would have the ports of the first one."""
        if not self.client:
            self.proxy_env.update(BRUMA_ADMIN_PORT="0", **QUIET)
            for node, side in ((self.nodes[1], self.client), (self.nodes[2], self.server)):
                side.append(self.next(node))

    def next(self, node):
        process = node.start_proxy(wait=False, **self.proxy_env)
        wait_for(lambda: serving(node), f"a proxy of {node.name} to serve", log=node.proxy_log)
        return process

    def upgrade(self, drain):
        """Of both nodes at once. Returns for each what the new one says of the hand-over, or nothing."""
        olds = [(node, node.proxy, len(node.proxy.text())) for node in self.nodes.values()]
        for node, *_ in olds:
            node.start_proxy(wait=False, **self.proxy_env)
        for node, old, at in olds:
            wait_for(lambda n=node: serving(n), f"the next proxy of {node.name} to serve", log=node.proxy_log)
            wait_for(lambda p=old: not p.alive(), "the one before to end", drain + 30, log=node.proxy_log)
            word = told(node.proxy.text()[at:], "connections were taken over")
            if word:
                yield word
        self.client, self.server = [self.nodes[1].proxy], [self.nodes[2].proxy]


class Processor:
    """CPU seconds of all proxies of a lane, of those that end meanwhile up to 20 ms before they do."""

    def __init__(self, lane):
        self.lane, self.first, self.last, self.over = lane, {}, {}, threading.Event()
        for p in self._live():
            self.first[p.pid] = p.cpu_seconds()
        self.thread = threading.Thread(target=self._look, daemon=True)
        self.thread.start()

    def _live(self):
        return [p for node in self.lane.nodes.values() for p in node.proxies[-3:] if p.alive()]

    def _look(self):
        while not self.over.wait(0.02):
            for p in self._live():
                with contextlib.suppress(OSError, IndexError, ValueError):  # it has just ended
                    self.last[p.pid] = p.cpu_seconds()

    def seconds(self):
        self.over.set()
        self.thread.join()
        return sum(s - self.first.get(pid, 0) for pid, s in self.last.items())


def total(results, key):
    return sum(r[key] for r in results)


class Clients:
    """All kinds at once, for so many seconds."""

    def __init__(self, bench, lane, arguments):
        self.bench, self.lane = bench, lane
        idle = arguments.connections // 2
        busy = arguments.connections - idle - STREAMS
        self.idle = self._load("hold", ECHO, idle)
        self.busy = self._load("http", HTTP, busy, arguments.requests)
        self.new = self._load("conn", ECHO, 64 * len(SERVERS), arguments.rate)
        for p in (*self.idle, *self.busy, *self.new):
            if p.stdout.readline().strip() != "START":
                raise Failed("the load did not start", f"{lane.directory}/tools.log")
        each = f"{arguments.megabits * 1000 // STREAMS}K"
        argv = ["iperf3", "-J", "-c", lane.pods["s"].ip, "-p", BULK, "-P", STREAMS, "-b", each, "-t", SECONDS]
        self.bulk = lane.pods["c"].pipe(*map(str, argv), stdout=subprocess.PIPE, text=True)

    def _load(self, mode, port, count, rate=0):
        """One to each server, which share count and rate."""
        n, loads = len(SERVERS), []
        for i, server in enumerate(SERVERS):
            argv = [f"{self.bench.build}/tests/bench/bench-load", "-m", mode, "-p", port, "-d", SECONDS]
            argv += ["-a", self.lane.pods[server].ip, "-c", (count + i) // n, "-r", rate / n]
            with open(f"{self.lane.directory}/tools.log", "ab") as log:
                loads.append(
                    self.lane.pods["c"].pipe(*map(str, argv), stdout=subprocess.PIPE, stderr=log, text=True)
                )
        return loads

    def end(self):
        idle, busy, new = (
            [json.loads(p.communicate(timeout=SECONDS + 60)[0]) for p in loads]
            for loads in (self.idle, self.busy, self.new)
        )
        bulk = json.loads(self.bulk.communicate(timeout=SECONDS + 60)[0])
        cut = STREAMS if "error" in bulk else 0
        return {
            "cut": total(idle, "lost") + total(busy, "errors") + cut,
            "requests": total(busy, "done"),
            "new": total(new, "done"),
            "new_failed": total(new, "errors") + total(new, "unanswered"),
            **{key: max(b[key] for b in busy) for key in ("p50_us", "p99_us", "max_us")},
            "megabits": 0 if cut else bulk["end"]["sum_received"]["bits_per_second"] / 1e6,
        }


def measure(bench, lane, arguments, upgrade):
    speed = calibration()
    clients, processor = Clients(bench, lane, arguments), Processor(lane)
    time.sleep(SETTLE)
    words = list(lane.upgrade(arguments.drain)) if upgrade else []
    result = clients.end()
    result.update(cpu=processor.seconds(), words=words, calibration_ms=speed)
    return result


# ---- figures ----


def median(values):
    values = sorted(values)
    return values[len(values) // 2] if values else None


def row(what, cells):
    print(f"| {what} | {' | '.join(cells)} |")


def table(results, live):
    """results: {lane: [(without, with)]}"""
    print(f"| | {' | '.join(results)} |\n|---|{'---|' * len(results)}")
    rounds = results.values()

    def both(key, unit, scale=1):
        """Median without and with an upgrade."""
        return [
            " → ".join(f"{median([pair[i][key] for pair in r]) / scale:.1f}" for i in (0, 1)) + unit
            for r in rounds
        ]

    def counts(key):
        return [f"{median([w[key] for _, w in r])} (at most {max(w[key] for _, w in r)})" for r in rounds]

    row(f"of {live} live connections are cut", counts("cut"))
    row("new connections that fail", counts("new_failed"))
    row("new connections in that time", [str(median([w["new"] for _, w in r])) for r in rounds])
    # Of the slowest of the three ways.
    row("an answer, half of them within", both("p50_us", " ms", 1000))
    row("99 %", both("p99_us", " ms", 1000))
    row("the latest", both("max_us", " ms", 1000))
    row(f"CPU of the proxies in {SECONDS} s", both("cpu", " s"))
    words = {name: [w for _, after in r for w in after["words"]] for name, r in results.items()}

    def of_words(key):
        return [
            f"{median([w[key] for w in ws]) / 1000:.1f} (at most {max(w[key] for w in ws) / 1000:.1f}) ms"
            if ws
            else "-"
            for ws in words.values()
        ]

    for w in (w for ws in words.values() for w in ws):
        w["whole"] = w["milliseconds"] * 1000
    row("the whole hand-over of a node", of_words("whole"))
    row("a pause, 99 % of those of a hand-over within", of_words("pause-p99-microseconds"))
    row("the longest of a hand-over", of_words("pause-max-microseconds"))


def main():
    arguments = parse()
    if os.geteuid() != 0:
        sys.exit("this needs root: it makes network namespaces and loads BPF programs")
    directory = (
        os.path.abspath(arguments.out) if arguments.out else tempfile.mkdtemp(prefix="bruma-upgrades-")
    )
    results, failed = {name: [] for name in LANES}, False
    for name in LANES:
        shutil.rmtree(f"{directory}/{name}", ignore_errors=True)
    with Bench(os.path.abspath(arguments.build), directory) as bench:
        lanes = [Lane(name, arguments.drain) for name in LANES]
        for lane in lanes:
            bench.add(lane)
        for _ in range(arguments.rounds):
            for lane in lanes:
                try:
                    pair = [measure(bench, lane, arguments, upgrade) for upgrade in (False, True)]
                except (Failed, ValueError, KeyError, subprocess.SubprocessError) as e:
                    say(f"FAILED: {lane.name}: {e}")
                    failed = True
                    continue
                results[lane.name].append(pair)
                say(f"{lane.name}: {pair[1]}")
    with open(f"{directory}/results.json", "w") as f:
        json.dump(results, f, indent=1)
    if all(results.values()):
        table(results, arguments.connections)
    print(f"results and logs: {directory}")
    return 1 if failed or not all(results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
