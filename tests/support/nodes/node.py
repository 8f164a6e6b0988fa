# SPDX-License-Identifier: Apache-2.0
"""A simulated node: a network namespace as the host's, with an agent and a proxy in it."""

import json
import os
import re
import socket

from support import agent, pages
from support.network import inside
from support.programs import program
from support.system import Process, run, wait_for, wait_for_process


class Node:
    """What all kinds have. Everything of a node is below its own directory, pin directory and cgroup, so that nodes do not know
    of each other; mesh_file and ca_key (a PEM file, or None) are those of the whole mesh. tied: programs die with the thread
    that has started them. How pods are made is of the kind."""

    agent = proxy = None
    agent_defaults = ()  # options of every agent of this kind

    def __init__(
        self, name, netns, directory, run_dir, pin_dir, cgroup, build, mesh_file, ca_key=None, tied=True
    ):
        self.name, self.netns, self.directory, self.run_dir = name, netns, str(directory), run_dir
        self.pin_dir, self.cgroup, self.build, self.tied = pin_dir, cgroup, build, tied
        self.mesh_file, self.ca_key = str(mesh_file), ca_key and str(ca_key)
        self.agent_log, self.proxy_log = f"{self.directory}/agent.log", f"{self.directory}/proxy.log"
        self.proxies = []  # all that were started

    def program(self, name):
        return program(name, self.build)

    # ---- the agent ----

    def argv(self, *options, **settings):
        """settings: options by name, with "_" for "-"."""
        argv = [self.program("bruma-agent"), "--run-dir", self.run_dir, "--pin-dir", self.pin_dir]
        argv += ["--cgroup", self.cgroup, "--node-name", self.name, "--mesh-file", self.mesh_file]
        argv += ["--ca-key-file", self.ca_key] if self.ca_key else []
        for name, value in settings.items():
            argv += [f"--{name.replace('_', '-')}", str(value)]
        return [*argv, *self.agent_defaults, *options]

    def agent_env(self):
        return None

    def start_agent(self, *options, wait=True, wrap=(), **settings):
        """wrap: a program and its arguments that runs the agent."""
        argv = [*wrap, *self.argv(*options, **settings)]
        self.agent = Process(argv, self.agent_log, netns=self.netns, env=self.agent_env(), tied=self.tied)
        if wait:
            self.wait_agent()
        return self.agent

    def agent_answers(self):
        """What a started agent is waited for."""
        return self.status()

    def wait_agent(self):
        return wait_for_process(self.agent, self.agent_answers, f"the agent of {self.name} to be ready")

    def status(self):
        return agent.status(self.run_dir)

    def wait_rounds(self, count):
        """Until the agent has looked after all pods so many times more; each takes its verify interval. What it does by itself
        within that time it has done then."""
        before = self.status()["verifyRounds"]
        timeout = 20 + count * self.status()["verifyIntervalMilliseconds"] / 1000
        wait_for(
            lambda: self.status()["verifyRounds"] >= before + count,
            f"the agent of {self.name} to look {count} times",
            timeout,
            log=self.agent_log,
        )

    def uninstall(self):
        """By an agent, as the chart does it."""
        return run(self.argv("--uninstall"), check=False)

    # ---- the proxy ----

    def proxy_env(self):
        control = f"{self.run_dir}/control"
        return {
            "BRUMA_RUN_DIR": self.run_dir,
            "NODE_NAME": self.name,
            "XDS_ADDRESS": "https://localhost:15012",
            "CA_ADDRESS": "https://localhost:15012",
            "XDS_ROOT_CA": f"{control}/root-cert.pem",
            "CA_ROOT_CA": f"{control}/root-cert.pem",
            "AUTH_TOKEN": f"{control}/token",
            # Two pods of one node stand for those of two nodes nearly everywhere; test_same_node.py has the short way.
            "BRUMA_SAME_NODE": os.environ.get("BRUMA_SAME_NODE", "hbone"),
        }

    def start_proxy(self, wait=True, **env):
        self.proxy = Process(
            [self.program("bruma-proxy")],
            self.proxy_log,
            netns=self.netns,
            env={**self.proxy_env(), **env},
            tied=self.tied,
        )
        self.proxies.append(self.proxy)
        if wait:
            self.wait_proxy()
        return self.proxy

    def wait_proxy(self):
        wait_for(self.ready, f"the proxy of {self.name} to be ready", log=self.proxy_log)

    def http(self, port, path):
        """GET from the node's own loopback: (status, body)."""
        with inside(self.netns):
            s = socket.create_connection(("127.0.0.1", port), timeout=20)
        status, body = pages.get(s, path)
        return status, body.decode()

    def ready(self):
        assert self.proxy.alive(), self.proxy.text()[-3000:]
        try:
            return self.http(15021, "/healthz/ready")[0] == 200
        except OSError:
            return False

    def metrics(self, port=15020):
        """port: where another proxy than the first one has them."""
        return self.http(port, "/metrics")[1]

    def failures(self, reason):
        found = re.search(rf'bruma_failures_total{{reason="{reason}"}} (\d+)', self.metrics())
        return int(found[1]) if found else 0

    def config_dump(self):
        return json.loads(self.http(15000, "/config_dump")[1])

    def access_log(self, needle="connection complete"):
        return [line for line in self.proxy.text().splitlines() if "\taccess\t" in line and needle in line]

    # ---- as an operator ----

    def ctl(self, *argv, check=True):
        return run([self.program("brumactl"), "--run-dir", self.run_dir, *argv], check=check, timeout=30)

    def stop(self):
        for process in (self.proxy, self.agent):
            if process:
                process.stop()
