# SPDX-License-Identifier: Apache-2.0
"""The built-in control plane: who may call it, what certificates it gives, and calls that do not go on."""

import datetime
import os
import socket
import ssl

import grpc
import h2.connection
import h2.errors
import h2.events
import h2.settings
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from support.system import Failed
from support.xds.control_plane import (
    ADDRESS,
    CA,
    NODE,
    XDS,
    Client,
    ControlPlane,
    flip_signature,
    make_csr,
)
from support.xds.small_mesh import MESH


def failure(call):
    with pytest.raises(grpc.RpcError) as e:
        call()
    return e.value.code(), e.value.details()


@pytest.mark.parametrize("token", ["", "wrong", "0" * 64])
def test_tokens(plane, messages, token):
    plane.pod("u1", "shop", "web", True, "10.9.0.7")
    client = Client(plane, messages, token=token)
    stream = client.stream()
    stream.ask(ADDRESS)
    assert stream.end().code() == grpc.StatusCode.UNAUTHENTICATED
    code, text = failure(lambda: client.sign("spiffe://cluster.local/ns/shop/sa/web"))
    assert code == grpc.StatusCode.UNAUTHENTICATED and "token" in text
    client.close()


def test_a_token_can_be_replaced(plane, messages):
    plane.pod("u1", "shop", "web", True, "10.9.0.7")
    path = os.path.join(plane.run_dir, "control", "token")
    assert os.stat(path).st_mode & 0o777 == 0o600
    with open(path, "w", encoding="utf-8") as f:
        f.write("another-token\n")
    client = Client(plane, messages, token="another-token")
    assert client.sign("spiffe://cluster.local/ns/shop/sa/web")
    os.unlink(path)
    code, _ = failure(lambda: client.sign("spiffe://cluster.local/ns/shop/sa/web"))
    assert code == grpc.StatusCode.UNAUTHENTICATED
    client.close()


def test_another_root_is_not_believed(plane, messages, work, build):
    stranger = ControlPlane(build, work.path("stranger"), "{}\n")
    client = Client(plane, messages, root=stranger.control_file("root-cert.pem"))
    stream = client.stream()
    stream.ask(ADDRESS)
    assert stream.end().code() == grpc.StatusCode.UNAVAILABLE
    client.close()
    assert stranger.stop() == 0


def test_tls_is_as_the_contract_wants_it(plane):
    context = ssl.create_default_context(cadata=plane.control_file("root-cert.pem"))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.set_alpn_protocols(["h2"])
    for name in ("localhost", "127.0.0.1"):
        with (
            socket.create_connection(("127.0.0.1", plane.port), timeout=20) as raw,
            context.wrap_socket(raw, server_hostname=name) as s,
        ):
            assert s.version() == "TLSv1.3" and s.selected_alpn_protocol() == "h2"
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(("127.0.0.1", plane.port), timeout=20) as raw, pytest.raises(ssl.SSLError):
        context.wrap_socket(raw, server_hostname="localhost")


def test_it_listens_on_loopback_only(plane):
    with open("/proc/net/tcp", encoding="utf-8") as f:
        listening = [line.split()[1] for line in f if line.split()[3] == "0A"]
    assert [a for a in listening if a.endswith(f":{plane.port:04X}")] == [f"0100007F:{plane.port:04X}"]


def test_odd_requests(plane, client, stream, messages):
    code, _ = failure(lambda: client.call("/istio.v1.auth.IstioCertificateService/Nothing", b""))
    assert code == grpc.StatusCode.UNIMPLEMENTED
    stream.ask(ADDRESS, node="")
    error = stream.end()
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT and "node.id" in error.details()

    second = client.stream()
    second.ask("type.googleapis.com/istio.workload.Workload")
    response = second.answer()
    assert response.type_url.endswith("Workload") and not response.resources
    second.ask(ADDRESS)
    assert len(second.answer().resources) == 4
    second.ask(ADDRESS, subscribe=["x" * 100 + str(i) for i in range(100001)])
    assert second.end().code() == grpc.StatusCode.RESOURCE_EXHAUSTED

    method = client.channel.stream_stream(XDS, lambda x: x, lambda x: x)
    for data, expected in (
        (b"\xff\xff\xff", grpc.StatusCode.INVALID_ARGUMENT),
        (b"\x12\xff\xff\xff\x7f", grpc.StatusCode.INVALID_ARGUMENT),
        (bytes(17 * 1024 * 1024), grpc.StatusCode.RESOURCE_EXHAUSTED),
    ):
        code, _ = failure(lambda d=data: list(method(iter([d]), metadata=client.headers(), timeout=30)))
        assert code == expected, data[:10]
    for garbage in (b"GET / HTTP/1.1\r\n\r\n", bytes(100), b"\x16\x03\x01\xff\xff" + bytes(70000)):
        with socket.create_connection(("127.0.0.1", plane.port), timeout=20) as s:
            try:
                s.sendall(garbage)
                s.settimeout(20)
                while s.recv(4096):
                    pass
            except OSError:
                pass
    third = client.stream()
    third.ask(ADDRESS)
    assert len(third.answer().resources) == 4, "it still serves"
    third.close()


IDENTITY = "spiffe://cluster.local/ns/shop/sa/web"


@pytest.fixture
def pods(plane):
    plane.pod("u1", "shop", "web", False, "10.9.0.7")  # being enrolled
    plane.pod("u2", "plain", "outside", False, "10.9.0.3")
    return plane


def test_a_certificate(pods, client):
    csr, key = make_csr(IDENTITY)
    before = datetime.datetime.utcnow()
    chain = client.sign(IDENTITY, csr, seconds=3600)
    assert len(chain) == 2 and chain[1] == pods.control_file("root-cert.pem")
    leaf, root = (x509.load_pem_x509_certificate(c.encode()) for c in chain)
    san = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert san.critical and list(san.value) == [x509.UniformResourceIdentifier(IDENTITY)]
    assert not list(leaf.subject) and leaf.issuer == root.subject
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usage) == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert leaf.public_key().public_numbers() == key.public_key().public_numbers()
    root.public_key().verify(
        leaf.signature, leaf.tbs_certificate_bytes, ec.ECDSA(leaf.signature_hash_algorithm)
    )
    second = datetime.timedelta(seconds=1)
    assert datetime.timedelta(seconds=119) < before - leaf.not_valid_before < datetime.timedelta(seconds=122)
    assert (
        before - second
        <= leaf.not_valid_after - datetime.timedelta(hours=1)
        <= datetime.datetime.utcnow() + second
    )
    pods.wait_logged("certificate", IDENTITY)


def test_default_validity_and_rsa(pods, client):
    csr, _ = make_csr(IDENTITY, rsa.generate_private_key(65537, 2048))
    leaf = x509.load_pem_x509_certificate(client.sign(IDENTITY, csr, seconds=0)[0].encode())
    assert leaf.not_valid_after - leaf.not_valid_before == datetime.timedelta(days=1, minutes=2)


def test_what_else_the_request_asks_for_is_ignored(pods, client):
    csr, _ = make_csr("spiffe://cluster.local/ns/shop/sa/admin")
    leaf = x509.load_pem_x509_certificate(client.sign(IDENTITY, csr)[0].encode())
    san = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert list(san.value) == [x509.UniformResourceIdentifier(IDENTITY)]


@pytest.mark.parametrize(
    ("identity", "code", "words"),
    [
        (
            "spiffe://cluster.local/ns/shop/sa/cart",
            "PERMISSION_DENIED",
            "no pod of this node has that identity",
        ),
        (
            "spiffe://cluster.local/ns/other/sa/web",
            "PERMISSION_DENIED",
            "no pod of this node has that identity",
        ),
        ("spiffe://cluster.local/ns/plain/sa/default", "PERMISSION_DENIED", "are not in the mesh"),
        (
            "spiffe://other.example/ns/shop/sa/web",
            "PERMISSION_DENIED",
            "trust domain other.example is not this mesh's",
        ),
        ("spiffe://cluster.local/ns/shop/sa/we", "PERMISSION_DENIED", "no pod of this node"),
        ("spiffe://cluster.local/ns/shop/sa/web/x", "INVALID_ARGUMENT", "is not spiffe://"),
        ("cluster.local/ns/shop/sa/web", "INVALID_ARGUMENT", "is not spiffe://"),
        ("spiffe://cluster.local/ns/shop/sa/web\n", "INVALID_ARGUMENT", "contains characters"),
        ("spiffe://cluster.local/ns/shop/sa/w\u00e9b", "INVALID_ARGUMENT", "contains characters"),
        ("", "INVALID_ARGUMENT", "is not spiffe://"),
        ("x" * 60000, "INVALID_ARGUMENT", "is not spiffe://"),
        (None, "INVALID_ARGUMENT", "ImpersonatedIdentity is missing"),
    ],
)
def test_identities_that_are_refused(pods, client, identity, code, words):
    got, text = failure(lambda: client.sign(identity, make_csr()[0]))
    assert got.name == code and words in text


def test_a_pod_that_left_gets_nothing(pods, client):
    assert client.sign(IDENTITY)
    pods.tell("gone", "u1")
    code, _ = failure(lambda: client.sign(IDENTITY))
    assert code == grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize(
    ("csr", "words"),
    [
        (lambda: "", "is empty"),
        (lambda: "garbage", "is not a CERTIFICATE REQUEST in PEM"),
        (lambda: make_csr()[0][:150], "is not a CERTIFICATE REQUEST in PEM"),
        (lambda: make_csr()[0] + "x" * 20000, "is larger than 16384 bytes"),
        (lambda: flip_signature(make_csr()[0]), "its signature is not that of its key"),
        (
            lambda: make_csr(key=rsa.generate_private_key(65537, 1024))[0],
            "an RSA key must have 2048 to 8192 bits",
        ),
        (lambda: make_csr(key=ec.generate_private_key(ec.SECP521R1()))[0], "an EC key must be one of P-256"),
    ],
)
def test_requests_that_are_refused(pods, client, csr, words):
    code, text = failure(lambda: client.sign(IDENTITY, csr()))
    assert code == grpc.StatusCode.INVALID_ARGUMENT and words in text


@pytest.mark.parametrize("seconds", [-1, 90 * 86400 + 1, 2**62, -(2**63)])
def test_validities_that_are_refused(pods, client, seconds):
    code, text = failure(lambda: client.sign(IDENTITY, seconds=seconds))
    assert code == grpc.StatusCode.INVALID_ARGUMENT and "90 days" in text


def test_messages_that_are_refused(pods, client):
    for data in (b"\xff", b"\x0a\xff\xff\xff\x7f", b"\x0a\x03\xff\xfe\xfd", b"x" * 70000):
        code, _ = failure(lambda d=data: client.call(CA, d))
        assert code == grpc.StatusCode.INVALID_ARGUMENT, data[:8]
    assert client.sign(IDENTITY)


def test_nodes_that_share_a_key(work, build, messages):
    """The leaf of one node is good under the root of the other, although each signs its own root."""
    first = ControlPlane(build, work.path("a"), MESH)
    key = os.path.join(first.run_dir, "control", "ca-key.pem")
    assert os.stat(key).st_mode & 0o777 == 0o600
    second = ControlPlane(build, work.path("b"), MESH, **{"ca-key-file": key})
    assert first.control_file("root-cert.pem") != second.control_file("root-cert.pem")
    second.pod("u1", "shop", "web", True, "10.9.0.7")
    # The first node's root is enough to talk to the second.
    client = Client(second, messages, root=first.control_file("root-cert.pem"))
    leaf = x509.load_pem_x509_certificate(client.sign(IDENTITY)[0].encode())
    root = x509.load_pem_x509_certificate(first.control_file("root-cert.pem").encode())
    assert leaf.issuer == root.subject
    assert (
        leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
        == root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    )
    root.public_key().verify(
        leaf.signature, leaf.tbs_certificate_bytes, ec.ECDSA(leaf.signature_hash_algorithm)
    )
    client.close()
    assert first.stop() == 0 and second.stop() == 0


def test_a_port_that_is_taken(work, build):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        with pytest.raises(Failed, match="ended with 1") as e:
            ControlPlane(build, work.directory, MESH, **{"xds-port": s.getsockname()[1]})
        with open(e.value.log, encoding="utf-8") as f:
            assert "the control plane cannot listen" in f.read()


@pytest.mark.parametrize("how", ["takes nothing", "says half", "says nothing"])
def test_a_call_that_makes_no_progress_is_ended_and_named(work, build, messages, how):
    """PINGs are answered all the while; what others do is not touched."""
    plane = ControlPlane(build, work.directory, MESH, **{"stall-timeout": "2s"})
    client = Client(plane, messages)
    healthy = client.stream()
    healthy.ask(ADDRESS)
    healthy.answer()
    tls = ssl.create_default_context(cadata=plane.control_file("root-cert.pem"))
    tls.set_alpn_protocols(["h2"])
    with tls.wrap_socket(
        socket.create_connection(("127.0.0.1", plane.port)), server_hostname="localhost"
    ) as s:
        c = h2.connection.H2Connection()
        c.local_settings = h2.settings.Settings(
            initial_values={h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0}
        )
        c.initiate_connection()
        c.send_headers(
            1,
            [
                (":method", "POST"),
                (":scheme", "https"),
                (":path", XDS),
                (":authority", "localhost"),
                ("content-type", "application/grpc"),
                ("te", "trailers"),
                ("authorization", f"Bearer {client.token}"),
            ],
        )
        request = messages["envoy.service.discovery.v3.DeltaDiscoveryRequest"](type_url=ADDRESS)
        request.node.id = NODE
        data = request.SerializeToString()
        data = b"\0" + len(data).to_bytes(4, "big") + data
        if how != "says nothing":
            c.send_data(1, data if how == "takes nothing" else data[:-1])
        s.sendall(c.data_to_send())
        s.settimeout(20)
        reset = None
        while not reset:
            events = c.receive_data(s.recv(65536))
            reset = next((e for e in events if isinstance(e, h2.events.StreamReset)), None)
            s.sendall(c.data_to_send())
    assert reset.error_code == h2.errors.ErrorCodes.CANCEL
    plane.wait_logged(
        "call_stalled", "the client does not read" if how == "takes nothing" else "the client sends nothing"
    )
    assert plane.report()["xdsStalled"] == 1
    # A stream that has said and taken everything may be silent for as long as it likes.
    plane.replace(MESH.replace("10.9.0.3", "10.9.0.4"))
    healthy.until(
        lambda: (
            "10.9.0.4"
            in str(
                [
                    socket.inet_ntoa(a)
                    for _, m in healthy.resources[ADDRESS].values()
                    for a in m.workload.addresses
                    if len(a) == 4
                ]
            )
        ),
        "news",
    )
    healthy.close()
    client.close()
    assert plane.stop() == 0
