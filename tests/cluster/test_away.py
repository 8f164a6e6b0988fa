# SPDX-License-Identifier: Apache-2.0
"""The API server is away. Pods of which the agent knows what they are start nevertheless, in the mesh; others
wait, and the kubelet is told so."""

import json
import os
import re
import time

import pytest

import images
from support.system import wait_for


def static_pod(cluster, name, namespace):
    """A pod that the kubelet starts by itself, from a file."""
    node = cluster.nodes["n1"]
    spec = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "app", "image": images.APP, "imagePullPolicy": "Never"}],
        },
    }
    path = f"{node.disk}/var/lib/kubelet/manifests/{name}.json"
    with open(f"{path}.new", "w") as f:
        json.dump(spec, f)
    os.rename(f"{path}.new", path)
    return path


def sandboxes(node, name):
    """Containers of the pod that run, its pause among them: (id, pid in the node). Asked without the API
    server."""
    tasks = {
        line.split()[0]: int(line.split()[1])
        for line in node.ctr("tasks", "ls").splitlines()[1:]
        if "RUNNING" in line
    }
    out = []
    for line in node.ctr("containers", "ls", f'labels."io.kubernetes.pod.name"=={name}').splitlines()[1:]:
        identifier = line.split()[0]
        if identifier in tasks:
            out.append((identifier, tasks[identifier]))
    return out


@pytest.fixture(scope="module")
def pods(cluster, mesh):
    cluster.namespace("away", **{"istio.io/dataplane-mode": "ambient"})
    server = cluster.pod("away", "server", "n2")
    client = cluster.pod("away", "client", "n1")
    files = [static_pod(cluster, "static", "away")]
    wait_for(
        lambda: cluster.api.get("Pod", "static-n1", "away")["status"]["phase"] == "Running",
        "the static pod",
        60,
        0.1,
    )
    mesh.wait_in_mesh(server, client)
    wait_for(lambda: mesh.plane_knows(server, client), "both proxies to know")
    wait_for(lambda: enrolled(mesh, "away/static-n1"), "the static pod to be in the mesh", 20)
    yield server, client, files
    for f in files:
        os.unlink(f)
    wait_for(
        lambda: (
            not sandboxes(cluster.nodes["n1"], "static-n1") and not sandboxes(cluster.nodes["n1"], "late-n1")
        ),
        "static pods to end",
        60,
        0.2,
    )
    cluster.delete_namespace("away")


def enrolled(mesh, name):
    return next(
        (
            p
            for p in mesh.ask("n1", "pods")
            if f"{p['namespace']}/{p['name']}" == name and p["state"] == "enrolled"
        ),
        None,
    )


def refusals(node):
    """Of the agent to the CNI plugin."""
    page = node.run(["curl", "-sS", "--noproxy", "*", "http://127.0.0.1:15014/metrics"]).stdout
    return int(re.search(r'^istio_cni_plugin_requests_total{response_code="500"} (\d+)', page, re.M)[1])


def test_without_the_api_server(cluster, mesh, pods, report):
    server, client, files = pods
    node = cluster.nodes["n1"]
    cluster.stop_api()
    try:
        wait_for(lambda: mesh.ask("n1", "status")[0]["sourceError"], "the agent to miss the server")
        assert client.get(server.ip).startswith("server"), "what is there goes on"
        # The sandbox of a static pod ends, and the kubelet makes another: ADD for a pod that the agent knows.
        before = enrolled(mesh, "away/static-n1")
        began = time.monotonic()
        for _, pid in sandboxes(node, "static-n1"):
            node.run(["kill", "-KILL", pid])
        again = wait_for(
            lambda: (p := enrolled(mesh, "away/static-n1")) and p["cookie"] != before["cookie"] and p,
            "the static pod to be back",
            45,
            0.2,
        )
        report(
            f"API server away: a static pod was back, in the mesh, {time.monotonic() - began:.1f} s after its end"
        )
        assert again["capturedSinceStart"]
        # One that nobody has heard of must wait, each time that the kubelet tries.
        refused = refusals(node)
        files.append(static_pod(cluster, "late", "away"))
        for times in (1, 2):
            wait_for(lambda n=times: refusals(node) >= refused + n, "the agent to refuse the pod", 90, 0.2)
            assert not sandboxes(node, "late-n1"), "a pod that nobody knows has a network"
            assert client.get(server.ip6).startswith("server")
    finally:
        cluster.start_api()
    back = time.monotonic()
    late = wait_for(lambda: enrolled(mesh, "away/late-n1"), "the pod that waited to be in the mesh", 90, 0.2)
    report(f"API server back: the pod that had waited was in the mesh after {time.monotonic() - back:.1f} s")
    assert late["capturedSinceStart"]
    after = cluster.pod("away", "after", "n1")
    mesh.wait_in_mesh(after)
