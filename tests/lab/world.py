# SPDX-License-Identifier: Apache-2.0
"""The lab's machine park: what is made, with its fixed names, and how every trace of it goes away again.

    bruma-lab-n1   web (client), cart (redis), intruder        bruma-lab-n2   shop (nginx), outside (nginx, not in the mesh)
                   books-2 (nginx)                                            books-1 (nginx), waypoint (Envoy)

Everything is in namespaces bruma-lab-*, in /run/bruma-lab, in a cgroup "bruma-lab" and in a pin directory
"bruma-lab".
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import time

from support import kernel, network
from support.nodes.cni_node import CniNode
from support.nodes.mesh_file import MeshFile
from support.proxies import waypoint
from support.system import Failed, run, wait_for

PREFIX = "bruma-lab-"
RUN = "/run/bruma-lab"
STATE = f"{RUN}/state.json"
PODS = ("web", "cart", "intruder", "shop", "outside", "books-1", "books-2", "waypoint")
NAMESPACES = [PREFIX + name for name in ("n1", "n2", *PODS)]
VIP4, VIP6 = "10.96.0.20", "fd96::20"
HOST = "shop.store.svc.cluster.local"
BOOKS4, BOOKS6 = "10.96.0.30", "fd96::30"
DOWNLOAD_BYTES = 48 * 1024 * 1024  # more than all buffers between server and client hold


class World:
    def __init__(self, build):
        self.build, self.mesh, self.apps = build, MeshFile(), []
        self.secret = "card-" + secrets.token_hex(16)  # what must not be seen between the nodes
        self.mesh_file = f"{RUN}/mesh.yaml"
        self.state = {
            "pids": {},
            "mounts": [],
            "cgroup": None,
            "pins": None,
            "first_netns": not network.is_mounted(),
        }

    # ---- up ----

    def create(self):
        os.makedirs(RUN, mode=0o755)
        cgroup_root, mounted = kernel.cgroup2_root(f"{RUN}/cgroup2")
        if mounted:
            self.state["mounts"].append(cgroup_root)
        pin_root, mounted = kernel.bpf_root(f"{RUN}/bpf")
        if mounted:
            self.state["mounts"].append(pin_root)
        self.state["cgroup"], self.state["pins"] = f"{cgroup_root}/bruma-lab", f"{pin_root}/bruma-lab"
        self.save()
        kernel.cgroup_create(self.state["cgroup"])
        os.makedirs(self.state["pins"], exist_ok=True)
        run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", f"{RUN}/ca-key.pem"])
        os.chmod(f"{RUN}/ca-key.pem", 0o600)
        self.n1, self.n2 = (
            CniNode(
                f"n{i}",
                i,
                PREFIX,
                f"{RUN}/n{i}",
                f"{self.state['pins']}/n{i}",
                f"{self.state['cgroup']}/n{i}",
                self.build,
                self.mesh_file,
                f"{RUN}/ca-key.pem",
                tied=False,
                subnet4="10.71",
                subnet6="fd71",
            )
            for i in (1, 2)
        )
        for node in (self.n1, self.n2):
            node.create()
            with open(f"{node.directory}/10-pods.conflist", "w") as f:
                json.dump(node.conflist(), f, indent=2)
        self.n1.connect(self.n2)

    def write_mesh(self):
        m, n1, n2 = self.mesh, self.n1, self.n2
        m.namespace("store")
        m.namespace("visitors")
        m.service("store", "shop", [VIP4, VIP6], {80: 8080})
        only_web = m.policy("store", "only-web", [[[{"principals": [m.principal("store", "web")]}]]])
        m.workload("store", "web", n1.pod_addresses(10), "n1", "web")
        m.workload("store", "cart", n1.pod_addresses(11), "n1", "cart", policies=[only_web])
        m.workload("visitors", "intruder", n1.pod_addresses(12), "n1", "intruder")
        m.workload(
            "store",
            "shop",
            n2.pod_addresses(10),
            "n2",
            "shop",
            policies=[only_web],
            services={f"store/{HOST}": {80: 8080}},
        )
        m.write(self.mesh_file)

    def start(self):
        for node in (self.n1, self.n2):
            node.start_agent(verify_interval="1s", drain_grace="300ms")
            self.record(node.agent)
        for node in (self.n1, self.n2):
            node.start_proxy(wait=False)
            self.record(node.proxy)
        for node in (self.n1, self.n2):
            node.wait_proxy()

    def create_pods(self):
        self.web = self.n1.create_pod("store", "web", "web", 10)
        self.cart = self.n1.create_pod("store", "cart", "cart", 11)
        self.intruder = self.n1.create_pod("visitors", "intruder", "intruder", 12)
        self.shop = self.n2.create_pod("store", "shop", "shop", 10)
        self.outside = self.n2.create_pod("elsewhere", "outside", "default", 11)
        self.mesh_pods = (self.web, self.cart, self.intruder, self.shop)

    def start_apps(self):
        for pod in (self.shop, self.outside):
            self._start_nginx(pod)
        log = f"{RUN}/redis.log"
        self.apps.append(
            self.cart.popen(
                "redis-server",
                "--bind",
                "0.0.0.0",
                "::",
                "--port",
                "6379",
                "--protected-mode",
                "no",
                "--save",
                "",
                "--appendonly",
                "no",
                "--dir",
                RUN,
                "--daemonize",
                "no",
                log=log,
                tied=False,
            )
        )
        for pod, port in ((self.shop, 8080), (self.outside, 8080), (self.cart, 6379)):
            wait_for(
                lambda pod=pod, port=port: f":{port} " in run(["ss", "-Hltn"], netns=pod.netns).stdout,
                f"the server in {pod.name} to listen on {port}",
                log=f"{RUN}/{pod.name}-nginx.log",
            )

    def add_waypoint(self, envoy):
        """A service of two versions behind an Envoy, and pods that accept nobody but it."""
        m, n1, n2 = self.mesh, self.n1, self.n2
        gate = m.service("store", "waypoint", ["10.96.0.31"], {15008: 15008})
        books = m.service(
            "store",
            "books",
            [BOOKS4, BOOKS6],
            {80: 8080},
            waypoint={"destination": gate, "hboneMtlsPort": 15008},
        )
        only = m.policy("store", "only-waypoint", [[[{"principals": [m.principal("store", "waypoint")]}]]])
        for name, node, host in (("books-1", n2, 12), ("books-2", n1, 13)):
            m.workload(
                "store",
                name,
                node.pod_addresses(host),
                node.name,
                "books",
                policies=[only],
                services={books: {80: 8080}},
            )
        m.workload(
            "store",
            "waypoint",
            n2.pod_addresses(13),
            "n2",
            "waypoint",
            services={gate: {15008: 15008}},
            labels={"istio.io/dataplane-mode": "none"},
        )
        m.write(self.mesh_file)
        self.books = [
            n2.create_pod("store", "books-1", "books", 12),
            n1.create_pod("store", "books-2", "books", 13),
        ]
        self.gate = n2.create_pod("store", "waypoint", "waypoint", 13)
        for pod in self.books:
            self._start_nginx(pod)
        directory = f"{RUN}/waypoint"
        os.makedirs(directory)
        identities = f"spiffe://{m.trust_domain}/ns/store/"
        waypoint.certificate(directory, f"{n2.run_dir}/control", f"{RUN}/ca-key.pem", identities)
        self.envoy = waypoint.Waypoint(
            envoy,
            directory,
            self.gate.netns,
            self.gate.cgroup,
            tied=False,
            identities=identities,
            vip4=BOOKS4,
            vip6=BOOKS6,
            v1=self.books[0].ip,
            v2=self.books[1].ip,
        )
        self.envoy.start()

    def _start_nginx(self, pod):
        directory = f"{RUN}/{pod.name}"
        os.makedirs(f"{directory}/www", exist_ok=True)
        with open(f"{directory}/www/index.html", "w") as f:
            f.write(f"this is {pod.name}; {self.secret}\n")
        if pod is self.shop:
            with open(f"{directory}/www/download", "wb") as f:
                f.write(os.urandom(DOWNLOAD_BYTES))
        places = "".join(
            f"  {kind}_temp_path {directory}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        with open(f"{directory}/nginx.conf", "w") as f:
            f.write(
                f"user root;\ndaemon off;\nworker_processes 1;\npid {directory}/nginx.pid;\nerror_log stderr;\n"
                "events { worker_connections 256; }\n"
                "http {\n  log_format lab '$remote_addr $request_uri $status';\n"
                f"  access_log {directory}/access.log lab;\n{places}"
                f"  server {{ listen 8080; listen [::]:8080; root {directory}/www; }}\n}}\n"
            )
        self.apps.append(
            pod.popen(
                "nginx",
                "-c",
                f"{directory}/nginx.conf",
                "-e",
                "stderr",
                log=f"{RUN}/{pod.name}-nginx.log",
                tied=False,
            )
        )

    def server_saw(self, pod):
        """Client addresses in the access log of a pod's nginx."""
        with open(f"{RUN}/{pod.name}/access.log") as f:
            return [line.split()[0] for line in f]

    # ---- what must be remembered for down ----

    def record(self, process):
        self.state["pids"][str(process.pid)] = start_time(process.pid)
        self.save()

    def save(self):
        with open(STATE + ".new", "w") as f:
            json.dump(self.state, f)
        os.rename(STATE + ".new", STATE)


def start_time(pid):
    """When the process began, so that another one with its number is not taken for it."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rpartition(")")[2].split()[19]
    except OSError:
        return None


def is_there():
    return os.path.exists(RUN) or bool(set(network.names(PREFIX)) & set(NAMESPACES))


def down():
    """Removes every trace, whatever is there. Returns what could not be removed, as texts."""
    state = {"pids": {}, "mounts": [], "cgroup": None, "pins": None, "first_netns": False}
    trouble = []
    try:
        with open(STATE) as f:
            state.update(json.load(f))
    except FileNotFoundError:
        pass
    except ValueError as e:
        trouble.append(f"{STATE} cannot be read: {e}")
    cgroups = [state["cgroup"]] if state["cgroup"] else [f"{m}/bruma-lab" for m in kernel.mounts("cgroup2")]
    pids = {int(pid) for pid, began in state["pids"].items() if began and start_time(int(pid)) == began}
    for cgroup in cgroups:
        for base, _, _ in os.walk(cgroup):
            pids |= set(kernel.cgroup_processes(base))
    trouble += _end(pids)
    pins = [state["pins"]] if state["pins"] else [f"{m}/bruma-lab" for m in kernel.mounts("bpf")]
    for what, function, arguments in (
        [(f"pins {p}", kernel.remove_pins, (p,)) for p in pins]
        + [(f"namespace {n}", network.delete, (n,)) for n in NAMESPACES if network.exists(n)]
        + [(f"cgroup {c}", kernel.cgroup_remove, (c,)) for c in cgroups]
        + [(f"mount {m}", kernel.unmount, (m,)) for m in state["mounts"] if m.startswith(RUN)]
    ):
        try:
            function(*arguments)
        except (OSError, Failed) as e:
            trouble.append(f"{what}: {e}")
    if os.path.exists(RUN):
        if any(m.startswith(RUN) for fs in ("cgroup2", "bpf") for m in kernel.mounts(fs)):
            trouble.append(f"{RUN} is left, something is still mounted below it")
        else:
            shutil.rmtree(RUN)
    trouble += [f"namespace {n} is still there" for n in NAMESPACES if network.exists(n)]
    if state["first_netns"] and not network.names():
        network.unmount()
    return trouble


def _end(pids):
    """SIGTERM, then SIGKILL for those that take more than a few seconds."""
    for sig, patience in ((signal.SIGTERM, 4), (signal.SIGKILL, 4)):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, sig)
        deadline = time.monotonic() + patience
        while pids and time.monotonic() < deadline:
            pids = {pid for pid in pids if _alive(pid)}
            time.sleep(0.02)
        if not pids:
            return []
    return [f"process {pid} does not end" for pid in sorted(pids)]


def _alive(pid):
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)  # one of ours, if the lab is still running
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
