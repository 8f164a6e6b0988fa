# SPDX-License-Identifier: Apache-2.0
"""What every certificate of the tests carries, as a real CA's do: Python 3.13 and others that verify strictly
refuse those without (VERIFY_X509_STRICT)."""

from cryptography import x509


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
