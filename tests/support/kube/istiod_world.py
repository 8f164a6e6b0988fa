# SPDX-License-Identifier: Apache-2.0
"""Two nodes of a cluster whose API server and istiod are real; pods exist in the API and as sandboxes,
kubelets do not. Agents follow the API, proxies get state and certificates from istiod.

    <prefix>n1, <prefix>n2     nodes, joined by "uplink"
    <prefix>cp                 etcd, API server and istiod; a link to each node

A test may have several such clusters in one mesh: each has a name and nodes of its own, and no link to the others.
"""

import json
import os
import re

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from support import network
from support.kube.istiod import NAME, SYSTEM, XDS_PORT, Istiod
from support.kube.server import RealServer
from support.network import inside
from support.nodes.cni_node import CniNode
from support.system import run, wait_for
from support.xds.control_plane import CA, load_messages

AMBIENT = {"istio.io/dataplane-mode": "ambient"}
CP = "10.79.{}.1"
SECURITY = "security.istio.io/v1"

ECHO = """
import socket, sys, threading
s = socket.socket(socket.AF_INET6)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("::", int(sys.argv[1])))
s.listen(64)
print("READY", flush=True)
def serve(c):
    while data := c.recv(65536):
        c.sendall(data)
    c.close()
while True:
    c, peer = s.accept()
    print("FROM", peer[0], flush=True)
    threading.Thread(target=serve, args=(c,), daemon=True).start()
"""

PING = """
import socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
s.settimeout(20)
try:
    s.connect((sys.argv[1], int(sys.argv[2])))
    s.sendall(b"ping")
    print(s.recv(4).decode() or "closed")
except OSError as e:
    print(type(e).__name__)
"""


class Cluster:
    def __init__(self, work, nodes=2, name="", beside=None, mesh=None, **istiod_env):
        """beside: another cluster of the same mesh; the name tells them apart, and the key of its CA is this one's too. mesh:
        text of the mesh configuration."""
        self.work, self.name = work, name
        self.cp = work.netns(f"{name}cp")
        self.pins = beside.pins if beside else work.bpf_root()
        first = beside.nodes[-1].number + 1 if beside else 1
        self.nodes = [self._node(n) for n in range(first, first + nodes)]
        for i, a in enumerate(self.nodes):
            for b in self.nodes[i + 1 :]:
                a.connect(b)
        kube, istiod = work.path(f"{name}kube"), work.path(f"{name}istiod")
        os.makedirs(kube, exist_ok=True)
        os.makedirs(istiod, exist_ok=True)
        self.server = RealServer(
            os.environ["BRUMA_KUBE"], self.cp, kube, [CP.format(n.number) for n in self.nodes]
        )
        work.defer(self.server.stop)
        self.server.start()
        self.istiod = Istiod(
            os.environ["BRUMA_ISTIOD"],
            os.environ["BRUMA_ISTIO_CHARTS"],
            self.server,
            istiod,
            **istiod_env,
        )
        if mesh:
            self.istiod.set_mesh_config(mesh)
        work.defer(self.istiod.stop)
        self.istiod.install()
        if beside:
            self.istiod.take_key(beside.istiod)
        self.server.create("v1", "ServiceAccount", "ztunnel", SYSTEM)
        for node in self.nodes:
            self.server.create("v1", "Node", node.name)
            self.server.make_pod(
                SYSTEM,
                self.proxy_pod(node),
                node.name,
                [CP.format(node.number)[:-1] + "2"],
                account="ztunnel",
                labels={"app": "ztunnel", "networking.istio.io/tunnel": "http"},  # as the chart has them
            )
        self.istiod.start()
        self.root_file = work.path(f"{name}root.pem")
        with open(self.root_file, "w") as f:
            f.write(wait_for(self.istiod.root, "istiod's root", 30))

    def _node(self, number):
        work = self.work
        node = CniNode(
            f"n{number}",
            number,
            work.prefix,
            work.path(f"n{number}"),
            f"{self.pins}/n{number}",
            work.cgroup(f"n{number}"),
            work.build,
            work.path("none.yaml"),
            work.path("none.pem"),
        )
        work.defer(node.destroy)
        node.create()
        network.veth(self.cp, f"n{number}", node.netns, "cp")
        network.address(self.cp, f"n{number}", f"{CP.format(number)}/24")
        network.address(node.netns, "cp", f"10.79.{number}.2/24")
        return node

    # ---- programs ----

    @staticmethod
    def proxy_pod(node):
        return f"ztunnel-{node.name}"

    def token_file(self, node):
        return self.work.path(f"token-{node.name}")

    def write_token(self, node):
        token = self.server.token(SYSTEM, "ztunnel", "istio-ca", self.proxy_pod(node))
        with open(self.token_file(node) + ".new", "w") as f:
            f.write(token)
        os.rename(self.token_file(node) + ".new", self.token_file(node))

    def proxy_env(self, node):
        """As the chart sets it, but for addresses."""
        address = f"https://{CP.format(node.number)}:{XDS_PORT}"
        return {
            "XDS_ADDRESS": address,
            "CA_ADDRESS": address,
            "ALT_XDS_HOSTNAME": NAME,
            "ALT_CA_HOSTNAME": NAME,
            "XDS_ROOT_CA": self.root_file,
            "CA_ROOT_CA": self.root_file,
            "AUTH_TOKEN": self.token_file(node),
            "POD_NAME": self.proxy_pod(node),
            "POD_NAMESPACE": SYSTEM,
            "INSTANCE_IP": f"10.79.{node.number}.2",
            "CLUSTER_ID": self.istiod.cluster_id,
        }

    def start_node(self, node, agent=True, **env):
        if agent:
            settings = {
                **self.server.agent_settings(),
                "kube_server": f"https://{CP.format(node.number)}:{self.server.port}",
                "cni_cache": "",
                "cri_socket": "",
                "drain_grace": "50ms",
            }
            node.start_agent(**settings)
        self.write_token(node)
        node.start_proxy(**{**self.proxy_env(node), **env})

    # ---- what is in the cluster ----

    def pod(self, node, namespace, name, host, ready=True, **more):
        """As a kubelet does: bound to the node, sandbox by the CNI chain, then its status."""
        pod = node.create_pod(namespace, name, account=more.get("account", "default"), host=host, add=False)
        self.work.defer(self.forget, node, pod)
        pod.uid = self.server.make_pod(namespace, name, node.name, [], phase="Pending", **more)
        node.add(pod)
        if ready:
            self.server.set_status(namespace, name, pod.ips)
        return pod

    @staticmethod
    def forget(node, pod):
        if pod.name in node.pods:
            node.delete_pod(pod)

    def server_in(self, pod, port=8080):
        p = pod.popen(
            "/usr/bin/python3", "-u", "-c", ECHO, str(port), log=self.work.path(f"{pod.name}-{port}.log")
        )
        self.work.defer(p.kill)
        p.wait_for_text("READY")
        return p

    @staticmethod
    def ping(pod, address, port=8080):
        return pod.run("/usr/bin/python3", "-c", PING, address, str(port)).stdout.strip()

    def service(self, namespace, name, vip, selector, ports, labels=None):
        """With an EndpointSlice, which controllers would write."""
        self.server.create(
            "v1",
            "Service",
            name,
            namespace,
            metadata={"labels": labels or {}},
            spec={
                "clusterIP": vip,
                "selector": selector,
                "ports": [{"name": f"tcp-{p}", "port": p, "targetPort": t} for p, t in ports.items()],
            },
        )

    def policy(self, kind, namespace, name, spec):
        return self.server.create(SECURITY, kind, name, namespace, spec=spec)

    def delete(self, path):
        self.server.api("DELETE", path)

    def certificate(self, namespace, account, pod, directory):
        """cert.pem, key.pem and root.pem of a pod's own identity, as istiod gives them to a proxy inside the
        pod. pod: its name, or None for a token of the account alone."""
        messages = load_messages(self.work.directory)
        key = ec.generate_private_key(ec.SECP256R1())
        csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        request = messages["istio.v1.auth.IstioCertificateRequest"](
            csr=csr.public_bytes(serialization.Encoding.PEM).decode(), validity_duration=86400
        )
        with open(self.root_file, "rb") as f:
            roots = f.read()
        with inside(self.cp):
            channel = grpc.secure_channel(
                f"127.0.0.1:{XDS_PORT}",
                grpc.ssl_channel_credentials(roots),
                [("grpc.ssl_target_name_override", NAME)],
            )
            grpc.channel_ready_future(channel).result(20)
        call = channel.unary_unary(
            CA, lambda m: m.SerializeToString(), messages["istio.v1.auth.IstioCertificateResponse"].FromString
        )
        token = self.server.token(namespace, account, "istio-ca", pod)
        chain = call(request, timeout=20, metadata=[("authorization", f"Bearer {token}")]).cert_chain
        channel.close()
        os.makedirs(directory, exist_ok=True)
        files = {
            "cert.pem": "".join(chain[:-1]),
            "root.pem": chain[-1],
            "key.pem": key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ).decode(),
        }
        for name, text in files.items():
            with open(f"{directory}/{name}", "w") as f:
                f.write(text)

    def gateway(self, namespace, name, hostname=None, address=None, waypoint_for="service"):
        """A waypoint that is run by hand. Its status is that of a controller which has found it ready."""
        self.server.create(
            "gateway.networking.k8s.io/v1",
            "Gateway",
            name,
            namespace,
            metadata={"labels": {"istio.io/waypoint-for": waypoint_for}},
            spec={
                "gatewayClassName": "istio-waypoint",
                "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}],
            },
        )
        addresses = (
            [{"type": "Hostname", "value": hostname}]
            if hostname
            else [{"type": "IPAddress", "value": address}]
        )
        self.server.api(
            "PATCH",
            f"/apis/gateway.networking.k8s.io/v1/namespaces/{namespace}/gateways/{name}/status",
            {"status": {"addresses": addresses}},
            "application/merge-patch+json",
        )

    # ---- what proxies know ----

    @staticmethod
    def dump(node):
        return json.loads(
            run(["curl", "-s", "-m", "5", "http://127.0.0.1:15000/config_dump"], netns=node.netns).stdout
        )

    def workload(self, node, name):
        return next((w for w in self.dump(node)["workloads"] if w["name"] == name), None)

    def service_of(self, node, name):
        return next((s for s in self.dump(node)["services"] if s["name"] == name), None)

    def policies(self, node):
        return {f"{p['namespace']}/{p['name']}": p for p in self.dump(node)["policies"]}

    def hbone(self, *pods, seconds=30):
        """Until every proxy knows the pods as reachable over HBONE."""
        for node in self.nodes:
            for p in pods:
                wait_for(
                    lambda node=node, p=p: (self.workload(node, p.name) or {}).get("protocol") == "HBONE",
                    f"{node.name} to know {p.name} with HBONE",
                    seconds,
                    log=node.proxy_log,
                )

    @staticmethod
    def access(node, *needles):
        """The last line of the access log with all these texts, as a dict; None if there is none."""
        with open(node.proxy_log, errors="replace") as f:
            lines = [line for line in f if "\taccess\t" in line and all(n in line for n in needles)]
        return dict(re.findall(r'(\S+?)="?([^"\s]*)"?(?:\s|$)', lines[-1])) if lines else None
