# SPDX-License-Identifier: Apache-2.0
"""DNS of pods in the mesh: names that it knows are answered by the proxy, and every other query reaches the
server that the pod asked. The clients are dig, kdig, dnspython, glibc and musl."""

import json
import re
import time

import pytest

from support.dns import BIG, MANY, SERVER, WEB, dig, dns_mesh, dnsmasq, explained, resolving, served, short
from support.system import sh


@pytest.fixture(scope="module")
def mesh():
    with dns_mesh() as m:
        yield m


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
        a = ask(dns.message.make_query(name, kind, use_edns=0), sys.argv[1], timeout=20)
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


@pytest.mark.parametrize("options", ["", "options use-vc", "options single-request", "options edns0"])
def test_glibc(mesh, server, options):
    """It asks for A and AAAA at once, by sendmmsg() on one socket."""
    search = "search demo.svc.cluster.local svc.cluster.local cluster.local"
    config = f"nameserver {server}\n{search}\noptions ndots:5\n{options}\n"
    out = resolving(mesh.web, config, "/usr/bin/python3", "-c", ADDRESSES, "web", "web.demo", "outside.test")
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
        out = resolving(mesh.web, config, binary, "web", "outside.test")
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
s.settimeout(20)
for i, server in enumerate(servers):
    s.sendto(question(i), (server, 53))
for _ in servers:
    data, peer = s.recvfrom(4096)
    print("unconnected", servers[struct.unpack(">H", data[:2])[0]] == peer[0], peer[1], data[3] & 15)
# a connected one: only its peer is heard, and its names are what they should be
c = socket.socket(family, socket.SOCK_DGRAM)
c.settimeout(20)
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
    m.settimeout(20)
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


def test_brumactl_says_how_a_name_is_answered(mesh):
    short_form = explained(mesh, "demo/web", "WEB.demo.")
    assert short_form["answer"] == f"by the proxy: service {WEB} in namespace demo"
    assert short_form["because"] == "a short form of the host name"
    assert short_form["addresses"] == "A: 10.96.0.1; AAAA: fd00:96::1"
    wild = explained(mesh, "demo/web", "x.wild.example.com.demo.svc.cluster.local")
    assert wild["because"] == "the host name with a search domain appended, by a wildcard"
    of_ipv4 = explained(mesh, "demo/web", "old.demo")["addresses"]
    assert of_ipv4 == "A: 10.96.0.2; AAAA: none, the service is of the other IP family alone"
    hidden = explained(mesh, "demo/web", "hidden.example.com")
    assert "forwarded" in hidden["answer"]
    assert hidden["because"] == (
        "service hidden.example.com in namespace other is visible in its own namespace alone"
    )
    vipless = explained(mesh, "demo/web", "vipless.example.com")["because"]
    assert vipless == (
        "service vipless.example.com in namespace demo has no virtual address, and is not headless"
    )
    unknown = explained(mesh, "demo/web", "outside.test")
    assert "the mesh does not know the name" in unknown["because"]
    assert "10.96.0.5" in explained(mesh, "other/other", "hidden.example.com")["addresses"]
    assert "does not serve" in explained(mesh, "demo/nobody", "web")["source"]


def test_brumactl_says_which_servers_are_asked(mesh):
    def servers():
        out = mesh.nodes[0].ctl("explain", "demo/two", "outside.test", "-o", "json").stdout
        return [line["detail"] for line in json.loads(out) if line["check"] == "server"]

    assert servers() == ["no query of the pod was forwarded yet; its /etc/resolv.conf names the servers"], (
        "of this pod nothing may have been asked before"
    )
    short(mesh.two, mesh.resolver.ip, WEB, "A")
    assert len(servers()) == 1 and "no query" in servers()[0], "what is answered here goes nowhere"
    short(mesh.two, mesh.resolver.ip, "outside.test", "A")
    dig(mesh.two, mesh.second.ip6, "outside.test", "A")
    short(mesh.two, mesh.resolver.ip, "+tcp", "outside.test", "A")
    said = servers()
    assert re.fullmatch(
        rf"{mesh.resolver.ip}:53: 2 queries of the pod forwarded, the last one [0-9] s ago", said[0]
    )
    assert said[1].startswith(f"[{mesh.second.ip6}]:53: 1 queries") and len(said) == 2
