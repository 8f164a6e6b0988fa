# SPDX-License-Identifier: Apache-2.0
"""Probes of the kubelet: connections from its cgroup to ports that the pod declares reach the application, whatever policy says;
everybody else's of the node do not. The proxy here has no control plane, so it lets nothing through by itself."""
import json
import os
import subprocess

import pytest
from kube_world import World
from support.kube_small import SmallServer
from support.system import run, wait_for

SPEC = {"containers": [{
    "name": "app", "image": "none",
    "ports": [{"name": "health", "containerPort": 9001}],
    "livenessProbe": {"httpGet": {"path": "/", "port": "health"}},
    "readinessProbe": {"tcpSocket": {"port": 9002}},
    "startupProbe": {"grpc": {"port": 9003}},
    "lifecycle": {"preStop": {"httpGet": {"port": 9004}}}}],
    "initContainers": [{"name": "sidecar", "image": "none", "restartPolicy": "Always",
                        "livenessProbe": {"httpGet": {"port": 9005}}}]}
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
    out = subprocess.run(["ip", "-n", world.node.netns, "route", "get", ip], capture_output=True, text=True).stdout.split()
    return out[out.index("src") + 1]


@pytest.mark.parametrize("port", [9001, 9002, 9003, 9004, 9005])
def test_probes_of_declared_ports_pass_with_the_nodes_address(world, port):
    for ip in (world.pod.ip4, world.pod.ip6):
        assert dial(world, ip, port, world.kubelet) == f"app sees {node_address(world, ip)}"


def test_other_processes_and_other_ports_do_not_pass(world):
    for ip in (world.pod.ip4, world.pod.ip6):
        assert not dial(world, ip, 9001).startswith("app"), "not from the kubelet"
        assert not dial(world, ip, 9000, world.kubelet).startswith("app"), "not declared"
    assert dial(world, world.pod.ip4, 9001, world.kubelet).startswith("app")


def test_declared_ports_follow_the_pod(world):
    assert dial(world, world.pod.ip4, 9001, world.kubelet).startswith("app")
    world.server.label_pod("shop", "web", mode="none")
    world.wait_state("shop/web", "outside")
    maps = f"{world.node.pin_dir}/maps/probe_targets"

    def count():
        return len(json.loads(run(["bpftool", "-j", "map", "dump", "pinned", maps]).stdout))

    wait_for(lambda: count() == 0, "the registrations of a pod that has left to go")
    assert dial(world, world.pod.ip4, 9000).startswith("app"), "outside the mesh everybody reaches it"
    world.server.label_pod("shop", "web", mode="ambient")
    world.wait_state("shop/web", "enrolled")
    assert dial(world, world.pod.ip4, 9001, world.kubelet).startswith("app")
    assert count() == 10


def test_agent_killed_and_started_again_keeps_probes_going(world):
    world.node.agent.kill()
    assert dial(world, world.pod.ip4, 9001, world.kubelet).startswith("app"), "the kernel steers alone"
    world.node.start_agent(**{**world.settings, "probe_cgroup": world.kubelet, "verify_interval": "300ms"})
    world.ready()
    assert dial(world, world.pod.ip4, 9001, world.kubelet).startswith("app")
    assert not dial(world, world.pod.ip4, 9001).startswith("app")


def test_a_kubelet_whose_cgroup_is_made_anew_is_found_again(world):
    """As systemd does when it restarts the kubelet."""
    os.rmdir(world.kubelet)
    os.mkdir(world.kubelet)
    wait_for(lambda: dial(world, world.pod.ip4, 9001, world.kubelet).startswith("app"), "the hook on the new cgroup")
