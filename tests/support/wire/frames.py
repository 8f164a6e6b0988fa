# SPDX-License-Identifier: Apache-2.0
"""TCP segments as somebody sends them who has no connection: whole, in fragments, behind extension headers and tags."""

import ipaddress
import socket
import struct

from support.network import inside

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
IPV4, IPV6, TAG = b"\x08\x00", b"\x86\xdd", b"\x81\x00\x00\x00"
OPTIONS, FRAGMENT = 60, 44


def packed(address):
    return ipaddress.ip_address(address).packed


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def segment(source, destination, flags, sequence, acknowledged=0, payload=b""):
    """source and destination: (address, port)."""
    head = struct.pack(
        "!HHIIBBHHH", source[1], destination[1], sequence, acknowledged, 5 << 4, flags, 65535, 0, 0
    )
    addresses = packed(source[0]) + packed(destination[0])
    length = len(head) + len(payload)
    pseudo = (
        struct.pack("!BBH", 0, 6, length) if len(addresses) == 8 else struct.pack("!IHBB", length, 0, 0, 6)
    )
    return head[:16] + struct.pack("!H", checksum(addresses + pseudo + head + payload)) + head[18:] + payload


def ipv4(source, destination, payload, fragment=0, more=False):
    head = struct.pack(
        "!BBHHHBBH", 0x45, 0, 20 + len(payload), 0x6272, (more << 13) | fragment // 8, 64, 6, 0
    )
    head += packed(source) + packed(destination)
    return IPV4 + head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def ipv6(source, destination, payload, following=6):
    head = struct.pack("!IHBB", 6 << 28, len(payload), following, 64)
    return IPV6 + head + packed(source) + packed(destination) + payload


def whole(source, destination, data):
    return [(ipv6 if ":" in source else ipv4)(source, destination, data)]


def fragments(source, destination, data):
    """The first of them is as short as the kernel takes it: with IPv6 it must have the header of TCP."""
    cut = 24 if ":" in source else 8
    if ":" not in source:
        return [
            ipv4(source, destination, data[:cut], more=True),
            ipv4(source, destination, data[cut:], fragment=cut),
        ]
    parts = [(data[:cut], 1), (data[cut:], cut)]
    return [
        ipv6(source, destination, struct.pack("!BBHI", 6, 0, at, 0x6272756D) + part, FRAGMENT)
        for part, at in parts
    ]


def behind_headers(source, destination, data, count=12):
    """IPv6: after so many of them."""
    for i in range(count):
        data = struct.pack("!BBBB4x", 6 if not i else OPTIONS, 0, 1, 4) + data
    return [ipv6(source, destination, data, OPTIONS)]


def nested(source, destination, data):
    """IPv6: fragments of a fragment. What the first one has is the head of the second alone."""
    inner = struct.pack("!BBHI", 6, 0, 0, 0x6E657374) + data
    parts = [(inner[:8], 1), (inner[8:], 8)]
    return [
        ipv6(source, destination, struct.pack("!BBHI", FRAGMENT, 0, at, 0x6E657375) + part, FRAGMENT)
        for part, at in parts
    ]


def tagged(source, destination, data, count=2):
    """With tags of VLAN 0, which who receives it looks through."""
    (packet,) = whole(source, destination, data)
    return [TAG * count + packet]


class Card:
    """The device of a pod as its root may use it: any frame can be sent, and all that come can be read."""

    def __init__(self, pod, device="eth0"):
        with inside(pod.netns):
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            self.socket.bind((device, 0))
        self.own = self.socket.getsockname()[4]

    def send(self, to, packets):
        """to: the MAC address of who is to get it."""
        for p in packets:
            self.socket.send(bytes.fromhex(to.replace(":", "")) + self.own + p)

    def segments(self, timeout=0.0):
        """Of TCP that came or left since the last call, at least one within that many seconds: (source, destination, flags,
        sequence, acknowledged, payload)."""
        found = []
        self.socket.settimeout(timeout or None)
        if not timeout:
            self.socket.setblocking(False)
        try:
            while True:
                one = parse(self.socket.recv(65536))
                if one:
                    found.append(one)
                    self.socket.setblocking(False)
        except (BlockingIOError, TimeoutError):
            return found

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def parse(frame):
    if frame[12:14] == IPV4 and frame[23] == 6:
        at, addresses = 14 + (frame[14] & 15) * 4, (frame[26:30], frame[30:34])
        end = 14 + int.from_bytes(frame[16:18], "big")
    elif frame[12:14] == IPV6 and frame[20] == 6:
        at, addresses = 54, (frame[22:38], frame[38:54])
        end = 54 + int.from_bytes(frame[18:20], "big")
    else:
        return None
    source_port, destination_port, sequence, acknowledged, offset, flags = struct.unpack_from(
        "!HHIIBB", frame, at
    )
    source, destination = (str(ipaddress.ip_address(a)) for a in addresses)
    return (
        (source, source_port),
        (destination, destination_port),
        flags,
        sequence,
        acknowledged,
        frame[at + (offset >> 4) * 4 : end],
    )
