# SPDX-License-Identifier: Apache-2.0
"""Pods that start while no agent is there: those that the last one knew to be outside the mesh do, all others
wait."""

import json
import os
import time
import uuid

import pytest

from support import agent as agent_client
from support.kube.world import AMBIENT
from support.nodes.cni_node import CniNode
from support.system import Failed, run, wait_for

# A namespace that is named "never" cannot have pods in the mesh, whatever their labels are.
SELECTOR = (
    "[{podSelector: {matchLabels: {istio.io/dataplane-mode: ambient}}, namespaceSelector: {matchExpressions: "
    "[{key: never, operator: DoesNotExist}]}}, {namespaceSelector: {matchLabels: {istio.io/dataplane-mode: ambient}}}]"
)


def kept(world):
    with open(f"{world.node.run_dir}/decisions.json") as f:
        return json.load(f)


def settle(world, **settings):
    """The agent writes down what it knows, and is killed."""
    for name, labels in (("shop", AMBIENT), ("plain", {}), ("never", {"never": "yes"})):
        world.server.make_namespace(name, labels)
    world.seen = world.sandbox("plain", "seen", 30, plain=False)
    world.labelled = world.sandbox("plain", "labelled", 31, plain=False, labels=AMBIENT)
    world.start(enablement_selector=SELECTOR, **settings).ready()
    wait_for(
        lambda: (
            os.path.exists(f"{world.node.run_dir}/decisions.json")
            and {world.seen.uid, world.labelled.uid} <= set(kept(world)["pods"])
            and "never" in kept(world)["namespaces"]
        ),
        "the decisions",
        log=world.node.agent_log,
    )
    world.node.agent.kill()


def start(world, namespace, name, host):
    """A pod of which no agent has heard. True if it starts."""
    pod = world.node.create_pod(namespace, name, host=host, add=False)
    world.work.defer(world.node.delete_pod, pod)
    pod.uid = str(uuid.uuid4())
    return starts(world, pod)


def starts(world, pod):
    try:
        world.node.add(pod)
    except Failed as e:
        if "agent_unreachable" in str(e):
            return False
        raise
    return True


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("wait", []), ("known", ["never", "seen"]), ("namespaces", ["never", "plain", "seen"])],
)
def test_what_is_known_to_be_outside_starts_and_the_rest_waits(small, mode, expected):
    settle(small, without_agent=mode)
    began = [
        n
        for i, n in enumerate(["never", "plain", "shop", "unheard-of"])
        if start(small, n, f"new-{i}", 10 + i)
    ]
    began += [p.name for p in (small.labelled, small.seen) if starts(small, p)]
    assert began == expected
    mine = kept(small)
    assert (
        mine["withoutAgent"] == mode and mine["revision"] > 0 and abs(mine["writtenAt"] - time.time()) < 600
    )


def test_decisions_follow_labels_and_are_of_the_last_agent(small):
    settle(small, without_agent="namespaces")
    small.node.start_agent(
        **{**small.settings, "enablement_selector": SELECTOR, "without_agent": "namespaces"}
    )
    small.ready()
    before = kept(small)["revision"]
    small.server.label_namespace("plain", mode="ambient")
    wait_for(lambda: "plain" not in kept(small)["namespaces"], "the change", log=small.node.agent_log)
    assert kept(small)["revision"] > before and kept(small)["pods"][small.seen.uid] == "inside"
    small.node.agent.kill()
    assert not start(small, "plain", "new", 10) and not starts(small, small.seen)


@pytest.mark.parametrize(
    "how", ["old", "of the future", "garbage", "of somebody else", "writable", "a link", "gone"]
)
def test_a_word_that_cannot_be_trusted_is_none(small, how):
    settle(small, without_agent="namespaces")
    path = f"{small.node.run_dir}/decisions.json"
    word = kept(small)
    if how in ("old", "of the future"):
        word["writtenAt"] += 7200 if how == "of the future" else -90000
        with open(path, "w") as f:
            json.dump(word, f)
    elif how == "garbage":
        with open(path, "w") as f:
            f.write(json.dumps(word)[:-5])
    elif how == "of somebody else":
        os.chown(path, 65534, 65534)
    elif how == "writable":
        os.chmod(path, 0o666)
    elif how == "a link":
        os.rename(path, path + ".real")
        os.symlink(path + ".real", path)
    else:
        os.remove(path)
    assert not start(small, "never", "new", 10)


def test_what_started_so_and_belongs_to_the_mesh_is_found(small):
    """The setting that trusts namespaces lets a pod with a label of its own run; the next agent captures
    it."""
    settle(small, without_agent="namespaces")
    pod = small.node.create_pod("plain", "odd", host=12, add=False)
    small.work.defer(small.node.delete_pod, pod)
    pod.uid = pod.runtime_uid = small.server.make_pod("plain", "odd", "n1", pod.ips, labels=AMBIENT)
    assert starts(small, pod)
    small.write_cache(pod)
    small.node.start_agent(
        **{**small.settings, "enablement_selector": SELECTOR, "without_agent": "namespaces"}
    )
    small.wait_state("plain/odd", "enrolled")
    assert not agent_client.pods(small.node.run_dir)["plain/odd"]["capturedSinceStart"]


# ---- a single machine: the mesh file ----


class File:
    """A node whose source is a mesh file. In "shop" all pods are in the mesh, in "plain" none, in "mixed" one
    by its own label."""

    def __init__(self, work):
        self.work, self.path = work, work.path("mesh.yaml")
        run(
            [
                "openssl",
                "genpkey",
                "-algorithm",
                "EC",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-out",
                work.path("ca.pem"),
            ]
        )
        self.node = CniNode.alone(work, self.path, work.path("ca.pem"))
        self.write()

    def write(self, plain=False):
        mode = "labels: {istio.io/dataplane-mode: ambient}"
        with open(self.path + ".new", "w") as f:
            f.write(f"""namespaces:
- name: shop
  {mode}
- name: mixed
- name: plain
{"  " + mode if plain else ""}
workloads:
- name: labelled
  namespace: mixed
  {mode}
""")
        os.rename(self.path + ".new", self.path)

    def settle(self, **settings):
        self.node.start_agent(**settings)
        wait_for(
            lambda: agent_client.status(self.node.run_dir)["meshReady"],
            "the mesh file",
            log=self.node.agent_log,
        )
        self.node.start_proxy()
        self.seen = {
            n: self.node.create_pod(n, f"seen-{n}", host=30 + i)
            for i, n in enumerate(("plain", "shop", "mixed"))
        }
        wait_for(
            lambda: {p.uid for p in self.seen.values()} <= set(kept(self)["pods"]),
            "the decisions",
            log=self.node.agent_log,
        )
        self.node.agent.kill()

    def again(self, pod):
        """The runtime takes the pod down and up; nobody answers for the first."""
        self.node.runtime.delete(pod.container)
        return starts(self, pod)


@pytest.fixture
def single(work):
    return File(work)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("wait", []),
        ("known", ["seen-plain", "seen-mixed"]),
        ("namespaces", ["plain", "seen-plain", "seen-mixed"]),
    ],
)
def test_the_same_with_a_mesh_file(single, mode, expected):
    single.settle(without_agent=mode)
    word = kept(single)
    assert (
        word["withoutAgent"] == mode and word["revision"] > 0 and abs(word["writtenAt"] - time.time()) < 600
    )
    began = [
        n
        for i, n in enumerate(["plain", "shop", "mixed", "unheard-of"])
        if start(single, n, f"new-{n}", 10 + i)
    ]
    began += [p.name for n in ("plain", "shop", "mixed") if single.again(p := single.seen[n])]
    assert began == expected


def test_decisions_follow_the_mesh_file(single):
    single.settle(without_agent="namespaces")
    single.node.start_agent(without_agent="namespaces")
    plain = single.seen["plain"].uid
    before = kept(single)
    assert (
        before["pods"][plain] == "outside"
        and "plain" in before["namespaces"]
        and not {"shop", "mixed"} & set(before["namespaces"])
    )
    single.write(plain=True)
    wait_for(lambda: kept(single)["pods"][plain] == "inside", "the change", log=single.node.agent_log)
    assert "plain" not in kept(single)["namespaces"] and kept(single)["revision"] > before["revision"]
    single.node.delete_pod(single.seen["plain"])
    wait_for(lambda: plain not in kept(single)["pods"], "the pod to be forgotten")
    single.node.agent.kill()
    assert not start(single, "plain", "new", 10)
