# SPDX-License-Identifier: Apache-2.0
"""Control groups of the test cluster: one directory in every hierarchy of the machine, below it one for each
node, in which the node's kubelet makes those of its pods. Works with cgroup v2 alone, and with v1's
controllers beside it (hybrid)."""

import contextlib
import os
import time

from support import kernel
from support.system import Failed


def hierarchies():
    """(directory, controllers of a v1 hierarchy or None for cgroup2)"""
    out = []
    with open("/proc/self/mounts") as f:
        for line in f:
            _, directory, kind, options, *_ = line.split()
            if kind == "cgroup2":
                out.append((directory, None))
            elif kind == "cgroup":
                out.append((directory, options.split(",")))
    return out


class Groups:
    """name is the path in every hierarchy, such as bruma-1234. self.v2 is the directory of it in cgroup2."""

    def __init__(self, name):
        self.name, self.hierarchies = name, hierarchies()
        roots = [d for d, v1 in self.hierarchies if v1 is None]
        if not roots:
            raise Failed("no cgroup2 is mounted on this machine")
        self.v2 = os.path.join(roots[0], name)
        # On each node, its own cgroup: nodes of different kernels have the same path for that.
        self.of_node = f"{self.v2}/node"
        self.hybrid = len(self.hierarchies) > len(roots)

    def create(self, path=""):
        """path: below ours, such as n1."""
        for directory, v1 in self.hierarchies:
            where = directory
            for part in filter(None, f"{self.name}/{path}".split("/")):
                if v1 is None and not self.hybrid:
                    _delegate(where)
                where = os.path.join(where, part)
                os.makedirs(where, exist_ok=True)
                if v1 and "cpuset" in v1:
                    _copy_cpuset(where)
            if v1 is None and not self.hybrid:
                _delegate(where)
        os.makedirs(self.of_node, exist_ok=True)

    def of_program(self, node, name):
        """A cgroup2 of its own for a program of a node, as systemd gives one to each service."""
        directory = f"{self.v2}/{node}/{name}"
        os.makedirs(directory, exist_ok=True)
        return directory

    def remove(self, path=""):
        """Those of the path and everything below. Their processes have ended, or are about to."""
        deadline = time.monotonic() + 10
        while True:
            left = [
                t
                for t in (f"{d}/{self.name}/{path}".rstrip("/") for d, _ in self.hierarchies)
                if os.path.isdir(t)
            ]
            for tree in left:
                for base, _, _ in os.walk(tree, topdown=False):
                    with contextlib.suppress(OSError):
                        os.rmdir(base)
            left = [t for t in left if os.path.isdir(t)]
            if not left:
                return
            if time.monotonic() > deadline:
                raise Failed(
                    f"these cgroups cannot be removed: {left}, they hold "
                    f"{[kernel.cgroup_processes(b) for t in left for b, _, _ in os.walk(t)]}"
                )
            time.sleep(0.1)


def _delegate(directory):
    """The controllers of a cgroup2 directory for those below it."""
    with open(f"{directory}/cgroup.controllers") as f:
        wanted = [c for c in f.read().split() if c in ("cpu", "cpuset", "memory", "pids", "io", "hugetlb")]
    with open(f"{directory}/cgroup.subtree_control") as f:
        missing = [c for c in wanted if c not in f.read().split()]
    if missing:
        with open(f"{directory}/cgroup.subtree_control", "w") as f:
            f.write(" ".join(f"+{c}" for c in wanted))


def _copy_cpuset(directory):
    """A new v1 cpuset may use nothing, and takes no process then."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        with open(os.path.join(os.path.dirname(directory), name)) as f:
            value = f.read()
        with open(os.path.join(directory, name), "w") as f:
            f.write(value)
