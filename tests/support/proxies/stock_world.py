# SPDX-License-Identifier: Apache-2.0
"""Stock node proxies under Bruma's steering, for tests: node 1 has one, or several; node 2 an agent and a
proxy of Bruma's, or nothing. They are stock_proxy.py, which shares no code with Bruma, or real ztunnels,
whose program BRUMA_ZTUNNEL names."""

import contextlib
import json
import os
import socket

from support import agent, pages
from support.network import inside
from support.nodes.mesh import Mesh
from support.proxies import stock_proxy
from support.system import Process, sh, wait_for

ZTUNNEL = os.environ.get("BRUMA_ZTUNNEL")
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
# prints the client's address as the server saw it, or the error; "mark" as third argument sets the proxy's
# mark
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
# one long connection: prints a line each time its word has come back; a second argument is the number of
# words
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
    """Proxies on one node of a mesh, the first where none is said, each in a cgroup of its own below the one whose connect() is
    captured. As a context it shows what they said if the test failed, and ends them and what runs in pods."""

    def __init__(self, mesh, node=0):
        self.mesh, self.node, self.all = mesh, mesh.nodes[node], []
        self.socket = f"{mesh.dir}/ztunnel{node or ''}/ztunnel.sock"

    def __enter__(self):
        return self

    def __exit__(self, failed, *_):
        if failed:
            for p, _ in self.all:
                print(f"--- {p.log}\n{p.text()[-6000:]}")
        for pod in self.mesh.pods:
            for p in pod.processes:
                p.kill()
        self.stop()

    def start_agent(self, *more):
        self.node.start_agent("--zds-socket", self.socket, *more)

    def spawn(self, argv, env=None, netns=None):
        cgroup = f"{self.node.cgroup}/ztunnel{len(self.all)}"
        os.makedirs(cgroup)
        p = Process(
            argv,
            f"{self.mesh.dir}/stock{self.node.number}-{len(self.all)}.log",
            netns=netns or self.node.netns,
            cgroup=cgroup,
            env=env,
        )
        self.all.append((p, cgroup))
        return p

    def start(self, *options, wait=True):
        p = self.spawn(["/usr/bin/python3", "-u", stock_proxy.__file__, self.socket, *options])
        if wait:
            wait_for(lambda: "SNAPSHOT" in p.text() or not p.alive(), "the proxy's snapshot")
            assert p.alive(), p.text()
            self.wait_serving(p)
        return p

    def wait_serving(self, p):
        """Until the agent says that this one serves."""
        wait_for(
            lambda: any(o["pid"] == p.pid and o["state"] == "serving" for o in self.proxies()),
            f"process {p.pid} to serve",
        )

    def proxies(self):
        return self.status()["proxies"]

    def status(self):
        return agent.ask(self.node.run_dir, "status")[0]

    def pod(self, pod):
        return next((p for p in agent.ask(self.node.run_dir, "pods") if p["name"] == pod.name), None)

    def exempt(self):
        """Process ids in the map of exempt cgroups, as bpftool sees it."""
        entries = json.loads(
            sh("bpftool", "-j", "map", "dump", "pinned", f"{self.node.pin_dir}/maps/proxy_cgroups")
        )
        return sorted(e["formatted"]["value"]["pid"] for e in entries)

    def stop(self):
        for p, _ in self.all:
            p.kill()
        for _, cgroup in self.all:
            wait_for(lambda c=cgroup: rmdir(c), f"{cgroup} to be empty")


def rmdir(path):
    with contextlib.suppress(OSError):
        os.rmdir(path)
    return not os.path.exists(path)


def settle(*pods):
    """Neighbour discovery of a bridge that is a moment old takes seconds: until every pod reaches every other
    at once."""
    for a in pods:
        for b in pods:
            wait_for(lambda a=a, b=b: ask(a, b.ip6, port=1)[1] < 0.5, f"{a.name} to reach {b.name}")


@contextlib.contextmanager
def stock_mesh(bruma=False, proxy=True):
    """web and other under a stock proxy on node 1, shop on node 2, under Bruma's proxy or outside the
    mesh."""
    with Mesh(nodes=2, agent_options=()) as m:
        m.web, m.other, m.shop = (
            m.pod("web"),
            m.pod("other"),
            m.pod("shop", node=1, namespace="demo" if bruma else "outside"),
        )
        m.shop.outside = not bruma
        m.write()
        settle(*m.pods)
        with Stock(m) as stock:
            stock.start_agent()
            if proxy:
                stock.start()
                for pod in (m.web, m.other):
                    pod.cni("ADD")
            for pod in (m.web, m.other, m.shop):
                pod.server(SERVER, str(PORT))
            yield m, stock


# ---- real ztunnels ----

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
    """Each in a network namespace of its own, as a pod has one: two of them want the same ports. Control
    plane and certificate authority are those of the agent of the node."""

    def __init__(self, mesh, program, node=0):
        super().__init__(mesh, node)
        self.program, self.namespaces, self.relays = program, {}, []

    def stop(self):
        super().stop()
        for p in self.relays:
            p.kill()
        for name in self.namespaces.values():
            sh("ip", "netns", "del", name)

    def place(self):
        name = f"{self.node.netns}-zt{len(self.all)}"
        sh("ip", "netns", "add", name)
        sh("ip", "-n", name, "link", "set", "lo", "up")
        relay = Process(
            ["/usr/bin/python3", "-u", "-c", RELAY, f"/run/netns/{self.node.netns}"],
            f"{self.mesh.dir}/{name}.log",
            netns=name,
        )
        self.relays.append(relay)
        wait_for(lambda: "READY" in relay.text() or not relay.alive(), "the relay to the control plane")
        assert relay.alive(), relay.text()
        return name

    def http(self, p, port, path):
        with inside(self.namespaces[p.pid]):
            s = socket.create_connection(("127.0.0.1", port), timeout=5)
        status, body = pages.get(s, path)
        return status, body.decode()

    def config_dump(self, p):
        return self.http(p, 15000, "/config_dump")[1]

    def start(self, wait=True, **env):
        control = f"{self.node.run_dir}/control"
        settings = {
            "PATH": os.environ["PATH"],
            "RUST_LOG": "info",
            "NODE_NAME": self.node.name,
            "CLUSTER_ID": "Kubernetes",
            "INPOD_UDS": self.socket,
            "XDS_ADDRESS": "https://localhost:15012",
            "XDS_ROOT_CA": f"{control}/root-cert.pem",
            "CA_ADDRESS": "https://localhost:15012",
            "CA_ROOT_CA": f"{control}/root-cert.pem",
            "AUTH_TOKEN": f"{control}/token",
            "ZTUNNEL_WORKER_THREADS": "2",
            "TERMINATION_GRACE_PERIOD_SECONDS": "20",
            **env,
        }
        name = self.place()
        p = self.spawn([self.program, "proxy"], env=settings, netns=name)
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
        return [
            line
            for p, _ in self.all
            for line in p.text().splitlines()
            if "access" in line and all(n in line for n in needles)
        ]


@contextlib.contextmanager
def ztunnel_mesh(program=ZTUNNEL):
    """web and other under ztunnel on node 1, shop under Bruma's proxy on node 2, far outside the mesh
    there."""
    with Mesh(nodes=2) as m:
        m.web, m.other, m.shop = m.pod("web"), m.pod("other"), m.pod("shop", node=1)
        m.far = m.pod("far", node=1, namespace="outside")
        m.far.outside = True
        m.write()
        settle(*m.pods)
        with Ztunnel(m, program) as zt:
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
                wait_for(
                    lambda a=client, b=server: ask(a, b.ip)[0] == a.ip and tunnelled(m, zt, a, b),
                    "the first tunnels",
                    60,
                )
            yield m, zt


def tunnelled(m, zt, client, server):
    """Bruma's side has seen an HBONE connection between the two, with both identities."""
    return [line for line in m.nodes[1].access_log() if client.identity in line and server.identity in line]
