# SPDX-License-Identifier: Apache-2.0
"""API servers, real and small, istiod, and nodes that follow them."""
