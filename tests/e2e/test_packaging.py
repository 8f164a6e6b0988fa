# SPDX-License-Identifier: Apache-2.0
"""What `meson install` lays down, and that the samples and pages among it are true."""

import json
import os
import re
import shutil
import subprocess

import pytest

from support import agent
from support.programs import ROOT
from support.system import run, wait_for_process

EXPECTED = {
    "/usr/sbin/bruma-agent",
    "/usr/sbin/bruma-proxy",
    "/usr/sbin/brumactl",
    "/usr/sbin/kubectl-bruma",
    "/usr/lib/cni/bruma-cni",
    "/usr/lib/systemd/system/bruma-agent.service",
    "/usr/lib/systemd/system/bruma-proxy.service",
    "/usr/lib/systemd/system/bruma-guard.service",
    "/etc/bruma/agent.env",
    "/etc/bruma/proxy.env",
    "/etc/bruma/mesh.yaml",
    "/usr/share/man/man8/bruma-agent.8",
    "/usr/share/man/man8/bruma-proxy.8",
    "/usr/share/man/man8/brumactl.8",
    "/usr/share/man/man8/bruma-cni.8",
    "/usr/share/doc/bruma/README.md",
    "/usr/share/doc/bruma/LICENSE",
    "/usr/share/doc/bruma/CHANGELOG.md",
    "/usr/share/doc/bruma/examples/10-bruma.conflist",
    "/usr/share/doc/bruma/examples/waypoint.yaml",
    "/usr/share/doc/bruma/examples/waypoint-in-mesh.yaml",
    "/usr/share/doc/bruma/examples/zds-patch.yaml",
    *(f"/usr/share/doc/bruma/prometheus/{name}.yaml" for name in ("alerts", "recording")),
    *(f"/usr/share/doc/bruma/grafana/{name}.json" for name in ("mesh", "node", "reasons")),
    *(f"/usr/share/doc/bruma/examples/{name}" for name in ("agent.env", "mesh.yaml", "proxy.env")),
    "/usr/share/bash-completion/completions/brumactl",
    "/usr/share/zsh/vendor-completions/_brumactl",
    "/usr/share/fish/vendor_completions.d/brumactl.fish",
    *(
        f"/usr/lib/bruma/{name}.bpf.o"
        for name in ("accept", "connect", "guard", "live", "lookup", "node", "options", "probes", "sweep")
    ),
}


@pytest.fixture(scope="module")
def installed(build, tmp_path_factory):
    """A tree that was installed into an empty directory."""
    destination = str(tmp_path_factory.mktemp("installed"))
    run(["meson", "install", "-C", build, "--no-rebuild", "--destdir", destination], timeout=120)
    yield destination
    shutil.rmtree(destination)


def files_of(directory):
    return {
        os.path.join(base, name)[len(directory) :] for base, _, names in os.walk(directory) for name in names
    }


def test_installed_files(installed):
    files = files_of(installed)
    assert files >= EXPECTED, f"not installed: {sorted(EXPECTED - files)}"
    assert files == EXPECTED, f"installed and not expected: {sorted(files - EXPECTED)}"
    assert all(os.stat(installed + f).st_mode & 0o444 == 0o444 for f in files), "not for everybody to read"


def test_edited_configuration_is_kept(build, tmp_path):
    """A new version over an old one: what the administrator wrote stays, and what is missing comes."""

    def install():
        run(["meson", "install", "-C", build, "--no-rebuild", "--destdir", str(tmp_path)], timeout=120)
        return {
            name: (tmp_path / "etc" / "bruma" / name).read_text()
            for name in ("agent.env", "mesh.yaml", "proxy.env")
        }

    fresh = install()
    for name, text in fresh.items():
        assert text == (tmp_path / "usr/share/doc/bruma/examples" / name).read_text() != ""
    (tmp_path / "etc/bruma/mesh.yaml").write_text("namespaces: []\n")
    (tmp_path / "etc/bruma/proxy.env").unlink()
    assert install() == {**fresh, "mesh.yaml": "namespaces: []\n"}


def test_installed_programs_start(installed):
    for program in ("bruma-agent", "bruma-proxy", "brumactl"):
        answer = run([f"{installed}/usr/sbin/{program}", "--version"]).stdout
        assert answer.startswith(program), answer
    r = subprocess.run(
        [f"{installed}/usr/lib/cni/bruma-cni"],
        env={"CNI_COMMAND": "VERSION"},
        input="{}",
        text=True,
        capture_output=True,
        timeout=20,
    )
    assert "supportedVersions" in json.loads(r.stdout), r.stderr


def test_plugin_needs_no_shared_library(installed):
    r = run(["readelf", "-d", f"{installed}/usr/lib/cni/bruma-cni"])
    assert "NEEDED" not in r.stdout, r.stdout


@pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed on this machine"
)
@pytest.mark.parametrize("unit", ["bruma-agent.service", "bruma-guard.service", "bruma-proxy.service"])
def test_units(installed, tmp_path, unit):
    """systemd reads the units without a complaint about them."""
    with open(f"{installed}/usr/lib/systemd/system/{unit}") as f:
        text = f.read()
    for program in ("bruma-agent", "bruma-proxy"):  # it looks for the programs and the other unit
        text = text.replace(f"/usr/sbin/{program}", f"{installed}/usr/sbin/{program}")
    for name in ("bruma-agent.service", "bruma-proxy.service"):
        if name != unit:
            shutil.copy(f"{installed}/usr/lib/systemd/system/{name}", tmp_path / name)
    (tmp_path / unit).write_text(text)
    r = run(["systemd-analyze", "verify", "--man=no", str(tmp_path / unit)], check=False)
    complaints = [
        line
        for line in (r.stdout + r.stderr).splitlines()
        if "bruma" in line and "Command /usr/sbin" not in line
    ]
    assert complaints == []


def known_settings(build, program):
    text = run([f"{build}/{program}", "--settings-markdown"]).stdout
    return set(re.findall(r"`([A-Z][A-Z0-9_]+)`", text))


@pytest.mark.parametrize(
    ("program", "sample"), [("agent/bruma-agent", "agent.env"), ("proxy/bruma-proxy", "proxy.env")]
)
def test_sample_environment(build, program, sample):
    """Each line is a setting that there is, and the program takes its value."""
    known = known_settings(build, program) | ({"LOG_FORMAT"} if sample == "proxy.env" else set())
    with open(f"{ROOT}/packaging/etc/{sample}") as f:
        lines = [line.lstrip("#").strip() for line in f if re.match(r"#?[A-Z_0-9]+=", line)]
    assert len(lines) >= 5
    for line in lines:
        name, value = line.split("=", 1)
        assert name in known, f"{sample} names {name}, which {program} does not know"
        r = run([f"{build}/{program}", "no-such-command"], env={"PATH": "/usr/bin", name: value}, check=False)
        assert name not in r.stderr and not (value and value in r.stderr), r.stderr


def test_settings_page_is_current(build):
    with open(f"{ROOT}/docs/settings.md") as f:
        page = f.read()
    made = run([f"{ROOT}/docs/settings.sh", build]).stdout
    assert page == made, "docs/settings.sh BUILD >docs/settings.md"


def test_sample_mesh_file(build, work):
    """The installed mesh.yaml is read as it is, and with its examples made active."""
    netns = work.netns("host")
    pins, cgroup = work.bpf_root(), work.cgroup()
    with open(f"{ROOT}/packaging/etc/mesh.yaml") as f:
        sample = f.read()
    # "workloads: []" and the commented list below it become one list.
    active = re.sub(r"^(\w+): \[\]\n#", r"\1:\n#", sample, flags=re.M)
    head, _, rest = active.partition("namespaces:")
    active = head + "namespaces:" + re.sub(r"^#", "", rest, flags=re.M)
    for name, text, workloads in (("as-it-is", sample, 0), ("with-examples", active, 1)):
        path = work.path(f"{name}.yaml")
        with open(path, "w") as f:
            f.write(text)
        run_dir = work.path(f"run-{name}")
        p = work.process(
            [
                f"{build}/agent/bruma-agent",
                "--run-dir",
                run_dir,
                "--pin-dir",
                f"{pins}/{name}",
                "--cgroup",
                cgroup,
                "--mesh-file",
                path,
            ],
            netns=netns,
        )
        wait_for_process(p, lambda run_dir=run_dir: agent.status(run_dir), "the agent to answer")
        status = agent.status(run_dir)
        assert status["meshReady"] is True, status
        assert status["namespaces"] == 1 and status["workloads"] == workloads, status
        p.stop()


def test_sample_conflist():
    with open(f"{ROOT}/packaging/10-bruma.conflist") as f:
        conflist = json.load(f)
    assert [p["type"] for p in conflist["plugins"]][-1] == "bruma-cni"
