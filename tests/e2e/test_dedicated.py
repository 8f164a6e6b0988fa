# SPDX-License-Identifier: Apache-2.0
"""PROXY_MODE=dedicated: a machine of the mesh, with a proxy of its own and rules that somebody else has made. It talks with a
pod of the mesh both ways; certificates are for the token's own identity, as istiod gives them to machines."""

import contextlib
import json
import re
import socket
import subprocess

import pytest
import yaml

from support.certificates import Authority
from support.network import inside
from support.nodes.mesh import Mesh, MeshPod, leaf
from support.nodes.pod import TRUST_DOMAIN
from support.nodes.pod_programs import ECHO, ONE_SHOT, REACH
from support.pages import get
from support.programs import program
from support.proxies import hbone
from support.system import Process, run, sh, wait_for
from support.wire.segments import Wire
from support.xds.plane import Plane

FAMILIES = pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])
GROUP = "1337"
VIP, VIP6 = "10.255.9.20", "fd00:255:9::20"
UNNAMED = ("203.0.113.7", "fd00:203:113::7")  # the machine's, but the mesh does not know them

REDIRECT = """
table inet mesh {
  chain out {
    type nat hook output priority -100;
    meta skgid 1337 accept
    oifname "lo" accept
    udp dport 53 redirect to :15053
    tcp dport 53 redirect to :15053
    meta l4proto tcp redirect to :15001
  }
  chain in {
    type nat hook prerouting priority -100;
    iifname "lo" accept
    tcp dport { 22, 15008, 15020, 15021 } accept
    meta l4proto tcp redirect to :15006
  }
}
"""

# Inbound without translation: the local address of what the proxy accepts is where the client wanted to go.
TPROXY = """
table inet mesh {
  chain out {
    type nat hook output priority -100;
    meta skgid 1337 accept
    oifname "lo" accept
    meta l4proto tcp redirect to :15001
  }
  chain in {
    type filter hook prerouting priority -150;
    iifname "lo" accept
    tcp dport { 22, 15008, 15020, 15021 } accept
    meta l4proto tcp meta mark set 0x77
    meta nfproto ipv4 meta l4proto tcp tproxy ip to :15006
    meta nfproto ipv6 meta l4proto tcp tproxy ip6 to :15006
  }
}
"""


class Machine(MeshPod):
    """Beside the pods of the node, with no agent. Its proxy is told of the mesh by a file."""

    proxy = None

    def enroll(self):
        mesh = self.node.mesh
        authority = Authority.load(f"{self.node.run_dir}/control/root-cert.pem", mesh.ca_key)
        self.ca = Plane(f"{mesh.dir}/ca-{self.name}", self.netns, authority=authority)
        self.ca.token_identity = self.identity
        self.given = f"{mesh.dir}/given.yaml"
        self.resolv = f"{mesh.dir}/resolv.conf"
        with open(self.resolv, "w") as f:
            f.write("nameserver 192.0.2.53\nsearch corp.example lab.corp.example\n")
        with open(self.given, "w") as f:
            yaml.safe_dump(mesh.given, f)
        self.rules(REDIRECT)
        self.start()

    def rules(self, text):
        sh("ip", "netns", "exec", self.netns, "nft", "flush", "ruleset")
        run(["nft", "-f", "-"], netns=self.netns, input=text)

    def env(self):
        return {
            **{k: v for k, v in self.ca.env().items() if k.startswith(("CA_", "AUTH"))},
            "PROXY_MODE": "dedicated",
            "PROXY_WORKLOAD_INFO": f"{self.namespace}/{self.name}/{self.account}",
            "XDS_ADDRESS": "",
            "LOCAL_XDS_PATH": self.given,
            "ZTUNNEL_WORKER_THREADS": "2",
            "BRUMA_RUN_DIR": "/nonexistent",
            **self.node.mesh.proxy_env,
        }

    def start(self, wait=True, **env):
        """In the group that the rules exempt, with the machine's resolv.conf, and without the privilege to enter namespaces."""
        script = f"mount --bind {self.resolv} /etc/resolv.conf && exec setpriv --regid {GROUP} --clear-groups"
        script += " --bounding-set=-sys_admin"
        script += f" {program('bruma-proxy')}"
        self.proxy = Process(
            ["unshare", "-m", "sh", "-c", script],
            f"{self.node.mesh.dir}/{self.name}-proxy.log",
            netns=self.netns,
            env={**self.env(), **env},
        )
        self.processes.append(self.proxy)
        if wait:
            wait_for(self.ready, "the machine's proxy to be ready", log=self.proxy.log)

    def page(self, port, path):
        with inside(self.netns):
            s = socket.create_connection(("127.0.0.1", port), timeout=20)
        status, body = get(s, path)
        return status, body.decode()

    def ready(self):
        assert self.proxy.alive(), self.proxy.text()[-3000:]
        try:
            return self.page(15021, "/healthz/ready")[0] == 200
        except OSError:
            return False

    def access_log(self, *needles):
        return [
            line
            for line in self.proxy.text().splitlines()
            if "connection complete" in line and all(n in line for n in needles)
        ]

    def destroy(self):
        self.ca.stop()
        super().destroy()


def workload(pod, **more):
    return {
        "name": pod.name,
        "namespace": pod.namespace,
        "serviceAccount": pod.account,
        "trustDomain": TRUST_DOMAIN,
        "workloadIps": pod.ips,
        "protocol": "HBONE",
        "workloadName": pod.name,
        **more,
    }


@pytest.fixture(scope="module")
def mesh():
    with Mesh(nodes=2, workers=2) as m:
        m.web, m.bad, m.shop = m.pod("web", node=0), m.pod("bad", node=0), m.pod("shop", node=0)
        m.stranger = m.pod("stranger", node=0, namespace="outside")
        m.stranger.outside = True
        m.vm = m.pod("vm", node=1, kind=Machine)
        m.vm.more = {"protocol": "HBONE", "node": ""}
        service = "demo/shop.demo.svc.cluster.local"
        m.given = {
            "workloads": [
                workload(m.vm),
                workload(m.web),
                workload(m.bad),
                workload(m.shop, services={service: {80: 8080}}),
            ],
            "services": [
                {
                    "name": "shop",
                    "namespace": "demo",
                    "hostname": "shop.demo.svc.cluster.local",
                    "vips": [f"/{VIP}", f"/{VIP6}"],
                    "ports": {80: 8080},
                }
            ],
            "policies": [
                {
                    "name": "vm-without-bad",
                    "namespace": "demo",
                    "scope": "Namespace",
                    "action": "Deny",
                    "dryRun": False,
                    "rules": [m.bad.rule(destinationPorts=[8080])],
                }
            ],
        }
        m.start()
        m.echo = m.shop.server(ECHO, "8080")
        m.vm_echo = m.vm.server(ECHO, "8080")
        m.stranger_echo = m.stranger.server(ECHO, "8080")
        yield m


@FAMILIES
def test_from_the_machine_to_a_pod(mesh, family):
    """By the pod's address and the service's; encrypted, and the pod's proxy knows who it is."""
    with Wire(mesh.nodes[0]) as wire:
        assert mesh.vm.python(ONE_SHOT, mesh.shop.ips[family], 8080, "ping") == "ping"
        assert mesh.vm.python(ONE_SHOT, (VIP, VIP6)[family], 80, "ping") == "ping"
        assert not wire.holds(b"ping")
    wait_for(
        lambda: mesh.vm.access_log('direction="outbound"', f'dst.identity="{mesh.shop.identity}"'),
        "the machine's side in the log",
    )
    wait_for(
        lambda: [x for x in mesh.nodes[0].access_log() if f'src.identity="{mesh.vm.identity}"' in x],
        "the pod's side in the log",
    )


@FAMILIES
def test_from_a_pod_to_the_machine(mesh, family):
    """What runs on the machine sees it come from the machine: nothing would bring answers to other addresses back."""
    address = mesh.vm.ips[family]
    with Wire(mesh.nodes[0]) as wire:
        assert mesh.web.python(ONE_SHOT, address, 8080, "ping") == "ping"
        assert not wire.holds(b"ping")
    wait_for(
        lambda: mesh.vm.access_log('direction="inbound"', f'src.identity="{mesh.web.identity}"'),
        "the machine's side in the log",
    )
    assert f"FROM {'::ffff:' if family == 0 else ''}{address} " in mesh.vm_echo.text()


@FAMILIES
def test_plaintext_both_ways(mesh, family):
    assert mesh.stranger.python(ONE_SHOT, mesh.vm.ips[family], 8080, "plain") == "plain"
    wait_for(
        lambda: [x for x in mesh.vm.access_log('direction="inbound"') if "src.identity" not in x],
        "the machine's side in the log",
    )
    assert mesh.vm.python(ONE_SHOT, mesh.stranger.ips[family], 8080, "plain") == "plain"
    source = ("::ffff:" if family == 0 else "") + mesh.vm.ips[family]
    wait_for(lambda: f"FROM {source} " in mesh.stranger_echo.text(), "the machine's own address there")


@FAMILIES
def test_policies_of_the_machine_count(mesh, family):
    assert mesh.bad.python(REACH, mesh.vm.ips[family]).strip() != "yes"
    wait_for(lambda: "demo/vm-without-bad" in mesh.vm.proxy.text(), "the policy in the log")


@FAMILIES
def test_the_proxys_own_ports_are_no_destination(mesh, family):
    """From outside and from the machine itself: a connection that goes in circles would take all descriptors."""
    code = """
import socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
s.settimeout(10)
try:
    s.connect((sys.argv[1], int(sys.argv[2])))
    s.sendall(b"x")
    print("end" if s.recv(10) == b"" else "data")
except OSError as e:
    print(type(e).__name__)
"""
    for client in (mesh.stranger, mesh.web, mesh.vm):
        for port in (15001, 15006, 15053):
            end = client.python(code, mesh.vm.ips[family], port).strip()
            assert end in ("ConnectionResetError", "ConnectionRefusedError", "end"), (client.name, port, end)
    sh("ip", "-n", mesh.vm.netns, "addr", "add", UNNAMED[family], "dev", "lo")
    for address in (("127.0.0.1", "::1")[family], UNNAMED[family]):
        for port in (15001, 15006):
            end = mesh.vm.python(code, address, port).strip()
            assert end in ("ConnectionResetError", "end"), (address, port, end)
    assert not mesh.vm.access_log(UNNAMED[family]), "it came to itself"
    found = re.search(r"process_open_fds (\d+)", mesh.vm.page(15020, "/metrics")[1])
    assert int(found[1]) < 200


def test_an_independent_client(mesh):
    with inside(mesh.nodes[0].netns):
        client = hbone.Client((mesh.vm.ip, 15008), *leaf(mesh, mesh.web.identity))
    sid = client.connect(f"{mesh.vm.ip}:8080")
    assert client.status(sid) == 200
    client.send(sid, b"hello", end=True)
    assert client.pump(lambda: client.ended(sid)) and client.received(sid) == b"hello"
    client.close()


def test_names_of_the_mesh_and_search_domains_of_the_machine(mesh):
    """Captured by the rules as well; the search list is the one of the machine's resolv.conf."""

    def ask(name, kind="A"):
        return mesh.vm.run(
            "dig", "+short", "+tries=1", "+timeout=5", "@192.0.2.53", kind, name
        ).stdout.split()

    assert ask("shop.demo.svc.cluster.local") == [VIP]
    assert ask("shop.demo.svc.cluster.local", "AAAA") == [VIP6]
    assert ask("shop") == [VIP]
    assert ask("shop.demo.svc.cluster.local.lab.corp.example")[-1] == VIP
    # Those that Kubernetes gives pods are not the machine's: a server outside is asked, and there is none.
    assert VIP not in ask("shop.demo.svc.cluster.local.svc.cluster.local")


def test_it_asks_for_its_own_certificate_and_impersonates_nobody(mesh):
    assert set(mesh.vm.ca.asked) == {mesh.vm.identity}
    dump = json.loads(mesh.vm.page(15000, "/config_dump")[1])
    assert [c["identity"] for c in dump["certificates"]] == [mesh.vm.identity]
    states = [(s["info"]["name"], s["state"]) for s in dump["workloadState"].values()]
    assert states == [("vm", "Up")]


def test_a_listener_that_is_destroyed_is_opened_again(mesh):
    for port in ("15001", "15006", "15008"):
        sh("ss", "-N", mesh.vm.netns, "-K", "state", "listening", "sport", "=", port)

    def served():
        assert mesh.vm.python(ONE_SHOT, mesh.shop.ip, 8080, "ping") == "ping"
        assert mesh.web.python(ONE_SHOT, mesh.vm.ip, 8080, "ping") == "ping"
        return mesh.stranger.python(ONE_SHOT, mesh.vm.ip, 8080, "ping") == "ping"

    def again():
        with contextlib.suppress(RuntimeError, subprocess.SubprocessError, AssertionError, OSError):
            return served()
        return False

    wait_for(again, "the listeners")


def test_the_machines_proxy_is_restarted(mesh):
    """It drains; what is connected meanwhile is refused, and another one serves as before."""
    assert mesh.vm.proxy.stop() == 0
    assert mesh.vm.python(REACH, mesh.shop.ip).strip() != "yes", "no proxy, no connection"
    mesh.vm.start()
    for family in (0, 1):
        assert mesh.vm.python(ONE_SHOT, mesh.shop.ips[family], 8080, "ping") == "ping"
        assert mesh.web.python(ONE_SHOT, mesh.vm.ips[family], 8080, "ping") == "ping"


def test_it_is_not_ready_before_its_listeners_are_open(mesh):
    assert mesh.vm.proxy.stop() == 0
    with inside(mesh.vm.netns), socket.create_server(("0.0.0.0", 15006)):
        mesh.vm.start(wait=False)
        mesh.vm.proxy.wait_for_text("the proxy's own pod cannot be served; retrying")
        status, body = mesh.vm.page(15021, "/healthz/ready")
        assert status == 500 and "workload proxy manager" in body
    wait_for(mesh.vm.ready, "the machine's proxy to be ready")
    assert mesh.vm.python(ONE_SHOT, mesh.shop.ip, 8080, "ping") == "ping"


def test_rules_that_divert_instead_of_translating(mesh):
    """TPROXY: the destination is the local address."""
    for family in ("-4", "-6"):
        sh("ip", "-n", mesh.vm.netns, family, "rule", "add", "fwmark", "0x77", "lookup", "77")
        everything = "0.0.0.0/0" if family == "-4" else "::/0"
        sh("ip", "-n", mesh.vm.netns, family, "route", "add", "local", everything, "dev", "lo", "table", "77")
    mesh.vm.rules(TPROXY)
    try:
        for ip in mesh.vm.ips:
            before = len(mesh.vm.access_log('direction="inbound"'))
            assert mesh.stranger.python(ONE_SHOT, ip, 8080, "plain") == "plain"
            wait_for(lambda n=before: len(mesh.vm.access_log('direction="inbound"')) > n, "its line")
            assert mesh.web.python(ONE_SHOT, ip, 8080, "ping") == "ping"
    finally:
        mesh.vm.rules(REDIRECT)


def test_what_does_not_go_together_is_named():
    def refused(**env):
        r = subprocess.run(
            [program("bruma-proxy")],
            env={"PROXY_MODE": "dedicated", **env},
            capture_output=True,
            text=True,
            timeout=20,
        )
        assert r.returncode == 1
        return r.stderr

    wrong = 'PROXY_WORKLOAD_INFO: "{}" is not NAMESPACE/NAME/SERVICEACCOUNT'
    for text in ("", "a", "a/b", "a/b/", "a//c", "/b/c", "a/b/c/d", "a/b/c/"):
        assert wrong.format(text) in refused(PROXY_WORKLOAD_INFO=text), text
    assert "INPOD_UDS: with PROXY_MODE=dedicated" in refused(PROXY_WORKLOAD_INFO="a/b/c", INPOD_UDS="/a")
    assert 'PROXY_MODE: "" is neither shared nor dedicated' in refused(PROXY_MODE="")
    assert 'PROXY_WORKLOAD_INFO: "a/b/c" belongs to PROXY_MODE=dedicated' in refused(
        PROXY_MODE="shared", PROXY_WORKLOAD_INFO="a/b/c"
    )
