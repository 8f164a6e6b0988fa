# SPDX-License-Identifier: Apache-2.0
"""Bruma in the cluster, as its users have it: an image, and the chart, installed by helm."""

import glob
import json
import os

import images
import layout
from plan import SYSTEM
from support import agent
from support.system import Failed, wait_for
from support.wire.access_log import parse

CHART = f"{images.ROOT}/charts/bruma"
AGENT, PROXY = "istio-cni-node", "ztunnel"
PINS, RUN = "/sys/fs/bpf/bruma", "/run/bruma"


class Release:
    def __init__(self, cluster):
        self.cluster, self.values, self.before = cluster, {}, {}

    def load(self, *tags):
        archives = images.make_bruma(self.cluster.directory, self.cluster.build, *tags)
        for node in self.cluster.nodes.values():
            node.load(*archives)

    def install(self, **values):
        """Or upgrade. values: "__" in a name stands for a dot."""
        self.before = dict(self.values)
        self.values.update(
            {
                "global.hub": images.BRUMA.rpartition("/")[0],
                "global.imagePullPolicy": "Never",
                "cni.cgroup": self.cluster.groups.of_node,
                "platform": layout.PLATFORM,
            }
        )
        self.values.update({k.replace("__", "."): v for k, v in values.items()})
        settings = [
            a
            for k, v in self.values.items()
            for a in ("--set-string" if k == "global.tag" else "--set", f"{k}={v}")
        ]
        self.cluster.helm("upgrade", "--install", "bruma", CHART, "-n", SYSTEM, *settings)

    def roll_back(self):
        """To the values before the last install()."""
        self.cluster.helm("rollback", "bruma", "-n", SYSTEM)
        self.values = self.before

    def uninstall(self):
        self.cluster.helm("uninstall", "bruma", "-n", SYSTEM, "--wait", "--timeout", "3m")

    def wait_rolled_out(self, timeout=90):
        for name in (AGENT, PROXY):
            wait_for(lambda: self.rolled_out(name), f"DaemonSet {name} to be rolled out", timeout, 0.1)

    def rolled_out(self, name):
        d = self.cluster.api.get("DaemonSet", name, SYSTEM, "apps/v1")
        s, wanted = d["status"], len(self.cluster.nodes)
        if s.get("observedGeneration") != d["metadata"]["generation"]:
            return False
        if s.get("updatedNumberScheduled", 0) == s.get("numberReady", 0) == wanted:
            return len(self.pods(name)) == wanted
        raise Failed(
            f"{s.get('updatedNumberScheduled', 0)} updated, {s.get('numberReady', 0)} ready of {wanted}: {self.trouble(name)}"
        )

    def trouble(self, name):
        out = []
        for pod in self.pods(name):
            for c in pod["status"].get("containerStatuses", []):
                state = next(iter(c["state"].items()), ("", {}))
                if not c["ready"]:
                    out.append(
                        f"{pod['metadata']['name']} {state[0]} {state[1].get('reason', '')} {state[1].get('message', '')}"
                    )
        return "; ".join(out)

    # ---- its pods ----

    def pods(self, name, node=None):
        selector = {"istio-cni-node": "k8s-app=istio-cni-node", "ztunnel": "app=ztunnel"}[name]
        return [
            p
            for p in self.cluster.api.list("Pod", SYSTEM, selector=selector)
            if node is None or p["spec"].get("nodeName") == node
        ]

    def ask(self, node, op, **arguments):
        """A question to the node's agent, over its socket."""
        return agent.ask(self.cluster.nodes[node].path(RUN), op, **arguments)

    def status(self, node):
        """The same as the agent's own."""
        return agent.status(self.cluster.nodes[node].path(RUN))

    def known(self, pod):
        """What the agent says of a pod, or None."""
        return next(
            (p for p in self.ask(pod.node.name, "pods") if f"{p['namespace']}/{p['name']}" == pod.full_name),
            None,
        )

    def in_mesh(self, pod):
        p = self.known(pod)
        return bool(p) and p["state"] == "enrolled" and p["proxy"] == "serving"

    def cookie(self, pod):
        """The key of the pod's entries in maps."""
        return int(self.known(pod)["cookie"])

    def wait_in_mesh(self, *pods, timeout=20):
        for pod in pods:
            wait_for(
                lambda: self.in_mesh(pod) and pod.redirection() == "enabled",
                f"{pod.full_name} to be in the mesh",
                timeout,
            )

    def wait_outside(self, *pods, timeout=20):
        for pod in pods:
            wait_for(
                lambda: not self.known(pod) or self.known(pod)["state"] == "outside",
                f"{pod.full_name} to be outside",
                timeout,
            )

    def plane_knows(self, *pods, protocol="HBONE"):
        """Whether the proxy of each node has heard from the control plane how these pods are reached."""
        for node in self.cluster.nodes.values():
            status, page = agent.proxy_page(node.path(RUN), "/config_dump")
            known = {w["uid"]: w["protocol"] for w in json.loads(page)["workloads"]}
            if status != 200 or any(known.get(f"Kubernetes//Pod/{p.full_name}") != protocol for p in pods):
                return False
        return True

    def log(self, name, node):
        """All that the DaemonSet's pods have said on the node, those of before as well."""
        disk = self.cluster.nodes[node].disk
        text = []
        for path in sorted(glob.glob(f"{disk}/var/log/pods/{SYSTEM}_{name}-*/*/*.log"), key=os.path.getmtime):
            with open(path, errors="replace") as f:
                text += [line.split(" ", 3)[3] for line in f if line.count(" ") >= 3]
        return "".join(text)

    def access(self, node):
        """The access log of the node's proxies, as fields."""
        return [parse(line) for line in self.log(PROXY, node).splitlines() if "\taccess\t" in line]

    def wait_access(self, node, what, seen=0, **fields):
        """A line with these fields after the first `seen` ones. "__" in a name stands for a dot; a value may
        be a function."""

        def there():
            for line in self.access(node)[seen:]:
                if all(
                    v(line.get(k.replace("__", "."), ""))
                    if callable(v)
                    else line.get(k.replace("__", ".")) == v
                    for k, v in fields.items()
                ):
                    return line
            return None

        return wait_for(there, f"the access log of {node} to tell of {what}", 15)

    # ---- the kernel, by bpftool, as an operator would ask it ----

    def dump(self, node, name):
        """The map's entries with names of types."""
        out = (
            self.cluster.nodes[node]
            .run(["bpftool", "-j", "map", "dump", "pinned", f"{PINS}/maps/{name}"])
            .stdout
        )
        return [e["formatted"] for e in json.loads(out)]
