#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""shellcheck of each of our shell scripts."""

import concurrent.futures
import subprocess

from tap import ROOT, Tap, jobs, sources


def check(file):
    return subprocess.run(
        ["shellcheck", "-x", "-S", "warning", file], cwd=ROOT, capture_output=True, text=True
    )


def main():
    tap, files = Tap(), [*sources(".sh", folders=("ctl", "docs", "packaging", "tests")), ".ci/run"]
    with concurrent.futures.ThreadPoolExecutor(jobs()) as pool:
        for file, run in zip(files, pool.map(check, files), strict=True):
            tap.result(run.returncode == 0, file, run.stdout + run.stderr)
    tap.note(f"{len(files)} scripts")
    tap.end()


if __name__ == "__main__":
    main()
