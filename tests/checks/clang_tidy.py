#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""clang-tidy of each of our own files in a build's compile commands, apart from BPF programs, which another compiler builds.

    clang_tidy.py BUILD      of a build that is made: its headers are what ninja has noted

A file that was good stays so for as long as its command, itself, the headers that it includes and the rules are what they were:
their digest is kept in BUILD/lint. Nothing else runs again.
"""

import concurrent.futures
import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys

from tap import ROOT, Tap, jobs

# The first is what the tree is linted with. Where there is none, the distribution's own.
PROGRAMS = ("clang-tidy-14", "clang-tidy-19", "clang-tidy")


def commands(build):
    """Of each file: its compile command; the last one, if several programs are made of it."""
    found = {}
    with open(os.path.join(build, "compile_commands.json")) as f:
        for command in json.load(f):
            path = os.path.realpath(os.path.join(command["directory"], command["file"]))
            if path.startswith(ROOT + "/") and not path.startswith(os.path.realpath(build) + "/"):
                found[os.path.relpath(path, ROOT)] = command
    return found


def headers(build):
    """What each object was made of, without the system's headers."""
    found, target = {}, None
    run = subprocess.run(["ninja", "-C", build, "-t", "deps"], check=True, capture_output=True, text=True)
    for line in run.stdout.splitlines():
        if line.startswith("    "):
            path = os.path.normpath(os.path.join(build, line.strip()))
            if path.startswith((ROOT + "/", build + "/")):
                found[target].append(path)
        elif line.strip():
            target = line.split(":")[0]
            found[target] = []
    return found


@functools.cache
def digest_of(path):
    try:
        with open(path, "rb") as f:
            return hashlib.sha256(f.read()).hexdigest()
    except FileNotFoundError:
        return "gone"


class Linter:
    def __init__(self, build):
        self.build, self.program = build, next((p for p in PROGRAMS if shutil.which(p)), None)
        if not self.program:
            sys.exit("there is none of " + ", ".join(PROGRAMS))
        self.version = subprocess.run(
            [self.program, "--version"], check=True, capture_output=True, text=True
        ).stdout
        self.commands, self.headers = commands(build), headers(build)
        os.makedirs(os.path.join(build, "lint"), exist_ok=True)

    def digest(self, file):
        command = self.commands[file]
        parts = [
            self.version,
            command["command"],
            digest_of(os.path.join(ROOT, ".clang-tidy")),
            digest_of(os.path.join(ROOT, file)),
        ]
        made_of = self.headers.get(command["output"])
        if made_of is None:
            return None  # not built: what it includes is not known, and it is always looked at
        parts += [path + digest_of(path) for path in sorted(made_of)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def check(self, file):
        """What is wrong with it, empty if nothing is."""
        stamp, digest = os.path.join(self.build, "lint", file.replace("/", "_")), self.digest(file)
        if digest and os.path.exists(stamp):
            with open(stamp) as f:
                if f.read() == digest:
                    return ""
        run = subprocess.run(
            [self.program, "--quiet", "-p", self.build, file], cwd=ROOT, capture_output=True, text=True
        )
        if run.returncode:
            return (run.stdout + run.stderr).strip() or f"{self.program} ended with {run.returncode}"
        if digest:
            with open(stamp + ".new", "w") as f:
                f.write(digest)
            os.replace(stamp + ".new", stamp)
        return ""


def main():
    tap, linter = Tap(), Linter(os.path.abspath(sys.argv[1]))
    files = sorted(linter.commands)
    with concurrent.futures.ThreadPoolExecutor(jobs()) as pool:
        for file, wrong in zip(files, pool.map(linter.check, files), strict=True):
            tap.result(not wrong, file, wrong)
    tap.note(f"{len(files)} files by {linter.program}")
    tap.end()


if __name__ == "__main__":
    main()
