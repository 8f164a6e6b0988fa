# SPDX-License-Identifier: Apache-2.0
"""The maps of direct ways (include/bruma/direct.h) as the kernel has them, and what the proxy says of them."""

import ctypes
import errno
import ipaddress
import json
import os
import struct
import sys
import time

from support import agent
from support.nodes.agent_node import bpf
from support.system import sh, wait_for

BPF_OBJ_GET, BPF_MAP_UPDATE_BATCH, BPF_MAP_DELETE_BATCH = 7, 26, 27
OUTSIDE = 1
ADDRESSES_MAX = 262144


class DirectMaps:
    """Of one node. bpftool is the witness."""

    def __init__(self, node):
        self.node = node

    def path(self, name):
        return f"{self.node.pin_dir}/maps/{name}"

    def _dump(self, name):
        entries = json.loads(sh("bpftool", "-j", "map", "dump", "pinned", self.path(name)))
        return [e["formatted"] for e in entries if "formatted" in e]  # some may go while they are read

    def control(self):
        """The word of who is in charge, with the names of its fields."""
        return self._dump("direct_control")[0]["value"]

    def holder(self):
        return self.control()["proxy"]

    def valid(self):
        """Whether its time has not come."""
        return self.control()["valid_until_nanoseconds"] > time.clock_gettime_ns(time.CLOCK_MONOTONIC)

    def proxies(self):
        """Numbers of those that the kernel sees living."""
        entries = json.loads(sh("bpftool", "-j", "map", "dump", "pinned", self.path("direct_proxies")))
        return {int.from_bytes(bytes(int(b, 16) for b in e["key"]), sys.byteorder) for e in entries}

    def pods(self):
        """Of each pod: its entry, by the name that the agent has for it."""
        names = {e["key"]: e["value"]["pod"] for e in self._dump("pods")}
        return {names.get(e["key"], e["key"]): e["value"] for e in self._dump("direct_pods")}

    def addresses(self, number=None):
        """Those of the mesh by how many objects have them, in the eyes of one proxy; None: who is in charge."""
        number = number or self.holder()
        return {
            text(e["key"]["address"]["bytes"]): e["value"]["objects"]
            for e in self._dump("mesh_addresses")
            if e["key"]["proxy"] == number
        }

    def prefixes(self, number=None):
        number = number or self.holder()
        return {
            f"{text(e['key']['address']['bytes'])}/{e['key']['prefix_length'] - 96}": e["value"]["objects"]
            for e in self._dump("mesh_prefixes")
            if e["key"]["proxy"] == number
        }

    def owners(self):
        """Numbers under which there is any entry."""
        return {e["key"]["proxy"] for m in ("mesh_addresses", "mesh_prefixes") for e in self._dump(m)}

    def page(self):
        """What the proxy says of it."""
        status, body = agent.proxy_page(self.node.run_dir, "/direct")
        assert status == 200, body
        return json.loads(body)

    def wait_charge(self, timeout=20, other_than=0):
        """Until a proxy is in charge, another one than that. Returns its number."""

        def there():
            number = self.holder()
            return number if number not in (0, other_than) and self.valid() else None

        return wait_for(there, "a proxy to take charge of direct ways", timeout, log=self.node.proxy_log)

    def fill(self, number, count):
        """So many entries more in mesh_addresses under that number. False: there was no room for all."""
        return self._batch(BPF_MAP_UPDATE_BATCH, number, count)

    def empty(self, number, count):
        """Removes what fill() has put there."""
        return self._batch(BPF_MAP_DELETE_BATCH, number, count)

    def _batch(self, command, number, count):
        path = ctypes.create_string_buffer(self.path("mesh_addresses").encode())
        keys = b"".join(struct.pack("=QQQ", 0xFF, i, number) for i in range(count))
        values = struct.pack("=I", 1) * count
        fd = bpf(BPF_OBJ_GET, struct.pack("=QII", ctypes.addressof(path), 0, 0))
        try:
            at = [ctypes.cast(ctypes.c_char_p(b), ctypes.c_void_p).value for b in (keys, values)]
            bpf(command, struct.pack("=QQQQIIQQ", 0, 0, *at, count, fd, 0, 0))
        except OSError as e:
            if e.errno not in (errno.E2BIG, errno.ENOENT):
                raise
            return False
        finally:
            os.close(fd)
        return True


def text(address):
    """Of 16 bytes, as bpftool prints them."""
    found = ipaddress.ip_address(bytes(int(b, 16) if isinstance(b, str) else b for b in address))
    return str(found.ipv4_mapped or found)
