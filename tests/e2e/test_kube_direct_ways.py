# SPDX-License-Identifier: Apache-2.0
"""Annotations that send connections the long way, as the agent learns them from the API server."""

from support.kube.world import AMBIENT
from support.nodes.direct import said_of, wait_direct
from support.system import wait_for

OUTSIDE, SAME_NODE = "bruma.io/direct-outside", "bruma.io/same-node"


def make(world, **settings):
    """Two pods of the mesh. The proxy has no control plane, so that their workloads are unknown; it says first
    what switches the way off."""
    world.server.make_namespace("shop", AMBIENT)
    world.web, world.cart = world.sandbox("shop", "web", 10), world.sandbox("shop", "cart", 11)
    for pod in (world.web, world.cart):
        world.write_cache(pod)
    world.start(direct_outside="true", **settings).ready()
    for pod in (world.web, world.cart):
        world.wait_redirection("shop", pod.name, "enabled")
        wait_direct(pod, "workload_unknown")
    return world


def test_of_a_pod_before_those_of_its_namespace_and_live(world):
    make(world)
    world.server.annotate_pod("shop", "web", {OUTSIDE: "false"})
    wait_direct(world.web, "switched_off_for_pod")
    assert said_of(world.cart)["outside"] == "workload_unknown"
    world.server.annotate_namespace("shop", {OUTSIDE: "false"})
    wait_direct(world.cart, "switched_off_for_pod")
    world.server.annotate_pod("shop", "web", {OUTSIDE: "true"})
    wait_direct(world.web, "workload_unknown")
    world.server.annotate_namespace("shop", {OUTSIDE: None})
    wait_direct(world.cart, "workload_unknown")


def test_a_value_that_is_none_is_the_long_way_and_is_told(world):
    make(world)
    world.server.annotate_pod("shop", "web", {OUTSIDE: "maybe"})
    wait_direct(world.web, "switched_off_for_pod")
    event = wait_for(
        lambda: [e for e in world.server.events("shop", "web") if e["reason"] == "annotation_invalid"],
        "the Event",
    )[0]
    assert OUTSIDE in event["message"] and "maybe" in event["message"]
    world.server.annotate_namespace("shop", {OUTSIDE: "2"})
    wait_direct(world.cart, "switched_off_for_pod")
    assert world.log().count("reason=annotation_invalid") == 2


def test_they_only_lengthen(world):
    make(world, same_node="relay")
    for value, way in (("kernel", "relay"), ("hbone", "hbone"), ("Hbone", "hbone"), (None, "relay")):
        world.server.annotate_pod("shop", "web", {SAME_NODE: value})
        wait_for(lambda way=way: said_of(world.web)["sameNode"] == way, f"{value} to be {way}")
