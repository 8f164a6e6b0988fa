# SPDX-License-Identifier: Apache-2.0
"""Pods of the mesh that want out of it, or in as somebody else, by devices, marks, the mesh's own ports and by taking
their network apart. Sockets are in test_hostile.py."""

import time

import pytest

from support.nodes.hostile import KERNEL, RELAY, counted, hostile_mesh, inbound, run, watched
from support.nodes.kernel_scene import mac
from support.nodes.pod_programs import ECHO, ONE_SHOT, PRELUDE, TRY
from support.system import wait_for
from support.wire.frames import ACK, Card, segment, whole
from support.wire.segments import HBONE

each_family = pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])


@pytest.fixture(scope="module", params=[RELAY, KERNEL])
def mesh(request):
    with hostile_mesh(request.param) as m:
        yield m


@pytest.fixture(autouse=True)
def oracle(mesh):
    with watched(mesh):
        yield


@each_family
def test_the_oracle_sees_what_was_sent_past_all_hooks(mesh, family):
    """By the bridge, and not in the way that the kernel may carry what is between two pods."""
    source, to = (mesh.rogue.ips[family], 5555), (mesh.near.ips[family], 5556)
    with Card(mesh.rogue) as card:
        data = segment(source, to, ACK, 1, 1, b"by the bridge")
        card.send(mac(mesh.near), whole(source[0], to[0], data))
    wait_for(lambda: mesh.wire.holds(b"by the bridge"), "it to be seen")
    assert mesh.wire.plain(mesh.members)
    mesh.wire.forget()


@each_family
def test_bound_to_a_device_first(mesh, family):
    code = """
s = tcp(); s.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, b"eth0"); s.connect((TO, PORT)); print(echo(s))
s = tcp(); s.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, b"lo"); s.connect((TO, PORT)); print(echo(s))
"""
    assert run(mesh.web, code, mesh.shop.ips[family], "by device") == "by device\nby device"


@each_family
def test_bound_to_a_device_first_by_an_ordinary_user(mesh, family):
    """Its socket cannot be moved to lo, so it is refused, and that is counted by name."""
    code = """
os.setuid(65534)
s = tcp(); s.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, b"eth0"); print(attempt(s, (TO, PORT)))
s = tcp(); s.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, b"eth0"); print(attempt(s, (sys.argv[4], PORT)))
"""
    own = mesh.web.ips[family]
    refused = counted(mesh, "rebind_failed")
    # Without an answer of the proxy: one to a port that nobody has asked for does not stay in the kernel.
    assert run(mesh.web, code, mesh.shop.ips[family], "x", 8099 if mesh.kernel else 8080, own).split() == [
        "ECONNREFUSED",
        "ECONNREFUSED" if mesh.kernel else "connected",
    ]
    assert counted(mesh, "rebind_failed") == refused + 1


@each_family
@pytest.mark.parametrize("when", ["in progress", "established"])
def test_bound_to_a_device_later_by_an_ordinary_user(mesh, family, when):
    """Anybody may bind a socket that is not bound yet; a captured one must not be moved out of the pod like
    that."""
    code = """
os.setuid(65534)
s = tcp()
if sys.argv[4] == "in progress":
    s.setblocking(False); s.connect_ex((TO, PORT))
else:
    s.connect((TO, PORT)); assert echo(s, b"first") == "first"
try:
    s.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, b"eth0"); print("moved")
except PermissionError:
    print("refused")
s.settimeout(5)
if sys.argv[4] == "in progress":
    p = select.poll(); p.register(s, select.POLLOUT); p.poll(5000)
print(echo(s))
"""
    assert run(mesh.web, code, mesh.shop.ips[family], "elsewhere", 8080, when) == "refused\nelsewhere"


@each_family
@pytest.mark.parametrize("mark", [0x111, 0x539, 0x222, 0x1111], ids=hex)
def test_own_mark_first(mesh, family, mark):
    code = """
s = tcp(); s.setsockopt(socket.SOL_SOCKET, SO_MARK, int(sys.argv[4])); s.connect((TO, PORT)); print(echo(s))
"""
    for _ in range(2):  # the first one may lead to another way
        assert run(mesh.rogue, code, mesh.shop.ips[family], "marked", 8080, mark) == "marked"
    assert run(mesh.rogue, code, mesh.outside.ips[family], "marked", 8080, mark) == "marked"
    assert run(mesh.rogue, code, mesh.rogue.ips[family], "marked self", 8080, mark) == "marked self"


@each_family
@pytest.mark.parametrize("mark", [0, 0x539], ids=hex)
def test_own_mark_later(mesh, family, mark):
    """Whether it still finds the proxy or not, it finds nobody else."""
    code = """
s = tcp(); s.connect((TO, PORT)); assert echo(s, b"first") == "first"
s.setsockopt(socket.SOL_SOCKET, SO_MARK, int(sys.argv[4]))
s.settimeout(1)
print(echo(s))
"""
    run(mesh.rogue, code, mesh.shop.ips[family], "unmarked", 8080, mark)
    assert not mesh.wire.holds(b"unmarked")


@each_family
def test_the_address_of_somebody_else(mesh, family):
    """Who a connection is of is told by the namespace it was made in, not by its source address."""
    code = """
s = tcp(); s.setsockopt(socket.IPPROTO_IPV6 if V6 else socket.IPPROTO_IP, IPV6_TRANSPARENT if V6 else IP_TRANSPARENT, 1)
s.bind((sys.argv[4], 0)); s.settimeout(5)
r = attempt(s, (TO, PORT)); print(r if r != "connected" else echo(s))
"""
    before = len(mesh.shop.node.access_log())
    assert run(mesh.rogue, code, mesh.shop.ips[family], "as web", 8088, mesh.web.ips[family]) == "as web"
    lines = wait_for(
        lambda: [x for x in inbound(mesh, mesh.far, before) if ":8088 " in x], "the inbound line"
    )
    assert f'src.identity="{mesh.rogue.identity}"' in lines[0] and mesh.web.identity not in lines[0]


@each_family
def test_a_socket_of_another_pod(mesh, family):
    """Made in one pod and used in another, it goes in the name of the one where it was made."""
    path = f"{mesh.dir}/handed-{family}"
    give = """
path = sys.argv[4]
l = socket.socket(socket.AF_UNIX); l.bind(path); l.listen(); print("READY", flush=True)
c, _ = l.accept(); s = tcp(); socket.send_fds(c, [b"x"], [s.fileno()]); c.recv(1)
"""
    take = """
u = socket.socket(socket.AF_UNIX); u.connect(sys.argv[4])
_, fds, _, _ = socket.recv_fds(u, 1, 1)
s = socket.socket(fileno=fds[0]); s.settimeout(20); s.connect((TO, PORT)); print(echo(s), s.getsockname()[0])
"""
    to = mesh.shop.ips[family]
    giver = mesh.rogue.popen("/usr/bin/python3", "-u", "-c", PRELUDE + give, to, 8088, "x", path)
    wait_for(lambda: "READY" in giver.text(), "the socket to be handed over")
    before = len(mesh.shop.node.access_log())
    assert run(mesh.web, take, to, "borrowed", 8088, path) == f"borrowed {mesh.rogue.ips[family]}"
    lines = wait_for(
        lambda: [x for x in inbound(mesh, mesh.far, before) if ":8088 " in x], "the inbound line"
    )
    assert f'src.identity="{mesh.rogue.identity}"' in lines[0] and mesh.web.identity not in lines[0]


def test_a_new_service_account_is_a_new_identity(mesh):
    """Nothing goes on in the name of the former one, and the pod does go on."""
    for account in ("promoted", "rogue"):
        mesh.former.setdefault("rogue", []).append(mesh.rogue.identity)
        mesh.rogue.account = account
        mesh.write()

        def known():
            before = len(mesh.shop.node.access_log())
            if run(mesh.rogue, TRY, mesh.shop.ip, "who am I", 8088) != "who am I":
                return False
            lines = wait_for(
                lambda: [x for x in inbound(mesh, mesh.far, before) if ":8088 " in x], "the inbound line"
            )
            return f'src.identity="{mesh.rogue.identity}"' in lines[-1]

        wait_for(known, f"connections in the name of {mesh.rogue.identity}")


OWN_SERVER = """
import socket, sys
port = int(sys.argv[1])
s = socket.socket(socket.AF_INET6)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
s.bind(("::", port)); s.listen(16)
print("READY", flush=True)
while True:
    c, a = s.accept()
    print("FROM", a[0], flush=True)
    c.sendall(b"mine"); c.close()
"""


@pytest.mark.parametrize("port", [15001, 15006, 15008])
def test_server_of_the_pod_on_a_port_of_the_mesh(mesh, port):
    """It serves its own pod. From elsewhere the port belongs to the mesh."""
    server = mesh.rogue.server(OWN_SERVER, port)
    ask = "s = tcp(); r = attempt(s, (TO, PORT)); print(s.recv(100).decode() if r == 'connected' else r)"
    knock = """
s = tcp(); r = attempt(s, (TO, PORT))
try:
    if r == "connected":
        s.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
        r = s.recv(100).decode(errors="replace")
except OSError as e:
    r = errno.errorcode[e.errno]
print(r)
"""
    for to in (*mesh.rogue.ips, "127.0.0.1", "::1"):
        if to in mesh.rogue.ips and port == HBONE:
            continue  # who asks for the tunnel port of a pod's address gets the tunnel
        assert run(mesh.rogue, ask, to, "x", port) == "mine", to
    before = server.text().count("FROM")
    for client in (mesh.shop, mesh.outside, mesh.web):
        for to in mesh.rogue.ips:
            assert "mine" not in run(client, knock, to, "x", port), (client.name, to)
    assert server.text().count("FROM") == before, "nobody from outside got through"
    server.kill()


def listeners(pod):
    """Ports of the mesh's own listeners: what listens in the pod and is no process of a test."""
    lines = pod.run("ss", "-Hltnp").stdout.splitlines()
    return sorted({int(x.split()[3].rsplit(":", 1)[1]) for x in lines if 'users:(("bruma-' in x})


def test_reuseport_joins_no_listener(mesh):
    ports = listeners(mesh.rogue)
    assert len(ports) == 3, ports
    code = """
for port in map(int, sys.argv[4:]):
    for family, to in ((socket.AF_INET6, "::"), (socket.AF_INET, "0.0.0.0")):
        s = socket.socket(family); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind((to, port)); s.listen(); print("joined", port)
        except OSError as e:
            print(errno.errorcode[e.errno])
"""
    assert set(run(mesh.rogue, code, "::1", "x", 1, *ports).split()) == {"EADDRINUSE"}


@each_family
def test_own_listener_for_everything_takes_nothing(mesh, family):
    """A transparent listener of the pod on the destination's own port, where a captured SYN would find it."""
    code = """
l = tcp(); l.setsockopt(socket.IPPROTO_IPV6 if V6 else socket.IPPROTO_IP, IPV6_TRANSPARENT if V6 else IP_TRANSPARENT, 1)
l.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); l.bind((TO, PORT)); l.listen()
s = tcp(); s.connect((TO, PORT)); print(echo(s))
l.settimeout(0.2)
try:
    l.accept(); print("stolen")
except TimeoutError:
    print("nothing")
"""
    assert run(mesh.rogue, code, mesh.shop.ips[family], "to shop", 8088) == "to shop\nnothing"


REFUSED = ("reset", "ECONNRESET", "ECONNREFUSED", "EPIPE", "end")


@each_family
def test_connecting_to_a_listener_itself(mesh, family):
    """Its port is no port of the pod: whoever dials it is refused, and the proxy does not talk to itself for
    ever."""
    ports = listeners(mesh.rogue)
    before = [len(n.access_log()) for n in mesh.nodes]
    own = mesh.rogue.ips[family]
    for port in ports:
        for client, to in (
            (mesh.rogue, own),
            (mesh.rogue, ["127.0.0.1", "::1"][family]),
            (mesh.near, own),
            (mesh.shop, own),
            (mesh.outside, own),
        ):
            assert run(client, TRY, to, "who is there", port) in REFUSED, (client.name, to, port)
    time.sleep(0.2)
    assert sum(len(n.access_log()) for n in mesh.nodes) - sum(before) < 40


@each_family
def test_destroying_every_socket_of_the_pod(mesh, family):
    pod, to = mesh.rogue, mesh.shop.ips[family]
    assert pod.python(ONE_SHOT, to, 8080, "before") == "before"
    for _ in range(3):
        pod.run("ss", "-K", check=False)
        pod.run("ss", "-K", "-l", check=False)
        run(pod, TRY, to, "amid the ruins")
    wait_for(lambda: run(pod, TRY, to, "repaired") == "repaired", "connections from the pod")
    for p in pod.processes:
        p.kill()
    pod.server(ECHO, "8080")  # the listener of the one before is destroyed too
    wait_for(lambda: run(mesh.web, TRY, pod.ips[family], "repaired") == "repaired", "connections to the pod")


HAMMER = """
end = time.time() + float(sys.argv[4])
seen = {}
while time.time() < end:
    s = tcp(); s.settimeout(0.3)
    r = attempt(s, (TO, PORT))
    if r == "connected":
        r = echo(s)
    seen[r] = seen.get(r, 0) + 1
    s.close()
print(seen)
"""


@each_family
@pytest.mark.parametrize("how", ["rules", "routes", "a rule before ours", "a route to the node", "sysctls"])
def test_taking_the_way_to_the_proxy_apart(mesh, family, how):
    """Again and again, while it connects: what no longer gets to the proxy gets nowhere."""
    pod, to = mesh.rogue, mesh.shop.ips[family]
    ip = ["ip", "-4"] if not family else ["ip", "-6"]
    gateway = [mesh.nodes[0].gateway, mesh.nodes[0].gateway6][family]
    undo = None
    # Answers of the test before that are still being sent again are no connections of this one.
    pod.run("ss", "-K", "state", "connected", "sport", "=", "8080", check=False)
    if how == "rules":
        each = "; ".join(
            f"{' '.join(ip)} rule del fwmark 0x111/0xfff lookup {table}" for table in range(100, 104)
        )
    elif how == "routes":
        each = "; ".join(f"{' '.join(ip)} route flush table {table}" for table in range(100, 104))
    elif how == "sysctls":
        each = "sysctl -q -w net.ipv4.tcp_fwmark_accept=0 net.ipv4.fwmark_reflect=0 net.ipv6.fwmark_reflect=0"
    elif how == "a rule before ours":
        each, undo = (
            f"{' '.join(ip)} rule add pref 77 fwmark 0x111/0xfff lookup main",
            [*ip, "rule", "del", "pref", "77"],
        )
    else:
        table = f"{' '.join(ip)} rule | sed -n '/0x111/s/.*lookup //p' | head -1"
        each = f"{' '.join(ip)} route replace default via {gateway} dev eth0 table $({table})"
    breaker = pod.popen("/bin/sh", "-c", f"while :; do {each} 2>/dev/null; sleep 0.002; done")
    others = []
    if how in ("rules", "routes"):  # what its server answers, too
        others.append(
            mesh.shop.popen(
                "/usr/bin/python3", "-c", PRELUDE + HAMMER, pod.ips[family], 8080, "unsteered", "1"
            )
        )
    try:
        run(pod, HAMMER, to, "unsteered", 8080, "1")
        wait_for(lambda: not [p for p in others if p.alive()], "the others' connections")
    finally:
        breaker.kill()
        if undo:
            while pod.run(*undo, check=False).returncode == 0:
                pass
    assert not mesh.wire.holds(b"unsteered")
    wait_for(lambda: run(pod, TRY, to, "repaired") == "repaired", "the pod's connections after it")
