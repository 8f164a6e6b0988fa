# SPDX-License-Identifier: Apache-2.0
"""What ends, however it ends, leaves no program of ours spinning."""

import contextlib
import json
import os
import socket
import struct
import time

import pytest

from support.network import inside
from support.nodes.mesh import Mesh
from support.system import sh, wait_for

STATES = [
    "resting",
    "unread",
    "unread on both sides",
    "unread, and the other has ended",
    "ended",
    "unread, and both have ended",
]


# One connection for each state. Who "resets" brings them there and, when told to by a pipe, resets them all;
# the other side reads nothing at all, and says of which connections it was told that they are over.
SIDE = """
import json, os, select, socket, struct, sys, time
role, host, port, resets = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "resets"
pipe, states = sys.argv[5], int(sys.argv[6])
if role == "server":
    listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    print("READY", flush=True)
    all = {}
    for i in range(states):
        s = listener.accept()[0]
        all[s.recv(1)[0]] = s
    for s in all.values():
        s.sendall(b"!")
else:
    all = {}
    for i in range(states):
        all[i] = s = socket.create_connection((host, port), timeout=30)
        s.sendall(bytes([i]))
    for s in all.values():
        s.recv(1)
def fill(s):
    s.setblocking(False)
    last = time.monotonic()
    while time.monotonic() - last < 0.5:
        try:
            s.send(bytes(65536))
            last = time.monotonic()
        except BlockingIOError:
            time.sleep(0.01)
for i, s in all.items():
    if i in (1, 3, 5) and resets or i == 2:
        fill(s)
    if i == 4 and resets:
        s.sendall(b"last")
    if i in (4, 5) and resets or i in (3, 5) and not resets:
        s.shutdown(socket.SHUT_WR)
print("THERE", flush=True)
open(pipe).close()
if resets:
    for s in all.values():
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        s.close()
    sys.exit()
p = select.poll()
for s in all.values():
    p.register(s, 0)  # errors and hang-ups
told, end = set(), time.monotonic() + 30
while len(told) < states and time.monotonic() < end:
    for fd, events in p.poll(1000):
        p.unregister(fd)
        told.update(i for i, s in all.items() if s.fileno() == fd)
print("TOLD", json.dumps(sorted(told)), flush=True)
"""


def busy(processes, seconds):
    """Processor time of each in so many seconds, as a share of them."""
    before = [p.cpu_seconds() for p in processes]
    time.sleep(seconds)
    return [(p.cpu_seconds() - b) / seconds for p, b in zip(processes, before, strict=True)]


@pytest.mark.parametrize("who", ["client", "server"])
@pytest.mark.parametrize("way", ["tunnel", "plaintext", "passed through"])
def test_a_reset_in_any_state_is_told_and_leaves_nothing_spinning(impatient, way, who, tmp_path):
    m = impatient
    client, server = {
        "tunnel": (m.web, m.shop),
        "plaintext": (m.outside, m.shop),
        "passed through": (m.web, m.outside),
    }[way]
    port, sides = next(m.ports), {}
    for name, pod in (("server", server), ("client", client)):
        pipe = tmp_path / name
        os.mkfifo(pipe)
        argv = [
            "/usr/bin/python3",
            "-u",
            "-c",
            SIDE,
            name,
            server.ip,
            port,
            "resets" if name == who else "stays",
            pipe,
            len(STATES),
        ]
        sides[name] = pod.popen(*argv)
        wait_for(lambda: name == "client" or "READY" in sides["server"].text(), "the server")
    for p in sides.values():
        wait_for(lambda p=p: "THERE" in p.text() or not p.alive(), "all states to be reached")
        assert p.alive(), p.text()
    proxies = [n.proxy for n in m.nodes]
    time.sleep(0.3)
    assert max(busy(proxies, 1)) < 0.3, "before the reset"
    other = sides["server" if who == "client" else "client"]
    (tmp_path / ("server" if who == "client" else "client")).write_text("")
    (tmp_path / who).write_text("")
    assert max(busy(proxies, 2)) < 0.4, "after the reset"
    wait_for(lambda: "TOLD" in other.text(), "the other side to be told", 40)
    told = json.loads(other.text().partition("TOLD ")[2].splitlines()[0])
    assert [s for i, s in enumerate(STATES) if i not in told] == []
    wait_for(
        lambda: all(
            not pod["connections"]["inbound"] and not pod["connections"]["outbound"]
            for n in m.nodes
            for pod in n.config_dump()["workloadState"].values()
        ),
        "no connection to be left",
    )
    assert max(busy(proxies, 1)) < 0.3, "at the end"


# Whatever one talks to programs of the node: nothing, pieces, the whole request, and then no reading.
REQUEST = b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n"


TALK = {
    15000: [
        b"",
        b"GET /con",
        REQUEST % b"config_dump",
        (REQUEST % b"config_dump") * 2000,
        b"POST / HTTP/1.1\r\nContent-Length: 9000\r\n\r\nx",
    ],
    15020: [b"", b"GET /met", REQUEST % b"metrics", (REQUEST % b"metrics") * 2000],
    15021: [b"", b"GET /", REQUEST % b"healthz/ready", b"\0" * 100],
    15012: [b"", b"\x16\x03\x01", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", bytes(3000)],
}


@pytest.mark.parametrize("how", ["reset", "ended", "ended and reset"])
def test_clients_of_the_programs_own_servers_leave_nothing_spinning(impatient, how):
    node = impatient.nodes[0]
    open_ones = []
    with inside(node.netns):
        for port, texts in TALK.items():
            for text in texts:
                s = socket.create_connection(("127.0.0.1", port), timeout=5)
                s.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    s.send(text)
                open_ones.append(s)
    for path, kind in (("agent.sock", socket.SOCK_SEQPACKET), ("proxy.sock", socket.SOCK_STREAM)):
        for text in (b"", b'{"op":"status"}', REQUEST % b"config_dump"):
            s = socket.socket(socket.AF_UNIX, kind)
            s.connect(f"{node.run_dir}/{path}")
            if text:
                s.send(text)
            open_ones.append(s)
    programs = [node.agent, node.proxy]
    time.sleep(0.5)
    assert max(busy(programs, 1)) < 0.4, "while they are there"
    for s in open_ones:
        with contextlib.suppress(OSError):
            if how != "reset":
                s.shutdown(socket.SHUT_WR)
    assert max(busy(programs, 1)) < 0.4, "while they have half ended"
    for s in open_ones:
        if how != "ended" and s.family == socket.AF_INET:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if how != "ended":
            s.close()
    assert max(busy(programs, 1)) < 0.4, "when they have gone"
    for s in open_ones:
        s.close()


@pytest.mark.parametrize("port", [15000, 15020, 15021, 15012])
def test_a_listener_of_the_node_that_is_destroyed_listens_again(impatient, port):
    node = impatient.nodes[0]
    out = sh("ip", "netns", "exec", node.netns, "ss", "-K", "-Hltn", f"sport = :{port}")
    if "LISTEN" not in out:
        pytest.skip("this kernel destroys no sockets (CONFIG_INET_DIAG_DESTROY)")

    def served():
        with inside(node.netns), contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=2).close()
            return True
        return False

    wait_for(served, "the listener to be back")
    assert max(busy([node.agent, node.proxy], 1)) < 0.3
    program = node.agent if port == 15012 else node.proxy
    assert "reason=listener_closed" in program.text()


def test_node_proxies_that_vanish_leave_the_agent_at_rest(tmp_path):
    """On the workload discovery socket: at each step of its protocol the other side ends one direction, the
    other, both, or goes."""
    with Mesh(nodes=1) as m:
        m.write()
        node, path = m.nodes[0], str(tmp_path / "zds.sock")
        node.start_agent("--zds-socket", path)
        for said in (b"", b"\x08\x01", b"\xff\xff"):
            for how in (None, socket.SHUT_WR, socket.SHUT_RD, socket.SHUT_RDWR):
                s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                s.connect(path)
                with contextlib.suppress(OSError):
                    if said:
                        s.send(said)
                    if how is not None:
                        s.shutdown(how)
                assert max(busy([node.agent], 0.5)) < 0.4, (said, how, "while it is there")
                s.close()
                assert max(busy([node.agent], 0.3)) < 0.5, (said, how, "when it has gone")
