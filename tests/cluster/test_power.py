# SPDX-License-Identifier: Apache-2.0
"""A node loses its power and comes back. Its pods start again, and none of them talks before it is
steered."""

import glob
import time

import pytest

from support.system import wait_for
from tap import Tap


@pytest.fixture(scope="module")
def pods(cluster, mesh):
    """A server, and on the node that will be cut off pods that call it from their first moment on."""
    cluster.namespace("power", **{"istio.io/dataplane-mode": "ambient"})
    server = cluster.pod("power", "server", "n2")
    callers = [
        cluster.pod("power", f"caller-{i}", "n1", call=f"{ip} 8080") for i, ip in enumerate(server.ips)
    ]
    mesh.wait_in_mesh(server, *callers)
    yield server, callers
    cluster.delete_namespace("power")


def outcomes(pod, boots=1):
    """What the application has printed since its last start."""
    logs = sorted(glob.glob(f"{pod.node.disk}/var/log/pods/*_{pod.name}_{pod.uid}/app/*.log"))
    if len(logs) <= boots:
        return []
    with open(logs[-1]) as f:
        return [line.split(" ", 3)[3].strip() for line in f]


def test_new_pods_are_steered_from_their_first_byte(cluster, mesh, pods):
    server, _ = pods
    with Tap(cluster) as wire:
        fresh = [
            cluster.pod("power", f"fresh-{i}", "n1", call=f"{ip} 8080") for i, ip in enumerate(server.ips)
        ]
        for pod in fresh:
            wait_for(
                lambda: any(line.endswith("call ok") for line in outcomes(pod, 0)),
                f"{pod.name} to be answered",
                30,
            )
    assert not wire.holds("/call-of-") and wire.packets("tcp port 15008") > 0
    assert all(mesh.known(p)["capturedSinceStart"] for p in fresh)
    for pod in fresh:
        pod.delete(grace=0)


def test_power_is_cut_and_comes_back(cluster, mesh, pods, report):
    server, callers = pods
    node = cluster.nodes["n1"]
    node.power_off()
    with Tap(cluster) as wire:
        began = time.monotonic()
        node.boot()
        for pod in callers:
            wait_for(
                lambda: any(line.endswith("call ok") for line in outcomes(pod)),
                f"{pod.name} to be answered again",
                150,
                0.2,
            )
        report(f"power back: pods talk again after {time.monotonic() - began:.1f} s")
    assert not wire.holds("/call-of-"), "a pod talked in plaintext"
    assert wire.packets("tcp port 15008") > 0
    cluster.wait_node("n1")
    mesh.wait_rolled_out()
    for pod in callers:
        pod.wait_ready()
        mesh.wait_in_mesh(pod)
        assert mesh.known(pod)["capturedSinceStart"]
        assert pod.get(server.ip).startswith("server")
