# SPDX-License-Identifier: Apache-2.0
"""A Kubernetes API for tests: the real server on etcd, or a small one of our own that can misbehave
(small.py). Both run in a network namespace and are talked to over TLS with bearer tokens."""

import datetime
import http.client
import ipaddress
import json
import os
import socket
import ssl
import threading
import urllib.parse

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from support.certificates import usual
from support.network import inside
from support.system import Failed, Process, wait_for_process

ADMIN, AGENT = "admin-of-the-test", "bruma-agent-of-the-test"

# What the agent may do, and nothing else.
AGENT_RULES = [
    {"apiGroups": [""], "resources": ["pods", "namespaces"], "verbs": ["list", "watch"]},
    {"apiGroups": [""], "resources": ["pods/status"], "verbs": ["patch"]},
    {
        "apiGroups": [""],
        "resources": ["configmaps"],
        "resourceNames": ["istio"],
        "verbs": ["list", "watch"],
    },
    {"apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch"]},
]


def make_certificates(directory, addresses):
    """ca.crt, server.crt, server.key for these addresses, and sa.key for service accounts."""
    now = datetime.datetime.utcnow()

    def write(name, data):
        with open(os.path.join(directory, name), "wb") as f:
            f.write(data)

    def certificate(name, key, issuer_name, issuer_key, ca):
        b = x509.CertificateBuilder().subject_name(name).issuer_name(issuer_name).public_key(key.public_key())
        b = b.serial_number(x509.random_serial_number())
        b = b.not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(
            now + datetime.timedelta(days=1)
        )
        b = usual(b, key.public_key(), issuer_key.public_key(), ca=ca)
        if not ca:
            names = [x509.IPAddress(ipaddress.ip_address(a)) for a in addresses]
            b = b.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return b.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def pem(key):
        return key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )

    def named(text):
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    ca_key, key, sa_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
    write("ca.crt", certificate(named("test CA"), ca_key, named("test CA"), ca_key, True))
    write("server.crt", certificate(named("kube-apiserver"), key, named("test CA"), ca_key, False))
    write("server.key", pem(key))
    write("sa.key", pem(sa_key))


class Client:
    """Requests as somebody with a token. One connection, in the server's namespace."""

    def __init__(self, netns, port, ca, token):
        self.netns, self.port, self.token = netns, port, token
        self.context = ssl.create_default_context(cafile=ca)
        self.context.verify_flags |= ssl.VERIFY_X509_STRICT  # as Python 3.13 does by itself
        self.lock = threading.Lock()

    def __call__(self, method, path, body=None, content_type="application/json", check=True):
        with self.lock, inside(self.netns):
            s = socket.create_connection(("127.0.0.1", self.port), 10)
        c = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=20, context=self.context)
        c.sock = self.context.wrap_socket(s, server_hostname="127.0.0.1")
        try:
            c.request(
                method,
                path,
                None if body is None else json.dumps(body),
                {"Authorization": f"Bearer {self.token}", "Content-Type": content_type},
            )
            r = c.getresponse()
            text = r.read().decode()
        finally:
            c.close()
        if check and r.status >= 300:
            raise Failed(f"{method} {path}: {r.status} {text[:500]}")
        try:
            return json.loads(text)
        except ValueError:
            return text


class Server:
    """What tests do with either server. addresses: where it is reached besides loopback."""

    def __init__(self, netns, directory, port, addresses=()):
        self.netns, self.directory, self.port, self.addresses = netns, directory, port, list(addresses)
        os.makedirs(directory, exist_ok=True)
        self.url = f"https://127.0.0.1:{port}"
        self.ca = os.path.join(directory, "ca.crt")
        self.token_file = os.path.join(directory, "token")
        make_certificates(directory, ["127.0.0.1", *self.addresses])
        self.set_agent_token(AGENT)
        self.api = Client(netns, port, self.ca, ADMIN)

    def set_agent_token(self, token):
        with open(self.token_file + ".new", "w") as f:
            f.write(token + "\n")
        os.rename(self.token_file + ".new", self.token_file)

    def agent_settings(self):
        """For start_agent()."""
        return {
            "source": "kubernetes",
            "kube_server": self.url,
            "kube_ca": self.ca,
            "kube_token_file": self.token_file,
        }

    # ---- objects ----

    def make_namespace(self, name, labels=None):
        """With these labels, also if the server has made it by itself."""
        self.api(
            "POST",
            "/api/v1/namespaces",
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}},
            check=False,
        )
        self.merge(f"/api/v1/namespaces/{name}", labels=labels or {})

    def label_namespace(self, name, **labels):
        """Values of None remove. Underlines stand for what Python does not allow: mode for
        istio.io/dataplane-mode."""
        return self.merge(f"/api/v1/namespaces/{name}", labels={dataplane(k): v for k, v in labels.items()})

    def annotate_namespace(self, name, annotations):
        return self.merge(f"/api/v1/namespaces/{name}", annotations=annotations)

    def set_mesh_config(self, text, name="istio", namespace="istio-system"):
        """Istio's ConfigMap; None: it is deleted. text: of its key mesh, or None within a dict of keys."""
        where = f"/api/v1/namespaces/{namespace}/configmaps"
        if text is None:
            self.api("DELETE", f"{where}/{name}")
            return
        data = text if isinstance(text, dict) else {"mesh": text}
        self.make_namespace(namespace)
        self.api(
            "POST",
            where,
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": name, "namespace": namespace},
                "data": {},
            },
            check=False,
        )
        self.api("PATCH", f"{where}/{name}", {"data": data}, "application/merge-patch+json")

    def create(self, path, kind, name, namespace=None, **fields):
        """path: "v1" or "GROUP/v1". Returns the object as the server made it."""
        prefix = f"/api/{path}" if "/" not in path else f"/apis/{path}"
        plural = kind.lower() + ("es" if kind.endswith("s") else "s")
        if kind.endswith(("cy", "try")):
            plural = kind.lower()[:-1] + "ies"
        where = f"{prefix}/namespaces/{namespace}/{plural}" if namespace else f"{prefix}/{plural}"
        meta = {"name": name, **({"namespace": namespace} if namespace else {}), **fields.pop("metadata", {})}
        return self.api("POST", where, {"apiVersion": path, "kind": kind, "metadata": meta, **fields})

    def token(self, namespace, account, audience, pod=None, seconds=3600):
        """Of a service account; bound to a pod, as the kubelet's are."""
        spec = {"audiences": [audience], "expirationSeconds": seconds}
        if pod:
            spec["boundObjectRef"] = {
                "kind": "Pod",
                "apiVersion": "v1",
                "name": pod,
                "uid": self.pod(namespace, pod)["metadata"]["uid"],
            }
        made = self.api(
            "POST",
            f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token",
            {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec},
        )
        return made["status"]["token"]

    def make_pod(
        self,
        namespace,
        name,
        node,
        ips,
        labels=None,
        annotations=None,
        account="default",
        spec=None,
        phase="Running",
    ):
        """A pod that runs, as its kubelet has reported it. Returns its UID."""
        made = self.api(
            "POST",
            f"/api/v1/namespaces/{namespace}/pods",
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": name,
                    "namespace": namespace,
                    "labels": labels or {},
                    "annotations": annotations or {},
                },
                "spec": {
                    "nodeName": node,
                    "serviceAccountName": account,
                    "containers": [{"name": "app", "image": "none"}],
                    **(spec or {}),
                },
            },
        )
        self.set_status(namespace, name, ips, phase)
        return made["metadata"]["uid"]

    def set_status(self, namespace, name, ips, phase="Running", ready=True):
        status = {"phase": phase}
        if ips:
            status.update(podIP=ips[0], podIPs=[{"ip": ip} for ip in ips])
        if ips and phase == "Running":
            status["conditions"] = [{"type": "Ready", "status": str(ready)}]
        self.api(
            "PATCH",
            f"/api/v1/namespaces/{namespace}/pods/{name}/status",
            {"status": status},
            "application/merge-patch+json",
        )

    def label_pod(self, namespace, name, **labels):
        return self.merge(
            f"/api/v1/namespaces/{namespace}/pods/{name}", labels={dataplane(k): v for k, v in labels.items()}
        )

    def annotate_pod(self, namespace, name, annotations):
        return self.merge(f"/api/v1/namespaces/{namespace}/pods/{name}", annotations=annotations)

    def delete_pod(self, namespace, name):
        self.api("DELETE", f"/api/v1/namespaces/{namespace}/pods/{name}", {"gracePeriodSeconds": 0})

    def end_pod(self, namespace, name, seconds):
        """It is told to end, and has so long for it; whoever runs it deletes it then."""
        self.api("DELETE", f"/api/v1/namespaces/{namespace}/pods/{name}", {"gracePeriodSeconds": seconds})

    def merge(self, path, **metadata):
        return self.api("PATCH", path, {"metadata": metadata}, "application/merge-patch+json")

    def pod(self, namespace, name):
        return self.api("GET", f"/api/v1/namespaces/{namespace}/pods/{name}")

    def redirection(self, namespace, name):
        """The annotation's value, or None."""
        return (
            self.pod(namespace, name)["metadata"].get("annotations", {}).get("ambient.istio.io/redirection")
        )

    def events(self, namespace, name):
        where = urllib.parse.quote(f"involvedObject.name={name}")
        return self.api("GET", f"/api/v1/namespaces/{namespace}/events?fieldSelector={where}")["items"] or []


def dataplane(key):
    return "istio.io/dataplane-mode" if key == "mode" else key


class RealServer(Server):
    """kube-apiserver and etcd, programs of the directory that BRUMA_KUBE names."""

    def __init__(self, programs, netns, directory, addresses=()):
        super().__init__(netns, directory, 6443, addresses)
        self.programs = programs
        self.processes = []

    def start(self):
        self._start_etcd()
        self.start_api()
        self.make_roles()

    def _start_etcd(self):
        self.processes.append(
            Process(
                [
                    f"{self.programs}/etcd",
                    "--data-dir",
                    f"{self.directory}/etcd",
                    "--unsafe-no-fsync",
                    "--listen-client-urls",
                    "http://127.0.0.1:2379",
                    "--advertise-client-urls",
                    "http://127.0.0.1:2379",
                    "--listen-peer-urls",
                    "http://127.0.0.1:2380",
                ],
                f"{self.directory}/etcd.log",
                netns=self.netns,
            )
        )

    def start_api(self):
        d = self.directory
        with open(f"{d}/tokens", "w") as f:
            f.write(f'{ADMIN},admin,1,"system:masters"\n{AGENT},bruma-agent,2\n')
        api = Process(
            [
                f"{self.programs}/kube-apiserver",
                "--etcd-servers=http://127.0.0.1:2379",
                f"--bind-address={'0.0.0.0' if self.addresses else '127.0.0.1'}",
                f"--advertise-address={[*self.addresses, '127.0.0.1'][0]}",
                f"--secure-port={self.port}",
                "--service-cluster-ip-range=10.96.0.0/16",
                "--authorization-mode=RBAC",
                "--disable-admission-plugins=ServiceAccount",
                f"--tls-cert-file={d}/server.crt",
                f"--tls-private-key-file={d}/server.key",
                f"--token-auth-file={d}/tokens",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-key-file={d}/sa.key",
                f"--service-account-signing-key-file={d}/sa.key",
                f"--cert-dir={d}",
                "--profiling=false",
            ],
            f"{d}/kube-apiserver.log",
            netns=self.netns,
        )
        self.processes.append(api)
        self.api_process = api
        wait_for_process(
            api, lambda: self.api("GET", "/readyz") == "ok", "the API server to be ready", 90, 0.2
        )

    def stop_api(self):
        self.api_process.kill()

    def make_roles(self):
        group = "rbac.authorization.k8s.io"
        self.api(
            "POST",
            f"/apis/{group}/v1/clusterroles",
            {
                "apiVersion": f"{group}/v1",
                "kind": "ClusterRole",
                "metadata": {"name": "bruma-agent"},
                "rules": AGENT_RULES,
            },
        )
        self.api(
            "POST",
            f"/apis/{group}/v1/clusterrolebindings",
            {
                "apiVersion": f"{group}/v1",
                "kind": "ClusterRoleBinding",
                "metadata": {"name": "bruma-agent"},
                "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": "bruma-agent"},
                "subjects": [{"apiGroup": group, "kind": "User", "name": "bruma-agent"}],
            },
        )

    def stop(self):
        for p in reversed(self.processes):
            p.kill()
