# SPDX-License-Identifier: Apache-2.0
"""HBONE against an independent client (contract sections 3 and 5). Tests carry the name of their row of the
conformance list."""

import re
import socket
import ssl
import tempfile
import time

import h2.errors
import h2.events
import pytest
from hyperframe.frame import HeadersFrame, PingFrame, RstStreamFrame

from support.network import inside
from support.nodes.mesh import Mesh, leaf
from support.nodes.pod_programs import ECHO
from support.proxies import hbone
from support.system import sh, wait_for


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
    sid = client.request(
        [(":method", "GET"), (":scheme", "https"), (":path", "/"), (":authority", f"{mesh.shop.ip}:8080")],
        end=True,
    )
    assert client.status(sid) == 400
    wait_for(
        lambda: any("bad_method" in line and "GET" in line for line in mesh.nodes[1].access_log("")),
        "the reason in the access log",
    )
    assert 'bruma_failures_total{reason="bad_method"} 1' in mesh.nodes[1].metrics()


def test_authority_of_another_pod(mesh, client):
    assert client.status(client.connect(f"{mesh.web.ip}:8080")) == 400


def test_authority_v4_mapped(mesh, client):
    assert client.status(client.connect(f"[::ffff:{mesh.shop.ip}]:8080")) == 400


@pytest.mark.parametrize(
    ("authority", "status"), [(":8080", 503), ("{ip}", 400), ("{ip}:99999", 400), ("unknown.host:80", 503)]
)
def test_authority_malformed(mesh, client, authority, status):
    assert client.status(client.connect(authority.format(ip=mesh.shop.ip))) == status
    wait_for(
        lambda: any("bad_authority: " in line for line in mesh.nodes[1].access_log("")),
        "the reason in the access log",
    )


def test_connect_without_authority(mesh, client):
    sid = client.request([(":method", "CONNECT")])
    assert client.status(sid) in (("reset", 1), 400)
    other = client.connect(f"{mesh.shop.ip}:8080")
    assert client.status(other) == 200, "the tunnel lives"


def test_connect_with_protocol(mesh, client):
    sid = client.request(
        [
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", "https"),
            (":path", "/"),
            (":authority", f"{mesh.shop.ip}:8080"),
        ]
    )
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
        mesh.deny(mesh.web.rule(destinationPorts=[port]))
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
    wait_for(
        lambda: re.search(
            r'istio_tcp_connections_failed_total\{[^}]*response_flags="DENY"', mesh.nodes[1].metrics()
        ),
        "flag DENY",
    )


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
    wait_for(
        lambda: re.search(
            r'istio_tcp_connections_failed_total\{[^}]*response_flags="CONNECT"', mesh.nodes[1].metrics()
        ),
        "flag CONNECT",
    )


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


def test_rapid_reset_says_why(mesh, client):
    """One by one at the end, so that nothing is on its way when the tunnel is closed: else its GOAWAY would be lost."""

    def one():
        sid = client.h2.get_next_available_stream_id()
        client.h2.send_headers(sid, [(":method", "CONNECT"), (":authority", f"{mesh.shop.ip}:8080")])
        client.h2.reset_stream(sid, 8)

    for _ in range(990):
        one()
    client.flush()
    for _ in range(300):
        one()
        client.flush()
        if client.pump(lambda: client.goaways or client.closed, 0.01):
            break
    assert [code for code, _ in client.goaways] == [h2.errors.ErrorCodes.ENHANCE_YOUR_CALM]


def test_client_trust_domain_differs(mesh):
    assert "ALERT" in hbone.alert_of(mesh, hbone.context(False, *mesh.foreign))
    wait_for(
        lambda: [
            x
            for x in mesh.nodes[1].proxy.text().splitlines()
            if "other.domain" in x and "peer_trust_domain" in x
        ],
        "the foreign identity and the reason in the log",
    )


def test_client_of_another_root(mesh):
    folder = tempfile.mkdtemp(dir=mesh.dir)
    sh(
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "1",
        "-subj",
        "/O=other",
        "-keyout",
        f"{folder}/key.pem",
        "-out",
        f"{folder}/cert.pem",
        "-addext",
        f"subjectAltName=URI:{mesh.web.identity}",
    )
    assert "ALERT" in hbone.alert_of(
        mesh, hbone.context(False, f"{folder}/cert.pem", f"{folder}/key.pem", mesh.certificate[2])
    )
    wait_for(lambda: "peer_untrusted" in mesh.nodes[1].proxy.text(), "the reason in the log")


def test_no_client_certificate(mesh):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    assert hbone.alert_of(mesh, context) == "TLSV13_ALERT_CERTIFICATE_REQUIRED"


@pytest.mark.parametrize(
    "garbage",
    [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"\0" * 100, b"\0" * 4096],
    ids=["HTTP", "broken hello", "zeros"],
)
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


def test_headers_behind_a_reset_that_crossed_our_answer(mesh, client):
    """RFC 9113, section 5.1: the peer has ended the stream, whichever end of it came first."""
    sid = client.request([(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a")])
    assert client.status(sid) in (400, 404, 405, 501)
    assert client.pump(lambda: client.of(sid, h2.events.StreamReset))
    reset = RstStreamFrame(sid, error_code=h2.errors.ErrorCodes.CANCEL).serialize()
    client.tls.sendall(reset + HeadersFrame(sid, data=b"\x82\x84\x86", flags=["END_HEADERS"]).serialize())
    assert client.pump(lambda: client.goaways or client.closed)
    assert client.goaways[0][0] == h2.errors.ErrorCodes.STREAM_CLOSED


class LateClient(hbone.Client):
    """Keeps what it would send, its answers to PING among it, while it is told to."""

    send_nothing = False

    def flush(self):
        if not self.send_nothing:
            super().flush()


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
    mesh.nodes[1].proxy.popen.terminate()
    c.pump(lambda: c.closed)
    assert c.goaways == [(0, 2**31 - 1), (0, 0)], (
        "first none is refused, then the last one is named: there was none"
    )
    assert c.closed
    assert mesh.nodes[1].proxy.popen.wait(15) == 0
    mesh.nodes[1].start_proxy()


def test_sigterm_meets_a_request_on_an_idle_tunnel(mesh):
    """The request left before the client heard of the end: it is served, and the last GOAWAY names it."""
    node = mesh.nodes[1]
    with inside(mesh.nodes[0].netns):
        c = LateClient((mesh.shop.ip, 15008), *mesh.certificate)
    assert c.pump(lambda: c.of(0, h2.events.RemoteSettingsChanged))
    c.send_nothing = True
    node.proxy.popen.terminate()
    assert c.pump(lambda: c.goaways) and c.goaways == [(0, 2**31 - 1)]
    c.send_nothing = False
    c.h2.clear_outbound_data_buffer()
    sid = c.connect(f"{mesh.shop.ip}:8080")
    assert c.status(sid) == 200
    c.tls.sendall(PingFrame(0, opaque_data=bytes(8), flags=["ACK"]).serialize())
    assert c.pump(lambda: len(c.goaways) == 2) and c.goaways[1] == (0, sid)
    c.send(sid, b"served", end=True)
    assert c.pump(lambda: c.ended(sid)) and c.received(sid) == b"served"
    assert node.proxy.popen.wait(15) == 0
    c.close()
    node.start_proxy()


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
        node.proxy.popen.terminate()
        c.pump(lambda: len(c.goaways) == 2)
        assert c.goaways == [(0, 2**31 - 1), (0, sid)]
        if ends:
            c.send(sid, b"still served", end=True)
            assert c.pump(lambda: c.ended(sid)) and c.received(sid) == b"still served"
        assert node.proxy.popen.wait(15) == 0
        assert ends or 0.9 < time.monotonic() - started < 4
        c.close()
    mesh.proxy_env = {}
    node.start_proxy()
