# SPDX-License-Identifier: Apache-2.0
"""Simulated nodes: a network namespace as the host's, a bridge for pods, an agent, a proxy and a CNI chain.

    <prefix>n1 --uplink-- <prefix>n2      routed, IPv4 and IPv6; pods hang on each node's bridge "pods"

Everything of a node is below its own directory, pin directory and cgroup, so that nodes do not know of each
other.
"""

import os
import subprocess

from support import agent, cni, kernel, network
from support.system import Failed, Process, run, wait_for, wait_for_process

PLUGINS = "/usr/lib/cni"  # of the package containernetworking-plugins


class Pod:
    """A pod's sandbox as a CNI runtime makes it. account: service account in the mesh file."""

    def __init__(self, node, namespace, name, netns, account="default"):
        self.node, self.namespace, self.name, self.netns, self.account = node, namespace, name, netns, account
        self.container = f"{netns}-sandbox"
        self.uid = f"uid-{netns}"
        self.cgroup = os.path.join(node.cgroup, name)
        self.added = False

    @property
    def full_name(self):
        return f"{self.namespace}/{self.name}"

    @property
    def ips(self):
        return [ip for ip in (self.ip4, self.ip6) if ip]

    def run(self, argv, **options):
        """A command in the pod: its network namespace and its cgroup."""
        return run(
            ["sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"', self.cgroup, *argv],
            netns=self.netns,
            **options,
        )

    def start(self, argv, log, **options):
        return Process(argv, log, netns=self.netns, cgroup=self.cgroup, **options)

    def popen(self, argv, **options):
        """subprocess.Popen in the pod."""
        return subprocess.Popen(
            [
                "nsenter",
                f"--net=/run/netns/{self.netns}",
                "sh",
                "-c",
                'echo $$ >"$0/cgroup.procs" && exec "$@"',
                self.cgroup,
                *argv,
            ],
            **options,
        )

    def state(self):
        """What the node's agent says of it; None if it knows no such pod."""
        return agent.pods(self.node.run_dir).get(self.full_name)

    def wait_enrolled(self, timeout=20):
        """Enrolled, and the proxy serves it."""

        def there():
            s = self.state()
            return s and s["state"] == "enrolled" and s["proxy"] == "serving" and s

        return wait_for(
            there, f"pod {self.full_name} to be enrolled and served", timeout, log=self.node.agent_log
        )

    def wait_outside(self, timeout=20):
        def there():
            s = self.state()
            return s is None or s["state"] == "outside"

        wait_for(there, f"pod {self.full_name} to be outside the mesh", timeout, log=self.node.agent_log)


class Node:
    """number tells addresses (1, 2, ...). directory, pin_dir and cgroup are its own; mesh_file and ca_key (a
    PEM file) are those of the whole mesh."""

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
        self.name, self.number, self.prefix, self.build, self.tied = name, number, prefix, build, tied
        self.netns = f"{prefix}{name}"
        self.directory, self.pin_dir, self.cgroup = str(directory), pin_dir, cgroup
        self.run_dir = f"{self.directory}/run"
        self.mesh_file, self.ca_key = str(mesh_file), str(ca_key)
        self.agent_log, self.proxy_log = f"{self.directory}/agent.log", f"{self.directory}/proxy.log"
        self.subnet4, self.subnet6 = subnet4, subnet6
        self.ip4, self.ip6 = f"{subnet4}.0.{number}", f"{subnet6}::{number}"
        self.pods, self.agent, self.proxy, self.runtime = {}, None, None, None

    # ---- the machine ----

    def create(self):
        os.makedirs(self.run_dir, exist_ok=True)
        kernel.cgroup_create(self.cgroup)
        network.create(self.netns)
        network.sysctl(self.netns, {"net.ipv4.ip_forward": 1, "net.ipv6.conf.all.forwarding": 1})
        run(["ip", "-n", self.netns, "link", "add", "pods", "type", "bridge"])
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
            network.address(a.netns, "uplink", f"{a.ip4}/24")
            network.address(a.netns, "uplink", f"{a.ip6}/64")
            network.route(a.netns, f"{b.subnet4}.{b.number}.0/24", b.ip4)
            network.route(a.netns, f"{b.subnet6}:0:0:{b.number}::/64", b.ip6)

    # ---- programs ----

    def start_agent(self, wait=True, wrap=(), **settings):
        """wrap: a program and its arguments that runs the agent."""
        if os.path.exists(f"{self.run_dir}/agent.sock") and not (self.agent and self.agent.alive()):
            os.unlink(f"{self.run_dir}/agent.sock")  # so that waiting for it means the new one
        argv = [
            *wrap,
            f"{self.build}/agent/bruma-agent",
            "--run-dir",
            self.run_dir,
            "--pin-dir",
            self.pin_dir,
            "--cgroup",
            self.cgroup,
            "--node-name",
            self.name,
            "--mesh-file",
            self.mesh_file,
            "--ca-key-file",
            self.ca_key,
        ]
        for name, value in settings.items():
            argv += [f"--{name.replace('_', '-')}", str(value)]
        self.agent = Process(argv, self.agent_log, netns=self.netns, tied=self.tied)
        if wait:
            self.wait_agent()
        return self.agent

    def wait_agent(self):
        return wait_for_process(
            self.agent, lambda: agent.status(self.run_dir), f"the agent of {self.name} to answer"
        )

    def start_proxy(self, wait=True, **env):
        settings = {
            "BRUMA_RUN_DIR": self.run_dir,
            "NODE_NAME": self.name,
            "XDS_ADDRESS": "https://localhost:15012",
            "CA_ADDRESS": "https://localhost:15012",
            "XDS_ROOT_CA": f"{self.run_dir}/control/root-cert.pem",
            "CA_ROOT_CA": f"{self.run_dir}/control/root-cert.pem",
            "AUTH_TOKEN": f"{self.run_dir}/control/token",
        }
        settings.update(env)
        proxy = Process(
            [f"{self.build}/proxy/bruma-proxy"],
            self.proxy_log,
            netns=self.netns,
            env=settings,
            tied=self.tied,
        )
        self.proxy = proxy
        if wait:
            self.wait_proxy()
        return proxy

    def wait_proxy(self):
        """Until it says that it is ready on port 15021."""

        def ready():
            r = run(
                ["curl", "-s", "-m", "2", "http://127.0.0.1:15021/healthz/ready"],
                netns=self.netns,
                check=False,
            )
            if "ready" in r.stdout and "not" not in r.stdout:
                return True
            raise Failed(r.stdout.strip() or "no answer")

        wait_for_process(self.proxy, ready, f"the proxy of {self.name} to be ready", interval=0.05)

    # ---- pods ----

    def create_pod(self, namespace, name, account="default", host=10, add=True):
        """A sandbox with the host part of its addresses; add: also runs the CNI chain for it."""
        pod = Pod(self, namespace, name, f"{self.prefix}{name}", account)
        pod.ip4, pod.ip6 = self.pod_addresses(host)
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
            [f"{pod.ip4}/24", f"{pod.ip6}/64"],
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

    def stop(self):
        for process in (self.proxy, self.agent):
            if process:
                process.stop()

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
