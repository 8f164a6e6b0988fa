# SPDX-License-Identifier: Apache-2.0
"""Many made-up workloads, for memory and start-up: on other nodes, in 100 namespaces, with addresses of
100.64.0.0/10 that nothing is ever sent to. The same text serves the agent's mesh file and peers' local
configuration."""

import os

NAMESPACE = "bench"
ACCOUNTS = {"c": "client", "s": "server", "l": "local"}

ITEM = """\
- uid: {uid}
  name: {name}
  namespace: {namespace}
  serviceAccount: {account}
  trustDomain: cluster.local
  workloadIps: ["{ip}"]
  protocol: HBONE
  node: {node}
  network: ""
  workloadName: {workload}
  workloadType: deployment
  canonicalName: {workload}
  canonicalRevision: v1
  clusterId: Kubernetes
  services: {{}}
"""


def items(pods, extra):
    """pods: (name, account, ip, node) of the bench's own, in the namespace "bench"."""
    for name, account, ip, node in pods:
        yield ITEM.format(
            uid=f"Kubernetes//Pod/{NAMESPACE}/{name}",
            name=name,
            namespace=NAMESPACE,
            account=account,
            ip=ip,
            node=node,
            workload=name,
        )
    for i in range(extra):
        name, namespace = f"made-up-{i}-6c9f7d5b8-x2k4q", f"ns{i % 100}"
        yield ITEM.format(
            uid=f"Kubernetes//Pod/{namespace}/{name}",
            name=name,
            namespace=namespace,
            account=f"sa{i % 1000}",
            ip=f"100.{64 + (i >> 16)}.{i >> 8 & 255}.{i & 255}",
            node=f"other-{i % 200}",
            workload=f"made-up-{i}",
        )


def write_local(path, pods, extra):
    """Local configuration of a stock node proxy."""
    with open(path, "w") as f:
        f.write("workloads:\n")
        f.writelines(items(pods, extra))
        f.write("services: []\npolicies: []\n")


def write_mesh(path, pods, extra):
    """Mesh file of bruma-agent."""
    with open(path + ".new", "w") as f:
        f.write(f"namespaces:\n- name: {NAMESPACE}\n  labels: {{istio.io/dataplane-mode: ambient}}\n")
        f.write("workloads:\n")
        f.writelines(items(pods, extra))
        f.write("services: []\npolicies: []\n")
    os.rename(path + ".new", path)
