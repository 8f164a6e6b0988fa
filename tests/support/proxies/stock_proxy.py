#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A node proxy as a stock one (ztunnel) looks from a pod and from the workload discovery socket, without the
mesh between: it passes connections on in plaintext. It shares no code with Bruma, speaks protobuf by itself,
and opens its own sockets.

    stock_proxy.py SOCKET [--refuse NAME]...   a pod of this name is refused, until it was added three times

Prints what it is told (ADD, DEL, SNAPSHOT, DISCONNECTED) and what it carries (OUT or IN, source,
destination). Ended by SIGTERM it closes its listeners and finishes what it carries.
"""

import argparse
import array
import contextlib
import ctypes
import os
import select
import signal
import socket
import sys
import threading
import time

MARK = 0x539
PORTS = {"OUT": 15001, "IN": 15006, "HBONE": 15008}
SO_MARK, IP_TRANSPARENT, IP_FREEBIND, IPV6_TRANSPARENT, IPV6_FREEBIND = 36, 19, 15, 75, 78
libc = ctypes.CDLL(None, use_errno=True)
ending = threading.Event()


def say(*words):
    sys.stdout.write(" ".join(str(w) for w in words) + "\n")
    sys.stdout.flush()


def fields(data):
    """(number, value) of a protobuf message; bytes or int."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            value |= (data[at] & 0x7F) << shift
            shift += 7
            at += 1
            if data[at - 1] < 0x80:
                return value

    while at < len(data):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
        else:
            length = varint()
            yield key >> 3, data[at : at + length]
            at += length


def ack(error=""):
    inner = bytes([0x0A, len(error)]) + error.encode() if error else b""
    return bytes([0x0A, len(inner)]) + inner


def plain(address):
    return address[7:] if address.startswith("::ffff:") else address


class Listeners(threading.Thread):
    """The listeners in one pod, opened by a thread that stays in its network namespace: so do those that it
    starts."""

    def __init__(self, uid, netns):
        super().__init__(daemon=True)
        self.uid, self.netns, self.error, self.listeners = uid, netns, None, {}
        self.identity = os.fstat(netns)
        self.opened, self.leaves = threading.Event(), threading.Event()

    def open(self):
        for kind, port in PORTS.items():
            s = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
            self.listeners[s] = kind
            s.setsockopt(socket.SOL_SOCKET, SO_MARK, MARK)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            s.setsockopt(socket.IPPROTO_IP, IP_TRANSPARENT, 1)
            s.bind(("::", port))
            s.listen(128)

    def run(self):
        try:
            if libc.setns(self.netns, 0x40000000):
                raise OSError(ctypes.get_errno(), "setns")
            self.open()
        except OSError as e:
            self.error = str(e)
            self.close()
        self.opened.set()
        while self.listeners and not self.leaves.is_set() and not ending.is_set():
            for s in select.select(list(self.listeners), [], [], 0.05)[0]:
                connection, _ = s.accept()
                threading.Thread(target=self.serve, args=(self.listeners[s], connection), daemon=True).start()
        self.close()

    def close(self):
        for s in self.listeners:
            s.close()
        self.listeners = {}
        if self.netns >= 0:
            os.close(self.netns)
        self.netns = -1

    def serve(self, kind, incoming):
        carrying.add(self)
        source, destination = incoming.getpeername(), incoming.getsockname()
        outgoing = None
        try:
            say(kind, plain(source[0]), plain(destination[0]), destination[1])
            if kind != "HBONE":
                outgoing = connect(
                    plain(destination[0]), destination[1], plain(source[0]) if kind == "IN" else None
                )
                relay(incoming, outgoing)
        except OSError as e:
            say("FAILED", kind, plain(destination[0]), destination[1], e)
            reset_on_close(incoming)
        finally:
            incoming.close()
            if outgoing:
                outgoing.close()
            carrying.remove(self)


class Count:
    def __init__(self):
        self.n, self.lock = 0, threading.Lock()

    def add(self, _):
        with self.lock:
            self.n += 1

    def remove(self, _):
        with self.lock:
            self.n -= 1


carrying = Count()


def connect(address, port, source):
    six = ":" in address
    s = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_STREAM)
    s.setsockopt(socket.SOL_SOCKET, SO_MARK, MARK)
    if source and source != address:
        level, transparent, freebind = (
            (socket.IPPROTO_IPV6, IPV6_TRANSPARENT, IPV6_FREEBIND)
            if six
            else (socket.IPPROTO_IP, IP_TRANSPARENT, IP_FREEBIND)
        )
        s.setsockopt(level, transparent, 1)
        s.setsockopt(level, freebind, 1)
        s.bind((source, 0))
    s.settimeout(10)
    s.connect((address, port))
    s.settimeout(None)
    return s


def relay(a, b):
    """Until both sides have ended; a reset of one is one of the other."""
    broken = threading.Event()

    def pump(one, other):
        try:
            while chunk := one.recv(65536):
                other.sendall(chunk)
            if not broken.is_set():
                other.shutdown(socket.SHUT_WR)
        except OSError:
            broken.set()
            for s in (one, other):
                reset_on_close(s)
                with contextlib.suppress(OSError):
                    s.shutdown(socket.SHUT_RD)  # wakes the other thread and says nothing to the peer

    back = threading.Thread(target=pump, args=(b, a), daemon=True)
    back.start()
    pump(a, b)
    back.join()


def reset_on_close(s):
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


class Client:
    def __init__(self, path, refuse):
        self.path, self.refuse, self.pods = path, dict.fromkeys(refuse, 2), {}

    def add(self, message, fds):
        uid, info = "", {}
        for number, value in fields(message):
            if number == 1:
                uid = value.decode()
            elif number == 2:
                info = {n: v.decode() for n, v in fields(value)}
        if not info or len(fds) != 1:
            sys.exit(f"protocol error: add of {uid} with {info} and {len(fds)} descriptors")
        say("ADD", uid, info[2], info[1], info[3])
        self.named.add(uid)
        if self.refuse.get(info[1]):
            self.refuse[info[1]] -= 1
            os.close(fds[0])
            return "it is to be refused"
        old, st = self.pods.get(uid), os.fstat(fds[0])
        if old and (old.identity.st_dev, old.identity.st_ino) == (st.st_dev, st.st_ino):
            os.close(fds[0])
            return ""
        if old:
            old.leaves.set()
        pod = Listeners(uid, fds[0])
        pod.start()
        pod.opened.wait(4)
        if not pod.error:
            self.pods[uid] = pod
        return pod.error or ""

    def delete(self, uid):
        say("DEL", uid)
        self.named.discard(uid)
        if self.snapshot and uid in self.pods:
            self.pods.pop(uid).leaves.set()

    def handle(self, data, fds):
        for number, value in fields(data):
            if number != 1 and fds:
                sys.exit(f"protocol error: message {number} with descriptors")
            if number == 1:
                return self.add(value, fds)
            if number == 2:
                self.delete(dict(fields(value))[2].decode())
            elif number == 3:
                if self.snapshot:
                    sys.exit("protocol error: a second snapshot")
                self.snapshot = True
                for uid in set(self.pods) - self.named:
                    self.pods.pop(uid).leaves.set()
                say("SNAPSHOT", len(self.named))
            else:
                sys.exit(f"protocol error: message {number}")
        return ""

    def converse(self, s):
        s.send(b"\x08\x01")
        self.named, self.snapshot = set(), False
        while True:
            ready = select.select([s], [], [], 0.1)[0]
            if ending.is_set():
                return
            if not ready:
                continue
            data, control, flags, _ = s.recvmsg(1024, socket.CMSG_SPACE(16))
            if not data:
                return
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                sys.exit("protocol error: truncated")
            fds = array.array("i")
            for _, _, raw in control:
                fds.frombytes(raw)
            s.send(ack(self.handle(data, fds)))

    def run(self):
        wait = 0.02
        while not ending.is_set():
            s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                s.connect(self.path)
                wait = 0.02
                self.converse(s)
                say("DISCONNECTED")
            except OSError:
                time.sleep(wait)
                wait = min(wait * 2, 1)
            finally:
                s.close()
        deadline = time.monotonic() + 20
        while carrying.n and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("socket")
    parser.add_argument("--refuse", action="append", default=[])
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: ending.set())
    Client(arguments.socket, arguments.refuse).run()
