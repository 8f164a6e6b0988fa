# SPDX-License-Identifier: Apache-2.0
"""Rolling restarts under load (rolling.py): no new connection fails, and what is kept is served until its pod's
application has ended. The same with stock ztunnels, for comparison: test_stock.py, as all that takes stock parts."""

import pytest

from rolling import LINGER, PODS, RATE, RESTARTS, restarts, told


@pytest.mark.parametrize("how", ["patient", "hasty"])
def test_rolling_restarts(cluster, mesh, report, how):
    figures, ends = restarts(cluster, mesh, f"rolling-{how}", how)
    told(report, "Bruma", how, figures)
    assert figures["failed"] == []
    assert figures["made"] > RATE * RESTARTS and figures["cut"], "there was load all the time"
    for at, name, what in figures["cut"]:
        # seen late at most, so that this is no later than it was
        assert at >= ends.told[name] + LINGER - 1, f"{name} was cut before it ended: {what}"
    assert len(ends.told) >= RESTARTS * PODS
    assert ends.ending >= set(ends.told), "the agents knew of each"
