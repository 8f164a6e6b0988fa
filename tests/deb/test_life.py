# SPDX-License-Identifier: Apache-2.0
"""The packages on a machine with a systemd: installed, configured, upgraded while they serve, removed, purged."""

import json

from support.system import sh, wait_for

PINS = "/sys/fs/bpf/bruma"


def install(machine, *names):
    return machine.run("dpkg", "--install", *(f"/packages/{name}" for name in names))


def names(machine, version):
    return [p.name for p in machine.packages.glob(f"*_{version}_*.deb") if "dbgsym" not in p.name]


def later(machine, version, change=None):
    """The same packages with a later version; change(tree) makes the program another one."""
    for name in names(machine, "0.1.0"):
        tree = machine.packages / "tree"
        sh("dpkg-deb", "--raw-extract", machine.packages / name, tree)
        control = tree / "DEBIAN/control"
        control.write_text(control.read_text().replace("0.1.0", version))
        if change:
            change(tree)
        sh(
            "dpkg-deb",
            "--root-owner-group",
            "--build",
            tree,
            machine.packages / name.replace("0.1.0", version),
        )
        sh("rm", "-r", tree)
    return names(machine, version)


def pid(machine, unit):
    return int(machine.show(unit, "MainPID"))


def serves(machine):
    status = json.loads(machine.run("brumactl", "status", "-o", "json").stdout)
    return [p["state"] for p in status["proxies"]] == ["serving"]


def test_it_is_installed_and_does_nothing_yet(machine):
    install(machine, *names(machine, "0.1.0"))
    for unit in ("bruma-agent", "bruma-proxy", "bruma-guard"):
        assert machine.show(unit, "LoadState") == "loaded" and machine.show(unit, "ActiveState") == "inactive"
        assert machine.run("systemctl", "is-enabled", unit, check=False).stdout.strip() == "disabled"
    assert not machine.has(PINS)


def test_the_units_serve(machine):
    machine.run("sh", "-c", "echo '#BRUMA_LOG=debug' >>/etc/bruma/agent.env")
    machine.run("systemctl", "enable", "--now", "bruma-agent", "bruma-proxy")
    wait_for(lambda: serves(machine), "the proxy to serve")
    assert machine.has(PINS)


def test_an_upgrade_replaces_what_runs(machine):
    before = {unit: pid(machine, unit) for unit in ("bruma-agent", "bruma-proxy")}
    install(machine, *later(machine, "0.1.1"))
    for unit, old in before.items():
        assert pid(machine, unit) not in (0, old), unit
        assert machine.show(unit, "NRestarts") == "0"
        path = machine.run("readlink", f"/proc/{pid(machine, unit)}/exe").stdout.strip()
        assert path == f"/usr/sbin/{unit}", "the program that is installed"
    wait_for(lambda: serves(machine), "the next proxy to serve alone")
    assert machine.run("tail", "-n1", "/etc/bruma/agent.env").stdout == "#BRUMA_LOG=debug\n"


def test_a_program_that_does_not_start_is_not_put_in_its_place(machine):
    def broken(tree):
        program = tree / "usr/sbin/bruma-proxy"
        if program.exists():
            program.write_text("#!/bin/sh\necho no >&2\nexit 1\n")

    old = pid(machine, "bruma-proxy")
    r = install(machine, *later(machine, "0.1.2", broken))
    assert "still serves" in r.stderr
    assert pid(machine, "bruma-proxy") == old
    wait_for(lambda: serves(machine), "the old proxy to serve")
    install(machine, *later(machine, "0.1.3"))
    assert pid(machine, "bruma-proxy") not in (0, old)


def test_nothing_but_settings_is_left_when_it_is_removed(machine):
    machine.run("dpkg", "--remove", "bruma", "brumactl")
    assert not machine.has(PINS)
    assert not machine.run("pgrep", "bruma", check=False).stdout
    assert not machine.run("find", "/etc/systemd", "-name", "bruma*").stdout
    assert not machine.run("sh", "-c", "ls -d /usr/*/bruma* /usr/lib/*/*/bruma* || true").stdout
    assert machine.has("/etc/bruma/agent.env")
    machine.run("dpkg", "--purge", "bruma", "brumactl")
    assert not machine.has("/etc/bruma")


def test_a_machine_without_systemd_can_have_and_lose_it(machine):
    """An image that is being built, say."""
    machine.run("mount", "-t", "tmpfs", "none", "/run/systemd")
    try:
        install(machine, *names(machine, "0.1.0"))
        machine.run("dpkg", "--purge", "bruma", "brumactl")
    finally:
        machine.run("umount", "/run/systemd")
    assert not machine.has("/usr/sbin/bruma-agent")
