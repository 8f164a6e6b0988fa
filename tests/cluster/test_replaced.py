# SPDX-License-Identifier: Apache-2.0
"""Agents and proxies are deleted, killed again and again, and upgraded by helm, while requests flow in both
directions between two nodes. None is refused, and nothing crosses the wire in plaintext."""

import contextlib
import os
import signal
import time

import pytest

from load import Load
from plan import SYSTEM
from release import AGENT, PROXY
from support.system import wait_for
from tap import Tap


@pytest.fixture(scope="module")
def pods(cluster, mesh):
    cluster.namespace("steady", **{"istio.io/dataplane-mode": "ambient"})
    pods = [cluster.pod("steady", f"steady-{n}", n) for n in cluster.nodes]
    mesh.wait_in_mesh(*pods)
    wait_for(lambda: mesh.plane_knows(*pods), "both proxies to know")
    yield pods
    cluster.delete_namespace("steady")


@contextlib.contextmanager
def flowing(cluster, pods, what, report):
    """Requests both ways, IPv4 and IPv6, and a capture between the nodes; judged at the end. Takes the
    moments at which a proxy was killed: a connection that it carried then ends with it. None other fails."""
    a, b = pods
    kills = []
    with Tap(cluster) as wire, Load(a, b.ips) as there, Load(b, a.ips) as back:
        time.sleep(1)
        yield kills
        time.sleep(2)
    served = there.served + back.served
    report(f"{what}: {served} requests served, the slowest in {max(there.slowest, back.slowest):.1f} s")
    cut = [
        f
        for f in there.failures + back.failures
        if any(f[0] <= k <= f[0] + f[1] + 0.1 for k in kills) and f[1] < 2
    ]
    assert [f for f in there.failures + back.failures if f not in cut] == []
    assert len(cut) <= 2 * len(kills)
    assert there.served > 20 and back.served > 20
    assert not wire.holds("/load-of-")
    assert wire.packets("tcp port 15008") > 0
    assert wire.packets(" or ".join(f"(host {ip} and tcp port 8080)" for p in pods for ip in p.ips)) == 0


def replace(cluster, mesh, name):
    """Deletes the DaemonSet's pods one after the other, and waits for the next ones."""
    for node in cluster.nodes:
        old = mesh.pods(name, node)[0]
        cluster.api.delete("Pod", old["metadata"]["name"], SYSTEM)

        def replaced():
            there = mesh.pods(name, node)
            return len(there) == 1 and there[0]["metadata"]["uid"] != old["metadata"]["uid"]

        wait_for(replaced, f"another {name} on {node}", 60, 0.1)
        mesh.wait_rolled_out()


def test_agents_are_deleted(cluster, mesh, pods, report):
    with flowing(cluster, pods, "agent pods deleted", report):
        replace(cluster, mesh, AGENT)


def test_proxies_are_deleted(cluster, mesh, pods, report):
    with flowing(cluster, pods, "proxy pods deleted", report):
        replace(cluster, mesh, PROXY)


@pytest.mark.parametrize("name", [AGENT, PROXY])
def test_crash_loop(cluster, mesh, pods, report, name):
    """Killed twice, so that the kubelet lets it wait before the second restart."""
    with flowing(cluster, pods, f"{name} in a crash loop", report) as kills:
        uid = mesh.pods(name, "n1")[0]["metadata"]["uid"]
        for _ in range(2):
            pid = wait_for(lambda: cluster.nodes["n1"].container_pid(uid), f"a process of {name}", 40, 0.1)
            if name == PROXY:
                kills.append(time.monotonic())
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda: not os.path.exists(f"/proc/{pid}"), f"{name} to be gone", 10)
        wait_for(lambda: cluster.nodes["n1"].container_pid(uid) != pid, f"{name} to be back", 60, 0.1)
        mesh.wait_rolled_out()


def test_upgrade_by_helm(cluster, mesh, pods, report):
    with flowing(cluster, pods, "helm upgrade", report):
        began = time.monotonic()
        mesh.install(global__tag="2")
        mesh.wait_rolled_out(120)
        report(f"helm upgrade of two nodes: {time.monotonic() - began:.1f} s")
    assert all(
        p["spec"]["containers"][0]["image"].endswith(":2") for n in (AGENT, PROXY) for p in mesh.pods(n)
    )
    assert all(p.restarts() == 0 for p in pods)
