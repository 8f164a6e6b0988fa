# SPDX-License-Identifier: Apache-2.0
"""The pinned maps of direct ways (include/bruma/direct.h), read and written as a proxy does, without one: by their layout as
bytes."""

import contextlib
import ctypes
import mmap
import os
import platform
import re
import select
import socket
import struct
import time

from support.network import inside
from support.programs import ROOT

with open(f"{ROOT}/include/bruma/direct.h") as f:
    LONG_WAYS = re.findall(r'BRUMA_LONG_WAY\([A-Z_]+, (\w+), "', f.read())

_NUMBER = {"x86_64": 321, "aarch64": 280}[platform.machine()]
_libc = ctypes.CDLL(None, use_errno=True)
LOOKUP, UPDATE, DELETE, NEXT_KEY, OBJ_GET, UPDATE_BATCH, DELETE_BATCH = 1, 2, 3, 4, 7, 26, 27
FLOWS_MAX = 262144

OUTSIDE, PASS, REFUSE, BYPASS, NODE, NODE_INBOUND = 1, 2, 4, 8, 16, 32
CONNECTING, ESTABLISHED = 0, 1
KINDS = {1: "opened", 2: "closed", 3: "failed", 4: "refused"}

CONTROL = struct.Struct("<QQIIIIQ")
POD = struct.Struct("<QIIIIII")
FLOW = struct.Struct("<QQ16s16sIIIIII")
EVENT_REST = struct.Struct("<QQQQIIII")
BUSY, DISCARD = 1 << 31, 1 << 30


def _bpf(command, attributes):
    buffer = ctypes.create_string_buffer(attributes, 128)
    r = _libc.syscall(_NUMBER, command, buffer, 128)
    if r < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return r


def _buffer(data):
    return ctypes.create_string_buffer(data, len(data))


class Map:
    def __init__(self, path, value_size=0):
        self.value_size = value_size
        name = ctypes.create_string_buffer(path.encode())
        self.fd = _bpf(OBJ_GET, struct.pack("<QII", ctypes.addressof(name), 0, 0))

    def _element(self, command, key, value):
        k = _buffer(key)
        at = 0 if value is None else ctypes.addressof(value)
        return _bpf(command, struct.pack("<IIQQQ", self.fd, 0, ctypes.addressof(k), at, 0))

    def update(self, key, value):
        self._element(UPDATE, key, _buffer(value))

    def delete(self, key):
        with contextlib.suppress(FileNotFoundError):
            self._element(DELETE, key, None)

    def get(self, key):
        """None where there is no such entry."""
        value = ctypes.create_string_buffer(self.value_size)
        try:
            self._element(LOOKUP, key, value)
        except FileNotFoundError:
            return None
        return value.raw

    def _batch(self, command, keys, values, count):
        k, v = _buffer(keys), _buffer(values)
        attributes = struct.pack(
            "<QQQQIIQQ", 0, 0, ctypes.addressof(k), ctypes.addressof(v), count, self.fd, 0, 0
        )
        buffer = ctypes.create_string_buffer(attributes, 128)
        _libc.syscall(_NUMBER, command, buffer, 128)
        return struct.unpack_from("<I", buffer, 32)[0]

    def update_batch(self, keys, values, count):
        """Returns how many there was room for."""
        return self._batch(UPDATE_BATCH, keys, values, count)

    def delete_batch(self, keys, count):
        return self._batch(DELETE_BATCH, keys, b"", count)

    def keys(self, size):
        found, key = [], None
        while True:
            k = _buffer(key) if key else None
            following = ctypes.create_string_buffer(size)
            try:
                _bpf(
                    NEXT_KEY,
                    struct.pack(
                        "<IIQQ", self.fd, 0, ctypes.addressof(k) if k else 0, ctypes.addressof(following)
                    ),
                )
            except FileNotFoundError:
                return found
            key = following.raw
            found.append(key)

    def close(self):
        os.close(self.fd)


def mapped(address):
    """16 bytes, IPv4 in the mapped form."""
    if ":" in address:
        return socket.inet_pton(socket.AF_INET6, address)
    return bytes(10) + b"\xff\xff" + socket.inet_aton(address)


def text(address):
    if address.startswith(bytes(10) + b"\xff\xff"):
        return socket.inet_ntoa(address[12:])
    return socket.inet_ntop(socket.AF_INET6, address)


class Flow:
    def __init__(self, data):
        (
            self.netns_cookie,
            self.opened,
            remote,
            local,
            remote_port,
            local_port,
            self.generation,
            self.way,
            self.state,
            self.inbound_changes,
        ) = FLOW.unpack(data)
        self.remote, self.local = (text(remote), remote_port), (text(local), local_port)


class Event:
    def __init__(self, data):
        self.flow = Flow(data[: FLOW.size])
        self.socket, self.now, self.sent, self.received, kind, self.error, self.repeated, _ = (
            EVENT_REST.unpack(data[FLOW.size : FLOW.size + EVENT_REST.size])
        )
        self.kind = KINDS[kind]

    def __repr__(self):
        f = self.flow
        return (
            f"<{self.kind} {f.local} {f.remote} way={f.way} sent={self.sent} received={self.received} "
            f"error={self.error}>"
        )


class Ring:
    """The one reader of a ring."""

    def __init__(self, path, size):
        self.map, self.size = Map(path), size
        page = mmap.PAGESIZE
        self.consumer = mmap.mmap(self.map.fd, page)
        self.producer = mmap.mmap(self.map.fd, page + 2 * size, prot=mmap.PROT_READ, offset=page)

    def wait(self, seconds):
        """Until the kernel wakes us, which it need not do; False: it did not."""
        poller = select.epoll()
        poller.register(self.map.fd, select.EPOLLIN)
        try:
            return bool(poller.poll(seconds))
        finally:
            poller.close()

    def read(self):
        page, found = mmap.PAGESIZE, []
        (at,) = struct.unpack_from("<Q", self.consumer)
        while at < struct.unpack_from("<Q", self.producer)[0]:
            offset = page + at % self.size
            (header,) = struct.unpack_from("<I", self.producer, offset)
            if header & BUSY:
                break
            size = header & ~(BUSY | DISCARD)
            if not header & DISCARD:
                found.append(bytes(self.producer[offset + 8 : offset + 8 + size]))
            at += (8 + size + 7) & ~7
            struct.pack_into("<Q", self.consumer, 0, at)
        return found


class ActingProxy:
    """Takes charge of direct ways on a node, as its proxy would. Nobody renews its word: it is good for `valid` seconds."""

    def __init__(self, node, number=0x1234, valid=600):
        self.maps, self.number, self.valid = f"{node.pin_dir}/maps", number, valid
        self.key = struct.pack("<Q", number)
        self.control = Map(f"{self.maps}/direct_control", CONTROL.size)
        self.proxies = Map(f"{self.maps}/direct_proxies", 8)
        self.pods = Map(f"{self.maps}/direct_pods", POD.size)
        self.addresses = Map(f"{self.maps}/mesh_addresses", 4)
        self.prefixes = Map(f"{self.maps}/mesh_prefixes", 4)
        self.flows_map = Map(f"{self.maps}/flows", FLOW.size)
        self.ring = Ring(f"{self.maps}/flow_events", 1 << 20)
        self.ring.read()
        self.past = []
        with inside(node.netns):
            self.socket = socket.create_server(("127.0.0.1", 0))
        self.show_life()

    def show_life(self):
        self.proxies.update(self.key, struct.pack("<Q", self.socket.fileno()))

    def die(self):
        """What is left when its process ends."""
        self.socket.close()

    def take_charge(self, ways=OUTSIDE, number=None, why=0, prefixes=0, valid=None, polling=0):
        until = time.clock_gettime_ns(time.CLOCK_MONOTONIC) + int(
            1e9 * (self.valid if valid is None else valid)
        )
        self.control.update(
            bytes(4),
            CONTROL.pack(self.number if number is None else number, until, ways, prefixes, why, polling, 0),
        )

    def lost_events(self):
        """Of all pods, since the last take_charge()."""
        return CONTROL.unpack(self.control.get(bytes(4)))[-1]

    def pod(self, pod, ways=OUTSIDE, outside_why=0, inbound_why=0, changes=0, generation=None, number=None):
        item = pod.item()
        self.pods.update(
            struct.pack("<Q", int(item["cookie"])),
            POD.pack(
                self.number if number is None else number,
                item["generation"] if generation is None else generation,
                ways,
                outside_why,
                inbound_why,
                changes,
                0,
            ),
        )

    def know(self, address, objects=1):
        self.addresses.update(mapped(address) + self.key, struct.pack("<I", objects))

    def know_prefix(self, address, bits, objects=1):
        """bits: of the mapped form."""
        self.prefixes.update(
            struct.pack("<II", 96 + bits, 0) + self.key + mapped(address), struct.pack("<I", objects)
        )

    def forget_prefix(self, address, bits):
        self.prefixes.delete(struct.pack("<II", 96 + bits, 0) + self.key + mapped(address))

    def fill_flows(self):
        """With entries of no socket and no pod."""
        count = FLOWS_MAX + 1024
        self.filling = b"".join(struct.pack("<Q", (1 << 63) + i) for i in range(count))
        self.filled = self.flows_map.update_batch(self.filling, bytes(count * FLOW.size), count)

    def empty_flows(self):
        assert self.flows_map.delete_batch(self.filling, self.filled) == self.filled

    def forget(self, address):
        self.addresses.delete(mapped(address) + self.key)

    def events(self):
        """All so far, the oldest first."""
        self.past += [Event(data) for data in self.ring.read()]
        return self.past

    def flows(self):
        """Those that live, by the cookie of the socket."""
        found = {}
        for key in self.flows_map.keys(8):
            data = self.flows_map.get(key)
            if data:
                found[struct.unpack("<Q", key)[0]] = Flow(data)
        return found

    def age_flow(self, socket):
        """Writes the entry as one of long ago."""
        data = self.flows_map.get(struct.pack("<Q", socket))
        self.flows_map.update(struct.pack("<Q", socket), data[:8] + struct.pack("<Q", 1) + data[16:])

    def close(self):
        self.take_charge(number=0)
        self.socket.close()
        for m in (self.control, self.proxies, self.pods, self.addresses, self.prefixes, self.flows_map):
            m.close()
