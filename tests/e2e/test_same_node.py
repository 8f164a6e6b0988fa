# SPDX-License-Identifier: Apache-2.0
"""Two pods of one node without a tunnel (same-node: relay): who may talk, what is said of it, and how it ends are as
with a tunnel. Each scene is played in two meshes, one of either way, and what the logs and metrics say is compared."""

import base64
import contextlib
import json
import os
import re

import pytest
import yaml

from support.nodes.mesh import Mesh, MeshPod
from support.nodes.pod_programs import (
    ECHO,
    ONE_SHOT,
    REACH,
    SEND,
    SERVER_FIRST,
    SINK,
    STREAM,
    TOGETHER,
    ask,
    goes_on,
)
from support.revocation import Lists
from support.system import Failed, wait_for
from support.wire.access_log import AccessLog
from support.wire.segments import Wire

WAYS = ["hbone", "relay"]
CART, VIP = "demo/cart.demo.svc.cluster.local", "10.96.0.50"

# Reads its greeting, then closes with bytes of the client unread: a reset.
RESETS = """
import socket, struct, sys
s = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True)
print("READY", flush=True)
while True:
    c, a = s.accept()
    c.sendall(b"last words")
    c.recv(1)
    c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    c.close()
"""

# What it reads up to the end, and how that came.
TALK = """
import socket, sys
got = b""
try:
    s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20)
    s.sendall(b"hello")
    while True:
        d = s.recv(65536)
        if not d:
            print(got.decode(), "end")
            break
        got += d
except OSError as e:
    print(got.decode(), type(e).__name__)
"""

# So many connections, each asks and is answered.
ONE_BY_ONE = """
import socket, sys
n = 0
for _ in range(int(sys.argv[3])):
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20) as s:
        s.sendall(b"x")
        n += s.recv(1) == b"x"
print(n)
"""

# Stays open, and says how it ended.
STAY = """
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

# Accepts, and reads nothing.
DEAF = """
import socket, sys, time
s = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True)
print("READY", flush=True)
held = []
while True:
    held.append(s.accept())
"""

# Sends until nothing is taken any more.
PUSHES = """
import select, socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20)
s.setblocking(False)
while select.select([], [s], [], 1)[1]:
    s.send(bytes(65536))
print("FULL", flush=True)
s.setblocking(True)
s.recv(1)
"""

# Says what its PROXY header said, and what came behind it.
PROXIED = """
import socket, sys
s = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("READY", flush=True)
def read(c, n):
    got = b""
    while len(got) < n:
        got += c.recv(n - len(got))
    return got
while True:
    c, a = s.accept()
    head = read(c, 16)
    rest = read(c, int.from_bytes(head[14:16], "big"))
    addresses = [socket.inet_ntoa(rest[i:i + 4]) for i in (0, 4)]
    # In hexadecimal: bytes of a port that is chosen anew are as long each time.
    c.sendall(repr((a[0], head[:14].hex(), addresses, rest[10:12].hex(), rest[12:].hex(), read(c, 5))).encode())
    c.close()
"""


@contextlib.contextmanager
def mesh_of(way, **env):
    with Mesh(nodes=1, workers=2, proxy_env={"BRUMA_SAME_NODE": way, **env}) as m:
        m.services.append(
            {
                "name": "cart",
                "namespace": "demo",
                "hostname": "cart.demo.svc.cluster.local",
                "vips": [f"/{VIP}"],
                "ports": {7000: 8080},
            }
        )
        m.web, m.shop, m.other = m.pod("web"), m.pod("shop"), m.pod("other")
        m.proxied = m.pod("proxied")
        m.proxied.more = {"applicationTunnel": {"protocol": "PROXY", "port": 15088}}
        m.shop.services = {CART: {7000: 8080}}
        m.start()
        m.node = m.nodes[0]
        m.shop.server(ECHO, 8080)
        m.shop.server(SINK, 9000)
        m.shop.server(SERVER_FIRST, 2525)
        m.shop.server(RESETS, 6000)
        m.proxied.server(PROXIED, 15088)
        yield m


@pytest.fixture(scope="module")
def meshes():
    with mesh_of("hbone") as hbone, mesh_of("relay") as relay:
        yield {"hbone": hbone, "relay": relay}


@pytest.fixture
def mesh(meshes):
    return meshes["relay"]


def short(mesh, text):
    """The pods by their names, and ports that are chosen anew each time by a word."""
    for pod in mesh.pods:
        for ip in (pod.ip6, pod.ip):
            text = text.replace(f"[{ip}]", pod.name).replace(ip, pod.name)
    return text


def both_lines(mesh, log):
    """Of one connection of web, without what differs by design: where a tunnel goes to, and its authority."""

    def there():
        lines = [
            x
            for x in log.lines()
            if ("connection complete" in x["line"] or "connection failed" in x["line"])
            and short(mesh, x["src.addr"]).startswith("web:")
        ]
        return lines if {x["direction"] for x in lines} == {"inbound", "outbound"} else None

    said = {}
    for line in wait_for(there, f"both lines of {mesh.node.proxy_log}", log=mesh.node.proxy_log):
        fields = {k: short(mesh, v) for k, v in line.items() if k not in ("line", "duration")}
        to = fields.pop("dst.hbone_addr", None) or fields["dst.addr"]
        fields["dst.addr"] = to
        fields["src.addr"] = fields["src.addr"].rsplit(":", 1)[0]
        fields["level"] = line["line"].split("\t")[1]
        said[fields.pop("direction")] = fields
    return said


def series(mesh):
    """The traffic metrics by labels, without the one that differs by design."""
    found = {}
    for line in mesh.node.metrics().splitlines():
        if line.startswith("istio_tcp_"):
            name, value = line.rsplit(" ", 1)
            name = re.sub(r'connection_security_policy="\w+"', "", short(mesh, name))
            found[name] = found.get(name, 0) + float(value)
    return found


def grown(before, after):
    return {k: v - before.get(k, 0) for k, v in after.items() if v != before.get(k, 0)}


def played(mesh, scene):
    """What the client saw, both lines, and what the metrics have counted."""
    log, before = AccessLog(mesh.node), series(mesh)
    saw = scene(mesh)
    lines = both_lines(mesh, log)
    wait_for(
        lambda: sum(v for k, v in grown(before, series(mesh)).items() if "connections_closed" in k) >= 2,
        "both connections to be counted as closed",
    )
    return saw, lines, grown(before, series(mesh))


SCENES = {
    "echo-v4": lambda m: m.web.python(ONE_SHOT, m.shop.ip, 8080, "ping"),
    "echo-v6": lambda m: m.web.python(ONE_SHOT, m.shop.ip6, 8080, "ping"),
    "service": lambda m: m.web.python(ONE_SHOT, VIP, 7000, "ping"),
    "server-first": lambda m: m.web.python(TALK, m.shop.ip, 2525),
    "bulk": lambda m: m.web.python(SEND, m.shop.ip, 9000, 32),
    "reset-by-the-application": lambda m: m.web.python(TALK, m.shop.ip, 6000),
    "proxy-header": lambda m: short(m, m.web.python(TALK, m.proxied.ip, 8080)),
    "nobody-listens": lambda m: m.web.python(TALK, m.shop.ip, 8099),
}


@pytest.mark.parametrize("scene", SCENES)
def test_both_ways_look_the_same(meshes, scene):
    seen = {way: played(meshes[way], SCENES[scene]) for way in WAYS}
    assert seen["relay"] == seen["hbone"]
    for way in WAYS:
        m = meshes[way]
        for line in seen[way][1].values():
            assert line["src.identity"] == m.web.identity and line["dst.identity"]


def ways(m):
    """How many connections have set out without a tunnel ("relay"), and with one, by the reason."""
    found = re.findall(
        r'^bruma_same_node_(relay|tunnell)ed_connections_total(?:{reason="(\w+)"})? (\d+)',
        m.node.metrics(),
        re.M,
    )
    return {reason or way: int(n) for way, reason, n in found}


def explained(m, client, to, port=8080):
    (way,) = [
        c["detail"]
        for c in json.loads(m.node.ctl("explain", client.full_name, f"{to}:{port}", "-o", "json").stdout)
        if c["check"] == "way"
    ]
    return way


def test_what_differs_by_design(meshes):
    """The tunnel's address and authority, and the word of connection_security_policy."""
    for way, m in meshes.items():
        log, before = AccessLog(m.node), ways(m)
        assert m.web.python(ONE_SHOT, m.shop.ip, 8080, "ping") == "ping"
        for direction in ("inbound", "outbound"):
            line = log.wait("the connection", direction=direction)
            assert ("dst.hbone_addr" in line) == (way == "hbone")
            assert line["dst.addr"] == f"{m.shop.ip}:{15008 if way == 'hbone' else 8080}"
        said = set(
            re.findall(r'istio_tcp_connections_opened.*connection_security_policy="(\w+)"', m.node.metrics())
        )
        assert said == {"mutual_tls" if way == "hbone" else "unknown"}
        assert grown(before, ways(m)) == {"switched_off" if way == "hbone" else "relay": 1}
        assert "relayed by the proxy" in explained(m, m.web, m.shop.ip) or way == "hbone"
        assert (
            "same-node of the proxy or the agent says hbone" in explained(m, m.web, m.shop.ip)
            or way == "relay"
        )


def test_a_pod_that_reaches_itself_takes_a_tunnel(mesh):
    before = ways(mesh)
    assert mesh.shop.python(ONE_SHOT, VIP, 7000, "ping") == "ping"
    assert grown(before, ways(mesh)) == {"itself": 1}


# ---- who may talk, and what changes of it do to live connections ----


@contextlib.contextmanager
def denied(m, *rules):
    m.deny(*rules)
    try:
        written(m)
        yield
    finally:
        m.policies.clear()
        written(m)


def written(m):
    """The mesh file, until the proxy knows its policies."""
    m.write()
    wait_for(lambda: len(m.node.config_dump()["policies"]) == len(m.policies), "the policies")


def denial(m):
    with denied(m, m.web.rule(destinationPorts=[8080])):
        assert m.other.python(ONE_SHOT, m.shop.ip, 9000, "x"), "another identity, another port"
        log = AccessLog(m.node)
        saw = m.web.python(TALK, m.shop.ip, 8080)
        return saw, both_lines(m, log)


def cut_by_policy(m):
    kept = stay(m)
    log = AccessLog(m.node)
    with denied(m, m.web.rule(destinationPorts=[8080])):
        kept.wait_for_text("ENDED")
        return kept.text().split()[-1], both_lines(m, log)


def denial_by_address(m):
    """The client's address is the pod's, whatever its socket says."""
    with denied(m, [[{"sourceIps": [m.web.ip], "destinationPorts": [8080]}]]):
        log = AccessLog(m.node)
        saw = m.web.python(TALK, m.shop.ip, 8080)
        return saw, both_lines(m, log), m.other.python(ONE_SHOT, m.shop.ip, 8080, "ping")


def own_ports(m):
    """Of the proxy's, in the other pod."""
    said = []
    for port in (15001, 15006, 15008):
        log = AccessLog(m.node)
        said.append((m.web.python(TALK, m.shop.ip, port), both_lines(m, log)))
    return said


def stay(m, pod=None, ip=None):
    p = (pod or m.web).popen("/usr/bin/python3", "-u", "-c", STAY, ip or m.shop.ip, 8080)
    p.wait_for_text("OPEN")
    return p


@pytest.mark.parametrize("scene", [denial, cut_by_policy, denial_by_address, own_ports])
def test_both_ways_refuse_the_same(meshes, scene):
    seen = {way: scene(meshes[way]) for way in WAYS}
    assert seen["relay"] == seen["hbone"]
    assert "error" in str(seen["relay"])


def test_brumactl_shows_both_sides(mesh):
    kept = stay(mesh)
    shown = json.loads(mesh.node.ctl("connections", "-o", "json").stdout)
    for pod, direction in ((mesh.web, "outbound"), (mesh.shop, "inbound")):
        (one,) = shown[pod.uid]["connections"][direction]
        assert one["protocol"] == "RELAY" and one["actualDst"] == f"{mesh.shop.ip}:8080"
        assert (one["srcIdentity"], one["dstIdentity"]) == (mesh.web.identity, mesh.shop.identity)
    assert re.search(rf"RELAY +proxy +{mesh.web.identity}", mesh.node.ctl("connections").stdout)
    kept.kill()


def test_nothing_of_it_is_on_the_pods_devices(mesh):
    with Wire(mesh.node) as wire:
        assert mesh.web.python(ONE_SHOT, mesh.shop.ip, 8080, "within the node") == "within the node"
        assert mesh.web.python(ONE_SHOT, mesh.shop.ip6, 8080, "within the node") == "within the node"
        assert not wire.between([mesh.web, mesh.shop])


# ---- many, and much ----


def test_a_thousand_at_once(mesh):
    assert mesh.web.python(TOGETHER, mesh.shop.ip, 1000).strip() == "1000"


def test_much_both_ways_at_once(mesh):
    senders = [mesh.web.popen("/usr/bin/python3", "-c", SEND, ip, 9000, 64) for ip in mesh.shop.ips * 2]
    for p in senders:
        assert p.wait(60) == 0 and p.text().strip() == "same"


def test_a_reader_that_does_not_read_holds_up_its_own_connection_alone(mesh):
    deaf = mesh.shop.server(DEAF, 7070)
    p = mesh.web.popen("/usr/bin/python3", "-u", "-c", PUSHES, mesh.shop.ip, 7070)
    p.wait_for_text("FULL")
    assert mesh.web.python(ONE_SHOT, mesh.shop.ip, 8080, "ping") == "ping"
    assert p.alive()
    p.kill()
    deaf.kill()


# ---- pods that come, go and are somewhere else ----


def test_a_pod_that_goes_takes_its_connections_along(mesh):
    guest = mesh.pod("guest")
    mesh.tell()
    guest.enroll()
    guest.wait_enrolled()
    guest.server(ECHO, 8080)
    wait_for(lambda: relayed(mesh, lambda: mesh.web.python(ONE_SHOT, guest.ip, 8080, "x")), "the relay")
    from_it, to_it = stay(mesh, guest), stay(mesh, ip=guest.ip)
    log = AccessLog(mesh.node)
    guest.cni("DEL")
    for p in (from_it, to_it):
        p.wait_for_text("ENDED")
    for reason in ("pod_removed", "peer_reset"):
        for direction in ("inbound", "outbound"):
            log.wait(reason, direction=direction, error=lambda e, r=reason: (e or "").startswith(r))


def test_a_pod_that_ends_is_left_out_of_its_services(mesh):
    guest = mesh.pod("guest2")
    guest.services = mesh.shop.services
    mesh.tell()
    guest.enroll()
    guest.wait_enrolled()
    guest.server(ECHO, 8080)

    def served():
        before = guest.processes[0].text().count("FROM ")
        assert mesh.web.python(ONE_BY_ONE, VIP, 7000, 16).strip() == "16"
        return guest.processes[0].text().count("FROM ") - before

    try:
        wait_for(served, "its share")
        kept = stay(mesh, ip=guest.ip)
        assert mesh.node.ctl("end", guest.full_name).stdout == ""
        wait_for(lambda: not served(), "the other to serve all")
        assert "ENDED" not in kept.text(), "what is open is served on"
        before = ways(mesh)
        assert mesh.web.python(ONE_SHOT, guest.ip, 8080, "ping") == "ping", "who asks for it alone"
        assert grown(before, ways(mesh)) == {"ending": 1}
        assert "one of the pods ends" in explained(mesh, mesh.web, guest.ip)
        kept.kill()
    finally:
        guest.remove()
        mesh.write()


def test_a_replaced_proxy_keeps_its_relays_and_the_next_one_has_the_new(mesh):
    first = mesh.node.proxy
    kept = mesh.web.popen("/usr/bin/python3", "-u", "-c", STREAM, mesh.shop.ip)
    goes_on(kept, "the stream")
    quiet = dict.fromkeys(("BRUMA_ADMIN_PORT", "BRUMA_METRICS_PORT", "BRUMA_READY_PORT"), "0")
    mesh.node.start_proxy(wait=False, CONNECTION_TERMINATION_DEADLINE="600s", **quiet)
    wait_for(
        lambda: (
            {p["pid"]: p["state"] for p in mesh.node.status()["proxies"]}.get(mesh.node.proxy.pid)
            == "serving"
        ),
        "the next one to serve",
    )
    log = AccessLog(mesh.node)
    goes_on(kept, "the stream through the first")
    assert mesh.web.python(ONE_SHOT, mesh.shop.ip, 8080, "ping") == "ping"
    assert "dst.hbone_addr" not in log.wait("a new connection", direction="outbound")
    kept.kill()

    def ended():
        if first.alive():  # what it waits for; after 30 seconds the agent would have it cut that
            live = [w["connections"] for w in mesh.node.config_dump()["workloadState"].values()]
            raise Failed(f"{mesh.node.status()['proxies']}: {live}")
        return True

    wait_for(ended, "the first to end once it is idle", timeout=25, log=mesh.node.proxy_log)
    mesh.node.start_proxy()


def relayed(m, talk):
    log = AccessLog(m.node)
    talk()
    return "dst.hbone_addr" not in log.wait("the connection", direction="outbound")


def test_either_pod_may_have_it_the_long_way(mesh):
    def annotate(name, **annotations):
        mesh.write()
        with open(mesh.file) as f:
            content = yaml.safe_load(f)
        for w in content["workloads"]:
            if w["name"] == name:
                w["annotations"] = annotations
        with open(mesh.file + ".new", "w") as f:
            yaml.safe_dump(content, f)
        os.rename(mesh.file + ".new", mesh.file)

    def talk():
        assert mesh.web.python(ONE_SHOT, mesh.shop.ip, 8080, "ping") == "ping"

    for name in ("web", "shop"):
        annotate(name, **{"bruma.io/same-node": "hbone"})
        wait_for(lambda: not relayed(mesh, talk), f"the tunnel, for {name}")
        before = ways(mesh)
        talk()
        assert grown(before, ways(mesh)) == {"switched_off_for_pod": 1}
        assert "an annotation of one of the pods" in explained(mesh, mesh.web, mesh.shop.ip)
        annotate(name)
        wait_for(lambda: relayed(mesh, talk), "the relay again")


def test_where_an_address_has_two_pods_there_is_a_tunnel(mesh):
    """The one before has gone, and nobody has said so: it is not reached, nor is anybody in its place."""

    class Twin(MeshPod):
        outside = True  # the mesh knows one workload

        def create(self):
            self.ip, self.ip6 = mesh.shop.ip, mesh.shop.ip6
            super().create()

    twin = mesh.pod("twin", kind=Twin)
    twin.cni("ADD")
    twin.wait_enrolled()
    twin.server(ECHO, 8080)
    try:
        before = ways(mesh)
        assert not relayed(mesh, lambda: mesh.web.python(REACH, mesh.shop.ip))
        assert grown(before, ways(mesh)) == {"address_in_doubt": 1}
        assert "in doubt whose address" in explained(mesh, mesh.web, mesh.shop.ip)
        assert "FROM" not in twin.processes[0].text(), "it is nobody the mesh knows there"
    finally:
        twin.remove()
    wait_for(lambda: relayed(mesh, lambda: mesh.web.python(REACH, mesh.shop.ip)), "the relay again")


def test_an_address_of_anothers_is_not_the_clients(mesh):
    """Root of the pod takes the address of another pod, and connects from it: the server and its policies go by
    the pod."""
    mesh.web.run("ip", "addr", "add", f"{mesh.other.ip}/32", "dev", "lo")
    try:
        log = AccessLog(mesh.node)
        echo = mesh.shop.processes[0]
        assert ask(mesh.web, mesh.shop.ip, source=mesh.other.ip).startswith("hello")
        line = log.wait("it", direction="inbound")
        assert line["src.addr"].startswith(f"{mesh.web.ip}:") and line["src.identity"] == mesh.web.identity
        assert f"FROM ::ffff:{mesh.web.ip} " in echo.text().splitlines()[-1]
    finally:
        mesh.web.run("ip", "addr", "del", f"{mesh.other.ip}/32", "dev", "lo")


def test_a_service_whose_endpoint_here_refuses_is_served_by_another(mesh):
    """Nobody listens at the first choice: the connection goes to the pod of this node that does."""
    mesh.other.server(ECHO, 8090)
    mesh.services.append(
        {
            "name": "both",
            "namespace": "demo",
            "hostname": "both.demo.svc.cluster.local",
            "vips": ["/10.96.0.51"],
            "ports": {7000: 8090},
        }
    )
    mesh.other.services = {"demo/both.demo.svc.cluster.local": {7000: 8090}}
    mesh.shop.services = {**mesh.shop.services, **mesh.other.services}
    mesh.write()
    wait_for(lambda: "both" in str(mesh.node.config_dump()["services"]), "the service")
    log = AccessLog(mesh.node)

    def retried():
        assert mesh.web.python(ONE_SHOT, "10.96.0.51", 7000, "ping") == "ping"
        return [x for x in log.lines() if x.get("retries") == "1"]

    line = wait_for(retried, "a connection that was tried twice")[0]
    assert line["retry_reason"] == "connect_rejected" and line["dst.workload"] == "other"


# ---- certificates ----


def test_a_revoked_certificate_ends_it(tmp_path):
    path = str(tmp_path / "crl.pem")
    with mesh_of("relay", CRL_PATH=path, BRUMA_CRL_REQUIRED="false") as m:
        lists = Lists(m, path)
        kept = stay(m)
        other = stay(m, m.other)
        held = f"{tmp_path}/web.pem"
        for c in m.node.config_dump()["certificates"]:
            if c["identity"] == m.web.identity:
                with open(held, "w") as f:
                    f.write(base64.b64decode(c["certChain"][0]["pem"]).decode())
        log = AccessLog(m.node)
        lists.revoke(held)
        kept.wait_for_text("ENDED")
        line = log.wait("the cut", direction="inbound", src__identity=m.web.identity)
        assert line["error"].startswith("certificate_revoked")
        assert other.alive() and "ENDED" not in other.text()
        before = ways(m)
        m.web.python(TALK, m.shop.ip, 8080)
        assert grown(before, ways(m)) == {"not_vouched": 1}
