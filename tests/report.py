#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Counts the results of a test runner, for tests/run.sh.

    report.py meson BUILD/meson-logs/testlog.json     programs that use Criterion count by their tests
    report.py junit FILE.xml                          pytest --junitxml

Prints each failure with what it said and each skip with its reason, then "N N N": passed, failed, skipped.
"""

import json
import re
import sys
import xml.etree.ElementTree as ET

SYNTHESIS = re.compile(r"Synthesis: Tested: (\d+) \| Passing: (\d+) \| Failing: (\d+) \| Crashing: (\d+)")
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def meson(path):
    passed = failed = skipped = 0
    with open(path) as f:
        tests = [json.loads(line) for line in f]
    for t in tests:
        output = COLOURS.sub("", t.get("stdout", "") + t.get("stderr", ""))
        skips = [line.strip() for line in output.splitlines() if line.startswith("[SKIP]")]
        for line in skips:
            print(f"skipped: {t['name']}: {line[6:].strip()}")
        skipped += len(skips)
        counts = SYNTHESIS.search(output)
        good = t["result"] in ("OK", "SKIP")
        if counts:
            tested, passing, failing, crashing = map(int, counts.groups())
            passed += passing
            failed += failing + crashing
            if good and (failing or crashing or not tested):
                good = False
                failed += not (failing or crashing)
            elif not good and not failing and not crashing:
                failed += 1  # died after its tests, or a sanitizer spoke at the end
        elif t["result"] == "SKIP":
            print(f"skipped: {t['name']}: the program said so: {output.strip()[-200:]}")
            skipped += 1
        elif good:
            passed += 1
        else:
            failed += 1
        if not good:
            print(f"FAILED: {t['name']} ({t['result']}, exit {t.get('returncode')})")
            print("\n".join("    " + line for line in output.strip().splitlines()[-60:]))
    return passed, failed, skipped


def junit(path):
    passed = failed = skipped = 0
    for case in ET.parse(path).getroot().iter("testcase"):
        name = f"{case.get('classname', '')}.{case.get('name', '')}"
        kinds = {child.tag: child for child in case}
        if "failure" in kinds or "error" in kinds:
            failed += 1
        elif "skipped" in kinds:
            skipped += 1
            print(f"skipped: {name}: {kinds['skipped'].get('message', 'no reason given')}")
        else:
            passed += 1
    return passed, failed, skipped


def main():
    if len(sys.argv) != 3 or sys.argv[1] not in ("meson", "junit"):
        sys.exit(__doc__)
    try:
        counts = {"meson": meson, "junit": junit}[sys.argv[1]](sys.argv[2])
    except (OSError, ValueError, KeyError, ET.ParseError) as e:
        print(f"FAILED: {sys.argv[2]} cannot be read: {e}")
        counts = (0, 1, 0)
    print(*counts)


if __name__ == "__main__":
    main()
