# SPDX-License-Identifier: Apache-2.0
"""Where the tree and the programs under test are."""

import os

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DATA = f"{ROOT}/tests/data"
BUILD = os.environ.get("BRUMA_BUILD", "build")  # a meson build directory


FOLDERS = {"bruma-agent": "agent", "bruma-proxy": "proxy", "bruma-cni": "cni", "brumactl": "ctl"}


def program(name, build=BUILD):
    folder = FOLDERS[name]
    # The plugin is linked statically, which sanitizers do not like: it may be of another build than the rest.
    build = os.environ.get("BRUMA_CNI_BUILD", build) if folder == "cni" else build
    return os.path.abspath(os.path.join(build, folder, name))
