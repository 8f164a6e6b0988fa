# SPDX-License-Identifier: Apache-2.0
"""Around the judged proxy: a node and its pods in network namespaces, and all who talk to it. None of them is Bruma's: a control
plane and CA (Python's grpc), a CNI agent (ZDS over a socket of Python's), peers (Python's h2 over its ssl), captured by the rules
of a stock CNI agent. Pods:

    web, shop   of the judged node, in the mesh; shop has an echo server on 8080
    far, wp     of another node, in the mesh by HBONE: peers that the cases play
    plain       of another node, known to the mesh and without a tunnel; outside is not known
"""

import contextlib
import signal
import socket
import tempfile
import time

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from support import network
from support.certificates import key_pem, pem
from support.network import inside
from support.nodes.mesh import Mesh, MeshNode
from support.nodes.pod_programs import ECHO
from support.proxies import hbone, stock_capture
from support.proxies.zds import CniAgent
from support.system import Failed, Process, wait_for
from support.wire.access_log import AccessLog
from support.xds.control_plane import ADDRESS, AUTHORIZATION
from support.xds.plane import END, Plane

START = 15  # seconds until a proxy has connected to the agent
PATIENCE = 6  # seconds until what has been announced must be so
AFTER_A_PEER = 0.05  # until the end of a peer's tunnels is known; one case is about the time before
HOST = "shop.demo.svc.cluster.local"


class JudgedNode(MeshNode):
    """The proxy gets stock settings alone, and what the caller adds."""

    program, settings = None, {}

    def start_proxy(self, wait=True, **env):
        self.proxy = Process(
            [self.program, "proxy"],
            self.proxy_log,
            netns=self.netns,
            env={**self.settings, **env},
            tied=False,
        )
        self.proxies.append(self.proxy)
        return self.proxy

    def destroy(self):
        """Also where the judge was interrupted while it made or removed a pod."""
        for pod in self.pods:
            pod.kill_programs()
        self.pods = [pod for pod in self.pods if network.exists(pod.netns)]
        super().destroy()


class Site:
    def __init__(self, program, settings):
        self.mesh = Mesh(nodes=1, node_kinds=[JudgedNode])
        try:
            self.build(program, settings)
        except BaseException:
            self.close()
            raise

    def build(self, program, settings):
        self.nodes = self.mesh.nodes
        self.node = node = self.mesh.nodes[0]
        self.enrolled, self.leaves, self.usual = [], {}, {}
        for name in ("web", "shop", "far", "wp", "plain"):
            setattr(self, name, self.mesh.pod(name))
        self.outside = self.mesh.pod("outside", namespace="outside")
        self.plane = Plane(f"{self.mesh.dir}/plane", node.netns)
        socket_path = f"{node.run_dir}/zds.sock"
        self.agent, self.link = CniAgent(socket_path), None
        node.program = program
        node.settings = {
            "INPOD_UDS": socket_path,
            "NODE_NAME": node.name,
            "POD_NAME": "judged",
            "POD_NAMESPACE": "istio-system",
            "INSTANCE_IP": node.gateway,
            "CLUSTER_ID": "Kubernetes",
            "RUST_LOG": "info",
            "ZTUNNEL_WORKER_THREADS": "1",
            "ISTIO_META_DNS_CAPTURE": "false",
            "TERMINATION_GRACE_PERIOD_SECONDS": "20",
            **self.plane.env(),
            **settings,
        }
        for pod in (self.web, self.shop):
            self.describe(pod, services={HOST: [(80, 8080)]} if pod is self.shop else {})
        for pod in (self.far, self.wp):
            self.describe(pod, node="elsewhere")
        self.describe(self.plain, node="elsewhere", tunnel_protocol=0)
        self.known(self.plane.service(HOST, "10.96.1.1"))
        for pod in (self.web, self.shop):
            self.capture(pod)
        for pod in (self.shop, self.plain, self.outside):
            pod.echo = pod.server(ECHO, "8080")
        self.start()

    def close(self):
        if hasattr(self, "agent"):
            self.agent.close()
        if hasattr(self, "plane"):
            self.plane.stop()
        self.mesh.stop()

    # ---- the mesh as the control plane has it ----

    def known(self, item):
        """Of every case: comes back where one has changed it."""
        self.usual[item[0]] = item[1]
        with self.plane.lock:
            self.plane.resources[ADDRESS][item[0]] = ("usual", item[1])

    def describe(self, pod, **fields):
        fields = {"canonical_name": pod.name, "workload_name": pod.name, **fields}
        self.known(self.plane.of(pod, **fields))

    def stream(self):
        return self.plane.streams[-1]

    def acknowledged(self, nonce):
        return any(r.response_nonce == nonce for r in self.stream().requests)

    def push(self, *items, type_url=ADDRESS):
        """Sends resources, and waits until the proxy has acknowledged them, or refused."""
        with self.plane.lock:
            self.plane.set(*items, type_url=type_url)
            nonce = f"n{self.plane.nonce}"
        wait_for(lambda: self.acknowledged(nonce), "an answer to the control plane's response", PATIENCE)

    def withdraw(self, *names, type_url=ADDRESS):
        with self.plane.lock:
            self.plane.remove(*(n for n in names if n in self.plane.resources[type_url]), type_url=type_url)
            nonce = f"n{self.plane.nonce}"
        wait_for(lambda: self.acknowledged(nonce), "an answer to the removal", PATIENCE)

    @contextlib.contextmanager
    def resources(self, *items):
        """Workloads and services for the time of a block; those that were there before come back."""
        self.push(*items)
        try:
            yield
        finally:
            self.as_usual()

    @contextlib.contextmanager
    def policies(self, *items):
        self.push(*items, type_url=AUTHORIZATION)
        try:
            yield
        finally:
            self.as_usual()

    def as_usual(self):
        with self.plane.lock:
            have, policies = self.plane.resources[ADDRESS], list(self.plane.resources[AUTHORIZATION])
            others = [n for n in have if n not in self.usual]
            changed = [(n, m) for n, m in self.usual.items() if n not in have or have[n][1] != m]
        if not self.node.proxy.alive():
            with self.plane.lock:
                for name in others:
                    del have[name]
                for name in policies:
                    del self.plane.resources[AUTHORIZATION][name]
                have.update({n: ("usual", m) for n, m in changed})
            return
        if others:
            self.withdraw(*others)
        if policies:
            self.withdraw(*policies, type_url=AUTHORIZATION)
        if changed:
            self.push(*changed)

    def policy(self, name, *matches, action=1, scope=1, namespace="demo", clauses=None, **fields):
        """A policy of one rule with one clause of these matches, or with these clauses; DENY of the namespace unless told
        otherwise. A match is a dictionary of the message's fields."""
        m = self.plane.messages["istio.security.Authorization"](
            name=name, namespace=namespace, scope=scope, action=action, **fields
        )
        for clause in clauses or ([matches] if matches else []):
            if not m.rules:
                m.rules.add()
            c = m.rules[0].clauses.add()
            for match in clause:
                fill(c.matches.add(), match)
        return f"{namespace}/{name}", m

    def end_stream(self):
        """The server ends it; the proxy comes back. Returns the first request for addresses of the new one."""
        before = len(self.plane.streams)
        self.stream().out.put(END)
        wait_for(
            lambda: (
                len(self.plane.streams) > before
                and self.stream().first(ADDRESS)
                and self.stream().first(AUTHORIZATION)
            ),
            "a new stream",
            PATIENCE,
        )
        return self.stream().first(ADDRESS)

    # ---- the proxy's life ----

    def start(self, **env):
        """Until it is ready, with the pods that are enrolled."""
        self.ending = False
        self.node.start_proxy(**env)
        self.introduce()

    def accept(self):
        """The proxy's connection to the agent; it may take a while to come to it, and must live."""
        deadline = time.monotonic() + START
        while time.monotonic() < deadline:
            with contextlib.suppress(TimeoutError):
                return self.agent.accept(0.2)
            self.node.proxy.check()
        raise Failed(f"no connection to the agent's socket within {START} s", self.node.proxy_log)

    def introduce(self):
        self.link = self.accept()
        for pod in self.enrolled:
            self.link.add(pod)
        self.link.snapshot_sent()
        wait_for(self.node.ready, "the proxy to be ready", log=self.node.proxy_log)

    def restart(self, **env):
        self.node.proxy.kill()
        self.drop_connections()
        self.start(**env)

    def drop_connections(self):
        """What the agent had with proxies before."""
        for connection in self.agent.connections:
            connection.close()
        self.agent.connections = []

    def capture(self, pod):
        stock_capture.install(pod.netns)
        self.enrolled.append(pod)

    def enroll(self, pod):
        self.capture(pod)
        self.link.add(pod)

    def terminate(self):
        """SIGTERM; the case is the proxy's last."""
        self.ending = True
        self.node.proxy.kill(signal.SIGTERM)

    def tidy(self, failed):
        """After a case. After one that has failed nothing of the proxy is trusted."""
        if failed or self.ending:
            self.node.proxy.kill()
        self.as_usual()
        if not self.node.proxy.alive():
            self.restart()

    # ---- as a peer of it ----

    def certificate(self, *identities, authority=None, **changes):
        """(certificate, key, root) in files, of the mesh's CA."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.UniformResourceIdentifier(i) for i in identities]
        cert = (authority or self.plane.authority).sign(key.public_key(), names, **changes)
        folder = tempfile.mkdtemp(dir=self.mesh.dir)
        for name, data in (("cert", pem(cert)), ("key", key_pem(key))):
            with open(f"{folder}/{name}.pem", "wb") as f:
                f.write(data)
        return f"{folder}/cert.pem", f"{folder}/key.pem", self.plane.root_file

    def of(self, pod):
        """The pod's own certificate, as its node's proxy would have it."""
        if pod.identity not in self.leaves:
            self.leaves[pod.identity] = self.certificate(pod.identity)
        return self.leaves[pod.identity]

    @contextlib.contextmanager
    def tunnel(self, certificate=None, to=None, source=None, address=None, kind=hbone.Client, **options):
        """An HBONE client of far's to shop, or to another pod."""
        with inside((source or self.far).netns):
            c = kind((address or (to or self.shop).ip, 15008), *(certificate or self.of(self.far)), **options)
        try:
            yield c
        finally:
            c.close()

    def status(self, authority=None, extra=(), **options):
        """The answer to one CONNECT on a tunnel of its own."""
        with self.tunnel(**options) as c:
            return c.status(c.connect(authority or f"{self.shop.ip}:8080", extra))

    @contextlib.contextmanager
    def peer(self, pod=None, behaviour=None, certificate=None, **options):
        """An HBONE server in far, or another pod."""
        pod = pod or self.far
        with inside(pod.netns):
            listener = socket.create_server(
                ("::", 15008), family=socket.AF_INET6, backlog=128, dualstack_ipv6=True
            )
        server = hbone.Server(listener, *(certificate or self.of(pod)), behaviour=behaviour, **options)
        try:
            yield server
        finally:
            server.stop()
            time.sleep(AFTER_A_PEER)

    # ---- as applications and operators ----

    def dial(self, pod, address, port=8080, seconds=PATIENCE):
        """A connected socket of the pod's."""
        with inside(pod.netns):
            return socket.create_connection((address, port), timeout=seconds)

    def ask(self, pod, address, port=8080, word=b"hello", seconds=PATIENCE):
        """What comes back for a word, or "closed" where nothing does: refused, reset and ended alike."""
        try:
            with self.dial(pod, address, port, seconds) as s:
                s.sendall(word)
                s.shutdown(socket.SHUT_WR)
                got = b""
                while part := s.recv(65536):
                    got += part
                return got.decode() or "closed"
        except TimeoutError:
            return "silence"
        except OSError:
            return "closed"

    def access_log(self):
        return AccessLog(self.node)


def fill(match, fields):
    for name, values in fields.items():
        target = getattr(match, name)
        for value in values:
            if name.endswith("ports"):
                target.append(value)
            elif name.endswith("ips"):
                address, length = value.split("/")
                family = socket.AF_INET6 if ":" in address else socket.AF_INET
                target.add(address=socket.inet_pton(family, address), length=int(length))
            elif name.endswith("accounts"):
                namespace, account = value.split("/")
                target.add(namespace=namespace, service_account=account)
            elif value == "*":
                target.add().presence.SetInParent()
            elif value.startswith("*"):
                target.add(suffix=value[1:])
            elif value.endswith("*"):
                target.add(prefix=value[:-1])
            else:
                target.add(exact=value)


def read(s, count, seconds=PATIENCE):
    """So many bytes; fewer where the end came, or an error's name."""
    s.settimeout(seconds)
    got = b""
    try:
        while len(got) < count:
            part = s.recv(count - len(got))
            if not part:
                break
            got += part
    except OSError as e:
        return type(e).__name__
    return got
