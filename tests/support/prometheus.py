# SPDX-License-Identifier: Apache-2.0
"""A real Prometheus, the distribution's, in a network namespace."""

import json
import os
import urllib.parse

import yaml

from support.system import Process, run, wait_for_process


class Prometheus:
    def __init__(self, node, directory, scrapes, rules=()):
        """node: it runs in its network. scrapes: of its configuration; rules: files. It visits and judges once a second."""
        self.node = node
        os.makedirs(directory, exist_ok=True)
        config = f"{directory}/prometheus.yaml"
        with open(config, "w") as f:
            paces = {"scrape_interval": "1s", "evaluation_interval": "1s"}
            yaml.safe_dump({"global": paces, "rule_files": list(rules), "scrape_configs": scrapes}, f)
        run(["promtool", "check", "config", config])
        self.process = Process(
            [
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={directory}/data",
                "--web.listen-address=127.0.0.1:9090",
            ],
            f"{directory}/log",
            netns=node.netns,
        )
        wait_for_process(self.process, lambda: self.get("/-/ready"), "Prometheus to be ready")

    def get(self, path):
        return self.node.http(9090, path)[1]

    def api(self, path):
        answer = json.loads(self.get(f"/api/v1/{path}"))
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, text):
        """[labels with the value as "value"]"""
        result = self.api(f"query?query={urllib.parse.quote(text)}")["result"]
        return [{**r["metric"], "value": float(r["value"][1])} for r in result]

    def up(self):
        """How many targets were visited with success, the last time."""
        return len([t for t in self.api("targets?state=active")["activeTargets"] if t["health"] == "up"])

    def stop(self):
        self.process.stop()
