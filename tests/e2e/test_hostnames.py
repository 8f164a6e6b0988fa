# SPDX-License-Identifier: Apache-2.0
"""Destinations whose workload has a hostname in place of an address: resolved on demand, by both families, for their time,
once for all who wait; each failure has a name, and none leads around."""

import contextlib
import json
import re
import time

import pytest

from support.hostnames import MANY, hostname_mesh, vips
from support.nodes.pod_programs import ECHO, ONE_SHOT
from support.system import sh, wait_for

# Connects twice in a row, and prints how many seconds each has lasted until it was closed.
TWICE = r"""
import socket, sys, time
for _ in range(2):
    began = time.monotonic()
    try:
        socket.create_connection((sys.argv[1], int(sys.argv[2]))).recv(1)
    except OSError:
        pass
    print(time.monotonic() - began)
"""


@pytest.fixture(scope="module")
def mesh():
    with hostname_mesh() as m:
        yield m


def echo(mesh, name, family=4, port=80, text="hello"):
    address = vips(name)[family == 6]
    return mesh.web.run("/usr/bin/python3", "-c", ONE_SHOT, address, port, text, check=False).stdout


def came(pod):
    """Who has come to the pod's application so far: addresses."""
    return re.findall(r"FROM (\S+)", pod.app.text())


def refused(mesh, name, reason, family=4):
    """Connects in vain; the failure has this name, in the log and in the metrics. Returns the log line."""
    node = mesh.nodes[0]

    def lines():
        needle = f"{reason}: hostname {name} of workload demo/entry-"
        return [line for line in node.access_log("connection failed") if needle in line]

    before, said = node.failures(reason), len(lines())
    assert echo(mesh, name, family) == ""
    wait_for(lambda: len(lines()) > said, "the line of the connection")
    assert node.failures(reason) == before + 1
    return lines()[-1]


def counted(mesh, name):
    """istio_on_demand_dns_total of the hostname."""
    found = [
        line for line in mesh.nodes[0].metrics().splitlines() if line.startswith("istio_on_demand_dns_total{")
    ]
    found = [line for line in found if f'hostname="{name}"' in line]
    assert len(found) <= 1, found
    if found:
        for label in (
            'source_workload="web"',
            'source_canonical_service="web"',
            'source_workload_namespace="demo"',
            f'source_principal="{mesh.web.identity}"',
            'source_app="web"',
            'source_version="unknown"',
            'source_cluster="Kubernetes"',
        ):
            assert label in found[0]
    return int(found[0].split()[-1]) if found else 0


@pytest.mark.parametrize(("name", "family"), [("v4.test", 4), ("v6.test", 6), ("v4.test", 6), ("v6.test", 4)])
def test_a_name_of_one_family_is_reached_by_it(mesh, name, family):
    """Whatever family the application has connected by."""
    before, logged = counted(mesh, name), len(mesh.nodes[0].access_log())
    assert echo(mesh, name, family) == "hello"
    assert counted(mesh, name) == before + 1
    actual = mesh.one.ip if name == "v4.test" else f"[{mesh.one.ip6}]"
    wait_for(lambda: len(mesh.nodes[0].access_log()) > logged, "the line")
    assert f"dst.addr={actual}:8080" in mesh.nodes[0].access_log()[-1]


@pytest.mark.parametrize("family", [4, 6])
def test_of_a_name_with_both_families_the_one_is_taken_that_was_dialed(mesh, family):
    before = len(mesh.nodes[0].access_log())
    for _ in range(16):
        assert echo(mesh, "both.test", family) == "hello"
    wait_for(lambda: len(mesh.nodes[0].access_log()) >= before + 16, "the lines")
    dialed = {re.search(r"dst\.addr=(\S+):8080", line)[1] for line in mesh.nodes[0].access_log()[before:]}
    both = (mesh.one, mesh.two)
    # of two addresses each is taken about as often: one of them alone is 2 in 65,536
    assert dialed == ({p.ip for p in both} if family == 4 else {f"[{p.ip6}]" for p in both})


def test_a_name_is_kept_for_its_time_and_then_asked_again(mesh):
    assert echo(mesh, "change.test") == "hello"
    assert (mesh.hosts.queries("change.test", "A"), mesh.hosts.queries("change.test", "AAAA")) == (1, 1)
    assert echo(mesh, "change.test") == "hello"
    assert mesh.hosts.queries("change.test", "A") == 1
    mesh.hosts.set(change_test=[mesh.two.ip])
    time.sleep(2.1)
    before = len(came(mesh.two))
    assert echo(mesh, "change.test") == "hello"
    assert len(came(mesh.two)) == before + 1, "the old address was used after its time"


def test_many_connections_ask_once(mesh):
    before = counted(mesh, "many.test")
    assert mesh.web.python(MANY, vips("many.test")[0], 80, 100).strip() == "100"
    assert counted(mesh, "many.test") == before + 100
    assert (mesh.hosts.queries("many.test", "A"), mesh.hosts.queries("many.test", "AAAA")) == (1, 1)


@pytest.mark.parametrize(
    ("name", "words"), [("missing.test", "it does not exist"), ("empty.test", "it has no address")]
)
def test_a_name_that_is_not_there_is_refused_and_remembered_for_a_moment(mesh, name, words):
    assert words in refused(mesh, name, "name_not_found")
    refused(mesh, name, "name_not_found", 6)
    assert mesh.hosts.queries(name, "A") == 1
    mesh.hosts.set(**{name.replace(".", "_"): [mesh.one.ip]})
    wait_for(lambda: echo(mesh, name) == "hello", "the name that is there now")
    assert mesh.hosts.queries(name, "A") == 2


def test_a_server_that_fails_is_told_of_at_once(mesh):
    began = time.monotonic()
    refused(mesh, "fail.test", "name_server_failed")
    assert time.monotonic() - began < 1, "it waited"


def test_a_silent_server_is_waited_for_and_no_longer(mesh):
    began = time.monotonic()
    refused(mesh, "silent.test", "name_timeout")
    assert 1.4 < time.monotonic() - began < 3
    # who comes in the moment after that is told what is known
    time.sleep(1.1)
    first, second = map(float, mesh.web.python(TWICE, vips("silent.test")[0], 80).split())
    assert first > 1.4 and second < 0.7, "it was asked again at once"


def explained(mesh, name):
    """What `brumactl explain` says of the hostnames of a connection: [(ok, words)]."""
    target = f"{vips(name)[0]}:80"
    said = json.loads(mesh.nodes[0].ctl("explain", "demo/web", target, "-o", "json", check=False).stdout)
    return [(line["ok"], line["detail"]) for line in said if line["check"] == "hostname"]


def test_explain_says_what_a_name_is_now(mesh):
    queries = mesh.hosts.queries("short.test", "A")
    (unknown,) = explained(mesh, "short.test")
    assert unknown[0] and "the next connection asks DNS for it" in unknown[1]
    assert mesh.hosts.queries("short.test", "A") == queries, "to explain asks nobody"
    assert echo(mesh, "short.test") == "hello"
    (known,) = explained(mesh, "short.test")
    assert known[0] and re.search(
        rf"short\.test of entry-\d+ is {re.escape(mesh.one.ip)}, for [0-2] s", known[1]
    )
    refused(mesh, "fail.test", "name_server_failed")
    (failed,) = explained(mesh, "fail.test")
    assert not failed[0] and "fail.test of entry-" in failed[1]


def test_an_address_that_is_none_is_refused(mesh):
    with_server = mesh.web.popen("/usr/bin/python3", "-m", "http.server", "8080", "--bind", "127.0.0.1")
    try:
        assert "loopback" in refused(mesh, "local.test", "name_address_refused")
    finally:
        with_server.kill()


def test_a_hostname_that_is_an_address(mesh):
    """Nobody is asked; nobody is there either."""
    sh("ip", "-n", mesh.web.netns, "route", "add", "unreachable", "192.0.2.200")
    before = mesh.nodes[0].failures("connect_unreachable")
    assert echo(mesh, "192.0.2.200") == ""
    wait_for(lambda: mesh.nodes[0].failures("connect_unreachable") > before, "the attempt")
    assert "192.0.2.200" not in mesh.hosts.process.text()


def test_a_name_with_an_address_of_the_mesh_is_what_its_own_workload_is(mesh):
    """Plaintext, as the ServiceEntry says: a policy of the pod at that address sees nobody's connection."""
    before = len(came(mesh.member))
    assert echo(mesh, "member.test") == "hello"
    assert len(came(mesh.member)) == before + 1
    mesh.deny_strangers()
    mesh.write()
    try:
        wait_for(lambda: "strict" in str(mesh.nodes[0].config_dump()["policies"]), "the policy")
        assert echo(mesh, "member.test") == ""
        assert len(came(mesh.member)) == before + 1
    finally:
        mesh.policies.clear()
        mesh.write()
        wait_for(lambda: "strict" not in str(mesh.nodes[0].config_dump()["policies"]), "no policy")


def test_a_workload_with_a_hostname_is_reached_by_a_tunnel(mesh):
    """Its identity is verified, and its pool of tunnels is the address's."""
    logged, before = len(mesh.nodes[0].access_log()), len(came(mesh.member))
    for _ in range(3):
        assert echo(mesh, "tunnel.test") == "hello"
    assert len(came(mesh.member)) == before + 3
    wait_for(lambda: len(mesh.nodes[0].access_log()) >= logged + 6, "the lines of both sides")
    lines = [line for line in mesh.nodes[0].access_log()[logged:] if 'direction="outbound"' in line]
    for line in lines:
        assert f"dst.addr={mesh.member.ip}:15008" in line and f"dst.hbone_addr={mesh.member.ip}:8080" in line
        assert f'dst.identity="{mesh.member.identity}"' in line
    assert len(lines) == 3
    # somebody else at that address is not talked to
    mesh.hosts.set(tunnel_test=[mesh.one.ip])
    time.sleep(2.1)
    assert echo(mesh, "tunnel.test") == ""
    wait_for(lambda: f"dst.addr={mesh.one.ip}:15008" in mesh.nodes[0].access_log()[-1], "the failure")


def test_an_answer_that_is_too_large_for_a_datagram_comes_by_tcp(mesh):
    assert echo(mesh, "big.test") == "hello"
    assert mesh.hosts.queries("big.test", "A") == 2, "one by UDP, one by TCP"


def test_a_name_with_the_pods_own_address(mesh):
    app = mesh.web.server(ECHO, 8080)
    try:
        assert echo(mesh, "self.test") == "hello"
        assert f"FROM ::ffff:{mesh.web.ip}" in app.text()
    finally:
        app.kill()


def test_a_name_that_leads_to_the_pods_own_listeners(mesh):
    """What is delivered there would come back, and be delivered again."""
    port = mesh.web.listener_ports()["inbound"]
    number = next(i for i, w in enumerate(mesh.extra) if w["hostname"] == "self.test")
    hostname = f"demo/entry-{number}.example.com"
    mesh.services[number]["ports"] = {80: 8080, 81: port}
    mesh.extra[number]["services"] = {hostname: {80: 8080, 81: port}}
    mesh.write()
    wait_for(lambda: str(port) in str(mesh.nodes[0].config_dump()["services"]), "the port")
    before = mesh.nodes[0].failures("self_call")
    assert echo(mesh, "self.test", port=81) == ""
    assert mesh.nodes[0].failures("self_call") == before + 1


def test_an_endpoint_whose_address_refuses_is_left_for_another_name(mesh):
    """Both have a hostname; what was tried is known by it, and the other one's may have to be asked first."""
    number = next(i for i, w in enumerate(mesh.extra) if w["hostname"] == "retry.test")
    dead = {**mesh.extra[number], "name": "dead", "uid": "Kubernetes//dead", "hostname": "dead.test"}
    mesh.hosts.set(dead_test=[mesh.resolver.ip])
    mesh.extra.append(dead)
    mesh.write()
    wait_for(lambda: "dead.test" in str(mesh.nodes[0].config_dump()["workloads"]), "the endpoint")
    before = len(came(mesh.one))
    for _ in range(30):
        assert echo(mesh, "retry.test") == "hello"
    assert len(came(mesh.one)) == before + 30
    # each worker has met it, with a chance of all but 1 in 10,000
    assert counted(mesh, "dead.test") >= 1 and counted(mesh, "retry.test") == 30
    mesh.extra.remove(dead)
    mesh.write()


@contextlib.contextmanager
def second_endpoint(mesh, hostname, **more):
    """Of the service of retry.test, chosen nearly always."""
    number = next(i for i, w in enumerate(mesh.extra) if w["hostname"] == "retry.test")
    other = {**mesh.extra[number], "name": "other", "uid": "Kubernetes//other", "capacity": 1000000, **more}
    mesh.extra.append({**other, "hostname": hostname})
    mesh.write()
    wait_for(lambda: hostname in str(mesh.nodes[0].config_dump()["workloads"]), "the endpoint")
    try:
        yield
    finally:
        mesh.extra.pop()
        mesh.write()
        wait_for(lambda: "Kubernetes//other" not in str(mesh.nodes[0].config_dump()["workloads"]), "it to go")


@pytest.mark.parametrize(
    ("hostname", "reason"),
    [
        ("nowhere.test", "name_not_found"),
        ("nothing.fail.test", "name_server_failed"),
        ("nothing.silent.test", "name_timeout"),
        ("nothing.localhost", "name_address_refused"),
    ],
)
@pytest.mark.parametrize("protocol", ["TCP", "HBONE"])
def test_an_endpoint_whose_name_fails_is_left_for_another(mesh, hostname, reason, protocol):
    """It is said in the line of the connection; no connection has failed."""
    node = mesh.nodes[0]
    lines, failures = len(node.access_log(f'retry_reason="{reason}"')), node.failures(reason)
    with second_endpoint(mesh, hostname, protocol=protocol):
        before = len(came(mesh.one))
        assert echo(mesh, "retry.test") == "hello"
        assert len(came(mesh.one)) == before + 1
        wait_for(lambda: len(node.access_log(f'retry_reason="{reason}"')) > lines, "the line")
        line = node.access_log(f'retry_reason="{reason}"')[-1]
        assert "retries=1" in line and f"dst.addr={mesh.one.ip}:8080" in line
        assert node.failures(reason) == failures
        assert f'bruma_outbound_retries_total{{reason="{reason}"}}' in node.metrics()


def test_if_all_names_fail_the_last_one_is_named(mesh):
    with second_endpoint(mesh, "nowhere.test"):
        held = mesh.hosts.names.pop("retry.test")
        mesh.hosts.set()
        time.sleep(2.1)  # what was known of it
        try:
            before = mesh.nodes[0].failures("name_not_found")
            assert echo(mesh, "retry.test") == ""
            assert mesh.nodes[0].failures("name_not_found") == before + 1
        finally:
            mesh.hosts.set(retry_test=held)
        wait_for(lambda: echo(mesh, "retry.test") == "hello", "the name that is there again")


def test_names_and_queries_are_bounded():
    with hostname_mesh(BRUMA_MAX_NAME_QUERIES="1", BRUMA_MAX_NAMES="2", ttl=600) as m:
        address = vips("queries1.test")[0]
        waiting = m.web.popen("/usr/bin/python3", "-c", ONE_SHOT, address, "80", "x")
        wait_for(lambda: m.hosts.queries("queries1.test", "A"), "the first query")
        refused(m, "queries2.test", "name_queries")
        assert m.hosts.queries("queries2.test", "A") == 0
        waiting.wait()
        for name in ("v4.test", "many.test", "short.test", "v4.test"):
            assert echo(m, name) == "hello"
        assert m.hosts.queries("v4.test", "A") == 2, "it made place for others, and is asked again"
        page = m.nodes[0].metrics()
        assert re.search(r"^bruma_names 2$", page, re.M)
        assert int(re.search(r"^bruma_names_replaced_total (\d+)$", page, re.M)[1]) >= 2
        asked = int(re.search(r"^bruma_name_queries_total (\d+)$", page, re.M)[1])
        assert asked == 5 and re.search(r"^bruma_name_query_failures_total 1$", page, re.M)


def test_servers_that_cannot_be_understood_keep_the_proxy_from_starting(mesh):
    node = mesh.nodes[0]
    p = node.start_proxy(wait=False, BRUMA_NAME_SERVERS="not-an-address")
    assert p.wait() == 1
    assert 'name-servers: "not-an-address" is not a list' in p.text()
