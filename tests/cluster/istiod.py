# SPDX-License-Identifier: Apache-2.0
"""A stock istiod as control plane of the cluster: the program that BRUMA_ISTIOD names, with CRDs, rights and
configuration of its own charts (BRUMA_ISTIO_CHARTS: the directory that holds base/ and istio-control/). It
runs in the control plane's network namespace; nodes reach it through its Service."""

import os

import yaml

import plan
from support.system import Failed, Process, run, wait_for_process

POD_PORTS = {"grpc-xds": 15010, "https-dns": 15012, "https-webhook": 15017, "http-monitoring": 15014}
# What would start or reach a pod of it; there is none.
NOT_HERE = (
    "Deployment",
    "PodDisruptionBudget",
    "HorizontalPodAutoscaler",
    "MutatingWebhookConfiguration",
    "ValidatingWebhookConfiguration",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
)


class Istiod:
    replay = None  # it speaks for itself

    def __init__(self, cluster):
        self.cluster = cluster
        program, charts = os.environ["BRUMA_ISTIOD"], os.environ.get("BRUMA_ISTIO_CHARTS", "")
        if not os.path.isfile(f"{charts}/base/files/crd-all.gen.yaml"):
            raise Failed("BRUMA_ISTIO_CHARTS must name the directory of Istio's charts (base, istio-control)")
        self.name = (
            f"stock istiod ({run([program, 'version', '--short'], check=False).stdout.strip() or program})"
        )
        self.directory = f"{cluster.directory}/istiod"
        os.makedirs(self.directory)
        cluster.namespace(plan.SYSTEM)
        cluster.kubectl("apply", "--server-side", "-f", f"{charts}/base/files/crd-all.gen.yaml", timeout=120)
        self._install(charts)
        self._start(program)

    def _install(self, charts):
        rendered = self.cluster.helm(
            "template",
            "istiod",
            f"{charts}/istio-control/istio-discovery",
            "-n",
            plan.SYSTEM,
            "--set",
            "profile=ambient",
            "--set",
            "autoscaleEnabled=false",
            "--set",
            "global.hub=none",
            "--set",
            "global.tag=1",
        ).stdout
        with open(f"{self.directory}/chart.yaml", "w") as f:
            yaml.safe_dump_all(
                [d for d in yaml.safe_load_all(rendered) if d and d["kind"] not in NOT_HERE], f
            )
        self.cluster.kubectl("apply", "-f", f"{self.directory}/chart.yaml", timeout=120)
        self.cluster.api(
            "PATCH",
            f"/api/v1/namespaces/{plan.SYSTEM}/services/istiod",
            [{"op": "remove", "path": "/spec/selector"}],
            "application/json-patch+json",
        )
        self.cluster.api.apply(
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "addressType": "IPv4",
                "metadata": {
                    "name": "istiod-test",
                    "namespace": plan.SYSTEM,
                    "labels": {"kubernetes.io/service-name": "istiod"},
                },
                "ports": [{"name": n, "port": p, "protocol": "TCP"} for n, p in POD_PORTS.items()],
                "endpoints": [{"addresses": [plan.CONTROL4], "conditions": {"ready": True}}],
            }
        )

    def _start(self, program):
        """With the rights of the chart's service account, and an empty directory, so that it signs by
        itself."""
        token = self.cluster.kubectl(
            "-n", plan.SYSTEM, "create", "token", "istiod", "--duration", "24h"
        ).stdout.strip()
        self.cluster.keys.config("istiod", f'token: "{token}"')
        env = {
            "HOME": self.directory,
            "POD_NAME": "istiod-test",
            "POD_NAMESPACE": plan.SYSTEM,
            "SERVICE_ACCOUNT": "istiod",
            "REVISION": "default",
            "CLUSTER_ID": "Kubernetes",
            "PILOT_CERT_PROVIDER": "istiod",
            "PILOT_ENABLE_AMBIENT": "true",
            "CA_TRUSTED_NODE_ACCOUNTS": f"{plan.SYSTEM}/ztunnel",
        }
        self.process = Process(
            [
                "env",
                "-C",
                self.directory,
                program,
                "discovery",
                "--kubeconfig",
                self.cluster.keys.path("istiod.conf"),
                "--monitoringAddr=:15014",
                "--domain",
                "cluster.local",
            ],
            f"{self.directory}/istiod.log",
            netns=self.cluster.netns,
            env=env,
        )
        self.cluster.processes["istiod"] = self.process
        wait_for_process(
            self.process,
            lambda: run(
                ["curl", "-sf", "--noproxy", "*", "http://127.0.0.1:8080/ready"], netns=self.cluster.netns
            ),
            "istiod to be ready",
            60,
            0.2,
        )

    def nacked(self):
        """What proxies did not take, as it logs that."""
        return [line for line in self.process.text().splitlines() if "ACK ERROR" in line]

    def close(self):
        self.process.stop()
