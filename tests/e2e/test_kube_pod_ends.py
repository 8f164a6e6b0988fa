# SPDX-License-Identifier: Apache-2.0
"""The API server says that a pod was told to end: the agent and the proxy know it from then on, also a new agent. What
the proxy does then: test_pod_ends.py."""

import time

from support import agent as agent_client
from support.kube.world import AMBIENT
from support.system import wait_for

STATIC = "0123456789abcdef0123456789abcdef"


def item(world, name):
    return agent_client.pods(world.node.run_dir).get(name) or {}


def wait_ending(world, name="shop/web", is_ending=True):
    wait_for(
        lambda: (item(world, name).get("endingAt", 0) > 0) == is_ending,
        f"{name} to be ending: {is_ending}",
        log=world.node.agent_log,
    )


def enrolled(world, **more):
    world.server.make_namespace("shop", AMBIENT)
    pod = world.sandbox("shop", "web", 10, **more)
    world.write_cache(pod)
    world.start().ready()
    world.wait_state("shop/web", "enrolled")
    assert item(world, "shop/web")["endingAt"] == 0
    return pod


def proxy_was_told(world, times=1):
    def said():
        with open(world.node.proxy_log, errors="replace") as f:
            return f.read().count('pod ends\tpod="shop/web"') == times

    wait_for(said, "the proxy to be told", log=world.node.proxy_log)


def test_a_long_end(world):
    pod = enrolled(world)
    world.server.end_pod("shop", "web", 600)
    wait_ending(world)
    proxy_was_told(world)
    # Reports of a pod that ends: it stays in the mesh, and nobody is told again.
    world.server.annotate_pod("shop", "web", {"say": "something"})
    world.server.set_status("shop", "web", pod.ips)
    world.node.wait_rounds(2)
    assert world.state("shop/web") == "enrolled"
    refused = world.node.ctl("end", "shop/web", check=False)
    assert refused.returncode == 1 and "delete the pod there" in refused.stderr
    world.server.delete_pod("shop", "web")
    world.node.wait_rounds(2)
    assert world.state("shop/web") == "enrolled", "until its sandbox has gone"
    proxy_was_told(world)
    world.node.delete_pod(pod)
    wait_for(lambda: world.state("shop/web") is None, "it is gone", log=world.node.agent_log)


def test_deleted_by_force(world):
    """The API server forgets it at once, while its containers may run on."""
    enrolled(world)
    world.server.delete_pod("shop", "web")
    wait_ending(world)
    proxy_was_told(world)
    assert world.state("shop/web") == "enrolled"


def test_told_while_the_agent_is_away(world):
    enrolled(world)
    world.node.agent.stop()
    world.server.end_pod("shop", "web", 600)
    world.start(proxy=False).ready()
    wait_ending(world)
    proxy_was_told(world)
    since = item(world, "shop/web")["endingAt"]
    time.sleep(1)
    world.node.agent.stop()
    world.start(proxy=False).ready()
    assert item(world, "shop/web")["endingAt"] == since
    proxy_was_told(world, 2)


def test_deleted_by_force_while_the_agent_is_away(world):
    enrolled(world)
    world.node.agent.stop()
    world.server.delete_pod("shop", "web")
    world.start(proxy=False).ready()
    wait_ending(world)
    proxy_was_told(world)


def test_a_list_that_lacks_it_is_no_last_word(small):
    enrolled(small)
    with small.server.condition:
        web = small.server.objects["pods"].pop(("shop", "web"))
    small.server.forget()
    small.server.cut()
    wait_ending(small)
    with small.server.condition:
        small.server.put("pods", ("shop", "web"), "ADDED", web)
    wait_ending(small, is_ending=False)
    assert small.state("shop/web") == "enrolled"


def test_the_copy_of_a_static_pod(world):
    """Its deletion ends nothing: the kubelet runs it on, and makes another copy."""
    annotations = {"kubernetes.io/config.mirror": STATIC}
    pod = enrolled(world, uid=STATIC, annotations=annotations)
    world.server.end_pod("shop", "web", 600)
    world.node.wait_rounds(2)
    assert item(world, "shop/web")["endingAt"] == 0
    world.server.delete_pod("shop", "web")
    world.node.wait_rounds(2)
    assert item(world, "shop/web")["endingAt"] == 0
    world.server.make_pod("shop", "web", "n1", pod.ips, annotations=annotations)
    world.node.wait_rounds(2)
    assert world.state("shop/web") == "enrolled" and item(world, "shop/web")["endingAt"] == 0
