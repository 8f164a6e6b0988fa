# SPDX-License-Identifier: Apache-2.0
"""A node whose agent and proxy run in the units that are installed, under a real systemd: process 1 of namespaces of its own,
with a cgroup2 tree, /run and programs that the test may replace.

    with Mesh(nodes=2, node_kinds=[SystemdNode]) as mesh: ...
"""

import os
import shutil

from support.nodes.mesh import MeshNode
from support.system import Process, run, wait_for

SYSTEMD = "/lib/systemd/systemd"
# /tmp and /root are where a test's files are, so these two of the sandbox's walls are left out.
DROP_IN = """
[Unit]
DefaultDependencies=no
[Service]
PrivateTmp=no
ReadWritePaths={run_dir}
StandardOutput=append:{log}
StandardError=append:{log}
"""
NAMESPACES = ("unshare", "--cgroup", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
BOOT = """
set -e
root=$0 units=$1 cgroup=$2 netns=$3
mkdir -p "$root/pods"
mount --make-rprivate /
mount --bind "$cgroup" "$root/pods"
mount -t cgroup2 bruma /sys/fs/cgroup
mkdir -p "$root/netns"
mount --rbind /run/netns "$root/netns"
mount -t tmpfs bruma /run
mkdir -p /run/netns
mount --rbind "$root/netns" /run/netns
exec env -i container=bruma PATH=/usr/sbin:/usr/bin:/sbin:/bin SYSTEMD_UNIT_PATH="$units" SYSTEMD_LOG_TARGET=console \\
    nsenter --net="/run/netns/$netns" /lib/systemd/systemd --system --unit=idle.target
"""


class Unit:
    """Of a node: what a test does with a Process, where that makes sense."""

    def __init__(self, node, name, log):
        self.node, self.name, self.log = node, name, log

    def show(self, key):
        return self.node.systemctl("show", "--property", key, "--value", self.name).stdout.strip()

    @property
    def pid(self):
        """Of the main process, in the node's own process IDs."""
        return int(self.show("MainPID"))

    def alive(self):
        return self.show("ActiveState") in ("active", "reloading")

    def text(self):
        with open(self.log, errors="replace") as f:
            return f.read()

    def last_words(self, lines=3):
        return " / ".join(self.text().splitlines()[-lines:])

    def kill(self):
        """It ends with its node."""


class SystemdNode(MeshNode):
    def __init__(self, mesh, number):
        super().__init__(mesh, number)
        self.root = f"{mesh.dir}/systemd{number}"
        self.units, self.etc = f"{self.root}/units", f"{self.root}/etc"
        self.own_cgroup = f"{os.path.dirname(mesh.cgroup)}/{mesh.prefix}-systemd{number}"
        self.boot, self.manager = None, 0

    def installed(self, name):
        return f"{self.root}/installed/usr/sbin/{name}"

    def create(self):
        super().create()
        installed, destination = f"{self.root}/installed", f"{self.units}/idle.target"
        run(
            ["meson", "install", "-C", self.build, "--no-rebuild", "--quiet", "--destdir", installed],
            timeout=120,
        )
        os.makedirs(self.etc)
        os.makedirs(self.own_cgroup)
        os.makedirs(self.units)
        with open(destination, "w") as f:
            f.write("[Unit]\nDefaultDependencies=no\n")
        for name, log in (("bruma-agent", self.agent_log), ("bruma-proxy", self.proxy_log)):
            with open(f"{installed}/usr/lib/systemd/system/{name}.service") as f:
                text = f.read()
            with open(f"{self.units}/{name}.service", "w") as f:
                f.write(text.replace("/usr/sbin/", f"{installed}/usr/sbin/").replace("/etc/bruma", self.etc))
            self.drop_in(name, "test", DROP_IN.format(run_dir=self.run_dir, log=log))
        self.boot = Process(
            [*NAMESPACES, "sh", "-c", BOOT, self.root, self.units, self.cgroup, self.netns],
            f"{self.root}/boot.log",
            cgroup=self.own_cgroup,
        )
        self.manager = wait_for(self.find_manager, "systemd to run", log=self.boot.log)
        wait_for(self.answers, "systemd to answer", log=self.boot.log)

    def find_manager(self):
        with open(f"/proc/{self.boot.pid}/task/{self.boot.pid}/children") as f:
            (pid,) = f.read().split()
        return os.readlink(f"/proc/{pid}/exe").endswith("/systemd") and int(pid)

    def answers(self):
        """Before it does, systemctl says by itself that it is offline."""
        said = self.systemctl("is-system-running", check=False).stdout.strip()
        return said not in ("", "offline", "unknown")

    def drop_in(self, name, key, text):
        directory = f"{self.units}/{name}.service.d"
        os.makedirs(directory, exist_ok=True)
        with open(f"{directory}/{key}.conf", "w") as f:
            f.write(text)

    def inside(self, *argv, check=True, timeout=120):
        namespaces = ["--target", self.manager, "--mount", "--pid", "--cgroup", "--net"]
        return run(["nsenter", *namespaces, "--", *argv], check=check, timeout=timeout)

    def systemctl(self, *argv, check=True):
        return self.inside("systemctl", "--no-pager", *argv, check=check)

    def processes(self, name):
        """All of a unit."""
        try:
            with open(f"{self.own_cgroup}/system.slice/{name}.service/cgroup.procs") as f:
                return f.read().split()
        except FileNotFoundError:
            return []

    def argv(self, *options, **settings):
        argv = super().argv(*options, **settings)
        argv[argv.index("--cgroup") + 1] = f"{self.root}/pods" if self.manager else self.cgroup
        return argv

    def start_agent(self, *options, wait=True, **settings):
        self.starts += 1
        _, *arguments = self.argv(*options, **settings)
        quoted = " ".join(f'"{a}"' for a in (self.installed("bruma-agent"), *arguments))
        self.drop_in("bruma-agent", "start", f"[Service]\nExecStart=\nExecStart={quoted}\n")
        self.agent = Unit(self, "bruma-agent", self.agent_log)
        self.systemctl("daemon-reload")
        self.systemctl("start", "bruma-agent")
        if wait:
            self.wait_agent()
        return self.agent

    def set_proxy(self, **env):
        with open(f"{self.etc}/proxy.env", "w") as f:
            f.writelines(f'{name}="{value}"\n' for name, value in {**self.proxy_env(), **env}.items())

    def start_proxy(self, wait=True, **env):
        self.set_proxy(**env)
        self.proxy = Unit(self, "bruma-proxy", self.proxy_log)
        self.systemctl("start", "bruma-proxy")
        if wait:
            self.wait_proxy()
        return self.proxy

    def ctl(self, *argv, check=True):
        return self.inside(self.program("brumactl"), "--run-dir", self.run_dir, *argv, check=check)

    def destroy(self):
        if self.boot:
            self.boot.kill()
            wait_for(lambda: not os.path.exists(f"/proc/{self.manager}"), "systemd to be gone")
        self.manager = 0
        super().destroy()
        for directory, *_ in os.walk(self.own_cgroup, topdown=False):
            os.rmdir(directory)
        shutil.rmtree(self.root)
