# SPDX-License-Identifier: Apache-2.0
"""What the chart says of COMPLIANCE_POLICY and TLS12_ENABLED: docs/security.md."""

import pytest

from support.chart import HELM, pod, rendered


@pytest.mark.skipif(not HELM, reason="helm is not here: BRUMA_HELM names a program, or it is on PATH")
def test_the_compliance_policy_reaches_both_programs():
    def told(*settings):
        o = rendered(*settings)
        for name in ("ztunnel", "istio-cni-node"):
            container = pod(o, name)["containers"][0]
            env = {e["name"]: e.get("value") for e in container["env"]}
            yield (
                env.get("COMPLIANCE_POLICY"),
                env.get("TLS12_ENABLED"),
                container["image"].rpartition(":")[2],
            )

    tag = {tag for _, _, tag in told()}.pop()
    assert set(told()) == {(None, None, tag)}, "an image's own"
    assert set(told("global.compliancePolicy=fips-140-2", "global.tls12=true")) == {
        ("fips-140-2", "true", tag)
    }
    assert set(told("global.compliancePolicy=pqc")) == {("pqc", None, tag)}
    assert set(told("global.variant=fips")) == {(None, None, f"{tag}-fips")}
