# SPDX-License-Identifier: Apache-2.0
"""Bruma has been installed by its chart: where its parts are, and that the cluster is as good as before."""

import json

from layout import BIN, CONFLIST
from release import AGENT, PROXY
from support.system import wait_for


def test_nodes_are_ready_and_pods_reach_each_other(cluster):
    cluster.namespace("before")
    a, b = (cluster.pod("before", f"app-{n}", n) for n in cluster.nodes)
    for ip in b.ips:
        assert a.get(ip).startswith("app-n2 sees 1" if "." in ip else "app-n2 sees f")
    vips = cluster.service("before", "app-n2", {"app": "app-n2"})
    for vip in vips:
        wait_for(lambda: a.get(vip, 80, check=False).startswith("app-n2"), f"the Service at {vip}", 20)


def test_the_chart_installs(mesh):
    for name in (AGENT, PROXY):
        assert len(mesh.pods(name)) == 2


def test_the_plugin_is_in_the_chain(cluster, mesh):
    for node in cluster.nodes.values():
        with open(node.disk + CONFLIST) as f:
            assert [p["type"] for p in json.load(f)["plugins"]] == ["ptp", "portmap", "bruma-cni"]
        assert node.run(["test", "-x", f"{BIN}/bruma-cni"], check=False).returncode == 0


def test_nobody_is_in_the_mesh_yet(cluster, mesh):
    """Pods of before are as they were; not a restart, not a hook."""
    for node in cluster.nodes:
        assert mesh.dump(node, "pods") == []
    assert all(
        p.get("annotations", {}).get("ambient.istio.io/redirection") is None
        for p in (o["metadata"] for o in cluster.api.list("Pod", "before"))
    )
    cluster.delete_namespace("before")
