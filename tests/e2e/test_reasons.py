# SPDX-License-Identifier: Apache-2.0
"""The list of reasons is the only one: each entry is used, nothing is said beside it, and a test has seen
each."""

import functools
import os
import re

import pytest

from support.programs import ROOT
from support.system import run

LIST = "include/bruma/reasons.h"
PROGRAMS = ("agent/", "bpf/", "cni/", "ctl/", "include/", "lib/", "proxy/")

# Their reasons are samples of text that is printed, or lists of settings: nothing fails there.
SAMPLES = ("access_log_test.c", "telemetry_test.c", "proxy_settings_test.c")

# Without a test that provokes them. Only ever shortened: one that has a test must leave the list.
UNTESTED = {
    "mark_failed": "no kernel that we know of refuses a hook SO_MARK: the program looks because it must fail closed",
    "accepted_not_bound": "nor SO_BINDTOIFINDEX of a socket that is not bound yet",
}


def read(name):
    with open(f"{ROOT}/{name}") as f:
        return f.read()


def tracked(*patterns):
    return run(["git", "-C", ROOT, "ls-files", *patterns]).stdout.split()


def without_comments(text):
    return re.sub(r'("(?:[^"\\\n]|\\.)*")|/\*.*?\*/|//[^\n]*', lambda m: m[1] or " ", text, flags=re.S)


ENTRIES = re.findall(r'^ +BRUMA_REASON\((\w+), "(\w+)"', read(LIST), re.M)
REASONS = {name: entry for entry, name in ENTRIES if name != "none"}
CODE = {f: without_comments(read(f)) for f in tracked("*.c", "*.h") if f.startswith(PROGRAMS) and f != LIST}
SCRIPTS = {
    f: re.sub(r"(?m)^\s*#.*$", "", read(f))
    for f in tracked("*.sh", "*.service*", "charts/*")
    if not f.startswith(("tests/", "charts/bruma/files/prometheus/"))
}


def test_the_list_can_be_read():
    assert len(ENTRIES) > 100 and len(set(ENTRIES)) == len(REASONS) + 1
    assert len(ENTRIES) == read(LIST).count("    BRUMA_REASON(")
    assert all(entry.lower() == name for entry, name in ENTRIES)


@pytest.mark.parametrize("name", REASONS)
def test_code_gives_each_reason(name):
    """Not only asks whether another has given it."""
    entry = rf"\bBRUMA_REASON_{REASONS[name]}\b"
    given = [
        f for f, text in CODE.items() if re.search(entry, re.sub(rf"(?:[=!]=|\bcase)\s*{entry}", "", text))
    ]
    assert given, f"no program gives {name}"


def test_no_reason_is_written_beside_the_list():
    """A word that is a reason alone is one in any text; "none" and "internal" are ordinary words, too. Examples of
    commands that ask for one are none."""
    written = []
    for file, text in CODE.items():
        for literal in re.findall(r'"((?:[^"\\\n]|\\.)*)"', text):
            literal = re.sub(r"^brumactl .*", "", literal)
            written += [
                (file, literal)
                for name in REASONS
                if re.search(rf"(?<![\w%-]){name}(?![\w-])", literal) and ("_" in name or literal == name)
            ]
    for file, text in SCRIPTS.items():
        written += [
            (file, name) for name in REASONS if "_" in name and re.search(rf"(?<![\w-]){name}(?![\w-])", text)
        ]
    assert not written, "\n".join(": ".join(w) for w in written)


@pytest.mark.parametrize("file", tracked("charts/bruma/files/prometheus/*.yaml"))
def test_rules_ask_for_reasons_that_there_are(file):
    """Labels of Prometheus, which would find nothing."""
    asked = re.findall(r'bruma_failures[^{}]*{[^}]*reason=~?"([\w|]+)"', read(file))
    assert set("|".join(asked).split("|")) - {""} <= REASONS.keys() | {"none"}
    assert asked or "reason=" not in read(file)


@functools.cache
def words_of_tests():
    words = set()
    for file in tracked("tests/*.py", "tests/*.c"):
        base = os.path.basename(file)
        if not re.match(r"test_\w+\.py|\w+_test(_run)?\.c", base) or base in (*SAMPLES, "test_reasons.py"):
            continue
        text = read(file)
        text = without_comments(text) if file.endswith(".c") else re.sub(r"(?m)(^|\s)#.*$", "", text)
        words |= set(re.findall(r"(?<!-)\b\w+\b(?!-)", text))
    return words


def is_tested(name):
    return bool({name, f"BRUMA_REASON_{REASONS[name]}"} & words_of_tests())


@pytest.mark.parametrize("name", REASONS)
def test_a_test_has_seen_each_reason(name):
    if name in UNTESTED:
        assert not is_tested(name), f"{name} has a test now: take it out of UNTESTED"
    else:
        assert is_tested(name), f"no test names {name}"


def test_untested_ones_are_reasons():
    assert sorted(UNTESTED.keys() - REASONS.keys()) == []
