# SPDX-License-Identifier: Apache-2.0
"""A node whose agent has the Kubernetes API as its source. The API server is the small one of
tests/support/kube/small.py, or the real one where BRUMA_KUBE names a directory with kube-apiserver and
etcd."""

import base64
import json
import os

from support import agent as agent_client
from support import cni
from support.nodes.cni_node import CniNode
from support.system import wait_for

AMBIENT = {"istio.io/dataplane-mode": "ambient"}
REAL = os.environ.get("BRUMA_KUBE", "")


class World:
    """A node whose API server lives in its own network namespace."""

    def __init__(self, work, server):
        self.work = work
        self.node = CniNode.alone(work, work.path("none.yaml"), work.path("none.pem"))
        self.server = server(self.node.netns, work.path("kube"))
        work.defer(self.server.stop)
        self.server.start()
        self.cache = work.path("cni")
        os.makedirs(f"{self.cache}/results")
        # The chain of a node on which Bruma was not installed when the pod began.
        self.plain = cni.Runtime(
            {**self.node.conflist(), "plugins": self.node.conflist()["plugins"][:1]},
            work.path("plain"),
            f"{work.build}/cni:/usr/lib/cni",
            netns=self.node.netns,
        )
        self.settings = {
            "cni_cache": self.cache,
            "cri_socket": "",
            "drain_grace": "50ms",
            **self.server.agent_settings(),
        }

    def start(self, proxy=True, **settings):
        self.node.start_agent(**{**self.settings, **settings})
        if proxy:
            self.node.start_proxy(wait=False, XDS_ADDRESS="")
            wait_for(lambda: self.status()["proxyConnected"], "the proxy to connect")
        return self

    def status(self):
        return agent_client.status(self.node.run_dir)

    def ready(self):
        return wait_for(
            lambda: self.status()["sourceReady"],
            "the API server's word on everything",
            log=self.node.agent_log,
        )

    def state(self, name):
        return (agent_client.pods(self.node.run_dir).get(name) or {}).get("state")

    def wait_state(self, name, state, timeout=20):
        wait_for(lambda: self.state(name) == state, f"{name} to be {state}", timeout, log=self.node.agent_log)

    def wait_redirection(self, namespace, name, value, timeout=20):
        wait_for(
            lambda: self.server.redirection(namespace, name) == value,
            f"the annotation of {name} to be {value}",
            timeout,
            log=self.node.agent_log,
        )

    def log(self):
        with open(self.node.agent_log, errors="replace") as f:
            return f.read()

    # ---- pods ----

    def sandbox(self, namespace, name, host, plain=True, uid=None, **more):
        """A pod in the API with a sandbox. plain: without Bruma's plugin, and nobody says where it is."""
        pod = self.node.create_pod(namespace, name, host=host, add=False)
        self.work.defer(self.node.delete_pod, pod)
        pod.uid = self.server.make_pod(namespace, name, "n1", [] if not plain else pod.ips, **more)
        pod.runtime_uid = uid or pod.uid
        if plain:
            self.plain.add(
                pod.container,
                f"/run/netns/{pod.netns}",
                namespace,
                name,
                pod.runtime_uid,
                [f"{pod.ip}/24", f"{pod.ip6}/64"],
            )
            self.work.defer(self.plain.delete, pod.container)
        return pod

    def write_cache(self, pod, netns=None, old=False, **changes):
        """What libcni writes about a run of the chain; old: before it named the namespace at the top."""
        path = netns or f"/run/netns/{pod.netns}"
        content = {
            "kind": "cniCacheV1",
            "containerId": pod.container,
            "config": base64.b64encode(b"{}").decode(),
            "ifName": "eth0",
            "networkName": "pods",
            "cniArgs": [
                ["IgnoreUnknown", "1"],
                ["K8S_POD_NAMESPACE", pod.namespace],
                ["K8S_POD_NAME", pod.name],
                ["K8S_POD_UID", pod.runtime_uid],
            ],
            "result": {
                "cniVersion": "1.0.0",
                "interfaces": [{"name": "veth1"}, {"name": "eth0", "sandbox": path}],
            },
        }
        if not old:
            content["netns"] = path
        content.update(changes)
        with open(f"{self.cache}/results/pods-{pod.container}-eth0", "w") as f:
            json.dump(content, f)
