# SPDX-License-Identifier: Apache-2.0
"""A directory of network configurations and one of plugins, in which an agent installs its own."""

import json
import os
import subprocess

from support.system import wait_for


class Directory:
    def __init__(self, work):
        self.conf, self.bin = work.path("net.d"), work.path("bin")
        os.makedirs(self.conf)
        os.makedirs(self.bin)

    def path(self, name):
        return f"{self.conf}/{name}"

    def write(self, name, text, mode=0o644):
        with open(self.path(name) + ".tmp", "w") as f:
            f.write(text)
        os.chmod(self.path(name) + ".tmp", mode)
        os.rename(self.path(name) + ".tmp", self.path(name))

    def read(self, name):
        with open(self.path(name)) as f:
            return f.read()

    def types(self, name):
        try:
            return [p["type"] for p in json.loads(self.read(name))["plugins"]]
        except (OSError, ValueError, KeyError):
            return None

    def wait(self, name, types, timeout=20):
        wait_for(lambda: self.types(name) == types, f"{name} to have {types}", timeout)

    def options(self, build):
        return [
            "--cni-conf-dir",
            self.conf,
            "--cni-bin-dir",
            self.bin,
            "--cni-plugin",
            f"{build}/cni/bruma-cni",
        ]


def problems(node):
    return {p["reason"]: p for p in node.status()["problems"]}


def uninstall(node):
    node.agent.stop()
    r = subprocess.run(
        ["nsenter", f"--net=/run/netns/{node.netns}", *node.argv(*node.options), "--uninstall"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert r.returncode == 0, r.stdout + r.stderr
