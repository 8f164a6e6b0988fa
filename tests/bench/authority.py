#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A certificate authority for peers, as the Istio CA call has it. It signs what it is asked for: for the
bench only.

authority.py DIRECTORY        serves on 127.0.0.1:15012; prints READY
"""

import datetime
import os
import signal
import sys
import threading
from concurrent import futures

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

import wire

LISTEN = "127.0.0.1:15012"
DAY = 86400


def _pem(thing):
    if isinstance(thing, x509.Certificate):
        return thing.public_bytes(serialization.Encoding.PEM)
    return thing.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(path, *parts):
    with open(path, "wb") as f:
        for part in parts:
            f.write(_pem(part))
    os.chmod(path, 0o600)


def _dates(builder, seconds):
    now = datetime.datetime.utcnow().replace(microsecond=0)
    return (
        builder.not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(seconds=seconds))
        .serial_number(x509.random_serial_number())
    )


def _usage(*, ca):
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=not ca,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


class Authority:
    """Key and root certificate: fresh ones in a directory, or those of a file each."""

    def __init__(self, key, root):
        self.key, self.root = key, root

    @classmethod
    def load(cls, key_file, root_file):
        with open(key_file, "rb") as f:
            key = serialization.load_pem_private_key(f.read(), None)
        with open(root_file, "rb") as f:
            return cls(key, x509.load_pem_x509_certificate(f.read()))

    @classmethod
    def make(cls, directory):
        """root.key, root.pem, and server.pem with key and chain for localhost."""
        os.makedirs(directory, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "bench")])
        root = (
            _dates(x509.CertificateBuilder(), 30 * DAY)
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .add_extension(x509.BasicConstraints(True, None), True)
            .add_extension(_usage(ca=True), True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .sign(key, hashes.SHA256())
        )
        self = cls(key, root)
        _write(f"{directory}/root.key", key)
        _write(f"{directory}/root.pem", root)
        server = ec.generate_private_key(ec.SECP256R1())
        leaf = self.sign(server.public_key(), [x509.DNSName("localhost")], 7 * DAY, critical=False)
        _write(f"{directory}/server.pem", server, leaf, root)
        return self

    def sign(self, public_key, names, seconds, critical=True):
        return (
            _dates(x509.CertificateBuilder(), seconds)
            .subject_name(x509.Name([]))
            .issuer_name(self.root.subject)
            .public_key(public_key)
            .add_extension(x509.SubjectAlternativeName(names), critical)
            .add_extension(x509.BasicConstraints(False, None), True)
            .add_extension(_usage(ca=False), True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                False,
            )
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), False)
            .sign(self.key, hashes.SHA256())
        )

    def issue(self, identity, prefix):
        """PREFIX.key and PREFIX.pem for a SPIFFE identity."""
        key = ec.generate_private_key(ec.SECP256R1())
        _write(f"{prefix}.key", key)
        _write(f"{prefix}.pem", self.sign(key.public_key(), [x509.UniformResourceIdentifier(identity)], DAY))

    def answer(self, request):
        """The CA call: a CSR in, the leaf and the root out."""
        asked = dict(wire.fields(request))
        csr = x509.load_pem_x509_csr(asked[1])
        names = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
        leaf = self.sign(
            csr.public_key(), [x509.UniformResourceIdentifier(uri)], min(asked.get(3) or DAY, DAY)
        )
        return wire.text(1, _pem(leaf)) + wire.text(1, _pem(self.root))


def serve(directory):
    authority = Authority.load(f"{directory}/root.key", f"{directory}/root.pem")
    with open(f"{directory}/server.pem", "rb") as f:
        server_pem = f.read()
    cut = server_pem.index(b"-----BEGIN CERTIFICATE")
    server = grpc.server(futures.ThreadPoolExecutor(2))
    call = grpc.unary_unary_rpc_method_handler(lambda request, context: authority.answer(request))
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                "istio.v1.auth.IstioCertificateService", {"CreateCertificate": call}
            ),
        )
    )
    server.add_secure_port(LISTEN, grpc.ssl_server_credentials([(server_pem[:cut], server_pem[cut:])]))
    server.start()
    print("READY", flush=True)
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    ended.wait()
    server.stop(0)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    serve(sys.argv[1])
