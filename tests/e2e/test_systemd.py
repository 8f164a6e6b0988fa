# SPDX-License-Identifier: Apache-2.0
"""The units under a real systemd: "systemctl reload bruma-proxy" moves live connections to the next proxy, and whatever fails on
the way leaves the one that runs."""

import os
import shutil
import signal
import subprocess

import pytest

from support.faults import Faults
from support.nodes.hand_over import MIRROR, Talkers
from support.nodes.mesh import Mesh
from support.nodes.systemd_node import SYSTEMD, SystemdNode
from support.programs import BUILD
from support.system import wait_for

pytestmark = pytest.mark.skipif(not shutil.which(SYSTEMD), reason=f"{SYSTEMD} is not here")


@pytest.fixture(scope="module")
def mesh():
    with Mesh(nodes=2, workers=2, node_kinds=[SystemdNode], agent_options=("--hand-over", "true")) as m:
        m.node = m.nodes[0]
        m.web, m.cart = m.pod("web"), m.pod("cart", node=1)
        m.start()
        m.cart.server(MIRROR, "8080")
        yield m


@pytest.fixture
def talkers(mesh):
    t = Talkers(mesh.web, mesh.cart.ip)
    yield t
    if t.process.poll() is None:
        t.end()


def reload(mesh):
    return mesh.node.systemctl("reload", "bruma-proxy", check=False)


def states(mesh):
    return {p["pid"]: p["state"] for p in mesh.node.status()["proxies"]}


def serves_alone(mesh):
    unit = mesh.node.proxy
    wait_for(lambda: states(mesh) == {unit.pid: "serving"}, "the main process to serve alone", log=unit.log)
    assert unit.show("ActiveState") == "active" and len(mesh.node.processes("bruma-proxy")) == 1
    wait_for(mesh.node.ready, "its pages")


def test_reload_moves_live_connections(mesh, talkers):
    for _ in range(2):
        before, at = mesh.node.proxy.pid, len(mesh.node.proxy.text())
        r = reload(mesh)
        assert r.returncode == 0, mesh.node.proxy.text()[at:]
        assert mesh.node.proxy.pid != before
        said = mesh.node.proxy.text()[at:]
        assert "connections were handed over" in said and "connections were taken over" in said
        talkers.goes_on()
        serves_alone(mesh)
    assert mesh.node.proxy.show("NRestarts") == "0"


@pytest.fixture
def program(mesh):
    """The path of the installed proxy, which is there again afterwards."""
    path = mesh.node.installed("bruma-proxy")
    os.rename(path, f"{path}.kept")
    yield path
    os.rename(f"{path}.kept", path)


def fails_and_changes_nothing(mesh, talkers):
    before = mesh.node.proxy.pid
    assert reload(mesh).returncode != 0
    assert mesh.node.proxy.pid == before
    talkers.goes_on()
    serves_alone(mesh)


def test_a_new_program_that_is_not_there(mesh, talkers, program):
    fails_and_changes_nothing(mesh, talkers)


def test_a_new_program_that_crashes_at_its_start(mesh, talkers, program):
    with open(program, "w") as f:
        f.write("#!/bin/sh\nkill -SEGV $$\n")
    os.chmod(program, 0o755)
    fails_and_changes_nothing(mesh, talkers)


def test_settings_that_the_new_one_refuses(mesh, talkers):
    mesh.node.set_proxy(IPV6_ENABLED="perhaps")
    fails_and_changes_nothing(mesh, talkers)
    mesh.node.set_proxy()


def faults(mesh, name):
    """Where the sandbox lets them be seen."""
    library = shutil.copy(f"{BUILD}/tests/e2e/libfaults.so", mesh.node.root)
    f = Faults(BUILD, f"{mesh.node.run_dir}/{name}")
    f.env["LD_PRELOAD"] = library
    return f


def test_a_new_one_that_dies_while_it_takes_over(mesh, talkers):
    f = faults(mesh, "new")
    mesh.node.set_proxy(**f.env)
    f.fail("sendmsg of a worker", -signal.SIGKILL)
    fails_and_changes_nothing(mesh, talkers)
    f.stop()
    mesh.node.set_proxy()


def test_an_old_one_that_dies_while_it_hands_over(mesh):
    """To systemd the main process has failed, whatever comes after it."""
    f = faults(mesh, "old")
    mesh.node.set_proxy(**f.env)
    assert reload(mesh).returncode == 0
    serves_alone(mesh)
    mesh.node.set_proxy()
    before = int(mesh.node.proxy.show("NRestarts"))
    f.fail("sendmsg of a worker", -signal.SIGKILL, times=1)
    reload(mesh)
    wait_for(lambda: int(mesh.node.proxy.show("NRestarts")) == before + 1, "systemd to start it again")
    serves_alone(mesh)


def test_two_reloads_at_once(mesh, talkers):
    command = ["nsenter", "--target", str(mesh.node.manager), "--mount", "--pid", "--cgroup", "systemctl"]
    both = [subprocess.Popen([*command, "reload", "bruma-proxy"]) for _ in range(2)]
    assert [p.wait(60) for p in both] == [0, 0]
    talkers.goes_on()
    serves_alone(mesh)


def test_stop_ends_all_and_a_new_one_starts(mesh, program):
    """In the middle of a reload whose program never serves, and right after one."""
    shutil.copy("/usr/bin/sleep", f"{program}.sleep")
    with open(program, "w") as f:
        f.write(f"#!/bin/sh\nexec {program}.sleep 1000\n")
    os.chmod(program, 0o755)
    mesh.node.systemctl("reload", "--no-block", "bruma-proxy")
    wait_for(lambda: len(mesh.node.processes("bruma-proxy")) == 3, "the new one to be started")
    mesh.node.systemctl("stop", "bruma-proxy")
    assert mesh.node.processes("bruma-proxy") == [] and mesh.node.proxy.show("ActiveState") == "inactive"
    os.unlink(program)
    shutil.copy(f"{program}.kept", program)
    mesh.node.start_proxy()
    assert reload(mesh).returncode == 0
    mesh.node.systemctl("stop", "bruma-proxy")
    assert mesh.node.processes("bruma-proxy") == [] and mesh.node.proxy.show("ActiveState") == "inactive"
    mesh.node.start_proxy()
    serves_alone(mesh)


def test_a_main_process_that_is_killed_after_a_reload_is_started_again(mesh):
    assert reload(mesh).returncode == 0
    serves_alone(mesh)
    before = mesh.node.proxy.pid
    mesh.node.systemctl("kill", "--signal=KILL", "--kill-whom=main", "bruma-proxy")
    wait_for(lambda: mesh.node.proxy.pid not in (0, before), "systemd to start it again")
    serves_alone(mesh)
