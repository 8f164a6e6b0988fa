# SPDX-License-Identifier: Apache-2.0
"""Nodes whose wall clock is the test's (other_clock.c); this machine's stays as it is."""

import os
import struct
import subprocess

from cryptography import x509

from support.nodes.mesh import Mesh, MeshNode
from support.programs import BUILD

HOUR, DAY, YEAR = 3600, 86400, 365 * 86400


class Elsewhen(MeshNode):
    """A node with a clock of its own: set() to so many seconds ahead of the machine's."""

    def create(self):
        super().create()
        self.library = os.path.abspath(f"{BUILD}/tests/e2e/other-clock.so")
        assert os.path.exists(self.library), "ninja e2e-programs builds it"
        self.clock = f"{self.run_dir}/clock"
        self.set(self.mesh.begin)

    def set(self, ahead):
        with open(self.clock, "r+b" if os.path.exists(self.clock) else "wb", buffering=0) as f:
            f.write(struct.pack("=q", int(ahead)))

    def more(self):
        return {"LD_PRELOAD": self.library, "BRUMA_TEST_CLOCK": self.clock}

    def agent_env(self):
        return {**os.environ, **self.more()}

    def proxy_env(self):
        return {**super().proxy_env(), **self.more()}


class MovableMesh(Mesh):
    def __init__(self, nodes=2, begin=0, **options):
        self.begin = begin
        super().__init__(nodes=nodes, node_kinds=[Elsewhen] * nodes, **options)

    def set(self, ahead):
        for node in self.nodes:
            node.set(ahead)


def validity(node, identity):
    """(begin, end) of the certificate that is served, or None."""
    for c in node.config_dump()["certificates"]:
        if c["identity"] == identity and c["certChain"]:
            first = c["certChain"][0]
            return tuple(subprocess_time(first[k]) for k in ("validFrom", "expirationTime"))
    return None


def subprocess_time(text):
    return int(subprocess.run(["date", "-d", text, "+%s"], capture_output=True, text=True, check=True).stdout)


def root(node):
    with open(f"{node.run_dir}/control/root-cert.pem", "rb") as f:
        return x509.load_pem_x509_certificate(f.read())
