# SPDX-License-Identifier: Apache-2.0
"""A node of the test cluster: network, mount, process and host name namespaces of its own on this machine,
and in them containerd, kubelet and kube-proxy. It may lose its power and be booted again: its disk stays,
everything else is gone."""

import errno
import json
import os
import re
import signal

import images
import layout
import plan
from support import network
from support.system import Failed, Process, run, wait_for

# Directories that a node has of its own, kept over a boot. /run is not kept.
DISK = [
    *dict.fromkeys(("/etc/cni", "/opt/cni", layout.CONF, layout.BIN, *layout.SOCKET_DISK)),
    "/var/lib/cni",
    "/var/lib/kubelet",
    "/var/lib/containerd",
    "/var/log/pods",
    "/var/log/containers",
]

# The first process of a node. /run is a new file system at each boot, as on a real machine; the BPF file
# system as well.
INIT = """
set -e
disk=$1 name=$2 app=$3 group=$4 own_group=$5 socket=$6
shift 6
hostname "$name"
# Copies of other people's namespaces would keep those alive.
umount -R -l /run/netns 2>/dev/null || true
mount --make-rshared /
for d; do
    mount --bind "$disk$d" "$d"
    mount --make-rshared "$d"
done
mount -t tmpfs -o mode=755 bruma /run
mkdir -p /run/netns /run/containerd /run/lock "$(dirname "$socket")"
mount --make-rshared /run
mount -t bpf bpf /sys/fs/bpf
mount --bind "$group" "$own_group"
touch "$disk/booted"
exec "$app" pause
"""


# No two hosts have one address here, and to make sure of that would hold up each pod's start by one or two
# seconds.
PTP = """#!/bin/sh
if [ "$CNI_COMMAND" = ADD ]; then
    nsenter --net="$CNI_NETNS" sh -c 'echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad'
fi
exec "${0%/*}/ptp.program"
"""


class Folders:
    """Directories of the machine that nodes mount their own over. Those that were not there go at the end."""

    def __init__(self):
        self.made = []
        for path in DISK:
            part = ""
            for name in path.strip("/").split("/"):
                part += f"/{name}"
                if not os.path.isdir(part):
                    os.mkdir(part)
                    self.made.append(part)

    def remove(self):
        for path in reversed(self.made):
            try:
                os.rmdir(path)
            except OSError as e:
                if e.errno != errno.ENOTEMPTY:  # somebody else has begun to use it
                    raise


class Machine:
    def __init__(self, cluster, number):
        self.cluster, self.number, self.name = cluster, number, f"n{number}"
        self.netns = f"{cluster.prefix}{self.name}"
        self.directory = f"{cluster.directory}/{self.name}"
        self.disk = f"{self.directory}/disk"
        self.ip, self.ip6 = plan.node4(number), plan.node6(number)
        self.init = None
        self.pid = None  # of the first process of the node, as the machine sees it
        self.programs = {}
        for d in DISK:
            os.makedirs(self.disk + d)

    # ---- power ----

    def boot(self, before=None):
        """before: called when the node is up and none of its programs runs yet."""
        self._link()
        self.cluster.groups.create(self.name)
        self._start_init()
        if not os.path.exists(self.disk + layout.CONFLIST):
            self._install()
        if before:
            before()
        self.start_containerd()
        self.start_kubelet()
        self.start("kube-proxy", [f"{self.cluster.peers}/kube-proxy", "--config", self._write_proxy_config()])

    def power_off(self):
        """Nothing ends gracefully."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            self.init.wait(10)
        for program in self.programs.values():
            program.kill()
        self.programs, self.pid, self.init = {}, None, None
        # The link by hand: the kernel takes a dead namespace apart at its leisure.
        run(["ip", "-n", self.cluster.netns, "link", "del", f"to-{self.name}"], check=False)
        network.delete(self.netns)
        self.cluster.groups.remove(self.name)

    def _link(self):
        control, n = self.cluster.netns, self.netns
        network.create(n)
        network.sysctl(n, {"net.ipv4.ip_forward": 1, "net.ipv6.conf.all.forwarding": 1})
        run(
            [
                "ip",
                "-n",
                control,
                "link",
                "add",
                f"to-{self.name}",
                "type",
                "veth",
                "peer",
                "name",
                "eth0",
                "netns",
                n,
            ]
        )
        run(["ip", "-n", control, "link", "set", f"to-{self.name}", "master", "wire", "up"])
        run(["ip", "-n", n, "link", "set", "eth0", "up"])
        network.address(n, "eth0", f"{self.ip}/24")
        network.address(n, "eth0", f"{self.ip6}/64")
        network.route(n, "default", plan.CONTROL4)
        network.route(n, "default", plan.CONTROL6)
        for other in self.cluster.numbers:
            gates = (plan.node4(other), plan.node6(other))
            for pods, gate in zip((plan.pods4(other), plan.pods6(other)), gates, strict=True):
                where = control if other == self.number else n
                run(
                    [
                        "ip",
                        "-n",
                        where,
                        *(["-6"] if ":" in gate else []),
                        "route",
                        "replace",
                        pods,
                        "via",
                        gate,
                    ]
                )

    def _start_init(self):
        booted = f"{self.disk}/booted"
        if os.path.exists(booted):
            os.unlink(booted)
        app = f"{self.cluster.build}/tests/cluster/cluster-app"
        self.init = Process(
            [
                "unshare",
                "--mount",
                "--uts",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
                "--propagation",
                "private",
                "sh",
                "-c",
                INIT,
                "init",
                self.disk,
                self.name,
                app,
                f"{self.cluster.groups.v2}/{self.name}",
                self.cluster.groups.of_node,
                layout.SOCKET,
                *DISK,
            ],
            f"{self.directory}/init.log",
            netns=self.netns,
        )
        wait_for(lambda: os.path.exists(booted), f"node {self.name} to boot", 10, log=self.init.log)
        with open(f"/proc/{self.init.pid}/task/{self.init.pid}/children") as f:
            self.pid = int(f.read().split()[0])

    # ---- in the node ----

    def inside(self, argv):
        return ["nsenter", "--target", str(self.pid), "--net", "--mount", "--pid", "--uts", *map(str, argv)]

    def run(self, argv, **options):
        return run(self.inside(argv), **options)

    def start(self, name, argv, cgroup=None, env=None):
        """A program of the node, which ends with the node or with this test run."""
        argv = ["setpriv", "--pdeathsig", "KILL", *argv]
        if env:
            argv = ["env", *[f"{k}={v}" for k, v in env.items()], *argv]
        if cgroup:  # the program alone, not nsenter that waits for it
            argv = ["sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"', cgroup, *argv]
        self.programs[name] = Process(self.inside(argv), f"{self.directory}/{name}.log")
        return self.programs[name]

    def stop(self, name, sig=signal.SIGTERM):
        """Ends the program itself, not nsenter, which waits for it."""
        program = self.programs.pop(name)
        with open(f"/proc/{program.pid}/task/{program.pid}/children") as f:
            for child in f.read().split():
                os.kill(int(child), sig)
        program.wait(20)

    def pid_of(self, name):
        program = self.programs[name]
        with open(f"/proc/{program.pid}/task/{program.pid}/children") as f:
            return int(f.read().split()[0])

    def path(self, path):
        """A file of the node, for this test: /etc/cni/..., /run/..."""
        return f"/proc/{self.pid}/root{path}"

    # ---- containerd ----

    def _install(self):
        os.makedirs(f"{self.disk}{layout.BIN}", exist_ok=True)
        os.makedirs(
            f"{self.disk}/opt/cni/first", exist_ok=True
        )  # empty, but for wrappers that measure a plugin
        os.makedirs(f"{self.disk}{layout.CONF}", exist_ok=True)
        for plugin, name in (
            ("ptp", "ptp.program"),
            ("host-local", "host-local"),
            ("portmap", "portmap"),
            ("loopback", "loopback"),
        ):
            run(["cp", f"{self.cluster.peers}/cni/{plugin}", f"{self.disk}{layout.BIN}/{name}"])
        with open(f"{self.disk}{layout.BIN}/ptp", "w") as f:
            f.write(PTP)
        os.chmod(f"{self.disk}{layout.BIN}/ptp", 0o755)
        n = self.number
        with open(self.disk + layout.CONFLIST, "w") as f:
            # ptp and not bridge: pods of a node reach each other through its routing, so Services need no
            # br_netfilter.
            json.dump(
                {
                    "cniVersion": "1.1.0",
                    "name": "test",
                    "plugins": [
                        {
                            "type": "ptp",
                            "ipMasq": False,
                            "mtu": 1500,
                            "ipam": {
                                "type": "host-local",
                                "ranges": [[{"subnet": plan.pods4(n)}], [{"subnet": plan.pods6(n)}]],
                                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
                            },
                        },
                        {"type": "portmap", "capabilities": {"portMappings": True}},
                    ],
                },
                f,
                indent=2,
            )
        with open(self.disk + layout.CONFLIST, "rb") as f:
            self.conflist = f.read()

    def start_containerd(self):
        config = f"{self.directory}/containerd.toml"
        fs = run(["stat", "-f", "-c", "%T", self.disk]).stdout.strip()
        with open(config, "w") as f:
            f.write(f"""version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "{layout.SOCKET}"
[plugins."io.containerd.internal.v1.opt"]
  path = "/var/lib/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{images.PAUSE}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{"native" if fs in ("overlayfs", "tmpfs") else "overlayfs"}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dirs = ["/opt/cni/first", "{layout.BIN}"]
    conf_dir = "{layout.CONF}"
""")
        self.start(
            "containerd",
            [f"{self.cluster.peers}/containerd", "--config", config],
            cgroup=self.cluster.groups.of_program(self.name, "containerd"),
            env={"PATH": f"{self.cluster.peers}:{os.environ['PATH']}"},
        )
        wait_for(
            lambda: self.ctr("version"),
            f"containerd of {self.name}",
            20,
            0.1,
            self.programs["containerd"].log,
        )

    def ctr(self, *argv):
        return self.run(
            [f"{self.cluster.peers}/ctr", "-a", layout.SOCKET, "-n", "k8s.io", *argv], timeout=120
        ).stdout

    def load(self, *archives):
        for archive in archives:
            self.ctr("images", "import", "--local", archive)

    # ---- kubelet and kube-proxy ----

    def start_kubelet(self, group="kubelet"):
        self.start(
            "kubelet",
            [
                self.cluster.kubelet,
                "--config",
                self._write_kubelet_config(),
                "--kubeconfig",
                self.cluster.keys.path(f"{self.name}.conf"),
                "--hostname-override",
                self.name,
                "--node-ip",
                f"{self.ip},{self.ip6}",
            ],
            cgroup=self.cluster.groups.of_program(self.name, group),
        )

    def _write_kubelet_config(self):
        keys = self.cluster.keys
        resolv = f"{self.directory}/resolv.conf"
        with open(resolv, "w") as f:
            f.write(f"nameserver {plan.CONTROL4}\n")
        os.makedirs(f"{self.disk}/var/lib/kubelet/manifests", exist_ok=True)
        # The limits are for machines whose disk is nearly full; kubelets of one machine must not share a
        # cgroupRoot.
        config = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": self.ip,
            "containerRuntimeEndpoint": f"unix://{layout.SOCKET}",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": keys.path("ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": keys.path(f"{self.name}.crt"),
            "tlsPrivateKeyFile": keys.path(f"{self.name}.key"),
            "failCgroupV1": False,
            "failSwapOn": False,
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self.cluster.groups.name}/{self.name}",
            "enforceNodeAllocatable": ["pods"],
            "clusterDomain": "cluster.local",
            "clusterDNS": [plan.CONTROL4],
            "resolvConf": resolv,
            "staticPodPath": "/var/lib/kubelet/manifests",
            "volumePluginDir": "/var/lib/kubelet/plugins",
            "healthzBindAddress": "127.0.0.1",
            "localStorageCapacityIsolation": False,
            "evictionHard": {
                "memory.available": "100Mi",
                "nodefs.available": "1%",
                "imagefs.available": "1%",
            },
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "nodeStatusUpdateFrequency": "10s",
            "syncFrequency": "10s",
            "fileCheckFrequency": "1s",
            "kubeAPIQPS": 200,
            "kubeAPIBurst": 400,
            "registerWithTaints": [],
        }
        return self._write("kubelet.json", config)

    def _write_proxy_config(self):
        return self._write(
            "kube-proxy.json",
            {
                "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
                "kind": "KubeProxyConfiguration",
                "clientConnection": {"kubeconfig": self.cluster.keys.path("kube-proxy.conf")},
                "mode": "nftables",
                "clusterCIDR": f"{plan.PODS4},{plan.PODS6}",
                "hostnameOverride": self.name,
                "healthzBindAddress": "127.0.0.1:10256",
                "metricsBindAddress": "127.0.0.1:10249",
                "conntrack": {"maxPerCore": 0},
            },
        )

    def _write(self, name, value):
        path = f"{self.directory}/{name}"
        with open(path, "w") as f:
            json.dump(value, f)
        return path

    # ---- pods of this node ----

    def container_pid(self, uid, init=False):
        """The application's process of a pod, as the machine sees it; init: its pause. Failed if there is
        none."""
        base = f"{self.cluster.groups.v2}/{self.name}"
        for directory, _, _ in os.walk(base):
            if f"/pod{uid}/" not in directory + "/":
                continue
            with open(f"{directory}/cgroup.procs") as f:
                pids = [int(line) for line in f]
            for pid in pids:
                with open(f"/proc/{pid}/cmdline", "rb") as f:
                    words = f.read().split(b"\0")
                if (words[1:2] == [b"pause"]) == init and not re.match(rb"runc", os.path.basename(words[0])):
                    return pid
        raise Failed(f"no process of pod {uid} on {self.name}")
