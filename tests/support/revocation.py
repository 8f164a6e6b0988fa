# SPDX-License-Identifier: Apache-2.0
"""Revocation lists of a mesh's CA."""

import os

from support.system import sh


class Lists:
    """An openssl CA database that makes revocation lists of the mesh's CA."""

    def __init__(self, mesh, path):
        self.path, self.folder = path, f"{mesh.dir}/crl"
        os.makedirs(self.folder)
        self.root = f"{mesh.nodes[0].run_dir}/control/root-cert.pem"
        with open(f"{self.folder}/index", "w"):
            pass
        with open(f"{self.folder}/number", "w") as f:
            f.write("01\n")
        with open(f"{self.folder}/config", "w") as f:
            f.write(
                f"[ca]\ndefault_ca=d\n[d]\ndatabase={self.folder}/index\ncrlnumber={self.folder}/number\n"
                f"default_md=sha256\ndefault_crl_days=1\ncertificate={self.root}\nprivate_key={mesh.ca_key}\n"
            )

    def revoke(self, certificate):
        sh("openssl", "ca", "-config", f"{self.folder}/config", "-revoke", certificate)
        self.write()

    def write(self):
        """Replaced by rename, as a mounted ConfigMap is."""
        sh("openssl", "ca", "-config", f"{self.folder}/config", "-gencrl", "-out", f"{self.path}.new")
        os.rename(f"{self.path}.new", self.path)
