# SPDX-License-Identifier: Apache-2.0
"""Scenarios of Istio's own ambient tests in which istiod decides what the proxies know (docs/conformance.md lists all, by
name): service entries of every kind, policies by port, what is left alone. A stock istiod is needed."""

import os

import pytest
import yaml

from plan import API_SERVICE, CONTROL4, SYSTEM
from support.system import Process, run, wait_for

pytestmark = pytest.mark.skipif(not os.environ.get("BRUMA_ISTIOD"), reason="not given: BRUMA_ISTIOD")
METADATA_SERVER = "169.254.169.254"

# An A record of the name, as the server at that address answers.
RESOLVE = r"""
import socket, struct, sys
name, server = sys.argv[1:3]
labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(5)
s.sendto(struct.pack(">6H", 1, 0x100, 1, 0, 0, 0) + labels + b"\0\0\1\0\1", (server, 53))
answer = s.recv(4096)
flags, _, count = struct.unpack(">3H", answer[2:8])
print(socket.inet_ntoa(answer[-4:]) if count else f"none, code {flags & 15}")
"""


class Objects:
    """Of istiod's API, in the namespace of the scenarios; deleted when the scenario ends."""

    def __init__(self, cluster):
        self.cluster, self.made = cluster, []

    def __call__(self, kind, name, spec, version="networking.istio.io/v1", namespace="field"):
        self.made.append((kind, name, namespace, version))
        self.cluster.api.apply(
            {
                "apiVersion": version,
                "kind": kind,
                "metadata": {"name": name, "namespace": namespace},
                "spec": spec,
            }
        )

    def security(self, kind, name, spec):
        self(kind, name, spec, "security.istio.io/v1")

    def entry(self, name, vip, **more):
        self(
            "ServiceEntry",
            name,
            {
                "hosts": [f"{name}.example"],
                "addresses": [vip],
                "ports": [{"number": 80, "name": "http", "protocol": "TCP", "targetPort": 8080}],
                "resolution": "STATIC",
                **more,
            },
        )

    def close(self):
        for kind, name, namespace, version in self.made:
            self.cluster.api.delete(kind, name, namespace, version)


@pytest.fixture
def make(cluster):
    o = Objects(cluster)
    yield o
    o.close()


@pytest.fixture(scope="module")
def field(cluster, mesh):
    """client on one node, two servers of a Service on the other, a pod beside that is not in the mesh, and a stranger in
    another namespace of the mesh."""
    mode = {"istio.io/dataplane-mode": "ambient"}
    cluster.namespace("field", accounts=("client", "server"), **mode)
    cluster.namespace("elsewhere", **mode)
    pods = {
        "client": cluster.pod("field", "client", "n1", "client", wait=False),
        "server": cluster.pod("field", "server", "n2", "server", wait=False, labels={"of": "service"}),
        "second": cluster.pod("field", "second", "n1", "server", wait=False, labels={"of": "service"}),
        "plain": cluster.pod("field", "plain", "n2", wait=False, labels={"istio.io/dataplane-mode": "none"}),
        "stranger": cluster.pod("elsewhere", "stranger", "n1", wait=False),
    }
    for pod in pods.values():
        pod.wait_ready()
    inside = [p for name, p in pods.items() if name != "plain"]
    mesh.wait_in_mesh(*inside)
    wait_for(lambda: mesh.plane_knows(*inside), "the proxies to know the pods", 30)
    yield pods
    cluster.delete_namespace("elsewhere")
    cluster.delete_namespace("field")


def answers(pod, address, port=80, timeout=20):
    return wait_for(
        lambda: pod.get(address, port, check=False, seconds=2), f"an answer at {address}", timeout
    )


def carried(mesh, node, seen, **fields):
    mesh.wait_access(node, "the connection", seen, **fields)


def test_every_endpoint_of_a_service_gets_some(cluster, field):
    """TestServerSideLB"""
    vip = cluster.service("field", "service", {"of": "service"})[0]
    answers(field["client"], vip)
    seen = {field["client"].get(vip, 80).split()[0] for _ in range(40)}
    assert seen == {"server", "second"}


def test_an_entry_with_its_endpoints_in_it(mesh, field, make):
    """TestServiceEntryInlinedWorkloadEntry"""
    make.entry("inlined", "10.200.7.1", location="MESH_EXTERNAL", endpoints=[{"address": field["plain"].ip}])
    seen = len(mesh.access("n1"))
    assert answers(field["client"], "10.200.7.1").startswith("plain sees")
    carried(mesh, "n1", seen, direction="outbound", dst__service="inlined.example")


def test_an_entry_that_selects_workload_entries(mesh, field, make):
    """TestServiceEntrySelectsWorkloadEntry"""
    make("WorkloadEntry", "machine", {"address": field["plain"].ip, "labels": {"app": "machine"}})
    make.entry("machines", "10.200.7.2", workloadSelector={"labels": {"app": "machine"}})
    seen = len(mesh.access("n1"))
    assert answers(field["client"], "10.200.7.2").startswith("plain sees")
    carried(mesh, "n1", seen, direction="outbound", dst__service="machines.example")


def test_an_entry_that_selects_a_pod(mesh, field, make):
    """By HBONE, with both identities."""
    make.entry("pods", "10.200.7.3", location="MESH_INTERNAL", workloadSelector={"labels": {"app": "server"}})
    seen = len(mesh.access("n2"))
    assert answers(field["client"], "10.200.7.3").startswith("server sees")
    carried(
        mesh,
        "n2",
        seen,
        direction="inbound",
        src__identity="spiffe://cluster.local/ns/field/sa/client",
        dst__identity="spiffe://cluster.local/ns/field/sa/server",
    )


def test_an_entry_that_selects_a_pod_outside(mesh, field, make):
    """TestServiceEntrySelectsUncapturedPod"""
    make.entry("uncaptured", "10.200.7.4", workloadSelector={"labels": {"app": "plain"}})
    assert answers(field["client"], "10.200.7.4").startswith("plain sees")


def test_an_entry_by_names_alone(cluster, mesh, field, make):
    """TestServiceEntryDNSWithAutoAssign: istiod gives it an address, the client learns it by asking its own server for the
    name, and the endpoint is a name that the proxy looks up."""
    with open(f"{cluster.names}/backend", "w") as f:
        f.write(f"{field['plain'].ip} backend.auto.example\n")
    make(
        "ServiceEntry",
        "auto",
        {
            "hosts": ["auto.example"],
            "ports": [{"number": 80, "name": "http", "protocol": "TCP", "targetPort": 8080}],
            "resolution": "DNS",
            "endpoints": [{"address": "backend.auto.example"}],
        },
    )

    def address():
        text = field["client"].python(RESOLVE, "auto.example", CONTROL4).strip()
        return text if text.startswith("240.240.") else None

    vip = wait_for(address, "the name to have an address of istiod's", 30)
    assert field["plain"].python(RESOLVE, "auto.example", CONTROL4).startswith("none"), (
        "the server does not know it"
    )
    seen = len(mesh.access("n1"))
    assert answers(field["client"], vip).startswith("plain sees")
    carried(mesh, "n1", seen, direction="outbound", dst__service="auto.example")
    os.unlink(f"{cluster.names}/backend")


@pytest.fixture
def entries_are_of_their_namespace(cluster):
    """By istiod's mesh configuration, which it follows."""

    def write(text):
        change = {"data": {"mesh": text}}
        cluster.api.merge("ConfigMap", "istio", change, SYSTEM)

    before = cluster.api.get("ConfigMap", "istio", SYSTEM)["data"]["mesh"]
    visibility = {"serviceEntryVisibility": {"defaultVisibility": "NAMESPACE"}}
    write(yaml.safe_dump({**yaml.safe_load(before), **visibility}))
    yield
    write(before)


def test_an_entry_of_one_namespace(mesh, field, make, entries_are_of_their_namespace):
    """TestServiceEntryVisibility: others do not see it; its address is nobody's for them."""
    make.entry("private", "10.200.7.5", workloadSelector={"labels": {"app": "server"}})
    assert answers(field["client"], "10.200.7.5").startswith("server sees")
    assert field["stranger"].get(field["server"].ip).startswith("server sees")
    wait_for(
        lambda: not field["stranger"].get("10.200.7.5", 80, check=False, seconds=2), "it to be invisible", 20
    )
    seen = len(mesh.access("n1"))
    assert not field["stranger"].get("10.200.7.5", 80, check=False, seconds=2)
    assert not [a for a in mesh.access("n1")[seen:] if a.get("dst.service") == "private.example"]
    assert answers(field["client"], "10.200.7.5").startswith("server sees")


def test_mutual_tls_by_port(cluster, field, make):
    """TestPeerAuthentication: strict, but for a port; permissive, but for a port."""
    server, plain, client = field["server"], field["plain"], field["client"]
    selector = {"matchLabels": {"app": "server"}}
    for mode, other in (("STRICT", "PERMISSIVE"), ("PERMISSIVE", "STRICT")):
        make.security(
            "PeerAuthentication",
            "by-port",
            {"selector": selector, "mtls": {"mode": mode}, "portLevelMtls": {"9000": {"mode": other}}},
        )
        open_port, closed = (9000, 8080) if mode == "STRICT" else (8080, 9000)
        wait_for(lambda: not talks(plain, server.ip, closed), f"port {closed} to be closed", 20)
        wait_for(lambda: talks(plain, server.ip, open_port), f"port {open_port} to be open", 20)
        assert talks(client, server.ip, 8080) and talks(client, server.ip, 9000)


def talks(pod, address, port):
    """A byte comes back: of HTTP, or the line of text that port 9000 sends."""
    return bool(
        pod.run(
            *("curl", "-s", "--noproxy", "*", "--http0.9", "-m", "2", f"http://{address}:{port}/"),
            check=False,
        ).stdout
    )


def test_policies_by_namespace_and_port(cluster, field, make):
    """TestAuthorizationL4"""
    server, client, stranger = field["server"], field["client"], field["stranger"]
    selector = {"matchLabels": {"app": "server"}}
    make.security(
        "AuthorizationPolicy",
        "l4",
        {"selector": selector, "rules": [{"from": [{"source": {"namespaces": ["field"]}}]}]},
    )
    wait_for(lambda: not talks(stranger, server.ip, 8080), "the policy to count", 20)
    assert talks(client, server.ip, 8080)
    make.security(
        "AuthorizationPolicy",
        "l4-deny",
        {"selector": selector, "action": "DENY", "rules": [{"to": [{"operation": {"ports": ["9000"]}}]}]},
    )
    wait_for(lambda: not talks(client, server.ip, 9000), "the refusal to count", 20)
    assert talks(client, server.ip, 8080)


def test_a_waypoint_that_is_not_there(cluster, field):
    """TestBogusUseWaypoint: istiod does not send it, and the service is reached as before."""
    vip = cluster.service("field", "bogus", {"app": "server"})[0]
    cluster.api.merge(
        "Service", "bogus", {"metadata": {"labels": {"istio.io/use-waypoint": "nobody"}}}, "field"
    )
    answers(field["client"], vip)
    for _ in range(10):
        assert field["client"].get(vip, 80).startswith("server sees")


def test_what_is_not_the_meshs_passes(cluster, mesh, field):
    """TestAPIServer, TestMetadataServer, TestOutboundPolicyAllowAny: in plaintext, as from a pod outside."""
    client = field["client"]
    r = client.run("curl", "-sk", "--noproxy", "*", "-m", "5", f"https://{API_SERVICE}/version")
    assert '"gitVersion"' in r.stdout or '"code": 401' in r.stdout, r.stdout
    run(["ip", "-n", cluster.netns, "addr", "add", f"{METADATA_SERVER}/32", "dev", "lo"])
    server = Process(
        ["/usr/bin/python3", "-m", "http.server", "-d", f"{cluster.directory}/names", "8099"],
        f"{cluster.directory}/metadata-server.log",
        netns=cluster.netns,
    )
    try:
        for address in (METADATA_SERVER, CONTROL4):
            seen = len(mesh.access("n1"))
            assert "Directory listing" in answers(client, address, 8099)
            mesh.wait_access(
                "n1",
                "the connection",
                seen,
                direction="outbound",
                dst__addr=f"{address}:8099",
                error=lambda e: not e,
            )
    finally:
        server.stop()
        run(["ip", "-n", cluster.netns, "addr", "del", f"{METADATA_SERVER}/32", "dev", "lo"])


def test_a_network_policy_that_admits_hbone_alone(cluster, field):
    """TestK8sNetPol: enforced before the pod, as plugins do it."""
    server, client, plain = field["server"], field["client"], field["plain"]
    match = f"ip daddr {server.ip} tcp dport != 15008 drop"
    rules = f"table inet netpol {{ chain forward {{ type filter hook forward priority 0; {match}; }}; }}"
    server.node.run(["nft", rules])
    try:
        assert not talks(plain, server.ip, 8080)
        assert client.get(server.ip).startswith("server sees")
    finally:
        server.node.run(["nft", "delete", "table", "inet", "netpol"])
    assert talks(plain, server.ip, 8080)
