# SPDX-License-Identifier: Apache-2.0
"""brumactl with a kubeconfig and nothing else, from outside the nodes: it reaches agents and proxies of both through the API
server and the kubelets."""

import json
import os
import re

import pytest

from plan import SYSTEM
from release import AGENT, PROXY
from support.system import run, wait_for


@pytest.fixture(scope="module")
def operator(cluster, mesh):
    """Somebody who has the chart's role, and no other."""
    cluster.keys.make("operator", "operator")
    group = "rbac.authorization.k8s.io"
    cluster.api.apply(
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "operator", "namespace": SYSTEM},
            "roleRef": {"apiGroup": group, "kind": "Role", "name": "bruma-operator"},
            "subjects": [{"apiGroup": group, "kind": "User", "name": "operator"}],
        }
    )
    yield cluster.keys.path("operator.conf")
    cluster.api.delete("RoleBinding", "operator", SYSTEM, f"{group}/v1")


@pytest.fixture(scope="module")
def ctl(cluster, build, operator):
    def call(*argv, config=operator, check=True):
        return run(
            [f"{build}/ctl/brumactl", "--kubeconfig", config, *argv],
            netns=cluster.netns,
            env={**os.environ, "HOME": "/nowhere", "NO_PROXY": "*"},
            check=check,
        )

    return call


@pytest.fixture(scope="module")
def pair(cluster, mesh):
    """web and cart in the mesh, on two nodes, and a download from one to the other that stays open."""
    cluster.namespace("ops", accounts=("web", "cart"), **{"istio.io/dataplane-mode": "ambient"})
    pods = {
        "web": cluster.pod("ops", "web", "n1", "web", wait=False),
        "cart": cluster.pod("ops", "cart", "n2", "cart", wait=False),
    }
    for pod in pods.values():
        pod.wait_ready()
    mesh.wait_in_mesh(*pods.values())
    wait_for(lambda: mesh.plane_knows(*pods.values()), "both proxies to know the pods", 30)
    download = pods["web"].popen(
        *("curl", "-sS", "--noproxy", "*", "-m", "600", "-o", f"{cluster.directory}/ops"),
        f"http://{pods['cart'].ip}:8080/bytes/60000000/100000",
        log=f"{cluster.directory}/ops.log",
    )
    wait_for(lambda: os.path.exists(f"{cluster.directory}/ops"), "the download to begin", 20)
    yield pods
    download.kill()
    cluster.delete_namespace("ops")


def test_brumactl_shows_the_nodes(ctl, pair):
    rows = [line.split() for line in ctl("status", check=False).stdout.splitlines()[1:3]]
    assert [r[0] for r in rows] == ["n1", "n2"] and all("serving" in r for r in rows), rows
    one = ctl("status", "--node", "n2", check=False).stdout
    assert "Kubernetes API" in one and "followed" in one


def test_brumactl_shows_pods_and_connections(ctl, pair):
    rows = [line.split() for line in ctl("pods", "-n", "ops").stdout.splitlines()]
    assert [r[:4] for r in rows[1:]] == [["n1", "ops", "web", "enrolled"], ["n2", "ops", "cart", "enrolled"]]
    lines = ctl("connections", "-n", "ops").stdout.splitlines()
    assert any(line.startswith("n1 ") and "ops/web" in line and "outbound" in line for line in lines), lines
    assert any(line.startswith("n2 ") and "ops/cart" in line and "inbound" in line for line in lines), lines
    who = "spiffe://cluster.local/ns/ops/sa/cart"
    assert any(line.startswith("n2 ") and who in line for line in ctl("identities").stdout.splitlines())


def test_brumactl_explains_a_pair_on_two_nodes(ctl, pair):
    text = ctl("explain", "ops/web", "ops/cart:8080").stdout
    assert "ops/web is on node n1" in text and "ops/cart is on node n2" in text
    assert "through HBONE" in text and "the policies allow it" in text


def test_brumactl_top_shows_the_download(ctl, pair):
    """100,000 bytes a second, as the server was told."""

    def seen():
        rows = {
            r["name"]: r
            for r in json.loads(ctl("top", "-n", "ops", "--interval", "4", "-o", "json").stdout)["rows"]
        }
        web, cart = rows.get("ops/web"), rows.get("ops/cart")
        return (
            web
            and cart
            and (web["open"], cart["open"]) == (1, 1)
            and (web["inBytesPerSecond"], cart["outBytesPerSecond"])
        )

    for rate in wait_for(seen, "both ends to be told", 30):
        assert 50_000 < rate < 200_000, rate


def test_brumactl_check_finds_nothing_wrong(ctl, pair):
    lines = json.loads(ctl("check", "-o", "json", check=False).stdout)
    assert {line.get("node") for line in lines} == {"n1", "n2", None}
    wrong = [line for line in lines if not line["ok"] and line["check"] not in ("steering failures", "pod")]
    assert not wrong, wrong
    checks = {(line.get("node"), line["check"]) for line in lines}
    each = ("agent", "proxy", "control plane", "certificates", "pods", "kernel")
    assert {(node, check) for node in ("n1", "n2") for check in each} <= checks
    assert {(None, "versions"), (None, "clock"), (None, "MTU")} <= checks


def test_helm_test_says_what_check_says(cluster, mesh, pair):
    r = cluster.helm("test", "bruma", "-n", SYSTEM, "--timeout", "2m", check=False)
    said = cluster.kubectl("-n", SYSTEM, "logs", "bruma-check").stdout
    assert r.returncode == 0 and re.search(r"Phase: +Succeeded", r.stdout), r.stdout + r.stderr + said
    for node in cluster.nodes:
        assert node in said
    cluster.api.delete("Pod", "bruma-check", SYSTEM)


def test_kubectl_bruma(cluster, build, operator, pair):
    folder = f"{cluster.directory}/plugins"
    os.makedirs(folder)
    os.symlink(f"{build}/ctl/brumactl", f"{folder}/kubectl-bruma")
    r = run(
        [f"{cluster.peers}/kubectl", "bruma", "pods", "-A", "-o", "json"],
        netns=cluster.netns,
        env={**os.environ, "KUBECONFIG": operator, "PATH": f"{folder}:{os.environ['PATH']}", "HOME": folder},
    )
    assert {n["node"] for n in json.loads(r.stdout)} == set(cluster.nodes)


def test_who_has_no_role_is_told(cluster, ctl):
    cluster.keys.make("nobody", "nobody")
    r = ctl("pods", config=cluster.keys.path("nobody.conf"), check=False)
    assert r.returncode == 3 and 'pods is forbidden: User "nobody" cannot list resource "pods"' in r.stderr


def test_a_proxy_that_is_away_is_a_line(cluster, mesh, ctl, pair):
    """Deleted a moment ago, or beside its successor: what was asked of the other node is there."""
    cluster.api.delete("Pod", mesh.pods(PROXY, "n1")[0]["metadata"]["name"], SYSTEM)
    text = ctl("pods", "-n", "ops").stdout
    assert "web" in text and "cart" in text
    wait_for(lambda: mesh.rolled_out(PROXY) and mesh.rolled_out(AGENT), "the proxy to be there again", 60)
    assert ctl("connections", check=False).returncode == 0
