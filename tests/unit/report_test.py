#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""tests/report.py: whatever ends badly is a failure, and whatever did not run is a skip with its reason.

The logs are as meson 1.0 to 1.7 writes them: one JSON object a line.
"""

import json
import os
import subprocess
import sys
import tempfile
import unittest

REPORT = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "report.py")
CRITERION = "\x1b[0;34m[====]\x1b[0m \x1b[0;1mSynthesis: Tested: {} | Passing: {} | Failing: {} | Crashing: {} \x1b[0m\n"
CASES = """<?xml version="1.0" encoding="utf-8"?><testsuites><testsuite name="pytest">{}</testsuite></testsuites>"""
CASE = '<testcase classname="tests.e2e.test_x" name="{}" time="0.1">{}</testcase>'


class Report(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory(prefix="bruma-report-")
        self.addCleanup(self.directory.cleanup)
        self.log = os.path.join(self.directory.name, "testlog.json")
        self.xml = os.path.join(self.directory.name, "e2e.xml")

    def report(self, *tests):
        """(passed, failed, skipped) and what was printed before them."""
        with open(self.log, "w") as f:
            f.writelines(json.dumps(test) + "\n" for test in tests)
        run = subprocess.run([sys.executable, REPORT, self.log], capture_output=True, text=True, check=True)
        *said, counts = run.stdout.splitlines()
        return tuple(map(int, counts.split())), "\n".join(said)

    @staticmethod
    def meson(result="OK", stdout="", status=0, **more):
        return {
            "name": "bruma:unit / x",
            "stdout": stdout,
            "result": result,
            "returncode": status,
            "command": ["x"],
            **more,
        }

    def pytest(self, cases, result="OK", status=0):
        if cases is not None:
            with open(self.xml, "w") as f:
                f.write(CASES.format(cases))
        return {
            "name": "bruma:e2e / e2e",
            "result": result,
            "returncode": status,
            "command": ["python3", f"--junitxml={self.xml}"],
        }

    # ---- programs ----

    def test_program_passes(self):
        assert self.report(self.meson()) == ((1, 0, 0), "")

    def test_program_fails_and_is_shown(self):
        counts, said = self.report(self.meson("FAIL", "what it said\n", 1))
        assert counts == (0, 1, 0)
        assert "FAILED: bruma:unit / x (FAIL, exit 1)" in said
        assert "what it said" in said

    def test_program_crashes_hangs_or_is_broken_off(self):
        for result in ("FAIL", "ERROR", "TIMEOUT", "INTERRUPT", "UNEXPECTEDPASS"):
            counts, said = self.report(self.meson(result, "", -11), self.meson())
            assert counts == (1, 1, 0), result
            assert result in said

    def test_program_skips_with_its_reason(self):
        counts, said = self.report(self.meson("SKIP", "no such kernel\n", 77))
        assert counts == (0, 0, 1)
        assert "no such kernel" in said

    def test_program_that_shall_fail(self):
        assert self.report(self.meson("EXPECTEDFAIL", CRITERION.format(2, 1, 1, 0), 1))[0] == (1, 0, 0)

    # ---- Criterion ----

    def test_criterion_counts_its_tests(self):
        assert self.report(self.meson(stderr=CRITERION.format(7, 7, 0, 0)))[0] == (7, 0, 0)
        assert self.report(self.meson("FAIL", CRITERION.format(7, 4, 3, 1), 1))[0] == (4, 3, 0)

    def test_criterion_skips(self):
        counts, said = self.report(
            self.meson(stderr="[SKIP] a::b: needs root\n" + CRITERION.format(2, 2, 0, 0))
        )
        assert counts == (2, 0, 1)
        assert "skipped: bruma:unit / x: a::b: needs root" in said

    def test_criterion_skips_all(self):
        said = "[SKIP] a::b: needs root\n" + CRITERION.format(0, 0, 0, 0)
        assert self.report(self.meson(stdout=said))[0] == (0, 0, 1)

    def test_criterion_dies_after_its_tests(self):
        counts, said = self.report(self.meson("FAIL", CRITERION.format(3, 3, 0, 0) + "LeakSanitizer\n", 1))
        assert counts == (3, 1, 0)
        assert "LeakSanitizer" in said

    def test_criterion_fails_and_ends_well(self):
        assert self.report(self.meson("OK", CRITERION.format(3, 2, 1, 0)))[0] == (2, 1, 0)

    def test_criterion_without_tests(self):
        assert self.report(self.meson("OK", CRITERION.format(0, 0, 0, 0)))[0] == (0, 1, 0)

    def test_criterion_hangs(self):
        assert self.report(self.meson("TIMEOUT", "[RUN ] a::b\n", -15))[0] == (0, 1, 0)

    # ---- TAP ----

    def tap(self, *lines, result="OK", status=0):
        return self.report(
            self.meson(result, "TAP version 13\n" + "".join(line + "\n" for line in lines), status)
        )

    def test_tap_counts_and_shows(self):
        counts, said = self.tap(
            "ok 1 - a.c",
            "not ok 2 - b.c",
            "#   b.c:1: bad",
            "ok 3 - c # SKIP no c",
            "# 3 files",
            "1..3",
            result="FAIL",
            status=1,
        )
        assert counts == (1, 1, 1)
        for line in (
            "FAILED: bruma:unit / x: b.c",
            "    b.c:1: bad",
            "skipped: bruma:unit / x: c: no c",
            "    3 files",
        ):
            assert line in said

    def test_tap_skips_all(self):
        counts, said = self.tap("1..0 # SKIP there is no clang-format-14", result="SKIP")
        assert counts == (0, 0, 1)
        assert "there is no clang-format-14" in said

    def test_tap_ends_early(self):
        assert self.tap("ok 1 - a.c")[0] == (1, 1, 0)
        assert self.tap("1..2", "ok 1 - a.c")[0] == (1, 1, 0)

    def test_tap_is_killed(self):
        assert self.tap("ok 1 - a.c", result="TIMEOUT", status=-15)[0] == (1, 1, 0)
        assert self.tap("ok 1 - a.c", "1..1", result="ERROR", status=-11)[0] == (1, 1, 0)

    # ---- pytest ----

    def test_pytest_counts_its_tests(self):
        cases = CASE.format("a", "") + CASE.format("b", '<failure message="no">no</failure>')
        cases += CASE.format("c", '<error message="teardown">t</error>') + CASE.format(
            "d", '<skipped message="no istiod"/>'
        )
        counts, said = self.report(self.pytest(cases, "FAIL", 1))
        assert counts == (1, 2, 1)
        assert "skipped: tests.e2e.test_x.d: no istiod" in said

    def test_pytest_that_chooses_nothing(self):
        assert self.report(self.pytest(""))[0] == (0, 0, 0)

    def test_pytest_ends_badly_with_good_results(self):
        assert self.report(self.pytest(CASE.format("a", ""), "FAIL", 3))[0] == (1, 1, 0)

    def test_pytest_is_broken_off(self):
        """As it writes its results when it is interrupted."""
        cases = CASE.format("a", "") + '<testcase time="0.1"/>'
        assert self.report(self.pytest(cases, "TIMEOUT", -9))[0] == (1, 1, 0)

    def test_pytest_without_results(self):
        for result, status in (("OK", 0), ("FAIL", 4), ("TIMEOUT", -15)):
            counts, said = self.report(self.pytest(None, result, status))
            assert counts == (0, 1, 0), result
            assert "e2e.xml" in said

    def test_pytest_with_half_of_its_results(self):
        with open(self.xml, "w") as f:
            f.write("<testsuites><testsuite>")
        assert self.report(self.pytest(None))[0] == (0, 1, 0)

    def test_pytest_did_not_run(self):
        """What is there from another time is not counted."""
        test = self.pytest(CASE.format("a", ""), "SKIP", 77)
        assert self.report({**test, "stdout": "[SKIP] this needs root\n"})[0] == (0, 0, 1)

    # ---- the log ----

    def test_log_that_is_not_there_or_empty_or_cut(self):
        for text in ("", '{"name": "x", "resu'):
            with open(self.log, "w") as f:
                f.write(text)
            run = subprocess.run(
                [sys.executable, REPORT, self.log], capture_output=True, text=True, check=True
            )
            assert run.stdout.splitlines()[-1] == "0 1 0"
        run = subprocess.run(
            [sys.executable, REPORT, self.log + "x"], capture_output=True, text=True, check=True
        )
        assert run.stdout.splitlines()[-1] == "0 1 0"


if __name__ == "__main__":
    unittest.main()
