# SPDX-License-Identifier: Apache-2.0
"""DNS by TCP: what a pod's server says, or does not say, on the connection that the pod's queries share."""

import re
import time

import pytest

from support.dns import WEB, dig, dns_mesh, failed, served, short
from support.system import sh, wait_for

# Serves one connection after another. What it does with a query is in its name's first label.
SERVER = r"""
import socket, struct, sys, threading, time
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
s = socket.socket(family, socket.SOCK_STREAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind((sys.argv[1], 53))
s.listen(16)
print("READY", flush=True)

def serve(c):
    f, late = c.makefile("rb"), []
    while True:
        prefix = f.read(2)
        if len(prefix) < 2:
            return
        q = f.read(int.from_bytes(prefix, "big"))
        word = q[13:13 + q[12]].decode()
        print("ASKED", word, q.hex(), flush=True)
        def answer(extra=b""):
            m = q[:2] + b"\x84\x00" + q[4:6] + bytes(6) + q[12:] + extra
            c.sendall(struct.pack(">H", len(m)) + m)
        if word == "never":
            pass
        elif word == "late":
            threading.Timer(2.5, answer).start()
        elif word == "ends":
            return c.close()
        elif word == "transfer":
            for i in range(3):
                answer(b"part%d" % i)
        else:
            answer(b"whole")

while True:
    c, _ = s.accept()
    threading.Thread(target=lambda c=c: (serve(c), c.shutdown(socket.SHUT_RDWR)), daemon=True).start()
"""

# Asks for TXT of each name on one connection, all at once, and prints what comes: the number of the query, the
# code, what is behind the answer; how long after; and the end.
CLIENT = r"""
import socket, struct, sys, time
s = socket.create_connection((sys.argv[1], 53), 10)
seconds = float(sys.argv[2])
began = time.monotonic()
for i, name in enumerate(sys.argv[3:]):
    kind = 1 if name.endswith(".local") else 16
    q = struct.pack(">HHHHHH", i, 0x100, 1, 0, 0, 0)
    q += b"".join(bytes([len(x)]) + x.encode() for x in name.split(".")) + struct.pack(">BHH", 0, kind, 1)
    s.sendall(struct.pack(">H", len(q)) + q)
f = s.makefile("rb")
try:
    while True:
        s.settimeout(max(began + seconds - time.monotonic(), 0.001))
        prefix = f.read(2)
        if len(prefix) < 2:
            print("END", "-", "-", round(time.monotonic() - began, 1))
            break
        a = f.read(int.from_bytes(prefix, "big"))
        at = a.find(b"part") if b"part" in a else a.find(b"whole")
        print(int.from_bytes(a[:2], "big"), a[3] & 15, a[at:].decode() if at >= 0 else "-", round(time.monotonic() - began, 1))
except OSError as e:
    print("OPEN", "-", "-", round(time.monotonic() - began, 1))
"""


@pytest.fixture(scope="module")
def mesh():
    with dns_mesh() as m:
        yield m


@pytest.fixture(params=["v4", "v6"])
def address(request, mesh):
    return mesh.second.ip if request.param == "v4" else mesh.second.ip6


def ask(mesh, address, seconds, *names):
    """[(query or END or OPEN, code, text, seconds)] of one connection."""
    out = [line.split() for line in mesh.web.python(CLIENT, address, seconds, *names).splitlines()]
    return [(first, code, text, float(when)) for first, code, text, when in out]


def value(mesh, name, **labels):
    parts = [f'{k}="{v}"' for k, v in labels.items()]
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in mesh.nodes[0].metrics().splitlines()
        if line.startswith(name + "{") and all(part in line for part in parts)
    )


TXT = {"request_query_type": "txt", "request_protocol": "tcp", "source_canonical_service": "web"}


def test_a_silent_server_is_told_of_in_time(mesh, address):
    """The others on the connection have their answers; what comes afterwards does not confuse anybody."""
    before = failed(mesh, "dns_server_silent")
    failures = value(mesh, "istio_dns_upstream_failures_total", **TXT)
    with served(mesh.second, SERVER, address):
        out = ask(mesh, address, 4, "never.test", "one.test", "late.test", WEB)
    assert sorted(o[:3] for o in out if o[3] < 1) == [("1", "0", "whole"), ("3", "0", "-")], out
    told = [o for o in out if 1.4 < o[3] < 2.4]
    assert sorted(o[:2] for o in told) == [("0", "2"), ("2", "2")], out
    assert len(out) == 5 and out[-1][0] == "OPEN", "an answer that came too late was passed on, or an end"
    assert failed(mesh, "dns_server_silent") == before + 2
    assert value(mesh, "istio_dns_upstream_failures_total", **TXT) == failures + 2


def test_a_server_that_refuses_is_told_of_at_once(mesh, address):
    before = failed(mesh, "dns_server_unreachable")
    out = ask(mesh, address, 1.2, "one.test", WEB, "two.test")
    assert [o[:2] for o in sorted(out)] == [("0", "2"), ("1", "0"), ("2", "2"), ("OPEN", "-")], out
    assert all(o[3] < 1 for o in out[:-1]), out
    assert failed(mesh, "dns_server_unreachable") == before + 2
    assert "status: SERVFAIL" in dig(mesh.web, address, "+tcp", "outside.test", "TXT")


def test_a_server_that_is_not_there_is_told_of_in_time(mesh):
    """Its network drops what is sent to it."""
    sh(
        "ip",
        "-n",
        mesh.web.netns,
        "neigh",
        "replace",
        "10.255.255.254",
        "lladdr",
        "02:00:00:00:ff:ff",
        "dev",
        "eth0",
    )
    sh("ip", "-n", mesh.web.netns, "route", "replace", "10.255.255.254", "dev", "eth0")
    out = ask(mesh, "10.255.255.254", 4, "one.test")
    assert out[0][:2] == ("0", "2") and out[0][3] < 2.4, out


def test_a_server_that_ends_the_connection_ends_the_clients(mesh, address):
    """It asks again what was not answered, on another one: RFC 7766, 6.2.4."""
    with served(mesh.second, SERVER, address):
        out = ask(mesh, address, 4, "one.test", "ends.test")
    assert [o[:3] for o in out] == [("0", "0", "whole"), ("END", "-", "-")] and out[-1][3] < 1, out


def test_an_answer_of_many_messages_goes_through(mesh, address):
    answered = value(mesh, "istio_dns_upstream_request_duration_seconds_count", **TXT)
    with served(mesh.second, SERVER, address):
        out = ask(mesh, address, 0.8, "transfer.test", "one.test")
    parts = [("0", "0", f"part{i}") for i in range(3)]
    assert [o[:3] for o in out[:-1]] == [*parts, ("1", "0", "whole")] and out[-1][0] == "OPEN", out
    assert value(mesh, "istio_dns_upstream_request_duration_seconds_count", **TXT) == answered + 2


def test_queries_on_their_way_are_bounded(mesh, address):
    """Those by TCP and by UDP together, on all connections of the pod."""
    before = failed(mesh, "dns_pod_queries")
    names = ["never.test"] * 30
    with served(mesh.second, SERVER, address) as p:
        other = mesh.web.popen("/usr/bin/python3", "-c", CLIENT, address, "3", *names)
        wait_for(lambda: p.text().count("ASKED never") == 30, "the first to be under way")
        out = ask(mesh, address, 1, *names, WEB)
        refused = [o for o in out if o[:2] != ("30", "0") and o[0] != "OPEN"]
        assert len(refused) == 20 and all(code == "2" for _, code, _, _ in refused), out
        assert ("30", "0") in [o[:2] for o in out], "a name of the mesh was not answered"
        assert short(mesh.shop, mesh.resolver.ip, "+tcp", "outside.test", "A") == ["192.0.2.1"]
        assert other.wait(10) == 0
    assert failed(mesh, "dns_pod_queries") == before + 20
    # and nothing is counted any more
    with served(mesh.second, SERVER, address):
        assert len([o for o in ask(mesh, address, 1, *["one.test"] * 40) if o[1] == "0"]) == 40


def test_queries_are_not_changed(mesh, address):
    with served(mesh.second, SERVER, address) as p:
        mesh.web.run(
            "dig", "+time=3", "+tcp", "+dnssec", "+nsid", "+padding=128", f"@{address}", "any.test", "ANY"
        )
        seen = re.search(r"ASKED any (\w+)", p.text())[1]
        assert "03616e79047465737400" + "00ff0001" in seen
        assert "000c" in seen[-200:], "the padding"
        assert len(seen) // 2 == 128
    began = time.monotonic()
    assert short(mesh.web, mesh.resolver.ip, "+tcp", WEB, "A") == ["10.96.0.1"]
    assert time.monotonic() - began < 1
