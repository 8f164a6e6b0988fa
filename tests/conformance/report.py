# SPDX-License-Identifier: Apache-2.0
"""What the judge has found, as text, JSON and JUnit."""

import collections
import json
import xml.etree.ElementTree as ET

# passed and deviates are as they should be; wrong and unlisted (a known deviation that passes) are not.
PASSED, WRONG, DEVIATES, UNLISTED = "passed", "wrong", "deviates", "passes, though listed as a deviation"
GOOD = (PASSED, DEVIATES)
Result = collections.namedtuple("Result", "case verdict seconds seen why")


def verdict(failed, why):
    """why: of a known deviation, or None."""
    if failed:
        return WRONG if why is None else DEVIATES
    return PASSED if why is None else UNLISTED


def line(result):
    """One line of each case, and what was seen where it does not hold."""
    mark = {PASSED: "ok      ", DEVIATES: "deviates", WRONG: "WRONG   ", UNLISTED: "UNLISTED"}[result.verdict]
    text = f"{mark} {result.case.sentence:5} {result.case.title} ({result.seconds:.1f} s)"
    if result.verdict == PASSED:
        return text
    text += f"\n             {result.case.name}"
    if result.seen:
        text += "\n" + "\n".join("             " + part for part in result.seen.splitlines())
    if result.why:
        text += f"\n             known: {result.why}"
    return text


def summary(results):
    count = collections.Counter(r.verdict for r in results)
    return (
        f"{len(results)} cases: {count[PASSED]} hold, {count[DEVIATES]} known deviations, {count[WRONG]} wrong, "
        f"{count[UNLISTED]} listed as deviations that hold"
    )


def as_json(program, results):
    return json.dumps(
        {
            "proxy": program,
            "cases": [
                {
                    "name": r.case.name,
                    "sentence": r.case.sentence,
                    "title": r.case.title,
                    "verdict": r.verdict,
                    "good": r.verdict in GOOD,
                    "seconds": round(r.seconds, 3),
                    "seen": r.seen,
                    "why": r.why,
                }
                for r in results
            ],
            "good": all(r.verdict in GOOD for r in results),
        },
        indent=1,
    )


def as_junit(program, results):
    suite = ET.Element("testsuite", name="conformance", tests=str(len(results)))
    ET.SubElement(ET.SubElement(suite, "properties"), "property", name="proxy", value=program)
    failures = 0
    for r in results:
        item = ET.SubElement(
            suite, "testcase", classname=r.case.sentence, name=r.case.name, time=f"{r.seconds:.3f}"
        )
        if r.verdict == DEVIATES:
            ET.SubElement(item, "skipped", message=f"known deviation: {r.why}").text = r.seen
        elif r.verdict not in GOOD:
            failures += 1
            ET.SubElement(item, "failure", message=f"{r.case.title}: {r.verdict}").text = r.seen
    suite.set("failures", str(failures))
    return ET.tostring(suite, encoding="unicode", xml_declaration=True)
