# SPDX-License-Identifier: Apache-2.0
"""The proxy as a client of a certificate authority."""

import time

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from conformance.registry import case, expect, expect_that
from conformance.site import PATIENCE
from support.certificates import Authority
from support.proxies import hbone
from support.system import wait_for


class Calls:
    """What the CA is asked for while the block runs, and what it answers."""

    def __init__(self, site, answer=None):
        self.plane, self.answer, self.requests = site.plane, answer, []

    def __enter__(self):
        self.before = self.plane.answer_certificate
        self.plane.answer_certificate = self.take
        return self

    def take(self, identity, csr):
        self.requests.append((identity, csr))
        return (self.answer or self.before)(identity, csr)

    def of(self, identity):
        return [csr for i, csr in self.requests if i == identity]

    def __exit__(self, *_):
        self.plane.answer_certificate = self.before


def newcomer(site):
    """A pod that the mesh knows, and the CA has not heard of."""
    pod = site.mesh.pod(f"new{len(site.mesh.pods)}")
    site.push(site.plane.of(pod))
    site.enroll(pod)
    return pod


def leave(site, pod):
    site.enrolled.remove(pod)
    site.link.delete(pod.uid)
    site.withdraw(site.plane.of(pod)[0])
    pod.kill_programs()
    pod.remove()


def asked(site, calls, pod):
    """The pod opens a connection where it needs a certificate; the first request for it."""
    with site.peer():
        site.ask(pod, site.far.ip, seconds=1)
    return wait_for(lambda: calls.of(pod.identity), f"a request for {pod.identity}", PATIENCE)[0]


@case("I-1")
def the_request(site):
    """A request is signed by a P-256 key and has one SAN, critical, the URI of the pod's identity"""
    with Calls(site) as calls:
        pod = newcomer(site)
        try:
            csr = asked(site, calls, pod)
        finally:
            leave(site, pod)
    key = csr.public_key()
    expect_that(isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == "secp256r1", f"key: {key}")
    expect("signature", csr.is_signature_valid, True)
    extension = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    expect("SAN is critical", extension.critical, True)
    expect("SANs", list(extension.value), [x509.UniformResourceIdentifier(pod.identity)])
    expect("other extensions", len(list(csr.extensions)), 1)


@case("I-2")
def for_whom(site):
    """The call names the pod's identity in ImpersonatedIdentity"""
    expect_that(site.shop.identity in site.plane.asked, f"asked for {sorted(site.plane.asked)}")


@case("I-3")
def the_pods_own_certificate(site):
    """A pod's tunnels show the certificate of its own identity"""
    for pod in (site.shop, site.web):
        with site.tunnel(to=pod) as c:
            sans = c.tls.getpeercert()["subjectAltName"]
        expect(f"SAN of {pod.name}", sans, (("URI", pod.identity),))


@case("I-4")
def another_identity_is_not_taken(site):
    """A certificate of another identity than was asked for is not used"""
    wrong = lambda identity, csr: site.plane.good_certificate(
        identity, csr, identity="spiffe://cluster.local/ns/demo/sa/somebody"
    )
    with Calls(site, wrong) as calls:
        pod = newcomer(site)
        try:
            with site.peer() as peer:
                expect("the application's word", site.ask(pod, site.far.ip), "closed", "silence")
                expect("certificates that a peer has seen", peer.peers, [])
            expect_that(calls.of(pod.identity), "no certificate was asked for")
        finally:
            leave(site, pod)


@case("I-5")
def failures_back_off(site):
    """A CA that fails is asked less and less often, and the pod is served once it answers"""
    fails = lambda identity, csr: grpc.StatusCode.UNAVAILABLE
    with Calls(site, fails) as calls:
        pod = newcomer(site)
        try:
            asked(site, calls, pod)
            time.sleep(1.5)
            expect_that(len(calls.of(pod.identity)) <= 6, f"{len(calls.of(pod.identity))} requests in 1.5 s")
            calls.answer = None
            with site.peer():
                wait_for(lambda: site.ask(pod, site.far.ip) == "hello", "the pod to be served", 15, 0.2)
        finally:
            leave(site, pod)


@case("I-6")
def renewed_at_half_of_its_life(site):
    """A certificate is renewed at half of its lifetime, and new tunnels show the new one"""
    short = lambda identity, csr: site.plane.good_certificate(identity, csr, begins=-1, ends=6)
    with Calls(site, short) as calls:
        pod = newcomer(site)
        try:
            asked(site, calls, pod)
            first = serial(site, pod)
            calls.answer = None
            wait_for(
                lambda: len(calls.of(pod.identity)) >= 2, "a second request before the first one's end", 6
            )
            wait_for(lambda: serial(site, pod) != first, "the new certificate in a tunnel", PATIENCE)
        finally:
            leave(site, pod)


def serial(site, pod):
    with site.tunnel(to=pod) as c:
        return c.tls.getpeercert()["serialNumber"]


@case("I-7")
def valid_while_the_ca_fails(site):
    """If a renewal fails, the certificate that is still valid stays in use"""
    short = lambda identity, csr: site.plane.good_certificate(identity, csr, begins=-1, ends=8)
    with Calls(site, short) as calls:
        pod = newcomer(site)
        try:
            asked(site, calls, pod)
            first = serial(site, pod)
            calls.answer = lambda identity, csr: grpc.StatusCode.UNAVAILABLE
            wait_for(lambda: len(calls.of(pod.identity)) >= 2, "an attempt to renew it", 7)
            expect("certificate in a new tunnel", serial(site, pod), first)
        finally:
            leave(site, pod)


@case("I-8")
def roots_come_with_the_certificate(site):
    """Peers are verified by the roots that came with the certificate, and by no others"""
    stranger = site.certificate(site.far.identity, authority=Authority("somebody's root"))
    expect_that("ALERT" in hbone.alert_of(site, hbone.context(False, *stranger)), "it was let in")
