# SPDX-License-Identifier: Apache-2.0
"""brumactl with a kubeconfig: all nodes at once, through an API server that forwards ports (support/kube/forwarder.py).
tests/cluster has the same with a real one."""

import json
import os
import signal
import stat
import subprocess

import pytest

from support.kube.forwarder import TOKEN, Forwarder
from support.kube.operator import ctl
from support.nodes.mesh import Mesh
from support.nodes.pod_programs import ECHO
from support.programs import program
from support.system import Process, wait_for

OPEN = """
import socket, sys, time
s = socket.create_connection((sys.argv[1], 8080), timeout=20)
s.sendall(b"x"); s.recv(1)
print("OPEN", flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def mesh():
    with Mesh(nodes=2, agent_options=("--ready-port", "8000")) as m:
        m.web, m.shop = m.pod("web", node=0), m.pod("shop", node=1)
        m.start()
        m.shop.server(ECHO, "8080")
        yield m


@pytest.fixture
def api(mesh, tmp_path):
    with Forwarder(tmp_path / "api", mesh.nodes) as a:
        yield a


def test_status_has_a_line_for_each_node(mesh, api):
    text = ctl("status", kubeconfig=api.kubeconfig(), check=0).stdout.splitlines()
    assert text[0].split()[:2] == ["NODE", "AGENT"]
    assert [line.split()[:4] for line in text[1:]] == [
        ["node1", "0.1.0", "0.1.0", "serving"],
        ["node2", "0.1.0", "0.1.0", "serving"],
    ]
    one = ctl("status", "--node", "node2", kubeconfig=api.kubeconfig(), check=0).stdout
    assert f"pid {mesh.nodes[1].agent.pid}" in one and f"pid {mesh.nodes[1].proxy.pid}" in one


def test_pods_of_all_nodes(mesh, api):
    text = ctl("pods", "-A", kubeconfig=api.kubeconfig(), check=0).stdout
    rows = {line.split()[2]: line for line in text.splitlines()[1:]}
    assert rows["web"].startswith("node1 ") and rows["shop"].startswith("node2 ")
    assert mesh.web.identity in rows["web"]
    found = json.loads(ctl("pods", "-o", "json", kubeconfig=api.kubeconfig(), check=0).stdout)
    assert {(n["node"], p["name"]) for n in found for p in n["pods"]} == {("node1", "web"), ("node2", "shop")}
    assert "No pod" in ctl("pods", "-n", "nobody", kubeconfig=api.kubeconfig(), check=0).stdout


def test_connections_of_both_ends(mesh, api):
    p = mesh.web.popen("/usr/bin/python3", "-u", "-c", OPEN, mesh.shop.ip)
    wait_for(lambda: "OPEN" in p.text(), "the connection")
    lines = ctl("connections", kubeconfig=api.kubeconfig(), check=0).stdout.splitlines()
    assert any(line.startswith("node1 ") and "outbound" in line and mesh.shop.ip in line for line in lines), (
        lines
    )
    assert any(line.startswith("node2 ") and "inbound" in line and mesh.web.ip in line for line in lines), (
        lines
    )
    p.kill()


def test_policies_once_and_identities_of_each_node(mesh, api):
    mesh.deny(mesh.web.rule())
    mesh.write()
    try:
        wait_for(
            lambda: (
                ctl("policy", kubeconfig=api.kubeconfig(), check=0).stdout.count("demo/no-web  Deny") == 1
                and "only" not in ctl("policy", kubeconfig=api.kubeconfig(), check=0).stdout
            ),
            "the policy on both nodes",
        )
    finally:
        mesh.policies.clear()
        mesh.write()
    text = ctl("identities", kubeconfig=api.kubeconfig(), check=0).stdout
    assert {line.split()[0] for line in text.splitlines() if mesh.web.identity in line} >= {"node1"}


def test_explain_finds_the_nodes_of_a_pair(mesh, api):
    text = ctl("explain", "demo/web", "demo/shop:8080", kubeconfig=api.kubeconfig(), check=0).stdout
    assert "demo/web is on node node1" in text and "demo/shop is on node node2" in text
    assert f"through HBONE to {mesh.shop.ip}" in text and "the policies allow it" in text
    text = ctl("explain", "demo/shop", kubeconfig=api.kubeconfig(), check=0).stdout
    assert "node node2" in text and "ok    state" in text
    r = ctl("explain", "demo/none", kubeconfig=api.kubeconfig(), check=1)
    assert "no node knows a pod demo/none" in r.stderr


def test_doctor_of_all_nodes(mesh, api):
    text = ctl("doctor", kubeconfig=api.kubeconfig()).stdout
    assert "node node1" in text and "node node2" in text and "kernel" in text


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("refuse", "cannot create resource"),
        ("nonsense", "answer to the request to forward a port is none"),
        ("cut", "no answer of the agent"),
        ("bad frame", "no answer of the agent"),
    ],
)
def test_a_node_that_does_not_answer_is_a_line(mesh, api, fault, words):
    api.faults["agent-node1"] = fault
    r = ctl("pods", kubeconfig=api.kubeconfig(), check=0)
    assert "shop" in r.stdout and "web" not in r.stdout
    assert "node node1: " in r.stderr and words in r.stderr, r.stderr
    r = ctl("status", kubeconfig=api.kubeconfig(), check=0)
    assert any(line.startswith("node1 ") and "no answer" in line for line in r.stdout.splitlines()), r.stdout
    found = json.loads(ctl("pods", "-o", "json", kubeconfig=api.kubeconfig(), check=0).stdout)
    assert "error" in found[0] and "pods" in found[1]


def test_nobody_answers(mesh, api):
    api.faults.update({"agent-node1": "refuse", "agent-node2": "cut"})
    r = ctl("pods", kubeconfig=api.kubeconfig(), check=3)
    assert r.stderr.count("node ") >= 2
    api.hidden.update(api.places)
    assert (
        "no pod of Bruma runs in namespace istio-system"
        in ctl("pods", kubeconfig=api.kubeconfig(), check=3).stderr
    )


def test_a_node_without_an_agent(mesh, api):
    api.hidden.add("agent-node2")
    r = ctl("pods", kubeconfig=api.kubeconfig(), check=0)
    assert "node node2: no answer of the agent: there is no pod of the agent" in r.stderr
    ctl("connections", kubeconfig=api.kubeconfig(), check=0)


def test_behind_a_gateway_with_a_path(mesh, api):
    api.prefix = "/k8s/clusters/c-1"
    assert "web" in ctl("pods", kubeconfig=api.kubeconfig(), check=0).stdout


def test_as_a_plugin_of_kubectl(mesh, api):
    env = {"KUBECONFIG": f"/nowhere/config:{api.kubeconfig()}"}
    assert "web" in ctl("pods", env=env, check=0, name="kubectl-bruma").stdout
    os.makedirs(f"{api.directory}/home/.kube")
    os.rename(api.kubeconfig(), f"{api.directory}/home/.kube/config")
    os.rename(f"{api.directory}/ca.crt", f"{api.directory}/home/.kube/ca.crt")
    # Nobody is in the run directory: the operator's own machine.
    env = {"HOME": f"{api.directory}/home"}
    assert "web" in ctl("pods", env=env, check=0, name="kubectl-bruma").stdout
    r = ctl("end", "demo/web", env=env, check=2, name="kubectl-bruma")
    assert "for the machine that it runs on" in r.stderr


def plugin(api, answer):
    path = f"{api.directory}/plugin"
    with open(path, "w") as f:
        f.write(f'#!/bin/sh\necho "$KUBERNETES_EXEC_INFO $FLAVOUR $*" > {api.directory}/asked\n{answer}\n')
    os.chmod(path, stat.S_IRWXU)
    return {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": "./plugin",
            "args": ["get", "token"],
            "env": [{"name": "FLAVOUR", "value": "sweet"}],
            "provideClusterInfo": True,
            "interactiveMode": "Never",
            "installHint": "install it from elsewhere",
        }
    }


def test_credential_plugin(mesh, api):
    said = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": TOKEN},
    }
    user = plugin(api, f"echo '{json.dumps(said)}'")
    assert "web" in ctl("pods", kubeconfig=api.kubeconfig(user=user), check=0).stdout
    with open(f"{api.directory}/asked") as f:
        asked = f.read()
    info = json.loads(asked[: asked.rindex("}") + 1])
    assert info["kind"] == "ExecCredential" and info["spec"]["cluster"]["server"] == api.url
    assert asked.rstrip().endswith("sweet get token")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("exit 7", "exit code 7"),
        ("echo no", "not JSON"),
        ("echo '{}'", "no ExecCredential"),
        (
            'echo \'{"kind": "ExecCredential", "apiVersion": "client.authentication.k8s.io/v1"}\'',
            "neither token nor client certificate",
        ),
        ("kill -9 $$", "ended by signal 9"),
    ],
)
def test_credential_plugin_that_fails(api, answer, words):
    r = ctl("pods", kubeconfig=api.kubeconfig(user=plugin(api, answer)))
    assert r.returncode in (2, 3) and words in r.stderr and "install it from elsewhere" in r.stderr


def test_who_is_not_let_in(mesh, api):
    r = ctl("pods", kubeconfig=api.kubeconfig(user={"token": "wrong"}), check=3)
    assert "Unauthorized" in r.stderr
    other = {"certificate-authority": None, "certificate-authority-data": None}
    r = ctl("pods", kubeconfig=api.kubeconfig(**other), check=3)
    assert "certificate" in r.stderr, r.stderr
    r = ctl("pods", kubeconfig=api.kubeconfig(**{"tls-server-name": "another.example"}), check=3)
    assert "another.example" in r.stderr, r.stderr
    other["insecure-skip-tls-verify"] = True
    assert "web" in ctl("pods", kubeconfig=api.kubeconfig(**other), check=0).stdout


def test_who_is_asked_for_is_told(mesh, api):
    ctl("pods", kubeconfig=api.kubeconfig(user={"token": TOKEN, "as": "eve", "as-groups": ["a", "b"]}))
    headers = api.asked[0][1]
    assert headers["Impersonate-User"] == "eve"
    assert headers["User-Agent"].startswith("brumactl/")


def test_without_a_kubeconfig():
    r = ctl("pods", kubeconfig="/nowhere/config", check=3)
    assert "/nowhere/config cannot be read" in r.stderr
    r = ctl("pods", check=3, name="kubectl-bruma")
    assert "there is no kubeconfig (/nowhere/.kube/config)" in r.stderr


def test_what_is_asked_is_roots(mesh):
    node = mesh.nodes[0]
    status, text = node.http(8000, "/brumactl/pods")
    assert status == 200 and [p["name"] for p in json.loads(text)] == ["web"]
    assert node.http(8000, "/brumactl/explain")[0] == 400
    assert node.http(8000, "/brumactl/explain?pod=demo/web&to=nonsense")[0] == 400
    assert node.http(8000, "/brumactl/pod-end?pod=demo/web")[0] == 404

    def code(url, *headers, who=()):
        return subprocess.run(
            [
                *("ip", "netns", "exec", node.netns, *who),
                *("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}"),
                *(a for h in headers for a in ("-H", h)),
                url,
            ],
            capture_output=True,
            text=True,
            timeout=20,
        ).stdout

    somebody = ("setpriv", "--reuid=65534", "--clear-groups")
    agents, proxys = "http://127.0.0.1:8000/brumactl/pods", "http://127.0.0.1:15000/hostname?name=x"
    assert code(agents) == "200" and code(proxys) == "200"
    assert code(agents, who=somebody) == "403" and code(proxys, who=somebody) in ("403", "404")
    metrics = "http://127.0.0.1:15000/metrics"  # among the pages for root alone; for everybody on a port of their own
    assert code(metrics) == "200" and code(metrics, who=somebody) in ("403", "404")
    for header in ("Host: evil.example", "Origin: http://evil.example"):
        assert code(agents, header) == "403", header


# ---- flows ----


def connect(source, destination):
    code = "import socket, sys; s = socket.create_connection((sys.argv[1], 8080), 20); s.sendall(b'x'); s.recv(1)"
    source.run("/usr/bin/python3", "-c", code, destination.ip, check=False)


def followed(mesh, api, log, *options):
    argv = [program("brumactl"), "flows", "-f", "-o", "json", *options]
    argv += ["--kubeconfig", api.kubeconfig()] if api else ["--run-dir", mesh.nodes[0].run_dir]
    return Process(argv, str(log), env={"HOME": "/nowhere"})


def lines_of(p):
    """Those that are whole."""
    return [json.loads(line) for line in p.text().splitlines() if line.startswith("{") and line.endswith("}")]


def test_flows_of_both_nodes(mesh, api, tmp_path):
    p = followed(mesh, api, tmp_path / "flows")

    def seen():
        connect(mesh.web, mesh.shop)
        return {(e["node"], e["direction"], e["message"]) for e in lines_of(p)} >= {
            (node, direction, f"connection {what}")
            for node, direction in (("node1", "outbound"), ("node2", "inbound"))
            for what in ("opened", "complete")
        }

    wait_for(seen, "both ends to be told", interval=0.3)
    times = [e["time"] for e in lines_of(p)]
    assert all(t.endswith("Z") for t in times)
    os.kill(p.pid, signal.SIGINT)
    assert p.wait() == 0


def test_flows_that_are_refused(mesh, api, tmp_path):
    mesh.deny(mesh.web.rule())
    mesh.write()
    p = followed(mesh, api, tmp_path / "flows", "--reason", "policy_denied", "--to", "demo/shop")
    try:

        def seen():
            connect(mesh.web, mesh.shop)
            return [e for e in lines_of(p) if e["node"] == "node2"]

        found = wait_for(seen, "the refusal to be told", interval=0.3)
        assert all(e["error"].startswith("policy_denied") for e in lines_of(p)), found
    finally:
        p.kill()
        mesh.policies.clear()
        mesh.write()


def test_flows_of_this_node_end_by_themselves(mesh, tmp_path):
    r = ctl("flows", "--for", "1", "--run-dir", mesh.nodes[0].run_dir, check=0)
    assert not r.stderr
    p = followed(mesh, None, tmp_path / "flows", "--from", "demo/web")

    def seen():
        connect(mesh.web, mesh.shop)
        return lines_of(p)

    wait_for(seen, "the connection to be told", interval=0.3)
    assert all("node" not in e and e["src.workload"] == "web" for e in lines_of(p))
    p.kill()
    r = ctl("flows", "--reason", "nonsense", "--run-dir", mesh.nodes[0].run_dir, check=2)
    assert "no reason" in r.stderr
    for bad in ("0", "x", "-1"):
        assert "no number of seconds" in ctl("flows", "--for", bad, check=2).stderr
    status, _ = mesh.nodes[0].http(15000, "/flows?after=x")
    assert status == 400


def test_a_node_without_flows_is_said_once(mesh, api):
    api.faults["proxy-node1"] = "refuse"
    r = ctl("flows", "--for", "2", kubeconfig=api.kubeconfig(), check=0)
    assert r.stderr.count("node node1: ") == 1 and "cannot create resource" in r.stderr
