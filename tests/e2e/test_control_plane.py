# SPDX-License-Identifier: Apache-2.0
"""The built-in control plane, spoken to by an independent gRPC client: delta xDS, the CA, the mesh file's
changes."""

import datetime
import os
import re
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

from support.system import Failed, wait_for
from support.xds.control_plane import (
    ADDRESS,
    AUTHORIZATION,
    CA,
    NODE,
    ROOT,
    XDS,
    Client,
    ControlPlane,
    flip_signature,
    load_messages,
    make_csr,
)

CART, WEB = "lab//Pod/shop/cart-0", "Kubernetes//Pod/shop/web"

MESH = """
namespaces:
- name: shop
  labels: {istio.io/dataplane-mode: ambient}
- name: plain
workloads:
- uid: lab//Pod/shop/cart-0
  name: cart-0
  namespace: shop
  serviceAccount: cart
  workloadIps: ["10.9.0.2"]
  node: node-b
  authorizationPolicies: ["shop/only-web"]
  services:
    shop/cart.shop.svc.cluster.local: {80: 8080}
- name: web
  namespace: shop
  serviceAccount: web
- name: outside
  namespace: plain
  workloadIps: ["10.9.0.3"]
services:
- name: cart
  namespace: shop
  hostname: cart.shop.svc.cluster.local
  vips: ["/10.96.0.20", "/fd00::20"]
  ports: {80: 8080}
policies:
- name: only-web
  namespace: shop
  scope: WorkloadSelector
  action: Allow
  rules:
  - - - principals: [!Exact cluster.local/ns/shop/sa/web]
        notDestinationPorts: [9090]
"""


@pytest.fixture(scope="module")
def messages(tmp_path_factory):
    return load_messages(str(tmp_path_factory.mktemp("messages")))


@pytest.fixture
def plane(work, build):
    p = ControlPlane(build, work.directory, MESH)
    yield p
    assert p.stop() == 0, p.log


@pytest.fixture
def client(plane, messages):
    c = Client(plane, messages)
    yield c
    c.close()


@pytest.fixture
def stream(client):
    s = client.stream()
    yield s
    s.close()


def subscribe(stream):
    """Both types, as a proxy does."""
    stream.ask(ADDRESS)
    stream.answer()
    stream.ask(AUTHORIZATION)
    stream.answer()
    return stream


def hbone(stream, uid):
    return stream.workload(uid) is not None and stream.workload(uid).tunnel_protocol == 1


def packed(*text):
    return [socket.inet_pton(socket.AF_INET6 if ":" in t else socket.AF_INET, t) for t in text]


# ---- what is served ----


def test_everything_is_served(stream):
    subscribe(stream)
    addresses = stream.resources[ADDRESS]
    assert set(addresses) == {CART, WEB, "Kubernetes//Pod/plain/outside", "shop/cart.shop.svc.cluster.local"}
    cart = stream.workload(CART)
    assert (cart.name, cart.namespace, cart.service_account, cart.node) == (
        "cart-0",
        "shop",
        "cart",
        "node-b",
    )
    assert cart.trust_domain == "cluster.local" and cart.tunnel_protocol == 1
    assert list(cart.addresses) == packed("10.9.0.2")
    assert list(cart.authorization_policies) == ["shop/only-web"]
    assert [(e.key, [(p.service_port, p.target_port) for p in e.value.ports]) for e in cart.services] == [
        ("shop/cart.shop.svc.cluster.local", [(80, 8080)])
    ]
    assert not hbone(stream, "Kubernetes//Pod/plain/outside")
    service = addresses["shop/cart.shop.svc.cluster.local"][1].service
    assert [a.address for a in service.addresses] == packed("10.96.0.20", "fd00::20")
    policy = stream.resources[AUTHORIZATION]["shop/only-web"][1]
    assert (policy.scope, policy.action, policy.dry_run) == (2, 0, False)
    match = policy.rules[0].clauses[0].matches[0]
    assert match.principals[0].exact == "cluster.local/ns/shop/sa/web"
    assert list(match.not_destination_ports) == [9090]


def test_nothing_is_a_response_too(work, build, messages):
    plane = ControlPlane(build, work.directory, "{}\n")
    client = Client(plane, messages)
    stream = client.stream()
    stream.ask(AUTHORIZATION)
    response = stream.answer()
    assert not response.resources and response.nonce and response.type_url == AUTHORIZATION
    assert stream.silent()
    stream.close()
    client.close()
    assert plane.stop() == 0


def test_deltas(plane, stream):
    subscribe(stream)
    before = stream.versions(ADDRESS)
    plane.write(MESH.replace("10.9.0.3", "10.9.0.4").replace("serviceAccount: cart", "serviceAccount: till"))
    response = stream.answer()
    assert {r.name for r in response.resources} == {CART, "Kubernetes//Pod/plain/outside"}
    assert not response.removed_resources
    assert stream.versions(ADDRESS)[CART] != before[CART] and stream.workload(CART).service_account == "till"
    plane.write(MESH)
    stream.answer()
    assert stream.versions(ADDRESS) == before, "a version says what the content is"
    plane.write("{}\n")
    stream.until(lambda: not stream.resources[ADDRESS] and not stream.resources[AUTHORIZATION], "all is gone")


def test_only_what_is_missing_after_a_reconnect(plane, client, stream):
    subscribe(stream)
    held = stream.versions(ADDRESS)
    stream.close()

    second = client.stream()
    second.ask(ADDRESS, held=held)
    response = second.answer()
    assert not response.resources and not response.removed_resources
    second.close()

    plane.write(MESH.replace("10.9.0.3", "10.9.0.4"))
    plane.wait_logged("mesh file read")
    wait_for(lambda: len(plane.events) == 1, "the file to be read")
    third = client.stream()
    third.ask(ADDRESS, held={**held, "shop/gone.shop.svc.cluster.local": "1", "x//Pod/a/b": ""})
    response = third.answer()
    assert [r.name for r in response.resources] == ["Kubernetes//Pod/plain/outside"]
    assert set(response.removed_resources) == {"shop/gone.shop.svc.cluster.local", "x//Pod/a/b"}
    third.close()


def test_a_restart_is_not_noticed_by_versions(plane, messages, client, stream):
    subscribe(stream)
    held, token, root = (
        stream.versions(ADDRESS),
        plane.control_file("token"),
        plane.control_file("root-cert.pem"),
    )
    plane.restart()
    assert plane.control_file("token") == token and plane.control_file("root-cert.pem") == root
    again = Client(plane, messages)
    second = again.stream()
    second.ask(ADDRESS, held=held)
    assert not second.answer().resources
    second.close()
    again.close()


def test_a_refusal_is_logged_with_its_reason(plane, stream):
    stream.ask(ADDRESS)
    response = stream.answer(ack=False)
    stream.ask(ADDRESS, nonce=response.nonce, error=f'{CART}: address of 5 bytes; "quoted"\n')
    line = plane.wait_logged("refuses resources", CART, "address of 5 bytes")
    assert ADDRESS in line and f"nonce={response.nonce}" in line and NODE_ID in line
    assert stream.silent(), "it is not sent again before it changes"
    plane.write(MESH.replace("10.9.0.2", "10.9.0.9"))
    assert [r.name for r in stream.answer().resources] == [CART]
    assert plane.report()["xdsRefused"] == 1


NODE_ID = "ztunnel~10.0.0.1~ztunnel-1.istio-system"


def test_on_demand(plane, stream):
    stream.ask(ADDRESS, subscribe=["*"], unsubscribe=["*"])
    assert not stream.answer().resources
    stream.ask(ADDRESS, subscribe=["/10.9.0.2"])
    response = stream.answer()
    assert [(r.name, list(r.aliases)) for r in response.resources] == [(CART, ["/10.9.0.2"])]
    stream.ask(ADDRESS, subscribe=["/10.96.0.20"])
    assert {r.name for r in stream.answer().resources} == {"shop/cart.shop.svc.cluster.local"}
    stream.ask(ADDRESS, subscribe=["/10.1.1.1"])
    assert list(stream.answer().removed_resources) == ["/10.1.1.1"]
    plane.write(MESH.replace("10.9.0.3", "10.1.1.1"))
    assert [r.name for r in stream.answer().resources] == ["Kubernetes//Pod/plain/outside"]
    plane.pod("u1", "shop", "web", True, "10.9.0.7")
    assert [r.name for r in stream.answer().resources] == [WEB], (
        "pods of the client's node come by themselves"
    )


def test_two_clients_are_told_each_its_own(plane, client, stream):
    subscribe(stream)
    other = client.stream()
    other.ask(ADDRESS)
    assert len(other.answer().resources) == 4
    assert plane.report()["xdsClients"] == 2
    plane.write(MESH.replace("10.9.0.3", "10.9.0.4"))
    assert len(stream.answer().resources) == 1 and len(other.answer().resources) == 1
    other.close()
    wait_for(lambda: plane.report()["xdsClients"] == 1, "the stream to be over")


def test_the_examples_in_the_tree(work, build):
    examples = []
    for page in ("mesh-file.md", "waypoints.md"):
        with open(os.path.join(ROOT, "docs", page), encoding="utf-8") as f:
            examples += re.findall(r"```yaml\n(.*?)```", f.read(), re.S)
    with open(os.path.join(ROOT, "packaging", "etc", "mesh.yaml"), encoding="utf-8") as f:
        examples.append(f.read())
    assert len(examples) == 4
    for i, text in enumerate(examples):
        plane = ControlPlane(build, work.path(str(i)), text)
        assert plane.first_report["meshReady"], plane.first_report["meshError"]
        assert plane.first_report["namespaces"] > 0
        assert plane.stop() == 0


# ---- pods of this node ----


def test_hbone_is_announced_once_a_pod_is_verified(plane, stream):
    plane.pod("u1", "shop", "web", False, "10.9.0.7", "fd00::7")
    subscribe(stream)
    assert not hbone(stream, WEB)
    assert list(stream.workload(WEB).addresses) == packed("10.9.0.7", "fd00::7")
    assert stream.workload(WEB).node == "node-a"
    plane.pod("u1", "shop", "web", True, "10.9.0.7", "fd00::7")
    stream.answer()
    assert hbone(stream, WEB)
    plane.pod("u1", "shop", "web", True, "10.9.0.7", "fd00::7")
    assert stream.silent()
    plane.tell("gone", "u1")
    stream.answer()
    assert not stream.workload(WEB).addresses and stream.workload(WEB).node == ""


def test_labels_decide(plane, stream):
    plane.pod("u1", "shop", "web", True, "10.9.0.7")
    subscribe(stream)
    assert hbone(stream, WEB) and hbone(stream, CART)
    assert plane.tell("ask", "shop", "web") == {
        "ready": True,
        "ambient": True,
        "mode": 0,
        "serviceAccount": "web",
    }
    plane.write(
        MESH.replace(
            "  serviceAccount: web\n", "  serviceAccount: web\n  labels: {istio.io/dataplane-mode: none}\n"
        )
    )
    stream.answer()
    assert not hbone(stream, WEB) and hbone(stream, CART)
    assert plane.tell("ask", "shop", "web")["mode"] == 2
    plane.write(MESH.replace("mode: ambient", "mode: other"))
    stream.until(lambda: not hbone(stream, CART), "the namespace to leave the mesh")
    assert not hbone(stream, WEB)
    assert not plane.tell("ask", "shop", "web")["ambient"]
    assert len(plane.events) == 2, "the core of the agent is told of each change"


def test_pods_that_the_file_does_not_name(plane, stream):
    subscribe(stream)
    plane.pod("u9", "shop", "extra", False, "10.9.0.50")
    stream.answer()
    uid = "Kubernetes//Pod/shop/extra"
    w = stream.workload(uid)
    assert (w.name, w.namespace, w.service_account, w.node, w.trust_domain) == (
        "extra",
        "shop",
        "default",
        "node-a",
        "cluster.local",
    )
    assert list(w.addresses) == packed("10.9.0.50") and not hbone(stream, uid)
    plane.pod("u9", "shop", "extra", True, "10.9.0.50")
    stream.answer()
    assert hbone(stream, uid)
    # Its successor comes before it is gone.
    plane.pod("u10", "shop", "extra", True, "10.9.0.51")
    stream.until(lambda: list(stream.workload(uid).addresses) == packed("10.9.0.51"), "the newer pod counts")
    plane.tell("gone", "u9")
    assert stream.silent()
    # The file names it now.
    plane.replace(
        MESH.replace("- name: web\n", "- {name: extra, namespace: shop, serviceAccount: sa}\n- name: web\n")
    )
    stream.until(lambda: stream.workload(uid).service_account == "sa", "the file's word counts")
    assert list(stream.workload(uid).addresses) == packed("10.9.0.51") and hbone(stream, uid)
    plane.replace(MESH)
    stream.until(lambda: stream.workload(uid).service_account == "default", "it is made again")
    plane.tell("gone", "u10")
    stream.until(lambda: stream.workload(uid) is None, "it is gone")
    plane.pod("u11", "plain", "quiet", False, "10.9.0.60")
    assert stream.silent(), "its namespace is not in the mesh"


# ---- the file ----


@pytest.mark.parametrize("how", ["in place", "rename", "slow writer", "removed and made"])
def test_changes_of_the_file(plane, stream, how):
    subscribe(stream)
    text = MESH.replace("10.9.0.3", "10.9.0.4")
    if how == "in place":
        plane.write(text)
    elif how == "rename":
        plane.replace(text)
    elif how == "removed and made":
        os.unlink(plane.mesh_file)
        wait_for(lambda: "No such file" in plane.report()["meshError"], "the loss to be noticed")
        assert plane.report()["meshReady"] and plane.report()["workloads"] == 3, "the last good state stays"
        plane.write(text)
    else:
        with open(plane.mesh_file, "w", encoding="utf-8") as f:
            half = text.index("services:\n- name")
            f.write(text[:half])
            f.flush()
            assert stream.silent(0.5), "a file that is being written is left alone"
            f.write(text[half:])
    response = stream.answer()
    assert [r.name for r in response.resources] == ["Kubernetes//Pod/plain/outside"]
    assert not response.removed_resources
    wait_for(lambda: plane.report()["meshError"] == "", "no error")


def test_a_mounted_configmap(work, build, messages):
    """kubelet's way: mesh.yaml -> ..data/mesh.yaml, and ..data is swapped by rename."""
    volume = work.path("volume")

    def publish(name, text):
        os.makedirs(os.path.join(volume, name))
        with open(os.path.join(volume, name, "mesh.yaml"), "w", encoding="utf-8") as f:
            f.write(text)
        os.symlink(name, os.path.join(volume, "..data_tmp"))
        os.rename(os.path.join(volume, "..data_tmp"), os.path.join(volume, "..data"))

    publish("..1", MESH)
    os.symlink("..data/mesh.yaml", os.path.join(volume, "mesh.yaml"))
    plane = ControlPlane(build, work.directory, mesh_file=os.path.join(volume, "mesh.yaml"))
    client = Client(plane, messages)
    stream = subscribe(client.stream())
    for i in (2, 3):
        publish(f"..{i}", MESH.replace("10.9.0.3", f"10.9.1.{i}"))
        stream.answer()
        assert list(stream.workload("Kubernetes//Pod/plain/outside").addresses) == packed(f"10.9.1.{i}")
    stream.close()
    client.close()
    assert plane.stop() == 0


def test_a_wrong_file_changes_nothing(plane, stream):
    subscribe(stream)
    wrong = MESH.replace('workloadIps: ["10.9.0.3"]', 'workloadIps: ["10.1.1"]')
    line = wrong[: wrong.index("10.1.1")].count("\n") + 1
    plane.write(wrong)
    expected = f'{plane.mesh_file}:{line}:17: workloads[2].workloadIps[0]: "10.1.1" is not an IP address'
    wait_for(lambda: plane.report()["meshError"] == expected, "the error to be reported")
    plane.wait_logged("the mesh file cannot be used", "the last good one stays", "is not an IP address")
    assert plane.report()["meshReady"] and plane.report()["workloads"] == 3
    assert stream.silent() and not plane.events
    plane.write("")
    wait_for(lambda: "is empty" in plane.report()["meshError"], "an empty file to be refused")
    assert stream.silent()
    plane.write(MESH.replace("10.9.0.3", "10.9.0.4"))
    stream.answer()
    assert plane.report()["meshError"] == ""


def test_nobody_is_told_of_an_empty_mesh(work, build, messages):
    """After a start with a wrong file clients keep what they know."""
    plane = ControlPlane(build, work.directory)
    assert not plane.first_report["meshReady"] and "No such file" in plane.first_report["meshError"]
    client = Client(plane, messages)
    stream = client.stream()
    stream.ask(ADDRESS, held={CART: "1"})
    assert stream.silent(1)
    plane.write(MESH)
    response = stream.answer()
    assert {r.name for r in response.resources} >= {CART, WEB} and not response.removed_resources
    stream.close()
    client.close()
    assert plane.stop() == 0


def test_a_hundred_thousand_workloads(work, build, messages):
    item = (
        "- {{uid: uid-{0}, name: pod-{0}, namespace: shop, serviceAccount: sa-{1}, node: node-{1}, "
        "workloadIps: [10.{2}.{3}.{4}], services: {{shop/cart: {{80: 8080}}}}}}\n"
    )
    items = [item.format(i, i % 100, 10 + (i >> 16), i >> 8 & 255, i & 255) for i in range(100000)]
    head = (
        "namespaces: [{name: shop, labels: {istio.io/dataplane-mode: ambient}}]\n"
        "services: [{name: cart, namespace: shop, hostname: cart, vips: [/10.96.0.20], ports: {80: 8080}}]\n"
        "workloads:\n"
    )
    plane = ControlPlane(build, work.directory, head + "".join(items))
    assert plane.first_report["workloads"] == 100000
    client = Client(plane, messages)
    stream = client.stream()
    stream.ask(ADDRESS)
    largest = 0
    while len(stream.resources[ADDRESS]) < 100001:
        largest = max(largest, len(stream.answer(timeout=60).resources))
    assert largest <= 500
    held = stream.versions(ADDRESS)
    items[77777] = items[77777].replace("serviceAccount: sa-77", "serviceAccount: changed")
    del items[5]
    plane.replace(head + "".join(items))
    response = stream.answer(timeout=60)
    assert [r.name for r in response.resources] == ["uid-77777"] and list(response.removed_resources) == [
        "uid-5"
    ]
    stream.close()

    # The reconnect of a proxy that holds them all.
    second = client.stream()
    second.ask(ADDRESS, held=held)
    response = second.answer(timeout=60)
    assert [r.name for r in response.resources] == ["uid-77777"] and list(response.removed_resources) == [
        "uid-5"
    ]
    # Two readings of the file and the queue of a stream; 160 leaves room for another allocator.
    assert plane.resident_megabytes() < 160
    second.close()
    client.close()
    assert plane.stop() == 0


# ---- who may talk ----


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


# ---- certificates ----

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
            "trust domain other.example is not ours",
        ),
        ("spiffe://cluster.local/ns/shop/sa/we", "PERMISSION_DENIED", "no pod of this node"),
        ("spiffe://cluster.local/ns/shop/sa/web/x", "INVALID_ARGUMENT", "is not spiffe://"),
        ("cluster.local/ns/shop/sa/web", "INVALID_ARGUMENT", "is not spiffe://"),
        ("spiffe://cluster.local/ns/shop/sa/web\n", "INVALID_ARGUMENT", "holds characters"),
        ("spiffe://cluster.local/ns/shop/sa/w\u00e9b", "INVALID_ARGUMENT", "holds characters"),
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


# ---- clients that are alive and do nothing ----


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
        "call_stalled", "the client takes nothing" if how == "takes nothing" else "the client says no more"
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
