# SPDX-License-Identifier: Apache-2.0
"""Against a stock istiod, where one is given (BRUMA_ISTIOD, BRUMA_ISTIO_CHARTS, BRUMA_KUBE): its resources,
certificates by impersonation, HBONE between nodes, its policies, and what remains while it is away."""

import base64
import json
import os
import shutil
import threading
import time

import pytest

from support.kube.istiod import SYSTEM, missing
from support.kube.istiod_world import AMBIENT, SECURITY, Cluster
from support.system import Failed, run, wait_for
from support.workspace import Workspace

pytestmark = pytest.mark.skipif(missing() is not None, reason=missing() or "")


class Shop:
    """web on node 1, cart on node 2, both in the mesh; a service for cart."""

    def __init__(self, cluster):
        self.cluster, self.nodes = cluster, cluster.nodes
        server = cluster.server
        server.make_namespace("shop", AMBIENT)
        for account in ("web", "cart"):
            server.create("v1", "ServiceAccount", account, "shop")
        for node in cluster.nodes:
            cluster.start_node(node)
        self.web = cluster.pod(cluster.nodes[0], "shop", "web-1", 10, account="web", labels={"app": "web"})
        self.cart = cluster.pod(
            cluster.nodes[1], "shop", "cart-1", 10, account="cart", labels={"app": "cart"}
        )
        self.echo = cluster.server_in(self.cart)
        cluster.service("shop", "cart", "10.96.50.1", {"app": "cart"}, {80: 8080})
        cluster.hbone(self.web, self.cart)


@pytest.fixture(scope="module")
def shop(request):
    w = Workspace(os.path.abspath(os.environ["BRUMA_BUILD"]))
    try:
        yield Shop(Cluster(w))
    finally:
        errors = w.close()
        if not request.session.testsfailed:
            shutil.rmtree(w.directory, ignore_errors=True)
    assert not errors, errors


def answers(shop, expected, address=None, port=8080, seconds=20):
    wait_for(
        lambda: shop.cluster.ping(shop.web, address or shop.cart.ip, port) == expected,
        f"web to get {expected}",
        seconds,
    )


REFUSED = ("closed", "ConnectionResetError")


def refused(shop, address=None, port=8080, seconds=20):
    wait_for(
        lambda: shop.cluster.ping(shop.web, address or shop.cart.ip, port) in REFUSED,
        "web to be refused",
        seconds,
    )


def test_resources_arrive(shop):
    for node in shop.nodes:
        cart = shop.cluster.workload(node, "cart-1")
        assert cart["uid"] == "Kubernetes//Pod/shop/cart-1" and cart["serviceAccount"] == "cart"
        assert sorted(cart["workloadIps"]) == sorted(shop.cart.ips) and cart["node"] == "n2"
        service = wait_for(lambda node=node: shop.cluster.service_of(node, "cart"), "the service")
        assert "/10.96.50.1" in service["vips"]
        wait_for(
            lambda node=node: (
                "Kubernetes//Pod/shop/cart-1" in shop.cluster.service_of(node, "cart")["endpoints"]
            ),
            "its endpoint",
        )


def test_certificates_by_impersonation_of_pods_on_the_node_only(shop):
    have = {
        n.name: {c["identity"]: c["state"] for c in shop.cluster.dump(n)["certificates"]} for n in shop.nodes
    }
    assert have == {
        "n1": {"spiffe://cluster.local/ns/shop/sa/web": "Available"},
        "n2": {"spiffe://cluster.local/ns/shop/sa/cart": "Available"},
    }


@pytest.mark.parametrize("family", [4, 6])
def test_hbone_between_nodes(shop, family):
    address = shop.cart.ip if family == 4 else shop.cart.ip6
    assert shop.cluster.ping(shop.web, address) == "ping"
    shown = f"{address}:8080" if family == 4 else f"[{address}]:8080"
    for node, direction in zip(shop.nodes, ("outbound", "inbound"), strict=True):
        line = wait_for(
            lambda n=node, d=direction: shop.cluster.access(
                n, "connection complete", f'direction="{d}"', shown
            ),
            "the log",
        )
        assert line["src.identity"] == "spiffe://cluster.local/ns/shop/sa/web"
        assert line["dst.identity"] == "spiffe://cluster.local/ns/shop/sa/cart"
    source = shop.web.ip if family == 4 else shop.web.ip6
    assert source in shop.echo.text(), "the server sees the client"


def test_the_service_leads_to_its_endpoint(shop):
    answers(shop, "ping", "10.96.50.1", 80)
    line = wait_for(
        lambda: shop.cluster.access(shop.nodes[0], "connection complete", "cart.shop.svc.cluster.local"),
        "the log",
    )
    assert line["dst.workload"] == "cart-1"


def test_strict_peer_authentication(shop):
    """Plaintext from outside the mesh passes, until it does not."""
    outside = [
        "/usr/bin/python3",
        "-c",
        (
            "import socket, sys\ns = socket.create_connection((sys.argv[1], 8080), 5)\n"
            "s.sendall(b'ping')\nprint(s.recv(4).decode() or 'closed')"
        ),
        shop.cart.ip,
    ]

    def ask():
        r = run(outside, netns=shop.nodes[0].netns, check=False)
        return r.stdout.strip() or r.stderr.strip().splitlines()[-1].split(":")[0]

    assert ask() == "ping"
    shop.cluster.policy("PeerAuthentication", "shop", "strict", {"mtls": {"mode": "STRICT"}})
    try:
        wait_for(lambda: ask() in REFUSED, "plaintext to be refused")
        assert shop.cluster.ping(shop.web, shop.cart.ip) == "ping", "mutual TLS goes on"
        assert wait_for(
            lambda: shop.cluster.access(shop.nodes[1], "istio_converted_static_strict"),
            "the policy's name in the log",
        )
    finally:
        shop.cluster.delete(f"/apis/{SECURITY}/namespaces/shop/peerauthentications/strict")
    wait_for(lambda: ask() == "ping", "plaintext to pass again")


def test_authorization_policies_for_new_and_live_connections(shop):
    code = (
        "import socket, sys, time\ns = socket.create_connection((sys.argv[1], 8080), timeout=20)\n"
        "begin = time.monotonic()\ntry:\n"
        "    while time.monotonic() - begin < 60:\n        s.sendall(b'x')\n        assert s.recv(1) == b'x'\n"
        "        time.sleep(0.1)\n"
        "    print('lived')\nexcept (OSError, AssertionError) as e:\n    print('cut')\n"
    )
    result = []
    live = threading.Thread(
        target=lambda: result.append(
            shop.web.run("/usr/bin/python3", "-c", code, shop.cart.ip, timeout=90).stdout
        )
    )
    live.start()
    time.sleep(1)
    assert not result
    shop.cluster.policy(
        "AuthorizationPolicy",
        "shop",
        "only-others",
        {
            "selector": {"matchLabels": {"app": "cart"}},
            "action": "ALLOW",
            "rules": [{"from": [{"source": {"principals": ["cluster.local/ns/shop/sa/others"]}}]}],
        },
    )
    try:
        refused(shop)
        live.join(30)
        assert result and result[0].strip() == "cut"
        wait_for(
            lambda: shop.cluster.access(shop.nodes[1], 'error="policy_changed', "cart-1"),
            "the cut connection in the log",
        )
    finally:
        shop.cluster.delete(f"/apis/{SECURITY}/namespaces/shop/authorizationpolicies/only-others")
    answers(shop, "ping")


def test_policies_that_come_and_go_break_nothing_that_they_allow(shop):
    """istiod tells a policy and the workload that names it in two messages: neither order may fail a
    connection."""
    stop, bad = threading.Event(), []

    def ping():
        while not stop.is_set():
            r = shop.cluster.ping(shop.web, shop.cart.ip)
            if r != "ping":
                bad.append(r)

    t = threading.Thread(target=ping)
    t.start()
    try:
        for i in range(4):
            shop.cluster.policy(
                "AuthorizationPolicy",
                "shop",
                f"web-{i}",
                {
                    "selector": {"matchLabels": {"app": "cart"}},
                    "action": "ALLOW",
                    "rules": [{"from": [{"source": {"principals": ["cluster.local/ns/shop/sa/web"]}}]}],
                },
            )
            wait_for(lambda i=i: f"shop/web-{i}" in shop.cluster.policies(shop.nodes[1]), "the policy")
            time.sleep(0.5)
            shop.cluster.delete(f"/apis/{SECURITY}/namespaces/shop/authorizationpolicies/web-{i}")
            wait_for(lambda i=i: f"shop/web-{i}" not in shop.cluster.policies(shop.nodes[1]), "no policy")
    finally:
        stop.set()
        t.join(60)
    assert not bad


def test_away_and_back(shop):
    """What is known serves on; a pod that comes meanwhile waits; what has changed meanwhile is learnt."""
    shop.cluster.policy(
        "AuthorizationPolicy",
        "shop",
        "goes",
        {
            "action": "DENY",
            "rules": [{"from": [{"source": {"principals": ["cluster.local/ns/shop/sa/nobody"]}}]}],
        },
    )
    for n in shop.nodes:
        wait_for(lambda n=n: "shop/goes" in shop.cluster.policies(n), "a policy")
    shop.cluster.istiod.stop()
    for _ in range(5):
        assert shop.cluster.ping(shop.web, shop.cart.ip) == "ping"
    late = shop.cluster.pod(shop.nodes[0], "shop", "late-1", 11, account="web", labels={"app": "late"})
    shop.cluster.server.delete_pod("shop", "late-1")
    second = shop.cluster.pod(shop.nodes[0], "shop", "second-1", 12, account="web", labels={"app": "web"})
    assert late.netns != second.netns
    shop.cluster.delete(f"/apis/{SECURITY}/namespaces/shop/authorizationpolicies/goes")
    time.sleep(3)
    assert shop.cluster.ping(shop.web, shop.cart.ip) == "ping"
    shop.cluster.istiod.start()
    shop.cluster.hbone(second, seconds=60)
    assert shop.cluster.ping(second, shop.cart.ip) == "ping"
    assert shop.cluster.workload(shop.nodes[0], "late-1") is None
    for n in shop.nodes:
        wait_for(lambda n=n: "shop/goes" not in shop.cluster.policies(n), "the policy to be gone")
    assert shop.cluster.ping(shop.web, shop.cart.ip) == "ping"


def test_the_token_is_read_for_each_call(shop):
    """A pod of the node is replaced, and the token of the old one is good for nothing."""
    node = shop.nodes[0]
    with open(shop.cluster.token_file(node)) as f:
        before = f.read()
    shop.cluster.write_token(node)
    with open(shop.cluster.token_file(node)) as f:
        assert f.read() != before
    shop.cluster.server.create("v1", "ServiceAccount", "third", "shop")
    third = shop.cluster.pod(node, "shop", "third-1", 13, account="third", labels={"app": "third"})
    shop.cluster.hbone(third)
    assert shop.cluster.ping(third, shop.cart.ip) == "ping"


def test_a_pod_that_is_deleted_is_forgotten(shop):
    node = shop.nodes[0]
    pod = shop.cluster.pod(node, "shop", "gone-1", 14, account="web", labels={"app": "gone"})
    shop.cluster.hbone(pod)
    shop.cluster.forget(node, pod)
    shop.cluster.server.delete_pod("shop", "gone-1")
    for n in shop.nodes:
        wait_for(lambda n=n: shop.cluster.workload(n, "gone-1") is None, "the pod to be forgotten")


def test_a_namespace_leaves_the_mesh(shop):
    server = shop.cluster.server
    server.label_namespace("shop", mode=None)
    try:
        for n in shop.nodes:
            wait_for(
                lambda n=n: shop.cluster.workload(n, "cart-1")["protocol"] == "TCP",
                "plaintext to be announced",
            )
        assert shop.cluster.ping(shop.web, shop.cart.ip) == "ping"
    finally:
        server.label_namespace("shop", mode="ambient")
    shop.cluster.hbone(shop.web, shop.cart)
    assert shop.cluster.ping(shop.web, shop.cart.ip) == "ping"


def test_a_new_root(shop):
    """istiod has lost its key: certificates of the new root are fetched as soon as its file is there, not at
    half life."""
    old = shop.cluster.istiod.root()
    shop.cluster.istiod.stop()
    shop.cluster.delete(f"/api/v1/namespaces/{SYSTEM}/secrets/istio-ca-secret")
    shop.cluster.istiod.start()
    new = wait_for(
        lambda: shop.cluster.istiod.root() != old and shop.cluster.istiod.root(), "another root", 60
    )
    assert shop.cluster.ping(shop.web, shop.cart.ip) == "ping", "what there is serves on"
    with open(shop.cluster.root_file, "w") as f:
        f.write(new)

    def serials():
        return {c["rootCerts"][0]["pem"] for n in shop.nodes for c in shop.cluster.dump(n)["certificates"]}

    wait_for(
        lambda: serials() == {base64.b64encode(new.strip().encode() + b"\n").decode()},
        "certificates of the new root",
        60,
    )
    answers(shop, "ping")


@pytest.mark.skipif(not os.environ.get("BRUMA_ISTIOCTL"), reason="BRUMA_ISTIOCTL: not given")
@pytest.mark.parametrize("what", ["all", "workload", "service", "policy", "certificate", "connections"])
def test_istioctl_reads_the_config_dump(shop, what):
    path = shop.cluster.work.path("dump.json")
    with open(path, "w") as f:
        json.dump(shop.cluster.dump(shop.nodes[1]), f)
    text = run([os.environ["BRUMA_ISTIOCTL"], "ztunnel-config", what, "-f", path]).stdout
    shown = {
        "workload": "cart-1",
        "service": "10.96.50.1",
        "certificate": "spiffe://cluster.local/ns/shop/sa/cart",
    }
    for key, expected in shown.items():
        assert expected in text or what not in ("all", key), text


def test_istiod_says_who_is_connected(shop):
    """The proxies as istiod knows them, by its own page: identifiers and acknowledgements."""
    r = run(
        ["curl", "-s", "-m", "5", "http://127.0.0.1:15014/debug/syncz"],
        netns=shop.cluster.server.netns,
        check=False,
    )
    if "ztunnel-n1" not in r.stdout:
        raise Failed(f"not known to istiod: {r.stdout[:1000]}")
    assert f"ztunnel-n2.{SYSTEM}" in r.stdout
