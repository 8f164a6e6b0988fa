# SPDX-License-Identifier: Apache-2.0
"""Certificates in files, as an operator's tool writes them for bruma-proxy (identity-sources files), and the directory
of federated bundles."""

import os

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from support.certificates import Authority, key_pem, pem

NAMES = ("tls.crt", "tls.key", "ca.crt")


def write(path, data):
    """In one step: whoever reads finds the old or the new text."""
    with open(path + ".new", "wb") as f:
        f.write(data)
    os.rename(path + ".new", path)


class Domain:
    """A trust domain with an authority of its own."""

    def __init__(self, name, authority=None):
        self.name, self.authority = name, authority or Authority(name)

    @property
    def roots(self):
        return pem(self.authority.cert)

    def identity(self, pod):
        return f"spiffe://{self.name}/ns/{pod.namespace}/sa/{pod.account}"

    def files(self, pod, *, identity=None, signer=None, **dates):
        """What belongs into the pod's directory, of a new key: texts by name."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.UniformResourceIdentifier(identity or self.identity(pod))
        cert = (signer or self.authority).sign(key.public_key(), [name], **dates)
        return dict(zip(NAMES, (pem(cert), key_pem(key), self.roots), strict=True))


class IdentityFiles:
    def __init__(self, directory):
        self.directory = f"{directory}/identities"
        os.makedirs(self.directory)

    def env(self):
        return {
            "BRUMA_IDENTITY_SOURCES": "files",
            "BRUMA_IDENTITY_FILES": self.directory + "/{trust-domain}/{namespace}/{account}",
        }

    def place(self, domain, pod):
        return f"{self.directory}/{domain.name}/{pod.namespace}/{pod.account}"

    def put(self, domain, pod, texts=None, **how):
        """All of them, or those of the pod's that are given."""
        place = self.place(domain, pod)
        os.makedirs(place, exist_ok=True)
        for name, text in (texts or domain.files(pod, **how)).items():
            write(f"{place}/{name}", text)
        return place


class Bundles:
    def __init__(self, directory, *domains):
        self.directory = directory
        os.makedirs(directory)
        for domain in domains:
            self.put(domain)

    def env(self):
        return {"BRUMA_FEDERATED_BUNDLES": self.directory}

    def path(self, domain):
        return f"{self.directory}/{domain.name}.pem"

    def put(self, domain, roots=None):
        write(self.path(domain), domain.roots if roots is None else roots)

    def remove(self, domain):
        os.unlink(self.path(domain))
