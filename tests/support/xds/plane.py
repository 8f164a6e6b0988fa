# SPDX-License-Identifier: Apache-2.0
"""An independent control plane for bruma-proxy: delta ADS and the CA call with Python's grpcio. A test puts
resources in and takes them out, and may make either service misbehave.

    plane = Plane(directory, netns)        listens on 127.0.0.1:port inside the namespace, over TLS
    plane.set(plane.workload("a", "10.0.0.1"), ...)
"""

import collections
import contextlib
import os
import queue
import socket
import threading
import time
from concurrent import futures

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from support.certificates import Authority, key_pem, pem
from support.network import inside
from support.system import wait_for
from support.xds.control_plane import ADDRESS, AUTHORIZATION, CA, XDS, load_messages

END = object()


class Stream:
    """One ADS stream: what the proxy sent, and a way to send to it."""

    def __init__(self, plane):
        self.plane, self.requests, self.out, self.ended = plane, [], queue.Queue(), threading.Event()

    def first(self, type_url):
        """The request that began the type, or None."""
        return next((r for r in self.requests if r.type_url == type_url and not r.response_nonce), None)

    def nacks(self):
        return [r for r in self.requests if r.HasField("error_detail") and r.error_detail.message]


class Plane:
    def __init__(self, directory, netns, port=16012, authority=None):
        self.directory, self.netns, self.port = directory, netns, port
        os.makedirs(directory, exist_ok=True)
        self.messages = load_messages(directory)
        self.authority = authority or Authority()
        self.resources = {ADDRESS: {}, AUTHORIZATION: {}}  # type -> name -> (version, message)
        self.streams, self.tokens, self.asked = [], [], collections.defaultdict(list)
        self.answer_certificate = self.good_certificate
        self.server, self.nonce, self.lock = None, 0, threading.RLock()
        self.token_identity = None  # of requests that impersonate nobody
        self.options = []  # of the gRPC server; by default it takes messages of up to 4 MiB, as istiod does
        self.page, self.pause = (
            None,
            0,
        )  # first answers come in parts of so many resources, with so many seconds between
        self.root_file, self.token_file = f"{directory}/roots.pem", f"{directory}/token"
        with open(self.root_file, "wb") as f:
            f.write(pem(self.authority.cert))
        with open(self.token_file, "w") as f:
            f.write("first-token")
        self.start()

    def env(self):
        """For bruma-proxy."""
        address = f"https://localhost:{self.port}"
        return {
            "XDS_ADDRESS": address,
            "CA_ADDRESS": address,
            "XDS_ROOT_CA": self.root_file,
            "CA_ROOT_CA": self.root_file,
            "AUTH_TOKEN": self.token_file,
        }

    # ---- the server ----

    def start(self):
        key = ec.generate_private_key(ec.SECP256R1())
        cert = self.authority.sign(key.public_key(), [x509.DNSName("localhost")])
        self.server = grpc.server(futures.ThreadPoolExecutor(32), options=self.options)
        raw = lambda x: x
        self.server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(
                    XDS.split("/")[1],
                    {XDS.split("/")[2]: grpc.stream_stream_rpc_method_handler(self._ads, raw, raw)},
                ),
                grpc.method_handlers_generic_handler(
                    CA.split("/")[1],
                    {CA.split("/")[2]: grpc.unary_unary_rpc_method_handler(self._ca, raw, raw)},
                ),
            )
        )
        credentials = grpc.ssl_server_credentials([(key_pem(key), pem(cert))])
        with inside(self.netns):
            assert self.server.add_secure_port(f"127.0.0.1:{self.port}", credentials)
            self.server.start()

    def stop(self):
        for s in self.streams:
            s.out.put(END)
        self.server.stop(0).wait(10)
        with inside(self.netns):
            wait_for(self._refused, "the server's port to be closed")

    def _refused(self):
        with socket.socket() as s, contextlib.suppress(OSError):
            s.settimeout(1)
            return s.connect_ex(("127.0.0.1", self.port)) != 0

    def _ads(self, requests, context):
        stream = Stream(self)
        self.tokens.append(dict(context.invocation_metadata()).get("authorization"))

        def read():
            with contextlib.suppress(grpc.RpcError, ValueError):
                for data in requests:
                    r = self.messages["envoy.service.discovery.v3.DeltaDiscoveryRequest"].FromString(data)
                    with self.lock:
                        stream.requests.append(r)
                        if not r.response_nonce:
                            held = {v.key: v.value for v in r.initial_resource_versions}
                            self._push(stream, r.type_url, held)
            stream.ended.set()
            stream.out.put(END)

        with self.lock:
            self.streams.append(stream)
        threading.Thread(target=read, daemon=True).start()
        while (item := stream.out.get()) is not END:
            yield item

    def _push(self, stream, type_url, held):
        have = self.resources[type_url]
        changed = {n: v for n, v in have.items() if held.get(n) != v[0]}
        removed, names = [n for n in held if n not in have], list(changed)
        if not self.page or not names:
            self.respond(stream, type_url, changed, removed)
            return
        pages = [names[i : i + self.page] for i in range(0, len(names), self.page)]
        threading.Thread(
            target=self._pages, args=(stream, type_url, changed, pages, removed), daemon=True
        ).start()

    def _pages(self, stream, type_url, changed, pages, removed):
        for i, page in enumerate(pages):
            if i:
                time.sleep(self.pause)
            with self.lock:
                have = self.resources[type_url]
                self.respond(
                    stream, type_url, {n: changed[n] for n in page if n in have}, removed if i == 0 else ()
                )

    def respond(self, stream, type_url, resources, removed=()):
        r = self.messages["envoy.service.discovery.v3.DeltaDiscoveryResponse"](type_url=type_url)
        self.nonce += 1
        r.nonce = f"n{self.nonce}"
        r.removed_resources.extend(removed)
        for name, (version, message) in resources.items():
            item = r.resources.add(name=name, version=version)
            item.resource.type_url = type_url
            item.resource.value = message if isinstance(message, bytes) else message.SerializeToString()
        stream.out.put(r.SerializeToString())
        return r.nonce

    # ---- resources ----

    def set(self, *items, type_url=ADDRESS, version=None):
        """items: (name, message or bytes); sent to all streams at once, in one response."""
        with self.lock:
            new = {name: (version or f"v{time.monotonic_ns()}", message) for name, message in items}
            self.resources[type_url].update(new)
            for s in self.streams:
                if not s.ended.is_set() and s.first(type_url):
                    self.respond(s, type_url, new)

    def remove(self, *names, type_url=ADDRESS):
        with self.lock:
            for n in names:
                del self.resources[type_url][n]
            for s in self.streams:
                if not s.ended.is_set() and s.first(type_url):
                    self.respond(s, type_url, {}, names)

    def policy(self, name, **fields):
        m = self.messages["istio.security.Authorization"](
            name=name, namespace=fields.pop("namespace", "demo"), **fields
        )
        return f"{m.namespace}/{name}", m

    def workload(self, name, *ips, services=(), **fields):
        m = self.messages["istio.workload.Address"]()
        w = m.workload
        w.uid, w.name, w.namespace = f"Kubernetes//Pod/demo/{name}", name, "demo"
        w.service_account, w.trust_domain, w.cluster_id = name, "cluster.local", "Kubernetes"
        w.addresses.extend(ip if isinstance(ip, bytes) else packed(ip) for ip in ips)
        for hostname, ports in dict(services).items():
            entry = w.services.add(key=f"demo/{hostname}")
            for service_port, target in ports:
                entry.value.ports.add(service_port=service_port, target_port=target)
        for key, value in fields.items():
            if isinstance(value, list):
                getattr(w, key).extend(value)
            else:
                setattr(w, key, value)
        return w.uid, m

    def of(self, pod, **fields):
        """A pod as a workload, with HBONE."""
        usual = {"tunnel_protocol": 1, "node": pod.node.name, "service_account": pod.account}
        return self.workload(pod.name, *pod.ips, **{**usual, **fields})

    def service(self, hostname, *vips, ports=((80, 8080),), **fields):
        m = self.messages["istio.workload.Address"]()
        s = m.service
        s.name, s.namespace, s.hostname = hostname.split(".")[0], "demo", hostname
        for vip in vips:
            ip, _, length = vip.partition("/")
            a = s.addresses.add(address=packed(ip))
            if length:
                a.length = int(length)
        for service_port, target in ports:
            s.ports.add(service_port=service_port, target_port=target)
        for key, value in fields.items():
            setattr(s, key, value)
        return f"demo/{hostname}", m

    # ---- certificates ----

    def good_certificate(self, identity, csr, **changes):
        """The answer's chain. changes: identity, ends, begins, authority."""
        authority = changes.get("authority", self.authority)
        leaf = authority.sign(
            csr.public_key(),
            [x509.UniformResourceIdentifier(changes.get("identity", identity))],
            changes.get("begins", -60),
            changes.get("ends", 3600),
        )
        return [pem(leaf), pem(authority.cert)]

    def _ca(self, data, context):
        q = self.messages["istio.v1.auth.IstioCertificateRequest"].FromString(data)
        fields = q.metadata.fields
        asked = [f.value.string_value for f in fields if f.key == "ImpersonatedIdentity"]
        if not asked and not self.token_identity:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "for whom?")
        identity = asked[0] if asked else self.token_identity
        with self.lock:
            self.asked[identity].append(time.monotonic())
            self.tokens.append(dict(context.invocation_metadata()).get("authorization"))
        answer = self.answer_certificate(identity, x509.load_pem_x509_csr(q.csr.encode()))
        if isinstance(answer, grpc.StatusCode):
            context.abort(answer, "as the test wants it")
        r = self.messages["istio.v1.auth.IstioCertificateResponse"]()
        r.cert_chain.extend(part.decode() for part in answer)
        return r.SerializeToString()


def packed(ip):
    return socket.inet_pton(socket.AF_INET6 if ":" in ip else socket.AF_INET, ip)
