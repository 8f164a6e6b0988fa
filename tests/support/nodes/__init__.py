# SPDX-License-Identifier: Apache-2.0
"""Simulated nodes, their pods, and meshes of them."""
