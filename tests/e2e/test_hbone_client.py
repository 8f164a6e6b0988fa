# SPDX-License-Identifier: Apache-2.0
"""The proxy as a client of an independent HBONE server: what it sends, its pool, and what becomes of
connections whose tunnel ends."""

import re
import socket
import subprocess
import threading
import time

import h2.errors
import pytest

from support.nodes.mesh import Mesh, leaf
from support.nodes.peer_place import place_of_a_peer
from support.nodes.pod_programs import ONE_SHOT
from support.proxies import hbone
from support.system import placed, wait_for


@pytest.fixture(scope="module")
def mesh():
    with Mesh(nodes=2) as m:
        m.web = m.pod("web")
        m.start()
        yield m


def test_what_the_proxy_sends(mesh, peer):
    assert mesh.web.python(ONE_SHOT, peer.pod.ip, 7000, "ping") == "ping"
    request = peer.requests[0]
    assert request[":method"] == "CONNECT" and request[":authority"] == f"{peer.pod.ip}:7000"
    assert ":scheme" not in request and ":path" not in request and ":protocol" not in request
    assert re.fullmatch(rf'for="{re.escape(mesh.web.ip)}:\d+"', request["forwarded"]), request["forwarded"]
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-00", request["traceparent"])
    assert "k8s.namespace.name=demo" in request["baggage"] and "service.name=web" in request["baggage"]
    assert "x-istio-source" not in request
    sans = peer.peers[0]["subjectAltName"]
    assert ("URI", mesh.web.identity) in sans


@pytest.mark.parametrize("interim", [["100"], ["103", "102", "103"]], ids=["one", "three"])
def test_interim_answers_come_before_the_answer(mesh, interim):
    """RFC 9110, section 15.2: a client takes any number of them, even if it expects none."""

    def hints_first(server, conn, sid, headers):
        for status in interim:
            conn.h2.send_headers(sid, [(":status", status), ("link", "</x>")])
        conn.h2.send_headers(sid, [(":status", "200")])

    with place_of_a_peer(mesh) as (pod, listener, cert):
        server = hbone.Server(listener, *cert, behaviour=hints_first)
        try:
            assert mesh.web.python(ONE_SHOT, pod.ip, 7000, "ping") == "ping"
            assert mesh.web.python(ONE_SHOT, pod.ip, 7000, "pong") == "pong"
        finally:
            server.stop()


def test_150_parallel_connections_cap_100(mesh, peer):
    code = """
import socket, sys
all = []
for i in range(150):
    s = socket.create_connection((sys.argv[1], 7000), timeout=20)
    s.sendall(b"x")
    all.append(s)
for s in all:
    assert s.recv(1) == b"x"
print("ok")
"""
    assert mesh.web.python(code, peer.pod.ip).strip() == "ok"
    assert len(peer.connections) == 2


def test_what_a_peer_takes_at_once_holds_for_its_next_tunnel_too(mesh):
    """A new tunnel's requests leave before the peer has said how many it takes: what it said on another one
    counts."""
    opened = {}

    def count(server, conn, sid, headers):
        opened[conn] = opened.get(conn, 0) + 1
        hbone.Server.echo(server, conn, sid, headers)

    code = """
import socket, sys, threading
all = []
def one():
    s = socket.create_connection((sys.argv[1], 7000), timeout=20)
    s.sendall(b"x")
    all.append(s)
    assert s.recv(1) == b"x"
for i in range(3):
    one()
threads = [threading.Thread(target=one) for i in range(9)]
for t in threads:
    t.start()
for t in threads:
    t.join()
print("ok", len(all))
"""
    with place_of_a_peer(mesh) as (pod, listener, cert):
        server = hbone.Server(listener, *cert, behaviour=count, max_streams=3)
        try:
            assert mesh.web.python(code, pod.ip).split() == ["ok", "12"]
        finally:
            server.stop()
    assert sorted(opened.values()) == [3, 3, 3, 3]


# An application that is running already: it connects as soon as it is told to, and says what came back.
AT_ONCE = """
import socket, sys
for line in sys.stdin:
    try:
        s = socket.create_connection((sys.argv[1], 7000), timeout=20)
        s.sendall(b"a")
        print("served" if s.recv(1) == b"a" else "end", flush=True)
        s.close()
    except OSError as e:
        print(type(e).__name__, flush=True)
"""


@pytest.mark.parametrize(
    "how", [hbone.fin, hbone.rst, hbone.close_notify, hbone.goaway], ids=lambda f: f.__name__
)
def test_server_closes_the_idle_pooled_connection_app_connects_at_once(mesh, peer, how):
    """Within a fraction of a millisecond of the close: some connections find the tunnel in the pool still."""
    app = subprocess.Popen(
        placed(["/usr/bin/python3", "-u", "-c", AT_ONCE, peer.pod.ip], mesh.web.netns, mesh.nodes[0].cgroup),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    seen = []

    def connect(before=lambda: None):
        before()
        app.stdin.write("go\n")
        app.stdin.flush()
        seen.append(app.stdout.readline().strip())

    try:
        connect()
        for _ in range(40):
            connections = len(peer.connections)
            connect(lambda: peer.connections[-1].do(how))
            assert len(peer.connections) == connections + 1, "a new tunnel, as the old one is closed"
    finally:
        app.kill()
        app.wait()
    assert seen == ["served"] * 41, seen


def test_a_tunnel_that_ends_after_the_request_and_before_its_answer_is_no_loss(mesh, peer):
    """The application's bytes are read after the answer alone, so none can be lost or sent twice."""
    ended = []

    def end_first(server, conn, sid, headers):
        if len(ended) < 2:
            ended.append(sid)
            conn.tls.shutdown(socket.SHUT_RDWR)
        else:
            conn.h2.send_headers(sid, [(":status", "200")])

    peer.behaviour = end_first
    assert mesh.web.python(ONE_SHOT, peer.pod.ip, 7000, "third time lucky") == "third time lucky"
    assert len(ended) == 2 and len(peer.connections) == 3


def test_goaway_is_obeyed_and_nothing_is_lost(mesh, peer):
    assert mesh.web.python(ONE_SHOT, peer.pod.ip, 7000, "a") == "a"
    peer.connections[-1].do(hbone.goaway)
    assert mesh.web.python(ONE_SHOT, peer.pod.ip, 7000, "b") == "b"
    assert len(peer.connections) == 2


def test_refused_stream_is_tried_again(mesh, peer):
    refused = []

    def refuse_first(server, conn, sid, headers):
        if not refused:
            refused.append(sid)
            conn.h2.reset_stream(sid, h2.errors.ErrorCodes.REFUSED_STREAM)
        else:
            conn.h2.send_headers(sid, [(":status", "200")])

    peer.behaviour = refuse_first
    assert mesh.web.python(ONE_SHOT, peer.pod.ip, 7000, "again") == "again"
    assert refused


def test_status_other_than_200_resets_the_application(mesh, peer):
    peer.behaviour = lambda server, conn, sid, headers: conn.h2.send_headers(
        sid, [(":status", "401")], end_stream=True
    )
    code = """
import socket, sys
try:
    s = socket.create_connection((sys.argv[1], 7000), timeout=20)
    print("data" if s.recv(1) else "end")
except ConnectionResetError:
    print("reset")
"""
    assert mesh.web.python(code, peer.pod.ip).strip() == "reset"
    wait_for(lambda: "status 401" in mesh.nodes[0].proxy.text(), "the status in the log")


def test_connect_error_of_envoy_is_a_normal_end(mesh, peer):
    def answer_and_end(server, conn, sid, headers):
        conn.h2.send_headers(sid, [(":status", "200")])
        conn.h2.send_data(sid, b"bye")
        conn.h2.reset_stream(sid, h2.errors.ErrorCodes.CONNECT_ERROR)

    peer.behaviour = answer_and_end
    code = """
import socket, sys
s = socket.create_connection((sys.argv[1], 7000), timeout=20)
d = b""
while True:
    c = s.recv(100)
    if not c:
        break
    d += c
print(d.decode())
"""
    assert mesh.web.python(code, peer.pod.ip).strip() == "bye"


def test_server_with_another_identity_is_refused(mesh, peer):
    peer.tls_context = hbone.context(True, *leaf(mesh, "spiffe://cluster.local/ns/demo/sa/impostor"))
    code = """
import socket, sys
try:
    # the reset may come while connect() is still returning
    s = socket.create_connection((sys.argv[1], 7000), timeout=20)
    print("data" if s.recv(1) else "end")
except ConnectionResetError:
    print("reset")
"""
    assert mesh.web.python(code, peer.pod.ip).strip() == "reset"
    wait_for(lambda: "impostor" in mesh.nodes[0].proxy.text(), "the wrong identity in the log")


def test_a_peer_that_restarts_is_waited_for():
    """Its kernel has accepted the connection, and nobody serves it for a while: longer than a stranger may
    take for a handshake, but not for ever."""
    settings = {"BRUMA_HANDSHAKE_TIMEOUT": "1s", "BRUMA_PEER_HANDSHAKE_TIMEOUT": "4s"}
    with Mesh(nodes=2, proxy_env=settings) as mesh:
        web = mesh.pod("web")
        mesh.start()
        with place_of_a_peer(mesh) as (pod, listener, cert):
            later = threading.Timer(2.5, lambda: servers.append(hbone.Server(listener, *cert)))
            servers = []
            later.start()
            began = time.monotonic()
            assert web.python(ONE_SHOT, pod.ip, 7000, "ping") == "ping"
            assert time.monotonic() - began > 2
            later.join()
            servers[0].stop()
        with place_of_a_peer(mesh) as (pod, listener, cert):
            began = time.monotonic()
            r = subprocess.run(
                placed(
                    ["/usr/bin/python3", "-c", ONE_SHOT, pod.ip, "7000", "ping"],
                    web.netns,
                    mesh.nodes[0].cgroup,
                ),
                capture_output=True,
                text=True,
                timeout=30,
            )
            assert r.stdout == "" and "ConnectionResetError" in r.stderr
            assert 3 < time.monotonic() - began < 15
            wait_for(lambda: "tls_handshake_timeout" in mesh.nodes[0].proxy.text(), "the reason in the log")
