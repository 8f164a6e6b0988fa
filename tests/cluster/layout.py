# SPDX-License-Identifier: Apache-2.0
"""Where nodes have their directories: as values.yaml of the chart says or, if BRUMA_PLATFORM names one, as on that platform
(charts/bruma/files/platforms.yaml). The chart is told the platform alone."""

import os

import yaml

from support.programs import ROOT

PLATFORM = os.environ.get("BRUMA_PLATFORM", "")


def _value(name):
    with open(f"{ROOT}/charts/bruma/values.yaml") as f:
        values = yaml.safe_load(f)["cni"]
    with open(f"{ROOT}/charts/bruma/files/platforms.yaml") as f:
        known = yaml.safe_load(f)
    return (known[PLATFORM] if PLATFORM else {}).get(name, values[name])


CONF, BIN, SOCKET = _value("cniConfDir"), _value("cniBinDir"), _value("criSocket")
CONFLIST = f"{CONF}/10-test.conflist"
# Its directory, where that is not new at each boot anyway.
SOCKET_DISK = [] if SOCKET.startswith("/run/") else [os.path.dirname(SOCKET)]
# Nodes here are directories of their own over this machine's, with containerd and its way to name namespaces.
POSSIBLE = BIN != "/bin" and SOCKET.endswith("containerd.sock")
