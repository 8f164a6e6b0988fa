# SPDX-License-Identifier: Apache-2.0
"""A namespace gets the label and loses it again, while its pods run and talk."""

import os
import time

import pytest

from support.system import wait_for
from tap import Tap

DENIED = ("403", "000")


@pytest.fixture(scope="module")
def shop(cluster, mesh):
    """web on one node, cart on the other."""
    cluster.namespace("shop", accounts=("web", "cart", "thief"))
    pods = {
        "web": cluster.pod("shop", "web", "n1", "web"),
        "cart": cluster.pod("shop", "cart", "n2", "cart"),
        "thief": cluster.pod("shop", "thief", "n1", "thief"),
    }
    yield pods
    cluster.delete_namespace("shop")


@pytest.fixture(scope="module")
def download(cluster, shop):
    """One that takes 30 s, over all that happens to the namespace meanwhile."""
    size, rate = 6_000_000, 200_000
    process = shop["web"].popen(
        "curl",
        "-sS",
        "--noproxy",
        "*",
        "-m",
        "90",
        "-o",
        f"{cluster.directory}/download",
        f"http://{shop['cart'].ip}:8080/bytes/{size}/{rate}",
        log=f"{cluster.directory}/download.log",
    )
    path = f"{cluster.directory}/download"
    wait_for(lambda: os.path.exists(path) and os.path.getsize(path), "the first bytes")
    yield process, path, size
    process.kill()


def goes_on(download):
    """More of it comes. It must not have ended before what it is to live through."""
    process, path, _ = download
    assert process.alive(), f"the download has ended already: {process.text()}"
    before = os.path.getsize(path)
    wait_for(lambda: os.path.getsize(path) > before, "more of the download", 10)


def test_label_takes_running_pods_in_without_a_restart(cluster, mesh, shop, download, report):
    goes_on(download)
    began = time.monotonic()
    cluster.label("shop", "ambient")
    wait_for(lambda: all(mesh.in_mesh(p) for p in shop.values()), "all pods to be in the mesh", 20, 0.01)
    took = time.monotonic() - began
    report(f"label to all of 3 pods in the mesh: {took * 1000:.0f} ms (a second is the goal)")
    mesh.wait_in_mesh(*shop.values())
    goes_on(download)
    assert all(p.restarts() == 0 for p in shop.values())


@pytest.mark.parametrize("family", ["ip", "ip6"])
def test_between_nodes_there_is_hbone_alone(cluster, mesh, shop, family):
    wait_for(lambda: mesh.plane_knows(*shop.values()), "both proxies to know that the pods take HBONE")
    seen = {n: len(mesh.access(n)) for n in cluster.nodes}
    address = getattr(shop["cart"], family)
    with Tap(cluster) as wire:
        answer = shop["web"].get(address, path="/in-the-clear")
    assert answer == f"cart sees {getattr(shop['web'], family)}", (
        "the application sees the client's own address"
    )
    assert not wire.holds("/in-the-clear")
    assert wire.packets(f"host {address} and tcp port 15008") > 0
    client, server = "spiffe://cluster.local/ns/shop/sa/web", "spiffe://cluster.local/ns/shop/sa/cart"
    for node, direction in (("n1", "outbound"), ("n2", "inbound")):
        mesh.wait_access(
            node,
            f"the {direction} connection",
            seen[node],
            direction=direction,
            src__identity=client,
            dst__identity=server,
            dst__hbone_addr=lambda a: a.endswith(":8080"),
        )


def test_by_service_address(cluster, mesh, shop):
    for vip in cluster.service("shop", "cart", {"app": "cart"}):
        wait_for(lambda: shop["web"].get(vip, 80, check=False).startswith("cart sees"), f"an answer at {vip}")
        seen = len(mesh.access("n2"))
        shop["web"].get(vip, 80)
        mesh.wait_access(
            "n2",
            f"the connection to {vip}",
            seen,
            direction="inbound",
            dst__service="cart.shop.svc.cluster.local",
        )


def test_policies_are_enforced(cluster, mesh, shop):
    cluster.api.apply(
        {
            "apiVersion": "security.istio.io/v1",
            "kind": "AuthorizationPolicy",
            "metadata": {"name": "web-only", "namespace": "shop"},
            "spec": {
                "selector": {"matchLabels": {"app": "cart"}},
                "action": "ALLOW",
                "rules": [
                    {
                        "from": [{"source": {"principals": ["cluster.local/ns/shop/sa/web"]}}],
                        "to": [{"operation": {"ports": ["8080"]}}],
                    }
                ],
            },
        }
    )
    wait_for(lambda: not shop["thief"].get(shop["cart"].ip, check=False), "the policy to count")
    for ip in shop["cart"].ips:
        assert shop["web"].get(ip).startswith("cart sees")
        assert not shop["thief"].get(ip, check=False)
        assert not shop["web"].get(ip, port=9000, check=False), "another port"
    mesh.wait_access(
        "n2",
        "the refusal",
        0,
        direction="inbound",
        src__identity="spiffe://cluster.local/ns/shop/sa/thief",
        error=lambda e: "policy" in e or "web-only" in e,
    )
    cluster.api.delete("AuthorizationPolicy", "web-only", "shop", "security.istio.io/v1")
    wait_for(lambda: shop["thief"].get(shop["cart"].ip, check=False), "the policy to be gone")


def test_label_removed_lets_them_out_again(cluster, mesh, shop, download, report):
    goes_on(download)
    began = time.monotonic()
    cluster.label("shop", None)
    mesh.wait_outside(*shop.values())
    report(f"label removed to all of 3 pods outside: {time.monotonic() - began:.1f} s")
    with Tap(cluster) as wire:
        for ip in shop["cart"].ips:
            wait_for(lambda: shop["web"].get(ip, path="/in-the-clear", check=False), "an answer in plaintext")
    assert wire.holds("/in-the-clear") and wire.packets("tcp port 15008") == 0
    assert all(p.restarts() == 0 and p.redirection() is None for p in shop.values())


def test_the_long_download_never_broke(download):
    process, path, size = download
    assert process.wait(60) == 0, process.text()
    with open(path, "rb") as f:
        assert len(f.read()) == size
