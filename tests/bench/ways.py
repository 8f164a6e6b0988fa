# SPDX-License-Identifier: Apache-2.0
"""The ways past the proxy, and what they cost the kernel: lanes of Bruma with other settings, whether a lane takes
the way that it is there for, and what the hook of connect() and many workloads cost."""

import json
import os
import time

from support.programs import program
from support.system import run
from targets import Bruma

LONG = "bruma-long"

# Settings of the lanes' agents.
LANES = {
    "bruma": {"direct-outside": "true", "direct-inbound": "true", "same-node": "relay"},
    LONG: {"direct-outside": "false", "direct-inbound": "false", "same-node": "hbone"},
    "bruma-kernel": {"direct-outside": "true", "direct-inbound": "true", "same-node": "kernel"},
}

# Which counter of the pods grows when a lane takes a way; by the beginning of a test's name.
COUNTERS = {
    ("outside_", "bruma"): "direct_outside_connections",
    ("inbound_", "bruma"): "direct_inbound_lookups",
    ("same_node_", "bruma-kernel"): "direct_node_connections",
}


class Lane(Bruma):
    """Of this tree's programs, with the settings of LANES, as far as they are known."""

    def __init__(self, name):
        super().__init__(name)
        self.missing = []

    def create(self, bench, number):
        known = run([program("bruma-agent", bench.build), "--help"], check=False).stdout
        for setting, value in LANES[self.name].items():
            if f"--{setting}" in known:
                self.agent_options += (f"--{setting}", value)
            else:
                self.missing.append(f"the agent has no setting {setting}")
        if self.name == LONG:
            self.proxy_env["BRUMA_SAME_NODE"] = "hbone"
        super().create(bench, number)


class Before(Bruma):
    """Programs of another build, as they are."""

    def __init__(self, build):
        super().__init__("before")
        self.build = os.path.abspath(build)
        self.missing = []


def bpftool(*arguments):
    r = run(["bpftool", "-j", *arguments], check=False)
    try:
        return json.loads(r.stdout)
    except ValueError:
        return {}


def pinned(node, name):
    return f"{node.pin_dir}/maps/{name}"


def counted(target, counter):
    """Of all pods of the lane; None: nobody counts it."""
    total, known = 0, False
    for node in target.nodes.values():
        if not os.path.exists(pinned(node, "direct_counters")):
            continue
        for entry in bpftool("map", "dump", "pinned", pinned(node, "direct_counters")) or []:
            value = entry.get("formatted", {}).get("value", {})
            if counter in value:
                known, total = True, total + value[counter]
    return total if known else None


class Witness:
    """Says whether a lane takes the way that a test is about."""

    def __init__(self, test, target):
        self.target, self.counter = target, None
        for (begin, lane), counter in COUNTERS.items():
            if test.name.startswith(begin) and target.name == lane:
                self.counter = counter
        self.before = counted(target, self.counter) if self.counter else None

    def ask(self, result):
        if not self.counter:
            return
        after = counted(self.target, self.counter)
        if after is None or after <= (self.before or 0):
            why = "; ".join(self.target.missing) or f"{self.counter} stands still"
            result["not_taken"] = why


def warm(client, server, port):
    """Of two pods of one node the first connection is the proxy's, which tells the kernel of those that follow. Kept
    connections would all be first ones."""
    code = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 5).close()"
    client.run("/usr/bin/python3", "-c", code, server.ip, port)
    time.sleep(0.1)


# ---- what connect() and many workloads cost ----


def programs(node):
    """(nanoseconds, runs) so far of the node's programs, by name: those that use its map of pods."""
    pods = bpftool("map", "show", "pinned", pinned(node, "pods")).get("id")
    out = {}
    for p in bpftool("prog", "show") or []:
        if pods in p.get("map_ids", []):
            ns, runs = out.get(p.get("name", "?"), (0, 0))
            out[p.get("name", "?")] = ns + p.get("run_time_ns", 0), runs + p.get("run_cnt", 0)
    return out


def kernel_bytes(node):
    """What maps take, by name."""
    directory = f"{node.pin_dir}/maps"
    out = {}
    for name in sorted(os.listdir(directory)):
        shown = bpftool("map", "show", "pinned", f"{directory}/{name}")
        out[name] = int(shown.get("bytes_memlock", 0))
    return out


class Statistics:
    """The kernel measures its programs meanwhile, which costs each run some 20 ns."""

    PATH = "/proc/sys/kernel/bpf_stats_enabled"

    def __enter__(self):
        with open(self.PATH) as f:
            self.before = f.read()
        self._write("1")

    def __exit__(self, *_):
        self._write(self.before)

    def _write(self, text):
        with open(self.PATH, "w") as f:
            f.write(text)


def hook(target, sizes, load):
    """load(): new connections of pod c to outside the mesh; returns the tool's result. One row for each number of
    workloads on other nodes."""
    node, rows = target.nodes[1], []
    for extra in sizes:
        target.stop()
        target.start_with(extra)
        time.sleep(3)  # all is told to the kernel, and the proxy's peak is over
        with Statistics():
            before = programs(node)
            result = load()
            after = programs(node)
        spent = {}
        for name, (ns, runs) in after.items():
            ns, runs = ns - before.get(name, (0, 0))[0], runs - before.get(name, (0, 0))[1]
            if runs:
                spent[name] = {"ns": ns / runs, "runs": runs / max(result["done"], 1)}
        maps = kernel_bytes(node)
        rows.append(
            {
                "workloads": extra,
                "programs": spent,
                "rate": result["rate"],
                "errors": result["errors"],
                "maps": {n: b for n, b in maps.items() if n.startswith(("direct", "mesh", "flow", "node"))},
                "maps_all": sum(maps.values()),
                "agent": node.agent.memory_bytes()[0],
                "proxy": node.proxy.memory_bytes()[0],
            }
        )
    return {"hook": rows}
