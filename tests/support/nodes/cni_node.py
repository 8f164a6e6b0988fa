# SPDX-License-Identifier: Apache-2.0
"""Nodes whose pods are made by a chain of CNI plugins, as a container runtime runs it, with Bruma's as the last one.

<prefix>n1 --uplink-- <prefix>n2      routed, IPv4 and IPv6; pods hang on each node's bridge "pods"
"""

import os

from support import cni, kernel, network
from support.nodes.node import Node
from support.nodes.pod import Pod
from support.system import Failed, run

PLUGINS = "/usr/lib/cni"  # of the package containernetworking-plugins


class CniPod(Pod):
    def __init__(self, node, namespace, name, netns, account="default"):
        super().__init__(node, namespace, name, account)
        self.netns, self.container, self.uid = netns, f"{netns}-sandbox", f"uid-{netns}"
        self.cgroup = os.path.join(node.cgroup, name)
        self.added = False


class CniNode(Node):
    """number tells addresses (1, 2, ...)."""

    def __init__(
        self,
        name,
        number,
        prefix,
        directory,
        pin_dir,
        cgroup,
        build,
        mesh_file,
        ca_key,
        tied=True,
        subnet4="10.77",
        subnet6="fd77",
    ):
        super().__init__(
            name,
            f"{prefix}{name}",
            directory,
            f"{directory}/run",
            pin_dir,
            cgroup,
            build,
            mesh_file,
            ca_key,
            tied,
        )
        self.number, self.prefix = number, prefix
        self.subnet4, self.subnet6 = subnet4, subnet6
        self.ip, self.ip6 = f"{subnet4}.0.{number}", f"{subnet6}::{number}"
        self.pods, self.runtime = {}, None

    @classmethod
    def alone(cls, work, mesh_file, ca_key):
        """The one node of a test's Workspace, made, and taken down with it."""
        directory = work.path("n1")
        node = cls(
            "n1", 1, work.prefix, directory, work.bpf_root(), work.cgroup(), work.build, mesh_file, ca_key
        )
        work.defer(node.destroy)
        node.create()
        return node

    # ---- the machine ----

    def create(self):
        os.makedirs(self.run_dir, exist_ok=True)
        kernel.cgroup_create(self.cgroup)
        network.create(self.netns)
        network.sysctl(self.netns, {"net.ipv4.ip_forward": 1, "net.ipv6.conf.all.forwarding": 1})
        # With an address of its own, which does not change as pods come: they would not find their gateway for seconds.
        address = f"02:00:00:00:00:{self.number:02x}"
        run(["ip", "-n", self.netns, "link", "add", "pods", "address", address, "type", "bridge"])
        run(["ip", "-n", self.netns, "link", "set", "pods", "up"])
        self.runtime = cni.Runtime(
            self.conflist(), f"{self.directory}/cni-cache", f"{self.build}/cni:{PLUGINS}", netns=self.netns
        )

    def conflist(self):
        return {
            "cniVersion": "1.0.0",
            "name": "pods",
            "plugins": [
                {
                    "type": "bridge",
                    "capabilities": {"ips": True},
                    "bridge": "pods",
                    "isGateway": True,
                    "ipMasq": False,
                    "hairpinMode": True,
                    "ipam": {
                        "type": "host-local",
                        "dataDir": f"{self.directory}/cni-addresses",
                        "ranges": [
                            [{"subnet": f"{self.subnet4}.{self.number}.0/24"}],
                            [{"subnet": f"{self.subnet6}:0:0:{self.number}::/64"}],
                        ],
                        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
                    },
                },
                {"type": "bruma-cni", "run_dir": self.run_dir},
            ],
        }

    def connect(self, other):
        """The link between two nodes, and the routes to each other's pods."""
        network.veth(self.netns, "uplink", other.netns, "uplink")
        for a, b in ((self, other), (other, self)):
            network.address(a.netns, "uplink", f"{a.ip}/24")
            network.address(a.netns, "uplink", f"{a.ip6}/64")
            network.route(a.netns, f"{b.subnet4}.{b.number}.0/24", b.ip)
            network.route(a.netns, f"{b.subnet6}:0:0:{b.number}::/64", b.ip6)

    # ---- pods ----

    def create_pod(self, namespace, name, account="default", host=10, add=True):
        """A sandbox with the host part of its addresses; add: also runs the CNI chain for it."""
        pod = CniPod(self, namespace, name, f"{self.prefix}{name}", account)
        pod.ip, pod.ip6 = self.pod_addresses(host)
        self.pods[name] = pod
        kernel.cgroup_create(pod.cgroup)
        network.create(pod.netns)
        if add:
            self.add(pod)
        return pod

    def pod_addresses(self, host):
        return f"{self.subnet4}.{self.number}.{host}", f"{self.subnet6}:0:0:{self.number}::{host}"

    def add(self, pod):
        result = self.runtime.add(
            pod.container,
            f"/run/netns/{pod.netns}",
            pod.namespace,
            pod.name,
            pod.uid,
            [f"{pod.ip}/24", f"{pod.ip6}/64"],
        )
        pod.added = True
        got = sorted(ip["address"].split("/")[0] for ip in result["ips"])
        if got != sorted(pod.ips):
            raise Failed(f"the CNI chain gave {pod.full_name} the addresses {got} and not {pod.ips}")
        return result

    def delete_pod(self, pod):
        if pod.added:
            self.runtime.delete(pod.container)
            pod.added = False
        network.delete(pod.netns)
        kernel.cgroup_remove(pod.cgroup)
        self.pods.pop(pod.name, None)

    # ---- the end ----

    def destroy(self):
        """Everything of this node, whatever state it is in. Programs in pods must have been stopped. Returns
        what did not go as it should, as texts."""
        trouble = []

        def attempt(what, function, *arguments):
            try:
                function(*arguments)
            except (Failed, OSError) as e:
                trouble.append(f"{what}: {e}")

        for pod in list(self.pods.values()):
            attempt(f"pod {pod.name}", self.delete_pod, pod)
            network.delete(pod.netns)
        self.stop()
        attempt("pins", kernel.remove_pins, self.pin_dir)
        network.delete(self.netns)
        attempt("cgroup", kernel.cgroup_remove, self.cgroup)
        return trouble
