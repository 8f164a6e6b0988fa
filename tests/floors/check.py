#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Calls go one way: reads from the objects of a build who calls whom, and from the sources who includes whose
headers, and holds it against floors.txt. Headers of a program's own folder, such as proxy/proxy.h, are
everybody's: they say which parts there are.

    tests/floors/check.py BUILD      prints what goes up or sideways, and circles within a room; status 1 if any
"""

import collections
import json
import os
import re
import subprocess
import sys

ROOT = os.path.realpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
DEFINED, WANTED = "TDBRVWC", "U"


def floors():
    """Of each program: {room: number of its floor, 0 is the highest}."""
    found, program = {}, None
    with open(os.path.join(ROOT, "tests", "floors", "floors.txt")) as f:
        for line in f:
            line = line.partition("#")[0].strip()
            if line.startswith("["):
                program = found.setdefault(line.strip("[]"), {})
            elif line:
                number = max(program.values(), default=-1) + 1
                program.update(dict.fromkeys(line.split(), number))
    return found


def known_circles():
    """Sets of files that may call each other in a circle."""
    with open(os.path.join(ROOT, "tests", "floors", "circles.txt")) as f:
        lines = [line.partition("#")[0].split() for line in f]
    return [{f"{words[0]}/{name}.c" for name in words[1:]} for words in lines if words]


def objects(build):
    """Source (from the root of the tree) and object of all that belongs to a program with floors."""
    with open(os.path.join(build, "compile_commands.json")) as f:
        for command in json.load(f):
            source = os.path.relpath(os.path.join(command["directory"], command["file"]), ROOT)
            path = os.path.join(command["directory"], command["output"])
            if not command["output"].startswith("tests/") and os.path.exists(path):
                yield source, path


def symbols(path):
    lines = [
        line.split()
        for line in subprocess.run(
            ["nm", "-P", path], check=True, capture_output=True, text=True
        ).stdout.splitlines()
    ]
    return ({w[0] for w in lines if w[1] in DEFINED}, {w[0] for w in lines if w[1] in WANTED})


def calls(build, program):
    """(file, file, symbol) of each call within a program."""
    defined, wanted = {}, collections.defaultdict(set)
    for source, path in objects(build):
        if source.startswith(program + "/") and source.endswith(".c"):
            has, wants = symbols(path)
            defined.update(dict.fromkeys(has, source))
            wanted[source] |= wants
    return sorted(
        (source, defined[name], name)
        for source, names in wanted.items()
        for name in names
        if name in defined and defined[name] != source
    )


def includes(program):
    """(file, header) of each header of the program that a file of it includes."""
    for folder, _, names in os.walk(os.path.join(ROOT, program)):
        for name in sorted(n for n in names if n.endswith((".c", ".h"))):
            path = os.path.join(folder, name)
            with open(path) as f:
                for header in re.findall(rf'^#include "({program}/[^"]+)"', f.read(), re.M):
                    yield os.path.relpath(path, ROOT), header


def room(program, source):
    return os.path.dirname(os.path.relpath(source, program)) or "."


def circles(edges):
    """Sets of two or more that call each other, by Tarjan's algorithm."""
    graph, found = collections.defaultdict(set), []
    for a, b in edges:
        graph[a].add(b)
    number, low, stack, on = {}, {}, [], set()

    def visit(v):
        number[v] = low[v] = len(number)
        stack.append(v)
        on.add(v)
        for w in graph[v]:
            if w not in number:
                visit(w)
                low[v] = min(low[v], low[w])
            elif w in on:
                low[v] = min(low[v], number[w])
        if low[v] == number[v]:
            circle = []
            while not circle or circle[-1] != v:
                circle.append(stack.pop())
                on.discard(circle[-1])
            if len(circle) > 1:
                found.append(sorted(circle))

    sys.setrecursionlimit(10000)
    for v in list(graph):
        if v not in number:
            visit(v)
    return found


def main():
    build, wrong, found, seen = sys.argv[1], [], [], 0
    for program, floor in floors().items():
        made = calls(build, program)
        seen += len(made)
        taken = list(includes(program))
        for r in {room(program, f) for edge in [m[:2] for m in made] + taken for f in edge}:
            if r not in floor:
                sys.exit(f"{program}/{r} has no floor in tests/floors/floors.txt")
        for source, target, name in made:
            a, b = room(program, source), room(program, target)
            if a != b and floor[b] <= floor[a]:
                wrong.append(f"{source} calls {name}() of {target}: {b} is not below {a}")
        for source, header in taken:
            a, b = room(program, source), room(program, header)
            if b not in (a, ".") and floor[b] <= floor[a]:
                wrong.append(f"{source} includes {header}: {b} is not below {a}")
        found += circles((a, b) for a, b, _ in made if room(program, a) == room(program, b))
    known = known_circles()
    wrong += [f"these call each other in a circle: {' '.join(c)}" for c in found if set(c) not in known]
    wrong += [f"no such circle any more: {' '.join(sorted(c))}" for c in known if sorted(c) not in found]
    if not seen:
        sys.exit(f"no calls were found in {build}: is it built?")
    print("\n".join(wrong) if wrong else f"{seen} calls, all of them downwards")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
