# SPDX-License-Identifier: Apache-2.0
"""The proxy's own ports at an address of the pod's own that the mesh does not know: a second network's, or a virtual one. Whoever
dials them is refused. A connection that goes in circles would take all descriptors."""

import re

import pytest

from support.nodes.direct import WAYS, device
from support.nodes.mesh import Mesh, MeshNode
from support.nodes.pod_programs import ECHO, ONE_SHOT
from support.nodes.zds_node import ZdsNode
from support.system import sh, wait_for

UNNAMED = ["203.0.113.7", "fd00:203:113::7"]

DIAL = """
import socket, sys
try:
    s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10)
    s.sendall(b"x")
    print("end" if s.recv(10) == b"" else "data")
except OSError as e:
    print(type(e).__name__)
"""


@pytest.fixture(scope="module")
def mesh():
    with Mesh(nodes=2, workers=2, agent_options=WAYS, node_kinds=[MeshNode, ZdsNode]) as m:
        m.pods_by = [m.pod("web", node=0), m.pod("cart", node=1)]
        m.start()
        for pod in m.pods_by:
            for address in UNNAMED:
                sh("ip", "-n", pod.netns, "addr", "add", address, "dev", "lo")
            pod.server(ECHO, "8080")
        # Bound to its device, a connection to them would leave the pod.
        wait_for(lambda: device(m.pods_by[0]) == 0, "the agent to see the addresses")
        yield m


def lines_of_own_ports(node):
    return sum(bool(re.search(r"dst\.addr=\S+:150(01|06) ", line)) for line in node.access_log())


def descriptors(node):
    return int(re.search(r"process_open_fds (\d+)", node.metrics())[1])


@pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])
@pytest.mark.parametrize("number", [0, 1], ids=["under-bruma-agent", "under-a-cni-agent"])
def test_an_address_that_the_mesh_does_not_know(mesh, number, family):
    """Under bruma-agent nothing listens there for the pod: its dial is refused by the kernel."""
    pod, node = mesh.pods_by[number], mesh.nodes[number]
    reason = ["connect_refused", "self_call"][number]
    before, lines = node.failures(reason), lines_of_own_ports(node)
    for port in (15001, 15006):
        end = pod.python(DIAL, UNNAMED[family], port).strip()
        assert end in ("ConnectionResetError", "ConnectionRefusedError", "end"), (port, end)
    wait_for(lambda: node.failures(reason) >= before + 2, "the refusals")
    # each round of a circle would be a connection that is opened, and has two descriptors
    assert node.failures(reason) == before + 2 and lines_of_own_ports(node) - lines <= 2
    assert descriptors(node) < 300
    assert pod.python(ONE_SHOT, UNNAMED[family], 8080, "ping") == "ping"
