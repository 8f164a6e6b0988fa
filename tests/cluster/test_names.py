# SPDX-License-Identifier: Apache-2.0
"""Names of Services for pods of the mesh: the chart's defaults have the node's proxy answer those that the control plane has
told it, and the cluster's own server all others. dig is the client, in the pods' network namespaces."""

import re

import pytest

from dig import ask, flags
from plan import CONTROL4
from support.system import wait_for

NAME = "server.names.svc.cluster.local"


@pytest.fixture(scope="module")
def names(cluster, mesh):
    cluster.namespace("names", **{"istio.io/dataplane-mode": "ambient"})
    pods = [
        cluster.pod("names", "client", "n1"),
        cluster.pod("names", "server", "n2"),
        cluster.pod("names", "without", "n1", annotations={"ambient.istio.io/dns-capture": "false"}),
    ]
    vips = cluster.service("names", "server", {"app": "server"})
    mesh.wait_in_mesh(*pods)
    yield pods, vips
    cluster.delete_namespace("names")


@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
def test_a_service_is_answered_by_the_nodes_proxy(names, transport):
    (client, _, _), vips = names
    for name in (NAME, "server", "server.names", f"{NAME}.names.svc.cluster.local"):
        for vip in vips:
            kind = "AAAA" if ":" in vip else "A"
            wait_for(
                lambda name=name, vip=vip, kind=kind: vip in ask(client, transport, name, kind),
                f"{name} {kind} to be answered",
                20,
            )
            out = ask(client, transport, name, kind)
            assert re.search(rf"\s30\s+IN\s+{kind}\s+{re.escape(vip)}$", out, re.M) and "aa" in flags(out), (
                out
            )
            assert f"SERVER: {CONTROL4}#53" in out


def test_other_names_are_answered_by_the_clusters_server(names):
    (client, _, _), _ = names
    for question in (("nobody.names.svc.cluster.local", "A"), (NAME, "TXT")):
        out = ask(client, *question)
        assert re.search("status: (NXDOMAIN|NOERROR)", out) and "ANSWER: 0" in out, out


def test_an_annotation_leaves_a_pod_to_its_server(names):
    """dnsmasq says another time to live."""
    (_, _, without), vips = names
    vip = next(v for v in vips if ":" not in v)
    wait_for(lambda: vip in ask(without, NAME, "A"), "the cluster's server to know the name", 20)
    assert not re.search(r"\s30\s+IN\s+A\s", ask(without, NAME, "A"))
