# SPDX-License-Identifier: Apache-2.0
"""What the checks print: TAP, which meson reads, and tests/report.py counts."""

import os
import sys

ROOT = os.path.realpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
FOLDERS = ("agent", "bpf", "cni", "ctl", "include", "lib", "packaging", "proxy", "tests")


def jobs():
    return int(os.environ.get("BRUMA_JOBS") or os.cpu_count() or 1)


def sources(*endings, folders=FOLDERS):
    """Our own files with these endings, from the root of the tree."""
    found = []
    for folder in folders:
        for place, below, names in os.walk(os.path.join(ROOT, folder)):
            below[:] = [name for name in below if name != "__pycache__"]
            found += [
                os.path.relpath(os.path.join(place, name), ROOT) for name in names if name.endswith(endings)
            ]
    return sorted(found)


class Tap:
    def __init__(self):
        self.count = self.failures = 0
        print("TAP version 13")

    def result(self, good, name, details=""):
        self.count += 1
        self.failures += not good
        print(f"{'ok' if good else 'not ok'} {self.count} - {name}")
        for line in details.splitlines():
            print("#   " + line)

    def note(self, text):
        print("# " + text)

    def end(self):
        print(f"1..{self.count}", flush=True)
        if not self.count:
            sys.exit("nothing was found to check")
        sys.exit(1 if self.failures else 0)


def skip_all(why):
    print(f"TAP version 13\n1..0 # SKIP {why}")
    sys.exit(0)
