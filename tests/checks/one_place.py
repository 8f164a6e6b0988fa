#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Libraries that are called behind wrappers of ours: only the wrappers include their headers."""

import os
import re

from tap import ROOT, Tap, sources

# Beginning of the header's name: who may include it, and why nobody else.
WRAPPED = {
    "urcu": ("proxy/state/rcu.h", "ThreadSanitizer understands the wrappers, and not liburcu"),
}


def main():
    tap = Tap()
    for name, (wrapper, why) in WRAPPED.items():
        found = []
        for file in sources(".c", ".h"):
            with open(os.path.join(ROOT, file)) as f:
                if re.search(rf'^\s*#\s*include\s*[<"]{name}', f.read(), re.M):
                    found.append(file)
        others = [file for file in found if file != wrapper]
        tap.result(
            found and not others,
            f"{name} is included by {wrapper} alone",
            "\n".join([*others, why]) if others else "",
        )
    tap.end()


if __name__ == "__main__":
    main()
