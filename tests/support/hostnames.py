# SPDX-License-Identifier: Apache-2.0
"""A mesh whose destinations have hostnames in place of addresses, and the DNS server that the proxy asks for them: dnsmasq,
and behind it servers that fail or are silent."""

import contextlib
import os
import signal

from support.nodes.mesh import TRUST_DOMAIN, Mesh
from support.nodes.pod_programs import ECHO
from support.system import sh, wait_for

# Ports of loopback: one answers SERVFAIL, one never.
FAULTY = r"""
import select, socket
bad, silent = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
bad.bind(("127.0.0.1", 5301))
silent.bind(("127.0.0.1", 5302))
print("READY", flush=True)
while True:
    data, peer = bad.recvfrom(65535)
    bad.sendto(data[:2] + b"\x81\x82" + data[4:6] + bytes(6) + data[12:], peer)
"""

# Opens so many connections at once, sends a byte on each, and prints how many came back.
MANY = r"""
import selectors, socket, sys
sel, open_ = selectors.DefaultSelector(), 0
for i in range(int(sys.argv[3])):
    s = socket.socket(socket.AF_INET)
    s.setblocking(False)
    s.connect_ex((sys.argv[1], int(sys.argv[2])))
    sel.register(s, selectors.EVENT_WRITE)
    open_ += 1
good = 0
while open_:
    ready = sel.select(15)
    if not ready:
        break
    for key, events in ready:
        s = key.fileobj
        try:
            if events & selectors.EVENT_WRITE:
                s.sendall(b"x")
                sel.modify(s, selectors.EVENT_READ)
                continue
            good += s.recv(1) == b"x"
        except OSError:
            pass
        sel.unregister(s)
        s.close()
        open_ -= 1
print(good)
"""

NAMES = [
    "v4.test",
    "v6.test",
    "both.test",
    "change.test",
    "missing.test",
    "empty.test",
    "fail.test",
    "silent.test",
    "local.test",
    "many.test",
    "short.test",
    "member.test",
    "self.test",
    "queries1.test",
    "queries2.test",
    "tunnel.test",
    "retry.test",
    "big.test",
    "192.0.2.200",
]
PORT = 8080
BIG = 60  # addresses of big.test: more than a datagram holds


def vips(name):
    n = 50 + NAMES.index(name)
    return f"10.96.0.{n}", f"fd00:96::{n}"


def entry(m, name, number, **workload):
    """A service of one workload that has a hostname, as the control plane makes it of a ServiceEntry."""
    hostname = f"entry-{number}.example.com"
    m.services.append(
        {
            "name": f"entry-{number}",
            "namespace": "demo",
            "hostname": hostname,
            "vips": [f"/{a}" for a in vips(name)],
            "ports": {80: PORT},
        }
    )
    m.extra.append(
        {
            "uid": f"Kubernetes/networking.istio.io/ServiceEntry/demo/entry-{number}/{name}",
            "name": f"entry-{number}",
            "namespace": "demo",
            "hostname": name,
            "protocol": "TCP",
            "services": {f"demo/{hostname}": {80: PORT}},
            **workload,
        }
    )


class Hosts:
    """What the DNS server says: {name: addresses}."""

    def __init__(self, m):
        self.path, self.process, self.names = f"{m.dir}/hosts", None, {}

    def set(self, **more):
        self.names.update({name.replace("_", "."): addresses for name, addresses in more.items()})
        with open(self.path + ".new", "w") as f:
            f.writelines(f"{a} {name}\n" for name, all_ in self.names.items() for a in all_)
        os.rename(self.path + ".new", self.path)
        if self.process:
            reads = self.process.text().count("read " + self.path)
            os.kill(self.process.pid, signal.SIGHUP)
            wait_for(lambda: self.process.text().count("read " + self.path) > reads, "dnsmasq to read again")

    def queries(self, name, kind):
        return self.process.text().count(f"query[{kind}] {name} ")


def dnsmasq(m, ttl=2):
    """In the pod m.resolver, with the names of m.hosts."""
    m.hosts.process = m.resolver.popen(
        "dnsmasq",
        "--keep-in-foreground",
        "--no-resolv",
        "--no-hosts",
        f"--addn-hosts={m.hosts.path}",
        f"--local-ttl={ttl}",
        "--port=5300",
        "--log-queries",
        "--log-facility=-",
        "--user=root",
        "--pid-file=",
        "--cache-size=0",
        "--txt-record=empty.test,nothing else",
        "--server=/fail.test/127.0.0.1#5301",
        *(f"--server=/{n}/127.0.0.1#5302" for n in NAMES if n.startswith(("silent", "queries"))),
        "--local=/test/",
    )
    wait_for(lambda: "started" in m.hosts.process.text(), "dnsmasq")


@contextlib.contextmanager
def hostname_mesh(ttl=2, **env):
    """One node. web is of the mesh, and so is member; one and two are outside, and have the application."""
    with Mesh(nodes=1, workers=2) as m:
        m.web, m.member = m.pod("web"), m.pod("member")
        m.resolver, m.one, m.two = (m.pod(n, namespace="outside") for n in ("resolver", "one", "two"))
        for pod in (m.resolver, m.one, m.two):
            pod.outside = True
        m.proxy_env.update(
            {
                "BRUMA_NAME_SERVERS": f"{m.resolver.ip}:5300",
                "BRUMA_NAME_TIMEOUT": "1500ms",
                "RUST_LOG": "info,resolve=debug",
                **env,
            }
        )
        for number, name in enumerate(NAMES):
            hbone = {"protocol": "HBONE", "serviceAccount": "member", "trustDomain": TRUST_DOMAIN}
            entry(m, name, number, **(hbone if name == "tunnel.test" else {}))
        big = [f"10.{m.net}.1.{100 + i}" for i in range(BIG)]
        for address in big:
            sh("ip", "-n", m.one.netns, "addr", "add", f"{address}/24", "dev", "eth0")
        m.hosts = Hosts(m)
        m.hosts.set(
            v4_test=[m.one.ip],
            v6_test=[m.one.ip6],
            both_test=[m.one.ip, m.one.ip6, m.two.ip, m.two.ip6],
            change_test=[m.one.ip],
            local_test=["127.0.0.1"],
            many_test=[m.one.ip],
            short_test=[m.one.ip],
            member_test=[m.member.ip],
            self_test=[m.web.ip],
            retry_test=[m.one.ip],
            tunnel_test=[m.member.ip],
            big_test=big,
        )
        m.resolver.server(FAULTY)
        dnsmasq(m, ttl)
        m.start()
        for pod in (m.one, m.two, m.member):
            pod.app = pod.server(ECHO, PORT)
        yield m
