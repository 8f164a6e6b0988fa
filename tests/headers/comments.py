# SPDX-License-Identifier: Apache-2.0
"""Comments of a C file, and which of them belongs to a declaration."""

import itertools
import re

TOKEN = re.compile(r'"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|/\*.*?\*/|//[^\n]*', re.S)
# What a comment says of all the declarations below it, not of the first alone.
OF_ALL = re.compile(
    r"(^|[.:;] )(All|Both|Each|Every|Either|These|None|Neither|They|Functions)\b|\b(all|both|each) of (them|these)\b|"
    r"\ball (add )?functions\b"
)


class Comment:
    def __init__(self, raw, line, alone, last):
        self.raw, self.first, self.last, self.alone = raw, line, last, alone
        self.text = " ".join(
            re.sub(r"^\s*(/\*+|\*/|\*(?!/))|\*/\s*$", " ", part) for part in raw.splitlines()
        )
        self.text = re.sub(r"\s+", " ", self.text.strip("/* ")).strip()

    def is_rule(self):
        """A heading between parts of a file: it belongs to no declaration."""
        return self.raw.startswith("/* ----")


def comments(source):
    """All comments, in order. alone: nothing but blanks stands before it on its line."""
    found = []
    for match in TOKEN.finditer(source):
        if match.group().startswith("/"):
            start = source.rfind("\n", 0, match.start()) + 1
            line = source.count("\n", 0, match.start()) + 1
            found.append(
                Comment(
                    match.group(),
                    line,
                    not source[start : match.start()].strip(),
                    line + match.group().count("\n"),
                )
            )
    return found


def without(source):
    """The code alone."""
    return TOKEN.sub(lambda m: "" if m.group().startswith("/") else m.group(), source)


def cut_up(comment):
    """What the formatter leaves of a comment that had a line too long for it: the end alone on a line, or a line that ends
    early in the middle of a sentence."""
    lines = comment.raw.splitlines()
    if len(lines) < 2 or "clang-format off" in comment.raw:
        return None
    opens_alone = not lines[0].strip("/* \t")
    if not lines[-1].strip("*/ \t\\") and not opens_alone:
        return "its end stands alone on a line"
    inside = [re.sub(r"^\s*(/\*+|\*(?!/))", "", part).rstrip("*/ ") for part in lines]
    width = max(len(part) for part in lines)
    for n, (line, following) in enumerate(itertools.pairwise(inside)):
        if not line.strip() or not following.strip() or (n == 0 and opens_alone):
            continue
        word = following.split()[0]
        indented = len(following) - len(following.lstrip()) > len(line) - len(line.lstrip())
        listed = re.search(r"\S {2,}\S|\t", line) or re.search(r"\S {2,}\S|\t", following)
        if (
            len(lines[n]) + 1 + len(word) <= min(width, 100) - 12
            and not indented
            and not listed
            and not re.search(r"[.:;,?!)}\]]$", line)
            and not re.match(r"[-*\d\"{[(<A-Z]", word)
        ):
            return f"line {n + 1} of it ends before its time"
    entries = [len(line) - len(line.lstrip()) for line in inside if re.match(r"\s*\S+( \S+)* {2,}\S", line)]
    if entries and len(set(entries)) > 1 and min(entries) <= 1:
        return "an entry of a list in it begins in the middle of a line"
    return None


class Documented:
    """A declaration with the words that belong to it."""

    def __init__(self, name, first, last):
        self.name, self.first, self.last = name, first, last
        self.own, self.group = "", ""

    def text(self):
        return f"{self.own} {self.group}".strip()


def words_of(name):
    return [w for w in name.lower().split("_") if w]


def names(text, name, others):
    """The text names this declaration: whole, or by the word that tells it from the others of its group."""
    if re.search(rf"\b{re.escape(name)}\b", text):
        return True
    common = set.intersection(*(set(words_of(o)) for o in others)) if len(others) > 1 else set()
    distinct = [w for w in words_of(name) if w not in common and len(w) > 2]
    return any(re.search(rf"\b{re.escape(w[: max(4, len(w) - 2)])}", text, re.I) for w in distinct)


def attach(declarations, remarks):
    """Gives each declaration (sorted, of one level) the comment before it and those on its lines, and if it has none, the
    comment of its group: declarations without a blank line or another comment between."""
    ending = {c.last: c for c in remarks if c.alone and not c.is_rule()}
    group, members = None, []

    def close():
        every = [m.name for m in members]
        for d in members[1:] if group else []:
            # By its name, or as one of several, of which the first is named too.
            named = d.name in re.findall(r"\w+", group.text) or (
                names(group.text, d.name, every) and names(group.text, members[0].name, every)
            )
            if OF_ALL.search(group.text) or (not d.own and named):
                d.group = group.text

    previous = None
    for d in declarations:
        before, line = [], d.first - 1
        while line in ending:
            before.insert(0, ending[line].text)
            line = ending[line].first - 1
        on = [c.text for c in remarks if d.first <= c.first <= d.last and not (c.alone and c.last == d.last)]
        d.own = " ".join(before + on)
        if before or previous is None or d.first != previous.last + 1:
            close()
            group, members = (ending[d.first - 1] if before else None), [d]
        else:
            members.append(d)
        previous = d
    close()
