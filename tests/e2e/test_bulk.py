# SPDX-License-Identifier: Apache-2.0
"""Bulk between two plain sockets, which the proxy passes on by pipes: every byte arrives, either way, in order, however
the connection ends; and is counted."""

import hashlib
import json
import os
import random
import re

import pytest

from support.nodes.mesh import Mesh
from support.system import wait_for

SIZE = 16 << 20
MORE = 64 << 20  # than the sockets on the way take

# One end: sends SIZE bytes that follow from its seed, at once or once the other has ended; reads to the end; prints what
# came. A server waits for the fifo first, where there is one, and takes small pieces then.
END = """
import hashlib, json, os, random, socket, sys, threading
kind, host, port, size, seed, fifo = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5], sys.argv[6]
def give(s):
    r = random.Random(seed)
    for _ in range(size >> 20):
        s.sendall(r.randbytes(1 << 20))
    s.shutdown(socket.SHUT_WR)
def take(s):
    got, digest = 0, hashlib.sha256()
    while d := s.recv(1 << 18):
        got += len(d)
        digest.update(d)
    return got, digest.hexdigest()
def serve(s):
    if fifo:
        open(fifo).close()
    giver = threading.Thread(target=give, args=(s,))
    if kind == "at once":
        giver.start()
    came = take(s)
    if kind != "at once":
        giver.start()
    giver.join()
    print(json.dumps(came), flush=True)
if host:
    s = socket.create_connection((host, port), timeout=60)
    giver = threading.Thread(target=give, args=(s,))
    giver.start()
    print(json.dumps(take(s)))
else:
    listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    print("READY", flush=True)
    serve(listener.accept()[0])
"""

# Does not read, and resets once it is told to.
GONE = """
import socket, struct, sys
listener = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True)
print("READY", flush=True)
s = listener.accept()[0]
open(sys.argv[2]).close()
s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
s.close()
"""

PUSH = """
import socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=60)
try:
    while True:
        s.sendall(bytes(1 << 18))
except ConnectionError as e:
    print(type(e).__name__)
"""


@pytest.fixture(scope="module")
def mesh():
    """Both ways through the proxy, which the agent's settings say."""
    with Mesh(nodes=1, agent_options=("--direct-outside", "false", "--direct-inbound", "false")) as m:
        m.web = m.pod("web", node=0)
        m.outside = m.pod("outside", node=0, namespace="outside")
        m.outside.outside = True
        m.ports = iter(range(7100, 7200))
        m.start()
        yield m


@pytest.fixture(params=["passed through", "plaintext"])
def way(request, mesh):
    """(client, server)"""
    return (mesh.web, mesh.outside) if request.param == "passed through" else (mesh.outside, mesh.web)


def number(mesh, name):
    found = re.search(rf"^{name} (\d+)", mesh.nodes[0].metrics(), re.M)
    return int(found[1]) if found else 0


def expected(seed, size=SIZE):
    r, digest = random.Random(seed), hashlib.sha256()
    for _ in range(size >> 20):
        digest.update(r.randbytes(1 << 20))
    return [size, digest.hexdigest()]


def last_line(program):
    return json.loads(wait_for(lambda: program.text().splitlines()[1:], "the server's account")[-1])


def counted(mesh, port):
    """The connection's line in the access log."""
    ended = lambda: [x for x in mesh.nodes[0].access_log() if f":{port}" in x]
    return wait_for(ended, "the line of the connection")[0]


@pytest.mark.parametrize(("kind", "family"), [("at once", "ip"), ("after the end", "ip6")])
def test_all_bytes_arrive_both_ways(mesh, way, kind, family):
    client, server = way
    port, before = next(mesh.ports), number(mesh, "bruma_relay_spliced_bytes_total")
    s = server.popen("/usr/bin/python3", "-u", "-c", END, kind, "", port, SIZE, "server", "")
    wait_for(lambda: "READY" in s.text(), "the server")
    here = client.python(END, kind, getattr(server, family), port, SIZE, "client", "", timeout=120)
    assert json.loads(here) == expected("server")
    assert last_line(s) == expected("client")
    line = counted(mesh, port)
    assert f"bytes_sent={SIZE}" in line and f"bytes_recv={SIZE}" in line, line
    assert number(mesh, "bruma_relay_spliced_bytes_total") - before > SIZE
    wait_for(lambda: number(mesh, "bruma_buffered_bytes") == 0, "nothing to be held")


def test_who_reads_late_gets_all_of_it(mesh, way, tmp_path):
    client, server = way
    port, fifo = next(mesh.ports), tmp_path / "read"
    os.mkfifo(fifo)
    s = server.popen("/usr/bin/python3", "-u", "-c", END, "after the end", "", port, SIZE, "server", fifo)
    wait_for(lambda: "READY" in s.text(), "the server")
    c = client.popen(
        "/usr/bin/python3", "-u", "-c", END, "after the end", server.ip, port, MORE, "client", ""
    )
    wait_for(lambda: number(mesh, "bruma_buffered_bytes") > 0, "bytes to wait in the proxy")
    fifo.write_text("")
    assert last_line(s) == expected("client", MORE)
    wait_for(lambda: c.text().strip() or not c.alive(), "the client's account")
    assert json.loads(c.text()) == expected("server")
    wait_for(lambda: number(mesh, "bruma_buffered_bytes") == 0, "nothing to be held")


def test_a_reset_frees_what_waits(mesh, way, tmp_path):
    client, server = way
    port, fifo = next(mesh.ports), tmp_path / "end"
    os.mkfifo(fifo)
    s = server.popen("/usr/bin/python3", "-u", "-c", GONE, port, fifo)
    wait_for(lambda: "READY" in s.text(), "the server")
    c = client.popen("/usr/bin/python3", "-u", "-c", PUSH, server.ip, port)
    wait_for(lambda: number(mesh, "bruma_buffered_bytes") > 0, "bytes to wait in the proxy")
    fifo.write_text("")
    wait_for(lambda: c.text().strip() or not c.alive(), "the client to be told")
    assert c.text().strip() in ("ConnectionResetError", "BrokenPipeError")
    wait_for(lambda: number(mesh, "bruma_buffered_bytes") == 0, "nothing to be held")
    counted(mesh, port)


def test_it_can_be_switched_off(mesh):
    """The other proxy is asked the same, and copies."""
    with Mesh(
        nodes=1,
        proxy_env={"BRUMA_RELAY_PIPES": "0"},
        agent_options=("--direct-outside", "false", "--direct-inbound", "false"),
    ) as m:
        m.web, m.outside = m.pod("web", node=0), m.pod("outside", node=0, namespace="outside")
        m.outside.outside = True
        m.start()
        s = m.outside.popen("/usr/bin/python3", "-u", "-c", END, "at once", "", 7100, SIZE, "server", "")
        wait_for(lambda: "READY" in s.text(), "the server")
        here = m.web.python(END, "at once", m.outside.ip, 7100, SIZE, "client", "", timeout=120)
        assert json.loads(here) == expected("server")
        assert last_line(s) == expected("client")
        assert number(m, "bruma_relay_spliced_bytes_total") == 0
