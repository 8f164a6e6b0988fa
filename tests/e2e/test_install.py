# SPDX-License-Identifier: Apache-2.0
"""The agent keeps bruma-cni installed: its binary, and its entry in the network that the runtime really loads, whatever others
do there; and takes it all out again, byte for byte."""
import json
import os
import stat
import subprocess

import pytest
from agent_node import Node
from support import agent as agent_client
from support.cni import Runtime
from support.system import wait_for

LIST = """{
  "cniVersion": "1.0.0",
  "name": "pods",
  "plugins": [
    {
      "type": "bridge",
      "odd": 1.50e3,
      "ipam": {"type": "host-local"}
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
"""


class Directory:
    def __init__(self, work):
        self.conf, self.bin = work.path("net.d"), work.path("bin")
        os.makedirs(self.conf)
        os.makedirs(self.bin)

    def path(self, name):
        return f"{self.conf}/{name}"

    def write(self, name, text, mode=0o644):
        with open(self.path(name) + ".tmp", "w") as f:
            f.write(text)
        os.chmod(self.path(name) + ".tmp", mode)
        os.rename(self.path(name) + ".tmp", self.path(name))

    def read(self, name):
        with open(self.path(name)) as f:
            return f.read()

    def types(self, name):
        try:
            return [p["type"] for p in json.loads(self.read(name))["plugins"]]
        except (OSError, ValueError, KeyError):
            return None

    def wait(self, name, types, timeout=20):
        wait_for(lambda: self.types(name) == types, f"{name} to have {types}", timeout)

    def options(self, build):
        return ["--cni-conf-dir", self.conf, "--cni-bin-dir", self.bin, "--cni-plugin", f"{build}/cni/bruma-cni"]


@pytest.fixture
def directory(work):
    return Directory(work)


@pytest.fixture
def node(work, directory):
    n = Node(work)
    n.options = directory.options(work.build)
    return n


def problems(node):
    return {p["reason"]: p for p in node.status()["problems"]}


def uninstall(node):
    node.agent.stop()
    r = subprocess.run(["nsenter", f"--net=/run/netns/{node.netns}", *node.argv(*node.options), "--uninstall"],
                       capture_output=True, text=True, timeout=60)
    assert r.returncode == 0, r.stdout + r.stderr


def test_entry_and_program_come_and_go_without_a_trace(node, directory):
    directory.write("10-pods.conflist", LIST, 0o640)
    node.start(*node.options)
    directory.wait("10-pods.conflist", ["bridge", "portmap", "bruma-cni"])
    assert json.loads(directory.read("10-pods.conflist"))["plugins"][2] == {"type": "bruma-cni", "run_dir": node.run_dir}
    assert stat.S_IMODE(os.stat(directory.path("10-pods.conflist")).st_mode) == 0o640
    program = f"{directory.bin}/bruma-cni"
    assert stat.S_IMODE(os.stat(program).st_mode) == 0o755
    assert subprocess.run([program], env={"CNI_COMMAND": "VERSION"}, capture_output=True).returncode == 0
    assert node.status()["cniFile"] == directory.path("10-pods.conflist") and "cni_conf_missing" not in problems(node)
    uninstall(node)
    assert directory.read("10-pods.conflist") == LIST
    assert os.listdir(directory.conf) == ["10-pods.conflist"] and os.listdir(directory.bin) == []


def test_a_stopped_agent_leaves_it_installed(node, directory):
    directory.write("10-pods.conflist", LIST)
    node.start(*node.options)
    directory.wait("10-pods.conflist", ["bridge", "portmap", "bruma-cni"])
    before = os.stat(directory.path("10-pods.conflist"))
    node.agent.stop()
    node.start(*node.options)
    wait_for(lambda: node.status().get("cniFile"), "the agent's look at the directory")
    assert os.stat(directory.path("10-pods.conflist")).st_ino == before.st_ino, "written though nothing had changed"


def test_the_first_file_is_followed(node, directory):
    """One that sorts earlier comes, and goes again; the entry is where the runtime looks, and nowhere else."""
    directory.write("50-pods.conflist", LIST)
    node.start(*node.options)
    directory.wait("50-pods.conflist", ["bridge", "portmap", "bruma-cni"])
    directory.write("05-new.conflist", LIST.replace("pods", "new"))
    directory.wait("05-new.conflist", ["bridge", "portmap", "bruma-cni"])
    directory.wait("50-pods.conflist", ["bridge", "portmap"])
    assert directory.read("50-pods.conflist") == LIST
    os.unlink(directory.path("05-new.conflist"))
    directory.wait("50-pods.conflist", ["bridge", "portmap", "bruma-cni"])


def test_another_vendors_rewrite_is_answered(node, directory):
    directory.write("10-pods.conflist", LIST)
    node.start(*node.options)
    directory.wait("10-pods.conflist", ["bridge", "portmap", "bruma-cni"])
    newer = LIST.replace("1.50e3", "2")
    directory.write("10-pods.conflist", newer)
    directory.wait("10-pods.conflist", ["bridge", "portmap", "bruma-cni"])
    with open(directory.path("10-pods.conflist"), "w") as f:  # in place, in two pieces
        f.write(newer[:40])
        f.flush()
        f.write(newer[40:])
    directory.wait("10-pods.conflist", ["bridge", "portmap", "bruma-cni"])
    uninstall(node)
    assert directory.read("10-pods.conflist") == newer


def test_who_fights_is_named(node, directory):
    """Somebody takes the entry out each time: after a few rounds it is told, and no busy loop."""
    directory.write("10-pods.conflist", LIST)
    node.start(*node.options)
    for _ in range(12):
        directory.write("10-pods.conflist", LIST)
        if "cni_conf_contested" in problems(node):
            break
        wait_for(lambda: directory.types("10-pods.conflist") == ["bridge", "portmap", "bruma-cni"] or
                 "cni_conf_contested" in problems(node), "an answer")
    wait_for(lambda: "cni_conf_contested" in problems(node), "the quarrel to be named")


def test_nothing_there_yet_and_half_written_files(node, directory):
    node.start(*node.options)
    wait_for(lambda: "cni_conf_missing" in problems(node), "the missing network to be named")
    directory.write("10-pods.conflist", LIST[:60])
    wait_for(lambda: "10-pods.conflist" in open(node.work.path("agent.log")).read(), "a word about the half file")
    assert directory.read("10-pods.conflist") == LIST[:60], "left alone"
    directory.write("10-pods.conflist", LIST)
    directory.wait("10-pods.conflist", ["bridge", "portmap", "bruma-cni"])
    wait_for(lambda: "cni_conf_missing" not in problems(node), "all to be well")


def test_the_directory_comes_later_and_is_replaced(node, directory, work):
    os.rmdir(directory.conf)
    node.start(*node.options)
    wait_for(lambda: "cni_conf_missing" in problems(node), "the missing directory to be named")
    os.makedirs(directory.conf)
    directory.write("10-pods.conflist", LIST)
    directory.wait("10-pods.conflist", ["bridge", "portmap", "bruma-cni"], 30)
    os.rename(directory.conf, work.path("old.d"))
    os.makedirs(directory.conf)
    directory.write("10-pods.conflist", LIST)
    directory.wait("10-pods.conflist", ["bridge", "portmap", "bruma-cni"], 30)


def test_a_file_of_one_plugin_becomes_a_list_and_comes_back(node, directory):
    single = '{"cniVersion":"0.4.0","name":"pods","type":"bridge","ipam":{"type":"host-local"}}\n'
    directory.write("10-pods.conf", single)
    node.start(*node.options)
    directory.wait("10-pods.conflist", ["bridge", "bruma-cni"])
    assert not os.path.exists(directory.path("10-pods.conf")), "it would sort before the list"
    uninstall(node)
    assert os.listdir(directory.conf) == ["10-pods.conf"] and directory.read("10-pods.conf") == single


def test_symbolic_links_stay_links(node, directory, work):
    with open(work.path("real.conflist"), "w") as f:
        f.write(LIST)
    os.symlink(work.path("real.conflist"), directory.path("10-pods.conflist"))
    node.start(*node.options)
    directory.wait("10-pods.conflist", ["bridge", "portmap", "bruma-cni"])
    assert os.path.islink(directory.path("10-pods.conflist"))
    uninstall(node)
    assert os.path.islink(directory.path("10-pods.conflist")) and directory.read("10-pods.conflist") == LIST


def test_a_program_that_cannot_be_written_is_told(node, directory, work):
    directory.write("10-pods.conflist", LIST)
    os.rmdir(directory.bin)
    node.start(*node.options)
    wait_for(lambda: "cni_install_failed" in problems(node), "the failure to be named")
    assert directory.types("10-pods.conflist") == ["bridge", "portmap"], "no entry without a program"
    os.makedirs(directory.bin)
    directory.wait("10-pods.conflist", ["bridge", "portmap", "bruma-cni"], 30)


def test_a_pod_is_enrolled_by_what_was_installed(node, directory, work):
    """The runtime's own way: the file as it is, the plugins from the directory."""
    directory.write("10-pods.conflist", json.dumps({"cniVersion": "1.0.0", "name": "pods", "plugins": [
        {"type": "bridge", "bridge": "cni0", "ipam": {"type": "host-local", "dataDir": work.path("leases"),
                                                      "ranges": [[{"subnet": "10.81.0.0/24"}], [{"subnet": "fd81::/64"}]]}}]}))
    node.start(*node.options)
    node.proxy().serve()
    directory.wait("10-pods.conflist", ["bridge", "bruma-cni"])
    runtime = Runtime(json.loads(directory.read("10-pods.conflist")), work.path("cache"), f"{directory.bin}:/usr/lib/cni",
                      node.netns)
    netns = work.netns("chained")
    runtime.add("chained", f"/run/netns/{netns}", "shop", "chained", "uid-chained")
    assert agent_client.pods(node.run_dir)["shop/chained"]["state"] == "enrolled"
    runtime.delete("chained")
    assert agent_client.pods(node.run_dir) == {}
