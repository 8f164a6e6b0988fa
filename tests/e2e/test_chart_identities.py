# SPDX-License-Identifier: Apache-2.0
"""What the chart says of where identities come from: docs/identities.md."""

import pytest
import yaml

from support.chart import HELM, template

pytestmark = pytest.mark.skipif(
    not HELM, reason="helm is not here: BRUMA_HELM names a program, or it is on PATH"
)


def proxy_of(*settings):
    """The proxy's pod."""
    for d in yaml.safe_load_all(template(*settings).stdout):
        if d and d["kind"] == "DaemonSet" and d["metadata"]["name"] == "ztunnel":
            return d["spec"]["template"]["spec"]
    raise AssertionError("no proxy")


def test_where_identities_come_from():
    plain = proxy_of()
    assert not [e for e in plain["containers"][0]["env"] if "IDENTITY" in e["name"]]
    proxy = proxy_of(
        r"ztunnel.identity.sources=files\,far.example=ca",
        "ztunnel.identity.filesHostPath=/var/lib/identities",
        "ztunnel.identity.federatedBundlesConfigMap=bundles",
    )
    env = {e["name"]: e.get("value") for e in proxy["containers"][0]["env"]}
    mounts = {m["mountPath"]: m["name"] for m in proxy["containers"][0]["volumeMounts"]}
    volumes = {v["name"]: v for v in proxy["volumes"]}
    assert env["BRUMA_IDENTITY_SOURCES"] == "files,far.example=ca"
    files, tail = env["BRUMA_IDENTITY_FILES"].split("/{", 1)
    assert tail == "trust-domain}/{namespace}/{account}"
    assert volumes[mounts[files]]["hostPath"] == {"path": "/var/lib/identities", "type": "Directory"}
    bundles = volumes[mounts[env["BRUMA_FEDERATED_BUNDLES"]]]
    assert bundles["configMap"] == {"name": "bundles", "optional": True}


def test_where_spires_agent_is():
    """The directory is mounted, not the socket: a restarted agent makes another one."""
    proxy = proxy_of(
        "ztunnel.identity.sources=spire",
        "ztunnel.identity.spireSocketHostPath=/run/spire/admin/admin.sock",
        r"ztunnel.identity.spireSelectors=k8s:ns:{namespace}\,k8s:sa:{account}",
    )
    env = {e["name"]: e.get("value") for e in proxy["containers"][0]["env"]}
    mounts = {m["mountPath"]: m["name"] for m in proxy["containers"][0]["volumeMounts"]}
    volumes = {v["name"]: v for v in proxy["volumes"]}
    assert env["BRUMA_IDENTITY_SOURCES"] == "spire"
    assert env["BRUMA_SPIRE_SELECTORS"] == "k8s:ns:{namespace},k8s:sa:{account}"
    directory, name = env["BRUMA_SPIRE_SOCKET"].rsplit("/", 1)
    assert name == "admin.sock"
    assert volumes[mounts[directory]]["hostPath"] == {"path": "/run/spire/admin", "type": "Directory"}
    assert template("ztunnel.identity.spireSocketHostPath=/admin.sock").returncode
