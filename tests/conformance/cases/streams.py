# SPDX-License-Identifier: Apache-2.0
"""HBONE to a pod: bytes of streams, and their ends."""

import hashlib
import socket

import h2.errors
import h2.events

from conformance.registry import case, expect, expect_that
from conformance.site import PATIENCE
from support.nodes.pod_programs import SERVER_FIRST
from support.system import wait_for

CANCEL = int(h2.errors.ErrorCodes.CANCEL)
# Ends its own direction after the first bytes, then tells what came until the other's end, or how it ended.
ENDS_FIRST = """
import socket, sys
s = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True)
print("READY", flush=True)
while True:
    c, a = s.accept()
    got = c.recv(100)
    c.sendall(b"bye")
    c.shutdown(socket.SHUT_WR)
    try:
        while d := c.recv(65536):
            got += d
        print("GOT", got.decode(), flush=True)
    except OSError as e:
        print("ERROR", type(e).__name__, flush=True)
    c.close()
"""
# Resets when it is told to.
RESETS = """
import socket, struct, sys
s = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True)
print("READY", flush=True)
while True:
    c, a = s.accept()
    c.recv(100)
    c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    c.close()
"""
# Tells what it gets, and that it has ended, however that was.
TELLS = """
import socket, sys
s = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True)
print("READY", flush=True)
while True:
    c, a = s.accept()
    try:
        while d := c.recv(65536):
            print("GOT", d.decode(), flush=True)
    except OSError:
        pass
    print("ENDED", flush=True)
    c.close()
"""
# Tells all that it got, in hexadecimal.
HEADER = """
import socket, sys
s = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True)
print("READY", flush=True)
while True:
    c, a = s.accept()
    got = b""
    while d := c.recv(65536):
        got += d
    print("GOT", got.hex(), flush=True)
    c.close()
"""
# Sends without end, and says so when it cannot any more.
ENDLESS = """
import socket, sys, threading
s = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True)
print("READY", flush=True)
def serve(c):
    try:
        while True:
            c.sendall(bytes(65536))
    except OSError:
        pass
while True:
    threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
"""


def opened(site, c, port=8080):
    sid = c.connect(f"{site.shop.ip}:{port}")
    expect("status", c.status(sid), 200)
    return sid


def errors(server):
    return server.text().count("ERROR ConnectionResetError")


@case("H-40")
def half_close_by_the_peer(site):
    """END_STREAM of the peer ends that direction alone: what the application sends afterwards arrives"""
    with site.tunnel() as c:
        sid = opened(site, c)
        c.send(sid, b"all of it", end=True)
        expect_that(c.pump(lambda: c.ended(sid), PATIENCE), "no end came")
        expect("what came back", c.received(sid), b"all of it")


@case("H-40")
def half_close_by_the_application(site):
    """A FIN of the application is END_STREAM, and what the peer sends afterwards arrives"""
    server = site.shop.server(ENDS_FIRST, "8090")
    try:
        with site.tunnel() as c:
            sid = opened(site, c, 8090)
            c.send(sid, b"first ")
            expect_that(c.pump(lambda: c.ended(sid), PATIENCE), "no end came")
            expect("what came", c.received(sid), b"bye")
            c.send(sid, b"and last", end=True)
            wait_for(
                lambda: "GOT first and last" in server.text(), "the application to get the rest", PATIENCE
            )
    finally:
        server.kill()


@case("H-41")
def a_reset_of_the_peer(site):
    """RST_STREAM of the peer is a reset at the application"""
    before = errors(site.shop.echo)
    with site.tunnel() as c:
        sid = opened(site, c)
        c.send(sid, b"x")
        c.pump(lambda: c.received(sid) == b"x", PATIENCE)
        c.h2.reset_stream(sid, CANCEL)
        c.flush()
        wait_for(lambda: errors(site.shop.echo) > before, "a reset at the application", 3)


@case("H-41")
def a_reset_of_the_application(site):
    """A reset of the application is RST_STREAM with CANCEL, and the tunnel lives"""
    server = site.shop.server(RESETS, "8091")
    try:
        with site.tunnel() as c:
            sid = opened(site, c, 8091)
            c.send(sid, b"x")
            expect_that(
                c.pump(lambda: c.ended(sid) or c.reset_code(sid) is not None, PATIENCE),
                "no end of the stream came",
            )
            expect("code of the reset", c.reset_code(sid), CANCEL)
            opened(site, c)
    finally:
        server.kill()


@case("H-42")
def an_end_does_not_overtake(site):
    """What was sent before a reset arrives before it"""
    server = site.shop.server(TELLS, "8095")
    try:
        with site.tunnel() as c:
            sid = opened(site, c, 8095)
            c.send(sid, b"before the end")
            c.h2.reset_stream(sid, CANCEL)
            c.flush()
            wait_for(lambda: "ENDED" in server.text(), "the end at the application", PATIENCE)
        expect("what the application got", "GOT before the end" in server.text(), True)
    finally:
        server.kill()


@case("H-43")
def both_ways_intact(site):
    """Four MiB each way arrive intact, by as much credit as is given"""
    data = bytes((i * 7 + i // 251) & 255 for i in range(1 << 20)) * 4
    with site.tunnel() as c:
        sid = opened(site, c)
        c.send(sid, data, end=True)
        expect_that(c.pump(lambda: c.ended(sid), 30), "no end came")
        expect("checksum", hashlib.sha256(c.received(sid)).hexdigest(), hashlib.sha256(data).hexdigest())


@case("H-43")
def data_before_the_answer(site):
    """Data that comes before the answer is not lost"""
    with site.tunnel() as c:
        sid = c.connect(f"{site.shop.ip}:8080")
        c.h2.send_data(sid, b"early")
        c.flush()
        expect("status", c.status(sid), 200)
        c.send(sid, b" and late", end=True)
        expect_that(c.pump(lambda: c.ended(sid), PATIENCE), "no end came")
        expect("what came back", c.received(sid), b"early and late")


@case("H-43")
def the_server_speaks_first(site):
    """What the application says before it is asked arrives"""
    server = site.shop.server(SERVER_FIRST, "8092")
    try:
        with site.tunnel() as c:
            sid = opened(site, c, 8092)
            expect_that(c.pump(lambda: c.received(sid), PATIENCE), "nothing came")
            expect("what came", c.received(sid), b"220 welcome\r\n")
    finally:
        server.kill()


@case("H-44")
def a_reader_that_has_stopped(site):
    """A stream whose reader gives no credit does not hold up the others of its tunnel"""
    server = site.shop.server(ENDLESS, "8093")
    try:
        with site.tunnel() as c:
            stopped = opened(site, c, 8093)
            acknowledge = c.h2.acknowledge_received_data
            c.h2.acknowledge_received_data = lambda n, sid: acknowledge(n, sid) if sid != stopped else None
            c.h2.increment_flow_control_window(8 << 20)  # of the connection: the stream's own has an end
            c.flush()
            c.pump(lambda: False, 0.3)
            held = len(c.received(stopped))
            sid = opened(site, c)
            c.send(sid, b"still here", end=True)
            expect_that(c.pump(lambda: c.ended(sid), PATIENCE), "no end came")
            expect("what came back", c.received(sid), b"still here")
            expect_that(len(c.received(stopped)) <= 65535, f"{held} bytes beyond the credit")
    finally:
        server.kill()


@case("H-47")
def a_proxy_header(site):
    """A workload with a PROXY tunnel gets a PROXY header with the client, the destination and the client's identity first"""
    server = site.shop.server(HEADER, "8096")
    item = site.plane.of(site.shop)
    item[1].workload.application_tunnel.protocol = 1
    item[1].workload.application_tunnel.port = 8096
    try:
        with site.resources(item), site.tunnel() as c:
            sid = opened(site, c, 8080)
            c.send(sid, b"after it", end=True)
            wait_for(lambda: "GOT" in server.text(), "the application to get it", PATIENCE)
    finally:
        server.kill()
    got = bytes.fromhex(server.text().split("GOT ")[1].split()[0])
    expect("signature, version, family", got[:14], b"\r\n\r\n\0\r\nQUIT\n\x21\x11")
    end = 16 + int.from_bytes(got[14:16], "big")
    expect("source", socket.inet_ntoa(got[16:20]), site.far.ip)
    expect(
        "destination", (socket.inet_ntoa(got[20:24]), got[26:28]), (site.shop.ip, (8080).to_bytes(2, "big"))
    )
    identity = site.far.identity.encode()
    expect("TLV of the identity", got[28:end], b"\xd0" + len(identity).to_bytes(2, "big") + identity)
    expect("what comes behind it", got[end:], b"after it")


@case("H-45")
def the_tunnel_ends(site):
    """When the tunnel ends, the applications' connections end"""
    with site.tunnel() as c:
        sid = opened(site, c)
        c.send(sid, b"x")
        c.pump(lambda: c.received(sid) == b"x", PATIENCE)
        before = established(site)
        expect_that(before, "the application has no connection")
    wait_for(lambda: established(site) < before, "the application's connection to end", PATIENCE)


def established(site):
    """Connections that the application has."""
    lines = site.shop.run("ss", "-Htn", "state", "established", "sport", "=", ":8080").stdout.splitlines()
    return len(lines)


@case("H-46")
def a_hundred_streams_at_once(site):
    """A hundred streams of one tunnel each get their own bytes"""
    with site.tunnel() as c:
        sids = [c.connect(f"{site.shop.ip}:8080") for _ in range(100)]
        for sid in sids:
            expect("status", c.status(sid), 200)
        for sid in sids:
            c.send(sid, b"stream %d" % sid, end=True)
        expect_that(c.pump(lambda: all(c.ended(s) for s in sids), PATIENCE), "not all have ended")
        for sid in sids:
            expect(f"bytes of stream {sid}", c.received(sid), b"stream %d" % sid)
