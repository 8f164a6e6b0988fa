# SPDX-License-Identifier: Apache-2.0
"""bruma-agent alone: deaths and restarts, what is broken by hand, uninstall. Proxies that come and go:
test_agent_proxies.py."""

import json
import os
import socket
import subprocess
import sys
import time

import pytest

from support import agent as agent_client
from support import network
from support.nodes.agent_node import AgentNode, Plugin, breakage
from support.system import run, wait_for

# ---- deaths ----


def test_connections_wait_while_there_is_no_proxy(node):
    pod, proxy = node.pod("web"), node.proxy("first").serve()
    pod.add()
    assert pod.greeting() == "first inbound"
    proxy.kill()
    clients = [pod.client() for _ in range(5)]
    time.sleep(0.5)
    node.proxy("second").serve()
    assert [c.communicate(timeout=60)[0].strip() for c in clients] == ["second inbound"] * 5


def test_the_agent_killed_and_started_again_adopts(node):
    pod, proxy = node.pod("web"), node.proxy().serve()
    pod.add()
    node.agent.kill()
    assert pod.greeting() == "proxy inbound", "traffic does not need the agent"
    proxy.wait(event="disconnected")
    node.start()
    proxy.do("set", accepting=False)
    proxy.forget()
    proxy.do("connect")
    proxy.wait(event="message", op="snapshot-end")
    item = pod.wait_state("enrolled")
    assert item["generation"] == 1 and item["capturedSinceStart"], "adopted, not enrolled again"
    assert "listener_closed" not in item["mends"], "the listeners that the proxy gave back are used"
    assert proxy.seen(event="message", op="pod-add")[0]["uid"] == pod.uid
    proxy.do("set", accepting=True)
    node.label(False)
    pod.wait_state("outside")
    assert pod.untouched()


def test_connections_that_wait_survive_a_restart_of_the_agent(node):
    pod, proxy = node.pod("web"), node.proxy("holder")
    proxy.do("set", accepting=False)
    proxy.serve()
    pod.add()
    client = pod.client()
    time.sleep(0.3)
    node.agent.kill()
    proxy.wait(event="disconnected")
    node.start()
    node.wait_rounds(5)  # longer than adopt-wait: the slots are occupied, so the agent goes on waiting
    assert pod.item()["mends"] == {}
    proxy.do("set", accepting=True)
    proxy.do("connect")
    assert client.communicate(timeout=60)[0].strip() == "holder inbound"
    assert "listener_closed" not in pod.item()["mends"]


def test_both_killed_fails_closed_and_works_again_after_a_start(node):
    pod, proxy = node.pod("web"), node.proxy("first").serve()
    pod.add()
    server = node.python(
        "import socket\ns = socket.create_server(('10.79.0.1', 9999))\nprint('up', flush=True)\n"
        "while True: s.accept()[0].sendall(b'outside the mesh')"
    )
    assert server.stdout.readline() == "up\n"
    node.agent.kill()
    proxy.kill()
    assert pod.greeting() == "ConnectionRefusedError"
    assert pod.dials_out(timeout=3) in ("ConnectionRefusedError", "TimeoutError")
    node.start()
    node.proxy("second").serve()
    wait_for(lambda: pod.greeting() == "second inbound", "connections to work again")
    assert pod.dials_out() == "second outbound"
    assert pod.item()["mends"]["listener_closed"] == 1
    server.kill()
    server.wait()


def test_an_agent_killed_during_an_add_rolls_it_back(node):
    pod = node.pod("web")
    plugin = Plugin(node.run_dir)
    pod.attach(pod.begin(plugin))
    node.agent.kill()
    plugin.close()
    node.start()
    assert pod.item() is None
    assert pod.pins() == [] and pod.untouched()


def test_sigterm_leaves_everything_in_place(node):
    pod = node.pod("web")
    pod.add()
    rules = network.rules_and_routes(pod.netns)
    assert node.agent.stop() == 0
    assert len(pod.pins()) == 1 and network.rules_and_routes(pod.netns) == rules


def test_a_pod_that_vanished_is_reaped(node):
    pod, proxy = node.pod("web"), node.proxy().serve()
    other = node.pod("other", "outside")
    pod.add()
    other.add()
    network.delete(pod.netns)
    network.delete(other.netns)
    # The kernel takes namespaces away one after the other, and those of other tests may be before these.
    assert proxy.wait(60, event="message", op="pod-del")["uid"] == pod.uid
    wait_for(lambda: agent_client.pods(node.run_dir) == {}, "the pods to be forgotten", 60)
    assert pod.pins() == [] and os.listdir(f"{node.run_dir}/pods") == []


def test_a_namespace_without_a_name_stays_captured_while_a_process_lives_in_it(node):
    pod, _ = node.pod("web"), node.proxy().serve()
    pod.add()
    process = subprocess.Popen(["nsenter", f"--net={pod.path}", "sleep", "60"])
    wait_for(
        lambda: os.stat(f"/proc/{process.pid}/ns/net").st_ino == os.stat(pod.path).st_ino,
        "the process to be inside",
    )
    network.delete(pod.netns)
    node.wait_rounds(4)  # a namespace that is gone is missed within two looks, 400 ms apart
    assert pod.item()["state"] == "enrolled"
    process.kill()
    process.wait()
    wait_for(lambda: pod.item() is None, "the pod to be reaped")


def test_a_namespace_that_the_agent_does_not_see_where_the_runtime_has_it(node):
    """Its processes tell whether it lives, also to the next agent."""
    pod, proxy = node.pod("web"), node.proxy().serve()
    with Plugin(node.run_dir) as plugin:
        decision = pod.begin(plugin, netns="/run/elsewhere/web")
        pod.attach(decision)
        assert plugin.ask({"op": "cni-attached"})["op"] == "done"
    with open(node.agent.log) as f:
        assert "does not see a network namespace" in f.read()
    node.wait_rounds(4)
    assert pod.item()["state"] == "enrolled", "its first process has not come yet"
    process = subprocess.Popen(["nsenter", f"--net={pod.path}", "sleep", "600"])
    try:
        wait_for(
            lambda: os.readlink(f"/proc/{process.pid}/ns/net") != os.readlink("/proc/self/ns/net"),
            "the process",
        )
        node.agent.kill()
        proxy.wait(event="disconnected")
        node.start()
        item = pod.wait_state("enrolled")
        assert (
            item["netns"] == f"/proc/{process.pid}/ns/net"
            and item["generation"] == 1
            and item["capturedSinceStart"]
        )
        proxy.forget()
        proxy.do("connect")
        proxy.wait(event="message", op="snapshot-end")
        assert pod.greeting() == "proxy inbound"
    finally:
        process.kill()
        process.wait()
    wait_for(lambda: pod.item() is None, "a pod without processes to be reaped")
    assert pod.pins() == []


def test_a_pod_that_vanished_while_the_agent_was_away_is_reaped(node):
    pod = node.pod("web")
    pod.add()
    node.agent.kill()
    network.delete(pod.netns)
    node.start()
    assert agent_client.pods(node.run_dir) == {}
    assert pod.pins() == []


def test_a_lost_record_is_recovered_from_what_is_pinned(node):
    pod, proxy = node.pod("web"), node.proxy().serve()
    pod.add()
    node.agent.kill()
    proxy.wait(event="disconnected")
    for name in os.listdir(f"{node.run_dir}/pods"):
        os.unlink(f"{node.run_dir}/pods/{name}")
    node.start()
    assert pod.item()["state"] == "enrolled"
    proxy.forget()
    proxy.do("connect")
    assert proxy.wait(event="message", op="pod-add")["uid"] == pod.uid
    assert pod.item()["uid"] == pod.uid, "the proxy remembers the uid"
    assert pod.item()["ips"] == [pod.ip, pod.ip6]


def test_a_pod_that_has_used_up_its_ports_is_enrolled(node):
    """Its sysctl leaves two, and both are taken: by connections in TIME_WAIT, as a rule."""
    pod = node.pod("web")
    node.proxy().serve()
    taken = subprocess.Popen(
        [
            "nsenter",
            f"--net={pod.path}",
            sys.executable,
            "-c",
            (
                "import socket, sys\n"
                "open('/proc/sys/net/ipv4/ip_local_port_range', 'w').write('40000 40001')\n"
                "all = [socket.create_server(('', port)) for port in (40000, 40001)]\n"
                "print('taken', flush=True)\n"
                "sys.stdin.read()"
            ),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert taken.stdout.readline() == "taken\n"
        pod.add()
        assert pod.item()["state"] == "enrolled"
        assert pod.greeting() == "proxy inbound"
    finally:
        taken.communicate("")


# ---- what is broken by hand ----


@pytest.mark.parametrize(
    "what",
    [
        "link_detached",
        "rule_missing",
        "route_missing",
        "sysctl_changed",
        "listener_closed",
        "map_entry_missing",
    ],
)
def test_what_is_broken_by_hand_is_repaired_counted_and_reported(node, what):
    pod, _ = node.pod("web"), node.proxy().serve()
    pod.add()
    breakage(node, pod, what)
    wait_for(lambda: pod.item()["mends"].get(what), f"{what} to be found")
    assert node.status()["mends"][what] >= 1
    assert f"reason={what}" in node.agent.text()
    assert pod.greeting() == "proxy inbound" and pod.dials_out() == "proxy outbound"
    assert pod.ask("cni-check")["op"] == "done"
    found = agent_client.ask(node.run_dir, "explain", pod=f"{pod.namespace}/{pod.name}")
    assert what in [f.get("reason") for f in found if f["check"] == "repaired"]


def test_a_listener_that_a_proxy_finds_closed_is_replaced_at_once(work):
    node = AgentNode(work)
    node.start("--verify-interval", "1h")
    pod, proxy = node.pod("web"), node.proxy().serve()
    pod.add()
    breakage(node, pod, "listener_closed")
    proxy.do("raw", text='{"op":"listener-closed","uid":"somebody-else"}')
    proxy.do("raw", text=json.dumps({"op": "listener-closed", "uid": pod.uid}))
    wait_for(lambda: pod.item()["mends"].get("listener_closed"), "the listener to be replaced")
    assert (
        pod.greeting() == "proxy inbound"
        and pod.greeting(15008) == "proxy hbone"
        and pod.dials_out() == "proxy outbound"
    )


# ---- questions, uninstall ----


def test_doctor_and_explain_answer(node):
    pod, _ = node.pod("web"), node.proxy().serve()
    pod.add()
    wait_for(lambda: pod.item()["proxy"] == "serving", "the proxy to serve")
    checks = agent_client.ask(node.run_dir, "doctor")
    assert not [c for c in checks if not c["ok"]], checks
    assert {"kernel", "cgroup", "pins", "connect hooks", "mesh file", "proxy", "clock"} <= {
        c["check"] for c in checks
    }
    # Each of our hooks by its name, and what else runs there.
    hooks = dict(c["detail"].split(": ", 1) for c in checks if c["check"] == "hook")
    assert {"connect4", "connect6", "setsockopt", "options4", "options6", "accepted", "released"} <= set(
        hooks
    ), hooks
    assert all(
        text.startswith(f"attached to {node.cgroup}") or "runs without it" in text for text in hooks.values()
    ), hooks
    programs = {
        c["detail"].split(",")[0]: c["detail"] for c in checks if c["check"] == "programs on the hook"
    }
    assert (
        set(programs) == {"connect4", "connect6", "setsockopt", "sock_ops", "sock_release"}
        and "more than ours" not in programs["connect4"]
    ), programs
    findings = agent_client.ask(node.run_dir, "explain", pod="shop/web")
    assert not [f for f in findings if not f["ok"]], findings
    assert not agent_client.ask(node.run_dir, "explain", pod="shop/nobody")[0]["ok"]


def test_uninstall_leaves_nothing(node):
    pods = [node.pod("web"), node.pod("other", "outside")]
    for pod in pods:
        pod.add()
    r = run(node.argv("--uninstall"), netns=node.netns, check=False)
    assert r.returncode != 0 and "running" in r.stderr, "it must not be done behind a running agent's back"
    assert pods[0].item()["state"] == "enrolled"
    node.agent.stop()
    run(node.argv("--uninstall"), netns=node.netns)
    assert all(p.untouched() for p in pods)
    assert not os.path.exists(node.pin_dir) or os.listdir(node.pin_dir) == []
    assert not os.path.exists(node.run_dir)
    assert pods[0].greeting() == "ConnectionRefusedError"
    run(node.argv("--uninstall"), netns=node.netns)  # a second time finds nothing to do


def test_settings_and_bad_options(build):
    agent = f"{build}/agent/bruma-agent"
    assert "--verify-interval" in run([agent, "--help"]).stdout
    assert "verify-interval" in run([agent, "--settings-markdown"]).stdout
    for bad in (["--no-such"], ["--verify-interval", "soon"], ["word"], ["--log-level", "loud"]):
        r = run([agent, *bad], check=False)
        assert r.returncode == 2 and r.stderr.startswith("bruma-agent: "), (bad, r.stderr)


def test_the_service_manager_is_told(work):
    node = AgentNode(work)
    s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    s.bind(work.path("notify"))
    s.settimeout(30)
    node.agent = work.process(
        node.argv(), work.path("agent.log"), netns=node.netns, env={"NOTIFY_SOCKET": work.path("notify")}
    )
    assert s.recv(100) == b"READY=1"
    node.agent.stop()
    assert s.recv(100) == b"STOPPING=1"
