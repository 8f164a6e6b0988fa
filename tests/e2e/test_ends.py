# SPDX-License-Identifier: Apache-2.0
"""An end never overtakes data: what was sent before a reset, a FIN or a GOAWAY arrives before it, and the
reset arrives too."""

import contextlib
import json
import os
import shutil
import socket

import h2.errors
import pytest

from support.network import inside
from support.nodes.direct import LONG
from support.nodes.mesh import Mesh, leaf
from support.nodes.pod_programs import ECHO
from support.proxies import hbone
from support.system import wait_for

TIMES = 40  # connections of each scene: it is a race

# Answers as soon as the first bytes are there, and closes with input that it has not read: the kernel makes
# that a reset.
EARLY = """
import socket, sys, threading
answer = b"a" * int(sys.argv[2])
s = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True, backlog=128)
print("READY", flush=True)
def serve(c):
    c.recv(1)
    c.sendall(answer)
    c.close()
while True:
    threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
"""

# Uploads, reads, and prints for each connection how many bytes of the answer came, and how it ended.
UPLOAD = """
import json, socket, sys, threading
host, port, times = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
results = []
def push(s, errors):
    try:
        for i in range(64):
            s.sendall(bytes(65536))
    except OSError as e: # the kernel tells a reset once, to whoever asks first
        errors.append(type(e).__name__)
for i in range(times):
    s = socket.create_connection((host, port), timeout=30)
    errors = []
    t = threading.Thread(target=push, args=(s, errors))
    t.start()
    got = 0
    try:
        while d := s.recv(65536):
            got += len(d)
    except OSError as e:
        errors.append(type(e).__name__)
    t.join()
    results.append([got, "reset" if "ConnectionResetError" in errors else "end"])
    s.close()
print(json.dumps(results))
"""

# Prints for each connection how much came, and how it ended. It does not read at once.
LISTEN = """
import socket, sys, threading, time
s = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True, backlog=128)
print("READY", flush=True)
def serve(c):
    time.sleep(0.05)
    got, how = 0, "end"
    try:
        while d := c.recv(65536):
            got += len(d)
    except OSError as e:
        how = type(e).__name__
    print(f"GOT {got} {how}\\n", end="", flush=True)
while True:
    threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
"""

LAST_WORDS = """
import socket, struct, sys
for i in range(int(sys.argv[4])):
    s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=30)
    s.sendall(bytes(int(sys.argv[3])))
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()
"""

# Stock Python, HTTP/1.1; PUT is not among its methods: 501, and the body stays where it is.
HTTP = """
import http.server, socket, sys
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    request_queue_size = 128
server = Server(("::", int(sys.argv[1])), http.server.BaseHTTPRequestHandler)
print("READY", flush=True)
server.serve_forever()
"""

# Takes nothing until it is told to: reads the pipe that it is given the name of. Its receive buffer is small.
SLEEPER = """
import os, socket, sys
s = socket.socket(socket.AF_INET6)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
s.bind(("::", int(sys.argv[1])))
s.listen(16)
print("READY", flush=True)
while True:
    c, a = s.accept()
    print("ACCEPTED", flush=True)
    open(sys.argv[2]).close()
    got, how = 0, "end"
    try:
        while d := c.recv(65536):
            got += len(d)
    except OSError as e:
        how = type(e).__name__
    print(f"GOT {got} {how}", flush=True)
"""


@pytest.fixture(scope="module")
def mesh():
    with Mesh(nodes=2, agent_options=LONG) as m:
        m.web, m.shop = m.pod("web", node=0), m.pod("shop", node=1)
        m.outside = m.pod("outside", node=0, namespace="outside")
        m.outside.outside = True
        m.start()
        for pod in (m.shop, m.outside):
            pod.server(EARLY, 7001, 40)
            pod.server(EARLY, 7002, 14000)
            pod.listen = pod.server(LISTEN, 7003)
            pod.server(HTTP, 7004)
        m.echo = m.shop.server(ECHO, "8080")
        m.certificate = leaf(m, m.web.identity)
        yield m


@pytest.fixture(params=["tunnel", "plaintext", "passed through"])
def way(request, mesh):
    """(client, server)"""
    return {
        "tunnel": (mesh.web, mesh.shop),
        "plaintext": (mesh.outside, mesh.shop),
        "passed through": (mesh.web, mesh.outside),
    }[request.param]


@pytest.mark.parametrize(("port", "size"), [(7001, 40), (7002, 14000)], ids=["short", "long"])
def test_an_early_answer_arrives_before_the_reset(way, port, size):
    client, server = way
    results = json.loads(client.python(UPLOAD, server.ip, port, TIMES, timeout=120))
    assert [r for r in results if r != [size, "reset"]] == []


@pytest.mark.parametrize("size", [10, 14000])
def test_last_words_of_a_client_arrive_before_its_reset(way, size):
    client, server = way
    before = server.listen.text().count("GOT")
    client.python(LAST_WORDS, server.ip, 7003, size, TIMES, timeout=60)
    wait_for(lambda: server.listen.text().count("GOT") == before + TIMES, "all connections to have ended")
    lines = [x for x in server.listen.text().splitlines() if x.startswith("GOT")][before:]
    assert [x for x in lines if x != f"GOT {size} ConnectionResetError"] == []


def test_curl_has_the_answer_of_a_server_that_does_not_read(way, tmp_path):
    if not shutil.which("curl"):
        pytest.skip("there is no curl")
    client, server = way
    body = tmp_path / "body"
    body.write_bytes(bytes(4 << 20))
    code = "for i in $(seq $3); do curl -s -o /dev/null -w '%{http_code}\\n' -H 'Expect:' -m 20 -T \"$2\" \"$1\"; done"
    out = client.run(
        "sh", "-c", code, "sh", f"http://{server.ip}:7004/", str(body), str(TIMES), timeout=300, check=False
    ).stdout
    # With nothing between, curl itself misses it once in two hundred times: it writes once more before it
    # reads.
    assert out.split().count("501") >= TIMES - 4, out.split()


def test_redis_tells_a_client_that_is_too_many(way):
    if not shutil.which("redis-server"):
        pytest.skip("there is no redis-server")
    client, server = way
    if not hasattr(server, "redis"):
        server.redis = server.popen(
            "redis-server",
            "--port",
            "7379",
            "--bind",
            "0.0.0.0",
            "--protected-mode",
            "no",
            "--maxclients",
            "1",
            "--save",
            "",
            "--dir",
            server.node.mesh.dir,
        )
        wait_for(lambda: "Ready to accept" in server.redis.text(), "redis")
    code = """
import json, socket, sys, time
first = socket.create_connection((sys.argv[1], 7379), timeout=20)
first.sendall(b"PING\\r\\n")
first.recv(7)
answers = []
for i in range(int(sys.argv[2])):
    s = socket.create_connection((sys.argv[1], 7379), timeout=20)
    d = b""
    try:
        s.sendall(b"PING\\r\\n")
        while x := s.recv(1000):
            d += x
    except OSError:
        pass
    answers.append(d.decode())
print(json.dumps(answers))
"""
    answers = json.loads(client.python(code, server.ip, TIMES, timeout=60))
    assert [a for a in answers if not a.startswith("-ERR max number of clients reached")] == []


# ---- a peer of our own making: what it says last comes in one piece ----


def tunnel(mesh, settings=True):
    with inside(mesh.nodes[0].netns):
        return hbone.Client((mesh.shop.ip, 15008), *mesh.certificate)


def got(pod, before):
    """The line of the connection that ends next."""
    lines = lambda: [x for x in pod.listen.text().splitlines() if x.startswith("GOT")]
    return wait_for(lambda: lines()[before:], "the connection's end at the application")[0]


ENDS = {
    "CANCEL": lambda c, sid: c.h2.reset_stream(sid, h2.errors.ErrorCodes.CANCEL),
    "INTERNAL_ERROR": lambda c, sid: c.h2.reset_stream(sid, h2.errors.ErrorCodes.INTERNAL_ERROR),
    "PROTOCOL_ERROR": lambda c, sid: c.h2.reset_stream(sid, h2.errors.ErrorCodes.PROTOCOL_ERROR),
    "REFUSED_STREAM": lambda c, sid: c.h2.reset_stream(sid, h2.errors.ErrorCodes.REFUSED_STREAM),
}


@pytest.mark.parametrize("early", [False, True], ids=["answered", "ahead of the answer"])
@pytest.mark.parametrize("code", ENDS)
def test_data_and_the_streams_reset_in_one_read(mesh, code, early):
    before = mesh.shop.listen.text().count("GOT")
    c = tunnel(mesh)
    assert c.pump(lambda: c.h2.max_outbound_frame_size >= 16384)
    sid = c.h2.get_next_available_stream_id()
    head = [(":method", "CONNECT"), (":authority", f"{mesh.shop.ip}:7003")]
    c.h2.send_headers(sid, head)
    if not early:
        c.flush()
        assert c.status(sid) == 200
    for _i in range(3):
        c.h2.send_data(sid, bytes(10000))
    ENDS[code](c, sid)
    c.flush()
    assert got(mesh.shop, before) == "GOT 30000 ConnectionResetError"
    c.close()


@pytest.mark.parametrize("how", ["FIN", "close_notify", "GOAWAY and FIN", "garbage"])
def test_data_and_the_tunnels_end_in_one_read(mesh, how):
    before = mesh.shop.listen.text().count("GOT")
    c = tunnel(mesh)
    sid = c.connect(f"{mesh.shop.ip}:7003")
    assert c.status(sid) == 200
    for _i in range(3):
        c.h2.send_data(sid, bytes(10000))
    if how == "GOAWAY and FIN":
        c.h2.close_connection()
    data = c.h2.data_to_send()
    if how == "garbage":
        data += b"\0\0\x01\x06\0\0\0\0\x01x"  # a PING of one byte on stream 1
    c.tls.sendall(data)
    if how == "close_notify":
        c.tls.settimeout(0)
        with contextlib.suppress(OSError):
            c.tls.unwrap()
    elif how != "garbage":
        c.tls.shutdown(socket.SHUT_WR)
    assert got(mesh.shop, before) == "GOT 30000 ConnectionResetError"
    c.tls.close()


# ---- at rest ----


def sleeper(m, port, tmp_path):
    pipe = tmp_path / "wake"
    os.mkfifo(pipe)
    return m.shop.server(SLEEPER, port, pipe), pipe


def taken(m, port):
    """Bytes that the server's proxy has taken of the client for the application on this port."""
    pods = m.nodes[1].config_dump()["workloadState"].values()
    return sum(
        c["bytesFromClient"]
        for pod in pods
        for c in pod["connections"]["inbound"]
        if c["originalDst"].endswith(f":{port}")
    )


def push_pending(m, port, size):
    c = tunnel(m)
    sid = c.connect(f"{m.shop.ip}:{port}")
    assert c.status(sid) == 200
    c.send(sid, bytes(size))
    wait_for(lambda: taken(m, port) == size, "the proxy to have taken all")
    return c, sid


def test_what_came_before_a_policys_cut_is_delivered(mesh, tmp_path):
    app, pipe = sleeper(mesh, 7005, tmp_path)
    c, sid = push_pending(mesh, 7005, 3000000)
    mesh.policies.append(
        {
            "name": "deny-7005",
            "namespace": "demo",
            "scope": "Namespace",
            "action": "Deny",
            "dryRun": False,
            "rules": [[[{"destinationPorts": [7005]}]]],
        }
    )
    mesh.write()
    c.pump(lambda: c.reset_code(sid) is not None)
    pipe.write_text("")
    wait_for(lambda: "GOT" in app.text(), "the end at the application")
    mesh.policies.clear()
    mesh.write()
    c.close()
    assert "GOT 3000000 ConnectionResetError" in app.text()


@pytest.mark.parametrize(
    ("port", "code"),
    [
        (7006, "CANCEL"),
        (7016, "NO_ERROR"),
        (7026, "CONNECT_ERROR"),
        (7036, "INTERNAL_ERROR"),
        (7046, "PROTOCOL_ERROR"),
    ],
)
def test_who_does_not_read_is_told_in_the_end_and_that_is_counted(impatient, tmp_path, port, code):
    m = impatient
    app, pipe = sleeper(m, port, tmp_path)
    metric = 'reason="last_bytes_undelivered"'
    counted = lambda: [x for x in m.nodes[1].metrics().splitlines() if metric in x]
    before = counted()
    c, sid = push_pending(m, port, 3000000)
    c.h2.reset_stream(sid, h2.errors.ErrorCodes[code])
    c.flush()
    wait_for(lambda: counted() != before, "the loss to be counted")
    pipe.write_text("")
    wait_for(lambda: "GOT" in app.text(), "the end at the application")
    assert "ConnectionResetError" in app.text()
    c.close()


HOLD = """
import socket, sys
all = []
for to in sys.argv[1:]:
    host, port = to.rsplit("/", 1)
    s = socket.create_connection((host, int(port)), timeout=30)
    s.sendall(b"x")
    assert s.recv(1) == b"x"
    all.append(s)
print("HELD", flush=True)
for s in all:
    s.settimeout(60)
    try:
        print("END" if not s.recv(1) else "DATA", flush=True)
    except OSError as e:
        print(type(e).__name__, flush=True)
"""


def test_connections_that_outlive_a_proxy_are_cut_by_name(tmp_path):
    """Of a proxy that is told to end: what has arrived is still delivered, the log says drain_deadline, and
    the other node's that its peer has cut it off."""
    with Mesh(nodes=2, agent_options=LONG, proxy_env={"CONNECTION_TERMINATION_DEADLINE": "1s"}) as m:
        m.web, m.shop = m.pod("web", node=0), m.pod("shop", node=1)
        m.outside = m.pod("outside", node=1, namespace="outside")
        m.outside.outside = True
        m.start()
        m.certificate = leaf(m, m.web.identity)
        for pod in (m.shop, m.outside):
            pod.server(ECHO, "8080")
        app, pipe = sleeper(m, 7007, tmp_path)
        here = m.web.popen("/usr/bin/python3", "-u", "-c", HOLD, f"{m.shop.ip}/8080", f"{m.outside.ip}/8080")
        there = m.outside.popen("/usr/bin/python3", "-u", "-c", HOLD, f"{m.shop.ip}/8080")
        for p in (here, there):
            wait_for(lambda p=p: "HELD" in p.text() or not p.alive(), "connections")
            assert p.alive(), p.text()
        c, _sid = push_pending(m, 7007, 200000)
        first, second = m.nodes[0].proxy, m.nodes[1].proxy
        second.popen.terminate()
        c.pump(lambda: c.closed)
        pipe.write_text("")
        assert second.popen.wait(15) == 0
        wait_for(lambda: "GOT" in app.text(), "the end at the application")
        assert "GOT 200000 ConnectionResetError" in app.text()
        lines = m.nodes[1].access_log()
        assert len([x for x in lines if 'direction="inbound"' in x and "drain_deadline" in x]) == 3, lines
        assert "pod_removed" not in second.text()
        assert wait_for(
            lambda: [x for x in m.nodes[0].access_log() if "peer_reset" in x], "the other node's line"
        )
        first.popen.terminate()
        assert first.popen.wait(15) == 0
        lines = m.nodes[0].access_log()
        assert [x for x in lines if "drain_deadline" in x and f"{m.outside.ip}:8080" in x], lines
        assert "pod_removed" not in first.text()
        wait_for(lambda: not here.alive() and not there.alive(), "the clients to be told")
        assert here.text().split()[1:] == ["ConnectionResetError"] * 2 and there.text().split()[1:] == [
            "ConnectionResetError"
        ]
