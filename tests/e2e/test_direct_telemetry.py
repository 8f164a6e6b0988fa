# SPDX-License-Identifier: Apache-2.0
"""What is said of connections that go past the proxy: the same as of those that it carries. Two nodes, of which one lets what it
can go directly; the same connections are made from and to both, and log lines and metrics are compared."""

import json
import re
import signal
import socket

import pytest

from support import pages
from support.nodes.direct import LONG, WAYS
from support.nodes.mesh import Mesh
from support.system import wait_for
from support.wire.access_log import AccessLog

# "SEND RECEIVE END\n" and so many bytes: answers with so many, and ends first, last, or with a reset, once everything has been
# acknowledged: of bytes that a reset has overtaken both ways have another opinion.
PEER = """
import fcntl, socket, struct, sys, termios, threading, time
s = socket.socket(socket.AF_INET6)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("::", int(sys.argv[1])))
s.listen(512)
print("READY", flush=True)
def serve(c):
    f = c.makefile("rb", 0)
    wanted, answer, end = f.readline().split()
    left = int(wanted)
    while left:
        left -= len(c.recv(min(left, 65536)))
    c.sendall(bytes(int(answer)))
    if end == b"reset":
        c.recv(1)
        c.sendall(b"?")
        while struct.unpack("i", fcntl.ioctl(c, termios.TIOCOUTQ, bytes(4)))[0]:
            time.sleep(0.001)
        c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    elif end == b"last":
        while c.recv(65536):
            pass
    c.close()
def served(c):
    try:
        serve(c)
    except OSError:
        pass
while True:
    c, a = s.accept()
    threading.Thread(target=served, args=(c,), daemon=True).start()
"""

# Says what became of it. One that is held waits for a line on stdin before it ends; "more" is so many bytes in between.
CLIENT = """
import socket, struct, sys
address, port, sent, received, end = sys.argv[1:6]
held = len(sys.argv) > 6
peer = {"first": "last", "last": "first", "half": "last", "reset": "last", "peer-reset": "reset"}[end]
try:
    s = socket.create_connection((address, int(port)), timeout=30)
    s.sendall(f"{sent} {received} {peer}\\n".encode() + bytes(int(sent)))
    if end == "half":
        s.shutdown(socket.SHUT_WR)
    left = int(received)
    while left:
        got = s.recv(min(left, 65536))
        if not got:
            raise ConnectionResetError
        left -= len(got)
    if held:
        print("HELD", flush=True)
        sys.stdin.readline()
    if end == "peer-reset":
        s.sendall(b"!")
        while s.recv(1):
            pass
    elif end in ("last", "half"):
        assert s.recv(1) == b""
    elif end == "reset":
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()
    print("done")
except OSError as e:
    print(type(e).__name__)
"""


def wait_direct(node, outside="none", inbound="pass"):
    """Until what the node's proxy has told the kernel of web is so."""

    def there():
        s = socket.socket(socket.AF_UNIX)
        try:
            s.connect(f"{node.run_dir}/proxy.sock")
            page = json.loads(pages.get(s, "/direct")[1])
        except (OSError, ValueError, IndexError):
            return None
        said = [(p["outside"], p["inbound"]) for p in page["pods"] if p["pod"].endswith(node.web.name)]
        return page["inCharge"] and said == [(outside, inbound)]

    return wait_for(there, f"the proxy of {node.name} to be in charge", log=node.proxy_log)


@pytest.fixture(scope="module")
def mesh():
    with Mesh() as m:
        for i, node in enumerate(m.nodes):
            node.web = m.pod(f"web{i}", node=i)
            node.away = m.pod(f"away{i}", node=i, namespace="outside")
            node.away.outside = True
            node.plain = m.pod(f"plain{i}", node=i, namespace="other")
            node.plain.more = {"protocol": "TCP"}
            node.peer = m.pod(f"peer{i}", node=i)
        m.write()
        for i, node in enumerate(m.nodes):
            node.start_agent(*(WAYS if i else LONG), "--same-node", "kernel" if i else "hbone")
            node.start_proxy(RUST_LOG="info,access=debug", BRUMA_SAME_NODE="relay" if i else "hbone")
            node.web.enroll()
            node.peer.enroll()
            node.peer.server(PEER, "8080")
            node.web.server(PEER, "8080")
            node.away.server(PEER, "8080")
            node.plain.server(PEER, "8080")
        m.long, m.direct = m.nodes
        wait_direct(m.direct)
        yield m


def told(node, log, **fields):
    return log.wait("the connection", **fields)


def plain(line, node):
    """The line without what is another one each time: times, ports that the kernel chose, names of this node."""
    line = line.split("\t", 1)[1]
    line = re.sub(r'duration="\d+ms"', "duration", line)
    for pod in (node.web, node.away, node.plain, node.peer):
        line = line.replace(pod.ip6, f"{pod.name}-6").replace(pod.ip, f"{pod.name}-4")
    line = re.sub(r"(web|away|plain|peer)\d", r"\1", line)
    return re.sub(r"(-[46]\]?):(?!8080|8081)\d+", r"\1:PORT", line)


def series(node):
    """Of istio_tcp_* and bruma_failures, without names of this node; {name and labels: value}."""
    found = {}
    for line in node.metrics().splitlines():
        if line.startswith(("istio_tcp_", "bruma_failures")):
            name, value = line.rsplit(" ", 1)
            found[re.sub(r"(web|away|plain|peer)\d", r"\1", name)] = int(value)
    return found


def more(before, after):
    return {name: n - before.get(name, 0) for name, n in after.items() if n != before.get(name, 0)}


def settled(node, before, ended):
    """What is more in the metrics, once so many connections more have ended."""

    def there():
        now = more(before, series(node))
        closed = sum(n for name, n in now.items() if name.startswith("istio_tcp_connections_closed"))
        return now if closed == ended else None

    return wait_for(there, f"{ended} connections in the metrics of {node.name}", log=node.proxy_log)


# from whom, to whom and to which port
OUTSIDE = ("web", "away", 8080)
PLAIN = ("web", "plain", 8080)
INBOUND = ("away", "web", 8080)


def both_ways(mesh, ways, family, sent, received, end):
    """Made on both nodes: [(what the client saw, lines, metrics)], of the long way first."""
    results = []
    for node in (mesh.long, mesh.direct):
        log, before = AccessLog(node), series(node)
        client, server = getattr(node, ways[0]), getattr(node, ways[1])
        saw = client.python(CLIENT, server.ips[family], ways[2], sent, received, end).split()
        metrics = settled(node, before, 1)
        lines = wait_for(
            lambda: log.lines() if len(log.lines()) >= 2 else None, "two lines", log=node.proxy_log
        )
        assert all(("way" in x) == (node is mesh.direct) for x in lines), lines
        results.append((saw, [plain(x["line"], node).replace(' way="direct"', "") for x in lines], metrics))
    return results


@pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])
@pytest.mark.parametrize("ways", [OUTSIDE, PLAIN, INBOUND], ids=["outside", "plain-workload", "inbound"])
@pytest.mark.parametrize("end", ["first", "last", "half", "reset", "peer-reset"])
def test_lines_and_metrics_are_those_of_the_long_way(mesh, ways, family, end):
    """Right to the byte, however it ends."""
    long, direct = both_ways(mesh, ways, family, 100_001, 70_003, end)
    assert direct == long
    assert any("bytes" in x for x in direct[1])


SAME_NODE = ("web", "peer", 8080)


def without_tunnel(text):
    """Without what is said of a tunnel alone: its own port, and that it is one."""
    text = re.sub(r"dst\.addr=\S+ dst\.hbone_addr=", "dst.addr=", text)
    return re.sub(r'connection_security_policy="(mutual_tls|unknown)"', "connection_security_policy", text)


@pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])
@pytest.mark.parametrize("end", ["first", "last", "half", "reset", "peer-reset"])
def test_lines_and_metrics_of_two_pods_of_one_node_are_those_of_a_tunnel(mesh, family, end):
    """In the kernel, right to the byte. The first connections are relayed; what is compared is one that was not."""

    def once(node):
        log, before = AccessLog(node), series(node)
        saw = node.web.python(CLIENT, node.peer.ips[family], 8080, 100_001, 70_003, end).split()
        wait_for(lambda: len(log.lines()) >= 4, "all its lines", log=node.proxy_log)
        if node is mesh.direct and not all("way" in x for x in log.lines()):
            return None
        metrics = settled(node, before, 2)
        lines = sorted(
            without_tunnel(plain(x["line"], node).replace(' way="direct"', "")) for x in log.lines()
        )
        return saw, lines, {without_tunnel(k): n for k, n in metrics.items()}

    direct = wait_for(lambda: once(mesh.direct), "one to stay in the kernel", log=mesh.direct.proxy_log)
    assert direct == once(mesh.long)


@pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])
def test_a_connect_that_is_refused(mesh, family):
    """The application sees it at once; by the long way its connection is reset."""
    long, direct = both_ways(mesh, ("web", "away", 8081), family, 1, 1, "first")
    assert direct[0] == ["ConnectionRefusedError"]
    assert direct[1:] == long[1:]
    assert "connect_refused: Connection refused" in direct[1][1]


def test_what_policies_refuse(mesh):
    mesh.deny_strangers()
    mesh.write()
    try:
        wait_for(lambda: "demo/strict" in mesh.long.ctl("policy").stdout, "the policy")
        wait_direct(mesh.direct, inbound="refuse")
        long, direct = both_ways(mesh, INBOUND, 0, 1, 1, "first")
        assert direct[1:] == long[1:]
        assert "policy_denied" in direct[1][1] and "demo/strict" in direct[1][1]
    finally:
        mesh.policies.clear()
        mesh.write()
        wait_for(lambda: "demo/strict" not in mesh.long.ctl("policy").stdout, "the policy to be gone")
        wait_direct(mesh.direct)


MANY = """
import socket, sys
for i in range(int(sys.argv[3])):
    s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=30)
    s.sendall(f"0 {i} first\\n".encode())
    while s.recv(9999): pass
    s.close()
    if i == 100:
        print("GOES", flush=True)
"""


# ---- while it lives ----


class Held:
    """A connection of web to away that carries some bytes, and waits."""

    def __init__(self, node, sent=1000, received=2000, end="first"):
        self.node = node
        self.p = node.web.pipe(
            "/usr/bin/python3", "-c", CLIENT, node.away.ip, "8080", str(sent), str(received), end, "held",
            stdin=-1, stdout=-1, text=True,
        )  # fmt: skip
        assert self.p.stdout.readline() == "HELD\n"
        self.head = len(f"{sent} {received} last\n")

    def end(self):
        assert self.p.communicate("\n", timeout=30)[0] == "done\n"


def total(node, family):
    """Of the series of web to outside."""
    found = re.findall(
        rf'^{family}\{{reporter="source",source_workload="{node.web.name}".*\}} (\d+)$', node.metrics(), re.M
    )
    return sum(map(int, found))


def test_bytes_of_one_that_lives_are_in_the_metrics_and_no_byte_is_counted_twice(mesh):
    node, log = mesh.direct, AccessLog(mesh.direct)
    sent, received = total(node, "istio_tcp_received_bytes_total"), total(node, "istio_tcp_sent_bytes_total")
    held = Held(node)
    wait_for(
        lambda: total(node, "istio_tcp_received_bytes_total") == sent + 1000 + held.head, "the bytes there"
    )
    assert total(node, "istio_tcp_sent_bytes_total") == received + 2000
    held.end()
    told(node, log, bytes_sent=str(1000 + held.head), bytes_recv="2000", way="direct")
    wait_for(
        lambda: total(node, "istio_tcp_received_bytes_total") == sent + 1000 + held.head, "the bytes there"
    )
    assert total(node, "istio_tcp_sent_bytes_total") == received + 2000


def test_those_that_live_are_listed(mesh):
    node = mesh.direct
    held = Held(node)
    try:
        # the kernel is asked for bytes now and then
        rows = lambda: [x for x in node.ctl("connections").stdout.splitlines() if f"{node.away.ip}:8080" in x]
        row = wait_for(
            lambda: [x for x in rows() if x.split()[-2:] == [str(1000 + held.head), "2000"]],
            "the row",
        )
        assert len(row) == len(rows()) == 1 and re.search(r"\bdirect\b", row[0]) and "demo/web1" in row[0], (
            row
        )
    finally:
        held.end()
    wait_for(lambda: f"{node.away.ip}:8080" not in node.ctl("connections").stdout, "the row to be gone")


# ---- readers ----


def test_an_agent_that_is_started_anew_changes_nothing(mesh):
    """It gives the same maps again."""
    node, log = mesh.direct, AccessLog(mesh.direct)
    held = Held(node)
    wait_for(lambda: total(node, "istio_tcp_received_bytes_total") > 0, "the bytes")
    node.agent.kill()
    node.start_agent(*WAYS)
    wait_for(lambda: node.proxy.text().count("connected to the agent") >= 2, "the proxy to be back")
    wait_direct(node)
    held.end()
    told(node, log, bytes_sent=str(1000 + held.head), bytes_recv="2000", way="direct")
    assert node.proxy.text().count("reads events of direct connections") == 1
    assert "lets go of events" not in node.proxy.text()


def test_connections_that_outlive_a_proxy_are_closed_by_the_next_one(mesh):
    """It was killed, and one of them ends while there is none."""
    node, log = mesh.direct, AccessLog(mesh.direct)
    lives, ends = Held(node), Held(node, sent=5, received=7)
    wait_for(
        lambda: sum("connection opened" in x["line"] for x in log.lines()) == 2,
        "both to be opened",
        log=node.proxy_log,
    )
    node.metrics()  # are made between two turns of the reader: it is through with what the lines are of
    node.proxy.kill(signal.SIGKILL)
    ends.end()
    log = AccessLog(node)
    node.start_proxy(RUST_LOG="info,access=debug")
    told(node, log, bytes_sent=str(5 + ends.head), bytes_recv="7", way="direct")
    wait_direct(node)
    lives.end()
    told(node, log, bytes_sent=str(1000 + lives.head), bytes_recv="2000", way="direct")
    assert not [x for x in log.lines() if "connection opened" in x["line"]]
    metrics = series(node)
    assert sum(n for name, n in metrics.items() if name.startswith("istio_tcp_connections_closed")) == 2
    assert sum(n for name, n in metrics.items() if name.startswith("istio_tcp_connections_opened")) == 0
    assert metrics['istio_tcp_sockets_open{reporter="source"}'] == 0


def test_in_an_upgrade_each_event_is_read_once(mesh):
    """A new proxy takes over while connections are made all the time: each has one line at its end, of one of both. What lives
    meanwhile is listed by the new one, and closed by it. The last test: the new proxy has no pages."""
    node, held = mesh.direct, Held(mesh.direct)
    log, before = AccessLog(node), node.proxy
    p = node.web.popen("/usr/bin/python3", "-c", MANY, node.away.ip, "8080", "1000")
    p.wait_for_text("GOES")
    ports = dict.fromkeys(("BRUMA_ADMIN_PORT", "BRUMA_METRICS_PORT", "BRUMA_READY_PORT"), "0")
    node.start_proxy(wait=False, RUST_LOG="info,access=debug", **ports)
    before.wait_for_text("lets go of events of direct connections")
    node.proxy.wait_for_text("reads events of direct connections")
    assert p.wait(60) == 0
    held.end()
    ended = lambda: [int(x["bytes_recv"]) for x in log.lines() if "bytes_sent" in x]
    wait_for(lambda: len(ended()) >= 1001, "a line for each", log=node.proxy_log)
    assert sorted(ended()) == [*range(1000), 2000]
    told(node, log, bytes_sent=str(1000 + held.head), bytes_recv="2000", way="direct")
