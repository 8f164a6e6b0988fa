# SPDX-License-Identifier: Apache-2.0
"""DNS of pods that want to harm: what a pod may have the proxy hold for it, and others who are answered all the while."""

import re
import subprocess

import pytest

from support.dns import WEB, failed, rules, served, service, short
from support.nodes.mesh import Mesh
from support.system import wait_for

MANY = "many.demo.svc.cluster.local"
ENDPOINTS = 1500
MAY_GROW = 24 << 20
POD_BUDGET = 8 << 20

# Queries of a long answer, on some connections; the answers are taken only once a line comes.
GREEDY = r"""
import socket, sys
name = b"".join(bytes([len(x)]) + x.encode() for x in sys.argv[2].split(".")) + b"\0"
query = b"\0\7\1\0\0\1\0\0\0\0\0\0" + name + b"\0\1\0\1"
message = len(query).to_bytes(2, "big") + query
count = int(sys.argv[3])
held = [socket.create_connection((sys.argv[1], 53), 20) for _ in range(int(sys.argv[4]))]
for s in held:
    s.sendall(message * count)
print("READY", flush=True)
sys.stdin.readline()
files = [s.makefile("rb") for s in held]
for s in held:
    s.shutdown(socket.SHUT_WR)
# in turn: who takes nothing for ten seconds is not waited for
for _ in range(count):
    for f in files:
        answer = f.read(int.from_bytes(f.read(2), "big"))
        assert answer[:2] == b"\0\7" and answer[2] & 0x82 == 0x80, answer[:12]
        assert int.from_bytes(answer[6:8], "big") == int(sys.argv[5])
assert all(f.read(1) == b"" for f in files)
print("ALL", flush=True)
"""

# The beginning of a long message on each of many connections.
HALF = r"""
import socket, sys
held = []
for _ in range(int(sys.argv[2])):
    s = socket.create_connection((sys.argv[1], 53), 20)
    s.sendall(b"\xff\xff" + bytes(60000))
    held.append(s)
print("READY", flush=True)
sys.stdin.readline()
"""

# Sends without end what is no answer, once it is asked.
FLOOD = r"""
import os, socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind((sys.argv[1], 53))
print("READY", flush=True)
data, peer = s.recvfrom(65535)
for _ in range(3):
    if not os.fork():
        end, sent = time.monotonic() + 8, 0
        while time.monotonic() < end:
            s.sendto(bytes([data[0] ^ 1]) + data[1:], peer)
            sent += 1
        os._exit(0 if sent > 10000 else 1)
for _ in range(3):
    assert os.wait()[1] == 0
print("SENT", flush=True)
"""


@pytest.fixture(scope="module")
def mesh():
    env = {"BRUMA_POD_MEMORY_BUDGET": str(POD_BUDGET)}
    with Mesh(nodes=1, workers=1, proxy_env=env) as m:
        m.web, m.shop = m.pod("web"), m.pod("shop")
        m.second = m.pod("second", namespace="outside")
        m.second.outside = True
        m.services = [service("web", "demo", WEB, 1), service("many", "demo", MANY)]
        m.extra = [
            {
                "name": f"many-{i}",
                "namespace": "demo",
                "workloadIps": [f"10.200.{i // 250}.{i % 250 + 1}"],
                "services": {f"demo/{MANY}": {80: 8080}},
            }
            for i in range(ENDPOINTS)
        ]
        m.start()
        wait_for(lambda: rules(m.shop.netns), "the rule of the pods")
        yield m


def memory(proxy, field):
    with open(f"/proc/{proxy.pid}/status") as f:
        return int(re.search(rf"^{field}:\s+(\d+) kB", f.read(), re.M)[1]) * 1024


def test_answers_that_nobody_takes_are_not_made(mesh):
    """24 KiB each, for questions of 45 bytes: at once they would be 140 MiB."""
    proxy = mesh.nodes[0].proxy
    with open(f"/proc/{proxy.pid}/clear_refs", "w") as f:
        f.write("5")  # the peak is counted anew
    before = memory(proxy, "VmRSS")
    p = mesh.web.server(GREEDY, mesh.second.ip, MANY, 2000, 3, ENDPOINTS, stdin=subprocess.PIPE)
    assert short(mesh.shop, mesh.second.ip, WEB, "A") == ["10.96.0.1"]
    p.popen.stdin.close()
    wait_for(lambda: "ALL" in p.text() or not p.alive(), "all answers", 60)
    assert "ALL" in p.text(), p.text()
    grown = memory(proxy, "VmHWM") - before
    assert grown < MAY_GROW, f"{grown >> 20} MiB"


def test_halves_of_messages_count_for_the_pod(mesh):
    before = failed(mesh, "memory_budget")
    resident = memory(mesh.nodes[0].proxy, "VmRSS")
    p = mesh.web.server(HALF, mesh.second.ip, 600, stdin=subprocess.PIPE)
    wait_for(lambda: failed(mesh, "memory_budget") > before, "connections that are closed for want of memory")
    grown = memory(mesh.nodes[0].proxy, "VmRSS") - resident
    assert grown < MAY_GROW, f"{grown >> 20} MiB"
    assert short(mesh.shop, mesh.second.ip, WEB, "A") == ["10.96.0.1"]
    p.kill()
    wait_for(
        lambda: short(mesh.web, mesh.second.ip, "+tcp", WEB, "A") == ["10.96.0.1"], "the pod to be served"
    )


def test_a_server_that_sends_without_end_what_is_no_answer(mesh):
    """The query fails in its time, and others are answered meanwhile by the same worker."""
    before = failed(mesh, "dns_server_silent")
    with served(mesh.second, FLOOD, mesh.second.ip) as p:
        asking = mesh.web.popen("dig", "+tries=1", "+time=10", f"@{mesh.second.ip}", "outside.test", "A")
        answered = 0
        while failed(mesh, "dns_server_silent") == before:
            assert p.alive() and "SENT" not in p.text(), "the flood is over, and the query still waits"
            assert short(mesh.shop, mesh.second.ip, WEB, "A") == ["10.96.0.1"]
            answered += 1
        wait_for(lambda: "status: SERVFAIL" in asking.text(), "the failure to be told")
        assert answered > 3
        wait_for(lambda: "SENT" in p.text(), "the end of the flood", 30)
