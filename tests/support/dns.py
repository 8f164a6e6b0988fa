# SPDX-License-Identifier: Apache-2.0
"""A mesh whose pods have their DNS captured, with servers and a client for it: dnsmasq, a server that misbehaves as it is
asked to, and dig."""

import contextlib
import json

from support.nodes.mesh import Mesh
from support.system import sh, wait_for

WEB = "web.demo.svc.cluster.local"

# Answers one question at a time as it is told, and writes down what came: {name: behaviour}.
SERVER = r"""
import socket, struct, sys, threading
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
behaviour = sys.argv[2]
s = socket.socket(family, socket.SOCK_DGRAM)
s.bind((sys.argv[1], 53))
print("READY", flush=True)
while True:
    data, peer = s.recvfrom(65535)
    print("ASKED", peer[0], peer[1], data.hex(), flush=True)
    if behaviour == "silent":
        continue
    if behaviour == "forged":
        # with another id first, then from another port: neither is an answer
        s.sendto(bytes([data[0] ^ 1]) + data[1:2] + b"\x81\x83" + data[4:], peer)
        other = socket.socket(family, socket.SOCK_DGRAM)
        other.sendto(data[:2] + b"\x81\x83" + data[4:], peer)
    s.sendto(data[:2] + b"\x84\x00" + data[4:6] + b"\x00\x00\x00\x00\x00\x00" + data[12:] + b"odd \x00\xff", peer)
"""


def service(name, namespace, hostname, number=None, **more):
    vips = [f"/10.96.0.{number}", f"/fd00:96::{number}"] if number else []
    return {
        "name": name,
        "namespace": namespace,
        "hostname": hostname,
        "vips": vips,
        "ports": {80: 8080},
        **more,
    }


SERVICES = [
    service("web", "demo", WEB, 1),
    service("old", "demo", "old.demo.svc.cluster.local", 2, ipFamilies="IPv4"),
    service("set", "demo", "set.demo.svc.cluster.local"),
    service("entry", "demo", "api.example.com", 3),
    service("wild", "demo", "*.wild.example.com", 4),
    service("hidden", "other", "hidden.example.com", 5, visibility="Namespace"),
    service("both", "demo", "both.example.com", 6),
    service("both", "other", "both.example.com", 7),
    service("vipless", "demo", "vipless.example.com"),
    service("many", "demo", "many.demo.svc.cluster.local"),
]
MANY = 60
OPTIONS = [
    "--keep-in-foreground",
    "--no-resolv",
    "--no-hosts",
    "--log-queries",
    "--log-facility=-",
    "--user=root",
    "--pid-file=",
    "--edns-packet-max=1232",
    "--host-record=outside.test,192.0.2.1,2001:db8::1",
    "--srv-host=_db._tcp.outside.test,outside.test,5432,1,2",
    "--cname=alias.test,outside.test",
    "--mx-host=outside.test,mail.outside.test,10",
    "--ptr-record=1.2.0.192.in-addr.arpa,outside.test",
    "--txt-record=outside.test,hello",
    "--local=/test/",
    "--local=/cluster.local/",
    "--local=/example.com/",
]
BIG = [f"--txt-record=big.test,{c * 200}" for c in "abcdefghijklmnopqrst"]


@contextlib.contextmanager
def dns_mesh():
    """A mesh of one node that captures queries, and in it a server (dnsmasq) outside the mesh."""
    # the limits are low, so that they can be met
    env = {"BRUMA_DNS_TIMEOUT": "1500ms", "BRUMA_MAX_POD_DNS_QUERIES": "40", "RUST_LOG": "info,dns=debug"}
    with Mesh(nodes=1, workers=2, proxy_env=env) as m:
        m.web, m.shop, m.two = m.pod("web"), m.pod("shop"), m.pod("two")
        m.other = m.pod("other", namespace="other")
        m.resolver, m.second = m.pod("resolver", namespace="outside"), m.pod("second", namespace="outside")
        m.resolver.outside = m.second.outside = True
        m.services = SERVICES
        m.shop.services = m.two.services = {"demo/set.demo.svc.cluster.local": {80: 8080}}
        m.extra = [
            {
                "name": f"many-{i}",
                "namespace": "demo",
                "workloadIps": [f"10.200.0.{i + 1}", f"fd00:200::{i + 1:x}"],
                "services": {"demo/many.demo.svc.cluster.local": {80: 8080}},
            }
            for i in range(MANY)
        ]
        m.start()
        m.dnsmasq = m.resolver.popen("dnsmasq", *OPTIONS, *BIG)
        wait_for(lambda: "started" in m.dnsmasq.text(), "dnsmasq")
        wait_for(lambda: rules(m.web.netns), "the rule of the pod")
        yield m


@contextlib.contextmanager
def served(pod, code, *argv):
    """A server in the pod for the time of the block."""
    p = pod.server(code, *argv)
    try:
        yield p
    finally:
        p.kill()


@contextlib.contextmanager
def dnsmasq(pod):
    p = pod.popen("dnsmasq", *OPTIONS)
    try:
        wait_for(lambda: "started" in p.text(), "dnsmasq")
        yield p
    finally:
        p.kill()


def rules(netns, family="-4"):
    out = sh("ip", family, "-n", netns, "rule")
    return [r for r in out.splitlines() if "dport 53" in r]


def dig(pod, server, *question, check=True):
    return pod.run("dig", "+time=3", "+tries=1", f"@{server}", *question, check=check).stdout


def short(pod, server, *question):
    return sorted(dig(pod, server, "+short", *question).split())


def failed(mesh, reason):
    return mesh.nodes[0].failures(reason)


def flags(mesh, pod):
    for entry in json.loads(sh("bpftool", "-j", "map", "dump", "pinned", f"{pod.node.pin_dir}/maps/pods")):
        if entry["formatted"]["value"]["pod"] == f"{pod.namespace}/{pod.name}":
            return entry["formatted"]["value"]["flags"]
    return None


def explained(mesh, pod, name):
    """What `brumactl explain` says of the name, by check."""
    out = mesh.nodes[0].ctl("explain", pod, name, "-o", "json", check=False).stdout
    return {line["check"]: line["detail"] for line in json.loads(out)}


def resolving(pod, config, *argv):
    """Runs argv in the pod with this resolv.conf."""
    path = f"{pod.node.mesh.dir}/resolv.conf"
    with open(path, "w") as f:
        f.write(config)
    hosts = f"{pod.node.mesh.dir}/nsswitch.conf"
    with open(hosts, "w") as f:
        f.write("hosts: dns\n")
    script = (
        'mount --bind "$0" /etc/resolv.conf && mount --bind "$1" /etc/nsswitch.conf && shift && exec "$@"'
    )
    return pod.run("unshare", "-m", "sh", "-c", script, path, hosts, *argv).stdout
