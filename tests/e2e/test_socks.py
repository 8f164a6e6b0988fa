# SPDX-License-Identifier: Apache-2.0
"""SOCKS5 on the loopback of each pod (contract section 12), by curl and by a client of the test's own. Under bruma-agent and
under a CNI agent of another kind."""

import socket
import struct

import pytest

from support.network import inside
from support.nodes.mesh import Mesh, MeshNode
from support.nodes.pod_programs import ECHO, ONE_SHOT, SERVER_FIRST
from support.nodes.zds_node import ZdsNode
from support.system import sh, wait_for

VIP, VIP6 = "10.255.11.20", "fd00:255:11::20"
CLIENTS = pytest.mark.parametrize("client", ["web", "cart"])
HOST = "shop.demo.svc.cluster.local"

WEB = """
import http.server, socket, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"from " + self.client_address[0].encode())
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
s = Server(("::", int(sys.argv[1])), Handler)
print("READY", flush=True)
s.serve_forever()
"""

# Sends the parts, each as hex, with a pause between, ends its direction, and prints all that comes, as hex.
RAW = """
import socket, sys, time
s = socket.create_connection((sys.argv[1], 15080), timeout=20)
for part in sys.argv[2:]:
    s.sendall(bytes.fromhex(part))
    time.sleep(0.05)
s.shutdown(socket.SHUT_WR)
got = b""
try:
    while d := s.recv(4096):
        got += d
    print(got.hex(), "end")
except OSError as e:
    print(got.hex(), type(e).__name__)
"""


@pytest.fixture(scope="module")
def mesh():
    env = {"UNSTABLE_ENABLE_SOCKS5": "true", "BRUMA_CONNECT_TIMEOUT": "3s", "BRUMA_HANDSHAKE_TIMEOUT": "3s"}
    with Mesh(nodes=2, workers=2, node_kinds=[MeshNode, ZdsNode], proxy_env=env) as m:
        m.web, m.cart = m.pod("web", node=0), m.pod("cart", node=1)
        m.shop = m.pod("shop", node=0)
        m.shop.services = {f"demo/{HOST}": {80: 8080, 25: 2525}}
        m.services = [
            {
                "name": "shop",
                "namespace": "demo",
                "hostname": HOST,
                "vips": [f"/{VIP}", f"/{VIP6}"],
                "ports": {80: 8080, 25: 2525},
            }
        ]
        m.stranger = m.pod("stranger", node=0, namespace="outside")
        m.stranger.outside = True
        m.start()
        m.shop.server(WEB, "8080")
        m.shop.server(SERVER_FIRST, "2525")
        m.stranger.server(ECHO, "8080")
        yield m


def connect(address, port=80):
    """The request, as hex."""
    if ":" in address:
        head = b"\x05\x01\x00\x04" + socket.inet_pton(socket.AF_INET6, address)
    elif address.replace(".", "").isdigit():
        head = b"\x05\x01\x00\x01" + socket.inet_aton(address)
    else:
        head = b"\x05\x01\x00\x03" + bytes([len(address)]) + address.encode()
    return (head + struct.pack(">H", port)).hex()


NAMED_ANY = (b"\x05\x01\x00\x03\x070.0.0.0" + struct.pack(">H", 8080)).hex()  # as a name
GREETING, CHOSEN, DONE = "050100", "0500", "05000001000000000000"


def status(pod, *parts, server="127.0.0.1"):
    """REP of the answer."""
    got, end = pod.python(RAW, server, GREETING, *parts).split()
    assert got.startswith(CHOSEN) and len(got) == 24 and end == "end", (got, end)
    return int(got[6:8], 16)


@CLIENTS
@pytest.mark.parametrize("server", ["127.0.0.1", "[::1]"])
@pytest.mark.parametrize("name", [HOST, "shop", "SHOP.demo.", VIP, f"[{VIP6}]"])
def test_curl_asks_by_name_and_by_address(mesh, client, server, name):
    pod = getattr(mesh, client)
    got = pod.run("curl", "-sS", "-m", "15", "--socks5-hostname", f"{server}:15080", f"http://{name}/").stdout
    assert got.startswith("from "), got
    wait_for(
        lambda: [
            x
            for x in pod.node.access_log()
            if 'direction="outbound"' in x and f'dst.identity="{mesh.shop.identity}"' in x
        ],
        "an encrypted connection in the log",
    )


@CLIENTS
def test_by_address_to_a_pod_and_outside_the_mesh(mesh, client):
    pod = getattr(mesh, client)
    for ip in mesh.shop.ips:
        out = pod.python(RAW, "127.0.0.1", GREETING, connect(ip, 2525), b"helo\n".hex()).split()[0]
        assert out.startswith(CHOSEN + DONE + b"220 welcome\r\n".hex()), out
    for ip in mesh.stranger.ips:
        out = pod.python(RAW, "127.0.0.1", GREETING, connect(ip, 8080), b"ping".hex())
        assert out.split()[0].startswith(CHOSEN + DONE), out


def test_all_at_once_and_byte_by_byte(mesh):
    """What follows the request is the other side's, whenever it was sent."""
    asked, helo = GREETING + connect(HOST, 25), b"helo\n".hex()
    for parts in ([asked + helo], [*(asked[i : i + 2] for i in range(0, len(asked), 2)), helo]):
        got = mesh.web.python(RAW, "127.0.0.1", *parts).split()[0]
        assert got == CHOSEN + DONE + b"220 welcome\r\n250 helo\n".hex(), got


@CLIENTS
def test_the_answer_comes_after_the_dial(mesh, client):
    """The reference says "succeeded" first, and then closes."""
    pod = getattr(mesh, client)
    assert status(pod, connect(mesh.stranger.ip, 9999)) == 5
    assert status(pod, connect(VIP, 99)) == 1
    assert status(pod, connect("nowhere.invalid")) == 4
    assert status(pod, connect("127.0.0.1", 8080)) == 2
    assert status(pod, connect("::1", 8080)) == 2


@CLIENTS
def test_loopback_has_no_other_name(mesh, client):
    """The kernel takes "any address" for loopback: what listens there would see the proxy as its client, a root's."""
    pod = getattr(mesh, client)
    before = pod.node.failures("self_call")
    for address in ("0.0.0.0", "::", "::ffff:0.0.0.0", "::ffff:127.0.0.1"):
        assert status(pod, connect(address, 15021)) == 2, address
    assert status(pod, NAMED_ANY) == 2
    assert pod.node.failures("self_call") == before + 5


def test_protocol_errors(mesh):
    def raw(*parts):
        return mesh.web.python(RAW, "127.0.0.1", *parts).split()

    assert raw("040150") == ["05ff", "end"]
    assert raw("050102") == ["05ff", "end"]
    assert raw("0500") == ["05ff", "end"]
    assert status(mesh.web, "05020001" + "0a000001" + "0050") == 7  # BIND
    assert status(mesh.web, "05030001" + "0a000001" + "0050") == 7  # UDP ASSOCIATE
    assert status(mesh.web, "05010002" + "0a000001" + "0050") == 8
    assert status(mesh.web, "05010001" + "0a000001" + "0000") == 1
    assert status(mesh.web, "0501000300" + "0050") == 4
    assert status(mesh.web, connect("a b")) == 4
    assert status(mesh.web, connect(".")) == 4


def test_who_says_nothing_is_cut_off(mesh):
    code = """
import socket, time
begin = time.monotonic()
s = socket.create_connection(("127.0.0.1", 15080), timeout=20)
s.sendall(b"\\x05")
try:
    s.recv(1)
except OSError:
    pass
print(time.monotonic() - begin)
"""
    assert 2 < float(mesh.web.python(code)) < 8


def listening(pod):
    return sorted(
        line.split()[3] for line in sh("ss", "-N", pod.netns, "-Hltn", "sport", "=", "15080").splitlines()
    )


def test_it_is_on_loopback_alone(mesh):
    for pod in (mesh.web, mesh.cart):
        assert listening(pod) == ["127.0.0.1:15080", "[::1]:15080"]
    assert listening(mesh.stranger) == []


@pytest.mark.parametrize("client", ["web", "cart"])
def test_the_proxy_is_restarted(mesh, client):
    pod = getattr(mesh, client)
    pod.node.proxy.stop()
    pod.node.start_proxy()
    if client == "web":
        pod.wait_enrolled()

    def again():
        got = pod.run(
            "curl", "-sS", "-m", "5", "--socks5-hostname", "127.0.0.1:15080", f"http://{HOST}/", check=False
        )
        return got.stdout.startswith("from ")

    wait_for(again, "the SOCKS server")
    assert pod.python(ONE_SHOT, mesh.stranger.ip, 8080, "plain") == "plain"


MANY_NAMES = """
import socket, struct, sys, time
held = []
for i in range(int(sys.argv[1])):
    s = socket.create_connection(("127.0.0.1", 15080), timeout=20)
    host = f"{sys.argv[2]}{i}.silent.test".encode()
    s.sendall(b"\\x05\\x01\\x00\\x05\\x01\\x00\\x03" + bytes([len(host)]) + host + struct.pack(">H", 80))
    held.append(s)
print("HELD", flush=True)
time.sleep(60)
"""


def test_a_pod_has_a_part_of_the_names_that_are_resolved_at_once():
    """Names that nobody answers: another pod's are asked for nevertheless."""
    env = {
        "UNSTABLE_ENABLE_SOCKS5": "true",
        "BRUMA_NAME_TIMEOUT": "20s",
        "BRUMA_MAX_NAME_QUERIES": "8",
        "BRUMA_NAME_SERVERS": "127.0.0.1:5302",
    }
    with Mesh(nodes=1, workers=2, proxy_env=env) as m:
        greedy, other, node = m.pod("greedy", node=0), m.pod("other", node=0), m.nodes[0]
        m.start()
        with inside(node.netns):
            silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with silent:
            silent.bind(("127.0.0.1", 5302))
            greedy.popen("/usr/bin/python3", "-c", MANY_NAMES, "20", "a").wait_for_text("HELD")
            wait_for(lambda: node.failures("name_queries") == 18, "the refusals")
            other.popen("/usr/bin/python3", "-c", MANY_NAMES, "2", "b").wait_for_text("HELD")
            wait_for(lambda: "bruma_name_queries_total 4\n" in node.metrics(), "the other pod's queries")
            assert node.failures("name_queries") == 18
