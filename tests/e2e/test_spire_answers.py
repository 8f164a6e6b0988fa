# SPDX-License-Identifier: Apache-2.0
"""Certificates of pods from SPIRE's agent, in two trust domains that federate: what its answers lead to, good ones and bad
ones. The agent here says what a test wants; test_spire.py has the real one."""

import json
import os

import grpc
import pytest

from support.certificates import Authority
from support.identity_files import Domain
from support.nodes.mesh import Mesh, MeshNode
from support.nodes.pod_programs import ECHO
from support.programs import program
from support.protobuf import text
from support.spire_answers import Agent, bundles, der, good, key_der, signed, svid
from support.system import run, wait_for
from support.xds.site import CLIENT

REFUSED = ("closed", "ConnectionResetError")
DENIED = (grpc.StatusCode.PERMISSION_DENIED, "caller not configured as an authorized delegate")


class OwnNode(MeshNode):
    """The node of a mesh, whose proxy has settings of its own."""

    own_env = None

    def proxy_env(self):
        return {**super().proxy_env(), **(self.own_env or {})}


class World:
    """near: web and cart, in near.domain; far: shop, in far.domain."""

    def __init__(self):
        self.mesh = Mesh(nodes=2, node_kinds=(OwnNode, OwnNode))
        self.near, self.far = Domain("near.domain"), Domain("far.domain")
        self.agents = [Agent(f"{self.mesh.dir}/spire-{d.name}", d.name) for d in (self.near, self.far)]
        self.agent = self.agents[0]
        self.web, self.shop = self.pod("web", self.near), self.pod("shop", self.far)
        self.cart = self.pod("cart", self.near)
        for node, agent in zip(self.mesh.nodes, self.agents, strict=True):
            node.own_env = agent.env()
            agent.put(None, bundles(self.near, self.far))
            agent.start()
        for pod in self.mesh.pods:
            self.give(pod)
        self.node = self.mesh.nodes[0]
        self.mesh.start()
        for pod in (self.web, self.shop, self.cart):
            pod.server(ECHO, "8080")

    def pod(self, name, domain, account=None):
        pod = self.mesh.pod(name, node=(domain is not self.near), account=account)
        pod.domain, pod.more = domain, {"trustDomain": domain.name}
        return pod

    def late_pod(self, name, account=None):
        pod = self.pod(name, self.near, account)
        self.mesh.write()
        wait_for(
            lambda: name in [w["name"] for w in pod.node.config_dump()["workloads"]], f"the workload {name}"
        )
        pod.enroll()
        wait_for(lambda: self.certificate(pod), f"{name} to be asked for")
        return pod

    def others(self, pod):
        return [self.far if pod.domain is self.near else self.near]

    def give(self, pod, words=None, **dates):
        """The agent says that of the pod's identity; None: what is good."""
        name = pod.domain.identity(pod)
        if words is None:
            words = good(pod.domain, name, self.others(pod), **dates)
        self.agents[pod.domain is self.far].put(name, words)

    def certificate(self, pod):
        dump = pod.node.config_dump()["certificates"]
        return next((c for c in dump if c["identity"] == pod.domain.identity(pod)), None)

    def serial(self, pod):
        chain = self.certificate(pod)["certChain"]
        return chain[0]["serialNumber"] if chain else None

    def renewed(self, pod, **dates):
        before = self.serial(pod)
        self.give(pod, **dates)
        wait_for(lambda: self.serial(pod) not in (before, None), "the next certificate")


@pytest.fixture(scope="module")
def world():
    world = World()
    try:
        with world.mesh:
            yield world
    finally:
        for agent in world.agents:
            agent.stop()


def ask(client, server):
    return client.python(CLIENT, server.ip, 8080).strip()


def asks_well(client, server):
    return ask(client, server) == "ping"


def said(node, start, *words):
    """Lines of the log since then with all of the words."""
    return [x for x in node.proxy.text()[start:].splitlines() if all(w in x for w in words)]


def metric(node, name):
    return int(node.metrics().split(f"\n{name} ")[1].split()[0])


def test_two_trust_domains_meet_in_both_directions(world):
    assert asks_well(world.web, world.shop) and asks_well(world.shop, world.web)
    assert asks_well(world.web, world.cart) and asks_well(world.cart, world.web)


def test_it_is_asked_by_the_selectors_of_the_pod(world):
    for agent, pod in ((world.agents[0], world.web), (world.agents[1], world.shop)):
        (stream,) = agent.of(pod.domain.identity(pod))
        assert stream.selectors == ["k8s:ns:demo", f"k8s:sa:{pod.name}", f"k8s:pod-uid:{pod.uid}"]
        assert len(agent.of(None)) == 1


def test_what_an_operator_sees(world):
    item = world.certificate(world.web)
    assert item["source"] == "spire" and item["state"] == "Available" and "error" not in item
    assert json.loads(world.node.ctl("identities", "-o", "json").stdout)[0]["source"] == "spire"
    metrics = world.node.metrics()
    assert 'bruma_identities{source="spire"} 2\n' in metrics and 'source="ca"' not in metrics
    assert metric(world.node, "bruma_spire_connected") == 1
    assert metric(world.node, "bruma_spire_subscriptions") == 2
    assert metric(world.node, "bruma_spire_bundles") == 2
    assert metric(world.node, "bruma_spire_bundles_unusable") == 0


def test_a_new_certificate_is_used_as_it_comes(world):
    world.renewed(world.web)
    assert len(world.agent.of(world.near.identity(world.web))) == 1, "on the same stream"
    assert asks_well(world.web, world.shop) and asks_well(world.web, world.cart)


def holds(pid, secret):
    """Whether the process has the bytes anywhere in its memory."""
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb") as memory:
        for line in maps:
            place, rights = line.split()[:2]
            begin, end = (int(x, 16) for x in place.split("-"))
            if not rights.startswith("rw"):
                continue
            memory.seek(begin)
            if secret in memory.read(end - begin):
                return True
    return False


def test_a_message_with_a_key_does_not_stay_in_memory(world):
    """Neither where it was read from the socket nor where it was put together."""
    pair = signed(world.near.authority, world.near.identity(world.web))
    name, before = world.near.identity(world.web), world.serial(world.web)
    world.give(world.web, good(world.near, name, [world.far], pair))
    wait_for(lambda: world.serial(world.web) not in (before, None), "the next certificate")
    pid = world.node.proxy.pid
    assert holds(pid, der(pair[0])[-40:]), "what is kept is found"
    assert not holds(pid, text(2, key_der(pair[1])))
    assert asks_well(world.web, world.shop)


def of_another(w, name="spiffe://near.domain/ns/demo/sa/web", authority=None, **dates):
    cert, key = signed(authority or w.near.authority, name, **dates)
    return svid(w.near.identity(w.web), [der(cert)], key_der(key))


BAD = {
    "garbage": ("a damaged certificate", lambda w: svid(w.near.identity(w.web), [b"garbage"], b"")),
    "cut off": ("the message is malformed", lambda w: of_another(w)[:-1]),
    "no key": (
        "no private key (DER, PKCS#8)",
        lambda w: svid(w.near.identity(w.web), [der(w.near.authority.cert)], b""),
    ),
    "key of another": (
        "the certificate is for another key",
        lambda w: svid(
            w.near.identity(w.web),
            [der(signed(w.near.authority, w.near.identity(w.web))[0])],
            key_der(w.near.authority.key),
        ),
    ),
    "another identity": (
        "the certificate is for another identity",
        lambda w: of_another(w, "spiffe://near.domain/ns/demo/sa/somebody-else"),
    ),
    "another domain": (
        "the certificate is for another identity",
        lambda w: of_another(w, "spiffe://far.domain/ns/demo/sa/web"),
    ),
    "other roots": (
        "the certificate is not signed by the roots that come with it",
        lambda w: of_another(w, authority=w.far.authority),
    ),
    "over": ("the certificate has expired already", lambda w: of_another(w, begins=-7200, ends=-3600)),
    "huge": ("a message is longer than is accepted", lambda w: text(9, bytes(5 << 20))),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_answers_leave_the_last_good_one_in_use(world, what):
    why, make = BAD[what]
    before, start = world.serial(world.web), len(world.node.proxy.text())
    world.give(world.web, make(world))
    wait_for(lambda: said(world.node, start, "svid_invalid", why), f"{why} in the log")
    assert world.serial(world.web) == before and why in world.certificate(world.web)["error"]
    assert metric(world.node, "bruma_certificates_not_renewed") == 1
    assert asks_well(world.web, world.shop) and asks_well(world.shop, world.web)
    world.renewed(world.web)
    wait_for(lambda: metric(world.node, "bruma_certificates_not_renewed") == 0, "it to be forgotten")


def test_without_an_entry_there_is_no_identity(world):
    start = len(world.node.proxy.text())
    world.give(world.web, b"")
    wait_for(lambda: said(world.node, start, "spire_no_entry", "no entry matches"), "the reason in the log")
    assert world.serial(world.web) is None and ask(world.web, world.shop) in REFUSED
    wait_for(lambda: ask(world.shop, world.web) in REFUSED, "tunnels from before to serve it no longer")
    wait_for(lambda: world.node.access_log("identity_unavailable: spire_no_entry: "), "why in the access log")
    world.give(world.web, good(world.near, world.near.identity(world.cart)))
    wait_for(lambda: said(world.node, start, "1 entries match, of other identities"), "others to be told", 30)
    world.give(world.web)
    wait_for(lambda: asks_well(world.web, world.shop), "traffic with the next entry")


def test_a_pod_that_comes_before_its_entry(world):
    late = world.pod("late", world.near)
    world.give(late, b"")
    world.mesh.write()
    late.enroll()
    wait_for(lambda: said(world.node, 0, "sa/late", "spire_no_entry"), "it to be asked for")
    assert ask(late, world.shop) in REFUSED
    world.give(late)
    wait_for(lambda: asks_well(late, world.shop), "traffic once it is there")


def test_pods_of_one_identity_come_and_go(world):
    """Whichever of them has an entry by its UID."""
    one = world.pod("one", world.near, account="crew")
    world.give(one)
    world.mesh.write()
    one.enroll()
    wait_for(lambda: asks_well(one, world.shop), "traffic of the first")
    two = world.pod("two", world.near, account="crew")
    world.mesh.write()
    two.enroll()
    name = world.near.identity(one)
    wait_for(lambda: asks_well(two, world.shop), "traffic of the second")
    assert len(world.agent.of(name)) == 1
    one.remove()
    world.mesh.write()
    wait_for(lambda: "one" not in world.node.ctl("pods").stdout.split(), "the first to be gone")
    world.agent.words[name] = good(world.near, name, [world.far])
    for stream in world.agent.of(name):
        stream.out.put(b"")  # its entry goes with it
    wait_for(
        lambda: [s.selectors[2:] for s in world.agent.of(name)] == [[f"k8s:pod-uid:{two.uid}"]],
        "the second to be asked for",
    )
    assert asks_well(two, world.shop)
    assert not said(world.node, 0, "sa/crew", "spire_no_entry"), "nobody was without"


def test_a_proxy_that_is_no_delegate_is_told_so(world):
    start, before = len(world.node.proxy.text()), world.serial(world.web)
    world.give(world.web, DENIED)
    wait_for(
        lambda: said(world.node, start, "spire_refused", "permission denied: caller not configured"),
        "the reason in the log",
    )
    assert world.serial(world.web) == before and asks_well(world.web, world.shop)
    world.renewed(world.web)


def test_an_agent_that_is_gone_and_back(world):
    start, before = len(world.node.proxy.text()), world.serial(world.web)
    world.agent.stop()
    wait_for(
        lambda: [said(world.node, start, "spire_unreachable", f"sa/{n}") for n in ("web", "cart")],
        "the reason in the log",
    )
    wait_for(lambda: metric(world.node, "bruma_spire_connected") == 0, "the metric")
    wait_for(lambda: said(world.node, start, "spire_unreachable", world.agent.socket), "tries to go on", 30)
    assert world.serial(world.web) == before and asks_well(world.web, world.shop)
    assert "Available, but no newer one: " in world.node.ctl("identities").stdout
    for pod in (world.web, world.cart):
        world.give(pod)
    world.agent.start()
    wait_for(lambda: world.serial(world.web) != before, "the next certificate", 40)
    wait_for(lambda: metric(world.node, "bruma_certificates_not_renewed") == 0, "all to be well", 40)
    assert metric(world.node, "bruma_spire_connected") == 1
    assert asks_well(world.web, world.shop) and asks_well(world.shop, world.web)


def test_an_agent_that_says_nothing(world):
    """As a real one without a certificate for an entry, when its server is away."""
    world.give(world.web, None)
    mute = world.pod("mute", world.near)
    world.agent.put(world.near.identity(mute), None)
    world.mesh.write()
    mute.enroll()
    wait_for(
        lambda: said(world.node, 0, "sa/mute", "spire_unreachable", "the agent does not answer"),
        "the reason in the log",
        30,
    )
    world.give(mute)
    wait_for(lambda: asks_well(mute, world.shop), "traffic once it speaks")


def test_a_certificate_at_its_end_is_not_used_any_more(world):
    world.renewed(world.web, ends=12)
    assert asks_well(world.web, world.shop)
    wait_for(
        lambda: world.certificate(world.web)["state"] == "Unavailable: the certificate has expired already",
        "it to be over",
        40,
    )
    assert ask(world.web, world.shop) in REFUSED
    world.give(world.web)
    wait_for(lambda: asks_well(world.web, world.shop), "traffic with the next one")


def test_bundles_decide_who_is_believed(world):
    world.agent.put(None, bundles(world.near))
    wait_for(lambda: ask(world.web, world.shop) in REFUSED, "the far domain to be refused")
    assert ask(world.shop, world.web) in REFUSED and asks_well(world.web, world.cart)
    world.agent.put(None, bundles(world.near, Domain("far.domain")))
    before = world.node.failures("peer_untrusted")
    wait_for(
        lambda: ask(world.web, world.shop) in REFUSED and world.node.failures("peer_untrusted") > before,
        "the wrong roots to be in force",
    )
    world.agent.put(None, bundles(world.near, world.far))
    wait_for(lambda: asks_well(world.web, world.shop), "the right ones to be in force")


def test_an_identity_trusts_whom_it_is_federated_with(world):
    world.give(world.web, good(world.near, world.near.identity(world.web)))
    wait_for(lambda: ask(world.web, world.shop) in REFUSED, "the far domain to be refused")
    assert asks_well(world.cart, world.shop), "to which another identity is federated"
    world.give(world.web)
    wait_for(lambda: asks_well(world.web, world.shop), "it to be federated again")


def test_a_bundle_that_cannot_be_used_leaves_the_last_one_in_force(world):
    start = len(world.node.proxy.text())
    world.agent.put(None, bundles(world.near, far_domain=b"garbage"))
    wait_for(lambda: said(world.node, start, "bundle_invalid", "far.domain"), "the reason in the log")
    assert metric(world.node, "bruma_spire_bundles_unusable") == 1
    world.agent.put(None, b"\x0a")
    wait_for(lambda: said(world.node, start, "bundle_invalid", "the message is malformed"), "the reason")
    assert asks_well(world.web, world.shop) and asks_well(world.shop, world.web)
    world.agent.put(None, bundles(world.near, world.far))
    wait_for(lambda: metric(world.node, "bruma_spire_bundles_unusable") == 0, "it to be good again")


def test_the_trust_domain_gets_new_roots(world):
    """Certificates of the new root may come just before that; those that only the old one has signed are not used with the
    new ones."""
    start, old = len(world.node.proxy.text()), world.near.authority
    world.near.authority = Authority("the next")
    for pod in (world.web, world.cart):
        world.give(pod)
    for agent in world.agents:
        agent.put(None, bundles(world.near, world.far))
    wait_for(lambda: asks_well(world.web, world.shop) and asks_well(world.web, world.cart), "the new roots")
    assert not said(world.node, start, "sa/web", "svid_invalid"), "nothing was wrong"
    world.near.authority = Authority("one more")
    world.agent.put(None, bundles(world.near, world.far))
    wait_for(
        lambda: said(world.node, start, "sa/web", "svid_invalid", "is not signed by the roots"),
        "the certificate to be withdrawn",
    )
    assert world.serial(world.web) is None and ask(world.web, world.cart) in REFUSED
    assert old is not world.near.authority
    for pod in (world.web, world.cart):
        world.give(pod)
    world.agents[1].put(None, bundles(world.near, world.far))
    wait_for(lambda: asks_well(world.web, world.shop) and asks_well(world.web, world.cart), "the next ones")


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({}, 'spire-socket: "" is no path of a socket'),
        ({"BRUMA_SPIRE_SOCKET": "spire.sock"}, 'spire-socket: "spire.sock" is no path of a socket'),
        ({"BRUMA_SPIRE_SOCKET": "/" + "x" * 120}, "is no path of a socket"),
        (
            {"BRUMA_SPIRE_SOCKET": "/s", "BRUMA_SPIRE_SELECTORS": "k8s"},
            'spire-selectors: "k8s" is not TYPE:VALUE',
        ),
    ],
)
def test_settings_that_do_not_fit(settings, why):
    env = {**os.environ, "BRUMA_IDENTITY_SOURCES": "spire", "CA_ADDRESS": "", **settings}
    r = run([program("bruma-proxy")], check=False, env=env)
    assert r.returncode == 1 and why in r.stderr, r.stderr
