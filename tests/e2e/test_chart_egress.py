# SPDX-License-Identifier: Apache-2.0
"""What the chart says of destinations outside the mesh: docs/egress.md."""

import os

import pytest

from support.chart import HELM, objects, rendered, template
from support.programs import ROOT

KEPT = os.path.join(ROOT, "tests", "data", "chart", "default.yaml")


def agent_env(o):
    spec = o["DaemonSet", "istio-cni-node"]["spec"]["template"]["spec"]
    return {e["name"]: e.get("value") for e in spec["containers"][0]["env"]}


@pytest.mark.skipif(not HELM, reason="helm is not here: BRUMA_HELM names a program, or it is on PATH")
def test_the_mesh_configuration_may_be_read_where_istiod_has_it():
    """Its ConfigMap alone, in istiod's namespace; or none, and then there is no such role."""
    where = ["istioNamespace=mesh-system", "revision=canary"]
    o = rendered(*where)
    role, binding = (o[kind, "bruma-agent-mesh-config"] for kind in ("Role", "RoleBinding"))
    assert role["metadata"]["namespace"] == binding["metadata"]["namespace"] == "mesh-system"
    assert [r["resourceNames"] for r in role["rules"]] == [["istio-canary"]]
    assert binding["subjects"][0]["namespace"] == "istio-system"
    env = agent_env(o)
    assert (env["BRUMA_MESH_CONFIG"], env["BRUMA_OUTBOUND_OVERRIDES"]) == ("mesh-system/istio-canary", "true")
    assert env["BRUMA_EXCLUSIONS"] == "true"
    off = [
        "cni.exclusions=false",
        "cni.outboundTrafficPolicy.followMeshConfig=false",
        "cni.outboundTrafficPolicy.overrides=false",
    ]
    o = rendered(*where, *off)
    assert not [name for kind, name in o if "mesh-config" in name]
    env = agent_env(o)
    assert (env["BRUMA_MESH_CONFIG"], env["BRUMA_OUTBOUND_OVERRIDES"]) == ("", "false")
    assert env["BRUMA_EXCLUSIONS"] == "false"


WAYS = ("BRUMA_DIRECT_OUTSIDE", "BRUMA_DIRECT_INBOUND", "BRUMA_SAME_NODE")


@pytest.mark.skipif(not HELM, reason="helm is not here: BRUMA_HELM names a program, or it is on PATH")
def test_direct_ways_are_switched_by_the_agents_environment():
    others = [
        "cni.directWays.outside=false",
        "cni.directWays.inbound=false",
        "cni.directWays.sameNode=kernel",
    ]
    env = agent_env(rendered(*others))
    assert [env[name] for name in WAYS] == ["false", "false", "kernel"]
    wrong = template("cni.directWays.sameNode=Kernel")
    assert wrong.returncode and "sameNode" in wrong.stderr


def test_direct_ways_of_the_charts_own_values():
    """They are those of the agent's settings."""
    with open(KEPT) as f:
        env = agent_env(objects(f.read()))
    with open(os.path.join(ROOT, "docs", "settings.md")) as f:
        settings = f.read()
    for name in WAYS:
        assert f"| `{env[name]}` |" in next(x for x in settings.splitlines() if f"`{name}`" in x)
