# SPDX-License-Identifier: Apache-2.0
"""What the packages are: the same bytes wherever they are built, with all that is installed."""

import os
import subprocess

import pytest

from support.programs import BUILD, ROOT
from support.system import run, sh

# A machine that is set up otherwise, at another place.
OTHERWISE = {
    "TZ": "Asia/Tokyo",
    "LC_ALL": "C.UTF-8",
    "HOME": "/nonexistent",
    "DEB_BUILD_OPTIONS": "parallel=3",
}


def files(deb):
    listing = sh("dpkg-deb", "--contents", deb).splitlines()
    return {line.split()[5].removeprefix("./").removesuffix(".gz") for line in listing if line[0] != "d"}


def test_two_builds_are_the_same_bytes(debs, tmp_path):
    place = tmp_path / "another" / "place"
    place.mkdir(parents=True)
    environment = {**os.environ, **OTHERWISE, "TMPDIR": str(place)}
    script = f'umask 077; exec {ROOT}/packaging/deb.sh "$0"'
    run(["sh", "-c", script, tmp_path / "out"], timeout=1200, env=environment, cwd=place)
    made = sorted(p.name for p in debs.glob("*.deb"))
    assert len(made) >= 2 and made == sorted(p.name for p in (tmp_path / "out").glob("*.deb"))
    for name in made:
        assert (debs / name).read_bytes() == (tmp_path / "out" / name).read_bytes(), name


def test_all_that_is_installed_is_in_them(debs, tmp_path):
    sh("meson", "install", "-C", BUILD, "--no-rebuild", "--quiet", "--destdir", tmp_path)
    installed = {
        os.path.relpath(os.path.join(folder, name), tmp_path)
        for folder, _, names in os.walk(tmp_path)
        for name in names
    }
    packed = set().union(*(files(deb) for deb in debs.glob("bruma*.deb") if "dbgsym" not in deb.name))
    # Debian has the text of the license.
    missing = installed - packed - {"usr/share/doc/bruma/LICENSE"}
    assert not missing


def test_programs_run_on_a_machine_with_what_they_depend_on(debs, tmp_path):
    for deb in debs.glob("bruma*.deb"):
        sh("dpkg-deb", "--extract", deb, tmp_path)
    for name in ("bruma-agent", "bruma-proxy", "brumactl"):
        assert "0.1.0" in sh(tmp_path / "usr/sbin" / name, "--version")


def test_lintian_objects_to_nothing(debs):
    r = subprocess.run(
        ["lintian", "--allow-root", "--fail-on", "error,warning", *debs.glob("*.changes")],
        capture_output=True,
        text=True,
    )
    assert r.returncode == 0, r.stdout + r.stderr


def test_an_option_instead_of_a_directory_is_refused():
    r = subprocess.run([f"{ROOT}/packaging/deb.sh", "-a", "arm64"], capture_output=True, text=True)
    assert r.returncode == 2 and "packaging/deb.sh DIRECTORY" in r.stderr


def test_brumactl_is_in_everybodys_path(debs, tmp_path):
    (deb,) = debs.glob("brumactl_*.deb")
    sh("dpkg-deb", "--extract", deb, tmp_path)
    for name in ("brumactl", "kubectl-bruma"):
        assert os.path.exists(tmp_path / "usr/bin" / name), "kubectl looks for its plugins there"


@pytest.mark.parametrize("name", ["bruma", "brumactl"])
def test_what_it_is_made_of_is_told(debs, name):
    (deb,) = debs.glob(f"{name}_*.deb")
    needs = sh("dpkg-deb", "--field", deb, "Depends")
    assert "libssl3" in needs and "libc6" in needs
    assert "libcriterion" not in needs
