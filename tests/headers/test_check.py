#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The check of the headers finds each fault, and none where there is none. check.py runs these before it looks at the tree."""

import os
import sys
import tempfile
import unittest

import check

GUARD = "/* What this is for; all of it on the loop's thread. */\n#ifndef A_H\n#define A_H\n%s\n#endif\n"
# A header's text, and what is said of it: (name, a part of what is missing).
FAULTS = [
    ("int a_make(int x);", "a_make()", "a comment of its own"),
    ("/* Makes it. */\nint a_make(int x);", "a_make()", "0 or -errno"),
    ("/* Makes it, of so many bytes. */\nint a_make(int x);", "a_make()", "0 or -errno"),
    ("/* 0 or -errno. */\nint a_make(int x);\nvoid a_paint(int x);", "a_paint()", "a comment of its own"),
    ("/* 0 or -errno. */\nint a_make(int x);\n\nint a_other(int x);", "a_other()", "a comment of its own"),
    ("/* Paints it. */\n_Bool a_paint(int x);", "a_paint()", "when it is true"),
    ("/* Its name, a static text. */\nconst char *a_name(int x);", "a_name()", "NULL"),
    ("/* Its name, or NULL. */\nconst char *a_name(int x);", "a_name()", "who owns the result"),
    ("/* What it has. */\nunsigned a_amount(int x);", "a_amount()", "in which unit"),
    ("/* 0 or -errno. */\nint a_make(unsigned timeout);", "a_make()", "the unit of timeout"),
    ("/* 0 or -errno. */\nint a_make(unsigned limit);", "a_make()", "the unit of limit"),
    ("/* True if it can. */\n_Bool a_try(int x, int *ret_tries);", "a_try()", "what becomes of ret_tries"),
    ("/* 0 or -errno. */\nint a_text(int x, char **ret_text);", "a_text()", "who owns *ret_text"),
    ("struct a_thing { int x; };", "struct a_thing", "what it is"),
    ("/* A thing. */\nstruct a_thing {\n    unsigned timeout;\n};", "struct a_thing", "the unit of timeout"),
    ("/* A thing. */\nstruct a_thing {\n    void (*done)(void *data);\n};", "done", "when it is called"),
    (
        "/* A thing. */\nstruct a_thing {\n    /* Called once. */\n    int (*done)(void *data);\n};",
        "done",
        "0 or -errno",
    ),
    ("typedef void (*a_fn)(void *data);", "a_fn", "when it is called"),
    (
        "/* Goes through them. */\nvoid a_each(void (*fn)(void *data), void *data);",
        "a_each(), fn",
        "when it is called",
    ),
    ("enum a_kind { A_ONE };", "enum a_kind", "what it is"),
    ("#define A_TIMEOUT 30", "A_TIMEOUT", "its unit"),
    ("#define A_LIMIT (4 * 1024)", "A_LIMIT", "its unit"),
    (
        "static inline int a_add(int x)\n{\n    return x; /* 0 or -errno */\n}",
        "a_add()",
        "a comment of its own",
    ),
    (
        "/* 0 or -errno, and this sentence is a long one up to here.\n */\nint a_make(int x);",
        "comment",
        "its end stands alone",
    ),
    (
        "/*\n * A sentence that goes on for a while, as far as the margin on the right, and that was cut\n * up so\n"
        " * that the next line begins in its middle. 0 or -errno.\n */\nint a_make(int x);",
        "comment",
        "ends before its time",
    ),
    (
        "/*\n * Who is who:\n *   one    the first, of which there is a lot to say, as it seems, and that goes\n"
        " * on, two    the second\n * 0 or -errno.\n */\nint a_make(int x);",
        "comment",
        "begins in the middle",
    ),
    ("/* Undone by a_gone(). 0 or -errno. */\nint a_make(int x);", "comment", "a_gone() is nowhere"),
    ("/* See lib/gone.h. 0 or -errno. */\nint a_make(int x);", "comment", "lib/gone.h is nowhere"),
]
GOOD = [
    "/* Makes it. 0, -EINVAL for no number, or -ENOMEM. */\nint a_make(int x);",
    "/* Both return 0 or -errno. */\nint a_make(int x);\nint a_paint(int x);",
    "/* Takes it, and with a_paint() gives it away. 0 or -errno. */\nint a_make(int x);\nint a_paint(int x);",
    "int a_make(int x); /* 0 or -errno */",
    "/* Whether it has paint. */\n_Bool a_paint(int x);",
    "/* Is one of those. */\n_Bool a_is_small(int x);",
    "/* Its name, never NULL, a static text. */\nconst char *a_name(int x);",
    "/* How many it has. */\nunsigned a_amount(int x);",
    "/* Waits for timeout milliseconds. 0 or -ETIMEDOUT. */\nint a_make(unsigned timeout);",
    "/* 0 or -ETIMEDOUT. */\nint a_make(unsigned timeout_milliseconds);",
    "/* 0 or -ENOMEM; the caller frees *ret_text. */\nint a_text(int x, char **ret_text);",
    "/* A thing. */\nstruct a_thing {\n    unsigned timeout; /* seconds */\n    int plain;\n};",
    "/* A thing. */\nstruct a_thing {\n    /* Called once, on the loop's thread. */\n    void (*done)(void *data);\n};",
    "struct a_thing;\n/* NULL is none. */\nvoid a_put(struct a_thing *thing);\nvoid a_thing_free(struct a_thing **thing);",
    "#define A_TIMEOUT 30 /* seconds */\n#define A_FLAG 4",
    "/* 0 or -errno, and this sentence is a long one up to here, where it ends.\n * So it does. */\nint a_make(int x);",
    "/*\n * A list:\n *   one    the first, which has a long line to explain itself, as far as to the margin\n"
    " *   two    the second\n * 0 or -errno.\n */\nint a_make(int x);",
    "/* As a_paint(), in red. */\nint a_make(int x);\n\n/* Paints. 0 or -ENOMEM. */\nint a_paint(int x);",
]


def found(text, more=None):
    with tempfile.TemporaryDirectory() as root:
        files = {"lib/a.h": GUARD % text, **(more or {})}
        for path, content in files.items():
            os.makedirs(os.path.dirname(os.path.join(root, path)), exist_ok=True)
            with open(os.path.join(root, path), "w") as f:
                f.write(content)
        tree = check.Tree(root)
        return list(tree.doubles()) + check.check_headers(root, ["lib/a.h"], check.resource_arguments(), tree)


class Headers(unittest.TestCase):
    def test_each_fault_is_found(self):
        for text, name, what in FAULTS:
            with self.subTest(text):
                said = found(text)
                self.assertTrue(
                    any(n == name and what in w for _, _, n, w in said), f"{name}, {what}: found {said}"
                )

    def test_the_line_is_right(self):
        self.assertEqual([(p, n) for p, n, _, _ in found("\n\nint a_make(int x);")], [("lib/a.h", 6)])

    def test_a_header_that_another_includes_first(self):
        """By a path of another spelling: -I of a build directory below the tree."""
        with tempfile.TemporaryDirectory() as root:
            os.makedirs(os.path.join(root, "lib"))
            os.makedirs(os.path.join(root, "build"))
            for name, text in (("a", '#include "lib/b.h"'), ("b", "int b_make(int x);")):
                with open(os.path.join(root, "lib", f"{name}.h"), "w") as f:
                    f.write((GUARD % text).replace("A_H", f"{name.upper()}_H"))
            flags = [f"-I{root}/build/..", *check.resource_arguments()]
            said = check.check_headers(root, ["lib/a.h", "lib/b.h"], flags, check.Tree(root))
            self.assertEqual([name for _, _, name, _ in said], ["b_make()"])

    def test_what_is_good_passes(self):
        for text in GOOD:
            with self.subTest(text):
                self.assertEqual(found(text), [])

    def test_a_header_says_what_it_is_for(self):
        with tempfile.TemporaryDirectory() as root:
            with open(os.path.join(root, "a.h"), "w") as f:
                f.write("/* SPDX-License-Identifier: Apache-2.0 */\n#ifndef A_H\n#define A_H\n#endif\n")
            said = check.check_headers(root, ["a.h"], check.resource_arguments(), check.Tree(root))
            self.assertEqual([(n, name) for _, n, name, _ in said], [(1, "the header")])

    def test_two_of_one_name(self):
        thing = "struct thing {\n    int x;\n};\n"
        said = found("", {"agent/b.c": thing, "agent/c.c": thing, "agent/x/b.c": "", "proxy/b.c": ""})
        self.assertEqual([name for _, _, name, _ in said], ["struct thing", "b.c"])
        pod = thing.replace("thing", "pod")
        self.assertEqual(found("", {"agent/b.c": pod, "proxy/c.c": pod}), [])
        self.assertEqual(len(found("", {"proxy/b.c": pod, "proxy/c.c": pod})), 1)

    def test_what_cannot_be_read_is_no_pass(self):
        with self.assertRaises(SystemExit):
            found("int a_make(gone_t x);")


if __name__ == "__main__":
    check.libclang()
    unittest.main(argv=[sys.argv[0], "--quiet"])
