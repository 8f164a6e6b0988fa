# SPDX-License-Identifier: Apache-2.0
"""What bpftool alone says on a node: which pods are in the mesh, who they are, why a connection was refused."""
import pytest
from support.system import wait_for


@pytest.fixture(scope="module")
def pods(cluster, mesh):
    cluster.namespace("kernel", accounts=("web", "cart"), **{"istio.io/dataplane-mode": "ambient"})
    pods = cluster.pod("kernel", "web", "n1", "web"), cluster.pod("kernel", "cart", "n2", "cart")
    mesh.wait_in_mesh(*pods)
    yield pods
    cluster.delete_namespace("kernel")


def test_who_is_in_the_mesh(mesh, pods):
    for pod in pods:
        entry = next(e["value"] for e in mesh.dump(pod.node.name, "pods") if e["value"]["pod"] == pod.full_name)
        assert entry["identity"] == f"spiffe://cluster.local/ns/kernel/sa/{pod.account}"
        assert set(filter(None, entry["ips"])) == set(pod.ips) and entry["flags"] & 3 == 3


def test_new_pods_are_captured_since_their_start(mesh, pods):
    assert all(mesh.known(p)["capturedSinceStart"] for p in pods)


def test_counters_move(mesh, pods):
    web, cart = pods
    wait_for(lambda: mesh.plane_knows(*pods), "both proxies to know")

    def counters(pod):
        return next((e["value"] for e in mesh.dump(pod.node.name, "pod_counters") if e["key"] == mesh.cookie(pod)), {})
    before = counters(web).get("outbound_captured_connections", 0)
    assert web.get(cart.ip4).startswith("cart")
    assert counters(web)["outbound_captured_connections"] == before + 1
    assert counters(cart)["inbound_hbone_lookups"] >= 1


def test_why_a_connection_was_refused(cluster, mesh, pods):
    """The pod's entry is deleted from the map by hand: its connections are refused, and the kernel says why."""
    web, cart = pods
    node = web.node
    key = [str(b) for b in mesh.cookie(web).to_bytes(8, "little")]
    node.run(["bpftool", "map", "delete", "pinned", "/sys/fs/bpf/bruma/maps/pods", "key", *key])
    assert not web.get(cart.ip4, check=False, seconds=2)
    failures = {e["key"]: sum(v["value"]["count"] for v in e["values"]) for e in mesh.dump("n1", "failures")}
    assert sum(failures.values()) >= 1, failures
    wait_for(lambda: web.get(cart.ip4, check=False), "the agent to have mended it", 15)
