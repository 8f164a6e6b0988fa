# SPDX-License-Identifier: Apache-2.0
"""What is behind a gateway is Python's h2 over Python's ssl, or no HBONE at all, and does as it likes: the tunnel inside of
the gateway's ends in time, with a reason, and nothing else does."""

import contextlib
import os
import socket
import struct
import threading
import time

import pytest

from support.network import inside
from support.networks import HOME, HOST, VIP4, Networks
from support.nodes.mesh import leaf
from support.nodes.pod_programs import ECHO, ONE_SHOT
from support.proxies import hbone
from support.system import wait_for
from support.xds.site import CLIENT

BAGGAGE = "k8s.cluster.name=far,k8s.namespace.name=demo,k8s.deployment.name=python,service.name=python"


@pytest.fixture(scope="module")
def two(program):
    env = {"BRUMA_PEER_HANDSHAKE_TIMEOUT": "2s", "BRUMA_ANSWER_TIMEOUT": "3s", "BRUMA_LINGER_TIMEOUT": "1s"}
    with Networks(program, home_env=env) as n:
        n.start(gateways=0)
        n.shop.server(ECHO, "8080")
        n.gateways.append(n.gateway(0, endpoints=[(n.spare.ip, 15008)]).start())
        n.certificate = leaf(n.away, n.shop.identity)
        yield n


def listen(two):
    with inside(two.spare.netns):
        return socket.create_server((two.spare.ip, 15008), backlog=64)


@contextlib.contextmanager
def server(two, behaviour=None, **options):
    s = hbone.Server(listen(two), *two.certificate, behaviour=behaviour, **options)
    try:
        yield s
    finally:
        hang_up(c.tls for c in s.connections)  # close() would leave it to threads that wait
        s.stop()


@contextlib.contextmanager
def plain(two, serve):
    """A server that speaks no HBONE: serve(sock). Yields its connections."""
    listener, all_of_them = listen(two), []

    def accept():
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            all_of_them.append(sock)
            threading.Thread(target=run, args=(sock,), daemon=True).start()

    def run(sock):
        with contextlib.suppress(OSError), sock:
            sock.settimeout(20)
            serve(sock)

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield all_of_them
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        hang_up(all_of_them)


def hang_up(sockets):
    for s in sockets:
        with contextlib.suppress(OSError):
            s.shutdown(socket.SHUT_RDWR)


def ask(two, vip=VIP4, port=80):
    return two.web.python(CLIENT, vip, port).strip()


def failed(two, *reasons):
    """A connection fails in time, and says why."""
    time.sleep(0.3)  # lines are written within 100 ms: those of others are there
    before, began = len(two.nodes[0].access_log("error=")), time.monotonic()
    assert ask(two) in ("ConnectionResetError", "closed")
    assert time.monotonic() - began < 15
    line = wait_for(lambda: two.nodes[0].access_log("error=")[before:], "the line in the log")[-1]
    assert any(f"{r}: " in line for r in reasons), line
    return line


def echo_with(*headers):
    def answer(server, conn, sid, request):
        conn.h2.send_headers(sid, [(":status", "200"), *headers])

    return answer


def test_what_the_inner_request_says(two):
    with server(two, echo_with(("baggage", BAGGAGE))) as s:
        assert ask(two) == "ping"
        request = s.requests[0]
        assert request[":method"] == "CONNECT" and request[":authority"] == f"{HOST}:80"
        assert request["x-forwarded-network"] == HOME
        assert "k8s.namespace.name=demo" in request["baggage"] and f"host={HOST}" in request["forwarded"]
        assert ":path" not in request and ":scheme" not in request and "x-istio-source" not in request
        assert dict(s.peers[0])["subjectAltName"] == (("URI", two.web.identity),)
        wait_for(lambda: 'destination_workload="python"' in two.nodes[0].metrics(), "its own words as labels")
        for _ in range(5):
            assert ask(two) == "ping"
        assert len(s.connections) == 1, "the tunnel is kept"


@pytest.mark.parametrize(
    "baggage", ["k8s.namespace.name=other,k8s.deployment.name=liar", "=,,=;" * 50, "x" * 9000]
)
def test_baggage_that_its_identity_does_not_vouch_for(two, baggage):
    with server(two, echo_with(("baggage", baggage))):
        assert ask(two) == "ping"
        assert 'destination_workload="liar"' not in two.nodes[0].metrics()


def test_half_close_and_bulk(two):
    with server(two):
        assert two.web.python(ONE_SHOT, VIP4, 80, "x" * 60000) == "x" * 60000


@pytest.mark.parametrize(("status", "reason"), [("401", "connect_rejected"), ("503", "connect_rejected")])
def test_a_status(two, status, reason):
    def refuse(server, conn, sid, request):
        conn.h2.send_headers(sid, [(":status", status)], end_stream=True)

    with server(two, refuse):
        assert f"status {status}" in failed(two, reason)


def test_goaway_of_the_inner_server(two):
    """The next connection has another tunnel, in the same outer one."""
    streams = two.gateways[0].stat("connect_terminate.downstream_rq_total")
    tunnels = two.gateways[0].stat("connect_terminate.downstream_cx_total")
    with server(two) as s:
        for n in range(1, 4):
            assert ask(two) == "ping"
            assert len(s.connections) == n
            s.connections[-1].do(hbone.goaway)
            time.sleep(0.2)
        assert two.gateways[0].stat("connect_terminate.downstream_rq_total") - streams == 3
        assert two.gateways[0].stat("connect_terminate.downstream_cx_total") - tunnels <= 1


@pytest.mark.parametrize("end", [hbone.fin, hbone.rst, hbone.close_notify])
def test_the_inner_server_ends_its_tunnel(two, end):
    """Idle: the next connection does not notice. With a connection in it: that one is cut."""
    with server(two) as s:
        assert ask(two) == "ping"
        s.connections[-1].do(end)
        assert ask(two) == "ping"
        p = two.web.popen("/usr/bin/python3", "-u", "-c", STAY, VIP4)
        p.wait_for_text("OPEN")
        s.connections[-1].do(end)
        p.wait_for_text("CUT")


STAY = """
import socket, sys
s = socket.create_connection((sys.argv[1], 80), timeout=60)
s.sendall(b"ping")
s.recv(4)
print("OPEN", flush=True)
try:
    print("CUT" if s.recv(4) == b"" else "DATA", flush=True)
except ConnectionResetError:
    print("CUT", flush=True)
"""


def test_few_streams_at_once(two):
    """As many inner tunnels as that takes, though the endpoint counts as one."""
    with server(two, max_streams=3) as s:
        assert ask(two) == "ping"  # from then on the limit is known
        running = [two.web.popen("/usr/bin/python3", "-u", "-c", STAY, VIP4) for _ in range(8)]
        for p in running:
            p.wait_for_text("OPEN")
        assert len(s.connections) >= 2
        for p in running:
            p.kill()


def silent(sock):
    sock.recv(1 << 16)
    time.sleep(15)


def garbage(sock):
    sock.recv(1 << 16)
    sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" + os.urandom(3000))


def closes(sock):
    sock.recv(1 << 16)


def resets(sock):
    sock.recv(1 << 16)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize("serve", [silent, garbage, closes, resets])
def test_no_tls(two, serve):
    with plain(two, serve):
        line = failed(two, "tls_handshake_failed", "tls_handshake_timeout", "peer_reset", "http2_error")
        assert "gateway" in line, line


def over_tls(two, then):
    context = hbone.context(True, *two.certificate)

    def serve(sock):
        with context.wrap_socket(sock, server_side=True) as tls:
            then(tls)

    return serve


def test_random_bytes_in_tls(two):
    def noise(tls):
        for _ in range(50):
            tls.sendall(os.urandom(4000))

    with plain(two, over_tls(two, noise)):
        failed(two, "http2_error", "peer_reset", "tls_handshake_failed")


def test_tls_that_no_request_is_answered_in(two):
    def swallow(tls):
        while tls.recv(1 << 16):
            pass

    with plain(two, over_tls(two, swallow)):
        failed(two, "connect_answer_timeout")


def resident(two):
    """Bytes of the clients' proxy."""
    with open(f"/proc/{two.nodes[0].proxy.pid}/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_pings_that_nobody_reads_the_answers_of(two):
    """The inner tunnel stops to read, so that the outer stream's window is used up, and memory is bounded."""
    stop = threading.Event()

    def flood(tls):
        tls.recv(1 << 16)
        tls.sendall(b"\0\0\0\4\0\0\0\0\0")
        with contextlib.suppress(OSError):
            while not stop.is_set():
                tls.sendall((b"\0\0\x08\6\0\0\0\0\0" + b"12345678") * 500)

    before = resident(two)
    with plain(two, over_tls(two, flood)):
        try:
            failed(two, "connect_answer_timeout", "http2_error", "peer_reset")
        finally:
            stop.set()
    assert resident(two) - before < 48 << 20


def relay(two, limit):
    """To a true server; it ends after limit["bytes"] from there, by a reset if limit["reset"]."""

    def serve(sock):
        with inside(two.spare.netns):
            far = socket.create_connection((two.shop.ip, 15008), timeout=10)

        def up():
            with contextlib.suppress(OSError):
                while data := sock.recv(1 << 16):
                    far.sendall(data)
                far.shutdown(socket.SHUT_WR)

        threading.Thread(target=up, daemon=True).start()
        left, reset = limit["bytes"], limit["reset"]
        with contextlib.suppress(OSError), far:
            while left > 0 and (data := far.recv(min(left, 1 << 16))):
                sock.sendall(data)
                left -= len(data)
            if reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.shutdown(socket.SHUT_RD)  # the other thread lets go of it
            else:
                sock.shutdown(socket.SHUT_RDWR)

    return serve


@pytest.mark.parametrize("reset", [False, True], ids=["end", "reset"])
def test_cut_at_any_byte(two, reset):
    """In the handshake, between records, in the middle of frames. What is behind the last byte is not missed."""
    limit, answers = {"reset": reset}, []
    with plain(two, relay(two, limit)) as connections:
        for count in [*range(0, 200, 23), *range(200, 1500, 131), *range(1500, 2600, 67)]:
            limit["bytes"] = count
            answers.append(ask(two))
            hang_up(connections)
            connections.clear()
        limit["bytes"] = 1 << 30
        assert ask(two) == "ping"
    assert answers[0] != "ping" and set(answers) <= {"ConnectionResetError", "closed", "ping"}, answers
