# SPDX-License-Identifier: Apache-2.0
"""Control planes for the proxy, and an independent client of the agent's."""
