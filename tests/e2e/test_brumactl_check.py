# SPDX-License-Identifier: Apache-2.0
"""brumactl check: of a mesh that is well, of one that is not, and of a machine before an agent runs there."""

import json
import os
import re
import time

import pytest

from support.kube.forwarder import Forwarder
from support.kube.operator import ctl
from support.nodes.mesh import Mesh
from support.programs import BUILD, ROOT, program
from support.system import run, wait_for

PATH = f"{BUILD}/agent:{os.environ['PATH']}"


@pytest.fixture(scope="module")
def mesh():
    with Mesh(nodes=2, agent_options=("--ready-port", "8000")) as m:
        m.web, m.shop = m.pod("web", node=0), m.pod("shop", node=1)
        m.start()
        yield m


@pytest.fixture
def api(mesh, tmp_path):
    with Forwarder(tmp_path / "api", mesh.nodes) as a:
        yield a


def findings(api, check=None):
    r = ctl("check", "-o", "json", kubeconfig=api.kubeconfig(), check=check)
    return json.loads(r.stdout)


def of(lines, check, node=None):
    return [line for line in lines if line["check"] == check and line.get("node") == node]


def wrong(lines, check, node=None):
    found = [line for line in of(lines, check, node) if not line["ok"]]
    assert all(line["page"].startswith("docs/") for line in found)
    return " / ".join(line["detail"] for line in found)


def test_a_mesh_that_is_well(mesh, api):
    wait_for(lambda: all(line["ok"] for line in findings(api)), "everything to be well")
    lines = findings(api, check=0)
    for node in ("node1", "node2"):
        for check in ("agent", "proxy", "control plane", "certificates", "pods", "kernel", "clock", "MTU"):
            assert of(lines, check, node), (node, check)
        assert "1 in the mesh" in of(lines, "pods", node)[0]["detail"]
        assert re.search(
            r"1, of which the first one expires in \d+ minutes", of(lines, "certificates", node)[0]["detail"]
        )
    for check in ("versions", "clock"):
        assert of(lines, check)[0]["ok"], check
    text = ctl("check", kubeconfig=api.kubeconfig(), check=0).stdout
    assert (
        re.search(r"^node node1\n  ok    agent: version \S+ answers$", text, re.M) and "\nall nodes\n" in text
    )
    assert "BAD" not in text and "see:" not in text


def test_of_this_machine_alone(mesh):
    r = ctl("check", "--run-dir", mesh.nodes[0].run_dir, check=0)
    assert r.stdout.startswith("this node\n") and "ok    control plane: the proxy is connected" in r.stdout
    assert "clock: no two" not in r.stdout
    assert "no answer of the agent" in ctl("check", "--run-dir", "/nowhere", check=3).stderr


def agent_that_says(**said):
    """The same item answers each of the questions."""
    proxy = {"version": "0.1.0", "state": "serving"}
    item = {
        "version": "0.1.0",
        "now": time.time(),
        "mtu": 1500,
        "proxies": [proxy],
        "check": "kernel",
        "ok": True,
    }
    return json.dumps([item | said]).encode()


def test_versions_clocks_and_mtus_that_differ(mesh, api):
    api.faults["agent-node1"] = agent_that_says()
    api.faults["agent-node2"] = agent_that_says(version="9.9", now=time.time() + 100, mtu=1400)
    lines = findings(api, check=1)
    assert "0.1.0 on node1, and 9.9 on node2" in wrong(lines, "versions")
    assert re.match(r"the clock of node2 is (9\d|100) seconds ahead of that of node1", wrong(lines, "clock"))
    assert "1400 bytes on node2, and 1500 on node1" in wrong(lines, "MTU")
    text = ctl("check", kubeconfig=api.kubeconfig(), check=1).stdout
    assert "  BAD   versions: there are several" in text and "        see: docs/install.md#upgrade" in text
    api.faults["agent-node1"] = agent_that_says()
    api.faults["agent-node2"] = agent_that_says(now=time.time() + 5)
    lines = findings(api)
    assert not wrong(lines, "clock") and not wrong(lines, "versions") and not wrong(lines, "MTU")


def test_the_plugins_entry(mesh, api):
    entry = "/etc/cni/net.d/10-main.conflist"
    contested = {"reason": "cni_conf_contested", "detail": "somebody takes it out again"}
    api.faults["agent-node2"] = agent_that_says(
        cniFile=entry, cniReason="cni_conf_contested", problems=[contested]
    )
    lines = findings(api, check=1)
    assert wrong(lines, "CNI network", "node2") == "somebody takes it out again"
    api.faults["agent-node2"] = agent_that_says(cniFile=entry, cniReason="", problems=[])
    (line,) = of(findings(api), "CNI network", "node2")
    assert line["ok"] and entry in line["detail"]


def test_no_problem_of_an_agent_is_left_out(mesh, api):
    lost = [{"reason": "netns_not_found", "detail": f"demo/lost{i}"} for i in range(2)]
    unheard = {"reason": "of_a_later_release", "detail": "something else"}
    away = {"reason": "api_unreachable", "detail": "no route"}
    api.faults["agent-node2"] = agent_that_says(problems=[*lost, unheard, away])
    lines = findings(api, check=1)
    assert wrong(lines, "pods", "node2") == "demo/lost0 / demo/lost1"
    assert wrong(lines, "agent", "node2") == "of_a_later_release: something else / no route"


def test_a_stock_ztunnel_is_no_fault(mesh, api):
    api.faults["agent-node2"] = agent_that_says(proxies=[{"kind": "ztunnel", "state": "serving"}])
    api.faults["proxy-node2"] = "refuse"
    lines = findings(api)
    assert not wrong(lines, "proxy", "node2") and "stock ztunnel" in of(lines, "proxy", "node2")[0]["detail"]


@pytest.mark.parametrize("where", [("--node", "node1"), ("--context", "other"), ("--kubeconfig", "/nowhere")])
def test_before_an_install_it_is_this_machine(where):
    r = run([program("brumactl"), "check", "--before", *where], check=False)
    assert r.returncode == 2 and "check --before is of this machine" in r.stderr


def test_pods_that_belong_to_the_mesh_and_are_not_in_it(mesh, api):
    pod = {"namespace": "demo", "name": "lost", "state": "failed", "wanted": True}
    api.faults["agent-node2"] = agent_that_says(
        **pod, lastReason="attach_failed", lastError="it cannot be attached"
    )
    lines = findings(api, check=1)
    assert (
        wrong(lines, "pods", "node2") == "demo/lost belongs to the mesh and is failed: it cannot be attached"
    )
    assert [line["reason"] for line in of(lines, "pods", "node2") if not line["ok"]] == ["attach_failed"]
    for more in ({"wanted": False}, {"state": "enrolled"}, {"endingAt": 5}):
        api.faults["agent-node2"] = agent_that_says(**pod | more)
        assert not wrong(findings(api), "pods", "node2"), more


@pytest.mark.parametrize(
    ("certificate", "words"),
    [
        (
            {"certChain": [{"expirationTime": "2020-01-01T00:00:00Z"}], "state": "Available"},
            "spiffe://x: expired",
        ),
        (
            {"certChain": [], "state": "Unavailable: the CA is away"},
            "spiffe://x: Unavailable: the CA is away",
        ),
        ({"certChain": [{"expirationTime": "soon"}], "state": "Initializing"}, "spiffe://x: Initializing"),
        (
            {"certChain": [{"expirationTime": "2090-01-01T00:00:00Z"}], "error": "no CA"},
            "spiffe://x: good, and not renewed: no CA",
        ),
    ],
)
def test_certificates(mesh, api, certificate, words):
    api.faults["proxy-node2"] = json.dumps(
        {"certificates": [{"identity": "spiffe://x", **certificate}]}
    ).encode()
    assert wrong(findings(api, check=1), "certificates", "node2") == words


def test_a_certificate_that_expires_soon(mesh, api):
    """Of one that is short-lived: in the last tenth of its life."""

    def clock(minutes):
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 60 * minutes))

    soon = "spiffe://x: expires soon, and should have been renewed"
    for age, left, words in ((None, 5, soon), (None, 30, ""), (600, 5, soon), (10, 5, ""), (60, 5, soon)):
        chain = {"expirationTime": clock(left)} | ({"validFrom": clock(-age)} if age else {})
        one = {"identity": "spiffe://x", "state": "Available", "certChain": [chain]}
        api.faults["proxy-node2"] = json.dumps({"certificates": [one]}).encode()
        assert wrong(findings(api), "certificates", "node2") == words


def test_nodes_that_do_not_answer_are_lines(mesh, api):
    api.faults["agent-node1"] = "refuse"
    lines = findings(api, check=1)
    assert "cannot create resource" in wrong(lines, "agent", "node1") and of(lines, "proxy", "node1")[0]["ok"]
    api.faults["proxy-node1"] = "cut"
    lines = findings(api, check=1)
    assert wrong(lines, "agent", "node1") and of(lines, "agent", "node2")[0]["ok"]
    api.faults.update(dict.fromkeys(api.places, "refuse"))
    lines = findings(api, check=3)
    assert wrong(lines, "agent", "node1") and wrong(lines, "agent", "node2")


def test_a_control_plane_that_is_away(mesh, api):
    """Without Kubernetes the agent is the control plane of its node."""
    mesh.nodes[1].agent.kill()
    try:
        wait_for(lambda: wrong(findings(api), "control plane", "node2"), "the control plane to be missed", 30)
        assert wrong(findings(api, check=1), "agent", "node2") and not wrong(
            findings(api), "control plane", "node1"
        )
    finally:
        mesh.nodes[1].start_agent(*mesh.agent_options)
    wait_for(lambda: not wrong(findings(api), "control plane", "node2"), "it to be back", 30)


# ---- before ----


def before(mesh, *options, check=None, path=PATH):
    argv = ["check", "--before", "-o", "json", "--", "--cgroup", mesh.nodes[0].cgroup, *options]
    r = ctl(*argv, env={"PATH": path}, check=check)
    return json.loads(r.stdout), r


def test_before_an_install(mesh, tmp_path):
    conf = {"cniVersion": "1.0.0", "name": "main", "plugins": [{"type": "bridge"}]}
    (tmp_path / "10-main.conflist").write_text(json.dumps(conf))
    lines, _ = before(mesh, "--cni-conf-dir", str(tmp_path), check=0)
    assert {line["check"] for line in lines} >= {
        "kernel",
        "cgroup",
        "pins",
        "programs on the hook",
        "clock",
        "MTU",
    }
    # The agent's programs are there already, as those of others would be.
    hook = [line["detail"] for line in lines if "connect4" in line["detail"]]
    assert len(hook) == 1 and re.search(r"\w+\(\d+\)", hook[0]) and "do they rewrite addresses?" in hook[0]
    text = ctl("check", "--before", "--", "--cgroup", str(tmp_path), env={"PATH": PATH}, check=1).stdout
    assert f"  BAD   cgroup: {tmp_path} is not a cgroup2 directory\n        see: docs/install.md#" in text
    assert "programs on the hook" not in text


def test_the_network_that_the_runtime_loads(mesh, tmp_path):
    def network(check):
        lines, _ = before(mesh, "--cni-conf-dir", str(tmp_path), check=check)
        return [(line["ok"], line["detail"]) for line in lines if line["check"] == "CNI network"]

    assert network(1) == [(False, f"{tmp_path} has none that can be used")]
    (tmp_path / "20-second.conflist").write_text(json.dumps({"name": "n", "plugins": [{"type": "ptp"}]}))
    assert network(0) == [(True, f"the runtime loads {tmp_path}/20-second.conflist")]
    (tmp_path / "10-bad.conf").write_text("{")
    found = network(1)
    assert found[0] == (True, f"the runtime loads {tmp_path}/20-second.conflist")
    assert not found[1][0] and "10-bad.conf" in found[1][1]
    lines, _ = before(mesh, "--cni-conf-dir", str(tmp_path / "none"), check=1)
    assert any(line["check"] == "CNI network" and not line["ok"] for line in lines)
    assert sorted(os.listdir(tmp_path)) == ["10-bad.conf", "20-second.conflist"]


def test_before_cannot_be_said(mesh, tmp_path):
    r = ctl("check", "--before", env={"PATH": "/nowhere"}, check=3)
    assert "bruma-agent cannot be run" in r.stderr
    r = ctl("check", "--before", "--", "--no-such-option", "x", env={"PATH": PATH}, check=3)
    assert "no-such-option" in r.stderr
    agent = tmp_path / "bruma-agent"
    for script in ("yes", "echo '{}'", "echo '[]'; kill -9 $$"):
        agent.write_text(f"#!/bin/sh\n{script}\n")
        agent.chmod(0o755)
        r = ctl("check", "--before", env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=3)
        assert "has not said what it has found" in r.stderr
    assert "takes arguments only with --before" in ctl("check", "x", check=2).stderr
    r = run(
        ["unshare", "--user", program("brumactl"), "check", "--before"], check=False
    )  # somebody without a name
    assert r.returncode == 2 and "for root" in r.stderr


# ---- pages ----


def test_each_check_has_a_page_that_is_there():
    with open(f"{ROOT}/ctl/check_pages.c") as f:
        pages = dict(re.findall(r'\{"([^"]+)", "(docs/[^"]+)"\}', f.read()))
    for page in pages.values():
        path, _, anchor = page.partition("#")
        with open(f"{ROOT}/{path}") as f:
            headings = re.findall(r"^#+ (.*)$", f.read(), re.M)
        anchors = [re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings]
        assert not anchor or anchor in anchors, page
    said = set()
    for name in ("agent/api/doctor.c", "agent/api/host_checks.c", "ctl/check.c", "ctl/check_node.c"):
        with open(f"{ROOT}/{name}") as f:
            said |= set(re.findall(r'(?:ctl_finding\(c, |say(?:_wrong)?\(lines, )"([^"]+)"', f.read()))
    assert {"kernel", "CNI network", "versions"} <= said
    assert said <= set(pages), said - set(pages)
