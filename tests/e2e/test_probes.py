# SPDX-License-Identifier: Apache-2.0
"""Probes of the kubelet: connections from its cgroup to ports that the pod declares reach the application,
whatever policy says; everybody else's of the node do not. The proxy here has no control plane, so it lets
nothing through by itself."""

import json
import os
import shutil
import subprocess

import pytest

from support.kube.small import SmallServer
from support.kube.world import World
from support.system import run, wait_for

SPEC = {
    "containers": [
        {
            "name": "app",
            "image": "none",
            "ports": [{"name": "health", "containerPort": 9001}],
            "livenessProbe": {"httpGet": {"path": "/", "port": "health"}},
            "readinessProbe": {"tcpSocket": {"port": 9002}},
            "startupProbe": {"grpc": {"port": 9003}},
            "lifecycle": {"preStop": {"httpGet": {"port": 9004}}},
        }
    ],
    "initContainers": [
        {
            "name": "sidecar",
            "image": "none",
            "restartPolicy": "Always",
            "livenessProbe": {"httpGet": {"port": 9005}},
        }
    ],
}
SERVER = """
import socket, sys, threading
def serve(port):
    s = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    while True:
        c, a = s.accept()
        c.sendall(b"app sees " + a[0].removeprefix("::ffff:").encode())
        c.close()
for port in range(9000, 9010):
    threading.Thread(target=serve, args=(port,)).start()
print("READY", flush=True)
"""
CLIENT = """
import socket, sys
try:
    s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=1.5)
    s.settimeout(1.5)
    print(s.recv(100).decode() or "closed")
except OSError as e:
    print(type(e).__name__)
"""


@pytest.fixture
def world(work):
    w = World(work, SmallServer)
    w.kubelet = work.cgroup("kubelet")
    w.server.make_namespace("shop")
    w.server.label_namespace("shop", mode="ambient")
    w.pod = w.sandbox("shop", "web", 10, spec=SPEC)
    w.write_cache(w.pod)
    server = work.process(["python3", "-c", SERVER], work.path("server.log"), netns=w.pod.netns)
    wait_for(lambda: "READY" in open(work.path("server.log")).read(), "the application", log=server.log)
    w.start(probe_cgroup=w.kubelet, verify_interval="300ms").ready()
    w.wait_state("shop/web", "enrolled")
    return w


def dial(world, ip, port, cgroup=None):
    argv = ["nsenter", f"--net=/run/netns/{world.node.netns}", "python3", "-c", CLIENT, ip, str(port)]
    if cgroup:
        argv = ["sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"', cgroup, *argv]
    return subprocess.run(argv, capture_output=True, text=True, timeout=30).stdout.strip()


def node_address(world, ip):
    """The address that the node's own connections to the pod come from."""
    out = subprocess.run(
        ["ip", "-n", world.node.netns, "route", "get", ip], capture_output=True, text=True
    ).stdout.split()
    return out[out.index("src") + 1]


@pytest.mark.parametrize("port", [9001, 9002, 9003, 9004, 9005])
def test_probes_of_declared_ports_pass_with_the_nodes_address(world, port):
    for ip in (world.pod.ip, world.pod.ip6):
        assert dial(world, ip, port, world.kubelet) == f"app sees {node_address(world, ip)}"


def test_other_processes_and_other_ports_do_not_pass(world):
    for ip in (world.pod.ip, world.pod.ip6):
        assert not dial(world, ip, 9001).startswith("app"), "not from the kubelet"
        assert not dial(world, ip, 9000, world.kubelet).startswith("app"), "not declared"
    assert dial(world, world.pod.ip, 9001, world.kubelet).startswith("app")


def test_declared_ports_follow_the_pod(world):
    assert dial(world, world.pod.ip, 9001, world.kubelet).startswith("app")
    world.server.label_pod("shop", "web", mode="none")
    world.wait_state("shop/web", "outside")
    maps = f"{world.node.pin_dir}/maps/probe_targets"

    def count():
        return len(json.loads(run(["bpftool", "-j", "map", "dump", "pinned", maps]).stdout))

    wait_for(lambda: count() == 0, "the registrations of a pod that has left to go")
    assert dial(world, world.pod.ip, 9000).startswith("app"), "outside the mesh everybody reaches it"
    world.server.label_pod("shop", "web", mode="ambient")
    world.wait_state("shop/web", "enrolled")
    assert dial(world, world.pod.ip, 9001, world.kubelet).startswith("app")
    assert count() == 10


def test_agent_killed_and_started_again_keeps_probes_going(world):
    world.node.agent.kill()
    assert dial(world, world.pod.ip, 9001, world.kubelet).startswith("app"), "the kernel steers alone"
    world.node.start_agent(**{**world.settings, "probe_cgroup": world.kubelet, "verify_interval": "300ms"})
    world.ready()
    assert dial(world, world.pod.ip, 9001, world.kubelet).startswith("app")
    assert not dial(world, world.pod.ip, 9001).startswith("app")


def test_a_kubelet_whose_cgroup_is_made_anew_is_found_again(world):
    """As systemd does when it restarts the kubelet."""
    os.rmdir(world.kubelet)
    os.mkdir(world.kubelet)
    wait_for(
        lambda: dial(world, world.pod.ip, 9001, world.kubelet).startswith("app"),
        "the hook on the new cgroup",
    )


# ---- the kubelet, found by its name ----


class Kubelet:
    """A process of that name on the node's network, in a cgroup of its own, below a /proc that shows this
    test's alone."""

    def __init__(self, work, netns):
        self.work, self.netns, self.count = work, netns, 0
        self.proc = work.path("proc")
        os.mkdir(self.proc)
        self.cgroup = self.process = None

    def start(self, name="kubelet", cgroup=None, wrap=()):
        self.count += 1
        self.cgroup = cgroup or self.work.cgroup(f"kubelet{self.count}")
        # Of that name, since a process is believed to be the kubelet by its program too.
        program = self.work.path(name)
        if not os.path.exists(program):
            shutil.copy(os.path.realpath("/usr/bin/python3"), program)
        self.process = self.work.process(
            [*wrap, program, "-c", "print('READY', flush=True); import time; time.sleep(600)"],
            self.work.path(f"kubelet{self.count}.log"),
            netns=self.netns,
            cgroup=self.cgroup,
        )
        wait_for(lambda: "READY" in open(self.process.log).read(), "the kubelet", log=self.process.log)
        self.show(self.process.popen.pid)
        return self

    def show(self, pid):
        os.symlink(f"/proc/{pid}", f"{self.proc}/{pid}")

    def end(self):
        os.unlink(f"{self.proc}/{self.process.popen.pid}")
        self.process.kill()


@pytest.fixture
def followed(work):
    w = World(work, SmallServer)
    w.server.make_namespace("shop")
    w.server.label_namespace("shop", mode="ambient")
    w.pod = w.sandbox("shop", "web", 10, spec=SPEC)
    w.write_cache(w.pod)
    server = work.process(["python3", "-c", SERVER], work.path("server.log"), netns=w.pod.netns)
    wait_for(lambda: "READY" in open(work.path("server.log")).read(), "the application", log=server.log)
    w.kubelet = Kubelet(work, w.node.netns)
    return w


def start(w):
    w.start(probe_cgroup="auto", proc=w.kubelet.proc, verify_interval="30s").ready()
    w.wait_state("shop/web", "enrolled")


def passes(w, cgroup):
    return dial(w, w.pod.ip, 9001, cgroup).startswith("app")


def problems(w):
    return {p["reason"]: p["detail"] for p in w.status()["problems"]}


@pytest.mark.parametrize("name", ["kubelet", "kubelite", "k3s-server"])
def test_the_kubelet_is_found_and_its_successor_in_another_cgroup(followed, name):
    first = followed.kubelet.start(name).cgroup
    start(followed)
    assert passes(followed, first) and not passes(followed, None)
    assert followed.status()["probeCgroup"] == first and followed.status()["kubeletPid"]
    followed.kubelet.end()
    wait_for(lambda: "kubelet_not_found" in problems(followed), "its end to be noticed")
    second = followed.kubelet.start(name).cgroup
    assert second != first
    # Long before the next verification: its end was the hint.
    wait_for(lambda: passes(followed, second), "the hook on the new cgroup", 5)
    assert not passes(followed, first), "whoever is where it was is nobody"
    assert "kubelet_not_found" not in problems(followed)


def test_a_pod_that_calls_its_process_kubelet_gets_nothing(followed, work):
    """By its cgroup it is a pod's; by its network namespace it is none of the node's."""
    pods = os.path.join(followed.node.cgroup, "kubepods")
    group = os.path.join(pods, "pod11111111-2222-3333-4444-555555555555")
    for path in (pods, group):
        os.mkdir(path)
    followed.kubelet.start(cgroup=group)
    start(followed)
    assert not passes(followed, group) and "kubelet_not_found" in problems(followed)
    followed.kubelet.end()
    wait_for(lambda: not open(f"{group}/cgroup.procs").read(), "its process to go")
    for path in (group, pods):
        os.rmdir(path)


def test_others_in_the_kubelets_cgroup_are_named(followed, work):
    cgroup = followed.kubelet.start().cgroup
    start(followed)
    assert "kubelet_cgroup_shared" not in problems(followed)
    other = work.process(["sleep", "600"], work.path("sleep.log"), cgroup=cgroup)
    wait_for(
        lambda: open(f"/proc/{other.popen.pid}/comm").read() == "sleep\n", "the other to be in the cgroup"
    )  # it runs after that
    followed.kubelet.show(other.popen.pid)
    followed.node.agent.stop()
    start(followed)
    assert (
        "sleep" in problems(followed)["kubelet_cgroup_shared"] and "kubelet_cgroup_shared" in followed.log()
    )
    assert passes(followed, cgroup), "it is told, and the kubelet's probes still pass"


def test_without_a_cgroup_of_its_own_probes_are_subject_to_policy(followed):
    """In the root everybody would pass."""
    root = followed.node.cgroup[: followed.node.cgroup.rindex("/")]
    followed.kubelet.start(cgroup=root)
    start(followed)
    assert "no cgroup of its own" in problems(followed)["kubelet_not_found"]
    assert not passes(followed, root)


def test_an_ordinary_users_process_of_that_name_gets_nothing(followed, work):
    """Nor does it take anything from the real one; status and doctor name it, and who was chosen and why."""
    os.chmod(work.directory, 0o755)
    theirs = followed.kubelet.start(wrap=["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"])
    false_pid, false_group, false_process = theirs.process.popen.pid, theirs.cgroup, theirs.process
    start(followed)
    assert not passes(followed, false_group)
    assert f"pid {false_pid}: it does not run as root (uid 65534)" in problems(followed)["kubelet_not_found"]
    real_group = followed.kubelet.start().cgroup
    followed.node.agent.stop()
    start(followed)
    assert passes(followed, real_group) and not passes(followed, false_group)
    assert f"pid {false_pid}" in problems(followed)["kubelet_refused"]
    said = run(
        [f"{work.build}/ctl/brumactl", "--run-dir", followed.node.run_dir, "doctor"], check=False
    ).stdout
    assert (
        f"pid {followed.kubelet.process.popen.pid}" in said
        and real_group in said
        and "the only candidate" in said
    )
    assert f"pid {false_pid}: it does not run as root" in said
    # The real one ends and comes again, as after an upgrade: still nothing for the other.
    followed.kubelet.end()
    wait_for(lambda: "kubelet_not_found" in problems(followed), "its end to be noticed")
    again = followed.kubelet.start(cgroup=real_group).cgroup
    wait_for(lambda: passes(followed, again), "the real one to be found", 10)
    assert false_process.alive() and not passes(followed, false_group)


def test_a_program_that_others_may_write_is_no_kubelet(followed, work):
    group = followed.kubelet.start().cgroup
    os.chmod(work.path("kubelet"), 0o777)
    start(followed)
    assert not passes(followed, group) and "writable by others" in problems(followed)["kubelet_not_found"]


OTHER_HOST = {
    "containers": [
        {
            "name": "app",
            "image": "none",
            "livenessProbe": {"httpGet": {"host": "10.9.9.9", "port": 9001}},
            "readinessProbe": {"tcpSocket": {"host": "127.0.0.1", "port": 9002}},
            "startupProbe": {"httpGet": {"host": "", "port": 9003}},
            "lifecycle": {"postStart": {"httpGet": {"host": "example.test", "port": 9004}}},
        }
    ]
}


def test_a_probe_of_another_host_declares_nothing(work):
    w = World(work, SmallServer)
    w.kubelet = work.cgroup("kubelet")
    w.server.make_namespace("shop")
    w.server.label_namespace("shop", mode="ambient")
    w.pod = w.sandbox("shop", "web", 10, spec=OTHER_HOST)
    w.write_cache(w.pod)
    server = work.process(["python3", "-c", SERVER], work.path("server.log"), netns=w.pod.netns)
    wait_for(lambda: "READY" in open(work.path("server.log")).read(), "the application", log=server.log)
    w.start(probe_cgroup=w.kubelet).ready()
    w.wait_state("shop/web", "enrolled")
    assert [dial(w, w.pod.ip, port, w.kubelet).startswith("app") for port in (9001, 9002, 9003, 9004)] == [
        False,
        False,
        True,
        False,
    ]
