# SPDX-License-Identifier: Apache-2.0
"""Metrics that say whether agent and proxy have what they need: who tells them of the mesh, and certificates."""

import re
import time

import pytest

from support.nodes.mesh import Mesh
from support.system import wait_for


@pytest.fixture
def mesh():
    with Mesh(nodes=1, agent_options=("--metrics-port", "15014")) as m:
        m.pod("web"), m.pod("shop")
        m.node = m.nodes[0]
        yield m


def number(page, name, labels=""):
    found = re.search(rf"^{name}{re.escape(labels)} (\S+)$", page, re.M)
    return float(found[1]) if found else None


def of_proxy(mesh, name, labels=""):
    return number(mesh.node.metrics(), name, labels)


def of_agent(mesh, name):
    return number(mesh.node.http(15014, "/metrics")[1], name)


def certificates(mesh):
    page = mesh.node.metrics()
    return {
        state: number(page, "bruma_certificates", f'{{state="{state}"}}')
        for state in ("available", "failing", "waiting")
    }


def test_certificates_and_when_the_first_of_them_ends(mesh):
    mesh.start()
    wait_for(lambda: certificates(mesh) == {"available": 2, "failing": 0, "waiting": 0}, "both certificates")
    assert of_proxy(mesh, "bruma_certificates_not_renewed") == 0
    ends = []
    for identity in mesh.node.config_dump()["certificates"]:
        at = time.strptime(identity["certChain"][0]["expirationTime"], "%Y-%m-%dT%H:%M:%SZ")
        ends.append(time.mktime(at) - time.timezone)
    assert of_proxy(mesh, "bruma_certificate_expiry_timestamp_seconds") == min(ends)


def test_a_certificate_that_is_refused(mesh):
    mesh.proxy_env["CA_ADDRESS"] = "https://localhost:1"
    mesh.start()
    wait_for(lambda: certificates(mesh) == {"available": 0, "failing": 2, "waiting": 0}, "both to fail")
    assert of_proxy(mesh, "bruma_certificates_not_renewed") == 2
    assert of_proxy(mesh, "bruma_certificate_expiry_timestamp_seconds") is None


def test_whether_there_is_a_control_plane(mesh):
    mesh.start()
    assert of_proxy(mesh, "bruma_xds_connected") == 1
    mesh.node.agent.stop()
    wait_for(lambda: of_proxy(mesh, "bruma_xds_connected") == 0, "the end of the stream")
    mesh.node.start_agent(*mesh.agent_options)
    wait_for(lambda: of_proxy(mesh, "bruma_xds_connected") == 1, "another stream")


def test_whether_the_agent_can_read_who_is_in_the_mesh(mesh):
    mesh.start()
    assert of_agent(mesh, "bruma_source_current") == 1
    with open(mesh.file, "w") as f:
        f.write("pods: [")
    wait_for(lambda: of_agent(mesh, "bruma_source_current") == 0, "the error to be seen")
    assert of_agent(mesh, "bruma_agent_ready") == 1
    mesh.write()
    wait_for(lambda: of_agent(mesh, "bruma_source_current") == 1, "the file to be good again")
