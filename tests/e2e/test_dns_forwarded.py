# SPDX-License-Identifier: Apache-2.0
"""DNS of pods in the mesh: forwarded queries are not changed, failures are counted, nothing else is captured, and the
capture outlives its programs. What is captured, and what is not, shows in what the server has seen."""

import itertools
import re
import time

import pytest

from support.dns import (
    OPTIONS,
    SERVER,
    SERVICES,
    WEB,
    dig,
    dns_mesh,
    dnsmasq,
    explained,
    failed,
    flags,
    rules,
    served,
    short,
)
from support.nodes.mesh import Mesh
from support.system import sh, wait_for


@pytest.fixture(scope="module")
def mesh():
    with dns_mesh() as m:
        yield m


@pytest.fixture(params=["v4", "v6"])
def server(request, mesh):
    return mesh.resolver.ip if request.param == "v4" else mesh.resolver.ip6


RAW = r"""
import socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(20)
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
    with served(mesh.second, SERVER, address, "forged"):
        for _ in range(20):
            _, _, data = mesh.web.python(RAW, address, QUESTIONS["ANY"]).split()
            assert data[4:8] == "8400"


ONE_BY_ONE = r"""
import socket, sys
for i in range(int(sys.argv[3])):
    s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(20)
    s.sendto(bytes.fromhex(sys.argv[2]), (sys.argv[1], 53))
    s.recvfrom(65535)
    s.close()
"""


def test_ports_of_queries_cannot_be_guessed(mesh, server):
    """Each of 28,000 ports is as likely as any other: of 500 queries four or five have a port that was seen before, and
    25 practically never."""
    address, n = mesh.second.ip6 if ":" in server else mesh.second.ip, 500
    with served(mesh.second, SERVER, address, "answers") as p:
        mesh.web.python(ONE_BY_ONE, address, QUESTIONS["ANY"], n)
        ports = [int(port) for port in re.findall(r"ASKED \S+ (\d+)", p.text())]
    low, high = (int(x) for x in mesh.web.run("sysctl", "-n", "net.ipv4.ip_local_port_range").stdout.split())
    tenth = (high - low) // 10
    assert len(ports) == n and len(set(ports)) > n - 25, ports
    assert min(ports) < low + tenth and max(ports) > high - tenth, "from all of the range"
    assert len({b - a for a, b in itertools.pairwise(ports)}) > n - 50, "no port follows from the one before"


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
s.settimeout(20)
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
    with Mesh(nodes=1, workers=1, proxy_env=env) as m:
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
s.settimeout(20)
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


def test_questions_are_in_the_log_at_debug(mesh):
    dig(mesh.web, mesh.resolver.ip, "web.demo", "A")
    line = [
        x for x in mesh.nodes[0].proxy.text().splitlines() if "\tdns\t" in x and 'domain="web.demo"' in x
    ][-1]
    assert 'src.workload="web"' in line and f'result="demo/{WEB}"' in line and "endpoints=1" in line


def test_a_rule_that_somebody_takes_away_is_put_back(mesh):
    repaired = "the capture of a pod's DNS queries was broken and is repaired"
    before = mesh.nodes[0].agent.text().count(repaired)
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
    wait_for(lambda: mesh.nodes[0].agent.text().count(repaired) > before, "the repair")
    assert rules(mesh.web.netns)
    assert short(mesh.web, mesh.resolver.ip, WEB, "A") == ["10.96.0.1"]


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
s.settimeout(20)
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
    with Mesh(nodes=1, agent_options=["--dns-capture=false"]) as m:
        web, resolver = m.pod("web"), m.pod("resolver", namespace="outside")
        resolver.outside = True
        m.services = SERVICES[:1]
        m.start()
        p = resolver.popen("dnsmasq", *OPTIONS)
        wait_for(lambda: "started" in p.text(), "dnsmasq")
        assert not rules(web.netns) and not flags(m, web) & 32
        assert "NXDOMAIN" in dig(web, resolver.ip, WEB, "A")
        assert "NXDOMAIN" in dig(web, resolver.ip, "+tcp", WEB, "A")
        assert "not captured, by AMBIENT_DNS_CAPTURE=false" in explained(m, "demo/web", WEB)["capture"]
        m.nodes[0].agent.kill()
        m.nodes[0].start_agent()
        wait_for(lambda: rules(web.netns), "the rule")
        assert short(web, resolver.ip, WEB, "A") == ["10.96.0.1"]
        # and what an agent before has captured is let go by one that shall not
        m.nodes[0].agent.kill()
        m.nodes[0].start_agent("--dns-capture=false")
        wait_for(lambda: not rules(web.netns) and not rules(web.netns, "-6"), "the end of the rules")
        assert "NXDOMAIN" in dig(web, resolver.ip, WEB, "A")
        m.nodes[0].agent.kill()
        m.nodes[0].start_agent()
        wait_for(lambda: rules(web.netns) and rules(web.netns, "-6"), "the rules to be there again")
        assert short(web, resolver.ip, WEB, "A") == ["10.96.0.1"]


def test_a_proxy_that_shall_not_answer_forwards_everything():
    """ISTIO_META_DNS_CAPTURE, which is ztunnel's; what is captured is the agent's affair."""
    with Mesh(nodes=1, proxy_env={"ISTIO_META_DNS_CAPTURE": "false"}) as m:
        web, resolver = m.pod("web"), m.pod("resolver", namespace="outside")
        resolver.outside = True
        m.services = SERVICES[:1]
        m.start()
        wait_for(lambda: rules(web.netns), "the rule of the pod")
        with dnsmasq(resolver) as p:
            for transport in ("+notcp", "+tcp"):
                seen = p.text().count(f"query[A] {WEB}")
                out = dig(web, resolver.ip, transport, WEB, "A")
                assert "NXDOMAIN" in out and f"SERVER: {resolver.ip}#53" in out
                assert p.text().count(f"query[A] {WEB}") == seen + 1, "the server was not asked"
                assert short(web, resolver.ip, transport, "outside.test", "A") == ["192.0.2.1"]
        said = explained(m, "demo/web", WEB)
        assert said["answer"].startswith("by the server that the pod queries")
        assert "ISTIO_META_DNS_CAPTURE" in said["because"]
