# SPDX-License-Identifier: Apache-2.0
"""Peers and node proxies that share no code with Bruma."""
