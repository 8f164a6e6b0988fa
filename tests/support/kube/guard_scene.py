# SPDX-License-Identifier: Apache-2.0
"""A node with a pod of the mesh and one outside, and the guard between them and the network."""

import json
import os
import subprocess

from support import kernel
from support.kube.world import AMBIENT
from support.system import Process, run, wait_for

ECHO = (
    "import socket,sys\n"
    "s=socket.create_server(('::',int(sys.argv[1])),family=socket.AF_INET6,dualstack_ipv6=True,backlog=64)\n"
    "while True: c,a=s.accept(); c.sendall(b'hello'); c.close()\n"
)


DIAL = (
    "import socket,sys\n"
    "try:\n"
    "  s=socket.create_connection((sys.argv[1],int(sys.argv[2])),float(sys.argv[3]))\n"
    "  print('ok' if s.recv(9)==b'hello' else 'silence')\n"
    "except socket.timeout: print('silence')\n"
    "except ConnectionRefusedError: print('refused')\n"
    "except OSError as e: print(e)\n"
)


OUTSIDE = 9000


def holds_inbound():
    """Programs of cgroup_skb may ask for their namespace's cookie from Linux 6.15 on."""
    return tuple(int(n) for n in os.uname().release.split(".")[:2]) >= (6, 15)


class Scene:
    """web belongs to the mesh, plain does not; both run and neither was told of by the plugin. A server of
    the node answers on port 9000."""

    def __init__(self, world, start=True):
        self.world = world
        world.server.make_namespace("shop", AMBIENT)
        world.server.make_namespace("other")
        self.web, self.plain = world.sandbox("shop", "web", 10), world.sandbox("other", "plain", 11)
        for pod in (self.web, self.plain):
            world.write_cache(pod)
            self.serve(pod, 8080)
        # In the pods' cgroup, and in the node's network: a pod with hostNetwork.
        self.host_cgroup = os.path.join(world.node.cgroup, "host")
        kernel.cgroup_create(self.host_cgroup)
        world.work.defer(kernel.cgroup_remove, self.host_cgroup)
        server = Process(
            ["/usr/bin/python3", "-c", ECHO, str(OUTSIDE)],
            world.work.path("outside.log"),
            netns=world.node.netns,
        )
        world.work.defer(server.stop)
        wait_for(lambda: self.node_dials("127.0.0.1", OUTSIDE) == "ok", "the node's server")
        world.settings["guard_cgroup"] = world.node.cgroup

    def serve(self, pod, port):
        server = pod.popen(
            "/usr/bin/python3", "-c", ECHO, str(port), log=self.world.work.path(f"{pod.name}.log")
        )
        self.world.work.defer(server.stop)
        wait_for(lambda: self.dial(pod, "127.0.0.1", port) == "ok", f"the server of {pod.name}")

    def dial(self, pod, ip=None, port=OUTSIDE, timeout=2):
        ip = ip or self.world.node.pod_addresses(1)[0]
        return pod.run("/usr/bin/python3", "-c", DIAL, ip, str(port), str(timeout)).stdout.strip()

    def node_dials(self, ip, port, timeout=1, cgroup=None):
        argv = ["/usr/bin/python3", "-c", DIAL, ip, str(port), str(timeout)]
        if cgroup:
            argv = ["sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"', cgroup, *argv]
        return run(argv, netns=self.world.node.netns).stdout.strip()

    def guard(self):
        return self.world.status()["guard"]

    def wait_open(self, timeout=20):
        wait_for(
            lambda: not self.guard()["closed"], "the guard to open", timeout, log=self.world.node.agent_log
        )

    def undecided(self):
        return self.world.status()["failures"].get("pod_undecided", {}).get("count", 0)

    def problems(self):
        return [p["reason"] for p in self.world.status()["problems"]]

    def entries(self):
        """Pods that may pass, and the node."""
        out = subprocess.run(
            ["bpftool", "-j", "map", "dump", "pinned", f"{self.world.node.pin_dir}/maps/sandboxes"],
            capture_output=True,
            text=True,
            check=True,
        )
        return {e["formatted"]["value"]["pod"] for e in json.loads(out.stdout)}

    def hooks(self):
        links = f"{self.world.node.pin_dir}/links"
        return sorted(n for n in os.listdir(links) if n.startswith("guard-"))
