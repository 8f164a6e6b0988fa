# SPDX-License-Identifier: Apache-2.0
"""bruma-proxy against an independent control plane: what it asks, what it keeps, what it refuses (contract
sections 1.7, 4, 6, 7; rows xDS, outbound, RBAC and CA of the conformance list)."""

import re
import threading
import time

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from support.nodes.pod_programs import ECHO, served
from support.system import Process, wait_for
from support.xds.control_plane import ADDRESS, AUTHORIZATION
from support.xds.plane import END, Authority, pem
from support.xds.site import CLIENT, POLICY_TIMEOUT, Site, failed_connects


@pytest.fixture(scope="module")
def site():
    s = Site()
    with s.mesh:
        s.start()
        yield s
        s.plane.stop()


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


class Waiting:
    """Something that runs meanwhile."""

    def __init__(self, call):
        self.answers, self.begin = [], time.monotonic()
        self.thread = threading.Thread(target=lambda: self.answers.append(call()))
        self.thread.start()

    def result(self):
        self.thread.join(60)
        self.seconds = time.monotonic() - self.begin
        return self.answers[0]


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


# ---- the CA ----


@pytest.fixture
def fresh(site):
    """A pod whose identity nobody has asked for yet, with its workload."""
    made = []

    def make(name):
        pod = site.mesh.pod(name, node=0, account=name)
        site.mesh.write()
        site.plane.set(site.of(pod))
        made.append(pod)
        pod.cni("ADD")
        wait_for(lambda: f"sa/{name}" in site.node.ctl("pods").stdout, "the agent to know the pod's account")
        return pod

    yield make
    site.plane.answer_certificate = site.plane.good_certificate
    for pod in made:
        site.plane.remove(f"Kubernetes//Pod/demo/{pod.name}")


def reach(site, pod, seconds=20):
    return pod.python(CLIENT, site.shop.ip, 8080, seconds).strip()


def test_a_certificate_that_comes_late_is_waited_for(site, fresh):
    def slow(identity, csr):
        time.sleep(1)
        return site.plane.good_certificate(identity, csr)

    site.plane.answer_certificate = slow
    assert reach(site, fresh("slow")) == "ping"


BAD = {
    "another identity": {"identity": "spiffe://cluster.local/ns/demo/sa/somebody-else"},
    "another trust domain": {"identity": "spiffe://other.domain/ns/demo/sa/x"},
    "expired": {"begins": -7200, "ends": -3600},
    "root that did not sign": None,
}


@pytest.mark.parametrize("what", [*BAD, "refusal", "empty chain", "garbage", "key of somebody else"])
def test_ca_answers_that_are_refused_and_then_a_good_one(site, fresh, what):
    name = "ca-" + what.replace(" ", "-")[:12]
    identity = f"spiffe://cluster.local/ns/demo/sa/{name}"

    def bad(asked, csr):
        if asked != identity:
            return site.plane.good_certificate(asked, csr)
        if what == "refusal":
            return grpc.StatusCode.UNAUTHENTICATED
        if what == "empty chain":
            return []
        if what == "garbage":
            return [b"garbage", b"more of it"]
        if what == "key of somebody else":
            other = type(
                "C", (), {"public_key": staticmethod(ec.generate_private_key(ec.SECP256R1()).public_key)}
            )
            return site.plane.good_certificate(asked, other)
        if what == "root that did not sign":
            chain = site.plane.good_certificate(asked, csr)
            return [chain[0], site.plane.good_certificate(asked, csr, authority=Authority("test root"))[1]]
        return site.plane.good_certificate(asked, csr, **BAD[what])

    site.plane.answer_certificate = bad
    pod = fresh(name)
    assert reach(site, pod) in ("closed", "ConnectionResetError"), "no certificate, no connection"
    wait_for(lambda: site.plane.asked[identity], "the request", 60)
    site.logged("identity_unavailable")
    site.plane.answer_certificate = site.plane.good_certificate
    wait_for(lambda: reach(site, pod) == "ping", "the connection with a good certificate", 60)


ATTEMPTS = """
import socket, sys, time
for i in range(6):
    begin = time.monotonic()
    try:
        with socket.create_connection((sys.argv[1], 8080), timeout=30) as s:
            s.sendall(b"ping")
            s.recv(4) or 1 / 0
        said = "ping"
    except (OSError, ZeroDivisionError):
        said = "failed"
    print(said, time.monotonic() - begin)
"""


@pytest.mark.parametrize("status", ["PERMISSION_DENIED", "UNAVAILABLE"])
def test_a_ca_that_is_known_to_refuse_is_not_waited_for(site, fresh, status):
    """The first connection finds it out; those that come next fail at once, with the CA's words; and once it
    signs, they work."""
    name = "refused-" + status[:4].lower()
    refused = grpc.StatusCode[status]
    site.plane.answer_certificate = lambda identity, csr: (
        refused if name in identity else site.plane.good_certificate(identity, csr)
    )
    pod = fresh(name)
    lines = [line.split() for line in pod.python(ATTEMPTS, site.shop.ip, timeout=90).splitlines()]
    assert {said for said, _ in lines} == {"failed"}
    took = [float(t) for _, t in lines]
    assert took[0] < 7 and max(took[2:]) < 0.5, took
    identity = f"spiffe://cluster.local/ns/demo/sa/{name}"
    asked = site.plane.asked[identity]
    assert len(asked) <= max(asked) - min(asked) + 3, "once a second at the most, however many ask"
    why = f"identity_unavailable: {'ca_refused' if status == 'PERMISSION_DENIED' else 'ca_unreachable'}: as the test wants it"
    wait_for(
        lambda: [x for x in site.node.access_log(why) if f'src.workload="{name}"' in x],
        "the CA's words in the access log",
    )
    site.plane.answer_certificate = site.plane.good_certificate
    begin = time.monotonic()
    wait_for(lambda: reach(site, pod) == "ping", "traffic once the CA signs")
    assert time.monotonic() - begin < 10


def test_the_trust_domain_is_the_one_that_the_mesh_says(site):
    """Whatever the agent has been told: the certificate is of the identity that the control plane knows the
    pod by."""
    pods = [site.mesh.pod(name, node=0, account=name) for name in ("moved", "moved2")]
    site.mesh.write()
    site.plane.set(*(site.of(p, trust_domain="second.domain") for p in pods))
    wait_for(
        lambda: {p.name for p in pods} <= set(site.workloads()), "the workloads of the other trust domain"
    )
    for p in pods:
        p.cni("ADD")
        wait_for(
            lambda p=p: f"sa/{p.name}" in site.node.ctl("pods").stdout, "the agent to know the pod's account"
        )
    pods[1].server(ECHO, "8080")
    assert pods[0].python(CLIENT, pods[1].ip, 8080).strip() == "ping"
    assert pods[0].python(CLIENT, site.shop.ip, 8080).strip() in ("closed", "ConnectionResetError"), (
        "another trust domain"
    )
    site.logged("spiffe://second.domain/ns/demo/sa/moved")
    identities = [c["identity"] for c in site.node.config_dump()["certificates"]]
    assert "spiffe://second.domain/ns/demo/sa/moved" in identities
    wait_for(
        lambda: "spiffe://cluster.local/ns/demo/sa/moved" not in str(site.node.config_dump()["certificates"]),
        "nothing to be left of the first guess",
    )
    assert site.ping() == "ping"
    site.plane.remove(*(f"Kubernetes//Pod/demo/{p.name}" for p in pods))
    wait_for(lambda: "moved" not in site.workloads(), "the pods to be unknown again")
    assert "cluster.local/ns/demo/sa/moved" not in str(site.node.config_dump()["certificates"]), (
        "no guess over what was known"
    )


def test_ca_certificate_past_half_life_at_issue(site, fresh):
    """Appendix C: requests are paced. It is served meanwhile."""
    identity = "spiffe://cluster.local/ns/demo/sa/worn"
    site.plane.answer_certificate = lambda i, csr: site.plane.good_certificate(i, csr, begins=-3600, ends=600)
    pod = fresh("worn")
    assert reach(site, pod) == "ping"
    begin = time.monotonic()
    while time.monotonic() - begin < 3:
        assert reach(site, pod) == "ping"
    assert len(site.plane.asked[identity]) <= 2, "asked again at once, again and again"


def test_a_certificate_is_renewed_at_half_life_and_connections_live_on(site, fresh):
    identity = "spiffe://cluster.local/ns/demo/sa/young"
    site.plane.answer_certificate = lambda i, csr: site.plane.good_certificate(i, csr, begins=0, ends=30)
    pod = fresh("young")
    code = (
        "import socket, sys, time\ns = socket.create_connection((sys.argv[1], 8080), timeout=20)\n"
        "for i in range(40):\n    s.sendall(b'x')\n    assert s.recv(1) == b'x'\n    time.sleep(0.5)\nprint('whole')\n"
    )
    answers = []
    live = threading.Thread(target=lambda: answers.append(pod.python(code, site.shop.ip, timeout=120)))
    live.start()
    wait_for(lambda: len(site.plane.asked[identity]) >= 2, "the renewal", 60)
    first, second = site.plane.asked[identity][:2]
    assert second - first > 10, "at half of 30 s"
    assert reach(site, pod) == "ping"
    live.join(120)
    assert answers and answers[0].strip() == "whole"


def test_roots_rotate_with_the_next_certificates(site, fresh):
    """A pod with a certificate of the new root reaches one whose answer brings both roots."""
    new = Authority("new root")
    old = site.plane.authority

    def both(identity, csr):
        chain = site.plane.good_certificate(identity, csr, authority=new)
        chain[-1] += site.plane.good_certificate(identity, csr, authority=old)[-1]
        return chain

    site.plane.answer_certificate = both
    a = fresh("rotated")
    site.plane.answer_certificate = both
    b = fresh("rotated2")
    b.server(ECHO, "8080")
    assert a.python(CLIENT, b.ip, 8080).strip() == "ping"


def test_certificates_are_renewed_when_the_file_of_roots_changes(site, fresh):
    """Peers' roots come with certificates, which would be renewed at half life only."""
    identity = "spiffe://cluster.local/ns/demo/sa/rooted"
    pod = fresh("rooted")
    assert reach(site, pod) == "ping" and len(site.plane.asked[identity]) == 1
    new, old = Authority("next root"), site.plane.authority

    def both(asked, csr):
        return [*site.plane.good_certificate(asked, csr)[:1], pem(old.cert) + pem(new.cert)]

    site.plane.answer_certificate = both
    with open(site.plane.root_file, "wb") as f:
        f.write(pem(old.cert) + pem(new.cert))
    wait_for(lambda: len(site.plane.asked[identity]) == 2, "the renewal", 60)
    wait_for(
        lambda: all(len(c["rootCerts"]) == 2 for c in site.node.config_dump()["certificates"]),
        "all to know both roots",
        60,
    )
    assert reach(site, pod) == "ping"


class Held:
    """A CA whose calls for these accounts hang until they are let go, one by one."""

    def __init__(self, site, accounts):
        self.site, self.accounts, self.order = site, accounts, []
        self.turns, self.lock = threading.Semaphore(0), threading.Lock()
        site.plane.answer_certificate = self.answer

    def answer(self, identity, csr):
        account = identity.rpartition("/")[2]
        if not account.startswith(self.accounts):
            return self.site.plane.good_certificate(identity, csr)
        with self.lock:
            self.order.append(account)
        self.turns.acquire(timeout=30)
        return self.site.plane.good_certificate(identity, csr)

    def let_go(self, calls=1):
        self.turns.release(calls)


@pytest.fixture
def crowd(site):
    """Pods that are enrolled within a moment, so that their calls hang together."""
    pods = []

    def make(name, count):
        pods.extend(site.mesh.pod(f"{name}{i}", node=0, account=f"{name}{i}") for i in range(count))
        site.mesh.write()
        site.plane.set(*(site.of(p) for p in pods))
        wait_for(lambda: all(p.name in site.workloads() for p in pods), "the workloads")
        for p in pods:
            p.cni("ADD")
        return pods

    yield make
    site.plane.answer_certificate = site.plane.good_certificate
    site.plane.remove(*(f"Kubernetes//Pod/demo/{p.name}" for p in pods))


def test_a_waiting_connection_comes_before_prefetch(site, crowd):
    """Eight calls may be under way. Of those that wait for their turn, the one that a connection waits for is
    the next."""
    ca = Held(site, "queue")
    pods = crowd("queue", 11)
    wait_for(lambda: len(ca.order) == 8, "eight calls", 8)
    time.sleep(0.3)
    assert sorted(ca.order) == sorted(f"queue{i}" for i in range(8)), "no more than eight at once"
    ping = Waiting(lambda: reach(site, pods[10]))
    time.sleep(0.5)
    ca.let_go()
    wait_for(lambda: len(ca.order) == 9, "the ninth call")
    assert ca.order[8] == "queue10"
    ca.let_go(20)
    assert ping.result() == "ping"


def test_calls_that_hang_end_and_let_others_come(site, crowd):
    """A call has ten seconds. Then its place is another's, and it is tried again later."""
    ca = Held(site, "hang")
    pods = crowd("hang", 9)
    wait_for(lambda: len(ca.order) == 8, "eight calls that hang")
    wait_for(lambda: "hang8" in ca.order, "the ninth to have its turn", 20)
    site.logged("deadline exceeded")
    ca.let_go(100)
    wait_for(
        lambda: reach(site, pods[8]) == "ping" and reach(site, pods[0]) == "ping",
        "all to be served in the end",
        60,
    )
