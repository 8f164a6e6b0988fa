# SPDX-License-Identifier: Apache-2.0
"""One half of Bruma with one half of the stock data plane: a stock ztunnel under Bruma's agent
(docs/ztunnel.md), and bruma-proxy under a stock istio-cni (docs/zds.md). Pods that run through all of it are
not restarted."""

import json
import os
import re

import pytest
import yaml

import rolling
import stock
from dig import ask, flags
from images import BRUMA, ROOT
from plan import SYSTEM
from release import AGENT, PROXY
from support.system import run, wait_for
from tap import Tap

CONTROL_PLANE = ("BRUMA_ISTIOD", "BRUMA_ISTIO_CHARTS")


def needs(*names):
    missing = [n for n in names if not os.environ.get(n)]
    return pytest.mark.skipif(bool(missing), reason=f"not given: {', '.join(missing)}")


@pytest.fixture
def parts(cluster, mesh):
    s = stock.Stock(cluster)
    yield s
    s.close(mesh)


def pods_of(cluster, name):
    cluster.namespace(name, accounts=("client", "server"), **{"istio.io/dataplane-mode": "ambient"})
    return (
        cluster.pod(name, "client", "n1", "client", wait=False),
        cluster.pod(name, "server", "n2", "server", wait=False),
    )


def proxies_know(cluster, mesh, *pods):
    """Whether the proxy of each node, of either kind, has heard that the pods take HBONE: by the page that
    both have."""
    for name, node in cluster.nodes.items():
        for proxy in mesh.pods(PROXY, name):
            pid = node.container_pid(proxy["metadata"]["uid"])
            page = run(
                [
                    "nsenter",
                    "--target",
                    pid,
                    "--net",
                    "curl",
                    "-sSf",
                    "--noproxy",
                    "*",
                    "-m",
                    "5",
                    "http://127.0.0.1:15000/config_dump",
                ]
            )
            known = {w["uid"]: w["protocol"] for w in json.loads(page.stdout)["workloads"]}
            if any(known.get(f"Kubernetes//Pod/{p.full_name}") != "HBONE" for p in pods):
                return False
    return True


def hbone_alone(cluster, mesh, client, server):
    """From node to node by both families: the application's answer, HBONE and nothing else on the wire, both
    access logs."""
    wait_for(
        lambda: proxies_know(cluster, mesh, client, server),
        "both proxies to know that the pods take HBONE",
        30,
        0.2,
    )
    for own, address in ((client.ip, server.ip), (client.ip6, server.ip6)):
        seen = {n: mesh.access(n) for n in cluster.nodes}
        with Tap(cluster) as wire:
            answer = client.get(address, path="/in-the-clear")
        assert answer == f"server sees {own}"
        assert not wire.holds("/in-the-clear")
        assert wire.packets(f"host {address} and tcp port 15008") > 0
        assert wire.packets(f"host {address} and tcp port 8080") == 0
        who = f"spiffe://cluster.local/ns/{client.namespace}/sa/"
        for node, direction in (("n1", "outbound"), ("n2", "inbound")):
            wanted = {
                "direction": direction,
                "src.identity": f"{who}{client.account}",
                "dst.identity": f"{who}{server.account}",
            }
            wait_for(
                lambda: any(
                    wanted.items() <= line.items() and line["dst.hbone_addr"].endswith(":8080")
                    for line in mesh.access(node)
                    if line not in seen[node]
                ),
                f"the access log of {node} to tell of the connection to {address}",
                15,
            )


def names_are_answered(cluster, client):
    """By the rules of the stock plugin, which redirect to port 15053: a Service by the proxy, with its flag and
    time to live; what the mesh does not know by the cluster's server."""
    vips = cluster.service(client.namespace, "server", {"app": "server"})
    name = f"server.{client.namespace}.svc.cluster.local"
    for transport in ("+notcp", "+tcp"):
        for vip in vips:
            kind = "AAAA" if ":" in vip else "A"
            wait_for(
                lambda vip=vip, kind=kind, transport=transport: vip in ask(client, transport, name, kind),
                f"{name} {kind} to be answered",
                20,
            )
            out = ask(client, transport, name, kind)
            assert re.search(rf"\s30\s+IN\s+{kind}\s+{re.escape(vip)}$", out, re.M), out
            assert "aa" in flags(out), out
        out = ask(client, transport, f"nobody.{client.namespace}.svc.cluster.local", "A")
        assert "status: NXDOMAIN" in out, out


def served_by(mesh, node, kind):
    """The kind of the node's proxies as the agent sees it; one of them serves."""
    status = mesh.ask(node, "status")[0]
    return status["proxyKind"] == kind and any(
        p["kind"] == kind and p["state"] == "serving" for p in status["proxies"]
    )


def wait_served_by(cluster, mesh, kind):
    for node in cluster.nodes:
        wait_for(lambda: served_by(mesh, node, kind), f"a {kind} to serve on {node}", 60, 0.2)


@needs(*CONTROL_PLANE, "BRUMA_ZTUNNEL")
def test_a_stock_ztunnel_under_our_agent(cluster, mesh, parts, report):
    parts.load(stock.ztunnel_image(cluster.directory))
    mesh.install(ztunnel__enabled="false")
    parts.install_ztunnel()
    mesh.wait_rolled_out(120)
    wait_served_by(cluster, mesh, "ztunnel")
    pods = [p.wait_ready() for p in pods_of(cluster, "with-ztunnel")]
    mesh.wait_in_mesh(*pods)
    hbone_alone(cluster, mesh, *pods)
    for how in ("patient", "hasty"):
        figures, _ = rolling.restarts(cluster, None, f"rolling-{how}-ztunnel", how)
        rolling.told(report, "a stock ztunnel", how, figures)
        assert figures["made"] - len(figures["failed"]) > rolling.RATE
    # And back.
    parts.uninstall("ztunnel")
    mesh.install(ztunnel__enabled="true")
    mesh.wait_rolled_out(120)
    wait_served_by(cluster, mesh, "bruma-proxy")
    mesh.wait_in_mesh(*pods)
    hbone_alone(cluster, mesh, *pods)
    assert all(p.restarts() == 0 for p in pods)
    cluster.delete_namespace("with-ztunnel")
    report("a stock ztunnel under bruma-agent: HBONE by IPv4 and IPv6, and back to bruma-proxy")


def put_ours_in(cluster):
    """packaging/zds-patch.yaml as it is; the image has the name that it says."""
    patch = f"{ROOT}/packaging/zds-patch.yaml"
    with open(patch) as f:
        image = yaml.safe_load(f)["spec"]["template"]["spec"]["containers"][0]["image"]
    for node in cluster.nodes.values():
        node.ctr("images", "tag", "--force", f"{BRUMA}:1", image)
    cluster.kubectl("-n", SYSTEM, "patch", "daemonset", PROXY, "--patch-file", patch)
    return image


@needs(*CONTROL_PLANE, "BRUMA_ZTUNNEL", "BRUMA_ISTIO_CNI")
def test_our_proxy_under_a_stock_istio_cni(cluster, mesh, parts, report):
    cluster.helm("uninstall", "bruma", "-n", SYSTEM, "--ignore-not-found", "--wait", "--timeout", "3m")
    wait_for(lambda: not mesh.pods(PROXY) and not mesh.pods(AGENT), "Bruma's pods to go", 60, 0.2)
    parts.load(stock.cni_image(cluster.directory), stock.ztunnel_image(cluster.directory))
    parts.install_cni()
    parts.install_ztunnel()
    mesh.wait_rolled_out(120)
    pods = [p.wait_ready() for p in pods_of(cluster, "with-istio-cni")]
    for pod in pods:
        wait_for(lambda: pod.redirection() == "enabled", f"istio-cni to capture {pod.full_name}", 30)
    image = put_ours_in(cluster)
    mesh.wait_rolled_out(120)
    assert all(p["spec"]["containers"][0]["image"] == image for p in mesh.pods(PROXY))
    hbone_alone(cluster, mesh, *pods)
    names_are_answered(cluster, pods[0])
    assert all(p.restarts() == 0 for p in pods)
    cluster.delete_namespace("with-istio-cni")
    report("bruma-proxy under a stock istio-cni: HBONE by IPv4 and IPv6, names answered")
