# SPDX-License-Identifier: Apache-2.0
"""Three pods of one node with same-node: kernel, and a test in the proxy's place that says which connections stay in the kernel:
a may connect to b, and c wants to be taken for a."""

import contextlib
import json
import shutil

from support.nodes.agent_node import AgentNode
from support.nodes.node_verdicts import NodeVerdicts
from support.nodes.pod_programs import ECHO
from support.system import run, wait_for
from support.workspace import Workspace

FORGED, UNREGISTERED = 0, 1  # of enum bruma_node_counter

# What the application sees: who it is, whom it has asked for, and what comes back.
CALL = """
import socket, sys
to, port, own, own_port = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
s = socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.settimeout(float(sys.argv[5]))
try:
    if own or own_port:
        s.bind((own, own_port))
    s.connect((to, port))
    names = s.getpeername()[0], s.getpeername()[1], s.getsockname()[0]
    try:
        s.sendall(b"hello")
    except OSError:
        pass  # the stand-in for the proxy says who it is, and closes
    print(s.recv(100).decode().strip(), *names)
except OSError as e:
    print(type(e).__name__)
"""


def call(pod, to, port=8080, own="", own_port=0, timeout=10):
    return pod.python(CALL, to, port, own, own_port, timeout).strip()


class Scene:
    """a may connect to b. c is of the mesh as well, and wants to be taken for a."""

    def __init__(self, node):
        self.node = node
        self.proxy = node.proxy().serve()
        self.a, self.b, self.c = (node.pod(n) for n in "abc")
        for pod in (self.a, self.b, self.c):
            pod.add()
        for pod in (self.a, self.b, self.c):
            wait_for(
                lambda p=pod: p.item()["sameNode"] == "kernel", f"{pod.name} to be wired", log=node.agent_log
            )
        self.server = self.b.server(ECHO, 8080)
        self.verdicts = NodeVerdicts(node)

    def heard(self):
        """Who the application of b has been called by."""
        return [tuple(x.split()[1:]) for x in self.server.text().splitlines() if x.startswith("FROM")]

    def half_open(self):
        """Connections to b that have not been acknowledged."""
        return run(["ss", "-Htn", "state", "syn-recv"], netns=self.b.netns).stdout.splitlines()

    def allow(self):
        self.verdicts.allow(self.a, self.b, self.b.ip)
        self.verdicts.allow(self.a, self.b, self.b.ip6)


def mac(pod):
    return json.loads(run(["ip", "-j", "-n", pod.netns, "link", "show", "eth0"]).stdout)[0]["address"]


def forged(scene):
    return scene.verdicts.counter(FORGED)


@contextlib.contextmanager
def kernel_scene(build):
    work = Workspace(build)
    node = AgentNode(work)
    node.start("--same-node", "kernel")
    s = Scene(node)
    yield s
    s.verdicts.close()
    s.server.kill()
    errors = work.close()
    shutil.rmtree(work.directory, ignore_errors=True)
    assert not errors, errors
