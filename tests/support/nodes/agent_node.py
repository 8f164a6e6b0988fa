# SPDX-License-Identifier: Apache-2.0
"""A node with an agent alone, for tests. The plugin's and the proxy's side of the local protocol
(include/bruma/protocol.h) are spoken by hand here, so that they can also break it."""

import ctypes
import itertools
import json
import os
import platform
import queue
import socket
import subprocess
import sys
import threading

from support import network
from support.nodes.mesh_file import MeshFile
from support.nodes.node import Node
from support.nodes.pod import Pod
from support.system import placed, run, wait_for

libc = ctypes.CDLL(None, use_errno=True)
SYS_BPF = {"x86_64": 321, "aarch64": 280}[platform.machine()]
BPF_OBJ_PIN, BPF_LINK_CREATE, BPF_SK_LOOKUP = 6, 28, 36


def bpf(command, attr):
    buf = ctypes.create_string_buffer(attr.ljust(128, b"\0"), 128)
    r = libc.syscall(SYS_BPF, command, buf, 128)
    if r < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return r


def attach_and_pin(program, netns, path):
    """What the plugin does with the agent's program."""
    u32 = lambda *values: b"".join(v.to_bytes(4, sys.byteorder) for v in values)
    link = bpf(BPF_LINK_CREATE, u32(program, netns, BPF_SK_LOOKUP, 0))
    text = ctypes.create_string_buffer(path.encode())
    try:
        bpf(BPF_OBJ_PIN, ctypes.addressof(text).to_bytes(8, sys.byteorder) + u32(link, 0))
    finally:
        os.close(link)


class Plugin:
    """One connection of a CNI plugin."""

    def __init__(self, run_dir):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(20)
        self.socket.connect(f"{run_dir}/agent.sock")

    def ask(self, message, fds=()):
        data = message if isinstance(message, bytes) else json.dumps(message).encode()
        socket.send_fds(self.socket, [data], list(fds))
        return self.answer()

    def answer(self):
        data, fds, _, _ = socket.recv_fds(self.socket, 65536, 4)
        answer = json.loads(data) if data else {"op": "closed"}
        answer["fds"] = list(fds)
        return answer

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


BREAKABLE = [
    "link_detached",
    "rule_missing",
    "route_missing",
    "sysctl_changed",
    "listener_closed",
    "map_entry_missing",
]


def breakage(node, pod, what):
    directory = f"{node.pin_dir}/pods/{pod.item()['cookie']}"
    if what == "link_detached":
        run(["bpftool", "link", "detach", "pinned", f"{directory}/link"])
    elif what == "rule_missing":
        run(["ip", "-n", pod.netns, "rule", "del", "pref", "32764"])
    elif what == "route_missing":
        run(["ip", "-n", pod.netns, "-6", "route", "flush", "table", "100"])
    elif what == "sysctl_changed":
        network.sysctl(pod.netns, {"net.ipv4.tcp_fwmark_accept": 0})
    elif what == "listener_closed":
        run(["ss", "-K", "state", "listening", "sport", "=", str(listener_port(pod))], netns=pod.netns)
        # While a proxy serves, that is for it to tell, and the one that is spoken by hand does not: a change of rules makes the
        # agent look at all.
        for change in ("add", "del"):
            run(["ip", "-n", pod.netns, "rule", change, "pref", "40000", "lookup", "main"])
    elif what == "map_entry_missing":
        key = int(pod.item()["cookie"]).to_bytes(8, sys.byteorder)
        run(
            [
                "bpftool",
                "map",
                "delete",
                "pinned",
                f"{node.pin_dir}/maps/pods",
                "key",
                "hex",
                *[f"{b:02x}" for b in key],
            ]
        )


def listener_port(pod):
    """Of the youngest listener in the pod: a proxy that was replaced may still hold those of an enrollment before."""
    lines = run(["ss", "-Hltne"], netns=pod.netns).stdout.splitlines()
    line = max(lines, key=lambda line: int(line.split(" ino:")[1].split()[0]))
    return int(line.split()[3].rsplit(":", 1)[1])


class OddProxy:
    """The program odd_proxy.py, and what it has told."""

    def __init__(self, tag, run_dir, log):
        self.errors = open(log, "ab")
        self.p = subprocess.Popen(
            [
                sys.executable,
                os.path.join(os.path.dirname(__file__), "odd_proxy.py"),
                tag,
                f"{run_dir}/agent.sock",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )
        self.pid, self.events, self.lines = self.p.pid, [], queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in self.p.stdout:
            self.lines.put(json.loads(line))

    def seen(self, **wanted):
        """All events so far that have these values."""
        while not self.lines.empty():
            self.events.append(self.lines.get())
        return [e for e in self.events if all(e.get(k) == v for k, v in wanted.items())]

    def wait(self, timeout=20, **wanted):
        return wait_for(lambda: self.seen(**wanted), f"the proxy to see {wanted}", timeout)[0]

    def do(self, what, **arguments):
        before = len(self.seen(event="did"))
        self.p.stdin.write(json.dumps({"do": what, **arguments}) + "\n")
        self.p.stdin.flush()
        wait_for(lambda: len(self.seen(event="did")) > before, f"the proxy to {what}")

    def forget(self):
        self.seen()
        self.events = []

    def serve(self):
        self.do("connect")
        self.wait(event="message", op="snapshot-end")
        return self

    def kill(self):
        self.p.kill()
        self.p.wait(10)

    def end(self):
        self.kill()
        self.p.stdin.close()
        self.p.stdout.close()
        self.errors.close()


class AgentPod(Pod):
    """CNI is spoken by hand for it."""

    def __init__(self, node, name, namespace, number):
        super().__init__(node, namespace, name)
        self.number, self.netns, self.cgroup = number, node.work.netns(name), node.cgroup
        self.path = f"/run/netns/{self.netns}"
        self.uid, self.container = f"uid-{self.netns}", f"sandbox-{self.netns}"
        self.ip, self.ip6 = f"10.79.0.{number}", f"fd79::{number}"
        self.link = f"v{number}"
        network.veth(node.netns, self.link, self.netns, "eth0")
        run(["ip", "-n", node.netns, "link", "set", self.link, "master", "pods"])
        network.address(self.netns, "eth0", f"{self.ip}/24")
        network.address(self.netns, "eth0", f"{self.ip6}/64")
        network.wait_addresses(self.netns, "eth0", self.ip6)
        # As the plugin before ours gave them.
        self.given = [f"{self.ip}/24", f"{self.ip6}/64"]
        self.rules_before = network.rules_and_routes(self.netns)

    def request(self, **changes):
        return {
            "op": "cni-add",
            "containerId": self.container,
            "netns": self.path,
            "ifname": "eth0",
            "network": "pods",
            "podName": self.name,
            "podNamespace": self.namespace,
            "podUid": self.uid,
            "ips": self.given,
            **changes,
        }

    def begin(self, plugin, **changes):
        fd = os.open(self.path, os.O_RDONLY)
        try:
            return plugin.ask(self.request(**changes), [fd])
        finally:
            os.close(fd)

    def attach(self, decision):
        fd = os.open(self.path, os.O_RDONLY)
        try:
            attach_and_pin(decision["fds"][0], fd, decision["link"])
        finally:
            os.close(fd)
            os.close(decision["fds"][0])

    def add(self):
        """The whole of CNI ADD."""
        with Plugin(self.node.run_dir) as plugin:
            decision = self.begin(plugin)
            assert decision["op"] == "decision", decision
            if decision["decision"] == "enrol":
                self.attach(decision)
                answer = plugin.ask({"op": "cni-attached"})
                assert answer["op"] == "done", answer
            return decision["decision"]

    def ask(self, op, **changes):
        with Plugin(self.node.run_dir) as plugin:
            return plugin.ask(
                {
                    "op": op,
                    "containerId": self.container,
                    "ifname": "eth0",
                    "podName": self.name,
                    "podNamespace": self.namespace,
                    "podUid": self.uid,
                    **changes,
                }
            )

    def pins(self):
        directory = f"{self.node.pin_dir}/pods"
        return sorted(os.listdir(directory)) if os.path.isdir(directory) else []

    def untouched(self):
        """Nothing of ours is in its namespace."""
        return network.rules_and_routes(self.netns) == self.rules_before

    def remove(self):
        """As the runtime does it: its device first, which with the namespace alone would go when the kernel comes to it."""
        self.kill_programs()
        run(["ip", "-n", self.node.netns, "link", "del", self.link])
        network.delete(self.netns)

    def client(self, port=8080, timeout=20):
        """Connects from the node to the pod; a process that prints what it received, or the error."""
        return self.node.python(
            "import socket,sys\n"
            "try:\n"
            f"  s = socket.create_connection(('{self.ip}', {port}), timeout={timeout})\n"
            "  print(s.recv(100).decode().strip())\n"
            "except OSError as e: print(type(e).__name__)"
        )

    def greeting(self, port=8080):
        return self.client(port).communicate(timeout=60)[0].strip()

    def dials_out(self, port=9999, timeout=20):
        """Connects from the pod to the node's bridge address, where nothing listens unless a test says so."""
        p = self.node.python(
            "import socket,sys\n"
            "try:\n"
            f"  s = socket.create_connection(('10.79.0.1', {port}), timeout={timeout})\n"
            "  print(s.recv(100).decode().strip())\n"
            "except OSError as e: print(type(e).__name__)",
            self.netns,
        )
        return p.communicate(timeout=60)[0].strip()


class AgentNode(Node):
    """An agent alone, with a mesh file in which the namespace "shop" is of the mesh and "outside" is not."""

    agent_defaults = ("--verify-interval", "300ms", "--drain-grace", "300ms", "--adopt-wait", "1s")

    def __init__(self, work):
        super().__init__(
            "node-a",
            work.netns("node"),
            work.directory,
            work.path("run"),
            f"{work.bpf_root()}/node",
            work.cgroup(),
            work.build,
            work.path("mesh.yaml"),
        )
        self.work, self.mesh, self._numbers = work, MeshFile(), itertools.count(10)
        # With an address of its own, which does not change as pods come: they would not find their gateway for seconds.
        run(["ip", "-n", self.netns, "link", "add", "pods", "address", "02:00:00:00:00:01", "type", "bridge"])
        run(["ip", "-n", self.netns, "link", "set", "pods", "up"])
        network.address(self.netns, "pods", "10.79.0.1/24")
        self.label(True)

    def label(self, ambient):
        self.mesh.namespace("shop", ambient)
        self.mesh.namespace("outside", False)
        self.mesh.write(self.mesh_file)

    def pod(self, name, namespace="shop", number=None):
        """With the next free number, by which its addresses and its device are called, unless it is to have that of one that is
        gone."""
        if number is None:
            number = next(self._numbers)
        return AgentPod(self, name, namespace, number)

    def agent_answers(self):
        return self.status()["meshReady"]

    def start(self, *options):
        self.start_agent(*options)
        self.work.defer(self.agent.stop)
        return self.agent

    def proxy(self, tag="proxy"):
        p = OddProxy(tag, self.run_dir, self.work.path(f"{tag}.log"))
        self.work.defer(p.end)
        return p

    def python(self, code, netns=None):
        """In the cgroup whose connect() calls are captured."""
        argv = placed([sys.executable, "-c", code], netns or self.netns, self.cgroup)
        return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
