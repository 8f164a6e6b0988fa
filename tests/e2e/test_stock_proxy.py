# SPDX-License-Identifier: Apache-2.0
"""Stock node proxies under Bruma's steering: a proxy that opens its own listeners, and hears of pods on the
workload discovery socket. What is carried, who is enrolled, and who is not believed."""

import os
import re
import subprocess

import pytest

from support.programs import program
from support.proxies.stock_world import LONG, PORT, SERVER, ask, stock_mesh
from support.system import Process, sh, wait_for


@pytest.fixture(scope="module")
def running():
    with stock_mesh() as (m, stock):
        yield m, stock


# ---- what is carried ----


@pytest.mark.parametrize("six", [False, True])
def test_connections_of_all_kinds(running, six):
    m, stock = running

    def ip(pod):
        return pod.ip6 if six else pod.ip

    for what, client, server in (
        ("out of the node", m.web, m.shop),
        ("into the node", m.shop, m.web),
        ("between pods of the node", m.other, m.web),
        ("to itself", m.web, m.web),
    ):
        word, _seconds = ask(client, ip(server))
        assert word == ip(client), what
    log = stock.all[0][0].text()
    assert f"OUT {ip(m.web)} {ip(m.shop)} {PORT}" in log and f"IN {ip(m.shop)} {ip(m.web)} {PORT}" in log
    # one hop each way and no loop: delivery to the application does not come back to the proxy
    assert (
        log.count(f"IN {ip(m.other)} {ip(m.web)} {PORT}")
        == log.count(f"OUT {ip(m.other)} {ip(m.web)} {PORT}")
        == 1
    )
    assert f"IN {ip(m.web)} {ip(m.web)}" not in log


def test_dns_is_not_captured_for_it(running):
    m, _ = running
    assert "DNS queries of pods are not captured" in m.nodes[0].agent.text()
    for pod in (m.web, m.other):
        assert "dport 53" not in sh("ip", "-n", pod.netns, "rule")


@pytest.mark.parametrize("six", [False, True])
def test_a_closed_port_is_refused_quickly(running, six):
    m, _ = running
    for client, server in ((m.shop, m.web), (m.other, m.web)):
        word, seconds = ask(client, server.ip6 if six else server.ip, port=PORT + 1)
        assert word in ("ConnectionResetError", "ConnectionRefusedError") and seconds < 2, (word, seconds)


def test_the_mark_is_no_credential(running):
    m, stock = running
    before = stock.all[0][0].text().count(f"OUT {m.web.ip} {m.shop.ip} {PORT}")
    assert ask(m.web, m.shop.ip, "mark")[0] == m.web.ip
    assert stock.all[0][0].text().count(f"OUT {m.web.ip} {m.shop.ip} {PORT}") == before + 1
    assert stock.exempt() == [stock.all[0][0].pid]


def test_port_15008_goes_to_the_proxy(running):
    m, stock = running
    m.shop.run("/usr/bin/python3", "-c", f"import socket; socket.create_connection(('{m.web.ip}', 15008), 5)")
    wait_for(
        lambda: f"HBONE {m.shop.ip} {m.web.ip} 15008" in stock.all[0][0].text(), "the proxy to accept it"
    )


def test_many_at_once(running):
    """More than the proxy's own backlog of 128, which the agent has made longer."""
    m, _ = running
    code = f"""
import socket
a = []
for i in range(300):
    s = socket.socket(); s.setblocking(False); s.connect_ex(("{m.web.ip}", {PORT})); a.append(s)
good = 0
for s in a:
    s.setblocking(True); s.settimeout(20)
    try: good += bool(s.recv(100))
    except OSError: pass
print(good)
"""
    assert m.shop.python(code).strip() == "300"


def test_the_application_may_bind_a_port_that_was_dialled(running):
    """What the proxy has accepted has the destination's port; with SO_REUSEADDR that is nobody's
    hindrance."""
    m, _ = running
    far = m.shop.server(SERVER, "9191")
    long = m.web.popen("/usr/bin/python3", "-u", "-c", LONG, m.shop.ip, "9191")
    wait_for(lambda: "WORD 1" in long.text(), "the long connection")
    near = m.web.server(SERVER, "9191")
    for p in (long, near, far):
        p.kill()


def test_what_the_proxy_dials_is_out_of_the_applications_way(running):
    """Same address, same destination, and perhaps the same port: the one is bound to lo, the other to the
    pod's device."""
    m, _ = running
    long = m.web.popen("/usr/bin/python3", "-u", "-c", LONG, m.shop.ip, str(PORT))
    wait_for(lambda: "WORD 1" in long.text(), "the long connection")
    there = sh(
        "ip", "netns", "exec", m.web.netns, "ss", "-Htn", "state", "established", "dst", f"{m.shop.ip}:{PORT}"
    )
    long.kill()
    assert sorted(re.findall(rf"{re.escape(m.web.ip)}%(\w+):", there)) == ["eth0", "lo"], there


# ---- enrollment ----


def test_without_a_proxy_no_pod_is_enrolled_and_none_is_harmed():
    with stock_mesh(proxy=False) as (m, stock):
        r = m.web.cni("ADD", check=False)
        assert r.returncode and "proxy_not_connected" in r.stdout
        assert ask(m.web, m.shop.ip)[0] == m.web.ip
        # one that runs and is labelled: it waits for a proxy as it is
        m.labels = {}
        m.write()
        # only once the agent has read the file the plugin lets the pod pass
        wait_for(
            lambda: m.other.cni("ADD", check=False).returncode == 0, "the pod to be added, outside the mesh"
        )
        m.labels = {"istio.io/dataplane-mode": "ambient"}
        m.write()
        wait_for(lambda: stock.pod(m.other)["lastReason"] == "proxy_not_connected", "the reason")
        assert stock.pod(m.other)["state"] == "outside" and ask(m.other, m.shop.ip)[0] == m.other.ip
        assert any(p["reason"] == "proxy_not_connected" for p in stock.status()["problems"])
        p = stock.start()
        wait_for(lambda: stock.pod(m.other)["state"] == "enrolled", "the pod to be enrolled")
        assert stock.pod(m.other)["proxy"] == "serving" and stock.pod(m.other)["lastReason"] == "none"
        assert ask(m.other, m.shop.ip)[0] == m.other.ip and f"OUT {m.other.ip} {m.shop.ip} {PORT}" in p.text()


def test_a_pod_that_the_proxy_refuses():
    with stock_mesh(proxy=False) as (m, stock):
        p = stock.start("--refuse", "web")
        r = m.web.cni("ADD", check=False)
        assert r.returncode and "proxy_refused_pod" in r.stdout and "it is to be refused" in r.stdout
        m.other.cni("ADD")
        # the runtime tries again, and again, each time with a new sandbox
        assert m.web.cni("ADD", check=False).returncode
        m.web.cni("ADD")
        wait_for(lambda: stock.pod(m.web)["proxy"] == "serving", "the pod to be served")
        assert ask(m.shop, m.web.ip)[0] == m.shop.ip
        assert re.findall(r"(?:ADD|DEL) uid-web", p.text()) == ["ADD uid-web", "DEL uid-web"] * 2 + [
            "ADD uid-web"
        ]


def test_a_port_of_the_proxy_that_a_process_of_the_pod_has_taken():
    with stock_mesh(proxy=False) as (m, stock):
        stock.start()
        thief = m.web.server(
            "import socket; s = socket.socket(socket.AF_INET6); s.bind(('::', 15006)); s.listen();"
            "print('READY', flush=True)\nimport time; time.sleep(100)"
        )
        r = m.web.cni("ADD", check=False)
        assert r.returncode and "proxy_refused_pod" in r.stdout and "in use" in r.stdout
        thief.kill()
        m.web.cni("ADD")
        # one that joins the port afterwards, as root can, gets nothing
        thief = m.web.server(
            "import socket; s = socket.socket(socket.AF_INET6)\ns.setsockopt(1, socket.SO_REUSEPORT, 1)\n"
            "s.bind(('::', 15006)); s.listen(); print('READY', flush=True)\nwhile True: print('STOLEN', s.accept())"
        )
        for _ in range(20):
            assert ask(m.shop, m.web.ip)[0] == m.shop.ip
        assert "STOLEN" not in thief.text()


def test_a_pod_leaves_and_comes_back():
    with stock_mesh() as (m, stock):
        p = stock.all[0][0]
        long = [
            m.web.popen("/usr/bin/python3", "-u", "-c", LONG, m.shop.ip, str(PORT)),
            m.shop.popen("/usr/bin/python3", "-u", "-c", LONG, m.web.ip, str(PORT)),
        ]
        for one in long:
            wait_for(lambda o=one: "WORD 2" in o.text(), "the long connection")
        m.labels = {}
        m.write()
        wait_for(lambda: stock.pod(m.web)["state"] == "draining", "the pod to leave")
        wait_for(
            lambda: stock.pod(m.other)["state"] == "outside", "the pod without connections to be outside"
        )
        before = p.text().count("OUT")
        assert ask(m.web, m.shop.ip)[0] == m.web.ip and p.text().count("OUT") == before
        for one in long:  # what was carried goes on
            n = one.text().count("WORD")
            wait_for(lambda o=one, n=n: o.text().count("WORD") > n + 5, "the connection to go on")
        assert "DEL uid-web" not in p.text()
        m.labels = {"istio.io/dataplane-mode": "ambient"}
        m.write()
        for pod in (m.web, m.other):
            wait_for(
                lambda q=pod: stock.pod(q)["state"] == "enrolled" and stock.pod(q)["proxy"] == "serving",
                "the pod's return",
            )
        assert ask(m.web, m.shop.ip)[0] == m.web.ip and p.text().count("OUT") == before + 1
        for one in long:
            assert one.alive(), one.text()
            one.kill()
        m.labels = {}
        m.write()
        wait_for(
            lambda: "DEL uid-web" in p.text() and stock.pod(m.web)["state"] == "outside",
            "the pod to be outside",
            15,
        )
        wait_for(
            lambda: ":15006" not in sh("ip", "netns", "exec", m.web.netns, "ss", "-tln"),
            "the proxy to close its listeners",
        )
        assert "fwmark 0x111" not in sh("ip", "-n", m.web.netns, "rule")


# ---- proxies that do not keep the rules ----

RAW = r"""
import array, os, socket, sys, time
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.connect(sys.argv[1])
s.settimeout(9)
what = sys.argv[2]
HELLO, ACK = b"\x08\x01", b"\x0a\x00"
begin = time.monotonic()
def until_end():
    try:
        while s.recv(2048):
            pass
    except ConnectionError:
        pass
    print("ENDED", time.monotonic() - begin, flush=True)
if what == "silent":
    pass
elif what == "bad hello":
    s.send(b"\xff\xff\xff")
elif what == "no version":
    s.send(b"\x08\x00")
elif what == "huge":
    s.send(HELLO + b"\x1a" + bytes(2000))
else:
    s.send(HELLO)
    first = s.recv(2048)
    begin = time.monotonic()
    if what == "no answer":
        pass
    elif what == "bad answer":
        s.send(b"\x12\xff")
    elif what == "descriptor":
        s.sendmsg([ACK], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0]))])
    elif what == "two answers":
        try:
            for _ in range(9):
                s.send(ACK)
        except BrokenPipeError:
            pass
    elif what == "only yes":
        for _ in range(8):
            s.send(ACK)
            s.recv(2048)
until_end()
"""


@pytest.mark.parametrize(
    ("what", "seconds"),
    [
        ("silent", 5),
        ("bad hello", 0),
        ("no version", 0),
        ("huge", 0),
        ("no answer", 5),
        ("bad answer", 0),
        ("descriptor", 0),
        ("two answers", 0),
    ],
)
def test_broken_rules_end_the_connection_alone(running, what, seconds):
    m, stock = running
    raw = stock.spawn(["/usr/bin/python3", "-u", "-c", RAW, stock.socket, what])
    # A whole line: what is printed may come in two pieces.
    ended = wait_for(
        lambda: re.search(r"^ENDED (\S+)\n", raw.text(), re.M), "the agent to end the connection", 15
    )
    took = float(ended[1])
    assert seconds - 0.5 < took < seconds + 2.5
    raw.stop()
    assert "reason=zds_protocol" in stock.node.agent.text()
    assert ask(m.web, m.shop.ip)[0] == m.web.ip  # the other one serves on
    wait_for(lambda: [p["pid"] for p in stock.proxies()] == [stock.all[0][0].pid], "it alone to be left")


def test_a_proxy_that_says_yes_and_does_not_listen():
    """The pods are not steered to nobody: it gets none, and a pod is not enrolled with it."""
    with stock_mesh(proxy=False) as (m, stock):
        liar = stock.spawn(["/usr/bin/python3", "-u", "-c", RAW, stock.socket, "only yes"])
        wait_for(lambda: stock.proxies() and stock.proxies()[0]["state"] == "serving", "it to be believed")
        r = m.web.cni("ADD", check=False)
        assert r.returncode and "proxy_listeners_missing" in r.stdout, r.stdout
        liar.kill()


def test_a_proxy_without_a_cgroup_of_its_own(running):
    """Exempt would be whoever is in the cgroup with it: here, all pods."""
    m, stock = running
    for cgroup in (stock.node.cgroup, m.cgroup):
        p = Process(
            ["/usr/bin/python3", "-u", "-c", RAW, stock.socket, "only yes"],
            f"{m.dir}/cgroup.log",
            netns=stock.node.netns,
            cgroup=cgroup,
        )
        wait_for(lambda p=p: not p.alive() or "ENDED" in p.text(), "it to be refused")
        p.kill()
    assert "reason=proxy_cgroup" in stock.node.agent.text() and "is not below" in stock.node.agent.text()
    assert stock.exempt() == [stock.all[0][0].pid] or set(stock.exempt()) <= {p.pid for p, _ in stock.all}
    assert len(stock.proxies()) == 1


def test_somebody_who_is_not_root(running):
    _, stock = running
    os.chmod(os.path.dirname(stock.socket), 0o755)
    os.chmod(stock.mesh.dir, 0o755)
    mode = os.stat(stock.socket).st_mode & 0o777
    assert mode == 0o600
    os.chmod(stock.socket, 0o666)
    try:
        r = subprocess.run(
            [
                "setpriv",
                "--reuid",
                "65534",
                "--clear-groups",
                "/usr/bin/python3",
                "-c",
                RAW,
                stock.socket,
                "only yes",
            ],
            capture_output=True,
            text=True,
            timeout=20,
        )
    finally:
        os.chmod(stock.socket, mode)
    assert "ENDED" in r.stdout or r.returncode
    assert len(stock.proxies()) == 1


def test_a_proxy_of_ours_is_sent_away(running):
    m, stock = running
    p = stock.node.start_proxy(wait=False)
    try:
        wait_for(lambda: "a bruma-proxy is rejected" in stock.node.agent.text(), "the agent's word")
        assert ask(m.web, m.shop.ip)[0] == m.web.ip
        assert [o["kind"] for o in stock.proxies()] == ["ztunnel"]
    finally:
        p.kill()


# ---- Bruma's proxy as a stock one ----


def test_our_own_proxy_by_way_of_the_stock_socket():
    """bruma-proxy with INPOD_UDS opens its listeners itself, as a stock one does."""
    with stock_mesh(proxy=False) as (m, stock):
        env = {**stock.node.proxy_env(), "INPOD_UDS": stock.socket}
        del env["BRUMA_RUN_DIR"]
        p = stock.spawn([program("bruma-proxy")], env=env)
        stock.wait_serving(p)
        for pod in (m.web, m.other):
            pod.cni("ADD")
        for client, server in ((m.web, m.shop), (m.shop, m.web), (m.web, m.other), (m.web, m.web)):
            for six in (False, True):
                address = server.ip6 if six else server.ip
                wait_for(
                    lambda c=client, a=address, s=six: ask(c, a)[0] == (c.ip6 if s else c.ip),
                    f"{client.name} to {address}",
                )
        assert m.other.identity in p.text()
        p.kill()
        assert ask(m.shop, m.web.ip)[0] in ("ConnectionRefusedError", "ConnectionResetError")
