# SPDX-License-Identifier: Apache-2.0
"""Live connections that move to the proxy that takes over (bruma/handover.h): every byte of them is checked, both ways, and none
of them notices. What does not move is named."""

import os
import re
import signal

import pytest

from support.faults import Faults
from support.nodes.hand_over import (
    QUIET,
    Talkers,
    hand_over_mesh,
    handed_over,
    next_proxy,
    serving,
    told,
    upgrade,
)
from support.programs import BUILD
from support.system import Process, wait_for
from support.wire.access_log import AccessLog


@pytest.fixture(scope="module")
def mesh():
    with hand_over_mesh() as m:
        yield m


RELAYS = {
    "outside": lambda m: (m.web, m.outside),
    "inbound": lambda m: (m.outside, m.shop),
    "one node": lambda m: (m.web, m.shop),
}
TUNNELS = {
    "to another node": lambda m: (m.web, m.cart),
    "from another node": lambda m: (m.cart, m.shop),
}


def talk(mesh, ways=RELAYS, family=0):
    return [Talkers(client, server.ips[family]) for client, server in (way(mesh) for way in ways.values())]


@pytest.mark.parametrize("family", [0, 1])
def test_no_byte_is_lost_in_upgrades_one_after_the_other(mesh, family):
    talkers = talk(mesh, family=family)
    for _ in range(3):
        for t in talkers:
            t.say("stall")
        moved, old = upgrade(mesh.node)
        assert (moved["moved"], moved["left"]) == (54, 0)
        wait_for(lambda old=old: not old.alive(), "the old one to end, which carries nothing any more")
        (line,) = [x for x in mesh.node.ctl("status").stdout.splitlines() if x.startswith("handed over")]
        assert "54 connections in " in line and line.endswith("; 0 stayed")
        for t in talkers:
            t.say("read")
            t.goes_on()
    for t in talkers:
        t.end()


def test_an_agent_that_starts_anew_hears_of_it(mesh):
    """In an upgrade of the chart, agents are replaced as well."""
    talkers = talk(mesh)
    moved, _ = upgrade(mesh.node)
    mesh.node.agent.stop()
    mesh.node.start_agent(*mesh.agent_options)
    wait_for(lambda: serving(mesh.node), "the proxy to serve with it", log=mesh.node.proxy_log)
    (proxy,) = mesh.node.status()["proxies"]
    assert proxy["handOver"]["moved"] == moved["moved"] == 54
    for t in talkers:
        t.goes_on()
        t.end()


@pytest.mark.parametrize("family", [0, 1])
def test_tunnels_move_with_their_streams(mesh, family):
    talkers = talk(mesh, TUNNELS, family)
    for _ in range(3):
        for t in talkers:
            t.say("stall")
        moved, old = upgrade(mesh.node)
        assert moved["moved"] >= 2 and moved["left"] == 0, (moved, old.text()[-1500:])
        wait_for(lambda old=old: not old.alive(), "the old one to end, which carries nothing any more")
        for t in talkers:
            t.say("read")
            t.goes_on()
    for t in talkers:
        t.end()


def test_half_closed_ones_move_as_well(mesh):
    talkers = talk(mesh)
    for t in talkers:
        t.say("stall")
        t.process.stdin.write("end\n")
        t.process.stdin.flush()
    # Those who say much have sent their end behind what nobody has taken yet.
    ended = lambda: (
        mesh.web.run("ss", "-Htn", "state", "fin-wait-1", "state", "fin-wait-2", "dport", "=", "8080").stdout
    )
    wait_for(lambda: len(ended().splitlines()) >= 6, "ends behind unread bytes")
    moved, _ = upgrade(mesh.node)
    assert moved["left"] == 0 and moved["moved"] > 0
    for t in talkers:
        t.process.stdin.write("read\n")
        t.process.stdin.flush()
        assert t.told("read")[2] == []
        assert t.told("done")[1:] == (0, [])


def test_the_log_has_the_true_start_and_all_bytes_and_metrics_count_it_once(mesh):
    log = AccessLog(mesh.node)
    client = Talkers(mesh.web, mesh.outside.ip, 3, 1000)
    sockets = mesh.web.run("ss", "-Htn", "state", "established", "dport", "=", "8080").stdout.splitlines()
    ours = {line.split()[2].rsplit(":", 1)[1] for line in sockets}
    assert len(ours) == 6  # the applications, and the proxy in their place
    upgrade(mesh.node)
    client.process.stdin.write("end\n")
    client.process.stdin.flush()
    got, *_ = client.told("done")
    ended = lambda: [x for x in log.lines() if x.get("src.addr", "").rsplit(":", 1)[-1] in ours]
    wait_for(lambda: len(ended()) == 3, "three lines", log=mesh.node.proxy_log)
    lines = ended()
    counts = [int(line[key]) for line in lines for key in ("bytes_sent", "bytes_recv")]
    assert sum(counts) == 2 * got


@pytest.mark.parametrize("steps", [0, 3, 11, 30])
@pytest.mark.parametrize("side", ["old", "new"])
def test_either_side_may_be_killed_at_any_step(mesh, tmp_path, side, steps):
    """Whoever is left has each connection that the other one had not kept, and no byte of them is wrong."""
    faults = Faults(BUILD, str(tmp_path / "faults"))
    upgrade(mesh.node, **faults.env if side == "old" else {})
    talkers = talk(mesh)
    faults.fail("sendmsg of a worker", -signal.SIGKILL, skip=steps)
    old, text = next_proxy(mesh.node, wait=False, **faults.env if side == "new" else {})
    new = mesh.node.proxy
    killed = old if side == "old" else new
    wait_for(lambda: not killed.alive(), "the one that is killed to end")
    if side == "new":
        mesh.node.proxy = old
        stays = handed_over(mesh.node, text)["left"]
    else:
        wait_for(lambda: "connections were taken over" in text(), "the end of it", log=mesh.node.proxy_log)
        stays = told(text(), "connections were taken over")["taken"]
    faults.stop()
    wait_for(
        lambda: sum(t.say("look")[1] for t in talkers) == stays, f"{stays} connections to live, and no others"
    )
    for t in talkers:
        t.process.kill()
    wait_for(lambda: serving(mesh.node), "the one that is left to serve")


def test_a_new_one_that_stands_still_is_not_waited_for(mesh, tmp_path):
    faults = Faults(BUILD, str(tmp_path / "faults"))
    talkers = talk(mesh)
    faults.fail("sendmsg of a worker", -signal.SIGSTOP, times=1)
    _, text = next_proxy(mesh.node, **faults.env)
    moved = handed_over(mesh.node, text)
    assert moved["left"] and "no answer in time" in text()
    for t in talkers:
        t.goes_on()
    os.kill(mesh.node.proxy.pid, signal.SIGCONT)
    for t in talkers:
        t.goes_on()
        t.end()


def next_proxy_by(node, *argv):
    """As next_proxy(), by another program that runs it."""
    old, at = node.proxy, len(node.proxy.text())
    env = {**node.proxy_env(), "CONNECTION_TERMINATION_DEADLINE": "600s", "BRUMA_ADMIN_PORT": "0", **QUIET}
    argv = [*argv, node.program("bruma-proxy")]
    node.proxy = Process(argv, node.proxy_log, netns=node.netns, env=env, tied=node.tied)
    node.proxies.append(node.proxy)
    wait_for(lambda: serving(node), "the next one to serve", log=node.proxy_log)
    return old, lambda: old.text()[at:]


def slots(process):
    with open(f"/proc/{process.pid}/status") as f:
        return int(re.search(r"^FDSize:\s+(\d+)", f.read(), re.M)[1])


def test_the_next_one_has_room_for_descriptors_ahead(mesh):
    """Although what it takes needs few: it may grow its table only while nothing stands still."""
    talkers = talk(mesh)
    _, text = next_proxy_by(mesh.node, "bash", "-c", 'exec 9000</dev/null; exec "$0"')
    handed_over(mesh.node, text)
    assert slots(mesh.node.proxy) > 9000
    upgrade(mesh.node)
    assert slots(mesh.node.proxy) > 9000
    for t in talkers:
        t.goes_on()
        t.end()


def test_a_new_one_without_descriptors_refuses_and_nothing_is_lost(mesh):
    talkers = talk(mesh)
    node = mesh.node
    _, text = next_proxy_by(node, "prlimit", "--nofile=90:90")
    moved = handed_over(node, text)
    assert moved["left"] and "no descriptors are left" in text()
    for t in talkers:
        t.goes_on()
        t.end()
    upgrade(node)
