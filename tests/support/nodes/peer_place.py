# SPDX-License-Identifier: Apache-2.0
"""A place from where a test talks HBONE as another node's proxy would."""

import contextlib
import itertools
import socket

from support.network import inside
from support.nodes.mesh import leaf
from support.system import wait_for

_peers = itertools.count(1)


@contextlib.contextmanager
def place_of_a_peer(mesh):
    """A pod that is no member of node 2's mesh, with a listener on HBONE's port: the proxy's client side
    talks to it."""
    pod = mesh.pod(f"peer{next(_peers)}", node=1, account="peer")
    mesh.write()
    with inside(pod.netns):
        listener = socket.create_server((pod.ip, 15008), backlog=64)
    wait_for(lambda: pod.ip in str(mesh.nodes[0].config_dump()["workloads"]), "the peer's workload on node 1")
    mesh.extra.append(
        {
            "uid": f"Kubernetes//Pod/demo/{pod.name}-hbone",
            "name": pod.name + "-hbone",
            "namespace": "demo",
            "serviceAccount": "peer",
            "workloadIps": [pod.ip],
            "protocol": "HBONE",
            "node": "elsewhere",
            "services": {},
        }
    )
    pod.outside = True
    mesh.write()
    wait_for(
        lambda: any(w["uid"].endswith(pod.name + "-hbone") for w in mesh.nodes[0].config_dump()["workloads"]),
        "the peer as an HBONE workload",
    )
    try:
        yield pod, listener, leaf(mesh, pod.identity)
    finally:
        listener.close()
        mesh.extra.pop()
        pod.remove()
        mesh.write()
