# SPDX-License-Identifier: Apache-2.0
"""All cases, in the order in which they are judged: a module registers its own when it is imported."""

import importlib

AREAS = ("zds", "xds", "ca", "tls", "inbound", "streams", "outbound", "policies", "telemetry", "servers")
for area in AREAS:
    importlib.import_module(f"conformance.cases.{area}")
