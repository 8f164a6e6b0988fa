# SPDX-License-Identifier: Apache-2.0
"""DNS of pods in the mesh: names that it knows are answered by the proxy, and every other question reaches the
server that the pod asked, byte for byte. The servers are dnsmasq and the clients dig, kdig, dnspython, glibc and
musl; what is captured, and what is not, shows in what the server has seen."""

import contextlib
import json
import re
import time

import pytest

from support.nodes.mesh import Mesh
from support.system import sh, wait_for

WEB = "web.demo.svc.cluster.local"
ANSWERED = re.compile(r"^\S+\.?\t", re.M)

# Answers one question at a time as it is told, and writes down what came: {name: behaviour}.
SERVER = r"""
import socket, struct, sys, threading
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
behaviour = sys.argv[2]
s = socket.socket(family, socket.SOCK_DGRAM)
s.bind((sys.argv[1], 53))
print("READY", flush=True)
while True:
    data, peer = s.recvfrom(65535)
    print("ASKED", peer[0], peer[1], data.hex(), flush=True)
    if behaviour == "silent":
        continue
    if behaviour == "forged":
        # with another id first, then from another port: neither is an answer
        s.sendto(bytes([data[0] ^ 1]) + data[1:2] + b"\x81\x83" + data[4:], peer)
        other = socket.socket(family, socket.SOCK_DGRAM)
        other.sendto(data[:2] + b"\x81\x83" + data[4:], peer)
    s.sendto(data[:2] + b"\x84\x00" + data[4:6] + b"\x00\x00\x00\x00\x00\x00" + data[12:] + b"odd \x00\xff", peer)
"""


def service(name, namespace, hostname, number=None, **more):
    vips = [f"/10.96.0.{number}", f"/fd00:96::{number}"] if number else []
    return {
        "name": name,
        "namespace": namespace,
        "hostname": hostname,
        "vips": vips,
        "ports": {80: 8080},
        **more,
    }


SERVICES = [
    service("web", "demo", WEB, 1),
    service("old", "demo", "old.demo.svc.cluster.local", 2, ipFamilies="IPv4"),
    service("set", "demo", "set.demo.svc.cluster.local"),
    service("entry", "demo", "api.example.com", 3),
    service("wild", "demo", "*.wild.example.com", 4),
    service("hidden", "other", "hidden.example.com", 5, visibility="Namespace"),
    service("both", "demo", "both.example.com", 6),
    service("both", "other", "both.example.com", 7),
    service("vipless", "demo", "vipless.example.com"),
    service("many", "demo", "many.demo.svc.cluster.local"),
]
MANY = 60
OPTIONS = [
    "--keep-in-foreground",
    "--no-resolv",
    "--no-hosts",
    "--log-queries",
    "--log-facility=-",
    "--user=root",
    "--pid-file=",
    "--edns-packet-max=1232",
    "--host-record=outside.test,192.0.2.1,2001:db8::1",
    "--srv-host=_db._tcp.outside.test,outside.test,5432,1,2",
    "--cname=alias.test,outside.test",
    "--mx-host=outside.test,mail.outside.test,10",
    "--ptr-record=1.2.0.192.in-addr.arpa,outside.test",
    "--txt-record=outside.test,hello",
    "--local=/test/",
    "--local=/cluster.local/",
    "--local=/example.com/",
]
BIG = [f"--txt-record=big.test,{c * 200}" for c in "abcdefghijklmnopqrst"]


@pytest.fixture(scope="module")
def mesh():
    # the limits are low, so that they can be met
    env = {"BRUMA_DNS_TIMEOUT": "1500ms", "BRUMA_MAX_POD_DNS_QUERIES": "40", "RUST_LOG": "info,dns=debug"}
    with Mesh(nodes=1, workers=2, agent_options=["--dns-capture=true"], proxy_env=env) as m:
        m.web, m.shop, m.two = m.pod("web"), m.pod("shop"), m.pod("two")
        m.other = m.pod("other", namespace="other")
        m.resolver, m.second = m.pod("resolver", namespace="outside"), m.pod("second", namespace="outside")
        m.resolver.outside = m.second.outside = True
        m.services = SERVICES
        m.shop.services = m.two.services = {"demo/set.demo.svc.cluster.local": {80: 8080}}
        m.extra = [
            {
                "name": f"many-{i}",
                "namespace": "demo",
                "workloadIps": [f"10.200.0.{i + 1}", f"fd00:200::{i + 1:x}"],
                "services": {"demo/many.demo.svc.cluster.local": {80: 8080}},
            }
            for i in range(MANY)
        ]
        m.start()
        m.dnsmasq = m.resolver.popen("dnsmasq", *OPTIONS, *BIG)
        wait_for(lambda: "started" in m.dnsmasq.text(), "dnsmasq")
        wait_for(lambda: rules(m.web.netns), "the rule of the pod")
        yield m


@contextlib.contextmanager
def served(pod, code, *argv):
    """A server in the pod for the time of the block."""
    p = pod.server(code, *argv)
    try:
        yield p
    finally:
        p.kill()


@contextlib.contextmanager
def dnsmasq(pod):
    p = pod.popen("dnsmasq", *OPTIONS)
    try:
        wait_for(lambda: "started" in p.text(), "dnsmasq")
        yield p
    finally:
        p.kill()


def rules(netns, family="-4"):
    out = sh("ip", family, "-n", netns, "rule")
    return [r for r in out.splitlines() if "dport 53" in r]


def dig(pod, server, *question, check=True):
    return pod.run("dig", "+time=3", "+tries=1", f"@{server}", *question, check=check).stdout


def short(pod, server, *question):
    return sorted(dig(pod, server, "+short", *question).split())


@pytest.fixture(params=["v4", "v6"])
def server(request, mesh):
    return mesh.resolver.ip if request.param == "v4" else mesh.resolver.ip6


@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
def test_a_service_is_answered_with_its_vips(mesh, server, transport):
    seen = mesh.dnsmasq.text().count(WEB)
    out = dig(mesh.web, server, transport, WEB, "A")
    assert re.search(rf"^{WEB}\.\s+30\s+IN\s+A\s+10\.96\.0\.1$", out, re.M), out
    assert "flags: qr aa rd ra;" in out and "status: NOERROR" in out
    assert f"SERVER: {server}#53" in out
    assert short(mesh.web, server, transport, WEB, "AAAA") == ["fd00:96::1"]
    assert mesh.dnsmasq.text().count(WEB) == seen, "the server was asked"


@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
def test_what_the_mesh_does_not_know_is_asked_of_the_pods_own_server(mesh, server, transport):
    assert short(mesh.web, server, transport, "outside.test", "A") == ["192.0.2.1"]
    assert short(mesh.web, server, transport, "outside.test", "AAAA") == ["2001:db8::1"]
    assert short(mesh.web, server, transport, "_db._tcp.outside.test", "SRV") == [
        "1",
        "2",
        "5432",
        "outside.test.",
    ]
    assert short(mesh.web, server, transport, "outside.test", "TXT") == ['"hello"']
    assert short(mesh.web, server, transport, "-x", "192.0.2.1") == ["outside.test."]
    assert "10 mail.outside.test." in dig(mesh.web, server, transport, "outside.test", "MX")
    assert "alias.test." in dig(mesh.web, server, transport, "alias.test", "A")
    out = dig(mesh.web, server, transport, "missing.test", "A")
    assert "status: NXDOMAIN" in out


def test_search_forms_and_short_names(mesh, server):
    for name in ("web", "web.demo", "web.demo.svc", WEB.upper()):
        assert short(mesh.web, server, name, "A") == ["10.96.0.1"], name
    # with a search domain of the pod behind it, a name says that it is another one
    out = dig(mesh.web, server, "+noall", "+answer", "api.example.com.demo.svc.cluster.local", "A")
    assert re.fullmatch(
        r"api\.example\.com\.demo\.svc\.cluster\.local\.\s+30\s+IN\s+CNAME\s+api\.example\.com\.\n"
        r"api\.example\.com\.\s+30\s+IN\s+A\s+10\.96\.0\.3\n",
        out,
    ), out
    # of another namespace's search domain the mesh knows nothing
    assert "NXDOMAIN" in dig(mesh.web, server, "api.example.com.other.svc.cluster.local", "A")


def test_wildcards(mesh, server):
    for name in ("a.wild.example.com", "a.b.wild.example.com"):
        out = dig(mesh.web, server, "+noall", "+answer", name, "A")
        assert re.fullmatch(rf"{re.escape(name)}\.\s+30\s+IN\s+A\s+10\.96\.0\.4\n", out), out
    assert "NXDOMAIN" in dig(mesh.web, server, "wild.example.com", "A")
    searched = "a.wild.example.com.svc.cluster.local"
    out = dig(mesh.web, server, "+noall", "+answer", searched, "A")
    assert re.fullmatch(rf"{re.escape(searched)}\.\s+30\s+IN\s+A\s+10\.96\.0\.4\n", out), out


def test_who_may_see_a_name(mesh, server):
    assert short(mesh.other, server, "hidden.example.com", "A") == ["10.96.0.5"]
    assert "NXDOMAIN" in dig(mesh.web, server, "hidden.example.com", "A")
    assert short(mesh.web, server, "both.example.com", "A") == ["10.96.0.6"]
    assert short(mesh.other, server, "both.example.com", "A") == ["10.96.0.7"]
    # short names are those of the pod's own namespace
    assert short(mesh.other, server, "web", "A") == []
    assert short(mesh.other, server, "web.demo", "A") == ["10.96.0.1"]


def test_a_headless_service_is_answered_with_its_endpoints(mesh, server):
    assert short(mesh.web, server, "set.demo", "A") == sorted([mesh.shop.ip, mesh.two.ip])
    assert short(mesh.web, server, "set.demo", "AAAA") == sorted([mesh.shop.ip6, mesh.two.ip6])
    # another service without an address says nothing
    assert "NXDOMAIN" in dig(mesh.web, server, "vipless.example.com", "A")
    # in another order each time, since clients take the first
    firsts = {dig(mesh.web, server, "+short", "set.demo", "A").split()[0] for _ in range(30)}
    assert firsts == {mesh.shop.ip, mesh.two.ip}


def test_a_family_that_a_service_has_not(mesh, server):
    out = dig(mesh.web, server, "old.demo", "AAAA")
    assert "status: NOERROR" in out and "ANSWER: 0" in out and "flags: qr aa rd ra;" in out
    assert short(mesh.web, server, "old.demo", "A") == ["10.96.0.2"]


def test_answers_that_are_too_long(mesh, server):
    name = "many.demo.svc.cluster.local"
    plain = dig(mesh.web, server, "+noedns", "+ignore", name, "AAAA")
    assert "tc" in re.search(r"flags: ([^;]*);", plain)[1].split()
    assert 10 < len(re.findall(r"\sAAAA\sfd00:200::", plain)) < MANY
    assert int(re.search(r"MSG SIZE  rcvd: (\d+)", plain)[1]) <= 512
    wide = dig(mesh.web, server, "+bufsize=4096", "+ignore", name, "AAAA")
    assert len(re.findall(r"\sAAAA\sfd00:200::", wide)) == MANY and "udp: 4096" in wide
    # a client that sees it asks again by TCP
    assert len(short(mesh.web, server, "+noedns", name, "AAAA")) == MANY


def test_edns_of_the_question_is_answered_in_kind(mesh, server):
    out = dig(mesh.web, server, "+dnssec", "+bufsize=1000", WEB, "A")
    assert re.search(r"EDNS: version: 0, flags: do; udp: 1000", out), out
    assert "EDNS" not in dig(mesh.web, server, "+noedns", WEB, "A")
    assert re.search(r"EDNS: version: 0, flags:; udp: 512", dig(mesh.web, server, "+bufsize=100", WEB, "A"))


def test_a_truncated_answer_of_the_server_leads_to_tcp(mesh, server):
    out = dig(mesh.web, server, "+bufsize=512", "+ignore", "big.test", "TXT")
    assert "tc" in re.search(r"flags: ([^;]*);", out)[1].split()
    assert len(re.findall(r'\sTXT\s"', dig(mesh.web, server, "big.test", "TXT"))) == len(BIG)


def test_other_clients(mesh, server):
    """kdig, with several questions on one connection."""
    out = mesh.web.run(
        "kdig",
        "+tcp",
        "+keepopen",
        f"@{server}",
        WEB,
        "A",
        "outside.test",
        "A",
        WEB,
        "AAAA",
        "outside.test",
        "TXT",
    ).stdout
    for answer in ("10.96.0.1", "192.0.2.1", "fd00:96::1", '"hello"'):
        assert answer in out, out
    assert mesh.web.python(
        """
import dns.message, dns.query, sys
for ask in (dns.query.udp, dns.query.tcp):
    for name, kind, answer in (("web.demo", "A", "10.96.0.1"), ("outside.test", "AAAA", "2001:db8::1")):
        a = ask(dns.message.make_query(name, kind, use_edns=0), sys.argv[1], timeout=3)
        assert [r.to_text() for r in a.answer[0]] == [answer], a
print("well")
""",
        server,
    ).split() == ["well"]


ADDRESSES = r"""
import socket, sys
for name in sys.argv[1:]:
    print(name, *sorted({a[4][0] for a in socket.getaddrinfo(name, 80, type=socket.SOCK_STREAM)}))
"""


def resolved(pod, config, *argv):
    """Runs argv in the pod with this resolv.conf."""
    path = f"{pod.node.mesh.dir}/resolv.conf"
    with open(path, "w") as f:
        f.write(config)
    hosts = f"{pod.node.mesh.dir}/nsswitch.conf"
    with open(hosts, "w") as f:
        f.write("hosts: dns\n")
    script = (
        'mount --bind "$0" /etc/resolv.conf && mount --bind "$1" /etc/nsswitch.conf && shift && exec "$@"'
    )
    return pod.run("unshare", "-m", "sh", "-c", script, path, hosts, *argv).stdout


@pytest.mark.parametrize("options", ["", "options use-vc", "options single-request", "options edns0"])
def test_glibc(mesh, server, options):
    """It asks for A and AAAA at once, by sendmmsg() on one socket."""
    search = "search demo.svc.cluster.local svc.cluster.local cluster.local"
    config = f"nameserver {server}\n{search}\noptions ndots:5\n{options}\n"
    out = resolved(mesh.web, config, "/usr/bin/python3", "-c", ADDRESSES, "web", "web.demo", "outside.test")
    assert out.splitlines() == [
        "web 10.96.0.1 fd00:96::1",
        "web.demo 10.96.0.1 fd00:96::1",
        "outside.test 192.0.2.1 2001:db8::1",
    ]


MUSL = r"""
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = 0;
        printf("%s %d", argv[i], getaddrinfo(argv[i], "80", &hints, &list));
        for (struct addrinfo *a = list; a; a = a->ai_next) {
            char text[64];
            printf(" %s", inet_ntop(a->ai_family, a->ai_family == AF_INET
                ? (void *)&((struct sockaddr_in *)a->ai_addr)->sin_addr
                : (void *)&((struct sockaddr_in6 *)a->ai_addr)->sin6_addr, text, sizeof(text)));
        }
        printf("\n");
    }
}
"""


def test_musl_asks_all_servers_on_one_socket(mesh):
    source, binary = f"{mesh.dir}/resolve.c", f"{mesh.dir}/resolve"
    with open(source, "w") as f:
        f.write(MUSL)
    sh("musl-gcc", "-static", "-o", binary, source)
    # the first of them says nothing, and the second refuses
    servers = (mesh.second.ip, mesh.second.ip6, mesh.resolver.ip)
    config = "".join(f"nameserver {s}\n" for s in servers) + "search demo.svc.cluster.local\n"
    with served(mesh.second, SERVER, mesh.second.ip, "silent"):
        began = time.monotonic()
        out = resolved(mesh.web, config, binary, "web", "outside.test")
        assert time.monotonic() - began < 3
    got = [line.split() for line in out.splitlines()]
    assert [g[:2] for g in got] == [["web", "0"], ["outside.test", "0"]]
    assert sorted(got[0][2:]) == ["10.96.0.1", "fd00:96::1"]
    assert sorted(got[1][2:]) == ["192.0.2.1", "2001:db8::1"]


# Prints, for each answer: the socket, the address that it came from, its bytes.
SOCKETS = r"""
import socket, struct, sys
servers, name = sys.argv[1].split(","), sys.argv[2]
def question(id, kind=1):
    labels = b"".join(bytes([len(l)]) + l.encode() for l in name.split("."))
    return struct.pack(">HHHHHH", id, 0x100, 1, 0, 0, 0) + labels + struct.pack(">BHH", 0, kind, 1)
family = socket.AF_INET6 if ":" in servers[0] else socket.AF_INET
def mapped(a):
    return "::ffff:" + a if ":" not in a else a
# one socket that is not connected, to several servers at a time
s = socket.socket(family, socket.SOCK_DGRAM)
s.settimeout(3)
for i, server in enumerate(servers):
    s.sendto(question(i), (server, 53))
for _ in servers:
    data, peer = s.recvfrom(4096)
    print("unconnected", servers[struct.unpack(">H", data[:2])[0]] == peer[0], peer[1], data[3] & 15)
# a connected one: only its peer is heard, and its names are what they should be
c = socket.socket(family, socket.SOCK_DGRAM)
c.settimeout(3)
c.connect((servers[0], 53))
c.send(question(7))
data, peer = c.recvfrom(4096)
print("connected", c.getpeername()[:2] == (servers[0], 53), peer[:2] == (servers[0], 53), data[3] & 15)
print("own address", c.getsockname()[0])
# ... connected anew to another server
c.connect((servers[-1], 53))
c.send(question(8))
data, peer = c.recvfrom(4096)
print("again", peer[:2] == (servers[-1], 53), data[:2] == b"\x00\x08")
# a socket of IPv6 that asks an IPv4 server
if family == socket.AF_INET:
    m = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    m.settimeout(3)
    m.sendto(question(9), (mapped(servers[0]), 53))
    data, peer = m.recvfrom(4096)
    print("mapped", peer[:2] == (mapped(servers[0]), 53), data[3] & 15)
"""


@pytest.mark.parametrize(("name", "code"), [(WEB, 0), ("outside.test", 0)])
def test_kinds_of_sockets(mesh, server, name, code):
    second = mesh.second.ip6 if ":" in server else mesh.second.ip
    with dnsmasq(mesh.second):
        out = mesh.web.python(SOCKETS, f"{server},{second}", name).splitlines()
        own = mesh.web.ip6 if ":" in server else mesh.web.ip
        expected = [f"unconnected True 53 {code}"] * 2 + [
            f"connected True True {code}",
            f"own address {own}",
            "again True True",
        ]
        assert out == expected + ([] if ":" in server else [f"mapped True {code}"])


RAW = r"""
import socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(4)
s.sendto(bytes.fromhex(sys.argv[2]), (sys.argv[1], 53))
data, peer = s.recvfrom(65535)
print(peer[0], peer[1], data.hex())
"""
QUESTIONS = {
    "ANY": "000a0100000100000000000004" + b"some".hex() + "0000ff0001",
    "an update": "beef28000001000000000000" + "0474657374000006" + "0001",
    "class CHAOS": "0102010000010000000000000776657273696f6e0462696e640000100003",
    "two questions": "0103010000020000000000000161000001000101620000010001",
    "no question": "01040100000000000000000000",
    "bytes behind it": "010501000001000000000000016100001c0001" + "deadbeef" * 20,
    "options of EDNS": "0106012000010000000000010161000010000100002904d0000080000010000a0008"
    + "11" * 8
    + "fdea0000",
    "a name with a dot in a label": "010701000001000000000000" + "03" + b"a.b".hex() + "0000010001",
    "a name that ends nowhere": "010801000001000000000000" + "3f6162",
    "a pointer to itself": "010901000001000000000000c00c00010001",
    "a signed question": "010a01000001000000000001" + "016100000100010000fa00ff00000000000b" + "00" * 11,
    "an SRV": "010b01000001000000000000" + "055f6e616d65045f746370036465" + "6d" + "0000210001",
}


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS)
def test_questions_and_answers_are_not_changed(mesh, server, question):
    address = mesh.second.ip6 if ":" in server else mesh.second.ip
    with served(mesh.second, SERVER, address, "answers") as p:
        peer, port, data = mesh.web.python(RAW, address, question).split()
        source, _, seen = re.search(r"ASKED (\S+) (\d+) (\w+)", p.text()).groups()
        assert seen == question and source == (mesh.web.ip6 if ":" in server else mesh.web.ip)
        assert (peer, port) == (address, "53")
        q = bytes.fromhex(question)
        assert bytes.fromhex(data) == q[:2] + b"\x84\x00" + q[4:6] + bytes(6) + q[12:] + b"odd \x00\xff"


def test_forged_answers_do_not_count(mesh, server):
    address = mesh.second.ip6 if ":" in server else mesh.second.ip
    with served(mesh.second, SERVER, address, "forged") as p:
        ports = set()
        for _ in range(20):
            _, _, data = mesh.web.python(RAW, address, QUESTIONS["ANY"]).split()
            assert data[4:8] == "8400"
        ports = {int(x) for x in re.findall(r"ASKED \S+ (\d+)", p.text())}
        assert len(ports) == 20, "the ports of questions can be guessed"


def failed(mesh, reason):
    return mesh.nodes[0].failures(reason)


def test_a_server_that_refuses_is_told_of_at_once(mesh, server):
    address = mesh.second.ip6 if ":" in server else mesh.second.ip
    before, began = failed(mesh, "dns_server_unreachable"), time.monotonic()
    out = dig(mesh.web, address, "outside.test", "A")
    assert time.monotonic() - began < 1, "it waited"
    assert "status: SERVFAIL" in out and f"SERVER: {address}#53" in out
    assert failed(mesh, "dns_server_unreachable") == before + 1


def test_a_server_without_a_route_is_told_of_at_once(mesh):
    began = time.monotonic()
    sh("ip", "-n", mesh.web.netns, "route", "add", "unreachable", "198.51.100.0/24")
    assert "status: SERVFAIL" in dig(mesh.web, "198.51.100.1", "outside.test", "A")
    assert time.monotonic() - began < 1, "it waited"


def test_a_silent_server_is_told_of_in_time(mesh, server):
    address = mesh.second.ip6 if ":" in server else mesh.second.ip
    with served(mesh.second, SERVER, address, "silent"):
        before, began = failed(mesh, "dns_server_silent"), time.monotonic()
        out = dig(mesh.web, address, "+time=5", "outside.test", "A")
        assert 1.4 < time.monotonic() - began < 3
        assert "status: SERVFAIL" in out
        assert failed(mesh, "dns_server_silent") == before + 1


MANY_QUESTIONS = r"""
import socket, struct, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(4)
n = int(sys.argv[2])
for i in range(n):
    s.sendto(struct.pack(">HHHHHH", i, 0x100, 1, 0, 0, 0) + b"\x01a\x00\x00\x10\x00\x01", (sys.argv[1], 53))
began, early = time.monotonic(), 0
for i in range(n):
    data = s.recv(4096)
    assert data[3] & 15 == 2
    early += time.monotonic() - began < 1
print(early)
"""


def test_questions_on_their_way_are_bounded(mesh):
    with served(mesh.second, SERVER, mesh.second.ip, "silent"):
        before = failed(mesh, "dns_pod_queries")
        early = int(mesh.web.python(MANY_QUESTIONS, mesh.second.ip, "100"))
        assert 55 <= early <= 60, early
        assert failed(mesh, "dns_pod_queries") - before == early
        # what the mesh knows is answered all the same, and others are not concerned
        assert short(mesh.web, mesh.second.ip, WEB, "A") == ["10.96.0.1"]
        assert short(mesh.shop, mesh.resolver.ip, "outside.test", "A") == ["192.0.2.1"]


def test_a_worker_has_a_bound_too(own_bounds):
    m = own_bounds
    with served(m.second, SERVER, m.second.ip, "silent"):
        early = int(m.web.python(MANY_QUESTIONS, m.second.ip, "30"))
    assert 18 <= early <= 20, early
    assert m.nodes[0].failures("dns_queries") == early


@pytest.fixture
def own_bounds():
    env = {"BRUMA_DNS_TIMEOUT": "1500ms", "BRUMA_MAX_DNS_QUERIES": "10"}
    with Mesh(nodes=1, workers=1, agent_options=["--dns-capture=true"], proxy_env=env) as m:
        m.web, m.second = m.pod("web"), m.pod("second", namespace="outside")
        m.second.outside = True
        m.start()
        wait_for(lambda: rules(m.web.netns), "the rule of the pod")
        yield m


GONE = r"""
import socket, subprocess, sys, time
own, server = sys.argv[1:]
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind((own, 0))
s.sendto(bytes.fromhex("000a01000001000000000000000010" "0001"), (server, 53))
time.sleep(0.3)
subprocess.run(["ip", "addr", "del", own + "/32", "dev", "lo"], check=True)
subprocess.run(["ip", "route", "add", "unreachable", own + "/32"], check=True)
"""


def test_an_answer_that_finds_no_client(mesh):
    """Its address is gone when the server is given up."""
    sh("ip", "-n", mesh.two.netns, "addr", "add", "203.0.113.77/32", "dev", "lo")
    before = failed(mesh, "dns_answer_lost")
    with served(mesh.second, SERVER, mesh.second.ip, "silent"):
        mesh.two.python(GONE, "203.0.113.77", mesh.second.ip)
        wait_for(lambda: failed(mesh, "dns_answer_lost") == before + 1, "the answer to be lost")


UDP_ECHO = r"""
import socket, sys
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.bind(("::", int(sys.argv[1])))
print("READY", flush=True)
while True:
    data, peer = s.recvfrom(65535)
    print("FROM", peer[0], data.decode(errors="replace"), flush=True)
    s.sendto(b"echo " + data, peer)
"""
UDP_ASK = r"""
import socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(3)
if len(sys.argv) > 4:
    s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, sys.argv[4].encode())
s.sendto(sys.argv[3].encode(), (sys.argv[1], int(sys.argv[2])))
data, peer = s.recvfrom(65535)
print(peer[0], peer[1], data.decode())
"""


@pytest.mark.parametrize("port", [52, 54, 5353, 853, 443])
def test_nothing_else_of_udp_is_touched(mesh, server, port):
    address = mesh.second.ip6 if ":" in server else mesh.second.ip
    own = mesh.web.ip6 if ":" in server else "::ffff:" + mesh.web.ip
    with served(mesh.second, UDP_ECHO, port) as p:
        assert mesh.web.python(UDP_ASK, address, port, "hello").split() == [
            address,
            str(port),
            "echo",
            "hello",
        ]
        assert f"FROM {own} hello" in p.text()


def test_a_dns_server_in_the_pod_serves_on(mesh, server):
    """On its own port 53: for itself, for others, and while it asks servers of its own."""
    own = mesh.shop.ip6 if ":" in server else mesh.shop.ip
    loopback = "::1" if ":" in server else "127.0.0.1"
    with served(mesh.shop, UDP_ECHO, 53) as p:
        for client, address in ((mesh.shop, own), (mesh.shop, loopback), (mesh.second, own)):
            assert client.python(UDP_ASK, address, 53, "mine").split() == [address, "53", "echo", "mine"]
        assert short(mesh.shop, server, WEB, "A") == ["10.96.0.1"]
        assert short(mesh.shop, server, "-b", f"{own}#5300", "outside.test", "A") == ["192.0.2.1"]
        # a pod of the mesh that asks it goes through its own proxy
        assert mesh.web.run(
            "dig", "+time=3", "+tries=1", f"@{own}", "outside.test", "TXT", check=False
        ).returncode in (0, 9, 10)
        wait_for(lambda: "outside" in p.text(), "the question of another pod")


def test_an_address_that_its_network_has_not_named(mesh):
    """A second address of the pod, with a server behind it: it is local, and not asked anywhere else."""
    sh("ip", "-n", mesh.two.netns, "addr", "add", "203.0.113.9/32", "dev", "lo")
    with dnsmasq(mesh.two) as p:
        assert short(mesh.two, "203.0.113.9", "outside.test", "A") == ["192.0.2.1"]
        assert "query[A] outside.test" in p.text()


def test_a_socket_that_is_bound_to_a_device_goes_its_way(mesh):
    with served(mesh.second, UDP_ECHO, 53) as p:
        assert mesh.web.python(UDP_ASK, mesh.second.ip, 53, "straight", "eth0").split()[2:] == [
            "echo",
            "straight",
        ]
        assert f"FROM ::ffff:{mesh.web.ip} straight" in p.text()


def test_metrics(mesh):
    def value(name, labels):
        total = 0
        for line in mesh.nodes[0].metrics().splitlines():
            if line.startswith(name + "{") and all(part in line for part in labels):
                total += float(line.rsplit(" ", 1)[1])
        return total

    who = ['source_canonical_service="two"', 'request_query_type="srv"', 'request_protocol="udp"']
    tcp = ['source_canonical_service="two"', 'request_query_type="a"', 'request_protocol="tcp"']
    before = value("istio_dns_requests_total", who)
    dig(mesh.two, mesh.resolver.ip, "_db._tcp.outside.test", "SRV")
    assert value("istio_dns_requests_total", who) == before + 1
    assert value("istio_dns_upstream_requests_total", who) == before + 1
    assert value("istio_dns_upstream_request_duration_seconds_count", who) == before + 1
    assert value("istio_dns_upstream_request_duration_seconds_bucket", [*who, 'le="+Inf"']) == before + 1
    dig(mesh.two, mesh.resolver.ip, "+tcp", WEB, "A")
    assert value("istio_dns_requests_total", tcp) == 1
    assert value("istio_dns_upstream_requests_total", tcp) == 0
    dig(mesh.two, mesh.second.ip, "outside.test", "A")
    udp = ['source_canonical_service="two"', 'request_query_type="a"', 'request_protocol="udp"']
    assert value("istio_dns_upstream_failures_total", udp) == 1


def explained(mesh, pod, name):
    out = mesh.nodes[0].ctl("explain", pod, name, "-o", "json", check=False).stdout
    return {line["check"]: line["detail"] for line in json.loads(out)}


def test_brumactl_says_how_a_name_is_answered(mesh):
    short_form = explained(mesh, "demo/web", "WEB.demo.")
    assert short_form["answer"] == f"by the proxy: service {WEB} in namespace demo"
    assert short_form["because"] == "a short form of the host name"
    assert short_form["addresses"] == "A: 10.96.0.1; AAAA: fd00:96::1"
    wild = explained(mesh, "demo/web", "x.wild.example.com.demo.svc.cluster.local")
    assert wild["because"] == "the host name with a search domain appended, by a wildcard"
    assert explained(mesh, "demo/web", "old.demo")["addresses"] == "A: 10.96.0.2; AAAA: none"
    assert "the mesh does not know the name" in explained(mesh, "demo/web", "hidden.example.com")["answer"]
    assert "10.96.0.5" in explained(mesh, "other/other", "hidden.example.com")["addresses"]
    assert "does not serve" in explained(mesh, "demo/nobody", "web")["source"]


def test_questions_are_in_the_log_at_debug(mesh):
    dig(mesh.web, mesh.resolver.ip, "web.demo", "A")
    line = [
        x for x in mesh.nodes[0].proxy.text().splitlines() if "\tdns\t" in x and 'domain="web.demo"' in x
    ][-1]
    assert 'src.workload="web"' in line and f'result="demo/{WEB}"' in line and "endpoints=1" in line


def test_a_rule_that_somebody_takes_away_is_put_back(mesh):
    sh(
        "ip",
        "-n",
        mesh.web.netns,
        "rule",
        "del",
        "iif",
        "lo",
        "fwmark",
        "0/0xfff",
        "ipproto",
        "udp",
        "dport",
        "53",
    )
    assert not rules(mesh.web.netns)
    wait_for(lambda: rules(mesh.web.netns), "the rule")
    assert short(mesh.web, mesh.resolver.ip, WEB, "A") == ["10.96.0.1"]
    assert "the capture of a pod's questions to DNS was broken and is repaired" in mesh.nodes[0].agent.text()


def test_questions_wait_for_the_next_proxy(mesh):
    node = mesh.nodes[0]
    node.proxy.kill()
    p = mesh.web.popen("dig", "+time=20", "+tries=1", f"@{mesh.resolver.ip}", "+short", WEB, "A")
    q = mesh.web.popen("dig", "+time=20", "+tries=1", f"@{mesh.resolver.ip}", "+short", "outside.test", "TXT")
    time.sleep(0.5)
    assert p.alive() and q.alive()
    node.start_proxy()
    assert p.wait(20) == 0 and q.wait(20) == 0
    assert p.text().split() == ["10.96.0.1"] and q.text().split() == ['"hello"']


def test_an_agent_that_comes_back_takes_over(mesh):
    node = mesh.nodes[0]
    node.agent.kill()
    assert short(mesh.web, mesh.resolver.ip, WEB, "A") == ["10.96.0.1"]
    node.start_agent(*mesh.agent_options)
    for _ in range(30):
        assert short(mesh.web, mesh.resolver.ip, WEB, "A") == ["10.96.0.1"]
        time.sleep(0.05)
    assert len(rules(mesh.web.netns)) == len(rules(mesh.web.netns, "-6")) == 1


def test_an_upgrade_of_the_proxy_loses_no_question(mesh):
    node, old = mesh.nodes[0], mesh.nodes[0].proxy
    p = mesh.web.popen(
        "/usr/bin/python3",
        "-u",
        "-c",
        """
import socket, struct, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(3)
end, n = time.monotonic() + 5, 0
while time.monotonic() < end:
    n += 1
    name = b"\\x03web\\x04demo" if n % 2 else b"\\x07outside\\x04test"
    s.sendto(struct.pack(">HHHHHH", n & 0xffff, 0x100, 1, 0, 0, 0) + name + b"\\x00\\x00\\x01\\x00\\x01", (sys.argv[1], 53))
    data = s.recv(4096)
    assert struct.unpack(">H", data[:2])[0] == n & 0xffff and data[3] & 15 == 0 and data[7] == 1, data
print("ASKED", n)
""",
        mesh.resolver.ip,
    )
    time.sleep(1)
    ports = dict.fromkeys(("BRUMA_ADMIN_PORT", "BRUMA_METRICS_PORT", "BRUMA_READY_PORT"), "0")
    mesh.proxy_env.update(ports)
    node.start_proxy(wait=False)
    wait_for(lambda: not old.alive(), "the end of the old proxy", 40)
    assert p.wait(20) == 0, p.text()
    assert int(p.text().split()[-1]) > 100


def flags(mesh, pod):
    for entry in json.loads(sh("bpftool", "-j", "map", "dump", "pinned", f"{pod.node.pin_dir}/maps/pods")):
        if entry["formatted"]["value"]["pod"] == f"{pod.namespace}/{pod.name}":
            return entry["formatted"]["value"]["flags"]
    return None


def test_a_pod_that_leaves_asks_its_servers_itself(mesh):
    pod = mesh.pod("leaver")
    mesh.write()
    pod.enroll()
    wait_for(lambda: rules(pod.netns), "the rule")
    assert flags(mesh, pod) & 32
    assert short(pod, mesh.resolver.ip, WEB, "A") == ["10.96.0.1"]
    mesh.extra = [
        *mesh.extra,
        {"name": "leaver", "namespace": "demo", "labels": {"istio.io/dataplane-mode": "none"}},
    ]
    pod.outside = True
    mesh.write()
    wait_for(lambda: not rules(pod.netns), "the end of the capture")
    assert "NXDOMAIN" in dig(pod, mesh.resolver.ip, WEB, "A")
    wait_for(lambda: flags(mesh, pod) is None, "the pod's entry to be gone")
    assert "98" not in sh("ip", "-d", "-n", pod.netns, "rule") and "53" not in sh(
        "ip", "-6", "-n", pod.netns, "rule"
    )
    assert not sh("ip", "netns", "exec", pod.netns, "ss", "-Hulnw").strip()


def test_without_the_setting_nothing_is_captured():
    with Mesh(nodes=1) as m:
        web, resolver = m.pod("web"), m.pod("resolver", namespace="outside")
        resolver.outside = True
        m.services = SERVICES[:1]
        m.start()
        p = resolver.popen("dnsmasq", *OPTIONS)
        wait_for(lambda: "started" in p.text(), "dnsmasq")
        assert not rules(web.netns) and not flags(m, web) & 32
        assert "NXDOMAIN" in dig(web, resolver.ip, WEB, "A")
        assert "NXDOMAIN" in dig(web, resolver.ip, "+tcp", WEB, "A")
        assert "not captured" in explained(m, "demo/web", WEB)["capture"]
        # and what an agent before has captured is let go by one that shall not
        m.nodes[0].agent.kill()
        m.nodes[0].start_agent("--dns-capture=true")
        wait_for(lambda: rules(web.netns), "the rule")
        assert short(web, resolver.ip, WEB, "A") == ["10.96.0.1"]
        m.nodes[0].agent.kill()
        m.nodes[0].start_agent()
        wait_for(lambda: not rules(web.netns) and not rules(web.netns, "-6"), "the end of the rules")
        assert "NXDOMAIN" in dig(web, resolver.ip, WEB, "A")
