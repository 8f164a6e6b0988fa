# SPDX-License-Identifier: Apache-2.0
"""A mesh in network namespaces for tests: nodes with a real agent and a real proxy each, pods enrolled by the
real plugin.

    with Mesh(nodes=2) as mesh:
        web = mesh.pod("web", node=0)
        shop = mesh.pod("shop", node=1)
        mesh.start()
        ...

Every name carries the process id, so that several tests can run side by side, and everything is taken down
again, also after a failure. Programs are found in $BRUMA_BUILD (a meson build directory).
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile

import yaml

from support import agent, kernel
from support.network import inside, wait_addresses, wait_carries
from support.nodes.node import Node
from support.nodes.pod import TRUST_DOMAIN, Pod
from support.programs import BUILD, program
from support.system import run, sh, wait_for

LISTENERS = ("outbound", "inbound", "hbone")
_serial = iter(range(1, 1000))


class MeshPod(Pod):
    def __init__(self, node, name, namespace, account, index):
        super().__init__(node, namespace, name, account)
        net = node.mesh.net
        self.netns, self.cgroup, self.uid = f"{node.netns}-{name}", node.cgroup, f"uid-{name}"
        self.ip = f"10.{net}.{node.number}.{10 + index}"
        self.ip6 = f"fd00:{net:x}:{node.number}::{10 + index:x}"
        self.link = f"v{name}"[:15]  # the end of its device on the node
        self.enrolled = False

    def rule(self, **more):
        """Of a policy: connections of this pod's identity; what else must be so."""
        return [[{"principals": [{"Exact": self.identity.removeprefix("spiffe://")}], **more}]]

    def create(self):
        node, link = self.node, self.link
        sh("ip", "netns", "add", self.netns)
        sh("ip", "-n", self.netns, "link", "set", "lo", "up")
        sh(
            "ip",
            "-n",
            self.netns,
            "link",
            "add",
            "eth0",
            "type",
            "veth",
            "peer",
            "name",
            link,
            "netns",
            node.netns,
        )
        sh("ip", "-n", node.netns, "link", "set", link, "master", "br0", "up")
        sh("ip", "-n", self.netns, "addr", "add", f"{self.ip}/24", "dev", "eth0")
        sh("ip", "-n", self.netns, "addr", "add", f"{self.ip6}/64", "dev", "eth0", "nodad")
        sh("ip", "-n", self.netns, "link", "set", "eth0", "up")
        sh("ip", "-n", self.netns, "route", "add", "default", "via", node.gateway)
        sh("ip", "-n", self.netns, "-6", "route", "add", "default", "via", node.gateway6)
        wait_carries(node.netns, link)
        wait_addresses(self.netns, "eth0", self.ip6)
        wait_addresses(node.netns, "br0", node.gateway6)

    def enroll(self):
        """Into the mesh, as its node does it."""
        self.node.enroll(self)

    def addresses_of_result(self):
        """What the plugin before ours has given it."""
        return [f"{self.ip}/24", f"{self.ip6}/64"]

    def cni(self, command, check=True):
        config = {
            "cniVersion": "1.0.0",
            "name": "bruma-test",
            "type": "bruma-cni",
            "run_dir": self.node.run_dir,
            "prevResult": {
                "cniVersion": "1.0.0",
                "interfaces": [{"name": "eth0", "sandbox": f"/run/netns/{self.netns}"}],
                "ips": [{"address": a, "interface": 0} for a in self.addresses_of_result()],
            },
        }
        env = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": f"sandbox-{self.uid}",
            "CNI_IFNAME": "eth0",
            "CNI_PATH": "/usr/lib/cni",
            "CNI_NETNS": f"/run/netns/{self.netns}",
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE={self.namespace};K8S_POD_NAME={self.name};K8S_POD_UID={self.uid}",
        }
        r = subprocess.run(
            [program("bruma-cni")],
            input=json.dumps(config),
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
        )
        if check and r.returncode:
            raise RuntimeError(f"bruma-cni {command} {self.name}: {r.stdout} {r.stderr}")
        self.enrolled = command == "ADD" and r.returncode == 0
        return r

    def popen(self, *argv, **options):
        return super().popen(*argv, **{"tied": False, **options})

    def captured(self):
        """Whether the pods map says that new connect() calls are captured: bpftool is the witness."""
        for entry in json.loads(
            sh("bpftool", "-j", "map", "dump", "pinned", f"{self.node.pin_dir}/maps/pods")
        ):
            value = entry["formatted"]["value"]
            if value["pod"] == f"{self.namespace}/{self.name}":
                return bool(value["flags"] & 1)
        return False

    def listener_ports(self):
        """Of the mesh's listeners in the pod, by LISTENERS: each is in the agent's descriptors in this order."""
        lines = self.run("ss", "-Hltnpe").stdout.splitlines()
        ours = [line for line in lines if 'users:(("bruma-' in line]
        assert len(ours) == len(LISTENERS), lines
        # The kernel numbers sockets as they are made.
        inodes = sorted(
            (int(line.split(" ino:")[1].split()[0]), int(line.split()[3].rsplit(":", 1)[1])) for line in ours
        )
        return dict(zip(LISTENERS, [port for _, port in inodes], strict=True))

    def leave(self):
        self.kill_programs()
        if self.enrolled:
            with contextlib.suppress(Exception):
                self.cni("DEL", check=False)

    def remove(self):
        """From its node, where others go on and may get its addresses. The device goes first, as with a runtime: with the
        namespace it would go when the kernel comes to it."""
        self.leave()
        run(["ip", "-n", self.netns, "link", "del", "eth0"], check=False)
        sh("ip", "netns", "del", self.netns)
        self.node.pods.remove(self)

    def destroy(self):
        """With its node."""
        self.leave()
        sh("ip", "netns", "del", self.netns)


class MeshNode(Node):
    agent_defaults = ("--verify-interval", "500ms", "--drain-grace", "300ms")

    def __init__(self, mesh, number):
        super().__init__(
            f"node{number}",
            f"{mesh.prefix}-n{number}",
            mesh.dir,
            f"{mesh.dir}/run{number}",
            f"/sys/fs/bpf/{mesh.prefix}/n{number}",
            f"{mesh.cgroup}/n{number}",
            BUILD,
            mesh.file,
            mesh.ca_key,
            tied=False,
        )
        self.mesh, self.number = mesh, number
        self.agent_log, self.proxy_log = f"{mesh.dir}/agent{number}.log", f"{mesh.dir}/proxy{number}.log"
        self.gateway = f"10.{mesh.net}.{number}.1"
        self.gateway6 = f"fd00:{mesh.net:x}:{number}::1"
        self.pods = []
        self.addresses = self.starts = 0

    def create(self):
        os.makedirs(self.run_dir, exist_ok=True)
        os.makedirs(self.cgroup, exist_ok=True)
        sh("ip", "netns", "add", self.netns)
        sh("ip", "-n", self.netns, "link", "set", "lo", "up")
        # An address of its own: else it is the lowest of its ports', and changes as pods come. Their
        # neighbour entries for the gateway would be wrong then, and their packets lost for seconds.
        sh(
            "ip",
            "-n",
            self.netns,
            "link",
            "add",
            "br0",
            "address",
            f"02:00:00:00:00:{self.number:02x}",
            "type",
            "bridge",
            "mcast_snooping",  # neighbours ask by multicast, and nobody here tells the bridge who listens
            "0",
        )
        sh("ip", "-n", self.netns, "addr", "add", f"{self.gateway}/24", "dev", "br0")
        sh("ip", "-n", self.netns, "addr", "add", f"{self.gateway6}/64", "dev", "br0", "nodad")
        sh("ip", "-n", self.netns, "link", "set", "br0", "up")
        with inside(self.netns):
            for key in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
                with open("/proc/sys/" + key.replace(".", "/"), "w") as f:
                    f.write("1")

    def enroll(self, pod):
        pod.cni("ADD")

    def start_agent(self, *options, **settings):
        self.starts += 1
        return super().start_agent(*options, **settings)

    def agent_answers(self):
        """It takes pods."""
        return agent.takes_pods(self.run_dir)

    def proxy_env(self):
        return {
            **super().proxy_env(),
            "ZTUNNEL_WORKER_THREADS": str(self.mesh.workers),
            **self.mesh.proxy_env,
        }

    def destroy(self):
        for p in (*self.proxies, self.agent):
            if p:
                p.kill()
        for pod in self.pods:
            pod.destroy()
        if os.path.exists(self.pin_dir):
            self.uninstall()
            shutil.rmtree(self.pin_dir, ignore_errors=True)
        sh("ip", "netns", "del", self.netns)
        with contextlib.suppress(OSError):
            os.rmdir(self.cgroup)


# Those that are not stopped: their logs are shown where a test fails (conftest.py).
LIVE = set()
# Lines that are shown of each log: of what went wrong, and of its end.
WRONG, LAST = 30, 15


def names(workloads):
    return {(workload["namespace"], workload["name"]) for workload in workloads}


class Mesh:
    def __init__(self, nodes=2, workers=1, proxy_env=None, agent_options=(), node_kinds=()):
        """node_kinds: classes of the nodes, where they are not plain ones."""
        serial = next(_serial)
        self.prefix = f"bruma-{os.getpid()}-m{serial}"  # apart from those of conftest.py
        self.net = 64 + (os.getpid() * 7 + serial) % 128
        self.dir = tempfile.mkdtemp(prefix=self.prefix + "-")
        root, self.cgroup2_mounted = kernel.cgroup2_root(f"{self.dir}/cgroup2")
        self.cgroup = f"{root}/{self.prefix}"
        self.file, self.ca_key = f"{self.dir}/mesh.yaml", f"{self.dir}/ca-key.pem"
        self.workers, self.proxy_env, self.agent_options = workers, dict(proxy_env or {}), agent_options
        self.labels = {"istio.io/dataplane-mode": "ambient"}
        self.services, self.policies, self.extra = [], [], []
        sh("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", self.ca_key)
        os.makedirs(self.cgroup)
        self.nodes = [(node_kinds[i] if i < len(node_kinds) else MeshNode)(self, i + 1) for i in range(nodes)]
        for node in self.nodes:
            node.create()
        for a in self.nodes:
            for b in self.nodes:
                if a.number < b.number:
                    self.connect(a, b)
        LIVE.add(self)

    def connect(self, a, b):
        link, net = f"up{b.number}", f"10.{self.net}.{100 + a.number * 10 + b.number}"
        net6 = f"fd00:{self.net:x}:{100 + a.number * 10 + b.number}:"
        sh(
            "ip",
            "-n",
            a.netns,
            "link",
            "add",
            link,
            "type",
            "veth",
            "peer",
            "name",
            f"up{a.number}",
            "netns",
            b.netns,
        )
        for node, _, n, dev in ((a, b, 1, link), (b, a, 2, f"up{a.number}")):
            sh("ip", "-n", node.netns, "addr", "add", f"{net}.{n}/24", "dev", dev)
            sh("ip", "-n", node.netns, "addr", "add", f"{net6}:{n}/64", "dev", dev, "nodad")
            sh("ip", "-n", node.netns, "link", "set", dev, "up")
        wait_carries(a.netns, link)
        for node, n, dev in ((a, 1, link), (b, 2, f"up{a.number}")):
            wait_addresses(node.netns, dev, f"{net6}:{n}")
        for node, other, n in ((a, b, 2), (b, a, 1)):
            sh(
                "ip",
                "-n",
                node.netns,
                "route",
                "add",
                f"10.{self.net}.{other.number}.0/24",
                "via",
                f"{net}.{n}",
            )
            sh(
                "ip",
                "-n",
                node.netns,
                "-6",
                "route",
                "add",
                f"fd00:{self.net:x}:{other.number}::/64",
                "via",
                f"{net6}:{n}",
            )

    def pod(self, name, node=0, namespace="demo", account=None, kind=MeshPod):
        """A pod; enrolled by start(), or at once if the mesh has been started."""
        node = self.nodes[node]
        node.addresses += 1
        pod = kind(node, name, namespace, account or name, node.addresses)
        node.pods.append(pod)
        pod.create()
        return pod

    @property
    def pods(self):
        return [pod for node in self.nodes for pod in node.pods]

    def write(self):
        """The mesh file, replaced as an editor or a ConfigMap would: by rename."""
        workloads = [
            {
                "uid": f"Kubernetes//Pod/{p.namespace}/{p.name}",
                "name": p.name,
                "namespace": p.namespace,
                "serviceAccount": p.account,
                "trustDomain": TRUST_DOMAIN,
                "workloadIps": [p.ip, p.ip6],
                "node": p.node.name,
                "workloadName": p.name,
                "canonicalName": p.name,
                "services": getattr(p, "services", {}),
                **getattr(p, "more", {}),
            }
            for p in self.pods
            if not getattr(p, "outside", False)
        ]
        namespaces = sorted({p.namespace for p in self.pods})
        mesh = {
            "namespaces": [{"name": n, "labels": self.labels} for n in namespaces if n != "outside"],
            "workloads": workloads + self.extra,
            "services": self.services,
            "policies": self.policies,
        }
        with open(self.file + ".new", "w") as f:
            yaml.safe_dump(mesh, f)
        os.rename(self.file + ".new", self.file)
        self.written = names(mesh["workloads"])

    def tell(self):
        """write(), and until agents have read it: a pod that is enrolled before is of the default account for a moment."""
        self.write()
        for node in self.nodes:
            wait_for(
                lambda n=node: self.has_read(n),
                f"the agent of {node.name} to read the mesh file",
                log=node.agent_log,
            )

    def has_read(self, node):
        """By what the agent has told its proxy: an older file may have had as many workloads."""
        if node.status()["workloads"] != len(self.written):
            return False
        return names(node.config_dump()["workloads"]) == self.written

    def deny(self, *rules, name="no-web"):
        """A policy of the namespace. write() makes it count."""
        self.policies.append(
            {
                "name": name,
                "namespace": "demo",
                "scope": "Namespace",
                "action": "Deny",
                "dryRun": False,
                "rules": list(rules),
            }
        )

    def deny_strangers(self, **more):
        """Those without an identity; what else must be so."""
        self.deny([[{"notPrincipals": [{"Presence": []}], **more}]], name="strict")

    def start(self):
        self.write()
        for node in self.nodes:
            node.start_agent(*self.agent_options)
            node.start_proxy()
        for pod in self.pods:
            if not getattr(pod, "outside", False):
                pod.enroll()
        return self

    def stop(self):
        LIVE.discard(self)
        errors = []
        for node in self.nodes:
            try:
                node.destroy()
            except Exception as e:  # everything else is still to be taken down
                errors.append(e)
        with contextlib.suppress(OSError):
            os.rmdir(self.cgroup)
        with contextlib.suppress(OSError):
            os.rmdir(f"/sys/fs/bpf/{self.prefix}")
        if self.cgroup2_mounted:
            kernel.unmount(f"{self.dir}/cgroup2")
        if not os.environ.get("BRUMA_KEEP_LOGS"):
            shutil.rmtree(self.dir, ignore_errors=True)
        if errors:
            raise errors[0]

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if exc[0]:
            print(self.last_words())
        self.stop()

    def last_words(self):
        """Of each agent and proxy: what went wrong, and the end of its log."""
        said = []
        for p in (p for node in self.nodes for p in (node.agent, node.proxy) if p):
            lines = p.text().splitlines()
            wrong = [line for line in lines[:-LAST] if re.search("\terror\t|\twarn\t| error=", line)]
            said += [f"--- {p.log}", *wrong[-WRONG:], "...", *lines[-LAST:]]
        return "\n".join(said)


def leaf(mesh, identity, folder=None):
    """A certificate of the mesh's CA, made with openssl alone: (certificate path, key path, root path)."""
    folder = folder or tempfile.mkdtemp(dir=mesh.dir)
    root = f"{mesh.nodes[0].run_dir}/control/root-cert.pem"
    key, csr, cert, ext = (f"{folder}/{n}" for n in ("key.pem", "csr.pem", "cert.pem", "ext"))
    sh("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key)
    sh("openssl", "req", "-new", "-key", key, "-subj", "/O=test", "-out", csr)
    with open(ext, "w") as f:
        f.write(
            f"subjectAltName=critical,URI:{identity}\nextendedKeyUsage=clientAuth,serverAuth\n"
            "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n"
            "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
        )
    sh(
        "openssl",
        "x509",
        "-req",
        "-in",
        csr,
        "-CA",
        root,
        "-CAkey",
        mesh.ca_key,
        "-CAcreateserial",
        "-CAserial",
        f"{folder}/serial",
        "-days",
        "1",
        "-extfile",
        ext,
        "-out",
        cert,
    )
    return cert, key, root
