# SPDX-License-Identifier: Apache-2.0
"""Addresses of the test cluster, IPv4 and IPv6. Nothing of it is in the machine's own network namespace."""

CONTROL4, CONTROL6 = "10.77.0.1", "fd77::1"
NETWORK4, NETWORK6 = "10.77.0.0/24", "fd77::/64"
PODS4, PODS6 = "10.78.0.0/16", "fd78::/32"
SERVICES = "10.96.0.0/16,fd96::/108"
API_SERVICE = "10.96.0.1"
API_PORT = 6443
XDS_PORT = 15012
SYSTEM = "istio-system"


def node4(n):
    return f"10.77.0.1{n}"


def node6(n):
    return f"fd77::1{n}"


def pods4(n):
    return f"10.78.{n}.0/24"


def pods6(n):
    return f"fd78:0:0:{n}::/64"
