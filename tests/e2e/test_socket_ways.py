# SPDX-License-Identifier: Apache-2.0
"""What connect() has named is where a connection goes, by whatever option, message or protocol a process of a
pod would have it otherwise: as an ordinary user it leaves the pod by a tunnel, or not at all. To its own pod,
which is not captured, and to another."""

import json
import os

import pytest

from support.nodes.direct import WAYS
from support.nodes.mesh import Mesh
from support.nodes.pod_programs import ECHO
from support.programs import BUILD
from support.system import wait_for
from support.wire.segments import HBONE, Wire, parse

USER = [
    "setpriv",
    "--reuid",
    "65534",
    "--regid",
    "65534",
    "--clear-groups",
    "--inh-caps=-all",
    "--bounding-set=-all",
]

# Options by which packets go elsewhere than connect() has named.
OTHER_WAY = {
    "rthdr2": [1],
    "rthdr4": [1],
    "old-rthdr2": [1],
    "pktoptions": [1],
    "uring-rthdr4": [1],
    "lsrr": [0],
    "ssrr": [0],
    "later-rthdr4": [1],
    "later-lsrr": [0],
}
# Those that do not, or not for TCP.
SAME_WAY = {
    "pktinfo": [1],
    "nexthop": [1],
    "unicast-if": [0, 1],
    "dontroute": [0, 1],
    "flow-label": [1],
    "ancillary": [1],
}
# Protocols and calls that carry what TCP carries.
CARRIERS = ["uring", "mptcp", "fastopen-connect", "sctp", "smc", "dccp"]
ABSENT = ("refused socket EPROTONOSUPPORT", "refused socket EAFNOSUPPORT", "refused socket ESOCKTNOSUPPORT")


def cases(ways):
    return pytest.mark.parametrize(
        ("way", "family"),
        [(w, f) for w, families in ways.items() for f in families],
        ids=[f"{w}-{'v6' if f else 'v4'}" for w, families in ways.items() for f in families],
    )


@pytest.fixture(scope="module")
def mesh():
    with Mesh(nodes=2, workers=1, agent_options=WAYS) as m:
        m.web, m.near, m.shop = m.pod("web"), m.pod("near"), m.pod("shop", node=1)
        m.outside = m.pod("outside", namespace="outside")
        m.outside.outside = True
        m.start()
        for pod in m.pods:
            pod.server(ECHO, "8080")
            for name in (
                "net.ipv6.conf.all.seg6_enabled",
                "net.ipv6.conf.eth0.seg6_enabled",
                "net.ipv6.conf.lo.seg6_enabled",
                "net.ipv4.conf.all.accept_source_route",
                "net.ipv4.conf.lo.accept_source_route",
                "net.ipv4.conf.eth0.accept_source_route",
            ):
                pod.run("sysctl", "-q", "-w", f"{name}=1", check=False)
        with Wire(m.nodes[0]) as m.wire:
            yield m


@pytest.fixture(autouse=True)
def oracle(mesh):
    mesh.wire.forget()
    yield
    assert not left_in_plaintext(mesh)


def left_in_plaintext(mesh):
    """Segments that a pod of the mesh has sent to anybody, or was sent, outside of a tunnel."""
    members = [a for p in (mesh.web, mesh.near, mesh.shop) for a in p.ips]
    return [
        s
        for s in mesh.wire.seen()
        if HBONE not in (s.source_port, s.destination_port)
        and (s.source in members or s.destination in members)
    ]


def ask(pod, way, to, via="", word="out of the pod", user=USER):
    return pod.run(
        *user, os.path.abspath(f"{BUILD}/tests/e2e/socket-ways"), way, to, 8080, word, via
    ).stdout.strip()


def counted(mesh):
    failures = json.loads(mesh.nodes[0].ctl("status", "-o", "json").stdout)["failures"]
    return failures.get("routing_option", {"count": 0})["count"]


def own(pod, family):
    """What is not captured: loopback, and the pod's own address."""
    return [["127.0.0.1", "::1"][family], pod.ips[family]]


def test_the_wire_is_read_behind_extension_headers():
    """A SYN behind a routing header and a hop-by-hop header, as it is on the wire."""
    ethernet = bytes(12) + b"\x86\xdd"
    tcp = (1234).to_bytes(2, "big") + (8080).to_bytes(2, "big") + bytes(8) + b"\x50\x02" + bytes(6)
    hop = bytes([43, 0]) + bytes(6)
    routing = bytes([6, 2, 2, 1]) + bytes(20)
    ip = (
        b"\x60\0\0\0"
        + (len(hop) + len(routing) + len(tcp)).to_bytes(2, "big")
        + bytes([0, 64])
        + bytes(15)
        + b"\1"
        + bytes(15)
        + b"\2"
    )
    protocol, segment = parse(ethernet + ip + hop + routing + tcp)
    assert (
        protocol == 6
        and segment.destination == "::2"
        and (segment.source_port, segment.destination_port) == (1234, 8080)
    )
    assert segment.flags == 2 and segment.payload == b""


@cases(OTHER_WAY)
def test_an_option_that_leads_elsewhere_is_refused(mesh, way, family):
    """To one of this node, and to one of another: the option is refused by name, whether the connection lives
    or not."""
    before = counted(mesh)
    for to in own(mesh.web, family):
        for via in (mesh.near.ips[family], mesh.shop.ips[family]):
            assert ask(mesh.web, way, to, via) == "refused option EPERM", (to, via)
    assert counted(mesh) >= before + 4
    assert not [s for s in mesh.wire.seen() if s.payload and b"out of the pod" in s.payload]


@cases(OTHER_WAY)
def test_by_root_of_the_pod_too(mesh, way, family):
    assert (
        ask(mesh.web, way, own(mesh.web, family)[0], mesh.shop.ips[family], user=[]) == "refused option EPERM"
    )


@cases(OTHER_WAY)
def test_to_another_pod_too(mesh, way, family):
    assert ask(mesh.web, way, mesh.shop.ips[family], mesh.near.ips[family]) == "refused option EPERM"


@cases(SAME_WAY)
def test_an_option_that_does_not(mesh, way, family):
    """Refused by the kernel or without effect on the way of TCP: the connection goes to whom connect() has
    named."""
    for to in (*own(mesh.web, family), mesh.shop.ips[family], mesh.near.ips[family]):
        said = ask(mesh.web, way, to, mesh.shop.ips[family])
        # a fast open to where none was before may not wait for its answer
        assert said == "out of the pod" or said.startswith("refused"), (to, said)
        assert "EPERM" not in said or way == "nexthop", (to, said)


@pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])
@pytest.mark.parametrize("way", CARRIERS)
def test_whatever_carries_it(mesh, way, family):
    """By whatever call and protocol it is made, a connection is captured. What this kernel does not have it
    says."""
    for to in (*own(mesh.web, family), mesh.shop.ips[family], mesh.near.ips[family]):
        said = ask(mesh.web, way, to)
        assert said == "out of the pod" or (way in ("sctp", "smc", "dccp") and said in ABSENT), (to, said)
        assert way in ("sctp", "smc", "dccp") or said == "out of the pod"


@cases({"rthdr4": [1], "lsrr": [0]})
def test_a_socket_that_has_it_since_before_its_pod_was_enrolled(mesh, way, family):
    late = mesh.pod(f"late-{way}")
    go = f"{mesh.dir}/go-{way}"
    code = """
import errno, os, socket, struct, sys, time
to, via, go = sys.argv[1:]
v6 = ":" in to
s = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET)
if v6:
    s.setsockopt(socket.IPPROTO_IPV6, 57, bytes([0, 2, 4, 0, 0, 0, 0, 0]) + socket.inet_pton(socket.AF_INET6, via))
else:
    s.setsockopt(socket.IPPROTO_IP, 4, bytes([1, 131, 7, 4]) + socket.inet_aton(via))
print("READY", flush=True)
while not os.path.exists(go):
    time.sleep(0.01)
os.setuid(65534)
s.settimeout(3)
try:
    s.connect((to, 8080)); print("connected")
except OSError as e:
    print(errno.errorcode.get(e.errno, type(e).__name__))
"""
    mesh.write()
    p = late.popen("/usr/bin/python3", "-u", "-c", code, own(late, family)[0], mesh.near.ips[family], go)
    wait_for(lambda: "READY" in p.text() or not p.alive(), "the socket with the option")
    before = counted(mesh)
    wait_for(lambda: late.cni("ADD", check=False).returncode == 0, "enrollment")
    mesh.wire.forget()
    with open(go, "w"):
        pass
    wait_for(lambda: len(p.text().split()) > 1, "what becomes of it")
    assert p.text().split() == ["READY", "EPERM"]
    assert counted(mesh) == before + 1
    assert not [
        s
        for s in mesh.wire.seen()
        if s.source in late.ips and HBONE not in (s.source_port, s.destination_port)
    ]


def test_others_are_let_alone(mesh):
    """Pods outside the mesh, UDP, options that take the header away, other options of IPv4, and values longer
    than a page."""
    code = """
import socket
rthdr = bytes([0, 2, 4, 0, 0, 0, 0, 0]) + socket.inet_pton(socket.AF_INET6, "fd00::9")
for kind, value in ((socket.SOCK_DGRAM, rthdr), (socket.SOCK_STREAM, b"")):
    socket.socket(socket.AF_INET6, kind).setsockopt(socket.IPPROTO_IPV6, 57, value)
s = socket.socket()
s.setsockopt(socket.IPPROTO_IP, 4, bytes([7, 7, 4, 0, 0, 0, 0, 0]))  # record route
s.setsockopt(socket.IPPROTO_IP, 4, b"")
for size in (4, 40, 4096, 4097, 65536):
    s.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, (1).to_bytes(4, "little") + bytes(size - 4))
    assert s.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
print("done")
"""
    before = counted(mesh)
    for pod in (mesh.web, mesh.outside):
        assert pod.run(*USER, "/usr/bin/python3", "-c", code).stdout.strip() == "done", pod.name
    outside = """
import socket
header = bytes([0, 2, 4, 0, 0, 0, 0, 0]) + socket.inet_pton(socket.AF_INET6, "fd00::9")
socket.socket(socket.AF_INET6).setsockopt(socket.IPPROTO_IPV6, 57, header)
print("done")
"""
    assert mesh.outside.python(outside).strip() == "done"
    assert counted(mesh) == before
