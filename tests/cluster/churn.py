# SPDX-License-Identifier: Apache-2.0
"""Pods that come and go on both nodes, in the background of other scenes."""

import contextlib
import itertools
import os
import threading
import time

from release import AGENT, PINS, PROXY, RUN
from support.system import Failed

ALIVE, STEP, PAUSE = 30, 3, 3.0
SECONDS = float(os.environ.get("BRUMA_CHURN_SECONDS", "300"))
NAMESPACE = "churn"


def held(cluster, mesh, name):
    """What a node holds that may leak, by name."""
    node = cluster.nodes[name]

    def count(script):
        return len(node.run(["sh", "-c", script], check=False).stdout.split())

    out = {
        "pins of pods": count(f"ls {PINS}/pods"),
        "records of pods": count(f"grep -l '\"{NAMESPACE}\"' {RUN}/pods/*"),
        "network namespaces": count("ls /run/netns"),
        "links of the network": count("ls /proc/1/net/dev_snmp6"),
        "rules": count("ip rule; ip -6 rule"),
    }
    for table in ("pods", "pod_counters", "probe_targets"):
        out[f"entries of {table}"] = len(mesh.dump(name, table))
    for program in (AGENT, PROXY):
        pid = node.container_pid(mesh.pods(program, name)[0]["metadata"]["uid"])
        out[f"descriptors of {program}"] = descriptors(pid)
    return out


def descriptors(pid):
    """How many a process holds, without its open connections to servers and the pipes of its relays, of which it may
    keep some for later."""
    open_connections = set()
    for table in ("tcp", "tcp6"):
        with open(f"/proc/{pid}/net/{table}") as f:
            rows = [line.split() for line in f][1:]
        open_connections |= {f"socket:[{row[9]}]" for row in rows if row[3] == "01"}
    count = 0
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            what = os.readlink(f"/proc/{pid}/fd/{fd}")
            count += what not in open_connections and not what.startswith("pipe:")
    return count


class Churn:
    def __init__(self, cluster, mesh):
        self.cluster, self.mesh = cluster, mesh
        self.before = {n: held(cluster, mesh, n) for n in cluster.nodes}
        cluster.namespace(NAMESPACE, **{"istio.io/dataplane-mode": "ambient"})
        self.pods, self.made, self.trouble = [], 0, []
        self.until = time.monotonic() + SECONDS
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        numbers = itertools.count()
        while time.monotonic() < self.until:
            try:
                for pod in self.pods[:STEP] if len(self.pods) >= ALIVE else []:
                    pod.delete()
                    self.pods.remove(pod)
                while len(self.pods) < ALIVE and time.monotonic() < self.until:
                    n = next(numbers)
                    self.pods.append(
                        self.cluster.pod(
                            NAMESPACE, f"churn-{n}", f"n{n % 2 + 1}", wait=False, probes=("readiness",)
                        )
                    )
                    self.made += 1
            except (OSError, Failed) as e:
                self.trouble.append(str(e))
            time.sleep(PAUSE)

    def end(self):
        """Waits until it has lasted long enough, and for those that are left to have started; then all go."""
        self.thread.join()
        for pod in self.pods:
            pod.wait_ready(90)
        self.cluster.delete_namespace(NAMESPACE)
