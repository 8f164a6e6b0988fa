# SPDX-License-Identifier: Apache-2.0
"""Each piece of a pod's capture is broken by hand, with real traffic: it is found, repaired, counted and
reported, connections that live go on, and new ones pass the mesh again. (test_agent.py has the agent's side
of it alone.)"""

import json
import os
import sys

import pytest

from support.nodes.mesh import LISTENERS, Mesh
from support.nodes.pod_programs import ECHO, REACH, STREAM, goes_on
from support.programs import program
from support.system import sh, wait_for


@pytest.fixture(scope="module")
def mesh():
    with Mesh(nodes=2, workers=2) as m:
        m.web, m.shop = m.pod("web"), m.pod("shop", node=1)
        m.outside = m.pod("outside", node=1, namespace="outside")
        m.outside.outside = True
        m.start()
        for pod in m.pods:
            pod.server(ECHO, "8080")
        wait_for(lambda: reaches(m), "the mesh to be warm")
        m.streams = [
            a.popen("/usr/bin/python3", "-u", "-c", STREAM, b.ip6)
            for a, b in ((m.web, m.shop), (m.shop, m.web), (m.outside, m.web))
        ]
        for p in m.streams:
            goes_on(p, "a stream begins")
        yield m


def record(mesh):
    pods = json.loads(mesh.nodes[0].ctl("pods", "-o", "json").stdout)
    return next(p for p in pods if p["name"] == "web")


def status(mesh):
    return json.loads(mesh.nodes[0].ctl("status", "-o", "json").stdout)


def reaches(mesh):
    """Through the mesh in both directions and both families, and from outside."""
    pairs = ((mesh.web, mesh.shop), (mesh.shop, mesh.web), (mesh.outside, mesh.web))
    return all(a.python(REACH, b.ip, b.ip6).split() == ["yes", "yes"] for a, b in pairs)


def pins(mesh):
    return f"{mesh.nodes[0].pin_dir}/pods/{record(mesh)['cookie']}"


def key(mesh):
    return [f"{b:02x}" for b in int(record(mesh)["cookie"]).to_bytes(8, sys.byteorder)]


def entry(mesh, name):
    return ["pinned", f"{mesh.nodes[0].pin_dir}/maps/{name}", "key", "hex", *key(mesh)]


def flags_cleared(mesh):
    """The entry says that nothing is to be captured."""
    value = bytearray(
        b if isinstance(b, int) else int(b, 16)
        for b in json.loads(sh("bpftool", "-j", "map", "lookup", *entry(mesh, "pods")))["value"]
    )
    value[64:68] = bytes(4)
    sh("bpftool", "map", "update", *entry(mesh, "pods"), "value", "hex", *[f"{b:02x}" for b in value])


BREAKAGES = {
    "link detached": (
        "link_detached",
        lambda m: sh("bpftool", "link", "detach", "pinned", f"{pins(m)}/link"),
    ),
    "link unpinned": ("link_detached", lambda m: os.unlink(f"{pins(m)}/link")),
    "program unpinned": ("link_detached", lambda m: os.unlink(f"{pins(m)}/program")),
    "listeners' map unpinned": ("listener_closed", lambda m: os.unlink(f"{pins(m)}/listeners")),
    "all unpinned": (
        "link_detached",
        lambda m: [os.unlink(f"{d}/{f}") for d in [pins(m)] for f in os.listdir(d)],
    ),
    "IPv4 rule": ("rule_missing", lambda m: m.web.run("ip", "-4", "rule", "del", "pref", "32764")),
    "IPv6 rule": ("rule_missing", lambda m: m.web.run("ip", "-6", "rule", "del", "pref", "32764")),
    "all IPv4 rules but the main ones": (
        "rule_missing",
        lambda m: m.web.run("sh", "-c", "ip -4 rule flush; ip -4 rule add pref 32766 lookup main"),
    ),
    "IPv4 route": ("route_missing", lambda m: m.web.run("ip", "-4", "route", "flush", "table", "100")),
    "IPv6 route": ("route_missing", lambda m: m.web.run("ip", "-6", "route", "flush", "table", "100")),
    "IPv4 route elsewhere": (
        "route_missing",
        lambda m: m.web.run(
            "ip", "-4", "route", "replace", "default", "via", m.nodes[0].gateway, "table", "100"
        ),
    ),
    "tcp_fwmark_accept": (
        "sysctl_changed",
        lambda m: m.web.run("sysctl", "-w", "net.ipv4.tcp_fwmark_accept=0"),
    ),
    "IPv4 fwmark_reflect": (
        "sysctl_changed",
        lambda m: m.web.run("sysctl", "-w", "net.ipv4.fwmark_reflect=0"),
    ),
    "IPv6 fwmark_reflect": (
        "sysctl_changed",
        lambda m: m.web.run("sysctl", "-w", "net.ipv6.fwmark_reflect=0"),
    ),
    "pods entry deleted": ("map_entry_missing", lambda m: sh("bpftool", "map", "delete", *entry(m, "pods"))),
    "pods entry emptied": ("map_entry_missing", flags_cleared),
    "counters deleted": (
        "map_entry_missing",
        lambda m: sh("bpftool", "map", "delete", *entry(m, "pod_counters")),
    ),
    **{
        f"{name} listener destroyed": (
            "listener_closed",
            lambda m, name=name: m.web.run(
                "ss", "-K", "state", "listening", "sport", "=", m.web.listener_ports()[name]
            ),
        )
        for name in LISTENERS
    },
    **{
        f"{name} listener's slot emptied": (
            "listener_closed",
            lambda m, i=i: sh(
                "bpftool", "map", "delete", "pinned", f"{pins(m)}/listeners", "key", i, 0, 0, 0
            ),
        )
        for i, name in enumerate(LISTENERS)
    },
}


def test_loopback_down_is_told_and_what_went_with_it_is_repaired(mesh):
    """The runtime takes lo down before it tells of a pod's end: no broken capture, and no error in the log. A
    pod that lives on without it is told of, its connections fail, and once the device is back so is its
    capture."""
    log = mesh.nodes[0].agent.log
    wait_for(lambda: reaches(mesh), "traffic before it")
    before, errors = record(mesh)["mends"], open(log).read().count("\terror\t")
    mesh.web.run("ip", "link", "set", "lo", "down")
    try:
        wait_for(lambda: record(mesh)["lastReason"] == "loopback_down", "the device to be missed")
        assert mesh.web.python(REACH, mesh.shop.ip).strip() not in ("yes", "end"), "around the mesh"
        assert record(mesh)["mends"] == before
    finally:
        mesh.web.run("ip", "link", "set", "lo", "up")
    wait_for(lambda: reaches(mesh), "traffic after it")
    assert record(mesh)["lastReason"] == "none"
    text = open(log).read()
    assert text.count("\terror\t") == errors, text[-2000:]


@pytest.mark.parametrize("what", BREAKAGES)
def test_piece_of_a_pods_capture(mesh, what):
    reason, do = BREAKAGES[what]
    node = mesh.nodes[0]
    wait_for(lambda: reaches(mesh), "traffic before it")
    mine, all_of_node, said = (
        record(mesh)["mends"].get(reason, 0),
        status(mesh)["mends"].get(reason, 0),
        len(node.agent.text()),
    )
    do(mesh)
    wait_for(
        lambda: record(mesh)["mends"].get(reason, 0) > mine, f"{reason} to be found and counted for the pod"
    )
    assert status(mesh)["mends"][reason] > all_of_node
    assert f'pod="demo/web" reason={reason}' in node.agent.text()[said:]
    wait_for(lambda: reaches(mesh), "traffic after it")
    findings = json.loads(node.ctl("explain", "demo/web", "-o", "json").stdout)
    assert reason in [f.get("reason") for f in findings if f["check"] == "repaired"]
    assert all(f["ok"] for f in findings if f["check"] in ("link", "listener", "verified")), findings
    assert record(mesh)["state"] == "enrolled" and record(mesh)["proxy"] == "serving"
    for p in mesh.streams:
        goes_on(p, "a connection that lived before")


@pytest.mark.parametrize(
    "hook", ["connect4", "connect6", "setsockopt", "options4", "options6", "accepted", "released"]
)
@pytest.mark.parametrize("how", ["detached", "unpinned"])
def test_connect_hook(mesh, hook, how):
    node, pin = mesh.nodes[0], f"{mesh.nodes[0].pin_dir}/links/{hook}"
    before, said = status(mesh)["mends"].get("cgroup_link_detached", 0), len(node.agent.text())
    if how == "detached":
        sh("bpftool", "link", "detach", "pinned", pin)
    else:
        os.unlink(pin)
    wait_for(
        lambda: status(mesh)["mends"].get("cgroup_link_detached", 0) > before, "the hook to be attached again"
    )
    assert "reason=cgroup_link_detached" in node.agent.text()[said:]
    seen = len(node.access_log())
    assert reaches(mesh)
    to = mesh.shop.ip if hook.endswith("4") else mesh.shop.ip6
    wait_for(
        lambda: [x for x in node.access_log()[seen:] if 'direction="outbound"' in x and to in x],
        "the connection in the mesh",
    )
    assert len(json.loads(sh("bpftool", "-j", "cgroup", "show", node.cgroup))) == 7, (
        "attached once, not twice"
    )


def test_while_the_entry_is_gone_nothing_leaves_the_pod(mesh):
    """The agent is stopped, so nobody repairs: connect() is refused, and what comes from outside is reset."""
    node = mesh.nodes[0]
    os.kill(node.agent.pid, 19)
    try:
        sh("bpftool", "map", "delete", "pinned", f"{node.pin_dir}/maps/pods", "key", "hex", *cookie_of(mesh))
        refused = failures(node, "pod_entry_missing")
        assert mesh.web.python(REACH, mesh.shop.ip, mesh.shop.ip6).split() == ["ConnectionRefusedError"] * 2
        assert mesh.outside.python(REACH, mesh.web.ip, mesh.web.ip6).split() == ["ConnectionRefusedError"] * 2
        assert failures(node, "pod_entry_missing") >= refused + 4
        for p in mesh.streams:
            goes_on(p, "a connection that lived before")
    finally:
        os.kill(node.agent.pid, 18)
    wait_for(lambda: reaches(mesh), "traffic once the agent is there")


def cookie_of(mesh):
    """As key(), without asking the agent."""
    for e in json.loads(sh("bpftool", "-j", "map", "dump", "pinned", f"{mesh.nodes[0].pin_dir}/maps/pods")):
        if e["formatted"]["value"]["pod"] == "demo/web":
            return [f"{b:02x}" for b in int(e["formatted"]["key"]).to_bytes(8, sys.byteorder)]
    raise AssertionError("web has no entry")


def failures(node, reason):
    """From the kernel's own counters, which are kept by the reason."""
    number = [
        line.split("`")[1]
        for line in sh(program("brumactl"), "reasons", "--markdown").splitlines()
        if line.startswith("| `")
    ].index(reason) + 1
    dump = json.loads(sh("bpftool", "-j", "map", "dump", "pinned", f"{node.pin_dir}/maps/failures"))
    entries = [
        e["formatted"] for e in dump if e["formatted"]["key"] in (number, f"BRUMA_REASON_{reason.upper()}")
    ]
    return sum(v["value"]["count"] for e in entries for v in e["values"])


def test_while_a_slot_is_empty_outside_is_reset_and_the_pod_waits(mesh):
    """A connection of the pod itself that comes meanwhile is answered late, and not refused."""
    node = mesh.nodes[0]
    directory = pins(mesh)
    os.kill(node.agent.pid, 19)
    try:
        for i in range(3):
            sh("bpftool", "map", "delete", "pinned", f"{directory}/listeners", "key", i, 0, 0, 0)
        assert mesh.outside.python(REACH, mesh.web.ip, mesh.web.ip6).split() == ["ConnectionRefusedError"] * 2
        waiting = [
            mesh.web.popen("/usr/bin/python3", "-c", REACH.replace("timeout=2", "timeout=30"), to)
            for to in (mesh.shop.ip, mesh.shop.ip6)
        ]
        missing = failures(node, "listener_missing")
        wait_for(lambda: failures(node, "listener_missing") >= missing + 2, "both SYNs at the empty slot")
        assert all(p.alive() for p in waiting), [p.text() for p in waiting]
    finally:
        os.kill(node.agent.pid, 18)
    for p in waiting:
        wait_for(lambda p=p: not p.alive(), "the connection that waited", 30)
        assert p.text().split() == ["yes"]
    wait_for(lambda: reaches(mesh), "traffic once the agent is there")


def test_a_destroyed_listener_does_not_keep_the_proxy_busy(mesh):
    """An agent that cannot answer: the proxy lets go of the listener, tells the agent once, and waits."""
    node = mesh.nodes[0]
    ports = mesh.web.listener_ports()
    os.kill(node.agent.pid, 19)
    try:
        before = node.proxy.text().count("a listener of a pod is closed")
        mesh.web.run("ss", "-K", "state", "listening", "sport", "=", ports["inbound"])
        wait_for(
            lambda: node.proxy.text().count("a listener of a pod is closed") > before, "the proxy to see it"
        )
        told = node.proxy.text().count("a listener of a pod is closed")
        assert told <= before + 2, "once for each worker"
        for p in mesh.streams:
            goes_on(p, "a connection that lived before")
        assert node.proxy.text().count("a listener of a pod is closed") <= before + 2
    finally:
        os.kill(node.agent.pid, 18)
    wait_for(lambda: reaches(mesh), "traffic once the agent is there")
