# SPDX-License-Identifier: Apache-2.0
"""istioctl (BRUMA_ISTIOCTL names its program) as users run it: with a kubeconfig and nothing else. It finds the proxies by
their DaemonSet and label, and reads their pages through the API server, the kubelet and the container runtime."""

import glob
import json
import os
import re
import tarfile

import pytest
import yaml

from plan import CONTROL4, SYSTEM
from release import AGENT, PROXY
from support.system import run, wait_for

ISTIOD = bool(os.environ.get("BRUMA_ISTIOD"))
pytestmark = pytest.mark.skipif(not os.environ.get("BRUMA_ISTIOCTL"), reason="not given: BRUMA_ISTIOCTL")
with_istiod = pytest.mark.skipif(not ISTIOD, reason="not given: BRUMA_ISTIOD, of which it asks")
WHO = "spiffe://cluster.local/ns/desk/sa"


@pytest.fixture(scope="module")
def istioctl(cluster):
    home = f"{cluster.directory}/istioctl"
    os.makedirs(home)

    def call(*argv, timeout=60, **options):
        return run(
            [os.environ["BRUMA_ISTIOCTL"], "--kubeconfig", cluster.kubeconfig, *argv],
            netns=cluster.netns,
            env={**os.environ, "HOME": home, "TMPDIR": home, "NO_PROXY": "*"},
            timeout=timeout,
            **options,
        )

    return call


@pytest.fixture(scope="module")
def desk(cluster, mesh):
    """web and cart in the mesh, on two nodes, and a download from one to the other that stays open."""
    cluster.namespace("desk", accounts=("web", "cart"), **{"istio.io/dataplane-mode": "ambient"})
    pods = {
        "web": cluster.pod("desk", "web", "n1", "web", wait=False),
        "cart": cluster.pod("desk", "cart", "n2", "cart", wait=False),
    }
    for pod in pods.values():
        pod.wait_ready()
    cluster.service("desk", "cart", {"app": "cart"})
    mesh.wait_in_mesh(*pods.values())
    cluster.api.apply(
        {
            "apiVersion": "security.istio.io/v1",
            "kind": "AuthorizationPolicy",
            "metadata": {"name": "only-web", "namespace": "desk"},
            "spec": {
                "selector": {"matchLabels": {"app": "cart"}},
                "action": "ALLOW",
                "rules": [{"from": [{"source": {"principals": ["cluster.local/ns/desk/sa/web"]}}]}],
            },
        }
    )
    wait_for(lambda: mesh.plane_knows(*pods.values()), "both proxies to know the pods", 30)
    download = pods["web"].popen(
        *("curl", "-sS", "--noproxy", "*", "-m", "600", "-o", f"{cluster.directory}/desk"),
        f"http://{pods['cart'].ip}:8080/bytes/60000000/100000",
        log=f"{cluster.directory}/desk.log",
    )
    wait_for(lambda: os.path.exists(f"{cluster.directory}/desk"), "the download to begin", 20)
    yield pods
    download.kill()
    cluster.api.delete("AuthorizationPolicy", "only-web", "desk", "security.istio.io/v1")
    cluster.delete_namespace("desk")


def proxy_of(mesh, node):
    return mesh.pods(PROXY, node)[0]["metadata"]["name"]


def row(text, *words):
    """The line of a table that has all of the words, in columns of their own or, as addresses are, in a list."""
    found = [line for line in text.splitlines() if all(w in re.split(r"[\s,]+", line) for w in words)]
    assert len(found) == 1, (words, text)
    return found[0].split()


@pytest.mark.parametrize("node", ["n1", "n2"])
def test_istioctl_shows_workloads(istioctl, mesh, desk, node):
    text = istioctl("ztunnel-config", "workload", f"{proxy_of(mesh, node)}.{SYSTEM}").stdout
    for name, place in (("web", "n1"), ("cart", "n2")):
        assert row(text, "desk", name, desk[name].ip, place)[-1] == "HBONE"


def test_istioctl_finds_the_proxy_by_itself(istioctl, mesh, desk):
    """By the DaemonSet, by a node, and by a pod of the mesh."""
    for choice in ((), ("--node", "n1"), ("web.desk",)):
        text = istioctl("ztunnel-config", "workload", *choice).stdout
        assert "web" in text, (choice, text)


def test_istioctl_shows_services(istioctl, mesh, desk):
    text = istioctl("ztunnel-config", "service", f"{proxy_of(mesh, 'n1')}.{SYSTEM}").stdout
    assert row(text, "desk", "cart")[-1] == "1/1"


def test_istioctl_shows_policies(istioctl, mesh, desk):
    text = istioctl("ztunnel-config", "policy", f"{proxy_of(mesh, 'n2')}.{SYSTEM}").stdout
    assert "Allow" in row(text, "desk", "only-web")


def test_istioctl_shows_certificates(istioctl, mesh, desk):
    text = istioctl("ztunnel-config", "certificate", f"{proxy_of(mesh, 'n2')}.{SYSTEM}").stdout
    leaf = [line for line in text.splitlines() if line.startswith(f"{WHO}/cart ") and " Leaf " in line]
    assert len(leaf) == 1 and "Available" in leaf[0] and " true " in leaf[0], text
    assert any(" Root " in line for line in text.splitlines() if line.startswith(f"{WHO}/cart ")), text


def test_istioctl_shows_open_connections(istioctl, mesh, desk):
    for node, direction, ends in (
        ("n1", "Outbound", ("web.desk:", "cart.desk:15008", "cart.desk:8080")),
        ("n2", "Inbound", ("cart.desk:15008", "web.desk:", f"{desk['cart'].ip}:8080")),
    ):
        text = istioctl("ztunnel-config", "connections", "--node", node).stdout
        found = [line.split() for line in text.splitlines() if f" {direction} " in line]
        assert any(
            line[-1] == "HBONE" and all(c.startswith(e) for c, e in zip(line[2:5], ends, strict=True))
            for line in found
        ), text


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_istioctl_shows_everything(istioctl, mesh, desk, form):
    text = istioctl("ztunnel-config", "all", f"{proxy_of(mesh, 'n2')}.{SYSTEM}").stdout
    for word in ("only-web", "cart", f"{WHO}/cart"):
        assert word in text
    text = istioctl("ztunnel-config", "all", f"{proxy_of(mesh, 'n2')}.{SYSTEM}", "-o", form).stdout
    dump = (json.loads if form == "json" else yaml.safe_load)(text)
    assert "cart" in [w["name"] for w in dump["workloads"]] and dump["services"] and dump["certificates"]


def test_istioctl_sets_levels_of_the_log(istioctl, mesh, desk):
    name = f"{proxy_of(mesh, 'n1')}.{SYSTEM}"
    before = istioctl("ztunnel-config", "log", name).stdout
    assert re.search(r"current log level is .*info", before), before
    try:
        assert "debug" in istioctl("ztunnel-config", "log", name, "--level", "debug").stdout
        assert "access=warn" in istioctl("ztunnel-config", "log", name, "--level", "access:warning").stdout
    finally:
        after = istioctl("ztunnel-config", "log", name, "-r").stdout
    assert "debug" not in after and "access" not in after and "info" in after
    everybody = istioctl("ztunnel-config", "log").stdout
    assert all(f"{proxy_of(mesh, n)}.{SYSTEM}:" in everybody for n in ("n1", "n2"))


@with_istiod
def test_istioctl_shows_who_is_in_step(istioctl, cluster, mesh, desk):
    """istiod's word on the proxies, as istioctl asks for it over xDS."""
    text = istioctl("proxy-status", "--xds-address", f"{CONTROL4}:15012").stdout
    for node in cluster.nodes:
        line = row(text, f"{proxy_of(mesh, node)}.{SYSTEM}")
        assert "Kubernetes" in line, text


@with_istiod
def test_istioctl_analyze_finds_nothing(istioctl, cluster, mesh, desk):
    """Nothing about pods that were enrolled, about the namespace, or about the DaemonSets."""
    for namespace in ("desk", SYSTEM):
        r = istioctl("analyze", "-n", namespace, check=False)
        assert r.returncode == 0 and "No validation issues found" in r.stdout + r.stderr, r.stdout + r.stderr


@with_istiod
def test_istioctl_reports_a_bug(istioctl, cluster, mesh, desk):
    """The archive has the proxies' pages, and the logs of proxies and agents."""
    where = f"{cluster.directory}/bug-report"
    os.makedirs(f"{where}/parts")
    r = istioctl(
        *("bug-report", "--istio-namespace", SYSTEM, "--include", f"desk,{SYSTEM}"),
        *("--timeout", "2m", "--dir", f"{where}/parts", "--output-dir", where),
        timeout=240,
    )
    assert glob.glob(f"{where}/*.tar.gz"), r.stdout + r.stderr
    with tarfile.open(f"{where}/bug-report.tar.gz") as tar:
        names = [m.name for m in tar.getmembers() if m.isfile() and m.size]
        for node in cluster.nodes:
            dump = [n for n in names if proxy_of(mesh, node) in n and "config_dump" in n]
            assert dump and "cart" in tar.extractfile(dump[0]).read().decode(), names
    assert [n for n in names if "cni" in n and AGENT in n], names
