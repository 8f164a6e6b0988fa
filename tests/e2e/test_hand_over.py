# SPDX-License-Identifier: Apache-2.0
"""Live connections that move to the proxy that takes over (bruma/handover.h): every byte of them is checked, both ways, and none
of them notices. What does not move is named."""

import os
import re
import signal

import pytest

from support.faults import Faults
from support.nodes.direct import LONG
from support.nodes.mesh import Mesh
from support.programs import BUILD
from support.system import Process, wait_for
from support.wire.access_log import AccessLog

# So many connections that each say bytes of a sequence of their own and check what comes back. A third is busy all the time, a
# third says something when it is asked to, and a third says much ahead and may be told not to read. "end" on stdin: all end their
# side. Tells how many bytes came, how many live, and what was wrong with the others.
TALKERS = """
import hashlib, selectors, socket, sys
address, port, count, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
PERIOD = 1 << 16
BUSY, QUIET, GREEDY = range(3)
ending = stalled = False

class Talker:
    def __init__(self, n):
        self.n, self.kind = n, n % 3
        self.sent = self.got = self.asked = 0
        self.error, self.over = None, False
        self.bytes = hashlib.shake_128(str(n).encode()).digest(PERIOD) * 2
        self.socket = socket.create_connection((address, port), timeout=20)
        self.socket.setblocking(False)

    def say(self):
        limit = self.asked if self.kind == QUIET else self.got + (size if self.kind == BUSY else 1 << 23)
        while self.sent < limit:
            at = self.sent % PERIOD
            try:
                self.sent += self.socket.send(self.bytes[at : at + min(PERIOD, limit - self.sent)])
            except BlockingIOError:
                return

    def hear(self):
        try:
            data = self.socket.recv(PERIOD)
        except BlockingIOError:
            return
        at = self.got % PERIOD
        if data != self.bytes[at : at + len(data)]:
            self.error = f"wrong bytes behind {self.got}"
        self.got += len(data)
        if not data:
            self.over = True
            if not ending or self.got != self.sent:
                self.error = f"end after {self.got} of {self.sent}"

    def fail(self, error):
        self.error = self.error or type(error).__name__
        self.over = True

talkers = [Talker(n) for n in range(count)]
selector = selectors.DefaultSelector()
selector.register(0, selectors.EVENT_READ)

def watch(t, on):
    if on != (t.socket in selector.get_map()):
        selector.register(t.socket, selectors.EVENT_READ, t) if on else selector.unregister(t.socket)

def told(word):
    bad = [t.error for t in talkers if t.error]
    print(word, sum(t.got for t in talkers), sum(not t.over for t in talkers), *bad, sep=";", flush=True)

print("READY", flush=True)
while True:
    for t in talkers:
        if not t.over and not ending:
            try:
                t.say()
            except OSError as e:
                t.fail(e)
        watch(t, not t.over and not (stalled and t.kind == GREEDY))
    for key, _ in selector.select(0.02):
        if key.data:
            try:
                key.data.hear()
            except OSError as e:
                key.data.fail(e)
            continue
        word = sys.stdin.readline().strip()
        if word == "ask":
            for t in talkers:
                t.asked += size
        elif word in ("stall", "read"):
            stalled = word == "stall"
        elif word == "end":
            ending = True
            for t in talkers:
                if not t.over:
                    try:
                        t.socket.shutdown(socket.SHUT_WR)
                    except OSError as e:
                        t.fail(e)
        if word != "end":
            told(word)
    if ending and all(t.over for t in talkers):
        told("done")
        break
"""

# Says back what it hears, as slowly as it is read, and ends its side behind the other's.
MIRROR = """
import selectors, socket, sys
s = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True, backlog=4096)
s.setblocking(False)
selector = selectors.DefaultSelector()
selector.register(s, selectors.EVENT_READ)
print("READY", flush=True)
while True:
    for key, events in selector.select():
        if key.fileobj is s:
            c, _ = s.accept()
            c.setblocking(False)
            selector.register(c, selectors.EVENT_READ, [b"", False])
            continue
        c, state = key.fileobj, key.data
        try:
            if events & selectors.EVENT_READ:
                data = c.recv(65536)
                state[0] += data
                state[1] |= not data
            if state[0]:
                state[0] = state[0][c.send(state[0]):]
        except BlockingIOError:
            pass
        except OSError:
            selector.unregister(c)
            c.close()
            continue
        if state[1] and not state[0]:
            selector.unregister(c)
            c.close()
        else:
            reads = not state[1] and len(state[0]) < 1 << 20
            want = (selectors.EVENT_READ if reads else 0) | (selectors.EVENT_WRITE if state[0] else 0)
            selector.modify(c, want or selectors.EVENT_READ, state)
"""

PYTHON = "/usr/bin/python3"
QUIET = dict.fromkeys(("BRUMA_METRICS_PORT", "BRUMA_READY_PORT"), "0")


@pytest.fixture(scope="module")
def mesh():
    env = {"BRUMA_SAME_NODE": "relay"}
    with Mesh(nodes=2, workers=2, proxy_env=env, agent_options=(*LONG, "--hand-over", "true")) as m:
        m.node = m.nodes[0]
        m.web, m.shop, m.cart = m.pod("web"), m.pod("shop"), m.pod("cart", node=1)
        m.outside = m.pod("outside", namespace="outside")
        m.outside.outside = True
        m.start()
        for pod in (m.web, m.shop, m.cart, m.outside):
            pod.server(MIRROR, "8080")
        yield m


class Talkers:
    def __init__(self, client, address, count=18, size=100_000):
        argv = [PYTHON, "-u", "-c", TALKERS, address, "8080", str(count), str(size)]
        self.process = client.pipe(*argv, stdin=-1, stdout=-1, text=True)
        assert self.process.stdout.readline() == "READY\n"

    def say(self, word):
        """Bytes so far, connections that live, and what was wrong with others."""
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        return self.told(word)

    def told(self, word):
        said, got, alive, *wrong = self.process.stdout.readline().strip().split(";")
        assert said == word and not [w for w in wrong if "wrong" in w], wrong
        return int(got), int(alive), wrong

    def goes_on(self):
        before, _, wrong = self.say("ask")
        assert not wrong
        wait_for(lambda: self.say("look")[0] > before + 1_000_000, "more bytes")

    def end(self):
        self.process.stdin.write("end\n")
        self.process.stdin.flush()
        _, alive, wrong = self.told("done")
        assert (alive, wrong) == (0, [])
        assert self.process.wait(20) == 0


RELAYS = {
    "outside": lambda m: (m.web, m.outside),
    "inbound": lambda m: (m.outside, m.shop),
    "one node": lambda m: (m.web, m.shop),
}
TUNNELS = {
    "to another node": lambda m: (m.web, m.cart),
    "from another node": lambda m: (m.cart, m.shop),
}


def serving(node):
    states = {p["pid"]: p["state"] for p in node.status()["proxies"]}
    return states.get(node.proxy.pid) == "serving"


def told(text, what):
    """Numbers of the last such line."""
    (*_, line) = [x for x in text.splitlines() if what in x] or [""]
    return {k: int(v) for k, v in re.findall(r"([a-z-]+)=(\d+)", line)}


def next_proxy(node, wait=True, **env):
    """Another one that takes over. Returns the old one, and what both say from here on."""
    old, at = node.proxy, len(node.proxy.text())
    node.start_proxy(wait=False, CONNECTION_TERMINATION_DEADLINE="600s", BRUMA_ADMIN_PORT="0", **QUIET, **env)
    if wait:
        wait_for(lambda: serving(node), "the next one to serve", log=node.proxy_log)
    return old, lambda: old.text()[at:]


def handed_over(node, text):
    wait_for(lambda: "connections were handed over" in text(), "the hand-over", log=node.proxy_log)
    return told(text(), "connections were handed over")


def upgrade(node, **env):
    old, text = next_proxy(node, **env)
    return handed_over(node, text), old


def talk(mesh, ways=RELAYS, family=0):
    return [Talkers(client, server.ips[family]) for client, server in (way(mesh) for way in ways.values())]


@pytest.mark.parametrize("family", [0, 1])
def test_no_byte_is_lost_in_upgrades_one_after_the_other(mesh, family):
    talkers = talk(mesh, family=family)
    for _ in range(3):
        for t in talkers:
            t.say("stall")
        moved, old = upgrade(mesh.node)
        assert (moved["moved"], moved["left"]) == (54, 0)
        wait_for(lambda old=old: not old.alive(), "the old one to end, which carries nothing any more")
        assert re.search(
            r"handed over +54 connections in \d+ ms, .*; 0 stayed\n", mesh.node.ctl("status").stdout
        )
        for t in talkers:
            t.say("read")
            t.goes_on()
    for t in talkers:
        t.end()


@pytest.mark.parametrize("family", [0, 1])
def test_tunnels_move_with_their_streams(mesh, family):
    talkers = talk(mesh, TUNNELS, family)
    for _ in range(3):
        for t in talkers:
            t.say("stall")
        moved, old = upgrade(mesh.node)
        assert moved["moved"] >= 2 and moved["left"] == 0, (moved, old.text()[-1500:])
        wait_for(lambda old=old: not old.alive(), "the old one to end, which carries nothing any more")
        for t in talkers:
            t.say("read")
            t.goes_on()
    for t in talkers:
        t.end()


def test_half_closed_ones_move_as_well(mesh):
    talkers = talk(mesh)
    for t in talkers:
        t.say("stall")
        t.process.stdin.write("end\n")
        t.process.stdin.flush()
    # Those who say much have sent their end behind what nobody has taken yet.
    ended = lambda: (
        mesh.web.run("ss", "-Htn", "state", "fin-wait-1", "state", "fin-wait-2", "dport", "=", "8080").stdout
    )
    wait_for(lambda: len(ended().splitlines()) >= 6, "ends behind unread bytes")
    moved, _ = upgrade(mesh.node)
    assert moved["left"] == 0 and moved["moved"] > 0
    for t in talkers:
        t.process.stdin.write("read\n")
        t.process.stdin.flush()
        assert t.told("read")[2] == []
        assert t.told("done")[1:] == (0, [])


def test_the_log_has_the_true_start_and_all_bytes_and_metrics_count_it_once(mesh):
    log = AccessLog(mesh.node)
    client = mesh.web.pipe(
        PYTHON, "-u", "-c", TALKERS, mesh.outside.ip, "8080", "3", "1000", stdin=-1, stdout=-1, text=True
    )
    assert client.stdout.readline() == "READY\n"
    sockets = mesh.web.run("ss", "-Htn", "state", "established", "dport", "=", "8080").stdout.splitlines()
    ours = {line.split()[2].rsplit(":", 1)[1] for line in sockets}
    assert len(ours) == 6  # the applications, and the proxy in their place
    upgrade(mesh.node)
    client.stdin.write("end\n")
    client.stdin.flush()
    done, got, *_ = client.stdout.readline().strip().split(";")
    ended = lambda: [x for x in log.lines() if x.get("src.addr", "").rsplit(":", 1)[-1] in ours]
    wait_for(lambda: len(ended()) == 3, "three lines", log=mesh.node.proxy_log)
    lines = ended()
    counts = [int(line[key]) for line in lines for key in ("bytes_sent", "bytes_recv")]
    assert done == "done" and sum(counts) == 2 * int(got)


@pytest.mark.parametrize("steps", [0, 3, 11, 30])
@pytest.mark.parametrize("side", ["old", "new"])
def test_either_side_may_be_killed_at_any_step(mesh, tmp_path, side, steps):
    """Whoever is left has each connection that the other one had not kept, and no byte of them is wrong."""
    faults = Faults(BUILD, str(tmp_path / "faults"))
    upgrade(mesh.node, **faults.env if side == "old" else {})
    talkers = talk(mesh)
    faults.fail("sendmsg of a worker", -signal.SIGKILL, skip=steps)
    old, text = next_proxy(mesh.node, wait=False, **faults.env if side == "new" else {})
    new = mesh.node.proxy
    killed = old if side == "old" else new
    wait_for(lambda: not killed.alive(), "the one that is killed to end")
    if side == "new":
        mesh.node.proxy = old
        stays = handed_over(mesh.node, text)["left"]
    else:
        wait_for(lambda: "connections were taken over" in text(), "the end of it", log=mesh.node.proxy_log)
        stays = told(text(), "connections were taken over")["taken"]
    faults.stop()
    wait_for(
        lambda: sum(t.say("look")[1] for t in talkers) == stays, f"{stays} connections to live, and no others"
    )
    for t in talkers:
        t.process.kill()
    wait_for(lambda: serving(mesh.node), "the one that is left to serve")


def test_a_new_one_that_stands_still_is_not_waited_for(mesh, tmp_path):
    faults = Faults(BUILD, str(tmp_path / "faults"))
    talkers = talk(mesh)
    faults.fail("sendmsg of a worker", -signal.SIGSTOP, times=1)
    _, text = next_proxy(mesh.node, **faults.env)
    moved = handed_over(mesh.node, text)
    assert moved["left"] and "no answer in time" in text()
    for t in talkers:
        t.goes_on()
    os.kill(mesh.node.proxy.pid, signal.SIGCONT)
    for t in talkers:
        t.goes_on()
        t.end()


def test_a_new_one_without_descriptors_refuses_and_nothing_is_lost(mesh):
    talkers = talk(mesh)
    node, old = mesh.node, mesh.node.proxy
    argv = ["prlimit", "--nofile=90:90", node.program("bruma-proxy")]
    env = {**node.proxy_env(), "CONNECTION_TERMINATION_DEADLINE": "600s", "BRUMA_ADMIN_PORT": "0", **QUIET}
    at = len(old.text())
    node.proxy = Process(argv, node.proxy_log, netns=node.netns, env=env, tied=node.tied)
    node.proxies.append(node.proxy)
    wait_for(lambda: serving(node), "the next one to serve", log=node.proxy_log)
    moved = handed_over(node, lambda: old.text()[at:])
    assert moved["left"] and "no descriptors are left" in old.text()[at:]
    for t in talkers:
        t.goes_on()
        t.end()
    upgrade(node)
