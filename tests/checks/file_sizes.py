#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""No file of code is longer than one reads at a sitting: 600 lines. What is generated and what is data is not asked."""

import os
import statistics

from tap import ROOT, Tap, sources

LONGEST = 600
ENDINGS = (".c", ".h", ".py", ".sh", ".go", "meson.build")


def lines(file):
    with open(os.path.join(ROOT, file), "rb") as f:
        return sum(1 for _ in f)


def main():
    tap = Tap()
    length = {
        file: lines(file)
        for file in sources(*ENDINGS)
        if not file.startswith(("tests/data/", "tests/fuzz/corpus/"))
    }
    long = "\n".join(f"{file}: {n} lines" for file, n in length.items() if n > LONGEST)
    tap.result(not long, f"no file is longer than {LONGEST} lines", long)
    for what, endings in (("C", (".c", ".h")), ("C without tests", (".c", ".h")), ("Python", (".py",))):
        chosen = [
            n
            for f, n in length.items()
            if f.endswith(endings) and not ("without" in what and f.startswith("tests/"))
        ]
        tap.note(
            f"{what}: {len(chosen)} files, median {statistics.median(chosen):.0f} lines, longest {max(chosen)}"
        )
    tap.end()


if __name__ == "__main__":
    main()
