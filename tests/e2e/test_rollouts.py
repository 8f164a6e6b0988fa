# SPDX-License-Identifier: Apache-2.0
"""Rolling restarts of a service under load: no new connection fails, and what is kept is served until its pod is gone.

Here, and in CI, one restart of four pods under 100 connections a second and 12 that are kept. BRUMA_ROLLOUTS=full: ten
restarts of ten pods under 500 a second and 50 that are kept, which takes four minutes. Each pod of a restart comes as a
rollout with a surge has it: the new one serves and is an endpoint, then the old one is told to end, the mesh hears of it a
moment later, and when its application has ended its sandbox goes. Every second application takes no new connections from
when it is told to end. The client's pod is on the node of half of them, which it reaches by a tunnel or without one.

With BRUMA_ZTUNNEL the same runs with stock ztunnels on all nodes, and says how many fail there."""

import contextlib
import json
import os
import re
import signal
import time

import pytest

from support.nodes.mesh import Mesh, MeshPod
from support.nodes.pod_programs import ECHO, ONE_SHOT
from support.programs import ROOT
from support.proxies.stock_world import ZTUNNEL, Ztunnel
from support.system import sh, wait_for

VIP = "10.96.0.61"
MEMBER = {"demo/cart.demo.svc.cluster.local": {7000: 7000}}
FULL = os.environ.get("BRUMA_ROLLOUTS") == "full"
RESTARTS, PODS, RATE, KEPT = (10, 10, 500, 50) if FULL else (1, 4, 100, 12)
MESH_HEARS, GRACE = 0.3, 1  # seconds from when a pod is told to end
WAYS = ["hbone", "relay"]


class Shop:
    """A client on node 1, and the service's pods on these nodes."""

    def __init__(self, mesh, nodes=(1,)):
        self.mesh, self.nodes, self.gone, self.made = mesh, nodes, {}, 0
        mesh.services.append(
            {
                "name": "cart",
                "namespace": "demo",
                "hostname": "cart.demo.svc.cluster.local",
                "vips": [f"/{VIP}"],
                "ports": {7000: 7000},
            }
        )
        self.web = mesh.pod("web")
        self.pods = [self.place() for _ in range(PODS)]

    def place(self):
        self.made += 1
        node = self.nodes[self.made // 2 % len(self.nodes)]
        pod = self.mesh.pod(f"cart-{self.made}", node=node, account="cart")
        pod.services = MEMBER
        pod.enrolled_by = None
        return pod

    def serve(self, pod, kind=None):
        """By what the pods of the cluster's tests run: whom it has accepted it serves before it ends."""
        kind = kind or ("hasty" if int(pod.name.rsplit("-")[1]) % 2 else "patient")
        app = f"{pod.node.build}/tests/cluster/cluster-app"
        pod.app = pod.popen(app, "serve", env={"NAME": pod.name, "END": f"{kind} {GRACE}"})
        pod.app.wait_for_text("READY")

    def replace(self, old, told):
        """told: whether the proxies hear of the end as Bruma's do. Returns the new one."""
        new = self.place()
        new.services = {}
        self.serve(new)
        self.mesh.tell()
        new.enroll()
        new.services = MEMBER
        self.mesh.write()
        time.sleep(MESH_HEARS)
        if told:
            old.node.ctl("end", old.full_name)
        self.gone[old.name] = time.monotonic() + GRACE
        old.app.kill(signal.SIGTERM)
        time.sleep(MESH_HEARS)
        old.services = {}
        self.mesh.write()
        assert old.app.wait(60) == 0
        old.remove()
        self.mesh.write()
        return new

    def restart(self, told=True):
        for i, old in enumerate(self.pods):
            self.pods[i] = self.replace(old, told)

    @contextlib.contextmanager
    def load(self, rate, kept):
        """Yields where its figures are once it is over."""
        p = self.web.popen("/usr/bin/python3", f"{ROOT}/tests/support/steady_load.py", VIP, 7000, rate, kept)
        p.wait_for_text("READY")
        figures = {}
        try:
            yield figures
        finally:
            p.kill(signal.SIGTERM)
        p.wait(60)
        figures.update(json.loads(p.text().splitlines()[-1]))


def metric(node, name, label=""):
    return sum(float(n) for n in re.findall(rf"^{name}(?:{{.*{label}.*}})? (\d+)", node.metrics(), re.M))


def made_by_the_client(mesh):
    return metric(mesh.nodes[0], "istio_tcp_connections_opened_total", 'reporter="source"')


def said(figures):
    return {k: v if k in ("made", "words", "slowest", "late", "rate") else len(v) for k, v in figures.items()}


def refused(node):
    """Connections of the node's own pods that nobody took."""
    return [
        line
        for line in node.access_log()
        if 'direction="outbound"' in line and re.search('error="connect_(refused|rejected)', line)
    ]


def are_served_before_the_end(shop):
    """Whom its kernel has accepted an application serves, although it is told to end before it has noticed."""
    name, label = "istio_tcp_connections_opened_total", 'reporter="destination"'
    before = [metric(node, name, label) for node in shop.mesh.nodes]
    calls = {}
    for pod in shop.pods:
        pod.app.kill(signal.SIGSTOP)
        calls[pod] = shop.web.popen("/usr/bin/python3", "-c", CALL, pod.ip)
    for i, node in enumerate(shop.mesh.nodes):
        many = sum(pod.node is node for pod in shop.pods)
        wait_for(lambda node=node, n=before[i] + many: metric(node, name, label) == n, "the connections")
    for pod in shop.pods:
        pod.app.kill(signal.SIGTERM)
        pod.app.kill(signal.SIGCONT)
    for pod, call in calls.items():
        assert call.wait(60) == 0 and call.text().strip() == pod.name
        assert pod.app.wait(60) == 0


@pytest.mark.parametrize("way", WAYS)
def test_rolling_restarts_under_load(record_property, way):
    with Mesh(nodes=2, workers=2, proxy_env={"BRUMA_SAME_NODE": way}) as mesh:
        shop = Shop(mesh, nodes=(0, 1))
        mesh.start()
        for pod in shop.pods:
            shop.serve(pod)
        wait_for(lambda: shop.web.python(ONE_SHOT, VIP, 7000, "word\n").startswith("cart-"), "the service")
        opened = made_by_the_client(mesh)
        with shop.load(RATE, KEPT) as figures:
            for _ in range(RESTARTS):
                shop.restart()
            time.sleep(MESH_HEARS)
        print(
            way,
            "restarts:",
            RESTARTS,
            "pods:",
            PODS,
            said(figures),
            figures["failed"][:5],
            figures["cut"][:5],
        )
        client = mesh.nodes[0]
        print("retries:", metric(client, "bruma_outbound_retries_total"), end=" ")
        print("leaving:", metric(client, "bruma_endpoints_leaving_total"))
        record_property("rollouts", json.dumps(said(figures)))
        assert figures["failed"] == []
        assert figures["made"] > 5 * RESTARTS * PODS + KEPT and figures["cut"], "there was load all the time"
        for at, name, how in figures["cut"]:
            assert at >= shop.gone.get(name, at + 1), f"{name} was cut while it was there: {how}"
        assert len(shop.gone) == RESTARTS * PODS
        assert metric(client, "bruma_endpoints_leaving_total") > 0
        # One that was under way to a pod as it ended is refused there, and tried elsewhere.
        assert refused(client) == []
        opened = made_by_the_client(mesh) - opened
        assert opened == figures["made"], "one connection in Istio's metrics for each of the application's"
        are_served_before_the_end(shop)


@pytest.mark.skipif(not ZTUNNEL, reason="BRUMA_ZTUNNEL names no stock ztunnel")
def test_rolling_restarts_under_load_with_stock_ztunnels(record_property):
    with Mesh(nodes=3, workers=2) as mesh, contextlib.ExitStack() as stack:
        shop = Shop(mesh, nodes=(1, 2))
        mesh.write()
        for number in range(len(mesh.nodes)):
            proxy = stack.enter_context(Ztunnel(mesh, ZTUNNEL, number))
            proxy.start_agent(*mesh.agent_options)
            proxy.start()
        for pod in mesh.pods:
            pod.enroll()
        for pod in shop.pods:
            shop.serve(pod)
        wait_for(
            lambda: shop.web.python(ONE_SHOT, VIP, 7000, "word\n").startswith("cart-"), "the service", 60
        )
        with shop.load(RATE, KEPT) as figures:
            time.sleep(2)
            for _ in range(RESTARTS):
                shop.restart(told=False)
            time.sleep(2)
        print("stock ztunnel, restarts:", RESTARTS, "pods:", PODS, said(figures), figures["failed"][:5])
        record_property("rollouts_ztunnel", json.dumps(said(figures)))
        assert figures["made"] - len(figures["failed"]) > 5 * RESTARTS * PODS + KEPT


# ---- the last window: the pod is gone, the mesh does not know it yet, and its address is another one's ----


def successor(of):
    """A kind of pod that gets the addresses of one that was there."""

    class Successor(MeshPod):
        def __init__(self, *args):
            super().__init__(*args)
            self.ip, self.ip6 = of.ip, of.ip6

        def create(self):
            super().create()
            # A CNI plugin announces the address; else its neighbours go on with what had it for half a minute.
            sh("ip", "-n", self.node.netns, "neigh", "flush", "dev", "br0")

    return Successor


def stale(pod):
    """As the mesh has it still."""
    return {
        "uid": f"Kubernetes//Pod/demo/{pod.name}",
        "name": pod.name,
        "namespace": "demo",
        "serviceAccount": pod.account,
        "workloadIps": [pod.ip, pod.ip6],
        "protocol": "HBONE",
        "node": pod.node.name,
        "workloadName": pod.name,
        "canonicalName": pod.name,
        "services": MEMBER,
    }


def test_what_has_its_address_next_gets_nothing():
    with Mesh(nodes=2, workers=1, proxy_env={"BRUMA_EJECTION_TIME": "0s"}) as mesh:
        shop = Shop(mesh)
        mesh.start()
        for pod in shop.pods:
            shop.serve(pod)
        old = shop.pods[0]
        kept = shop.web.server(KEPT_OPEN, old.ip, 7000)
        mesh.extra.append(stale(old))
        old.remove()
        new = mesh.pod("bank", node=1, kind=successor(old))
        new.more = {"protocol": "HBONE"}
        app = new.server(ECHO, 7000)
        mesh.write()
        new.enroll()
        wait_for(lambda: "end b''" in kept.text() or "Error" in kept.text(), "what was kept to be over")
        refused = mesh.nodes[0].failures("peer_identity_mismatch")
        answers = [shop.web.python(CALL, VIP).strip() for _ in range(60)]
        served = [a for a in answers if a.startswith("cart-")]
        assert old.name not in served and set(answers) - set(served) == {"ConnectionResetError"}, answers
        assert mesh.nodes[0].failures("peer_identity_mismatch") - refused == len(answers) - len(served) > 0
        assert "FROM" not in app.text(), "nothing reached its application"
        assert shop.web.python(ONE_SHOT, new.ip, 7000, "ping") == "ping", "who means it reaches it"
        mesh.extra.pop()
        mesh.write()
        wait_for(
            lambda: all(shop.web.python(CALL, VIP).startswith("cart-") for _ in range(10)),
            "the mesh to know, and none to fail any more",
        )


# One connection; says how it ends.
KEPT_OPEN = """
import socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=60)
s.recv(100)
print("READY", flush=True)
try:
    print("end", s.recv(1), flush=True)
except OSError as e:
    print(type(e).__name__, flush=True)
"""

CALL = """
import socket, sys
try:
    with socket.create_connection((sys.argv[1], 7000), timeout=30) as s:
        print(s.makefile().readline())
except OSError as e:
    print(type(e).__name__)
"""
