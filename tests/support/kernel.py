# SPDX-License-Identifier: Apache-2.0
"""Where this machine has its cgroup2 tree and its BPF file system, also if it has neither mounted."""

import os
import time

from support.system import Failed, run


def mounts(fs_type=None):
    """Where file systems of this type, or any, are mounted."""
    with open("/proc/self/mounts") as f:
        return [fields[1] for fields in (line.split() for line in f) if fs_type in (None, fields[2])]


def mount(fs_type, directory):
    os.makedirs(directory, exist_ok=True)
    run(["mount", "-t", fs_type, "bruma", directory])
    return directory


def cgroup2_root(fallback):
    """The cgroup2 tree: /sys/fs/cgroup, or on a hybrid machine /sys/fs/cgroup/unified. If there is none it is
    mounted at fallback. Returns (directory, mounted by us)."""
    found = mounts("cgroup2")
    for preferred in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
        if preferred in found:
            return preferred, False
    if found:
        return found[0], False
    return mount("cgroup2", fallback), True


def bpf_root(fallback):
    """The BPF file system at /sys/fs/bpf, or one of our own at fallback. Returns (directory, mounted by
    us)."""
    if "/sys/fs/bpf" in mounts("bpf"):
        return "/sys/fs/bpf", False
    return mount("bpf", fallback), True


def unmount(directory):
    run(["umount", directory], check=False)
    if os.path.isdir(directory) and directory not in mounts():
        os.rmdir(directory)


def remove_pins(directory):
    """Removes a directory of a BPF file system with everything below."""
    for base, directories, files in os.walk(directory, topdown=False):
        for name in files:
            os.unlink(os.path.join(base, name))
        for name in directories:
            os.rmdir(os.path.join(base, name))
    if os.path.isdir(directory):
        os.rmdir(directory)


def cgroup_create(directory):
    os.makedirs(directory, exist_ok=True)
    return directory


def cgroup_processes(directory):
    with open(f"{directory}/cgroup.procs") as f:
        return [int(line) for line in f]


def cgroup_remove(directory):
    """Removes a cgroup and those below. Processes must have ended; the kernel may take a moment to notice."""
    for base, directories, _ in os.walk(directory, topdown=False):
        for name in directories:
            _cgroup_rmdir(os.path.join(base, name))
    if os.path.isdir(directory):
        _cgroup_rmdir(directory)


def _cgroup_rmdir(directory):
    deadline = time.monotonic() + 5
    while True:
        try:
            os.rmdir(directory)
            return
        except FileNotFoundError:
            return
        except OSError as e:
            if time.monotonic() > deadline:
                raise Failed(
                    f"cgroup {directory} cannot be removed, it holds {cgroup_processes(directory)}"
                ) from e
            time.sleep(0.02)
