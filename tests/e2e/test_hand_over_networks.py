# SPDX-License-Identifier: Apache-2.0
"""Connections to another network: a tunnel inside of the one to its gateway, a stock Envoy. Both move to the next proxy together,
and every byte of what is in them is checked, both ways."""

import os
import signal

import pytest

from support.networks import VIP4, VIP6, Networks
from support.nodes.direct import LONG
from support.nodes.hand_over import MIRROR, Talkers, upgrade
from support.system import wait_for

FAMILIES = pytest.mark.parametrize("vip", [VIP4, VIP6], ids=["v4", "v6"])


@pytest.fixture(scope="module")
def two(program):
    env = {"BRUMA_ANSWER_TIMEOUT": "60s", "BRUMA_PEER_HANDSHAKE_TIMEOUT": "60s"}
    with Networks(program, env, env) as n:
        for mesh in (n.home, n.away):
            mesh.agent_options = (*LONG, "--hand-over", "true")
        n.start()
        for pod in (n.shop, n.shop2):
            pod.server(MIRROR, "8080")
        yield n


def all_move(node, count):
    moved, old = upgrade(node)
    said = [x for x in old.text().splitlines() if "hand-over" in x]
    assert moved["moved"] >= count and moved["left"] == 0, said[-3:]
    wait_for(lambda: not old.alive(), "the old one to end, which carries nothing any more")


@FAMILIES
@pytest.mark.parametrize("side", ["client", "server", "both"])
def test_both_tunnels_move(two, vip, side):
    home, away = two.nodes
    talkers = Talkers(two.web, vip, port=80)
    for _ in range(3):
        talkers.say("stall")
        if side != "server":
            all_move(home, 1)
        if side != "client":
            all_move(away, 1)
        talkers.say("read")
        talkers.goes_on()
    talkers.end()


@FAMILIES
def test_what_waits_behind_the_gateway_moves_undecided(two, vip):
    """Its proxy stands still: the tunnel to the gateway is there, and in it one that is not."""
    home, away = two.nodes
    open_ones = Talkers(two.web, vip, port=80)
    open_ones.goes_on()
    os.kill(away.proxy.pid, signal.SIGSTOP)
    try:
        talkers = Talkers(two.web, vip, port=80)
        all_move(home, 19)
    finally:
        os.kill(away.proxy.pid, signal.SIGCONT)
    for t in (open_ones, talkers):
        t.goes_on()
    all_move(home, 1)
    for t in (open_ones, talkers):
        t.goes_on()
        t.end()
