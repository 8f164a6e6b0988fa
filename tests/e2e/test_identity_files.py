# SPDX-License-Identifier: Apache-2.0
"""Two meshes, each a trust domain with certificates of its own in files, that federate: who is believed by which roots,
and what becomes of files that are bad, late, or at their end."""

import json
import os
import socket

import h2.settings
import pytest

from support.certificates import Authority, key_pem, pem
from support.identity_files import NAMES, Bundles, Domain, IdentityFiles
from support.network import inside
from support.nodes.hand_over import QUIET, serving
from support.nodes.mesh import Mesh, MeshNode
from support.nodes.pod_programs import ECHO, SOURCE
from support.programs import program
from support.proxies import hbone
from support.system import run, wait_for
from support.xds.site import CLIENT

REFUSED = ("closed", "ConnectionResetError")


class OwnNode(MeshNode):
    """The node of a mesh, whose proxy has settings of its own."""

    own_env = None

    def proxy_env(self):
        return {**super().proxy_env(), **(self.own_env or {})}


class World:
    """near: web and cart, in near.domain; far: shop, in far.domain."""

    def __init__(self):
        self.mesh = Mesh(nodes=2, node_kinds=(OwnNode, OwnNode))
        self.near, self.far = Domain("near.domain"), Domain("far.domain")
        self.web, self.shop = self.pod("web", self.near), self.pod("shop", self.far)
        self.cart = self.pod("cart", self.near)
        self.files = IdentityFiles(self.mesh.dir)
        self.bundles = [
            Bundles(f"{self.mesh.dir}/bundles-{other.name}", other) for other in (self.far, self.near)
        ]
        for node, bundles in zip(self.mesh.nodes, self.bundles, strict=True):
            node.own_env = {**self.files.env(), **bundles.env(), "CA_ADDRESS": ""}
        for pod in self.mesh.pods:
            self.files.put(pod.domain, pod)
        self.node = self.mesh.nodes[0]
        self.mesh.start()
        for pod in (self.web, self.shop, self.cart):
            pod.server(ECHO, "8080")

    def pod(self, name, domain):
        pod = self.mesh.pod(name, node=(domain is not self.near))
        pod.domain, pod.more = domain, {"trustDomain": domain.name}
        return pod

    def late_pod(self, name, domain):
        """One that comes while everything runs; its files do not."""
        pod = self.pod(name, domain)
        self.mesh.write()
        wait_for(
            lambda: name in [w["name"] for w in pod.node.config_dump()["workloads"]], f"the workload {name}"
        )
        pod.enroll()
        wait_for(lambda: self.certificate(pod), f"{name} to be asked for")
        return pod

    def certificate(self, pod):
        dump = pod.node.config_dump()["certificates"]
        return next((c for c in dump if c["identity"] == pod.domain.identity(pod)), None)

    def serial(self, pod):
        chain = self.certificate(pod)["certChain"]
        return chain[0]["serialNumber"] if chain else None


@pytest.fixture(scope="module")
def world():
    world = World()
    with world.mesh:
        yield world


def ask(client, server):
    return client.python(CLIENT, server.ip, 8080).strip()


def asks_well(client, server):
    return ask(client, server) == "ping"


def failing(node):
    """Identities whose last try was in vain."""
    return int(node.metrics().split("\nbruma_certificates_not_renewed ")[1].split()[0])


def test_two_trust_domains_meet_in_both_directions(world):
    assert asks_well(world.web, world.shop) and asks_well(world.shop, world.web)
    assert asks_well(world.web, world.cart) and asks_well(world.cart, world.web)
    for client, server in ((world.web, world.shop), (world.shop, world.web)):
        who = [
            f'src.identity="{client.domain.identity(client)}"',
            f'dst.identity="{server.domain.identity(server)}"',
        ]
        for node in world.mesh.nodes:
            wait_for(
                lambda node=node, who=who: [x for x in node.access_log() if all(w in x for w in who)],
                f"{who} in the log of {node.name}",
            )


def test_what_an_operator_sees(world):
    item = world.certificate(world.web)
    assert item["source"] == "files" and item["state"] == "Available" and "error" not in item
    assert len(item["certChain"]) == 1 and len(item["rootCerts"]) == 1
    lines = {line.split()[0]: line for line in world.node.ctl("identities").stdout.splitlines()}
    line = lines[world.near.identity(world.web)].split()
    assert line[1:3] == ["files", "Available"] and line[4] == item["certChain"][0]["expirationTime"]
    assert json.loads(world.node.ctl("identities", "-o", "json").stdout)[0]["source"] == "files"
    metrics = world.node.metrics()
    assert (
        'bruma_identities{source="files"} 2\n' in metrics
        and 'bruma_certificates{state="available"} 2\n' in metrics
    )
    assert 'bruma_identity_failures_total{source="files"} ' in metrics
    assert "bruma_federated_bundles 1\n" in metrics and "bruma_federated_bundles_unusable 0\n" in metrics
    assert 'source="ca"' not in metrics, "nobody asks it"


def test_a_bundle_decides_who_is_believed(world):
    """Each change counts for the next connection; on the server's side as on the client's."""
    near, _ = world.bundles
    near.remove(world.far)
    wait_for(lambda: ask(world.web, world.shop) in REFUSED, "a server of a foreign domain to be refused")
    assert ask(world.shop, world.web) in REFUSED, "and a client"
    assert world.node.failures("peer_trust_domain") >= 2
    assert asks_well(world.web, world.cart), "the own domain is as it was"
    near.put(world.far, Domain("far.domain").roots)
    before = world.node.failures("peer_untrusted")
    wait_for(
        lambda: ask(world.web, world.shop) in REFUSED and world.node.failures("peer_untrusted") > before,
        "the wrong roots to be in force",
    )
    near.put(world.far, world.near.roots)
    assert ask(world.web, world.shop) in REFUSED, "the own roots do not speak for another domain"
    near.put(world.far)
    wait_for(lambda: asks_well(world.web, world.shop), "the right roots to be in force")
    assert asks_well(world.shop, world.web)


def dial(world, folder, **options):
    """A tunnel to web of somebody with shop's identity who does as it likes."""
    texts = {**world.far.files(world.shop), "ca.crt": world.near.roots}
    for name, text in texts.items():
        (folder / name).write_bytes(text)
    with inside(world.mesh.nodes[1].netns):
        sock = socket.socket()
        if "receives" in options:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, options["receives"])
        sock.settimeout(10)
        sock.connect((world.web.ip, 15008))
    return hbone.Client(None, *(str(folder / name) for name in NAMES), sock=sock)


def open_stream(world, tunnel, port=8080):
    sid = tunnel.connect(f"{world.web.ip}:{port}")
    assert tunnel.status(sid) == 200
    return sid


@pytest.mark.parametrize("ends", ["who goes on", "who has said GOAWAY itself"])
def test_who_is_not_believed_any_more_opens_nothing(world, tmp_path, ends):
    near, _ = world.bundles
    tunnel = dial(world, tmp_path)
    first = open_stream(world, tunnel)
    if ends != "who goes on":
        tunnel.say_goaway()
        open_stream(world, tunnel)
    try:
        near.put(world.far, Domain("far.domain").roots)
        assert tunnel.pump(lambda: tunnel.goaways), "GOAWAY"
        assert tunnel.status(tunnel.connect(f"{world.web.ip}:8080"), seconds=2) != 200
        tunnel.send(first, b"still here")
        assert tunnel.pump(lambda: tunnel.received(first) == b"still here"), "what is open goes on"
    finally:
        near.put(world.far)
        tunnel.close()
    wait_for(lambda: asks_well(world.shop, world.web), "the right roots to be in force")


def test_nor_does_who_reads_nothing_of_the_end(world, tmp_path):
    """Its GOAWAY waits behind what the peer does not take."""
    near, _ = world.bundles
    world.web.server(SOURCE, "8090")
    tunnel = dial(world, tmp_path, receives=4096)
    tunnel.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1 << 30})
    tunnel.h2.increment_flow_control_window(1 << 30)
    tunnel.connect(f"{world.web.ip}:8090")
    told, refused = len(world.node.proxy.text()), world.node.failures("peer_trust_domain")
    wait_for(lambda: not world.node.metrics().count("\nbruma_buffered_bytes 0\n"), "bytes that wait")
    try:
        near.put(world.far, Domain("far.domain").roots)
        wait_for(
            lambda: "a tunnel takes no new connections" in world.node.proxy.text()[told:], "it to be noticed"
        )
        late = tunnel.connect(f"{world.web.ip}:8080")
        wait_for(lambda: world.node.failures("peer_trust_domain") > refused, "the refusal to be counted")
        assert tunnel.status(late, seconds=30) == ("reset", 7), "refused, and may be tried elsewhere"
    finally:
        near.put(world.far)
        tunnel.close()
    wait_for(lambda: asks_well(world.shop, world.web), "the right roots to be in force")


def test_what_has_moved_here_is_looked_at_as_well(tmp_path):
    """The next proxy does not know by which roots it was verified, but by which it is believed from then on."""
    world = World()
    with world.mesh:
        tunnel = dial(world, tmp_path)
        first = open_stream(world, tunnel)
        world.node.start_proxy(wait=False, **QUIET)
        wait_for(lambda: serving(world.node), "the next proxy to serve", log=world.node.proxy_log)
        wait_for(lambda: "1 connections" in world.node.ctl("status").stdout, "the tunnel to move")
        open_stream(world, tunnel)
        world.bundles[0].put(world.far, Domain("far.domain").roots)
        assert tunnel.pump(lambda: tunnel.goaways), "GOAWAY of the next one"
        assert tunnel.status(tunnel.connect(f"{world.web.ip}:8080"), seconds=2) != 200
        tunnel.send(first, b"still here")
        assert tunnel.pump(lambda: tunnel.received(first) == b"still here"), "what is open goes on"
        tunnel.close()


def test_a_bundle_that_cannot_be_read_leaves_the_last_one_in_force(world):
    near, _ = world.bundles
    near.put(world.far, world.far.roots[:300])
    wait_for(lambda: "bundle_invalid" in world.node.proxy.text(), "the reason in the log")
    assert "bruma_federated_bundles_unusable 1\n" in world.node.metrics()
    assert asks_well(world.web, world.shop)
    near.put(world.far)
    wait_for(lambda: "bruma_federated_bundles_unusable 0\n" in world.node.metrics(), "it to be good again")


def test_a_new_certificate_is_used_without_a_restart(world):
    old = world.serial(world.web)
    world.files.put(world.near, world.web)
    wait_for(lambda: world.serial(world.web) != old, "the new certificate")
    assert asks_well(world.web, world.shop) and asks_well(world.web, world.cart)


def test_files_behind_a_link_that_is_swapped(world):
    """As the kubelet mounts a Secret."""
    place = world.files.place(world.near, world.web)
    old = world.serial(world.web)
    os.makedirs(f"{place}/..v2")
    for name, text in world.near.files(world.web).items():
        with open(f"{place}/..v2/{name}", "wb") as f:
            f.write(text)
        os.symlink(f"..data/{name}", f"{place}/{name}.link")
    os.symlink("..v2", f"{place}/..data")
    for name in world.near.files(world.web):
        os.rename(f"{place}/{name}.link", f"{place}/{name}")
    wait_for(lambda: world.serial(world.web) != old, "the certificate behind the link")
    old = world.serial(world.web)
    os.makedirs(f"{place}/..v3")
    for name, text in world.near.files(world.web).items():
        with open(f"{place}/..v3/{name}", "wb") as f:
            f.write(text)
    os.symlink("..v3", f"{place}/..new")
    os.rename(f"{place}/..new", f"{place}/..data")
    wait_for(lambda: world.serial(world.web) != old, "what the link leads to now")
    assert asks_well(world.web, world.shop)


def below(world, between):
    """web's files, of a CA below the root."""
    texts = world.near.files(world.web, signer=between)
    return {**texts, "tls.crt": texts["tls.crt"] + pem(between.cert)}


BAD = {
    "the files of another": ("tls.crt: No such file or directory", lambda w: None),
    "garbage": ("tls.crt: no certificate (PEM)", lambda w: {"tls.crt": b"garbage"}),
    "empty": ("ca.crt: no certificate (PEM)", lambda w: {"ca.crt": b""}),
    "cut off": ("ca.crt: a damaged certificate", lambda w: {"ca.crt": w.near.roots[:-40]}),
    "no key": ("tls.key: no private key", lambda w: {"tls.key": w.near.roots}),
    "key of another": (
        "the certificate is for another key",
        lambda w: {"tls.key": key_pem(Authority().key)},
    ),
    "another identity": (
        "the certificate is for another identity",
        lambda w: w.near.files(w.web, identity="spiffe://near.domain/ns/demo/sa/somebody-else"),
    ),
    "another domain": (
        "the certificate is for another identity",
        lambda w: w.near.files(w.web, identity="spiffe://far.domain/ns/demo/sa/web"),
    ),
    "other roots": (
        "the certificate is not signed by the roots that come with it",
        lambda w: {"ca.crt": w.far.roots},
    ),
    "over": (
        "the certificate has expired already",
        lambda w: w.near.files(w.web, begins=-7200, ends=-3600),
    ),
    "over below": (
        "a certificate of its chain has expired already",
        lambda w: below(w, w.near.authority.subordinate(ends=-3600)),
    ),
    "a byte 0": ("tls.crt: a byte 0", lambda w: {"tls.crt": w.near.files(w.web)["tls.crt"] + b"\0"}),
    "a byte 0 in a key": ("tls.key: a byte 0", lambda w: {"tls.key": b"\0" + key_pem(Authority().key)}),
    "a byte 0 in roots": ("ca.crt: a byte 0", lambda w: {"ca.crt": w.near.roots + b"\0" + w.far.roots}),
    "huge": ("tls.crt: File too large", lambda w: {"tls.crt": b"x" * (1 << 21)}),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_files_leave_the_last_good_ones_in_use(world, what):
    text, make = BAD[what]
    good, place, told = (
        world.serial(world.web),
        world.files.place(world.near, world.web),
        world.node.proxy.text(),
    )
    texts = make(world)
    if texts:
        world.files.put(world.near, world.web, texts)
    else:
        os.unlink(f"{place}/tls.crt")

    def said():
        new = world.node.proxy.text()[len(told) :]
        return [x for x in new.splitlines() if "identity_file_invalid" in x and text in x]

    wait_for(said, f"{text} in the log")
    assert failing(world.node) == 1
    assert world.serial(world.web) == good and text in world.certificate(world.web)["error"]
    assert f"Available, but no newer one: {text}" in world.node.ctl("identities").stdout
    assert asks_well(world.web, world.shop) and asks_well(world.shop, world.web)
    world.files.put(world.near, world.web)
    wait_for(lambda: world.serial(world.web) != good, "the next good ones")
    assert failing(world.node) == 0 and "error" not in world.certificate(world.web)


def test_a_pipe_in_place_of_a_file_stops_nobody(world):
    place, good = world.files.place(world.near, world.web), world.serial(world.web)
    os.unlink(f"{place}/tls.key")
    os.mkfifo(f"{place}/tls.key")
    wait_for(lambda: "tls.key: Invalid argument" in world.node.proxy.text(), "the reason in the log")
    assert asks_well(world.web, world.shop)
    world.files.put(world.near, world.web)
    wait_for(lambda: world.serial(world.web) != good, "the next good ones")


def test_files_that_come_late(world):
    """The pod's connections wait for them a while, and then say why they fail; once the files are there, they work."""
    late = world.late_pod("late", world.near)
    wait_for(
        lambda: (
            ask(late, world.shop) in REFUSED
            and world.node.access_log("identity_unavailable: identity_file_invalid: ")
        ),
        "why in the access log",
    )
    assert world.certificate(late)["state"].startswith("Unavailable: ")
    assert world.node.ctl("identities", check=False).returncode != 0
    world.files.put(world.near, late)
    wait_for(lambda: asks_well(late, world.shop), "traffic once they are there")


def test_a_certificate_at_its_end_is_not_used_any_more(world):
    brief = world.late_pod("brief", world.near)
    world.files.put(world.near, brief, ends=12)
    wait_for(lambda: asks_well(brief, world.shop), "traffic")
    wait_for(
        lambda: (
            (world.certificate(brief) or {})["state"] == "Unavailable: the certificate has expired already"
        ),
        "it to be over",
        40,
    )
    assert ask(brief, world.shop) in REFUSED
    world.files.put(world.near, brief)
    wait_for(lambda: asks_well(brief, world.shop), "traffic with the next one")


def test_a_name_that_would_lead_elsewhere(world):
    """Nobody chooses by its names which files are read."""
    odd = world.pod("odd", world.near)
    odd.account = ".."
    world.mesh.write()
    odd.enroll()
    wait_for(
        lambda: "the identity's names cannot be parts of a path" in world.node.proxy.text(), "the refusal"
    )


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"BRUMA_IDENTITY_SOURCES": "vault"}, 'identity-sources: "vault" is not ca, files or spire'),
        ({"BRUMA_IDENTITY_SOURCES": "files"}, 'identity-files: "" is no path of a directory'),
        (
            {"BRUMA_IDENTITY_SOURCES": "files", "BRUMA_IDENTITY_FILES": "certificates"},
            'identity-files: "certificates" is no path of a directory',
        ),
        (
            {"BRUMA_IDENTITY_SOURCES": "files, x.domain=ca", "BRUMA_IDENTITY_FILES": "/x", "CA_ADDRESS": ""},
            "CA_ADDRESS",
        ),
    ],
)
def test_settings_that_do_not_fit(settings, text):
    r = run([program("bruma-proxy")], check=False, env={**os.environ, **settings})
    assert r.returncode == 1 and text in r.stderr, r.stderr
