# SPDX-License-Identifier: Apache-2.0
"""The container image."""

import json
import os
import shutil
import subprocess
import tarfile

import pytest

from support.programs import ROOT
from support.system import run


@pytest.fixture(scope="module")
def image(build, tmp_path_factory):
    """The archive, and its one layer unpacked."""
    folder = str(tmp_path_factory.mktemp("image"))
    run(["meson", "install", "-C", build, "--no-rebuild", "--destdir", f"{folder}/tree"], timeout=120)
    builder = os.path.join(ROOT, "packaging", "image", "build.py")
    for name in ("a", "b"):
        run(
            ["/usr/bin/python3", builder, f"{folder}/tree", "localhost/bruma:test", f"{folder}/{name}.tar"],
            timeout=120,
        )
    with tarfile.open(f"{folder}/a.tar") as archive:
        archive.extractall(f"{folder}/archive")
    with tarfile.open(f"{folder}/archive/layer.tar") as layer:
        layer.extractall(f"{folder}/root")
    yield folder
    shutil.rmtree(folder)


def test_the_same_tree_gives_the_same_bytes(image):
    with open(f"{image}/a.tar", "rb") as a, open(f"{image}/b.tar", "rb") as b:
        assert a.read() == b.read()


def test_manifest_names_what_is_there(image):
    with open(f"{image}/archive/manifest.json") as f:
        entry = json.load(f)[0]
    with open(f"{image}/archive/{entry['Config']}") as f:
        config = json.load(f)
    digest = run(["sha256sum", f"{image}/archive/layer.tar"]).stdout.split()[0]
    assert entry["RepoTags"] == ["localhost/bruma:test"] and entry["Layers"] == ["layer.tar"]
    assert config["rootfs"]["diff_ids"] == [f"sha256:{digest}"] and config["os"] == "linux"


@pytest.mark.parametrize("program", ["usr/sbin/bruma-agent", "usr/sbin/bruma-proxy", "usr/sbin/brumactl"])
def test_programs_run_with_what_is_in_the_image_alone(image, program):
    r = subprocess.run(
        ["/usr/sbin/chroot", f"{image}/root", f"/{program}", "--version"],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert r.returncode == 0 and "0." in r.stdout, r.stderr


def test_the_plugin_runs_there_too(image):
    r = subprocess.run(
        ["/usr/sbin/chroot", f"{image}/root", "/usr/lib/cni/bruma-cni"],
        env={"CNI_COMMAND": "VERSION"},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert "1.1.0" in json.loads(r.stdout)["supportedVersions"]


def test_an_incomplete_tree_is_refused(build, tmp_path):
    r = subprocess.run(
        [
            "/usr/bin/python3",
            os.path.join(ROOT, "packaging", "image", "build.py"),
            str(tmp_path),
            "x:1",
            str(tmp_path / "x.tar"),
        ],
        capture_output=True,
        text=True,
    )
    assert r.returncode != 0 and "bruma-agent is missing" in r.stderr and not (tmp_path / "x.tar").exists()
