# SPDX-License-Identifier: Apache-2.0
"""Direct ways while something fails, or is switched off: what connects in that moment, what lives on, and that nothing
of the mesh passes in plaintext. A pod dials all the time meanwhile, the mesh and outside; after each test the wire is
asked."""

import signal
import struct

import pytest

from support.bpf_map import full
from support.direct import DirectMaps
from support.hang import hung, threads
from support.nodes.direct import (
    Dialer,
    Waiting,
    counters,
    direct_mesh,
    said_of,
    wait_direct,
    wait_room,
    way_in,
    way_out,
)
from support.nodes.pod_programs import STREAM, goes_on
from support.system import wait_for
from support.xds.plane import Plane
from support.xds.site import failed_connects


@pytest.fixture(scope="module")
def mesh():
    with direct_mesh(workers=2) as m:
        yield m


class Scene:
    """What goes on during a test: may_fail has addresses whose connections may end badly in it."""

    def __init__(self, mesh):
        self.mesh, self.node = mesh, mesh.nodes[0]
        self.may_fail = set()
        self.dialer = Dialer(mesh.busy, mesh.shop.ip, mesh.near.ip6, mesh.outside.ip)
        self.out = mesh.web.popen("/usr/bin/python3", "-u", "-c", STREAM, mesh.outside.ip)
        self.inward = mesh.outside.popen("/usr/bin/python3", "-u", "-c", STREAM, mesh.web.ip6)
        self.dialer.goes_on(1)
        goes_on(self.out, "the connection to outside")
        goes_on(self.inward, "the connection from outside")

    def live_on(self):
        goes_on(self.out, "the direct connection to outside")
        goes_on(self.inward, "the direct connection from outside")

    def captured(self):
        """A connection to outside, and one from there, now: both go to the proxy, and wait for it."""
        before = counters(self.mesh.web)
        waiting = [Waiting(self.mesh.web, self.mesh.outside.ip), Waiting(self.mesh.outside, self.mesh.web.ip)]
        after = counters(self.mesh.web)
        for name in ("outbound_captured_connections", "inbound_plaintext_lookups"):
            assert after[name] > before[name], name
        for name in ("direct_outside_connections", "direct_inbound_lookups"):
            assert after[name] == before[name], name
        return waiting

    def outside_has_left(self):
        """Nobody reads any more where it was of the mesh."""
        maps = DirectMaps(self.node)
        wait_for(
            lambda: not set(self.mesh.outside.ips) & set(maps.addresses()),
            "addresses to leave the maps",
            log=self.node.proxy_log,
        )

    def direct_again(self):
        wait_direct(self.mesh.web, "direct", "pass")
        assert way_out(self.mesh.web, self.mesh.outside.ip6) == "direct"
        assert way_in(self.mesh.outside, self.mesh.web, self.mesh.web.ip) == "direct"
        self.dialer.goes_on()


@pytest.fixture
def scene(mesh):
    mesh.wire.forget()
    s = Scene(mesh)
    yield s
    s.direct_again()
    s.live_on()
    bad = s.dialer.stop()
    for p in (s.out, s.inward):
        p.kill()
    assert not mesh.wire.plain(mesh.members)
    assert {to: how for to, how in bad.items() if how and to not in s.may_fail} == {}


def answered(waiting):
    assert [w.answer() for w in waiting] == ["hello"] * len(waiting)


def test_the_capture_would_see_it(mesh, scene):
    """What goes directly is in plaintext on the wire; what goes to the mesh is not. brumactl says which is which."""
    explain = lambda to: scene.node.ctl("explain", "demo/web", f"{to}:8080", check=False).stdout
    assert "not captured, because the proxy would pass it through" in explain(mesh.outside.ip)
    assert "captured: it goes through the proxy, because the mesh knows the destination" in explain(
        mesh.shop.ip
    )
    scene.dialer.goes_on()
    assert [s for s in mesh.wire.seen() if s.destination == mesh.outside.ip and b"plain words" in s.payload]
    assert [s for s in mesh.wire.between(mesh.members) if 15008 in (s.source_port, s.destination_port)]


def test_the_proxy_is_killed(scene):
    """Its socket leaves the kernel's map with it: nothing goes directly from that moment on."""
    scene.may_fail = set(scene.dialer.to)  # what it carried
    scene.node.proxy.kill()
    said = said_of(scene.mesh.web)
    assert (said["outside"], said["inbound"]) == ("proxy_gone", "proxy_gone")
    waiting = scene.captured()
    scene.live_on()
    assert all(w.waits() for w in waiting)
    scene.node.start_proxy()
    answered(waiting)


def test_the_proxy_is_stopped(scene):
    scene.node.proxy.kill(signal.SIGSTOP)
    wait_direct(scene.mesh.web, "proxy_silent", "proxy_silent")
    waiting = scene.captured()
    scene.live_on()
    assert all(w.waits() for w in waiting)
    scene.node.proxy.kill(signal.SIGCONT)
    answered(waiting)


@pytest.mark.parametrize("name", ["worker-1", "bruma-proxy"], ids=["a worker", "the control thread"])
def test_one_thread_of_the_proxy_hangs(scene, name):
    """The others may go on and serve what is captured."""
    (tid,) = threads(scene.node.proxy.pid)[name]
    with hung(tid):
        wait_direct(scene.mesh.web, "proxy_silent", "proxy_silent")
        waiting = scene.captured()
        scene.live_on()
    answered(waiting)


def replace(scene, **env):
    """By one that serves."""
    old, node = scene.node.proxy, scene.node
    new = node.start_proxy(wait=False, **env)
    wait_for(
        lambda: [p["pid"] for p in node.status()["proxies"] if p["state"] == "serving"] == [new.pid],
        "the new proxy to serve",
        log=node.proxy_log,
    )
    return old


def test_the_proxy_is_replaced(mesh, scene):
    """No connection is refused, and each goes one way or the other. The first of the new ones has no pages,
    because those of the old one are in the same network namespace."""
    for env in (dict.fromkeys(("BRUMA_ADMIN_PORT", "BRUMA_METRICS_PORT", "BRUMA_READY_PORT"), "0"), {}):
        old = replace(scene, **env)
        assert {way_out(mesh.web, mesh.outside.ip) for _ in range(3)} <= {"direct", "proxy"}
        assert {way_in(mesh.outside, mesh.web, mesh.web.ip) for _ in range(3)} <= {"direct", "proxy"}
        scene.dialer.goes_on()
        scene.live_on()
        old.stop()


def test_no_room_for_the_addresses_of_the_mesh(mesh, scene):
    """Rather than those that found no room, nothing goes directly to outside."""
    with full(scene.node, "mesh_addresses", lambda i: struct.pack("=QQQ", i, 0, 0xDEAD)):
        # Many, for the kernel counts elements of such a map by processor, and the room that it has is not exact.
        mesh.extra.extend(
            {
                "uid": f"more-{i}",
                "name": f"more-{i}",
                "namespace": "demo",
                "workloadIps": [f"192.0.2.{i}"],
                "protocol": "HBONE",
            }
            for i in range(1, 255)
        )
        mesh.write()
        wait_direct(mesh.web, "set_incomplete")
        assert way_out(mesh.web, mesh.outside.ip) == "proxy"
        scene.live_on()
    mesh.extra.clear()
    mesh.write()


def test_no_room_for_more_flows(mesh, scene):
    """What would not be accounted for is captured. Who dials all the time stands still, or the end of one of its
    connections would be room for another one."""
    scene.dialer.program.kill(signal.SIGSTOP)
    with full(scene.node, "flows", lambda i: struct.pack("=Q", (1 << 60) + i)):
        assert way_out(mesh.web, mesh.outside.ip) == "proxy"
        assert way_in(mesh.outside, mesh.web, mesh.web.ip) in ("proxy", "direct")
        scene.live_on()
    wait_room(scene.node)
    scene.dialer.program.kill(signal.SIGCONT)


def test_the_agent_is_killed_and_another_one_follows(mesh, scene):
    """The control plane of this node goes with it. What changes meanwhile counts once it is back."""
    scene.node.agent.kill()
    assert way_out(mesh.web, mesh.outside.ip) == way_in(mesh.outside, mesh.web, mesh.web.ip) == "direct"
    scene.live_on()
    scene.may_fail = {mesh.outside.ip}
    mesh.outside.outside, mesh.outside.more = False, {"protocol": "HBONE"}  # so it says, and has no tunnels
    mesh.write()
    scene.node.start_agent(*mesh.agent_options)
    wait_for(lambda: said_of(mesh.web), "the agent to look")
    wait_for(lambda: "Pod/outside/outside" in str(scene.node.config_dump()), "the proxy to know it")
    before = counters(mesh.web)
    assert way_out(mesh.web, mesh.outside.ip) == "ECONNRESET"
    after = counters(mesh.web)
    assert after["outbound_captured_connections"] == before["outbound_captured_connections"] + 1
    assert after["direct_outside_connections"] == before["direct_outside_connections"]
    said = scene.node.ctl("explain", "demo/web", f"{mesh.outside.ip}:8080", check=False).stdout
    assert "captured: it goes through the proxy, because the mesh knows the destination" in said
    scene.live_on()
    mesh.outside.outside = True
    mesh.write()
    scene.outside_has_left()


@pytest.fixture
def plane(mesh):
    """A control plane that knows the members; the node's own proxy hears it alone."""
    node = mesh.nodes[0]
    p = Plane(f"{mesh.dir}/plane", node.netns)
    p.set(*(p.of(pod) for pod in mesh.members))
    p.to_proxy = {name: value for name, value in p.env().items() if name.startswith("XDS_")}
    node.proxy.kill()
    node.start_proxy(**p.to_proxy)
    yield p
    node.proxy.kill()
    p.stop()
    node.start_proxy()


def test_the_control_plane_is_away(mesh, plane, scene):
    """What the proxy has heard last counts for as long as it lives. One that is started meanwhile knows nobody: nothing goes
    directly, and what is captured waits until it has heard all. What has joined the mesh by then is not dialed in plaintext."""
    node = scene.node
    scene.may_fail = set(scene.dialer.to)  # what the first proxy carried
    scene.direct_again()
    plane.stop()
    wait_for(lambda: failed_connects(scene), "the proxy to look for it", log=node.proxy_log)
    plane.set(plane.workload("joins", *mesh.outside.ips, tunnel_protocol=1, node="elsewhere"))
    assert way_out(mesh.web, mesh.outside.ip) == way_in(mesh.outside, mesh.web, mesh.web.ip) == "direct"
    scene.dialer.goes_on()
    node.proxy.kill()
    node.start_proxy(wait=False, **plane.to_proxy)
    wait_for(lambda: failed_connects(scene), "the new proxy to look for it", log=node.proxy_log)
    said = said_of(mesh.web)
    assert (said["outside"], said["inbound"]) == ("proxy_gone", "proxy_gone")
    waiting = scene.captured()
    scene.live_on()
    assert all(w.waits() for w in waiting)
    plane.start()
    node.wait_proxy()
    assert [w.answer() for w in waiting] == ["ECONNRESET", "hello"], "nobody takes tunnels there"
    wait_direct(mesh.web, "direct", "pass")
    assert way_out(mesh.web, mesh.outside.ip) == "ECONNRESET"
    plane.remove("Kubernetes//Pod/demo/joins")
    scene.outside_has_left()


def test_a_pod_leaves_the_mesh_and_comes_back(mesh, scene):
    mesh.web.more = {"labels": {"istio.io/dataplane-mode": "none"}}
    mesh.write()
    mesh.web.wait_state("outside")
    scene.live_on()
    mesh.web.more = {}
    mesh.write()
    mesh.web.wait_enrolled()
    scene.live_on()


def test_a_pod_wants_the_long_way(mesh, scene):
    """By annotations in the mesh file; live, and each for its way."""
    ways = {
        "outside": lambda: way_out(mesh.near, mesh.outside.ip),
        "inbound": lambda: way_in(mesh.outside, mesh.near, mesh.near.ip6),
    }
    for way, other in (("outside", "inbound"), ("inbound", "outside")):
        mesh.near.more = {"annotations": {f"bruma.io/direct-{way}": "false"}}
        mesh.write()
        wait_for(lambda way=way: said_of(mesh.near)[way] == "switched_off_for_pod", "the annotation to count")
        wait_for(
            lambda other=other: said_of(mesh.near)[other] in ("direct", "pass"), "the former one to be gone"
        )
        assert (ways[way](), ways[other]()) == ("proxy", "direct"), way
    said = scene.node.ctl("explain", "demo/near", check=False).stdout
    assert "because the way is switched off by an annotation of the pod" in said
    mesh.near.more = {}
    mesh.write()
    wait_direct(mesh.near, "direct", "pass")
