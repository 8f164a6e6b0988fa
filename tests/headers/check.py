#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Headers are the contract: reads every header with libclang and tells which prototypes, callbacks, structs and constants do not
say their result, errors, units, owner or thread. CONTRIBUTING.md has the rules in words, rules.py as code.

    tests/headers/check.py BUILD [FOLDER...]    prints what is missing; status 1 if anything, 77 where there is no libclang
"""

import collections
import functools
import glob
import json
import os
import re
import shlex
import subprocess
import sys

import comments
import rules

try:
    from clang import cindex
except ImportError:
    cindex = None

ROOT = os.path.realpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
FOLDERS = ("include", "lib", "bpf", "cni", "ctl", "agent", "proxy")
SKIPPED = 77
# The struct of agent and proxy that may have one name: both programs have pods, and are about them.
OF_BOTH = ("pod",)
Function = collections.namedtuple("Function", "name result parameters")


def libclang():
    """clang.cindex with a library that it can load, or None."""
    if not cindex:
        return None
    found = [None]  # what the bindings look for by themselves
    for place in ("/usr/lib/llvm-*/lib", "/usr/lib/*-linux-gnu"):
        found += sorted(glob.glob(f"{place}/libclang-[0-9]*.so*") + glob.glob(f"{place}/libclang.so*"))
    for path in found:
        if path:
            cindex.Config.loaded = False
            cindex.Config.library_file = path
        try:
            cindex.Index.create()
            return cindex
        except cindex.LibclangError:
            continue
    return None


@functools.cache
def resource_arguments():
    """Where clang's own headers (stddef.h) are, if libclang does not know. Those of another version, which may be beside it,
    hide the C library's, so what is chosen is tried."""
    found = sorted(glob.glob("/usr/lib/llvm-*/lib/clang/*/include") + glob.glob("/usr/lib/clang/*/include"))
    sample = (
        "#include <stddef.h>\n#include <stdint.h>\n#include <stdarg.h>\nsize_t a;\nuint64_t b;\nva_list c;\n"
    )
    for flags in [[], *(["-isystem", path] for path in found)]:
        unit = cindex.Index.create().parse("sample.c", flags, [("sample.c", sample)])
        if not any(d.severity >= cindex.Diagnostic.Error for d in unit.diagnostics):
            return flags
    sys.exit("no headers of clang's go with libclang")


def arguments(build, program):
    """Of the compiler, for the headers of a program."""
    if program == "bpf":  # read as for this machine: what its headers declare is the same
        return [f"-I{ROOT}/include", f"-I{ROOT}", *resource_arguments()]
    chosen = "lib" if program == "include" else program
    with open(os.path.join(build, "compile_commands.json")) as f:
        for command in json.load(f):
            source = os.path.relpath(os.path.join(command["directory"], command["file"]), ROOT)
            if source.startswith(chosen + "/") and source.endswith(".c"):
                words = shlex.split(command["command"])
                kept = [w for w in words if re.match(r"-[ID]|-std=", w)]
                return [
                    re.sub(r"^-I(?!/)", f"-I{command['directory']}/", w) for w in kept
                ] + resource_arguments()
    sys.exit(f"{build} has no command that compiles a file of {chosen}: is it configured?")


class Reader:
    """What one translation unit of headers declares."""

    def __init__(self, root, paths, flags):
        self.root = root
        main = os.path.join(root, "all-headers.c")
        source = '#define LOG_SCOPE "headers"\n#include <stddef.h>\n#include <stdint.h>\n'
        source += "".join(f'#include "{path}"\n' for path in paths)
        self.unit = cindex.Index.create().parse(
            main,
            flags,
            [(main, source)],
            cindex.TranslationUnit.PARSE_DETAILED_PROCESSING_RECORD
            | cindex.TranslationUnit.PARSE_SKIP_FUNCTION_BODIES,
        )
        self.errors = [str(d) for d in self.unit.diagnostics if d.severity >= cindex.Diagnostic.Error]
        self.cursors, self.functions = collections.defaultdict(list), set()
        wanted = {os.path.join(root, path): path for path in paths}
        for cursor in self.unit.cursor.get_children():
            file = cursor.location.file
            if cursor.kind in (cindex.CursorKind.FUNCTION_DECL, cindex.CursorKind.MACRO_DEFINITION):
                self.functions.add(cursor.spelling)
            if file and os.path.realpath(file.name) in wanted:
                self.cursors[wanted[os.path.realpath(file.name)]].append(cursor)

    def shape(self, kind):
        """kind: a clang type."""
        k, canonical = cindex.TypeKind, kind.get_canonical()
        if canonical.kind == k.VOID:
            return rules.Shape("void", kind.spelling)
        if canonical.kind == k.BOOL:
            return rules.Shape("bool", kind.spelling)
        if canonical.kind in (k.POINTER, k.INCOMPLETEARRAY, k.CONSTANTARRAY):
            return rules.Shape("pointer", kind.spelling)
        if canonical.kind == k.ENUM:
            return rules.Shape("enum", kind.spelling)
        if canonical.kind == k.RECORD:
            return rules.Shape("aggregate", kind.spelling)
        return rules.Shape("number", kind.spelling)

    def pointed_function(self, kind):
        """The function type that a field, parameter or typedef points to, or None."""
        k, canonical = cindex.TypeKind, kind.get_canonical()
        if canonical.kind == k.POINTER and canonical.get_pointee().kind == k.FUNCTIONPROTO:
            return canonical.get_pointee()
        return canonical if canonical.kind == k.FUNCTIONPROTO else None

    def function(self, cursor):
        return Function(
            cursor.spelling,
            self.shape(cursor.result_type),
            [(a.spelling, self.shape(a.type)) for a in cursor.get_arguments()],
        )

    def pointer(self, cursor, kind):
        """A callback, with the names that its declaration gives the parameters."""
        c = cindex.CursorKind
        named = [(p.spelling, self.shape(p.type)) for p in cursor.get_children() if p.kind == c.PARM_DECL]
        return Function(cursor.spelling, self.shape(kind.get_result()), named)


class Header:
    def __init__(self, reader, tree, path):
        self.reader, self.tree, self.path, self.found = reader, tree, path, []
        with open(os.path.join(reader.root, path)) as f:
            self.source = f.read()
        self.remarks = comments.comments(self.source)
        self.head = self.head_comment()

    def head_comment(self):
        """What stands before the include guard, but for the licence."""
        guard = re.search(r"^#(ifndef|pragma)", self.source, re.M)
        line = self.source.count("\n", 0, guard.start()) + 1 if guard else 1
        return " ".join(c.text for c in self.remarks if c.last < line and "SPDX-License" not in c.text)

    def tell(self, line, name, what):
        self.found.append((self.path, line, name, what))

    def check(self):
        if not self.head:
            self.tell(1, "the header", "a comment before its guard that says what it is for")
        for remark in self.remarks:
            cut = comments.cut_up(remark)
            if cut:
                self.tell(remark.first, "comment", "its form: " + cut)
            for name in self.tree.unknown(remark.text, self.reader.functions):
                self.tell(remark.first, "comment", f"what there is: {name} is nowhere")
        c = cindex.CursorKind
        level, seen = [], set()
        if not self.reader.cursors[self.path]:
            self.tell(1, "the header", "anything that clang has read")
        for cursor in self.reader.cursors[self.path]:
            if (
                cursor.kind
                not in (
                    c.FUNCTION_DECL,
                    c.STRUCT_DECL,
                    c.UNION_DECL,
                    c.ENUM_DECL,
                    c.TYPEDEF_DECL,
                    c.MACRO_DEFINITION,
                    c.VAR_DECL,
                )
                or (cursor.extent.start.line, cursor.spelling) in seen
            ):
                continue
            seen.add((cursor.extent.start.line, cursor.spelling))
            d = comments.Documented(cursor.spelling, cursor.extent.start.line, self.last_line(cursor))
            d.cursor = cursor
            level.append(d)
        level.sort(key=lambda d: (d.first, d.last))
        comments.attach(level, self.remarks)
        for d in level:
            self.declaration(d, c)
        return self.found

    def last_line(self, cursor):
        """A function's body is none of its words; a define ends with its text."""
        c = cindex.CursorKind
        if cursor.kind == c.FUNCTION_DECL and cursor.is_definition():
            bodies = [x for x in cursor.get_children() if x.kind == c.COMPOUND_STMT]
            return bodies[0].extent.start.line if bodies else cursor.extent.end.line
        return cursor.extent.end.line

    def declaration(self, d, c):
        kind = d.cursor.kind
        if kind == c.FUNCTION_DECL:
            self.function(d)
        elif kind == c.TYPEDEF_DECL and self.reader.pointed_function(d.cursor.underlying_typedef_type):
            self.callback(d, self.reader.pointed_function(d.cursor.underlying_typedef_type), self.head)
        elif kind in (c.STRUCT_DECL, c.UNION_DECL) and d.cursor.is_definition():
            self.record(d)
        elif kind == c.ENUM_DECL and d.cursor.is_definition() and "(" not in (d.name or "("):
            if not d.text() and not comments.names(self.head, d.name, [d.name]) and not self.inside(d):
                self.tell(d.first, "enum " + d.name, "what it is")
        elif kind == c.MACRO_DEFINITION:
            self.macro(d)

    def inside(self, d):
        return any(d.first <= r.first <= d.last for r in self.remarks)

    def text_of(self, d):
        """With what it refers to: "As f()", "The same, but"."""
        return d.text()

    def missing(self, d, name, whats):
        for what in whats:
            self.tell(d.first, name, what)

    def function(self, d):
        f, text = self.reader.function(d.cursor), d.text()
        if rules.releases(f):
            return
        if not text:
            self.tell(
                d.first,
                f.name + "()",
                "a comment of its own, or one of its group that names it or speaks of all",
            )
            return
        text = self.referred(text)
        of_all = " ".join(
            re.findall(
                r"[^.]*\b(?:[Ee]ach|[Aa]ll|[Ee]very|[Ff]unctions)\b[^.]*\breturns?\b[^.]*\.?", self.head
            )
        )
        whats = list(rules.result(f, f"{text} {of_all}")) + list(rules.outputs(f, text))
        for name, shape in f.parameters:
            whats += rules.unit(name, shape, text)
        self.missing(d, f.name + "()", whats)
        for argument in d.cursor.get_arguments():
            if self.reader.pointed_function(argument.type) and not self.is_typedef(argument.type):
                self.missing(d, f"{f.name}(), {argument.spelling}", rules.callback(text, self.head))

    def is_typedef(self, kind):
        return kind.get_declaration().kind == cindex.CursorKind.TYPEDEF_DECL

    def referred(self, text):
        """Where it says "as f()", f's words count too."""
        for name in re.findall(r"\b(?:[Aa]s|[Ss]ee|[Ll]ike|same as)\b[^.;]*?\b(\w+)\(\)", text):
            match = re.search(rf"(/\*(?:(?!\*/).)*\*/)\s*(?:static )?[\w *]*\b{name}\(", self.source, re.S)
            if match:
                text += " " + match.group(1)
        return text

    def callback(self, d, kind, around):
        text = d.text()
        if not text:
            self.tell(
                d.first, d.name, "a comment: when it is called, on which thread, and what it gets and returns"
            )
            return
        f = self.reader.pointer(d.cursor, kind)
        text = self.referred(text)
        whats = list(rules.callback(text, around)) + list(rules.result(f, text))
        for name, shape in f.parameters:
            whats += rules.unit(name, shape, text)
        self.missing(d, d.name, whats)

    def record(self, d):
        c = cindex.CursorKind
        name = d.name if d.name and "(" not in d.name and " at " not in d.name else ""
        own = d.own or d.group
        if name and not self.about(d) and not comments.names(self.head, name, [name]):
            self.tell(d.first, "struct " + name, "what it is")
        fields = []
        for cursor in d.cursor.get_children():
            if cursor.kind == c.FIELD_DECL:
                field = comments.Documented(cursor.spelling, cursor.extent.start.line, cursor.extent.end.line)
                field.cursor = cursor
                fields.append(field)
        inner = [r for r in self.remarks if d.first < r.first and r.last < d.last]
        comments.attach(self.lines(fields), inner)
        for field in fields:
            kind = self.reader.pointed_function(field.cursor.type)
            if kind and not self.is_typedef(field.cursor.type):
                self.callback(field, kind, f"{self.head} {own}")
            else:
                self.missing(
                    field,
                    f"struct {name}",
                    rules.unit(field.name, self.reader.shape(field.cursor.type), f"{field.text()} {own}"),
                )

    @staticmethod
    def lines(fields):
        """Fields of one line share its comment."""
        return fields

    def about(self, d):
        """Its own comment, or one inside it that stands before its first field or on its first line."""
        return d.text() or any(r.first in (d.first, d.first + 1) and r.alone for r in self.remarks)

    def macro(self, d):
        tokens = list(d.cursor.get_tokens())[1:]
        value = "".join(t.spelling for t in tokens)
        if not re.fullmatch(r"\(?[\d(][\dxa-fA-FuUlL*+()<\- ]*\)?", value):
            return
        if not (rules.TIME_NAME.search(d.name) or rules.SIZE_NAME.search(d.name)) or rules.UNIT_NAME.search(
            d.name
        ):
            return
        said = rules.TIME_SAID if rules.TIME_NAME.search(d.name) else rules.SIZE_SAID
        if not said.search(d.text()):
            self.tell(d.first, d.name, "its unit, or what it counts")


class Tree:
    """What a comment may name: words of the code, and files."""

    def __init__(self, root):
        self.words, self.files, self.structs = (
            set(),
            collections.defaultdict(list),
            collections.defaultdict(list),
        )
        for folder in FOLDERS:
            for directory, _, files in os.walk(os.path.join(root, folder)):
                for name in sorted(files):
                    self.take(root, os.path.relpath(os.path.join(directory, name), root))

    def take(self, root, path):
        self.files[os.path.basename(path)].append(path)
        if path.endswith((".c", ".h", ".y", ".proto")):
            with open(os.path.join(root, path)) as f:
                code = comments.without(f.read())
            self.words.update(re.findall(r"\w+", code))
            code = re.sub(
                r"(?s)#pragma clang attribute push.*?#pragma clang attribute pop", "", code
            )  # the kernel's
            for name in re.findall(r"^(?:struct|union) (\w+) \{", code, re.M):
                self.structs[name].append(path)

    def unknown(self, text, functions):
        """Functions and files that a comment names and that are not there."""
        for name in re.findall(r"(?<![\w./-])([a-z]\w+)\(\)", text):
            if name not in self.words and name not in functions and not hasattr(os, name):
                yield name + "()"
        for name in re.findall(r"(?<![\w/<.-])((?:[\w-]+/)*[\w-]+(?:\.bpf)?\.[ch])\b", text):
            if not any(("/" + path).endswith("/" + name) for path in self.files[os.path.basename(name)]):
                yield name

    def doubles(self):
        """Structs of one name, and files of one program with one basename."""
        for name, paths in sorted(self.structs.items()):
            programs = [path.split("/")[0] for path in paths]
            if len(paths) > 1 and not (name in OF_BOTH and sorted(programs) == ["agent", "proxy"]):
                yield (
                    paths[-1],
                    1,
                    "struct " + name,
                    "which it is: there is one in " + " and ".join(paths[:-1]),
                )
        for name, paths in sorted(self.files.items()):
            for program in ("agent", "proxy", "cni", "ctl", "lib", "bpf"):
                mine = [p for p in paths if p.startswith(program + "/")]
                if len(mine) > 1 and name.endswith((".c", ".h")):
                    yield mine[-1], 1, name, "which it is: there is also " + " and ".join(mine[:-1])


def headers(root, folder):
    found = []
    for directory, _, files in os.walk(os.path.join(root, folder)):
        found += [os.path.relpath(os.path.join(directory, f), root) for f in files if f.endswith(".h")]
    return sorted(found)


def check_headers(root, paths, flags, tree):
    """[(path, line, name, what)]"""
    reader = Reader(root, paths, flags)
    if reader.errors:
        sys.exit("headers cannot be read:\n" + "\n".join(reader.errors[:10]))
    return [found for path in paths for found in Header(reader, tree, path).check()]


def tests_pass():
    """Before what this says of the tree counts: it finds each fault in headers made for that."""
    test = os.path.join(os.path.dirname(os.path.abspath(__file__)), "test_check.py")
    return subprocess.run([sys.executable, test]).returncode == 0


def main():
    build, chosen = sys.argv[1], sys.argv[2:]
    if not libclang():
        print("headers: libclang for Python is missing (package python3-clang)")
        sys.exit(SKIPPED)
    if not tests_pass():
        sys.exit(1)
    tree, seen = Tree(ROOT), 0
    found = [d for d in tree.doubles() if not chosen]
    for folder in FOLDERS:
        paths = [p for p in headers(ROOT, folder) if not chosen or p.startswith(tuple(chosen))]
        seen += len(paths)
        if paths:
            found += check_headers(ROOT, paths, arguments(build, folder), tree)
    for path, line, name, what in found:
        print(f"{path}:{line}: {name} does not say: {what}")
    print(f"{seen} headers, {len(found)} gaps")
    sys.exit(1 if found or not seen else 0)


if __name__ == "__main__":
    main()
