# SPDX-License-Identifier: Apache-2.0
"""Probes of the real kubelet under STRICT: http, tcp and gRPC go to the application, and nobody else of the
node does."""

import pytest

from support.system import wait_for

STRICT = {
    "apiVersion": "security.istio.io/v1",
    "kind": "PeerAuthentication",
    "metadata": {"name": "default", "namespace": "strict"},
    "spec": {"mtls": {"mode": "STRICT"}},
}


@pytest.fixture(scope="module")
def strict(cluster, mesh, churn):
    """A pod with a probe of each kind, which began to run under STRICT."""
    cluster.namespace("strict", accounts=("web",), **{"istio.io/dataplane-mode": "ambient"})
    cluster.api.apply(STRICT)
    pod = cluster.pod("strict", "probed", "n1", "web", probes=("startup", "liveness", "readiness"))
    other = cluster.pod("strict", "client", "n2", "web")
    mesh.wait_in_mesh(pod, other)
    wait_for(lambda: mesh.plane_knows(pod, other), "both proxies to know")
    yield pod, other
    cluster.delete_namespace("strict")


def foreign(cluster, ip, port):
    """A process of the node's namespace, not the kubelet. What it gets to read; empty if it is refused."""
    r = cluster.nodes["n1"].run(
        ["curl", "-sS", "--noproxy", "*", "-m", "2", f"http://{'[' + ip + ']' if ':' in ip else ip}:{port}/"],
        check=False,
    )
    return r.stdout


def lookups(mesh, pod):
    """Connections of probes that its namespace has taken for such."""
    counters = next(e["value"] for e in mesh.dump("n1", "pod_counters") if e["key"] == mesh.cookie(pod))
    return counters["inbound_probe_lookups"]


def test_probes_stay_green_under_strict(cluster, mesh, strict):
    pod, client = strict
    assert client.get(pod.ip).startswith("probed"), "the mesh itself is served"
    before = {e["metadata"]["uid"] for e in cluster.api.list("Event", "strict") if e["reason"] == "Unhealthy"}
    count = lookups(mesh, pod)
    wait_for(lambda: lookups(mesh, pod) >= count + 10, "ten probes to be looked up", 30, 0.2)
    assert pod.ready() and pod.restarts() == 0
    after = [
        e
        for e in cluster.api.list("Event", "strict")
        if e["reason"] == "Unhealthy" and e["metadata"]["uid"] not in before
    ]
    assert not after, [e["message"] for e in after]


@pytest.mark.parametrize("port", [8080, 9000, 9090])
def test_a_foreign_process_of_the_node_is_refused(cluster, strict, port):
    pod, _ = strict
    for ip in pod.ips:
        assert foreign(cluster, ip, port) == ""


def test_the_kubelet_may_come_back_in_another_cgroup(cluster, mesh, strict):
    """Its probes are known at once, and those of whoever is where it was are not."""
    pod, _ = strict
    node = cluster.nodes["n1"]

    def probed():
        return next(e["value"] for e in mesh.dump("n1", "pod_counters") if e["key"] == mesh.cookie(pod))[
            "inbound_probe_lookups"
        ]

    node.stop("kubelet")
    node.start_kubelet("kubelet-again")
    wait_for(
        lambda: mesh.ask("n1", "status")[0]["probeCgroup"].endswith("/kubelet-again"),
        "the agent to find it",
        30,
    )
    before = probed()
    wait_for(lambda: probed() > before + 3, "its probes to pass", 60)
    cluster.wait_node("n1")
    assert pod.restarts() == 0 and foreign(cluster, pod.ip, 8080) == ""
    wait_for(pod.ready, "the pod to be ready", 30)
    # (The nsenter of this test run that waits for it shares its cgroup, and is named.)
    assert "kubelet_not_found" not in [p["reason"] for p in mesh.ask("n1", "status")[0]["problems"]]


def test_plaintext_from_a_pod_outside_the_mesh_is_refused(cluster, strict):
    pod, _ = strict
    cluster.namespace("outside")
    stranger = cluster.pod("outside", "stranger", "n2")
    for ip in pod.ips:
        assert not stranger.get(ip, check=False, seconds=2)
    cluster.delete_namespace("outside")


def test_without_strict_the_node_is_let_in_again(cluster, strict):
    pod, _ = strict
    cluster.api.delete("PeerAuthentication", "default", "strict", "security.istio.io/v1")
    wait_for(lambda: foreign(cluster, pod.ip, 8080).startswith("probed"), "the policy to be gone")
