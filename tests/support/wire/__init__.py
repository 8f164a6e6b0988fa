# SPDX-License-Identifier: Apache-2.0
"""What crosses links, and what the access log says of it."""
