# SPDX-License-Identifier: Apache-2.0
"""Connections of pods to outside the mesh that go past the proxy, and what is written down of them. A test acts as the proxy:
what the real one does with the maps is tested elsewhere."""

import errno
import json

import pytest

from support.direct_maps import OUTSIDE, ActingProxy
from support.nodes.mesh import Mesh
from support.nodes.pod_programs import ECHO
from support.system import run, wait_for

DIALOG = """
import socket, sys
s = socket.create_connection((sys.argv[1], 8080), timeout=20)
s.sendall(sys.argv[2].encode())
s.shutdown(socket.SHUT_WR)
got = b""
while d := s.recv(65536):
    got += d
print(got.decode(), end="")
"""


@pytest.fixture(scope="module")
def mesh():
    with Mesh(nodes=1) as m:
        m.node = m.nodes[0]
        m.web = m.pod("web")
        m.outside = m.pod("outside", namespace="outside")
        m.outside.outside = True
        m.write()
        m.node.start_agent()
        m.web.enroll()
        m.outside.server(ECHO, "8080")
        yield m


@pytest.fixture
def proxy(mesh):
    p = ActingProxy(mesh.node)
    p.pod(mesh.web)
    p.take_charge()
    yield p
    p.close()


def counters(mesh):
    dump = json.loads(
        run(["bpftool", "-j", "map", "dump", "pinned", f"{mesh.node.pin_dir}/maps/direct_counters"]).stdout
    )
    cookie = int(mesh.web.item()["cookie"])
    return next(e["formatted"]["value"] for e in dump if e["formatted"]["key"] == cookie)


@pytest.mark.parametrize("family", [0, 1])
def test_a_connection_to_outside_is_not_captured(mesh, proxy, family):
    before = counters(mesh)["direct_outside_connections"]
    assert mesh.web.python(DIALOG, mesh.outside.ips[family], "hello") == "hello"
    wait_for(lambda: len(proxy.events()) == 2, "two events")
    opened, closed = proxy.events()
    assert (opened.kind, closed.kind, closed.error) == ("opened", "closed", 0)
    for event in (opened, closed):
        assert event.flow.way == OUTSIDE
        assert event.flow.remote == (mesh.outside.ips[family], 8080)
        assert event.flow.local[0] == mesh.web.ips[family] and event.flow.local[1]
        assert event.flow.netns_cookie == int(mesh.web.item()["cookie"])
    assert (closed.sent, closed.received) == (5, 5)
    assert proxy.flows() == {}
    assert counters(mesh)["direct_outside_connections"] == before + 1


def test_a_refused_one_is_told_of_with_its_error(mesh, proxy):
    code = "import socket, sys\nprint(socket.socket().connect_ex((sys.argv[1], 9)))"
    assert mesh.web.python(code, mesh.outside.ip).split() == [str(errno.ECONNREFUSED)]
    wait_for(proxy.events, "an event")
    (failed,) = proxy.events()
    assert (failed.kind, failed.error) == ("failed", errno.ECONNREFUSED)
    assert proxy.flows() == {}
