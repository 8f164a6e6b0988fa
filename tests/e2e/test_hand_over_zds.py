# SPDX-License-Identifier: Apache-2.0
"""Live connections that move to the next proxy where a CNI agent names the pods, and nobody brings the two together: they meet at
a socket (docs/hand-over.md). Every byte of them is checked, both ways."""

import os
import signal
import socket
import subprocess
import time

import pytest

from support.faults import Faults
from support.nodes.hand_over import MIRROR, PYTHON, Talkers, told
from support.nodes.mesh import Mesh, MeshNode
from support.nodes.zds_node import ZdsNode
from support.programs import BUILD, program
from support.system import Process, wait_for

LISTENS = "connections of other proxies are taken over"
# As in containers, which do not see each other's processes.
OWN_PROCESSES = ("unshare", "--pid", "--fork", "--kill-child")
_serial = iter(range(1, 1000))

CONNECT = """
import os, socket, sys
os.chdir(sys.argv[1])
os.setresuid(65534, 65534, 65534)
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.connect("hand-over.sock")
s.settimeout(10)
print(s.recv(1000)[8:], s.recv(1000))
"""
LISTEN = """
import os, socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.bind(sys.argv[1])
os.chmod(sys.argv[1], 0o666)
os.setresuid(65534, 65534, 65534)
s.listen()
print("READY", flush=True)
c, _ = s.accept()
print("GOT", c.recv(1000), flush=True)
"""


class Node(ZdsNode):
    def __init__(self, mesh, number):
        super().__init__(mesh, number)
        self.socket = f"{self.run_dir}/hand-over.sock"
        self.more_env = {"BRUMA_HAND_OVER_SOCKET": self.socket, "CONNECTION_TERMINATION_DEADLINE": "600s"}

    def next_proxy(self, *prefix, **env):
        """Another one that is ready to take over; returns the one before."""
        old = self.proxy
        self.proxy, self.connection = self.start_second_proxy(*prefix, name=f"{next(_serial)}", **env)
        self.introduce(self.connection)
        wait_for(lambda: LISTENS in self.proxy.text(), "the next one to be ready", log=self.proxy.log)
        self.proxies.append(self.proxy)
        return old


@pytest.fixture(scope="module")
def mesh():
    with Mesh(nodes=2, workers=2, node_kinds=[Node, MeshNode]) as m:
        m.node = m.nodes[0]
        m.web, m.shop, m.cart = m.pod("web"), m.pod("shop"), m.pod("cart", node=1)
        m.outside = m.pod("outside", node=1, namespace="outside")
        m.outside.outside = True
        m.start()
        for pod in (m.web, m.shop, m.cart, m.outside):
            pod.server(MIRROR, "8080")
        yield m


WAYS = {
    "outside": lambda m: (m.web, m.outside),
    "inbound": lambda m: (m.outside, m.shop),
    "one node": lambda m: (m.web, m.shop),
    "to another node": lambda m: (m.web, m.cart),
    "from another node": lambda m: (m.cart, m.shop),
}


def talk(mesh, family=0, ways=WAYS):
    return [Talkers(client, server.ips[family]) for client, server in (WAYS[way](mesh) for way in ways)]


def moved(old):
    wait_for(lambda: "connections were handed over" in old.text(), "the hand-over", log=old.log)
    return told(old.text(), "connections were handed over")


def end(process):
    """Told to end; where it has a pid namespace of its own, by its number outside."""
    with open(f"/proc/{process.pid}/task/{process.pid}/children") as f:
        children = f.read().split()
    os.kill(int(children[0]) if children else process.pid, signal.SIGTERM)


@pytest.mark.parametrize("family", [0, 1])
def test_no_byte_is_lost_from_one_proxy_to_the_next(mesh, family):
    talkers = talk(mesh, family)
    for _ in range(3):
        for t in talkers:
            t.say("stall")
        old = mesh.node.next_proxy()
        end(old)
        counts = moved(old)
        assert counts["moved"] >= 36 and counts["left"] == 0, (counts, old.text()[-1500:])
        assert old.wait() == 0  # it carries nothing any more
        assert LISTENS in mesh.node.proxy.text() and os.path.exists(mesh.node.socket)
        for t in talkers:
            t.say("read")
            t.goes_on()
    for t in talkers:
        t.end()


def test_a_certificate_authority_that_is_slow_is_waited_for(mesh):
    talkers = talk(mesh)
    ca = mesh.node.ca

    def slow(identity, csr):
        time.sleep(8.5)  # a call may take 10 seconds, and is made again then
        return ca.good_certificate(identity, csr)

    ca.answer_certificate = slow
    try:
        old = mesh.node.next_proxy()
        end(old)
        assert moved(old)["left"] == 0
    finally:
        ca.answer_certificate = ca.good_certificate
    for t in talkers:
        t.goes_on()
        t.end()


def test_proxies_that_do_not_see_each_others_processes(mesh):
    old = mesh.node.next_proxy(*OWN_PROCESSES)
    end(old)
    old.wait()
    talkers = talk(mesh)
    for prefix in (OWN_PROCESSES, ()):
        old = mesh.node.next_proxy(*prefix)
        end(old)
        assert moved(old)["left"] == 0
        for t in talkers:
            t.goes_on()
    for t in talkers:
        t.end()


def test_back_to_the_old_one(mesh):
    """The next one ends before the old one is told to: the place is the old one's again."""
    old, connection = mesh.node.proxy, mesh.node.connection
    mesh.node.next_proxy()
    talkers = talk(mesh)
    new, mesh.node.proxy, mesh.node.connection = mesh.node.proxy, old, connection
    end(new)
    assert moved(new)["left"] == 0
    for t in talkers:
        t.goes_on()
        t.end()


def test_two_that_end_at_once_are_taken_over_from_one_after_the_other(mesh):
    first = mesh.node.next_proxy()
    talkers = talk(mesh)
    second = mesh.node.next_proxy()
    talkers += talk(mesh)
    for old in (first, second):
        end(old)
    assert moved(first)["left"] == moved(second)["left"] == 0
    for t in talkers:
        t.goes_on()
        t.end()


def test_one_that_is_alone_ends_as_ever(mesh):
    """What one that was killed has left at the place is nobody, and the next one takes it."""
    old = mesh.node.next_proxy()
    end(old)
    old.wait()
    lonely = mesh.node.next_proxy()
    mesh.node.proxy.kill()
    mesh.node.proxy = lonely
    assert os.path.exists(mesh.node.socket)
    (talker,) = talk(mesh, ways=["outside"])
    end(lonely)
    wait_for(lambda: 'why="there is no other proxy"' in lonely.text(), "it to find nobody", log=lonely.log)
    talker.goes_on()
    talker.end()
    assert lonely.wait() == 0
    mesh.node.next_proxy()


@pytest.mark.parametrize("steps", [0, 3, 11, 30])
@pytest.mark.parametrize("side", ["old", "new"])
def test_either_side_may_be_killed_at_any_step(mesh, tmp_path, side, steps):
    """Whoever is left has each connection that the other one had not kept, and no byte of them is wrong."""
    faults = Faults(BUILD, str(tmp_path / "faults"))
    before = mesh.node.next_proxy(**faults.env if side == "old" else {})
    end(before)
    before.wait()
    talkers = talk(mesh, ways=("outside", "inbound"))
    old = mesh.node.next_proxy(**faults.env if side == "new" else {})
    new = mesh.node.proxy
    faults.fail("sendmsg of a worker", -signal.SIGKILL, skip=steps)
    end(old)
    killed = old if side == "old" else new
    wait_for(lambda: not killed.alive(), "the one that is killed to end")
    if side == "new":
        stays = moved(old)["left"]
    else:
        wait_for(lambda: "connections were taken over" in new.text(), "the end of it", log=new.log)
        stays = told(new.text(), "connections were taken over")["taken"]
    faults.stop()
    wait_for(
        lambda: sum(t.say("look")[1] for t in talkers) == stays, f"{stays} connections to live, and no others"
    )
    for t in talkers:
        t.process.kill()
    if side == "new":
        mesh.node.next_proxy()


def test_a_stranger_who_comes_is_refused(mesh):
    os.chmod(mesh.node.run_dir, 0o755)
    os.chmod(mesh.node.socket, 0o666)
    said = subprocess.run(
        [PYTHON, "-c", CONNECT, mesh.node.run_dir], capture_output=True, text=True, check=True
    )
    assert "hand_over_refused" in said.stdout and said.stdout.endswith(" b''\n")
    wait_for(lambda: "reason=hand_over_refused uid=65534" in mesh.node.proxy.text(), "it to be told")


def test_a_guest_who_does_not_say_who_it_is_is_refused(mesh):
    for message, why in ((b"\x09" + bytes(7), b"by a pidfd"), (None, b"it says nothing")):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
            s.connect(mesh.node.socket)
            if message:
                s.send(message)
            s.settimeout(20)
            assert why in s.recv(1000) and s.recv(1000) == b""


def test_a_stranger_who_waits_there_is_given_nothing(mesh):
    old = mesh.node.next_proxy()
    end(old)
    old.wait()
    os.unlink(mesh.node.socket)
    stranger = Process([PYTHON, "-u", "-c", LISTEN, mesh.node.socket], f"{mesh.dir}/stranger.log")
    stranger.wait_for_text("READY")
    (talker,) = talk(mesh, ways=["outside"])
    old = mesh.node.proxy
    end(old)
    wait_for(lambda: "reason=hand_over_refused uid=65534" in old.text(), "it to be told", log=old.log)
    assert 'why="who is there is not trusted"' in old.text()
    stranger.wait_for_text("GOT b''")
    talker.goes_on()
    talker.end()
    old.wait()
    os.unlink(mesh.node.socket)
    mesh.node.next_proxy()


def test_with_brumas_own_agent_it_is_not_a_setting():
    env = {**os.environ, "BRUMA_HAND_OVER_SOCKET": "/run/x"}
    r = subprocess.run([program("bruma-proxy")], env=env, capture_output=True, text=True, timeout=20)
    assert r.returncode == 1 and "BRUMA_HAND_OVER_SOCKET: belongs to INPOD_UDS" in r.stderr
