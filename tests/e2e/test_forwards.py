# SPDX-License-Identifier: Apache-2.0
"""Pods that pass on what others behind them send: containers in a pod behind a bridge, virtual machines
behind a tap. The hooks do not see that traffic, so such a pod is not announced as one of the mesh, and it is
said why."""

import json

import pytest

from support.nodes.mesh import Mesh
from support.nodes.pod_programs import ECHO, ask
from support.system import sh, wait_for


def bridge(pod):
    """As a container engine in the pod leaves it."""
    pod.run("ip", "link", "add", "docker0", "type", "bridge")
    pod.run("ip", "link", "set", "docker0", "up")
    return "docker0"


def tap(pod):
    pod.run("ip", "tuntap", "add", "tap0", "mode", "tap")
    pod.run("ip", "link", "set", "tap0", "up")
    return "tap0"


def inner_namespace(pod):
    """A veth whose other end is in a namespace of the pod's own, without a bridge."""
    sh("ip", "netns", "add", f"{pod.netns}-inner")
    pod.inner = f"{pod.netns}-inner"
    sh(
        "ip",
        "-n",
        pod.netns,
        "link",
        "add",
        "inner0",
        "type",
        "veth",
        "peer",
        "name",
        "eth0",
        "netns",
        pod.inner,
    )
    pod.run("ip", "link", "set", "inner0", "up")
    return "inner0"


MAKERS = {"bridge": bridge, "tap": tap, "veth": inner_namespace}


@pytest.fixture
def mesh():
    with Mesh(nodes=1, workers=1, agent_options=("--forwarding-look", "1h")) as m:
        m.web, m.near = m.pod("web"), m.pod("near")
        m.start()
        for pod in m.pods:
            pod.server(ECHO, "8080")
        try:
            yield m
        finally:
            if getattr(m.web, "inner", None):
                sh("ip", "netns", "del", m.web.inner)


def record(mesh):
    return next(p for p in json.loads(mesh.nodes[0].ctl("pods", "-o", "json").stdout) if p["name"] == "web")


def tunnelled(mesh):
    """Whether near reaches web by a tunnel: the control plane has told that web is of the mesh."""
    before = len(mesh.nodes[0].access_log())
    assert ask(mesh.near, mesh.web.ip).startswith("hello")
    lines = wait_for(
        lambda: [
            x
            for x in mesh.nodes[0].access_log()[before:]
            if f"dst.addr={mesh.web.ip}" in x and 'direction="outbound"' in x
        ],
        "the line",
    )
    return ":15008" in lines[-1]


@pytest.mark.parametrize("kind", MAKERS)
def test_a_pod_that_begins_to_forward(mesh, kind):
    """It is taken back, and announced again once the device is gone. Its own connections are captured all the
    time."""
    wait_for(lambda: tunnelled(mesh), "the pod to be announced")
    assert record(mesh)["announced"] and record(mesh)["forwards"] == ""
    device = MAKERS[kind](mesh.web)
    wait_for(lambda: not record(mesh)["announced"], "the pod to be taken back")
    assert record(mesh)["forwards"].startswith(device + " ") and record(mesh)["state"] == "enrolled"
    wait_for(lambda: not tunnelled(mesh), "others to hear of it")
    assert mesh.web.captured() and ask(mesh.web, mesh.near.ip).startswith("hello")
    assert "enrolled, not announced" in mesh.nodes[0].ctl("pods").stdout
    findings = json.loads(mesh.nodes[0].ctl("explain", "demo/web", "-o", "json", check=False).stdout)
    assert [f["reason"] for f in findings if f["check"] == "announced"] == ["pod_forwards"]
    assert "reason=pod_forwards" in mesh.nodes[0].agent.text()
    mesh.web.run("ip", "link", "del", device)
    wait_for(lambda: record(mesh)["announced"], "the pod to be announced again")
    wait_for(lambda: tunnelled(mesh), "others to hear of it")


@pytest.mark.parametrize("kind", MAKERS)
def test_a_pod_that_forwards_from_the_start(mesh, kind):
    """It is never announced, also not for a moment, and not by an agent that begins anew."""
    mesh.web.cni("DEL")
    MAKERS[kind](mesh.web)
    mesh.web.cni("ADD")
    node = mesh.nodes[0]
    for _ in range(2):
        assert record(mesh)["state"] == "enrolled" and not record(mesh)["announced"]
        assert not tunnelled(mesh)
        node.agent.kill()
        node.start_agent("--forwarding-look", "1h")
        wait_for(node.ready, "the proxy")


def test_what_is_no_sign_of_it(mesh):
    """A second network, a tunnel of the pod's own, forwarding that is switched on, and a bridge that is
    down."""
    pod = mesh.web
    sh(
        "ip",
        "-n",
        pod.netns,
        "link",
        "add",
        "net1",
        "type",
        "veth",
        "peer",
        "name",
        "second",
        "netns",
        pod.node.netns,
    )
    for argv in (
        ("link", "set", "net1", "up"),
        ("tuntap", "add", "tun0", "mode", "tun"),
        ("link", "set", "tun0", "up"),
        ("link", "add", "off0", "type", "bridge"),
    ):
        pod.run("ip", *argv)
    pod.run("sysctl", "-q", "-w", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    verified = record(mesh)["verifiedAt"]
    wait_for(lambda: record(mesh)["verifiedAt"] > verified + 1, "a few looks")
    assert record(mesh)["announced"], record(mesh)["forwards"]
    device = bridge(pod)
    wait_for(lambda: record(mesh)["forwards"].startswith(device), "what is one, beside them")


def test_it_can_be_switched_off(mesh):
    node = mesh.nodes[0]
    bridge(mesh.web)
    wait_for(lambda: not record(mesh)["announced"], "the pod to be taken back")
    node.agent.kill()
    node.start_agent("--forwarding-look", "0")
    wait_for(node.ready, "the proxy")
    assert record(mesh)["announced"]
    wait_for(lambda: tunnelled(mesh), "others to hear of it")
