# SPDX-License-Identifier: Apache-2.0
"""A node loses its power, and when it comes back the main CNI plugin's installer has written its
configuration anew, without Bruma's entry, before the agent runs: its pods start without the plugin. Three
ways to live with that."""

import glob
import time

import pytest

from layout import CONF, CONFLIST
from support.system import run, wait_for
from tap import Tap


@pytest.fixture
def pods(cluster, mesh):
    """A server, and on the node that will be cut off pods that call it from their first moment on; plain is
    outside the mesh."""
    cluster.namespace("guard", **{"istio.io/dataplane-mode": "ambient"})
    cluster.namespace("unguarded")
    server = cluster.pod("guard", "server", "n2")
    callers = [
        cluster.pod("guard", f"caller-{i}", "n1", call=f"{ip} 8080") for i, ip in enumerate(server.ips)
    ]
    plain = cluster.pod("unguarded", "plain", "n1")
    mesh.wait_in_mesh(server, *callers)
    yield server, callers, plain
    cluster.delete_namespace("guard")
    cluster.delete_namespace("unguarded")


def calls_since_the_cut(pod):
    """What the application has printed since its second start."""
    logs = sorted(glob.glob(f"{pod.node.disk}/var/log/pods/*_{pod.name}_{pod.uid}/app/*.log"))
    if len(logs) < 2:
        return []
    with open(logs[-1]) as f:
        return [line.split(" ", 3)[3].strip() for line in f]


def cut(node, before=None):
    """Off and on again, with the configuration that the main plugin's installer writes."""
    node.power_off()
    with open(node.disk + CONFLIST, "wb") as f:
        f.write(node.conflist)
    node.boot(before)


def wait_answered(pods, report, what):
    began = time.monotonic()
    for pod in pods:
        wait_for(
            lambda: any(line.endswith("call ok") for line in calls_since_the_cut(pod)),
            f"{pod.name} to be answered again",
            150,
            0.2,
        )
    report(f"power back, {what}: pods talk again after {time.monotonic() - began:.1f} s")


def settle(cluster, mesh, node, pods):
    cluster.wait_node(node.name)
    mesh.wait_rolled_out()
    for pod in pods:
        pod.wait_ready()


def guard(mesh):
    return mesh.ask("n1", "status")[0]["guard"]


def test_who_slipped_through_is_captured_and_told_of(cluster, mesh, pods, report):
    """By default pods that start before the agent are kept from then on that it runs."""
    server, callers, plain = pods
    node = cluster.nodes["n1"]
    cut(node)
    wait_answered(callers, report, "configuration written anew")
    settle(cluster, mesh, node, [*callers, plain])
    mesh.wait_in_mesh(*callers)
    wait_for(lambda: not guard(mesh)["closed"], "the guard to open", 60)
    told = guard(mesh)
    assert told["closings"] >= 1 and told["gaveUp"] == 0 and told["cgroup"].endswith("/kubepods")
    late = [p for p in callers if not mesh.known(p)["capturedSinceStart"]]
    assert mesh.ask("n1", "status")[0]["capturedLate"] >= len(late)
    for pod in late:
        wait_for(
            lambda: any(
                e["reason"] == "captured_late" and e["involvedObject"]["name"] == pod.name
                for e in cluster.api.list("Event", "guard")
            ),
            f"an Event of {pod.name}",
            20,
        )
    report(
        f"of {len(callers)} pods {len(late)} had started before the agent; the guard was closed for "
        f"{told['closedMilliseconds'] / 1000:.1f} s"
    )
    with Tap(cluster) as wire:
        for pod in callers:
            assert pod.get(server.ip).startswith("server")
        assert plain.get(server.ip).startswith("server")
    assert wire.packets("tcp port 15008") > 0


def test_the_guard_closes_before_the_kubelet(cluster, mesh, pods, report):
    """As bruma-guard.service does: nobody talks before he is steered, although pods start without the
    plugin."""
    server, callers, plain = pods
    node = cluster.nodes["n1"]
    groups = cluster.groups

    def close():
        r = node.run(
            [
                f"{cluster.build}/agent/bruma-agent",
                "--close-guard",
                "--cgroup",
                groups.of_node,
                "--guard-cgroup",
                f"{groups.of_node}/kubepods",
                "--guard-limit=10m",
            ]
        )
        assert "the guard is closed" in r.stderr, r.stderr

    with Tap(cluster) as wire:
        cut(node, close)
        wait_answered(callers, report, "configuration written anew, guard closed")
    assert not wire.holds("/call-of-"), "a pod talked in plaintext"
    assert wire.packets("tcp port 15008") > 0
    settle(cluster, mesh, node, [*callers, plain])
    mesh.wait_in_mesh(*callers)
    wait_for(lambda: not guard(mesh)["closed"], "the guard to open", 60)
    assert guard(mesh)["gaveUp"] == 0
    assert plain.get(server.ip).startswith("server")


def test_an_own_list_needs_no_guard(cluster, mesh, pods, report):
    """cni.istioOwnedCNIConfig: what the installer writes is not what the runtime loads; no pod starts before
    the agent."""
    _server, callers, plain = pods
    node = cluster.nodes["n1"]
    mesh.install(cni__istioOwnedCNIConfig="true")
    mesh.wait_rolled_out()
    conf = f"{node.disk}{CONF}"
    wait_for(
        lambda: run(["ls", conf]).stdout.split() == ["02-bruma.conflist", "10-test.conflist"], "the own list"
    )
    with open(f"{conf}/10-test.conflist", "rb") as f:
        assert f.read() == node.conflist
    with Tap(cluster) as wire:
        cut(node)
        wait_answered(callers, report, "configuration written anew, own list")
    assert not wire.holds("/call-of-"), "a pod talked in plaintext"
    settle(cluster, mesh, node, [*callers, plain])
    mesh.wait_in_mesh(*callers)
    assert all(mesh.known(p)["capturedSinceStart"] for p in callers)
    mesh.install(cni__istioOwnedCNIConfig="false")
    mesh.wait_rolled_out()
    wait_for(lambda: run(["ls", conf]).stdout.split() == ["10-test.conflist"], "the own list to go")
