# SPDX-License-Identifier: Apache-2.0
"""What bruma-proxy does with the messages of a CNI agent (ZDS): the rows of the conformance list, bad
messages, restarts of either side. One node; the pods' traffic is in test_zds_client.py."""

import glob
import os
import re
import signal
import subprocess
import threading
import time

import pytest

from support.network import inside
from support.nodes.mesh import Mesh
from support.nodes.pod_programs import ECHO, ONE_SHOT, served
from support.nodes.zds_node import ZdsNode
from support.programs import program
from support.protobuf import text
from support.proxies import stock_capture
from support.proxies.at_rest import descriptors, listening, not_ready
from support.proxies.zds import SNAPSHOT_SENT, Refused, add_message, keep_message
from support.system import Process, sh, wait_for

# Opens a connection and holds it; "ENDED" when the other side ends it.
HOLD = """
import socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=60)
s.sendall(b"x"); s.recv(1)
print("READY", flush=True)
try:
    while s.recv(1):
        pass
except OSError:
    pass
print("ENDED", flush=True)
"""

# Holds the ports as a program in the pod would that does not share them.
OCCUPY = """
import socket, sys
s = socket.socket(socket.AF_INET6)
s.bind(("::", int(sys.argv[1])))
s.listen(1)
print("READY", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def mesh():
    with Mesh(nodes=1, node_kinds=[ZdsNode]) as m:
        m.node = m.nodes[0]
        m.web, m.shop = m.pod("web"), m.pod("shop")
        m.outside = m.pod("outside", namespace="outside")
        m.outside.outside = True
        m.start()
        m.agent, m.link = m.node.cni_agent, m.node.connection
        yield m


def hold(client, server, port=8080):
    p = client.popen("/usr/bin/python3", "-u", "-c", HOLD, server.ip, str(port))
    wait_for(lambda: "READY" in p.text() or not p.alive(), "the connection")
    assert p.alive(), p.text()
    return p


def occupy(mesh, pod, port):
    p = Process(
        ["/usr/bin/python3", "-u", "-c", OCCUPY, str(port)],
        f"{mesh.dir}/occupier-{time.monotonic_ns()}.log",
        netns=pod.netns,
        stdin=subprocess.PIPE,
    )
    wait_for(lambda: "READY" in p.text(), "the port to be taken")
    return p


def metric(node, name):
    found = re.search(rf"^{name} (\d+)$", node.metrics(), re.M)
    return int(found.group(1)) if found else None


# ---- the rows of the conformance list ----


@pytest.mark.parametrize("message", ["keep", "second snapshot", "add without workload_info"])
def test_keep_after_snapshot_sent(mesh, message):
    """A protocol error: refused, and the process ends with a failure."""
    fds = [os.open(f"/run/netns/{mesh.web.netns}", os.O_RDONLY)] if message.startswith("add") else []
    try:
        sent = {"keep": keep_message(mesh.web.uid), "second snapshot": SNAPSHOT_SENT}.get(
            message, text(1, text(1, "uid-x"))
        )
        mesh.link.send(sent, fds)
    finally:
        for fd in fds:
            os.close(fd)
    assert "protocol error" in mesh.link.answer()
    wait_for(lambda: not mesh.node.proxy.alive(), "the proxy to end")
    assert mesh.node.proxy.popen.returncode == 1
    assert "reason=message_invalid" in mesh.node.proxy.text()


def test_same_add_twice(mesh):
    before = listening(mesh.web)
    mesh.link.add(mesh.web)
    mesh.link.add(mesh.web)
    assert listening(mesh.web) == before == [15001, 15006, 15008]
    assert metric(mesh.node, "workload_manager_active_proxy_count") == 2
    assert metric(mesh.node, "workload_manager_proxies_started_total") == 2


def test_del_of_a_running_pod(mesh):
    mesh.shop.server(ECHO, "8080")
    tunnel, plain = hold(mesh.web, mesh.shop), hold(mesh.outside, mesh.shop)
    mesh.link.delete(mesh.shop.uid)
    wait_for(lambda: "ENDED" in tunnel.text() and "ENDED" in plain.text(), "the connections to be cut", 5)
    wait_for(lambda: listening(mesh.shop) == [], "the listeners to be gone", 5)
    assert metric(mesh.node, "workload_manager_proxies_stopped_total") == 1
    assert mesh.shop.uid not in mesh.node.config_dump()["workloadState"]


def test_del_of_nobody(mesh):
    mesh.link.delete("uid-unknown")
    mesh.link.ask(text(2, text(1, mesh.web.uid)))  # the uid in a field that has none: says nothing
    assert listening(mesh.web) == [15001, 15006, 15008]


@pytest.mark.parametrize("port", [15001, 15006, 15008])
def test_add_that_cannot_bind_after_the_snapshot(mesh, port):
    """Refused, and shown at once: not ready, one pod pending. It heals by itself when the port is free."""
    pod = mesh.pod("late")
    mesh.write()
    stock_capture.install(pod.netns)
    occupier = occupy(mesh, pod, port)
    try:
        with pytest.raises(Refused, match=f"port {port}: Address already in use"):
            mesh.link.add(pod)
        assert not_ready(mesh.node)
        assert metric(mesh.node, "workload_manager_pending_proxy_count") == 1
        assert mesh.node.config_dump()["workloadState"][pod.uid]["state"] == "Pending"
        assert listening(pod) == [port], "nothing of it is left open"
        mesh.link.add(mesh.web)  # the connection lives
        assert not_ready(mesh.node)
    finally:
        occupier.kill()
    wait_for(mesh.node.ready, "the pod to be served", 6)
    assert listening(pod) == [15001, 15006, 15008]
    assert metric(mesh.node, "workload_manager_pending_proxy_count") == 0
    assert mesh.node.config_dump()["workloadState"][pod.uid]["state"] == "Up"


def test_add_that_cannot_bind_before_the_snapshot(mesh):
    pod = mesh.pod("late")
    occupier = occupy(mesh, pod, 15008)
    try:
        mesh.link.close()
        link = mesh.agent.accept()
        for known in (mesh.web, mesh.shop):
            link.add(known)
        with pytest.raises(Refused):
            link.add(pod)
        link.snapshot_sent()
        assert not_ready(mesh.node)
    finally:
        occupier.kill()
    wait_for(mesh.node.ready, "the pod to be served", 6)


def test_close_server_socket(mesh):
    """Not ready until the next snapshot; traffic goes on, old and new."""
    mesh.shop.server(ECHO, "8080")
    old = hold(mesh.web, mesh.shop)
    mesh.agent.close()
    wait_for(lambda: not_ready(mesh.node), "the proxy to say so", 5)
    assert mesh.web.python(ONE_SHOT, mesh.shop.ip, 8080, "away") == "away"
    time.sleep(1.5)  # it goes on trying
    mesh.agent.listen()
    link = mesh.node.introduce()
    wait_for(mesh.node.ready, "the proxy to be ready again", 5)
    assert "ENDED" not in old.text()
    assert metric(mesh.node, "workload_manager_proxies_started_total") == 2, "the pods were never served anew"
    link.delete(mesh.shop.uid)
    wait_for(lambda: "ENDED" in old.text(), "the connection to be cut by the new agent")


# ---- snapshots ----


def test_what_the_snapshot_does_not_name_is_removed(mesh):
    mesh.link.close()
    link = mesh.agent.accept()
    link.add(mesh.web)
    assert listening(mesh.shop) == [15001, 15006, 15008], "not before the end of the snapshot"
    link.snapshot_sent()
    wait_for(lambda: listening(mesh.shop) == [], "the pod that was not named to be removed", 5)
    assert listening(mesh.web) == [15001, 15006, 15008]


def test_keep_names_a_pod_without_its_namespace(mesh):
    mesh.link.close()
    link = mesh.agent.accept()
    link.keep(mesh.web.uid)
    link.keep("uid-unknown")
    link.snapshot_sent()
    wait_for(lambda: listening(mesh.shop) == [], "the other to be removed", 5)
    assert listening(mesh.web) == [15001, 15006, 15008]
    assert metric(mesh.node, "workload_manager_proxies_started_total") == 2


def test_del_before_the_end_of_the_snapshot(mesh):
    mesh.link.close()
    link = mesh.agent.accept()
    link.add(mesh.web)
    link.add(mesh.shop)
    link.delete(mesh.shop.uid)
    assert listening(mesh.shop) == [15001, 15006, 15008]
    link.snapshot_sent()
    wait_for(lambda: listening(mesh.shop) == [], "the pod that was forgotten to be removed", 5)


def test_a_pending_pod_survives_a_keep(mesh):
    """An agent that has no namespace for a pod any more keeps it; the proxy still has its own."""
    pod = mesh.pod("late")
    occupier = occupy(mesh, pod, 15008)
    try:
        with pytest.raises(Refused):
            mesh.link.add(pod)
        mesh.link.close()
        link = mesh.agent.accept()
        for uid in (mesh.web.uid, mesh.shop.uid, pod.uid):
            link.keep(uid)
        link.snapshot_sent()
        assert not_ready(mesh.node)
    finally:
        occupier.kill()
    wait_for(mesh.node.ready, "the pod to be served", 6)
    assert listening(pod) == [15001, 15006, 15008]


def test_a_pending_pod_that_is_deleted_is_not_tried_again(mesh):
    pod, other = mesh.pod("late"), mesh.pod("other")
    occupiers = [occupy(mesh, p, 15008) for p in (pod, other)]
    try:
        for p in (pod, other):
            with pytest.raises(Refused):
                mesh.link.add(p)
        assert not_ready(mesh.node)
        mesh.link.delete(pod.uid)
        assert not_ready(mesh.node), "the other one still waits"
    finally:
        for occupier in occupiers:
            occupier.kill()
    wait_for(mesh.node.ready, "the other one to be tried again", 6)
    assert listening(other) and listening(pod) == []
    mesh.link.delete(other.uid)
    assert not descriptors(mesh.node.proxy, f"net:\\[{netns_inode(pod)}\\]")


# ---- one pod ----


def netns_inode(pod):
    return os.stat(f"/run/netns/{pod.netns}").st_ino


def test_the_same_uid_in_another_namespace_is_a_new_sandbox(mesh):
    mesh.shop.server(ECHO, "8080")
    old = hold(mesh.outside, mesh.shop)
    new = mesh.pod("sandbox")
    mesh.link.add(mesh.shop, netns=f"/run/netns/{new.netns}")
    wait_for(lambda: "ENDED" in old.text(), "the old sandbox's connection to be cut")
    wait_for(lambda: listening(mesh.shop) == [], "the old listeners to be gone", 5)
    assert listening(new) == [15001, 15006, 15008]
    wait_for(
        lambda: not descriptors(mesh.node.proxy, f"net:\\[{netns_inode(mesh.shop)}\\]"),
        "the old namespace to be let go",
    )


def test_a_pod_whose_namespace_is_gone_leaves_nothing(mesh):
    """The namespace ends when the last descriptor is closed, and the last thread has left."""
    inode = netns_inode(mesh.shop)
    assert descriptors(mesh.node.proxy, f"net:\\[{inode}\\]"), "it has the namespace while it has the pod"
    mesh.shop.server(ECHO, "8080")
    assert mesh.outside.python(ONE_SHOT, mesh.shop.ip, 8080, "x") == "x"
    mesh.link.delete(mesh.shop.uid)
    wait_for(
        lambda: not descriptors(mesh.node.proxy, f"net:\\[{inode}\\]"), "the descriptors to be closed", 5
    )
    tasks = [os.stat(f"{t}/ns/net").st_ino for t in glob.glob(f"/proc/{mesh.node.proxy.pid}/task/*")]
    assert inode not in tasks, "no thread is left inside"


def test_a_listener_that_was_destroyed_is_opened_again(mesh):
    mesh.shop.server(ECHO, "8080")
    tunnel = hold(mesh.web, mesh.shop)
    for _ in range(2):
        sh("ss", "-N", mesh.shop.netns, "-K", "-tl", "sport", "=", ":15006")
        wait_for(lambda: listening(mesh.shop) == [15001, 15006, 15008], "a new listener", 5)
    assert mesh.outside.python(ONE_SHOT, mesh.shop.ip, 8080, "again") == "again"
    assert "ENDED" not in tunnel.text()
    assert mesh.node.ready()


def test_a_pod_without_an_account_has_the_default_one(mesh):
    pod = mesh.pod("static", account="default")
    mesh.write()
    fd = os.open(f"/run/netns/{pod.netns}", os.O_RDONLY)
    try:
        mesh.link.ask(add_message(pod.uid, pod.name, pod.namespace, ""), [fd])
    finally:
        os.close(fd)
    wait_for(
        lambda: f'certificate received\tidentity="{pod.identity}"' in mesh.node.proxy.text(),
        "its certificate",
    )


# ---- start and end ----


# What a listener has: ss says it.
def listener(pod, port):
    return sh("ss", "-N", pod.netns, "-Hltne", "sport", "=", f":{port}").strip()


def restart(mesh, **env):
    mesh.node.more_env.update(env)
    mesh.node.proxy.stop()
    mesh.link.close()
    mesh.node.start_proxy()
    mesh.link = mesh.node.connection


def test_settings_of_pods_sockets(mesh):
    """Without spoofing the application sees its own pod; without IPv6 the listeners are IPv4's; another mark
    is used everywhere."""
    with inside(mesh.shop.netns), open("/proc/sys/net/core/somaxconn") as f:
        longest = f.read().strip()
    assert f" {longest} " in listener(mesh.shop, 15008).replace("  ", " ") + " ", listener(mesh.shop, 15008)
    assert "fwmark:0x539" in listener(mesh.shop, 15001)
    restart(
        mesh, ENABLE_ORIG_SRC="false", IPV6_ENABLED="false", PACKET_MARK="5433"
    )  # 0x1539: the rules exempt it too
    assert "fwmark:0x1539" in listener(mesh.shop, 15001) and "0.0.0.0:15001" in listener(mesh.shop, 15001)
    echo = mesh.shop.server(ECHO, "8080")
    for client in (mesh.web, mesh.outside):
        assert client.python(ONE_SHOT, mesh.shop.ip, 8080, "x") == "x", client.name
    wait_for(lambda: echo.text().count("FROM") == 2, "both at the application")
    assert echo.text().count(f"FROM ::ffff:{mesh.shop.ip} ") == 2, echo.text()


def test_without_port_reuse_two_proxies_do_not_share_a_pod(mesh):
    restart(mesh, INPOD_PORT_REUSE="false")
    second, link = mesh.node.start_second_proxy()
    try:
        with pytest.raises(Refused, match="Address already in use"):
            link.add(mesh.web)
    finally:
        second.stop()
    assert listening(mesh.web) == [15001, 15006, 15008]


def run_proxy(env, *options):
    return subprocess.run(
        [program("bruma-proxy"), *options],
        env={"PATH": os.environ["PATH"], **env},
        capture_output=True,
        text=True,
        timeout=20,
    )


def test_the_two_sources_of_pods_exclude_each_other():
    r = run_proxy({"INPOD_UDS": "/run/a.sock", "BRUMA_AGENT_SOCKET": "/run/b.sock"})
    assert r.returncode == 1 and "exclude each other" in r.stderr


def test_a_process_that_may_not_mark_sockets_does_not_start(mesh):
    env = {
        **mesh.node.proxy_env(),
        "BRUMA_ADMIN_PORT": "0",
        "BRUMA_METRICS_PORT": "0",
        "BRUMA_READY_PORT": "0",
    }
    r = subprocess.run(
        [
            "nsenter",
            f"--net=/run/netns/{mesh.node.netns}",
            "setpriv",
            "--bounding-set",
            "-net_admin,-net_raw",
            "--inh-caps",
            "-net_admin,-net_raw",
            program("bruma-proxy"),
        ],
        env=env,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert r.returncode == 1 and "CAP_NET_ADMIN" in r.stdout, r.stdout[-500:]


def test_dns_that_is_not_answered_is_warned_of(mesh):
    assert "reason=dns_not_served" in mesh.node.proxy.text()
    restart(mesh, ISTIO_META_DNS_CAPTURE="true")
    assert mesh.node.proxy.text().count("reason=dns_not_served") == 1


def test_sigterm_drains(mesh):
    """It lets go of the agent, of the listeners and of idle connections at once, and lets the others end by
    themselves."""
    restart(mesh, TERMINATION_GRACE_PERIOD_SECONDS="12")
    mesh.shop.server(ECHO, "8080")
    old = hold(mesh.outside, mesh.shop)
    begin = time.monotonic()
    mesh.node.proxy.popen.send_signal(signal.SIGTERM)
    assert mesh.node.connection.ended(3)
    wait_for(lambda: listening(mesh.shop) == [], "the listeners to be closed", 3)
    assert "ENDED" not in old.text()
    assert mesh.node.proxy.popen.wait(15) == 0
    assert 6 < time.monotonic() - begin < 10, "12 s of grace leave 7"
    wait_for(lambda: "ENDED" in old.text(), "the connection to be cut at the end")


def test_an_upgrade_loses_no_connection(mesh):
    """As a rolling update does it: the new proxy listens beside the old one, then the old one ends."""
    mesh.shop.server(ECHO, "8080")
    results = []

    def load(client):
        code = """
import socket, sys, time
good = bad = 0
end = time.monotonic() + float(sys.argv[3])
while time.monotonic() < end:
    try:
        s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10)
        s.sendall(b"x")
        if s.recv(1) != b"x":
            raise OSError("end")
        good += 1
        s.close()
    except OSError as e:
        bad += 1
        print(e, flush=True)
print("RESULT", good, bad)
"""
        results.append(client.python(code, mesh.shop.ip, 8080, 6, timeout=60))

    threads = [threading.Thread(target=load, args=(c,)) for c in (mesh.outside, mesh.outside, mesh.web)]
    for t in threads:
        t.start()
    served(mesh.shop, 50)
    second, link = mesh.node.start_second_proxy()
    try:
        mesh.node.introduce(link)
        assert listening(mesh.shop) == sorted([15001, 15006, 15008] * 2)
        served(mesh.shop, 50)
        mesh.node.proxy.popen.send_signal(signal.SIGTERM)
        assert mesh.node.proxy.popen.wait(15) == 0
        for t in threads:
            t.join(60)
        for r in results:
            good, bad = map(int, r.split("RESULT")[1].split())
            assert good > 50 and bad == 0, r[-500:]
        # Later pods and removals go to the one that is left.
        link.delete(mesh.web.uid)
        wait_for(lambda: listening(mesh.web) == [], "the pod to be removed", 5)
    finally:
        second.stop()
