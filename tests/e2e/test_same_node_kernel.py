# SPDX-License-Identifier: Apache-2.0
"""Connections between two pods of one node that stay in the kernel: what the programs and the agent make of verdicts that the
test writes in the proxy's place. The other pods, and the pods' own root, try to be somebody else."""

import errno
import os
import shutil
import signal
import socket
import subprocess
import time

import pytest

from support import agent, network
from support.faults import Faults
from support.network import inside
from support.nodes.agent_node import AgentNode
from support.nodes.kernel_scene import CALL, UNREGISTERED, call, forged, kernel_scene, mac
from support.nodes.node_verdicts import place, place_of_address, programs_at
from support.nodes.pod_programs import ECHO
from support.system import run, wait_for
from support.workspace import Workspace

VIP, VIP6 = "10.96.0.7", "fd96::7"


@pytest.fixture(scope="module")
def scene(build):
    with kernel_scene(build) as s:
        yield s


@pytest.fixture(autouse=True)
def allowed(scene):
    scene.verdicts.change()
    scene.allow()


# ---- it works ----


@pytest.mark.parametrize("form", ["v4", "v6", "mapped"])
def test_goes_directly(scene, form):
    to = {"v4": scene.b.ip, "v6": scene.b.ip6, "mapped": f"::ffff:{scene.b.ip}"}[form]
    own = {"v4": scene.a.ip, "v6": scene.a.ip6, "mapped": f"::ffff:{scene.a.ip}"}[form]
    assert call(scene.a, to) == f"hello {to} 8080 {own}"
    assert scene.heard()[-1][0].removeprefix("::ffff:") == own.removeprefix("::ffff:")
    wait_for(lambda: not scene.verdicts.live(), "the tuple to be gone")


def test_a_hundred_at_once_leave_nothing(scene):
    code = """
import socket, sys
all = [socket.create_connection((sys.argv[1], 8080), timeout=20) for _ in range(100)]
for s in all: s.sendall(b"x" * 65536)
for s in all:
    n = 0
    while n < 65536: n += len(s.recv(65536))
print(len({s.getsockname() for s in all}))
"""
    assert scene.a.python(code, scene.b.ip).strip() == "100"
    wait_for(lambda: not scene.verdicts.live(), "the tuples to be gone")


@pytest.mark.parametrize("to", [VIP, VIP6, f"::ffff:{VIP}"])
def test_an_address_of_a_service(scene, to):
    plain = to.removeprefix("::ffff:")
    scene.verdicts.allow(scene.a, scene.b, plain, 80, scene.b.ip if "." in plain else scene.b.ip6)
    own = {VIP: scene.a.ip, VIP6: scene.a.ip6}.get(to, f"::ffff:{scene.a.ip}")
    assert call(scene.a, to, 80) == f"hello {to} 80 {own}", "the application sees whom it has asked for"


OTHER_KINDS = """
import socket, sys
kind, to = sys.argv[1], sys.argv[2]
family = socket.AF_INET6 if ":" in to else socket.AF_INET
s = socket.socket(family, socket.SOCK_STREAM, 262 if kind == "mptcp" else 0)
if kind == "fast open":
    s.sendto(b"hello", socket.MSG_FASTOPEN, (to, 8080))
else:
    if kind == "deferred":
        s.setsockopt(socket.IPPROTO_TCP, 30, 1)  # TCP_FASTOPEN_CONNECT
    s.connect((to, 8080))
    try:
        s.sendall(b"hello")
    except OSError:
        pass
s.settimeout(20)
print(s.recv(100).decode().strip())
"""


@pytest.mark.parametrize("kind", ["fast open", "deferred", "mptcp"])
@pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])
def test_other_ways_to_connect(scene, kind, family):
    """Several times: from the second on there may be a cookie, and data in the SYN. One that is deferred is sent with the first
    data, by when nobody knows what holds: it takes the long way."""
    ways = ("proxy outbound",) if kind == "deferred" else ("hello", "proxy outbound")
    for _ in range(3):
        assert scene.a.python(OTHER_KINDS, kind, scene.b.ips[family]).strip() in ways


def test_a_syn_that_is_late_is_not_plaintext_of_somebody_outside(scene):
    """b does not answer the first one; by the next one the verdict is void."""
    code = """
import socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
s.settimeout(20)
try:
    s.connect((sys.argv[1], 8080))
    print(s.recv(100).decode().strip())
except OSError as e:
    print(type(e).__name__)
"""
    rules = "add table inet late; add chain inet late in { type filter hook input priority 0; }; "
    run(["nft", rules + "add rule inet late in tcp dport 8080 counter drop"], netns=scene.b.netns)
    processes = []
    try:
        for to in scene.b.ips:
            live = len(scene.verdicts.live())
            processes.append(
                scene.a.pipe("/usr/bin/python3", "-c", code, to, stdout=subprocess.PIPE, text=True)
            )
            wait_for(lambda n=live: len(scene.verdicts.live()) > n, "its SYN")
        scene.verdicts.change()
    finally:
        run(["nft", "delete table inet late"], netns=scene.b.netns)
    assert [p.communicate(timeout=30)[0].strip() for p in processes] == ["ConnectionRefusedError"] * 2


def test_what_has_no_verdict_goes_through_the_proxy(scene):
    assert call(scene.c, scene.b.ip).startswith("proxy outbound")
    assert call(scene.a, scene.b.ip, 8081).startswith("proxy outbound")
    assert call(scene.a, scene.c.ip).startswith("proxy outbound")


# ---- room ----

# A quarter of what there is room for.
SHARE = 65536 // 4


def long_way(pod, reason):
    return pod.item()["outboundLongWay"].get(reason, 0)


def test_tuples_are_counted_for_their_source(scene):
    # Those whose connections were refused stay for a while.
    before, others = scene.verdicts.tuples_of(scene.a), scene.verdicts.live()
    code = """
import socket, sys
all = [socket.create_connection((sys.argv[1], 8080), timeout=20) for _ in range(20)]
print("READY", flush=True)
sys.stdin.readline()
"""
    p = scene.a.pipe(
        "/usr/bin/python3",
        "-u",
        "-c",
        code,
        scene.b.ip,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert p.stdout.readline().strip() == "READY"
    assert scene.verdicts.tuples_of(scene.a) == before + 20
    assert scene.verdicts.tuples_of(scene.b) == 0
    p.communicate("\n", timeout=20)
    wait_for(lambda: scene.verdicts.live() == others, "the tuples to be gone")
    assert scene.verdicts.tuples_of(scene.a) == before


# ---- who is not sure goes through the proxy ----


def test_a_change_makes_verdicts_void(scene):
    scene.verdicts.change()
    assert call(scene.a, scene.b.ip).startswith("proxy outbound")


def test_a_change_of_one_of_the_three_is_enough(scene):
    cookies = [int(p.item()["cookie"]) for p in (scene.a, scene.b)]
    for changed in (place(cookies[0]), place(cookies[1]), place_of_address(scene.b.ip)):
        assert call(scene.a, scene.b.ip).startswith("hello")
        scene.verdicts.change_at(changed)
        assert call(scene.a, scene.b.ip).startswith("proxy outbound"), changed
        scene.allow()


def test_a_change_of_something_else_leaves_them_alone(scene):
    scene.verdicts.change_at(place(int(scene.c.item()["cookie"])))
    scene.verdicts.change_at(place_of_address(scene.c.ip))
    assert call(scene.a, scene.b.ip).startswith("hello")


def test_a_proxy_that_is_silent(scene):
    scene.verdicts.live_until(time.clock_gettime_ns(time.CLOCK_MONOTONIC) - 1)
    try:
        assert call(scene.a, scene.b.ip).startswith("proxy outbound")
    finally:
        scene.verdicts.live_until(time.clock_gettime_ns(time.CLOCK_MONOTONIC) + 3600 * 10**9)
    assert call(scene.a, scene.b.ip).startswith("hello")


def test_a_certificate_that_has_ended(scene):
    scene.verdicts.allow(scene.a, scene.b, scene.b.ip, seconds=-1)
    assert call(scene.a, scene.b.ip).startswith("proxy outbound")
    scene.verdicts.allow(scene.a, scene.b, scene.b.ip)
    assert call(scene.a, scene.b.ip).startswith("hello")


def test_a_way_that_is_switched_off(scene):
    end = time.clock_gettime_ns(time.CLOCK_MONOTONIC) + 3600 * 10**9
    scene.verdicts.live_until(end, ways=0)
    try:
        assert call(scene.a, scene.b.ip).startswith("proxy outbound")
    finally:
        scene.verdicts.live_until(end)


def test_a_source_that_was_not_judged(scene):
    """Root of the pod gives itself another address, such as one of another pod that has gone."""
    run(["ip", "-n", scene.a.netns, "addr", "add", "10.79.0.99/24", "dev", "eth0"])
    try:
        assert call(scene.a, scene.b.ip, own="10.79.0.99").startswith("proxy outbound")
        assert call(scene.a, scene.b.ip, own=scene.a.ip).startswith("hello")
    finally:
        run(["ip", "-n", scene.a.netns, "addr", "del", "10.79.0.99/24", "dev", "eth0"])


def test_two_connects_of_one_socket(scene):
    """The first fails, the second is to where nothing goes directly: it must not go there in plaintext."""
    code = """
import socket, sys
s = socket.socket()
print(s.connect_ex((sys.argv[1], 8080)) != 0)
try:
    s.connect((sys.argv[2], 8080))
    print(s.recv(100).decode().strip())
except OSError as e:
    print(type(e).__name__)
"""
    scene.verdicts.allow(scene.a, scene.b, scene.b.ip, endpoint_port=8099)
    first, second = scene.a.python(code, scene.b.ip, scene.c.ip).splitlines()
    assert first == "True" and second in ("proxy outbound", "ConnectionRefusedError", "PermissionError"), (
        second
    )


# ---- somebody else ----


def test_poisoned_neighbours_lead_nobody_astray(scene):
    """As after an attack by ARP: all frames of a for b go to c by its address, and c listens."""
    run(["ip", "-n", scene.a.netns, "neigh", "replace", scene.b.ip, "lladdr", mac(scene.c), "dev", "eth0"])
    run(["ip", "-n", scene.b.netns, "neigh", "replace", scene.a.ip, "lladdr", mac(scene.c), "dev", "eth0"])
    with inside(scene.c.netns):
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
        tap.bind(("eth0", 0))
    try:
        assert call(scene.a, scene.b.ip).startswith("hello")
        tap.setblocking(False)
        caught = []
        try:
            while True:
                caught.append(tap.recv(65536))
        except BlockingIOError:
            pass
        assert not [f for f in caught if socket.inet_aton(scene.b.ip) in f and f[23] == 6]
    finally:
        tap.close()
        for x, y in ((scene.a, scene.b), (scene.b, scene.a)):
            run(["ip", "-n", x.netns, "neigh", "del", y.ip, "dev", "eth0"])


class Impostor:
    """c has a's addresses, and b sends to c what is for a."""

    def __init__(self, scene):
        self.scene = scene

    def __enter__(self):
        s = self.scene
        run(["ip", "-n", s.c.netns, "addr", "add", f"{s.a.ip}/32", "dev", "eth0"])
        run(["ip", "-n", s.b.netns, "neigh", "replace", s.a.ip, "lladdr", mac(s.c), "dev", "eth0"])
        run(["ip", "-n", s.c.netns, "neigh", "replace", s.b.ip, "lladdr", mac(s.b), "dev", "eth0"])

    def __exit__(self, *_):
        s = self.scene
        run(["ip", "-n", s.c.netns, "addr", "del", f"{s.a.ip}/32", "dev", "eth0"])
        run(["ip", "-n", s.b.netns, "neigh", "del", s.a.ip, "dev", "eth0"])
        run(["ip", "-n", s.c.netns, "neigh", "del", s.b.ip, "dev", "eth0"])


def lookups(pod):
    """How often its program has been asked about plaintext."""
    return pod.item()["counters"]["inbound_plaintext_lookups"]


def raw_call(scene, port, timeout=3):
    """As root of c without any hook: in no cgroup of pods."""
    return run(
        ["/usr/bin/python3", "-c", CALL, scene.b.ip, "8080", scene.a.ip, str(port), str(timeout)],
        netns=scene.c.netns,
    ).stdout.strip()


def test_the_impostor_is_a_good_one(scene):
    """Without a tuple it is heard, as anybody who speaks plaintext."""
    with Impostor(scene):
        assert raw_call(scene, 33332).startswith("proxy inbound")


def test_who_knows_a_tuple_is_not_who_has_it(scene):
    """The tuple is registered, its SYN has not come yet, and c is first, with all of a's addresses."""
    before, heard, asked = forged(scene), scene.heard(), lookups(scene.b)
    with Impostor(scene):
        scene.verdicts.register(scene.a, scene.b, 33333)
        assert raw_call(scene, 33333) == "TimeoutError"
    assert scene.heard() == heard
    assert lookups(scene.b) == asked, "it does not even reach b"
    assert forged(scene) > before
    scene.verdicts.forget(scene.a, scene.b, 33333)


def pins(scene, pod):
    return [f"{scene.node.pin_dir}/pods/{pod.item()['cookie']}/node-{end}" for end in ("from", "to")]


def test_a_tuple_alone_opens_nothing(scene):
    """Even where nobody watches the devices, the destination wants to know that the packet was brought."""
    heard = scene.heard()
    # The pin is the last that holds the link.
    away = pins(scene, scene.b) + pins(scene, scene.c)
    scene.verdicts.register(scene.a, scene.b, 33334)
    os.kill(scene.node.agent.pid, signal.SIGSTOP)  # it would put them back
    try:
        for pin in away:
            os.unlink(pin)
        with Impostor(scene):
            assert not raw_call(scene, 33334).startswith("hello")
    finally:
        os.kill(scene.node.agent.pid, signal.SIGCONT)
    assert scene.heard() == heard
    scene.verdicts.forget(scene.a, scene.b, 33334)
    wait_for(lambda: all(map(os.path.exists, away)), "the agent to repair it", 60, log=scene.node.agent_log)
    scene.allow()
    assert call(scene.a, scene.b.ip).startswith("hello")


def test_a_segment_into_a_live_connection(scene):
    """c sends a reset with all the right numbers but by its own device."""
    code = """
import socket, sys
s = socket.create_connection((sys.argv[1], 8080), timeout=20)
print(s.getsockname()[1], flush=True)
sys.stdin.readline()
s.sendall(b"still there")
print(s.recv(100).decode(), flush=True)
"""
    p = scene.a.pipe(
        "/usr/bin/python3",
        "-u",
        "-c",
        code,
        scene.b.ip,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    port = int(p.stdout.readline())
    before = forged(scene)
    with Impostor(scene):
        assert raw_call(scene, port, 2) == "TimeoutError", "not even its SYN is answered"
    assert forged(scene) > before
    p.stdin.write("\n")
    p.stdin.flush()
    assert p.stdout.readline().strip() == "still there"
    p.wait(20)


def test_a_connection_that_could_not_be_registered_sends_nothing(scene):
    """The hook has let it go, and the program that writes tuples is gone."""
    heard = scene.heard()
    before = scene.verdicts.counter(UNREGISTERED)
    os.kill(scene.node.agent.pid, signal.SIGSTOP)
    try:
        run(["bpftool", "link", "detach", "pinned", f"{scene.node.pin_dir}/links/node-sockets"])
        assert call(scene.a, scene.b.ip, timeout=2) == "TimeoutError"
    finally:
        os.kill(scene.node.agent.pid, signal.SIGCONT)
    assert scene.heard() == heard
    assert scene.verdicts.counter(UNREGISTERED) > before
    wait_for(lambda: call(scene.a, scene.b.ip, timeout=5).startswith("hello"), "the agent to repair it", 60)


# ---- other enrollments ----


def test_another_enrollment_is_not_the_one_that_was_judged(scene):
    """b's namespace leaves the mesh and comes back; verdicts of before do not count."""
    assert scene.b.ask("cni-del")["op"] == "done"
    assert call(scene.a, scene.b.ip).startswith("proxy outbound")
    scene.b.add()
    wait_for(lambda: scene.b.item()["sameNode"] == "kernel", "b to be wired again")
    assert call(scene.a, scene.b.ip).startswith("proxy outbound"), "the verdict is of the enrollment before"
    scene.allow()
    assert call(scene.a, scene.b.ip).startswith("hello")


def test_another_pod_with_the_same_address(scene):
    d = scene.node.pod("d")
    d.add()
    wait_for(lambda: d.item()["sameNode"] == "kernel", "d to be wired")
    scene.verdicts.allow(scene.a, d, d.ip)
    d.server(ECHO, 8080)
    assert call(scene.a, d.ip).startswith("hello")
    assert d.ask("cni-del")["op"] == "done"
    d.remove()
    e = scene.node.pod("e", number=d.number)
    e.add()
    wait_for(lambda: e.item()["sameNode"] == "kernel", "e to be wired")
    assert call(scene.a, e.ip).startswith("proxy outbound")
    assert e.ask("cni-del")["op"] == "done"


def test_what_a_pod_leaves_is_not_the_next_ones_that_has_its_address(scene):
    """Its end at the destination may live: the tuple stays as it is, until the proxy has ended that."""
    scene.verdicts.register(scene.a, scene.b, 33500, of=scene.c)
    try:
        assert call(scene.a, scene.b.ip, own=scene.a.ip, own_port=33500, timeout=2) == "TimeoutError"
        assert call(scene.a, scene.b.ip).startswith("hello")
    finally:
        scene.verdicts.forget(scene.a, scene.b, 33500)


# ---- the agent ----


def test_nothing_is_left_at_the_devices(scene):
    f = scene.node.pod("f")
    f.add()
    wait_for(lambda: f.item()["sameNode"] == "kernel", "f to be wired")
    with inside(scene.node.netns):
        assert programs_at(f.link) == 2
        assert f.ask("cni-del")["op"] == "done"
        wait_for(lambda: programs_at(f.link) == 0, "the programs to be gone")


def test_somebody_elses_program_at_the_device(scene):
    g = scene.node.pod("g")
    run(["tc", "qdisc", "add", "dev", g.link, "clsact"], netns=scene.node.netns)
    g.add()
    wait_for(lambda: "somebody else's program" in g.item()["sameNode"], "the agent to say why")
    scene.verdicts.allow(g, scene.b, scene.b.ip)
    assert call(g, scene.b.ip).startswith("proxy outbound")
    assert "somebody else's program" in scene.node.ctl("doctor", check=False).stdout
    assert g.ask("cni-del")["op"] == "done"


def no_veth(scene, pod):
    run(["ip", "-n", pod.netns, "link", "del", "eth0"])
    run(f"ip -n {scene.node.netns} link add mv link pods type macvlan mode bridge".split())
    run(["ip", "-n", scene.node.netns, "link", "set", "mv", "netns", pod.netns, "name", "eth0"])
    run(["ip", "-n", pod.netns, "link", "set", "eth0", "up"])
    network.address(pod.netns, "eth0", f"{pod.ip}/24")
    network.address(pod.netns, "eth0", f"{pod.ip6}/64")


def several_devices(scene, pod):
    network.veth(scene.node.netns, "second", pod.netns, "eth1")


def other_namespace(scene, pod):
    """Its veth ends in one between, as with some runtimes; packets come from there."""
    between = scene.node.work.netns("between")
    run(["ip", "-n", pod.netns, "link", "del", "eth0"])
    network.veth(between, "pod", pod.netns, "eth0")
    network.address(pod.netns, "eth0", f"{pod.ip}/24")
    network.address(pod.netns, "eth0", f"{pod.ip6}/64")


@pytest.mark.parametrize(
    ("wire", "why"),
    [
        (no_veth, "is no veth"),
        (several_devices, "several network devices"),
        (other_namespace, "is not in the network namespace of the agent"),
    ],
    ids=["no-veth", "several-devices", "other-namespace"],
)
def test_a_device_that_does_not_fit_is_refused_by_name(scene, wire, why):
    h = scene.node.pod(wire.__name__.replace("_", "-"))
    wire(scene, h)
    h.add()
    wait_for(lambda: why in h.item()["sameNode"], "the agent to say why")
    doctor = [x for x in scene.node.ctl("doctor", check=False).stdout.splitlines() if f"shop/{h.name}" in x]
    assert any(why in x for x in doctor), doctor
    assert h.ask("cni-del")["op"] == "done"


def test_a_kernel_without_tcx_is_refused_by_name(build):
    """The agent runs, and says so."""
    work = Workspace(build)
    node = AgentNode(work)
    faults = Faults(build, work.path("faults"))
    node.agent_env = lambda: faults.env
    faults.fail("tcx", errno.EINVAL)
    try:
        node.start("--same-node", "kernel")
        assert "this kernel has no tcx links" in node.ctl("doctor", check=False).stdout
        p = node.pod("p")
        p.add()
        assert "this kernel has no tcx links" in p.item()["sameNode"]
        assert faults.failed()
    finally:
        faults.close()
        errors = work.close()
        shutil.rmtree(work.directory, ignore_errors=True)
    assert not errors, errors


# ---- last, for c is then a pod that uses this way itself: what it forges does not leave it any more ----


def test_a_pod_that_has_its_share_leaves_the_others_theirs(scene):
    """Of tuples that stay when their connections have ended, too: such are in no list of flows."""
    at = place(int(scene.a.item()["cookie"]))
    scene.verdicts.allow(scene.c, scene.b, scene.b.ip)
    before = long_way(scene.a, "pod_tuples_full")
    scene.verdicts.change_at(at, changes=0, tuples=SHARE)
    try:
        assert call(scene.a, scene.b.ip).startswith("proxy outbound")
        assert long_way(scene.a, "pod_tuples_full") == before + 1
        said = agent.ask(
            scene.node.run_dir,
            "explain",
            pod=f"{scene.a.namespace}/{scene.a.name}",
            to=f"{scene.b.ip}:8080",
        )
        assert [f for f in said if "because the pod has a quarter of all connections between pods" in str(f)]
        assert call(scene.c, scene.b.ip).startswith("hello")
    finally:
        scene.verdicts.change_at(at, changes=0, tuples=-SHARE)
    assert call(scene.a, scene.b.ip).startswith("hello")
