# SPDX-License-Identifier: Apache-2.0
"""HBONE against independent peers (contract sections 3 and 5). Tests carry the name of their row of the conformance list."""
import itertools
import re
import socket
import ssl
import subprocess
import tempfile
import time

import h2.errors
import h2.events
import pytest

import hbone
from mesh import Mesh, inside, leaf, placed, sh, wait_for

ECHO = """
import socket, sys, threading
s = socket.socket(socket.AF_INET6)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("::", int(sys.argv[1])))
s.listen(512)
print("READY", flush=True)
def serve(c, a):
    print("FROM", a[0], a[1], flush=True)
    try:
        while True:
            d = c.recv(65536)
            if not d:
                break
            c.sendall(d)
        c.shutdown(socket.SHUT_WR)
        c.close()
    except OSError as e:
        print("ERROR", type(e).__name__, flush=True)
while True:
    c, a = s.accept()
    threading.Thread(target=serve, args=(c, a), daemon=True).start()
"""


@pytest.fixture(scope="module")
def mesh():
    with Mesh(nodes=2) as m:
        m.web, m.shop = m.pod("web", node=0), m.pod("shop", node=1)
        m.start()
        m.echo = m.shop.server(ECHO, "8080")
        m.certificate = leaf(m, m.web.identity)
        m.foreign = leaf(m, "spiffe://other.domain/ns/demo/sa/web")
        yield m


@pytest.fixture
def client(mesh):
    with inside(mesh.nodes[0].netns):
        c = hbone.Client((mesh.shop.ip, 15008), *mesh.certificate)
    yield c
    c.close()


def test_connect_echo_and_half_close(mesh, client):
    sid = client.connect(f"{mesh.shop.ip}:8080")
    assert client.status(sid) == 200
    client.send(sid, b"hello", end=True)
    assert client.pump(lambda: client.ended(sid))
    assert client.received(sid) == b"hello"


def test_response_baggage_describes_the_destination(mesh, client):
    sid = client.connect(f"{mesh.shop.ip}:8080")
    assert client.status(sid) == 200
    baggage = client.headers(sid)["baggage"]
    assert "k8s.namespace.name=demo" in baggage and "service.name=shop" in baggage, baggage


def test_the_application_sees_the_clients_address(mesh, client):
    sid = client.connect(f"{mesh.shop.ip}:8080")
    assert client.status(sid) == 200
    source = client.tls.getsockname()[0]
    wait_for(lambda: f"FROM ::ffff:{source} " in mesh.echo.text(), "the client's address at the server")


def test_settings_of_the_server(mesh, client):
    client.pump(lambda: client.of(0, h2.events.RemoteSettingsChanged))
    changed = client.of(0, h2.events.RemoteSettingsChanged)[0].changed_settings
    values = {int(k): v.new_value for k, v in changed.items()}
    assert values[3] == 200 and values[4] == 4194304 and values[5] == 1048576 and values[6] == 65536, values


def test_get_instead_of_connect(mesh, client):
    sid = client.request([(":method", "GET"), (":scheme", "https"), (":path", "/"), (":authority", f"{mesh.shop.ip}:8080")], end=True)
    assert client.status(sid) == 400


def test_authority_of_another_pod(mesh, client):
    assert client.status(client.connect(f"{mesh.web.ip}:8080")) == 400


def test_authority_v4_mapped(mesh, client):
    assert client.status(client.connect(f"[::ffff:{mesh.shop.ip}]:8080")) == 400


@pytest.mark.parametrize("authority,status", [(":8080", 503), ("{ip}", 400), ("{ip}:99999", 400), ("unknown.host:80", 503)])
def test_authority_malformed(mesh, client, authority, status):
    assert client.status(client.connect(authority.format(ip=mesh.shop.ip))) == status


def test_connect_without_authority(mesh, client):
    sid = client.request([(":method", "CONNECT")])
    assert client.status(sid) in (("reset", 1), 400)
    other = client.connect(f"{mesh.shop.ip}:8080")
    assert client.status(other) == 200, "the tunnel lives"


def test_connect_with_protocol(mesh, client):
    sid = client.request([(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "https"), (":path", "/"),
                          (":authority", f"{mesh.shop.ip}:8080")])
    assert client.status(sid) == ("reset", 1)


def test_malformed_traceparent(mesh, client):
    sid = client.connect(f"{mesh.shop.ip}:8080", [("traceparent", "00-" + "0" * 52)])
    assert client.status(sid) == 200


def test_authority_port_15001(mesh, client):
    for port in (15001, 15006, 15008):
        assert client.status(client.connect(f"{mesh.shop.ip}:{port}")) == 503, port


@pytest.fixture
def policy(mesh):
    """Denies web, on one port alone."""
    def deny(port):
        mesh.policies.append({"name": "no-web", "namespace": "demo", "scope": "Namespace", "action": "Deny", "dryRun": False,
                              "rules": [[[{"principals": [{"Exact": mesh.web.identity.removeprefix("spiffe://")}],
                                           "destinationPorts": [port]}]]]})
        mesh.write()
        wait_for(lambda: mesh.nodes[1].config_dump()["policies"], "the policy")

    yield deny
    mesh.policies.clear()
    mesh.write()
    wait_for(lambda: not mesh.nodes[1].config_dump()["policies"], "the policy to be gone")


def test_rbac_deny(mesh, client, policy):
    policy(8080)
    assert client.status(client.connect(f"{mesh.shop.ip}:8080")) == 401
    assert client.status(client.connect(f"{mesh.shop.ip}:9999")) == 503, "another port is another question"
    wait_for(lambda: re.search(r'istio_tcp_connections_failed_total\{[^}]*response_flags="DENY"', mesh.nodes[1].metrics()), "flag DENY")


def test_rbac_live_deny_push(mesh, client, policy):
    if not [p for p in mesh.shop.processes if p.alive() and p is not mesh.echo]:
        mesh.shop.server(ECHO, "8081")
    denied, other = client.connect(f"{mesh.shop.ip}:8080"), client.connect(f"{mesh.shop.ip}:8081")
    assert client.status(denied) == 200 and client.status(other) == 200
    policy(8080)
    assert client.pump(lambda: client.reset_code(denied) is not None)
    assert client.reset_code(denied) == h2.errors.ErrorCodes.CANCEL
    client.send(other, b"goes on", end=True)
    assert client.pump(lambda: client.ended(other)) and client.received(other) == b"goes on"
    wait_for(lambda: "ERROR ConnectionResetError" in mesh.echo.text(), "the reset at the application")


def test_app_port_closed(mesh, client):
    assert client.status(client.connect(f"{mesh.shop.ip}:9999")) == 503
    wait_for(lambda: re.search(r'istio_tcp_connections_failed_total\{[^}]*response_flags="CONNECT"', mesh.nodes[1].metrics()),
             "flag CONNECT")


def test_header_list_of_64_kib(mesh, client):
    sid = client.connect(f"{mesh.shop.ip}:8080", [(f"x-{i}", "v" * 1000) for i in range(70)])
    assert client.status(sid) == 431
    assert client.status(client.connect(f"{mesh.shop.ip}:8080")) == 200, "the tunnel lives"


def test_220_streams_at_once(mesh, client):
    sids = [client.connect(f"{mesh.shop.ip}:8080") for _ in range(220)]
    answers = [client.status(s, 20) for s in sids]
    assert answers.count(200) == 200, answers
    assert answers.count(("reset", 7)) == 20


def test_rapid_reset_ends_the_tunnel_not_the_proxy(mesh):
    with inside(mesh.nodes[0].netns):
        c = hbone.Client((mesh.shop.ip, 15008), *mesh.certificate)
    try:
        for _ in range(3000):
            sid = c.connect(f"{mesh.shop.ip}:8080")
            c.h2.reset_stream(sid, 8)
            c.flush()
    except OSError:
        pass
    c.pump(lambda: c.goaways or c.closed)
    assert c.goaways or c.closed
    if c.goaways:
        assert c.goaways[0][0] == h2.errors.ErrorCodes.ENHANCE_YOUR_CALM
    c.close()
    with inside(mesh.nodes[0].netns):
        again = hbone.Client((mesh.shop.ip, 15008), *mesh.certificate)
    assert again.status(again.connect(f"{mesh.shop.ip}:8080")) == 200
    again.close()


def alert_of(mesh, context):
    """What the server says to a client that it does not take. In TLS 1.3 the client hears of it after its own handshake."""
    with inside(mesh.nodes[0].netns):
        s = socket.create_connection((mesh.shop.ip, 15008), timeout=10)
    with s, pytest.raises(ssl.SSLError) as e:
        t = context.wrap_socket(s)
        raise AssertionError(f"the server answers with {t.recv(100)!r}")
    return e.value.reason


def test_client_trust_domain_differs(mesh):
    assert "ALERT" in alert_of(mesh, hbone.context(False, *mesh.foreign))
    wait_for(lambda: [x for x in mesh.nodes[1].proxy.text().splitlines() if "other.domain" in x and "peer_trust_domain" in x],
             "the foreign identity and the reason in the log")


def test_client_of_another_root(mesh):
    folder = tempfile.mkdtemp(dir=mesh.dir)
    sh("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1", "-subj", "/O=other",
       "-keyout", f"{folder}/key.pem", "-out", f"{folder}/cert.pem", "-addext", f"subjectAltName=URI:{mesh.web.identity}")
    assert "ALERT" in alert_of(mesh, hbone.context(False, f"{folder}/cert.pem", f"{folder}/key.pem", mesh.certificate[2]))
    wait_for(lambda: "peer_untrusted" in mesh.nodes[1].proxy.text(), "the reason in the log")


def test_no_client_certificate(mesh):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    assert alert_of(mesh, context) == "TLSV13_ALERT_CERTIFICATE_REQUIRED"


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"\0" * 100, b"\0" * 4096],
                         ids=["HTTP", "broken hello", "zeros"])
def test_garbage_instead_of_tls(mesh, client, garbage):
    told = mesh.nodes[1].proxy.text().count("tls_handshake_failed")
    with inside(mesh.nodes[0].netns):
        s = socket.create_connection((mesh.shop.ip, 15008), timeout=10)
    with s:
        s.sendall(garbage)
        try:
            while s.recv(1000):  # an alert, perhaps, and the end; without it the time runs out
                pass
        except ConnectionResetError:
            pass
    wait_for(lambda: mesh.nodes[1].proxy.text().count("tls_handshake_failed") > told, "the reason in the log")
    assert client.status(client.connect(f"{mesh.shop.ip}:8080")) == 200


def test_one_mebibyte_both_ways_arrives_intact(mesh, client):
    data = bytes((i * 7 + i // 251) & 255 for i in range(1 << 20))
    sid = client.connect(f"{mesh.shop.ip}:8080")
    assert client.status(sid) == 200
    client.send(sid, data, end=True)
    assert client.pump(lambda: client.ended(sid), 60)
    assert client.received(sid) == data


def test_reset_by_the_peer_reaches_the_application(mesh, client):
    sid = client.connect(f"{mesh.shop.ip}:8080")
    assert client.status(sid) == 200
    client.send(sid, b"x")
    client.pump(lambda: client.received(sid) == b"x")
    client.h2.reset_stream(sid, 8)
    client.flush()
    wait_for(lambda: "ERROR ConnectionResetError" in mesh.echo.text(), "a reset at the application")


def test_data_before_the_answer_is_not_lost(mesh, client):
    sid = client.connect(f"{mesh.shop.ip}:8080")
    client.h2.send_data(sid, b"early")
    client.flush()
    assert client.status(sid) == 200
    client.send(sid, b" and late", end=True)
    assert client.pump(lambda: client.ended(sid))
    assert client.received(sid) == b"early and late"


_peers = itertools.count(1)

# ---- the proxy as a client of an independent server ----

ONE_SHOT = """
import socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20)
s.sendall(sys.argv[3].encode())
s.shutdown(socket.SHUT_WR)
d = b""
while True:
    c = s.recv(65536)
    if not c:
        break
    d += c
print(d.decode(), end="")
"""


@pytest.fixture
def peer(mesh):
    """An HBONE server on a pod that is no member of node 2's mesh: the proxy's client side talks to it."""
    pod = mesh.pod(f"peer{next(_peers)}", node=1, account="peer")
    mesh.write()
    cert = leaf(mesh, pod.identity)
    with inside(pod.netns):
        listener = socket.create_server((pod.ip, 15008), backlog=64)
    wait_for(lambda: pod.ip in str(mesh.nodes[0].config_dump()["workloads"]), "the peer's workload on node 1")
    mesh.extra.append({"uid": f"Kubernetes//Pod/demo/{pod.name}-hbone", "name": pod.name + "-hbone", "namespace": "demo",
                       "serviceAccount": "peer", "workloadIps": [pod.ip], "protocol": "HBONE", "node": "elsewhere", "services": {}})
    pod.outside = True
    mesh.write()
    wait_for(lambda: any(w["uid"].endswith(pod.name + "-hbone") for w in mesh.nodes[0].config_dump()["workloads"]),
             "the peer as an HBONE workload")
    server = hbone.Server(listener, *cert)
    server.pod = pod
    yield server
    server.stop()
    mesh.extra.pop()
    mesh.nodes[1].pods.remove(pod)
    mesh.write()
    pod.destroy()


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


@pytest.mark.parametrize("how", [hbone.fin, hbone.rst, hbone.close_notify, hbone.goaway], ids=lambda f: f.__name__)
def test_server_closes_the_idle_pooled_connection_app_connects_at_once(mesh, peer, how):
    """Within a fraction of a millisecond of the close: some connections find the tunnel in the pool still."""
    app = subprocess.Popen(placed(["/usr/bin/python3", "-u", "-c", AT_ONCE, peer.pod.ip], mesh.web.netns, mesh.nodes[0].cgroup),
                           stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
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
    peer.behaviour = lambda server, conn, sid, headers: conn.h2.send_headers(sid, [(":status", "401")], end_stream=True)
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
s = socket.create_connection((sys.argv[1], 7000), timeout=20)
try:
    print("data" if s.recv(1) else "end")
except ConnectionResetError:
    print("reset")
"""
    assert mesh.web.python(code, peer.pod.ip).strip() == "reset"
    wait_for(lambda: "impostor" in mesh.nodes[0].proxy.text(), "the wrong identity in the log")


def test_sigterm_with_an_idle_tunnel(mesh):
    """Last: it ends the proxy of node 2 and starts another."""
    with inside(mesh.nodes[0].netns):
        c = hbone.Client((mesh.shop.ip, 15008), *mesh.certificate)
    assert c.status(c.connect(f"{mesh.shop.ip}:8080")) == 200
    idle = c
    with inside(mesh.nodes[0].netns):
        c = hbone.Client((mesh.shop.ip, 15008), *mesh.certificate)
    assert c.pump(lambda: c.of(0, h2.events.RemoteSettingsChanged))
    idle.close()
    mesh.nodes[1].proxy.p.terminate()
    c.pump(lambda: c.closed)
    assert c.goaways == [(0, 2**31 - 1), (0, 0)], "first none is refused, then the last one is named: there was none"
    assert c.closed
    assert mesh.nodes[1].proxy.p.wait(15) == 0
    mesh.nodes[1].start_proxy()


def test_sigterm_with_a_busy_tunnel(mesh):
    """The stream lives until it ends by itself or the deadline has come; the last GOAWAY names it."""
    node = mesh.nodes[1]
    for deadline, ends in ((None, True), ("1s", False)):
        node.proxy.stop()
        mesh.proxy_env = {"CONNECTION_TERMINATION_DEADLINE": deadline} if deadline else {}
        node.start_proxy()
        with inside(mesh.nodes[0].netns):
            c = hbone.Client((mesh.shop.ip, 15008), *mesh.certificate)
        wait_for(lambda: mesh.shop.ip in str(node.config_dump()["workloads"]), "the mesh")
        sid = c.connect(f"{mesh.shop.ip}:8080")
        assert c.status(sid) == 200
        started = time.monotonic()
        node.proxy.p.terminate()
        c.pump(lambda: len(c.goaways) == 2)
        assert c.goaways == [(0, 2**31 - 1), (0, sid)]
        if ends:
            c.send(sid, b"still served", end=True)
            assert c.pump(lambda: c.ended(sid)) and c.received(sid) == b"still served"
        assert node.proxy.p.wait(15) == 0
        assert ends or 0.9 < time.monotonic() - started < 4
        c.close()
    mesh.proxy_env = {}
    node.start_proxy()
