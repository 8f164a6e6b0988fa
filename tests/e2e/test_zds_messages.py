# SPDX-License-Identifier: Apache-2.0
"""Messages of a CNI agent that break the rules of ZDS: refused, and reconnecting; no descriptor is left."""

import os
import time

import pytest

from support.network import inside
from support.nodes.mesh import Mesh
from support.nodes.zds_node import ZdsNode
from support.protobuf import text
from support.proxies.at_rest import at_rest, descriptors, listening, not_ready, same_descriptors
from support.proxies.zds import SNAPSHOT_SENT, Refused, add_message, del_message, keep_message
from support.system import wait_for


def bad_messages():
    ok = add_message("uid-x", "x", "demo", "x")
    return {
        "not protobuf": (b"\xff\xff\xff", 0),
        "no payload": (b"\x38\x01", 0),
        "unknown payload": (text(4, b""), 0),
        "cut": (ok[:-3], 1),
        "add without a descriptor": (ok, 0),
        "add with two descriptors": (ok, 2),
        "add with forty descriptors": (ok, 40),
        "add without a uid": (add_message("", "x", "demo", "x"), 1),
        "keep with a descriptor": (keep_message("uid-x"), 1),
        "del with a descriptor": (del_message("uid-x"), 1),
        "snapshot with a descriptor": (SNAPSHOT_SENT, 1),
        "too long": (add_message("uid-x", "x" * 1100, "demo", "x"), 1),
        "a line break in a name": (add_message("uid-x", "x\ninfo\tzds\tforged", "demo", "x"), 1),
        "a quote in a name": (add_message("uid-x", 'x" level="info', "demo", "x"), 1),
        "not UTF-8": (text(1, text(1, "uid-x") + text(2, text(1, b"\xc3\x28"))), 1),
    }


@pytest.fixture(scope="module")
def hostile():
    with Mesh(nodes=1, node_kinds=[ZdsNode]) as m:
        m.node, m.web = m.nodes[0], m.pod("web")
        m.start()
        m.link = m.node.connection
        at_rest(m.node)
        yield m


@pytest.mark.parametrize("name", bad_messages())
def test_bad_message(hostile, name):
    message, count = bad_messages()[name]
    link, node = hostile.link, hostile.node
    before = descriptors(node.proxy)
    fds = [os.open(f"/run/netns/{hostile.web.netns}", os.O_RDONLY) for _ in range(count)]
    link.send(message, fds)
    for fd in fds:
        os.close(fd)
    error = link.answer()
    assert error and len(error) < 600, error
    assert link.ended()
    hostile.link = node.introduce()
    wait_for(node.ready, "the proxy to be ready again", 5)
    same_descriptors(node.proxy, before)
    assert listening(hostile.web) == [15001, 15006, 15008]
    assert "forged" not in [line.split("\t")[-1] for line in node.proxy.text().splitlines()]


@pytest.mark.parametrize("case", ["no netns", "the proxy's own", "a slash in the account", "no name"])
def test_add_that_can_never_work(hostile, case):
    """Refused with the reason, the connection lives, readiness says so; forgotten when the agent takes it
    back."""
    link, node = hostile.link, hostile.node
    before = descriptors(node.proxy)
    with inside(node.netns):
        path = "/dev/null" if case == "no netns" else f"/proc/{node.proxy.pid}/ns/net"
        fd = os.open(path, os.O_RDONLY)
    name, account = "" if case == "no name" else "x", "a/b" if "slash" in case else "x"
    try:
        with pytest.raises(Refused, match=r"namespace|slash"):
            link.ask(add_message("uid-x", name, "demo", account), [fd])
    finally:
        os.close(fd)
    assert not_ready(node)
    link.delete("uid-x")
    assert node.ready()
    same_descriptors(node.proxy, before)


def test_an_agent_that_hangs_up_before_the_snapshot_is_not_stormed(hostile):
    hostile.link.close()
    agent, count = hostile.node.cni_agent, 0
    end = time.monotonic() + 3
    while time.monotonic() < end:
        try:
            agent.accept(0.5).close()
            count += 1
        except TimeoutError:
            pass
    assert 3 < count < 15, count
    agent.connections.clear()
    hostile.link = hostile.node.introduce(agent.accept(10))
    wait_for(hostile.node.ready, "the proxy to be ready again", 5)
