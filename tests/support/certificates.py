# SPDX-License-Identifier: Apache-2.0
"""A certificate authority of the tests, and what every certificate carries, as a real CA's do: Python 3.13 and others
that verify strictly refuse those without (VERIFY_X509_STRICT)."""

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

ONE_DAY = datetime.timedelta(days=1)


def usage(*, ca):
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


def usual(builder, key, issuer_key, *, ca):
    """The builder with basic constraints, key usage and both key identifiers; keys are public ones. Of a root
    its own twice."""
    return (
        builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(usage(ca=ca), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


def pem(thing):
    return thing.public_bytes(serialization.Encoding.PEM)


def key_pem(key):
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


class Authority:
    """A root that signs what it is told to."""

    def __init__(self, name="test root"):
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, name)])
        now = datetime.datetime.utcnow()
        builder = (
            x509.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name(self.name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - ONE_DAY)
            .not_valid_after(now + 365 * ONE_DAY)
        )
        self.cert = usual(builder, self.key.public_key(), self.key.public_key(), ca=True).sign(
            self.key, hashes.SHA256()
        )

    @classmethod
    def load(cls, cert_path, key_path):
        """One that exists already."""
        authority = cls.__new__(cls)
        with open(cert_path, "rb") as f:
            authority.cert = x509.load_pem_x509_certificate(f.read())
        with open(key_path, "rb") as f:
            authority.key = serialization.load_pem_private_key(f.read(), None)
        authority.name = authority.cert.subject
        return authority

    def subordinate(self, key=None, ends=30 * 86400):
        """A CA below this one, which ends so many seconds from now."""
        ca, now = Authority.__new__(Authority), datetime.datetime.utcnow()
        ca.key = key or ec.generate_private_key(ec.SECP256R1())
        ca.name = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "subordinate")])
        builder = (
            x509.CertificateBuilder()
            .subject_name(ca.name)
            .issuer_name(self.name)
            .public_key(ca.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - ONE_DAY)
            .not_valid_after(now + datetime.timedelta(seconds=ends))
        )
        ca.cert = usual(builder, ca.key.public_key(), self.key.public_key(), ca=True).sign(
            self.key, hashes.SHA256()
        )
        return ca

    def sign(self, public_key, names, begins=-60, ends=3600, usage=None):
        now = datetime.datetime.utcnow()
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + datetime.timedelta(seconds=begins))
            .not_valid_after(now + datetime.timedelta(seconds=ends))
            .add_extension(x509.SubjectAlternativeName(names), True)
        )
        if usage:
            builder = builder.add_extension(x509.ExtendedKeyUsage(usage), False)
        return usual(builder, public_key, self.key.public_key(), ca=False).sign(self.key, hashes.SHA256())
