# SPDX-License-Identifier: Apache-2.0
"""Stock node proxies under Bruma's steering: a proxy that opens its own listeners, and hears of pods on the workload discovery
socket. Node 1 has one, node 2 an agent and a proxy of Bruma's. Most tests use stock_proxy.py, which shares no code with Bruma;
the last ones want a real ztunnel, whose program BRUMA_ZTUNNEL names."""
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import time

import pytest

from mesh import Mesh, Process, inside, program, sh, wait_for

HERE = os.path.dirname(os.path.abspath(__file__))
ZTUNNEL = os.environ.get("BRUMA_ZTUNNEL")
real = pytest.mark.skipif(not ZTUNNEL, reason="BRUMA_ZTUNNEL names no stock ztunnel")
PORT = 8080

# says the client's address first, then sends back what it gets
SERVER = r"""
import socket, sys, threading
s = socket.socket(socket.AF_INET6)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("::", int(sys.argv[1])))
s.listen(128)
print("READY", flush=True)
def serve(c, a):
    with c:
        c.sendall(a[0].replace("::ffff:", "").encode() + b"\n")
        while chunk := c.recv(65536):
            print("GOT", chunk, flush=True)
            c.sendall(chunk)
while True:
    threading.Thread(target=serve, args=s.accept(), daemon=True).start()
"""
# prints the client's address as the server saw it, or the error; "mark" as third argument sets the proxy's mark
CLIENT = r"""
import socket, sys, time
begin = time.monotonic()
six = ":" in sys.argv[1]
s = socket.socket(socket.AF_INET6 if six else socket.AF_INET)
if "mark" in sys.argv:
    s.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 0x539)
s.settimeout(5)
try:
    s.connect((sys.argv[1], int(sys.argv[2])))
    s.sendall(b"hello")
    try:
        s.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # reset already: the next call says so
    data = b""
    while chunk := s.recv(65536):
        data += chunk
    peer, _, rest = data.partition(b"\n")
    word = peer.decode() if rest == b"hello" else f"cut off after {data!r}"
except OSError as e:
    word = type(e).__name__
print(word, time.monotonic() - begin)
"""
# one long connection: prints a line each time its word has come back; a second argument is the number of words
LONG = r"""
import socket, sys, time
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5)
s.settimeout(10)
f = s.makefile("rb")
print("PEER", f.readline().decode().strip(), flush=True)
for i in range(600):
    s.sendall(b"word\n")
    if f.readline() != b"word\n":
        sys.exit("cut off")
    print("WORD", i, flush=True)
    time.sleep(0.05)
"""
# connections one after another until told to end by SIGTERM; prints those that failed
STREAM = r"""
import signal, socket, sys, time
ends = []
signal.signal(signal.SIGTERM, lambda *_: ends.append(1))
n = 0
print("READY", flush=True)
while not ends:
    try:
        with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=8) as s:
            s.settimeout(8)
            s.sendall(b"x")
            f = s.makefile("rb")
            f.readline()
            if f.read(1) != b"x":
                print("FAILED empty", flush=True)
        n += 1
    except OSError as e:
        print("FAILED", repr(e), flush=True)
    time.sleep(0.01)
print("DONE", n, flush=True)
"""


def ask(pod, address, *more, port=PORT):
    """(what the server saw as client or the error, seconds)"""
    word, seconds = pod.python(CLIENT, address, str(port), *more).rsplit(" ", 1)
    return word, float(seconds)


class Stock:
    """Proxies on the first node of a mesh, each in a cgroup of its own below the one whose connect() is captured."""

    def __init__(self, mesh):
        self.mesh, self.node, self.all = mesh, mesh.nodes[0], []
        self.socket = f"{mesh.dir}/ztunnel/ztunnel.sock"

    def start_agent(self, *more):
        self.node.start_agent("--zds-socket", self.socket, *more)

    def spawn(self, argv, env=None, netns=None):
        cgroup = f"{self.node.cgroup}/ztunnel{len(self.all)}"
        os.makedirs(cgroup)
        p = Process(argv, f"{self.mesh.dir}/stock{len(self.all)}.log", netns=netns or self.node.netns, cgroup=cgroup, env=env)
        self.all.append((p, cgroup))
        return p

    def start(self, *options, wait=True):
        p = self.spawn(["/usr/bin/python3", "-u", f"{HERE}/stock_proxy.py", self.socket, *options])
        if wait:
            wait_for(lambda: "SNAPSHOT" in p.text() or not p.alive(), "the proxy's snapshot")
            assert p.alive(), p.text()
            self.wait_serving(p)
        return p

    def wait_serving(self, p):
        """Until the agent says that this one serves."""
        wait_for(lambda: any(o["pid"] == p.pid and o["state"] == "serving" for o in self.proxies()), f"process {p.pid} to serve")

    def proxies(self):
        return self.status()["proxies"]

    def status(self):
        return agent_call(self.node, {"op": "status"})[0]

    def pod(self, pod):
        return next((p for p in agent_call(self.node, {"op": "pods"}) if p["name"] == pod.name), None)

    def exempt(self):
        """Process ids in the map of exempt cgroups, as bpftool sees it."""
        entries = json.loads(sh("bpftool", "-j", "map", "dump", "pinned", f"{self.node.pin_dir}/maps/proxy_cgroups"))
        return sorted(e["formatted"]["value"]["pid"] for e in entries)

    def stop(self):
        for p, cgroup in self.all:
            p.kill()
        for p, cgroup in self.all:
            wait_for(lambda c=cgroup: rmdir(c), f"{cgroup} to be empty")


def rmdir(path):
    with contextlib.suppress(OSError):
        os.rmdir(path)
    return not os.path.exists(path)


def agent_call(node, request):
    items = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
        s.settimeout(10)
        s.connect(f"{node.run_dir}/agent.sock")
        s.send(json.dumps(request).encode())
        while True:
            m = json.loads(s.recv(65536))
            if m["op"] != "item":
                return items
            items.append(m)


def settle(*pods):
    """Neighbour discovery of a bridge that is a moment old takes seconds: until every pod reaches every other at once."""
    for a in pods:
        for b in pods:
            wait_for(lambda a=a, b=b: ask(a, b.ip6, port=1)[1] < 0.5, f"{a.name} to reach {b.name}")


@contextlib.contextmanager
def stock_mesh(bruma=False, proxy=True):
    """web and other under a stock proxy on node 1, shop on node 2, under Bruma's proxy or outside the mesh."""
    with Mesh(nodes=2, agent_options=()) as m:
        m.web, m.other, m.shop = m.pod("web"), m.pod("other"), m.pod("shop", node=1, namespace="demo" if bruma else "outside")
        m.shop.outside = not bruma
        m.write()
        settle(*m.pods)
        stock = Stock(m)
        try:
            stock.start_agent()
            if proxy:
                stock.start()
                for pod in (m.web, m.other):
                    pod.cni("ADD")
            for pod in (m.web, m.other, m.shop):
                pod.server(SERVER, str(PORT))
            yield m, stock
        except BaseException:
            for p, _ in stock.all:
                print(f"--- {p.log}\n{p.text()[-2000:]}")
            raise
        finally:
            for pod in m.pods:
                for p in pod.processes:
                    p.kill()
            stock.stop()


@pytest.fixture(scope="module")
def running():
    with stock_mesh() as (m, stock):
        yield m, stock


# ---- what is carried ----

@pytest.mark.parametrize("six", [False, True])
def test_connections_of_all_kinds(running, six):
    m, stock = running

    def ip(pod):
        return pod.ip6 if six else pod.ip

    for what, client, server in (("out of the node", m.web, m.shop), ("into the node", m.shop, m.web),
                                 ("between pods of the node", m.other, m.web), ("to itself", m.web, m.web)):
        word, seconds = ask(client, ip(server))
        assert word == ip(client), what
    log = stock.all[0][0].text()
    assert f"OUT {ip(m.web)} {ip(m.shop)} {PORT}" in log and f"IN {ip(m.shop)} {ip(m.web)} {PORT}" in log
    # one hop each way and no loop: delivery to the application does not come back to the proxy
    assert log.count(f"IN {ip(m.other)} {ip(m.web)} {PORT}") == log.count(f"OUT {ip(m.other)} {ip(m.web)} {PORT}") == 1
    assert f"IN {ip(m.web)} {ip(m.web)}" not in log


@pytest.mark.parametrize("six", [False, True])
def test_a_closed_port_is_refused_quickly(running, six):
    m, _ = running
    for client, server in ((m.shop, m.web), (m.other, m.web)):
        word, seconds = ask(client, server.ip6 if six else server.ip, port=PORT + 1)
        assert word in ("ConnectionResetError", "ConnectionRefusedError") and seconds < 2, (word, seconds)


def test_the_mark_is_no_credential(running):
    m, stock = running
    before = stock.all[0][0].text().count(f"OUT {m.web.ip} {m.shop.ip} {PORT}")
    assert ask(m.web, m.shop.ip, "mark")[0] == m.web.ip
    assert stock.all[0][0].text().count(f"OUT {m.web.ip} {m.shop.ip} {PORT}") == before + 1
    assert stock.exempt() == [stock.all[0][0].pid]


def test_port_15008_goes_to_the_proxy(running):
    m, stock = running
    m.shop.run("/usr/bin/python3", "-c", f"import socket; socket.create_connection(('{m.web.ip}', 15008), 5)")
    wait_for(lambda: f"HBONE {m.shop.ip} {m.web.ip} 15008" in stock.all[0][0].text(), "the proxy to accept it")


def test_many_at_once(running):
    """More than the proxy's own backlog of 128, which the agent has made longer."""
    m, _ = running
    code = f"""
import socket
a = []
for i in range(300):
    s = socket.socket(); s.setblocking(False); s.connect_ex(("{m.web.ip}", {PORT})); a.append(s)
good = 0
for s in a:
    s.setblocking(True); s.settimeout(20)
    try: good += bool(s.recv(100))
    except OSError: pass
print(good)
"""
    assert m.shop.python(code).strip() == "300"


def test_the_application_may_bind_a_port_that_was_dialled(running):
    """What the proxy has accepted has the destination's port; with SO_REUSEADDR that is nobody's hindrance."""
    m, _ = running
    far = m.shop.server(SERVER, "9191")
    long = m.web.popen("/usr/bin/python3", "-u", "-c", LONG, m.shop.ip, "9191")
    wait_for(lambda: "WORD 1" in long.text(), "the long connection")
    near = m.web.server(SERVER, "9191")
    for p in (long, near, far):
        p.kill()


def test_what_the_proxy_dials_is_out_of_the_applications_way(running):
    """Same address, same destination, and perhaps the same port: the one is bound to lo, the other to the pod's device."""
    m, _ = running
    long = m.web.popen("/usr/bin/python3", "-u", "-c", LONG, m.shop.ip, str(PORT))
    wait_for(lambda: "WORD 1" in long.text(), "the long connection")
    there = sh("ip", "netns", "exec", m.web.netns, "ss", "-Htn", "state", "established", "dst", f"{m.shop.ip}:{PORT}")
    long.kill()
    assert sorted(re.findall(rf"{re.escape(m.web.ip)}%(\w+):", there)) == ["eth0", "lo"], there


# ---- enrolment ----

def test_without_a_proxy_no_pod_is_enrolled_and_none_is_harmed():
    with stock_mesh(proxy=False) as (m, stock):
        r = m.web.cni("ADD", check=False)
        assert r.returncode and "proxy_not_connected" in r.stdout
        assert ask(m.web, m.shop.ip)[0] == m.web.ip
        # one that runs and is labelled: it waits for a proxy as it is
        m.labels = {}
        m.write()
        # only once the agent has read the file the plugin lets the pod pass
        wait_for(lambda: m.other.cni("ADD", check=False).returncode == 0, "the pod to be added, outside the mesh")
        m.labels = {"istio.io/dataplane-mode": "ambient"}
        m.write()
        wait_for(lambda: stock.pod(m.other)["lastReason"] == "proxy_not_connected", "the reason")
        assert stock.pod(m.other)["state"] == "outside" and ask(m.other, m.shop.ip)[0] == m.other.ip
        assert any(p["reason"] == "proxy_not_connected" for p in stock.status()["problems"])
        p = stock.start()
        wait_for(lambda: stock.pod(m.other)["state"] == "enrolled", "the pod to be enrolled")
        assert stock.pod(m.other)["proxy"] == "serving" and stock.pod(m.other)["lastReason"] == "none"
        assert ask(m.other, m.shop.ip)[0] == m.other.ip and f"OUT {m.other.ip} {m.shop.ip} {PORT}" in p.text()


def test_a_pod_that_the_proxy_refuses():
    with stock_mesh(proxy=False) as (m, stock):
        p = stock.start("--refuse", "web")
        r = m.web.cni("ADD", check=False)
        assert r.returncode and "proxy_refused_pod" in r.stdout and "it is to be refused" in r.stdout
        m.other.cni("ADD")
        # the runtime tries again, and again, each time with a new sandbox
        assert m.web.cni("ADD", check=False).returncode
        m.web.cni("ADD")
        wait_for(lambda: stock.pod(m.web)["proxy"] == "serving", "the pod to be served")
        assert ask(m.shop, m.web.ip)[0] == m.shop.ip
        assert re.findall(r"(?:ADD|DEL) uid-web", p.text()) == ["ADD uid-web", "DEL uid-web"] * 2 + ["ADD uid-web"]


def test_a_port_of_the_proxy_that_a_process_of_the_pod_has_taken():
    with stock_mesh(proxy=False) as (m, stock):
        stock.start()
        thief = m.web.server("import socket; s = socket.socket(socket.AF_INET6); s.bind(('::', 15006)); s.listen();"
                             "print('READY', flush=True)\nimport time; time.sleep(100)")
        r = m.web.cni("ADD", check=False)
        assert r.returncode and "proxy_refused_pod" in r.stdout and "in use" in r.stdout
        thief.kill()
        m.web.cni("ADD")
        # one that joins the port afterwards, as root can, gets nothing
        thief = m.web.server("import socket; s = socket.socket(socket.AF_INET6)\ns.setsockopt(1, socket.SO_REUSEPORT, 1)\n"
                             "s.bind(('::', 15006)); s.listen(); print('READY', flush=True)\nwhile True: print('STOLEN', s.accept())")
        for _ in range(20):
            assert ask(m.shop, m.web.ip)[0] == m.shop.ip
        assert "STOLEN" not in thief.text()


def test_a_pod_leaves_and_comes_back():
    with stock_mesh() as (m, stock):
        p = stock.all[0][0]
        long = [m.web.popen("/usr/bin/python3", "-u", "-c", LONG, m.shop.ip, str(PORT)),
                m.shop.popen("/usr/bin/python3", "-u", "-c", LONG, m.web.ip, str(PORT))]
        for one in long:
            wait_for(lambda o=one: "WORD 2" in o.text(), "the long connection")
        m.labels = {}
        m.write()
        wait_for(lambda: stock.pod(m.web)["state"] == "draining", "the pod to leave")
        wait_for(lambda: stock.pod(m.other)["state"] == "outside", "the pod without connections to be outside")
        before = p.text().count("OUT")
        assert ask(m.web, m.shop.ip)[0] == m.web.ip and p.text().count("OUT") == before
        for one in long:  # what was carried goes on
            n = one.text().count("WORD")
            wait_for(lambda o=one, n=n: o.text().count("WORD") > n + 5, "the connection to go on")
        assert "DEL uid-web" not in p.text()
        m.labels = {"istio.io/dataplane-mode": "ambient"}
        m.write()
        for pod in (m.web, m.other):
            wait_for(lambda q=pod: stock.pod(q)["state"] == "enrolled" and stock.pod(q)["proxy"] == "serving", "the pod's return")
        assert ask(m.web, m.shop.ip)[0] == m.web.ip and p.text().count("OUT") == before + 1
        for one in long:
            assert one.alive(), one.text()
            one.kill()
        m.labels = {}
        m.write()
        wait_for(lambda: "DEL uid-web" in p.text() and stock.pod(m.web)["state"] == "outside", "the pod to be outside", 15)
        wait_for(lambda: ":15006" not in sh("ip", "netns", "exec", m.web.netns, "ss", "-tln"), "the proxy to close its listeners")
        assert "fwmark 0x111" not in sh("ip", "-n", m.web.netns, "rule")


# ---- proxies come and go ----

def test_killed_it_fails_closed_and_comes_back():
    with stock_mesh() as (m, stock):
        stock.all[0][0].kill()
        wait_for(lambda: not stock.proxies(), "the agent to notice")
        wait_for(lambda: stock.exempt() == [], "its cgroup to be taken out")
        server = m.shop.processes[0]
        got = server.text().count("GOT")
        assert ask(m.shop, m.web.ip)[0] in ("ConnectionRefusedError", "ConnectionResetError")
        assert ask(m.web, m.shop.ip)[0] == "TimeoutError"
        assert ask(m.web, m.shop.ip6)[0] == "TimeoutError"
        assert server.text().count("GOT") == got  # nothing went past the mesh
        pod = wait_for(lambda: (p := stock.pod(m.web))["lastReason"] == "proxy_away" and p, "the reason")
        # nobody has broken the capture, and nothing of it was mended
        assert pod["state"] == "enrolled" and pod["proxy"] == "not_connected" and not pod["mends"]
        assert "proxy_away" in stock.node.ctl("explain", "demo/web", check=False).stdout
        assert m.web.cni("CHECK").returncode == 0
        waiting = m.web.popen("/usr/bin/python3", "-u", "-c", LONG, m.shop.ip, str(PORT))
        time.sleep(0.5)
        stock.start()
        wait_for(lambda: stock.pod(m.web)["lastReason"] == "none", "the reason to go")
        assert ask(m.shop, m.web.ip)[0] == m.shop.ip and ask(m.web, m.shop.ip)[0] == m.web.ip
        wait_for(lambda: "WORD" in waiting.text(), "a connection that began meanwhile")
        assert not stock.pod(m.web)["mends"]


def test_upgrade_loses_nothing():
    with stock_mesh() as (m, stock):
        old = stock.all[0][0]
        streams = [m.shop.popen("/usr/bin/python3", "-u", "-c", STREAM, m.web.ip, str(PORT)),
                   m.web.popen("/usr/bin/python3", "-u", "-c", STREAM, m.shop.ip6, str(PORT))]
        long = m.shop.popen("/usr/bin/python3", "-u", "-c", LONG, m.web.ip, str(PORT))
        wait_for(lambda: "WORD 1" in long.text(), "the long connection")
        for _ in range(2):
            new = stock.start()
            old.p.send_signal(signal.SIGTERM)
            n = len(old.text())
            wait_for(lambda p=new: " ".join((m.shop.ip, m.web.ip, str(PORT))) in p.text(), "the new one to carry connections")
            words = long.text().count("WORD")
            wait_for(lambda w=words: long.text().count("WORD") > w + 3, "the long connection to go on")
            if old is not stock.all[0][0]:
                wait_for(lambda o=old: not o.alive(), "the old one to end")
            assert "OUT" not in old.text()[n + 200:]
            old = new
        long.kill()
        wait_for(lambda: not stock.all[0][0].alive(), "the first one to end once nothing is left")
        wait_for(lambda: stock.exempt() == [old.pid], "the cgroups of those that ended to be taken out")
        for s in streams:
            assert s.stop() == 0
            assert "FAILED" not in s.text() and "DONE" in s.text(), s.text()


def test_the_youngest_serves_and_the_older_one_again_when_it_dies():
    with stock_mesh() as (m, stock):
        old = stock.all[0][0]
        new = stock.start()
        assert ask(m.shop, m.web.ip)[0] == m.shop.ip and f"IN {m.shop.ip} {m.web.ip}" in new.text()
        late = m.pod("late")
        m.write()
        time.sleep(0.5)
        late.cni("ADD")
        late.server(SERVER, str(PORT))
        new.kill()
        stock.wait_serving(old)
        assert ask(m.shop, m.web.ip)[0] == m.shop.ip and f"IN {m.shop.ip} {m.web.ip}" in old.text()
        # it knows the pod that was added meanwhile, too
        assert ask(m.shop, late.ip)[0] == m.shop.ip and f"IN {m.shop.ip} {late.ip}" in old.text()
        late.cni("DEL")
        wait_for(lambda: "DEL uid-late" in old.text(), "the pod to be deleted")


def test_the_agent_restarts():
    with stock_mesh() as (m, stock):
        p = stock.all[0][0]
        streams = [m.shop.popen("/usr/bin/python3", "-u", "-c", STREAM, m.web.ip, str(PORT)),
                   m.web.popen("/usr/bin/python3", "-u", "-c", STREAM, m.shop.ip, str(PORT))]
        for s in streams:
            wait_for(lambda s=s: "READY" in s.text(), "the stream")
        stock.node.agent.kill()
        time.sleep(0.5)
        assert ask(m.web, m.shop.ip)[0] == m.web.ip  # what is pinned steers on, and exempts
        stock.start_agent()
        stock.wait_serving(p)
        for pod in (m.web, m.other):
            wait_for(lambda q=pod: stock.pod(q)["proxy"] == "serving", "the pod to be served")
        # gone while the agent was away: what it had exempted is forgotten
        stock.node.agent.stop()
        stock.spawn(["sleep", "60"])
        inode = os.stat(stock.all[1][1]).st_ino
        sh("bpftool", "map", "update", "pinned", f"{stock.node.pin_dir}/maps/proxy_cgroups", "key",
           *[f"0x{b:02x}" for b in inode.to_bytes(8, "little")], "value", "1", "0", "0", "0")
        assert len(stock.exempt()) == 2
        stock.start_agent()
        stock.wait_serving(p)
        assert stock.exempt() == [p.pid]
        for s in streams:
            assert s.stop() == 0
            assert "FAILED" not in s.text(), s.text()


def test_listeners_that_somebody_destroys():
    with stock_mesh() as (m, stock):
        sh("ip", "netns", "exec", m.web.netns, "ss", "-K", "-tl", "sport", "=", ":15006")
        wait_for(lambda: stock.pod(m.web)["mends"].get("listener_closed"), "the agent to find it")
        wait_for(lambda: ask(m.shop, m.web.ip)[0] == m.shop.ip, "the listener to be back")


# ---- proxies that do not keep the rules ----

RAW = r"""
import array, os, socket, sys, time
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.connect(sys.argv[1])
s.settimeout(9)
what = sys.argv[2]
HELLO, ACK = b"\x08\x01", b"\x0a\x00"
begin = time.monotonic()
def until_end():
    try:
        while s.recv(2048):
            pass
    except ConnectionError:
        pass
    print("ENDED", time.monotonic() - begin, flush=True)
if what == "silent":
    pass
elif what == "bad hello":
    s.send(b"\xff\xff\xff")
elif what == "no version":
    s.send(b"\x08\x00")
elif what == "huge":
    s.send(HELLO + b"\x1a" + bytes(2000))
else:
    s.send(HELLO)
    first = s.recv(2048)
    begin = time.monotonic()
    if what == "no answer":
        pass
    elif what == "bad answer":
        s.send(b"\x12\xff")
    elif what == "descriptor":
        s.sendmsg([ACK], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0]))])
    elif what == "two answers":
        try:
            for _ in range(9):
                s.send(ACK)
        except BrokenPipeError:
            pass
    elif what == "only yes":
        for _ in range(8):
            s.send(ACK)
            s.recv(2048)
until_end()
"""


@pytest.mark.parametrize("what,seconds", [("silent", 5), ("bad hello", 0), ("no version", 0), ("huge", 0), ("no answer", 5),
                                          ("bad answer", 0), ("descriptor", 0), ("two answers", 0)])
def test_broken_rules_end_the_connection_alone(running, what, seconds):
    m, stock = running
    raw = stock.spawn(["/usr/bin/python3", "-u", "-c", RAW, stock.socket, what])
    wait_for(lambda: "ENDED" in raw.text(), "the agent to end the connection", 15)
    took = float(raw.text().split()[1])
    assert seconds - 0.5 < took < seconds + 2.5
    raw.stop()
    assert "reason=zds_protocol" in stock.node.agent.text()
    assert ask(m.web, m.shop.ip)[0] == m.web.ip  # the other one serves on
    wait_for(lambda: [p["pid"] for p in stock.proxies()] == [stock.all[0][0].pid], "it alone to be left")


def test_a_proxy_that_says_yes_and_does_not_listen():
    """The pods are not steered to nobody: it gets none, and a pod is not enrolled with it."""
    with stock_mesh(proxy=False) as (m, stock):
        liar = stock.spawn(["/usr/bin/python3", "-u", "-c", RAW, stock.socket, "only yes"])
        wait_for(lambda: stock.proxies() and stock.proxies()[0]["state"] == "serving", "it to be believed")
        r = m.web.cni("ADD", check=False)
        assert r.returncode and "proxy_listeners_missing" in r.stdout, r.stdout
        liar.kill()


def test_a_proxy_without_a_cgroup_of_its_own(running):
    """Exempt would be whoever is in the cgroup with it: here, all pods."""
    m, stock = running
    for cgroup in (stock.node.cgroup, m.cgroup):
        p = Process(["/usr/bin/python3", "-u", "-c", RAW, stock.socket, "only yes"], f"{m.dir}/cgroup.log", netns=stock.node.netns,
                    cgroup=cgroup)
        wait_for(lambda p=p: not p.alive() or "ENDED" in p.text(), "it to be refused")
        p.kill()
    assert "reason=proxy_cgroup" in stock.node.agent.text() and "is not below" in stock.node.agent.text()
    assert stock.exempt() == [stock.all[0][0].pid] or set(stock.exempt()) <= {p.pid for p, _ in stock.all}
    assert len(stock.proxies()) == 1


def test_somebody_who_is_not_root(running):
    _, stock = running
    os.chmod(os.path.dirname(stock.socket), 0o755)
    os.chmod(stock.mesh.dir, 0o755)
    mode = os.stat(stock.socket).st_mode & 0o777
    assert mode == 0o600
    os.chmod(stock.socket, 0o666)
    try:
        r = subprocess.run(["setpriv", "--reuid", "65534", "--clear-groups", "/usr/bin/python3", "-c", RAW, stock.socket, "only yes"],
                           capture_output=True, text=True, timeout=20)
    finally:
        os.chmod(stock.socket, mode)
    assert "ENDED" in r.stdout or r.returncode
    assert len(stock.proxies()) == 1


def test_a_proxy_of_ours_is_sent_away(running):
    m, stock = running
    p = stock.node.start_proxy(wait=False)
    try:
        wait_for(lambda: "a bruma-proxy is sent away" in stock.node.agent.text(), "the agent's word")
        assert ask(m.web, m.shop.ip)[0] == m.web.ip
        assert [o["kind"] for o in stock.proxies()] == ["ztunnel"]
    finally:
        p.kill()


# ---- many ----

def descriptors(p):
    return len(os.listdir(f"/proc/{p.pid}/fd"))


def test_pods_that_come_and_go_leave_nothing():
    with stock_mesh() as (m, stock):
        p, agent = stock.all[0][0], stock.node.agent
        before = None
        for turn in range(4):
            pods = [m.pod(f"t{turn}p{i}") for i in range(8)]  # the same addresses each turn
            m.write()
            # Else they begin as "default", and a stock proxy is told of them anew as soon as their account is known.
            wait_for(lambda: agent_call(stock.node, {"op": "status"})[0]["workloads"] == 2 + len(pods), "the agent to know of them")
            for pod in pods:
                wait_for(lambda pod=pod: pod.cni("ADD", check=False).returncode == 0, "the pod to be added")
                pod.server(SERVER, str(PORT))
                assert ask(pods[0], pod.ip)[0] == pods[0].ip
            for i, pod in enumerate(pods):
                if i % 2:  # the namespace goes, and nobody says so
                    pod.enrolled = False
                else:
                    pod.cni("DEL")
                m.nodes[0].pods.remove(pod)
                pod.destroy()
            m.nodes[0].addresses -= len(pods)
            m.write()
            wait_for(lambda: agent_call(stock.node, {"op": "status"})[0]["workloads"] == 2, "the agent to know that they went")
            wait_for(lambda: len(agent_call(stock.node, {"op": "pods"})) == 2, "the agent to forget them")
            for pod in pods:
                wait_for(lambda pod=pod: p.text().count(f"DEL {pod.uid}") == p.text().count(f"ADD {pod.uid}"), "all to be let go")
            if before is None:
                before = wait_for(lambda: (n := (descriptors(agent), descriptors(p))) and (time.sleep(0.5) or n == (
                    descriptors(agent), descriptors(p))) and n, "both to be at rest")
        wait_for(lambda: descriptors(agent) <= before[0] and descriptors(p) <= before[1], "no descriptor to be left")
        assert len(json.loads(sh("bpftool", "-j", "map", "dump", "pinned", f"{stock.node.pin_dir}/maps/pods"))) == 2
        assert len(os.listdir(f"{stock.node.pin_dir}/pods")) == 2


def test_a_hundred_pods_in_the_snapshot():
    """They are told of one after the other; those that have been told of are served meanwhile."""
    with Mesh(nodes=1) as m:
        pods = [m.pod(f"p{i}") for i in range(100)]
        m.write()
        stock = Stock(m)
        try:
            stock.start_agent()
            p = stock.start()
            for pod in pods:
                pod.cni("ADD")
            p.kill()
            wait_for(lambda: not stock.proxies(), "the agent to notice")
            begin = time.monotonic()
            p = stock.start()
            took = time.monotonic() - begin
            assert p.text().count("ADD") == 100 and "SNAPSHOT 100" in p.text()
            assert all(o["proxy"] == "serving" for o in agent_call(stock.node, {"op": "pods"}))
            print(f"100 pods in {took:.2f} s, with the proxy's start")
        finally:
            stock.stop()


# ---- Bruma's proxy as a stock one ----

def test_our_own_proxy_by_way_of_the_stock_socket():
    """bruma-proxy with INPOD_UDS opens its listeners itself, as a stock one does."""
    with stock_mesh(proxy=False) as (m, stock):
        env = {**stock.node.proxy_env(), "INPOD_UDS": stock.socket}
        del env["BRUMA_RUN_DIR"]
        p = stock.spawn([program("bruma-proxy")], env=env)
        stock.wait_serving(p)
        for pod in (m.web, m.other):
            pod.cni("ADD")
        for client, server in ((m.web, m.shop), (m.shop, m.web), (m.web, m.other), (m.web, m.web)):
            for six in (False, True):
                address = server.ip6 if six else server.ip
                wait_for(lambda c=client, a=address, s=six: ask(c, a)[0] == (c.ip6 if s else c.ip), f"{client.name} to {address}")
        assert m.other.identity in p.text()
        p.kill()
        assert ask(m.shop, m.web.ip)[0] in ("ConnectionRefusedError", "ConnectionResetError")


# ---- from one kind to the other ----

def test_from_our_proxy_to_a_stock_one_and_back():
    with stock_mesh(proxy=False) as (m, stock):
        stock.node.agent.stop()
        stock.node.start_agent()
        stock.node.start_proxy()
        for pod in (m.web, m.other):
            pod.cni("ADD")
        assert ask(m.web, m.shop.ip)[0] == m.web.ip
        streams = [m.shop.popen("/usr/bin/python3", "-u", "-c", STREAM, m.web.ip, str(PORT)),
                   m.web.popen("/usr/bin/python3", "-u", "-c", STREAM, m.shop.ip, str(PORT))]
        for s in streams:
            wait_for(lambda s=s: "READY" in s.text(), "the stream")
        stock.node.agent.stop()
        stock.start_agent()
        p = stock.start()
        wait_for(lambda: stock.pod(m.web)["proxy"] == "serving", "the stock proxy to serve")
        wait_for(lambda: f"IN {m.shop.ip} {m.web.ip}" in p.text() and f"OUT {m.web.ip} {m.shop.ip}" in p.text(), "its work")
        time.sleep(0.5)
        stock.node.proxy.stop()
        time.sleep(0.5)
        stock.node.agent.stop()
        stock.node.start_agent()
        stock.node.start_proxy()
        wait_for(lambda: stock.pod(m.web)["proxy"] == "serving", "our proxy to serve")
        p.stop()
        for s in streams:
            assert s.stop() == 0
            assert "FAILED" not in s.text(), s.text()


# ---- a real ztunnel ----

# control plane and CA listen on the node's loopback alone: passes their port on into a namespace
RELAY = r"""
import ctypes, os, socket, sys, threading
listener = socket.create_server(("localhost", 15012))
if ctypes.CDLL(None).setns(os.open(sys.argv[1], os.O_RDONLY), 0x40000000):
    sys.exit("setns")
print("READY", flush=True)
def pump(a, b):
    try:
        while chunk := a.recv(65536):
            b.sendall(chunk)
        b.shutdown(socket.SHUT_WR)
    except OSError:
        a.close(), b.close()
def serve(a):
    try:
        b = socket.create_connection(("127.0.0.1", 15012))
    except OSError:
        return a.close()
    threading.Thread(target=pump, args=(b, a), daemon=True).start()
    pump(a, b)
while True:
    threading.Thread(target=serve, args=listener.accept()[:1], daemon=True).start()
"""


class Ztunnel(Stock):
    """Each in a network namespace of its own, as a pod has one: two of them want the same ports. Control plane and certificate
    authority are those of the agent of the node."""

    def __init__(self, mesh):
        super().__init__(mesh)
        self.namespaces, self.relays = {}, []

    def stop(self):
        super().stop()
        for p in self.relays:
            p.kill()
        for name in self.namespaces.values():
            sh("ip", "netns", "del", name)

    def place(self):
        name = f"{self.mesh.prefix}-zt{len(self.all)}"
        sh("ip", "netns", "add", name)
        sh("ip", "-n", name, "link", "set", "lo", "up")
        relay = Process(["/usr/bin/python3", "-u", "-c", RELAY, f"/run/netns/{self.node.netns}"], f"{self.mesh.dir}/{name}.log",
                        netns=name)
        self.relays.append(relay)
        wait_for(lambda: "READY" in relay.text() or not relay.alive(), "the relay to the control plane")
        assert relay.alive(), relay.text()
        return name

    def http(self, p, port, path):
        with inside(self.namespaces[p.pid]):
            s = socket.create_connection(("127.0.0.1", port), timeout=5)
        with s:
            s.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            data = b""
            while chunk := s.recv(65536):
                data += chunk
        return int(data.split()[1]), data.decode()

    def config_dump(self, p):
        return self.http(p, 15000, "/config_dump")[1]

    def start(self, wait=True, **env):
        control = f"{self.node.run_dir}/control"
        settings = {"PATH": os.environ["PATH"], "RUST_LOG": "info", "NODE_NAME": self.node.name, "CLUSTER_ID": "Kubernetes",
                    "INPOD_UDS": self.socket, "XDS_ADDRESS": "https://localhost:15012", "XDS_ROOT_CA": f"{control}/root-cert.pem",
                    "CA_ADDRESS": "https://localhost:15012", "CA_ROOT_CA": f"{control}/root-cert.pem",
                    "AUTH_TOKEN": f"{control}/token", "ZTUNNEL_WORKER_THREADS": "2", "TERMINATION_GRACE_PERIOD_SECONDS": "20", **env}
        name = self.place()
        p = self.spawn([ZTUNNEL, "proxy"], env=settings, netns=name)
        self.namespaces[p.pid] = name
        if wait:
            self.wait_serving(p)
            wait_for(lambda: self.ready(p), "ztunnel to be ready", 60)
        return p

    def ready(self, p):
        assert p.alive(), p.text()[-3000:]
        try:
            return self.http(p, 15021, "/healthz/ready")[0] == 200
        except OSError:
            return False

    def access(self, *needles):
        """Lines of the access log of all that ran."""
        return [line for p, _ in self.all for line in p.text().splitlines() if "access" in line and all(n in line for n in needles)]


@contextlib.contextmanager
def ztunnel_mesh():
    """web and other under ztunnel on node 1, shop under Bruma's proxy on node 2, far outside the mesh there."""
    with Mesh(nodes=2) as m:
        m.web, m.other, m.shop = m.pod("web"), m.pod("other"), m.pod("shop", node=1)
        m.far = m.pod("far", node=1, namespace="outside")
        m.far.outside = True
        m.write()
        settle(*m.pods)
        zt = Ztunnel(m)
        try:
            zt.start_agent()
            m.nodes[1].start_agent()
            m.nodes[1].start_proxy()
            zt.start()
            for pod in (m.web, m.other, m.shop):
                pod.cni("ADD")
            for pod in m.pods:
                pod.server(SERVER, str(PORT))
            # until either side knows the other, and has certificates
            for client, server in ((m.web, m.shop), (m.shop, m.web)):
                wait_for(lambda a=client, b=server: ask(a, b.ip)[0] == a.ip and tunnelled(m, zt, a, b), "the first tunnels", 60)
            yield m, zt
        except BaseException:
            for p, _ in zt.all:
                print(f"--- {p.log}\n{p.text()[-6000:]}")
            raise
        finally:
            for pod in m.pods:
                for p in pod.processes:
                    p.kill()
            zt.stop()


def tunnelled(m, zt, client, server):
    """Bruma's side has seen an HBONE connection between the two, with both identities."""
    return [line for line in m.nodes[1].access_log() if client.identity in line and server.identity in line]


@pytest.fixture(scope="module")
def ztunnel():
    with ztunnel_mesh() as (m, zt):
        yield m, zt


@real
@pytest.mark.parametrize("six", [False, True])
def test_ztunnel_and_our_proxy_talk_hbone(ztunnel, six):
    m, zt = ztunnel

    def ip(pod):
        return pod.ip6 if six else pod.ip

    for client, server in ((m.web, m.shop), (m.shop, m.web), (m.other, m.shop), (m.shop, m.other)):
        before = len(tunnelled(m, zt, client, server))
        assert ask(client, ip(server))[0] == ip(client)
        wait_for(lambda n=before: len(tunnelled(m, zt, client, server)) > n, "the access log")


@real
def test_nothing_of_it_is_in_plaintext_on_the_wire(ztunnel):
    m, _ = ztunnel
    dump = Process(["timeout", "20", "tcpdump", "-i", "any", "-l", "--immediate-mode", "-n", "-A", "tcp"], f"{m.dir}/wire.log", netns=m.nodes[1].netns)
    wait_for(lambda: "listening on" in dump.text() or not dump.alive(), "tcpdump")
    for client, server in ((m.web, m.shop), (m.shop, m.web)):
        assert ask(client, server.ip)[0] == client.ip
    wait_for(lambda: f"{m.shop.ip}.15008" in dump.text() and f"{m.web.ip}.15008" in dump.text(), "the tunnels")
    assert ask(m.web, m.far.ip)[0] == m.web.ip
    wait_for(lambda: "hello" in dump.text(), "plaintext to outside the mesh: it can be seen")
    dump.stop()
    # with a payload, and between the two that are in the mesh
    pairs = [block for block in re.split(r"\n(?=\d\d:\d\d:)", dump.text()) if "hello" in block]
    assert pairs and all(m.far.ip in block for block in pairs)


@real
@pytest.mark.parametrize("six", [False, True])
def test_ztunnel_plaintext_and_pods_of_the_same_node(ztunnel, six):
    m, zt = ztunnel

    def ip(pod):
        return pod.ip6 if six else pod.ip

    for client, server in ((m.web, m.far), (m.far, m.web), (m.web, m.other), (m.other, m.web), (m.web, m.web)):
        assert ask(client, ip(server))[0] == ip(client), (client.name, server.name)
    wait_for(lambda: zt.access(m.web.identity, m.other.identity), "HBONE between the pods of the node")


@real
@pytest.mark.parametrize("six", [False, True])
def test_ztunnel_and_a_closed_port(ztunnel, six):
    m, _ = ztunnel
    for client, server in ((m.far, m.web), (m.shop, m.web), (m.other, m.web), (m.web, m.shop)):
        word, seconds = ask(client, server.ip6 if six else server.ip, port=PORT + 1)
        assert word in ("ConnectionResetError", "ConnectionRefusedError") or word.startswith("cut off"), word
        assert seconds < 3, (client.name, server.name, seconds)


@real
def test_ztunnel_and_policy(ztunnel):
    m, zt = ztunnel
    rule = [[[{"principals": [{"Exact": m.shop.identity.removeprefix("spiffe://")}]}]]]
    m.policies = [{"name": "only-shop", "namespace": "demo", "scope": "Namespace", "action": "Allow", "dryRun": False, "rules": rule}]
    m.write()
    try:
        wait_for(lambda: ask(m.far, m.web.ip)[0] != m.far.ip, "plaintext to be refused")
        wait_for(lambda: ask(m.other, m.web.ip)[0] != m.other.ip, "another identity to be refused")
        assert ask(m.shop, m.web.ip)[0] == m.shop.ip
    finally:
        m.policies = []
        m.write()
    wait_for(lambda: ask(m.other, m.web.ip)[0] == m.other.ip and ask(m.far, m.web.ip)[0] == m.far.ip, "the policy to be gone")


@real
def test_ztunnel_large_transfers(ztunnel):
    """8 MiB each way, over the tunnel, whole."""
    m, _ = ztunnel
    m.shop.server("import socket\ns = socket.create_server(('', 8181))\nprint('READY', flush=True)\nimport hashlib\n"
                  "while True:\n c, _ = s.accept()\n h = hashlib.sha256(); n = 0\n"
                  " while n < 8 << 20:\n  d = c.recv(65536)\n  if not d: break\n  n += len(d); h.update(d)\n"
                  " c.sendall(h.digest() + bytes(8 << 20)); c.close()")
    code = f"""
import hashlib, os, socket, threading
data = os.urandom(8 << 20)
s = socket.create_connection(("{m.shop.ip}", 8181)); s.settimeout(60)
s.sendall(data)
back = b""
while chunk := s.recv(1 << 20): back += chunk
print(back[:32] == hashlib.sha256(data).digest() and len(back) == 32 + (8 << 20))
"""
    assert m.web.python(code, timeout=120).strip() == "True"


# eight at a time; prints how many were good
BURST = r"""
import socket, sys, threading
good = []
def run():
    for i in range(int(sys.argv[3])):
        try:
            with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20) as s:
                s.settimeout(20)
                s.sendall(b"x")
                f = s.makefile("rb")
                f.readline()
                if f.read(1) == b"x":
                    good.append(1)
        except OSError as e:
            print(e, file=sys.stderr)
threads = [threading.Thread(target=run) for _ in range(8)]
for t in threads: t.start()
for t in threads: t.join()
print(len(good))
"""


@real
def test_ztunnel_ports_of_the_application_and_of_its_proxy_never_meet(ztunnel):
    """Passed on under the same address to the same place: each time one of them had the other's port it hung, once in thousands."""
    m, _ = ztunnel
    for address in (m.far.ip, m.far.ip6):
        assert m.web.python(BURST, address, str(PORT), "800", timeout=200).strip() == "6400"


@real
def test_ztunnel_leaves_and_rejoins():
    with ztunnel_mesh() as (m, zt):
        long = m.web.popen("/usr/bin/python3", "-u", "-c", LONG, m.shop.ip, str(PORT))
        wait_for(lambda: "WORD 2" in long.text(), "the long connection")
        m.labels = {}
        m.write()
        wait_for(lambda: zt.pod(m.web)["state"] == "draining" and zt.pod(m.other)["state"] == "outside", "the pods to leave")
        assert ask(m.web, m.far.ip)[0] == m.web.ip
        n = long.text().count("WORD")
        wait_for(lambda: long.text().count("WORD") > n + 5, "the connection to go on")
        m.labels = {"istio.io/dataplane-mode": "ambient"}
        m.write()
        wait_for(lambda: zt.pod(m.web)["proxy"] == "serving" and zt.pod(m.other)["proxy"] == "serving", "the pods' return")
        before = len(tunnelled(m, zt, m.web, m.shop))
        wait_for(lambda: ask(m.web, m.shop.ip)[0] == m.web.ip and len(tunnelled(m, zt, m.web, m.shop)) > before, "a tunnel")
        assert long.alive()


@real
def test_ztunnel_killed_restarted_and_upgraded():
    with ztunnel_mesh() as (m, zt):
        first = zt.all[0][0]
        # upgraded: a second one beside it, then the first is told to end
        streams = [m.shop.popen("/usr/bin/python3", "-u", "-c", STREAM, m.web.ip, str(PORT)),
                   m.web.popen("/usr/bin/python3", "-u", "-c", STREAM, m.shop.ip, str(PORT)),
                   m.far.popen("/usr/bin/python3", "-u", "-c", STREAM, m.web.ip6, str(PORT))]
        for s in streams:
            wait_for(lambda s=s: "READY" in s.text(), "the stream")
        second = zt.start()
        first.p.send_signal(signal.SIGTERM)
        wait_for(lambda: not first.alive(), "the first one to end", 40)
        time.sleep(1)
        for s in streams:
            assert s.stop() == 0
            assert "FAILED" not in s.text(), s.text()
        assert zt.exempt() == [second.pid]
        # killed: closed, and open again with the next one
        second.kill()
        wait_for(lambda: not zt.proxies(), "the agent to notice")
        got = m.shop.processes[0].text().count("GOT")
        assert ask(m.far, m.web.ip)[0] in ("ConnectionRefusedError", "ConnectionResetError")
        assert ask(m.web, m.shop.ip)[0] == "TimeoutError" and m.shop.processes[0].text().count("GOT") == got
        wait_for(lambda: zt.pod(m.web)["lastReason"] == "proxy_away", "the reason")
        assert not zt.pod(m.web)["mends"]
        zt.start()
        wait_for(lambda: ask(m.web, m.shop.ip)[0] == m.web.ip and ask(m.shop, m.web.ip)[0] == m.shop.ip, "its return", 30)
        # a pod that comes and one that goes
        late = m.pod("late")
        m.write()
        wait_for(lambda: late.cni("ADD", check=False).returncode == 0, "the pod to be enrolled")
        late.server(SERVER, str(PORT))
        wait_for(lambda: ask(m.shop, late.ip)[0] == m.shop.ip, "the pod to be reached")
        late.cni("DEL")
        wait_for(lambda: "uid-late" not in zt.config_dump(zt.all[-1][0]), "ztunnel to let the pod go")


@real
def test_ztunnel_outlives_the_agent():
    with ztunnel_mesh() as (m, zt):
        streams = [m.shop.popen("/usr/bin/python3", "-u", "-c", STREAM, m.web.ip, str(PORT)),
                   m.far.popen("/usr/bin/python3", "-u", "-c", STREAM, m.web.ip, str(PORT))]
        for s in streams:
            wait_for(lambda s=s: "READY" in s.text(), "the stream")
        zt.node.agent.kill()
        time.sleep(1)
        zt.start_agent()
        zt.wait_serving(zt.all[0][0])
        time.sleep(1)
        for s in streams:
            assert s.stop() == 0
            assert "FAILED" not in s.text(), s.text()
