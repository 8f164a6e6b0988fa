# SPDX-License-Identifier: Apache-2.0
"""Two pods of one node with same-node: kernel, with the real proxy: the first connection goes through it, the next ones stay in
the kernel, and what the proxy decides later holds for them as well."""

import contextlib
import json
import socket
import subprocess

import pytest

from support.network import inside
from support.nodes.hand_over import QUIET, serving
from support.nodes.mesh import Mesh
from support.nodes.node_verdicts import programs_at
from support.nodes.pod import PYTHON
from support.nodes.pod_programs import ECHO, ONE_SHOT
from support.system import run, wait_for
from support.wire.segments import SO_RCVBUFFORCE

CART, VIP, VIP6 = "demo/cart.demo.svc.cluster.local", "10.96.0.50", "fd96::50"

# Stays open, and says how it ended.
STAYS = """
import socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=60)
s.sendall(b"x")
s.recv(1)
print("OPEN", flush=True)
try:
    print("ENDED", "end" if s.recv(1) == b"" else "bytes", flush=True)
except OSError as e:
    print("ENDED", type(e).__name__, flush=True)
"""

PORT = """
import socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20)
s.sendall(b"told")
s.recv(100)
print(s.getsockname()[1])
"""

TRY = """
import socket, sys
try:
    s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10)
    s.sendall(b"well")
    print(s.recv(100).decode())
except OSError as e:
    print(type(e).__name__)
"""


@pytest.fixture(scope="module")
def mesh():
    options = ("--same-node", "kernel")
    with Mesh(nodes=1, workers=2, proxy_env={"BRUMA_SAME_NODE": "relay"}, agent_options=options) as m:
        m.services.append(
            {
                "name": "cart",
                "namespace": "demo",
                "hostname": "cart.demo.svc.cluster.local",
                "vips": [f"/{VIP}", f"/{VIP6}"],
                "ports": {7000: 8080},
            }
        )
        m.web, m.shop, m.other = m.pod("web"), m.pod("shop"), m.pod("other")
        m.shop.services = {CART: {7000: 8080}}
        m.start()
        m.node = m.nodes[0]
        m.server = m.shop.server(ECHO, 8080)
        for pod in m.pods:
            wait_for(
                lambda p=pod: p.item()["sameNode"] == "kernel",
                f"{pod.name} to be wired",
                log=m.node.agent_log,
            )
        yield m


def counted(mesh, pod, name="direct_node_connections"):
    path = f"{mesh.node.pin_dir}/maps/direct_counters"
    for e in json.loads(run(["bpftool", "-j", "map", "dump", "pinned", path]).stdout):
        if e["formatted"]["key"] == int(pod.item()["cookie"]):
            return e["formatted"]["value"][name]
    return 0


def say(mesh, pod, to, port, text):
    return pod.python(ONE_SHOT, to, port, text)


def becomes_direct(mesh, pod, to, port=8080):
    """Until a connection stays in the kernel: a verdict may be void by a change that has just come."""
    before = counted(mesh, pod)

    def once():
        assert say(mesh, pod, to, port, "well") == "well"
        return counted(mesh, pod) > before

    what = f"a connection of {pod.name} to {to} to stay in the kernel"
    wait_for(once, what, 60, log=mesh.node.proxy_log)


def stays(mesh):
    """A connection that stays open, and stays in the kernel."""

    def once():
        before = counted(mesh, mesh.web)
        p = mesh.web.pipe(PYTHON, "-u", "-c", STAYS, mesh.shop.ip, "8080", stdout=subprocess.PIPE, text=True)
        assert p.stdout.readline().strip() == "OPEN"
        if counted(mesh, mesh.web) > before:
            return p
        p.kill()
        p.wait(20)
        return None

    return wait_for(once, "a connection to stay in the kernel", log=mesh.node.proxy_log)


@pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])
def test_the_second_connection_stays_in_the_kernel(mesh, family):
    becomes_direct(mesh, mesh.web, mesh.shop.ips[family])


ALLOWED = "not captured, because the proxy has allowed it between these pods of the node"


def explained(mesh):
    return mesh.node.ctl("explain", "demo/web", f"{mesh.shop.ip}:8080", check=False).stdout


def test_brumactl_says_so_as_long_as_it_holds(mesh):
    becomes_direct(mesh, mesh.web, mesh.shop.ip)
    wait_for(lambda: ALLOWED in explained(mesh), "brumactl to say so")
    mesh.deny([[{"notDestinationPorts": [8080], "principals": [{"Exact": "nobody"}]}]], name="another")
    mesh.write()
    wait_for(lambda: "captured: it goes through the proxy, because" in explained(mesh), "the change to count")
    mesh.policies.clear()
    mesh.write()
    becomes_direct(mesh, mesh.web, mesh.shop.ip)


def test_what_changes_elsewhere_in_the_mesh_leaves_it_alone(mesh):
    """No connection is made meanwhile, and only one would bring a verdict back that a change has made void. What a
    connection does in a moment in which the proxy is late with its sign of life is not asked here."""
    wait_for(lambda: mesh.node.ctl("policy").stdout.count("demo/") == 0, "changes of before to have come")
    becomes_direct(mesh, mesh.web, mesh.shop.ip)
    try:
        for n in range(1, 6):
            name = f"far{n}"
            mesh.extra[:] = [{"uid": name, "name": name, "namespace": "far", "workloadIps": [f"192.0.2.{n}"]}]
            mesh.deny(mesh.web.rule(), name=name)
            mesh.policies[-1]["namespace"] = "far"
            mesh.write()
            wait_for(
                lambda x=name: (
                    x in str(mesh.node.config_dump()["workloads"])
                    and f"far/{x}" in mesh.node.ctl("policy").stdout
                ),
                "the proxy to know",
            )
            wait_for(lambda: ALLOWED in explained(mesh), "the verdict of before to hold")
    finally:
        mesh.extra.clear()
        mesh.policies.clear()
        mesh.write()


@pytest.mark.parametrize("to", [VIP, VIP6])
def test_so_does_one_to_the_only_endpoint_of_a_service(mesh, to):
    becomes_direct(mesh, mesh.web, to, 7000)


def test_it_does_not_come_by_the_bridge(mesh):
    """Nothing leaves by the node's end of the server's device, where all would that the bridge passes on."""
    becomes_direct(mesh, mesh.web, mesh.shop.ip)
    with inside(mesh.node.netns):
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        tap.bind(("vshop", 0))
    tap.setblocking(False)
    with tap:
        before = counted(mesh, mesh.web)
        assert say(mesh, mesh.web, mesh.shop.ip, 8080, "not for others") == "not for others"
        assert counted(mesh, mesh.web) > before
        frames = []
        with contextlib.suppress(BlockingIOError):
            while True:
                frames.append(tap.recvfrom(65536))
    assert [f for f, to in frames if to[2] != socket.PACKET_OUTGOING and b"not for others" in f], "the answer"
    assert not [f for f, to in frames if to[2] == socket.PACKET_OUTGOING and b"not for others" in f]


def test_a_policy_ends_what_lives_and_refuses_what_comes(mesh):
    p = stays(mesh)
    mesh.deny(mesh.web.rule())
    mesh.write()
    try:
        assert p.stdout.readline().strip() in ("ENDED ConnectionAbortedError", "ENDED ConnectionResetError")
        p.wait(20)
        assert mesh.web.python(TRY, mesh.shop.ip, 8080).strip() != "well"
    finally:
        mesh.policies.clear()
        mesh.write()
    wait_for(lambda: mesh.web.python(TRY, mesh.shop.ip, 8080).strip() == "well", "the policy to be gone")


def test_policies_tell_callers_apart(mesh):
    becomes_direct(mesh, mesh.web, mesh.shop.ip)
    mesh.deny(mesh.other.rule())
    mesh.write()
    try:
        wait_for(lambda: mesh.other.python(TRY, mesh.shop.ip, 8080).strip() != "well", "the policy to count")
        becomes_direct(mesh, mesh.web, mesh.shop.ip)
        assert mesh.other.python(TRY, mesh.shop.ip, 8080).strip() != "well"
    finally:
        mesh.policies.clear()
        mesh.write()


def test_without_the_proxy_all_takes_the_long_way(mesh):
    p = stays(mesh)
    before = counted(mesh, mesh.web)
    mesh.node.proxy.kill()
    waiting = mesh.web.pipe(
        "/usr/bin/python3", "-c", ONE_SHOT, mesh.shop.ip, "8080", "later", stdout=subprocess.PIPE, text=True
    )
    mesh.node.start_proxy()
    assert waiting.communicate(timeout=60)[0] == "later"
    assert counted(mesh, mesh.web) == before, "it went directly while there was no proxy"
    assert p.poll() is None, "what lived lives on"
    p.kill()
    p.wait(20)
    becomes_direct(mesh, mesh.web, mesh.shop.ip)


def test_both_ends_are_in_the_log_with_both_identities(mesh):
    becomes_direct(mesh, mesh.web, mesh.shop.ip)

    def told():
        direct = counted(mesh, mesh.web)
        port = mesh.web.python(PORT, mesh.shop.ip, 8080).strip()
        return counted(mesh, mesh.web) > direct and f"src.addr={mesh.web.ip}:{port}"

    source = wait_for(told, "a connection to stay in the kernel")
    for direction in ("outbound", "inbound"):
        line = wait_for(
            lambda d=direction: [
                x for x in mesh.node.access_log() if source in x and f'direction="{d}"' in x
            ],
            f"the {direction} line",
            log=mesh.node.proxy_log,
        )[0]
        assert mesh.web.identity in line and mesh.shop.identity in line, line


# ---- pods, proxies and agents that go ----


def tuples(mesh):
    """(source address and port, destination port) of all that live."""
    path = f"{mesh.node.pin_dir}/maps/node_tuples"
    keys = [
        e["formatted"]["key"]
        for e in json.loads(run(["bpftool", "-j", "map", "dump", "pinned", path]).stdout)
    ]
    return [(k["remote_port"], k["local_port"]) for k in keys]


def half_open(pod):
    return pod.run("ss", "-Htn", "state", "syn-recv").stdout.splitlines()


def ended(process):
    """How a connection that stayed open has ended."""
    try:
        return process.stdout.readline().strip()
    finally:
        process.wait(20)


ABORTED = ("ENDED ConnectionAbortedError", "ENDED ConnectionResetError")


@pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])
def test_nothing_half_open_is_left_of_a_pod_that_is_gone(mesh, family):
    """Somebody else could go on with it in its place."""
    gone = mesh.pod(f"gone{family}")
    mesh.tell()
    gone.enroll()
    wait_for(lambda: gone.item()["sameNode"] == "kernel", "it to be wired")
    becomes_direct(mesh, gone, mesh.shop.ips[family])
    # An answer to its SYN does not reach it.
    rules = "add table inet deaf; add chain inet deaf in { type filter hook input priority 0; }; "
    gone.run("nft", rules + "add rule inet deaf in tcp sport 8080 drop")
    code = "import socket, sys; socket.create_connection((sys.argv[1], 8080))"

    def connects():
        before = counted(mesh, gone)
        p = gone.pipe(PYTHON, "-c", code, mesh.shop.ips[family])
        wait_for(lambda: half_open(mesh.shop), "the SYN to be answered")
        return p if counted(mesh, gone) > before else None

    p = wait_for(connects, "a SYN to go directly")
    gone.cni("DEL")
    wait_for(lambda: not tuples(mesh), "its tuple to be forgotten")
    assert not half_open(mesh.shop)
    p.kill()
    p.wait(20)
    mesh.node.pods.remove(gone)
    gone.destroy()
    mesh.write()


def test_a_proxys_successor_takes_over(mesh):
    """What lives lives on, and is the successor's to end; so are new ones."""
    p, old = stays(mesh), mesh.node.proxy
    # The pages' ports are the old one's still.
    mesh.node.start_proxy(wait=False, BRUMA_ADMIN_PORT="0", **QUIET)
    wait_for(lambda: serving(mesh.node), "the next one to serve", log=mesh.node.proxy_log)
    old.kill()
    becomes_direct(mesh, mesh.web, mesh.shop.ip)
    assert p.poll() is None
    mesh.deny(mesh.web.rule())
    mesh.write()
    try:
        assert ended(p) in ABORTED
    finally:
        mesh.policies.clear()
        mesh.write()
    becomes_direct(mesh, mesh.web, mesh.shop.ip)
    mesh.node.start_proxy()


CHATS = """
import socket, sys, time
s = socket.create_connection((sys.argv[1], 8080), timeout=60)
print("OPEN", flush=True)
try:
    while True:
        s.sendall(b"between the two of us")
        if not s.recv(100):
            break
        time.sleep(0.002)
except OSError as e:
    print("ENDED", type(e).__name__, flush=True)
"""


def of_the_agent(mesh, way):
    mesh.node.agent.stop()
    mesh.node.start_agent("--same-node", way)


def of_the_pod(mesh, way):
    mesh.shop.more = {"annotations": {"bruma.io/same-node": way}}
    mesh.write()


@pytest.mark.parametrize("switch", [of_the_agent, of_the_pod], ids=["agent", "annotation"])
def test_switched_off_while_connections_live(mesh, switch):
    """They end; nothing of them goes over the bridge in plaintext meanwhile, and new ones take the long way."""

    def chats():
        before = counted(mesh, mesh.web)
        p = mesh.web.pipe(PYTHON, "-u", "-c", CHATS, mesh.shop.ip, stdout=subprocess.PIPE, text=True)
        assert p.stdout.readline().strip() == "OPEN"
        if counted(mesh, mesh.web) > before:
            return p
        p.kill()
        p.wait(20)
        return None

    p = wait_for(chats, "a connection to stay in the kernel")
    with inside(mesh.node.netns):
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        tap.bind(("vshop", 0))
    tap.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
    tap.setblocking(False)
    frames = []
    with tap:
        switch(mesh, "relay")
        assert ended(p) in ABORTED
        with contextlib.suppress(BlockingIOError):
            while True:
                frames.append(tap.recvfrom(65536))
    assert [f for f, to in frames if to[2] != socket.PACKET_OUTGOING and b"the two of us" in f], "answers"
    assert not [f for f, to in frames if to[2] == socket.PACKET_OUTGOING and b"the two of us" in f]
    wait_for(lambda: not tuples(mesh), "all tuples to be forgotten")
    before = counted(mesh, mesh.web)
    for _ in range(3):
        assert say(mesh, mesh.web, mesh.shop.ip, 8080, "the long way") == "the long way"
    assert counted(mesh, mesh.web) == before
    with inside(mesh.node.netns):
        wait_for(lambda: programs_at("vshop") == 0, "the programs to be gone")
    switch(mesh, "kernel")
    becomes_direct(mesh, mesh.web, mesh.shop.ip)


def test_an_agent_that_is_installed_anew_makes_other_maps(mesh):
    """The proxy, which knows those of before, writes to these."""
    becomes_direct(mesh, mesh.web, mesh.shop.ip)
    mesh.node.agent.stop()
    mesh.node.uninstall()
    mesh.node.start_agent("--same-node", "kernel")
    for pod in mesh.pods:
        pod.enroll()
        wait_for(lambda p=pod: p.item()["sameNode"] == "kernel", f"{pod.name} to be wired")
    becomes_direct(mesh, mesh.web, mesh.shop.ip)
