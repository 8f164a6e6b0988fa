# SPDX-License-Identifier: Apache-2.0
"""The wall clock is set under running programs: after a suspend, when a machine is restored, by NTP; and some
machines begin in 1970. Agents and proxies have a clock of the test's (other_clock.c), which nobody tells them
is set; this machine's stays as it is."""

import itertools
import json
import time

import pytest

from support.bpf_map import dump
from support.network import inside
from support.nodes.clock import DAY, HOUR, YEAR, MovableMesh, root, validity
from support.nodes.mesh import Mesh, leaf
from support.nodes.pod_programs import ECHO, ONE_SHOT
from support.proxies import hbone
from support.system import wait_for
from support.xds.plane import Plane

LOOK = 5  # seconds after which a clock that was set has been noticed in any case

# Connects again and again, for so many seconds, each time with what a client may wait; prints the failures
# and the slowest.
AGAIN = """
import socket, sys, time
failed, slowest, done, end = [], 0, 0, time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    begin = time.monotonic()
    try:
        with socket.create_connection((sys.argv[1], 8080), timeout=10) as s:
            s.sendall(b"x")
            assert s.recv(1) == b"x"
        done += 1
    except (OSError, AssertionError) as e:
        failed.append(f"{type(e).__name__} after {time.monotonic() - begin:.1f} s")
    slowest = max(slowest, time.monotonic() - begin)
    time.sleep(0.02)
print(len(failed), done, f"{slowest:.2f}", failed[:3])
"""


@pytest.fixture(scope="module")
def mesh():
    with MovableMesh(agent_options=("--same-node", "kernel")) as m:
        m.web, m.shop = m.pod("web", node=0), m.pod("shop", node=1)
        m.start()
        m.shop.server(ECHO, "8080")
        yield m


def changes(node):
    """(How often verdicts of before have become void for connections in the kernel, all or those of a pod; clocks that were set;
    certificates)."""
    said = node.proxy.text()
    places = [value["changes"] for _, value in dump(node, "node_places")]
    return (
        dump(node, "node_control")[0][1]["generation"] + sum(places),
        said.count("the wall clock was set"),
        said.count("certificate received"),
    )


@pytest.mark.parametrize(
    "ahead",
    [25 * HOUR, -25 * HOUR, 13 * HOUR, 60 * DAY, -60 * DAY, 20 * YEAR],
    ids=["+25h", "-25h", "+13h", "+60d", "-60d", "+20y"],
)
def test_connections_after_the_clock_was_set(mesh, ahead):
    """Both nodes' clocks, as the NTP of a site does it. No connection fails: a certificate that is not good
    now is got anew first."""
    hold = mesh.web.popen(
        "/usr/bin/python3",
        "-u",
        "-c",
        """
import socket, sys, time
s = socket.create_connection((sys.argv[1], 8080), timeout=60)
while True:
    s.sendall(b"x")
    assert s.recv(1) == b"x"
    time.sleep(0.2)
""",
        mesh.shop.ip,
    )
    before = [changes(node) for node in mesh.nodes]
    for step in (ahead, 0):  # and back
        mesh.set(step)
        failed, done, slowest, which = mesh.web.python(AGAIN, mesh.shop.ip, LOOK + 3, timeout=60).split(
            " ", 3
        )
        assert int(failed) <= (0 if abs(ahead) < 30 * DAY else 1), (
            f"{failed} of {done} failed, the slowest took {slowest} s: {which}"
        )
        assert int(done) > 20
        now = time.time() + step
        for node, pod in ((mesh.nodes[0], mesh.web), (mesh.nodes[1], mesh.shop)):
            begin, end = validity(node, pod.identity)
            assert begin < now < end, f"{now - begin:.0f} s after its begin, {end - now:.0f} s before its end"
    assert hold.alive()
    hold.kill()
    for node, (generation, clocks, certificates) in zip(mesh.nodes, before, strict=True):
        now = changes(node)
        assert now[1] >= clocks + 2
        assert now[0] - generation >= now[1] - clocks + now[2] - certificates, "each makes verdicts void"
    for node in mesh.nodes:
        assert "the wall clock was set" in node.proxy.text() and "the wall clock was set" in node.agent.text()


def test_a_request_that_comes_before_a_clock_is_looked_at_is_refused_by_name(mesh):
    """A tunnel lives on while its peer's certificate ends with a leap: its next request is judged by the
    clock as it is."""
    for _attempt in range(4):
        with inside(mesh.nodes[0].netns):
            c = hbone.Client((mesh.shop.ip, 15008), *leaf(mesh, mesh.web.identity))  # good for a day
        sid = c.connect(f"{mesh.shop.ip}:8080")
        assert c.status(sid) == 200
        mesh.nodes[1].set(30 * HOUR)
        late = c.connect(f"{mesh.shop.ip}:8080")
        answer = c.status(late, seconds=5)
        assert c.pump(lambda: c.goaways, seconds=LOOK + 2), "and then GOAWAY"
        c.send(sid, b"goes on")
        assert c.pump(lambda: c.received(sid) == b"goes on")
        c.close()
        looks = mesh.nodes[1].proxy.text().count("the wall clock was set")
        mesh.nodes[1].set(0)
        wait_for(lambda n=looks: mesh.nodes[1].proxy.text().count("the wall clock was set") > n, "the look")
        if answer is not None:
            break  # else the look was sooner
    assert answer == ("reset", 7), "REFUSED_STREAM: it may be tried again elsewhere"
    wait_for(
        lambda: [x for x in mesh.nodes[1].access_log("peer_expired") if "connection failed" in x],
        "its name in the access log",
    )


def test_a_machine_whose_clock_begins_in_1970():
    with MovableMesh(nodes=1, begin=600 - time.time()) as m:
        node, web, shop = m.nodes[0], m.pod("web"), m.pod("shop")
        m.start()
        shop.server(ECHO, "8080")
        assert web.python(ONE_SHOT, shop.ip, 8080, "in 1970") == "in 1970"
        assert root(node).not_valid_after.year < 1981
        node.set(0)
        failed, done, slowest, which = web.python(AGAIN, shop.ip, LOOK + 10, timeout=60).split(" ", 3)
        assert int(failed) <= 1 and int(done) > 20, (
            f"{failed} of {done} failed, the slowest took {slowest} s: {which}"
        )
        assert root(node).not_valid_after.year > 2030, "a root made in 1970 would have ended long ago"
        # The next boot begins in 1970 again, with the files of before.
        node.proxy.stop()
        node.agent.stop()
        node.set(600 - time.time())
        node.start_agent()
        node.start_proxy()
        wait_for(
            lambda: (
                web.run("/usr/bin/python3", "-c", ONE_SHOT, shop.ip, "8080", "again", check=False).stdout
                == "again"
            ),
            "traffic after a boot in 1970",
        )


@pytest.mark.parametrize("life", [20, 8])
def test_certificates_of_a_short_life_are_renewed_in_time(life):
    """Also where the CA dates them back, so that half of their life is over at once."""
    with Mesh(nodes=1) as m:
        node = m.nodes[0]
        plane = Plane(f"{m.dir}/plane", node.netns)
        plane.answer_certificate = lambda identity, csr: plane.good_certificate(
            identity, csr, begins=-60, ends=life
        )
        m.proxy_env.update(plane.env())
        try:
            web, shop = m.pod("web"), m.pod("shop")
            plane.set(plane.of(web), plane.of(shop))
            m.start()
            shop.server(ECHO, "8080")
            web.python(ONE_SHOT, shop.ip, 8080, "first")
            failed, done, slowest, which = web.python(AGAIN, shop.ip, 2.5 * life, timeout=120).split(" ", 3)
            assert int(failed) == 0 and float(slowest) < 1, (
                f"{failed} of {done} failed, the slowest took {slowest} s: {which}"
            )
            states = [c["state"] for c in node.config_dump()["certificates"]]
            assert states == ["Available"] * 2, json.dumps(states)
            for pod in (web, shop):
                asked = plane.asked[pod.identity]
                assert 3 <= len(asked) <= 12, "in time, and no more often than that"
                assert all(b - a < 0.75 * life for a, b in itertools.pairwise(asked)), [
                    round(b - a, 1) for a, b in itertools.pairwise(asked)
                ]
        finally:
            plane.stop()
