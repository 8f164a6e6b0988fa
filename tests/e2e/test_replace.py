# SPDX-License-Identifier: Apache-2.0
"""brumactl replace, the program of "systemctl reload bruma-proxy": the next proxy beside the one that serves, and the service
manager, which a socket of the test plays here (sd_notify(3)), is told which one is the main process."""

import contextlib
import os
import signal
import socket
import struct

import pytest

from support.faults import Faults
from support.nodes.hand_over import MIRROR, Talkers, serving
from support.nodes.mesh import Mesh
from support.programs import BUILD, program
from support.system import Process, wait_for

NEVER_SERVES = ("/usr/bin/sleep", "60")


class Other:
    """A proxy that this process has not started."""

    def __init__(self, pid, log):
        self.pid, self.log = pid, log
        self.pidfd = os.pidfd_open(pid)

    def alive(self):
        with contextlib.suppress(FileNotFoundError), open(f"/proc/{self.pid}/stat") as f:
            return f.read().rpartition(")")[2].split()[0] != "Z"
        return False

    def text(self):
        with open(self.log, errors="replace") as f:
            return f.read()

    def kill(self, sig=signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, sig)
        wait_for(lambda: not self.alive(), "it to end")

    def stop(self):
        self.kill(signal.SIGTERM)


class Manager:
    """What a unit's processes tell systemd, and who says it."""

    def __init__(self, path):
        self.path = str(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)

    def told(self):
        self.socket.setblocking(False)
        try:
            text, ((_, _, credentials),), *_ = self.socket.recvmsg(4096, socket.CMSG_SPACE(12))
        except BlockingIOError:
            return None
        return text.decode(), struct.unpack("iii", credentials)[0]


@pytest.fixture(scope="module")
def mesh():
    with Mesh(nodes=2, workers=2, agent_options=("--hand-over", "true")) as m:
        m.node = m.nodes[0]
        m.web, m.cart = m.pod("web"), m.pod("cart", node=1)
        m.start()
        m.cart.server(MIRROR, "8080")
        yield m


@pytest.fixture
def manager(tmp_path):
    m = Manager(tmp_path / "notify")
    yield m
    m.socket.close()


def replace(mesh, manager, *argv, **env):
    node = mesh.node
    helper = Process(
        [node.program("brumactl"), "replace", *(argv or (program("bruma-proxy"),))],
        node.proxy_log,
        netns=node.netns,
        env={**node.proxy_env(), "NOTIFY_SOCKET": manager.path, "BRUMA_RUN_DIR": node.run_dir, **env},
    )
    return helper, helper.wait(90)


def proxies(mesh):
    return {p["pid"]: p["state"] for p in mesh.node.status()["proxies"]}


def nothing_has_changed(mesh, manager, talkers):
    assert manager.told() is None
    wait_for(lambda: proxies(mesh) == {mesh.node.proxy.pid: "serving"}, "the one before to serve alone")
    talkers.goes_on()
    assert mesh.node.ready()


def test_the_next_one_takes_over_and_is_the_main_process(mesh, manager):
    talkers = Talkers(mesh.web, mesh.cart.ip)
    for _ in range(2):
        old, at = mesh.node.proxy, len(mesh.node.proxy.text())
        helper, status = replace(mesh, manager)
        assert status == 0, old.text()[-2000:]
        text, sender = manager.told()
        assert text.startswith("MAINPID=") and sender == helper.pid
        mesh.node.proxy = Other(int(text.removeprefix("MAINPID=")), mesh.node.proxy_log)
        mesh.node.proxies.append(mesh.node.proxy)
        said = old.text()[at:]
        assert "connections were handed over" in said and "connections were taken over" in said
        assert serving(mesh.node) and mesh.node.ctl("status", check=False).stdout.count("handed over") == 1
        with open(f"/proc/{mesh.node.proxy.pid}/stat") as f:
            assert int(f.read().rpartition(")")[2].split()[1]) not in (helper.pid, os.getpid())
        wait_for(lambda old=old: not old.alive(), "the old one to end")
        wait_for(mesh.node.ready, "the ports to be those of the next one")
        assert "build" in mesh.node.metrics()
        talkers.goes_on()
    talkers.end()


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (("/nonexistent/bruma-proxy",), "cannot be started: No such file or directory"),
        (("/bin/false",), "does not take over: it has ended"),
        (("--timeout", "1", *NEVER_SERVES), "does not take over: it does not serve in time"),
    ],
)
def test_one_that_does_not_come_up_changes_nothing(mesh, manager, argv, why):
    talkers = Talkers(mesh.web, mesh.cart.ip)
    _, status = replace(mesh, manager, *argv)
    assert status == 1 and why in mesh.node.proxy.text()
    nothing_has_changed(mesh, manager, talkers)
    talkers.end()


@pytest.mark.parametrize("timeout", ["", "soon", "1s", "0", "-1", "99999999999999999999"])
def test_a_timeout_that_is_none_starts_nothing(mesh, manager, timeout):
    _, status = replace(mesh, manager, "--timeout", timeout, *NEVER_SERVES)
    assert status == 2 and f'timeout "{timeout}" is no number of seconds' in mesh.node.proxy.text()
    assert manager.told() is None


def test_the_program_gets_all_of_its_arguments(mesh, manager, tmp_path):
    told = tmp_path / "arguments"
    words = [str(n) for n in range(20)]
    _, status = replace(mesh, manager, "--", "/bin/sh", "-c", f'echo "$@" >{told}', *words)
    assert status == 1 and told.read_text().split() == words[1:]


def test_settings_that_it_refuses_change_nothing(mesh, manager):
    talkers = Talkers(mesh.web, mesh.cart.ip)
    _, status = replace(mesh, manager, IPV6_ENABLED="perhaps")
    assert status == 1 and "it has ended" in mesh.node.proxy.text()
    nothing_has_changed(mesh, manager, talkers)
    talkers.end()


def test_one_that_dies_while_it_takes_over_changes_nothing(mesh, manager, tmp_path):
    """Nothing that it had not been given before."""
    faults = Faults(BUILD, str(tmp_path / "faults"))
    talkers = Talkers(mesh.web, mesh.cart.ip, count=3)
    faults.fail("sendmsg of a worker", -signal.SIGKILL)
    _, status = replace(mesh, manager, **faults.env)
    faults.stop()
    assert status == 1
    nothing_has_changed(mesh, manager, talkers)
    talkers.end()


def test_without_an_agent_nothing_is_started(mesh, manager, tmp_path):
    at = len(mesh.node.proxy.text())
    _, status = replace(mesh, manager, BRUMA_RUN_DIR=str(tmp_path))
    assert status == 3 and manager.told() is None
    assert "started\t" not in mesh.node.proxy.text()[at:]
