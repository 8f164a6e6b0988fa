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
import ctypes
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import yaml

from support.programs import program

TRUST_DOMAIN = "cluster.local"
LISTENERS = ("outbound", "inbound", "hbone")
CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_serial = iter(range(1, 1000))


def sh(*argv, **kw):
    r = subprocess.run([str(a) for a in argv], capture_output=True, text=True, **kw)
    if r.returncode:
        raise RuntimeError(f"{' '.join(str(a) for a in argv)}: {r.stderr.strip() or r.stdout.strip()}")
    return r.stdout


def wait_for(condition, what, seconds=20.0):
    """Polls until condition() is true; its last value is returned. What is waited for is named in the
    failure."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.02)


@contextlib.contextmanager
def inside(netns):
    """The calling thread is in this network namespace (a name of `ip netns`) for the time of the block."""
    with open("/proc/thread-self/ns/net") as own, open(f"/run/netns/{netns}") as other:
        if _libc.setns(other.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
        try:
            yield
        finally:
            if _libc.setns(own.fileno(), CLONE_NEWNET):
                os._exit(99)  # this process would go on in a pod


def cgroup_root():
    with open("/proc/self/mounts") as f:
        for line in f:
            fields = line.split()
            if fields[2] == "cgroup2":
                return fields[1]
    raise RuntimeError("no cgroup2 is mounted")


def placed(argv, netns=None, cgroup=None):
    """The command that runs argv in this namespace and cgroup. Its process is argv's own. (Python's way, a
    function called in the forked child, can hang when other threads run, such as those of gRPC.)"""
    argv = [str(a) for a in argv]
    if netns:
        argv = ["nsenter", f"--net=/run/netns/{netns}", "--", *argv]
    if cgroup:
        argv = ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', cgroup, *argv]
    return argv


class Process:
    """A child; its output goes to a file. Ended by its own pid only."""

    def __init__(self, argv, log, netns=None, cgroup=None, env=None, stdin=subprocess.DEVNULL):
        self.log = log
        with open(log, "ab") as out:
            self.p = subprocess.Popen(
                placed(argv, netns, cgroup), stdin=stdin, stdout=out, stderr=out, env=env
            )
        self.pid = self.p.pid

    def alive(self):
        return self.p.poll() is None

    def text(self):
        with open(self.log, errors="replace") as f:
            return f.read()

    def resident_bytes(self):
        with open(f"/proc/{self.pid}/status") as f:
            return int(re.search(r"VmRSS:\s+(\d+) kB", f.read())[1]) * 1024

    def kill(self):
        if self.alive():
            self.p.kill()
        self.p.wait(10)

    def stop(self, seconds=10):
        if self.alive():
            self.p.send_signal(signal.SIGTERM)
            try:
                self.p.wait(seconds)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.p.returncode


class Pod:
    def __init__(self, node, name, namespace, account, index):
        self.node, self.name, self.namespace, self.account = node, name, namespace, account
        mesh = node.mesh
        self.netns = f"{node.netns}-{name}"
        self.uid = f"uid-{name}"
        self.ip = f"10.{mesh.net}.{node.number}.{10 + index}"
        self.ip6 = f"fd00:{mesh.net:x}:{node.number}::{10 + index:x}"
        self.processes = []
        self.enrolled = False

    @property
    def identity(self):
        return f"spiffe://{TRUST_DOMAIN}/ns/{self.namespace}/sa/{self.account}"

    @property
    def ips(self):
        return [self.ip, self.ip6]

    def create(self):
        node, link = self.node, f"v{self.name}"[:15]
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

    def popen(self, *argv):
        """Starts a program as one of the pod's containers would: in its namespace and its cgroup."""
        p = Process(
            argv,
            f"{self.node.mesh.dir}/{self.name}-{len(self.processes)}.log",
            netns=self.netns,
            cgroup=self.node.cgroup,
        )
        self.processes.append(p)
        return p

    def run(self, *argv, timeout=60, check=True, stdin=None):
        r = subprocess.run(
            placed(argv, self.netns, self.node.cgroup),
            capture_output=True,
            text=True,
            timeout=timeout,
            input=stdin,
        )
        if check and r.returncode:
            raise AssertionError(
                f"in {self.name}: {argv[:3]}: exit {r.returncode}: {r.stdout[-500:]} {r.stderr[-2000:]}"
            )
        return r

    def python(self, code, *argv, **kw):
        """Runs a Python script in the pod and returns what it printed."""
        return self.run("/usr/bin/python3", "-c", code, *argv, **kw).stdout

    def server(self, code, *argv):
        """Starts a Python server in the pod and waits until it prints READY."""
        p = self.popen("/usr/bin/python3", "-u", "-c", code, *argv)
        wait_for(lambda: "READY" in p.text() or not p.alive(), "the server's READY")
        assert p.alive(), p.text()
        return p

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

    def destroy(self):
        for p in self.processes:
            p.kill()
        if self.enrolled:
            with contextlib.suppress(Exception):
                self.cni("DEL", check=False)
        sh("ip", "netns", "del", self.netns)


def joined(chunks):
    """The body that came in these chunks, to its end."""
    body, at = [], 0
    while True:
        line = chunks.index(b"\r\n", at)
        length = int(chunks[at:line], 16)
        if not length:
            assert chunks[line:] == b"\r\n\r\n", "the body was cut"
            return b"".join(body)
        body.append(chunks[line + 2 : line + 2 + length])
        at = line + 4 + length


class Node:
    def __init__(self, mesh, number):
        self.mesh, self.number = mesh, number
        self.name = f"node{number}"
        self.netns = f"{mesh.prefix}-n{number}"
        self.run_dir = f"{mesh.dir}/run{number}"
        self.pin_dir = f"/sys/fs/bpf/{mesh.prefix}/n{number}"
        self.cgroup = f"{mesh.cgroup}/n{number}"
        self.gateway = f"10.{mesh.net}.{number}.1"
        self.gateway6 = f"fd00:{mesh.net:x}:{number}::1"
        self.agent = self.proxy = None
        self.proxies = []  # all that were started
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

    def start_agent(self, *extra):
        self.starts += 1
        argv = [
            program("bruma-agent"),
            "--run-dir",
            self.run_dir,
            "--pin-dir",
            self.pin_dir,
            "--cgroup",
            self.cgroup,
            "--node-name",
            self.name,
            "--mesh-file",
            self.mesh.file,
            "--ca-key-file",
            self.mesh.ca_key,
            "--verify-interval",
            "500ms",
            "--drain-grace",
            "300ms",
            *extra,
        ]
        self.agent = Process(
            argv, f"{self.mesh.dir}/agent{self.number}.log", netns=self.netns, env=self.agent_env()
        )
        sock = f"{self.run_dir}/agent.sock"

        def listening():
            assert self.agent.alive(), self.agent.text()[-3000:]
            s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                s.connect(sock)
                s.send(b'{"op":"cni-status"}')
                s.settimeout(2)
                return b'"done"' in s.recv(65536)
            except OSError:
                return False
            finally:
                s.close()

        wait_for(listening, "the agent to be ready")

    def agent_env(self):
        return None

    def proxy_env(self):
        control = f"{self.run_dir}/control"
        return {
            "PATH": os.environ["PATH"],
            "BRUMA_RUN_DIR": self.run_dir,
            "NODE_NAME": self.name,
            "XDS_ADDRESS": "https://localhost:15012",
            "XDS_ROOT_CA": f"{control}/root-cert.pem",
            "CA_ADDRESS": "https://localhost:15012",
            "CA_ROOT_CA": f"{control}/root-cert.pem",
            "AUTH_TOKEN": f"{control}/token",
            "ZTUNNEL_WORKER_THREADS": str(self.mesh.workers),
            **self.mesh.proxy_env,
        }

    def start_proxy(self, wait=True):
        self.proxy = Process(
            [program("bruma-proxy")],
            f"{self.mesh.dir}/proxy{self.number}.log",
            netns=self.netns,
            env=self.proxy_env(),
        )
        self.proxies.append(self.proxy)
        if wait:
            wait_for(self.ready, f"the proxy of {self.name} to be ready")
        return self.proxy

    def http(self, port, path):
        """GET from the node's own loopback: (status, body)."""
        with inside(self.netns):
            s = socket.create_connection(("127.0.0.1", port), timeout=5)
        with s:
            s.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            chunks = []
            while chunk := s.recv(1 << 20):
                chunks.append(chunk)
        head, _, body = b"".join(chunks).partition(b"\r\n\r\n")
        if b"chunked" in head.lower():
            body = joined(body)
        return int(head.split()[1]), body.decode()

    def ready(self):
        assert self.proxy.alive(), self.proxy.text()[-3000:]
        try:
            return self.http(15021, "/healthz/ready")[0] == 200
        except OSError:
            return False

    def metrics(self):
        return self.http(15020, "/metrics")[1]

    def failures(self, reason):
        found = re.search(rf'bruma_failures_total{{reason="{reason}"}} (\d+)', self.metrics())
        return int(found[1]) if found else 0

    def config_dump(self):
        return json.loads(self.http(15000, "/config_dump")[1])

    def access_log(self, needle="connection complete"):
        return [line for line in self.proxy.text().splitlines() if "\taccess\t" in line and needle in line]

    def ctl(self, *argv, check=True):
        r = subprocess.run(
            [program("brumactl"), "--run-dir", self.run_dir, *argv],
            capture_output=True,
            text=True,
            timeout=30,
        )
        if check and r.returncode:
            raise AssertionError(f"brumactl {argv}: {r.stdout} {r.stderr}")
        return r

    def destroy(self):
        for p in (*self.proxies, self.agent):
            if p:
                p.kill()
        for pod in self.pods:
            pod.destroy()
        if os.path.exists(self.pin_dir):
            subprocess.run(
                [
                    program("bruma-agent"),
                    "--uninstall",
                    "--run-dir",
                    self.run_dir,
                    "--pin-dir",
                    self.pin_dir,
                    "--cgroup",
                    self.cgroup,
                    "--mesh-file",
                    self.mesh.file,
                ],
                capture_output=True,
                timeout=60,
            )
            shutil.rmtree(self.pin_dir, ignore_errors=True)
        sh("ip", "netns", "del", self.netns)
        with contextlib.suppress(OSError):
            os.rmdir(self.cgroup)


class Mesh:
    def __init__(self, nodes=2, workers=1, proxy_env=None, agent_options=(), node_kinds=()):
        """node_kinds: classes of the nodes, where they are not plain ones."""
        serial = next(_serial)
        self.prefix = f"bruma-{os.getpid()}-m{serial}"  # apart from those of conftest.py
        self.net = 64 + (os.getpid() * 7 + serial) % 128
        self.dir = tempfile.mkdtemp(prefix=self.prefix + "-")
        self.cgroup = f"{cgroup_root()}/{self.prefix}"
        self.file, self.ca_key = f"{self.dir}/mesh.yaml", f"{self.dir}/ca-key.pem"
        self.workers, self.proxy_env, self.agent_options = workers, dict(proxy_env or {}), agent_options
        self.labels = {"istio.io/dataplane-mode": "ambient"}
        self.services, self.policies, self.extra = [], [], []
        sh("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", self.ca_key)
        os.makedirs(self.cgroup)
        self.nodes = [(node_kinds[i] if i < len(node_kinds) else Node)(self, i + 1) for i in range(nodes)]
        for node in self.nodes:
            node.create()
        for a in self.nodes:
            for b in self.nodes:
                if a.number < b.number:
                    self.connect(a, b)

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

    def pod(self, name, node=0, namespace="demo", account=None, kind=Pod):
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
        if not os.environ.get("BRUMA_KEEP_LOGS"):
            shutil.rmtree(self.dir, ignore_errors=True)
        if errors:
            raise errors[0]

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if exc[0]:
            for node in self.nodes:
                for p in (node.agent, node.proxy):
                    if p:
                        print(f"--- {p.log}\n{p.text()[-3000:]}")
        self.stop()


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
