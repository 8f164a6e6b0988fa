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
from support.tls_offers import fips_module


@pytest.fixture(scope="module")
def image(build, tmp_path_factory):
    """The archive, and its one layer unpacked."""
    folder = str(tmp_path_factory.mktemp("image"))
    run(["meson", "install", "-C", build, "--no-rebuild", "--destdir", f"{folder}/tree"], timeout=120)
    for name in ("a", "b"):
        r = build_image(f"{folder}/tree", "localhost/bruma:test", f"{folder}/{name}.tar")
        assert r.returncode == 0, r.stderr
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


def test_the_public_authorities_are_known(image):
    """XDS_ROOT_CA=SYSTEM, and a collector of OTLP by https."""
    roots = f"{image}/root/etc/ssl/certs/ca-certificates.crt"
    with open(roots) as f:
        assert "BEGIN CERTIFICATE" in f.read()
    where = run(["openssl", "version", "-d"]).stdout.split('"')[1]
    assert os.readlink(f"{image}/root{where}/cert.pem") == "/etc/ssl/certs/ca-certificates.crt"


def test_the_plugin_runs_there_too(image):
    r = subprocess.run(
        ["/usr/sbin/chroot", f"{image}/root", "/usr/lib/cni/bruma-cni"],
        env={"CNI_COMMAND": "VERSION"},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert "1.1.0" in json.loads(r.stdout)["supportedVersions"]


def settings(archive):
    """Environment that an image gives its programs."""
    with tarfile.open(archive) as tar:
        (entry,) = json.load(tar.extractfile("manifest.json"))
        config = json.load(tar.extractfile(entry["Config"]))
    return dict(e.split("=", 1) for e in config["config"]["Env"])


def proxy_in(root, **env):
    return subprocess.run(
        ["/usr/sbin/chroot", root, "/usr/sbin/bruma-proxy", "--ca-address", ""],
        env=env,
        capture_output=True,
        text=True,
        timeout=30,
    )


def build_image(*argv):
    builder = os.path.join(ROOT, "packaging", "image", "build.py")
    return subprocess.run(["/usr/bin/python3", builder, *argv], capture_output=True, text=True, timeout=120)


def test_the_fips_provider_is_there_where_openssl_has_it(image):
    """It is switched on by COMPLIANCE_POLICY; a proxy that goes on to look at its other settings has it."""
    env = settings(f"{image}/a.tar")
    r = proxy_in(f"{image}/root", **env, COMPLIANCE_POLICY="fips-140-3")
    assert r.returncode == 1 and "COMPLIANCE_POLICY" not in env
    if not fips_module():
        assert "BRUMA_FIPS_CONFIG" not in env and "openssl-provider-fips" in r.stderr
        return
    assert env["BRUMA_FIPS_CONFIG"] == "/etc/bruma/fipsmodule.cnf"
    assert "CA_ADDRESS" in r.stderr and "COMPLIANCE_POLICY" not in r.stderr


def test_the_variant_is_under_a_fips_policy_by_itself(image, tmp_path):
    target = str(tmp_path / "fips.tar")
    r = build_image("--fips", f"{image}/tree", "localhost/bruma:test-fips", target)
    if not fips_module():
        assert r.returncode != 0 and "openssl-provider-fips" in r.stderr and not os.path.exists(target)
        return
    assert r.returncode == 0, r.stderr
    assert settings(target)["COMPLIANCE_POLICY"] == "fips-140-3"


def test_a_provider_that_is_not_what_was_installed_is_not_used(image, tmp_path):
    if not fips_module():
        pytest.skip("this machine has no FIPS provider (openssl-provider-fips)")
    shutil.copytree(f"{image}/root", f"{tmp_path}/root", symlinks=True)
    with open(f"{tmp_path}/root{fips_module()}", "ab") as f:
        f.write(b"\0")
    r = proxy_in(f"{tmp_path}/root", **settings(f"{image}/a.tar"), COMPLIANCE_POLICY="fips-140-2")
    assert r.returncode == 1 and "cannot be used" in r.stderr


def test_an_incomplete_tree_is_refused(build, tmp_path):
    r = build_image(str(tmp_path), "x:1", str(tmp_path / "x.tar"))
    assert r.returncode != 0 and "bruma-agent is missing" in r.stderr and not (tmp_path / "x.tar").exists()
