# SPDX-License-Identifier: Apache-2.0
"""What pods exclude from capture by the annotations that sidecars use: not captured from then on, or captured
again, while they run."""

import json

import pytest

from support import agent as agent_client
from support.kube.world import AMBIENT
from support.nodes.pod_programs import ECHO, ask
from support.system import run, wait_for

PREFIX = "traffic.sidecar.istio.io/"


@pytest.fixture
def web(world):
    """A pod of the mesh with a server, and one outside with two."""
    world.server.make_namespace("shop", AMBIENT)
    world.server.make_namespace("plain")
    world.web, world.outside = world.sandbox("shop", "web", 10), world.sandbox("plain", "outside", 12)
    for pod in (world.web, world.outside):
        world.write_cache(pod)
    world.start().ready()
    world.wait_redirection("shop", "web", "enabled")
    for pod, port in ((world.outside, 8080), (world.outside, 9090), (world.web, 8080), (world.web, 9090)):
        world.work.defer(pod.server(ECHO, port).stop)
    return world.web


def annotate(world, **annotations):
    """Values of None remove. Returns once the agent has followed."""
    before = world.log().count("exclusions of a pod from capture")
    world.server.annotate_pod("shop", "web", {PREFIX + k: v for k, v in annotations.items()})
    wait_for(
        lambda: world.log().count("exclusions of a pod from capture") > before,
        "the agent to follow",
        log=world.node.agent_log,
    )


def counters(world):
    return agent_client.pods(world.node.run_dir)["shop/web"]["counters"]


def way(world, to, port=8080):
    """How a connection of web goes; it is answered in any case."""
    names = ("outbound_captured_connections", "outbound_excluded_connections")
    before = counters(world)
    assert ask(world.web, to, port=port) == f"hello {to}"
    after = counters(world)
    captured, excluded = (after[n] - before[n] for n in names)
    assert (captured, excluded) in ((1, 0), (0, 1)), (before, after)
    return "captured" if captured else "excluded"


def way_in(world, to, port):
    """How a connection of the node to web goes."""
    names = ("inbound_plaintext_lookups", "inbound_excluded_lookups")
    before = counters(world)
    run(["bash", "-c", f"exec 3<>/dev/tcp/{to}/{port}"], netns=world.node.netns)
    after = counters(world)
    captured, excluded = (after[n] - before[n] for n in names)
    # Lookups are counted, and a SYN that is repeated on a busy machine is looked up again.
    assert (captured > 0) != (excluded > 0), (before, after)
    return "captured" if captured else "excluded"


def dump(world, name):
    maps = f"{world.node.pin_dir}/maps/{name}"
    return [e["formatted"] for e in json.loads(run(["bpftool", "-j", "map", "dump", "pinned", maps]).stdout)]


def test_ranges_and_ports_of_destinations(world, web):
    ip, ip6 = world.outside.ip, world.outside.ip6
    assert way(world, ip) == way(world, ip6) == "captured"
    annotate(world, excludeOutboundIPRanges=f"{ip}/32,192.0.2.0/24")
    assert way(world, ip) == "excluded" and way(world, ip6) == "captured"
    annotate(world, excludeOutboundIPRanges=f"{ip6}/64")
    assert way(world, ip) == "captured" and way(world, ip6) == "excluded"
    annotate(world, excludeOutboundIPRanges=None, excludeOutboundPorts="9090")
    assert way(world, ip) == way(world, ip6) == "captured"
    assert way(world, ip, 9090) == way(world, ip6, 9090) == "excluded"
    annotate(world, excludeOutboundPorts=None)
    assert way(world, ip, 9090) == "captured"
    assert dump(world, "excluded_ranges") == dump(world, "excluded_ports") == []


def test_only_what_is_included(world, web):
    ip, ip6 = world.outside.ip, world.outside.ip6
    annotate(world, includeOutboundIPRanges=f"{ip}/32")
    assert way(world, ip) == "captured" and way(world, ip6) == "excluded"
    annotate(world, includeOutboundPorts="9090")
    assert way(world, ip6, 9090) == "captured" and way(world, ip6) == "excluded"
    annotate(world, includeOutboundIPRanges="", includeOutboundPorts=None)
    assert way(world, ip) == way(world, ip6) == "excluded"


def test_ports_of_the_pod(world, web):
    assert way_in(world, web.ip, 9090) == "captured"
    annotate(world, excludeInboundPorts="9090")
    assert way_in(world, web.ip, 9090) == way_in(world, web.ip6, 9090) == "excluded"
    assert way_in(world, web.ip, 8080) == "captured"
    annotate(world, excludeInboundPorts=None, includeInboundPorts="9090")
    assert way_in(world, web.ip, 9090) == "captured"
    assert way_in(world, web.ip, 8080) == "excluded"


def test_the_policy_is_not_asked_of_what_is_excluded(world, web):
    """As with sidecars: it does not reach the proxy."""
    world.server.set_mesh_config("outboundTrafficPolicy: {mode: REGISTRY_ONLY}")
    wait_for(lambda: ask(web, world.outside.ip) == "ECONNRESET", "the refusal")
    annotate(world, excludeOutboundPorts="9090")
    assert way(world, world.outside.ip, 9090) == "excluded"
    assert ask(web, world.outside.ip) == "ECONNRESET"


def test_a_socket_that_was_captured_once(world, web):
    """It is let go when it connects to what is excluded."""
    annotate(world, excludeOutboundPorts="9090")
    code = """
import socket, sys
s = socket.socket()
s.settimeout(5)
for port in (8080, 9090):
    s.connect((sys.argv[1], port))
    s.sendall(b"x")
    assert s.recv(1) == b"x"
    s.connect_ex(("0.0.0.0", 0)) if False else None
    if port == 8080:
        import ctypes, struct
        libc = ctypes.CDLL(None, use_errno=True)
        unspec = struct.pack("=H14x", 0)
        assert libc.connect(s.fileno(), unspec, 16) == 0, ctypes.get_errno()
print("ok")
"""
    assert web.python(code, world.outside.ip).strip() == "ok"
    assert counters(world)["outbound_excluded_connections"] == 1


def test_a_value_that_cannot_be_used_excludes_nothing_and_is_told(world, web):
    key = f"{PREFIX}excludeOutboundIPRanges"
    world.server.annotate_pod("shop", "web", {key: f"{world.outside.ip}/32,10.0.0.300/8"})
    event = wait_for(
        lambda: [e for e in world.server.events("shop", "web") if e["reason"] == "annotation_invalid"],
        "the Event",
        log=world.node.agent_log,
    )[0]
    assert key in event["message"] and "10.0.0.300/8" in event["message"]
    assert way(world, world.outside.ip) == "captured"
    world.server.annotate_pod("shop", "web", {key: None, f"{PREFIX}excludeInterfaces": "net1"})
    wait_for(lambda: "not supported yet" in world.log() and "excludeInterfaces" in world.log(), "the warning")
    assert way(world, world.outside.ip) == "captured"


def test_what_is_pinned_counts_while_the_agent_is_away_and_after_a_restart(world, web):
    annotate(world, excludeOutboundPorts="9090", excludeOutboundIPRanges="198.51.100.0/24")
    ranges = {e["value"]["range"]: e["value"]["exclusion"] for e in dump(world, "excluded_ranges")}
    assert ranges == {
        "198.51.100.0/24": "BRUMA_EXCLUDED",
        "0.0.0.0/0": "BRUMA_INCLUDED",
        "::/0": "BRUMA_INCLUDED",
    }
    assert [e["key"]["port"] for e in dump(world, "excluded_ports")] == [9090]
    world.node.agent.stop()
    assert ask(web, world.outside.ip, port=9090).startswith("hello")
    excluded = dump(world, "exclusion_counters")[0]["value"]["outbound_excluded_connections"]
    assert excluded == 1
    world.node.start_agent(**world.settings)
    world.ready()
    wait_for(lambda: world.status()["proxyConnected"], "the proxy")
    assert way(world, world.outside.ip, 9090) == "excluded"
    said = world.node.ctl("explain", "shop/web").stdout
    assert "to 198.51.100.0/24 not captured" in said and "to port 9090 not captured" in said
    # Somebody takes the flags away: it is found, and set again.
    world.server.annotate_pod("shop", "web", {f"{PREFIX}excludeOutboundPorts": None})
    wait_for(lambda: not dump(world, "excluded_ports"), "the change")
    assert way(world, world.outside.ip, 9090) == "captured"


def test_a_pod_that_leaves_takes_its_entries_along(world, web):
    annotate(world, excludeOutboundPorts="9090", excludeInboundPorts="22")
    assert len(dump(world, "excluded_ports")) == 2
    world.server.label_namespace("shop", mode=None)
    world.wait_state("shop/web", "outside")
    assert dump(world, "excluded_ports") == dump(world, "exclusion_counters") == []


def test_annotations_can_be_left_without_effect(world):
    world.server.make_namespace("shop", AMBIENT)
    world.web = world.sandbox("shop", "web", 10, annotations={f"{PREFIX}excludeOutboundPorts": "9090"})
    world.write_cache(world.web)
    world.start(exclusions="false").ready()
    world.wait_redirection("shop", "web", "enabled")
    world.node.wait_rounds(2)
    assert dump(world, "excluded_ports") == []
