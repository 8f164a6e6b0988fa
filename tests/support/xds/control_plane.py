# SPDX-License-Identifier: Apache-2.0
"""The agent's control plane as a process, and an independent client of it: Python's grpcio, with messages
made from lib/proto."""

import base64
import json
import os
import queue
import socket
import subprocess
import threading
import time

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from support.programs import ROOT
from support.system import Failed, run, wait_for

ADDRESS = "type.googleapis.com/istio.workload.Address"
AUTHORIZATION = "type.googleapis.com/istio.security.Authorization"
XDS = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
CA = "/istio.v1.auth.IstioCertificateService/CreateCertificate"
NODE = "ztunnel~10.0.0.1~ztunnel-1.istio-system~istio-system.svc.cluster.local"


def load_messages(directory):
    """Classes by name, such as messages["istio.workload.Address"]. In a pool of their own: Python's protobuf
    has its own google.protobuf.Any."""
    path = os.path.join(directory, "messages.bin")
    protos = os.path.join(ROOT, "lib", "proto")
    names = sorted(n for n in os.listdir(protos) if n.endswith(".proto"))
    run(["protoc-c", f"--proto_path={protos}", "--include_imports", f"--descriptor_set_out={path}", *names])
    with open(path, "rb") as f:
        files = descriptor_pb2.FileDescriptorSet.FromString(f.read())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    factory = message_factory.MessageFactory(pool)
    return {
        m.full_name: factory.GetPrototype(m)
        for file in files.file
        for m in pool.FindFileByName(file.name).message_types_by_name.values()
    }


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class ControlPlane:
    """control-plane-host with a run directory and a mesh file."""

    def __init__(self, build, directory, mesh=None, **settings):
        os.makedirs(directory, exist_ok=True)
        self.build, self.directory = build, directory
        self.mesh_file = settings.pop("mesh_file", os.path.join(directory, "mesh.yaml"))
        self.run_dir = os.path.join(directory, "run")
        self.log = os.path.join(directory, "control-plane.log")
        self.port = free_port()
        self.settings = {
            "run-dir": self.run_dir,
            "mesh-file": self.mesh_file,
            "xds-port": self.port,
            "node-name": "node-a",
            "log-level": "debug",
            **settings,
        }
        if mesh is not None:
            self.write(mesh)
        self.process = None
        self.start()

    def start(self):
        arguments = [f"--{name}={value}" for name, value in self.settings.items()]
        self.events, self.answers = [], queue.Queue()
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [os.path.join(self.build, "tests", "e2e", "control-plane-host"), *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        threading.Thread(
            target=self._read, args=(self.process.stdout, self.events, self.answers), daemon=True
        ).start()
        self.first_report = self._answer()

    @staticmethod
    def _read(lines, events, answers):
        """Of one process: the next one has a queue of its own, which the end of this one does not concern."""
        for line in lines:
            item = json.loads(line)
            if "event" in item:
                events.append(item)
            else:
                answers.put(item)
        answers.put(None)

    def _answer(self):
        try:
            answer = self.answers.get(timeout=60)
        except queue.Empty:
            raise Failed("the control plane does not answer", self.log) from None
        if answer is None:
            raise Failed(f"the control plane has ended with {self.process.wait(20)}", self.log)
        return answer

    def tell(self, *words):
        self.process.stdin.write(" ".join(str(w) for w in words) + "\n")
        self.process.stdin.flush()
        answer = self._answer()
        assert "error" not in answer, answer
        return answer

    def pod(self, uid, namespace, name, enrolled, *addresses):
        assert self.tell("pod", uid, namespace, name, str(enrolled).lower(), *addresses)["result"] == 0

    def report(self):
        return self.tell("report")

    def write(self, text, path=None):
        """In place."""
        with open(path or self.mesh_file, "w", encoding="utf-8") as f:
            f.write(text)

    def replace(self, text):
        """By rename."""
        new = self.mesh_file + ".new"
        self.write(text, new)
        os.rename(new, self.mesh_file)

    def logged(self, *words):
        with open(self.log, encoding="utf-8") as f:
            return [line for line in f if all(w in line for w in words)]

    def wait_logged(self, *words):
        return wait_for(lambda: self.logged(*words), f"the log to say {words}", log=self.log)[0]

    def resident_megabytes(self):
        with open(f"/proc/{self.process.pid}/status", encoding="utf-8") as f:
            return next(int(line.split()[1]) for line in f if line.startswith("VmRSS")) / 1024

    def control_file(self, name):
        with open(os.path.join(self.run_dir, "control", name), encoding="utf-8") as f:
            return f.read()

    def stop(self):
        """By the end of its stdin; returns its exit status."""
        if self.process.poll() is None:
            self.process.stdin.close()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(20)
        return self.process.returncode

    def restart(self):
        assert self.stop() == 0
        self.start()


class Client:
    def __init__(self, plane, messages, token=None, root=None):
        self.messages = messages
        root = plane.control_file("root-cert.pem") if root is None else root
        self.token = plane.control_file("token") if token is None else token
        self.channel = grpc.secure_channel(
            f"localhost:{plane.port}",
            grpc.ssl_channel_credentials(root.encode()),
            [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)],
        )

    def headers(self):
        return [("authorization", f"Bearer {self.token}"), ("clusterid", "Kubernetes")] if self.token else []

    def stream(self):
        return Stream(self)

    def sign(self, identity, csr=None, seconds=3600, timeout=30):
        """The parts of the chain, or grpc.RpcError. Identity None: no metadata."""
        request = self.messages["istio.v1.auth.IstioCertificateRequest"](validity_duration=seconds)
        request.csr = make_csr(identity)[0] if csr is None else csr
        if identity is not None:
            field = request.metadata.fields.add(key="ImpersonatedIdentity")
            field.value.string_value = identity
        return self.call(CA, request.SerializeToString(), timeout).cert_chain

    def call(self, path, data, timeout=30):
        response = self.messages["istio.v1.auth.IstioCertificateResponse"]
        method = self.channel.unary_unary(path, lambda x: x, response.FromString)
        return method(data, metadata=self.headers(), timeout=timeout)

    def close(self):
        self.channel.close()


class Stream:
    """A delta ADS stream. Keeps what the server has sent, as a proxy would."""

    def __init__(self, client):
        self.client, self.messages = client, client.messages
        self.requests, self.responses = queue.Queue(), queue.Queue()
        self.resources = {ADDRESS: {}, AUTHORIZATION: {}}  # name: (version, message)
        self.error = None
        request = self.messages["envoy.service.discovery.v3.DeltaDiscoveryRequest"]
        response = self.messages["envoy.service.discovery.v3.DeltaDiscoveryResponse"]
        method = client.channel.stream_stream(XDS, request.SerializeToString, response.FromString)
        self.call = method(iter(self.requests.get, None), metadata=client.headers())
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        try:
            for response in self.call:
                self.responses.put(response)
        except grpc.RpcError as e:
            self.error = e

    def ask(self, type_url, subscribe=(), unsubscribe=(), held=None, nonce="", error=None, node=NODE):
        q = self.messages["envoy.service.discovery.v3.DeltaDiscoveryRequest"](
            type_url=type_url, response_nonce=nonce
        )
        if not nonce:
            q.node.id = node
        q.resource_names_subscribe.extend(subscribe)
        q.resource_names_unsubscribe.extend(unsubscribe)
        for name, version in (held or {}).items():
            q.initial_resource_versions.add(key=name, value=version)
        if error is not None:
            q.error_detail.message = error
        self.requests.put(q)

    def answer(self, timeout=30, ack=True):
        """The next response. Applies it and acknowledges it."""
        try:
            response = self.responses.get(timeout=timeout)
        except queue.Empty:
            raise Failed(f"no response within {timeout} s ({self.error})") from None
        held = self.resources.setdefault(response.type_url, {})
        for r in response.resources:
            kind = {ADDRESS: "istio.workload.Address", AUTHORIZATION: "istio.security.Authorization"}[
                response.type_url
            ]
            assert r.resource.type_url == response.type_url
            held[r.name] = (r.version, self.messages[kind].FromString(r.resource.value))
        for name in response.removed_resources:
            held.pop(name, None)
        if ack:
            self.ask(response.type_url, nonce=response.nonce)
        return response

    def until(self, condition, what):
        """Takes responses until the condition holds."""
        deadline = time.monotonic() + 30
        while not condition():
            if time.monotonic() > deadline:
                raise Failed(f"{what}: not within 30 s; {sorted(self.resources[ADDRESS])}")
            try:
                self.answer(timeout=1)
            except Failed:
                assert self.error is None, self.error

    def silent(self, seconds=0.4):
        """Nothing comes."""
        try:
            raise AssertionError(f"unexpected: {self.responses.get(timeout=seconds)}")
        except queue.Empty:
            return True

    def workload(self, uid):
        held = self.resources[ADDRESS].get(uid)
        return held[1].workload if held else None

    def versions(self, type_url):
        return {name: version for name, (version, _) in self.resources[type_url].items()}

    def end(self, timeout=30):
        """Waits for the server to end it; the error."""
        self.thread.join(timeout)
        assert not self.thread.is_alive(), "the stream is still open"
        return self.error

    def close(self):
        self.requests.put(None)
        self.call.cancel()
        self.thread.join(30)


def make_csr(identity=None, key=None, subject=(), algorithm=None):
    """PEM text of a request as a proxy makes it, and its key."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(subject))
    if identity:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity)]), critical=True
        )
    csr = builder.sign(key, algorithm or hashes.SHA256())
    return csr.public_bytes(serialization.Encoding.PEM).decode(), key


def flip_signature(pem):
    """The same request with one bit of its signature changed."""
    body = "".join(pem.strip().splitlines()[1:-1])
    der = bytearray(base64.b64decode(body))
    der[-1] ^= 1
    return (
        "-----BEGIN CERTIFICATE REQUEST-----\n"
        + base64.encodebytes(bytes(der)).decode()
        + "-----END CERTIFICATE REQUEST-----\n"
    )
