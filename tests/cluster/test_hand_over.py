# SPDX-License-Identifier: Apache-2.0
"""Long connections live through `helm upgrade` and `helm rollback`: they move from the container of the old
pod into that of the new one."""

import time

import pytest

from release import PROXY
from support.nodes.hand_over import MIRROR, Talkers, told
from support.sessions import Download, PostgresSession, RedisSession, databases
from support.system import wait_for

MIRROR_PORT = 8081
TAKEN = "connections were taken over"


@pytest.fixture(scope="module")
def streams(cluster, mesh):
    """From web on the first node: to store on the other one, to near on its own."""
    cluster.namespace("kept", **{"istio.io/dataplane-mode": "ambient"})
    web, near = cluster.pod("kept", "web", "n1"), cluster.pod("kept", "near", "n1")
    store = cluster.pod("kept", "store", "n2")
    mesh.wait_in_mesh(web, near, store)
    wait_for(lambda: mesh.plane_knows(web, near, store), "both proxies to know")
    for pod in (near, store):
        pod.server(MIRROR, MIRROR_PORT)
    with databases(store):
        streams = [kind(web, store.ip) for kind in (RedisSession, PostgresSession)]
        streams.append(Download(web, store, cluster.directory))
        streams += [Talkers(web, ip, count=3, port=MIRROR_PORT) for ip in (*store.ips, *near.ips)]
        yield streams
        for pod in (web, near, store):
            pod.kill_programs()
    cluster.delete_namespace("kept")


def go_on(streams):
    for stream in streams:
        stream.goes_on()


def taken(mesh, node):
    """What its proxy, which has taken over, says of it. The one before is gone, and so is its log."""
    wait_for(lambda: TAKEN in mesh.log(PROXY, node), f"connections to come to the proxy of {node}")
    return told(mesh.log(PROXY, node), TAKEN)


@pytest.mark.parametrize("how", ["upgrade", "rollback"])
def test_they_live_through_it(cluster, mesh, streams, report, how):
    go_on(streams)
    began = time.monotonic()
    if how == "upgrade":
        mesh.install(global__tag={"1": "2", "2": "1"}[mesh.values["global.tag"]])
    else:
        mesh.roll_back()
    mesh.wait_rolled_out(120)
    took = time.monotonic() - began
    go_on(streams)
    for node in cluster.nodes:
        assert all(
            p["spec"]["containers"][0]["image"].endswith(f":{mesh.values['global.tag']}")
            for p in mesh.pods(PROXY, node)
        )
        said, (status,) = taken(mesh, node), mesh.status(node)["proxies"]
        moved = status["handOver"]
        # Of the scenes beside this one some may stay, which connect to a pod that is gone.
        assert said["taken"] == moved["moved"] > 0, (said, moved)
        report(
            f"helm {how} in {took:.1f} s: the proxy of {node} took over {moved['moved']} connections and tunnels in "
            f"{moved['milliseconds']} ms, each stood still for {moved['pauseMicroseconds'] / 1000:.1f} ms at most; "
            f"{moved['left']} stayed"
        )


def test_all_their_bytes_are_right_to_the_end(streams):
    for stream in streams:
        stream.end()
