# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the packages' tests.

debs      a directory with the packages of this tree, made by packaging/deb.sh
machine   a machine of its own with a systemd, on which nothing is installed yet
"""

import os
import shutil
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from support.overlay_machine import OverlayMachine, missing
from support.programs import ROOT
from support.system import run


@pytest.fixture(scope="session")
def debs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("debs")
    run([f"{ROOT}/packaging/deb.sh", folder], timeout=1200)
    return folder


@pytest.fixture(scope="module")
def machine(debs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("machine")
    why = missing(folder)
    if why:
        pytest.skip(why)
    packages = folder / "packages"
    shutil.copytree(debs, packages)
    with OverlayMachine(str(folder / "layer"), str(packages)) as m:
        m.packages = packages
        yield m
