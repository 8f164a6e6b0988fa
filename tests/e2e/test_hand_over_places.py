# SPDX-License-Identifier: Apache-2.0
"""Live connections that move while what is around them changes as well: both nodes' proxies at once, and the cgroup whose memory
their sockets are charged to."""

import os

import pytest

from support.nodes.hand_over import Talkers, hand_over_mesh, handed_over, next_proxy, upgrade
from support.system import wait_for

V1, V2 = "/sys/fs/cgroup/memory", "/sys/fs/cgroup"


@pytest.fixture(scope="module")
def mesh():
    with hand_over_mesh() as m:
        yield m


@pytest.mark.parametrize("family", [0, 1])
def test_both_ends_of_tunnels_move_at_once(mesh, family):
    m = mesh
    talkers = [
        Talkers(client, server.ips[family], kinds="bqghc")
        for client, server in ((m.web, m.cart), (m.cart, m.shop))
    ]
    for n in range(4):
        for t in talkers:
            t.say("stall" if n % 2 else "read")
        started = [next_proxy(node, wait=False) for node in m.nodes]
        for node, (old, text) in zip(m.nodes, started, strict=True):
            moved = handed_over(node, text)
            assert moved["moved"] >= 2 and moved["left"] == 0, (moved, old.text()[-1500:])
        for old, _ in started:
            wait_for(lambda old=old: not old.alive(), "the old one to end, which carries nothing any more")
        for t in talkers:
            t.say("read")
            t.goes_on()
    for t in talkers:
        t.end()


class MemoryCgroup:
    def __init__(self, mesh, name):
        parent = V1 if os.path.isdir(V1) else V2
        self.path = f"{parent}/{mesh.prefix}-{name}"
        if parent == V2:
            with open(f"{V2}/cgroup.subtree_control") as f:
                if "memory" not in f.read().split():
                    pytest.skip("this machine charges no cgroup for memory")
        os.mkdir(self.path)

    def put(self, process):
        with open(f"{self.path}/cgroup.procs", "w") as f:
            f.write(str(process.pid))

    def remove(self):
        if os.path.isdir(self.path):
            os.rmdir(self.path)


def test_connections_outlive_the_cgroup_that_their_memory_is_charged_to(mesh):
    """A socket stays charged to where its first process was. That of the old container goes, with it the last name of that
    cgroup; connections do not notice."""
    m, node = mesh, mesh.nodes[0]
    groups = [MemoryCgroup(m, f"proxy{n}") for n in range(4)]
    try:
        groups[0].put(node.proxy)
        ways = [(m.web, m.outside), (m.outside, m.shop), (m.web, m.shop), (m.web, m.cart), (m.cart, m.shop)]
        talkers = [Talkers(client, server.ip) for client, server in ways]
        for n in range(3):
            for t in talkers:
                t.say("stall")
            old, text = next_proxy(node, wait=False)
            groups[n + 1].put(node.proxy)
            moved = handed_over(node, text)
            assert moved["left"] == 0, (moved, old.text()[-1500:])
            wait_for(lambda old=old: not old.alive(), "the old one to end, which carries nothing any more")
            groups[n].remove()
            for t in talkers:
                t.say("read")
                t.goes_on()
        for t in talkers:
            t.end()
        upgrade(node)  # which is in no cgroup of this test
        wait_for(lambda: not node.proxies[-2].alive(), "the last one in there to end")
    finally:
        for group in groups:
            group.remove()
