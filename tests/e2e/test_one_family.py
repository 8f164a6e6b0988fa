# SPDX-License-Identifier: Apache-2.0
"""A pod of a cluster with one address family: the other one is on, with a loopback or link-local address, and
leads nowhere. connect() to it fails at once, as it does without the mesh, for that is how clients come to try
the next address of a name. It must not succeed and be reset when the request has been sent."""

import json

import pytest

from support.nodes.mesh import Mesh, MeshPod
from support.system import sh, wait_for

HTTP = """
import http.server, socket
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200); self.send_header("content-length", "2"); self.end_headers(); self.wfile.write(b"ok")
    def log_message(self, *_): pass
print("READY", flush=True)
Server(("::", 8080), Handler).serve_forever()
"""
CONNECT = """
import errno, socket, sys
for to in sys.argv[1:]:
    s = socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET); s.settimeout(8)
    e = s.connect_ex((to, 8080))
    print(errno.errorcode.get(e, e) if e else "connected")
"""
# Takes the addresses of a name in the order in which a resolver gave them, as every such client does: the
# next one when connect() fails.
POST = """
import http.client, socket, sys
for address in sys.argv[1:]:
    try:
        s = socket.create_connection((address, 8080), timeout=8)
    except OSError:
        continue
    c = http.client.HTTPConnection("name"); c.sock = s
    c.request("POST", "/", b"once and only once")
    print(c.getresponse().status)
    break
"""


class OneFamily(MeshPod):
    """Its network has given it addresses of one family alone."""

    family = 0

    def create(self):
        super().create()
        other = "-4" if self.family else "-6"
        sh("ip", "-n", self.netns, other, "route", "flush", "default")
        sh("ip", "-n", self.netns, other, "addr", "flush", "dev", "eth0", "scope", "global")

    def addresses_of_result(self):
        return [[f"{self.ip}/24"], [f"{self.ip6}/64"]][self.family]


class FourOnly(OneFamily):
    family = 0


class SixOnly(OneFamily):
    family = 1


@pytest.fixture(scope="module")
def mesh():
    with Mesh(nodes=2) as m:
        m.four, m.six = m.pod("four", kind=FourOnly), m.pod("six", kind=SixOnly)
        m.shop, m.far = m.pod("shop", node=1), m.pod("far", node=1, namespace="outside")
        m.far.outside = True
        m.start()
        for pod in (m.shop, m.far):
            pod.server(HTTP)
        yield m


def both(mesh, which):
    """The pod, and the other's addresses in its own family and in the one it has not."""
    pod = [mesh.four, mesh.six][which]
    turn = (lambda p: [p.ip, p.ip6]) if which == 0 else (lambda p: [p.ip6, p.ip])
    return pod, turn


@pytest.mark.parametrize("which", [0, 1], ids=["v4-only", "v6-only"])
def test_connect_to_the_family_that_leads_nowhere_fails_at_once(mesh, which):
    pod, turn = both(mesh, which)
    nowhere = [turn(mesh.shop)[1], turn(mesh.far)[1], ["2001:db8::1", "192.0.2.1"][which]]
    assert pod.python(CONNECT, *nowhere, timeout=5).split() == ["ENETUNREACH"] * 3
    failures = json.loads(mesh.nodes[0].ctl("status", "-o", "json").stdout)["failures"]
    assert failures["family_unreachable"]["count"] >= 3
    assert pod.python(CONNECT, turn(mesh.shop)[0], turn(mesh.far)[0]).split() == ["connected"] * 2


@pytest.mark.parametrize("which", [0, 1], ids=["v4-only", "v6-only"])
def test_a_client_goes_on_to_the_next_address(mesh, which):
    pod, turn = both(mesh, which)
    for server in (mesh.shop, mesh.far):
        own, other = turn(server)
        assert pod.python(POST, other, own).strip() == "200"


def test_an_address_that_comes_later_leads_somewhere(mesh):
    """And one that goes does not any more. In between nothing of the pod is in plaintext: what is captured is
    in the node's log."""
    pod, netns = mesh.four, mesh.four.netns
    sh("ip", "-n", netns, "addr", "add", f"{pod.ip6}/64", "dev", "eth0", "nodad")
    sh("ip", "-n", netns, "-6", "route", "add", "default", "via", pod.node.gateway6)
    wait_for(lambda: pod.python(CONNECT, mesh.shop.ip6).strip() == "connected", "the new family")
    assert pod.python(POST, mesh.shop.ip6).strip() == "200"
    wait_for(
        lambda: [
            x
            for x in mesh.nodes[0].access_log()
            if f"[{mesh.shop.ip6}]:8080" in x and 'direction="outbound"' in x
        ],
        "its line",
    )
    sh("ip", "-n", netns, "addr", "del", f"{pod.ip6}/64", "dev", "eth0")
    wait_for(lambda: pod.python(CONNECT, mesh.shop.ip6).strip() == "ENETUNREACH", "the family to be gone")
    mine = next(p for p in json.loads(mesh.nodes[0].ctl("pods", "-o", "json").stdout) if p["name"] == "four")
    assert mine["state"] == "enrolled" and "map_entry_missing" not in mine.get("mends", {}), mine


def test_a_pod_with_both_has_both(mesh):
    assert mesh.shop.python(CONNECT, mesh.far.ip, mesh.far.ip6).split() == ["connected"] * 2
