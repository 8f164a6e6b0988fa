# SPDX-License-Identifier: Apache-2.0
"""bruma-proxy and the certificate authority: what it asks for, what it refuses, when it renews (rows CA of the
conformance list)."""

import threading
import time

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from support.certificates import Authority, pem
from support.nodes.pod_programs import ECHO
from support.nodes.waiting import Waiting
from support.system import wait_for
from support.xds.site import CLIENT


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
    wait_for(lambda: f"{site.shop.ip}:8080" in pods[10].run("ss", "-Htn").stdout, "the connection")
    time.sleep(0.5)  # the proxy has accepted it
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
