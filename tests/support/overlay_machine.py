# SPDX-License-Identifier: Apache-2.0
"""A machine in namespaces of its own, with a real systemd as process 1, whose file system is this machine's with a layer of
memory above: what is installed or removed there, this one does not see.

    with OverlayMachine(directory, cgroup) as machine: machine.run("dpkg", "-i", path)
"""

import os
import shutil

from support import kernel
from support.system import Process, run, wait_for

SYSTEMD = "/lib/systemd/systemd"
NAMESPACES = ("unshare", "--cgroup", "--mount", "--net", "--pid", "--uts", "--ipc", "--fork", "--kill-child")
# Targets without what machines do at boot: nothing here may set sysctls, clocks or devices.
EMPTY = ("sysinit.target", "basic.target", "multi-user.target", "idle.target")
BOOT = """
set -e
layer=$0 root=$0/root
mount --make-rprivate /
mount -t tmpfs -o size=1g bruma "$layer"
mkdir "$layer/upper" "$layer/work" "$root"
mount -t overlay -o "lowerdir=/,upperdir=$layer/upper,workdir=$layer/work" bruma "$root"
mount -t proc bruma "$root/proc"
mount -t sysfs bruma "$root/sys"
mount -t cgroup2 bruma "$root/sys/fs/cgroup"
mount -t bpf bruma "$root/sys/fs/bpf"
mount --rbind /dev "$root/dev"
mount -t tmpfs bruma "$root/run"
mount -t tmpfs bruma "$root/tmp"
mkdir -p "$root/run/netns" "$root/etc/systemd/system" "$root/packages"
mount --bind "$1" "$root/packages"
shift
for target; do
    printf '[Unit]\\nDefaultDependencies=no\\n' >"$root/etc/systemd/system/$target"
done
rm -f "$root/usr/sbin/policy-rc.d"
ip link set lo up
cd "$root"
pivot_root . mnt
umount -l /mnt
exec env -i container=bruma PATH=/usr/sbin:/usr/bin:/sbin:/bin SYSTEMD_LOG_TARGET=console \\
    /lib/systemd/systemd --system --unit=idle.target
"""


def missing(directory):
    """Why there can be no such machine here; None where there can."""
    if not os.path.exists(SYSTEMD):
        return f"{SYSTEMD} is not here"
    script = """
set -e
mount --make-rprivate /
mount -t tmpfs bruma "$0"
mkdir "$0/upper" "$0/work" "$0/root"
mount -t overlay -o "lowerdir=/,upperdir=$0/upper,workdir=$0/work" bruma "$0/root"
"""
    r = run(["unshare", "--mount", "sh", "-c", script, directory], check=False)
    return f"no layer can be put above this machine's files: {r.stderr.strip()}" if r.returncode else None


class OverlayMachine:
    """packages: a directory of this machine, which is /packages there."""

    def __init__(self, directory, packages):
        self.directory, self.packages, self.manager = directory, packages, 0
        self.cgroup = None

    def __enter__(self):
        os.makedirs(self.directory)
        root, self.mounted = kernel.cgroup2_root(f"{self.directory}-cgroup2")
        self.cgroup = f"{root}/bruma-{os.getpid()}-machine"
        os.makedirs(self.cgroup)
        self.boot = Process(
            [*NAMESPACES, "sh", "-c", BOOT, self.directory, self.packages, *EMPTY],
            f"{self.directory}.log",
            cgroup=self.cgroup,
        )
        try:
            self.manager = wait_for(self.find_manager, "systemd to run", log=self.boot.log)
            wait_for(self.answers, "systemd to answer", log=self.boot.log)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc):
        if exc and exc[0]:
            print(self.boot.text()[-3000:])
        self.boot.kill()
        wait_for(
            lambda: not os.path.exists(f"/proc/{self.manager}") or not self.manager, "systemd to be gone"
        )
        kernel.cgroup_remove(self.cgroup)
        if self.mounted:
            kernel.unmount(f"{self.directory}-cgroup2")
        shutil.rmtree(self.directory)

    def find_manager(self):
        with open(f"/proc/{self.boot.pid}/task/{self.boot.pid}/children") as f:
            (pid,) = f.read().split()
        return os.readlink(f"/proc/{pid}/exe").endswith("/systemd") and int(pid)

    def answers(self):
        said = self.run("systemctl", "is-system-running", check=False).stdout.strip()
        return said not in ("", "offline", "unknown")

    def run(self, *argv, check=True, timeout=120):
        kinds = [f"--{kind}" for kind in ("mount", "pid", "cgroup", "net", "uts", "ipc")]
        environment = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive"]
        return run(
            ["nsenter", "--target", self.manager, *kinds, "--wd=/", "--", *environment, *argv],
            check=check,
            timeout=timeout,
        )

    def show(self, unit, key):
        return self.run("systemctl", "show", "--property", key, "--value", unit).stdout.strip()

    def has(self, path):
        return self.run("test", "-e", path, check=False).returncode == 0
