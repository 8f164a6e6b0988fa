# SPDX-License-Identifier: Apache-2.0
"""What the chart has for those who install it: its test, and its picture. By what is kept of it (test_chart.py)."""

import base64
import os

import pytest
import yaml

from support.chart import CHART, objects
from support.programs import ROOT


@pytest.fixture(scope="module")
def default():
    with open(os.path.join(ROOT, "tests", "data", "chart", "default.yaml")) as f:
        return objects(f.read())


def test_helm_test_asks_as_an_operator(default):
    """Nothing of it is there before the test, and it may do no more than brumactl needs."""
    hooks = {key: d for key, d in default.items() if "bruma-check" in key[1]}
    assert sorted(kind for kind, _ in hooks) == ["Pod", "RoleBinding", "ServiceAccount"]
    assert {d["metadata"]["annotations"]["helm.sh/hook"] for d in hooks.values()} == {"test"}
    for kind in ("RoleBinding", "ServiceAccount"):
        policy = hooks[kind, "bruma-check"]["metadata"]["annotations"]["helm.sh/hook-delete-policy"]
        assert "hook-succeeded" in policy, "helm uninstall leaves hooks"
    assert hooks["RoleBinding", "bruma-check"]["roleRef"]["name"] == "bruma-operator"
    (container,) = hooks["Pod", "bruma-check"]["spec"]["containers"]
    assert container["command"] == ["/usr/sbin/brumactl"] and container["args"][-1] == "check"
    assert container["securityContext"]["runAsNonRoot"]


def test_the_icon_is_the_file():
    with open(f"{CHART}/Chart.yaml") as f:
        kind, _, data = yaml.safe_load(f)["icon"].partition(",")
    with open(f"{CHART}/icon.svg", "rb") as f:
        assert kind == "data:image/svg+xml;base64" and base64.b64decode(data) == f.read().strip()
