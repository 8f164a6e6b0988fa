# SPDX-License-Identifier: Apache-2.0
"""Proxies that take over from one another, and connections whose every byte is checked meanwhile."""

import re

from support.system import wait_for

PYTHON = "/usr/bin/python3"
QUIET = dict.fromkeys(("BRUMA_METRICS_PORT", "BRUMA_READY_PORT"), "0")

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
