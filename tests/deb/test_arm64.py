# SPDX-License-Identifier: Apache-2.0
"""Packages and image for arm64, cross-built in a layer above this machine's files, where Debian's packages for that architecture
are installed; the programs run once, emulated (qemu-user), among the libraries of the image."""

import json
import os
import tarfile

import pytest

from support.programs import ROOT
from support.system import run, sh

pytestmark = pytest.mark.skipif(
    os.environ.get("BRUMA_DEB_ARM64") != "1",
    reason="BRUMA_DEB_ARM64 is not 1: packages for arm64 take 300 MB from the distribution and minutes",
)
SCRIPT = """
set -eu
layer=$0 source=$1
mount --make-rprivate /
mount -t tmpfs -o size=6g bruma "$layer"
mkdir "$layer/upper" "$layer/work" "$layer/root"
mount -t overlay -o "lowerdir=/,upperdir=$layer/upper,workdir=$layer/work" bruma "$layer/root"
for folder in proc dev sys tmp; do mount --rbind "/$folder" "$layer/root/$folder"; done
mkdir "$layer/root/result" "$layer/root/source"
mount --bind "$source" "$layer/root/source"
mount --bind "$2" "$layer/root/result"
exec chroot "$layer/root" sh -euc '
    export DEBIAN_FRONTEND=noninteractive
    dpkg --add-architecture arm64
    apt-get update -q
    apt-get install -q -y --no-install-recommends crossbuild-essential-arm64 qemu-user-static
    # Two architectures of it cannot be installed beside each other: pages of its documentation differ.
    ! dpkg --status libldns-dev >/dev/null 2>&1 || apt-get purge -q -y libldns-dev
    mkdir /build-dep && cp -r /source/packaging/debian /build-dep/debian
    (cd /build-dep && apt-get build-dep -q -y --no-install-recommends -a arm64 .)
    /source/packaging/deb.sh /result --host-arch arm64 -Pcross
    mkdir /tree
    for deb in /result/bruma_*.deb /result/brumactl_*.deb; do dpkg-deb --extract "$deb" /tree; done
    /source/packaging/image/build.py /tree bruma:arm64 /result/image.tar
    mkdir /image && tar -xOf /result/image.tar layer.tar | tar -x -C /image
    cp /usr/bin/qemu-aarch64-static /image/
    for name in bruma-agent bruma-proxy brumactl; do
        chroot /image /qemu-aarch64-static "/usr/sbin/$name" --version
    done >/result/versions
    echo "{}" | CNI_COMMAND=VERSION chroot /image /qemu-aarch64-static /usr/lib/cni/bruma-cni >/result/cni.json
'
"""


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    layer, result = tmp_path_factory.mktemp("layer"), tmp_path_factory.mktemp("result")
    run(["unshare", "--mount", "sh", "-c", SCRIPT, layer, ROOT, result], timeout=1800)
    return result


def test_packages_are_for_it(result):
    debs = list(result.glob("*.deb"))
    assert len(debs) >= 2
    assert {sh("dpkg-deb", "--field", deb, "Architecture").strip() for deb in debs} == {"arm64"}


def test_the_image_is_for_it(result):
    with tarfile.open(result / "image.tar") as tar:
        manifest = json.load(tar.extractfile("manifest.json"))
        assert json.load(tar.extractfile(manifest[0]["Config"]))["architecture"] == "arm64"


def test_the_programs_run_among_its_libraries(result):
    said = (result / "versions").read_text().splitlines()
    assert said == ["bruma-agent 0.1.0", "bruma-proxy 0.1.0", "brumactl 0.1.0"]
    assert "1.1.0" in json.loads((result / "cni.json").read_text())["supportedVersions"]
