# SPDX-License-Identifier: Apache-2.0
"""Connections of pods to outside the mesh that go past the proxy, and what is written down of them. A test acts as the proxy:
what the real one does with the maps is tested elsewhere. A captured connection is accepted by a listener that nobody serves."""

import errno
import json
import threading

import pytest

from support import agent, kernel
from support.direct_maps import LONG_WAYS, OUTSIDE, ActingProxy
from support.nodes.direct_programs import CLIENT, ONE_SOCKET, PEER
from support.nodes.mesh import Mesh
from support.others_program import NOTHING, OTHER, THIEF, load, others_program
from support.system import run, wait_for

USER = [
    "setpriv",
    "--reuid",
    "65534",
    "--regid",
    "65534",
    "--clear-groups",
    "--inh-caps=-all",
    "--bounding-set=-all",
]
PYTHON = "/usr/bin/python3"


@pytest.fixture(scope="module")
def mesh():
    with Mesh(nodes=1) as m:
        m.node = m.nodes[0]
        m.web = m.pod("web")
        m.outside = m.pod("outside", namespace="outside")
        m.outside.outside = True
        m.write()
        m.node.start_agent("--verify-walk", "1s", "--metrics-port", "15099")
        m.web.enroll()
        m.outside.server(PEER, "8080")
        m.outside.run("sysctl", "-q", "-w", "net.ipv4.tcp_fastopen=3")
        yield m


@pytest.fixture
def proxy(mesh):
    p = ActingProxy(mesh.node)
    p.pod(mesh.web)
    p.take_charge()
    yield p
    p.close()


def dump(mesh, name):
    text = run(["bpftool", "-j", "map", "dump", "pinned", f"{mesh.node.pin_dir}/maps/{name}"]).stdout
    cookie = int(mesh.web.item()["cookie"])
    return next(e["formatted"]["value"] for e in json.loads(text) if e["formatted"]["key"] == cookie)


def went(mesh):
    """Connections of the pod so far: those that went directly, and captured ones by reason."""
    counters = dump(mesh, "direct_counters")
    reasons = {n: c for n, c in zip(LONG_WAYS, counters["outside_long_way"], strict=False) if c}
    assert (
        sum(counters["outside_long_way"]) <= dump(mesh, "pod_counters")["outbound_captured_connections"] + 1
    )
    return counters["direct_outside_connections"], reasons


def connect(pod, address, port=8080, user=()):
    """The name of what connect() says, or 0."""
    return pod.run(*user, PYTHON, "-c", ONE_SOCKET, f"{mapped(address)}#{port}").stdout.split()[0]


def mapped(address):
    return address if ":" in address else f"::ffff:{address}"


def takes_long_way(mesh, address=None, port=8080, user=()):
    """The reason for which a connection is captured now."""
    direct, before = went(mesh)
    assert connect(mesh.web, address or mesh.outside.ip, port, user) == "0"
    after_direct, after = went(mesh)
    assert after_direct == direct
    (why,) = [n for n in after if after[n] != before.get(n, 0)]
    return why


ADDRESSES = {"v4": lambda p: p.ip, "v6": lambda p: p.ip6, "mapped": lambda p: f"::ffff:{p.ip}"}


@pytest.mark.parametrize("family", ADDRESSES)
@pytest.mark.parametrize("end", ["first", "last", "half", "reset", "peer-reset"])
@pytest.mark.parametrize("way", ["plain", "fastopen", "mptcp"])
def test_bytes_are_right_to_the_byte(mesh, proxy, way, end, family):
    address = ADDRESSES[family](mesh.outside)
    said = mesh.web.python(CLIENT, way, address, "8080", "300001", "70003", end).split()
    assert said[-2] == "done"
    wait_for(lambda: len(proxy.events()) >= 2, "two events")
    opened, closed = proxy.events()
    assert (opened.kind, closed.kind) == ("opened", "closed")
    assert closed.error == (errno.ECONNRESET if end == "peer-reset" else 0)
    remote = (mesh.outside.ips[family == "v6"], 8080)
    for event in (opened, closed):
        flow = event.flow
        assert (flow.way, flow.remote, flow.local[0]) == (OUTSIDE, remote, mesh.web.ips[family == "v6"])
        assert flow.netns_cookie == int(mesh.web.item()["cookie"]) and flow.local[1]
        assert event.now >= flow.opened
    assert opened.socket == closed.socket
    # with its reset the other side need not acknowledge the byte that it waited for
    assert closed.sent - int(said[-1]) - 300001 in ([0, 1] if end == "peer-reset" else [0])
    assert closed.received == 70003
    assert proxy.flows() == {}


def test_it_is_not_captured_and_named_while_it_lives(mesh, proxy):
    """The only socket of it is the application's, and what it dials is what is on the wire."""
    direct, _ = went(mesh)
    code = "import socket, sys\ns = socket.create_connection((sys.argv[1], 8080))\nprint('READY', flush=True)\nsys.stdin.read()"
    client = mesh.web.pipe(PYTHON, "-c", code, mesh.outside.ip, stdin=-1, stdout=-1, text=True)
    assert client.stdout.readline() == "READY\n"
    sockets = mesh.web.run("ss", "-Htn", "state", "established").stdout.split("\n")
    (line,) = [s for s in sockets if f"{mesh.outside.ip}:8080" in s]
    source = line.split()[2].replace("%eth0", "")
    assert f"[::ffff:{mesh.web.ip}]:{source.split(':')[1]}" in mesh.outside.run("ss", "-Htn").stdout
    (flow,) = proxy.flows().values()
    assert f"{flow.local[0]}:{flow.local[1]}" == source
    client.communicate("")
    wait_for(lambda: not proxy.flows(), "the flow to end")
    assert went(mesh)[0] == direct + 1


@pytest.mark.parametrize("family", [0, 1])
def test_a_failed_connect_is_told_of_with_its_error(mesh, proxy, family):
    assert connect(mesh.web, mesh.outside.ips[family], 9) == "ECONNREFUSED"
    wait_for(proxy.events, "an event")
    (failed,) = proxy.events()
    assert (failed.kind, failed.error, failed.sent, failed.received) == ("failed", errno.ECONNREFUSED, 0, 0)
    assert failed.flow.local[0] == mesh.web.ips[family] and failed.flow.local[1]
    assert failed.flow.remote == (mesh.outside.ips[family], 9)
    assert proxy.flows() == {}


def test_one_that_the_application_gives_up_has_no_error(mesh, proxy):
    code = (
        "import socket, sys\ns = socket.socket()\ns.setblocking(False)\n"
        "print(s.connect_ex((sys.argv[1], 8080)), flush=True)\ns.close()"
    )
    nobody = mesh.node.gateway.rsplit(".", 1)[0] + ".250"
    mesh.web.python(code, nobody)
    wait_for(proxy.events, "an event")
    (failed,) = proxy.events()
    assert (failed.kind, failed.error, failed.flow.remote) == ("failed", 0, (nobody, 8080))
    assert proxy.flows() == {}


def test_one_that_the_kernel_refuses_at_once_is_told_of_when_its_socket_goes(mesh, proxy):
    """Two connections cannot have one source and one destination: nothing is sent for the second."""
    code = (
        "import socket, sys\nall = []\nfor i in range(2):\n    s = socket.socket()\n"
        "    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n    s.bind(('', 45678))\n"
        "    print(s.connect_ex((sys.argv[1], 8080)))\n    all.append(s)\nall[1].close()\n"
    )
    assert mesh.web.python(code, mesh.outside.ip).split() == ["0", str(errno.EADDRNOTAVAIL)]
    wait_for(lambda: len(proxy.events()) == 3, "three events")
    opened, failed, closed = proxy.events()
    assert (opened.kind, failed.kind, closed.kind) == ("opened", "failed", "closed")
    assert (failed.error, failed.flow.remote) == (errno.ENETUNREACH, (mesh.outside.ip, 8080))
    assert failed.socket != opened.socket
    assert proxy.flows() == {}


@pytest.mark.parametrize("second", ["direct", "captured", "own"])
def test_one_that_has_failed_before_the_socket_connects_again_is_told_of(mesh, proxy, second):
    """Nothing was sent for the first, since there is another connection with its source and destination."""
    code = (
        "import socket, sys\nall = []\nfor i in range(2):\n    s = socket.socket()\n"
        "    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n    s.bind(('', 45679))\n"
        "    print(s.connect_ex((sys.argv[1], 8080)))\n    all.append(s)\n"
        "print(all[1].connect_ex((sys.argv[2], int(sys.argv[3]))))\n"
    )
    to = {"direct": mesh.node.gateway, "captured": mesh.node.gateway, "own": mesh.web.ip}[second]
    if second == "captured":
        proxy.know(mesh.node.gateway)
    said = mesh.web.python(code, mesh.outside.ip, to, "9").split()
    proxy.forget(mesh.node.gateway)
    assert said[:2] == ["0", str(errno.EADDRNOTAVAIL)]
    wait_for(lambda: not proxy.flows(), "all to end")
    failed = [e for e in proxy.events() if e.kind == "failed"]
    assert [f.flow.remote for f in failed if f.error == errno.ENETUNREACH] == [(mesh.outside.ip, 8080)]
    assert len(failed) == (2 if second == "direct" else 1)


def test_lost_events_are_counted(mesh, proxy):
    """Nobody reads, and the ring is full."""
    code = (
        "import resource, socket, sys\n"
        "for i in range(4200):\n"
        "    s = socket.socket()\n    s.connect_ex((sys.argv[1], 9))\n    s.close()\n"
        "    s = socket.socket()\n    s.connect_ex((sys.argv[1], 9))\n    s.close()\n"
    )
    before = dump(mesh, "direct_counters")["direct_lost_events"]
    mesh.web.python(code, mesh.outside.ip, timeout=120)
    lost = dump(mesh, "direct_counters")["direct_lost_events"] - before
    assert lost and len(proxy.events()) + lost == 8400
    assert proxy.lost_events() == lost
    assert proxy.flows() == {}


def test_a_polling_reader_is_woken_once_the_ring_fills(mesh, proxy):
    code = "import socket, sys\nfor i in range(int(sys.argv[2])):\n    socket.socket().connect_ex((sys.argv[1], 9))"
    woken = threading.Event()

    def wait():
        if proxy.ring.wait(60):
            woken.set()

    for polling, many in ((1, 2200), (0, 0)):
        proxy.take_charge(polling=polling)
        woken.clear()
        waiting = threading.Thread(target=wait)
        waiting.start()
        mesh.web.python(code, mesh.outside.ip, "10")
        if polling:
            assert not woken.is_set()
            mesh.web.python(code, mesh.outside.ip, str(many), timeout=120)
        waiting.join()
        assert woken.is_set()
        assert len(proxy.events()) == (2210 if polling else 2220)


def test_counters_are_told(mesh, proxy):
    """By brumactl and in the agent's metrics."""
    direct, reasons = went(mesh)
    connect(mesh.web, mesh.outside.ip)
    proxy.know(mesh.outside.ip)
    assert takes_long_way(mesh) == "in_mesh"
    proxy.forget(mesh.outside.ip)
    item = mesh.web.item()
    assert item["counters"]["direct_outside_connections"] == direct + 1
    assert item["outboundLongWay"]["in_mesh"] == reasons.get("in_mesh", 0) + 1
    page = mesh.node.http(15099, "/metrics")[1]
    labels = 'namespace="demo",pod="web"'
    assert f"bruma_pod_direct_outside_connections_total{{{labels}}} {direct + 1}\n" in page
    assert (
        f'bruma_pod_outbound_long_way_total{{{labels},reason="in_mesh"}} {reasons.get("in_mesh", 0) + 1}\n'
        in page
    )


def test_callbacks_that_others_asked_for_stay_theirs(mesh, proxy):
    """The program of a cgroup below runs before ours, which asks for more and not for something else."""
    with others_program(mesh, OTHER) as child:
        client = [PYTHON, "-c", CLIENT, "plain", mesh.outside.ip, "8080", "1000", "1000", "half"]
        run(client, netns=mesh.web.netns, cgroup=child)
        wait_for(lambda: len(proxy.events()) == 2, "two events")
        assert proxy.events()[1].kind == "closed"
        seen = run(["bpftool", "-j", "map", "dump", "pinned", f"{mesh.node.pin_dir}-other/seen"]).stdout
        assert json.loads(seen)[0]["formatted"]["value"]


def test_entries_of_sockets_that_are_no_more_are_removed(mesh, proxy):
    """Those that live stay, however old."""
    code = "import socket, sys\ns = socket.create_connection((sys.argv[1], 8080))\nprint('READY', flush=True)\nsys.stdin.read()"
    client = mesh.web.pipe(PYTHON, "-c", code, mesh.outside.ip, stdin=-1, stdout=-1, text=True)
    assert client.stdout.readline() == "READY\n"
    (living,) = proxy.flows()
    with others_program(mesh, THIEF) as child:
        reset = [PYTHON, "-c", CLIENT, "plain", mesh.outside.ip, "8080", "1", "1", "reset"]
        run(reset, netns=mesh.web.netns, cgroup=child)
    (left,) = proxy.flows().keys() - {living}
    for socket in (living, left):
        proxy.age_flow(socket)
    wait_for(lambda: list(proxy.flows()) == [living], "what is left over to go")
    client.communicate("")
    wait_for(lambda: not proxy.flows(), "the flow to end")


# ---- the long way, by each of its reasons ----


def test_long_way_while_nobody_is_in_charge(mesh, proxy):
    proxy.take_charge(number=0)
    assert takes_long_way(mesh) == "no_proxy"
    proxy.take_charge(number=0, why=LONG_WAYS.index("set_incomplete"))
    assert takes_long_way(mesh) == "set_incomplete"


def test_long_way_once_the_proxy_has_died(mesh, proxy):
    """Although its word would still be good for a while."""
    assert connect(mesh.web, mesh.outside.ip) == "0"
    proxy.die()
    wait_for(lambda: takes_long_way(mesh) == "proxy_gone", "its socket to vanish")


def test_long_way_once_the_proxy_is_silent(mesh, proxy):
    proxy.take_charge(valid=0)
    assert takes_long_way(mesh) == "proxy_silent"


def test_long_way_where_the_way_is_off(mesh, proxy):
    proxy.take_charge(ways=0)
    assert takes_long_way(mesh) == "switched_off"
    proxy.take_charge(ways=0, why=LONG_WAYS.index("ending"))
    assert takes_long_way(mesh) == "ending"


def test_long_way_of_a_pod_that_the_proxy_has_said_nothing_of(mesh, proxy):
    proxy.pod(mesh.web, number=proxy.number + 1)
    assert takes_long_way(mesh) == "pod_unknown"
    proxy.pod(mesh.web, generation=mesh.web.item()["generation"] + 1)
    assert takes_long_way(mesh) == "pod_unknown"


def test_long_way_by_what_the_proxy_says_of_the_pod(mesh, proxy):
    for why in ("workload_unknown", "registry_only", "on_demand", "switched_off_for_pod"):
        proxy.pod(mesh.web, ways=0, outside_why=LONG_WAYS.index(why))
        assert takes_long_way(mesh) == why


def test_long_way_to_what_the_mesh_knows(mesh, proxy):
    for address in mesh.outside.ips:
        proxy.know(address)
        assert takes_long_way(mesh, address) == "in_mesh"
        proxy.forget(address)
        assert connect(mesh.web, address) == "0"
        wait_for(lambda: not proxy.flows(), "the flow to end")
        bits = 120 if "." in address else 64
        proxy.know_prefix(address, bits)
        proxy.take_charge(prefixes=1)
        assert takes_long_way(mesh, address) == "in_mesh"
        proxy.forget_prefix(address, bits)
        proxy.take_charge()


def test_what_another_proxy_knows_does_not_count(mesh, proxy):
    direct, _ = went(mesh)
    other = ActingProxy(mesh.node, number=proxy.number + 1)
    other.know(mesh.outside.ip)
    assert connect(mesh.web, mesh.outside.ip) == "0"
    assert went(mesh)[0] == direct + 1
    proxy.take_charge(number=other.number)
    assert takes_long_way(mesh) == "in_mesh"
    other.forget(mesh.outside.ip)
    other.close()


def test_long_way_of_dns_by_tcp(mesh, proxy):
    assert takes_long_way(mesh, port=53) == "dns"


def test_long_way_of_a_socket_that_the_application_has_bound(mesh, proxy):
    """To another device, as anybody may; or to an address that is not the pod's, which takes a privilege."""
    direct, before = went(mesh)
    code = (
        "import socket, sys\ns = socket.socket()\ns.settimeout(5)\n"
        "if sys.argv[2] == 'device':\n    s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'lo')\n"
        "else:\n    s.setsockopt(socket.SOL_IP, 19, 1)\n    s.bind(('10.99.99.99', 0))\n"
        "s.settimeout(0.2)\nprint(s.connect_ex((sys.argv[1], 8080)))"
    )
    for how in ("device", "address"):
        mesh.web.python(code, mesh.outside.ip, how)
    after_direct, after = went(mesh)
    assert after_direct == direct
    assert after["socket_bound"] == before.get("socket_bound", 0) + 2


# What makes a socket that is bound to the pod's device go another way than one that is not, and how it is taken back.
OTHERWISE = {
    "second device": (
        "ip link add second type veth peer name other; ip link set second up",
        "ip link del second",
    ),
    "refused": ("ip route add unreachable 203.0.113.0/24", "ip route del unreachable 203.0.113.0/24"),
    "no default": ("ip route del default", "ip route add default via {gateway}"),
    "address on lo": ("ip addr add 192.0.2.7/32 dev lo", "ip addr del 192.0.2.7/32 dev lo"),
    "local prefix": (
        "ip -6 route add local 2001:db8::/64 dev lo",
        "ip -6 route del local 2001:db8::/64 dev lo",
    ),
}


@pytest.mark.parametrize("what", OTHERWISE)
def test_long_way_where_a_socket_bound_to_the_device_would_go_elsewhere(mesh, proxy, what):
    def device():
        return dump(mesh, "pods")["flags"] >> 16

    there, gone = (c.format(gateway=mesh.node.gateway) for c in OTHERWISE[what])
    assert device()
    mesh.web.run("sh", "-c", there)
    wait_for(lambda: not device(), "the agent to see it")
    assert takes_long_way(mesh) == "several_devices"
    mesh.web.run("sh", "-c", gone)
    wait_for(device, "the agent to see that it is gone")
    direct, _ = went(mesh)
    assert connect(mesh.web, mesh.outside.ip) == "0"
    assert went(mesh)[0] == direct + 1


def test_long_way_while_there_is_no_room_for_the_flow(mesh, proxy):
    proxy.fill_flows()
    try:
        assert takes_long_way(mesh) == "flows_full"
    finally:
        proxy.empty_flows()
    assert connect(mesh.web, mesh.outside.ip) == "0"


# ---- one socket, several ways ----


def test_captured_and_direct_connections_to_one_place_do_not_meet(mesh, proxy):
    """With as few ports as there are connections each port is used by both."""
    before = mesh.web.run("sysctl", "-n", "net.ipv4.ip_local_port_range").stdout.strip()
    mesh.web.run("sysctl", "-q", "-w", "net.ipv4.ip_local_port_range=40000 40015")
    code = (
        "import socket, sys\nall = []\n"
        "for i in range(12):\n    all.append(socket.create_connection((sys.argv[1], 8080), timeout=20))\n"
        "print('READY', flush=True)\nsys.stdin.readline()\n"
        "for i in range(12):\n    s = socket.create_connection((sys.argv[1], 8080), timeout=20)\n"
        "    s.sendall(b'0 3 first\\n')\n    print(len(s.recv(3)), flush=True)\n    all.append(s)\n"
    )
    try:
        for address in (mesh.outside.ip, mesh.outside.ip6):
            proxy.take_charge(number=0)
            client = mesh.web.pipe(PYTHON, "-c", code, address, stdin=-1, stdout=-1, text=True)
            assert client.stdout.readline() == "READY\n"
            proxy.take_charge()
            assert client.communicate("\n")[0].split() == ["3"] * 12
    finally:
        mesh.web.run("sysctl", "-q", "-w", f"net.ipv4.ip_local_port_range={before}")


def ways_of_one_socket(mesh, *places, user=()):
    return mesh.web.run(*user, PYTHON, "-c", ONE_SOCKET, *places).stdout.split()


def rebind_failures(mesh):
    return agent.status(mesh.node.run_dir)["failures"].get("rebind_failed", {"count": 0})["count"]


def test_a_socket_that_went_directly_is_captured_or_fails_by_name(mesh, proxy):
    """The kernel lets only root move a bound socket, and a mere user's must not go to the mesh in plaintext."""
    inside, outside = mesh.node.gateway, mapped(mesh.outside.ip)
    proxy.know(inside)
    places = (f"{outside}#9", f"{mapped(inside)}#8080")
    direct, before = went(mesh)
    assert ways_of_one_socket(mesh, *places) == ["ECONNREFUSED", "0"]
    after = went(mesh)
    assert after[0] == direct + 1 and after[1]["in_mesh"] == before.get("in_mesh", 0) + 1
    failures = rebind_failures(mesh)
    assert ways_of_one_socket(mesh, *places, user=USER) == ["ECONNREFUSED", "ECONNREFUSED"]
    assert rebind_failures(mesh) == failures + 1
    assert proxy.flows() == {}
    proxy.forget(inside)


def test_a_socket_that_was_captured_goes_directly_or_stays_captured(mesh, proxy):
    inside, outside = mesh.node.gateway, mapped(mesh.outside.ip)
    proxy.know(inside)
    places = (f"{mapped(inside)}#8080", f"{outside}#8080")
    direct, before = went(mesh)
    assert ways_of_one_socket(mesh, *places) == ["0", "0"]
    assert went(mesh)[0] == direct + 1
    assert ways_of_one_socket(mesh, *places, user=USER) == ["0", "0"]
    after = went(mesh)
    assert after[0] == direct + 1 and after[1]["socket_bound"] == before.get("socket_bound", 0) + 1
    proxy.forget(inside)


def test_a_socket_that_went_directly_finds_its_own_pod(mesh, proxy):
    own, loopback, outside = mapped(mesh.web.ip), mapped("127.0.0.1"), mapped(mesh.outside.ip)
    places = (f"{outside}#9", f"{own}#9", f"{outside}#9", f"{loopback}#9", f"{outside}#8080")
    assert ways_of_one_socket(mesh, *places) == ["ECONNREFUSED"] * 4 + ["0"]
    failures = rebind_failures(mesh)
    assert ways_of_one_socket(mesh, *places[:2], user=USER) == ["ECONNREFUSED"] * 2
    assert rebind_failures(mesh) == failures + 1


# ---- what is left ----


def test_nothing_is_left_of_a_pod_that_has_left_the_mesh(mesh, proxy):
    code = "import socket, sys\ns = socket.create_connection((sys.argv[1], 8080))\nprint('READY', flush=True)\nsys.stdin.read()"
    client = mesh.web.pipe(PYTHON, "-c", code, mesh.outside.ip, stdin=-1, stdout=-1, text=True)
    assert client.stdout.readline() == "READY\n"
    assert len(proxy.flows()) == 1
    cookie = mesh.web.item()["cookie"]
    mesh.web.cni("DEL")
    wait_for(lambda: not mesh.web.item(), "the pod to be forgotten")
    for name in ("direct_pods", "direct_counters", "flows"):
        entries = json.loads(run(["bpftool", "-j", "map", "dump", "pinned", f"{proxy.maps}/{name}"]).stdout)
        assert not [e for e in entries if str(cookie) in json.dumps(e["formatted"])], name
    client.communicate("")
    mesh.web.enroll()


def test_an_agent_finds_all_of_it_again_and_makes_what_is_missing(mesh, proxy):
    """As after an upgrade from a version that knew none of it: the pods go on."""
    mesh.node.agent.stop()
    run(["sh", "-c", f"rm {proxy.maps}/direct_* {proxy.maps}/mesh_* {proxy.maps}/flow*"])
    mesh.node.start_agent("--metrics-port", "15099")
    mesh.web.wait_state("enrolled")
    fresh = ActingProxy(mesh.node)
    try:
        assert takes_long_way(mesh) == "no_proxy"
        fresh.pod(mesh.web)
        fresh.take_charge()
        assert connect(mesh.web, mesh.outside.ip) == "0"
        assert went(mesh)[0] == 1
        wait_for(lambda: len(fresh.events()) == 2, "events")
        mesh.node.agent.stop()
        assert connect(mesh.web, mesh.outside.ip) == "0"
        mesh.node.start_agent()
        wait_for(lambda: len(fresh.events()) == 4, "events that an absent agent does not keep away")
        assert connect(mesh.web, mesh.outside.ip) == "0"
        wait_for(lambda: len(fresh.events()) == 6, "events")
    finally:
        fresh.close()


def test_without_accounting_nothing_goes_directly():
    """Somebody holds the hook of all cgroups below for himself alone. With the real proxy, which is told."""
    with Mesh(nodes=1, agent_options=("--direct-outside", "true")) as m:
        pins = f"/sys/fs/bpf/{m.prefix}-other"
        load(m, NOTHING, pins)
        try:
            run(["bpftool", "cgroup", "attach", m.cgroup, "sock_ops", "pinned", f"{pins}/nothing"])
            m.node = m.nodes[0]
            m.web, m.outside = m.pod("web"), m.pod("outside", namespace="outside")
            m.outside.outside = True
            m.start()
            m.web.wait_enrolled()
            m.outside.server(PEER, "8080")
            wait_for(lambda: takes_long_way(m) == "switched_off", "the proxy to be in charge")
            said = m.node.ctl("explain", "demo/web", check=False).stdout
            assert "this kernel cannot run the programs that account for it" in said, said
            hooks = [c["detail"] for c in json.loads(m.node.ctl("doctor", "-o", "json", check=False).stdout)]
            assert [h for h in hooks if h.startswith("accepted: ") and "without it" in h], hooks
        finally:
            run(
                ["bpftool", "cgroup", "detach", m.cgroup, "sock_ops", "pinned", f"{pins}/nothing"],
                check=False,
            )
            kernel.remove_pins(pins)
