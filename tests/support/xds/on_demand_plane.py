# SPDX-License-Identifier: Apache-2.0
"""The control plane of the tests for proxies that subscribe on demand, as istiod answers them: by name, uid or address,
the endpoints with their service, the node's own workloads unasked, and a key that nothing has as removed."""

import socket

from support.system import wait_for
from support.xds.control_plane import ADDRESS
from support.xds.plane import Plane

# What a proxy subscribes to where it only leaves something.
NO_NAME = "/nothing"


def text(address):
    return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)


def aliases(message):
    if message.HasField("workload"):
        return [f"{message.workload.network}/{text(a)}" for a in message.workload.addresses]
    return [
        f"{a.network}/{text(a.address)}" + (f"/{a.length}" if a.HasField("length") else "")
        for a in message.service.addresses
    ]


class OnDemandPlane(Plane):
    """answers: whether keys are answered at all. names[stream]: what a stream is subscribed to."""

    def __init__(self, *arguments, node, **fields):
        self.node, self.answers, self.names = node, True, {}
        super().__init__(*arguments, **fields)

    def keys(self):
        """Every key that was ever subscribed to after a first request, in order."""
        return [
            name
            for stream in self.streams
            for r in stream.requests
            if r.type_url == ADDRESS and r is not stream.first(ADDRESS)
            for name in r.resource_names_subscribe
        ]

    def left(self):
        return [
            name
            for stream in self.streams
            for r in stream.requests
            if r.type_url == ADDRESS and r is not stream.first(ADDRESS)
            for name in r.resource_names_unsubscribe
        ]

    def subscribed(self):
        return self.names.get(self.streams[-1], set()) - {NO_NAME}

    def look_up(self, key):
        """Names of resources."""
        have = self.resources[ADDRESS]
        if key in have and have[key][1].HasField("workload"):
            return [key]
        workloads = [n for n, (_, m) in have.items() if m.HasField("workload") and key in aliases(m)]
        if workloads:
            return workloads
        for name, (_, m) in have.items():
            if m.HasField("service") and (name == key or key in [a.removesuffix("/32") for a in aliases(m)]):
                members = [
                    n
                    for n, (_, w) in have.items()
                    if w.HasField("workload") and any(s.key == name for s in w.workload.services)
                ]
                return [name, *members]
        return []

    def local(self):
        have = self.resources[ADDRESS]
        return [n for n, (_, m) in have.items() if m.HasField("workload") and m.workload.node == self.node]

    def _push(self, stream, type_url, held):
        if type_url != ADDRESS:
            super()._push(stream, type_url, held)
            return
        request = stream.requests[-1]
        names = self.names.setdefault(stream, set())
        first = request is stream.first(ADDRESS)
        if first:
            assert list(request.resource_names_subscribe) == ["*"], "it wants everything"
            assert list(request.resource_names_unsubscribe) == ["*"], "it wants everything"
            wanted = set(held)
        else:
            wanted, left = set(request.resource_names_subscribe), set(request.resource_names_unsubscribe)
            again = wanted & names
            assert not again or (left and again == {NO_NAME}), f"asked for again, and not left: {again}"
            assert wanted.isdisjoint(left)
        names |= wanted
        names -= set(request.resource_names_unsubscribe)
        if not first and not wanted:
            self.respond(stream, ADDRESS, {}, sorted(names))  # as istiod does
            return
        if not self.answers and not first:
            return
        self._answer(stream, wanted, held)

    def _answer(self, stream, keys, held):
        names, found, removed = self.names[stream], set(self.local()), []
        for key in keys:
            some = self.look_up(key)
            found |= set(some)
            if not some:
                removed.append(key)
        have = self.resources[ADDRESS]
        names |= found
        self.respond(
            stream, ADDRESS, {n: have[n] for n in found if held.get(n) != have[n][0]}, sorted(removed)
        )

    def respond(self, stream, type_url, resources, removed=()):
        r = self.messages["envoy.service.discovery.v3.DeltaDiscoveryResponse"](type_url=type_url)
        self.nonce += 1
        r.nonce = f"n{self.nonce}"
        r.removed_resources.extend(removed)
        for name, (version, message) in resources.items():
            item = r.resources.add(name=name, version=version)
            item.resource.type_url = type_url
            item.resource.value = message.SerializeToString()
            if type_url == ADDRESS:
                item.aliases.extend(aliases(message))
        stream.out.put(r.SerializeToString())
        return r.nonce

    def set(self, *items, type_url=ADDRESS, version=None):
        """Streams get what they are subscribed to by name, and their node's own: not what has the address of a key, or is
        a new member of a service."""
        if type_url != ADDRESS:
            super().set(*items, type_url=type_url, version=version)
            return
        with self.lock:
            streams, self.streams = self.streams, []
            super().set(*items, version=version)
            self.streams = streams
            for stream in streams:
                if stream.ended.is_set() or stream not in self.names:
                    continue
                wanted = {n for n, m in items if self._wants(self.names[stream], n, m)}
                self.names[stream] |= wanted
                if wanted:
                    have = self.resources[ADDRESS]
                    self.respond(stream, ADDRESS, {n: have[n] for n in wanted})

    def _wants(self, names, name, message):
        return name in names or (message.HasField("workload") and message.workload.node == self.node)

    def remove(self, *names, type_url=ADDRESS):
        if type_url != ADDRESS:
            super().remove(*names, type_url=type_url)
            return
        with self.lock:
            for n in names:
                del self.resources[ADDRESS][n]
            for stream in self.streams:
                gone = [n for n in names if n in self.names.get(stream, ())]
                if gone and not stream.ended.is_set():
                    self.respond(stream, ADDRESS, {}, gone)

    def wait_asked(self, key, times=1):
        wait_for(lambda: self.keys().count(key) >= times, f"{key} to be asked for, {times} times")
