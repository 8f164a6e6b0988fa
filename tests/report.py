#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Counts the single tests of a run of "meson test", for tests/run.sh.

    report.py BUILD/meson-logs/NAME.json

A test of meson's is a program, which counts by what it says of its own tests: pytest by the file that its --junitxml names,
checks by TAP, Criterion by the line at its end, and any other as one. Prints each failure with what it said, each skip with its
reason, and what TAP says in comments between its results; then "N N N": passed, failed, skipped. A program that ends badly is a
failure, also if all that it had to say was good.
"""

import json
import re
import sys
import xml.etree.ElementTree as ET
from collections import Counter

SYNTHESIS = re.compile(r"Synthesis: Tested: (\d+) \| Passing: (\d+) \| Failing: \d+ \| Crashing: \d+")
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
PLAN = re.compile(r"^1\.\.(\d+)(?: # SKIP ?(.*))?$", re.M)
POINT = re.compile(r"^(not )?ok (\d+)(?: - (.*?))?( # SKIP ?(.*))?$")
GOOD = ("OK", "SKIP", "EXPECTEDFAIL")
SHOWN = 60


def skipped(name, why):
    print(f"skipped: {name}: {why}")


def by_junit(name, path):
    """Failures are shown by pytest itself."""
    counts = Counter()
    for case in ET.parse(path).getroot().iter("testcase"):
        kinds = {child.tag: child for child in case}
        kind = "passed"
        if "failure" in kinds or "error" in kinds or not case.get("name"):  # without a name it was broken off
            kind = "failed"
        elif "skipped" in kinds:
            kind = "skipped"
        counts[kind] += 1
        if kind == "skipped":
            skipped(
                f"{case.get('classname', '')}.{case.get('name', '')}",
                kinds[kind].get("message", "no reason given"),
            )
    return counts


def by_tap(name, output):
    counts, plan = Counter(), PLAN.search(output)
    if plan and plan[2] is not None:
        skipped(name, plan[2] or "no reason given")
        return Counter(skipped=1)
    details = False
    for line in output.splitlines():
        point = POINT.match(line)
        if point:
            kind = "failed" if point[1] else "skipped" if point[4] else "passed"
            counts[kind] += 1
            details = kind == "failed"
            if kind == "failed":
                print(f"FAILED: {name}: {point[3]}")
            elif kind == "skipped":
                skipped(f"{name}: {point[3]}", point[5] or "no reason given")
        elif line.startswith("#   ") and details:
            print("    " + line[4:])
        elif line.startswith("# "):
            print("    " + line[2:])
    if not plan or int(plan[1]) != sum(counts.values()):
        print(f"FAILED: {name}: it did not come to the end of its list")
        counts["failed"] += 1
    return counts


def by_criterion(name, output):
    counts = Counter()
    for line in (line.strip() for line in output.splitlines()):
        if line.startswith("[SKIP]"):
            skipped(name, line[6:].strip())
            counts["skipped"] += 1
    tested, passing = map(int, SYNTHESIS.search(output).groups())
    counts.update(passed=passing, failed=tested - passing)  # skips are neither, and crashes are failures
    if not tested and not counts["skipped"]:
        print(f"FAILED: {name}: it has no tests")
        counts["failed"] += 1
    return counts


def by_itself(name, test, output):
    if test["result"] == "SKIP":
        skipped(name, output.strip()[-200:] or "the program said no more")
        return Counter(skipped=1)
    return Counter(passed=int(test["result"] in GOOD))


def count(test):
    name, output = test["name"], COLOURS.sub("", (test.get("stdout") or "") + (test.get("stderr") or ""))
    junit = [a.partition("=")[2] for a in test.get("command", []) if a.startswith("--junitxml=")]
    trouble = ""
    try:
        if junit and test["result"] != "SKIP":
            counts = by_junit(name, junit[0])
        elif test["result"] in ("SKIP", "EXPECTEDFAIL") and not PLAN.search(output):
            counts = by_itself(name, test, output)
        elif SYNTHESIS.search(output):
            counts = by_criterion(name, output)
        elif output.startswith("TAP version"):
            counts = by_tap(name, output)
        else:
            counts = by_itself(name, test, output)
    except (OSError, ET.ParseError) as e:
        counts, trouble = Counter(), f": no results: {e}"
    unexplained = trouble or (test["result"] not in GOOD and not counts["failed"])
    if unexplained:
        counts["failed"] += 1  # killed, or died after its tests, or a sanitizer spoke at the end
    if unexplained or test["result"] not in GOOD:
        print(f"FAILED: {name} ({test['result']}, exit {test.get('returncode')}){trouble}")
        # What TAP says of a failure is shown already, and pytest shows its own.
        if unexplained or not (junit or output.startswith("TAP version")):
            print("\n".join("    " + line for line in output.strip().splitlines()[-SHOWN:]))
    return counts


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    counts = Counter()
    try:
        with open(sys.argv[1]) as f:
            lines = f.readlines()
        for line in lines:
            counts.update(count(json.loads(line)))
        if not lines:
            raise ValueError("it has no tests")
    except (OSError, ValueError, KeyError) as e:
        print(f"FAILED: {sys.argv[1]} cannot be read: {e}")
        counts["failed"] += 1
    print(counts["passed"], counts["failed"], counts["skipped"])


if __name__ == "__main__":
    main()
