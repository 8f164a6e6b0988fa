# SPDX-License-Identifier: Apache-2.0
"""Each metric that docs/contract.md promises (8.1), with its type and its labels in that order, once
something has happened that it counts."""

import itertools
import os
import re

import pytest

from support.dns import dig, dnsmasq
from support.hostnames import hostname_mesh, vips
from support.kube.small import SmallServer
from support.kube.world import World
from support.network import inside
from support.nodes.mesh import leaf
from support.nodes.pod_programs import ONE_SHOT
from support.programs import ROOT
from support.proxies import hbone
from support.revocation import Lists
from support.system import Failed, wait_for
from support.workspace import Workspace

HISTOGRAM = ("_bucket", "_sum", "_count")


def promised(part):
    """{metric: (type, labels)} of the table "Of the proxy" or "Of the agent"."""
    with open(os.path.join(ROOT, "docs", "contract.md")) as f:
        text = f.read().partition("### 8.1 Metrics")[2].partition("### 8.2")[0]
    of_connections = re.findall(r"`(\w+)`", re.search(r"Labels of connections:(.*?)\n\n", text, re.S)[1])
    table = re.search(rf"Of the {part}:\n\n(.*?)\n\n", text, re.S)[1]
    found = {}
    for row in table.splitlines()[2:]:
        name, kind, labels = (cell.strip() for cell in row.strip("|").split("|"))
        names = of_connections if labels == "of connections" else re.findall(r"`(\w+)`", labels)
        assert names or labels == "none", row
        found[name.strip("`")] = (kind, names)
    return found


PROXY, AGENT = promised("proxy"), promised("agent")


def labels_of(page, name):
    """The labels of the metric's first sample, in their order; None: there is none."""
    m = re.search(rf"^{name}(?:{{(.*)}})? \S+$", page, re.MULTILINE)
    return m and re.findall(r'(\w+)="(?:[^"\\]|\\.)*"', m[1] or "")


def check(page, name, kind, labels):
    of = name if kind == "histogram" or not name.endswith("_total") else name.removesuffix("_total")
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", page, re.MULTILINE))
    assert types.get(of, types.get(name)) == kind, f"no type of {name}"
    for suffix in HISTOGRAM if kind == "histogram" else ("",):
        wanted = [*labels, "le"] if suffix == "_bucket" else labels
        seen = labels_of(page, name + suffix)
        # where the place of either side is known, it follows the labels of a connection
        seen = [label for label in seen or [] if not re.search("_(region|zone)$", label)]
        assert seen == wanted, f"{name}{suffix}"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The proxy's page after all of it has happened."""
    path = str(tmp_path_factory.mktemp("crl") / "crl.pem")
    with hostname_mesh(CRL_PATH=path, BRUMA_CRL_REQUIRED="false", BRUMA_DNS_TIMEOUT="1s") as m:
        node = m.nodes[0]
        assert m.web.python(ONE_SHOT, m.member.ip, 8080, "x") == "x"
        with pytest.raises(Failed):
            m.web.python(ONE_SHOT, m.member.ip, 8099, "x")
        assert m.web.python(ONE_SHOT, vips("v4.test")[0], 80, "x") == "x"
        with dnsmasq(m.two):
            dig(m.web, m.two.ip, "outside.test", "A")
        dig(m.web, m.two.ip, "outside.test", "A")
        revoke(m, path)
        go_and_come(m)
        wait_for(lambda: "istio_xds_connection_terminations_total" in node.metrics(), "the end of the stream")
        yield node.metrics()


def revoke(m, path):
    """A peer of the mesh is refused because of a list."""
    lists, bad = Lists(m, path), leaf(m, m.web.identity)
    lists.revoke(bad[0])

    def counted():
        with inside(m.nodes[0].netns):
            try:
                c = hbone.Client((m.member.ip, 15008), *bad)
                c.connect(f"{m.member.ip}:8080")
                c.pump(lambda: c.closed, 2)
                c.close()
            except OSError:
                pass
        return "istio_crl_policy_rejections_total" in m.nodes[0].metrics()

    wait_for(counted, "the refusal")


def go_and_come(m):
    """A pod leaves, and the control plane's stream ends with the agent."""
    m.member.cni("DEL")
    m.nodes[0].agent.stop()
    m.nodes[0].start_agent()


@pytest.mark.parametrize("name", PROXY)
def test_of_the_proxy(page, name):
    check(page, name, *PROXY[name])


def test_nothing_is_untracked(page):
    for reporter in ("source", "destination"):
        assert f'istio_crl_untracked_connections_total{{reporter="{reporter}"}} 0\n' in page


@pytest.fixture(scope="module")
def agent_page(build):
    """An agent's page, and what it counted of an API server's events, one after the other."""
    work, counts = Workspace(build), []
    small = World(work, SmallServer)
    server = small.server
    try:
        server.make_namespace("shop")
        server.make_pod("shop", "kept", "n1", ["10.1.0.1"])
        small.start(proxy=False, metrics_port=15014).ready()

        def page():
            return small.node.http(15014, "/metrics")[1]

        def events(what):
            def seen():
                return tuple(
                    int(re.search(rf'nodeagent_reconcile_events_total{{type="{t}"}} (\d+)', page())[1])
                    for t in ("add", "update", "delete")
                )

            before = counts[-1] if counts else None
            wait_for(lambda: seen() != before and (before or seen()[0]), what)
            counts.append(seen())

        events("the first list")
        server.make_pod("shop", "more", "n1", ["10.1.0.2"])
        events("a new pod")
        server.label_pod("shop", "more", a="b")
        events("a change")
        server.delete_pod("shop", "more")
        events("a deleted pod")
        yield page(), counts
    finally:
        work.close()


@pytest.mark.parametrize("name", AGENT)
def test_of_the_agent(agent_page, name):
    check(agent_page[0], name, *AGENT[name])


def test_events_are_counted(agent_page):
    first = agent_page[1][0]
    assert first[0] == 1 and first[2] == 0
    steps = [tuple(b - a for a, b in zip(*pair, strict=True)) for pair in itertools.pairwise(agent_page[1])]
    assert [s[0] for s in steps] == [1, 0, 0] and [s[2] for s in steps] == [0, 0, 1]
    assert steps[1][1] >= 1
