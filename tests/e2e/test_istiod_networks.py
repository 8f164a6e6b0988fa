# SPDX-License-Identifier: Apache-2.0
"""A stock istiod that sees two networks, where one is given (BRUMA_ISTIOD, BRUMA_ISTIO_CHARTS, BRUMA_KUBE): what it says of
the other one, and what the proxy makes of it."""

import os
import shutil

import pytest

from support.kube.istiod import SYSTEM, missing
from support.kube.istiod_world import AMBIENT, Cluster
from support.system import wait_for
from support.workspace import Workspace

pytestmark = pytest.mark.skipif(missing() is not None, reason=missing() or "")

GATEWAY = "gateway.networking.k8s.io/v1"
HOST, VIP = "cart.shop.svc.cluster.local", "10.96.50.1"
# The service of all clusters is one that has the label istio.io/global, as in Istio's profile for ambient mode.
MESH = """
serviceScopeConfigs:
- servicesSelector:
    matchExpressions: [{key: istio.io/global, operator: In, values: ["true"]}]
  scope: GLOBAL
"""


@pytest.fixture(scope="module")
def world(request):
    w = Workspace(os.path.abspath(os.environ["BRUMA_BUILD"]))
    try:
        folder = w.path("istiod") + "/cwd/etc/istio/config"
        os.makedirs(folder)
        with open(folder + "/mesh", "w") as f:
            f.write(MESH)
        cluster = Cluster(w, nodes=1, AMBIENT_ENABLE_MULTI_NETWORK="true")
        cluster.server.make_namespace(SYSTEM, {"topology.istio.io/network": "home"})
        cluster.server.make_namespace("shop", AMBIENT)
        for account in ("web", "cart"):
            cluster.server.create("v1", "ServiceAccount", account, "shop")
        cluster.start_node(cluster.nodes[0], NETWORK="home", BRUMA_CONNECT_TIMEOUT="2s")
        cluster.web = cluster.pod(cluster.nodes[0], "shop", "web-1", 10, account="web", labels={"app": "web"})
        cluster.server.create(
            "v1",
            "Service",
            "cart",
            "shop",
            metadata={"labels": {"istio.io/global": "true"}},
            spec={
                "clusterIP": VIP,
                "selector": {"app": "cart"},
                "ports": [{"name": "tcp-80", "port": 80, "targetPort": 8080}],
            },
        )
        other_network(cluster)
        cluster.hbone(cluster.web)
        yield cluster
    finally:
        errors = w.close()
        if not request.session.testsfailed:
            shutil.rmtree(w.directory, ignore_errors=True)
    assert not errors, errors


def other_network(cluster):
    """Three endpoints over there, and the gateway to them, at an address where nothing listens."""
    node = cluster.nodes[0]
    for n in range(3):
        cluster.server.create(
            "networking.istio.io/v1",
            "WorkloadEntry",
            f"cart-far-{n}",
            "shop",
            metadata={"labels": {"app": "cart"}},
            spec={
                "address": f"10.200.0.{n + 1}",
                "network": "away",
                "serviceAccount": "cart",
                "labels": {"app": "cart"},
            },
        )
    cluster.server.create(
        GATEWAY,
        "Gateway",
        "away",
        SYSTEM,
        metadata={
            "labels": {"topology.istio.io/network": "away"},
            "annotations": {"gateway.istio.io/service-account": "eastwest"},
        },
        spec={
            "gatewayClassName": "istio-remote",
            "addresses": [{"type": "IPAddress", "value": f"10.79.{node.number}.1"}],
            "listeners": [
                {
                    "name": "cross-network",
                    "port": 15008,
                    "protocol": "HBONE",
                    "tls": {"mode": "Passthrough"},
                }
            ],
        },
    )
    cluster.server.api(
        "PATCH",
        f"/apis/{GATEWAY}/namespaces/{SYSTEM}/gateways/away/status",
        {"status": {"addresses": [{"type": "IPAddress", "value": f"10.79.{node.number}.1"}]}},
        "application/merge-patch+json",
    )


def far(cluster):
    """The workload that stands for the endpoints of the other network."""
    dump = cluster.dump(cluster.nodes[0])
    return next((w for w in dump["workloads"] if "/SplitHorizonWorkload/" in w["uid"]), None)


def test_what_istiod_says_of_the_other_network(world):
    node = world.nodes[0]
    workload = wait_for(lambda: far(world), "the endpoints of the other network", 30, log=node.proxy_log)
    assert workload["network"] == "away" and workload["capacity"] == 3 and not workload["workloadIps"]
    assert workload["protocol"] == "HBONE" and workload["services"] == [f"shop/{HOST}"]
    assert workload["networkGateway"] == {
        "destination": f"away/10.79.{node.number}.1",
        "hboneMtlsPort": 15008,
    }
    gateway = wait_for(
        lambda: next(
            (w for w in world.dump(node)["workloads"] if w["uid"].startswith("NetworkGateway/")), None
        ),
        "the gateway",
    )
    assert gateway["network"] == "away" and gateway["workloadIps"] == [f"10.79.{node.number}.1"]
    service = wait_for(
        lambda: (s := world.service_of(node, "cart")) and s["subjectAltNames"] and s,
        "the service's identities",
    )
    assert service["subjectAltNames"] == ["spiffe://cluster.local/ns/shop/sa/cart"]


def test_the_proxy_goes_through_that_gateway(world):
    """Nobody answers there: the log says where it went."""
    node = world.nodes[0]
    wait_for(lambda: far(world), "the endpoints of the other network", 30)
    assert world.ping(world.web, VIP, 80) == "ConnectionResetError"
    wait_for(
        lambda: world.access(
            node, f"east-west gateway 10.79.{node.number}.1:15008", f"dst.hbone_addr={HOST}:80"
        ),
        "the gateway in the log",
    )
