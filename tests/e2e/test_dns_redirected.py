# SPDX-License-Identifier: Apache-2.0
"""DNS of pods that a stock CNI agent captures: its rules redirect port 53 to 15053, where the proxy listens, and
conntrack knows which server was asked."""

import re

import pytest

from support.nodes.mesh import Mesh
from support.nodes.zds_node import ZdsNode
from support.programs import ROOT
from support.system import sh, wait_for

WEB = "web.demo.svc.cluster.local"
OPTIONS = [
    "--keep-in-foreground",
    "--no-resolv",
    "--no-hosts",
    "--log-queries",
    "--log-facility=-",
    "--user=root",
    "--pid-file=",
    "--host-record=outside.test,192.0.2.1,2001:db8::1",
    "--txt-record=outside.test,hello",
    "--local=/test/",
]

# Asks each server once from one socket that is not connected, and prints who has answered what.
SEVERAL = r"""
import socket, struct, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(20)
for i, server in enumerate(sys.argv[1:]):
    s.sendto(struct.pack(">HHHHHH", i, 0x100, 1, 0, 0, 0) + b"\x07outside\x04test\x00\x00\x10\x00\x01", (server, 53))
for _ in sys.argv[1:]:
    data, peer = s.recvfrom(4096)
    i = struct.unpack(">H", data[:2])[0]
    print(i, peer[0] == sys.argv[1 + i], peer[1], data[3] & 15)
"""
STRAIGHT = r"""
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.sendto(bytes.fromhex("000a01000001000000000000000010" "0001"), ("127.0.0.1", 15053))
"""


@pytest.fixture(scope="module")
def mesh():
    with Mesh(nodes=1, workers=2, node_kinds=[ZdsNode]) as m:
        m.nodes[0].more_env["ISTIO_META_DNS_CAPTURE"] = "true"
        m.web = m.pod("web")
        m.one, m.two = m.pod("one", namespace="outside"), m.pod("two", namespace="outside")
        m.one.outside = m.two.outside = True
        m.services = [
            {
                "name": "web",
                "namespace": "demo",
                "hostname": WEB,
                "vips": ["/10.96.0.1", "/fd00:96::1"],
                "ports": {80: 8080},
            }
        ]
        m.start()
        for pod in (m.one, m.two):
            pod.dnsmasq = pod.popen("dnsmasq", *OPTIONS)
            pod.dnsmasq.wait_for_text("started")
        yield m


@pytest.fixture(params=[0, 1], ids=["v4", "v6"])
def family(request):
    return request.param


def dig(pod, server, *question):
    return pod.run("dig", "+time=3", "+tries=1", f"@{server}", *question).stdout


@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
def test_names_of_the_mesh_are_answered(mesh, family, transport):
    server = mesh.one.ips[family]
    out = dig(mesh.web, server, transport, WEB, "A")
    assert re.search(rf"^{WEB}\.\s+30\s+IN\s+A\s+10\.96\.0\.1$", out, re.M) and f"SERVER: {server}#53" in out
    assert "fd00:96::1" in dig(mesh.web, server, transport, "web", "AAAA")
    assert WEB not in mesh.one.dnsmasq.text()


@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
def test_other_questions_reach_the_server_that_was_asked(mesh, family, transport):
    for pod, other in ((mesh.one, mesh.two), (mesh.two, mesh.one)):
        before, others = pod.dnsmasq.text().count("query[TXT]"), other.dnsmasq.text()
        out = dig(mesh.web, pod.ips[family], transport, "outside.test", "TXT")
        assert '"hello"' in out and f"SERVER: {pod.ips[family]}#53" in out
        assert pod.dnsmasq.text().count("query[TXT]") == before + 1 and other.dnsmasq.text() == others


def test_one_socket_and_several_servers(mesh, family):
    servers = [mesh.one.ips[family], mesh.two.ips[family]]
    out = sorted(mesh.web.python(SEVERAL, *servers).splitlines())
    assert out == ["0 True 53 0", "1 True 53 0"]


def test_a_server_that_refuses_is_told_of(mesh, family):
    assert "SERVFAIL" in dig(
        mesh.web, [mesh.nodes[0].gateway, mesh.nodes[0].gateway6][family], "outside.test", "A"
    )


def test_what_conntrack_does_not_know(mesh):
    """Such a question goes to the proxy's own server, and is counted; one that conntrack says was sent to our own
    port goes nowhere."""
    node = mesh.nodes[0]
    mesh.web.python(STRAIGHT)
    rule = ("-p", "udp", "--dport", "15053", "-j", "NOTRACK")
    mesh.web.run("iptables-nft", "-t", "raw", "-I", "OUTPUT", *rule)
    mesh.web.python(STRAIGHT)
    wait_for(lambda: node.failures("dns_server_unknown") == 1, "the question to be counted")
    mesh.web.run("iptables-nft", "-t", "raw", "-D", "OUTPUT", *rule)


def test_outside_gets_no_answer(mesh, family):
    lines = mesh.web.run("ss", "-Hlnu").stdout.splitlines()
    assert all("%lo:15053" in line for line in lines if ":15053" in line), lines
    for transport in ("+notcp", "+tcp"):
        out = mesh.one.run(
            "dig",
            "+time=1",
            "+tries=1",
            "-p",
            "15053",
            f"@{mesh.web.ips[family]}",
            transport,
            WEB,
            check=False,
        ).stdout
        assert "10.96.0.1" not in out, out


def test_another_proxy_takes_over(mesh):
    node = mesh.nodes[0]
    p = mesh.web.popen(
        "/usr/bin/python3",
        "-u",
        "-c",
        r"""
import socket, struct, sys, time
end, n, lost = time.monotonic() + 5, 0, 0
while time.monotonic() < end:
    n += 1
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(1)
    s.sendto(struct.pack(">HHHHHH", n, 0x100, 1, 0, 0, 0) + b"\x07outside\x04test\x00\x00\x10\x00\x01", (sys.argv[1], 53))
    try:
        s.recv(4096)
    except TimeoutError:
        lost += 1
print("ASKED", n, "LOST", lost)
""",
        mesh.one.ip,
    )
    second, connection = node.start_second_proxy()
    connection.add(mesh.web)
    connection.snapshot_sent()
    node.proxy.stop()
    assert p.wait(20) == 0, p.text()
    asked, lost = re.search(r"ASKED (\d+) LOST (\d+)", p.text()).groups()
    assert int(asked) > 100 and int(lost) <= 2, p.text()
    second.kill()


@pytest.mark.parametrize("program", ["iptables", "ip6tables"])
def test_the_rules_are_those_of_the_stock_agent(mesh, program):
    """As they were recorded of one."""
    with open(f"{ROOT}/tests/data/capture/{program}-save.txt") as f:
        recorded = [line.strip() for line in f if " 53 " in line]
    rules = sh("ip", "netns", "exec", mesh.web.netns, f"{program}-nft-save").splitlines()
    assert len(recorded) >= 4 and [line for line in recorded if line not in map(str.strip, rules)] == []
