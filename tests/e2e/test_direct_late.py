# SPDX-License-Identifier: Apache-2.0
"""Connections to outside the mesh whose SYN leaves, or is answered, long after connect() was let go: by then the destination may
be in the mesh, and no word of the application may go there in plaintext. The wire is the witness."""

import subprocess

import pytest

from support.bpf_map import dump
from support.direct import DirectMaps
from support.nodes.direct import counters, wait_direct
from support.nodes.mesh import Mesh
from support.nodes.pod import PYTHON
from support.nodes.pod_programs import ECHO
from support.system import wait_for
from support.wire.access_log import AccessLog
from support.wire.segments import Wire

SYN = 2

# One connection; how: what is done with the socket before. Says "CALLED" once connect() was called, then sends, when told to in
# its input, and says how all that went.
CLIENT = """
import errno, socket, sys, threading
how, address, port = sys.argv[1:4]
family = socket.AF_INET6 if ":" in address else socket.AF_INET
s = socket.socket(family, socket.SOCK_STREAM, 262 if how == "mptcp" else 0)
FASTOPEN_CONNECT, FASTOPEN_NO_COOKIE = 30, 34
secret = b"not for everybody"
if how == "deferred":
    s.setsockopt(socket.IPPROTO_TCP, FASTOPEN_NO_COOKIE, 1)
    s.setsockopt(socket.IPPROTO_TCP, FASTOPEN_CONNECT, 1)
if how == "fastopen":
    s.setsockopt(socket.IPPROTO_TCP, FASTOPEN_NO_COOKIE, 1)
s.settimeout(40)
def dial():
    try:
        if how == "fastopen":
            s.sendto(secret, socket.MSG_FASTOPEN, (address, int(port)))
        else:
            s.connect((address, int(port)))
        if how == "deferred":
            print("CALLED", flush=True)
            sys.stdin.readline()
        s.sendall(secret)
        return "data" if s.recv(100) else "end"
    except OSError as e:
        return errno.errorcode.get(e.errno, type(e).__name__)
if how != "deferred":
    threading.Timer(0, lambda: print("CALLED", flush=True)).start()
print("SAID", dial(), flush=True)
"""

PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}


@pytest.fixture(scope="module")
def mesh():
    with Mesh(nodes=1, agent_options=("--direct-outside", "true", "--direct-inbound", "true")) as m:
        m.node = m.nodes[0]
        m.web = m.pod("web")
        m.outside = m.pod("outside", namespace="outside")
        m.outside.outside = True
        m.start()
        m.maps = DirectMaps(m.node)
        m.outside.server(ECHO, "8080")
        m.outside.run("sysctl", "-q", "-w", "net.ipv4.tcp_fastopen=0x603")
        m.web.run("sysctl", "-q", "-w", "net.ipv4.tcp_fastopen=0x7")
        wait_direct(m.web, "direct", "pass")
        with Wire(m.node) as m.wire:
            yield m


@pytest.fixture(autouse=True)
def outside(mesh):
    """The destination is outside the mesh, before and after."""
    mesh.wire.forget()
    yield
    mesh.outside.run("ip", "rule", "del", "pref", "1", check=False)
    mesh.outside.run("ip", "-6", "rule", "del", "pref", "1", check=False)
    if not mesh.outside.outside:
        mesh.outside.outside = True
        mesh.write()
        wait_for(lambda: mesh.outside.ip not in mesh.maps.addresses(), "the destination to be outside again")


def joins(mesh):
    """The destination comes into the mesh; it can take no tunnels."""
    mesh.outside.outside, mesh.outside.more = False, {"protocol": "HBONE"}
    mesh.write()
    wait_for(lambda: mesh.outside.ip in mesh.maps.addresses(), "the kernel to know it")


def mute(mesh, family, on):
    """The destination hears, and cannot answer."""
    command = ("ip", "-6") if family else ("ip",)
    mesh.outside.run(
        *command, "rule", "add" if on else "del", "pref", "1", "to", mesh.web.ips[family], "prohibit"
    )


def to_outside(mesh, family):
    """What web has sent there past the proxy."""
    return [
        s
        for s in mesh.wire.seen()
        if s.destination == mesh.outside.ips[family] and s.destination_port == 8080
    ]


@pytest.mark.parametrize("family", [0, 1])
def test_a_syn_that_leaves_with_the_first_data(mesh, family):
    """TCP_FASTOPEN_CONNECT: connect() has said yes before there is a packet."""
    before = counters(mesh.web)["direct_outside_connections"]
    with mesh.web.pipe(PYTHON, "-c", CLIENT, "deferred", mesh.outside.ips[family], "8080", **PIPES) as client:
        assert client.stdout.readline() == "CALLED\n"
        joins(mesh)
        client.communicate("\n", timeout=60)
    assert to_outside(mesh, family) == []
    assert counters(mesh.web)["direct_outside_connections"] == before


@pytest.mark.parametrize("how", ["plain", "mptcp", "fastopen"])
@pytest.mark.parametrize("family", [0, 1])
def test_a_syn_that_is_answered_when_the_destination_has_joined_the_mesh(mesh, how, family):
    log = AccessLog(mesh.node)
    mute(mesh, family, True)
    with mesh.web.pipe(PYTHON, "-c", CLIENT, how, mesh.outside.ips[family], "8080", **PIPES) as client:
        assert client.stdout.readline() == "CALLED\n"
        port = wait_for(lambda: to_outside(mesh, family), "the first SYN")[-1].source_port
        joins(mesh)
        mesh.wire.forget()
        mute(mesh, family, False)
        # Of IPv4 the pod's own kernel resets it, and of IPv6 it refuses to send; the proxy may be faster.
        said = client.stdout.readline().split()[1]
        assert said in ("ECONNABORTED", "EACCES" if family else "ECONNRESET")
    seen = [s for s in to_outside(mesh, family) if s.source_port == port]
    assert seen and all(s.flags == SYN and not s.payload for s in seen), seen
    line = log.wait("its end", way="direct")["line"]
    assert "policy_changed" in line and "has come into the mesh" in line, line
    wait_for(lambda: not dump(mesh.node, "flows"), "no flows")


# Calls from one port to one of somebody who calls back, and tells him something.
CALL = """
import socket, sys
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
if sys.argv[4:]:
    s.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 7)
s.bind(("", int(sys.argv[1])))
s.settimeout(20)
s.connect((sys.argv[2], int(sys.argv[3])))
s.sendall(b"x")
print("SAID", s.recv(1).decode(), flush=True)
sys.stdin.readline()
"""


def test_both_sides_call_each_other_at_once(mesh):
    """It is the connection to outside that the pod wanted, although the kernel tells of one that was accepted."""
    log = AccessLog(mesh.node)
    # of what has no socket there, the kernel may not answer that there is none
    mesh.outside.run("ip", "rule", "add", "pref", "1", "to", mesh.web.ip, "fwmark", "0/0xff", "prohibit")
    with mesh.web.pipe(PYTHON, "-c", CALL, "45000", mesh.outside.ip, "9090", **PIPES) as web:
        wait_for(lambda: [s for s in mesh.wire.seen() if s.destination_port == 9090], "its SYN")
        with mesh.outside.pipe(PYTHON, "-c", CALL, "9090", mesh.web.ip, "45000", "mark", **PIPES) as outside:
            assert web.stdout.readline() == outside.stdout.readline() == "SAID x\n"
            ((_, flow),) = dump(mesh.node, "flows")
            assert flow["way"] == "BRUMA_DIRECT_OUTSIDE", flow
            outside.communicate("\n")
        web.communicate("\n")
    assert 'direction="outbound"' in log.wait("its end", way="direct", bytes_sent="1", bytes_recv="1")["line"]


def test_a_syn_that_is_answered_late_from_outside_goes_on(mesh):
    mute(mesh, 0, True)
    with mesh.web.pipe(PYTHON, "-c", CLIENT, "plain", mesh.outside.ip, "8080", **PIPES) as client:
        assert client.stdout.readline() == "CALLED\n"
        wait_for(lambda: len(to_outside(mesh, 0)) == 2, "the SYN to be repeated")
        mute(mesh, 0, False)
        assert client.stdout.readline() == "SAID data\n"
