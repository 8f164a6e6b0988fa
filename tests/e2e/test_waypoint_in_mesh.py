# SPDX-License-Identifier: Apache-2.0
"""Waypoints that are pods of the mesh themselves: a stock Envoy behind the node's proxy."""

import re

import pytest

from support.nodes.mesh import Mesh
from support.nodes.pod_programs import ECHO, HTTP_APP, ONE_SHOT
from support.proxies.waypoint import SAMPLE_IN_MESH
from support.proxies.waypoint_shop import (
    DESTINATION,
    POST,
    SHOP,
    VIP4,
    VIP6,
    WAYPOINT,
    envoy,
    named,
    one,
    only_waypoint,
    requests,
    set_services,
)
from support.system import wait_for


@pytest.fixture(scope="module")
def inner(program):
    """Envoy behind its node's proxy: it gets PROXY headers on loopback, and what it opens is captured."""
    with Mesh(nodes=2) as m:
        m.web, m.other, m.waypoint = m.pod("web"), m.pod("other"), m.pod("waypoint", node=1)
        m.v1, m.v2 = m.pod("shop-v1", node=1, account="shop"), m.pod("shop-v2", node=0, account="shop")
        for pod in (m.v1, m.v2):
            pod.services = {f"demo/{SHOP}": {80: 8080}}
            pod.more = {"waypoint": DESTINATION, "authorizationPolicies": ["demo/only-waypoint"]}
        m.waypoint.services = {f"demo/{WAYPOINT}": {15008: 15008}}
        m.waypoint.more = {"applicationTunnel": {"protocol": "PROXY", "port": 15088}}
        m.policies.append(only_waypoint())
        set_services(m, waypoint=DESTINATION)
        m.start()
        m.v1.app, m.v2.app = m.v1.server(HTTP_APP, "v1"), m.v2.server(HTTP_APP, "v2")
        m.envoy = envoy(m, m.waypoint, program, sample=SAMPLE_IN_MESH)
        try:
            m.envoy.start()
            yield m
        finally:
            m.envoy.stop()


@pytest.mark.parametrize("vip", [VIP4, VIP6], ids=["v4", "v6"])
def test_in_the_mesh_get_is_allowed_and_delete_is_refused(inner, vip):
    m = inner
    assert one(m.web, vip)[0] == 200
    assert one(m.web, vip, "DELETE") == [403, "RBAC: access denied"]
    assert one(m.other, vip) == [403, "RBAC: access denied"]
    wait_for(
        lambda: [x for x in m.envoy.lines() if x.startswith(f"{m.other.identity} GET") and "403" in x],
        "the identity in Envoy's log",
    )


def test_in_the_mesh_a_canary_split(inner):
    answers = requests(inner.web, VIP4, 100)
    assert {status for status, _ in answers} == {200} and {body for _, body in answers} == {"v1", "v2"}
    assert requests(inner.web, VIP4, 20, **{"x-version": "v2"}) == [[200, "v2"]] * 20
    assert inner.web.python(POST, VIP4, timeout=90).strip() == "same"


def test_in_the_mesh_its_own_connections_do_not_come_back_to_it(inner):
    """The workloads have the waypoint too; Envoy calls them by their addresses, and they accept nobody
    else."""
    m = inner
    assert one(m.web, m.v1.ip, port=8080) == [200, "v1"]
    assert one(m.web, m.v1.ip, "DELETE", port=8080) == [403, "RBAC: access denied"]
    assert f"SERVED ::ffff:{m.waypoint.ip} GET" in m.v1.app.text()
    m.envoy.stop()  # it kept its connections
    m.envoy.start()
    lines = wait_for(
        lambda: [
            x
            for x in m.nodes[1].access_log()
            if 'src.workload="waypoint"' in x and 'direction="outbound"' in x
        ],
        "the waypoint's own connections",
    )
    for line in lines:
        assert f'dst.identity="{m.v1.identity}"' in line and re.search(
            rf"dst.addr=({m.v1.ip}|{m.v2.ip}):15008", line
        ), line


@pytest.fixture(scope="module")
def sandwich():
    """A waypoint that is itself in the mesh: its application is behind its node's proxy."""
    with Mesh(nodes=2) as m:
        m.web, m.gate, m.shop = m.pod("web"), m.pod("gate", node=1), m.pod("shop", node=1)
        m.shop.more = {"waypoint": named(f"/{m.gate.ip}")}
        m.start()
        m.gate.server(ECHO, "8080")
        m.shop.server(ECHO, "8080")
        m.shop.server(ECHO, "9090")
        yield m


def test_a_waypoint_in_the_mesh_reaches_its_workloads_directly(sandwich):
    m = sandwich
    assert m.web.python(ONE_SHOT, m.shop.ip, 8080, "from web") == "from web"
    wait_for(
        lambda: [
            x
            for x in m.nodes[0].access_log()
            if f"dst.addr={m.gate.ip}:15008" in x and f"dst.hbone_addr={m.shop.ip}:8080" in x
        ],
        "web's connection at the waypoint",
    )
    assert "FROM" not in m.shop.processes[0].text()
    # 9090 is nowhere but at the workload
    assert m.gate.python(ONE_SHOT, m.shop.ip, 9090, "from gate") == "from gate"
    wait_for(
        lambda: f"FROM ::ffff:{m.gate.ip} " in m.shop.processes[1].text(),
        "the waypoint's connection at the workload",
    )
    wait_for(
        lambda: [
            x
            for x in m.nodes[1].access_log()
            if f"dst.addr={m.shop.ip}:15008" in x and 'direction="outbound"' in x
        ],
        "the waypoint's connection in the log",
    )
