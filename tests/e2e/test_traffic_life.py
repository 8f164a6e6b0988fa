# SPDX-License-Identifier: Apache-2.0
"""Traffic through two nodes while pods join and leave, and agents and proxies are killed, replaced and
brought back."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import time

import pytest

from support.nodes.pod_programs import ONE_SHOT, STREAM, TOGETHER, goes_on, served
from support.system import placed, sh, wait_for

AWAY = "the agent is gone"


@pytest.fixture(scope="module")
def mesh(mesh_of_two):
    return mesh_of_two


def test_label_removed_and_put_back_breaks_no_connection(mesh):
    out, inn = (
        mesh.web.popen("/usr/bin/python3", "-u", "-c", STREAM, mesh.shop.ip),
        mesh.outside.popen("/usr/bin/python3", "-u", "-c", STREAM, mesh.shop.ip),
    )
    goes_on(out, "the outbound stream begins")
    goes_on(inn, "the inbound stream begins")
    mesh.labels = {}
    mesh.write()

    wait_for(lambda: not mesh.web.captured(), "web to leave the mesh")
    mesh.nodes[0].wait_rounds(2)  # past the grace period
    goes_on(out, "outbound after the label was removed")
    goes_on(inn, "inbound after the label was removed")
    before = len(mesh.nodes[0].access_log())
    assert mesh.web.python(ONE_SHOT, mesh.shop.ip, 8080, "plain") == "plain"
    time.sleep(0.5)
    assert len(mesh.nodes[0].access_log()) == before, "a new connection does not pass the proxy"
    mesh.labels = {"istio.io/dataplane-mode": "ambient"}
    mesh.write()
    wait_for(
        lambda: (
            mesh.web.python(ONE_SHOT, mesh.shop.ip, 8080, "again") == "again"
            and len(mesh.nodes[0].access_log()) > before
        ),
        "web to be in the mesh again",
    )
    goes_on(out, "outbound after the label was put back")
    goes_on(inn, "inbound after the label was put back")
    for p in (out, inn):
        p.kill()


# Holds connections from these ports of its own, or from any, and asks on all of them whenever it is told to.
HOLD = """
import socket, sys
all = []
for i in range(int(sys.argv[2])):
    s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if len(sys.argv) > 3:
        s.bind(("", int(sys.argv[3]) + i))
    s.settimeout(10)
    s.connect((sys.argv[1], 8080))
    all.append(s)
print("HELD", flush=True)
sys.stdin.readline()
for s in all:
    s.sendall(b"y")
print(sum(s.recv(1) == b"y" for s in all), flush=True)
"""


@pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])
@pytest.mark.parametrize("direction", ["out", "in"])
def test_connections_of_before_and_new_ones_may_have_the_same_ports(mesh, direction, family):
    """What has lived since before the pod was enrolled, and what is captured or delivered now, over lo: with
    so few ports they meet, and neither may hear what is meant for the other."""
    pod, client, server = (
        (mesh.web, mesh.web, mesh.outside) if direction == "out" else (mesh.shop, mesh.outside, mesh.shop)
    )
    ports = "/proc/sys/net/ipv4/ip_local_port_range"
    usual = pod.run("cat", ports).stdout.strip()
    to = server.ips[family]
    first = 41000 + 100 * family + 200 * (direction == "in")  # nothing of another test is in TIME_WAIT there

    def all_captured():
        for p in (mesh.web, mesh.shop, mesh.near):
            wait_for(p.captured, f"{p.name} to be in the mesh again")

    mesh.labels = {}
    mesh.write()
    wait_for(
        lambda: (
            f"demo/{pod.name}" not in sh("bpftool", "map", "dump", "pinned", f"{pod.node.pin_dir}/maps/pods")
        ),
        "the pod to be out of the mesh",
    )
    pod.run("sh", "-c", f"echo {first} {first + 39} >{ports}")
    held = subprocess.Popen(
        placed(
            ["/usr/bin/python3", "-u", "-c", HOLD, to, "20", *([first] if direction == "in" else [])],
            client.netns,
            client.node.cgroup,
        ),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert held.stdout.readline() == "HELD\n"
        mesh.labels = {"istio.io/dataplane-mode": "ambient"}
        mesh.write()
        all_captured()
        assert client.python(TOGETHER, to, 15, timeout=60).strip() == "15"
        assert held.communicate("go\n", timeout=20)[0] == "20\n", "those of before live on"
    finally:
        held.kill()
        pod.run("sh", "-c", f"echo {usual} >{ports}")
        mesh.labels = {"istio.io/dataplane-mode": "ambient"}
        mesh.write()
        all_captured()


def test_nothing_is_left_in_the_namespace_after_leaving(mesh):
    mesh.labels = {}
    mesh.write()
    try:
        wait_for(lambda: "fwmark" not in mesh.near.run("ip", "rule").stdout, "the rule to go")
        wait_for(
            lambda: not mesh.near.run("ip", "route", "show", "table", "100", check=False).stdout,
            "the route to go",
        )
        assert "fwmark" not in mesh.near.run("ip", "-6", "rule").stdout
        listening = mesh.near.run("ss", "-Hltn").stdout
        assert len(listening.splitlines()) == 2, listening
        assert mesh.near.run("sysctl", "-n", "net.ipv4.tcp_fwmark_accept").stdout.strip() == "0"
    finally:
        mesh.labels = {"istio.io/dataplane-mode": "ambient"}
        mesh.write()
    wait_for(lambda: "fwmark" in mesh.near.run("ip", "rule").stdout, "the rule to come back")


# New connections at a steady rate, also if the machine is busy for a moment. For each: when it began, and
# what became of it.
KNOCK = """
import json, socket, sys, time, threading
RATE, seconds = 200, float(sys.argv[2])
seen = []
def one(began):
    try:
        s = socket.create_connection((sys.argv[1], 8080), timeout=60)
        s.sendall(b"x")
        what = "served" if s.recv(1) == b"x" else "end"
        s.close()
    except OSError as e:
        what = type(e).__name__
    seen.append((began, what))
begin = time.monotonic()
threads = []
for n in range(int(RATE * seconds)):
    time.sleep(max(0, begin + n / RATE - time.monotonic()))
    t = threading.Thread(target=one, args=(time.monotonic(),)); t.start(); threads.append(t)
for t in threads:
    t.join()
json.dump(seen, sys.stdout)
"""


def knocked(p, count):
    wait_for(lambda: not p.alive(), "the clients to end", 90)
    seen = json.loads(p.text())
    assert len(seen) == count
    return seen


@pytest.mark.parametrize("whose", ["the server's", "the client's"])
@pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])
def test_sigkill_of_the_proxy_refuses_no_new_connection(mesh, whose, family):
    """Connections that come while it is away wait, and each is answered. A client outside the mesh dials the
    server's node, one inside has a proxy of its own to wait for."""
    client, node = (mesh.outside, mesh.nodes[1]) if whose == "the server's" else (mesh.web, mesh.nodes[0])
    p = client.popen("/usr/bin/python3", "-u", "-c", KNOCK, mesh.shop.ips[family], "4")
    served(mesh.shop, 50)
    killed = time.monotonic()
    node.proxy.kill()
    time.sleep(0.5)
    node.start_proxy()
    back = time.monotonic()
    seen = knocked(p, 800)
    lost = [(began - killed, what) for began, what in seen if what != "served"]
    meanwhile = [what for began, what in seen if killed < began < back]
    assert len(meanwhile) > 50, "the clients did not knock while it was away"
    # Those that the killed process was just serving are lost with it, and nothing else: they had begun
    # before.
    assert (
        all(when <= 0 and what in ("ConnectionResetError", "end") for when, what in lost) and len(lost) <= 5
    ), lost


def become(node, *wanted):
    """These are the node's proxies, in these states."""
    names = {proxy.pid: state for proxy, state in wanted}
    wait_for(
        lambda: (
            {
                p["pid"]: p["state"]
                for p in json.loads(node.ctl("status", "-o", "json", check=False).stdout)["proxies"]
            }
            == names
        ),
        f"the proxies to be {[state for _, state in wanted]}",
    )


@contextlib.contextmanager
def side_by_side(mesh):
    """Proxies that start meanwhile stand each other, as in a cluster, where each has a network namespace of
    its own."""
    usual = dict(mesh.proxy_env)
    mesh.proxy_env.update(
        BRUMA_REPLACED_LINGER="60s",
        CONNECTION_TERMINATION_DEADLINE="60s",
        **dict.fromkeys(("BRUMA_ADMIN_PORT", "BRUMA_METRICS_PORT", "BRUMA_READY_PORT"), "0"),
    )
    try:
        yield
    finally:
        mesh.proxy_env.clear()
        mesh.proxy_env.update(usual)


def test_replaced_proxies_hold_on_and_serve_again(mesh):
    """A roll-out that goes back and forth. A replaced proxy that idles stays for --replaced-linger, and when
    its successor dies or is told to end, it serves: nobody waits until it has ended and something has started
    another one."""
    node = mesh.nodes[1]
    former = node.proxy
    with side_by_side(mesh):
        first = node.start_proxy(wait=False)
        wait_for(lambda: not former.alive(), "one without --replaced-linger to end once it is idle")
        second = node.start_proxy(wait=False)
        become(node, (first, "replaced"), (second, "serving"))
        stream = mesh.outside.popen("/usr/bin/python3", "-u", "-c", STREAM, mesh.shop.ip)
        knock = mesh.outside.popen("/usr/bin/python3", "-u", "-c", KNOCK, mesh.shop.ip, "5")
        goes_on(stream, "the stream through the second")
        killed = time.monotonic()
        second.kill()
        become(node, (first, "serving"))
        again = mesh.outside.popen("/usr/bin/python3", "-u", "-c", STREAM, mesh.shop.ip)
        goes_on(again, "a stream through the first")
        wait_for(
            lambda: f"{mesh.shop.ip}:8080" in node.ctl("connections", check=False).stdout,
            "brumactl to find it, too",
        )
        third = node.start_proxy(wait=False)
        become(node, (first, "replaced"), (third, "serving"))
        goes_on(again, "the stream through the first, which has been replaced")
        held = mesh.outside.popen("/usr/bin/python3", "-u", "-c", STREAM, mesh.shop.ip6)
        goes_on(held, "the stream through the third")
        third.popen.terminate()
        become(node, (first, "serving"), (third, "ending"))
        goes_on(again, "the stream through the first, which serves again")
        assert third.alive(), "it has a connection to carry"
        seen = knocked(knock, 1000)
        lost = [(began - killed, what) for began, what in seen if what != "served"]
        # Those that the second was just serving when it was killed, and no other.
        assert (
            all(when <= 0 and what in ("ConnectionResetError", "end") for when, what in lost)
            and len(lost) <= 5
        ), lost
        for p in (stream, again, held):
            p.kill()
        wait_for(lambda: not third.alive(), "the third to end once it is idle")
    last = node.start_proxy()
    become(node, (first, "replaced"), (last, "serving"))
    node.wait_rounds(2)
    assert first.alive(), "idle, and lingering"
    first.popen.terminate()
    wait_for(lambda: not first.alive(), "SIGTERM to end one that lingers")


def test_a_proxy_that_cannot_reach_its_control_plane_displaces_none(mesh):
    """A roll-out with a wrong address: the new proxy never gets ready, and the old one serves on."""
    node = mesh.nodes[1]
    serving = node.proxy
    with side_by_side(mesh):
        mesh.proxy_env["XDS_ADDRESS"] = "https://localhost:1"
        lost = node.start_proxy(wait=False)
    try:
        become(node, (serving, "serving"), (lost, "not_ready"))
        assert mesh.web.python(ONE_SHOT, mesh.shop.ip, 8080, "hello") == "hello"
    finally:
        node.proxy = serving
        lost.popen.terminate()
    become(node, (serving, "serving"))


def test_the_first_sigint_drains_a_replaced_proxy_and_the_second_ends_it(mesh):
    node = mesh.nodes[1]
    node.agent.stop()
    node.start_agent(*mesh.agent_options, "--hand-over", "false")  # what it carries stays
    with side_by_side(mesh):
        first = node.start_proxy(wait=False)
        become(node, (first, "serving"))
        stream = mesh.outside.popen("/usr/bin/python3", "-u", "-c", STREAM, mesh.shop.ip)
        goes_on(stream, "a stream through the first")
    last = node.start_proxy()
    become(node, (first, "replaced"), (last, "serving"))
    first.popen.send_signal(signal.SIGINT)
    become(node, (first, "ending"), (last, "serving"))
    goes_on(stream, "the stream through the first, which drains")
    first.popen.send_signal(signal.SIGINT)
    wait_for(lambda: not first.alive(), "the second SIGINT to end it")
    stream.kill()
    node.agent.stop()
    node.start_agent(*mesh.agent_options)


def test_the_proxy_that_serves_takes_its_admin_socket_back(mesh):
    """Another proxy has started and died, and the agent has never heard of it."""
    node = mesh.nodes[1]
    path = f"{node.run_dir}/proxy.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path + ".dead")
        of_the_dead = os.stat(path + ".dead").st_ino
        os.rename(path + ".dead", path)
    wait_for(lambda: os.stat(path).st_ino != of_the_dead, "the proxy to take it back")
    assert mesh.shop.identity in node.ctl("identities").stdout


def test_sigkill_of_the_agent_is_not_noticed(mesh):
    p = mesh.web.popen("/usr/bin/python3", "-u", "-c", STREAM, mesh.shop.ip)
    goes_on(p, "the stream begins")
    knock = mesh.web.popen("/usr/bin/python3", "-u", "-c", KNOCK, mesh.shop.ip, "4")
    for node in mesh.nodes:
        node.agent.kill()
    served(mesh.shop, 100)
    for node in mesh.nodes:
        node.start_agent()
    goes_on(p, "the stream after the agents' restart")
    assert {what for _, what in knocked(knock, 800)} == {"served"}
    p.kill()


def page(node, port):
    try:
        return node.http(port, "/healthz/ready")[0]
    except ConnectionRefusedError:
        return "none"


def test_without_an_agent_who_serves_is_ready_and_who_is_replaced_is_not(mesh):
    """A cluster that replaces agents and proxies at the same time ends at once what is not ready, with all that it carries."""
    node = mesh.nodes[1]
    with side_by_side(mesh):
        first = node.start_proxy(wait=False, BRUMA_READY_PORT="15028")
        become(node, (first, "serving"))
        second = node.start_proxy(wait=False, BRUMA_READY_PORT="15029")
    become(node, (first, "replaced"), (second, "serving"))
    before = node.proxy.text().count(AWAY)
    node.agent.kill()
    wait_for(lambda: node.proxy.text().count(AWAY) == before + 2, "both proxies to notice")
    assert [page(node, port) for port in (15028, 15029)] == ["none", 200]
    node.start_agent(*mesh.agent_options)
    first.stop()
    become(node, (second, "serving"))
    last = node.start_proxy()
    become(node, (second, "replaced"), (last, "serving"))
    second.stop()


REACH = """
import socket, sys
for to in sys.argv[1:]:
    try:
        s = socket.create_connection((to, 8080), timeout=3)
        s.sendall(b"x")
        print("served" if s.recv(1) == b"x" else "end")
    except OSError as e:
        print(type(e).__name__)
"""


@pytest.mark.parametrize("whose", ["the server's", "the client's"])
def test_both_killed_fails_closed_and_heals(mesh, whose):
    """Nothing gets past the mesh: not to its pod from outside, and not from its pod, wherever that goes."""
    node = mesh.nodes[1] if whose == "the server's" else mesh.nodes[0]
    pairs = (
        ((mesh.outside, mesh.shop), (mesh.web, mesh.shop))
        if whose == "the server's"
        else ((mesh.web, mesh.shop), (mesh.web, mesh.near), (mesh.web, mesh.outside))
    )
    bystander = (mesh.near, mesh.outside) if whose == "the server's" else (mesh.outside, mesh.shop)
    node.proxy.kill()
    node.agent.kill()
    for client, server in pairs:
        said = client.python(REACH, *server.ips).split()
        assert len(said) == 2 and "served" not in said and "end" not in said, (client.name, server.name, said)
    assert bystander[0].python(REACH, *bystander[1].ips).split() == ["served"] * 2, "others are not concerned"
    node.start_agent()
    node.start_proxy()
    for client, server in pairs:
        wait_for(
            lambda c=client, s=server: c.python(REACH, *s.ips).split() == ["served"] * 2,
            f"{client.name} to reach {server.name}",
            40,
        )
