# SPDX-License-Identifier: Apache-2.0
"""What passes a node: every TCP segment on every link of its namespace, so on the link between the nodes and
at each pod's own.

with Wire(node) as wire:
    ...
    assert not wire.plain(pods)
"""

import collections
import ipaddress
import os
import socket
import threading

from support.network import inside
from support.system import wait_for

ETH_P_ALL = 3
ETH_P_IP, ETH_P_IPV6 = 0x0800, 0x86DD
TCP, UDP = 6, 17
RST = 4
SO_RCVBUFFORCE = 33
HBONE = 15008
FENCE_PORT = 9

Segment = collections.namedtuple("Segment", "source destination source_port destination_port flags payload")


HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION, MOBILITY = 0, 43, 44, 51, 60, 135


def skip_extensions(frame, at, protocol):
    """Past the extension headers of IPv6: (offset, protocol) of what they stand before. Of a later fragment:
    (offset, None)."""
    while (
        protocol in (HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION, MOBILITY)
        and len(frame) >= at + 8
    ):
        if protocol == FRAGMENT and int.from_bytes(frame[at + 2 : at + 4], "big") & ~7:
            return at, None
        length = (
            8
            if protocol == FRAGMENT
            else (frame[at + 1] + 2) * 4
            if protocol == AUTHENTICATION
            else (frame[at + 1] + 1) * 8
        )
        at, protocol = at + length, frame[at]
    return at, protocol


def parse(frame):
    """(protocol, Segment) of a frame without a VLAN tag; None if it is something else. With a routing header
    or a source route the segment's destination is where the packet goes next."""
    kind = int.from_bytes(frame[12:14], "big")
    if kind == ETH_P_IP:
        at, protocol = 14 + (frame[14] & 15) * 4, frame[23]
        addresses, end = (frame[26:30], frame[30:34]), 14 + int.from_bytes(frame[16:18], "big")
    elif kind == ETH_P_IPV6:
        at, protocol = 54, frame[20]
        addresses, end = (frame[22:38], frame[38:54]), 54 + int.from_bytes(frame[18:20], "big")
        at, protocol = skip_extensions(frame, at, protocol)
    else:
        return None
    if protocol not in (TCP, UDP) or len(frame) < at + 8:
        return None
    source, destination = (str(ipaddress.ip_address(a)) for a in addresses)
    ports = int.from_bytes(frame[at : at + 2], "big"), int.from_bytes(frame[at + 2 : at + 4], "big")
    data = at + ((frame[at + 12] >> 4) * 4 if protocol == TCP else 8)
    flags = frame[at + 13] if protocol == TCP else 0
    return protocol, Segment(source, destination, *ports, flags, bytes(frame[data:end]))


class Wire:
    """brought: pods of the node between which the kernel may carry connections. What one of them sends comes out of its own
    device, and goes from there straight into the other's namespace: what is seen anywhere else was not brought."""

    def __init__(self, node, brought=()):
        self.node, self.segments, self.fences, self.count = node, [], set(), 0
        self.links = {a: p.link for p in brought for a in p.ips}

    def __enter__(self):
        with inside(self.node.netns):
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            self.sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.fence("STOP")
        self.thread.join(10)
        self.socket.close()
        self.sender.close()

    def _read(self):
        while "STOP" not in self.fences:
            frame, at = self.socket.recvfrom(65536 + 64)
            found = parse(frame)
            if found and found[0] == TCP:
                if not self._may_be_brought(found[1], at[0], at[2]):
                    self.segments.append(found[1])
            elif found and found[1].destination_port == FENCE_PORT:
                self.fences.add(found[1].payload.decode(errors="replace"))

    def _may_be_brought(self, segment, link, kind):
        return (
            segment.destination in self.links
            and self.links.get(segment.source) == link
            and kind != socket.PACKET_OUTGOING
        )

    def fence(self, name=None):
        """Waits until everything that has passed so far has been looked at: a datagram that comes after it
        was."""
        self.count += 1
        name = name or f"fence-{os.getpid()}-{self.count}"
        self.sender.sendto(name.encode(), ("127.0.0.1", FENCE_PORT))
        wait_for(lambda: name in self.fences, "the capture to catch up")

    def dropped(self):
        """How many frames did not fit into the capture's buffer since the last call."""
        SOL_PACKET, PACKET_STATISTICS = 263, 6
        return int.from_bytes(self.socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)[4:8], "little")

    def forget(self):
        self.fence()
        self.segments.clear()

    def seen(self):
        self.fence()
        assert self.dropped() == 0, "the capture lost frames, so it proves nothing"
        return list(self.segments)

    def between(self, pods):
        """Segments from one of these pods to another."""
        addresses = {a for p in pods for a in (p.ip, p.ip6)}
        return [s for s in self.seen() if s.source in addresses and s.destination in addresses]

    def plain(self, pods):
        """Those that are not of a tunnel. A reset alone carries nothing."""
        return [
            s
            for s in self.between(pods)
            if HBONE not in (s.source_port, s.destination_port) and (s.payload or not s.flags & RST)
        ]

    def holds(self, data):
        return any(data in s.payload for s in self.seen())
