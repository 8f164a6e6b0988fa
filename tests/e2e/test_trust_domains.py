# SPDX-License-Identifier: Apache-2.0
"""A mesh that changes its trust domain: identities in an alias (trustDomainAliases) count as those of its
own, for tunnels in both directions and in policies; those of any other trust domain do not."""

import pytest

from support.nodes.pod_programs import ECHO
from support.system import wait_for
from support.xds.control_plane import AUTHORIZATION
from support.xds.site import CLIENT

GONE = ("closed", "ConnectionResetError")


@pytest.fixture
def site(new_site):
    """web and shop are in cluster.local; old in an alias, foreign in another trust domain."""
    site = new_site(BRUMA_TRUST_DOMAIN_ALIASES="cluster.local, old.domain, older.domain")
    site.old, site.foreign = (site.mesh.pod(name, node=0, account=name) for name in ("old", "foreign"))
    site.mesh.write()
    site.plane.set(
        site.of(site.old, trust_domain="old.domain"), site.of(site.foreign, trust_domain="foreign.domain")
    )
    wait_for(lambda: {"old", "foreign"} <= set(site.workloads()), "the workloads")
    for pod in (site.old, site.foreign):
        pod.cni("ADD")
        wait_for(
            lambda p=pod: f"sa/{p.name}" in site.node.ctl("pods").stdout,
            "the agent to know the pod's account",
        )
        pod.server(ECHO, "8080")
    return site


def ask(client, server):
    return client.python(CLIENT, server.ip, 8080).strip()


def test_tunnels_in_both_directions(site):
    assert ask(site.web, site.old) == "ping" and ask(site.old, site.shop) == "ping"
    site.logged('src.identity="spiffe://old.domain/ns/demo/sa/old"')
    assert ask(site.foreign, site.shop) in GONE
    site.logged("peer_trust_domain")


def set_policy(site, principal, action):
    name, policy = site.plane.policy("p", scope=1, action=action)
    policy.rules.add().clauses.add().matches.add().principals.add(exact=principal)
    site.plane.set((name, policy), type_url=AUTHORIZATION)
    wait_for(
        lambda: (
            [p["action"] for p in site.node.config_dump()["policies"] if principal in str(p)]
            == [("Allow", "Deny")[action]]
        ),
        "the policy",
    )


def test_policies(site):
    """A principal of the policy stands for the identity in the alias, and the other way round."""
    set_policy(site, "cluster.local/ns/demo/sa/old", 0)
    assert ask(site.old, site.shop) == "ping"
    assert ask(site.web, site.shop) in GONE
    set_policy(site, "older.domain/ns/demo/sa/web", 0)
    assert ask(site.web, site.shop) == "ping"
    assert ask(site.old, site.shop) in GONE
    set_policy(site, "old.domain/ns/demo/sa/web", 1)
    assert ask(site.web, site.shop) in GONE
    assert ask(site.old, site.shop) == "ping"
    set_policy(site, "foreign.domain/ns/demo/sa/web", 1)
    assert ask(site.web, site.shop) == "ping", "another trust domain is another identity"
