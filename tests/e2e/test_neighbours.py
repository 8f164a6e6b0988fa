# SPDX-License-Identifier: Apache-2.0
"""What bruma-agent does beside others: BPF programs of somebody else on the same hooks, another agent, pins
of another version, and places that are none."""

import ctypes
import json
import os
import re
import subprocess

import pytest

from support import agent as agent_client
from support.nodes.agent_node import BPF_LINK_CREATE, BPF_SK_LOOKUP, AgentNode, bpf
from support.system import run, wait_for

# Counts, and lets everything pass. Nothing of it is shared with bpf/.
OTHER = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 3);
    __type(key, __u32);
    __type(value, __u64);
} seen SEC(".maps");
static __always_inline int count(__u32 key)
{
    __u64 *n = bpf_map_lookup_elem(&seen, &key);

    if (n)
        __sync_fetch_and_add(n, 1);
    return 1;
}
SEC("cgroup/connect4") int other_connect4(struct bpf_sock_addr *ctx) { return count(0); }
SEC("cgroup/connect6") int other_connect6(struct bpf_sock_addr *ctx) { return count(1); }
SEC("sk_lookup") int other_lookup(struct bpf_sk_lookup *ctx) { return count(2); }
char LICENSE[] SEC("license") = "GPL";
"""


OURS = ["accepted", "connect4", "connect6", "option4", "option6", "refuse_option", "released"]


class Other:
    """Somebody else's programs, loaded and pinned."""

    def __init__(self, node):
        work = node.work
        source, binary, self.pins = (
            work.path("other.bpf.c"),
            work.path("other.bpf.o"),
            f"{os.path.dirname(node.pin_dir)}/other",
        )
        with open(source, "w") as f:
            f.write(OTHER)
        include = "/usr/include/" + run(["gcc", "-print-multiarch"]).stdout.strip()
        run(["clang", "-target", "bpf", "-g", "-O2", "-idirafter", include, "-c", source, "-o", binary])
        run(["bpftool", "prog", "loadall", binary, self.pins, "pinmaps", self.pins])
        self.work = work

    def attach(self, cgroup, flags="multi"):
        for hook in ("connect4", "connect6"):
            run(
                [
                    "bpftool",
                    "cgroup",
                    "attach",
                    cgroup,
                    hook,
                    "pinned",
                    f"{self.pins}/other_{hook}",
                    *flags.split(),
                ]
            )

    def attach_to_netns(self, path):
        text = f"{self.pins}/other_lookup\0".encode()
        program, netns = obj_get(text), os.open(path, os.O_RDONLY)
        try:
            u32 = lambda *values: b"".join(v.to_bytes(4, "little") for v in values)
            self.work.defer(os.close, bpf(BPF_LINK_CREATE, u32(program, netns, BPF_SK_LOOKUP, 0)))
        finally:
            os.close(program)
            os.close(netns)

    def seen(self):
        """How often connect4, connect6 and the look-up ran."""
        dump = json.loads(run(["bpftool", "-j", "map", "dump", "pinned", f"{self.pins}/seen"]).stdout)
        return [e["formatted"]["value"] for e in dump]


def obj_get(path):
    text = ctypes.create_string_buffer(path)
    return bpf(7, ctypes.addressof(text).to_bytes(8, "little"))


def attached(cgroup):
    shown = json.loads(run(["bpftool", "-j", "cgroup", "show", cgroup]).stdout.strip() or "[]")
    return sorted(p["name"] for p in shown)


@pytest.mark.parametrize("when", ["before", "after"])
def test_programs_of_others_on_the_same_hooks_go_on(work, when):
    node = AgentNode(work)
    other = Other(node)
    if when == "before":
        other.attach(node.cgroup)
    node.start()
    proxy, pod = node.proxy().serve(), node.pod("web")
    if when == "before":
        other.attach_to_netns(pod.path)
    pod.add()
    if when == "after":
        other.attach(node.cgroup)
        other.attach_to_netns(pod.path)

    def both_work():
        before = other.seen()
        assert pod.greeting() == "proxy inbound" and pod.dials_out() == "proxy outbound"
        after = other.seen()
        assert after[0] > before[0] and after[2] > before[2], (before, after)

    both_work()
    node.agent.kill()
    node.start()
    proxy.do("connect")
    proxy.wait(event="message", op="snapshot-end")
    both_work()
    assert attached(node.cgroup) == sorted([*OURS, "other_connect4", "other_connect6"])
    node.agent.stop()
    run(node.argv("--uninstall"), netns=node.netns)
    assert attached(node.cgroup) == ["other_connect4", "other_connect6"], (
        "what others have attached is theirs"
    )


@pytest.mark.parametrize("flags", ["", "override"])
def test_a_hook_of_a_parent_that_is_not_shared_is_refused(work, flags):
    """Ours would be refused by the kernel, or, worse, switch the other's off, or be switched off."""
    node = AgentNode(work)
    other = Other(node)
    other.attach(node.cgroup, flags)
    child = f"{node.cgroup}/pods"
    os.mkdir(child)
    for cgroup in (node.cgroup, child):
        r = run(node.argv("--cgroup", cgroup), netns=node.netns, check=False, timeout=20)
        assert r.returncode == 1 and "reason=cgroup_occupied" in r.stderr, r.stderr
    assert attached(node.cgroup) == ["other_connect4", "other_connect6"] and attached(child) == []


# ---- another agent ----


def test_a_second_agent_is_refused(node, work):
    pod, _ = node.pod("web"), node.proxy().serve()
    pod.add()
    r = run(node.argv(), netns=node.netns, check=False, timeout=20)
    assert r.returncode == 1 and "running already" in r.stderr, r.stderr
    for options in ([], ["--uninstall"]):
        r = run(
            node.argv("--run-dir", work.path("elsewhere"), *options),
            netns=node.netns,
            check=False,
            timeout=20,
        )
        assert r.returncode == 1 and "pins_in_use" in r.stderr, r.stderr
    assert pod.item()["state"] == "enrolled" and pod.item()["mends"] == {} and len(pod.pins()) == 1
    assert pod.greeting() == "proxy inbound" and pod.dials_out() == "proxy outbound"
    node.agent.kill()
    node.start()  # the lock has gone with the process
    assert pod.item()["generation"] == 1


def test_an_agent_that_does_not_know_a_pod_leaves_its_connections_alone(node, work):
    """Its hooks run after the others', on the same cgroup or further up: the node of a cluster that runs in
    containers."""
    pod, _ = node.pod("web"), node.proxy().serve()
    pod.add()
    run_dir = work.path("other")
    other = work.process(
        node.argv("--run-dir", run_dir, "--pin-dir", f"{node.pin_dir}-other"),
        work.path("other.log"),
        netns=work.netns("other"),
    )
    wait_for(lambda: agent_client.status(run_dir)["meshReady"], "the other agent to answer", log=other.log)
    assert attached(node.cgroup) == sorted(2 * OURS)
    assert pod.dials_out() == "proxy outbound"


# ---- pins of another version ----


def other_layout(pin):
    os.unlink(pin)
    run(
        [
            "bpftool",
            "map",
            "create",
            pin,
            "type",
            "hash",
            "key",
            "8",
            "value",
            "24",
            "entries",
            "64",
            "name",
            "other_version",
        ]
    )


@pytest.mark.parametrize("name", ["pods", "failures", "probe_targets"])
def test_maps_of_another_layout_are_answered_and_can_be_removed(node, name):
    pod, proxy = node.pod("web"), node.proxy().serve()
    pod.add()
    node.agent.stop()
    other_layout(f"{node.pin_dir}/maps/{name}")
    r = run(node.argv(), netns=node.netns, check=False, timeout=20)
    assert r.returncode == 1 and "reason=pins_other_version" in r.stderr and f"maps/{name} " in r.stderr, (
        r.stderr
    )
    assert pod.greeting() == "proxy inbound" and pod.dials_out() == "proxy outbound", (
        "what is pinned stays in force"
    )
    run(node.argv("--uninstall"), netns=node.netns)
    assert pod.untouched() and not (os.path.exists(node.pin_dir) and os.listdir(node.pin_dir))
    assert attached(node.cgroup) == []
    proxy.kill()
    node.start()
    assert pod.add() == "enrol"


# ---- places that are none ----


def test_a_pin_directory_outside_of_a_bpf_file_system(work):
    node = AgentNode(work)
    for place in (work.path("no", "pins"), work.path("mesh.yaml"), "relative/pins"):
        r = run(node.argv("--pin-dir", place), netns=node.netns, check=False, timeout=20, cwd=work.directory)
        assert r.returncode == 1 and "reason=pin_dir_unusable" in r.stderr and place in r.stderr, r.stderr
    assert not os.path.exists(work.path("no")) and not os.path.exists(work.path("relative")), (
        "nothing was made"
    )


def test_a_cgroup_that_is_none(work):
    node = AgentNode(work)
    for place in (work.path("nothing"), work.directory, "/proc"):
        r = run(node.argv("--cgroup", place), netns=node.netns, check=False, timeout=20)
        assert r.returncode == 1 and "reason=cgroup_unusable" in r.stderr and place in r.stderr, r.stderr


@pytest.mark.parametrize("domain", ["", "with space", "a/b", "ü", "x" * 256])
def test_a_trust_domain_that_is_none(work, domain):
    node = AgentNode(work)
    r = run(node.argv("--trust-domain", domain), netns=node.netns, check=False, timeout=20)
    assert r.returncode == 2 and re.search("trust-domain: .* is not a trust domain", r.stderr), r.stderr


def test_a_run_directory_that_cannot_be_used(work):
    node = AgentNode(work)
    for place in (work.path("mesh.yaml"), work.path("mesh.yaml", "run"), "/proc/run"):
        r = run(node.argv("--run-dir", place), netns=node.netns, check=False, timeout=20)
        assert r.returncode == 1 and "the run directory cannot be used" in r.stderr, r.stderr


def test_without_rights_it_says_so(work):
    """An ordinary user's agent makes nothing and ends."""
    node = AgentNode(work)
    os.chmod(work.directory, 0o755)
    r = subprocess.run(
        ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", *node.argv()],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert r.returncode == 1 and "ermi" in r.stderr, r.stderr
