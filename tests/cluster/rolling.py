# SPDX-License-Identifier: Apache-2.0
"""A Deployment that is restarted again and again while connections to its Service come at a steady rate and others are
kept. BRUMA_ROLLOUTS=full: ten restarts of ten pods under 500 new connections a second, instead of two of four under
60."""

import json
import os
import signal
import threading
import time

import images
from support.programs import ROOT
from support.system import wait_for

FULL = os.environ.get("BRUMA_ROLLOUTS") == "full"
RESTARTS, PODS, RATE, KEPT = (10, 10, 500, 50) if FULL else (2, 4, 60, 8)
LINGER = 3  # seconds that an application takes to end
PATIENCE = 30  # more that it may take to answer whom it has accepted, on a busy machine

GREETING = "import socket, sys; print(socket.create_connection((sys.argv[1], 7000), 5).makefile().readline())"


def deployment(namespace, how):
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "cart", "namespace": namespace},
        "spec": {
            "replicas": PODS,
            "selector": {"matchLabels": {"app": "cart"}},
            "strategy": {"rollingUpdate": {"maxSurge": 2, "maxUnavailable": 0}},
            "template": {
                "metadata": {"labels": {"app": "cart"}},
                "spec": {
                    "terminationGracePeriodSeconds": LINGER + PATIENCE,
                    "automountServiceAccountToken": False,
                    "tolerations": [{"operator": "Exists"}],
                    "containers": [
                        {
                            "name": "app",
                            "image": images.APP,
                            "imagePullPolicy": "Never",
                            "ports": [{"name": "words", "containerPort": 7000}],
                            "env": [{"name": "END", "value": f"{how} {LINGER}"}],
                            "readinessProbe": {"tcpSocket": {"port": 7000}, "periodSeconds": 1},
                        }
                    ],
                },
            },
        },
    }


class Ends(threading.Thread):
    """When pods of a namespace were first seen to be told to end, by name; and what the agents said of them then."""

    def __init__(self, cluster, mesh, namespace):
        super().__init__(daemon=True)
        self.cluster, self.mesh, self.namespace = cluster, mesh, namespace
        self.told, self.ending, self.over = {}, set(), threading.Event()
        self.start()

    def run(self):
        while not self.over.wait(0.1):
            for pod in self.cluster.api.list("Pod", self.namespace):
                if "deletionTimestamp" in pod["metadata"]:
                    self.told.setdefault(pod["metadata"]["name"], time.monotonic())
            if self.mesh:
                for node in self.cluster.nodes:
                    for item in self.mesh.ask(node, "pods"):
                        if item["namespace"] == self.namespace and item["endingAt"]:
                            self.ending.add(item["name"])

    def end(self):
        self.over.set()
        self.join()


def restarts(cluster, mesh, namespace, how):
    """Figures of the load, and Ends. mesh: None where its agents are not Bruma's."""
    cluster.namespace(namespace, **{"istio.io/dataplane-mode": "ambient"})
    cluster.api.apply(deployment(namespace, how))
    address = cluster.service(namespace, "cart", {"app": "cart"}, 7000, 7000)[0]
    client = cluster.pod(namespace, "client", "n1")
    rolled_out(cluster, namespace)
    wait_for(
        lambda: client.python(GREETING, address, check=False).startswith("cart-"),
        "the service to be served",
        30,
        0.2,
    )
    ends = Ends(cluster, mesh, namespace)
    load = client.popen(
        "/usr/bin/python3",
        f"{ROOT}/tests/support/steady_load.py",
        address,
        7000,
        RATE,
        KEPT,
        log=f"{cluster.directory}/steady-load-{namespace}.log",
    )
    load.wait_for_text("READY")
    time.sleep(1)
    for _ in range(RESTARTS):
        cluster.kubectl("-n", namespace, "rollout", "restart", "deployment", "cart")
        rolled_out(cluster, namespace)
    time.sleep(LINGER + 2)
    load.kill(signal.SIGTERM)
    load.wait(60)
    ends.end()
    cluster.delete_namespace(namespace)
    return json.loads(load.last_words(1)), ends


def rolled_out(cluster, namespace):
    cluster.kubectl("-n", namespace, "rollout", "status", "deployment", "cart", "--timeout=180s", timeout=200)


def told(report, who, how, f):
    report(
        f"{RESTARTS} rolling restarts of {PODS} pods ({how}) under {f['rate']:.0f} connections a second, {who}: "
        f"{f['made']} made, {len(f['failed'])} failed; {KEPT} kept ones, which ended {len(f['cut'])} times; "
        f"the slowest in {f['slowest']:.2f} s"
    )
