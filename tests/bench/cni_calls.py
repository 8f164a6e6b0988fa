#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What calls of the CNI plugin cost: time from the runtime's fork to the answer, CPU of the plugin's process
and of the agent.

    sudo BRUMA_BUILD=build tests/bench/cni_calls.py [--calls 300]

One node with agent and proxy, in network namespaces of its own. STATUS as the kubelet asks it every five
seconds (a gated one, which asks the agent); ADD and DEL of the last plugin of the chain, for a pod of the
mesh and for one outside; the start of the process alone (VERSION)."""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from support import kernel, network
from support.cni import pod_args
from support.nodes.cni_node import CniNode
from support.system import run, wait_for

MESH = """namespaces:
  - name: shop
    labels: {istio.io/dataplane-mode: ambient}
  - name: plain
"""


def cpu_of(pid):
    """CPU milliseconds that a process has used; its threads and nanoseconds."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/schedstat") as f:
            total += int(f.read().split()[0])
    return total / 1e6


class Calls:
    def __init__(self, build, node):
        self.node, self.program = node, f"{build}/cni/bruma-cni"
        self.path = f"{build}/cni:/usr/lib/cni"

    def config(self, previous=None):
        c = {
            "cniVersion": "1.1.0",
            "name": "pods",
            "type": "bruma-cni",
            "run_dir": self.node.run_dir,
            "status_gate": True,
        }
        return json.dumps({**c, "prevResult": previous} if previous else c)

    def call(self, command, config, env):
        """Milliseconds of time and of CPU."""
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        r = subprocess.run(
            [self.program],
            input=config,
            capture_output=True,
            text=True,
            timeout=60,
            env={"CNI_COMMAND": command, "CNI_PATH": self.path, **env},
        )
        ended, after = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        if r.returncode:
            sys.exit(f"{command}: {r.stdout}{r.stderr}")
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return (ended - started) * 1e3, cpu * 1e3


def row(name, samples, agent=None):
    times, cpus = [s[0] for s in samples], [s[1] for s in samples]
    print(
        f"| {name} | {min(times):.1f} | {statistics.median(times):.1f} | {max(times):.1f} | {statistics.mean(cpus):.2f} | "
        f"{'' if agent is None else f'{agent / len(samples):.3f}'} |"
    )


def measure(calls, node, count):
    pid = node.agent.popen.pid
    print(
        f"Linux {os.uname().release}, load {os.getloadavg()[0]:.1f}, plugin of {os.path.getsize(calls.program) / 1e6:.2f} MB\n"
    )
    print(
        "| call | min ms | p50 ms | max ms | CPU ms, mean | agent's CPU ms, mean |\n|---|---|---|---|---|---|"
    )
    row("VERSION: the process alone", [calls.call("VERSION", "{}", {}) for _ in range(count)])
    before = cpu_of(pid)
    status = [calls.call("STATUS", calls.config(), {}) for _ in range(count)]
    row("STATUS", status, cpu_of(pid) - before)
    for namespace, name in (("plain", "ADD, a pod outside the mesh"), ("shop", "ADD, a pod of the mesh")):
        adds, dels, agent, agent_del = [], [], 0, 0
        for i in range(max(count // 6, 5)):
            netns, container = f"{node.prefix}p{i}", f"{node.prefix}c{i}"
            network.create(netns)
            try:
                # An address, as the main plugin has given it.
                ip = f"10.77.1.{i % 200 + 20}/24"
                run(["ip", "-n", netns, "addr", "add", ip, "dev", "lo"])
                env = {
                    "CNI_CONTAINERID": container,
                    "CNI_NETNS": f"/run/netns/{netns}",
                    "CNI_IFNAME": "eth0",
                    "CNI_ARGS": pod_args(namespace, f"p{i}", f"uid-{container}", container),
                }
                config = calls.config({"cniVersion": "1.1.0", "ips": [{"address": ip}]})
                before = cpu_of(pid)
                adds.append(calls.call("ADD", config, env))
                agent, before = agent + cpu_of(pid) - before, cpu_of(pid)
                dels.append(calls.call("DEL", config, env))
                agent_del += cpu_of(pid) - before
            finally:
                network.delete(netns)
        row(name, adds, agent)
        row(name.replace("ADD", "DEL"), dels, agent_del)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=300, help="of STATUS; a sixth of it of ADD")
    options = parser.parse_args()
    build = os.path.abspath(os.environ.get("BRUMA_BUILD", "build"))
    prefix = f"bruma-bench-{os.getpid()}-"
    directory = tempfile.mkdtemp(prefix=prefix)
    undo = [lambda: shutil.rmtree(directory)]
    try:
        bpf, mounted = kernel.bpf_root(f"{directory}/bpf")
        if mounted:
            undo.append(lambda: kernel.unmount(bpf))
        pins = os.path.join(bpf, prefix + "pins")
        undo.append(lambda: kernel.remove_pins(pins))
        os.makedirs(pins)
        group, mounted = kernel.cgroup2_root(f"{directory}/cgroup2")
        if mounted:
            undo.append(lambda: kernel.unmount(group))
        cgroup = os.path.join(group, prefix + "cgroup")
        undo.append(lambda: kernel.cgroup_remove(cgroup))
        with open(f"{directory}/mesh.yaml", "w") as f:
            f.write(MESH)
        node = CniNode(
            "n1",
            1,
            prefix,
            f"{directory}/n1",
            pins,
            cgroup,
            build,
            f"{directory}/mesh.yaml",
            f"{directory}/ca.pem",
        )
        run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", f"{directory}/ca.pem"])
        undo.append(node.destroy)
        node.create()
        node.start_agent()
        node.start_proxy()
        wait_for(node.proxy.alive, "the proxy")
        measure(Calls(build, node), node, options.calls)
    finally:
        for function in reversed(undo):
            function()


if __name__ == "__main__":
    main()
