# SPDX-License-Identifier: Apache-2.0
"""DNS of pods by clients that have resolvers of their own: Go's, c-ares, unbound as a resolver in the pod,
systemd-resolved where it is; and by every system call that asks by UDP, whose sockets look as in a pod outside the mesh."""

import os
import shutil
import time

import pytest

from support.dns import OPTIONS, WEB, dig, resolving, rules, service
from support.nodes.mesh import Mesh
from support.programs import BUILD
from support.system import wait_for

PORT = 8080
RESOLVED = os.environ.get("BRUMA_RESOLVED", "/lib/systemd/systemd-resolved")
WAYS = ["connect", "write", "sendmmsg", "recvmmsg", "elsewhere", "bind", "pktinfo"]


@pytest.fixture(scope="module")
def mesh():
    with Mesh(nodes=1, workers=2) as m:
        m.web, m.shop = m.pod("web"), m.pod("shop")
        m.plain, m.one, m.two = (m.pod(name, namespace="outside") for name in ("plain", "one", "two"))
        for pod in (m.plain, m.one, m.two):
            pod.outside = True
        m.services = [service("web", "demo", WEB, 1), service("entry", "demo", "api.example.com", 3)]
        m.shop.services = {f"demo/{WEB}": {80: PORT}, "demo/api.example.com": {80: PORT}}
        m.start()
        for pod in (m.one, m.two):
            pod.dnsmasq = pod.popen(
                "dnsmasq",
                *OPTIONS,
                f"--host-record=site.test,{m.one.ip},{m.one.ip6}",
                f"--host-record={WEB},10.96.0.1,fd00:96::1",
            )
            wait_for(lambda pod=pod: "started" in pod.dnsmasq.text(), "dnsmasq")
        for pod, port in ((m.shop, PORT), (m.one, 80)):
            pod.popen(
                "/usr/bin/python3", "-m", "http.server", str(port), "--bind", "::", "--directory", m.dir
            )
            wait_for(
                lambda pod=pod, port=port: f":{port} " in pod.run("ss", "-Hltn").stdout, "a server of HTTP"
            )
        wait_for(lambda: rules(m.web.netns), "the rule of the pod")
        yield m


@pytest.fixture(params=[0, 1], ids=["v4", "v6"])
def family(request):
    return request.param


@pytest.mark.parametrize("name", [WEB, "outside.test", "missing.test"])
@pytest.mark.parametrize("way", WAYS)
def test_sockets_are_as_without_capture(mesh, family, way, name):
    def run(pod):
        servers = [mesh.one.ips[family], mesh.two.ips[family]]
        began = time.monotonic()
        out = pod.run(f"{BUILD}/tests/e2e/dns-sockets", way, name, pod.ips[family], *servers).stdout
        return out, time.monotonic() - began

    (captured, _), (plain, _) = run(mesh.web), run(mesh.plain)
    assert captured == plain
    assert "query 1" in plain or way == "elsewhere", plain
    # by IPv6 the kernel has no port for a socket that is connected no longer
    assert ("no answer:" in plain) == (way == "connect" and family == 1) and "send" not in plain, plain


def config(server, *options):
    search = "search demo.svc.cluster.local svc.cluster.local cluster.local"
    return f"nameserver {server}\n{search}\noptions ndots:5 {' '.join(options)}\n"


@pytest.mark.parametrize("options", [[], ["use-vc"], ["single-request"]])
@pytest.mark.parametrize("name", ["web", "web.demo", "api.example.com", WEB, "site.test"])
def test_go(mesh, family, name, options):
    """hey, a client of HTTP that is written in Go, with Go's own resolver."""
    out = resolving(
        mesh.web,
        config(mesh.one.ips[family], *options),
        "env",
        "GODEBUG=netdns=go+1",
        "hey",
        "-n",
        "3",
        "-c",
        "1",
        "-disable-keepalive",
        f"http://{name}:80/",
    )
    assert "[200]\t3 responses" in out, out


CARES = r"""
import pycares, select, sys
got = {}
c = pycares.Channel(servers=[sys.argv[1]], timeout=3, tries=1, flags=int(sys.argv[2]))
for name in sys.argv[3:]:
    for kind in ("A", "AAAA", "TXT"):
        def done(result, error, key=(name, kind)):
            got[key] = error or sorted(getattr(r, "host", None) or r.text for r in result)
        c.query(name, getattr(pycares, "QUERY_TYPE_" + kind), done)
while True:
    readers, writers = c.getsock()
    if not readers and not writers:
        break
    wait = c.timeout()
    r, w, _ = select.select(readers, writers, [], wait)
    for fd in r:
        c.process_fd(fd, pycares.ARES_SOCKET_BAD)
    for fd in w:
        c.process_fd(pycares.ARES_SOCKET_BAD, fd)
    if not r and not w:
        c.process_fd(pycares.ARES_SOCKET_BAD, pycares.ARES_SOCKET_BAD)
for (name, kind), answer in sorted(got.items()):
    print(name, kind, answer)
"""


@pytest.mark.parametrize("tcp", [0, 1], ids=["udp", "tcp"])
def test_c_ares(mesh, family, tcp):
    """All of its queries share one socket."""
    out = mesh.web.python(CARES, mesh.one.ips[family], tcp, WEB, "outside.test").splitlines()
    assert out == [
        "outside.test A ['192.0.2.1']",
        "outside.test AAAA ['2001:db8::1']",
        "outside.test TXT ['hello']",
        f"{WEB} A ['10.96.0.1']",
        f"{WEB} AAAA ['fd00:96::1']",
        f"{WEB} TXT 1",  # ARES_ENODATA, of the server
    ]


UNBOUND = """\
server:
    interface: 127.0.0.1
    port: 5300
    directory: "{directory}"
    chroot: ""
    username: ""
    pidfile: ""
    use-syslog: no
    module-config: "iterator"
    use-caps-for-id: yes
    tcp-upstream: {tcp}
    qname-minimisation: no
    local-zone: "test." nodefault
    domain-insecure: "test."
forward-zone:
    name: "."
    forward-addr: {server}
"""


@pytest.mark.parametrize("tcp", ["no", "yes"])
def test_unbound(mesh, family, tcp):
    """A resolver in the pod, which writes names in letters of random case, and wants them back so."""
    path = f"{mesh.dir}/unbound.conf"
    with open(path, "w") as f:
        f.write(UNBOUND.format(directory=mesh.dir, tcp=tcp, server=mesh.one.ips[family]))
    p = mesh.web.popen("unbound", "-d", "-c", path)
    try:

        def ask(name, kind):
            return dig(mesh.web, "127.0.0.1", "-p", "5300", "+short", name, kind, check=False).split()

        wait_for(lambda: ask(WEB, "A") == ["10.96.0.1"], "unbound", 20)
        assert ask(WEB, "AAAA") == ["fd00:96::1"]
        assert ask("api.example.com", "A") == ["10.96.0.3"]
        assert ask("outside.test", "A") == ["192.0.2.1"]
        assert ask("outside.test", "TXT") == ['"hello"']
        assert "NXDOMAIN" in dig(mesh.web, "127.0.0.1", "-p", "5300", "missing.test", "A")
    finally:
        p.kill()


@pytest.mark.skipif(
    not shutil.which(RESOLVED), reason=f"{RESOLVED} is not here; BRUMA_RESOLVED may name systemd-resolved"
)
def test_systemd_resolved(mesh, family):
    """A resolver in the pod, which tries what the server can: EDNS, DNSSEC, large messages."""
    path = f"{mesh.dir}/resolved.conf"
    with open(path, "w") as f:
        f.write(
            f"[Resolve]\nDNS={mesh.one.ips[family]}\nFallbackDNS=\nDomains=~.\nLLMNR=no\nMulticastDNS=no\nCache=no\n"
        )
    for kind, ids in (("passwd", "65533:65533::/:/bin/false"), ("group", "65533:")):
        with open(f"/etc/{kind}") as f, open(f"{mesh.dir}/{kind}", "w") as own:
            own.write(f"{f.read()}systemd-resolve:x:{ids}\n")
    script = (
        'for f in passwd group; do mount --bind "$0/$f" /etc/$f; done && '
        "mkdir -p /run/systemd && mount -t tmpfs none /run/systemd && mkdir -p /run/systemd/resolve && "
        "chown systemd-resolve: /run/systemd/resolve && mount -t tmpfs none /etc/systemd && "
        'cp "$0/resolved.conf" /etc/systemd/ && exec "$@"'
    )
    p = mesh.web.popen("unshare", "-m", "sh", "-c", script, mesh.dir, RESOLVED)
    try:

        def ask(name, kind):
            return dig(mesh.web, "127.0.0.53", "+short", name, kind, check=False).split()

        wait_for(lambda: ask(WEB, "A") == ["10.96.0.1"], "systemd-resolved", 20)
        assert ask(WEB, "AAAA") == ["fd00:96::1"]
        assert ask("api.example.com", "A") == ["10.96.0.3"]
        assert ask("outside.test", "A") == ["192.0.2.1"]
        assert ask("outside.test", "TXT") == ['"hello"']
    finally:
        p.kill()
