# SPDX-License-Identifier: Apache-2.0
"""What the mesh opens in a pod is in the way of none of its applications: whatever the pod's range of
ephemeral ports is, every port of it can be listened on. (In the usual range a random port would meet a given
one, such as gRPC's 50051, in one pod of ten thousand, and that pod's application would fail each time it is
started. Here the range is so small that it would be met each time.)"""

import glob
import re

import pytest

from support.nodes.mesh import Mesh
from support.nodes.pod_programs import ECHO, ONE_SHOT
from support.programs import ROOT
from support.system import wait_for

FIRST, LAST = 50050, 50055
OURS = range(15056, 15086)

LISTEN = """
import socket, sys
taken = set()
for port in range(int(sys.argv[1]), int(sys.argv[2]) + 1):
    for family, any in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        with socket.socket(family) as s:
            try:
                s.bind((any, port)); s.listen()
            except OSError:
                taken.add(port)
print(*sorted(taken))
"""
# Holds the ports that are named, and says so.
HOLD = """
import socket, sys, time
held = [socket.create_server(("::", int(p)), family=socket.AF_INET6, dualstack_ipv6=True) for p in sys.argv[1:]]
print("READY", flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def mesh():
    with Mesh(nodes=2) as m:
        m.web, m.shop = m.pod("web"), m.pod("shop", node=1)
        m.web.run("sh", "-c", f"echo {FIRST} {LAST} >/proc/sys/net/ipv4/ip_local_port_range")
        m.start()
        m.shop.server(ECHO, "8080")
        yield m


def listening(pod):
    return {int(line.split()[3].rpartition(":")[2]) for line in pod.run("ss", "-Hltn").stdout.splitlines()}


def says_hello(pod, to):
    """Not at the first time, perhaps, where the agent has read of the pod's account after it was enrolled."""
    return pod.run("/usr/bin/python3", "-c", ONE_SHOT, to, 8080, "hello", check=False).stdout == "hello"


def test_an_application_can_listen_on_every_port_of_its_range(mesh):
    assert mesh.web.python(LISTEN, FIRST, LAST).split() == []
    assert len(listening(mesh.web)) == 3 and listening(mesh.web) <= set(OURS)


def test_what_the_samples_listen_on_is_none_of_them():
    samples = glob.glob(f"{ROOT}/packaging/*.yaml") + glob.glob(f"{ROOT}/docs/*.md")
    ports = {
        int(port)
        for name in samples
        for port in re.findall(r"\b(?:port_value|port): (\d+)", open(name).read())
    }
    assert 15088 in ports and not ports & set(OURS)


def test_what_holds_some_of_ours_keeps_them(mesh):
    """A program with just these ports, in a pod that is enrolled while it runs: it goes on, and so does the
    pod's traffic."""
    pod = mesh.pod("sidecar")
    mesh.write()
    held = {15001, 15006, 15008, 15084, 15085}
    pod.server(HOLD, *held)
    pod.enroll()
    ours = listening(pod) - held
    assert len(ours) == 3 and ours <= set(OURS), ours
    pod.server(ECHO, "8080")
    for a, b in ((pod, mesh.shop), (mesh.shop, pod)):
        for to in (b.ip, b.ip6):
            wait_for(lambda a=a, to=to: says_hello(a, to), f"an answer of {to}")


def test_a_pod_where_all_of_them_are_held_is_enrolled_all_the_same(mesh):
    pod = mesh.pod("squatter")
    mesh.write()
    pod.server(HOLD, *OURS)
    pod.enroll()
    assert pod.captured()
    wait_for(lambda: says_hello(pod, mesh.shop.ip), "an answer")
