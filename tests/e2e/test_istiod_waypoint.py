# SPDX-License-Identifier: Apache-2.0
"""Waypoints as a stock istiod announces them, with a stock Envoy that has a certificate of istiod's. See
test_istiod.py."""

import json
import os
import shutil

import pytest

from support.kube.istiod import missing
from support.kube.istiod_world import AMBIENT, SECURITY, Cluster
from support.nodes.pod_programs import HTTP_APP, HTTP_REQUESTS
from support.proxies import waypoint
from support.system import wait_for
from support.workspace import Workspace

pytestmark = pytest.mark.skipif(missing() is not None, reason=missing() or "")
VIP, VIP6, WAYPOINT_VIP = "10.96.60.1", "fd00:96::60", "10.96.60.2"
HOST = "waypoint.demo.svc.cluster.local"


class Demo:
    def __init__(self, cluster, envoy):
        self.cluster, server = cluster, cluster.server
        self.client_node, self.server_node = cluster.nodes
        server.make_namespace("demo", AMBIENT)
        for account in ("web", "shop", "waypoint"):
            server.create("v1", "ServiceAccount", account, "demo")
        for node in cluster.nodes:
            cluster.start_node(node)
        self.web = cluster.pod(self.client_node, "demo", "web", 10, account="web")
        self.apps = {}
        for host, version in ((11, "v1"), (12, "v2")):
            pod = cluster.pod(
                self.server_node, "demo", f"shop-{version}", host, account="shop", labels={"app": "shop"}
            )
            app = pod.popen(
                "/usr/bin/python3", "-u", "-c", HTTP_APP, version, log=cluster.work.path(f"{version}.log")
            )
            cluster.work.defer(app.kill)
            app.wait_for_text("READY")
            self.apps[version] = pod
        self.waypoint = cluster.pod(
            self.server_node,
            "demo",
            "waypoint-1",
            13,
            account="waypoint",
            labels={"gateway.networking.k8s.io/gateway-name": "waypoint", "istio.io/dataplane-mode": "none"},
        )
        cluster.service("demo", "shop", VIP, {"app": "shop"}, {80: 8080})
        cluster.service(
            "demo",
            "waypoint",
            WAYPOINT_VIP,
            {"gateway.networking.k8s.io/gateway-name": "waypoint"},
            {15008: 15008},
        )
        cluster.hbone(self.web, *self.apps.values())
        directory = cluster.work.path("envoy")
        cluster.certificate("demo", "waypoint", "waypoint-1", directory)
        self.envoy = waypoint.Waypoint(
            envoy,
            directory,
            self.waypoint.netns,
            self.server_node.cgroup,
            vip4=VIP,
            vip6=VIP6,
            v1=self.apps["v1"].ip,
            v2=self.apps["v2"].ip,
        )
        cluster.work.defer(self.envoy.stop)
        self.envoy.start()

    def ask(self, method="GET", host=VIP, port=80, count=1, **headers):
        r = self.web.run(
            "/usr/bin/python3",
            "-c",
            HTTP_REQUESTS,
            host,
            str(port),
            str(count),
            method,
            json.dumps(headers),
            timeout=120,
        )
        return json.loads(r.stdout)

    def one(self, *arguments, **more):
        return self.ask(*arguments, **more)[0]

    def reference(self, name="shop"):
        return (self.cluster.service_of(self.client_node, name) or {}).get("waypoint", {}).get("destination")


@pytest.fixture(scope="module")
def demo(request, build):
    path, why = waypoint.program(build)
    if not path:
        pytest.skip(why)
    w = Workspace(os.path.abspath(os.environ["BRUMA_BUILD"]))
    try:
        # istiod then allows the waypoint's identity, and so nobody else, at workloads that have one.
        yield Demo(Cluster(w, PILOT_AUTO_ALLOW_WAYPOINT_POLICY="true"), path)
    finally:
        errors = w.close()
        if not request.session.testsfailed:
            shutil.rmtree(w.directory, ignore_errors=True)
    assert not errors, errors


@pytest.fixture
def gateway(demo):
    """Makes a Gateway and lets the namespace use it; undone afterwards."""
    made = []

    def make(name="waypoint", use="demo", **how):
        demo.cluster.gateway("demo", name, **how)
        made.append(name)
        demo.cluster.server.merge("/api/v1/namespaces/demo", labels={"istio.io/use-waypoint": name})

    yield make
    demo.cluster.server.merge("/api/v1/namespaces/demo", labels={"istio.io/use-waypoint": None})
    for name in made:
        demo.cluster.delete(f"/apis/gateway.networking.k8s.io/v1/namespaces/demo/gateways/{name}")
    wait_for(lambda: demo.reference() is None, "the service to be without a waypoint")


def test_without_a_waypoint(demo):
    assert demo.one() in ([200, "v1"], [200, "v2"]) and demo.one("DELETE")[0] == 200


@pytest.mark.parametrize("how", [{"hostname": HOST}, {"address": WAYPOINT_VIP}], ids=["hostname", "address"])
def test_a_namespaces_waypoint(demo, gateway, how):
    gateway(**how)
    expected = f"demo/{HOST}" if "hostname" in how else f"/{WAYPOINT_VIP}"
    wait_for(lambda: demo.reference() == expected, f"the service's waypoint, not {demo.reference()}", 30)
    assert demo.one()[0] == 200
    assert demo.one("DELETE") == [403, "RBAC: access denied"]
    line = wait_for(
        lambda: demo.cluster.access(demo.client_node, "connection complete", f"{VIP}:80"), "the log"
    )
    assert line["dst.identity"] == "spiffe://cluster.local/ns/demo/sa/waypoint"


def test_a_workloads_waypoint(demo, gateway):
    gateway(hostname=HOST, waypoint_for="all")
    pod = demo.apps["v1"]
    wait_for(
        lambda: (
            (demo.cluster.workload(demo.client_node, pod.name).get("waypoint") or {}).get("destination")
            == f"demo/{HOST}"
        ),
        "the workload's waypoint",
        30,
    )
    assert demo.one(host=pod.ip, port=8080) == [200, "v1"]
    assert demo.one("DELETE", host=pod.ip, port=8080) == [403, "RBAC: access denied"]


def test_istiods_own_policy_lets_only_the_waypoint_in(demo, gateway):
    gateway(hostname=HOST)
    wait_for(demo.reference, "the service's waypoint", 30)
    wait_for(
        lambda: "istio_allow_waypoint_demo_waypoint" in str(demo.cluster.policies(demo.server_node)),
        "istiod's policy",
        30,
    )
    assert demo.one()[0] == 200
    wait_for(
        lambda: demo.one(host=demo.apps["v1"].ip, port=8080)[0] == 0,
        "requests past the waypoint to be refused",
    )
    assert demo.one()[0] == 200


def test_canary_waypoint(demo, gateway):
    """Weights as istiod announces them for a second waypoint. It is the same Envoy here, by another service
    and another reference."""
    demo.cluster.service(
        "demo", "canary", "10.96.60.3", {"gateway.networking.k8s.io/gateway-name": "waypoint"}, {15008: 15008}
    )
    gateway(hostname=HOST)
    demo.cluster.gateway("demo", "canary", address="10.96.60.3")
    path = "/api/v1/namespaces/demo"
    demo.cluster.server.merge(
        path,
        labels={"istio.io/use-waypoint-canary": "canary"},
        annotations={"istio.io/use-waypoint-canary-weight": "30"},
    )
    try:

        def weights():
            all = (demo.cluster.service_of(demo.client_node, "shop") or {}).get("weightedWaypoints", [])
            return {w["destination"]["destination"]: w["weight"] for w in all}

        wait_for(lambda: weights() == {f"demo/{HOST}": 70, "/10.96.60.3": 30}, "the weights", 30)
        assert {status for status, _ in demo.ask(count=20)} == {200}
    finally:
        demo.cluster.server.merge(path, labels={"istio.io/use-waypoint-canary": None})
        demo.cluster.delete("/apis/gateway.networking.k8s.io/v1/namespaces/demo/gateways/canary")
        demo.cluster.delete("/api/v1/namespaces/demo/services/canary")


def test_servers_that_accept_only_their_waypoint(demo, gateway):
    """By an AuthorizationPolicy, as people write it; the waypoint itself passes."""
    demo.cluster.policy(
        "AuthorizationPolicy",
        "demo",
        "only-waypoint",
        {
            "selector": {"matchLabels": {"app": "shop"}},
            "action": "ALLOW",
            "rules": [{"from": [{"source": {"principals": ["cluster.local/ns/demo/sa/waypoint"]}}]}],
        },
    )
    try:
        wait_for(lambda: demo.one()[0] == 0, "direct requests to be refused")
        gateway(hostname=HOST)
        wait_for(demo.reference, "the service's waypoint", 30)
        assert demo.one()[0] == 200
        assert demo.one(host=demo.apps["v1"].ip, port=8080)[0] == 0
    finally:
        demo.cluster.delete(f"/apis/{SECURITY}/namespaces/demo/authorizationpolicies/only-waypoint")
    wait_for(lambda: demo.one()[0] == 200, "requests to pass again")


def test_the_waypoint_gone_and_back(demo, gateway):
    gateway(hostname=HOST)
    wait_for(demo.reference, "the service's waypoint", 30)
    demo.envoy.stop()
    assert demo.one()[0] == 0, "not gone around"
    demo.envoy.start()
    wait_for(lambda: demo.one()[0] == 200, "requests to be answered again")
