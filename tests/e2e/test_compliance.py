# SPDX-License-Identifier: Apache-2.0
"""COMPLIANCE_POLICY and TLS12_ENABLED: what is taken on port 15008, and what is offered to peers, the control plane and the
certificate authority. Stock peers: openssl s_client and s_server, Python's ssl. What the machine's OpenSSL does not have is
refused with a reason; the rest of such a policy's tests need one that has it."""

import contextlib
import re
import select
import socket
import ssl
import subprocess
import tempfile
import threading

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from support.certificates import Authority, key_pem, pem
from support.network import inside
from support.nodes.hand_over import hand_over_mesh, handed_over, next_proxy
from support.nodes.mesh import Mesh, leaf
from support.nodes.peer_place import place_of_a_peer
from support.nodes.pod_programs import ECHO, ONE_SHOT
from support.proxies import hbone
from support.system import Process, wait_for
from support.tls_offers import HYBRID, Hello, dial, fips_config, fips_module, has_hybrid, listen

SUITES13 = ["TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256"]
SUITES12 = [
    f"ECDHE-{key}-AES{size}-GCM-SHA{digest}"
    for key in ("ECDSA", "RSA")
    for size, digest in ((256, 384), (128, 256))
]
USUAL = ["X25519", "P-256", "P-384"]
POLICIES = {  # settings, groups in their order, whether there is TLS 1.2
    "none": ({}, ([HYBRID] if has_hybrid() else []) + USUAL, False),
    "tls12": ({"TLS12_ENABLED": "true"}, ([HYBRID] if has_hybrid() else []) + USUAL, True),
    "pqc": ({"COMPLIANCE_POLICY": "pqc"}, [HYBRID], False),
    "fips-140-2": ({"COMPLIANCE_POLICY": "fips-140-2"}, ["P-256", "P-384"], False),
    "fips-140-3": ({"COMPLIANCE_POLICY": "fips-140-3", "TLS12_ENABLED": "true"}, ["P-256", "P-384"], True),
}


def skip_without(name):
    if name == "pqc" and not has_hybrid():
        pytest.skip(f"this machine's OpenSSL has no {HYBRID}")
    if name.startswith("fips") and not fips_module():
        pytest.skip("this machine has no FIPS provider (openssl-provider-fips)")


def settings_of(name, folder):
    settings = dict(POLICIES[name][0])
    if name.startswith("fips"):
        settings["BRUMA_FIPS_CONFIG"] = fips_config(f"{folder}/fipsmodule.cnf")
    return settings


def as_options(settings):
    """Of the agent."""
    names = {
        "COMPLIANCE_POLICY": "compliance-policy",
        "TLS12_ENABLED": "tls12",
        "BRUMA_FIPS_CONFIG": "fips-config",
    }
    return [word for key, value in settings.items() for word in (f"--{names[key]}", value)]


@pytest.fixture(scope="module", params=POLICIES)
def mesh(request, tmp_path_factory):
    """All of it, agents too, is under that policy."""
    skip_without(request.param)
    settings = settings_of(request.param, tmp_path_factory.mktemp("fips"))
    with Mesh(nodes=2, proxy_env=settings, agent_options=as_options(settings)) as m:
        m.policy, m.settings = request.param, settings
        _, m.groups, m.tls12 = POLICIES[request.param]
        m.web, m.shop = m.pod("web"), m.pod("shop", node=1)
        m.start()
        m.shop.server(ECHO, "8080")
        yield m


def answer(mesh, *options):
    return dial(mesh.nodes[0].netns, (mesh.shop.ip, 15008), leaf(mesh, mesh.web.identity), *options)


def test_the_mesh_carries(mesh):
    assert mesh.web.python(ONE_SHOT, mesh.shop.ip, 8080, "ping") == "ping"


def test_versions_and_suites_that_are_taken(mesh):
    for suite in SUITES13:
        took = answer(mesh, "-tls1_3", "-ciphersuites", suite, "-groups", ":".join(mesh.groups))
        assert took and took[:2] == ("1.3", suite)
    assert answer(mesh, "-tls1_3", "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256") is None
    for suite in SUITES12:
        took = answer(mesh, "-tls1_2", "-cipher", suite)
        assert (took and took[:2]) == (("1.2", suite) if mesh.tls12 and "ECDSA" in suite else None)
    for suite in ("ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-ECDSA-AES256-SHA384", "ECDHE-ECDSA-AES128-SHA"):
        assert answer(mesh, "-tls1_2", "-cipher", suite) is None
    assert answer(mesh, "-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0") is None
    both = answer(mesh, "-groups", ":".join(mesh.groups))
    assert both and both[0] == "1.3", "the newer of two"


def test_groups_that_are_taken(mesh):
    known = USUAL + ["P-521", "X448"] + ([HYBRID] if has_hybrid() else [])
    for group in known:
        took = answer(mesh, "-tls1_3", "-groups", group)
        assert (took is not None) == (group in mesh.groups), group
        if took and group != "X448":
            assert took[2] == group
    if mesh.tls12:
        for group in ("X25519", "P-384", "P-521"):
            took = answer(mesh, "-tls1_2", "-groups", f"{group}:P-256")  # which the certificates are of
            assert took and took[2] == (group if group in mesh.groups else "P-256"), group


def expect_offer(mesh, hello, alpn=b"\x00\x03\x02h2"):
    assert hello.versions == ["1.3", "1.2"][: 1 + mesh.tls12]
    assert [s for s in hello.suites if s.startswith("TLS_")] == SUITES13
    assert sorted(s for s in hello.suites if not s.startswith("TLS_")) == sorted(
        SUITES12 if mesh.tls12 else []
    )
    assert hello.groups == mesh.groups
    assert hello.shares == (mesh.groups[:2] if mesh.groups[0] == HYBRID else mesh.groups[:1])
    assert hello.extensions[16] == alpn
    if mesh.policy.startswith("fips"):
        approved = {0x0403, 0x0503, 0x0804, 0x0805, 0x0806, 0x0401, 0x0501, 0x0601}
        assert set(hello.signatures) <= approved


def test_what_is_offered_to_peers(mesh):
    with place_of_a_peer(mesh) as (pod, listener, _):
        asks = mesh.web.popen("/usr/bin/python3", "-c", ONE_SHOT, pod.ip, "7000", "x")
        expect_offer(mesh, Hello(listener))
        asks.kill()


def test_a_peer_of_the_hybrid_group_alone(mesh):
    """Which is all that openssl s_server is told to take."""
    if HYBRID not in mesh.groups:
        pytest.skip("not of this policy, or not of this machine's OpenSSL")
    with place_of_a_peer(mesh) as (pod, listener, (cert, key, root)):
        listener.close()
        argv = [
            "openssl",
            "s_server",
            "-accept",
            f"{pod.ip}:15008",
            "-cert",
            cert,
            "-key",
            key,
            "-CAfile",
            root,
        ]
        argv += ["-Verify", "3", "-verify_return_error", "-tls1_3", "-groups", HYBRID, "-alpn", "h2"]
        server = pod.popen(*argv, log=f"{mesh.dir}/s_server.log", stdin=subprocess.PIPE)
        server.wait_for_text("ACCEPT")
        asks = mesh.web.popen("/usr/bin/python3", "-c", ONE_SHOT, pod.ip, "7000", "x")
        server.wait_for_text("PRI * HTTP/2.0")
        asks.kill()


@pytest.mark.parametrize("server", ["XDS_ADDRESS", "CA_ADDRESS"])
def test_what_is_offered_to_the_control_plane(mesh, server):
    node = mesh.nodes[0]
    with inside(node.netns), listen(("127.0.0.1", 16012)) as listener:
        env = {**node.proxy_env(), server: "https://127.0.0.1:16012", "BRUMA_RUN_DIR": f"{mesh.dir}/none"}
        env |= {f"BRUMA_{name}_PORT": "0" for name in ("ADMIN", "METRICS", "READY")}
        # It is given no pods; one of its own has it ask for a certificate.
        env |= {"PROXY_MODE": "dedicated", "PROXY_WORKLOAD_INFO": "demo/web/web"}
        proxy = Process([node.program("bruma-proxy")], f"{mesh.dir}/offers.log", netns=node.netns, env=env)
        try:
            expect_offer(mesh, Hello(listener))
        finally:
            proxy.kill()


def test_it_is_said(mesh):
    policy, node = mesh.settings.get("COMPLIANCE_POLICY", ""), mesh.nodes[0]
    (proxy,) = node.status()["proxies"]
    module = r"OpenSSL FIPS Provider \d+\.\d+\.\d+\S*" if policy.startswith("fips") else ""
    text = f"{policy} \\({module}\\)" if module else policy
    assert re.fullmatch(text, proxy["compliance"]) and node.status()["compliance"] == proxy["compliance"]
    lines = [
        x
        for x in node.ctl("status", check=False).stdout.splitlines()
        if x.split()[0:1] in (["proxy"], ["agent"])
    ]
    assert len(lines) == 2 and all(x.endswith(f", {proxy['compliance']}") for x in lines if policy)
    assert re.search(f'bruma_compliance{{policy="{policy or "none"}",module="{module}"}} 1', node.metrics())


NO_EXTENDED_MASTER_SECRET = 1  # SSL_OP_NO_EXTENDED_MASTER_SECRET, which Python has no name for


def client(mesh, limit=None, files=None):
    with inside(mesh.nodes[0].netns):
        sock = socket.create_connection((mesh.shop.ip, 15008), timeout=10)
    return hbone.Client(None, *(files or leaf(mesh, mesh.web.identity)), sock=sock, limit=limit)


def served(mesh, limit=None, files=None):
    try:
        c = client(mesh, limit, files)
        status = c.status(c.connect(f"{mesh.shop.ip}:8080"))
        c.close()
        return status == 200
    except OSError:
        return False


def without_extension(context):
    only12(context)
    context.options |= NO_EXTENDED_MASTER_SECRET


def test_the_master_secret_of_12(mesh):
    if not mesh.tls12:
        pytest.skip("no TLS 1.2 in this policy")
    assert served(mesh, only12)
    assert served(mesh, without_extension) == (mesh.policy != "fips-140-3")


def any_key(context):
    """The client itself is not to refuse it."""
    context.set_ciphers("DEFAULT@SECLEVEL=0")


KEYS = {  # whether a FIPS policy takes it
    "RSA 1024": (lambda: rsa.generate_private_key(65537, 1024), False),
    "RSA 2048": (lambda: rsa.generate_private_key(65537, 2048), True),
    "P-256": (lambda: ec.generate_private_key(ec.SECP256R1()), True),
    "P-384": (lambda: ec.generate_private_key(ec.SECP384R1()), True),
    "secp256k1": (lambda: ec.generate_private_key(ec.SECP256K1()), False),
    "brainpool": (lambda: ec.generate_private_key(ec.BrainpoolP256R1()), False),
    "Ed25519": (ed25519.Ed25519PrivateKey.generate, False),
}


def test_keys_of_peers(mesh):
    if not mesh.policy.startswith("fips"):
        pytest.skip("of FIPS policies alone")
    for kind, (make, taken) in KEYS.items():
        assert served(mesh, any_key, signed(mesh, make())) == taken, kind
    good = KEYS["P-256"][0]
    for kind in ("RSA 2048", "RSA 1024", "secp256k1"):
        make, taken = KEYS[kind]
        assert served(mesh, any_key, signed(mesh, good(), between=make())) == taken, f"below a CA of {kind}"


def signed(mesh, key, between=None, identity=None):
    """A certificate of the mesh's CA for this key, or of a CA with the key between below it: paths of certificate, key and
    root."""
    root, chain = f"{mesh.nodes[0].run_dir}/control/root-cert.pem", b""
    ca = Authority.load(root, mesh.ca_key)
    if between:
        ca = ca.subordinate(between)
        chain = pem(ca.cert)
    name = x509.UniformResourceIdentifier(identity or mesh.web.identity)
    folder = tempfile.mkdtemp(dir=mesh.dir)
    with open(f"{folder}/cert.pem", "wb") as f:
        f.write(pem(ca.sign(key.public_key(), [name])) + chain)
    with open(f"{folder}/key.pem", "wb") as f:
        f.write(key_pem(key))
    return f"{folder}/cert.pem", f"{folder}/key.pem", root


# ---- TLS 1.2 ----


@pytest.fixture(scope="module")
def older():
    """A mesh that speaks TLS 1.2 too."""
    with Mesh(nodes=2, proxy_env={"TLS12_ENABLED": "true"}, agent_options=["--tls12", "true"]) as m:
        m.web, m.shop = m.pod("web"), m.pod("shop", node=1)
        m.start()
        m.shop.server(ECHO, "8080")
        yield m


def only12(context):
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


def test_a_client_of_12_is_served(older):
    c = client(older, only12)
    assert c.tls.version() == "TLSv1.2"
    sid = c.connect(f"{older.shop.ip}:8080")
    assert c.status(sid) == 200
    words = b"over and over" * 40_000
    c.send(sid, words)
    assert c.pump(lambda: c.received(sid) == words, 30)
    c.send(sid, b"", end=True)
    assert c.pump(lambda: c.ended(sid))
    c.close()


@pytest.mark.parametrize("kind", ["ECDSA", "RSA"])
def test_a_server_of_12_is_used(older, kind):
    with place_of_a_peer(older) as (pod, listener, files):
        if kind == "RSA":
            files = signed(older, KEYS["RSA 2048"][0](), identity=pod.identity)
        server = hbone.Server(listener, *files)
        only12(server.tls_context)
        try:
            words = "again and again" * 5_000
            assert older.web.python(ONE_SHOT, pod.ip, 7000, words) == words
            suite, version, _ = server.sockets[0].cipher()
            assert version == "TLSv1.2" and suite == f"ECDHE-{kind}-AES256-GCM-SHA384"
        finally:
            server.stop()


class Relay:
    """A control plane that speaks TLS 1.2 alone: in front of a node's own, with a certificate of the same root."""

    def __init__(self, mesh, node, port):
        root = f"{node.run_dir}/control/root-cert.pem"
        key = ec.generate_private_key(ec.SECP256R1())
        cert = Authority.load(root, mesh.ca_key).sign(key.public_key(), [x509.DNSName("localhost")])
        paths = [f"{mesh.dir}/relay-{what}.pem" for what in ("cert", "key")]
        for path, data in zip(paths, (pem(cert), key_pem(key)), strict=True):
            with open(path, "wb") as f:
                f.write(data)
        self.front = only12(hbone.context(True, *paths, root))
        self.front.verify_mode = ssl.CERT_NONE
        self.back = hbone.context(False, *paths, root)
        self.netns, self.versions = node.netns, []
        with inside(node.netns):
            self.listener = listen(("127.0.0.1", port))
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self.listener.accept()
                threading.Thread(target=self.serve, args=(sock,), daemon=True).start()

    def serve(self, sock):
        with contextlib.suppress(OSError), sock:
            client = self.front.wrap_socket(sock, server_side=True)
            self.versions.append(client.version())
            with inside(self.netns):
                server = self.back.wrap_socket(socket.create_connection(("127.0.0.1", 15012)))
            self.copy({client: server, server: client})

    @staticmethod
    def copy(other):
        """In one thread: no two may use an SSL object."""
        while True:
            ready, _, _ = select.select(list(other), [], [])
            for source in ready:
                source.settimeout(0)  # there may be a ticket alone
                with contextlib.suppress(ssl.SSLWantReadError):
                    while data := source.recv(65536):
                        other[source].settimeout(20)
                        other[source].sendall(data)
                    return


def test_a_control_plane_of_12_is_used():
    """As istiod is one under COMPLIANCE_POLICY=fips-140-2."""
    with Mesh(nodes=1, proxy_env={"TLS12_ENABLED": "true"}) as m:
        (node,) = m.nodes
        m.web, m.shop = m.pod("web"), m.pod("shop")
        m.write()
        node.start_agent()
        relay = Relay(m, node, 16012)
        address = "https://localhost:16012"
        node.start_proxy(XDS_ADDRESS=address, CA_ADDRESS=address)
        for pod in m.pods:
            pod.enroll()
        m.shop.server(ECHO, "8080")
        assert m.web.python(ONE_SHOT, m.shop.ip, 8080, "ping") == "ping"
        assert set(relay.versions) == {"TLSv1.2"} and len(relay.versions) >= 2, "xDS and CA"
        relay.listener.close()


# ---- what cannot be served ----


def refused(node, program, argv=(), **env):
    r = subprocess.run([node.program(program), *argv], env=env, capture_output=True, text=True, timeout=20)
    assert r.returncode in (1, 2) and not r.stdout, r
    return r.stderr


@pytest.mark.parametrize("program", ["bruma-proxy", "bruma-agent"])
def test_what_openssl_does_not_have_is_refused_by_name(older, program):
    node = older.nodes[0]
    for policy in ("fips-140-2", "fips-140-3"):
        said = refused(node, program, COMPLIANCE_POLICY=policy, BRUMA_FIPS_CONFIG="/nowhere.cnf")
        assert policy in said and "/nowhere.cnf" in said
        if not fips_module():
            assert "openssl-provider-fips" in refused(node, program, COMPLIANCE_POLICY=policy)
    if not has_hybrid():
        assert HYBRID in refused(node, program, COMPLIANCE_POLICY="pqc")
    assert "TLS12_ENABLED" in refused(node, program, COMPLIANCE_POLICY="pqc", TLS12_ENABLED="true")
    assert "none of" in refused(node, program, COMPLIANCE_POLICY="FIPS")


@pytest.mark.skipif(not fips_module(), reason="OpenSSL has no FIPS provider here")
@pytest.mark.parametrize("program", ["bruma-proxy", "bruma-agent"])
def test_another_provider_beside_the_one_of_fips_is_refused(older, program, tmp_path):
    config = tmp_path / "openssl.cnf"
    config.write_text(
        f"openssl_conf = all\n.include {fips_config(f'{tmp_path}/fips.cnf')}\n[all]\nproviders = providers\n"
        "[providers]\nfips = fips_sect\ndefault = more\n[more]\nactivate = 1\n"
    )
    env = {"COMPLIANCE_POLICY": "fips-140-3", "OPENSSL_CONF": str(config)}
    assert "must not activate another" in refused(older.nodes[0], program, **env)


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"COMPLIANCE_POLICY": "fips-140-2", "BRUMA_FIPS_CONFIG": "/nowhere.cnf"}, "/nowhere.cnf"),
        ({"COMPLIANCE_POLICY": "fips140-2"}, '"fips140-2" is none of'),
        ({"COMPLIANCE_POLICY": "pqc", "TLS12_ENABLED": "true"}, "exclude each other"),
    ],
)
def test_a_node_comes_out_of_the_mesh_all_the_same(older, tmp_path, env, said):
    argv = ["--uninstall", "--run-dir", f"{tmp_path}/run", "--pin-dir", f"/sys/fs/bpf/{older.prefix}/none"]
    program = older.nodes[0].program("bruma-agent")
    r = subprocess.run([program, *argv], env=env, capture_output=True, text=True, timeout=20)
    assert r.returncode == 0 and said in r.stderr and "goes on all the same" in r.stderr, r


# ---- the hand-over ----


def tunnel_to_shop(mesh, limit):
    """Of an independent client, which is not Bruma: (client, stream) with an echo in it."""
    with inside(mesh.nodes[1].netns):
        sock = socket.create_connection((mesh.shop.ip, 15008), timeout=10)
    c = hbone.Client(None, *leaf(mesh, mesh.cart.identity), sock=sock, limit=limit)
    sid = c.connect(f"{mesh.shop.ip}:8080")
    assert c.status(sid) == 200
    c.send(sid, b"before")
    assert c.pump(lambda: c.received(sid) == b"before")
    return c, sid


def goes_on(c, sid):
    c.send(sid, b", behind")
    assert c.pump(lambda: c.received(sid) == b"before, behind"), "the connection goes on where it is"
    c.close()


MOVES = [  # from, to, whether a tunnel moves
    ("tls12", "tls12", True),
    ("tls12", "none", False),
    ("none", "pqc", False),
    ("pqc", "none", True),
    ("none", "fips-140-2", False),
    ("fips-140-2", "none", True),
    ("fips-140-2", "fips-140-3", False),
    ("fips-140-3", "fips-140-2", True),
    ("fips-140-2", "pqc", False),
]


@pytest.mark.parametrize(("before", "after", "moves"), MOVES, ids=lambda v: v if isinstance(v, str) else "")
def test_a_tunnel_moves_to_a_proxy_whose_policy_it_is_within(tmp_path, before, after, moves):
    skip_without(before)
    skip_without(after)
    with hand_over_mesh() as mesh:
        mesh.proxy_env.update(settings_of(before, tmp_path))
        mesh.node.proxy.stop()
        mesh.node.start_proxy()
        c, sid = tunnel_to_shop(mesh, only12 if before == "tls12" else None)
        mesh.proxy_env = {
            k: v for k, v in mesh.proxy_env.items() if k not in ("TLS12_ENABLED", "COMPLIANCE_POLICY")
        }
        mesh.proxy_env.update(settings_of(after, tmp_path))
        old, text = next_proxy(mesh.node)
        result = handed_over(mesh.node, text)
        assert result["moved"] + result["left"] == 1 and result["moved"] == moves
        goes_on(c, sid)
        if moves:
            wait_for(lambda: not old.alive(), "the old one to end")
