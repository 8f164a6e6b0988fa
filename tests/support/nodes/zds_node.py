# SPDX-License-Identifier: Apache-2.0
"""A node as a stock CNI agent has it: its pods are captured by the stock rule set, and the proxy is told of them by ZDS.

with Mesh(nodes=2, node_kinds=[ZdsNode, ZdsNode]) as mesh: ...
"""

from support.certificates import Authority
from support.nodes.mesh import MeshNode
from support.programs import program
from support.proxies import stock_capture
from support.proxies.zds import CniAgent
from support.system import Process, wait_for
from support.xds.plane import Plane


class ZdsNode(MeshNode):
    """bruma-agent serves the mesh's state here and nothing else: it knows no pod of this node, so
    certificates come from a CA of the tests that has the mesh's key. Pods come from the test, as from a stock
    CNI agent."""

    def __init__(self, mesh, number):
        super().__init__(mesh, number)
        self.cni_agent = self.connection = self.ca = None
        self.enrolled = []
        self.more_env = {}

    def proxy_env(self):
        if not self.ca:
            authority = Authority.load(f"{self.run_dir}/control/root-cert.pem", self.mesh.ca_key)
            self.ca = Plane(f"{self.mesh.dir}/ca{self.number}", self.netns, authority=authority)
        ca = {name: value for name, value in self.ca.env().items() if name.startswith("CA_")}
        return {
            **super().proxy_env(),
            **ca,
            "INPOD_UDS": f"{self.run_dir}/zds.sock",
            "ISTIO_META_DNS_CAPTURE": "false",
            **self.more_env,
        }

    def start_proxy(self, wait=True):
        if not self.cni_agent:
            self.cni_agent = CniAgent(f"{self.run_dir}/zds.sock")
        if wait:
            super().start_proxy(wait=False)
            self.connection = self.introduce()
            wait_for(self.ready, f"the proxy of {self.name} to be ready")
        else:
            super().start_proxy(wait=False)
        return self.proxy

    def start_second_proxy(self, *prefix, name="second", **env):
        """Beside the first, with ports of its own for admin pages: (process, its connection). Nothing is told
        to it yet."""
        env = {
            **self.proxy_env(),
            "BRUMA_ADMIN_PORT": "0",
            "BRUMA_METRICS_PORT": "0",
            "BRUMA_READY_PORT": "0",
            "BRUMA_RUN_DIR": "/nonexistent",
            **env,
        }
        p = Process(
            [*prefix, program("bruma-proxy")],
            f"{self.mesh.dir}/proxy{self.number}-{name}.log",
            netns=self.netns,
            env=env,
        )
        return p, self.cni_agent.accept()

    def introduce(self, connection=None):
        connection = connection or self.cni_agent.accept()
        for pod in self.enrolled:
            connection.add(pod)
        connection.snapshot_sent()
        return connection

    def enroll(self, pod):
        stock_capture.install(pod.netns)
        self.connection.add(pod)
        self.enrolled.append(pod)

    def destroy(self):
        if self.cni_agent:
            self.cni_agent.close()
        if self.ca:
            self.ca.stop()
        super().destroy()
