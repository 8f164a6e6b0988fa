# SPDX-License-Identifier: Apache-2.0
"""CPU time of processes and of the machine between two moments."""

import hashlib
import os
import time

TICK = os.sysconf("SC_CLK_TCK")
_WORK = bytes(1 << 20)


def calibration():
    """CPU milliseconds of a fixed piece of work: how fast the (virtual) processor is just now."""
    began = time.process_time()
    for _ in range(24):
        hashlib.sha256(_WORK).digest()
    return (time.process_time() - began) * 1e3


def machine():
    """Seconds of work so far of all processors, and seconds stolen by the hypervisor.

    Work is what is not idle: the idle columns are exact on tickless kernels, while user, system and softirq
    are sampled at the tick and go wrong by a factor under periodic load.
    """
    with open("/proc/stat") as f:
        columns = [int(x) / TICK for x in f.readline().split()[1:]]
    idle, wait, stolen = columns[3], columns[4], columns[7]
    return time.monotonic() * os.cpu_count() - idle - wait - stolen, stolen


class Meter:
    """Of a target: its client side, its server side, the application's server, the whole machine."""

    def __init__(self, target, application):
        self.target, self.application = target, application
        self.before = self._read()

    def _read(self):
        sides = [
            sum(p.cpu_seconds() for p in side)
            for side in (self.target.client, self.target.server, self.target.agents, [self.application])
        ]
        return [time.monotonic(), *sides, *machine()]

    def stop(self):
        names = ("wall", "cpu_client", "cpu_server", "cpu_agents", "cpu_application", "busy", "stolen")
        return {n: after - before for n, before, after in zip(names, self.before, self._read(), strict=True)}


def add_foreign(result, load_cpu):
    """Cores that were used by nobody who takes part. Above 0.2, rates and p99 are not to be trusted."""
    result["cpu_load"] = load_cpu
    ours = sum(result[k] for k in ("cpu_client", "cpu_server", "cpu_agents", "cpu_application")) + load_cpu
    result["foreign"] = (result["busy"] - ours) / result["wall"]
