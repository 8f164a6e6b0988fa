# SPDX-License-Identifier: Apache-2.0
"""Everything at a time, for BRUMA_CHAOS_SECONDS (10): traffic that ends in every way, peers that break the
protocol or ask for new keys, clients that are killed, policies and workloads that change, pods that come and
go, agents and proxies that begin anew. What is asserted is little: nobody dies, what applications that behave
get back is what they sent, and afterwards everything works. With a build of `-Db_sanitize=address,undefined`
it looks at memory, too: CONTRIBUTING.md says how."""

import contextlib
import glob
import os
import random
import signal
import socket
import struct
import subprocess
import threading
import time

import hpack

from support.network import inside
from support.nodes.mesh import Mesh, leaf
from support.nodes.pod_programs import ECHO
from support.programs import BUILD
from support.proxies.hbone import context
from support.system import Failed, wait_for

SECONDS = float(os.environ.get("BRUMA_CHAOS_SECONDS", "10"))
HBONE = 15008
KEY_UPDATES = os.path.abspath(os.path.join(BUILD, "tests", "e2e", "hostile-peer"))

# A server that answers at once and closes, resets, ends its direction or says nothing, as its turn has it.
RUDE = """
import itertools, socket, struct, sys, threading, time
s = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True, backlog=512)
print("READY", flush=True)
def serve(c, n):
    try:
        if n % 5 == 0:
            c.sendall(b"x" * 100000)
        elif n % 5 == 1:
            c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif n % 5 == 2:
            c.shutdown(socket.SHUT_WR)
            while c.recv(65536):
                pass
        elif n % 5 == 3:
            c.settimeout(1)
            c.sendall(b"y" * 5000000)
        else:
            time.sleep(0.5)
    except OSError:
        pass
    c.close()
for n in itertools.count():
    c, a = s.accept()
    threading.Thread(target=serve, args=(c, n), daemon=True).start()
"""

# Clients that do what is legal, and end in every way. Of those that behave, what comes back must be what was
# sent.
CLIENTS = """
import os, random, select, socket, struct, sys, threading, time
end, targets = time.monotonic() + float(sys.argv[1]), sys.argv[2:]
block = os.urandom(1 << 20)
wrong = []
def one(r):
    to, port = r.choice(targets), r.choice((8080, 8080, 8081, 8082))
    s = socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET)
    s.settimeout(5)
    way = r.randrange(8)
    if way == 0:
        s.setblocking(False)
        s.connect_ex((to, port))
        if r.random() < 0.5:
            time.sleep(r.random() / 100)
        if r.random() < 0.5:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        s.close()
        return
    if way == 1:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    s.connect((to, port))
    n = r.choice((0, 1, 100, 20000, 700000))
    at = r.randrange(1 << 18)
    sent = block[at:at + n]
    if way == 2:
        s.sendall(sent)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        s.close()
        return
    if way == 3:
        s.shutdown(socket.SHUT_WR)
        while s.recv(65536):
            pass
        return
    if way == 4:
        s.shutdown(socket.SHUT_RD)
    got, reader = bytearray(), []
    def read():
        try:
            while len(got) < n:
                c = s.recv(65536)
                if not c:
                    return
                got.extend(c)
        except OSError:
            pass
    t = threading.Thread(target=read, daemon=True)
    t.start()
    s.sendall(sent)
    t.join(5)
    if port == 8080 and bytes(got) != sent[:len(got)]:
        wrong.append(n)
    s.close()
def run(seed):
    r = random.Random(seed)
    while time.monotonic() < end:
        try:
            one(r)
        except OSError:
            time.sleep(0.01)
threads = [threading.Thread(target=run, args=(i + os.getpid(),)) for i in range(6)]
[t.start() for t in threads]
[t.join() for t in threads]
print("WRONG" if wrong else "RIGHT", flush=True)
"""


class Chaos:
    def __init__(self, mesh, seconds):
        self.mesh, self.end = mesh, time.monotonic() + seconds
        self.errors, self.threads, self.did = [], [], {}
        self.certificate = leaf(mesh, mesh.web.identity)
        self.lock = threading.Lock()

    def begin(self, function, *arguments, pause=0.05):
        def run():
            r = random.Random(f"{function.__name__}{arguments}")
            while time.monotonic() < self.end:
                try:
                    function(r, *arguments)
                    self.did[function.__name__] = self.did.get(function.__name__, 0) + 1
                except (OSError, EOFError):  # refused, reset, timed out: as may be
                    pass
                except Exception as e:
                    self.errors.append(f"{function.__name__}: {type(e).__name__}: {e}")
                    return
                time.sleep(pause)

        t = threading.Thread(target=run, daemon=True)
        t.start()
        self.threads.append(t)

    # ---- peers ----

    def tls(self):
        with inside(self.mesh.outside.netns):
            s = socket.create_connection((self.mesh.shop.ip, HBONE), timeout=2)
        return context(False, *self.certificate).wrap_socket(s)

    @staticmethod
    def frame(kind, flags, stream, payload=b""):
        return (
            struct.pack("!I", len(payload))[1:] + bytes([kind, flags]) + struct.pack("!I", stream) + payload
        )

    def frames(self, r):
        """A preface, and then frames that are mostly right."""
        t = self.tls()
        encoder = hpack.Encoder()
        head = encoder.encode(
            [(":method", "CONNECT"), (":authority", f"{self.mesh.shop.ip}:{r.choice((8080, 8081, 8082))}")]
        )
        f, out, last = self.frame, [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", self.frame(4, 0, 0)], 1
        for _ in range(r.randrange(1, 60)):
            what, sid = r.randrange(14), r.randrange(1, last + 4)
            if what < 4:
                out.append(f(1, 4 | (r.random() < 0.1), last, head))
                last += 2
            elif what == 4:
                out.append(
                    f(0, r.choice((0, 1, 8)), sid, bytes([r.randrange(8)]) + b"d" * r.randrange(16000))
                )
            elif what == 5:
                out.append(f(3, 0, sid, struct.pack("!I", r.randrange(14))))
            elif what == 6:
                out.append(f(8, 0, r.choice((0, sid)), struct.pack("!I", r.choice((1, 65535, 2**31 - 1)))))
            elif what == 7:
                out.append(f(6, 0, 0, b"12345678") * r.randrange(200))
            elif what == 8:
                out.append(
                    f(4, 0, 0, struct.pack("!HI", r.choice((1, 3, 4, 5)), r.choice((0, 1, 16384, 65535))))
                )
            elif what == 9:
                out.append(f(7, 0, 0, struct.pack("!II", r.choice((0, sid)), 0)))
            elif what == 10:
                out.append(f(1, 0, last, head[:5]) + f(9, 4, last, head[5:]))
                last += 2
            elif what == 11:
                out.append(f(r.randrange(256), r.randrange(256), sid, os.urandom(r.randrange(50))))
            elif what == 12:
                out.append(f(2, 0, sid, struct.pack("!IB", 0, 5)))
            else:
                out.append(
                    f(1, 4, last, head) + f(0, 0, last, b"z" * 9000) + f(3, 0, last, struct.pack("!I", 8))
                )
                last += 2
        with contextlib.closing(t):
            data = b"".join(out)
            while data:
                n = r.choice((1, 9, 100, 5000, 100000))
                t.sendall(data[:n])
                data = data[n:]
            if r.random() < 0.5:
                t.settimeout(0.3)
                t.recv(65536)
            if r.random() < 0.5:
                t.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def handshakes(self, r):
        with inside(self.mesh.outside.netns):
            s = socket.create_connection((r.choice((self.mesh.shop.ip, self.mesh.web.ip)), HBONE), timeout=2)
        with s:
            s.sendall(
                r.choice(
                    (
                        b"",
                        os.urandom(100),
                        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(r.randrange(600)),
                    )
                )
            )
            if r.random() < 0.5:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            time.sleep(r.choice((0, 0, 0.2)))

    def keys(self, r):
        with subprocess.Popen(
            [
                "nsenter",
                f"--net=/run/netns/{self.mesh.outside.netns}",
                KEY_UPDATES,
                self.mesh.shop.ip,
                str(HBONE),
                *self.certificate,
                str(r.choice((5, 50, 500))),
                "-d",
                str(r.choice((0, 600))),
                *(["-u"] if r.random() < 0.3 else []),
                "-c",
                f"{self.mesh.shop.ip}:8081",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as p:
            with contextlib.suppress(subprocess.TimeoutExpired):
                p.wait(r.random() * 2)
            p.kill()

    # ---- applications ----

    def clients(self, r, pod):
        others = [a for p in self.mesh.members if p is not pod for a in (p.ip, p.ip6)]
        p = pod.popen("/usr/bin/python3", "-c", CLIENTS, "4", *others, pod.ip)
        if r.random() < 0.5:
            time.sleep(r.random() * 3)
            p.kill()
            return
        p.popen.wait(30)
        assert p.popen.returncode == 0 and "RIGHT" in p.text(), p.text()[-2000:]

    # ---- what the operator does ----

    def policies(self, r):
        def deny(name, port):
            return {
                "name": name,
                "namespace": "demo",
                "scope": "Namespace",
                "action": "Deny",
                "rules": [[[{"destinationPorts": [port]}]]],
            }

        with self.lock:
            self.mesh.policies = [deny(f"p{i}", r.choice((8081, 8082, 9999))) for i in range(r.randrange(3))]
            self.mesh.extra = [
                {
                    "uid": f"Kubernetes//Pod/demo/x{i}",
                    "name": f"x{i}",
                    "namespace": "demo",
                    "serviceAccount": "x",
                    "workloadIps": [f"10.250.{i // 250}.{i % 250 + 1}"],
                    "node": "far",
                }
                for i in range(r.randrange(800))
            ]
            self.mesh.write()
            if r.random() < 0.2:
                with open(self.mesh.file, "w") as f:
                    f.write(r.choice(("", "{", "workloads: 7\n", "a: &a [*a]\n", "\x00\xff")))

    def comes_and_goes(self, r):
        pod = self.mesh.guest
        pod.cni("DEL", check=False)
        time.sleep(r.random() / 2)
        pod.cni("ADD", check=False)

    def pages(self, r, node):
        for port, path in ((15020, "/metrics"), (15000, "/config_dump"), (15021, "/healthz/ready")):
            # an answer without a status, or without its end: of a proxy that was killed, or has ended
            with contextlib.suppress(IndexError, Failed):
                node.http(port, path)
        node.ctl("pods", check=False)
        node.ctl("status", check=False)

    def anew(self, r, node):
        time.sleep(r.random() * 2 + 1)
        which = r.randrange(4)
        with self.lock:
            self.mesh.write()
            if which == 0:
                if r.random() < 0.5:
                    node.agent.kill()
                elif node.agent.stop(60):
                    raise AssertionError(f"exit {node.agent.popen.returncode}: {node.agent.text()[-2000:]}")
                node.start_agent()
            elif which == 1:
                node.agent.popen.send_signal(signal.SIGSTOP)
                time.sleep(r.random() / 2)
                node.agent.popen.send_signal(signal.SIGCONT)
            elif which == 2:
                if r.random() < 0.5:
                    node.proxy.kill()
                elif node.proxy.stop(90):
                    raise AssertionError(f"exit {node.proxy.popen.returncode}: {said(node.proxy)}")
                node.start_proxy()
            else:
                node.proxy.popen.send_signal(signal.SIGSTOP)
                time.sleep(r.random() / 2)
                node.proxy.popen.send_signal(signal.SIGCONT)

    def wait(self):
        for t in self.threads:
            t.join(SECONDS + 120)
            assert not t.is_alive(), self.did


def said(process):
    """Without what is said of each connection."""
    return "\n".join([line for line in process.text().splitlines() if "\taccess\t" not in line][-30:])


def findings(log_path):
    return [open(f, errors="replace").read() for f in sorted(glob.glob(log_path + ".*"))]


def test_everything_at_a_time(tmp_path, monkeypatch):
    log_path = str(tmp_path / "sanitizer")
    options = {
        "ASAN_OPTIONS": f"log_path={log_path}:detect_leaks=1:handle_abort=1",
        "UBSAN_OPTIONS": f"log_path={log_path}:print_stacktrace=1:halt_on_error=0",
    }
    for name, value in options.items():
        monkeypatch.setenv(name, value)
    with Mesh(
        nodes=2,
        workers=2,
        proxy_env={
            **options,
            "BRUMA_HANDSHAKE_TIMEOUT": "2s",
            "BRUMA_LINGER_TIMEOUT": "1s",
            "CONNECTION_TERMINATION_DEADLINE": "3s",
        },
    ) as mesh:
        mesh.web, mesh.near, mesh.guest = mesh.pod("web"), mesh.pod("near"), mesh.pod("guest")
        mesh.shop = mesh.pod("shop", node=1)
        mesh.outside = mesh.pod("outside", node=0, namespace="outside")
        mesh.outside.outside = True
        mesh.members = [mesh.web, mesh.near, mesh.shop, mesh.guest]
        mesh.start()
        for pod in mesh.members:
            pod.server(ECHO, "8080")
            pod.server(RUDE, "8081")
        c = Chaos(mesh, SECONDS)
        for pod in (mesh.web, mesh.shop):
            c.begin(c.clients, pod)
        for _ in range(2):
            c.begin(c.frames)
        c.begin(c.handshakes)
        c.begin(c.keys)
        c.begin(c.policies, pause=0.3)
        c.begin(c.comes_and_goes, pause=0.3)
        for node in mesh.nodes:
            c.begin(c.pages, node, pause=0.3)
            c.begin(c.anew, node)
        c.wait()
        print(c.did)
        assert set(c.did) == {
            "clients",
            "frames",
            "handshakes",
            "keys",
            "policies",
            "comes_and_goes",
            "pages",
            "anew",
        }, c.did
        mesh.policies, mesh.extra = [], []
        mesh.write()
        assert not findings(log_path), "\n".join(findings(log_path))[:8000]
        assert not c.errors, c.errors
        for node in mesh.nodes:
            assert node.agent.alive() and node.proxy.alive(), said(node.proxy)
        mesh.guest.cni("ADD")
        echo = (
            "import socket,sys\ns=socket.create_connection((sys.argv[1],8080),10)\ns.sendall(b'well')\n"
            "print(s.recv(4).decode())"
        )
        for client, server in (
            (mesh.web, mesh.shop),
            (mesh.shop, mesh.web),
            (mesh.near, mesh.guest),
            (mesh.guest, mesh.shop),
        ):
            wait_for(
                lambda: client.run("/usr/bin/python3", "-c", echo, server.ip, check=False).stdout == "well\n",
                f"{client.name} to {server.name}",
                30,
            )
        for node in mesh.nodes:
            assert node.proxy.stop(90) == 0, node.proxy.text()[-3000:]
            assert node.agent.stop(60) == 0, node.agent.text()[-3000:]
        assert not findings(log_path), "\n".join(findings(log_path))[:8000]
