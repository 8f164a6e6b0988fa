# SPDX-License-Identifier: Apache-2.0
"""What agent and proxy may do once they are set up: no more than docs/security.md says, and with that alone
everything works."""

import os
import re
import stat
import subprocess

import pytest

from support.nodes.mesh import Mesh, MeshNode
from support.nodes.pod_programs import ECHO, PRELUDE, TRY
from support.programs import ROOT
from support.system import wait_for

NUMBERS = {
    "CHOWN": 0,
    "DAC_OVERRIDE": 1,
    "DAC_READ_SEARCH": 2,
    "NET_ADMIN": 12,
    "NET_RAW": 13,
    "SYS_PTRACE": 19,
    "SYS_ADMIN": 21,
    "SYS_RESOURCE": 24,
    "PERFMON": 38,
    "BPF": 39,
}
PROXY = {"SYS_ADMIN", "NET_ADMIN", "NET_RAW"}
AGENT = set(NUMBERS)


def status_of(pid, thread=None):
    with open(f"/proc/{pid}/task/{thread or pid}/status") as f:
        return dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)


def mask(names):
    return sum(1 << NUMBERS[n] for n in names)


def unit_capabilities(name):
    with open(f"{ROOT}/packaging/{name}.service.in") as f:
        return {
            c.removeprefix("CAP_")
            for c in re.search(r"^CapabilityBoundingSet=(.*)$", f.read(), re.M)[1].split()
        }


def page_capabilities(program):
    """The row of the table in docs/security.md."""
    with open(f"{ROOT}/docs/security.md") as f:
        row = re.search(rf"^\| `{program}` \| (.*?) \|", f.read(), re.M)[1]
    return set(re.findall(r"`([A-Z_]+)`", row))


class LikeUnits(MeshNode):
    """Its programs have no more than what the units leave, as a container's runtime would."""

    def program(self, name):
        path = super().program(name)
        if name not in ("bruma-agent", "bruma-proxy"):
            return path
        kept = ",".join(["-all", *(f"+{c.lower()}" for c in sorted(unit_capabilities(name)))])
        script = f"{self.run_dir}/{name}-of-the-unit"
        with open(script, "w") as f:
            f.write(f'#!/bin/sh\nexec setpriv --bounding-set={kept} --inh-caps=-all {path} "$@"\n')
        os.chmod(script, stat.S_IRWXU)
        return script


@pytest.fixture(scope="module", params=["as root", "as the units"])
def mesh(request):
    kind = MeshNode if request.param == "as root" else LikeUnits
    with Mesh(nodes=2, node_kinds=[kind] * 2) as m:
        m.kind = request.param
        m.web, m.shop = m.pod("web", node=0), m.pod("shop", node=1)
        m.start()
        m.echo = m.shop.server(ECHO, "8080")
        yield m


def talks(mesh):
    p = mesh.web.popen("/usr/bin/python3", "-c", PRELUDE + TRY, mesh.shop.ip, "8080", "word")
    wait_for(lambda: not p.alive(), "the client", 30)
    return p.text().strip()


def test_traffic_with_what_is_left(mesh):
    wait_for(lambda: talks(mesh) == "word", "traffic", 30)
    for node in mesh.nodes:
        assert not [
            p
            for p in node.ctl("status", check=False).stdout.splitlines()
            if "Permission" in p or "not permitted" in p
        ]
        assert "Operation not permitted" not in node.proxy.text() + node.agent.text()
    # And with a repaired capture, and another proxy.
    node = mesh.nodes[0]
    subprocess.run(["ip", "-n", mesh.web.netns, "rule", "del", "fwmark", "0x111/0xfff"], check=False)
    wait_for(lambda: "rule_missing" in node.agent.text(), "the agent to repair the pod")
    node.proxy.kill()
    node.start_proxy()
    wait_for(lambda: talks(mesh) == "word", "traffic by the next proxy", 30)


@pytest.mark.parametrize(("program", "kept"), [("proxy", PROXY), ("agent", AGENT)])
def test_capabilities_calls_and_memory(mesh, program, kept):
    pid = getattr(mesh.nodes[0], program).pid
    ours = int(status_of(os.getpid())["CapBnd"], 16)  # the machine may lack some
    have = kept if mesh.kind == "as root" else kept & unit_capabilities(f"bruma-{program}")
    for thread in os.listdir(f"/proc/{pid}/task"):
        status = status_of(pid, thread)
        assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == mask(have) & ours, status["Name"]
        assert int(status["CapInh"], 16) == int(status["CapAmb"], 16) == 0
        assert int(status["CapBnd"], 16) == mask(have) & ours
        assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2", "filtered, in every thread"
    with open(f"/proc/{pid}/limits") as f:
        assert re.search(r"^Max core file size +0 +0 ", f.read(), re.M)
    # Root's own process without the right to trace does not see its memory.
    seen = subprocess.run(
        ["setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-all", "readlink", "-v", f"/proc/{pid}/exe"],
        capture_output=True,
        text=True,
    )
    assert seen.returncode != 0 and "ermission denied" in seen.stderr


@pytest.mark.parametrize(("name", "kept"), [("bruma-proxy", PROXY), ("bruma-agent", AGENT)])
def test_the_page_and_the_units_say_the_same(name, kept):
    assert page_capabilities(name) == kept
    assert unit_capabilities(name) <= kept, "a unit that gives what is given up at once"
