# SPDX-License-Identifier: Apache-2.0
"""bruma-agent alone: what the plugin, bad input and labels make it do."""

import contextlib
import os
import socket
import sys
import time

import pytest

from support import agent as agent_client
from support.nodes.agent_node import AgentNode, Plugin
from support.system import run, wait_for

# ---- CNI ----


def test_add_enrolls_and_del_leaves_nothing(node):
    pod, proxy = node.pod("web"), node.proxy().serve()
    assert pod.add() == "enrol"
    item = pod.item()
    assert item["state"] == "enrolled" and item["proxy"] == "serving" and item["capturedSinceStart"]
    assert item["ips"] == [pod.ip, pod.ip6]
    assert item["identity"] == "spiffe://cluster.local/ns/shop/sa/default"
    assert not pod.untouched()
    assert pod.greeting() == "proxy inbound"
    assert pod.greeting(15008) == "proxy hbone"
    assert pod.dials_out() == "proxy outbound"
    assert pod.ask("cni-check")["op"] == "done"
    assert pod.ask("cni-del")["op"] == "done"
    assert proxy.wait(event="message", op="pod-del")["uid"] == pod.uid
    assert pod.item() is None
    assert pod.pins() == []
    assert pod.untouched()
    assert os.listdir(f"{node.run_dir}/pods") == []
    assert pod.greeting() == "ConnectionRefusedError"  # nothing listens there, and nobody steers
    assert pod.ask("cni-del")["op"] == "done", "DEL twice"


def test_a_pod_outside_the_mesh_is_let_pass_and_remembered(node):
    pod = node.pod("other", "outside")
    assert pod.add() == "pass"
    assert pod.item()["state"] == "outside"
    assert pod.untouched() and pod.pins() == []
    assert pod.ask("cni-check")["op"] == "done"


def test_add_works_without_a_proxy_and_connections_wait_for_one(node):
    pod = node.pod("web")
    assert pod.add() == "enrol"
    assert pod.item()["proxy"] == "not_connected"
    assert "proxy_not_connected" in [p["reason"] for p in node.status()["problems"]]
    client = pod.client()
    time.sleep(0.3)
    node.proxy().serve()
    assert client.communicate(timeout=60)[0].strip() == "proxy inbound"


@pytest.mark.parametrize("how", ["end of connection", "cni-failed", "a lie"])
def test_an_add_that_fails_leaves_nothing(node, how):
    pod, proxy = node.pod("web"), node.proxy().serve()
    plugin = Plugin(node.run_dir)
    decision = pod.begin(plugin)
    assert decision["decision"] == "enrol"
    assert pod.pins() == [decision["cookie"]]
    for fd in decision["fds"]:
        os.close(fd)
    if how == "cni-failed":
        assert plugin.ask({"op": "cni-failed", "reason": "attach_failed", "error": "no"})["op"] == "done"
    elif how == "a lie":
        assert plugin.ask({"op": "cni-attached"})["reason"] == "attach_failed"
    plugin.close()
    wait_for(lambda: pod.item() is None, "the pod to be forgotten")
    wait_for(lambda: pod.pins() == [], "the pins to go")
    assert pod.untouched()
    assert os.listdir(f"{node.run_dir}/pods") == []
    assert proxy.wait(event="message", op="pod-del")["uid"] == pod.uid
    assert pod.add() == "enrol", "the runtime's next try works"


def test_a_plugin_that_dies_after_attaching_leaves_nothing(node):
    pod = node.pod("web")
    plugin = Plugin(node.run_dir)
    pod.attach(pod.begin(plugin))
    plugin.close()
    wait_for(lambda: pod.item() is None and pod.pins() == [] and pod.untouched(), "the roll-back")


def test_a_proxy_that_refuses_fails_the_add(node):
    pod, proxy = node.pod("web"), node.proxy().serve()
    proxy.do("set", refuse="listener_open_failed")
    with Plugin(node.run_dir) as plugin:
        decision = pod.begin(plugin)
        if decision["op"] == "decision":
            with contextlib.suppress(OSError):  # rolled back in the meantime
                pod.attach(decision)
            decision = plugin.ask({"op": "cni-attached"})
        assert decision["op"] == "error" and decision["reason"] == "listener_open_failed"
    assert pod.item() is None and pod.pins() == [] and pod.untouched()


def test_a_second_run_of_the_chain_adds_its_addresses(node):
    pod = node.pod("web")
    pod.add()
    with Plugin(node.run_dir) as plugin:
        answer = pod.begin(plugin, ifname="net1", network="other", ips=["10.80.0.9/24"])
    assert answer["decision"] == "pass" and answer["enrolled"]
    item = pod.item()
    assert (
        item["ips"] == [pod.ip, pod.ip6, "10.80.0.9"]
        and item["state"] == "enrolled"
        and item["generation"] == 1
    )
    with Plugin(node.run_dir) as plugin:
        answer = pod.begin(plugin, ifname="net2", ips=["10.80.0.10", "10.80.0.11"])
    assert answer["decision"] == "pass" and answer["enrolled"], (
        "a pod may have more addresses than are kept by name"
    )
    item = pod.item()
    assert item["ips"] == [pod.ip, pod.ip6, "10.80.0.9", "10.80.0.10"] and item["state"] == "enrolled"
    assert pod.ask("cni-del", ifname="net1")["op"] == "done"
    assert pod.item()["state"] == "enrolled", "one attachment is left"
    pod.ask("cni-del", ifname="net2")
    pod.ask("cni-del", ifname="eth0")
    assert pod.item() is None


def test_a_recreated_sandbox_replaces_the_old_one(node):
    proxy = node.proxy().serve()
    old = node.pod("web")
    old.add()
    new = node.pod("web-2")
    new.name, new.uid = old.name, old.uid
    assert new.add() == "enrol"
    assert new.item()["containerId"] == new.container
    assert old.untouched()
    assert len(new.pins()) == 1
    assert old.ask("cni-del")["op"] == "done"
    assert new.item()["state"] == "enrolled", "the late DEL of the old sandbox is not about the new one"
    assert len(proxy.seen(event="message", op="pod-add")) == 2
    assert new.greeting() == "proxy inbound"


def test_gc_drops_what_is_not_listed(node):
    a, b, c = node.pod("a"), node.pod("b"), node.pod("c", "outside")
    for pod in (a, b, c):
        pod.add()
    with Plugin(node.run_dir) as plugin:
        assert plugin.ask({"op": "cni-gc", "network": "unrelated", "attachments": []})["op"] == "done"
        assert len(agent_client.pods(node.run_dir)) == 3
        listed = [{"containerID": b.container, "ifname": "eth0"}]
        assert plugin.ask({"op": "cni-gc", "network": "pods", "attachments": listed})["op"] == "done"
        assert list(agent_client.pods(node.run_dir)) == ["shop/b"]
        assert a.untouched()
        assert plugin.ask({"op": "cni-gc", "network": "pods", "attachments": []})["op"] == "done"
    assert agent_client.pods(node.run_dir) == {}
    assert b.untouched() and b.pins() == []


def test_check_fails_once_capture_is_broken(node):
    node.agent.stop()
    node.start("--verify-interval", "10m")
    pod = node.pod("web")
    pod.add()
    run(["bpftool", "link", "detach", "pinned", f"{node.pin_dir}/pods/{pod.item()['cookie']}/link"])
    answer = pod.ask("cni-check")
    assert answer["op"] == "error" and answer["reason"] == "link_detached"
    assert pod.ask("cni-check")["op"] == "done", "the failed CHECK has it repaired"
    pod.ask("cni-del")
    assert pod.ask("cni-check")["op"] == "error"


def test_nothing_is_decided_before_a_mesh_file_was_read(work):
    node = AgentNode(work)
    os.unlink(node.mesh_file)
    node.agent = work.process(node.argv(), work.path("agent.log"), netns=node.netns)
    wait_for(lambda: agent_client.status(node.run_dir)["pid"], "the agent to answer", log=node.agent.log)
    pod = node.pod("web")
    with Plugin(node.run_dir) as plugin:
        assert plugin.ask({"op": "cni-status"})["reason"] == "agent_not_ready"
        assert pod.begin(plugin)["reason"] == "agent_not_ready"
    node.label(True)
    wait_for(lambda: node.status()["meshReady"], "the mesh file to be read")
    assert pod.add() == "enrol"


# ---- bad input ----


@pytest.mark.parametrize(
    "text",
    [
        b"{",
        b"[]",
        b"{}",
        b"\xff\xfe\x00",
        b'{"op":7}',
        b'{"op":"no-such-op"}',
        b"[" * 60000,
        b'{"op":"cni-add"}',
        b'{"op":"cni-del","containerId":"../x"}',
        b'{"op":"cni-attached"}',
        b'{"op":"cni-gc","network":"x"}',
        b'{"op":"explain","pod":"no-slash"}',
        b'{"op":"cni-add","containerId":"a","netns":"/x","podName":"a/b","podNamespace":"c"}',
    ],
)
def test_bad_messages_are_answered_and_harm_nobody(node, text):
    with Plugin(node.run_dir) as plugin:
        answer = plugin.ask(text)
        assert answer["op"] == "error" and answer["reason"] == "message_invalid", answer
    assert node.status()["version"]


def test_a_message_that_is_too_large_is_refused(node):
    with Plugin(node.run_dir) as plugin:
        plugin.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        assert plugin.ask(b'{"op":"status","pad":"' + b"x" * 70000 + b'"}')["reason"] == "message_invalid"
    assert node.status()["version"]


def test_descriptors_that_are_no_namespaces_are_refused(node):
    pod = node.pod("web")
    with Plugin(node.run_dir) as plugin, open("/dev/null") as null:
        assert plugin.ask(pod.request(), [null.fileno()])["reason"] == "netns_unusable"
        assert plugin.ask(pod.request())["reason"] == "message_invalid"
        assert plugin.ask(pod.request(), [null.fileno()] * 3)["reason"] == "message_invalid"
    fd = os.open(f"/run/netns/{node.netns}", os.O_RDONLY)
    with Plugin(node.run_dir) as plugin:
        assert plugin.ask(pod.request(), [fd])["reason"] == "netns_is_host"
    os.close(fd)
    assert pod.item() is None


def test_a_pod_without_addresses_is_refused(node):
    pod = node.pod("web")
    fd = os.open(pod.path, os.O_RDONLY)
    with Plugin(node.run_dir) as plugin:
        assert plugin.ask(pod.request(ips=[]), [fd])["reason"] == "pod_address_missing"
    os.close(fd)
    assert pod.item() is None and pod.pins() == [] and pod.untouched()


def test_descriptors_do_not_leak(node):
    def descriptors():
        return len(os.listdir(f"/proc/{node.agent.pid}/fd"))

    def come_and_go(times):
        for _ in range(times):
            pod.add()
            pod.ask("cni-del")
            with Plugin(node.run_dir) as plugin, open("/dev/null") as null:
                plugin.ask(b'{"op":"cni-status"}', [null.fileno()] * 8)

    pod = node.pod("web")
    come_and_go(2)  # what is opened once, when it is first wanted, is there then
    node.wait_rounds(2)
    before = descriptors()
    come_and_go(5)
    wait_for(lambda: descriptors() <= before, "all descriptors to be closed")


def test_only_root_is_answered(node):
    code = (
        "import os,socket\nos.setgid(65534); os.setuid(65534)\ns=socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
        f"try:\n  s.connect('{node.run_dir}/agent.sock'); s.send(b'{{\"op\":\"status\"}}'); print(len(s.recv(100)))\n"
        "except OSError as e: print('refused')"
    )
    os.chmod(node.work.directory, 0o755)
    os.chmod(f"{node.run_dir}/agent.sock", 0o666)
    assert run([sys.executable, "-c", code]).stdout.strip() in ("0", "refused")


# ---- labels ----


def test_a_namespaces_label_moves_its_running_pods(work):
    node = AgentNode(work)
    node.label(False)
    node.start()
    pod, proxy = node.pod("web"), node.proxy().serve()
    assert pod.add() == "pass"
    node.label(True)
    item = pod.wait_state("enrolled")
    assert not item["capturedSinceStart"]
    assert pod.greeting() == "proxy inbound"
    node.label(False)
    pod.wait_state("outside")
    assert proxy.wait(event="message", op="pod-drain")["uid"] == pod.uid
    assert pod.untouched() and pod.pins() == []
    node.label(True)
    assert pod.wait_state("enrolled")["generation"] == 2
    assert pod.greeting() == "proxy inbound"


def test_a_pod_leaves_only_when_its_connections_have_ended(node):
    pod, proxy = node.pod("web"), node.proxy().serve()
    proxy.do("set", keep=True, report_drained=False)
    pod.add()
    client = node.python(
        "import socket,time\n"
        f"s = socket.create_connection(('{pod.ip}', 8080), timeout=60)\n"
        "print(s.recv(100).decode().strip(), flush=True)\n"
        "print(len(s.recv(100)), flush=True)"
    )
    assert client.stdout.readline().strip() == "proxy inbound"
    node.label(False)
    pod.wait_state("draining")
    proxy.wait(event="message", op="pod-drain")
    assert not pod.untouched(), "the live connection needs the route"
    assert client.poll() is None
    assert pod.greeting() == "ConnectionRefusedError", "new connections go to the application"
    node.label(True)
    pod.wait_state("enrolled")
    assert client.poll() is None, "the live connection must survive leaving and coming back"
    node.label(False)
    pod.wait_state("draining")
    wait_for(lambda: len(proxy.seen(event="message", op="pod-drain")) == 2, "the second drain")
    proxy.do("drained", uid=pod.uid)
    pod.wait_state("outside")
    assert pod.untouched()
    client.kill()
    client.wait()


def mesh_problems(node):
    return [p["detail"] for p in node.status()["problems"] if p["reason"] == "mesh_file_invalid"]


ODD_FILES = {
    "a wrong field": lambda path: open(path, "w").write("namespaces: [{name: shop, lables: {}}]\n"),
    "nothing": lambda path: None,
    "a directory": os.mkdir,
    "a pipe": os.mkfifo,
    "a link to itself": lambda path: os.symlink(path, path),
    "an endless device": lambda path: os.symlink("/dev/zero", path),
}


@pytest.mark.parametrize("what", ODD_FILES)
def test_a_mesh_file_that_breaks_changes_nothing(node, what):
    pod = node.pod("web")
    pod.add()
    assert mesh_problems(node) == []
    os.unlink(node.mesh_file)
    ODD_FILES[what](node.mesh_file)
    wait_for(lambda: mesh_problems(node), "the problem to be told")
    assert node.mesh_file in mesh_problems(node)[0] and node.status()["meshError"] == mesh_problems(node)[0]
    assert pod.item()["state"] == "enrolled"
    assert node.status()["meshReady"]
    if what != "nothing":
        (os.rmdir if what == "a directory" else os.unlink)(node.mesh_file)
    node.label(False)
    pod.wait_state("outside")
    assert mesh_problems(node) == []
