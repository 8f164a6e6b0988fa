#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Runs pytest as a test of meson's.

    run_pytest.py [--side-by-side] [--needs VARIABLE]... --junitxml=FILE ARGUMENT...

--side-by-side: several files at a time (pytest-xdist), and more than there are processors, for they mostly wait. The names they
make carry process ids.
--needs: an environment variable without which nothing runs. An ARGUMENT that is no option may be a pattern: the files it matches,
of which there must be some. tests/report.py counts by the results in FILE.
Environment: BRUMA_PYTEST (more arguments), BRUMA_JOBS (default: number of processors).
Exit status: pytest's; 77, which meson takes for a skip, if this machine cannot run them.

meson kills whom it has asked to end half a second later, which is too short to remove namespaces: pytest has a process group of
its own and is interrupted, and finishes after this program if need be. FILE.group holds the group's id until then.
"""

import glob
import os
import shlex
import signal
import subprocess
import sys

SKIPPED = 77
NOTHING_CHOSEN = 5
WORKERS_EACH, WORKERS_MAX = 2, 16


def skip(why):
    print(f"[SKIP] {why}", flush=True)
    sys.exit(SKIPPED)


def workers():
    """Of a processor the tests of one file take about a sixth."""
    processors = int(os.environ.get("BRUMA_JOBS") or os.cpu_count() or 1)
    return max(processors, min(WORKERS_EACH * processors, WORKERS_MAX))


def parse(arguments):
    own, needs = [], []
    while arguments and not arguments[0].startswith("--junitxml="):
        option = arguments.pop(0)
        if option == "--side-by-side":
            own += ["-n", str(workers()), "--dist", "loadfile"]
        elif option == "--needs":
            needs.append(arguments.pop(0))
        else:
            sys.exit(__doc__)
    if not arguments:
        sys.exit(__doc__)
    return own, needs, arguments


def with_files(arguments):
    for argument in arguments:
        if argument.startswith("-") or not glob.has_magic(argument):
            yield argument
            continue
        files = sorted(glob.glob(argument))
        if not files:
            sys.exit(f"{argument}: no such file")
        yield from files


def main():
    own, needs, arguments = parse(sys.argv[1:])
    arguments = list(with_files(arguments))
    results = arguments[0].partition("=")[2]
    if os.geteuid() != 0:
        skip("this needs root: network namespaces and BPF programs")
    for name in needs:
        if not os.environ.get(name):
            skip(f"{name} is not set; tests/run.sh sets it")
    if os.path.exists(results):
        os.remove(results)
    chosen = shlex.split(os.environ.get("BRUMA_PYTEST", ""))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-o",
        "junit_family=xunit2",
        "--tb=short",
    ]
    pytest = subprocess.Popen(
        command + own + arguments + chosen, stdin=subprocess.DEVNULL, start_new_session=True
    )
    with open(results + ".group", "w") as f:
        f.write(str(pytest.pid))

    def interrupt(number, frame):
        os.killpg(pytest.pid, signal.SIGINT)

    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGINT, interrupt)
    status = pytest.wait()
    os.remove(results + ".group")
    # Who chooses may choose nothing of some of the files.
    sys.exit(0 if status == NOTHING_CHOSEN and chosen else status if status >= 0 else 128 - status)


if __name__ == "__main__":
    main()
