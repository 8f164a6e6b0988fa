# SPDX-License-Identifier: Apache-2.0
"""What is measured. Each target has a lane of its own: two routed nodes and four pods, all lanes side by
side.

c  client, node 1      s  server, node 2      l  server, node 1      x  server, node 2, outside the mesh
"""

import os
import sys
import time

import workloads
from authority import Authority
from support import agent, network
from support.nodes.cni_node import CniNode
from support.proxies import stock_capture
from support.system import Process, run, wait_for, wait_for_process

HERE = os.path.dirname(os.path.abspath(__file__))
PLACES = {"c": (1, 10), "s": (2, 10), "l": (1, 11), "x": (2, 12)}
SPARE = 40  # host part of the pod that comes and goes for the enrollment figures


def congestion_control():
    """Not the machine's default, which may be bbr and pace even on veth. Namespaces may only use what is
    allowed."""
    with open("/proc/sys/net/ipv4/tcp_allowed_congestion_control") as f:
        allowed = f.read().split()
    return "cubic" if "cubic" in allowed else "reno"


SYSCTLS = {
    "net.ipv4.tcp_congestion_control": congestion_control(),
    "net.core.somaxconn": 8192,
    "net.ipv4.ip_local_port_range": "1024 64999",
    "net.ipv4.tcp_max_tw_buckets": 4096,  # else TIME_WAIT eats the ports in the connection tests
    "net.ipv4.tcp_max_syn_backlog": 8192,
}


class Target:
    """No mesh."""

    captured = hbone = plugin = False
    agents = ()
    build = None

    def __init__(self, name):
        self.name, self.client, self.server = name, [], []

    # ---- the lane ----

    def create(self, bench, number):
        self.bench = bench
        self.directory = f"{bench.directory}/{self.name}"
        prefix = f"{bench.prefix}{number}-"
        self.mesh_file, self.ca_key = f"{self.directory}/mesh.yaml", f"{self.directory}/ca-key.pem"
        os.makedirs(self.directory)
        self.nodes = {
            i: CniNode(
                f"node{i}",
                i,
                prefix,
                f"{self.directory}/node{i}",
                f"{bench.pins}/{number}-n{i}",
                f"{bench.cgroup}/{number}-n{i}",
                self.build or bench.build,
                self.mesh_file,
                self.ca_key,
            )
            for i in (1, 2)
        }
        for node in self.nodes.values():
            node.create()
            network.sysctl(node.netns, SYSCTLS)
            if not self.plugin:
                node.runtime.conflist["plugins"].pop()
        self.nodes[1].connect(self.nodes[2])
        self.pods = {}
        for key, (node, host) in PLACES.items():
            namespace = "elsewhere" if key == "x" else workloads.NAMESPACE
            pod = self.nodes[node].create_pod(
                namespace, key, workloads.ACCOUNTS.get(key, "default"), host, add=False
            )
            network.sysctl(pod.netns, SYSCTLS)
            self.pods[key] = pod

    def add_pods(self):
        for pod in self.pods.values():
            pod.node.add(pod)
            if self.captured and not self.plugin and pod.name != "x":
                stock_capture.install(pod.netns)

    def destroy(self):
        self.stop()
        return [trouble for node in self.nodes.values() for trouble in node.destroy()]

    def known_pods(self):
        """For workloads.write_*()."""
        return [
            (key, workloads.ACCOUNTS[key], pod.ip, pod.node.name)
            for key, pod in self.pods.items()
            if key in workloads.ACCOUNTS
        ]

    # ---- what is under test; client and server are its processes on either node ----

    def start(self):
        pass

    def start_with(self, extra):
        """Node 1 alone, with so many more workloads. Returns the seconds until it was ready."""
        raise NotImplementedError

    def stop(self):
        for process in self.client + self.server:
            process.stop()
        self.client, self.server = [], []

    def check(self):
        for process in self.client + self.server:
            process.check()


class Relay(Target):
    """A userspace hop without crypto, under the stock capture, in each pod."""

    captured = True

    def __init__(self, name, splice=False):
        super().__init__(name)
        self.splice = splice

    def start(self):
        for key, side in (("c", self.client), ("s", self.server), ("l", self.server)):
            argv = [f"{self.bench.build}/tests/bench/bench-relay", "-o", "15001", "-i", "15006"]
            process = Process(
                argv + (["-s"] if self.splice else []),
                f"{self.directory}/relay-{key}.log",
                netns=self.pods[key].netns,
            )
            process.wait_for_text("READY")
            side.append(process)


class Bruma(Target):
    """Enrolled by its own agent and plugin. The proxies are what is measured; the agents' CPU is told
    beside."""

    captured = hbone = plugin = True
    agent_options = ()
    build = None  # of its programs; None: the bench's

    def __init__(self, name):
        super().__init__(name)
        self.proxy_env = {"BRUMA_SAME_NODE": "relay"}  # its default, which tests' nodes change

    def create(self, bench, number):
        super().create(bench, number)
        run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", self.ca_key])
        workloads.write_mesh(self.mesh_file, self.known_pods(), 0)
        for node in self.nodes.values():
            node.start_agent(*self.agent_options)
        self.agents = [node.agent for node in self.nodes.values()]
        self.start()

    def add_pods(self):
        super().add_pods()
        for key in workloads.ACCOUNTS:
            self.pods[key].wait_enrolled()
        authority = Authority.load(f"{self.nodes[1].run_dir}/control/root-cert.pem", self.ca_key)
        authority.issue(f"spiffe://cluster.local/ns/{workloads.NAMESPACE}/sa/peer", f"{self.directory}/peer")
        self.roots = f"{self.nodes[1].run_dir}/control/root-cert.pem"

    def start(self):
        if self.client:
            return
        for number, side in ((1, self.client), (2, self.server)):
            side.append(self.nodes[number].start_proxy(**self.proxy_env))
        for key in workloads.ACCOUNTS:
            if self.pods[key].added:
                self.pods[key].wait_enrolled()

    def start_with(self, extra):
        workloads.write_mesh(self.mesh_file, self.known_pods(), extra)
        wait_for(
            lambda: agent.status(self.nodes[1].run_dir)["workloads"] > extra,
            "the agent to read the mesh file",
            120,
        )
        began = time.monotonic()
        self.client.append(self.nodes[1].start_proxy(**self.proxy_env))
        return time.monotonic() - began

    def enrollments(self, rounds):
        """A spare pod comes and goes: lists of milliseconds, of the plugin, of the whole chain, as the agent
        says."""
        node = self.nodes[1]
        plugin, chain, own = [], [], []
        for _ in range(rounds):
            pod = node.create_pod(workloads.NAMESPACE, "spare", "default", SPARE, add=False)
            try:
                node.add(pod)
                own.append(pod.wait_enrolled()["enrolMicroseconds"] / 1e3)
                times = {name: t * 1e3 for (c, name), t in node.runtime.times.items() if c == pod.container}
                plugin.append(times["bruma-cni"])
                chain.append(sum(times.values()))
            finally:
                node.delete_pod(pod)
        return {"plugin_ms": plugin, "chain_ms": chain, "agent_ms": own}

    def growth(self, steps, seconds):
        """A node with more and more pods that do nothing, its own two or three of the bench among them. For
        each step: milliseconds of processor time a second of agent and proxy, resident bytes, milliseconds of
        the last ADD of the plugin and of the agent's list of pods."""
        node, pods, rows, added = self.nodes[1], [], [], 0.0
        taken = {int(p.ip.rsplit(".", 1)[1]) for p in node.pods.values()}
        free = iter(h for h in range(2, 255) if h not in taken)

        def processor_ms(process):
            with open(f"/proc/{process.pid}/schedstat") as f:
                return int(f.read().split()[0]) / 1e6

        try:
            for step in steps:
                while len(agent.pods(node.run_dir)) < step:
                    pods.append(
                        node.create_pod(
                            workloads.NAMESPACE, f"rest{len(pods)}", "default", next(free), add=False
                        )
                    )
                    node.add(pods[-1])
                    added = [
                        t * 1e3
                        for (c, name), t in node.runtime.times.items()
                        if name == "bruma-cni" and c == pods[-1].container
                    ][-1]
                    pods[-1].wait_enrolled()
                time.sleep(2)
                before, began = [processor_ms(p) for p in (node.agent, node.proxy)], time.monotonic()
                time.sleep(seconds)
                took = time.monotonic() - began
                used = [
                    (processor_ms(p) - b) / took
                    for p, b in zip((node.agent, node.proxy), before, strict=True)
                ]
                began = time.monotonic()
                known = len(agent.pods(node.run_dir))
                asked = (time.monotonic() - began) * 1e3
                rows.append(
                    {
                        "pods": known,
                        "agent_cpu_ms": used[0],
                        "proxy_cpu_ms": used[1],
                        "pods_ms": asked,
                        "agent_rss": node.agent.memory_bytes()[0],
                        "proxy_rss": node.proxy.memory_bytes()[0],
                        "add_ms": added,
                    }
                )
        finally:
            for pod in pods:
                node.delete_pod(pod)
        return rows


class Peer(Target):
    """Another node proxy, driven as a stock node agent would: in-pod iptables, workload discovery socket, CA
    call, local configuration. One process a node."""

    captured = hbone = True

    def __init__(self, name, program, server_program=None, env=None):
        super().__init__(name)
        self.programs = {1: program, 2: server_program or program}
        self.env, self.helpers = env or {}, []

    def create(self, bench, number):
        super().create(bench, number)
        self.ca = f"{self.directory}/ca"
        authority = Authority.make(self.ca)
        authority.issue(f"spiffe://cluster.local/ns/{workloads.NAMESPACE}/sa/peer", f"{self.directory}/peer")
        self.roots = f"{self.ca}/root.pem"

    def add_pods(self):
        super().add_pods()
        for number, node in self.nodes.items():
            own = [
                f"uid-{k},{k},{workloads.NAMESPACE},{a},/run/netns/{self.pods[k].netns}"
                for k, a in workloads.ACCOUNTS.items()
                if self.pods[k].node is node
            ]
            for script, arguments, word, netns in (
                ("authority.py", [self.ca], "READY", node.netns),
                ("zds.py", [self.socket(number), *own], "LISTENING", None),
            ):
                process = Process(
                    [sys.executable, f"{HERE}/{script}", *arguments],
                    f"{self.directory}/{script}-{number}.log",
                    netns=netns,
                )
                self.helpers.append(process)
                process.wait_for_text(word)
        self.start()

    def socket(self, number):
        return f"{self.directory}/zds{number}/zds.sock"

    def start(self):
        if self.client:
            return
        for number, side in ((1, self.client), (2, self.server)):
            side.append(self._start_one(number, 0))

    def start_with(self, extra):
        began = time.monotonic()
        self.client.append(self._start_one(1, extra))
        return time.monotonic() - began

    def _start_one(self, number, extra):
        configuration = f"{self.directory}/local-{extra}.yaml"
        if not os.path.exists(configuration):
            workloads.write_local(configuration, self.known_pods(), extra)
        node = self.nodes[number]
        env = {
            "RUST_LOG": "info",
            "PROXY_MODE": "shared",
            "NODE_NAME": node.name,
            "CLUSTER_ID": "Kubernetes",
            "INPOD_UDS": self.socket(number),
            "XDS_ADDRESS": "",
            "LOCAL_XDS_PATH": configuration,
            "CA_ADDRESS": "https://localhost:15012",
            "CA_ROOT_CA": f"{self.ca}/root.pem",
            **self.env,
        }
        process = Process(
            [self.programs[number], "proxy"], f"{self.directory}/proxy{number}.log", netns=node.netns, env=env
        )

        def ready():
            r = run(
                [
                    "curl",
                    "-s",
                    "-o",
                    "/dev/null",
                    "-w",
                    "%{http_code}",
                    "-m",
                    "2",
                    "http://127.0.0.1:15021/healthz/ready",
                ],
                netns=node.netns,
                check=False,
            )
            return r.stdout == "200"

        wait_for_process(process, ready, f"{self.name} on {node.name} to be ready", 120)
        return process

    def destroy(self):
        self.stop()
        for process in self.helpers:
            process.stop()
        return super().destroy()
