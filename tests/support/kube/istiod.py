# SPDX-License-Identifier: Apache-2.0
"""A stock istiod as a process beside a real API server. Its program is the one that BRUMA_ISTIOD names; the
definitions of its resources are read from the charts that BRUMA_ISTIO_CHARTS names (manifests/charts of a
source tree or of a release)."""

import base64
import json
import os

import yaml

from support.system import Failed, Process, run, wait_for_process

SYSTEM = "istio-system"
NAME = f"istiod.{SYSTEM}.svc"
CA_KEY = f"/api/v1/namespaces/{SYSTEM}/secrets/istio-ca-secret"
XDS_PORT, READY_PORT = 15012, 8080
DEFINITIONS = ["base/files/crd-all.gen.yaml", "base/crds/crd-all.gen.yaml"]

# What istiod asks for of the Gateway API, without the schemas: this API server keeps whatever it is given.
GATEWAY_GROUP = "gateway.networking.k8s.io"
GATEWAY_KINDS = {
    "GatewayClass": ("gatewayclasses", "Cluster", "v1"),
    "Gateway": ("gateways", "Namespaced", "v1"),
}


def missing():
    """Why the tests with istiod cannot run; None if they can."""
    need = {
        "BRUMA_ISTIOD": "a stock istiod's program",
        "BRUMA_ISTIO_CHARTS": "the directory of its charts",
        "BRUMA_KUBE": "a directory with kube-apiserver and etcd",
    }
    absent = [f"{name} ({what})" for name, what in need.items() if not os.environ.get(name)]
    return f"no istiod: not given: {', '.join(absent)}" if absent else None


def definitions(charts):
    for name in DEFINITIONS:
        path = os.path.join(charts, name)
        if os.path.exists(path):
            with open(path) as f:
                return [d for d in yaml.safe_load_all(f) if d]
    raise Failed(f"BRUMA_ISTIO_CHARTS={charts} has none of {DEFINITIONS}")


def gateway_definition(kind, plural, scope, version):
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{plural}.{GATEWAY_GROUP}",
            "annotations": {
                "gateway.networking.k8s.io/bundle-version": "v1.4.0",
                "gateway.networking.k8s.io/channel": "standard",
                "api-approved.kubernetes.io": "unapproved, of a test",
            },
        },
        "spec": {
            "group": GATEWAY_GROUP,
            "scope": scope,
            "names": {"kind": kind, "plural": plural, "singular": kind.lower(), "listKind": f"{kind}List"},
            "versions": [
                {
                    "name": version,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "schema": {
                        "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
                    },
                }
            ],
        },
    }


def kubeconfig(server, url=None):
    """Of somebody who may do everything. url: where the server is reached, if not from its own namespace."""
    with open(server.ca, "rb") as f:
        ca = base64.b64encode(f.read()).decode()
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "t",
        "clusters": [
            {"name": "t", "cluster": {"server": url or server.url, "certificate-authority-data": ca}}
        ],
        "users": [{"name": "t", "user": {"token": server.api.token}}],
        "contexts": [{"name": "t", "context": {"cluster": "t", "user": "t"}}],
    }


class Istiod:
    """program: of pilot-discovery. server: support.kube.RealServer, in the same network namespace."""

    def __init__(self, program, charts, server, directory, **env):
        self.program, self.charts, self.server, self.directory = program, charts, server, directory
        self.env, self.process, self.starts = env, None, 0
        self.cluster_id = env.get("CLUSTER_ID", "Kubernetes")
        os.makedirs(f"{directory}/cwd", exist_ok=True)

    def install(self):
        """Definitions, its namespace and service account."""
        made = definitions(self.charts) + [gateway_definition(k, *v) for k, v in GATEWAY_KINDS.items()]
        for d in made:
            if d["kind"] == "CustomResourceDefinition":
                self.server.api("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", d)
        self.server.make_namespace(SYSTEM)
        self.server.create("v1", "ServiceAccount", "istiod", SYSTEM)
        with open(f"{self.directory}/kubeconfig", "w") as f:
            json.dump(kubeconfig(self.server), f)

    def set_mesh_config(self, text):
        """Before it starts."""
        folder = f"{self.directory}/cwd/etc/istio/config"
        os.makedirs(folder, exist_ok=True)
        with open(f"{folder}/mesh", "w") as f:
            f.write(text)

    def take_key(self, other):
        """Before it starts: the CA of another istiod's, so that both have one root."""
        secret = other.server.api("GET", CA_KEY)
        self.server.create(
            "v1", "Secret", CA_KEY.rsplit("/", 1)[1], SYSTEM, type=secret["type"], data=secret["data"]
        )

    def read_cluster(self, name, server, url):
        """Pods and services of another cluster, from its API server, as `istioctl create-remote-secret` has it."""
        self.server.create(
            "v1",
            "Secret",
            f"istio-remote-secret-{name}",
            SYSTEM,
            metadata={
                "labels": {"istio/multiCluster": "true"},
                "annotations": {"networking.istio.io/cluster": name},
            },
            stringData={name: json.dumps(kubeconfig(server, url))},
        )

    def start(self):
        # It makes its own root in an empty working directory, and keeps it as a Secret.
        env = {
            "HOME": f"{self.directory}/cwd",
            "PATH": "/usr/bin:/bin",
            "POD_NAME": "istiod-test",
            "POD_NAMESPACE": SYSTEM,
            "SERVICE_ACCOUNT": "istiod",
            "REVISION": "default",
            "CLUSTER_ID": self.cluster_id,
            "PILOT_CERT_PROVIDER": "istiod",
            "PILOT_ENABLE_AMBIENT": "true",
            "CA_TRUSTED_NODE_ACCOUNTS": f"{SYSTEM}/ztunnel",
            **self.env,
        }
        self.starts += 1
        self.process = Process(
            [
                "env",
                "-i",
                "-C",
                f"{self.directory}/cwd",
                *(f"{k}={v}" for k, v in env.items()),
                self.program,
                "discovery",
                "--kubeconfig",
                f"{self.directory}/kubeconfig",
                "--domain",
                "cluster.local",
            ],
            f"{self.directory}/istiod-{self.starts}.log",
            netns=self.server.netns,
        )

        def ready():
            r = run(
                [
                    "curl",
                    "-s",
                    "-o",
                    "/dev/null",
                    "-m",
                    "2",
                    "-w",
                    "%{http_code}",
                    f"http://127.0.0.1:{READY_PORT}/ready",
                ],
                netns=self.server.netns,
                check=False,
            )
            return r.stdout == "200"

        wait_for_process(self.process, ready, "istiod to be ready", 120, 0.2)

    def stop(self):
        if self.process:
            self.process.kill()

    def root(self):
        """The roots of its certificates, as it publishes them in each namespace."""
        return self.server.api("GET", f"/api/v1/namespaces/{SYSTEM}/configmaps/istio-ca-root-cert")["data"][
            "root-cert.pem"
        ]
