# SPDX-License-Identifier: Apache-2.0
"""A mesh that the proxies are given as YAML (contract section 10.1), without a control plane and beside one."""

import subprocess

import pytest
import yaml

from support.nodes.mesh import Mesh
from support.nodes.pod import TRUST_DOMAIN
from support.nodes.pod_programs import ECHO, ONE_SHOT, REACH
from support.nodes.zds_node import ZdsNode
from support.system import wait_for

FAMILIES = pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])
VIP = "10.255.7.20"


def local_mesh(m):
    """All that the proxies without a control plane know."""
    return {
        "workloads": [
            {
                "uid": f"Kubernetes//Pod/{p.namespace}/{p.name}",
                "name": p.name,
                "namespace": p.namespace,
                "serviceAccount": p.account,
                "trustDomain": TRUST_DOMAIN,
                "workloadIps": p.ips,
                "protocol": "HBONE",
                "node": p.node.name,
                "services": {"demo/shop.demo.svc.cluster.local": {80: 8080}} if p.name == "shop" else {},
            }
            for p in (m.web, m.other, m.shop)
        ],
        "services": [
            {
                "name": "shop",
                "namespace": "demo",
                "hostname": "shop.demo.svc.cluster.local",
                "vips": [f"/{VIP}"],
                "ports": {80: 8080},
            }
        ],
        "policies": [
            {
                "name": "no-other",
                "namespace": "demo",
                "scope": "Namespace",
                "action": "Deny",
                "dryRun": False,
                "rules": [m.other.rule(destinationPorts=[8080])],
            }
        ],
    }


@pytest.fixture(scope="module")
def mesh():
    with Mesh(nodes=3, workers=2, node_kinds=[ZdsNode, ZdsNode, ZdsNode]) as m:
        m.web, m.other, m.shop = m.pod("web", node=0), m.pod("other", node=0), m.pod("shop", node=1)
        m.both = m.pod("both", node=2)
        m.given = f"{m.dir}/local.yaml"
        with open(m.given, "w") as f:
            yaml.safe_dump(local_mesh(m), f)
        m.nodes[0].more_env.update(XDS_ADDRESS="", LOCAL_XDS_PATH=m.given)
        m.nodes[1].more_env.update(XDS_ADDRESS="", LOCAL_XDS=yaml.safe_dump(local_mesh(m)))
        # Of the service it knows by this alone; of the workloads by its control plane as well.
        only_service = {"services": local_mesh(m)["services"], "workloads": [local_mesh(m)["workloads"][2]]}
        only_service["workloads"][0]["uid"] = "given//Pod/demo/shop"
        m.nodes[2].more_env.update(LOCAL_XDS=yaml.safe_dump(only_service))
        m.start()
        m.echo = m.shop.server(ECHO, "8080")
        yield m


@FAMILIES
def test_pods_talk_without_a_control_plane(mesh, family):
    assert mesh.web.python(ONE_SHOT, mesh.shop.ips[family], 8080, "ping") == "ping"
    assert mesh.web.python(ONE_SHOT, VIP, 80, "ping") == "ping"
    wait_for(
        lambda: [
            x
            for x in mesh.nodes[0].access_log()
            if f'dst.identity="{mesh.shop.identity}"' in x and 'direction="outbound"' in x
        ],
        "the client's side in the log",
    )
    wait_for(
        lambda: [x for x in mesh.nodes[1].access_log() if f'src.identity="{mesh.web.identity}"' in x],
        "the server's side in the log",
    )
    for node in mesh.nodes[:2]:
        dump = node.config_dump()
        assert sorted(w["name"] for w in dump["workloads"]) == ["other", "shop", "web"]
        assert [s["hostname"] for s in dump["services"]] == ["shop.demo.svc.cluster.local"]


def test_policies_count(mesh):
    assert mesh.other.python(REACH, mesh.shop.ip).strip() != "yes"
    assert mesh.nodes[1].failures("policy_denied") > 0


def test_beside_a_control_plane(mesh):
    """The service is what was given, the rest what the control plane says."""
    node = mesh.nodes[2]
    names = {w["name"] for w in node.config_dump()["workloads"]}
    assert names >= {"web", "other", "shop", "both"}
    assert mesh.both.python(ONE_SHOT, VIP, 80, "ping") == "ping"
    assert mesh.both.python(ONE_SHOT, mesh.shop.ip, 8080, "ping") == "ping"
    mesh.write()  # what was given stays whatever comes
    assert mesh.both.python(ONE_SHOT, VIP, 80, "ping") == "ping"


def start(mesh, **env):
    """What a proxy says that does not start."""
    r = subprocess.run(
        [mesh.nodes[0].program("bruma-proxy")],
        env={"XDS_ADDRESS": "", "BRUMA_RUN_DIR": mesh.dir, **env},
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert r.returncode == 1
    return r.stdout + r.stderr


def test_a_proxy_that_is_given_something_wrong_does_not_start(mesh):
    wrong = f"{mesh.dir}/wrong.yaml"
    with open(wrong, "w") as f:
        f.write("workloads:\n- name: a\n  namespace: n\n  adresses: [10.0.0.1]\n")
    assert f'LOCAL_XDS_PATH: {wrong}:4:3: workloads[0]: unknown field "adresses"' in start(
        mesh, LOCAL_XDS_PATH=wrong
    )
    assert "LOCAL_XDS_PATH: /nowhere: No such file or directory" in start(mesh, LOCAL_XDS_PATH="/nowhere")
    assert "LOCAL_XDS:1:1: expected a map" in start(mesh, LOCAL_XDS="[]")
    assert "LOCAL_XDS_PATH and LOCAL_XDS exclude each other" in start(
        mesh, LOCAL_XDS_PATH=wrong, LOCAL_XDS="{}"
    )


def test_a_mesh_has_a_certificate_authority(mesh):
    """Of ztunnel's test builds alone: certificates that everybody can make."""
    assert 'CA_ADDRESS: "" is not an address' in start(mesh, CA_ADDRESS="", LOCAL_XDS_PATH=mesh.given)
    assert 'FAKE_CA: "true" is not supported: certificates come from CA_ADDRESS' in start(
        mesh, FAKE_CA="true"
    )
