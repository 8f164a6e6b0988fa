# SPDX-License-Identifier: Apache-2.0
"""A pod of the test cluster, and programs of this machine that run as if they were its own: in its network
namespace and its control group, by which the kernel knows them."""

import images
from support.nodes.pod import Pod
from support.system import Failed, wait_for

PROBES = {
    "startupProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 1, "failureThreshold": 30},
    "livenessProbe": {"tcpSocket": {"port": 9000}, "periodSeconds": 1},
    "readinessProbe": {"grpc": {"port": 9090}, "periodSeconds": 1},
}


class KubePod(Pod):
    def __init__(self, cluster, namespace, name, node, account="default"):
        super().__init__(cluster.nodes[node], namespace, name, account)
        self.cluster, self.addresses = cluster, []

    @property
    def ips(self):
        return self.addresses

    @property
    def ip(self):
        return next(ip for ip in self.ips if ":" not in ip)

    @property
    def ip6(self):
        return next(ip for ip in self.ips if ":" in ip)

    def create(self, probes=(), call=None, labels=None, annotations=None, **spec):
        """probes: of startup, liveness, readiness. call: "ADDRESS PORT" that it talks to from its first
        moment on."""
        container = {
            "name": "app",
            "image": images.APP,
            "imagePullPolicy": "Never",
            "ports": [{"name": "http", "containerPort": 8080}],
            **{f"{p}Probe": PROBES[f"{p}Probe"] for p in probes},
        }
        if call:
            container["env"] = [{"name": "CALL", "value": call}]
        made = self.cluster.api(
            "POST",
            f"/api/v1/namespaces/{self.namespace}/pods",
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": self.name,
                    "labels": {"app": self.name, **(labels or {})},
                    "annotations": annotations or {},
                },
                "spec": {
                    "nodeName": self.node.name,
                    "serviceAccountName": self.account,
                    "terminationGracePeriodSeconds": 1,
                    "automountServiceAccountToken": False,
                    "tolerations": [{"operator": "Exists"}],
                    "containers": [container],
                    **spec,
                },
            },
        )
        self.uid = made["metadata"]["uid"]

    # ---- what the API says ----

    def object(self):
        return self.cluster.api.get("Pod", self.name, self.namespace)

    def wait_ready(self, timeout=60):
        def there():
            status = self.object()["status"]
            if any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions", [])):
                self.addresses = [ip["ip"] for ip in status["podIPs"]]
                return True
            raise Failed(f"{status.get('phase')}, {self.last_event()}")

        wait_for(there, f"pod {self.full_name} to be ready", timeout, 0.05, self.log_of("kubelet"))
        return self

    def last_event(self):
        events = [
            e
            for e in self.cluster.api.list("Event", self.namespace)
            if e["involvedObject"]["name"] == self.name
        ]
        return f"{events[-1]['reason']}: {events[-1]['message']}" if events else "no event"

    def log_of(self, program):
        return f"{self.node.directory}/{program}.log"

    def restarts(self):
        return sum(c["restartCount"] for c in self.object()["status"].get("containerStatuses", []))

    def ready(self):
        return any(
            c["type"] == "Ready" and c["status"] == "True" for c in self.object()["status"]["conditions"]
        )

    def redirection(self):
        return self.object()["metadata"].get("annotations", {}).get("ambient.istio.io/redirection")

    def delete(self, grace=None):
        self.cluster.api.delete("Pod", self.name, self.namespace, grace=grace)

    def output(self):
        """What its application printed."""
        with self.node.open_logs(self.uid) as logs:
            return logs

    # ---- in it ----

    def pid(self):
        return self.node.container_pid(self.uid)

    def placed(self, argv):
        pid = self.pid()
        group = next(line for line in open(f"/proc/{pid}/cgroup") if line.startswith("0::")).strip()[3:]
        root = self.cluster.groups.v2[: -len(self.cluster.groups.name) - 1]
        return [
            "sh",
            "-c",
            'echo $$ >"$0/cgroup.procs" && exec "$@"',
            root + group,
            "nsenter",
            "--target",
            str(pid),
            "--net",
            *map(str, argv),
        ]

    def get(self, address, port=8080, path="/", seconds=5, check=True):
        """The body of an HTTP answer; check=False: empty if there is none."""
        host = f"[{address}]" if ":" in address else address
        r = self.run(
            "curl", "-sS", "--noproxy", "*", "-m", seconds, f"http://{host}:{port}{path}", check=check
        )
        return r.stdout.strip() if r.returncode == 0 else ""
