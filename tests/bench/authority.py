#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A certificate authority for peers, as the Istio CA call has it. It signs what it is asked for: for the bench only.

authority.py DIRECTORY        serves on 127.0.0.1:15012; prints READY
"""

import os
import signal
import sys
import threading
from concurrent import futures

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from support import certificates, protobuf
from support.certificates import key_pem, pem

LISTEN = "127.0.0.1:15012"
DAY = 86400
USAGE = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]


def _write(path, *parts):
    with open(path, "wb") as f:
        f.writelines(parts)
    os.chmod(path, 0o600)


class Authority(certificates.Authority):
    @classmethod
    def make(cls, directory):
        """root.key, root.pem, and server.pem with key and chain for localhost."""
        os.makedirs(directory, exist_ok=True)
        self = cls("bench")
        _write(f"{directory}/root.key", key_pem(self.key))
        _write(f"{directory}/root.pem", pem(self.cert))
        server = ec.generate_private_key(ec.SECP256R1())
        leaf = self.sign(server.public_key(), [x509.DNSName("localhost")], ends=7 * DAY, usage=USAGE)
        _write(f"{directory}/server.pem", key_pem(server), pem(leaf), pem(self.cert))
        return self

    def issue(self, identity, prefix):
        """PREFIX.key and PREFIX.pem for a SPIFFE identity."""
        key = ec.generate_private_key(ec.SECP256R1())
        _write(f"{prefix}.key", key_pem(key))
        _write(f"{prefix}.pem", pem(self.of(identity, key.public_key(), DAY)))

    def of(self, identity, public_key, seconds):
        return self.sign(public_key, [x509.UniformResourceIdentifier(identity)], -300, seconds, USAGE)

    def answer(self, request):
        """The CA call: a CSR in, the leaf and the root out."""
        asked = dict(protobuf.fields(request))
        csr = x509.load_pem_x509_csr(asked[1])
        names = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
        leaf = self.of(uri, csr.public_key(), min(asked.get(3) or DAY, DAY))
        return protobuf.text(1, pem(leaf)) + protobuf.text(1, pem(self.cert))


def serve(directory):
    authority = Authority.load(f"{directory}/root.pem", f"{directory}/root.key")
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
