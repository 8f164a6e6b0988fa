# SPDX-License-Identifier: Apache-2.0
"""bruma-proxy against an independent control plane: what it asks, what it keeps, what it refuses (contract
sections 1.7, 4, 6, 7; rows xDS, outbound, RBAC and CA of the conformance list)."""

import re
import time

import pytest

from support.nodes.pod_programs import ECHO, served
from support.nodes.waiting import Waiting
from support.system import Process, wait_for
from support.xds.control_plane import ADDRESS, AUTHORIZATION
from support.xds.plane import END
from support.xds.site import CLIENT, POLICY_TIMEOUT, Site, failed_connects

# ---- xDS ----


def test_first_requests_and_traffic(site):
    assert site.ping() == "ping"
    first = site.stream().first(ADDRESS)
    assert first.node.id.startswith("ztunnel~")
    assert list(first.resource_names_subscribe) in ([], ["*"]) and not first.initial_resource_versions
    assert site.stream().first(AUTHORIZATION)
    assert "Bearer first-token" in site.plane.tokens


def test_xds_one_bad_workload_and_one_good(site):
    """Appendix C: good applied, NACK names the bad one, the next reconnect omits its version."""
    bad = site.plane.workload("bad", b"\1\2\3\4\5")
    good = site.plane.workload("good", "10.9.9.9")
    site.plane.set(bad, good)
    wait_for(lambda: "good" in site.workloads(), "the good one of the two")
    assert "bad" not in site.workloads()
    nack = wait_for(site.stream().nacks, "a NACK")[-1]
    assert bad[0] in nack.error_detail.message
    site.logged("xds_resource_rejected")
    reconnect(site)
    held = {v.key for v in site.stream().first(ADDRESS).initial_resource_versions}
    assert good[0] in held and bad[0] not in held
    site.plane.remove(bad[0], good[0])
    wait_for(lambda: "good" not in site.workloads(), "the removal")


def reconnect(site):
    """The server ends the stream; the proxy comes back with what it holds."""
    before = len(site.plane.streams)
    site.stream().out.put(END)
    wait_for(
        lambda: (
            len(site.plane.streams) > before
            and site.stream().first(AUTHORIZATION)
            and site.stream().first(ADDRESS)
        ),
        "a new stream",
    )


def test_xds_tunnel_protocol_of_the_past_is_rejected(site):
    """Appendix C: tunnel_protocol = 2, that workload rejected."""
    old = site.plane.workload("old", "10.9.9.8", tunnel_protocol=2)
    site.plane.set(old, site.plane.workload("new", "10.9.9.7"))
    wait_for(lambda: "new" in site.workloads(), "the other one")
    assert "old" not in site.workloads()
    site.plane.remove(old[0], "Kubernetes//Pod/demo/new")


@pytest.mark.parametrize("field", ["workload_type", "status", "network_mode"])
def test_unknown_enum_values_never_hide_a_workload(site, field):
    name = field.replace("_", "-")
    item = site.plane.workload(name, "10.9.9.6", **{field: 99})
    site.plane.set(item)
    wait_for(lambda: name in site.workloads(), "a workload with a value of tomorrow")
    site.plane.remove(item[0])


def test_xds_reconnect_names_versions_and_removals_are_honoured(site):
    stays, goes = site.plane.workload("stays", "10.9.8.1"), site.plane.workload("goes", "10.9.8.2")
    site.plane.set(stays, goes, version="seven")
    wait_for(lambda: {"stays", "goes"} <= set(site.workloads()), "both")
    with site.plane.lock:
        del site.plane.resources[ADDRESS][
            goes[0]
        ]  # while nobody looks: told by the answer to the first request
    reconnect(site)
    held = {v.key: v.value for v in site.stream().first(ADDRESS).initial_resource_versions}
    assert held[stays[0]] == held[goes[0]] == "seven"
    wait_for(lambda: "goes" not in site.workloads(), "the removal")
    assert "stays" in site.workloads()
    assert site.ping() == "ping"
    site.plane.remove(stays[0])
    wait_for(lambda: "stays" not in site.workloads(), "the other removal")


def test_garbage_from_the_control_plane_costs_the_stream_and_nothing_else(site):
    before, streams = site.workloads(), len(site.plane.streams)
    site.stream().out.put(b"\xff\xff\xff\xff garbage")
    wait_for(lambda: len(site.plane.streams) > streams, "a new stream")
    assert site.workloads() == before and site.ping() == "ping"


def test_the_server_away_and_back(site):
    """State and traffic stay; the server is asked for less and less often; what has changed meanwhile is
    learnt afterwards."""
    before, began = failed_connects(site), time.monotonic()
    site.plane.stop()
    for _ in range(3):
        assert site.ping() == "ping"
    site.logged('reason="xds_unreachable"')
    time.sleep(max(0, began + 3 - time.monotonic()))
    assert 3 <= failed_connects(site) - before <= 12, (
        "after 10 ms, twice as long, and so on: the ninth is 2.6 s after the first"
    )
    with site.plane.lock:
        late = site.plane.workload("late", "10.9.7.1")
        site.plane.resources[ADDRESS][late[0]] = ("1", late[1])
    site.plane.start()
    wait_for(lambda: "late" in site.workloads(), "what came while it was away", 60)
    assert site.node.http(15021, "/healthz/ready")[0] == 200
    site.plane.remove(late[0])


def test_the_token_is_read_again(site):
    with open(site.plane.token_file, "w") as f:
        f.write("second-token\n")
    reconnect(site)
    assert site.plane.tokens[-1] == "Bearer second-token"


# ---- pods that the control plane does not know yet ----


@pytest.fixture
def patient():
    """A proxy that waits for longer than any client does, and a pod that nobody but its runtime has told
    of."""
    s = Site()
    s.mesh.proxy_env["BRUMA_SOURCE_TIMEOUT"] = "120s"
    s.new = s.mesh.pod("new", node=0)
    s.outside = s.mesh.pod("outside", node=0, namespace="outside")
    s.outside.outside = True
    with s.mesh:
        s.start()
        s.outside.server(ECHO, "8080")
        yield s
        s.plane.stop()


def test_a_pod_that_is_not_known_yet_reaches_places_outside_at_once(patient):
    """As a postStart hook does: nothing about the pod is needed for that."""
    assert "new" not in patient.workloads()
    assert patient.new.python(CLIENT, patient.outside.ip, 8080, 20).strip() == "ping"
    line = wait_for(
        lambda: patient.node.access_log(f"dst.addr={patient.outside.ip}:8080"), "its line in the access log"
    )[-1]
    assert 'src.workload="new"' in line and 'src.namespace="demo"' in line, line


def test_a_pod_that_is_not_known_yet_reaches_the_mesh_as_itself(patient):
    """Over HBONE, under the identity that its runtime's call gives it; policies of the other side know it."""
    assert patient.new.python(CLIENT, patient.shop.ip, 8080, 20).strip() == "ping"
    line = wait_for(lambda: patient.node.access_log('direction="inbound"'), "its line in the access log")[-1]
    assert f'src.identity="{patient.new.identity}"' in line, line
    # Once the mesh knows it, that counts: here another identity.
    patient.plane.set(patient.of(patient.new, trust_domain="other.example"))
    wait_for(lambda: "new" in patient.workloads(), "the pod to be known")
    wait_for(
        lambda: "spiffe://other.example/ns/demo/sa/new" in patient.plane.asked,
        "a certificate for the identity that the mesh says",
    )


def test_connections_to_a_pod_that_is_not_known_yet_wait(patient):
    """Which policies are its own only the mesh can say: nothing is let in before."""
    patient.new.server(ECHO, "8080")
    assert patient.outside.python(CLIENT, patient.new.ip, 8080, 3).strip() in ("TimeoutError", "timeout")
    patient.plane.set(patient.of(patient.new))
    assert patient.outside.python(CLIENT, patient.new.ip, 8080, 20).strip() == "ping"


# ---- outbound ----


def test_outbound_service_without_healthy_endpoints(site):
    """Appendix C: connection closed, no passthrough."""
    site.plane.set(site.plane.service("empty.demo.svc.cluster.local", "10.99.0.1"))
    wait_for(lambda: "empty.demo" in str(site.node.config_dump()["services"]), "the service")
    assert site.ping("10.99.0.1", 80) in ("closed", "ConnectionResetError")
    site.logged("no_healthy_upstream")
    site.plane.remove("demo/empty.demo.svc.cluster.local")


def test_outbound_service_with_cidr_vip_and_endpoints_in_one_response(site):
    """Appendix C: the endpoints are reached."""
    host = "range.demo.svc.cluster.local"
    site.plane.set(
        site.plane.service(host, "10.98.0.0/16"), site.of(site.shop, services={host: [(80, 8080)]})
    )
    wait_for(lambda: host in str(site.node.config_dump()["services"]), "the service")
    assert site.ping("10.98.3.4", 80) == "ping"
    assert site.ping("10.98.200.200", 80) == "ping"
    site.plane.remove(f"demo/{host}")
    site.plane.set(site.of(site.shop))


def test_outbound_workload_of_the_host_network(site):
    """Appendix C: by the node's address, plaintext passthrough, though it claims HBONE."""
    address = f"10.{site.mesh.net}.{site.node.number}.1"
    server = Process(
        ["/usr/bin/python3", "-c", ECHO, "8080"], f"{site.mesh.dir}/host.log", netns=site.node.netns
    )
    wait_for(lambda: "READY" in server.text(), "the server in the node's namespace")
    item = site.plane.workload("host", address, network_mode=1, tunnel_protocol=1)
    site.plane.set(item)
    wait_for(lambda: "host" in site.workloads(), "the workload")
    assert site.ping(address) == "ping"
    assert f"FROM ::ffff:{site.web.ip}" in server.text(), "with the pod's own address"
    server.stop()
    site.plane.remove(item[0])


# ---- policies ----


@pytest.fixture
def policies(site):
    set_names = []

    def add(name, **fields):
        item = site.plane.policy(name, **fields)
        set_names.append(item[0])
        site.plane.set(item, type_url=AUTHORIZATION)
        wait_for(lambda: f"'{name}'" in str(site.node.config_dump()["policies"]), "the policy")

    yield add
    site.plane.remove(*set_names, type_url=AUTHORIZATION)
    wait_for(lambda: not site.node.config_dump()["policies"], "no policies")


def test_rbac_allow_with_zero_rules(site, policies):
    """Appendix C: everything denied."""
    policies("nobody", scope=1, action=0)
    assert site.ping() in ("closed", "ConnectionResetError")
    site.logged("policy_denied")


def test_rbac_match_with_all_lists_empty_in_deny(site, policies):
    """Appendix C: not enforced."""
    item = site.plane.messages["istio.security.Authorization"]
    empty = item(name="void", namespace="demo", scope=1, action=1)
    empty.rules.add().clauses.add().matches.add()
    site.plane.set(("demo/void", empty), type_url=AUTHORIZATION)
    wait_for(lambda: "void" in str(site.node.config_dump()["policies"]), "the policy")
    assert site.ping() == "ping"
    site.plane.remove("demo/void", type_url=AUTHORIZATION)


@pytest.fixture
def unguarded(site):
    """The shop's workload names a policy that is not there; HBONE or plaintext."""

    def name(**fields):
        site.plane.set(site.of(site.shop, authorization_policies=["demo/late"], **fields))
        wait_for(lambda: "late" in str(site.workloads()["shop"]), "the workload's policy")

    yield name
    if "demo/late" in site.plane.resources[AUTHORIZATION]:
        site.plane.remove("demo/late", type_url=AUTHORIZATION)
    site.plane.set(site.of(site.shop))
    wait_for(lambda: "late" not in str(site.workloads()["shop"]), "the workload without a policy")


def late(site, *principals):
    m = site.plane.messages["istio.security.Authorization"](name="late", namespace="demo", scope=2, action=0)
    match = m.rules.add().clauses.add().matches.add()
    for p in principals:
        match.principals.add(exact=p)
    if not principals:
        match.destination_ports.append(8080)
    site.plane.set(("demo/late", m), type_url=AUTHORIZATION)


def waits(site):
    return int(
        re.search(
            r"^bruma_policy_waits_total (\d+)", site.node.metrics() + "\nbruma_policy_waits_total 0", re.M
        )[1]
    )


@pytest.mark.parametrize("protocol", [1, 0], ids=["hbone", "plaintext"])
def test_a_policy_that_has_not_come_yet_holds_the_connection(site, unguarded, protocol):
    unguarded(tunnel_protocol=protocol)
    before = waits(site)
    ping = Waiting(site.ping)
    wait_for(lambda: waits(site) == before + 1, "the connection to wait, and to be counted")
    assert not ping.answers
    late(site)
    assert ping.result() == "ping"
    assert site.ping() == "ping" and waits(site) == before + 1


def test_a_held_connection_is_denied_by_the_policy_that_comes(site, unguarded):
    unguarded()
    before = waits(site)
    ping = Waiting(site.ping)
    wait_for(lambda: waits(site) == before + 1, "the connection to wait")
    late(site, "cluster.local/ns/demo/sa/nobody")
    assert ping.result() in ("closed", "ConnectionResetError")
    site.logged("policy_denied")


@pytest.mark.parametrize("protocol", [1, 0], ids=["hbone", "plaintext"])
def test_a_policy_that_never_comes_denies_in_the_end(site, unguarded, protocol):
    unguarded(tunnel_protocol=protocol)
    ping = Waiting(site.ping)
    assert ping.result() in ("closed", "ConnectionResetError")
    assert ping.seconds >= POLICY_TIMEOUT
    site.logged("policy_missing")
    assert 'bruma_failures_total{reason="policy_missing"}' in site.node.metrics()


def test_a_client_that_leaves_while_it_is_held(site, unguarded):
    unguarded()
    before = waits(site)
    for _ in range(3):
        site.web.python(
            "import socket, sys, time\ns = socket.create_connection((sys.argv[1], 8080))\ntime.sleep(0.3)",
            site.shop.ip,
        )
    wait_for(lambda: waits(site) == before + 3, "three that waited")
    late(site)
    assert site.ping() == "ping"


def test_a_live_connection_outlives_a_policy_that_is_late_and_not_one_that_never_comes(site, unguarded):
    code = (
        "import socket, sys, time\ns = socket.create_connection((sys.argv[1], 8080), timeout=20)\nbegin = time.monotonic()\n"
        "try:\n    while time.monotonic() - begin < 60:\n        s.sendall(b'x')\n        assert s.recv(1) == b'x'\n"
        "        time.sleep(0.1)\nexcept (OSError, AssertionError):\n    pass\nprint(time.monotonic() - begin)\n"
    )
    live = Waiting(lambda: float(site.web.python(code, site.shop.ip, timeout=120)))
    served(site.shop, 1)
    unguarded()
    time.sleep(POLICY_TIMEOUT / 2)
    late(site)
    time.sleep(POLICY_TIMEOUT)
    assert not live.answers, "the policy came in time, and it allows"
    site.plane.remove("demo/late", type_url=AUTHORIZATION)
    removed = time.monotonic()
    live.result()
    assert POLICY_TIMEOUT - 1 < time.monotonic() - removed < POLICY_TIMEOUT + 15
