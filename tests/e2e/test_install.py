# SPDX-License-Identifier: Apache-2.0
"""The agent keeps bruma-cni installed: its binary, and its entry in the network that the runtime really
loads, whatever others do there; and takes it all out again, byte for byte."""

import errno
import json
import os
import stat
import subprocess
import time

import pytest

from support import agent as agent_client
from support.cni import Runtime
from support.cni_directory import Directory, problems, uninstall
from support.faults import Faults
from support.nodes.agent_node import AgentNode
from support.system import run, wait_for

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


@pytest.fixture
def directory(work):
    return Directory(work)


@pytest.fixture
def node(work, directory):
    n = AgentNode(work)
    n.options = directory.options(work.build)
    return n


def test_entry_and_program_come_and_go_without_a_trace(node, directory):
    directory.write("10-pods.conflist", LIST, 0o640)
    node.start(*node.options)
    directory.wait("10-pods.conflist", ["bridge", "portmap", "bruma-cni"])
    assert json.loads(directory.read("10-pods.conflist"))["plugins"][2] == {
        "type": "bruma-cni",
        "run_dir": node.run_dir,
    }
    assert stat.S_IMODE(os.stat(directory.path("10-pods.conflist")).st_mode) == 0o640
    program = f"{directory.bin}/bruma-cni"
    assert stat.S_IMODE(os.stat(program).st_mode) == 0o755
    assert subprocess.run([program], env={"CNI_COMMAND": "VERSION"}, capture_output=True).returncode == 0
    assert node.status()["cniFile"] == directory.path(
        "10-pods.conflist"
    ) and "cni_conf_missing" not in problems(node)
    uninstall(node)
    assert directory.read("10-pods.conflist") == LIST
    assert os.listdir(directory.conf) == ["10-pods.conflist"] and os.listdir(directory.bin) == []


def test_without_inotify_changes_are_found_by_looking(node, directory):
    """As where somebody else has all the instances that root may have: of lists, and of the mesh file."""
    faults = Faults(node.work.build, node.work.path("faults"))
    faults.fail("inotify", errno.EMFILE)
    directory.write("10-pods.conflist", LIST)
    node.agent = node.work.process(
        node.argv(*node.options), node.work.path("agent.log"), netns=node.netns, env=faults.env
    )
    for _ in range(2):
        directory.wait("10-pods.conflist", ["bridge", "portmap", "bruma-cni"])
        directory.write("10-pods.conflist", LIST)
    assert faults.failed() == 2 and node.agent.text().count("no inotify instance") == 2
    with open(node.mesh_file, "w") as f:
        f.write("namespaces: 1\n")
    wait_for(lambda: "the mesh file cannot be used" in node.agent.text(), "it to be read", log=node.agent.log)
    node.label(True)
    wait_for(lambda: node.agent.text().count("mesh file read") == 2, "the next one to be read")


def test_a_stopped_agent_leaves_it_installed(node, directory):
    directory.write("10-pods.conflist", LIST)
    node.start(*node.options)
    directory.wait("10-pods.conflist", ["bridge", "portmap", "bruma-cni"])
    before = os.stat(directory.path("10-pods.conflist"))
    node.agent.stop()
    node.start(*node.options)
    wait_for(lambda: node.status().get("cniFile"), "the agent's look at the directory")
    assert os.stat(directory.path("10-pods.conflist")).st_ino == before.st_ino, (
        "written though nothing had changed"
    )


def test_the_first_file_is_followed(node, directory):
    """One that sorts earlier comes, and goes again; the entry is where the runtime looks, and nowhere
    else."""
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
        wait_for(
            lambda: (
                directory.types("10-pods.conflist") == ["bridge", "portmap", "bruma-cni"]
                or "cni_conf_contested" in problems(node)
            ),
            "an answer",
        )
    wait_for(lambda: "cni_conf_contested" in problems(node), "the quarrel to be named")


def test_nothing_there_yet_and_half_written_files(node, directory):
    node.start(*node.options)
    wait_for(lambda: "cni_conf_missing" in problems(node), "the missing network to be named")
    directory.write("10-pods.conflist", LIST[:60])
    wait_for(
        lambda: "10-pods.conflist" in open(node.work.path("agent.log")).read(), "a word about the half file"
    )
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


SINGLE = '{"cniVersion":"0.4.0","name":"pods","type":"bridge","ipam":{"type":"host-local"}}\n'


def test_a_list_is_made_of_a_file_of_one_plugin(node, directory):
    """It sorts before that file, which stays as it is, follows its changes, and goes when it goes."""
    directory.write("10-pods.conf", SINGLE, 0o600)
    node.start(*node.options)
    directory.wait("10-pods.bruma.conflist", ["bridge", "bruma-cni"])
    made = json.loads(directory.read("10-pods.bruma.conflist"))
    assert (made["name"], made["cniVersion"], made["plugins"][0]) == ("pods", "0.4.0", json.loads(SINGLE))
    assert stat.S_IMODE(os.stat(directory.path("10-pods.bruma.conflist")).st_mode) == 0o600
    assert (
        sorted(os.listdir(directory.conf))[0] == "10-pods.bruma.conflist"
        and directory.read("10-pods.conf") == SINGLE
    )
    directory.write("10-pods.conf", SINGLE.replace("bridge", "ptp"))
    directory.wait("10-pods.bruma.conflist", ["ptp", "bruma-cni"])
    os.unlink(directory.path("10-pods.conf"))
    wait_for(lambda: os.listdir(directory.conf) == [], "the list to go with what it was made of")
    directory.write("10-pods.json", SINGLE)
    directory.wait("10-pods.bruma.conflist", ["bridge", "bruma-cni"])
    uninstall(node)
    assert os.listdir(directory.conf) == ["10-pods.json"] and directory.read("10-pods.json") == SINGLE


def test_a_list_beside_a_file_of_the_same_name_is_not_lost(node, directory):
    directory.write("10-pods.conf", SINGLE)
    directory.write("10-pods.conflist", LIST)
    node.start(*node.options)
    directory.wait("10-pods.bruma.conflist", ["bridge", "bruma-cni"])
    assert directory.read("10-pods.conflist") == LIST and directory.read("10-pods.conf") == SINGLE
    os.unlink(directory.path("10-pods.conf"))
    directory.wait("10-pods.conflist", ["bridge", "portmap", "bruma-cni"])
    wait_for(lambda: os.listdir(directory.conf) == ["10-pods.conflist"], "the made list to go")


def test_a_made_list_stays_while_its_file_is_being_written(node, directory):
    directory.write("10-pods.conf", SINGLE)
    node.start(*node.options)
    directory.wait("10-pods.bruma.conflist", ["bridge", "bruma-cni"])
    directory.write("10-pods.conf", SINGLE[:30])
    wait_for(lambda: "cni_conf_missing" in problems(node), "the half file to be seen")
    assert directory.types("10-pods.bruma.conflist") == ["bridge", "bruma-cni"], (
        "the runtime has nothing else"
    )
    directory.write("10-pods.conf", SINGLE)
    wait_for(lambda: "cni_conf_missing" not in problems(node), "all to be well")


def test_a_hidden_file_counts_as_the_runtime_counts_it(node, directory):
    directory.write("10-pods.conflist", LIST)
    directory.write(".hidden.conflist", LIST)
    node.start(*node.options)
    directory.wait(".hidden.conflist", ["bridge", "portmap", "bruma-cni"])
    assert directory.read("10-pods.conflist") == LIST


def test_nothing_is_written_under_a_writers_hands(node, directory):
    """Complete already, and still open: what its writer adds is not lost."""
    path = directory.path("10-pods.conflist")
    with open(path, "w") as f:
        f.write(LIST)
        f.flush()
        inode = os.fstat(f.fileno()).st_ino
        node.start(*node.options)
        wait_for(lambda: "cni_conf_contested" in problems(node), "the endless writer to be named", 30)
        assert os.stat(path).st_ino == inode and directory.read("10-pods.conflist") == LIST
        f.write("\n\n")
    directory.wait("10-pods.conflist", ["bridge", "portmap", "bruma-cni"])
    uninstall(node)
    assert directory.read("10-pods.conflist") == LIST + "\n\n"


def test_a_read_only_directory_is_told_and_tried_again(node, directory):
    directory.write("10-pods.conflist", LIST)
    run(["mount", "--bind", directory.conf, directory.conf])
    try:
        run(["mount", "-o", "remount,bind,ro", directory.conf])
        node.start(*node.options)
        wait_for(lambda: "cni_install_failed" in problems(node), "the failure to be named")
        assert "Read-only file system" in problems(node)["cni_install_failed"]["detail"]
        assert directory.read("10-pods.conflist") == LIST
        run(["mount", "-o", "remount,bind,rw", directory.conf])
        directory.wait("10-pods.conflist", ["bridge", "portmap", "bruma-cni"])
        wait_for(lambda: "cni_install_failed" not in problems(node), "all to be well")
    finally:
        run(["umount", directory.conf])


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("File too large", LIST.replace('"odd"', '"long": "' + "x" * (1 << 20) + '", "odd"')),
        ("not a JSON object", ""),
        ("not a JSON object", LIST + "}"),
        ("not a non-empty list", '{"name": "pods", "plugins": []}'),
        ("neither a type nor plugins", '{"name": "pods"}'),
    ],
    ids=["huge", "empty", "broken", "no plugins", "nothing of a network"],
)
def test_what_cannot_be_used_is_named_and_left_alone(node, directory, what, text):
    directory.write("10-pods.conflist", text)
    os.mkdir(directory.path("11-folder.conf"))
    node.start(*node.options)
    wait_for(lambda: "cni_conf_missing" in problems(node), "the missing network to be named")
    detail = problems(node)["cni_conf_missing"]["detail"]
    assert what in detail and "10-pods.conflist" in detail and "11-folder.conf" in detail
    assert directory.read("10-pods.conflist") == text
    directory.write("20-good.conflist", LIST)  # what a runtime that passes over bad files loads
    directory.wait("20-good.conflist", ["bridge", "portmap", "bruma-cni"])
    uninstall(node)
    assert directory.read("20-good.conflist") == LIST and directory.read("10-pods.conflist") == text


def test_left_overs_of_killed_writers_are_swept(node, directory):
    directory.write("10-pods.conflist", LIST)
    for name in (
        directory.path(".10-pods.conflist.bruma-a1B2c3"),
        f"{directory.bin}/.bruma-cni.bruma-a1B2c3",
    ):
        open(name, "w").close()
    directory.write(".of-somebody-else", "")
    node.start(*node.options)
    directory.wait("10-pods.conflist", ["bridge", "portmap", "bruma-cni"])
    assert sorted(os.listdir(directory.conf)) == [".of-somebody-else", "10-pods.conflist"]
    assert os.listdir(directory.bin) == ["bruma-cni"]


def test_a_plugin_that_was_taken_away_or_changed_comes_back(node, directory):
    directory.write("10-pods.conflist", LIST)
    node.start(*node.options)
    directory.wait("10-pods.conflist", ["bridge", "portmap", "bruma-cni"])
    program = f"{directory.bin}/bruma-cni"
    with open(program, "rb") as f:
        good = f.read()
    os.unlink(program)
    wait_for(lambda: os.path.exists(program), "the program to be back")
    with open(program, "wb") as f:
        f.write(b"something else")

    def same():
        with open(program, "rb") as f:
            return f.read() == good

    wait_for(same, "the right program to be back")


def test_with_cri_o_the_program_outlives_the_entry(node, directory):
    """It ends pods with the chain that they were begun with."""
    directory.write("10-pods.conflist", LIST)
    node.options += ["--cri-socket", "/run/crio/crio.sock"]
    node.start(*node.options)
    directory.wait("10-pods.conflist", ["bridge", "portmap", "bruma-cni"])
    uninstall(node)
    assert directory.read("10-pods.conflist") == LIST and os.listdir(directory.bin) == ["bruma-cni"]


def test_symbolic_links_stay_links(node, directory, work):
    with open(work.path("real.conflist"), "w") as f:
        f.write(LIST)
    os.symlink(work.path("real.conflist"), directory.path("10-pods.conflist"))
    node.start(*node.options)
    directory.wait("10-pods.conflist", ["bridge", "portmap", "bruma-cni"])
    assert os.path.islink(directory.path("10-pods.conflist"))
    with open(work.path("new"), "w") as f:
        f.write(LIST.replace("portmap", "tuning"))
    os.rename(work.path("new"), work.path("real.conflist"))  # in another directory than the link
    directory.wait("10-pods.conflist", ["bridge", "tuning", "bruma-cni"])
    with open(work.path("new"), "w") as f:
        f.write(LIST)
    os.rename(work.path("new"), work.path("real.conflist"))
    directory.wait("10-pods.conflist", ["bridge", "portmap", "bruma-cni"])
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
    directory.write(
        "10-pods.conflist",
        json.dumps(
            {
                "cniVersion": "1.0.0",
                "name": "pods",
                "plugins": [
                    {
                        "type": "bridge",
                        "bridge": "cni0",
                        "ipam": {
                            "type": "host-local",
                            "dataDir": work.path("leases"),
                            "ranges": [[{"subnet": "10.81.0.0/24"}], [{"subnet": "fd81::/64"}]],
                        },
                    }
                ],
            }
        ),
    )
    node.start(*node.options)
    node.proxy().serve()
    directory.wait("10-pods.conflist", ["bridge", "bruma-cni"])
    runtime = Runtime(
        json.loads(directory.read("10-pods.conflist")),
        work.path("cache"),
        f"{directory.bin}:/usr/lib/cni",
        node.netns,
    )
    netns = work.netns("chained")
    runtime.add("chained", f"/run/netns/{netns}", "shop", "chained", "uid-chained")
    assert agent_client.pods(node.run_dir)["shop/chained"]["state"] == "enrolled"
    runtime.delete("chained")
    assert agent_client.pods(node.run_dir) == {}


# ---- a list of our own ----

OWN = ["--cni-owned-conf=true"]


def own(directory):
    return json.loads(directory.read("02-bruma.conflist"))


def test_an_own_list_comes_first_and_leaves_others_files_alone(node, directory):
    directory.write("10-pods.conflist", LIST, 0o600)
    node.start(*node.options, *OWN)
    directory.wait("02-bruma.conflist", ["bridge", "portmap", "bruma-cni"])
    assert directory.read("10-pods.conflist") == LIST
    assert own(directory)["plugins"][2]["made_of"] == "10-pods.conflist" and own(directory)["name"] == "pods"
    assert directory.read("02-bruma.conflist").startswith(LIST[: LIST.index('{"type": "portmap"')]), (
        "its text is the other's"
    )
    assert stat.S_IMODE(os.stat(directory.path("02-bruma.conflist")).st_mode) == 0o600
    wait_for(lambda: node.status()["cniFile"] == directory.path("02-bruma.conflist"), "status to name it")
    uninstall(node)
    assert os.listdir(directory.conf) == ["10-pods.conflist"] and directory.read("10-pods.conflist") == LIST


def test_an_own_list_survives_what_others_write_at_a_boot(node, directory, work):
    """The power was cut; before the agent runs, the main plugin's installer writes his file anew. The runtime
    still loads a network that fails without the agent."""
    directory.write(
        "10-pods.conflist", LIST.replace('"bridge"', '"loopback"').replace('"portmap"', '"loopback"')
    )
    node.start(*node.options, *OWN)
    directory.wait("02-bruma.conflist", ["loopback", "loopback", "bruma-cni"])
    node.agent.kill()
    newer = LIST.replace('"bridge"', '"tuning"').replace('"portmap"', '"tuning"')
    directory.write("10-pods.conflist", newer)
    first = sorted(os.listdir(directory.conf))[0]
    runtime = Runtime(
        json.loads(directory.read(first)),
        work.path("cache"),
        f"{directory.bin}:/usr/lib/cni",
        netns=node.netns,
    )
    name = work.netns("late")
    with pytest.raises(Exception, match="agent_unreachable"):
        runtime.add("c", f"/run/netns/{name}", "shop", "late", "uid-late", [])
    # The next agent follows what was written.
    node.start(*node.options, *OWN)
    directory.wait("02-bruma.conflist", ["tuning", "tuning", "bruma-cni"])
    assert directory.read("10-pods.conflist") == newer


def test_an_own_list_follows_and_goes(node, directory):
    directory.write("10-pods.conf", '{"cniVersion": "1.0.0", "name": "a", "type": "bridge"}')
    node.start(*node.options, *OWN)
    directory.wait("02-bruma.conflist", ["bridge", "bruma-cni"])
    assert sorted(os.listdir(directory.conf)) == ["02-bruma.conflist", "10-pods.conf"], (
        "no list beside the single one"
    )
    directory.write("05-new.conflist", LIST)
    directory.wait("02-bruma.conflist", ["bridge", "portmap", "bruma-cni"])
    os.unlink(directory.path("05-new.conflist"))
    directory.wait("02-bruma.conflist", ["bridge", "bruma-cni"])
    # Its writer takes the file away for a moment, which is none; and for good.
    os.unlink(directory.path("10-pods.conf"))
    wait_for(lambda: "cni_conf_missing" in problems(node), "the missing network to be named")
    assert os.listdir(directory.conf) == ["02-bruma.conflist"]
    wait_for(lambda: os.listdir(directory.conf) == [], "the list to go with what it was made of", 30)


def test_an_own_list_is_not_made_after_a_file_that_sorts_before_it(node, directory):
    directory.write("00-multus.conflist", LIST)
    node.start(*node.options, *OWN)
    directory.wait("00-multus.conflist", ["bridge", "portmap", "bruma-cni"])
    assert os.listdir(directory.conf) == ["00-multus.conflist"]
    with open(node.agent.log) as f:
        assert "does not sort before" in f.read()


def test_somebody_elses_file_of_the_own_lists_name_stays(node, directory):
    directory.write("02-bruma.conflist", LIST)
    node.start(*node.options, *OWN)
    directory.wait("02-bruma.conflist", ["bridge", "portmap", "bruma-cni"])
    uninstall(node)
    assert directory.read("02-bruma.conflist") == LIST


def test_from_the_entry_to_an_own_list_and_back(node, directory):
    directory.write("10-pods.conflist", LIST)
    node.start(*node.options)
    directory.wait("10-pods.conflist", ["bridge", "portmap", "bruma-cni"])
    node.agent.stop()
    node.start(*node.options, *OWN)
    directory.wait("02-bruma.conflist", ["bridge", "portmap", "bruma-cni"])
    wait_for(lambda: directory.read("10-pods.conflist") == LIST, "the entry to leave the other's file")
    node.agent.stop()
    node.start(*node.options)
    directory.wait("10-pods.conflist", ["bridge", "portmap", "bruma-cni"])
    wait_for(lambda: not os.path.exists(directory.path("02-bruma.conflist")), "the list of our own to go")


@pytest.mark.parametrize("single", [False, True])
def test_who_takes_our_lists_away_is_named(node, directory, single):
    """As Cilium does with cni.exclusive: it renames every other file as soon as it sees it. No race with
    it."""
    if single:
        directory.write("10-pods.conf", '{"cniVersion": "1.0.0", "name": "a", "type": "bridge"}')
    else:
        directory.write("10-pods.conflist", LIST)
    made = "10-pods.bruma.conflist" if single else "02-bruma.conflist"
    node.start(*node.options, *([] if single else OWN))
    for _ in range(12):
        wait_for(
            lambda: os.path.exists(directory.path(made)) or "cni_conf_contested" in problems(node),
            "an answer",
        )
        if "cni_conf_contested" in problems(node):
            break
        os.rename(directory.path(made), directory.path(f"{made}.taken"))
    assert "cni_conf_contested" in problems(node)
    began = time.monotonic()
    if os.path.exists(directory.path(made)):
        os.unlink(directory.path(made))
    directory.wait(made, ["bridge", "bruma-cni"] if single else ["bridge", "portmap", "bruma-cni"], 30)
    assert time.monotonic() - began > 1, "paced"


@pytest.mark.parametrize("name", ["a/b.conflist", "02-bruma.conf", ".hidden.conflist", "bruma"])
def test_a_wrong_name_of_an_own_list_ends_the_start(node, directory, name):
    r = subprocess.run(
        [*node.argv(*node.options), *OWN, "--cni-owned-conf-name", name],
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert r.returncode == 2 and "cni-owned-conf-name" in r.stderr
