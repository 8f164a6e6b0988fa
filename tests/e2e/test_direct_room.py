# SPDX-License-Identifier: Apache-2.0
"""There is room for so many live direct connections on a node, and a quarter of that for one pod: what exceeds it goes through
the proxy, so that no pod takes the room of others."""

import os

import pytest

from support import agent
from support.nodes.direct import WAYS, counters, said_of, wait_direct, way_in, way_out
from support.nodes.mesh import Mesh
from support.nodes.pod import PYTHON
from support.nodes.pod_programs import ECHO
from support.system import wait_for

ROOM = 24
POD = ROOM // 4

# Opens connections when it is told how many in a line, and says when they are there; keeps them.
KEEP = """
import socket, sys
kept = []
for line in sys.stdin:
    for i in range(int(line)):
        s = socket.create_connection((sys.argv[1], 8080), timeout=20)
        s.sendall(b"x")
        assert s.recv(1) == b"x"
        kept.append(s)
    print("KEPT", flush=True)
"""


class Kept:
    def __init__(self, pod, to):
        self.program = pod.pipe(PYTHON, "-c", KEEP, to, stdin=-1, stdout=-1, text=True)

    def more(self, count):
        self.program.stdin.write(f"{count}\n")
        self.program.stdin.flush()
        assert self.program.stdout.readline() == "KEPT\n"

    def end(self):
        self.program.kill()
        self.program.communicate()


@pytest.fixture(scope="module")
def mesh():
    with Mesh(nodes=1, agent_options=(*WAYS, "--max-direct-connections", str(ROOM))) as m:
        m.node = m.nodes[0]
        m.members = [m.pod(name) for name in ("web", "near", "busy", "far", "last")]
        m.web, m.near = m.members[:2]
        m.outside = m.pod("outside", namespace="outside")
        m.outside.outside = True
        m.start()
        for pod in (*m.members, m.outside):
            pod.server(ECHO, "8080")
        for pod in m.members:
            wait_direct(pod, "direct", "pass")
        yield m


@pytest.fixture
def kept(mesh):
    """kept(pod, to, count): connections that are kept until the test ends."""
    programs = []

    def keep(pod, to, count):
        programs.append(Kept(pod, to))
        programs[-1].more(count)
        return programs[-1]

    yield keep
    for program in programs:
        program.end()
    wait_for(lambda: live(mesh) == 0, "no live direct connections")


def live(mesh, pod=None):
    """As the kernel has counted; of all without a pod."""
    items = agent.pods(mesh.node.run_dir)
    pods = [pod.full_name] if pod else [n for n, item in items.items() if "direct" in item]
    return sum(items[name]["direct"]["connections"] for name in pods)


def explained(mesh, pod):
    return mesh.node.ctl("explain", pod.full_name, check=False).stdout


@pytest.mark.parametrize("way", ["outside", "inbound"])
def test_a_pod_that_has_many_takes_the_long_way_and_others_do_not(mesh, kept, way):
    client, to = (mesh.web, mesh.outside.ip) if way == "outside" else (mesh.outside, mesh.web.ip)
    program = kept(client, to, POD)
    assert live(mesh, mesh.web) == live(mesh) == POD
    assert way_out(mesh.web, mesh.outside.ip) == way_in(mesh.outside, mesh.web, mesh.web.ip6) == "proxy"
    assert said_of(mesh.web)["outside"] == said_of(mesh.web)["inbound"] == "pod_flows_full"
    assert "the pod has a quarter of all live direct connections" in explained(mesh, mesh.web)
    item = mesh.web.item()
    assert item["outboundLongWay"]["pod_flows_full"] and item["inboundLongWay"]["pod_flows_full"]
    assert way_out(mesh.near, mesh.outside.ip6) == way_in(mesh.outside, mesh.near, mesh.near.ip) == "direct"
    program.end()
    wait_for(lambda: live(mesh) == 0, "them to end")
    assert way_out(mesh.web, mesh.outside.ip6) == way_in(mesh.outside, mesh.web, mesh.web.ip) == "direct"


def test_when_the_node_has_many_all_take_the_long_way(mesh, kept):
    *many, last = mesh.members
    for pod in many:
        kept(pod, mesh.outside.ip, POD)
    assert live(mesh) == ROOM
    assert way_out(last, mesh.outside.ip6) == way_in(mesh.outside, last, last.ip) == "proxy"
    assert said_of(last)["outside"] == said_of(last)["inbound"] == "flows_full"
    assert "the list of live direct connections is full" in explained(mesh, last)
    doctor = mesh.node.ctl("doctor", check=False).stdout
    assert f"{ROOM} direct connections live, of {ROOM}" in doctor, doctor


def test_what_a_pod_had_is_free_when_it_has_gone(mesh, kept):
    """Its sockets may outlive it."""
    pod = mesh.pod("short")
    mesh.tell()
    pod.enroll()
    wait_direct(pod, "direct", "pass")
    program = kept(pod, mesh.outside.ip, POD)
    assert live(mesh) == POD, (pod.item()["outboundLongWay"], pod.item()["direct"])
    pod.cni("DEL")
    wait_for(lambda: not pod.item(), "the pod to be forgotten")
    assert "0 direct connections live" in mesh.node.ctl("doctor", check=False).stdout
    program.end()
    assert "0 direct connections live" in mesh.node.ctl("doctor", check=False).stdout
    pod.enroll()
    wait_direct(pod, "direct", "pass")
    before = counters(pod)["direct_outside_connections"]
    kept(pod, mesh.outside.ip, POD)
    assert counters(pod)["direct_outside_connections"] == before + POD


def test_an_agent_that_is_started_anew_counts_what_is_there(mesh, kept):
    """Also one that finds the maps of a version that did not count, and one that is told another number."""
    program = kept(mesh.web, mesh.outside.ip, POD)
    mesh.node.agent.stop()
    mesh.node.start_agent(*WAYS, "--max-direct-connections", str(2 * ROOM))
    mesh.web.wait_enrolled()
    assert live(mesh, mesh.web) == live(mesh) == POD
    assert way_out(mesh.web, mesh.outside.ip6) == "direct"
    mesh.node.agent.stop()
    for name in ("flow_counts", "flow_totals", "flow_limits"):
        os.remove(f"{mesh.node.pin_dir}/maps/{name}")
    mesh.node.start_agent(*mesh.agent_options)
    mesh.web.wait_enrolled()
    assert live(mesh, mesh.web) == live(mesh) == POD
    wait_direct(mesh.web, "pod_flows_full", "pod_flows_full")
    program.end()
