# SPDX-License-Identifier: Apache-2.0
"""The pod's sk_lookup program alone, on packets that are made up: every branch of it, both families. And that
of probes."""

import os
import re

from support import kernel
from support.system import run


def test_every_branch(build):
    r = run([f"{build}/tests/e2e/lookup-test-run"], check=False)
    wrong = [line for line in r.stdout.splitlines() if line.startswith("FAILED")]
    assert r.returncode == 0 and not wrong, "\n".join(wrong) or r.stderr
    cases, failed = map(int, re.search(r"^(\d+) cases, (\d+) failed$", r.stdout, re.M).groups())
    assert (
        cases == len([line for line in r.stdout.splitlines() if line.startswith("ok ")]) >= 110 and not failed
    )


def test_it_is_small_enough_for_every_connection(build):
    """A new compiler that makes it much larger should be noticed: the verifier looks at each instruction, and
    each SYN runs them."""
    text = run(["readelf", "-SW", f"{build}/bpf/lookup.bpf.o"]).stdout
    size = int(re.search(r"\] sk_lookup\s+PROGBITS\s+\S+ \S+ (\S+)", text).group(1), 16)
    assert 0 < size // 8 < 1250, f"{size // 8} instructions"


def test_a_probe_that_cannot_be_registered_is_counted_and_made(build):
    """As probe_not_registered. The first leaves no room for the second."""
    cgroup = f"{kernel.cgroup2_root('/sys/fs/cgroup')[0]}/bruma-{os.getpid()}-probes"
    os.mkdir(cgroup)
    try:
        said = run([f"{build}/tests/e2e/probes-test-run", cgroup]).stdout.splitlines()
    finally:
        os.rmdir(cgroup)
    assert said == ["probe 1: 0 not registered", "probe 2: 1 not registered"]
