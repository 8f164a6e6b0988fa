# SPDX-License-Identifier: Apache-2.0
"""Long streams and sessions through a waypoint, a stock Envoy, while the proxies before and behind it are upgraded: each of them
goes on, and all their bytes are right."""

import contextlib

import pytest

from support.nodes.direct import LONG
from support.nodes.hand_over import Talkers, handed_over, next_proxy
from support.nodes.mesh import Mesh
from support.proxies import waypoint
from support.proxies.waypoint_shop import (
    DESTINATION,
    SHOP,
    VIP4,
    VIP6,
    WAYPOINT,
    envoy,
    set_services,
    set_waypoints,
)
from support.proxies.waypoint_streams import (
    HTTP_CLIENT,
    PORTS,
    RPC,
    RPC_CLIENT,
    Exchanges,
    Waypoint,
    serve,
)
from support.sessions import PostgresSession, RedisSession, databases
from support.system import wait_for


@pytest.fixture(scope="module", params=[waypoint.SAMPLE, waypoint.SAMPLE_IN_MESH], ids=["beside", "inside"])
def mesh(request, program):
    """The clients' node is the first one. beside: Envoy speaks HBONE itself; inside: it is behind its node's proxy."""
    inside = request.param == waypoint.SAMPLE_IN_MESH
    with (
        Mesh(nodes=2, workers=2, agent_options=LONG) as m,
        contextlib.ExitStack() as stack,
    ):
        m.web, m.waypoint = m.pod("web"), m.pod("waypoint", node=1)
        m.v1, m.v2 = m.pod("shop-v1", node=1, account="shop"), m.pod("shop-v2", node=0, account="shop")
        set_services(m, waypoint=DESTINATION, ports=PORTS)
        for pod in (m.v1, m.v2):
            pod.services = {f"demo/{SHOP}": PORTS}
        if inside:
            m.waypoint.services = {f"demo/{WAYPOINT}": {15008: 15008}}
            m.waypoint.more = {"applicationTunnel": {"protocol": "PROXY", "port": 15088}}
        else:
            m.waypoint.outside = True
            set_waypoints(m, m.waypoint)
        m.start()
        serve(m)
        stack.enter_context(databases(m.v1))
        m.envoy = envoy(m, m.waypoint, program, kind=Waypoint, sample=request.param)
        stack.callback(m.envoy.stop)
        m.envoy.start()
        yield m


def test_all_go_on_in_upgrades_of_both_proxies(mesh):
    web = mesh.web
    # What they say ahead stands before what the others say.
    talkers = [Talkers(web, vip, count=9, ahead=1 << 20) for vip in (VIP4, VIP6)]
    others = [Exchanges(web, RPC_CLIENT, vip, RPC) for vip in (VIP4, VIP6)]
    others += [Exchanges(web, HTTP_CLIENT, vip, 80) for vip in (VIP4, VIP6)]
    others += [kind(web, VIP4) for kind in (RedisSession, PostgresSession)]
    client, server = mesh.nodes
    for stream in others:
        stream.goes_on()
    for nodes in ((client,), (server,), (client, server)):
        for t in talkers:
            t.say("stall")
        for node, (old, text) in zip(nodes, [next_proxy(node) for node in nodes], strict=True):
            moved = handed_over(node, text)
            assert moved["left"] == 0 and moved["moved"], (moved, text()[-1500:])
            wait_for(lambda old=old: not old.alive(), "the old one to end, which carries nothing any more")
        for t in talkers:
            t.say("read")
        for stream in (*talkers, *others):
            stream.goes_on()
    for stream in (*talkers, *others):
        stream.end()
