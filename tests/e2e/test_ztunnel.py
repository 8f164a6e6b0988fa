# SPDX-License-Identifier: Apache-2.0
"""A real ztunnel under Bruma's steering, whose program BRUMA_ZTUNNEL names, and Bruma's proxy on the other
node."""

import re
import signal
import time

import pytest

from support.proxies.stock_world import LONG, PORT, SERVER, STREAM, ZTUNNEL, ask, tunnelled, ztunnel_mesh
from support.system import Process, wait_for

pytestmark = pytest.mark.skipif(not ZTUNNEL, reason="BRUMA_ZTUNNEL names no stock ztunnel")


@pytest.fixture(scope="module")
def ztunnel():
    with ztunnel_mesh() as (m, zt):
        yield m, zt


@pytest.mark.parametrize("six", [False, True])
def test_ztunnel_and_our_proxy_talk_hbone(ztunnel, six):
    m, zt = ztunnel

    def ip(pod):
        return pod.ip6 if six else pod.ip

    for client, server in ((m.web, m.shop), (m.shop, m.web), (m.other, m.shop), (m.shop, m.other)):
        before = len(tunnelled(m, zt, client, server))
        assert ask(client, ip(server))[0] == ip(client)
        wait_for(lambda n=before: len(tunnelled(m, zt, client, server)) > n, "the access log")


def test_nothing_of_it_is_in_plaintext_on_the_wire(ztunnel):
    m, _ = ztunnel
    dump = Process(
        ["timeout", "20", "tcpdump", "-i", "any", "-l", "--immediate-mode", "-n", "-A", "tcp"],
        f"{m.dir}/wire.log",
        netns=m.nodes[1].netns,
    )
    wait_for(lambda: "listening on" in dump.text() or not dump.alive(), "tcpdump")
    for client, server in ((m.web, m.shop), (m.shop, m.web)):
        assert ask(client, server.ip)[0] == client.ip
    wait_for(
        lambda: f"{m.shop.ip}.15008" in dump.text() and f"{m.web.ip}.15008" in dump.text(), "the tunnels"
    )
    assert ask(m.web, m.far.ip)[0] == m.web.ip
    wait_for(lambda: "hello" in dump.text(), "plaintext to outside the mesh: it can be seen")
    dump.stop()
    # with a payload, and between the two that are in the mesh
    pairs = [block for block in re.split(r"\n(?=\d\d:\d\d:)", dump.text()) if "hello" in block]
    assert pairs and all(m.far.ip in block for block in pairs)


@pytest.mark.parametrize("six", [False, True])
def test_ztunnel_plaintext_and_pods_of_the_same_node(ztunnel, six):
    m, zt = ztunnel

    def ip(pod):
        return pod.ip6 if six else pod.ip

    for client, server in (
        (m.web, m.far),
        (m.far, m.web),
        (m.web, m.other),
        (m.other, m.web),
        (m.web, m.web),
    ):
        assert ask(client, ip(server))[0] == ip(client), (client.name, server.name)
    wait_for(lambda: zt.access(m.web.identity, m.other.identity), "HBONE between the pods of the node")


@pytest.mark.parametrize("six", [False, True])
def test_ztunnel_and_a_closed_port(ztunnel, six):
    m, _ = ztunnel
    for client, server in ((m.far, m.web), (m.shop, m.web), (m.other, m.web), (m.web, m.shop)):
        word, seconds = ask(client, server.ip6 if six else server.ip, port=PORT + 1)
        assert word in ("ConnectionResetError", "ConnectionRefusedError") or word.startswith("cut off"), word
        assert seconds < 3, (client.name, server.name, seconds)


def test_ztunnel_and_policy(ztunnel):
    m, _zt = ztunnel
    rule = [[[{"principals": [{"Exact": m.shop.identity.removeprefix("spiffe://")}]}]]]
    m.policies = [
        {
            "name": "only-shop",
            "namespace": "demo",
            "scope": "Namespace",
            "action": "Allow",
            "dryRun": False,
            "rules": rule,
        }
    ]
    m.write()
    try:
        wait_for(lambda: ask(m.far, m.web.ip)[0] != m.far.ip, "plaintext to be refused")
        wait_for(lambda: ask(m.other, m.web.ip)[0] != m.other.ip, "another identity to be refused")
        assert ask(m.shop, m.web.ip)[0] == m.shop.ip
    finally:
        m.policies = []
        m.write()
    wait_for(
        lambda: ask(m.other, m.web.ip)[0] == m.other.ip and ask(m.far, m.web.ip)[0] == m.far.ip,
        "the policy to be gone",
    )


def test_ztunnel_large_transfers(ztunnel):
    """8 MiB each way, over the tunnel, whole."""
    m, _ = ztunnel
    m.shop.server(
        "import socket\ns = socket.create_server(('', 8181))\nprint('READY', flush=True)\nimport hashlib\n"
        "while True:\n c, _ = s.accept()\n h = hashlib.sha256(); n = 0\n"
        " while n < 8 << 20:\n  d = c.recv(65536)\n  if not d: break\n  n += len(d); h.update(d)\n"
        " c.sendall(h.digest() + bytes(8 << 20)); c.close()"
    )
    code = f"""
import hashlib, os, socket, threading
data = os.urandom(8 << 20)
s = socket.create_connection(("{m.shop.ip}", 8181)); s.settimeout(60)
s.sendall(data)
back = b""
while chunk := s.recv(1 << 20): back += chunk
print(back[:32] == hashlib.sha256(data).digest() and len(back) == 32 + (8 << 20))
"""
    assert m.web.python(code, timeout=120).strip() == "True"


# eight at a time; prints how many were good
BURST = r"""
import socket, sys, threading
good = []
def run():
    for i in range(int(sys.argv[3])):
        try:
            with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20) as s:
                s.settimeout(20)
                s.sendall(b"x")
                f = s.makefile("rb")
                f.readline()
                if f.read(1) == b"x":
                    good.append(1)
        except OSError as e:
            print(e, file=sys.stderr)
threads = [threading.Thread(target=run) for _ in range(8)]
for t in threads: t.start()
for t in threads: t.join()
print(len(good))
"""


def test_ztunnel_ports_of_the_application_and_of_its_proxy_never_meet(ztunnel):
    """Passed on under the same address to the same place: each time one of them had the other's port it hung,
    once in thousands."""
    m, _ = ztunnel
    for address in (m.far.ip, m.far.ip6):
        assert m.web.python(BURST, address, str(PORT), "800", timeout=200).strip() == "6400"


def test_ztunnel_leaves_and_rejoins():
    with ztunnel_mesh() as (m, zt):
        long = m.web.popen("/usr/bin/python3", "-u", "-c", LONG, m.shop.ip, str(PORT))
        wait_for(lambda: "WORD 2" in long.text(), "the long connection")
        m.labels = {}
        m.write()
        wait_for(
            lambda: zt.pod(m.web)["state"] == "draining" and zt.pod(m.other)["state"] == "outside",
            "the pods to leave",
        )
        assert ask(m.web, m.far.ip)[0] == m.web.ip
        n = long.text().count("WORD")
        wait_for(lambda: long.text().count("WORD") > n + 5, "the connection to go on")
        m.labels = {"istio.io/dataplane-mode": "ambient"}
        m.write()
        wait_for(
            lambda: zt.pod(m.web)["proxy"] == "serving" and zt.pod(m.other)["proxy"] == "serving",
            "the pods' return",
        )
        before = len(tunnelled(m, zt, m.web, m.shop))
        wait_for(
            lambda: ask(m.web, m.shop.ip)[0] == m.web.ip and len(tunnelled(m, zt, m.web, m.shop)) > before,
            "a tunnel",
        )
        assert long.alive()


def test_ztunnel_killed_restarted_and_upgraded():
    with ztunnel_mesh() as (m, zt):
        first = zt.all[0][0]
        # upgraded: a second one beside it, then the first is told to end
        streams = [
            m.shop.popen("/usr/bin/python3", "-u", "-c", STREAM, m.web.ip, str(PORT)),
            m.web.popen("/usr/bin/python3", "-u", "-c", STREAM, m.shop.ip, str(PORT)),
            m.far.popen("/usr/bin/python3", "-u", "-c", STREAM, m.web.ip6, str(PORT)),
        ]
        for s in streams:
            wait_for(lambda s=s: "READY" in s.text(), "the stream")
        second = zt.start()
        first.popen.send_signal(signal.SIGTERM)
        wait_for(lambda: not first.alive(), "the first one to end", 40)
        time.sleep(1)
        for s in streams:
            assert s.stop() == 0
            assert "FAILED" not in s.text(), s.text()
        assert zt.exempt() == [second.pid]
        # killed: closed, and open again with the next one
        second.kill()
        wait_for(lambda: not zt.proxies(), "the agent to notice")
        got = m.shop.processes[0].text().count("GOT")
        assert ask(m.far, m.web.ip)[0] in ("ConnectionRefusedError", "ConnectionResetError")
        assert ask(m.web, m.shop.ip)[0] == "TimeoutError" and m.shop.processes[0].text().count("GOT") == got
        wait_for(lambda: zt.pod(m.web)["lastReason"] == "proxy_away", "the reason")
        assert not zt.pod(m.web)["mends"]
        zt.start()
        wait_for(
            lambda: ask(m.web, m.shop.ip)[0] == m.web.ip and ask(m.shop, m.web.ip)[0] == m.shop.ip,
            "its return",
            30,
        )
        # a pod that comes and one that goes
        late = m.pod("late")
        m.write()
        wait_for(lambda: late.cni("ADD", check=False).returncode == 0, "the pod to be enrolled")
        late.server(SERVER, str(PORT))
        wait_for(lambda: ask(m.shop, late.ip)[0] == m.shop.ip, "the pod to be reached")
        late.cni("DEL")
        wait_for(lambda: "uid-late" not in zt.config_dump(zt.all[-1][0]), "ztunnel to let the pod go")


def test_ztunnel_outlives_the_agent():
    with ztunnel_mesh() as (m, zt):
        streams = [
            m.shop.popen("/usr/bin/python3", "-u", "-c", STREAM, m.web.ip, str(PORT)),
            m.far.popen("/usr/bin/python3", "-u", "-c", STREAM, m.web.ip, str(PORT)),
        ]
        for s in streams:
            wait_for(lambda s=s: "READY" in s.text(), "the stream")
        zt.node.agent.kill()
        time.sleep(1)
        zt.start_agent()
        zt.wait_serving(zt.all[0][0])
        time.sleep(1)
        for s in streams:
            assert s.stop() == 0
            assert "FAILED" not in s.text(), s.text()
