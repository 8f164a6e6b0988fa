# SPDX-License-Identifier: Apache-2.0
"""Cases, by their names: SENTENCE/function, where the sentence is numbered in docs/hbone.md or docs/contract.md."""

import collections

Case = collections.namedtuple("Case", "name sentence title function")
CASES = []


class WrongError(AssertionError):
    """What a case has seen is not what its sentence says."""


def case(sentence):
    """A function of the site; its docstring's first line says what should be so. An exception says that it is not."""

    def register(function):
        title = function.__doc__.splitlines()[0].rstrip(".")
        CASES.append(Case(f"{sentence}/{function.__name__}", sentence, title, function))
        return function

    return register


def expect(what, have, *want):
    """have is one of the wanted values."""
    if have not in want:
        raise WrongError(f"{what}: {have!r}, not {' or '.join(repr(w) for w in want)}")


def expect_that(condition, what):
    if not condition:
        raise WrongError(what)


def chosen(patterns):
    """The cases with one of these sentences or names; without patterns all of them."""
    found = [c for c in CASES if not patterns or c.sentence in patterns or c.name in patterns]
    known = {c.sentence for c in CASES} | {c.name for c in CASES}
    unknown = [p for p in patterns if p not in known]
    if unknown:
        raise KeyError(", ".join(unknown))
    return found
