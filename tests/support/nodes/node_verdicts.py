# SPDX-License-Identifier: Apache-2.0
"""What the proxy writes for connections that stay in the kernel between two pods of one node (include/bruma/node.h), written by
a test: what comes of each entry is the kernel's and the agent's doing."""

import ctypes
import ipaddress
import json
import os
import socket
import struct
import time

from support.nodes.agent_node import bpf
from support.system import run

LOOKUP, UPDATE, DELETE, OBJ_GET, PROG_QUERY = 1, 2, 3, 7, 16
TCX = 46, 47  # attach types: what comes from a device, and what goes to it
NODE = 1 << 4
NUMBER = 0x6E6F6465


def address(text):
    a = ipaddress.ip_address(text)
    return a.packed if a.version == 6 else b"\0" * 10 + b"\xff\xff" + a.packed


def place(cookie):
    """As bruma_node_place(): where in node_places the pod is."""
    return (cookie * 0x9E3779B97F4A7C15 & (1 << 64) - 1) >> 50


def place_of_address(text):
    high, low = struct.unpack("=QQ", address(text))
    return place((high * 0xD6E8FEB86659FD93 & (1 << 64) - 1) ^ low)


def programs_at(device):
    """How many tc programs there are, in the calling thread's network namespace."""
    n = 0
    for kind in TCX:
        ids = (ctypes.c_uint32 * 64)()
        attr = ctypes.create_string_buffer(
            struct.pack("=IIIIQII", socket.if_nametoindex(device), kind, 0, 0, ctypes.addressof(ids), 64, 0),
            128,
        )
        bpf(PROG_QUERY, attr.raw)
        n += sum(1 for i in ids if i)
    return n


class Map:
    def __init__(self, path, value_size):
        name = ctypes.create_string_buffer(path.encode())
        self.fd = bpf(OBJ_GET, struct.pack("=QII", ctypes.addressof(name), 0, 0))
        self.value_size = value_size

    def _call(self, command, key, value=None, flags=0):
        k = ctypes.create_string_buffer(key, len(key))
        v = ctypes.create_string_buffer(value or b"", max(len(value or b""), self.value_size))
        at = 0 if command == DELETE else ctypes.addressof(v)
        bpf(command, struct.pack("=IIQQQ", self.fd, 0, ctypes.addressof(k), at, flags))
        return v.raw

    def get(self, key):
        return self._call(LOOKUP, key)

    def set(self, key, value):
        self._call(UPDATE, key, value)

    def remove(self, key):
        self._call(DELETE, key)

    def close(self):
        os.close(self.fd)


class NodeVerdicts:
    """Stands in for the proxy of the node: alive until it is closed."""

    def __init__(self, node):
        maps = f"{node.pin_dir}/maps"
        self.node = node
        self.control = Map(f"{maps}/direct_control", 40)
        self.proxies = Map(f"{maps}/direct_proxies", 8)
        self.state = Map(f"{maps}/node_control", 16)
        self.places = Map(f"{maps}/node_places", 16)
        self.verdicts = Map(f"{maps}/node_verdicts", 80)
        self.tuples = Map(f"{maps}/node_tuples", 88)
        self.pods = Map(f"{maps}/pods", 512)
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.socket.listen()
        self.proxies.set(struct.pack("=Q", NUMBER), struct.pack("=Q", self.socket.fileno()))
        self.live_until(time.clock_gettime_ns(time.CLOCK_MONOTONIC) + 3600 * 10**9)

    def live_until(self, nanoseconds, ways=NODE):
        self.control.set(struct.pack("=I", 0), struct.pack("=QQIIIIQ", NUMBER, nanoseconds, ways, 0, 0, 0, 0))

    def generation(self, source, destination, to):
        """source and destination: cookies."""
        places = [place(source), place(destination), place_of_address(to)]
        changes = [self.at(p)[0] for p in places]
        return struct.unpack("=Qq", self.state.get(struct.pack("=I", 0)))[0] + sum(changes)

    def at(self, place):
        """(changes, tuples) of what has that place."""
        return struct.unpack("=Qq", self.places.get(struct.pack("=I", place)))

    def tuples_of(self, pod):
        return self.at(place(int(pod.item()["cookie"])))[1]

    def change_at(self, place, changes=1, tuples=0):
        """As after so many changes of what has that place, and so many more tuples."""
        before = self.at(place)
        self.places.set(struct.pack("=I", place), struct.pack("=Qq", before[0] + changes, before[1] + tuples))

    def change(self):
        """As after a change by which any answer may be another one."""
        generation, tuples = struct.unpack("=Qq", self.state.get(struct.pack("=I", 0)))
        self.state.set(struct.pack("=I", 0), struct.pack("=Qq", generation + 1, tuples))

    def enrollment(self, pod):
        entry = self.pods.get(struct.pack("=Q", int(pod.item()["cookie"])))
        return struct.unpack_from("=I", entry, 68)[0]

    def allow(
        self, source, destination, to, port=8080, endpoint=None, endpoint_port=8080, own=None, seconds=3600
    ):
        """Connections of source to that address, of the pod destination or (with an endpoint) of a service, for so long."""
        endpoint = endpoint or to
        own = own or (source.ip6 if ":" in endpoint else source.ip)
        cookie, other = (int(p.item()["cookie"]) for p in (source, destination))
        key = address(to) + struct.pack("=QII", cookie, port, 0)
        until = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + seconds * 10**9
        self.verdicts.set(
            key,
            address(own)
            + address(endpoint)
            + struct.pack("=QQQQ", NUMBER, self.generation(cookie, other, to), other, until)
            + struct.pack("=IIII", self.enrollment(source), self.enrollment(destination), endpoint_port, 0),
        )

    def tuple_key(self, source, destination, port, to_port=8080, family=0):
        return (
            address(source.ips[family]) + address(destination.ips[family]) + struct.pack("=II", port, to_port)
        )

    def register(self, source, destination, port, to_port=8080, family=0, of=None):
        """A tuple as it is while such a connection begins, from that port of source; or of a pod that had its address before."""
        devices = Map(f"{self.node.pin_dir}/maps/node_devices", 8)
        cookies = [int(p.item()["cookie"]) for p in (of or source, destination)]
        ends = [struct.unpack("=II", devices.get(struct.pack("=Q", c)))[0] for c in cookies]
        devices.close()
        self.tuples.set(
            self.tuple_key(source, destination, port, to_port, family),
            struct.pack("=QQQQQQ", *cookies, self.generation(*cookies, destination.ips[family]), 1, 0, 0)
            + struct.pack("=IIIIII", *ends, 0, 0, to_port, 0)
            + address(destination.ips[family]),
        )

    def forget(self, source, destination, port, to_port=8080, family=0):
        self.tuples.remove(self.tuple_key(source, destination, port, to_port, family))

    def live(self):
        """(source port, destination port) of all tuples."""
        entries = json.loads(
            run(["bpftool", "-j", "map", "dump", "pinned", f"{self.node.pin_dir}/maps/node_tuples"]).stdout
        )
        keys = [e["formatted"]["key"] for e in entries]
        return sorted((k["remote_port"], k["local_port"]) for k in keys)

    def counter(self, index):
        entries = json.loads(
            run(["bpftool", "-j", "map", "dump", "pinned", f"{self.node.pin_dir}/maps/node_counters"]).stdout
        )
        return sum(v["value"] for v in entries[index]["formatted"]["values"])

    def die(self):
        self.socket.close()

    def close(self):
        self.die()
        for m in (
            self.control,
            self.proxies,
            self.state,
            self.places,
            self.verdicts,
            self.tuples,
            self.pods,
        ):
            m.close()
