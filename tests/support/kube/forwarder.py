# SPDX-License-Identifier: Apache-2.0
"""An API server for brumactl: it lists agents and proxies of simulated nodes, and forwards ports on loopback of them over
WebSocket, as the kubelets of a cluster do (v4.channel.k8s.io). It can misbehave."""

import base64
import contextlib
import hashlib
import http.server
import json
import os
import re
import socket
import ssl
import struct
import threading
import time
import urllib.parse

from support.kube.server import make_certificates
from support.network import inside

TOKEN = "operator-of-the-test"
GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
FORWARD = re.compile(r"/api/v1/namespaces/([^/]+)/pods/([^/]+)/portforward$")
PODS = re.compile(r"/api/v1/namespaces/([^/]+)/pods$")


def frame(payload, opcode=2, final=True):
    n = len(payload)
    length = (
        bytes([n])
        if n < 126
        else b"\x7e" + struct.pack("!H", n)
        if n < 65536
        else b"\x7f" + struct.pack("!Q", n)
    )
    return bytes([(0x80 if final else 0) | opcode]) + length + payload


def read_frame(f):
    """(opcode, payload) of what a client sends, which is masked; (8, b"") at the end."""
    head = f.read(2)
    if len(head) < 2:
        return 8, b""
    n = head[1] & 0x7F
    if n >= 126:
        n = int.from_bytes(f.read(2 if n == 126 else 8), "big")
    assert head[1] & 0x80, "a client has to mask"
    mask = f.read(4)
    payload = f.read(n)
    return head[0] & 0x0F, bytes(b ^ mask[i % 4] for i, b in enumerate(payload))


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, o):
        body = json.dumps(o).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def refuse(self, status, message):
        self.answer(status, {"kind": "Status", "code": status, "message": message})

    def do_GET(self):
        api = self.server.api
        url = urllib.parse.urlsplit(self.path)
        path, query = url.path.removeprefix(api.prefix), dict(urllib.parse.parse_qsl(url.query))
        api.asked.append((path, dict(self.headers.items())))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.refuse(401, "Unauthorized")
        elif not url.path.startswith(api.prefix + "/"):
            self.refuse(404, "not found")
        elif PODS.match(path):
            self.list_pods(PODS.match(path)[1], query)
        elif FORWARD.match(path):
            self.forward(*FORWARD.match(path).groups(), int(query["ports"]))
        else:
            self.refuse(404, f"the server could not find the requested resource: {path}")

    def list_pods(self, namespace, query):
        """In pages of one, so that clients have to ask for the next one."""
        if self.server.api.list_fault == "endless":
            self.send_response(200)
            self.end_headers()
            self.pour(b'{"kind": "PodList", "items": [' + b" " * 100_000)
            return
        pods = self.server.api.pods() if namespace == "istio-system" else []
        at = int(query.get("continue") or 0)
        more = {"continue": str(at + 1)} if at + 1 < len(pods) else {}
        self.answer(200, {"kind": "PodList", "metadata": more, "items": pods[at : at + 1]})

    def pour(self, data):
        """Until the client has had enough of it, or ten minutes: self.server.api.poured is how many bytes it took."""
        self.close_connection = True
        deadline = time.monotonic() + 600
        with contextlib.suppress(OSError):
            while time.monotonic() < deadline:
                self.wfile.write(data)
                self.server.api.poured += len(data)

    # ---- forwarding ----

    def forward(self, namespace, pod, port):
        api = self.server.api
        node = api.places.get(pod.removesuffix(api.generation)) if pod.endswith(api.generation) else None
        fault = api.faults.get(pod)
        if fault == "refuse":
            self.refuse(
                403, f'pods "{pod}" is forbidden: User "reader" cannot create resource "pods/portforward"'
            )
            return
        if not node or namespace != "istio-system":
            self.refuse(404, f'pods "{pod}" not found')
            return
        accept = base64.b64encode(hashlib.sha1((self.headers["Sec-WebSocket-Key"] + GUID).encode()).digest())
        self.close_connection = True
        if fault == "nonsense":
            self.wfile.write(b"\x15\x03\x01 this is no HTTP\r\n\r\n")
            return
        self.wfile.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Protocol: v4.channel.k8s.io\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        self.wfile.write(frame(b"\0" + struct.pack("<H", port)) + frame(b"\1" + struct.pack("<H", port)))
        if fault == "cut":
            return
        if fault == "bad frame":
            self.wfile.write(b"\xf2\xff" + b"\xff" * 20)
            return
        if fault == "flood":
            self.pour(frame(b"\1no end of \x1b[2J complaints ") * 100)
            return
        if fault == "empty flood":
            self.pour(frame(b"\1") * 10_000)
            return
        if isinstance(fault, bytes):
            self.play(fault)
            return
        if fault == "silence":
            while read_frame(self.rfile)[0] != 8:
                pass
            return
        try:
            with inside(node.netns):
                target = socket.create_connection(("127.0.0.1", port), 10)
        except OSError as e:
            self.wfile.write(frame(f"\1error forwarding port {port} to pod {pod}: {e}".encode()))
            return
        with target:
            self.relay(target, pod)

    def play(self, body):
        """The agent or proxy itself, which answers each request with the body; an empty one never ends."""
        request = b""
        while True:
            opcode, payload = read_frame(self.rfile)
            if opcode == 8:
                return
            request += payload[1:]
            if b"\r\n\r\n" not in request:
                continue
            request = b""
            head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
            if body:
                self.wfile.write(frame(b"\0" + head + b"Content-Length: %d\r\n\r\n" % len(body) + body))
            else:
                self.wfile.write(frame(b"\0" + head + b"\r\n"))
                self.pour(frame(b"\0" + b" " * 1_000_000))

    def relay(self, target, pod):
        self.server.api.targets.add(target)
        back = threading.Thread(target=self.copy_back, args=(target, pod), daemon=True)
        back.start()
        with contextlib.suppress(OSError):
            while True:
                opcode, payload = read_frame(self.rfile)
                if opcode == 8:
                    break
                if opcode == 2 and self.server.api.faults.get(pod) != "silence":
                    target.sendall(payload[1:])
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)
        back.join(10)

    def copy_back(self, target, pod):
        """In frames of all kinds: several of a message, and a ping in between."""
        with contextlib.suppress(OSError):
            while data := target.recv(100_000):
                half = len(data) // 2
                if self.server.api.faults.get(pod) == "silence":
                    continue
                self.wfile.write(frame(b"\0" + data[:half], final=False))
                self.wfile.write(frame(b"are you there", opcode=9))
                self.wfile.write(frame(data[half:], opcode=0))
            if self.server.api.faults.get(pod) == "silence":
                return
            self.wfile.write(frame(b"", opcode=8))
            self.connection.shutdown(socket.SHUT_RDWR)


class Forwarder:
    """nodes: those of a Mesh, whose agents serve pages at ready_port. A context manager. faults: of a pod's name, what
    happens instead of forwarding; "silence" also on connections that are there; bytes: what each request is answered
    with. list_fault: the same of lists. generation: at the end of pods' names, as of others in their place. prefix:
    of all paths, as behind a gateway."""

    def __init__(self, directory, nodes, ready_port=8000):
        self.directory, self.nodes, self.ready_port = str(directory), nodes, ready_port
        self.faults, self.asked, self.prefix, self.hidden = {}, [], "", set()
        self.list_fault, self.poured, self.generation, self.targets = None, 0, "", set()
        self.places = {f"{kind}-{n.name}": n for n in nodes for kind in ("agent", "proxy")}
        os.makedirs(self.directory, exist_ok=True)
        make_certificates(self.directory, ["127.0.0.1"])
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.api, self.http.daemon_threads = self, True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(f"{self.directory}/server.crt", f"{self.directory}/server.key")
        self.http.socket = context.wrap_socket(
            self.http.socket, server_side=True, do_handshake_on_connect=False
        )
        self.thread = threading.Thread(target=self.http.serve_forever, daemon=True)
        self.url = f"https://127.0.0.1:{self.http.server_port}"

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.http.shutdown()
        self.http.server_close()

    def cut(self):
        """All ports that are forwarded."""
        for target in list(self.targets):
            with contextlib.suppress(OSError):
                target.shutdown(socket.SHUT_RDWR)
        self.targets.clear()

    def pods(self):
        return [
            self.pod(kind, n)
            for n in self.nodes
            for kind in ("agent", "proxy")
            if f"{kind}-{n.name}" not in self.hidden
        ]

    def pod(self, kind, node):
        agent = {
            "name": "bruma-agent",
            "readinessProbe": {"httpGet": {"host": "127.0.0.1", "path": "/readyz", "port": self.ready_port}},
        }
        return {
            "metadata": {
                "name": f"{kind}-{node.name}{self.generation}",
                "namespace": "istio-system",
                "creationTimestamp": "2026-01-01T00:00:00Z",
                "labels": {"app.kubernetes.io/part-of": "bruma", "app.kubernetes.io/version": "0.1.0"},
            },
            "spec": {
                "nodeName": node.name,
                "containers": [agent if kind == "agent" else {"name": "istio-proxy", "env": []}],
            },
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
        }

    def kubeconfig(self, name="config", user=None, **cluster):
        """Path of one that leads here. user: of its only user, instead of a token."""
        path = f"{self.directory}/{name}"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [
                {
                    "name": "here",
                    "cluster": {
                        "server": self.url + self.prefix,
                        "certificate-authority": "ca.crt",
                        **cluster,
                    },
                }
            ],
            "users": [{"name": "me", "user": user or {"token": TOKEN}}],
            "contexts": [{"name": "test", "context": {"cluster": "here", "user": "me"}}],
        }
        with open(path, "w") as f:
            json.dump(config, f)
        return path
