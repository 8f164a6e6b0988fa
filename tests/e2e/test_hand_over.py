# SPDX-License-Identifier: Apache-2.0
"""Live connections that move to the proxy that takes over (bruma/handover.h): every byte of them is checked, both ways, and none
of them notices. What does not move is named."""

import re

import pytest

from support.nodes.mesh import Mesh
from support.system import wait_for

# So many connections that each say bytes of a sequence of their own and check what comes back: busy ones all the time, quiet ones
# when they are asked to. "end" on stdin: all say the last, and half of them end their side first. Then what was wrong.
TALKERS = """
import hashlib, select, selectors, socket, sys, time
address, port, count, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
PERIOD = 1 << 16

class Talker:
    def __init__(self, n):
        self.n, self.quiet, self.sent, self.got, self.asked, self.error, self.over = n, n % 2, 0, 0, 0, None, False
        seed = hashlib.shake_128(str(n).encode()).digest(PERIOD)
        self.bytes = seed + seed
        self.socket = socket.create_connection((address, port), timeout=20)
        self.socket.setblocking(False)

    def say(self):
        limit = self.asked if self.quiet else self.got + size
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

ending = False
talkers = [Talker(n) for n in range(count)]
selector = selectors.DefaultSelector()
selector.register(0, selectors.EVENT_READ)
for t in talkers:
    selector.register(t.socket, selectors.EVENT_READ, t)
print("READY", flush=True)
while True:
    for key, _ in selector.select(0.05):
        if key.data:
            try:
                key.data.hear()
            except OSError as e:
                key.data.error = type(e).__name__
            if key.data.error or key.data.over:
                selector.unregister(key.data.socket)
                key.data.over = True
            continue
        word = sys.stdin.readline().strip()
        if word == "ask":
            for t in talkers:
                t.asked += size
        elif word == "end":
            ending = True
            for t in talkers:
                if not t.over:
                    t.asked = t.sent
                    t.socket.shutdown(socket.SHUT_WR)
        if word == "look" or not word:
            bad = [f"{t.n}: {t.error}" for t in talkers if t.error]
            print(sum(t.got for t in talkers), len(bad), *bad[:5], sep=";", flush=True)
        if word == "ask":
            print("asked", flush=True)
    if ending and all(t.over for t in talkers):
        bad = [f"{t.n}: {t.error}" for t in talkers if t.error]
        print("done", sum(t.got for t in talkers), len(bad), *bad[:5], sep=";", flush=True)
        break
    for t in talkers:
        if not t.over and not ending:
            try:
                t.say()
            except OSError as e:
                t.error, t.over = type(e).__name__, True
                selector.unregister(t.socket)
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
            want = (0 if state[1] or len(state[0]) > 1 << 20 else selectors.EVENT_READ) | (selectors.EVENT_WRITE if state[0] else 0)
            selector.modify(c, want or selectors.EVENT_READ, state)
"""

PYTHON = "/usr/bin/python3"
QUIET = dict.fromkeys(("BRUMA_METRICS_PORT", "BRUMA_READY_PORT"), "0")


@pytest.fixture(scope="module")
def mesh():
    env = {"BRUMA_SAME_NODE": "relay"}
    with Mesh(nodes=1, workers=2, proxy_env=env, agent_options=("--hand-over", "true")) as m:
        m.node = m.nodes[0]
        m.web, m.shop = m.pod("web"), m.pod("shop")
        m.outside = m.pod("outside", namespace="outside")
        m.outside.outside = True
        m.start()
        for pod in (m.web, m.shop, m.outside):
            pod.server(MIRROR, "8080")
        yield m


class Talkers:
    def __init__(self, client, address, count=20, size=100_000):
        self.process = client.pipe(
            PYTHON, "-u", "-c", TALKERS, address, "8080", str(count), str(size), stdin=-1, stdout=-1, text=True
        )
        assert self.process.stdout.readline() == "READY\n"

    def say(self, word):
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def look(self):
        """Bytes so far; none was wrong."""
        self.say("look")
        got, bad, *what = self.process.stdout.readline().strip().split(";")
        assert bad == "0", what
        return int(got)

    def ask(self):
        self.say("ask")
        assert self.process.stdout.readline() == "asked\n"

    def goes_on(self):
        before = self.look()
        wait_for(lambda: self.look() > before + 1000, "more bytes")

    def end(self):
        self.say("end")
        done, _, bad, *what = self.process.stdout.readline().strip().split(";")
        assert (done, bad) == ("done", "0"), what
        assert self.process.wait(20) == 0


WAYS = {
    "outside": lambda m: (m.web, m.outside),
    "inbound": lambda m: (m.outside, m.shop),
    "one node": lambda m: (m.web, m.shop),
}


def serving(node):
    states = {p["pid"]: p["state"] for p in node.status()["proxies"]}
    return states.get(node.proxy.pid) == "serving"



def upgrade(node):
    """Another proxy takes over. Returns what has moved, as the new one says it, and the old one, which has ended."""
    old = node.proxy
    old_log = len(old.text())
    node.start_proxy(wait=False, CONNECTION_TERMINATION_DEADLINE="600s", BRUMA_ADMIN_PORT="0", **QUIET)
    wait_for(lambda: serving(node), "the next one to serve", log=node.proxy_log)
    wait_for(lambda: "connections were handed over" in old.text()[old_log:], "the hand-over", log=node.proxy_log)
    line = [x for x in old.text()[old_log:].splitlines() if "connections were handed over" in x][-1]
    return {k: int(v) for k, v in re.findall(r"([a-z-]+)=(\d+)", line)}, old


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_no_byte_is_lost_in_upgrades_one_after_the_other(mesh, family):
    talkers = []
    for client, server in (way(mesh) for way in WAYS.values()):
        talkers.append(Talkers(client, server.ips[family == "v6"]))
    for _ in range(3):
        moved, old = upgrade(mesh.node)
        assert (moved["moved"], moved["left"]) == (60, 0)
        wait_for(lambda old=old: not old.alive(), "the old one to end, which carries nothing any more")
        for t in talkers:
            t.ask()
            t.goes_on()
    for t in talkers:
        t.end()
