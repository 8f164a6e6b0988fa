# SPDX-License-Identifier: Apache-2.0
"""The agent beside Multus and Cilium: files as those write them, and when they write them (docs/install.md#multus,
#cilium). The plugins themselves are not here; where a chain runs, a small meta-plugin gives the pod two interfaces as
Multus does."""

import json
import os

import pytest

from support import agent as agent_client
from support.cni import Runtime
from support.cni_directory import Directory, problems, uninstall
from support.nodes.agent_node import AgentNode
from support.programs import ROOT
from support.system import run, wait_for

# As the daemon of Multus ("thick") keeps it: made anew, in place, whenever the main plugin's file changes.
MULTUS = """{
  "cniVersion": "0.3.1",
  "name": "multus-cni-network",
  "type": "multus-shim",
  "capabilities": {"portMappings": true},
  "clusterNetwork": "/host/etc/cni/net.d/%s",
  "logLevel": "verbose",
  "socketDir": "/host/run/multus/"
}"""

# A meta-plugin: eth0 by the cluster's network, then net1 by another one; its answer is the cluster network's.
META = """#!/usr/bin/python3
import json, os, subprocess, sys
config, networks = json.load(sys.stdin), json.load(open(os.path.dirname(os.path.abspath(__file__)) + "/networks.json"))
command, answers = os.environ["CNI_COMMAND"], []
if command == "VERSION":
    print(json.dumps({"cniVersion": "1.0.0", "supportedVersions": ["0.3.1", "0.4.0", "1.0.0"]}))
    sys.exit(0)
for name, network in networks if command != "DEL" else reversed(networks):
    network = {**network, "cniVersion": config["cniVersion"]}
    r = subprocess.run(["/usr/lib/cni/" + network["type"]], input=json.dumps(network), text=True, stdout=subprocess.PIPE,
                       env={**os.environ, "CNI_IFNAME": name})
    if r.returncode:
        sys.exit(r.stdout)
    answers.append(r.stdout)
print(answers[0] if command == "ADD" else "")
"""


@pytest.fixture
def directory(work):
    return Directory(work)


@pytest.fixture
def node(work, directory):
    n = AgentNode(work)
    n.options = directory.options(work.build)
    return n


def conflist(name):
    with open(f"{ROOT}/tests/data/conflist/{name}.conflist") as f:
        return f.read()


def rewrite(path, text):
    """In place, as Multus does it."""
    with open(path, "w") as f:
        f.write(text)


# ---- Multus ----


def test_multus_keeps_its_file_and_the_main_plugins(node, directory):
    """A list that sorts before Multus's file, under a prefix that Multus does not take for a main plugin's. The main plugin's
    list has no entry: Multus runs it, and the entry would be called twice."""
    directory.write("10-flannel.conflist", conflist("flannel"))
    directory.write("00-multus.conf", MULTUS % "10-flannel.conflist", 0o600)
    node.start(*node.options)
    directory.wait("00-multus.bruma.conflist", ["multus-shim", "bruma-cni"])
    assert sorted(os.listdir(directory.conf))[0] == "00-multus.bruma.conflist"
    made = json.loads(directory.read("00-multus.bruma.conflist"))
    assert (made["name"], made["cniVersion"]) == ("multus-cni-network", "0.3.1")
    assert made["plugins"][0]["clusterNetwork"] == "/host/etc/cni/net.d/10-flannel.conflist"
    assert made["plugins"][0]["capabilities"] == {"portMappings": True}
    assert directory.read("00-multus.conf") == MULTUS % "10-flannel.conflist"
    assert directory.read("10-flannel.conflist") == conflist("flannel")
    uninstall(node)
    assert sorted(os.listdir(directory.conf)) == ["00-multus.conf", "10-flannel.conflist"]


def test_multus_makes_its_file_anew(node, directory):
    """Another main plugin: Multus follows it, and the list follows Multus."""
    directory.write("10-flannel.conflist", conflist("flannel"))
    directory.write("00-multus.conf", MULTUS % "10-flannel.conflist", 0o600)
    node.start(*node.options)
    directory.wait("00-multus.bruma.conflist", ["multus-shim", "bruma-cni"])
    directory.write("05-cilium.conflist", conflist("cilium"))
    rewrite(directory.path("00-multus.conf"), MULTUS % "05-cilium.conflist")
    wait_for(lambda: "05-cilium" in directory.read("00-multus.bruma.conflist"), "the list to follow", 20)
    assert directory.types("00-multus.bruma.conflist") == ["multus-shim", "bruma-cni"]
    assert directory.types("05-cilium.conflist") == ["cilium-cni"]


def test_multus_comes_and_goes(node, directory):
    """Installed after Bruma, the entry leaves the main plugin's list, and returns with Multus's end."""
    directory.write("10-flannel.conflist", conflist("flannel"))
    node.start(*node.options)
    directory.wait("10-flannel.conflist", ["flannel", "portmap", "bruma-cni"])
    directory.write("00-multus.conf", MULTUS % "10-flannel.conflist", 0o600)
    directory.wait("00-multus.bruma.conflist", ["multus-shim", "bruma-cni"])
    wait_for(lambda: directory.read("10-flannel.conflist") == conflist("flannel"), "the entry to leave", 20)
    os.unlink(directory.path("00-multus.conf"))
    directory.wait("10-flannel.conflist", ["flannel", "portmap", "bruma-cni"])
    wait_for(lambda: os.listdir(directory.conf) == ["10-flannel.conflist"], "the list to go", 20)


def test_a_pod_with_a_second_network(node, directory, work):
    """Called once, after the meta-plugin, with the cluster network's addresses; the pod is enrolled, and left as a whole."""
    networks = [
        (
            "eth0",
            {
                "name": "main",
                "type": "bridge",
                "bridge": "cni0",
                "ipam": {
                    "type": "host-local",
                    "dataDir": work.path("leases"),
                    "ranges": [[{"subnet": "10.81.0.0/24"}]],
                },
            },
        ),
        (
            "net1",
            {
                "name": "second",
                "type": "bridge",
                "bridge": "cni1",
                "ipam": {
                    "type": "host-local",
                    "dataDir": work.path("leases"),
                    "ranges": [[{"subnet": "10.82.0.0/24"}]],
                },
            },
        ),
    ]
    with open(f"{directory.bin}/networks.json", "w") as f:
        json.dump(networks, f)
    with open(f"{directory.bin}/multus-shim", "w") as f:
        f.write(META)
    os.chmod(f"{directory.bin}/multus-shim", 0o755)
    directory.write("00-multus.conf", MULTUS % "10-main.conflist")
    node.start(*node.options)
    node.proxy().serve()
    directory.wait("00-multus.bruma.conflist", ["multus-shim", "bruma-cni"])
    runtime = Runtime(
        json.loads(directory.read("00-multus.bruma.conflist")),
        work.path("cache"),
        f"{directory.bin}:/usr/lib/cni",
        node.netns,
    )
    netns = work.netns("two")
    result = runtime.add("two", f"/run/netns/{netns}", "shop", "two", "uid-two")
    assert [ip["address"] for ip in result["ips"]] == ["10.81.0.2/24"]
    assert "10.82.0.2/24" in run(["ip", "-n", netns, "addr", "show", "net1"]).stdout
    pod = agent_client.pods(node.run_dir)["shop/two"]
    assert pod["state"] == "enrolled" and pod["ips"] == ["10.81.0.2"]
    runtime.delete("two")
    assert agent_client.pods(node.run_dir) == {}


# ---- Cilium ----


def test_cilium_that_is_not_exclusive(node, directory):
    """It writes its list when it starts, and does not look at it afterwards; a new start of it is followed."""
    directory.write("05-cilium.conflist", conflist("cilium"))
    node.start(*node.options)
    for _ in range(3):
        directory.wait("05-cilium.conflist", ["cilium-cni", "bruma-cni"])
        directory.write("05-cilium.conflist", conflist("cilium"))
    directory.wait("05-cilium.conflist", ["cilium-cni", "bruma-cni"])
    assert "cni_conf_contested" not in problems(node)
    uninstall(node)
    assert directory.read("05-cilium.conflist") == conflist("cilium")


def test_cilium_that_is_exclusive_is_named(node, directory):
    """It writes its list anew with whatever happens in the directory: told, with the file's name, and in no busy loop."""
    directory.write("05-cilium.conflist", conflist("cilium"))
    node.start(*node.options)

    def contested():
        if directory.types("05-cilium.conflist") == ["cilium-cni", "bruma-cni"]:
            directory.write("05-cilium.conflist", conflist("cilium"))
        return problems(node).get("cni_conf_contested")

    problem = wait_for(contested, "the quarrel to be named", 60)
    assert "05-cilium.conflist" in json.dumps(problem)


def test_cilium_chained_to_another_plugin(node, directory):
    """Its list is made of the other plugin's, with the entry that is in there, and comes first: the entry is moved to the end,
    and is in that list alone."""
    directory.write("10-aws.conflist", conflist("aws"))
    node.start(*node.options)
    directory.wait("10-aws.conflist", ["aws-cni", "egress-cni", "portmap", "bruma-cni"])
    merged = json.loads(directory.read("10-aws.conflist"))
    merged["plugins"].append({"type": "cilium-cni", "chaining-mode": "aws-cni"})
    directory.write("05-cilium.conflist", json.dumps(merged))
    directory.wait("05-cilium.conflist", ["aws-cni", "egress-cni", "portmap", "cilium-cni", "bruma-cni"])
    wait_for(lambda: directory.read("10-aws.conflist") == conflist("aws"), "the entry to leave", 20)


def test_multus_over_cilium(node, directory):
    """The usual order: 00-multus.conf, whose main plugin is Cilium's list."""
    directory.write("05-cilium.conflist", conflist("cilium"))
    directory.write("00-multus.conf", MULTUS % "05-cilium.conflist", 0o600)
    node.start(*node.options)
    directory.wait("00-multus.bruma.conflist", ["multus-shim", "bruma-cni"])
    assert directory.read("05-cilium.conflist") == conflist("cilium")
