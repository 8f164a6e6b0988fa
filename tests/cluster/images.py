# SPDX-License-Identifier: Apache-2.0
"""Images of the test cluster, made of files of this machine. No registry is asked."""

import hashlib
import importlib.util
import json
import os
import tarfile

from support.programs import ROOT
from support.system import run

PAUSE, APP = "bruma.test/pause:1", "bruma.test/app:1"
BRUMA = "bruma.test/bruma"

_spec = importlib.util.spec_from_file_location("image_build", f"{ROOT}/packaging/image/build.py")
build = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(build)


def make(target, name, files, entrypoint, user="0"):
    """files: name in the image -> (contents, mode)."""
    layer = build.layer(files)
    config = json.dumps(
        {
            "architecture": build.ARCHITECTURES[os.uname().machine],
            "os": "linux",
            "config": {"Entrypoint": entrypoint, "User": user, "Env": [f"PATH={build.PATH}"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        }
    ).encode()
    config_name = hashlib.sha256(config).hexdigest() + ".json"
    manifest = json.dumps([{"Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"]}]).encode()
    with tarfile.open(target, "w", format=tarfile.USTAR_FORMAT) as tar:
        for member, data in (("manifest.json", manifest), (config_name, config), ("layer.tar", layer)):
            build.add(tar, member, data, 0o644)
    return target


def program(path):
    """A program with its libraries, as files of an image."""
    files = {"usr/bin/" + os.path.basename(path): path}
    files.update({library.lstrip("/"): library for library in build.libraries(path)})
    out = {}
    for name, source in files.items():
        with open(os.path.realpath(source), "rb") as f:
            out[name] = (f.read(), 0o755)
    return out


def make_app(directory, build_directory):
    """The archives of pause and app."""
    with open(f"{build_directory}/tests/cluster/cluster-app", "rb") as f:
        files = {"app": (f.read(), 0o755)}
    return [
        make(f"{directory}/pause.tar", PAUSE, files, ["/app", "pause"]),
        make(f"{directory}/app.tar", APP, files, ["/app", "serve"]),
    ]


def make_bruma(directory, build_directory, *tags):
    """Bruma's image as its users build it, an archive for each tag."""
    tree = f"{directory}/tree"
    run(["meson", "install", "-C", build_directory, "--no-rebuild", "--destdir", tree], timeout=120)
    made = []
    for tag in tags:
        made.append(f"{directory}/bruma-{tag}.tar")
        run(
            ["/usr/bin/python3", f"{ROOT}/packaging/image/build.py", tree, f"{BRUMA}:{tag}", made[-1]],
            timeout=120,
        )
    return made
