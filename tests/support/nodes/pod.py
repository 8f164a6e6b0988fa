# SPDX-License-Identifier: Apache-2.0
"""A pod: a network namespace and a cgroup on a node, and programs that run there as its containers would."""

import subprocess

from support import agent
from support.system import Process, placed, run, wait_for

PYTHON = "/usr/bin/python3"
TRUST_DOMAIN = "cluster.local"


class Pod:
    """What all kinds have. How a pod comes to be and into the mesh is of its kind, which sets netns, cgroup, uid and
    addresses."""

    netns = cgroup = uid = ip = ip6 = None

    def __init__(self, node, namespace, name, account="default"):
        self.node, self.namespace, self.name, self.account = node, namespace, name, account
        self.processes, self.pipes = [], []

    @property
    def full_name(self):
        return f"{self.namespace}/{self.name}"

    @property
    def identity(self):
        return f"spiffe://{TRUST_DOMAIN}/ns/{self.namespace}/sa/{self.account}"

    @property
    def ips(self):
        return [ip for ip in (self.ip, self.ip6) if ip]

    # ---- programs in it ----

    def placed(self, argv):
        """The command that runs argv in the pod."""
        return placed(argv, self.netns, self.cgroup)

    def log_path(self):
        """Of the next program's output."""
        return f"{self.node.directory}/{self.name}-{len(self.processes)}.log"

    def popen(self, *argv, log=None, **options):
        """Starts a program; support.system.Process."""
        p = Process(self.placed(argv), log or self.log_path(), **options)
        self.processes.append(p)
        return p

    def pipe(self, *argv, **options):
        """Starts a program that is talked to: subprocess.Popen."""
        self.pipes.append(subprocess.Popen(self.placed(argv), **options))
        return self.pipes[-1]

    def run(self, *argv, **options):
        """Runs a program to its end; support.system.run."""
        return run(self.placed(argv), **options)

    def python(self, code, *argv, **options):
        """Runs a Python script and returns what it printed."""
        return self.run(PYTHON, "-c", code, *argv, **options).stdout

    def server(self, code, *argv, **options):
        """Starts a Python server and waits until it prints READY."""
        p = self.popen(PYTHON, "-u", "-c", code, *argv, **options)
        p.wait_for_text("READY")
        return p

    def kill_programs(self):
        for p in self.processes:
            p.kill()
        for p in self.pipes:
            p.kill()
            p.wait()

    # ---- what the node's agent says of it ----

    def item(self):
        """None if it knows no such pod."""
        return agent.pods(self.node.run_dir).get(self.full_name)

    def wait_state(self, state, timeout=20):
        """One of these states, if it is a tuple. A pod that is not known is "unknown"."""
        states = (state,) if isinstance(state, str) else state
        return wait_for(
            lambda: ((self.item() or {}).get("state", "unknown") in states) and (self.item() or True),
            f"pod {self.full_name} to be {' or '.join(states)}",
            timeout,
            log=self.node.agent_log,
        )

    def wait_enrolled(self, timeout=20):
        """Enrolled, and the proxy serves it."""

        def there():
            item = self.item()
            return item and item["state"] == "enrolled" and item["proxy"] == "serving" and item

        return wait_for(
            there, f"pod {self.full_name} to be enrolled and served", timeout, log=self.node.agent_log
        )

    def wait_outside(self, timeout=20):
        self.wait_state(("unknown", "outside"), timeout)
