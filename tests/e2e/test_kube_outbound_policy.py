# SPDX-License-Identifier: Apache-2.0
"""The outbound traffic policy of Istio's mesh configuration, and what annotations of pods and namespaces make
of it, as the agent learns them from the API server."""

import json
import os

import pytest

from support import agent as agent_client
from support.kube.world import AMBIENT
from support.nodes.pod_programs import ECHO, STREAM, ask, goes_on
from support.system import Failed, wait_for

STRICT = "accessLogFile: /dev/stdout\noutboundTrafficPolicy:\n  mode: REGISTRY_ONLY\n"
ANY = "outboundTrafficPolicy: {mode: ALLOW_ANY}\n"
ANNOTATION = "bruma.io/outbound-traffic-policy"


def make(world, mesh=None, **settings):
    """Two pods of the mesh, and one outside of it that they may know nothing of; the proxy has no control
    plane, so that it knows nobody."""
    world.server.make_namespace("shop", AMBIENT)
    world.server.make_namespace("plain")
    if mesh is not None:
        world.server.set_mesh_config(mesh)
    world.web, world.cart = world.sandbox("shop", "web", 10), world.sandbox("shop", "cart", 11)
    world.outside = world.sandbox("plain", "outside", 12)
    for pod in (world.web, world.cart, world.outside):
        world.write_cache(pod)
    world.start(**settings).ready()
    for name in ("web", "cart"):
        world.wait_redirection("shop", name, "enabled")
    world.work.defer(world.outside.server(ECHO, 8080).stop)
    return world


def refused(pod, to):
    return ask(pod, to) == "ECONNRESET"


def passes(pod, to):
    return ask(pod, to) == f"hello {to}"


def becomes(world, what, pod, *tos):
    for to in tos or world.outside.ips:
        wait_for(lambda to=to: what(pod, to), f"{to} to be {what.__name__}", log=world.node.agent_log)


def explained(world, pod):
    lines = world.node.ctl("explain", f"{pod.namespace}/{pod.name}", "-o", "json", check=False).stdout
    return next(f["detail"] for f in json.loads(lines) if f["check"] == "outbound policy")


def test_the_mesh_configuration_is_followed_live(world):
    """Open connections to unknown destinations end when it becomes strict."""
    make(world)
    becomes(world, passes, world.web)
    assert world.status()["outboundTrafficPolicy"] == ""
    open_one = world.web.popen("/usr/bin/python3", "-u", "-c", STREAM, world.outside.ip)
    world.work.defer(open_one.stop)
    goes_on(open_one, "a connection outside the mesh")
    world.server.set_mesh_config(STRICT)
    becomes(world, refused, world.web)
    wait_for(lambda: not open_one.alive(), "the open connection to end")
    assert "ConnectionResetError" in open_one.text() or "BROKEN" in open_one.text()
    assert world.status()["outboundTrafficPolicy"] == "REGISTRY_ONLY"
    assert explained(world, world.web) == "REGISTRY_ONLY by the mesh configuration"
    world.server.set_mesh_config(ANY)
    becomes(world, passes, world.web)
    world.server.set_mesh_config(STRICT)
    becomes(world, refused, world.web)
    world.server.set_mesh_config(None)
    becomes(world, passes, world.web)


def test_annotations_of_pod_and_namespace_override_it(world):
    """The pod's before its namespace's, live and both ways."""
    make(world, STRICT)
    becomes(world, refused, world.web)
    world.server.annotate_pod("shop", "web", {ANNOTATION: "ALLOW_ANY"})
    becomes(world, passes, world.web)
    assert refused(world.cart, world.outside.ip)
    assert explained(world, world.web) == "ALLOW_ANY by the pod's annotation"
    world.server.annotate_namespace("shop", {ANNOTATION: "ALLOW_ANY"})
    becomes(world, passes, world.cart)
    assert explained(world, world.cart) == "ALLOW_ANY by its namespace's annotation"
    world.server.annotate_pod("shop", "web", {ANNOTATION: "REGISTRY_ONLY"})
    becomes(world, refused, world.web)
    assert passes(world.cart, world.outside.ip)
    world.server.annotate_namespace("shop", {ANNOTATION: None})
    becomes(world, refused, world.cart)


def test_overrides_can_be_forbidden(world):
    make(world, STRICT, outbound_overrides="false")
    world.server.annotate_pod("shop", "web", {ANNOTATION: "ALLOW_ANY"})
    world.server.annotate_namespace("shop", {ANNOTATION: "ALLOW_ANY"})
    world.node.wait_rounds(2)
    assert refused(world.web, world.outside.ip)
    world.server.set_mesh_config(ANY)
    becomes(world, passes, world.cart)
    world.server.annotate_pod("shop", "cart", {ANNOTATION: "REGISTRY_ONLY"})
    becomes(world, refused, world.cart)


def test_a_value_that_is_none_fails_closed_and_is_told(world):
    make(world)
    world.server.annotate_pod("shop", "web", {ANNOTATION: "REGISTRY-ONLY"})
    becomes(world, refused, world.web)
    event = wait_for(
        lambda: [e for e in world.server.events("shop", "web") if e["reason"] == "annotation_invalid"],
        "the Event",
    )[0]
    assert ANNOTATION in event["message"] and "REGISTRY-ONLY" in event["message"]
    assert world.log().count("reason=annotation_invalid") == 1
    world.server.annotate_namespace("shop", {ANNOTATION: "none"})
    becomes(world, refused, world.cart)
    world.server.annotate_namespace("shop", {ANNOTATION: None})
    world.server.annotate_pod("shop", "web", {ANNOTATION: None})
    for pod in (world.cart, world.web):
        becomes(world, passes, pod)


def test_a_mesh_configuration_that_is_wrong(world):
    """The last good one counts; without any, the strict one."""
    make(world, "outboundTrafficPolicy: {mode: STRICT}\n")
    becomes(world, refused, world.web)
    assert "mode is neither" in world.status()["meshConfigError"]
    world.server.set_mesh_config(ANY)
    becomes(world, passes, world.web)
    assert world.status()["meshConfigError"] == ""
    world.server.set_mesh_config("outboundTrafficPolicy: [REGISTRY_ONLY]\n")
    wait_for(lambda: world.status()["meshConfigError"], "the error")
    world.node.wait_rounds(2)
    assert passes(world.web, world.outside.ip)
    assert "mesh_config_invalid" in world.node.ctl("doctor", check=False).stdout
    world.server.set_mesh_config({"mesh": None, "meshNetworks": "networks: {}"})
    wait_for(lambda: not world.status()["meshConfigError"], "nothing to be said")
    assert passes(world.web, world.outside.ip)


def test_another_configmap_can_be_named_and_none(world):
    world.server.set_mesh_config(STRICT)
    make(world, mesh_config="")
    assert passes(world.web, world.outside.ip)
    assert "watchMeshConfig" not in world.status()
    world.node.agent.stop()
    bad = world.node.start_agent(wait=False, **{**world.settings, "mesh_config": "a/b/c"})
    wait_for(lambda: not bad.alive(), "the agent to refuse the name")
    assert "mesh-config=a/b/c" in world.log()


def test_the_answer_survives_restarts_of_agent_and_proxy(small):
    """While nobody answers, what was said last counts: a new agent hands it on before it knows better."""
    world = make(small, STRICT)
    becomes(world, refused, world.web)
    world.node.agent.stop()
    assert refused(world.web, world.outside.ip)
    world.server.stop_api()
    world.node.start_agent(**world.settings)
    world.node.proxy.stop()
    world.node.start_proxy(wait=False, XDS_ADDRESS="")
    wait_for(lambda: world.status()["proxyConnected"], "the new proxy to connect")
    assert not world.status()["sourceReady"]
    becomes(world, refused, world.web)
    with open(os.path.join(world.node.run_dir, "pods", f"{world.web.runtime_uid}.json")) as f:
        assert json.load(f)["outboundPolicy"] == "REGISTRY_ONLY"
    world.server.start_api()
    world.ready()
    assert refused(world.web, world.outside.ip)
    world.server.set_mesh_config(ANY)
    becomes(world, passes, world.web)


def test_new_pods_wait_until_the_policy_is_known(small):
    """Not enrolled with one that may be too lax: like pods that are not known yet."""
    small.server.make_namespace("shop", AMBIENT)
    small.server.set_mesh_config(STRICT)
    small.server.faults["configmaps"] = [lambda handler: handler.status(403, "not allowed") or True] * 1000
    small.start()
    pod = small.sandbox("shop", "web", 10, plain=False)
    wait_for(lambda: "not allowed" in small.status()["watchMeshConfig"]["error"], "the refusal")
    assert not small.status()["sourceReady"]
    with pytest.raises(Failed, match="agent_not_ready"):
        small.node.add(pod)
    small.server.faults["configmaps"] = []
    small.ready()
    small.node.add(pod)
    assert agent_client.pods(small.node.run_dir)["shop/web"]["state"] == "enrolled"
