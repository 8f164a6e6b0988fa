# SPDX-License-Identifier: Apache-2.0
"""A pod whose root can send any frame, and to which others send what is for somebody else (ARP), against connections of two pods
that stay in the kernel: half-open ones whose source is gone, and live ones."""

import subprocess

import pytest

from support.nodes.kernel_scene import forged, kernel_scene, mac
from support.nodes.pod import PYTHON
from support.system import run, wait_for
from support.wire import frames
from support.wire.frames import ACK, PSH, RST, SYN, Card

each_family = pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])

LIVE = """
import socket, sys
s = socket.create_connection((sys.argv[1], 8080), timeout=20)
print(s.getsockname()[1], flush=True)
for line in sys.stdin:
    try:
        s.sendall(line.strip().encode())
        print(s.recv(100).decode(), flush=True)
    except OSError as e:
        print(type(e).__name__, flush=True)
"""

GIVES_UP = """
import socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
s.settimeout(0.3)
print(s.connect_ex((sys.argv[1], 8080)) != 0, s.getsockname()[1])
"""


@pytest.fixture(scope="module")
def scene(build):
    with kernel_scene(build) as s:
        yield s


@pytest.fixture(autouse=True)
def allowed(scene):
    scene.verdicts.change()
    scene.allow()


class Poisoned:
    """What b sends to a goes to c, which knows all that there is to know of the connections: it sees a's card as well."""

    def __init__(self, scene, family):
        self.scene, self.family = scene, family
        self.a, self.b = scene.a.ips[family], scene.b.ips[family]

    def __enter__(self):
        s = self.scene
        self.to_b = mac(s.b)
        run(["ip", "-n", s.b.netns, "neigh", "replace", self.a, "lladdr", mac(s.c), "dev", "eth0"])
        # It would ask for it, and b would tell c.
        run(["ip", "-n", s.a.netns, "neigh", "replace", self.b, "lladdr", self.to_b, "dev", "eth0"])
        self.card, self.seen = Card(s.c), Card(s.a)
        return self

    def __exit__(self, *_):
        self.card.close()
        self.seen.close()
        run(["ip", "-n", self.scene.b.netns, "neigh", "del", self.a, "dev", "eth0"])
        run(["ip", "-n", self.scene.a.netns, "neigh", "del", self.b, "dev", "eth0"])

    def last(self, fits):
        """The last segment of a and b at a's card that fits."""
        found = []

        def look():
            found.extend(x for x in self.seen.segments(1) if fits(*x))
            return found

        wait_for(look, "a segment of the connection")
        return found[-1]

    def send(self, packets):
        self.card.send(self.to_b, packets)


@each_family
def test_a_handshake_whose_source_has_given_up_is_nobody_elses(scene, family):
    """b has answered, a has not heard it and has closed its socket: b's half-open connection must not become c's."""
    with Poisoned(scene, family) as p:
        rules = "add table inet deaf; add chain inet deaf in { type filter hook input priority 0; }; "
        run(["nft", rules + "add rule inet deaf in tcp sport 8080 drop"], netns=scene.a.netns)
        try:
            failed, port = scene.a.python(GIVES_UP, p.b).split()
            assert failed == "True"
            answer = p.last(lambda source, to, flags, *_: to == (p.a, int(port)) and flags == SYN | ACK)
            heard, before = scene.heard(), forged(scene)
            sequence, acknowledged = answer[4], (answer[3] + 1) & 0xFFFFFFFF
            for flags, payload in ((ACK, b""), (ACK | PSH, b"it is me")):
                data = frames.segment((p.a, int(port)), (p.b, 8080), flags, sequence, acknowledged, payload)
                p.send(frames.whole(p.a, p.b, data))
            wait_for(
                lambda: forged(scene) >= before + 2 or len(scene.heard()) > len(heard),
                "the packets to be dropped, or taken",
            )
            assert scene.heard() == heard, "the application takes c for a"
            assert forged(scene) >= before + 2
        finally:
            run(["nft", "delete table inet deaf"], netns=scene.a.netns)
        wait_for(lambda: not scene.half_open(), "b's kernel to forget it, as nobody answers", timeout=90)


FORMS = {
    "whole": frames.whole,
    "fragments": frames.fragments,
    "tags": frames.tagged,
    "many-tags": lambda *x: frames.tagged(*x, count=6),
    "headers": frames.behind_headers,
    "nested": frames.nested,
}


@pytest.mark.parametrize(
    ("family", "form"),
    [(0, f) for f in ("whole", "fragments", "tags", "many-tags")] + [(1, f) for f in FORMS],
    ids=lambda x: x if isinstance(x, str) else ("v4", "v6")[x],
)
def test_nothing_comes_into_a_live_connection(scene, family, form):
    """Data and a reset with the right numbers, which b's kernel would take."""
    with Poisoned(scene, family) as p:
        live = scene.a.pipe(
            PYTHON, "-u", "-c", LIVE, p.b, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        own = p.a, int(live.stdout.readline())
        say(live, "first")
        last = p.last(lambda source, to, *_: source == own and to == (p.b, 8080))
        sequence, acknowledged = last[3] + len(last[5]), last[4]
        before = forged(scene)
        for flags, payload in ((ACK | PSH, b"not of a"), (RST | ACK, b"and its end")):
            data = frames.segment(own, (p.b, 8080), flags, sequence, acknowledged, payload)
            p.send(FORMS[form](p.a, p.b, data))
        wait_for(lambda: forged(scene) >= before + 2, "both to be dropped")
        assert say(live, "second") == "second"
        live.stdin.close()
        live.wait(20)


def say(process, text):
    process.stdin.write(text + "\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


@each_family
def test_fragments_of_others_pass(scene, family):
    """c, as itself, sends a SYN in two of them: it is answered, by who takes plaintext for b."""
    own, to = (scene.c.ips[family], 33000 + family), (scene.b.ips[family], 8080)
    before = forged(scene)
    with Card(scene.c) as card:
        card.send(
            mac(scene.b),
            frames.fragments(own[0], to[0], frames.segment(own, to, SYN, 1000, payload=bytes(16))),
        )
        answer = []
        wait_for(
            lambda: answer.extend(x for x in card.segments(1) if x[0] == to and x[1] == own) or answer,
            "an answer",
        )
    assert answer[0][2] == SYN | ACK
    assert forged(scene) == before


@each_family
def test_the_source_must_be_where_the_tuple_says(scene, family):
    """The tuple is registered, its SYN has not come yet, and c is first, with all of a's addresses."""
    heard, before = scene.heard(), forged(scene)
    scene.verdicts.register(scene.a, scene.b, 33400, family=family)
    with Poisoned(scene, family) as p:
        p.send(frames.whole(p.a, p.b, frames.segment((p.a, 33400), (p.b, 8080), SYN, 1)))
        wait_for(lambda: forged(scene) > before, "it to be dropped")
        assert not scene.half_open()
    assert scene.heard() == heard
    scene.verdicts.forget(scene.a, scene.b, 33400, family=family)
