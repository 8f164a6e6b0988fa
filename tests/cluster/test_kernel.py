# SPDX-License-Identifier: Apache-2.0
"""What bpftool alone says on a node: which pods are in the mesh, who they are, why a connection was
refused."""

import re

import pytest

from plan import SYSTEM
from release import AGENT
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
        entry = next(
            e["value"] for e in mesh.dump(pod.node.name, "pods") if e["value"]["pod"] == pod.full_name
        )
        assert entry["identity"] == f"spiffe://cluster.local/ns/kernel/sa/{pod.account}"
        assert set(filter(None, entry["ips"])) == set(pod.ips) and entry["flags"] & 3 == 3


def test_new_pods_are_captured_since_their_start(cluster, mesh, pods):
    """As brumactl, run where docs/install.md runs it, and the agent's metrics say."""
    for pod in pods:
        assert mesh.known(pod)["capturedSinceStart"]
        agent = mesh.pods(AGENT, pod.node.name)[0]["metadata"]["name"]
        lines = [
            re.split(" {2,}", line.strip())
            for line in cluster.kubectl(
                "-n", SYSTEM, "exec", agent, "--", "brumactl", "pods"
            ).stdout.splitlines()
        ]
        words = dict(
            zip(lines[0], next(line for line in lines if line[:2] == pod.full_name.split("/")), strict=False)
        )
        assert words["STATE"] == "enrolled" and words["SINCE START"] == "yes", words
        page = pod.node.run(["curl", "-sS", "--noproxy", "*", "http://127.0.0.1:15014/metrics"]).stdout
        line = next(
            line
            for line in page.splitlines()
            if line.startswith("bruma_pod_captured_since_start{") and f'"{pod.name}"' in line
        )
        assert line.endswith(" 1"), line


def test_counters_move(mesh, pods):
    web, cart = pods
    wait_for(lambda: mesh.plane_knows(*pods), "both proxies to know")

    def counters(pod):
        return next(
            (e["value"] for e in mesh.dump(pod.node.name, "pod_counters") if e["key"] == mesh.cookie(pod)), {}
        )

    before = counters(web).get("outbound_captured_connections", 0)
    assert web.get(cart.ip).startswith("cart")
    assert counters(web)["outbound_captured_connections"] == before + 1
    assert counters(cart)["inbound_hbone_lookups"] >= 1


def test_why_a_connection_was_refused(cluster, mesh, pods):
    """The pod's entry is deleted from the map by hand: its connections are refused, and the kernel says
    why."""
    web, cart = pods
    node = web.node

    def failures():
        return {e["key"]: sum(v["value"]["count"] for v in e["values"]) for e in mesh.dump("n1", "failures")}

    before = failures()
    key = [str(b) for b in mesh.cookie(web).to_bytes(8, "little")]
    node.run(["bpftool", "map", "delete", "pinned", "/sys/fs/bpf/bruma/maps/pods", "key", *key])
    assert not web.get(cart.ip, check=False, seconds=2)
    more = {k: n - before.get(k, 0) for k, n in failures().items() if n > before.get(k, 0)}
    assert more.get("BRUMA_REASON_POD_ENTRY_MISSING", 0) >= 1, more
    wait_for(lambda: web.get(cart.ip, check=False), "the agent to have repaired it", 15)
