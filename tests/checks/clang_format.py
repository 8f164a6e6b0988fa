#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Each of our C files is as clang-format-14 writes it: other versions write it otherwise."""

import concurrent.futures
import re
import shutil
import subprocess

from tap import ROOT, Tap, jobs, skip_all, sources

PROGRAM = "clang-format-14"
AT_ONCE = 40


def unformatted(files):
    run = subprocess.run([PROGRAM, "--dry-run", "-Werror", *files], cwd=ROOT, capture_output=True, text=True)
    bad = set(re.findall(r"^([^:\n]+):\d+:\d+: error: ", run.stderr, re.M))
    if run.returncode and not bad:
        raise RuntimeError(f"{PROGRAM} ended with {run.returncode}: {run.stderr[-300:]}")
    return bad


def main():
    if not shutil.which(PROGRAM):
        skip_all(f"there is no {PROGRAM}, by which the tree is formatted (later releases have none)")
    tap, files = Tap(), sources(".c", ".h")
    with concurrent.futures.ThreadPoolExecutor(jobs()) as pool:
        bad = set().union(
            *pool.map(unformatted, [files[at : at + AT_ONCE] for at in range(0, len(files), AT_ONCE)])
        )
    for file in files:
        tap.result(file not in bad, file, f"{PROGRAM} -i {file}" if file in bad else "")
    tap.note(f"{len(files)} files of C")
    tap.end()


if __name__ == "__main__":
    main()
