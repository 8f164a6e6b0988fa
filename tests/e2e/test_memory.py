# SPDX-License-Identifier: Apache-2.0
"""What a proxy holds for those who do not read has a budget: the process lives within it, others go on, and
afterwards the memory is the system's again."""

import contextlib
import os
import re
import struct
import threading
import time

import h2.events
import h2.settings
import pytest

from support.network import inside
from support.nodes.mesh import Mesh, leaf
from support.nodes.pod_programs import ECHO, SOURCE
from support.programs import program
from support.proxies import hbone
from support.system import Failed, Process, wait_for

MIB = 1 << 20
BUDGET = 32 * MIB
SLACK = 16 * MIB  # what is no buffer: connections themselves, the allocator's own

# Accepts and never reads; or reads and throws away.
DEAF = """
import socket, sys, threading
s = socket.socket(socket.AF_INET6)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
s.bind(("::", int(sys.argv[1])))
s.listen(2048)
print("READY", flush=True)
def drain(c):
    try:
        while c.recv(1 << 20):
            pass
    except OSError:
        pass
held = []
while True:
    held.append(s.accept()[0])
    if len(sys.argv) > 2:
        threading.Thread(target=drain, args=(held.pop(),), daemon=True).start()
"""

# So many connections that send what they can, for as long as they live. Prints FULL when nothing has gone for a while, which on
# a busy machine may be because nobody has had time.
PUSH = """
import selectors, socket, sys, time
to, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
each = selectors.DefaultSelector()
for i in range(count):
    c = socket.create_connection((to, port), timeout=30)
    c.setblocking(False)
    each.register(c, selectors.EVENT_WRITE)
block, last, full = b"x" * 65536, time.monotonic(), False
while True:
    for key, _ in each.select(0.1):
        try:
            key.fileobj.send(block)
            last = time.monotonic()
        except BlockingIOError:
            pass
        except OSError:
            each.unregister(key.fileobj)
    if not full and time.monotonic() - last > 1.5:
        full = True
        print("FULL", flush=True)
"""

ASK = """
import socket, sys
for i in range(int(sys.argv[2])):
    s = socket.create_connection((sys.argv[1], 8080), timeout=20)
    s.sendall(b"x" * 20000)
    n = 0
    while n < 20000:
        n += len(s.recv(65536)) or sys.exit("end")
print("good")
"""


@pytest.fixture(scope="module")
def mesh():
    with Mesh(nodes=2, workers=2, proxy_env={"BRUMA_MEMORY_BUDGET": str(BUDGET)}) as m:
        m.web, m.shop, m.other = m.pod("web"), m.pod("shop", node=1), m.pod("other", node=1)
        m.start()
        m.shop.server(DEAF, "9091", "drain")
        m.shop.server(SOURCE, "9092")
        m.other.server(ECHO, "8080")
        m.shop.server(ECHO, "8080")
        assert m.web.python(ASK, m.other.ip, 20).strip() == "good"
        m.files = leaf(m, m.web.identity)
        yield m


@pytest.fixture
def deaf(mesh):
    """A server on 9090 that accepts, and reads nothing. What it is owed is held until it ends."""
    p = mesh.shop.server(DEAF, "9090")
    yield p
    p.kill()


def gauge(node, name):
    return int(re.search(rf"^{name} (\d+)$", node.metrics(), re.M).group(1))


def tunnel(mesh):
    with inside(mesh.nodes[0].netns):
        return hbone.Client((mesh.shop.ip, 15008), *mesh.files)


def fill(mesh, p, look):
    """Until PUSH is full and much is held for it; look() is called all the while."""

    def full():
        assert p.alive(), p.text()
        look()
        return "FULL" in p.text() and gauge(mesh.nodes[1], "bruma_buffered_bytes") > BUDGET // 8

    wait_for(full, "as much to be held as there may be", 60, 0.05)


@contextlib.contextmanager
def watched(mesh, slack=SLACK):
    """The proxies' memory stays within the budget meanwhile, and is back afterwards."""
    before = [n.proxy.resident_bytes() for n in mesh.nodes]
    peak = [0, 0]

    def look():
        for i, node in enumerate(mesh.nodes):
            peak[i] = max(peak[i], node.proxy.resident_bytes() - before[i])
            assert gauge(node, "bruma_buffered_bytes") <= BUDGET
        return peak

    yield look
    look()
    assert max(peak) < BUDGET + slack, [p // MIB for p in peak]

    def back():
        return all(
            gauge(n, "bruma_buffered_bytes") == 0 and n.proxy.resident_bytes() - b < 10 * MIB
            for n, b in zip(mesh.nodes, before, strict=True)
        )

    try:
        wait_for(back, "the memory to be given back", 40)
    except Failed as e:
        raise AssertionError(
            [
                (gauge(n, "bruma_buffered_bytes"), (n.proxy.resident_bytes() - b) // MIB)
                for n, b in zip(mesh.nodes, before, strict=True)
            ]
        ) from e


def test_applications_that_do_not_read(mesh, deaf):
    """300 connections that send what they can, of an ordinary pod. Others are served as if nothing were."""
    with watched(mesh) as look:
        p = mesh.web.popen("/usr/bin/python3", "-u", "-c", PUSH, mesh.shop.ip, 9090, 300)
        try:
            fill(mesh, p, look)  # they are held back by what is measured here
            for other in (mesh.other, mesh.shop):
                assert mesh.web.python(ASK, other.ip, 50).strip() == "good"
            look()
        finally:
            p.kill()
            deaf.kill()
    assert mesh.web.python(ASK, mesh.other.ip, 50).strip() == "good"


def test_one_pod_has_no_more_than_its_part(mesh, deaf):
    """Its own budget is a half: the process is never so full that other pods feel it."""
    p = mesh.web.popen("/usr/bin/python3", "-u", "-c", PUSH, mesh.shop.ip, 9090, 100)
    held = []
    try:
        fill(mesh, p, lambda: held.append(gauge(mesh.nodes[1], "bruma_buffered_bytes")))
    finally:
        p.kill()
        deaf.kill()
    assert BUDGET // 8 < max(held) <= BUDGET // 2, max(held)


def test_credit_and_windows_follow_what_is_held(mesh, deaf):
    """A peer sees them: less when much is held, and all of it again."""
    c = tunnel(mesh)
    windows = lambda: [
        e.changed_settings[h2.settings.SettingCodes.INITIAL_WINDOW_SIZE].new_value
        for e in c.of(0, h2.events.RemoteSettingsChanged)
        if h2.settings.SettingCodes.INITIAL_WINDOW_SIZE in e.changed_settings
    ]
    sid = c.connect(f"{mesh.shop.ip}:8080")
    assert c.status(sid) == 200 and windows() == [4 * MIB]
    p = mesh.web.popen("/usr/bin/python3", "-u", "-c", PUSH, mesh.shop.ip, 9090, 60)
    try:
        assert c.pump(lambda: windows()[-1] == 65535, 60), windows()
        c.send(sid, b"x" * 300000)
        assert c.pump(lambda: len(c.received(sid)) == 300000, 60), "it is slower, and works"
    finally:
        p.kill()
        deaf.kill()
    assert c.pump(lambda: windows()[-1] == 4 * MIB, 60), windows()
    c.send(sid, b"x" * (24 * MIB))
    # More than the connection's credit at once: it was given again.
    assert c.pump(lambda: len(c.received(sid)) == 300000 + 24 * MIB, 300), "the connection has its credit"
    c.close()


def test_peers_that_send_and_never_obey(mesh, deaf):
    """Tunnels of a peer that goes on as long as it has credit, on every stream: who holds most is cut, by
    name."""
    before = mesh.nodes[1].failures("memory_budget")
    with watched(mesh) as look:
        tunnels = [tunnel(mesh) for _ in range(8)]
        streams = []
        for c in tunnels:
            for _ in range(4):
                sid = c.connect(f"{mesh.shop.ip}:9090")
                assert c.status(sid) == 200
                streams.append((c, sid))
        frame = b"x" * 16384
        for _ in range(240):  # just below the window that was announced first
            for c, sid in streams:
                with contextlib.suppress(OSError):
                    c.tls.settimeout(0.2)
                    c.tls.sendall(
                        struct.pack(">I", len(frame))[1:] + b"\0\0" + struct.pack(">I", sid) + frame
                    )
            look()
        wait_for(lambda: mesh.nodes[1].failures("memory_budget") > before, "somebody to be cut")
        assert mesh.web.python(ASK, mesh.other.ip, 20).strip() == "good"
        for c in tunnels:
            c.close()
        deaf.kill()


def test_peers_that_take_no_answers(mesh):
    """A hundred tunnels that ask for all that an application sends, and do not read."""
    with watched(mesh) as look:
        tunnels = []
        for _ in range(100):
            c = tunnel(mesh)
            c.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: (1 << 31) - 1})
            c.h2.increment_flow_control_window((1 << 31) - 1 - 65535)
            c.connect(f"{mesh.shop.ip}:9092")
            tunnels.append(c)
            look()
        end = time.monotonic() + 4
        while time.monotonic() < end:
            look()
            time.sleep(0.05)
        wait_for(lambda: look() and gauge(mesh.nodes[1], "bruma_buffered_bytes") > MIB, "much to be held", 60)
        assert mesh.web.python(ASK, mesh.other.ip, 20).strip() == "good"
        for c in tunnels:
            c.close()


def test_data_in_frames_of_one_byte(mesh):
    """150 streams, and of each 52,000 such frames at once: the bookkeeping must not cost more than the
    bytes."""
    before = mesh.nodes[1].proxy.resident_bytes()
    c = tunnel(mesh)
    sids = [c.connect(f"{mesh.shop.ip}:9091") for _ in range(150)]
    for sid in sids:
        assert c.status(sid) == 200
    for sid in sids:
        c.tls.sendall((b"\0\0\1\0\0" + struct.pack(">I", sid) + b"x") * 52000)
    for sid in sids:
        c.h2.end_stream(sid)
        c.flush()
    assert c.status(c.connect(f"{mesh.shop.ip}:9091")) == 200, "all that was before it has been read"
    grown = mesh.nodes[1].proxy.resident_bytes() - before
    c.close()
    assert grown < 12 * MIB, f"{grown // MIB} MiB"


def highest(process):
    """Most that was resident since the last call of it."""
    with open(f"/proc/{process.pid}/status") as f:
        most = int(re.search(r"VmHWM:\s+(\d+) kB", f.read()).group(1)) * 1024
    with open(f"/proc/{process.pid}/clear_refs", "w") as f:
        f.write("5")
    return most


def strays(c, sid, _):
    """DATA on a stream that it has reset itself: each is answered by RST_STREAM."""
    c.h2.reset_stream(sid)
    c.flush()
    block = (b"\0\0\0\0\0" + struct.pack(">I", sid)) * 20000
    for _ in range(20):
        yield block


def refused(c, sid, authority):
    """Requests beyond the limit of streams: the same."""
    fields = [(":method", "CONNECT"), (":authority", authority)]
    block = [c.h2.encoder.encode(fields) for _ in range(3)][-1]
    for first in range(sid + 2, sid + 400000, 40000):
        yield b"".join(
            struct.pack(">I", len(block))[1:] + b"\1\4" + struct.pack(">I", i) + block
            for i in range(first, first + 40000, 2)
        )


@pytest.mark.parametrize("frames", [strays, refused])
def test_frames_that_are_answered_one_by_one(mesh, frames):
    """A dozen peers that send them as fast as they go, and take no answer: what is owed them is within the
    budget, too."""
    proxy = mesh.nodes[1].proxy
    highest(proxy)
    before = highest(proxy)
    tunnels = [tunnel(mesh) for _ in range(12)]

    def push(c):
        sid = c.connect(f"{mesh.shop.ip}:9091")
        assert c.status(sid) == 200
        c.tls.settimeout(2)
        with contextlib.suppress(OSError):
            for block in frames(c, sid, f"{mesh.shop.ip}:9091"):
                c.tls.sendall(block)

    threads = [threading.Thread(target=push, args=(c,)) for c in tunnels]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert mesh.web.python(ASK, mesh.other.ip, 20).strip() == "good"
    grown = highest(proxy) - before
    for c in tunnels:
        c.close()
    assert proxy.alive() and grown < BUDGET + SLACK, f"{grown // MIB} MiB"
    wait_for(lambda: gauge(mesh.nodes[1], "bruma_buffered_bytes") == 0, "nothing to be held any more")


def test_large_baggage_is_counted(mesh, deaf):
    """60 KB of baggage for each of 60 streams, for as long as they live."""
    with watched(mesh) as look:
        c = tunnel(mesh)
        for _ in range(60):
            c.connect(f"{mesh.shop.ip}:9090", [("baggage", "k=" + "v" * 60000)])
        assert c.status(c.connect(f"{mesh.shop.ip}:9090")) is not None
        look()
        assert gauge(mesh.nodes[1], "bruma_buffered_bytes") > 3 * MIB
        c.close()


def memory_cgroup():
    """A new cgroup whose memory can be limited: (path, its file of the limit)."""
    with open("/proc/self/mounts") as f:
        mounts = [line.split() for line in f]
    name = f"bruma-{os.getpid()}-memory"
    for _, where, kind, options, *_ in mounts:
        if kind == "cgroup" and "memory" in options.split(","):
            return f"{where}/{name}", "memory.limit_in_bytes"
    for _, where, kind, *_ in mounts:
        if kind == "cgroup2":
            with open(f"{where}/cgroup.subtree_control") as f:
                if "memory" in f.read().split():
                    return f"{where}/{name}", "memory.max"
    pytest.skip("no memory controller here")


@pytest.mark.parametrize(
    ("given", "budget"),
    [
        ({}, 50 * MIB),
        ({"BRUMA_MEMORY_LIMIT": str(80 * MIB)}, 20 * MIB),
        ({"BRUMA_MEMORY_BUDGET": str(7 * MIB)}, 7 * MIB),
    ],
    ids=["cgroup", "limit", "budget"],
)
def test_the_budget_is_derived_from_the_limit(tmp_path, given, budget):
    """A quarter of the least limit of the cgroups that the proxy is in."""
    group, file = memory_cgroup()
    inner = f"{group}/inner"
    os.makedirs(inner)
    try:
        with open(f"{group}/{file}", "w") as f:
            f.write(str(200 * MIB))
        p = Process(
            [program("bruma-proxy"), "--admin-port", 0, "--metrics-port", 0, "--ready-port", 0],
            f"{tmp_path}/log",
            cgroup=inner,
            env={"PATH": os.environ["PATH"], "BRUMA_RUN_DIR": str(tmp_path), **given},
        )
        try:
            wait_for(lambda: " budget=" in p.text() or not p.alive(), "its first lines")
            assert f" budget={budget} pod_budget={budget // 2}" in p.text(), p.text()
        finally:
            p.kill()
    finally:
        wait_for(lambda: not open(f"{inner}/cgroup.procs").read(), "the cgroup to be empty")
        os.rmdir(inner)
        os.rmdir(group)
