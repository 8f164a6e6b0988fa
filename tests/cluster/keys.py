# SPDX-License-Identifier: Apache-2.0
"""Keys of the test cluster: one CA, and a certificate and a kubeconfig for each who talks to the API
server."""

import datetime
import ipaddress
import os

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from plan import API_PORT, CONTROL4
from support.certificates import usual


class Keys:
    def __init__(self, directory):
        self.directory = directory
        os.makedirs(directory)
        self.ca_key = ec.generate_private_key(ec.SECP256R1())
        self.ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test cluster")])
        self._write("ca.crt", self._sign(self.ca_name, self.ca_key, ca=True))
        self._write("sa.key", self._pem(rsa.generate_private_key(65537, 2048)))

    def path(self, name):
        return os.path.join(self.directory, name)

    def _write(self, name, data):
        with open(self.path(name), "wb") as f:
            f.write(data if isinstance(data, bytes) else data.public_bytes(serialization.Encoding.PEM))

    @staticmethod
    def _pem(key):
        return key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )

    def _sign(self, name, key, ca=False, addresses=(), names=()):
        now = datetime.datetime.utcnow()
        b = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self.ca_name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=2))
        )
        b = usual(b, key.public_key(), self.ca_key.public_key(), ca=ca)
        if not ca:
            b = b.add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                False,
            )
        others = [x509.IPAddress(ipaddress.ip_address(a)) for a in addresses] + [
            x509.DNSName(n) for n in names
        ]
        if others:
            b = b.add_extension(x509.SubjectAlternativeName(others), False)
        return b.sign(self.ca_key, hashes.SHA256())

    def make(self, file, user, group=None, addresses=(), names=()):
        """FILE.crt, FILE.key and FILE.conf, a kubeconfig with their contents."""
        parts = [x509.NameAttribute(NameOID.COMMON_NAME, user)]
        if group:
            parts.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, group))
        key = ec.generate_private_key(ec.SECP256R1())
        self._write(f"{file}.key", self._pem(key))
        self._write(f"{file}.crt", self._sign(x509.Name(parts), key, addresses=addresses, names=names))
        self.config(file, f"client-certificate: {self.path(file)}.crt, client-key: {self.path(file)}.key")

    def config(self, file, user):
        with open(self.path(f"{file}.conf"), "w") as f:
            f.write(f"""apiVersion: v1
kind: Config
current-context: test
clusters: [{{name: test, cluster: {{server: "https://{CONTROL4}:{API_PORT}", certificate-authority: {self.path("ca.crt")}}}}}]
users: [{{name: me, user: {{{user}}}}}]
contexts: [{{name: test, context: {{cluster: test, user: me}}}}]
""")
