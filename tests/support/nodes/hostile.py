# SPDX-License-Identifier: Apache-2.0
"""A mesh with a rogue in it, and the oracle that watches it: after a test no TCP segment that is not of a tunnel has
passed between two pods of the mesh, nobody was taken for somebody else, and pods that behave go on working."""

import contextlib
import json
import re

from support.nodes.direct import WAYS, counters, wait_direct
from support.nodes.mesh import Mesh
from support.nodes.pod_programs import ECHO, PRELUDE
from support.system import wait_for
from support.wire.segments import Wire

VIP, VIP6 = "10.255.0.7", "fd00:ffff::7"


RELAY, KERNEL = "relay", "kernel"


@contextlib.contextmanager
def hostile_mesh(same_node):
    """RELAY: shop is on the other node, and what is between the others goes through the proxy. KERNEL: shop, too, is on the first
    node, and what is between them stays in the kernel where it may."""
    options = (*WAYS, "--same-node", same_node)
    with Mesh(nodes=2, workers=2, agent_options=options, proxy_env={"BRUMA_SAME_NODE": "relay"}) as m:
        m.kernel = same_node == KERNEL
        m.web, m.rogue, m.near = m.pod("web"), m.pod("rogue"), m.pod("near")
        m.shop = m.pod("shop", node=0 if m.kernel else 1)
        m.far = m.nodes.index(m.shop.node)
        m.outside = m.pod("outside", node=1, namespace="outside")
        m.outside.outside = True
        m.services.append(
            {
                "name": "self",
                "namespace": "demo",
                "hostname": "self.demo.svc.cluster.local",
                "vips": ["/" + VIP, "/" + VIP6],
                "ports": {80: 8080},
            }
        )
        m.web.services = {"demo/self.demo.svc.cluster.local": {80: 8080}}
        m.start()
        for pod in m.pods:
            pod.server(ECHO, "8080")
        m.shop.server(ECHO, "8088")
        wait_direct(m.web, "direct", "pass")
        m.former = {}  # identities that a pod has had, by its name
        m.members = [m.web, m.rogue, m.near, m.shop]
        if m.kernel:
            wait_for(
                lambda: stays_in_kernel(m), "connections to stay in the kernel", log=m.nodes[0].proxy_log
            )
        with Wire(m.nodes[0], m.members if m.kernel else ()) as m.wire:
            yield m


EACH = """
import socket, sys
for to in sys.argv[1:]:
    s = socket.create_connection((to, 8080), timeout=20)
    s.sendall(b"well")
    print(s.recv(100).decode())
"""


def works(mesh):
    for client, servers in ((mesh.web, (mesh.shop, mesh.near)), (mesh.shop, (mesh.web,))):
        to = [a for p in servers for a in p.ips]
        assert client.python(EACH, *to).split() == ["well"] * len(to), client.name


def stays_in_kernel(mesh):
    before = counters(mesh.web)["direct_node_connections"]
    works(mesh)
    return counters(mesh.web)["direct_node_connections"] == before + 4


def inbound(mesh, node, skip=0):
    return [line for line in mesh.nodes[node].access_log()[skip:] if 'direction="inbound"' in line]


@contextlib.contextmanager
def watched(mesh):
    mesh.wire.forget()
    yield
    works(mesh)
    assert not mesh.wire.plain(mesh.members)
    # Who a connection is of, by the address that it comes from: an identity that is another's would show
    # here.
    for node in (0, 1):
        for line in inbound(mesh, node):
            who, address = (
                re.search(r'src\.identity="([^"]*)"', line),
                re.search(r"src\.addr=\[?([^\s\]]+?)\]?:\d+ ", line),
            )
            if who and address:
                owner = [p for p in mesh.members if address.group(1) in p.ips]
                assert not owner or who.group(1) in (
                    owner[0].identity,
                    *mesh.former.get(owner[0].name, []),
                ), line


def counted(mesh, reason):
    failures = json.loads(mesh.nodes[0].ctl("status", "-o", "json").stdout)["failures"]
    return failures.get(reason, {"count": 0})["count"]


def run(pod, code, to, secret, port=8080, *more):
    return pod.python(PRELUDE + code, to, port, secret, *more).strip()
