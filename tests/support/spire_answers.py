# SPDX-License-Identifier: Apache-2.0
"""What SPIRE's agent may say on its admin socket, and what it never would: a test puts the words into its mouth. The
real agent is in spire.py."""

import os
import queue
import threading
from concurrent import futures

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from support.protobuf import fields, text

SERVICE = "spire.api.agent.delegatedidentity.v1.DelegatedIdentity"
DER = serialization.Encoding.DER
STREAMS = 64


def raw(data):
    return data


def der(cert):
    return cert.public_bytes(DER)


def key_der(key):
    return key.private_bytes(DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def svid(name, chain, key):
    """X509SVIDWithKey as a field of the response; name: the SPIFFE ID that the agent says, chain and key: bytes."""
    domain, path = name.removeprefix("spiffe://").split("/", 1)
    one = b"".join(text(1, c) for c in chain) + text(2, text(1, domain) + text(2, f"/{path}"))
    return text(1, text(1, one) + text(2, key))


def signed(authority, name, **dates):
    """(certificate, key) for that SPIFFE ID."""
    key = ec.generate_private_key(ec.SECP256R1())
    return authority.sign(key.public_key(), [x509.UniformResourceIdentifier(name)], **dates), key


def good(domain, name, federated=(), pair=None, **dates):
    """What the agent sends for an identity of the domain (support/identity_files.py); pair: as of signed(), else of a new
    key."""
    cert, key = pair or signed(domain.authority, name, **dates)
    with_whom = b"".join(text(2, f"spiffe://{d.name}") for d in federated)
    return svid(name, [der(cert)], key_der(key)) + with_whom


def bundles(*domains, **others):
    """SubscribeToX509BundlesResponse; others: bytes by the trust domain's name, "_" for "."."""
    entries = {d.name: der(d.authority.cert) for d in domains}
    entries.update({name.replace("_", "."): data for name, data in others.items()})
    return b"".join(text(1, text(1, f"spiffe://{n}") + text(2, data)) for n, data in entries.items())


class Stream:
    def __init__(self, name, selectors):
        self.name, self.selectors, self.out, self.open = name, selectors, queue.Queue(), True


class Agent:
    """Answers subscriptions of an identity of the trust domain with what was put for it (bytes), or a grpc.StatusCode with
    its text; None: with nothing. What is put later is sent on."""

    def __init__(self, directory, trust_domain):
        os.makedirs(directory)
        self.socket, self.trust_domain = f"{directory}/admin.sock", trust_domain
        self.words, self.streams, self.lock = {}, [], threading.Lock()
        self.server = None

    def env(self):
        return {"BRUMA_IDENTITY_SOURCES": "spire", "BRUMA_SPIRE_SOCKET": self.socket, "CA_ADDRESS": ""}

    def start(self):
        self.server = grpc.server(futures.ThreadPoolExecutor(STREAMS))
        methods = {"SubscribeToX509SVIDs": self._svids, "SubscribeToX509Bundles": self._bundles}
        handlers = {
            name: grpc.unary_stream_rpc_method_handler(fn, request_deserializer=raw, response_serializer=raw)
            for name, fn in methods.items()
        }
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        self.server.add_insecure_port(f"unix:{self.socket}")
        self.server.start()

    def stop(self):
        """Its socket is gone, and all streams end."""
        if self.server:
            with self.lock:
                streams = list(self.streams)
            for stream in streams:
                stream.out.put(StopIteration)
            self.server.stop(0).wait()
        self.server = None

    def put(self, name, words):
        """name: an identity, or None: of the bundles."""
        with self.lock:
            self.words[name] = words
            for stream in self.streams:
                if stream.name == name and stream.open:
                    stream.out.put(words)

    def of(self, name):
        """Streams of the identity that are open."""
        with self.lock:
            return [s for s in self.streams if s.name == name and s.open]

    def _svids(self, request, context):
        selectors = []
        for number, value in fields(request):
            assert number == 1, "by selectors alone"
            part = dict(fields(value))
            selectors.append(f"{part[1].decode()}:{part[2].decode()}")
        values = dict(s.removeprefix("k8s:").split(":", 1) for s in selectors)
        name = f"spiffe://{self.trust_domain}/ns/{values['ns']}/sa/{values['sa']}"
        return self._serve(Stream(name, selectors), context)

    def _bundles(self, request, context):
        assert request == b""
        return self._serve(Stream(None, []), context)

    def _serve(self, stream, context):
        with self.lock:
            self.streams.append(stream)
            stream.out.put(self.words.get(stream.name))

        def ended():
            stream.open = False
            stream.out.put(StopIteration)

        if not context.add_callback(ended):
            return
        while True:
            words = stream.out.get()
            if words is StopIteration or not stream.open:
                return
            if isinstance(words, tuple):
                stream.open = False
                context.abort(*words)
            if words is not None:
                yield words
