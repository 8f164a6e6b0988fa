# SPDX-License-Identifier: Apache-2.0
"""What the lab, the bench and the e2e tests share: namespaces, processes, cgroups, a CNI runtime, mesh
nodes."""
