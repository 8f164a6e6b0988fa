# SPDX-License-Identifier: Apache-2.0
"""bruma-agent --retire: a cluster's uninstallation."""

import json
import subprocess

import pytest

from support.kube.small import SmallServer
from support.kube.world import World
from support.system import wait_for

DAEMONSET = "/apis/apps/v1/namespaces/mesh/daemonsets/agents"


@pytest.fixture
def small(work):
    w = World(work, SmallServer)
    w.server.daemonsets[DAEMONSET] = {
        "kind": "DaemonSet",
        "metadata": {"name": "agents"},
        "status": {"currentNumberScheduled": 2},
    }
    return w


class Retirement:
    def __init__(self, world, *more):
        settings = [f"--{name.replace('_', '-')}={value}" for name, value in world.settings.items()]
        self.p = subprocess.Popen(
            [
                "nsenter",
                f"--net=/run/netns/{world.node.netns}",
                f"{world.work.build}/agent/bruma-agent",
                "--retire",
                "--daemonset=agents",
                "--pod-namespace=mesh",
                *settings,
                *more,
            ],
            stderr=subprocess.PIPE,
            text=True,
        )
        world.work.defer(self.end)

    def end(self):
        self.p.kill()
        self.p.communicate()

    def wait(self):
        """(exit status, log)"""
        log = self.p.communicate(timeout=60)[1]
        return self.p.returncode, log


def going(small):
    return "deletionTimestamp" in small.server.daemonsets[DAEMONSET]["metadata"]


def asked(small, method):
    return [path for _, m, path in small.server.requests if m == method]


def test_it_waits_until_the_last_agent_has_ended(small):
    r = Retirement(small)
    wait_for(lambda: going(small), "the DaemonSet to be deleted in the foreground")
    assert small.server.daemonsets[DAEMONSET]["metadata"]["annotations"] == {"bruma/uninstall": "retired"}
    wait_for(lambda: asked(small, "GET"), "a question how far it is")
    assert r.p.poll() is None
    small.server.daemonsets[DAEMONSET]["status"]["currentNumberScheduled"] = 1
    before = len(asked(small, "GET"))
    wait_for(lambda: len(asked(small, "GET")) > before + 1, "more questions")
    assert r.p.poll() is None
    del small.server.daemonsets[DAEMONSET]
    status, log = r.wait()
    assert status == 0 and "left=2" in log and "left=1" in log and "have been removed" in log
    assert asked(small, "DELETE") == [DAEMONSET], "once"
    assert asked(small, "PATCH") == [DAEMONSET], "marked before: else the agents would stay"
    methods = [m for _, m, path in small.server.requests if path == DAEMONSET]
    assert methods[:2] == ["PATCH", "DELETE"]


def test_nothing_to_retire_is_a_success(small):
    del small.server.daemonsets[DAEMONSET]
    assert Retirement(small).wait()[0] == 0


def test_a_refusal_is_told(small):
    small.server.faults["daemonset"] = [lambda handler: handler.status(403, "not for you")]
    status, log = Retirement(small).wait()
    assert status == 1 and "not for you" in log and not going(small)


def test_a_server_that_fails_or_is_away_is_asked_again(small):
    small.server.faults["daemonset"] = [lambda handler: handler.status(500, "etcd is slow")]
    small.server.stop_api()
    r = Retirement(small)
    line = r.p.stderr.readline()
    assert "does not answer" in line
    small.server.start_api()
    wait_for(lambda: going(small), "the DaemonSet to be deleted")
    del small.server.daemonsets[DAEMONSET]
    assert r.wait()[0] == 0


def test_it_must_know_which(small):
    status, log = Retirement(small, "--daemonset=").wait()
    assert status == 1 and "--daemonset" in log
    assert json.dumps(asked(small, "DELETE")) == "[]"
