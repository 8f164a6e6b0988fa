# SPDX-License-Identifier: Apache-2.0
"""Live connections from a release to the next, and back: BRUMA_FORMER_PROXY is the program of another release (tests/former.sh
builds one). What former releases have written is in tests/data/handover, too, for unit tests."""

import os

import pytest

from support.nodes.hand_over import Talkers, hand_over_mesh, upgrade
from support.system import wait_for

FORMER = os.environ.get("BRUMA_FORMER_PROXY")

pytestmark = pytest.mark.skipif(not FORMER, reason="BRUMA_FORMER_PROXY names no proxy of another release")


@pytest.fixture(scope="module")
def mesh():
    with hand_over_mesh() as m:
        yield m


def programs(node, program):
    """Those of the node's next proxies."""
    node.program = lambda name: (
        program if program and name == "bruma-proxy" else type(node).program(node, name)
    )


@pytest.mark.parametrize("family", [0, 1])
@pytest.mark.parametrize("first", ["former", "this"])
def test_there_and_back(mesh, first, family):
    m, node = mesh, mesh.nodes[0]
    order = [FORMER, None] if first == "former" else [None, FORMER]
    programs(node, order[0])
    upgrade(node)
    ways = [(m.web, m.outside), (m.outside, m.shop), (m.web, m.shop), (m.web, m.cart), (m.cart, m.shop)]
    talkers = [Talkers(client, server.ips[family], kinds="bqgh") for client, server in ways]
    for n in range(1, 5):
        programs(node, order[n % 2])
        for t in talkers:
            t.say("stall")
        moved, old = upgrade(node)
        # Of half-closed ones some may be over: all that is left is in their applications' sockets.
        assert moved["moved"] >= 3 * 13 + 2 and moved["left"] == 0, (moved, old.text()[-1500:])
        wait_for(lambda old=old: not old.alive(), "the old one to end, which carries nothing any more")
        for t in talkers:
            t.say("read")
            t.goes_on()
    for t in talkers:
        t.end()
    programs(node, None)
