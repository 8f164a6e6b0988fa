# SPDX-License-Identifier: Apache-2.0
"""The other side of bruma-proxy's ZDS: a CNI agent that a test drives message by message, and a node whose
pods are captured by the stock rule set (tests/data/capture, as saved in a pod of a real cluster). Nothing
here shares code with the proxy.

    with Mesh(nodes=2, node_kinds=[ZdsNode, ZdsNode]) as mesh: ...
"""

import array
import contextlib
import os
import socket

from support.nodes.mesh import MeshNode
from support.programs import DATA, program
from support.system import Process, sh, wait_for
from support.xds.plane import Authority, Plane

HELLO = b"\x08\x01"
ACKNOWLEDGED = b"\x0a\x00"
SNAPSHOT_SENT = b"\x1a\x00"
PATIENCE = 10  # seconds; a stock agent waits five


def capture(netns):
    """What the stock CNI agent sets up in a pod: rules as they were saved there, mark rule and route."""
    for family, tool, saved, everything in (
        ("-4", "iptables-nft-restore", "iptables-save.txt", "0.0.0.0/0"),
        ("-6", "ip6tables-nft-restore", "ip6tables-save.txt", "::/0"),
    ):
        with open(os.path.join(DATA, "capture", saved)) as rules:
            sh("nsenter", f"--net=/run/netns/{netns}", tool, stdin=rules)
        sh(
            "ip",
            "-n",
            netns,
            family,
            "rule",
            "add",
            "fwmark",
            "0x111/0xfff",
            "pref",
            "32764",
            "lookup",
            "100",
        )
        sh("ip", "-n", netns, family, "route", "add", "local", everything, "dev", "lo", "table", "100")


def release(netns):
    for tool in ("iptables-nft", "ip6tables-nft"):
        for table in ("nat", "mangle", "raw"):
            sh("nsenter", f"--net=/run/netns/{netns}", tool, "-t", table, "-F")
            sh("nsenter", f"--net=/run/netns/{netns}", tool, "-t", table, "-X")


def field(number, value):
    """A text or a message as a field of protobuf."""
    data = value.encode() if isinstance(value, str) else value
    length = bytes([len(data)]) if len(data) < 128 else bytes([len(data) & 127 | 128, len(data) >> 7])
    return bytes([number << 3 | 2]) + length + data


def only_field(number, data):
    """The value of a message's only field."""
    assert data[0] == number << 3 | 2, data
    length, at = (data[1], 2) if data[1] < 128 else (data[1] & 127 | data[2] << 7, 3)
    assert len(data) == at + length, data
    return data[at:]


def add_message(uid, name, namespace, account):
    return field(1, field(1, uid) + field(2, field(1, name) + field(2, namespace) + field(3, account)))


def del_message(uid):
    return field(2, field(2, uid))


def keep_message(uid):
    return field(5, field(1, uid))


class Refused(Exception):
    """A negative answer; the text is the proxy's."""


class Connection:
    """One proxy that has connected."""

    def __init__(self, sock):
        self.sock = sock
        sock.settimeout(PATIENCE)

    def hello(self):
        assert self.sock.recv(1024) == HELLO

    def send(self, message, fds=()):
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.sock.sendmsg([message], rights)

    def answer(self):
        """None for yes, else the text of the refusal."""
        data = self.sock.recv(1024)
        assert data, "the proxy has hung up instead of answering"
        if data == ACKNOWLEDGED:
            return None
        return only_field(1, only_field(1, data)).decode()

    def ask(self, message, fds=()):
        self.send(message, fds)
        error = self.answer()
        if error is not None:
            raise Refused(error)

    def add(self, pod, uid=None, netns=None, account=None):
        fd = os.open(netns or f"/run/netns/{pod.netns}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.ask(add_message(uid or pod.uid, pod.name, pod.namespace, account or pod.account), [fd])
        finally:
            os.close(fd)

    def delete(self, uid):
        self.ask(del_message(uid))

    def keep(self, uid):
        self.ask(keep_message(uid))

    def snapshot_sent(self):
        self.ask(SNAPSHOT_SENT)

    def ended(self, seconds=PATIENCE):
        self.sock.settimeout(seconds)
        try:
            return self.sock.recv(1024) == b""
        except ConnectionResetError:
            return True
        finally:
            self.sock.settimeout(PATIENCE)

    def close(self):
        self.sock.close()


class CniAgent:
    def __init__(self, path):
        self.path, self.connections = path, []
        self.listener = None
        self.listen()

    def listen(self):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(self.path)
        self.listener.listen(8)

    def accept(self, seconds=PATIENCE):
        self.listener.settimeout(seconds)
        connection = Connection(self.listener.accept()[0])
        self.connections.append(connection)
        connection.hello()
        return connection

    def close(self):
        for connection in self.connections:
            connection.close()
        self.connections = []
        self.listener.close()


class ZdsNode(MeshNode):
    """bruma-agent serves the mesh's state here and nothing else: it knows no pod of this node, so
    certificates come from a CA of the tests that has the mesh's key. Pods come from the test, as from a stock
    CNI agent."""

    def __init__(self, mesh, number):
        super().__init__(mesh, number)
        self.cni_agent = self.connection = self.ca = None
        self.enrolled = []
        self.more_env = {}

    def proxy_env(self):
        if not self.ca:
            authority = Authority.load(f"{self.run_dir}/control/root-cert.pem", self.mesh.ca_key)
            self.ca = Plane(f"{self.mesh.dir}/ca{self.number}", self.netns, authority=authority)
        ca = {name: value for name, value in self.ca.env().items() if name.startswith("CA_")}
        return {
            **super().proxy_env(),
            **ca,
            "INPOD_UDS": f"{self.run_dir}/zds.sock",
            "ISTIO_META_DNS_CAPTURE": "false",
            **self.more_env,
        }

    def start_proxy(self, wait=True):
        if not self.cni_agent:
            self.cni_agent = CniAgent(f"{self.run_dir}/zds.sock")
        if wait:
            super().start_proxy(wait=False)
            self.connection = self.introduce()
            wait_for(self.ready, f"the proxy of {self.name} to be ready")
        else:
            super().start_proxy(wait=False)
        return self.proxy

    def start_second_proxy(self):
        """Beside the first, with ports of its own for admin pages: (process, its connection). Nothing is told
        to it yet."""
        env = {
            **self.proxy_env(),
            "BRUMA_ADMIN_PORT": "0",
            "BRUMA_METRICS_PORT": "0",
            "BRUMA_READY_PORT": "0",
            "BRUMA_RUN_DIR": "/nonexistent",
        }
        p = Process(
            [program("bruma-proxy")],
            f"{self.mesh.dir}/proxy{self.number}-second.log",
            netns=self.netns,
            env=env,
        )
        return p, self.cni_agent.accept()

    def introduce(self, connection=None):
        connection = connection or self.cni_agent.accept()
        for pod in self.enrolled:
            connection.add(pod)
        connection.snapshot_sent()
        return connection

    def enroll(self, pod):
        capture(pod.netns)
        self.connection.add(pod)
        self.enrolled.append(pod)

    def destroy(self):
        if self.cni_agent:
            self.cni_agent.close()
        if self.ca:
            self.ca.stop()
        super().destroy()
