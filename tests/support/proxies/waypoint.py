# SPDX-License-Identifier: Apache-2.0
"""A stock Envoy as waypoint, run from what docs/waypoints.md tells people: its sample configuration and its
commands."""

import os
import re

from support.programs import ROOT
from support.system import Failed, Process, run, wait_for_process

SAMPLE = f"{ROOT}/packaging/waypoint.yaml"
SAMPLE_IN_MESH = f"{ROOT}/packaging/waypoint-in-mesh.yaml"
PAGE = f"{ROOT}/docs/waypoints.md"
# What sample and page say where others have their own. They are replaced as texts, and each must be there.
EXAMPLE = {
    "directory": "/etc/waypoint",
    "control": "/run/bruma/control",
    "identities": "spiffe://cluster.local/ns/demo/",
    "vip4": "10.96.0.20",
    "vip6": "fd00:96::20",
    "v1": "10.9.2.10",
    "v2": "10.9.2.11",
}


def program(build):
    """Envoy's program and, if there is none, why; tests/packages.sh gets it."""
    given = os.environ.get("BRUMA_ENVOY")
    if given:
        if not os.access(given, os.X_OK):
            raise Failed(f"BRUMA_ENVOY={given} is no program")
        return given, None
    path = os.path.join(build, "envoy", "envoy")
    if os.access(path, os.X_OK):
        return path, None
    return None, os.environ.get(
        "BRUMA_ENVOY_MISSING", f"no Envoy: neither BRUMA_ENVOY nor {path}; tests/run.sh gets it"
    )


def replace(text, values):
    for name, value in values.items():
        if EXAMPLE[name] not in text:
            raise Failed(f"{EXAMPLE[name]} is not where it should be replaced by {value}")
        text = re.sub(re.escape(EXAMPLE[name]) + r"(?![0-9])", lambda m, value=value: value, text)
    return text


def page_block(mark):
    """The page's block of code that holds this text."""
    with open(PAGE) as f:
        blocks = re.findall(r"^```\w*\n(.*?)^```", f.read(), re.DOTALL | re.MULTILINE)
    found = [b for b in blocks if mark in b]
    if len(found) != 1:
        raise Failed(f"{PAGE} has {len(found)} blocks with {mark!r}")
    return found[0]


def certificate(directory, control, ca_key, identities, account="waypoint"):
    """cert.pem, key.pem and root.pem in the directory, by the commands of the page. identities:
    spiffe://.../ns/NAMESPACE/"""
    commands = (
        page_block("openssl x509")
        .replace(f"{EXAMPLE['control']}/ca-key.pem", ca_key)
        .replace("sa/waypoint", f"sa/{account}")
    )
    run(
        [
            "sh",
            "-euc",
            replace(commands, {"directory": directory, "control": control, "identities": identities}),
        ]
    )


class Waypoint:
    """The program in one network namespace and cgroup. values: what the mesh has instead of EXAMPLE's vip4,
    v1 and so on."""

    def __init__(self, envoy, directory, netns, cgroup=None, tied=True, sample=SAMPLE, **values):
        self.envoy, self.directory, self.netns, self.cgroup, self.tied, self.sample = (
            envoy,
            directory,
            netns,
            cgroup,
            tied,
            sample,
        )
        self.values, self.process = values, None
        self.log = f"{directory}/envoy.log"

    def text(self):
        """Its configuration."""
        with open(self.sample) as f:
            text = f.read()
        if self.sample == SAMPLE:
            text = replace(text, {"directory": self.directory})
        return replace(text, self.values)

    def start(self):
        path = f"{self.directory}/waypoint.yaml"
        with open(path, "w") as f:
            f.write(self.text())
        # Without hot restart it needs no shared memory, which is the machine's.
        self.process = Process(
            [
                self.envoy,
                "-c",
                path,
                "--disable-hot-restart",
                "--concurrency",
                "1",
                "--file-flush-interval-msec",
                "50",
            ],
            self.log,
            netns=self.netns,
            cgroup=self.cgroup,
            tied=self.tied,
        )
        wait_for_process(self.process, self.ready, "Envoy to be ready", 30)
        return self

    def ready(self):
        # /ready says LIVE a moment before its workers listen.
        r = run(
            [
                "curl",
                "-s",
                "-m",
                "2",
                "http://127.0.0.1:15000/ready",
                "http://127.0.0.1:15000/stats?filter=workers_started",
            ],
            netns=self.netns,
            check=False,
        )
        return "LIVE" in r.stdout and "listener_manager.workers_started: 1" in r.stdout

    def lines(self):
        """Its access log: PEER METHOD PATH for ADDRESS -> STATUS DETAILS CLUSTER"""
        return [line for line in self.process.text().splitlines() if line.startswith("spiffe://")]

    def kill(self):
        self.process.kill()

    def stop(self):
        if self.process:
            self.process.stop()
