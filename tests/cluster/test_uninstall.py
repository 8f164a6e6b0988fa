# SPDX-License-Identifier: Apache-2.0
"""helm uninstall leaves nothing: neither on nodes, nor in pods that go on running, nor in the API."""

import os

import pytest

from api import Refused
from layout import BIN, CONF, CONFLIST
from plan import SYSTEM
from release import AGENT, PINS, PROXY, RUN
from support.system import wait_for

NETWORK = (
    "ip rule; ip -6 rule; ip route show table all | grep -v 'table local'; ip -6 route show table all | grep -v 'table local'; "
    "ss -Hltn; sysctl -a 2>/dev/null | grep fwmark"
)


def network(pod):
    """All of a pod's network namespace that Bruma could touch. Routes of the kernel come and go with
    addresses, not with us."""
    return pod.run("sh", "-c", NETWORK, check=False).stdout


@pytest.fixture(scope="module")
def pods(cluster, mesh):
    """One that was in the mesh until before, one that still is."""
    cluster.namespace("last")
    pods = [cluster.pod("last", f"last-{n}", n) for n in cluster.nodes]
    before = [network(p) for p in pods]
    cluster.label("last", "ambient")
    mesh.wait_in_mesh(*pods)
    wait_for(lambda: mesh.plane_knows(*pods), "both proxies to know")
    yield pods, before
    cluster.delete_namespace("last")


def test_uninstall_leaves_no_trace(cluster, mesh, pods):
    (a, b), before = pods
    assert a.get(b.ip).startswith("last-n2")
    assert network(a) != before[0], "there is something to be removed"
    mesh.uninstall()
    wait_for(lambda: not mesh.pods(PROXY) and not mesh.pods(AGENT), "its pods to go", 60, 0.2)
    for node in cluster.nodes.values():
        with open(node.disk + CONFLIST, "rb") as f:
            assert f.read() == node.conflist, "byte for byte"
        assert os.listdir(f"{node.disk}{CONF}") == [os.path.basename(CONFLIST)]
        assert sorted(os.listdir(f"{node.disk}{BIN}")) == [
            "host-local",
            "loopback",
            "portmap",
            "ptp",
            "ptp.program",
        ]
        assert node.run(["ls", "-d", PINS], check=False).returncode != 0, "pins"
        assert node.run(["find", RUN, "-mindepth", "1"]).stdout == ""
        links = node.run(["bpftool", "cgroup", "tree", cluster.groups.of_node]).stdout
        assert "connect4" not in links and "connect6" not in links
    assert [network(p) for p in (a, b)] == before
    for pod in (a, b):
        assert pod.redirection() is None and pod.restarts() == 0


def test_pods_run_on_without_it(cluster, pods):
    (a, b), _ = pods
    for ip in b.ips:
        wait_for(lambda: a.get(ip, check=False).startswith("last-n2"), f"an answer from {ip}")
    assert cluster.pod("last", "after", "n1").get(b.ip).startswith("last-n2")


def test_the_api_holds_nothing_of_it(cluster, mesh):
    for kind, version in (
        ("DaemonSet", "apps/v1"),
        ("Job", "batch/v1"),
        ("Role", "rbac.authorization.k8s.io/v1"),
        ("RoleBinding", "rbac.authorization.k8s.io/v1"),
    ):
        assert not [
            o["metadata"]["name"]
            for o in cluster.api.list(kind, SYSTEM, version)
            if "bruma" in str(o["metadata"])
        ], kind
    for kind in ("ClusterRole", "ClusterRoleBinding"):
        with pytest.raises(Refused):
            cluster.api.get(kind, f"bruma-agent-{SYSTEM}", version="rbac.authorization.k8s.io/v1")
