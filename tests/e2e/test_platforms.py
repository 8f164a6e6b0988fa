# SPDX-License-Identifier: Apache-2.0
"""Nodes of the platforms that the chart knows (charts/bruma/files/platforms.yaml): their directories, the file systems that
cannot be written there, and over them the mounts of the chart's DaemonSet, with a real agent in them."""

import json
import os
import posixpath

import pytest
import yaml

from support import cni
from support.container_runtime import ContainerRuntime
from support.kube.world import AMBIENT
from support.programs import ROOT
from support.system import wait_for

CHART = os.path.join(ROOT, "charts", "bruma")
DEFAULTS = ("cniConfDir", "cniBinDir", "cniNetnsDir", "criSocket")
# As the nodes' images are made; what is written there is on none of these.
READ_ONLY = {
    "gke": ["/opt", "/usr", "/bin"],
    "talos": ["/usr", "/bin", "/home"],
    "openshift": ["/usr", "/bin"],
}
# Where the chart's container has them. There is no /host on the machine of the tests, and none is made.
MOUNTED = {"cniConfDir": "/mnt/etc/cni/net.d", "cniBinDir": "/mnt/opt/cni/bin", "cri": "/mnt/cri"}

# Makes the container's file system of pairs of directories, and then runs the agent. New namespaces of pods come in, as with
# mountPropagation: HostToContainer.
CONTAINER = """
set -e
namespaces=$1 readonly=$2
shift 2
mount --rbind /run/netns "$namespaces"
mount -t tmpfs -o mode=755 container /mnt
mount -t tmpfs -o mode=755 container /run
while [ "$1" != -- ]; do
    mkdir -p "$2"
    mount --rbind "$1" "$2"
    case " $readonly " in *" $1 "*) mount -o remount,bind,ro "$2" ;; esac
    shift 2
done
shift
exec "$@"
"""


def platforms():
    with open(f"{CHART}/files/platforms.yaml") as f:
        return yaml.safe_load(f)


class Node:
    """paths: host path by value name, as on a node of the platform; given: those that the chart was told."""

    def __init__(self, world, paths, read_only=(), given=None):
        self.world, self.paths, self.given = world, paths, given or paths
        self.root = world.work.path("host")
        self.read_only = [p for p in self.directories(self.given) if p.startswith(tuple(read_only))]
        for directory in {*self.directories(paths), *self.directories(self.given)}:
            os.makedirs(self.root + directory, exist_ok=True)
        self.conflist = f"{self.conf}/10-net.conflist"
        with open(self.conflist, "w") as f:
            json.dump({**world.node.conflist(), "plugins": world.node.conflist()["plugins"][:1]}, f)

    @property
    def conf(self):
        return self.root + self.paths["cniConfDir"]

    def directories(self, paths):
        return [*(paths[n] for n in DEFAULTS[:3]), posixpath.dirname(paths["criSocket"])]

    def start(self):
        conf, binaries, netns, cri = self.directories(self.given)
        mounts = [(conf, MOUNTED["cniConfDir"]), (binaries, MOUNTED["cniBinDir"]), (cri, MOUNTED["cri"])]
        mounts += [(netns, netns)] + (
            [(netns, netns[len("/var") :])] if netns.startswith("/var/run/") else []
        )
        words = [w for source, target in mounts for w in (self.root + source, target)]
        read_only = " ".join(self.root + p for p in self.read_only)
        self.world.settings["cri_socket"] = f"{MOUNTED['cri']}/{posixpath.basename(self.given['criSocket'])}"
        unshare = ["unshare", "--mount", "--propagation", "slave", "sh", "-c", CONTAINER, "container"]
        self.world.start(
            wrap=[*unshare, self.root + self.paths["cniNetnsDir"], read_only, *words, "--"],
            cni_conf_dir=MOUNTED["cniConfDir"],
            cni_bin_dir=MOUNTED["cniBinDir"],
            cni_plugin=f"{self.world.work.build}/cni/bruma-cni",
        )

    def types(self):
        with open(self.conflist) as f:
            return [p["type"] for p in json.load(f)["plugins"]]

    def new_pod(self, name):
        """As the platform's runtime does: the file that is there, the programs from the directory."""
        pod = self.world.sandbox("shop", name, 20, plain=False)
        with open(self.conflist) as f:
            runtime = cni.Runtime(
                json.load(f),
                self.world.work.path("runtime"),
                f"{self.root}{self.paths['cniBinDir']}:/usr/lib/cni",
                self.world.node.netns,
            )
        ips = [f"{pod.ip}/24", f"{pod.ip6}/64"]
        runtime.add(pod.container, f"/run/netns/{pod.netns}", "shop", name, pod.uid, ips)
        self.world.work.defer(runtime.delete, pod.container)
        return pod


def paths_of(platform):
    with open(f"{CHART}/values.yaml") as f:
        values = yaml.safe_load(f)["cni"]
    return {name: platforms()[platform].get(name, values[name]) for name in DEFAULTS}


@pytest.mark.parametrize("platform", sorted(platforms()))
def test_a_node_of_the_platform(small, platform):
    """A pod that runs is found by the runtime's socket and the namespace's name there; the next one is enrolled by the
    plugin that the platform's runtime finds."""
    node = Node(small, paths_of(platform), READ_ONLY.get(platform, ()))
    assert not node.read_only, "the chart would write where nothing can be written"
    small.server.make_namespace("shop", AMBIENT)
    running = small.sandbox("shop", "running", 10)
    ContainerRuntime(
        small.work, [running], path=node.root + node.paths["criSocket"], netns=node.paths["cniNetnsDir"]
    )
    node.start()
    small.wait_state("shop/running", "enrolled")
    wait_for(lambda: node.types() == ["bridge", "bruma-cni"], "the plugin's entry", log=small.node.agent_log)
    node.new_pod("next")
    small.wait_state("shop/next", "enrolled")


def test_a_node_of_gke_without_its_platform_is_told_of(small):
    """/opt is read-only there. Nothing is in the chain without a program, so pods are as before."""
    node = Node(small, paths_of("gke"), READ_ONLY["gke"], given=paths_of("kind"))
    assert node.read_only == ["/opt/cni/bin"]
    small.server.make_namespace("shop", AMBIENT)
    node.start()
    wait_for(
        lambda: [p for p in small.status()["problems"] if p["reason"] == "cni_install_failed"],
        "the failure to be named",
        log=small.node.agent_log,
    )
    assert node.types() == ["bridge"]
