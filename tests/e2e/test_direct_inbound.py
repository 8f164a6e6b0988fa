# SPDX-License-Identifier: Apache-2.0
"""Plaintext from outside to a pod whose policies say the same to everybody: the kernel passes or refuses it. What it has passed
ends when the answer changes."""

import contextlib
import json
import re
import signal
import struct
import subprocess

import pytest

from support.bpf_map import full
from support.direct_maps import FLOW, PASS, REFUSE, Flow, Map
from support.nodes.direct import way_in
from support.nodes.direct_programs import CLIENT, PEER
from support.nodes.mesh import Mesh
from support.nodes.pod import PYTHON
from support.nodes.pod_programs import ECHO, ONE_SHOT
from support.programs import ROOT
from support.system import run, wait_for
from support.wire.access_log import AccessLog
from support.wire.segments import Wire

with open(f"{ROOT}/include/bruma/direct.h") as f:
    LONG_WAYS = re.findall(r'BRUMA_LONG_WAY\([A-Z_]+, (\w+), "', f.read())

# Keeps so many connections open, says so, and prints what each of them ended with once its other side ends it.
HOLD = """
import errno, selectors, socket, sys
n = int(sys.argv[3])
selector = selectors.DefaultSelector()
for i in range(n):
    s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20)
    s.sendall(b"x")
    assert s.recv(1) == b"x"
    selector.register(s, selectors.EVENT_READ)
print("HELD", flush=True)
while n:
    for key, _ in selector.select():
        try:
            end = "data" if key.fileobj.recv(1) else "end"
        except OSError as e:
            end = errno.errorcode[e.errno]
        print(end, flush=True)
        selector.unregister(key.fileobj)
        n -= 1
"""


# As HOLD, of a server that is told of a connection when its data has come.
DEFERRED = """
import socket, sys
s = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True)
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 60)
print("READY", flush=True)
kept = []
while True:
    kept.append(s.accept())
"""

# Connects, sends when it is told to, and prints how it ends.
LATE = """
import errno, socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20)
print("CONNECTED", flush=True)
sys.stdin.readline()
try:
    s.sendall(b"x")
    print("data" if s.recv(1) else "end", flush=True)
except OSError as e:
    print(errno.errorcode.get(e.errno, "timeout"), flush=True)
"""

# As HOLD, from the ports of a range.
HOLD_RANGE = """
import socket, sys, time
kept = []
for port in range(int(sys.argv[2]), int(sys.argv[2]) + int(sys.argv[3])):
    s = socket.create_connection((sys.argv[1], 8080), timeout=8, source_address=("", port))
    s.sendall(b"x")
    assert s.recv(1) == b"x"
    kept.append(s)
print("HELD", flush=True)
sys.stdin.read()
"""

# As ONE_SHOT, and says from which port.
NAMED = """
import socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20)
s.sendall(b"hello")
s.shutdown(socket.SHUT_WR)
while s.recv(100):
    pass
print(s.getsockname()[1])
"""

# What connect() says.
TRY = """
import errno, socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
s.settimeout(10)
print(errno.errorcode.get(s.connect_ex((sys.argv[1], int(sys.argv[2]))), "connected"))
"""


# Connections from each port of a range, one after the other; once all are open, each is asked again.
CHOOSE = """
import socket, sys
to, first, count = sys.argv[1], *map(int, sys.argv[2:4])
live, failed = [], []
for port in range(first, first + count):
    s = socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET)
    s.settimeout(8)
    try:
        s.bind(("", port))
        s.connect((to, 8080))
        s.sendall(b"x")
        assert s.recv(1) == b"x"
        live.append(s)
    except (OSError, AssertionError) as e:
        failed.append((port, repr(e)))
for s in live:
    try:
        s.sendall(b"y")
        assert s.recv(1) == b"y"
    except (OSError, AssertionError) as e:
        failed.append((s.getsockname()[1], repr(e)))
print(len(failed), failed[:3])
"""


@pytest.fixture(scope="module")
def mesh():
    with Mesh(nodes=2, agent_options=("--direct-inbound", "true")) as m:
        m.node = m.nodes[0]
        m.web = m.pod("web")
        m.peer = m.pod("peer", node=1)
        m.outside = m.pod("outside", namespace="outside")
        m.outside.outside = True
        m.start()
        m.echo = m.web.server(ECHO, "8080")
        with Wire(m.node) as m.wire:
            yield m


def entry(mesh):
    """The answer that the kernel has of web: ways and why not."""
    dump = json.loads(
        run(["bpftool", "-j", "map", "dump", "pinned", f"{mesh.node.pin_dir}/maps/direct_pods"]).stdout
    )
    cookie = int(mesh.web.item()["cookie"])
    found = [e["formatted"]["value"] for e in dump if e["formatted"]["key"] == cookie]
    return found[0] if found else {"ways": 0, "inbound_why": None}


def wait_answer(mesh, way, why="none"):
    def there():
        e = entry(mesh)
        return e["ways"] & (PASS | REFUSE) == way and e["inbound_why"] == LONG_WAYS.index(why)

    wait_for(there, f"the answer {way} {why}")


@pytest.fixture(autouse=True)
def permissive(mesh):
    mesh.policies.clear()
    mesh.write()
    wait_answer(mesh, PASS)


def flows(mesh):
    flows_map = Map(f"{mesh.node.pin_dir}/maps/flows", FLOW.size)
    try:
        values = [flows_map.get(key) for key in flows_map.keys(8)]
    finally:
        flows_map.close()
    return [Flow(v) for v in values if v]


def long_ways(mesh):
    """Connections from outside that went to the proxy, for whatever reason."""
    return sum(mesh.web.item()["inboundLongWay"].values())


def counters(mesh):
    dump = json.loads(
        run(["bpftool", "-j", "map", "dump", "pinned", f"{mesh.node.pin_dir}/maps/direct_counters"]).stdout
    )
    cookie = int(mesh.web.item()["cookie"])
    return next(e["formatted"]["value"] for e in dump if e["formatted"]["key"] == cookie)


@contextlib.contextmanager
def held(mesh, ip, connections, client=None):
    """So many connections from outside, or from a pod, to web, which echoes on them."""
    argv = (PYTHON, "-uc", HOLD, ip, "8080", str(connections))
    with (client or mesh.outside).pipe(*argv, stdout=subprocess.PIPE, text=True) as program:
        try:
            assert program.stdout.readline() == "HELD\n"
            yield program
        finally:
            program.kill()


def ends(client, count):
    return [client.stdout.readline().strip() for _ in range(count)]


def sockets_of(mesh, port=8080):
    """Established ones of web at that port, both ends of what the proxy relays."""
    out = mesh.web.run("ss", "-Htan", "state", "established").stdout
    return len([line for line in out.splitlines() if f":{port} " in line])


@pytest.mark.parametrize("family", [0, 1])
def test_permissive_passes(mesh, family):
    before = counters(mesh)
    assert mesh.outside.python(ONE_SHOT, mesh.web.ips[family], "8080", "hello") == "hello"
    after = counters(mesh)
    assert after["direct_inbound_lookups"] == before["direct_inbound_lookups"] + 1
    assert after["inbound_long_way"] == before["inbound_long_way"]


def test_the_application_sees_its_client(mesh):
    skip = len(mesh.echo.text())
    for ip in mesh.web.ips:
        assert mesh.outside.python(ONE_SHOT, ip, "8080", "hello") == "hello"
    assert re.findall(r"FROM (\S+)", mesh.echo.text()[skip:]) == [
        "::ffff:" + mesh.outside.ips[0],
        mesh.outside.ips[1],
    ]


SYN = 2


@pytest.mark.parametrize("family", [0, 1])
@pytest.mark.parametrize("way", ["fastopen", "mptcp"])
def test_fast_open_and_multipath_connections_pass(mesh, way, family):
    """The first is accepted, and its data read, before the handshake is over."""
    log, to = AccessLog(mesh.node), mesh.web.ips[family]
    mesh.web.run("sysctl", "-q", "-w", "net.ipv4.tcp_fastopen=0x603")
    mesh.outside.run("sysctl", "-q", "-w", "net.ipv4.tcp_fastopen=0x7")
    if not hasattr(mesh, "peer_program"):
        mesh.peer_program = mesh.web.server(PEER, "8090")
    before = counters(mesh)["direct_inbound_lookups"]
    mesh.wire.forget()
    said = mesh.outside.python(CLIENT, way, to, "8090", "100001", "70003", "half").split()
    assert counters(mesh)["direct_inbound_lookups"] > before
    if way == "fastopen":
        assert [s for s in mesh.wire.seen() if s.flags & SYN and s.payload and s.destination_port == 8090]
    log.wait("it", way="direct", bytes_recv=str(100001 + int(said[-1])), bytes_sent="70003")
    wait_for(lambda: not flows(mesh), "no flows")


def test_one_socket_for_each_connection(mesh):
    with held(mesh, mesh.web.ip, 500) as client:
        assert len(flows(mesh)) == sockets_of(mesh) == 500
        assert all(f.way == PASS and f.local == (mesh.web.ip, 8080) for f in flows(mesh))
        client.kill()
    wait_for(lambda: not flows(mesh), "no flows")


@pytest.mark.parametrize("family", [0, 1])
def test_strict_resets(mesh, family):
    mesh.deny_strangers()
    mesh.write()
    wait_answer(mesh, REFUSE)
    before = counters(mesh)["direct_inbound_refused_lookups"]
    assert mesh.outside.python(TRY, mesh.web.ips[family], "8080").strip() == "ECONNREFUSED"
    assert counters(mesh)["direct_inbound_refused_lookups"] == before + 1
    assert mesh.peer.python(ONE_SHOT, mesh.web.ips[family], "8080", "hello") == "hello", "with identity"


FLOOD = """
import socket, sys
for i in range(int(sys.argv[3])):
    assert socket.socket().connect_ex((sys.argv[1], int(sys.argv[2])))
"""


def refusals_told(mesh):
    """By lines of the access log, with those that a line only counts."""
    lines = [x for x in mesh.node.access_log() if "policy_denied" in x and 'way="direct"' in x]
    return sum(1 + int((re.search(r"; (\d+) more were refused", x) or [0, 0])[1]) for x in lines), len(lines)


def test_all_refusals_of_a_flood_are_told_of_in_the_end(mesh):
    """Although nothing comes any more, which could bring the number along."""
    mesh.deny_strangers()
    mesh.write()
    wait_answer(mesh, REFUSE)
    told, lines = refusals_told(mesh)
    mesh.outside.python(FLOOD, mesh.web.ip, "8080", "1000")
    wait_for(lambda: refusals_told(mesh)[0] >= told + 1000, "all to be told of", log=mesh.node.proxy_log)
    assert refusals_told(mesh)[0] == told + 1000
    assert refusals_told(mesh)[1] < lines + 1000


def test_what_is_in_the_mesh_is_still_tunnelled(mesh):
    before = counters(mesh)
    assert mesh.peer.python(ONE_SHOT, mesh.web.ip, "8080", "hello") == "hello"
    assert counters(mesh)["direct_inbound_lookups"] == before["direct_inbound_lookups"]
    assert flows(mesh) == []


def test_what_depends_goes_to_the_proxy(mesh):
    mesh.deny([[{"sourceIps": [f"{mesh.peer.ip}/32"]}]])
    mesh.write()
    wait_answer(mesh, 0, "policy_depends")
    before = counters(mesh)["direct_inbound_lookups"]
    assert mesh.outside.python(ONE_SHOT, mesh.web.ip, "8080", "hello") == "hello"
    assert counters(mesh)["direct_inbound_lookups"] == before
    assert flows(mesh) == []


@pytest.mark.parametrize("family", [0, 1])
def test_a_change_cuts_what_was_passed(mesh, family):
    with held(mesh, mesh.web.ips[family], 20) as client:
        assert len(flows(mesh)) == 20
        mesh.deny_strangers()
        mesh.write()
        assert ends(client, 20) == ["ECONNRESET"] * 20
    wait_for(lambda: not flows(mesh), "no flows")


def test_those_that_are_still_allowed_live_on(mesh):
    """The answer depends now, and each is judged by its own addresses."""
    mesh.deny([[{"sourceIps": [f"{mesh.outside.ip6}/128"]}]])
    with held(mesh, mesh.web.ip, 3) as four, held(mesh, mesh.web.ip6, 3) as six:
        assert len(flows(mesh)) == 6
        mesh.write()
        assert ends(six, 3) == ["ECONNRESET"] * 3
        wait_for(lambda: len(flows(mesh)) == 3, "three flows")
        assert four.poll() is None
        # those that were spared are judged again when policies change again
        mesh.policies.clear()
        mesh.deny_strangers()
        mesh.write()
        assert ends(four, 3) == ["ECONNRESET"] * 3
    wait_for(lambda: not flows(mesh), "no flows")


# Accepts a connection once its data has come, at the pod's device alone if it is told so, and says what it hears of it.
WITNESS = """
import errno, socket, sys
s = socket.socket(socket.AF_INET6)
if sys.argv[2] == "bound":
    s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 60)
s.bind(("::", int(sys.argv[1])))
s.listen()
print("READY", flush=True)
while True:
    c, _ = s.accept()
    c.recv(100)
    try:
        c.sendall(b"answer")
        print("SENT", flush=True)
        print("HEARD", c.recv(100), flush=True)
    except OSError as e:
        print("SENT HEARD", errno.errorcode[e.errno], flush=True)
"""


@pytest.mark.parametrize("listener", ["free", "bound"])
def test_what_finds_no_room_when_it_is_accepted_is_cut_off_and_ended(mesh, listener):
    """There was room when it was let pass. Unaccounted, it could never be ended when policies change."""
    port = {"free": "8082", "bound": "8083"}[listener]
    server = mesh.web.server(WITNESS, port, listener)
    late = (PYTHON, "-uc", LATE, mesh.web.ip, port)
    wait_for(
        lambda: way_in(mesh.outside, mesh.web, mesh.web.ip) == "direct", "room, after a test that took it"
    )
    mesh.wire.forget()
    with mesh.outside.pipe(*late, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout.readline() == "CONNECTED\n"
        # who ends it, and would be faster than the application now and then
        mesh.node.proxy.kill(signal.SIGSTOP)
        try:
            with full(mesh.node, "flows", lambda i: struct.pack("=Q", (1 << 60) + i)):
                client.stdin.write("now\n")
                client.stdin.flush()
                server.wait_for_text("SENT")
        finally:
            mesh.node.proxy.kill(signal.SIGCONT)
        server.wait_for_text("HEARD")
        assert re.findall(r"HEARD (\S+)", server.text()) in (["ECONNABORTED"], ["ECONNRESET"])
        client.kill()
    assert not [s for s in mesh.wire.seen() if s.payload == b"answer"]
    wait_for(lambda: not sockets_of(mesh, port), "its socket to be gone")
    assert flows(mesh) == []


def test_the_answer_changes_during_a_handshake(mesh):
    """The application's kernel makes a socket only when data has come (TCP_DEFER_ACCEPT). By then the answer is another one."""
    mesh.web.server(DEFERRED, "8081")
    late = (PYTHON, "-uc", LATE, mesh.web.ip, "8081")
    with mesh.outside.pipe(*late, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout.readline() == "CONNECTED\n"
        assert flows(mesh) == []
        mesh.deny([[{"sourceIps": [f"{mesh.outside.ip}/32"]}]])
        mesh.write()
        wait_answer(mesh, 0, "policy_depends")
        client.stdin.write("now\n")
        client.stdin.flush()
        assert client.stdout.readline() in ("ECONNRESET\n", "EPIPE\n")
    wait_for(lambda: not flows(mesh), "no flows")


@pytest.mark.parametrize("family", [0, 1])
@pytest.mark.parametrize("tunnelled_first", [True, False])
def test_deliveries_and_direct_clients_with_equal_ports(mesh, family, tunnelled_first):
    """Under one client's address: what its tunnel delivers comes from ports of the pod's choice, and what the client sends in
    plaintext, past its own proxy, from ports of its own. Both take the same 64."""
    to = mesh.web.ips[family]
    first = 40000 + 64 * (2 * family + tunnelled_first)
    mesh.web.run("sh", "-c", f"echo {first} {first + 63} >/proc/sys/net/ipv4/ip_local_port_range")

    def plaintext():
        """Not below the pods' cgroup, so not captured."""
        argv = ["ip", "netns", "exec", mesh.peer.netns, PYTHON, "-c", CHOOSE, to, str(first), "64"]
        return run(argv, timeout=120).stdout.strip()

    if tunnelled_first:
        with held(mesh, to, 40, mesh.peer):
            assert plaintext() == "0 []"
    else:
        argv = ["ip", "netns", "exec", mesh.peer.netns, PYTHON, "-uc", HOLD_RANGE, to, str(first), "60"]
        before = long_ways(mesh)
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as direct:
            assert direct.stdout.readline() == "HELD\n"
            with held(mesh, to, 40, mesh.peer):
                # On a starved machine the word of who is in charge may have been too old for some.
                assert len(flows(mesh)) + long_ways(mesh) - before == 60
            direct.kill()


def log_line(mesh, *needles):
    """The access log's line of a connection that has all of these."""

    def found():
        lines = [*mesh.node.access_log(), *mesh.node.access_log("connection failed")]
        return [line for line in lines if all(n in line for n in needles)]

    return wait_for(found, f"a line with {needles}")[-1]


def test_the_access_log_says_of_each_what_became_of_it(mesh):
    port = mesh.outside.python(NAMED, mesh.web.ip, "8080").strip()
    line = log_line(mesh, f"src.addr={mesh.outside.ip}:{port}", f"dst.addr={mesh.web.ip}:8080")
    assert 'direction="inbound"' in line and "bytes_recv=5" in line and "bytes_sent=5" in line, line
    with held(mesh, mesh.web.ip6, 1) as client:
        mesh.deny_strangers()
        mesh.write()
        assert ends(client, 1) == ["ECONNRESET"]
    log_line(mesh, f"[{mesh.outside.ip6}]:", "policy_changed")
    wait_answer(mesh, REFUSE)
    assert mesh.outside.python(TRY, mesh.web.ip6, "8080").strip() == "ECONNREFUSED"
    log_line(mesh, f"[{mesh.outside.ip6}]:", "policy_denied", "demo/strict")


def test_a_new_proxy_judges_what_one_before_it_has_let_pass(mesh):
    """The one that let it pass has died before it heard of the change."""
    with held(mesh, mesh.web.ip, 5) as client:
        mesh.node.proxy.kill()
        mesh.deny_strangers()
        mesh.write()
        assert len(flows(mesh)) == 5 and client.poll() is None
        mesh.node.start_proxy()
        assert ends(client, 5) == ["ECONNRESET"] * 5
    wait_for(lambda: not flows(mesh), "no flows")


def test_the_way_is_switched_off_while_connections_live(mesh):
    """They go on, are told of, and are judged again when policies change; new ones go to the proxy."""
    log = AccessLog(mesh.node)
    with held(mesh, mesh.web.ip, 3) as client:
        mesh.node.agent.stop()
        mesh.node.start_agent("--direct-inbound", "false")
        try:
            wait_for(lambda: mesh.web.item()["direct"]["inbound"] == "switched_off", "it to be off")
            before = counters(mesh)
            assert mesh.outside.python(ONE_SHOT, mesh.web.ip, "8080", "hello") == "hello"
            assert counters(mesh)["direct_inbound_lookups"] == before["direct_inbound_lookups"]
            assert client.poll() is None and len(flows(mesh)) == 3
            mesh.deny_strangers()
            mesh.write()
            assert ends(client, 3) == ["ECONNRESET"] * 3
            log.wait("their end", way="direct", line=lambda text: "policy_changed" in text)
        finally:
            mesh.node.agent.stop()
            mesh.node.start_agent(*mesh.agent_options)
            mesh.web.wait_enrolled()


def test_what_comes_to_a_pod_that_has_left_is_nobodys_to_end(mesh):
    """It drains, for a tunnel of its lives on; what its policies would refuse is not the mesh's any more."""
    mesh.deny_strangers()
    mesh.write()
    wait_answer(mesh, REFUSE)
    labels = mesh.labels
    with held(mesh, mesh.web.ip, 1, mesh.peer):
        mesh.labels = {}
        mesh.write()
        try:
            wait_for(lambda: mesh.web.item()["state"] == "draining", "it to drain")
            with held(mesh, mesh.web.ip, 3) as client:
                for _ in range(20):
                    assert mesh.outside.python(ONE_SHOT, mesh.web.ip6, "8080", "hello") == "hello"
                assert client.poll() is None and len(flows(mesh)) == 3
            assert mesh.web.item()["state"] == "draining"
        finally:
            mesh.labels = labels
            mesh.write()
            mesh.web.wait_enrolled()
