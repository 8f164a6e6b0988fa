# SPDX-License-Identifier: Apache-2.0
"""An agent that follows the Kubernetes API and is to leave the node: when it takes everything away, and when not."""

import os

import pytest

from support import agent as agent_client
from support.kube.small import refused
from support.kube.world import AMBIENT
from support.system import run


def test_uninstall_takes_the_annotations_away(world):
    world.server.make_namespace("shop", AMBIENT)
    pods = [world.sandbox("shop", f"p{i}", 10 + i) for i in range(3)]
    for pod in pods:
        world.write_cache(pod)
    world.server.make_pod(
        "shop", "elsewhere", "n2", ["10.1.1.1"], annotations={"ambient.istio.io/redirection": "enabled"}
    )
    world.start().ready()
    for pod in pods:
        world.wait_redirection("shop", pod.name, "enabled")
    world.node.proxy.stop()
    world.node.agent.stop()
    settings = [f"--{name.replace('_', '-')}={value}" for name, value in world.settings.items()]
    arguments = [
        "--uninstall",
        "--run-dir",
        world.node.run_dir,
        "--pin-dir",
        world.node.pin_dir,
        "--cgroup",
        world.node.cgroup,
        "--node-name",
        "n1",
        *settings,
    ]
    run([f"{world.work.build}/agent/bruma-agent", *arguments], netns=world.node.netns)
    assert [world.server.redirection("shop", pod.name) for pod in pods] == [None] * 3
    assert world.server.redirection("shop", "elsewhere") == "enabled"
    assert not os.path.exists(world.node.run_dir) and not os.path.exists(world.node.pin_dir)


GOING, MARK = {"deletionTimestamp": "2026-01-01T00:00:00Z"}, {"annotations": {"bruma/uninstall": "retired"}}
DAEMONSET = "/apis/apps/v1/namespaces/istio-system/daemonsets/bruma"


NETWORK = '{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"bridge"}]}\n'


@pytest.fixture
def installed(small):
    """An agent that is a pod of a DaemonSet, has a pod in the mesh and its plugin in the network."""
    small.conf, small.bin = small.work.path("net.d"), small.work.path("bin")
    os.makedirs(small.conf)
    os.makedirs(small.bin)
    with open(f"{small.conf}/10-pods.conflist", "w") as f:
        f.write(NETWORK)
    small.server.daemonsets[DAEMONSET] = {"kind": "DaemonSet", "metadata": {"name": "bruma"}}
    small.server.make_namespace("shop", AMBIENT)
    small.pod = small.sandbox("shop", "web", 10)
    small.write_cache(small.pod)
    small.server.nodes[NODE] = {
        "kind": "Node",
        "metadata": {"name": "n1", "labels": {"zone": "a", "kubernetes.io/os": "linux"}},
    }
    small.options = {
        "daemonset": "bruma",
        "cni_conf_dir": small.conf,
        "cni_bin_dir": small.bin,
        "cni_plugin": f"{small.work.build}/cni/bruma-cni",
    }
    small.start(**small.options).ready()
    small.wait_redirection("shop", "web", "enabled")
    assert "bruma-cni" in network_of(small)
    return small


def network_of(world):
    with open(f"{world.conf}/10-pods.conflist") as f:
        return f.read()


NODE = "/api/v1/nodes/n1"


def wanting(**spec):
    return {"template": {"spec": spec}}


def terms(*terms, kind="requiredDuringSchedulingIgnoredDuringExecution"):
    return wanting(affinity={"nodeAffinity": {kind: {"nodeSelectorTerms": list(terms)}}})


def expressions(*items, field="matchExpressions"):
    return {field: [{"key": key, "operator": op, "values": list(values)} for key, op, *values in items]}


@pytest.mark.parametrize(
    ("metadata", "spec"),
    [
        ({**GOING, **MARK}, wanting()),
        ({}, wanting(nodeSelector={"zone": "b"})),
        (
            {},
            terms(
                expressions(("zone", "In", "b", "c")),
                expressions(("kubernetes.io/os", "In", "linux"), ("gpu", "Exists")),
            ),
        ),
        ({}, terms(expressions(("metadata.name", "NotIn", "n1"), field="matchFields"))),
    ],
    ids=["retired", "node selector", "affinity", "affinity by name"],
)
def test_agent_that_is_told_so_leaves_no_trace(installed, metadata, spec):
    """By the Job of the chart, or by a DaemonSet that does not want the node any more."""
    d = installed.server.daemonsets[DAEMONSET]
    d["metadata"].update(metadata)
    d["spec"] = spec
    installed.node.agent.stop()
    assert network_of(installed) == NETWORK and os.listdir(installed.bin) == []
    assert not os.path.exists(installed.node.pin_dir)
    assert installed.server.redirection("shop", "web") is None
    installed.node.proxy.stop()


@pytest.mark.parametrize(
    "how",
    [
        "there",
        "gone",
        "deleted by somebody",
        "marked and not deleted",
        401,
        403,
        404,
        500,
        "server away",
        "node unknown",
        "node 403",
        "tomorrow's operator",
        "preferred elsewhere",
        "no requirement that is understood",
    ],
)
def test_whatever_else_the_server_says_everything_stays(installed, how):
    """An agent that ends, and cannot be sure that its node is to leave the mesh: plaintext would be the price
    of an error."""
    server, d = installed.server, installed.server.daemonsets[DAEMONSET]
    d["spec"] = wanting(nodeSelector={"zone": "a"})
    if how == "gone":
        del server.daemonsets[DAEMONSET]
    elif how == "deleted by somebody":
        d["metadata"].update(GOING)
    elif how == "marked and not deleted":
        d["metadata"].update(MARK)
    elif isinstance(how, int):
        server.faults["daemonset"] = refused(how)
    elif how == "server away":
        server.stop_api()
    elif how == "node unknown":
        d["spec"] = wanting(nodeSelector={"zone": "b"})
        del server.nodes[NODE]
    elif how == "node 403":
        d["spec"] = wanting(nodeSelector={"zone": "b"})
        server.faults["node"] = refused(403)
    elif how == "tomorrow's operator":
        d["spec"] = terms(expressions(("zone", "Resembles", "b")))
    elif how == "preferred elsewhere":
        d["spec"] = terms(
            expressions(("zone", "In", "b")), kind="preferredDuringSchedulingIgnoredDuringExecution"
        )
    elif how == "no requirement that is understood":
        d["spec"] = terms()
    installed.node.agent.stop()
    assert "everything stays" in installed.log()
    assert "bruma-cni" in network_of(installed) and os.listdir(installed.bin) == ["bruma-cni"]
    assert os.listdir(f"{installed.node.pin_dir}/pods") != []
    if how != "server away":
        assert server.redirection("shop", "web") == "enabled"
    # Nothing has to be made again when an agent is back.
    if how == "gone":
        server.daemonsets[DAEMONSET] = d
    if how != "server away":
        installed.start(proxy=False, **installed.options)
        installed.wait_state("shop/web", "enrolled")
        assert agent_client.pods(installed.node.run_dir)["shop/web"]["generation"] == 1


def test_uninstall_without_the_server_says_so_and_does_the_rest(small):
    small.server.make_namespace("shop", AMBIENT)
    small.write_cache(small.sandbox("shop", "web", 10))
    small.start().ready()
    small.wait_redirection("shop", "web", "enabled")
    small.node.proxy.stop()
    small.node.agent.stop()
    small.server.stop_api()
    settings = [f"--{name.replace('_', '-')}={value}" for name, value in small.settings.items()]
    r = run(
        [
            f"{small.work.build}/agent/bruma-agent",
            "--uninstall",
            "--run-dir",
            small.node.run_dir,
            "--pin-dir",
            small.node.pin_dir,
            "--cgroup",
            small.node.cgroup,
            "--node-name",
            "n1",
            *settings,
        ],
        netns=small.node.netns,
        check=False,
    )
    assert r.returncode == 1 and "cannot be listed" in r.stderr
    assert not os.path.exists(small.node.run_dir) and not os.path.exists(small.node.pin_dir)
