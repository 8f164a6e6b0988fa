# SPDX-License-Identifier: Apache-2.0
"""Nobody reads what agent and proxy log: they go on, drop lines, count them, and say so once somebody reads
again."""

import os
import threading

import pytest

from support.nodes.agent_node import AgentNode, Plugin
from support.nodes.mesh import Mesh
from support.nodes.pod_programs import ECHO, REACH
from support.system import run, wait_for


class Pipe:
    """A named pipe, which is written to like a file, and which somebody holds open and does not read."""

    def __init__(self, path):
        os.mkfifo(path)
        self.fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self.text, self.thread = b"", None

    def read(self):
        """From now on, in the background."""
        os.set_blocking(self.fd, True)
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        while True:
            try:
                part = os.read(self.fd, 65536)
            except OSError:
                return
            if not part:
                return
            self.text += part


def dropped(lines):
    return [line for line in lines if b"log lines were dropped" in line]


def test_the_agent_goes_on_and_tells_of_it(work):
    pipe = Pipe(work.path("agent.log"))
    node = AgentNode(work)
    node.start("--metrics-port", "15014")
    with Plugin(node.run_dir) as plugin:
        for _ in range(4000):
            assert plugin.ask({"op": "cni-attached"})["reason"] == "message_invalid"
    count = node.status()["logDroppedLines"]
    assert count > 0
    pod = node.pod("web")
    assert pod.add() == "enrol" and pod.item()["verified"]
    page = run(
        [
            "python3",
            "-c",
            "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:15014/metrics').read().decode())",
        ],
        netns=node.netns,
    ).stdout
    assert f"bruma_agent_log_dropped_lines_total {node.status()['logDroppedLines']}" in page
    pipe.read()
    wait_for(lambda: dropped(pipe.text.split(b"\n")), "it to be told")
    count = node.status()["logDroppedLines"]
    assert dropped(pipe.text.split(b"\n")) == [
        d for d in dropped(pipe.text.split(b"\n")) if b"reason=log_not_read" in d
    ]
    assert pod.ask("cni-del")["op"] == "done"
    wait_for(lambda: b"pod removed" in pipe.text, "lines to be read again")
    assert node.status()["logDroppedLines"] == count
    assert all(line[:2] == b"20" for line in pipe.text.split(b"\n") if line), "lines stay whole"


def test_an_agent_that_nobody_reads_ends_when_it_is_told_to(work):
    pipe = Pipe(work.path("agent.log"))
    node = AgentNode(work)
    node.start()
    with Plugin(node.run_dir) as plugin:
        for _ in range(4000):
            plugin.ask({"op": "cni-attached"})
    node.agent.popen.terminate()
    assert node.agent.popen.wait(10) == 0
    os.close(pipe.fd)


def outbound_port(mesh):
    try:
        return mesh.web.listener_ports()["outbound"]
    except AssertionError:
        return None  # one is missing just now


@pytest.mark.parametrize("json", ["false", "true"])
def test_the_proxy_goes_on(json):
    """Its control thread (a new pod, readiness) and its worker (a listener that is destroyed is a line of the
    worker's)."""
    with Mesh(nodes=1, proxy_env={"BRUMA_LOG_JSON": json}) as mesh:
        pipe = Pipe(f"{mesh.dir}/proxy1.log")
        web, shop = mesh.pod("web"), mesh.pod("shop")
        mesh.web = web
        mesh.start()
        mesh.nodes[0].proxy.log = os.devnull  # who would read the pipe to its end would wait
        shop.server(ECHO, "8080")
        wait_for(lambda: web.python(REACH, shop.ip).split() == ["yes"], "traffic")
        web.python(
            "import socket,sys\nfor i in range(1500):\n"
            "  s = socket.create_connection((sys.argv[1], 8080)); s.sendall(b'x'); s.recv(1); s.close()",
            shop.ip,
        )

        def count(name):
            return sum(
                float(line.split()[-1])
                for line in mesh.nodes[0].metrics().splitlines()
                if line.startswith(name)
            )

        assert count("bruma_access_log_dropped_lines_total") > 0, "the pipe is full"
        for _ in range(3):
            port = web.listener_ports()["outbound"]
            web.run("ss", "-K", "state", "listening", "sport", "=", port)
            wait_for(lambda: outbound_port(mesh) not in (None, port), "the listener to be replaced")
        wait_for(lambda: web.python(REACH, shop.ip).split() == ["yes"], "the worker to go on")
        late = mesh.pod("late")
        mesh.write()
        for _ in range(10):  # some lines of the control thread's each time
            late.cni("ADD")
            late.cni("DEL")
        late.enroll()
        wait_for(lambda: late.python(REACH, shop.ip).split() == ["yes"], "the control thread to go on")
        assert mesh.nodes[0].ready()
        assert count("bruma_log_dropped_lines_total") == 0, "what was said fits what is kept"
        pipe.read()
        wait_for(lambda: b"late" in pipe.text, "what was kept to be read")
