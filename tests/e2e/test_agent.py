# SPDX-License-Identifier: Apache-2.0
"""bruma-agent alone: what the plugin, proxies, labels and accidents make it do. The plugin's and the proxy's side of the
local protocol (include/bruma/protocol.h) are spoken by hand here, so that they can also break it."""
import ctypes
import json
import os
import platform
import queue
import socket
import subprocess
import sys
import threading
import time

import pytest
from support import agent as agent_client
from support import network
from support.mesh import Mesh
from support.system import run, wait_for

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
    u32 = lambda *values: b"".join(v.to_bytes(4, sys.byteorder) for v in values)  # noqa: E731
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


class OddProxy:
    """The program agent_proxy.py, and what it has told."""

    def __init__(self, tag, run_dir, log):
        self.errors = open(log, "ab")
        self.p = subprocess.Popen([sys.executable, os.path.join(os.path.dirname(__file__), "agent_proxy.py"), tag,
                                   f"{run_dir}/agent.sock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                  stderr=self.errors, text=True)
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


class Pod:
    def __init__(self, node, name, namespace="shop", number=10):
        self.node, self.name, self.namespace = node, name, namespace
        self.netns = node.work.netns(name)
        self.path = f"/run/netns/{self.netns}"
        self.uid, self.container = f"uid-{self.netns}", f"sandbox-{self.netns}"
        self.ip4, self.ip6 = f"10.79.0.{number}", f"fd79::{number}"
        network.veth(node.netns, f"v{number}", self.netns, "eth0")
        run(["ip", "-n", node.netns, "link", "set", f"v{number}", "master", "pods"])
        network.address(self.netns, "eth0", f"{self.ip4}/24")
        network.address(self.netns, "eth0", f"{self.ip6}/64")
        self.ips = [f"{self.ip4}/24", f"{self.ip6}/64"]
        self.rules_before = network.rules_and_routes(self.netns)

    def request(self, **changes):
        return {"op": "cni-add", "containerId": self.container, "netns": self.path, "ifname": "eth0",
                "network": "pods", "podName": self.name, "podNamespace": self.namespace, "podUid": self.uid,
                "ips": self.ips, **changes}

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
            return plugin.ask({"op": op, "containerId": self.container, "ifname": "eth0", "podName": self.name,
                               "podNamespace": self.namespace, "podUid": self.uid, **changes})

    def item(self):
        return agent_client.pods(self.node.run_dir).get(f"{self.namespace}/{self.name}")

    def wait_state(self, state, timeout=20):
        return wait_for(lambda: (self.item() or {"state": "unknown"})["state"] == state and (self.item() or True),
                        f"{self.name} to be {state}", timeout)

    def pins(self):
        directory = f"{self.node.pin_dir}/pods"
        return sorted(os.listdir(directory)) if os.path.isdir(directory) else []

    def untouched(self):
        """Nothing of ours is in its namespace."""
        return network.rules_and_routes(self.netns) == self.rules_before

    def client(self, port=8080, timeout=20):
        """Connects from the node to the pod; a process that prints what it received, or the error."""
        return self.node.python(
            "import socket,sys\n"
            "try:\n"
            f"  s = socket.create_connection(('{self.ip4}', {port}), timeout={timeout})\n"
            "  print(s.recv(100).decode().strip())\n"
            "except OSError as e: print(type(e).__name__)")

    def greeting(self, port=8080):
        return self.client(port).communicate(timeout=60)[0].strip()

    def dials_out(self, port=9999, timeout=20):
        """Connects from the pod to the node's bridge address, where nothing listens unless a test says so."""
        p = self.node.python(
            "import socket,sys\n"
            "try:\n"
            f"  s = socket.create_connection(('10.79.0.1', {port}), timeout={timeout})\n"
            "  print(s.recv(100).decode().strip())\n"
            "except OSError as e: print(type(e).__name__)", self.netns)
        return p.communicate(timeout=60)[0].strip()


class Node:
    def __init__(self, work):
        self.work = work
        self.netns = work.netns("node")
        self.run_dir, self.mesh_file = work.path("run"), work.path("mesh.yaml")
        self.pin_dir = f"{work.bpf_root()}/node"
        self.cgroup = work.cgroup()
        self.mesh, self.agent, self.proxies = Mesh(), None, 0
        # With an address of its own, which does not change as pods come: they would not find their gateway for seconds.
        run(["ip", "-n", self.netns, "link", "add", "pods", "address", "02:00:00:00:00:01", "type", "bridge"])
        run(["ip", "-n", self.netns, "link", "set", "pods", "up"])
        network.address(self.netns, "pods", "10.79.0.1/24")
        self.label(True)

    def label(self, ambient):
        self.mesh.namespace("shop", ambient)
        self.mesh.namespace("outside", False)
        self.mesh.write(self.mesh_file)

    def argv(self, *options):
        return [f"{self.work.build}/agent/bruma-agent", "--run-dir", self.run_dir, "--pin-dir", self.pin_dir,
                "--cgroup", self.cgroup, "--mesh-file", self.mesh_file, "--node-name", "node-a",
                "--verify-interval", "300ms", "--drain-grace", "300ms", "--adopt-wait", "1s", *options]

    def start(self, *options):
        self.agent = self.work.process(self.argv(*options), self.work.path("agent.log"), netns=self.netns)
        wait_for(lambda: agent_client.status(self.run_dir)["meshReady"], "the agent to answer", log=self.agent.log)
        return self.agent

    def proxy(self, tag="proxy"):
        p = OddProxy(tag, self.run_dir, self.work.path(f"{tag}.log"))
        self.work.defer(p.end)
        return p

    def python(self, code, netns=None):
        """In the cgroup whose connect() calls are captured."""
        return subprocess.Popen(["sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"', self.cgroup, "nsenter",
                                 f"--net=/run/netns/{netns or self.netns}", sys.executable, "-c", code],
                                stdout=subprocess.PIPE, text=True)

    def status(self):
        return agent_client.status(self.run_dir)


@pytest.fixture
def node(work):
    n = Node(work)
    n.start()
    return n


# ---- CNI ----

def test_add_enrols_and_del_leaves_nothing(node):
    pod, proxy = Pod(node, "web"), node.proxy().serve()
    assert pod.add() == "enrol"
    item = pod.item()
    assert item["state"] == "enrolled" and item["proxy"] == "serving" and item["capturedSinceStart"]
    assert item["ips"] == [pod.ip4, pod.ip6]
    assert item["identity"] == "spiffe://cluster.local/ns/shop/sa/default"
    assert not pod.untouched()
    assert pod.greeting() == "proxy inbound"
    assert pod.greeting(15008) == "proxy hbone"
    assert pod.dials_out() == "proxy outbound"
    assert pod.ask("cni-check")["op"] == "done"
    assert pod.ask("cni-del")["op"] == "done"
    assert proxy.wait(event="message", op="pod-del")["uid"] == pod.uid
    assert pod.item() is None
    assert pod.pins() == []
    assert pod.untouched()
    assert os.listdir(f"{node.run_dir}/pods") == []
    assert pod.greeting() == "ConnectionRefusedError"  # nobody listens there, and nobody steers
    assert pod.ask("cni-del")["op"] == "done", "DEL twice"


def test_a_pod_outside_the_mesh_is_let_pass_and_remembered(node):
    pod = Pod(node, "other", "outside")
    assert pod.add() == "pass"
    assert pod.item()["state"] == "outside"
    assert pod.untouched() and pod.pins() == []
    assert pod.ask("cni-check")["op"] == "done"


def test_add_works_without_a_proxy_and_connections_wait_for_one(node):
    pod = Pod(node, "web")
    assert pod.add() == "enrol"
    assert pod.item()["proxy"] == "not_connected"
    assert "proxy_not_connected" in [p["reason"] for p in node.status()["problems"]]
    client = pod.client()
    time.sleep(0.3)
    node.proxy().serve()
    assert client.communicate(timeout=60)[0].strip() == "proxy inbound"


@pytest.mark.parametrize("how", ["end of connection", "cni-failed", "a lie"])
def test_an_add_that_fails_leaves_nothing(node, how):
    pod, proxy = Pod(node, "web"), node.proxy().serve()
    plugin = Plugin(node.run_dir)
    decision = pod.begin(plugin)
    assert decision["decision"] == "enrol"
    assert pod.pins() == [decision["cookie"]]
    for fd in decision["fds"]:
        os.close(fd)
    if how == "cni-failed":
        assert plugin.ask({"op": "cni-failed", "reason": "attach_failed", "error": "no"})["op"] == "done"
    elif how == "a lie":
        assert plugin.ask({"op": "cni-attached"})["reason"] == "attach_failed"
    plugin.close()
    wait_for(lambda: pod.item() is None, "the pod to be forgotten")
    wait_for(lambda: pod.pins() == [], "the pins to go")
    assert pod.untouched()
    assert os.listdir(f"{node.run_dir}/pods") == []
    assert proxy.wait(event="message", op="pod-del")["uid"] == pod.uid
    assert pod.add() == "enrol", "the runtime's next try works"


def test_a_plugin_that_dies_after_attaching_leaves_nothing(node):
    pod = Pod(node, "web")
    plugin = Plugin(node.run_dir)
    pod.attach(pod.begin(plugin))
    plugin.close()
    wait_for(lambda: pod.item() is None and pod.pins() == [] and pod.untouched(), "the roll-back")


def test_a_proxy_that_refuses_fails_the_add(node):
    pod, proxy = Pod(node, "web"), node.proxy().serve()
    proxy.do("set", refuse="listener_open_failed")
    with Plugin(node.run_dir) as plugin:
        decision = pod.begin(plugin)
        if decision["op"] == "decision":
            try:
                pod.attach(decision)
            except OSError:
                pass  # rolled back in the meantime
            decision = plugin.ask({"op": "cni-attached"})
        assert decision["op"] == "error" and decision["reason"] == "listener_open_failed"
    assert pod.item() is None and pod.pins() == [] and pod.untouched()


def test_a_second_run_of_the_chain_adds_its_addresses(node):
    pod = Pod(node, "web")
    pod.add()
    with Plugin(node.run_dir) as plugin:
        answer = pod.begin(plugin, ifname="net1", network="other", ips=["10.80.0.9/24"])
    assert answer["decision"] == "pass" and answer["enrolled"]
    item = pod.item()
    assert item["ips"] == [pod.ip4, pod.ip6, "10.80.0.9"] and item["state"] == "enrolled" and item["generation"] == 1
    with Plugin(node.run_dir) as plugin:
        answer = pod.begin(plugin, ifname="net2", ips=["10.80.0.10", "10.80.0.11"])
    assert answer["reason"] == "message_invalid", "more addresses than a pod can have"
    assert pod.ask("cni-del", ifname="net1")["op"] == "done"
    assert pod.item()["state"] == "enrolled", "one attachment is left"
    pod.ask("cni-del", ifname="net2")
    pod.ask("cni-del", ifname="eth0")
    assert pod.item() is None


def test_a_recreated_sandbox_replaces_the_old_one(node):
    proxy = node.proxy().serve()
    old = Pod(node, "web", number=10)
    old.add()
    new = Pod(node, "web-2", number=11)
    new.name, new.uid = old.name, old.uid
    assert new.add() == "enrol"
    assert new.item()["containerId"] == new.container
    assert old.untouched()
    assert len(new.pins()) == 1
    assert old.ask("cni-del")["op"] == "done"
    assert new.item()["state"] == "enrolled", "the late DEL of the old sandbox is not about the new one"
    assert len(proxy.seen(event="message", op="pod-add")) == 2
    assert new.greeting() == "proxy inbound"


def test_gc_drops_what_is_not_listed(node):
    a, b, c = Pod(node, "a", number=10), Pod(node, "b", number=11), Pod(node, "c", "outside", number=12)
    for pod in (a, b, c):
        pod.add()
    with Plugin(node.run_dir) as plugin:
        assert plugin.ask({"op": "cni-gc", "network": "unrelated", "attachments": []})["op"] == "done"
        assert len(agent_client.pods(node.run_dir)) == 3
        listed = [{"containerID": b.container, "ifname": "eth0"}]
        assert plugin.ask({"op": "cni-gc", "network": "pods", "attachments": listed})["op"] == "done"
        assert list(agent_client.pods(node.run_dir)) == ["shop/b"]
        assert a.untouched()
        assert plugin.ask({"op": "cni-gc", "network": "pods", "attachments": []})["op"] == "done"
    assert agent_client.pods(node.run_dir) == {}
    assert b.untouched() and b.pins() == []


def test_check_fails_once_capture_is_broken(node):
    node.agent.stop()
    node.start("--verify-interval", "10m")
    pod = Pod(node, "web")
    pod.add()
    run(["bpftool", "link", "detach", "pinned", f"{node.pin_dir}/pods/{pod.item()['cookie']}/link"])
    answer = pod.ask("cni-check")
    assert answer["op"] == "error" and answer["reason"] == "link_detached"
    assert pod.ask("cni-check")["op"] == "done", "the failed CHECK has it mended"
    pod.ask("cni-del")
    assert pod.ask("cni-check")["op"] == "error"


def test_nothing_is_decided_before_a_mesh_file_was_read(work):
    node = Node(work)
    os.unlink(node.mesh_file)
    node.agent = work.process(node.argv(), work.path("agent.log"), netns=node.netns)
    wait_for(lambda: agent_client.status(node.run_dir)["pid"], "the agent to answer", log=node.agent.log)
    pod = Pod(node, "web")
    with Plugin(node.run_dir) as plugin:
        assert plugin.ask({"op": "cni-status"})["reason"] == "agent_not_ready"
        assert pod.begin(plugin)["reason"] == "agent_not_ready"
    node.label(True)
    wait_for(lambda: node.status()["meshReady"], "the mesh file to be read")
    assert pod.add() == "enrol"


# ---- bad input ----

@pytest.mark.parametrize("text", [b"{", b"[]", b"{}", b"\xff\xfe\x00", b'{"op":7}', b'{"op":"no-such-op"}', b"[" * 60000,
                                  b'{"op":"cni-add"}', b'{"op":"cni-del","containerId":"../x"}', b'{"op":"cni-attached"}',
                                  b'{"op":"cni-gc","network":"x"}', b'{"op":"explain","pod":"no-slash"}',
                                  b'{"op":"cni-add","containerId":"a","netns":"/x","podName":"a/b","podNamespace":"c"}'])
def test_bad_messages_are_answered_and_harm_nobody(node, text):
    with Plugin(node.run_dir) as plugin:
        answer = plugin.ask(text)
        assert answer["op"] == "error" and answer["reason"] == "message_invalid", answer
    assert node.status()["version"]


def test_a_message_that_is_too_large_is_refused(node):
    with Plugin(node.run_dir) as plugin:
        plugin.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        assert plugin.ask(b'{"op":"status","pad":"' + b"x" * 70000 + b'"}')["reason"] == "message_invalid"
    assert node.status()["version"]


def test_descriptors_that_are_no_namespaces_are_refused(node):
    pod = Pod(node, "web")
    with Plugin(node.run_dir) as plugin, open("/dev/null") as null:
        assert plugin.ask(pod.request(), [null.fileno()])["reason"] == "netns_unusable"
        assert plugin.ask(pod.request())["reason"] == "message_invalid"
        assert plugin.ask(pod.request(), [null.fileno()] * 3)["reason"] == "message_invalid"
    fd = os.open(f"/run/netns/{node.netns}", os.O_RDONLY)
    with Plugin(node.run_dir) as plugin:
        assert plugin.ask(pod.request(), [fd])["reason"] == "netns_is_host"
    os.close(fd)
    assert pod.item() is None


def test_descriptors_do_not_leak(node):
    def descriptors():
        return len(os.listdir(f"/proc/{node.agent.pid}/fd"))

    pod = Pod(node, "web")
    pod.add()
    pod.ask("cni-del")
    wait_for(lambda: descriptors() > 0, "the agent to settle")
    time.sleep(0.3)
    before = descriptors()
    for _ in range(5):
        pod.add()
        pod.ask("cni-del")
        with Plugin(node.run_dir) as plugin, open("/dev/null") as null:
            plugin.ask(b'{"op":"cni-status"}', [null.fileno()] * 8)
    wait_for(lambda: descriptors() <= before, "all descriptors to be closed")


def test_only_root_is_answered(node):
    code = ("import os,socket\nos.setgid(65534); os.setuid(65534)\ns=socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
            f"try:\n  s.connect('{node.run_dir}/agent.sock'); s.send(b'{{\"op\":\"status\"}}'); print(len(s.recv(100)))\n"
            "except OSError as e: print('refused')")
    os.chmod(node.work.directory, 0o755)
    os.chmod(f"{node.run_dir}/agent.sock", 0o666)
    assert run([sys.executable, "-c", code]).stdout.strip() in ("0", "refused")


# ---- labels ----

def test_a_namespaces_label_moves_its_running_pods(work):
    node = Node(work)
    node.label(False)
    node.start()
    pod, proxy = Pod(node, "web"), node.proxy().serve()
    assert pod.add() == "pass"
    node.label(True)
    item = pod.wait_state("enrolled")
    assert not item["capturedSinceStart"]
    assert pod.greeting() == "proxy inbound"
    node.label(False)
    pod.wait_state("outside")
    assert proxy.wait(event="message", op="pod-drain")["uid"] == pod.uid
    assert pod.untouched() and pod.pins() == []
    node.label(True)
    assert pod.wait_state("enrolled")["generation"] == 2
    assert pod.greeting() == "proxy inbound"


def test_a_pod_leaves_only_when_its_connections_have_ended(node):
    pod, proxy = Pod(node, "web"), node.proxy().serve()
    proxy.do("set", keep=True, report_drained=False)
    pod.add()
    client = node.python(
        "import socket,time\n"
        f"s = socket.create_connection(('{pod.ip4}', 8080), timeout=60)\n"
        "print(s.recv(100).decode().strip(), flush=True)\n"
        "print(len(s.recv(100)), flush=True)")
    assert client.stdout.readline().strip() == "proxy inbound"
    node.label(False)
    pod.wait_state("draining")
    proxy.wait(event="message", op="pod-drain")
    assert not pod.untouched(), "the live connection needs the route"
    assert client.poll() is None
    assert pod.greeting() == "ConnectionRefusedError", "new connections go to the application"
    node.label(True)
    pod.wait_state("enrolled")
    assert client.poll() is None, "the live connection must survive leaving and coming back"
    node.label(False)
    pod.wait_state("draining")
    wait_for(lambda: len(proxy.seen(event="message", op="pod-drain")) == 2, "the second drain")
    proxy.do("drained", uid=pod.uid)
    pod.wait_state("outside")
    assert pod.untouched()
    client.kill()
    client.wait()


def test_a_mesh_file_that_breaks_changes_nothing(node):
    pod = Pod(node, "web")
    pod.add()
    with open(node.mesh_file, "w") as f:
        f.write("namespaces: [{name: shop, lables: {}}]\n")
    wait_for(lambda: node.status()["meshError"], "the error to be reported")
    assert pod.item()["state"] == "enrolled"
    assert node.status()["meshReady"]


# ---- deaths ----

def test_connections_wait_while_there_is_no_proxy(node):
    pod, proxy = Pod(node, "web"), node.proxy("first").serve()
    pod.add()
    assert pod.greeting() == "first inbound"
    proxy.kill()
    clients = [pod.client() for _ in range(5)]
    time.sleep(0.5)
    node.proxy("second").serve()
    assert [c.communicate(timeout=60)[0].strip() for c in clients] == ["second inbound"] * 5


def test_the_agent_killed_and_started_again_adopts(node):
    pod, proxy = Pod(node, "web"), node.proxy().serve()
    pod.add()
    node.agent.kill()
    assert pod.greeting() == "proxy inbound", "traffic does not need the agent"
    proxy.wait(event="disconnected")
    node.start()
    proxy.do("set", accepting=False)
    proxy.forget()
    proxy.do("connect")
    proxy.wait(event="message", op="snapshot-end")
    item = pod.wait_state("enrolled")
    assert item["generation"] == 1 and item["capturedSinceStart"], "adopted, not enrolled again"
    assert "listener_closed" not in item["mends"], "the listeners that the proxy gave back are used"
    assert proxy.seen(event="message", op="pod-add")[0]["uid"] == pod.uid
    proxy.do("set", accepting=True)
    node.label(False)
    pod.wait_state("outside")
    assert pod.untouched()


def test_connections_that_wait_survive_a_restart_of_the_agent(node):
    pod, proxy = Pod(node, "web"), node.proxy("holder")
    proxy.do("set", accepting=False)
    proxy.serve()
    pod.add()
    client = pod.client()
    time.sleep(0.3)
    node.agent.kill()
    proxy.wait(event="disconnected")
    node.start()
    time.sleep(2)  # longer than adopt-wait: the slots are occupied, so the agent goes on waiting
    assert pod.item()["mends"] == {}
    proxy.do("set", accepting=True)
    proxy.do("connect")
    assert client.communicate(timeout=60)[0].strip() == "holder inbound"
    assert "listener_closed" not in pod.item()["mends"]


def test_both_killed_fails_closed_and_works_again_after_a_start(node):
    pod, proxy = Pod(node, "web"), node.proxy("first").serve()
    pod.add()
    server = node.python("import socket\ns = socket.create_server(('10.79.0.1', 9999))\nprint('up', flush=True)\n"
                         "while True: s.accept()[0].sendall(b'outside the mesh')")
    assert server.stdout.readline() == "up\n"
    node.agent.kill()
    proxy.kill()
    assert pod.greeting() == "ConnectionRefusedError"
    assert pod.dials_out(timeout=3) in ("ConnectionRefusedError", "TimeoutError")
    node.start()
    node.proxy("second").serve()
    wait_for(lambda: pod.greeting() == "second inbound", "connections to work again")
    assert pod.dials_out() == "second outbound"
    assert pod.item()["mends"]["listener_closed"] == 1
    server.kill()
    server.wait()


def test_an_agent_killed_during_an_add_rolls_it_back(node):
    pod = Pod(node, "web")
    plugin = Plugin(node.run_dir)
    pod.attach(pod.begin(plugin))
    node.agent.kill()
    plugin.close()
    node.start()
    assert pod.item() is None
    assert pod.pins() == [] and pod.untouched()


def test_sigterm_leaves_everything_in_place(node):
    pod = Pod(node, "web")
    pod.add()
    rules = network.rules_and_routes(pod.netns)
    assert node.agent.stop() == 0
    assert len(pod.pins()) == 1 and network.rules_and_routes(pod.netns) == rules


def test_a_pod_that_vanished_is_reaped(node):
    pod, proxy = Pod(node, "web"), node.proxy().serve()
    other = Pod(node, "other", "outside", number=11)
    pod.add()
    other.add()
    network.delete(pod.netns)
    network.delete(other.netns)
    assert proxy.wait(event="message", op="pod-del")["uid"] == pod.uid
    wait_for(lambda: agent_client.pods(node.run_dir) == {}, "the pods to be forgotten")
    assert pod.pins() == [] and os.listdir(f"{node.run_dir}/pods") == []


def test_a_namespace_without_a_name_stays_captured_while_a_process_lives_in_it(node):
    pod, _ = Pod(node, "web"), node.proxy().serve()
    pod.add()
    process = subprocess.Popen(["nsenter", f"--net={pod.path}", "sleep", "60"])
    wait_for(lambda: os.stat(f"/proc/{process.pid}/ns/net").st_ino == os.stat(pod.path).st_ino, "the process to be inside")
    network.delete(pod.netns)
    time.sleep(2)
    assert pod.item()["state"] == "enrolled"
    process.kill()
    process.wait()
    wait_for(lambda: pod.item() is None, "the pod to be reaped")


def test_a_pod_that_vanished_while_the_agent_was_away_is_reaped(node):
    pod = Pod(node, "web")
    pod.add()
    node.agent.kill()
    network.delete(pod.netns)
    node.start()
    assert agent_client.pods(node.run_dir) == {}
    assert pod.pins() == []


def test_a_lost_record_is_recovered_from_what_is_pinned(node):
    pod, proxy = Pod(node, "web"), node.proxy().serve()
    pod.add()
    node.agent.kill()
    proxy.wait(event="disconnected")
    for name in os.listdir(f"{node.run_dir}/pods"):
        os.unlink(f"{node.run_dir}/pods/{name}")
    node.start()
    assert pod.item()["state"] == "enrolled"
    proxy.forget()
    proxy.do("connect")
    assert proxy.wait(event="message", op="pod-add")["uid"] == pod.uid
    assert pod.item()["uid"] == pod.uid, "the proxy remembers the uid"
    assert pod.item()["ips"] == [pod.ip4, pod.ip6]


# ---- proxies ----

def test_the_younger_proxy_takes_over_and_the_older_drains(node):
    pod, first = Pod(node, "web"), node.proxy("first").serve()
    pod.add()
    second = node.proxy("second").serve()
    assert first.wait(event="message", op="drain")["deadlineMilliseconds"] == 30000
    states = {p["pid"]: p["state"] for p in node.status()["proxies"]}
    assert states == {first.pid: "replaced", second.pid: "serving"}
    first.kill()
    wait_for(lambda: len(node.status()["proxies"]) == 1, "the first to be gone")
    assert pod.greeting() == "second inbound"


def test_a_replaced_proxy_that_connects_again_does_not_take_over(node):
    pod, first = Pod(node, "web"), node.proxy("first").serve()
    pod.add()
    second = node.proxy("second").serve()
    first.wait(event="message", op="drain")
    node.agent.kill()
    second.wait(event="disconnected")
    first.wait(event="disconnected")
    node.start()
    second.forget()
    first.forget()
    second.do("connect")
    second.wait(event="message", op="snapshot-end")
    first.do("connect")
    first.wait(event="message", op="snapshot-end")
    assert first.seen(event="message", op="pod-keep") and not first.seen(event="message", op="pod-add")
    assert {p["pid"]: p["state"] for p in node.status()["proxies"]} == {first.pid: "replaced", second.pid: "serving"}
    assert not second.seen(event="message", op="drain")


def test_listeners_of_another_namespace_are_not_adopted(node):
    pod, proxy = Pod(node, "web"), node.proxy().serve()
    pod.add()
    node.agent.kill()
    proxy.wait(event="disconnected")
    node.start()
    proxy.do("connect", lie="listener")
    wait_for(lambda: "not the pod's" in node.agent.text(), "the lie to be reported")
    wait_for(lambda: pod.item()["mends"].get("listener_closed") or pod.item()["proxy"] == "serving",
             "the pod to be served with listeners of its own")
    assert wait_for(pod.greeting, "an answer") == "proxy inbound"


@pytest.mark.parametrize("text", ["{", '{"op":"ack"}', '{"op":"ack","seq":99999}', '{"op":"ack","seq":"x"}',
                                  '{"op":"proxy-hello"}', '{"op":"held-end"}', '{"op":"pod-held","uid":"x"}',
                                  '{"op":"pod-drained"}', '{"op":"listener-closed"}',
                                  '{"op":"nonsense"}'])
def test_a_proxy_that_breaks_the_protocol_is_disconnected(node, text):
    pod, proxy = Pod(node, "web"), node.proxy().serve()
    pod.add()
    proxy.do("raw", text=text)
    assert proxy.wait(event="message", op="error")["reason"] == "message_invalid"
    proxy.wait(event="disconnected")
    assert pod.item()["state"] == "enrolled"
    proxy.do("connect")
    wait_for(lambda: pod.item()["proxy"] == "serving", "the proxy to be taken back")
    assert pod.greeting() == "proxy inbound"


def test_a_silent_proxy_does_not_keep_pods_from_starting(node):
    proxy = node.proxy().serve()
    wait_for(lambda: node.status()["proxyConnected"], "the proxy to serve")
    proxy.do("set", mute=True)
    pod = Pod(node, "web")
    assert pod.add() == "enrol"
    proxy.wait(event="disconnected", timeout=40)


# ---- what is broken by hand ----

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
    elif what == "map_entry_missing":
        key = int(pod.item()["cookie"]).to_bytes(8, sys.byteorder)
        run(["bpftool", "map", "delete", "pinned", f"{node.pin_dir}/maps/pods", "key", "hex", *[f"{b:02x}" for b in key]])


def listener_port(pod):
    """Of one of the listeners in the pod."""
    line = run(["ss", "-Hltn"], netns=pod.netns).stdout.splitlines()[0]
    return int(line.split()[3].rsplit(":", 1)[1])


@pytest.mark.parametrize("what", ["link_detached", "rule_missing", "route_missing", "sysctl_changed", "listener_closed",
                                  "map_entry_missing"])
def test_what_is_broken_by_hand_is_mended_counted_and_reported(node, what):
    pod, _ = Pod(node, "web"), node.proxy().serve()
    pod.add()
    breakage(node, pod, what)
    wait_for(lambda: pod.item()["mends"].get(what), f"{what} to be found")
    assert node.status()["mends"][what] >= 1
    assert f"reason={what}" in node.agent.text()
    assert pod.greeting() == "proxy inbound" and pod.dials_out() == "proxy outbound"
    assert pod.ask("cni-check")["op"] == "done"
    found = agent_client.ask(node.run_dir, "explain", pod=f"{pod.namespace}/{pod.name}")
    assert what in [f.get("reason") for f in found if f["check"] == "mended"]


def test_a_listener_that_a_proxy_finds_closed_is_replaced_at_once(work):
    node = Node(work)
    node.start("--verify-interval", "1h")
    pod, proxy = Pod(node, "web"), node.proxy().serve()
    pod.add()
    breakage(node, pod, "listener_closed")
    proxy.do("raw", text='{"op":"listener-closed","uid":"somebody-else"}')
    proxy.do("raw", text=json.dumps({"op": "listener-closed", "uid": pod.uid}))
    wait_for(lambda: pod.item()["mends"].get("listener_closed"), "the listener to be replaced")
    assert pod.greeting() == "proxy inbound" and pod.greeting(15008) == "proxy hbone" and pod.dials_out() == "proxy outbound"


# ---- questions, uninstall ----

def test_doctor_and_explain_answer(node):
    pod, _ = Pod(node, "web"), node.proxy().serve()
    pod.add()
    wait_for(lambda: pod.item()["proxy"] == "serving", "the proxy to serve")
    checks = agent_client.ask(node.run_dir, "doctor")
    assert not [c for c in checks if not c["ok"]], checks
    assert {"kernel", "cgroup", "pins", "connect hooks", "mesh file", "proxy", "clock"} <= {c["check"] for c in checks}
    findings = agent_client.ask(node.run_dir, "explain", pod="shop/web")
    assert not [f for f in findings if not f["ok"]], findings
    assert not agent_client.ask(node.run_dir, "explain", pod="shop/nobody")[0]["ok"]


def test_uninstall_leaves_nothing(node):
    pods = [Pod(node, "web", number=10), Pod(node, "other", "outside", number=11)]
    for pod in pods:
        pod.add()
    r = run(node.argv("--uninstall"), netns=node.netns, check=False)
    assert r.returncode != 0 and "running" in r.stderr, "it must not be done behind a running agent's back"
    assert pods[0].item()["state"] == "enrolled"
    node.agent.stop()
    run(node.argv("--uninstall"), netns=node.netns)
    assert all(p.untouched() for p in pods)
    assert not os.path.exists(node.pin_dir) or os.listdir(node.pin_dir) == []
    assert not os.path.exists(node.run_dir)
    assert pods[0].greeting() == "ConnectionRefusedError"
    run(node.argv("--uninstall"), netns=node.netns)  # a second time finds nothing to do


def test_settings_and_bad_options(build):
    agent = f"{build}/agent/bruma-agent"
    assert "--verify-interval" in run([agent, "--help"]).stdout
    assert "verify-interval" in run([agent, "--settings-markdown"]).stdout
    for bad in (["--no-such"], ["--verify-interval", "soon"], ["word"], ["--log-level", "loud"]):
        r = run([agent, *bad], check=False)
        assert r.returncode == 2 and r.stderr.startswith("bruma-agent: "), (bad, r.stderr)


def test_the_service_manager_is_told(work):
    node = Node(work)
    s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    s.bind(work.path("notify"))
    s.settimeout(30)
    node.agent = work.process(node.argv(), work.path("agent.log"), netns=node.netns,
                              env={"NOTIFY_SOCKET": work.path("notify")})
    assert s.recv(100) == b"READY=1"
    node.agent.stop()
    assert s.recv(100) == b"STOPPING=1"
