# SPDX-License-Identifier: Apache-2.0
"""The test cluster: a real Kubernetes on this machine, its control plane in one network namespace, each node
in namespaces of its own. Nothing is added to the machine's own network."""

import os
import shutil
import signal
import tempfile
import threading

import images
import plan
from api import Api, Refused
from groups import Groups
from keys import Keys
from machine import Folders, Machine
from pods import KubePod
from support import network
from support.system import Failed, Process, run, wait_for, wait_for_process

AMBIENT = "istio.io/dataplane-mode"


class Cluster:
    """peers: the directory of programs that peers.sh has built."""

    def __init__(self, build, peers, nodes=2):
        self.build, self.peers = build, peers
        self.prefix = f"bruma-{os.getpid()}-"
        self.directory = tempfile.mkdtemp(prefix=self.prefix)
        self.kubelet = f"{self.directory}/kubelet"
        self.netns = f"{self.prefix}control"
        self.numbers = range(1, nodes + 1)
        self.groups = Groups(self.prefix.rstrip("-"))
        self.folders = Folders()
        self.processes = {}
        self.watchers = []
        self.keys = self._make_keys()
        self.nodes = {f"n{n}": Machine(self, n) for n in self.numbers}
        self.kubeconfig = self.keys.path("admin.conf")
        self.api = Api(
            self.netns, self.keys.path("ca.crt"), self.keys.path("admin.crt"), self.keys.path("admin.key")
        )

    def _make_keys(self):
        keys = Keys(f"{self.directory}/keys")
        keys.make(
            "apiserver",
            "kube-apiserver",
            addresses=[plan.CONTROL4, plan.API_SERVICE, "127.0.0.1"],
            names=["kubernetes.default.svc", "kubernetes.default", "localhost"],
        )
        keys.make("admin", "admin", "system:masters")
        for name in ("controller-manager", "scheduler", "proxy"):
            keys.make(f"kube-{name}", f"system:kube-{name}")
        for n in self.numbers:
            keys.make(f"n{n}", f"system:node:n{n}", "system:nodes", [plan.node4(n)], [f"n{n}"])
        return keys

    # ---- begin and end ----

    def start(self):
        archives = images.make_app(self.directory, self.build)
        # A program of its own, as on every node: whose program is called otherwise is not believed to be the
        # kubelet.
        run(["cp", "-L", f"{self.peers}/kubelet", self.kubelet])
        self._make_network()
        self.groups.create()
        self._start_etcd()
        self.start_api()
        self.start_controllers()
        self.api.apply(
            {
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "ClusterRoleBinding",
                "metadata": {"name": "node-proxiers"},
                "roleRef": {
                    "apiGroup": "rbac.authorization.k8s.io",
                    "kind": "ClusterRole",
                    "name": "system:node-proxier",
                },
                "subjects": [
                    {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "system:kube-proxy"}
                ],
            }
        )
        self._start_names()
        for node in self.nodes.values():
            node.boot()
        for node in self.nodes.values():
            node.load(*archives)
        for name in self.nodes:
            self.wait_node(name)

    def close(self):
        """Everything, whatever state it is in. Returns what did not go as it should, as texts."""
        trouble = []
        steps = [node.power_off for node in self.nodes.values()]
        steps += [p.kill for p in reversed(self.processes.values())]
        steps += [lambda: network.delete(self.netns), self.groups.remove, self.folders.remove]
        for step in steps:
            try:
                step()
            except (Failed, OSError) as e:
                trouble.append(str(e))
        for w in self.watchers:
            w.join(10)
        return trouble

    def remove_files(self):
        shutil.rmtree(self.directory, ignore_errors=True)

    def _make_network(self):
        network.create(self.netns)
        run(["ip", "-n", self.netns, "link", "add", "wire", "type", "bridge"])
        network.address(self.netns, "wire", f"{plan.CONTROL4}/24")
        network.address(self.netns, "wire", f"{plan.CONTROL6}/64")
        run(["ip", "-n", self.netns, "link", "set", "wire", "up"])

    def _start(self, name, argv, program=None):
        self.processes[name] = Process(
            [program or f"{self.peers}/{name}", *argv], f"{self.directory}/{name}.log", netns=self.netns
        )
        return self.processes[name]

    def _start_etcd(self):
        client, peer = "http://127.0.0.1:2379", "http://127.0.0.1:2380"
        self._start(
            "etcd",
            [
                "--name",
                "test",
                "--data-dir",
                f"{self.directory}/etcd",
                "--unsafe-no-fsync",
                "--listen-client-urls",
                client,
                "--advertise-client-urls",
                client,
                "--listen-peer-urls",
                peer,
                "--initial-advertise-peer-urls",
                peer,
                "--initial-cluster",
                f"test={peer}",
            ],
            "etcd",
        )

    def start_api(self):
        key = self.keys.path
        # A name in the API's netns: webhooks go to pods' addresses, for no kube-proxy runs there.
        p = self._start(
            "kube-apiserver",
            [
                "--etcd-servers=http://127.0.0.1:2379",
                f"--bind-address={plan.CONTROL4}",
                f"--advertise-address={plan.CONTROL4}",
                f"--secure-port={plan.API_PORT}",
                f"--service-cluster-ip-range={plan.SERVICES}",
                "--authorization-mode=Node,RBAC",
                "--allow-privileged=true",
                "--enable-admission-plugins=NodeRestriction",
                f"--client-ca-file={key('ca.crt')}",
                f"--tls-cert-file={key('apiserver.crt')}",
                f"--tls-private-key-file={key('apiserver.key')}",
                f"--kubelet-client-certificate={key('admin.crt')}",
                f"--kubelet-client-key={key('admin.key')}",
                f"--kubelet-certificate-authority={key('ca.crt')}",
                "--kubelet-preferred-address-types=InternalIP",
                "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
                f"--service-account-key-file={key('sa.key')}",
                f"--service-account-signing-key-file={key('sa.key')}",
                "--profiling=false",
                "--enable-aggregator-routing=true",
                # Of etcd 3.4 it cannot know how far it is behind, and who has seen more is told for a minute
                # to come later.
                "--watch-cache=false",
            ],
        )
        wait_for_process(p, lambda: self.api("GET", "/readyz") == "ok", "the API server to be ready", 90, 0.1)

    def stop_api(self):
        self.processes["kube-apiserver"].kill(signal.SIGKILL)

    def start_controllers(self):
        for name in ("kube-controller-manager", "kube-scheduler"):
            config = self.keys.path(f"{name}.conf")
            arguments = [
                f"--kubeconfig={config}",
                f"--authentication-kubeconfig={config}",
                f"--authorization-kubeconfig={config}",
                "--bind-address=127.0.0.1",
                "--leader-elect=false",
                "--kube-api-qps=100",
                "--kube-api-burst=200",
            ]
            if name == "kube-controller-manager":
                arguments += [
                    "--use-service-account-credentials=true",
                    f"--root-ca-file={self.keys.path('ca.crt')}",
                    f"--service-account-private-key-file={self.keys.path('sa.key')}",
                ]
            self._start(name, arguments)

    # ---- names of services ----

    def _start_names(self):
        """dnsmasq, told of each Service as a file of its directory."""
        self.names = f"{self.directory}/names"
        os.makedirs(self.names)
        self._start(
            "dnsmasq",
            [
                "--keep-in-foreground",
                "--no-resolv",
                "--no-hosts",
                "--local=/cluster.local/",
                "--local=/svc/",
                "--user=root",
                "--conf-file=/dev/null",
                "--pid-file",
                f"--listen-address={plan.CONTROL4}",
                "--bind-interfaces",
                f"--hostsdir={self.names}",
            ],
            "dnsmasq",
        )
        thread = threading.Thread(target=self._follow_services, daemon=True)
        thread.start()
        self.watchers.append(thread)

    def _follow_services(self):
        while self.processes["etcd"].alive():
            try:
                for kind, service in self.api.watch("/api/v1/services", 5):
                    if kind in ("ADDED", "MODIFIED"):
                        self._write_names(service)
            except (OSError, ValueError, Failed):
                pass  # the API server is away, or said nothing for a while: from the beginning

    def _write_names(self, service):
        meta = service["metadata"]
        name = f"{meta['name']}.{meta['namespace']}.svc"
        text = "".join(
            f"{ip} {name}.cluster.local {name}\n"
            for ip in service["spec"].get("clusterIPs", [])
            if ip != "None"
        )
        path = f"{self.names}/{meta['namespace']}_{meta['name']}"
        try:
            with open(path) as f:
                if f.read() == text:
                    return
        except FileNotFoundError:
            pass
        with open(f"{self.directory}/name", "w") as f:
            f.write(text)
        os.rename(f"{self.directory}/name", path)

    # ---- objects ----

    def kubectl(self, *argv, **options):
        return run(
            [f"{self.peers}/kubectl", "--kubeconfig", self.kubeconfig, *argv], netns=self.netns, **options
        )

    def helm(self, *argv, timeout=180, **options):
        env = {
            **os.environ,
            "HELM_CACHE_HOME": f"{self.directory}/helm",
            "HELM_CONFIG_HOME": f"{self.directory}/helm",
            "HELM_DATA_HOME": f"{self.directory}/helm",
        }
        return run(
            [f"{self.peers}/helm", "--kubeconfig", self.kubeconfig, *argv],
            netns=self.netns,
            timeout=timeout,
            env=env,
            **options,
        )

    def wait_node(self, name, ready=True, timeout=60):
        def there():
            conditions = {
                c["type"]: c["status"] for c in self.api.get("Node", name)["status"].get("conditions", [])
            }
            return (conditions.get("Ready") == "True") == ready

        wait_for(
            there,
            f"node {name} to be {'ready' if ready else 'not ready'}",
            timeout,
            0.1,
            f"{self.directory}/{name}/kubelet.log",
        )

    def namespace(self, name, accounts=("default",), **labels):
        self.api.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}},
            *[
                {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": a, "namespace": name}}
                for a in accounts
                if a != "default"
            ],
        )
        wait_for(
            lambda: self.api.get("ServiceAccount", "default", name),
            f"the service account of {name}",
            20,
            0.05,
        )
        wait_for(lambda: self.api.get("ConfigMap", "kube-root-ca.crt", name), f"the CA of {name}", 20, 0.05)

    def label(self, namespace, mode):
        """mode: ambient, or None for no label."""
        self.api.merge("Namespace", namespace, {"metadata": {"labels": {AMBIENT: mode}}})

    def delete_namespace(self, name):
        for pod in self.api.list("Pod", name):
            self.api.delete("Pod", pod["metadata"]["name"], name, grace=0)
        self.api.delete("Namespace", name)

        def gone():
            try:
                self.api.get("Namespace", name)
            except Refused as e:
                return e.status == 404
            return False

        wait_for(gone, f"namespace {name} to go", 60, 0.1)

    def pod(self, namespace, name, node, account="default", wait=True, **more):
        """A pod of the application; see pods.spec."""
        pod = KubePod(self, namespace, name, node, account)
        pod.create(**more)
        return pod.wait_ready() if wait else pod

    def service(self, namespace, name, selector, port=80, target=8080):
        """Returns its addresses."""
        made = self.api.apply(
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": name, "namespace": namespace},
                "spec": {
                    "ipFamilyPolicy": "PreferDualStack",
                    "selector": selector,
                    "ports": [{"name": "http", "port": port, "targetPort": target, "protocol": "TCP"}],
                },
            }
        )
        return made["spec"]["clusterIPs"]
