# SPDX-License-Identifier: Apache-2.0
"""What all tests stand on, the lab and the bench too. Programs, namespaces and files of this machine are in modules of this
folder; what is made of them has a package of its own:

    nodes      simulated nodes, their pods, and meshes of them
    kube       API servers, real and small, istiod, and nodes that follow them
    xds        control planes for the proxy, and an independent client of the agent's
    proxies    peers and node proxies that share no code with Bruma
    wire       what crosses links, and what the access log says of it

No test file imports from another (tests/format/python.sh): what two need is here, and fixtures are in conftest.py.
"""
