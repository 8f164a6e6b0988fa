# SPDX-License-Identifier: Apache-2.0
"""Policies of a pod, for tunnels and plaintext."""

import h2.errors

from conformance.registry import case, expect, expect_that
from conformance.site import PATIENCE, read
from support.nodes.pod_programs import ECHO

ALLOW, DENY = 0, 1
GLOBAL, NAMESPACE, SELECTOR = 0, 1, 2
FAR = "cluster.local/ns/demo/sa/far"
STRANGER = "spiffe://cluster.local/ns/other/sa/stranger"
NOBODY = {"not_principals": ["*"]}


def status(site, port=8080, **options):
    """Of a CONNECT by far, or by another certificate."""
    return site.status(f"{site.shop.ip}:{port}", **options)


def plaintext(site):
    """What comes back to the outside pod."""
    return site.ask(site.outside, site.shop.ip)


@case("R-1")
def a_deny_policy(site):
    """A DENY policy that matches refuses with 401, others are served"""
    with site.policies(site.policy("no-far", {"principals": [FAR]})):
        expect("far's", status(site), 401)
        expect("another's", status(site, certificate=site.certificate(STRANGER)), 200)
    expect("afterwards", status(site), 200)


@case("R-2")
def an_allow_policy(site):
    """With an ALLOW policy who matches is served, and all others get 401"""
    with site.policies(site.policy("far-only", {"principals": [FAR]}, action=ALLOW)):
        expect("far's", status(site), 200)
        expect("another's", status(site, certificate=site.certificate(STRANGER)), 401)
        expect("plaintext", plaintext(site), "closed")


@case("R-2")
def deny_before_allow(site):
    """A DENY policy counts before an ALLOW policy"""
    with site.policies(
        site.policy("far-only", {"principals": [FAR]}, action=ALLOW),
        site.policy("no-far", {"principals": [FAR]}),
    ):
        expect("far's", status(site), 401)


@case("R-3")
def allow_nothing(site):
    """An ALLOW policy without rules refuses everybody"""
    with site.policies(site.policy("nobody", action=ALLOW)):
        expect("far's", status(site), 401)
        expect("plaintext", plaintext(site), "closed")


@case("R-4")
def an_empty_match(site):
    """A match that has nothing in it matches nobody"""
    with site.policies(site.policy("void", {})):
        expect("far's", status(site), 200)


@case("R-5")
def dry_run(site):
    """A policy in dry run refuses nobody"""
    with site.policies(
        site.policy("dry", {"principals": [FAR]}, dry_run=True),
        site.policy("dry-allow", {"principals": ["nobody"]}, action=ALLOW, dry_run=True),
    ):
        expect("far's", status(site), 200)


@case("R-6")
def of_another_namespace(site):
    """A policy of another namespace does not count here"""
    with site.policies(site.policy("theirs", {"principals": [FAR]}, namespace="other")):
        expect("far's", status(site), 200)


@case("R-6")
def of_the_whole_mesh(site):
    """A policy of the whole mesh counts everywhere"""
    with site.policies(site.policy("all", {"principals": [FAR]}, namespace="", scope=GLOBAL)):
        expect("far's", status(site), 401)


@case("R-6")
def of_some_workloads(site):
    """A policy for some workloads counts for those that name it, and for no others"""
    policy = site.policy("some", {"principals": [FAR]}, scope=SELECTOR)
    with site.policies(policy):
        expect("far's, while shop does not name it", status(site), 200)
        item = site.plane.of(site.shop, authorization_policies=["demo/some"])
        with site.resources(item):
            expect("far's, while shop names it", status(site), 401)
            expect("to web", site.status(f"{site.web.ip}:8080", to=site.web), 503)


@case("R-7")
def principals(site):
    """Principals are compared without spiffe://, as a whole, by beginning, by end, and for presence"""
    for value, refuses in (
        (FAR, True),
        ("spiffe://" + FAR, False),
        ("cluster.local/ns/demo/*", True),
        ("*/sa/far", True),
        ("*/sa/fa", False),
        ("*", True),
    ):
        with site.policies(site.policy("p", {"principals": [value]})):
            expect(f"far's with {value}", status(site), 401 if refuses else 200)


@case("R-7")
def namespaces(site):
    """Namespaces are those of the identities"""
    with site.policies(site.policy("ns", {"namespaces": ["other"]})):
        expect("far's", status(site), 200)
        expect("of another namespace", status(site, certificate=site.certificate(STRANGER)), 401)


@case("R-7")
def accounts(site):
    """Service accounts are those of the identities"""
    with site.policies(site.policy("sa", {"service_accounts": ["demo/far"]})):
        expect("far's", status(site), 401)
        expect("another's", status(site, certificate=site.certificate(STRANGER)), 200)


@case("R-8")
def addresses(site):
    """Source addresses are the clients', by blocks of IPv4 and IPv6"""
    with site.policies(site.policy("ips", {"source_ips": [f"{site.far.ip}/32", f"{site.far.ip6}/128"]})):
        expect("far's", status(site), 401)
        expect("from another address", status(site, source=site.wp), 200)
        expect("far's by IPv6", site.status(f"[{site.shop.ip6}]:8080", address=site.shop.ip6), 401)
    block = ".".join(site.far.ip.split(".")[:3]) + ".0/24"
    with site.policies(site.policy("not-here", {"not_source_ips": [block]})):
        expect("from within the block that is excepted", status(site), 200)


@case("R-8")
def destinations(site):
    """Destination addresses are the pod's"""
    with site.policies(site.policy("to", {"destination_ips": [f"{site.web.ip}/32"]})):
        expect("to shop", status(site), 200)
    with site.policies(site.policy("to", {"destination_ips": [f"{site.shop.ip}/32"]})):
        expect("to shop", status(site), 401)


@case("R-9")
def ports(site):
    """Destination ports are the application's, also where a service's port was asked for"""
    with site.policies(site.policy("port", {"destination_ports": [8080]})):
        expect("to 8080", status(site), 401)
        expect("to another port, where nobody listens", status(site, 9999), 503)
        expect("by the service's port", site.status("shop.demo.svc.cluster.local:80"), 401)


@case("R-10")
def all_kinds_of_a_match(site):
    """All kinds of a match must agree"""
    with site.policies(site.policy("both", {"principals": [FAR], "destination_ports": [9999]})):
        expect("far's to 8080", status(site), 200)
        expect("far's to 9999", status(site, 9999), 401)


@case("R-10")
def all_clauses_of_a_rule(site):
    """All clauses of a rule must match, any match of a clause does"""
    except_8080 = site.policy("p", clauses=[[{"principals": [FAR]}], [{"not_destination_ports": [8080]}]])
    with site.policies(except_8080):
        expect("far's to the port that is excepted", status(site), 200)
        expect("far's to another", status(site, 9999), 401)
    either = site.policy("p", {"principals": ["nobody"]}, {"principals": [FAR]})
    with site.policies(either):
        expect("far's, by the second match", status(site), 401)


@case("R-11")
def strict(site):
    """Where who has no identity is denied, plaintext is refused and HBONE is served"""
    with site.policies(site.policy("strict", NOBODY)):
        expect("plaintext", plaintext(site), "closed")
        expect("far's", status(site), 200)


@case("R-11")
def permissive(site):
    """Without policies plaintext is served, from the client's own address"""
    expect("plaintext", plaintext(site), "hello")
    expect_that(f"FROM ::ffff:{site.outside.ip} " in site.shop.echo.text(), "the client's address is hidden")


@case("R-12")
def a_live_stream(site):
    """A policy that comes resets the streams that it refuses with CANCEL, and no others of their tunnel"""
    with site.tunnel() as c:
        denied = c.connect(f"{site.shop.ip}:8080")
        expect("status", c.status(denied), 200)
        server = site.shop.server(ECHO, "8094")
        try:
            other = c.connect(f"{site.shop.ip}:8094")
            expect("status", c.status(other), 200)
            with site.policies(site.policy("late", {"principals": [FAR], "destination_ports": [8080]})):
                expect_that(c.pump(lambda: c.reset_code(denied) is not None, PATIENCE), "the stream lives on")
                expect("code", c.reset_code(denied), int(h2.errors.ErrorCodes.CANCEL))
                c.send(other, b"goes on", end=True)
                expect_that(c.pump(lambda: c.ended(other), PATIENCE), "the other stream does not go on")
                expect("what came back", c.received(other), b"goes on")
        finally:
            server.kill()


@case("R-12")
def a_live_plaintext_connection(site):
    """A policy that comes closes the plaintext connections that it refuses"""
    with site.dial(site.outside, site.shop.ip) as s:
        s.sendall(b"x")
        expect("what came back", read(s, 1), b"x")
        with site.policies(site.policy("strict", NOBODY)):
            expect("the end", read(s, 1), b"", "ConnectionResetError")


@case("R-12")
def a_live_stream_by_the_workload(site):
    """So does a workload that comes to name a policy"""
    with site.policies(site.policy("some", {"principals": [FAR]}, scope=SELECTOR)), site.tunnel() as c:
        sid = c.connect(f"{site.shop.ip}:8080")
        expect("status", c.status(sid), 200)
        with site.resources(site.plane.of(site.shop, authorization_policies=["demo/some"])):
            expect_that(c.pump(lambda: c.reset_code(sid) is not None, 3), "the stream lives on")


@case("R-13")
def a_policy_that_has_not_come(site):
    """A connection to a workload that names a policy waits until the policy has come"""
    item = site.plane.of(site.shop, authorization_policies=["demo/late"])
    with site.resources(item), site.tunnel() as c:
        sid = c.connect(f"{site.shop.ip}:8080")
        c.status(sid, 1)
        expect("answer before the policy is there", c.status(sid, 0.1), None)
        with site.policies(site.policy("late", {"principals": [FAR]}, scope=SELECTOR)):
            expect("answer", c.status(sid), 401)
