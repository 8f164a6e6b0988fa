# SPDX-License-Identifier: Apache-2.0
"""Numbers that a pod's rules and routes have in common with those of others: routing tables, rule priorities,
marks. They are looked at before they are taken, whoever has them keeps them, and a pod that leaves the mesh
is as it was."""

import json
import re

import pytest

from support.network import rules_and_routes
from support.nodes.mesh import Mesh
from support.nodes.pod_programs import ECHO, ask
from support.programs import program
from support.system import Process, sh, wait_for

each_family = pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])
SECOND = ["10.98.2.5", "fd98:2::5"]
FAR = ["10.97.0.1", "fd97::1"]  # by the second network alone


@pytest.fixture
def mesh():
    with Mesh(nodes=2, workers=1) as m:
        m.web, m.shop = m.pod("web"), m.pod("shop", node=1)
        m.start()
        for pod in m.pods:
            pod.server(ECHO, "8080")
        m.web.cni("DEL")
        wait_for(lambda: untouched(m.web), "web to be outside the mesh")
        yield m


def ip(pod, family, *argv, check=True):
    return pod.run("ip", ["-4", "-6"][family], *argv, check=check).stdout


def untouched(pod):
    return not any("0x111" in ip(pod, f, "rule") for f in (0, 1))


def ours(pod, family):
    """(priority, table) of the rule to lo, and the priority of the one that prohibits."""
    text = ip(pod, family, "rule")
    to_lo = re.search(r"^(\d+):\s+from all fwmark 0x111/0xfff lookup (\d+) proto", text, re.M)
    prohibit = re.search(r"^(\d+):\s+from all fwmark 0x111/0xfff prohibit", text, re.M)
    return (int(to_lo[1]), int(to_lo[2]), int(prohibit[1])) if to_lo and prohibit else None


def theirs(pod, family):
    return int(re.search(rf"^(\d+):\s+from {SECOND[family]} ", ip(pod, family, "rule"), re.M)[1])


def second_network(pod, table=100, pref=None):
    """As the CNI plugins of a second network and of routing by source (sbr) leave it: an address whose routes
    are in a table of its own, which a rule names. Behind it is a place that is reached by that network
    alone."""
    node = pod.node.netns
    sh("ip", "-n", pod.netns, "link", "add", "net1", "type", "veth", "peer", "name", "second", "netns", node)
    sh("ip", "-n", node, "link", "set", "second", "up")
    sh("ip", "-n", pod.netns, "link", "set", "net1", "up")
    for family, (own, gateway, length) in enumerate(
        ((SECOND[0], "10.98.2.1", 24), (SECOND[1], "fd98:2::1", 64))
    ):
        nodad = ["nodad"] if family else []
        sh("ip", "-n", node, "addr", "add", f"{gateway}/{length}", "dev", "second", *nodad)
        sh("ip", "-n", node, "addr", "add", FAR[family] + ("/128" if family else "/32"), "dev", "lo", *nodad)
        sh("ip", "-n", pod.netns, "addr", "add", f"{own}/{length}", "dev", "net1", *nodad)
        ip(pod, family, "route", "add", "default", "via", gateway, "dev", "net1", "table", str(table))
        ip(
            pod,
            family,
            "rule",
            "add",
            "from",
            own,
            "lookup",
            str(table),
            *(["pref", str(pref)] if pref else []),
        )


# A device that has just come up may drop what is sent for up to a second.
PING = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
s = socket.socket(family, socket.SOCK_DGRAM); s.settimeout(0.5)
s.bind((sys.argv[2], 0))
for _ in range(20):
    s.sendto(b"over the second network", (sys.argv[1], 7))
    try:
        print(s.recvfrom(100)[0].decode())
        break
    except TimeoutError:
        pass
"""

UDP_ECHO = """
import socket
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.bind(("::", 7)); print("READY", flush=True)
while True:
    d, a = s.recvfrom(100); s.sendto(d, a)
"""


def second_works(mesh, family):
    """In plain UDP from the pod, which the mesh lets alone, and by TCP from a stranger there to the pod's
    second address."""
    assert mesh.web.python(PING, FAR[family], SECOND[family]).strip() == "over the second network"
    code = ask_from(FAR[family])
    assert (
        sh("ip", "netns", "exec", mesh.nodes[0].netns, "/usr/bin/python3", "-c", code, SECOND[family]).strip()
        == "by tcp"
    )


def ask_from(source):
    return f"""
import socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET); s.settimeout(5)
s.bind(("{source}", 0)); s.connect((sys.argv[1], 8080)); s.sendall(b"by tcp"); print(s.recv(100).decode())
"""


def serve_udp(mesh):
    p = Process(["/usr/bin/python3", "-u", "-c", UDP_ECHO], f"{mesh.dir}/udp.log", netns=mesh.nodes[0].netns)
    mesh.nodes[0].proxies.append(p)  # ended with the node
    wait_for(lambda: "READY" in p.text(), "the echo")


def mesh_works(mesh, family):
    assert ask(mesh.web, [mesh.shop.ip, mesh.shop.ip6][family]).startswith("hello")
    assert ask(mesh.shop, [mesh.web.ip, mesh.web.ip6][family]).startswith("hello")


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_table_that_somebody_has(mesh, when):
    """The routes of a second network, made before the pod is labelled or while it is in the mesh: they stay,
    and work."""
    serve_udp(mesh)
    if when == "before":
        second_network(mesh.web)
        found = rules_and_routes(mesh.web.netns)
    else:
        found = rules_and_routes(mesh.web.netns)
    mesh.web.cni("ADD")
    if when == "after":
        table = next(
            t
            for t in range(100, 200)
            if not any(ip(mesh.web, f, "route", "show", "table", str(t), check=False) for f in (0, 1))
        )
        second_network(mesh.web, table)
    for family in (0, 1):
        wait_for(
            lambda: ours(mesh.web, family) and ours(mesh.web, family)[2] < theirs(mesh.web, family),
            "ours to be before theirs",
        )
        second_works(mesh, family)
        mesh_works(mesh, family)
    pod = next(p for p in json.loads(mesh.nodes[0].ctl("pods", "-o", "json").stdout) if p["name"] == "web")
    assert pod["state"] == "enrolled"
    mesh.web.cni("DEL")
    if when == "before":
        assert rules_and_routes(mesh.web.netns) == found
    assert untouched(mesh.web)
    for family in (0, 1):
        second_works(mesh, family)


def test_somebody_comes_to_our_table_later(mesh):
    """With a fixed number, and without looking: ours goes elsewhere, and live connections go on."""
    mesh.web.cni("ADD")
    live = mesh.web.popen(
        "/usr/bin/python3",
        "-u",
        "-c",
        """
import socket, sys, time
s = socket.create_connection((sys.argv[1], 8080), timeout=20)
while True:
    s.sendall(b"x"); assert s.recv(1) == b"x"; print("on", flush=True); time.sleep(0.05)
""",
        mesh.shop.ip,
    )
    wait_for(lambda: live.text().count("on") > 2, "a connection that lives")
    table = ours(mesh.web, 0)[1]
    ip(mesh.web, 0, "route", "add", "198.51.100.0/24", "dev", "eth0", "table", str(table))
    wait_for(lambda: ours(mesh.web, 0) and ours(mesh.web, 0)[1] != table, "another table")
    assert ip(mesh.web, 0, "route", "show", "table", str(table)).split() == [
        "198.51.100.0/24",
        "dev",
        "eth0",
        "scope",
        "link",
    ]
    mesh_works(mesh, 0)
    before = live.text().count("on")
    wait_for(lambda: live.text().count("on") > before + 3, "the connection to go on")
    assert live.alive(), live.text()
    mesh.web.cni("DEL")
    assert ip(mesh.web, 0, "route", "show", "table", str(table)).startswith("198.51.100.0/24") and untouched(
        mesh.web
    )


@each_family
def test_a_mark_that_somebody_has(mesh, family):
    """Their packets would come to us. It is not to be had by another number: the pod is refused by name, and
    nothing is changed."""
    ip(mesh.web, family, "rule", "add", "fwmark", "0x2111/0xffff", "lookup", "main", "pref", "500")
    found = rules_and_routes(mesh.web.netns)
    r = mesh.web.cni("ADD", check=False)
    assert r.returncode and "number_taken" in r.stdout and "0x111/0xfff" in r.stdout, r.stdout
    assert rules_and_routes(mesh.web.netns) == found
    ip(mesh.web, family, "rule", "del", "pref", "500")
    mesh.web.cni("ADD")
    mesh_works(mesh, family)


@each_family
@pytest.mark.parametrize("pref", [1, 2, 3, 700, 32765])
def test_priorities_that_somebody_has(mesh, family, pref):
    """Ours are before theirs, or there is no room and the pod is refused by name."""
    ip(
        mesh.web,
        family,
        "rule",
        "add",
        "from",
        "192.0.2.1" if not family else "2001:db8::1",
        "lookup",
        "main",
        "pref",
        str(pref),
    )
    found = rules_and_routes(mesh.web.netns)
    r = mesh.web.cni("ADD", check=False)
    if pref < 3:
        assert r.returncode and "number_taken" in r.stdout, r.stdout
        assert rules_and_routes(mesh.web.netns) == found
        return
    assert ours(mesh.web, family) == (pref - 2, 100, pref - 1)
    assert ours(mesh.web, 1 - family) == (32764, 100, 32765), "the other family is not concerned"
    mesh_works(mesh, family)
    mesh.web.cni("DEL")
    assert rules_and_routes(mesh.web.netns) == found


def test_found_again_after_a_restart(mesh):
    """The numbers are kept nowhere but in the pod itself."""
    second_network(mesh.web)
    mesh.web.cni("ADD")
    # The pod has its certificate, which the agent gives that is killed now.
    mesh_works(mesh, 0)
    numbers = [ours(mesh.web, f) for f in (0, 1)]
    assert all(n[1] == 101 for n in numbers)
    node = mesh.nodes[0]
    node.agent.kill()
    node.start_agent()
    wait_for(node.ready, "the proxy")
    mesh_works(mesh, 0)
    pod = next(p for p in json.loads(node.ctl("pods", "-o", "json").stdout) if p["name"] == "web")
    assert [ours(mesh.web, f) for f in (0, 1)] == numbers and not pod["mends"], pod
    node.agent.kill()
    sh(*uninstall(mesh))
    assert untouched(mesh.web)
    assert [ip(mesh.web, f, "route", "show", "table", "101", check=False) for f in (0, 1)] == ["", ""]
    assert all("net1" in ip(mesh.web, f, "route", "show", "table", "100") for f in (0, 1))


def uninstall(mesh):
    node = mesh.nodes[0]
    return [
        program("bruma-agent"),
        "--uninstall",
        "--run-dir",
        node.run_dir,
        "--pin-dir",
        node.pin_dir,
        "--cgroup",
        node.cgroup,
        "--mesh-file",
        mesh.file,
    ]
