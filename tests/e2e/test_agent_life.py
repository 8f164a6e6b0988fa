# SPDX-License-Identifier: Apache-2.0
"""bruma-agent alone: deaths and restarts, proxies that come and go, what is broken by hand, uninstall."""
import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from agent_node import Node, Plugin, Pod
from support import agent as agent_client
from support import network
from support.system import run, wait_for
from test_agent import node  # noqa: F401


# ---- deaths ----

def test_connections_wait_while_there_is_no_proxy(node):
    pod, proxy = Pod(node, "web"), node.proxy("first").serve()
    pod.add()
    assert pod.greeting() == "first inbound"
    proxy.kill()
    clients = [pod.client() for _ in range(5)]
    time.sleep(0.5)
    node.proxy("second").serve()
    assert [c.communicate(timeout=60)[0].strip() for c in clients] == ["second inbound"] * 5


def test_the_agent_killed_and_started_again_adopts(node):
    pod, proxy = Pod(node, "web"), node.proxy().serve()
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
    pod, proxy = Pod(node, "web"), node.proxy("holder")
    proxy.do("set", accepting=False)
    proxy.serve()
    pod.add()
    client = pod.client()
    time.sleep(0.3)
    node.agent.kill()
    proxy.wait(event="disconnected")
    node.start()
    time.sleep(2)  # longer than adopt-wait: the slots are occupied, so the agent goes on waiting
    assert pod.item()["mends"] == {}
    proxy.do("set", accepting=True)
    proxy.do("connect")
    assert client.communicate(timeout=60)[0].strip() == "holder inbound"
    assert "listener_closed" not in pod.item()["mends"]


def test_both_killed_fails_closed_and_works_again_after_a_start(node):
    pod, proxy = Pod(node, "web"), node.proxy("first").serve()
    pod.add()
    server = node.python("import socket\ns = socket.create_server(('10.79.0.1', 9999))\nprint('up', flush=True)\n"
                         "while True: s.accept()[0].sendall(b'outside the mesh')")
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
    pod = Pod(node, "web")
    plugin = Plugin(node.run_dir)
    pod.attach(pod.begin(plugin))
    node.agent.kill()
    plugin.close()
    node.start()
    assert pod.item() is None
    assert pod.pins() == [] and pod.untouched()


def test_sigterm_leaves_everything_in_place(node):
    pod = Pod(node, "web")
    pod.add()
    rules = network.rules_and_routes(pod.netns)
    assert node.agent.stop() == 0
    assert len(pod.pins()) == 1 and network.rules_and_routes(pod.netns) == rules


def test_a_pod_that_vanished_is_reaped(node):
    pod, proxy = Pod(node, "web"), node.proxy().serve()
    other = Pod(node, "other", "outside", number=11)
    pod.add()
    other.add()
    network.delete(pod.netns)
    network.delete(other.netns)
    assert proxy.wait(event="message", op="pod-del")["uid"] == pod.uid
    wait_for(lambda: agent_client.pods(node.run_dir) == {}, "the pods to be forgotten")
    assert pod.pins() == [] and os.listdir(f"{node.run_dir}/pods") == []


def test_a_namespace_without_a_name_stays_captured_while_a_process_lives_in_it(node):
    pod, _ = Pod(node, "web"), node.proxy().serve()
    pod.add()
    process = subprocess.Popen(["nsenter", f"--net={pod.path}", "sleep", "60"])
    wait_for(lambda: os.stat(f"/proc/{process.pid}/ns/net").st_ino == os.stat(pod.path).st_ino, "the process to be inside")
    network.delete(pod.netns)
    time.sleep(2)
    assert pod.item()["state"] == "enrolled"
    process.kill()
    process.wait()
    wait_for(lambda: pod.item() is None, "the pod to be reaped")


def test_a_namespace_that_the_agent_does_not_see_where_the_runtime_has_it(node):
    """Its processes tell whether it lives, also to the next agent."""
    pod, proxy = Pod(node, "web"), node.proxy().serve()
    with Plugin(node.run_dir) as plugin:
        decision = pod.begin(plugin, netns="/run/elsewhere/web")
        pod.attach(decision)
        assert plugin.ask({"op": "cni-attached"})["op"] == "done"
    with open(node.agent.log) as f:
        assert "does not see a network namespace" in f.read()
    time.sleep(2)
    assert pod.item()["state"] == "enrolled", "its first process has not come yet"
    process = subprocess.Popen(["nsenter", f"--net={pod.path}", "sleep", "600"])
    try:
        wait_for(lambda: os.readlink(f"/proc/{process.pid}/ns/net") != os.readlink("/proc/self/ns/net"), "the process")
        node.agent.kill()
        proxy.wait(event="disconnected")
        node.start()
        item = pod.wait_state("enrolled")
        assert item["netns"] == f"/proc/{process.pid}/ns/net" and item["generation"] == 1 and item["capturedSinceStart"]
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
    pod = Pod(node, "web")
    pod.add()
    node.agent.kill()
    network.delete(pod.netns)
    node.start()
    assert agent_client.pods(node.run_dir) == {}
    assert pod.pins() == []


def test_a_lost_record_is_recovered_from_what_is_pinned(node):
    pod, proxy = Pod(node, "web"), node.proxy().serve()
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
    assert pod.item()["ips"] == [pod.ip4, pod.ip6]


def test_a_pod_that_has_used_up_its_ports_is_enrolled(node):
    """Its sysctl leaves two, and both are taken: by connections in TIME_WAIT, as a rule."""
    pod = Pod(node, "web")
    node.proxy().serve()
    taken = subprocess.Popen(["nsenter", f"--net={pod.path}", sys.executable, "-c",
                              "import socket, sys\n"
                              "open('/proc/sys/net/ipv4/ip_local_port_range', 'w').write('40000 40001')\n"
                              "all = [socket.create_server(('', port)) for port in (40000, 40001)]\n"
                              "print('taken', flush=True)\n"
                              "sys.stdin.read()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert taken.stdout.readline() == "taken\n"
        pod.add()
        assert pod.item()["state"] == "enrolled"
        assert pod.greeting() == "proxy inbound"
    finally:
        taken.communicate("")


# ---- proxies ----

def states(node):
    return {p["pid"]: p["state"] for p in node.status()["proxies"]}


def test_the_younger_proxy_takes_over_and_the_older_drains(node):
    pod, first = Pod(node, "web"), node.proxy("first").serve()
    pod.add()
    second = node.proxy("second").serve()
    assert first.wait(event="message", op="drain")["deadlineMilliseconds"] == 30000
    assert states(node) == {first.pid: "replaced", second.pid: "serving"}
    first.kill()
    wait_for(lambda: len(node.status()["proxies"]) == 1, "the first to be gone")
    assert pod.greeting() == "second inbound"


def test_a_younger_proxy_is_given_what_the_older_one_brings_back_after_it(node):
    """Agent and proxy are replaced together: the new proxy is quicker at the new agent's socket than the old one. It is not told that it has
    heard of all pods, which would make it ready and be the end of the old one, before that has given back what it alone holds."""
    pod, first = Pod(node, "web"), node.proxy("first").serve()
    pod.add()
    node.agent.kill()
    first.wait(event="disconnected")
    node.start("--adopt-wait", "30s")
    second = node.proxy("second")
    second.do("connect")
    second.wait(event="message", op="setup")
    time.sleep(0.5)
    assert [m["op"] for m in second.seen(event="message")] == ["setup"]
    first.do("connect")
    second.wait(event="message", op="snapshot-end")
    assert [(m["op"], m.get("uid")) for m in second.seen(event="message")][1:] == [("pod-add", pod.uid), ("snapshot-end", None)]
    first.wait(event="message", op="drain")
    first.kill()
    assert pod.greeting() == "second inbound"
    assert "listener_closed" not in pod.item()["mends"]


def test_a_proxy_does_not_wait_for_ever_for_one_that_does_not_come(node):
    """What holds the pod's listeners is stuck, say: it neither connects nor dies."""
    pod, first = Pod(node, "web"), node.proxy("first").serve()
    pod.add()
    node.agent.kill()
    first.wait(event="disconnected")
    node.start()
    second = node.proxy("second").serve()
    assert second.wait(event="message", op="pod-add")["uid"] == pod.uid
    assert pod.greeting() == "second inbound"
    assert pod.item()["mends"]["listener_closed"] == 1


def test_a_replaced_proxy_that_connects_again_does_not_take_over(node):
    pod, first = Pod(node, "web"), node.proxy("first").serve()
    pod.add()
    second = node.proxy("second").serve()
    first.wait(event="message", op="drain")
    node.agent.kill()
    second.wait(event="disconnected")
    first.wait(event="disconnected")
    node.start()
    second.forget()
    first.forget()
    second.do("connect")
    second.wait(event="message", op="snapshot-end")
    first.do("connect")
    first.wait(event="message", op="snapshot-end")
    assert first.seen(event="message", op="pod-keep") and not first.seen(event="message", op="pod-add")
    assert states(node) == {first.pid: "replaced", second.pid: "serving"}
    assert not second.seen(event="message", op="drain")


@pytest.mark.parametrize("how", ["killed", "told to end"])
def test_a_replaced_proxy_serves_again_when_its_successor_is_gone(node, how):
    pod, first = Pod(node, "web"), node.proxy("first").serve()
    pod.add()
    second = node.proxy("second").serve()
    first.wait(event="message", op="drain")
    later = Pod(node, "late", number=11)  # which the first has never heard of
    later.add()
    assert (pod.greeting(), later.greeting()) == ("second inbound",) * 2
    if how == "killed":
        second.kill()
    else:
        second.do("terminate")  # it lives on, for its connections
    wait_for(lambda: first.seen(event="message", op="pod-add", uid=later.uid), "the first to hear of the pods again")
    assert [m["op"] for m in first.seen(event="message")].count("resume") == 1
    assert states(node) == {first.pid: "serving", **({} if how == "killed" else {second.pid: "ending"})}
    assert (pod.greeting(), later.greeting()) == ("first inbound",) * 2
    assert pod.item()["proxy"] == later.item()["proxy"] == "serving"
    third = node.proxy("third").serve()
    wait_for(lambda: len(first.seen(event="message", op="drain")) == 2, "the first to be replaced again")
    assert states(node)[third.pid] == "serving"


def test_a_proxy_that_knows_nothing_of_the_mesh_takes_nothing_over(node):
    """A roll-out with a control plane that does not answer: the proxy of before serves on, and again if it had been replaced."""
    pod, first = Pod(node, "web"), node.proxy("first").serve()
    pod.add()
    second = node.proxy("second")
    second.do("set", ready=False, accepting=False)
    second.serve()
    wait_for(lambda: states(node) == {first.pid: "serving", second.pid: "not_ready"}, "the second to wait")
    assert pod.greeting() == "first inbound" and not first.seen(event="message", op="drain")
    third = node.proxy("third").serve()
    wait_for(lambda: states(node) == {first.pid: "replaced", second.pid: "replaced", third.pid: "serving"}, "the third to take over")
    third.kill()
    wait_for(lambda: states(node) == {first.pid: "serving", second.pid: "replaced"}, "the first, and not the second, to serve again")
    assert pod.greeting() == "first inbound"


def test_a_proxy_takes_over_when_it_knows_the_mesh(node):
    pod, first = Pod(node, "web"), node.proxy("first").serve()
    pod.add()
    second = node.proxy("second")
    second.do("set", ready=False)
    second.serve()
    later = Pod(node, "late", number=11)
    later.add()
    wait_for(lambda: second.seen(event="message", op="pod-add", uid=later.uid), "the second to hear of new pods, too")
    second.do("get-ready")
    first.wait(event="message", op="drain")
    assert states(node) == {first.pid: "replaced", second.pid: "serving"}
    assert (pod.greeting(), later.greeting()) == ("second inbound",) * 2


def test_the_youngest_of_the_replaced_that_can_serves_again(node):
    """One that ends is not asked, and one of a version that does not know how refuses."""
    pod, first = Pod(node, "web"), node.proxy("first").serve()
    pod.add()
    others = [node.proxy(tag) for tag in ("second", "third", "fourth")]
    for proxy in others:
        proxy.serve()
        wait_for(lambda proxy=proxy: states(node)[proxy.pid] == "serving", "it to take over")
    second, third, fourth = others
    second.do("set", resumes=False)
    third.do("terminate")
    fourth.kill()
    wait_for(lambda: states(node) == {first.pid: "serving", second.pid: "replaced", third.pid: "ending"}, "the first to serve")
    assert second.seen(event="message", op="resume") and not third.seen(event="message", op="resume")
    assert pod.greeting() == "first inbound"


def test_a_new_agent_finds_none_but_a_replaced_proxy(node):
    pod, first = Pod(node, "web"), node.proxy("first").serve()
    pod.add()
    second = node.proxy("second").serve()
    first.wait(event="message", op="drain")
    node.agent.kill()
    first.wait(event="disconnected")
    second.kill()
    node.start()
    first.forget()
    first.do("connect")
    first.wait(event="message", op="resume")
    wait_for(lambda: states(node) == {first.pid: "serving"}, "it to serve again")
    assert pod.greeting() == "first inbound"


def test_a_replaced_proxy_that_finds_a_new_agent_first_waits_for_its_successor(node):
    pod, first = Pod(node, "web"), node.proxy("first").serve()
    pod.add()
    second = node.proxy("second").serve()
    first.wait(event="message", op="drain")
    node.agent.kill()
    for proxy in (first, second):
        proxy.wait(event="disconnected")
        proxy.forget()
    node.start()
    first.do("connect")
    first.wait(event="message", op="snapshot-end")
    second.serve()
    wait_for(lambda: states(node) == {first.pid: "replaced", second.pid: "serving"}, "the second to serve")
    time.sleep(2.5)  # longer than a replaced one waits
    assert not first.seen(event="message", op="resume") and not second.seen(event="message", op="drain")
    assert pod.greeting() == "second inbound"


def test_a_successor_comes_while_the_replaced_proxy_is_just_told_to_resume(node):
    pod, first = Pod(node, "web"), node.proxy("first").serve()
    pod.add()
    second = node.proxy("second").serve()
    first.wait(event="message", op="drain")
    os.kill(first.pid, signal.SIGSTOP)
    second.kill()
    wait_for(lambda: "told to serve again" in node.agent.text(), "the first to be told")
    third = node.proxy("third").serve()
    wait_for(lambda: states(node)[third.pid] == "serving", "the third to serve")
    os.kill(first.pid, signal.SIGCONT)
    wait_for(lambda: len(first.seen(event="message", op="drain")) == 2, "the first to drain again")
    assert states(node) == {first.pid: "replaced", third.pid: "serving"}
    assert pod.greeting() == "third inbound"
    third.kill()
    wait_for(lambda: states(node) == {first.pid: "serving"}, "the first to serve again")
    assert pod.greeting() == "first inbound"


def test_a_proxy_that_resumes_hears_what_has_become_of_its_pods(node):
    """One was deleted, one left and came back, one has new listeners."""
    gone, back, mended = pods = [Pod(node, name, number=10 + i) for i, name in enumerate(("gone", "back", "mended"))]
    first = node.proxy("first").serve()
    for pod in pods:
        pod.add()
    second = node.proxy("second").serve()
    first.wait(event="message", op="drain")
    gone.ask("cni-del")
    node.label(False)
    for pod in (back, mended):
        pod.wait_state("outside")
    node.label(True)
    for pod in (back, mended):
        pod.wait_state("enrolled")
    breakage(node, mended, "listener_closed")
    wait_for(lambda: mended.item()["mends"].get("listener_closed"), "new listeners")
    first.forget()
    second.kill()
    for pod in (back, mended):
        wait_for(lambda pod=pod: pod.item()["proxy"] == "serving", "the first to serve the pod")
        assert (pod.greeting(), pod.greeting(15008), pod.dials_out()) == ("first inbound", "first hbone", "first outbound")
    assert {m["uid"] for m in first.seen(event="message", op="pod-add")} == {back.uid, mended.uid}


def test_a_pod_drains_on_when_a_replaced_proxy_resumes(node):
    pod, first = Pod(node, "web"), node.proxy("first").serve()
    pod.add()
    second = node.proxy("second").serve()
    first.wait(event="message", op="drain")
    for proxy in (first, second):
        proxy.do("set", report_drained=False)
    node.label(False)
    pod.wait_state("draining")
    second.kill()
    wait_for(lambda: states(node) == {first.pid: "serving"}, "the first to serve again")
    time.sleep(1.5)  # longer than a proxy that went is waited for
    assert pod.item()["state"] == "draining" and not pod.untouched(), "the first has a connection of it"
    first.do("drained", uid=pod.uid)
    pod.wait_state("outside")
    assert pod.untouched()


def test_a_proxy_that_ends_does_not_take_over_from_a_new_agent(node):
    pod, first = Pod(node, "web"), node.proxy("first").serve()
    pod.add()
    first.do("terminate")
    wait_for(lambda: states(node) == {first.pid: "ending"}, "it to end")
    assert pod.item()["proxy"] == "not_connected"
    node.agent.kill()
    first.wait(event="disconnected")
    node.start()
    first.forget()
    first.do("connect")
    first.wait(event="message", op="snapshot-end")
    assert states(node) == {first.pid: "ending"}
    client = pod.client()
    time.sleep(2.5)
    assert not first.seen(event="message", op="resume")
    node.proxy("second").serve()
    assert client.communicate(timeout=60)[0].strip() == "second inbound", "the client has waited"


def test_listeners_of_another_namespace_are_not_adopted(node):
    pod, proxy = Pod(node, "web"), node.proxy().serve()
    pod.add()
    node.agent.kill()
    proxy.wait(event="disconnected")
    node.start()
    proxy.do("connect", lie="listener")
    wait_for(lambda: "not the pod's" in node.agent.text(), "the lie to be reported")
    wait_for(lambda: pod.item()["mends"].get("listener_closed") or pod.item()["proxy"] == "serving",
             "the pod to be served with listeners of its own")
    assert wait_for(pod.greeting, "an answer") == "proxy inbound"


@pytest.mark.parametrize("text", ["{", '{"op":"ack"}', '{"op":"ack","seq":99999}', '{"op":"ack","seq":"x"}',
                                  '{"op":"proxy-hello"}', '{"op":"held-end"}', '{"op":"pod-held","uid":"x"}',
                                  '{"op":"pod-drained"}', '{"op":"listener-closed"}',
                                  '{"op":"nonsense"}'])
def test_a_proxy_that_breaks_the_protocol_is_disconnected(node, text):
    pod, proxy = Pod(node, "web"), node.proxy().serve()
    pod.add()
    proxy.do("raw", text=text)
    assert proxy.wait(event="message", op="error")["reason"] == "message_invalid"
    proxy.wait(event="disconnected")
    assert pod.item()["state"] == "enrolled"
    proxy.do("connect")
    wait_for(lambda: pod.item()["proxy"] == "serving", "the proxy to be taken back")
    assert pod.greeting() == "proxy inbound"


def test_a_proxy_that_never_finishes_its_introduction_keeps_no_other_from_serving(node):
    pod, first = Pod(node, "web"), node.proxy("first").serve()
    pod.add()
    second, third = node.proxy("second").serve(), node.proxy("third")
    first.wait(event="message", op="drain")
    third.do("connect", hello=False)
    third.do("raw", text=json.dumps({"op": "proxy-hello", "pid": third.pid, "version": "silent"}))
    wait_for(lambda: third.pid in states(node), "the third to be known")
    second.kill()
    third.wait(event="disconnected")
    wait_for(lambda: states(node) == {first.pid: "serving"}, "the first to serve again")
    assert pod.greeting() == "first inbound"


@pytest.mark.parametrize("how", ["killed", "told to end"])
def test_a_pod_does_not_wait_for_the_answer_of_a_proxy_that_goes(node, how):
    proxy, pod = node.proxy().serve(), Pod(node, "web")
    wait_for(lambda: node.status()["proxyConnected"], "the proxy to serve")
    proxy.do("set", mute=True)
    with Plugin(node.run_dir) as plugin:
        pod.attach(pod.begin(plugin))
        proxy.wait(event="message", op="pod-add")
        proxy.kill() if how == "killed" else proxy.do("terminate")
        assert plugin.ask({"op": "cni-attached"})["op"] == "done"
    assert "did not answer" not in node.agent.text(), "it was waited for"


def test_a_silent_proxy_does_not_keep_pods_from_starting(node):
    proxy = node.proxy().serve()
    wait_for(lambda: node.status()["proxyConnected"], "the proxy to serve")
    proxy.do("set", mute=True)
    pod = Pod(node, "web")
    assert pod.add() == "enrol"
    proxy.wait(event="disconnected", timeout=40)


# ---- what is broken by hand ----

def breakage(node, pod, what):
    directory = f"{node.pin_dir}/pods/{pod.item()['cookie']}"
    if what == "link_detached":
        run(["bpftool", "link", "detach", "pinned", f"{directory}/link"])
    elif what == "rule_missing":
        run(["ip", "-n", pod.netns, "rule", "del", "pref", "32764"])
    elif what == "route_missing":
        run(["ip", "-n", pod.netns, "-6", "route", "flush", "table", "100"])
    elif what == "sysctl_changed":
        network.sysctl(pod.netns, {"net.ipv4.tcp_fwmark_accept": 0})
    elif what == "listener_closed":
        run(["ss", "-K", "state", "listening", "sport", "=", str(listener_port(pod))], netns=pod.netns)
    elif what == "map_entry_missing":
        key = int(pod.item()["cookie"]).to_bytes(8, sys.byteorder)
        run(["bpftool", "map", "delete", "pinned", f"{node.pin_dir}/maps/pods", "key", "hex", *[f"{b:02x}" for b in key]])


def listener_port(pod):
    """Of one of the listeners in the pod."""
    line = run(["ss", "-Hltn"], netns=pod.netns).stdout.splitlines()[0]
    return int(line.split()[3].rsplit(":", 1)[1])


@pytest.mark.parametrize("what", ["link_detached", "rule_missing", "route_missing", "sysctl_changed", "listener_closed",
                                  "map_entry_missing"])
def test_what_is_broken_by_hand_is_mended_counted_and_reported(node, what):
    pod, _ = Pod(node, "web"), node.proxy().serve()
    pod.add()
    breakage(node, pod, what)
    wait_for(lambda: pod.item()["mends"].get(what), f"{what} to be found")
    assert node.status()["mends"][what] >= 1
    assert f"reason={what}" in node.agent.text()
    assert pod.greeting() == "proxy inbound" and pod.dials_out() == "proxy outbound"
    assert pod.ask("cni-check")["op"] == "done"
    found = agent_client.ask(node.run_dir, "explain", pod=f"{pod.namespace}/{pod.name}")
    assert what in [f.get("reason") for f in found if f["check"] == "mended"]


def test_a_listener_that_a_proxy_finds_closed_is_replaced_at_once(work):
    node = Node(work)
    node.start("--verify-interval", "1h")
    pod, proxy = Pod(node, "web"), node.proxy().serve()
    pod.add()
    breakage(node, pod, "listener_closed")
    proxy.do("raw", text='{"op":"listener-closed","uid":"somebody-else"}')
    proxy.do("raw", text=json.dumps({"op": "listener-closed", "uid": pod.uid}))
    wait_for(lambda: pod.item()["mends"].get("listener_closed"), "the listener to be replaced")
    assert pod.greeting() == "proxy inbound" and pod.greeting(15008) == "proxy hbone" and pod.dials_out() == "proxy outbound"


# ---- questions, uninstall ----

def test_doctor_and_explain_answer(node):
    pod, _ = Pod(node, "web"), node.proxy().serve()
    pod.add()
    wait_for(lambda: pod.item()["proxy"] == "serving", "the proxy to serve")
    checks = agent_client.ask(node.run_dir, "doctor")
    assert not [c for c in checks if not c["ok"]], checks
    assert {"kernel", "cgroup", "pins", "connect hooks", "mesh file", "proxy", "clock"} <= {c["check"] for c in checks}
    findings = agent_client.ask(node.run_dir, "explain", pod="shop/web")
    assert not [f for f in findings if not f["ok"]], findings
    assert not agent_client.ask(node.run_dir, "explain", pod="shop/nobody")[0]["ok"]


def test_uninstall_leaves_nothing(node):
    pods = [Pod(node, "web", number=10), Pod(node, "other", "outside", number=11)]
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
    node = Node(work)
    s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    s.bind(work.path("notify"))
    s.settimeout(30)
    node.agent = work.process(node.argv(), work.path("agent.log"), netns=node.netns,
                              env={"NOTIFY_SOCKET": work.path("notify")})
    assert s.recv(100) == b"READY=1"
    node.agent.stop()
    assert s.recv(100) == b"STOPPING=1"
