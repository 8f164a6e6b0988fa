# SPDX-License-Identifier: Apache-2.0
"""What outsiders, peers and pods can make a node's proxy hold: bounds before anybody has shown who he is, and
bounds on a pod and on one address. Whoever behaves goes on working meanwhile."""

import contextlib
import os
import select
import socket
import ssl
import subprocess

import pytest

from support.network import inside
from support.nodes.direct import LONG
from support.nodes.mesh import Mesh, leaf
from support.nodes.pod_programs import ECHO, ONE_SHOT
from support.system import sh, wait_for

POD_HANDSHAKES, HANDSHAKES = 20, 30
POD_DESCRIPTORS, PEER = 100, 40


def make(**settings):
    m = Mesh(nodes=2, agent_options=LONG, proxy_env=settings)
    m.web, m.far = m.pod("web", node=0), m.pod("far", node=0, namespace="outside")
    m.shop, m.near, m.side = m.pod("shop", node=1), m.pod("near", node=1), m.pod("side", node=1)
    m.far.outside = True
    return m


def begin(m):
    m.start()
    for pod in (m.shop, m.near, m.side):
        pod.server(ECHO, "8080")
    return m


@pytest.fixture(scope="module")
def mesh():
    with make(
        BRUMA_MAX_POD_HANDSHAKES=str(POD_HANDSHAKES),
        BRUMA_MAX_HANDSHAKES=str(HANDSHAKES),
        BRUMA_HANDSHAKE_TIMEOUT="60s",
    ) as m:
        yield begin(m)


@pytest.fixture(scope="module")
def small():
    with make(BRUMA_MAX_POD_DESCRIPTORS=str(POD_DESCRIPTORS), BRUMA_MAX_PEER_CONNECTIONS=str(PEER)) as m:
        yield begin(m)


class Silent:
    """Connections of a pod outside the mesh that say nothing; in the order in which they were made."""

    def __init__(self, pod):
        self.pod, self.all = pod, []

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        for s in self.all:
            s.close()

    def more(self, to, count, port=15008):
        with inside(self.pod.netns):
            for _ in range(count):
                self.all.append(socket.create_connection((to, port), timeout=10))
        return self

    def alive(self):
        """Whether each is still open, the oldest first."""
        readable = select.select(self.all, [], [], 0)[0]
        return [s not in readable for s in self.all]


def descriptors(process):
    return len(os.listdir(f"/proc/{process.pid}/fd"))


def open_at(m, client):
    """Connections of the client that the proxy of node 2 has not closed."""
    lines = [line for pod in (m.shop, m.near, m.side) for line in pod.run("ss", "-Htn").stdout.splitlines()]
    return sum(
        f"{client.ip}]:" in line or f"{client.ip}:" in line or f"{client.ip6}]:" in line for line in lines
    )


def test_of_too_many_handshakes_with_one_pod_the_oldest_goes(mesh):
    before, fds = mesh.nodes[1].failures("handshake_evicted"), descriptors(mesh.nodes[1].proxy)
    with Silent(mesh.far) as silent:
        silent.more(mesh.shop.ip, 60).more(mesh.shop.ip6, 60)
        wait_for(lambda: sum(silent.alive()) == POD_HANDSHAKES, "only the bound to be left")
        assert silent.alive() == [False] * (120 - POD_HANDSHAKES) + [True] * POD_HANDSHAKES
        assert mesh.nodes[1].failures("handshake_evicted") == before + 120 - POD_HANDSHAKES
        assert descriptors(mesh.nodes[1].proxy) <= fds + POD_HANDSHAKES + 3
        line = [x for x in mesh.nodes[1].proxy.text().splitlines() if "handshake_evicted" in x][-1]
        assert f"{mesh.shop.ip}]:15008" in line or f"{mesh.shop.ip}:15008" in line or mesh.shop.ip6 in line
        # Peers come through all the same, and so do they while others are thrown out.
        for to in (mesh.shop.ip, mesh.shop.ip6):
            assert mesh.web.python(ONE_SHOT, to, 8080, "hello") == "hello"


def test_of_too_many_in_the_whole_process_the_oldest_goes(mesh):
    wait_for(lambda: not open_at(mesh, mesh.far), "those of other tests to be gone")
    with Silent(mesh.far) as silent:
        silent.more(mesh.shop.ip, 15).more(mesh.near.ip, 15).more(mesh.side.ip, 10)
        wait_for(lambda: sum(silent.alive()) == HANDSHAKES, "only the bound to be left")
        assert silent.alive() == [False] * 10 + [True] * HANDSHAKES
        assert mesh.web.python(ONE_SHOT, mesh.near.ip, 8080, "hello") == "hello"


def test_handshakes_that_have_ended_are_not_counted(mesh):
    """Three times as many tunnels as there may be handshakes, one after the other and left open; then peers
    that go away."""
    cert, key, root = leaf(mesh, mesh.web.identity)
    context = ssl.create_default_context(cafile=root)
    context.check_hostname = False
    context.load_cert_chain(cert, key)
    context.set_alpn_protocols(["h2"])
    wait_for(lambda: not open_at(mesh, mesh.far), "those of other tests to be gone")
    with contextlib.ExitStack() as stack:
        for _ in range(3 * POD_HANDSHAKES):
            with inside(mesh.far.netns):
                s = socket.create_connection((mesh.side.ip, 15008), timeout=10)
            stack.enter_context(context.wrap_socket(s))
        before = mesh.nodes[1].failures("handshake_evicted")
        for _ in range(3):
            with Silent(mesh.far) as silent:
                silent.more(mesh.side.ip, POD_HANDSHAKES)
            wait_for(
                lambda: open_at(mesh, mesh.far) == 3 * POD_HANDSHAKES, "the proxy to see that they have gone"
            )
        with Silent(mesh.far) as silent:
            silent.more(mesh.side.ip, POD_HANDSHAKES)
            assert mesh.web.python(ONE_SHOT, mesh.side.ip, 8080, "hello") == "hello"
            assert sum(silent.alive()) >= POD_HANDSHAKES - 1
        # web's own may have been one too much.
        assert mesh.nodes[1].failures("handshake_evicted") <= before + 1


def test_those_that_wait_for_the_pods_certificate_are_bounded_too():
    with make(
        BRUMA_MAX_POD_HANDSHAKES=str(POD_HANDSHAKES),
        BRUMA_SOURCE_TIMEOUT="60s",
        CA_ADDRESS="https://localhost:1",
    ) as m:
        begin(m)
        with Silent(m.far) as silent:
            silent.more(m.shop.ip, 50)
            wait_for(lambda: sum(silent.alive()) == POD_HANDSHAKES, "only the bound to be left")
            assert silent.alive() == [False] * (50 - POD_HANDSHAKES) + [True] * POD_HANDSHAKES
            assert m.nodes[1].failures("handshake_evicted") == 50 - POD_HANDSHAKES


def chain(m, length, folder):
    """A peer's certificate below so many certificates of authorities, each good, and all of them in its
    list."""
    root, root_key = f"{m.nodes[0].run_dir}/control/root-cert.pem", m.ca_key
    parent, parent_key, above = root, root_key, []
    os.makedirs(folder)
    for i in range(length):
        key, csr, cert, ext = (f"{folder}/{i}.{x}" for x in ("key", "csr", "pem", "ext"))
        last = i == length - 1
        sh("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key)
        sh("openssl", "req", "-new", "-key", key, "-subj", f"/O=test/CN=a{i}", "-out", csr)
        with open(ext, "w") as f:
            f.write(
                f"subjectAltName=critical,URI:{m.web.identity}\nextendedKeyUsage=clientAuth,serverAuth\n"
                if last
                else "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n"
            )
        sh(
            "openssl",
            "x509",
            "-req",
            "-in",
            csr,
            "-CA",
            parent,
            "-CAkey",
            parent_key,
            "-set_serial",
            i + 7,
            "-days",
            "1",
            "-extfile",
            ext,
            "-out",
            cert,
        )
        above.insert(0, cert)
        parent, parent_key = cert, key
    with open(f"{folder}/chain.pem", "w") as out:
        for cert in above:
            with open(cert) as f:
                out.write(f.read())
    return f"{folder}/chain.pem", parent_key


def hello(m, certificates, key):
    """A handshake with all of these certificates; whether the server has come to HTTP/2 after it."""
    context = ssl.create_default_context(cafile=f"{m.nodes[0].run_dir}/control/root-cert.pem")
    context.check_hostname = False
    context.load_cert_chain(certificates, key)
    context.set_alpn_protocols(["h2"])
    with inside(m.far.netns):
        s = socket.create_connection((m.shop.ip, 15008), timeout=10)
    try:
        with context.wrap_socket(s) as tls:
            return tls.recv(9)[3:4] == b"\4"  # SETTINGS
    except OSError:
        return False


def test_a_peers_certificates_are_bounded_in_number_and_bytes(mesh):
    few, key = chain(mesh, 4, f"{mesh.dir}/few")
    assert hello(mesh, few, key), "three authorities between"
    many, key = chain(mesh, 12, f"{mesh.dir}/many")
    before = mesh.nodes[1].failures("peer_untrusted")
    assert not hello(mesh, many, key)
    wait_for(lambda: mesh.nodes[1].failures("peer_untrusted") == before + 1, "its count")
    wait_for(
        lambda: [
            x for x in mesh.nodes[1].proxy.text().splitlines() if "peer_untrusted" in x and "chain" in x
        ],
        "its line in the log",
    )
    # The same four, and so many beside them that the list is too long.
    text = open(few).read()
    with open(f"{mesh.dir}/long.pem", "w") as f:
        f.write(text + open(many).read() * 12)
    key = f"{mesh.dir}/few/3.key"
    before = mesh.nodes[1].failures("tls_handshake_failed")
    assert not hello(mesh, f"{mesh.dir}/long.pem", key)
    wait_for(lambda: mesh.nodes[1].failures("tls_handshake_failed") == before + 1, "its count")


# Connections that are held: how many of them serve, and how the others ended.
HELD = """
import resource, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (4000, 4000))
good, how, live = 0, set(), []
for _ in range(int(sys.argv[2])):
    try:
        s = socket.create_connection((sys.argv[1], 8080), timeout=10)
        live.append(s)
        s.sendall(b"x")
        good += s.recv(1) == b"x"
    except OSError as e:
        how.add(type(e).__name__)
print(good, *how, flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def held(pod, to, count):
    p = subprocess.Popen(
        [
            "sh",
            "-c",
            'echo $$ > "$0/cgroup.procs" && exec nsenter "$@"',
            pod.node.cgroup,
            f"--net=/run/netns/{pod.netns}",
            "/usr/bin/python3",
            "-u",
            "-c",
            HELD,
            to,
            str(count),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield p.stdout.readline().split()
    finally:
        p.communicate(timeout=20)


@pytest.mark.parametrize("way", ["plaintext", "hbone"])
def test_one_address_has_no_more_than_its_connections_to_a_pod(small, way):
    client, other = (small.far, small.web) if way == "plaintext" else (small.web, small.far)
    before = small.nodes[1].failures("peer_connections")
    with held(client, small.shop.ip, PEER + 20) as (good, *how):
        # The tunnel is one of them.
        assert int(good) == (PEER if way == "plaintext" else PEER - 1) and how == ["ConnectionResetError"]
        refused = PEER + 20 - int(good)
        assert small.nodes[1].failures("peer_connections") == before + refused
        assert other.python(ONE_SHOT, small.shop.ip, 8080, "hello") == "hello", "others are served"
        assert client.python(ONE_SHOT, small.near.ip, 8080, "hello") == "hello", "and so is it by other pods"
    wait_for(
        lambda: client.python(HELD, small.shop.ip, 1, input="").strip() == "1", "room, once they are gone"
    )


def test_one_pod_has_no_more_than_its_descriptors(small):
    """A relay has two of them. The pod's own connections count like those to it."""
    before = small.nodes[1].failures("pod_descriptors")
    small.far.server(ECHO, "8080")
    with held(small.shop, small.far.ip, POD_DESCRIPTORS) as (good, *how):
        assert POD_DESCRIPTORS // 2 - 3 <= int(good) <= POD_DESCRIPTORS // 2 and how == [
            "ConnectionResetError"
        ]
        assert small.nodes[1].failures("pod_descriptors") == before + POD_DESCRIPTORS - int(good)
        assert small.near.python(ONE_SHOT, small.far.ip, 8080, "hello") == "hello", "other pods are served"
        assert small.web.python(ONE_SHOT, small.near.ip, 8080, "hello") == "hello"
    wait_for(
        lambda: small.shop.python(HELD, small.far.ip, 1, input="").strip() == "1", "room, once they are gone"
    )
