#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Whether the judge's cases (tests/conformance) and the numbered sentences of the pages are about each other."""

import ast
import collections
import os
import re

from tap import ROOT, Tap

PAGES = ("docs/hbone.md", "docs/contract.md")
FOLDER = "tests/conformance"
NUMBER = re.compile(r"\[([A-Z]-\d+)\](?!\()")


def text(name):
    with open(os.path.join(ROOT, name)) as f:
        return f.read()


def numbered():
    """Sentences by page; an example in an introduction ("such as [H-1]") is none."""
    found = []
    for page in PAGES:
        found += NUMBER.findall(re.sub(r"such as \[[A-Z]-\d+\]", "", text(page)))
    return found


def cases():
    """Names: the sentence of each decorator @case(...), and its function's. Read, not run: their libraries may not be here."""
    found = []
    for file in sorted(os.listdir(os.path.join(ROOT, FOLDER, "cases"))):
        if not file.endswith(".py"):
            continue
        for function in ast.walk(ast.parse(text(f"{FOLDER}/cases/{file}"))):
            if not isinstance(function, ast.FunctionDef):
                continue
            for d in function.decorator_list:
                if isinstance(d, ast.Call) and getattr(d.func, "id", "") == "case":
                    found.append(f"{d.args[0].value}/{function.name}")
    return found


def listed(file):
    """What a list says of whom."""
    lines = [x for x in text(file).splitlines() if x.strip() and not x.startswith("#")]
    return [tuple(x.partition(": ")[::2]) for x in lines]


def twice(names):
    return [n for n, count in collections.Counter(names).items() if count > 1]


def main():
    tap = Tap()
    sentences, names = numbered(), cases()
    judged = {n.partition("/")[0] for n in names}
    excused = listed(f"{FOLDER}/not_judged.txt")
    tap.note(f"{len(names)} cases of {len(judged)} sentences; {len(excused)} sentences are not judged")
    tap.result(len(names) > 100 and len(sentences) > 100, "there are cases and sentences")
    for what, wrong in (
        ("a number is one sentence's", twice(sentences)),
        ("a name is one case's", twice(names)),
        ("every case's sentence is there", sorted(judged - set(sentences))),
        ("every sentence has a case or a reason", sorted(set(sentences) - judged - {n for n, _ in excused})),
        (
            "who is not judged has a reason, no case, and a sentence",
            [n for n, why in excused if not why or n in judged or n not in sentences],
        ),
    ):
        tap.result(not wrong, what, "\n".join(wrong))
    for file in sorted(os.listdir(os.path.join(ROOT, FOLDER, "deviations"))):
        known = listed(f"{FOLDER}/deviations/{file}")
        wrong = [n for n, why in known if not why or n not in names] + twice(n for n, _ in known)
        tap.result(known and not wrong, f"{file} has cases, each with a reason", "\n".join(wrong))
    tap.end()


if __name__ == "__main__":
    main()
