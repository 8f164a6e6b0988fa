# SPDX-License-Identifier: Apache-2.0
"""Policies that are tried out (dry run) decide nothing, and it is said of each connection what they would
have made of it: in the log, in a metric, by brumactl."""

import json
import re

import pytest

from support.nodes.mesh import Mesh
from support.nodes.pod_programs import ECHO, ONE_SHOT
from support.system import Failed, wait_for

HOLD = """
import os, socket, sys, time
s = socket.create_connection((sys.argv[1], 8080), timeout=20)
s.sendall(b"x"); s.recv(1)
print("OPEN", flush=True)
while not os.path.exists(sys.argv[2]):
    time.sleep(0.05)
s.sendall(b"y")
print("STILL", s.recv(1).decode(), flush=True)
"""


@pytest.fixture(scope="module")
def mesh():
    with Mesh(nodes=1, workers=2, proxy_env={"AUTHZ_POLICY_INFO_LOGGING": "true"}) as m:
        m.web, m.shop, m.outside = m.pod("web"), m.pod("shop"), m.pod("stranger", namespace="outside")
        m.outside.outside = True
        m.start()
        m.shop.server(ECHO, "8080")
        yield m


@pytest.fixture
def policies(mesh):
    """Written by set_policies(); afterwards there are none."""
    yield mesh.policies
    set_policies(mesh)


def policy(name, action, rules, dry_run=True):
    return {
        "name": name,
        "namespace": "demo",
        "scope": "Namespace",
        "action": action,
        "dryRun": dry_run,
        "rules": rules,
    }


def set_policies(mesh, *policies):
    """Known to the proxy when this returns."""
    mesh.policies[:] = policies
    mesh.write()
    node = mesh.nodes[0]
    names = {(p["name"], p["action"], p["dryRun"]) for p in policies}
    wait_for(
        lambda: (
            {
                (p["name"], p["action"], p["dryRun"])
                for p in json.loads(node.ctl("policy", "-o", "json").stdout)
            }
            == names
        ),
        "the policies",
    )


def lines(mesh):
    return [line for line in mesh.nodes[0].proxy.text().splitlines() if "\trbac\tdry-run policies" in line]


def counted(mesh, outcome, policy):
    m = re.search(
        rf'^bruma_dry_run_connections_total{{outcome="{outcome}",policy="{policy}"}} (\d+)$',
        mesh.nodes[0].metrics(),
        re.MULTILINE,
    )
    return int(m[1]) if m else 0


def connect(mesh, pod, outcome, policy):
    """A connection that is served, and what is said of it: its line of the log."""
    seen, before = len(lines(mesh)), counted(mesh, outcome, policy)
    assert pod.python(ONE_SHOT, mesh.shop.ip, 8080, "x") == "x"
    if not outcome:
        assert len(lines(mesh)) == seen
        return None
    wait_for(lambda: len(lines(mesh)) == seen + 1, "one line in the log")
    line = lines(mesh)[-1]
    assert "\tinfo\trbac\t" in line and f"dry_run={outcome}" in line, line
    assert (f"policy={policy} " in line) == bool(policy) and f"dst.addr={mesh.shop.ip}:8080" in line, line
    assert re.search(rf"src.addr={re.escape(pod.ip)}:\d+", line), line
    assert counted(mesh, outcome, policy) == before + 1
    return line


def test_a_deny_policy(mesh, policies):
    set_policies(mesh, policy("d", "Deny", [mesh.web.rule(destinationPorts=[8080])]))
    line = connect(mesh, mesh.web, "denied", "demo/d")
    assert f'src.identity="{mesh.web.identity}"' in line and "would be denied" in line
    connect(mesh, mesh.outside, None, None)


def test_allow_policies(mesh, policies):
    set_policies(mesh, policy("a", "Allow", [mesh.web.rule()]))
    assert "would" not in connect(mesh, mesh.web, "allowed", "demo/a")
    line = connect(mesh, mesh.outside, "unmatched", "")
    assert "would be denied" in line and "src.identity" not in line


def test_beside_policies_in_force(mesh, policies):
    """What is denied is denied, and the reader still learns what the others would have done."""
    set_policies(
        mesh,
        policy("a", "Allow", [mesh.web.rule()]),
        policy("real", "Allow", [[[{"namespaces": [{"Exact": "elsewhere"}]}]]], dry_run=False),
    )
    before = counted(mesh, "allowed", "demo/a")
    with pytest.raises(Failed):
        mesh.web.python(ONE_SHOT, mesh.shop.ip, 8080, "x")
    wait_for(lambda: counted(mesh, "allowed", "demo/a") == before + 1, "what the policy would have done")
    seen = len(lines(mesh))
    with pytest.raises(Failed):
        mesh.outside.python(ONE_SHOT, mesh.shop.ip, 8080, "x")
    assert len(lines(mesh)) == seen, "for the stranger it changes nothing"


def test_an_open_connection_is_told_of_and_not_cut(mesh, policies, tmp_path):
    p = mesh.web.popen("/usr/bin/python3", "-u", "-c", HOLD, mesh.shop.ip, str(tmp_path / "go"))
    wait_for(lambda: "OPEN" in p.text(), "the connection")
    seen, before = len(lines(mesh)), counted(mesh, "denied", "demo/late")
    set_policies(mesh, policy("late", "Deny", [mesh.web.rule()]))
    wait_for(lambda: len(lines(mesh)) == seen + 1, "the line about the open connection")
    assert counted(mesh, "denied", "demo/late") == before + 1
    set_policies(mesh, policy("late", "Deny", [mesh.web.rule()]), policy("more", "Allow", []))
    (tmp_path / "go").touch()
    wait_for(lambda: "STILL y" in p.text(), "the bytes after the policies")
    assert len(lines(mesh)) == seen + 1, "the same is not said twice of a connection"


def test_brumactl_tells(mesh, policies):
    set_policies(mesh, policy("d", "Deny", [mesh.web.rule(destinationPorts=[8080])]))
    node = mesh.nodes[0]
    assert "demo/d  Deny, scope Namespace, dry run" in node.ctl("policy").stdout

    def checks(target):
        r = node.ctl("explain", "demo/web", target, "-o", "json")
        return {c["check"]: c for c in json.loads(r.stdout)}

    said = checks(f"{mesh.shop.ip}:8080")
    assert said["verdict"]["ok"] and said["dry run"]["ok"], "it is served: nothing is wrong"
    assert "would be denied" in said["dry run"]["detail"] and "demo/d" in said["dry run"]["detail"]
    assert "dry run" not in checks(f"{mesh.shop.ip}:8081")


def test_at_debug_level_unless_asked(build):
    """Without the setting the log says so at level debug, and the metric counts all the same."""
    with Mesh(nodes=1, proxy_env={"RUST_LOG": "info,rbac=debug"}) as m:
        m.web, m.shop = m.pod("web"), m.pod("shop")
        m.start()
        m.shop.server(ECHO, "8080")
        set_policies(m, policy("d", "Deny", [m.web.rule()]))
        assert m.web.python(ONE_SHOT, m.shop.ip, 8080, "x") == "x"
        wait_for(lambda: lines(m), "the line")
        assert "\tdebug\trbac\t" in lines(m)[0]
        assert counted(m, "denied", "demo/d") == 1
