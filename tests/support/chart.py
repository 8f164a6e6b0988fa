# SPDX-License-Identifier: Apache-2.0
"""The chart, rendered by helm: BRUMA_HELM names the program, or it is on PATH."""

import os
import shutil
import subprocess

import yaml

from support.programs import ROOT

CHART = os.path.join(ROOT, "charts", "bruma")
HELM = os.environ.get("BRUMA_HELM") or shutil.which("helm")


def call(*argv):
    return subprocess.run([HELM, *argv], capture_output=True, text=True, timeout=60)


def template(*settings):
    return call(
        "template", "bruma", CHART, "-n", "istio-system", *[a for s in settings for a in ("--set", s)]
    )


def objects(text):
    """(kind, name) -> object"""
    return {(d["kind"], d["metadata"]["name"]): d for d in yaml.safe_load_all(text) if d}


def rendered(*settings):
    r = template(*settings)
    assert r.returncode == 0, r.stderr
    return objects(r.stdout)


def pod(objects, name):
    return objects["DaemonSet", name]["spec"]["template"]["spec"]
