# SPDX-License-Identifier: Apache-2.0
"""Tunnels whose other end is Python's h2, in either role, while they move from proxy to proxy (bruma/handover.h): it shares no
code with Bruma, checks all bytes, and tells what is against the protocol."""

import contextlib
import os
import signal
import socket

import pytest

from support.faults import Faults
from support.network import inside
from support.nodes.direct import LONG
from support.nodes.hand_over import MIRROR, Talkers, handed_over, next_proxy, upgrade
from support.nodes.mesh import Mesh, leaf
from support.nodes.peer_place import place_of_a_peer
from support.programs import BUILD
from support.proxies import h2_peer
from support.proxies.h2_peer import BUSY, UNREAD, Peer
from support.system import Failed, wait_for

UPGRADES = int(os.environ.get("BRUMA_HAND_OVER_H2_UPGRADES", "5"))


@pytest.fixture(scope="module")
def mesh():
    with Mesh(nodes=2, workers=2, agent_options=(*LONG, "--hand-over", "true")) as m:
        m.node, m.web, m.shop = m.nodes[0], m.pod("web"), m.pod("shop")
        m.start()
        m.shop.server(MIRROR, "8080")
        m.certificate = leaf(m, m.web.identity)
        with place_of_a_peer(m) as (pod, listener, certificate):
            m.peer, m.peer_listener, m.peer_certificate = pod, listener, certificate
            yield m


@contextlib.contextmanager
def clients(mesh, count=1, **options):
    """Tunnels to the proxy of the node; a pod of it is behind them."""
    peers = []
    for n in range(count):
        ip = mesh.shop.ips[n % 2]
        with inside(mesh.nodes[1].netns):
            sock = socket.create_connection((ip, 15008), timeout=10)
        authority = f"[{ip}]:8080" if ":" in ip else f"{ip}:8080"
        peers.append(h2_peer.connect(sock, mesh.certificate, authority, seed=n, **options))
    try:
        yield peers
    finally:
        for p in peers:
            p.stop()


@contextlib.contextmanager
def server(mesh, **options):
    """Where the proxy of the node opens tunnels to."""
    s = h2_peer.Server(mesh.peer_listener, mesh.peer_certificate, **options)
    try:
        yield s
    finally:
        s.stop()


def moves(mesh, peers):
    moved, old = upgrade(mesh.node)
    assert all(p.good() for p in peers)
    assert moved["moved"] >= len(peers) and moved["left"] == 0, [
        x for x in old.text().splitlines() if "hand-over" in x
    ]
    wait_for(lambda: not old.alive(), "the old one to end, which carries nothing any more", timeout=40)


def go_on(peers):
    """All of its bytes go on, in each long stream, and all that was asked is answered."""
    before = {s: s.got + s.sent for p in peers for s in p.do(lambda p: list(p.streams.values()))}

    def went_on():
        now = {s for p in peers if p.good() for s in p.do(lambda p: list(p.streams.values()))}
        return all(
            s.got + s.sent > got + 2 * BUSY for s, got in before.items() if s in now and s.ahead == BUSY
        )

    wait_for(went_on, "more bytes in each stream", timeout=60)
    pings = {p: p.pinged for p in peers}
    wait_for(lambda: all(p.good() and p.pinged - len(p.pings) >= pings[p] for p in peers), "answers to PING")


def end_of_all(peers):
    for p in peers:
        p.restless = False
        p.do(lambda p: p.set(initial_window_size=1 << 20))
    try:
        wait_for(
            lambda: all(p.answered() and not p.streams for p in peers), "the end of all streams", timeout=60
        )
    except Failed as e:
        raise AssertionError([p.do(Peer.told) for p in peers]) from e


def test_a_client_that_does_all_at_once(mesh):
    with clients(mesh, 3) as peers:
        long = [p.do(lambda p, a=a: p.open(a)) for p in peers for a in (BUSY, BUSY, UNREAD, UNREAD)]
        for n in range(UPGRADES):
            for s in long:
                s.reads = s.ahead == BUSY or n % 2 == 1  # windows close, and open again
            moves(mesh, peers)
            go_on(peers)
        for p in peers:
            assert p.opened > UPGRADES and p.resets and p.settings_heard > UPGRADES
        for s in long:
            s.reads = True
            s.limit = s.sent
        end_of_all(peers)
        assert all(s.got == s.sent for s in long)


def test_a_server_that_does_all_at_once(mesh):
    with server(mesh) as s:
        talkers = Talkers(mesh.web, mesh.peer.ip, 12, 50_000)
        for n in range(UPGRADES):
            talkers.say("stall" if n % 2 else "read")
            moves(mesh, s.peers)
            talkers.say("read")
            talkers.goes_on()
            assert all(p.good() for p in s.peers)
        assert all(p.streams for p in s.peers), "no tunnel but those that moved"
        talkers.end()
        end_of_all(s.peers)


# ---- what comes while a tunnel stands still between the two ----


@contextlib.contextmanager
def between(mesh, tmp_path):
    """The next proxy is stopped as soon as it has built the tunnel, before it can say so: nobody looks at its socket. It goes on
    at the end. What is yielded becomes whether the tunnel has moved; on a machine that is busy, a second may be over before."""
    faults, moved = Faults(BUILD, str(tmp_path / "faults")), []
    faults.fail("sendmsg of a worker", -signal.SIGSTOP, times=1)
    old, text = next_proxy(mesh.node, wait=False, **faults.env)
    new = mesh.node.proxy

    def stands():
        with open(f"/proc/{new.pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0] == "T"

    wait_for(stands, "the next one to stop")
    yield moved
    os.kill(new.pid, signal.SIGCONT)
    moved.append(handed_over(mesh.node, text)["left"] == 0)
    faults.stop()
    faults.close()
    if moved[0]:
        wait_for(lambda: not old.alive(), "the old one to end, which carries nothing any more")


def client_pings(p, s):
    p.ping()


def client_sets(p, s):
    p.set(initial_window_size=1000)
    p.set(initial_window_size=1 << 20, max_frame_size=1 << 17)


def client_opens(p, s):
    p.open(BUSY, 100_000)


def client_resets(p, s):
    p.reset(s)


def client_ends(p, s):
    s.limit = s.sent


def client_ends_by_trailers(p, s):
    s.limit, s.ended = s.sent, True
    p.h2.send_headers(s.id, [("x-at-the", "end")], end_stream=True)


def client_says_more(p, s):
    s.ahead = 1 << 20


def client_gives_credit(p, s):
    s.reads = True


CLIENT = [
    client_pings,
    client_sets,
    client_opens,
    client_resets,
    client_ends,
    client_ends_by_trailers,
    client_says_more,
    client_gives_credit,
]


@pytest.mark.parametrize("what", CLIENT, ids=lambda f: f.__name__)
def test_what_a_client_says_meanwhile(mesh, tmp_path, what):
    for _ in range(5):
        with clients(mesh, restless=False) as (p,):
            s, other = p.do(lambda p: p.open(BUSY)), p.do(lambda p: p.open(BUSY))
            wait_for(lambda p=p, s=s, o=other: p.good() and s.got and o.got, "bytes")
            if what is client_gives_credit:
                s.reads, s.ahead = False, UNREAD
                wait_for(
                    lambda p=p, s=s: p.do(lambda p: p.h2.remote_flow_control_window(s.id)) < 1000, "no window"
                )
            with between(mesh, tmp_path) as moved:
                p.do(lambda p, s=s: what(p, s))
            if not moved[0]:
                continue
            go_on([p])
            other.limit = s.limit = other.sent + UNREAD
            end_of_all([p])
            assert other.got == other.sent and (what is client_resets or s.got == s.sent)
            return
    pytest.skip("the machine is too slow: a second was over each time")


def server_pings(p, s):
    p.ping()


def server_sets(p, s):
    p.set(initial_window_size=1000)
    p.set(initial_window_size=1 << 20, max_frame_size=1 << 17)


def server_resets(p, s):
    p.reset(s)


def server_ends(p, s):
    s.says_end = True


SERVER = [server_pings, server_sets, server_resets, server_ends]

# Says what it hears until the end, or how it ended; then says more, until it is told to end.
TALKS = """
import socket, sys
s = socket.create_connection((sys.argv[1], 8080), timeout=20)
s.sendall(b"word")
heard = b""
while len(heard) < 4:
    heard += s.recv(4 - len(heard)) or sys.exit("the end, too early")
print(heard.decode(), flush=True)
try:
    print("end" if not s.recv(4) else "more", flush=True)
    s.sendall(b"x" * 300000)
    sys.stdin.readline()
    s.close()
except ConnectionResetError:
    print("reset", flush=True)
"""


@pytest.mark.parametrize("what", SERVER, ids=lambda f: f.__name__)
def test_what_a_server_says_meanwhile(mesh, tmp_path, what):
    for _ in range(5):
        with server(mesh, restless=False) as peers:
            app = mesh.web.pipe(
                "/usr/bin/python3", "-u", "-c", TALKS, mesh.peer.ip, stdin=-1, stdout=-1, text=True
            )
            assert app.stdout.readline() == "word\n"
            talkers = Talkers(mesh.web, mesh.peer.ip, 3, 50_000)
            p = peers.peers[0]
            s = p.do(lambda p: p.streams[min(p.streams)])
            with between(mesh, tmp_path) as moved:
                p.do(lambda p, s=s: what(p, s))
            if not moved[0]:
                app.kill()
                talkers.process.kill()
                continue
            talkers.goes_on()
            if what is server_resets:
                assert app.stdout.readline() == "reset\n"
            if what is server_ends:
                assert app.stdout.readline() == "end\n"
                app.stdin.write("\n")
                app.stdin.flush()
                wait_for(lambda s=s: s.over, "the application's end", timeout=60)
                assert s.got == 300_000
            wait_for(lambda p=p: p.answered(), "answers")
            app.kill()
            talkers.end()
            return
    pytest.skip("the machine is too slow: a second was over each time")
