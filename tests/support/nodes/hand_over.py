# SPDX-License-Identifier: Apache-2.0
"""Proxies that take over from one another, and connections whose every byte is checked meanwhile."""

import contextlib
import re

from support.nodes.direct import LONG
from support.nodes.mesh import Mesh
from support.system import wait_for

PYTHON = "/usr/bin/python3"
QUIET = dict.fromkeys(("BRUMA_METRICS_PORT", "BRUMA_READY_PORT"), "0")

# So many connections that each say bytes of a sequence of their own and check what comes back. Their kinds are letters, which
# take turns: b is busy all the time, p says something every 50 ms, q (quiet) when it is asked to, c (chatty) one word after the
# other and takes the time of each, g (greedy) says much ahead and may be told not to read, h (half-closed) has ended its side and
# reads slowly what is still to come. "end" on stdin: all end their side. Tells how many bytes came, how many live, what was wrong
# with the others; "times": the longest of each chatty one since the last time, in microseconds.
TALKERS = """
import hashlib, selectors, socket, sys, time
address, port, count, size, kinds, ahead = sys.argv[1], *map(int, sys.argv[2:5]), sys.argv[5], int(sys.argv[6])
pace = int(sys.argv[7])
PERIOD = 1 << 16
HALF = 1 << 20 # more than others on the way hold
ending = stalled = False

class Talker:
    def __init__(self, n):
        self.n, self.kind = n, kinds[n % len(kinds)]
        self.sent = self.got = self.asked = self.due = self.took = 0
        self.error, self.over, self.ended, self.since = None, False, False, None
        self.bytes = hashlib.shake_128(str(n).encode()).digest(PERIOD) * 2
        self.socket = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        self.socket.settimeout(20)
        if self.kind == "h":
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        self.socket.connect((address, port))
        self.socket.setblocking(False)

    def limit(self):
        if self.kind == "q":
            return self.asked
        if self.kind == "h":
            return HALF
        if self.kind == "p" and now >= self.due and self.got == self.sent:
            self.due = now + 0.05
            return self.sent + size
        if self.kind == "c" and self.got == self.sent and (not pace or now >= self.due):
            self.since, self.due = now, now + 0.02
            return self.sent + 64
        limit = self.got + {"b": size, "g": ahead}.get(self.kind, 0)
        return min(limit, int((now - began) * pace)) if pace else limit

    def say(self):
        limit = self.limit()
        while self.sent < limit:
            at = self.sent % PERIOD
            try:
                self.sent += self.socket.send(self.bytes[at : at + min(PERIOD, limit - self.sent)])
            except BlockingIOError:
                return
        if self.kind == "h" and self.sent == HALF:
            self.end()

    def end(self):
        if not self.ended:
            self.ended = True
            self.socket.shutdown(socket.SHUT_WR)

    def hear(self):
        try:
            data = self.socket.recv(PERIOD if self.kind != "h" or ending else 1000)
        except BlockingIOError:
            return
        if self.kind == "h":
            self.due = now + 0.1
        at = self.got % PERIOD
        if data != self.bytes[at : at + len(data)]:
            self.error = f"wrong bytes behind {self.got}"
        self.got += len(data)
        if self.kind == "c" and self.since and self.got == self.sent:
            self.took = max(self.took, time.monotonic() - self.since)
        if not data:
            self.over = True
            if not self.ended or self.got != self.sent:
                self.error = f"end after {self.got} of {self.sent}"

    def fail(self, error):
        self.error = self.error or type(error).__name__
        self.over = True

    def reads(self):
        return not self.over and not (stalled and self.kind == "g") and (self.kind != "h" or ending or now >= self.due)

now = began = time.monotonic()
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
    now = time.monotonic()
    for t in talkers:
        if not t.over and not ending and not t.ended:
            try:
                t.say()
            except OSError as e:
                t.fail(e)
        watch(t, t.reads())
    for key, _ in selector.select(0.02):
        if key.data:
            try:
                key.data.hear()
            except OSError as e:
                key.data.fail(e)
            continue
        word = sys.stdin.readline().strip()
        if word == "times":
            chatty = [t for t in talkers if t.kind == "c"]
            # One that still waits has waited so long already.
            print(*(int(max(t.took, now - t.since if t.got < t.sent else 0) * 1e6) for t in chatty), flush=True)
            for t in chatty:
                t.took = 0
            continue
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
                        t.end()
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
            try:
                while True:
                    c, _ = s.accept()
                    c.setblocking(False)
                    selector.register(c, selectors.EVENT_READ, [b"", False])
            except BlockingIOError:
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


class Talkers:
    def __init__(
        self, client, address, count=18, size=100_000, kinds="bqg", ahead=1 << 23, port=8080, pace=0
    ):
        """size: bytes of a word; ahead: and so many does a greedy one say; pace, if not 0: busy and greedy ones say at most
        so many a second each, and chatty ones a word every 20 ms."""
        argv = [PYTHON, "-u", "-c", TALKERS, *map(str, (address, port, count, size, kinds, ahead, pace))]
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

    def times(self):
        """Of chatty ones: the longest answer of each since this was asked last, in milliseconds."""
        self.process.stdin.write("times\n")
        self.process.stdin.flush()
        return [int(t) / 1000 for t in self.process.stdout.readline().split()]

    def goes_on(self, least=1_000_000):
        before, _, wrong = self.say("ask")
        assert not wrong
        wait_for(lambda: self.say("look")[0] > before + least, f"{least} more bytes")

    def end(self):
        self.process.stdin.write("end\n")
        self.process.stdin.flush()
        _, alive, wrong = self.told("done")
        assert (alive, wrong) == (0, [])
        assert self.process.wait(20) == 0


@contextlib.contextmanager
def hand_over_mesh(*ports, **env):
    """web, shop and outside on one node, cart on another; nothing goes past the proxy. Each pod has a MIRROR at 8080 and at these
    ports. env: of the proxies."""
    options = {"proxy_env": {"BRUMA_SAME_NODE": "relay", **env}, "agent_options": LONG}
    with Mesh(nodes=2, workers=2, **options) as m:
        m.node = m.nodes[0]
        m.web, m.shop, m.cart = m.pod("web"), m.pod("shop"), m.pod("cart", node=1)
        m.outside = m.pod("outside", namespace="outside")
        m.outside.outside = True
        m.start()
        for pod in (m.web, m.shop, m.cart, m.outside):
            for port in ("8080", *ports):
                pod.server(MIRROR, port)
        yield m


def serving(node):
    states = {p["pid"]: p["state"] for p in node.status()["proxies"]}
    return states.get(node.proxy.pid) == "serving"


def told(text, what):
    """Numbers of the last such line."""
    (*_, line) = [x for x in text.splitlines() if what in x] or [""]
    return {k: int(v) for k, v in re.findall(r"([a-z0-9-]+)=(\d+)", line)}


def next_proxy(node, wait=True, **env):
    """Another one that takes over. Returns the old one, and what both say from here on."""
    old, at = node.proxy, len(node.proxy.text())
    usual = {"CONNECTION_TERMINATION_DEADLINE": "600s", "BRUMA_ADMIN_PORT": "0", **QUIET}
    node.start_proxy(wait=False, **{**usual, **env})
    if wait:
        wait_for(lambda: serving(node), "the next one to serve", log=node.proxy_log)
    return old, lambda: old.text()[at:]


def handed_over(node, text):
    wait_for(lambda: "connections were handed over" in text(), "the hand-over", log=node.proxy_log)
    return told(text(), "connections were handed over")


def upgrade(node, **env):
    old, text = next_proxy(node, **env)
    return handed_over(node, text), old
