#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Judges a node proxy of an ambient mesh by what is seen of it from outside: the workload discovery socket, xDS, CA, HBONE in
both directions, policies, metrics, logs and its end. Each case names the sentence of docs/hbone.md or docs/contract.md that it
is about. Runs in network namespaces of its own, named bruma-*, which are gone at the end. Needs root.

    judge.py --proxy /usr/sbin/bruma-proxy
    judge.py --proxy ./ztunnel --deviations tests/conformance/deviations/ztunnel.txt --junitxml report.xml
    judge.py --proxy ./mine --env LOG_FORMAT=plain --only H-20 Z-3/a_pod_is_served

The proxy is run as "PROGRAM proxy" with the variables that Istio's chart gives a ztunnel.

Exit status: 0 all as it should be, known deviations included; 1 not so; 2 wrong arguments; 3 nothing could be judged.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
import traceback

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import conformance.cases  # noqa: F401, for it registers them
from conformance import registry, report
from conformance.site import Site
from support import network
from support.system import Failed

LONGEST = 60  # seconds of a case
LAST_WORDS, LONGEST_LINE = 10, 300  # of the proxy's log, shown of a case that is wrong
NOT_JUDGED = 3  # status where nothing could be judged; 2 is that of wrong arguments
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--proxy", metavar="PROGRAM", help="the program that is judged")
    parser.add_argument(
        "--env", metavar="K=V", action="append", default=[], help="a variable more for it; repeatable"
    )
    parser.add_argument("--only", metavar="ID", nargs="+", default=[], help="sentences, or names of cases")
    parser.add_argument("--list", action="store_true", help="prints the cases and judges nothing")
    parser.add_argument(
        "--deviations", metavar="FILE", help='known ones, a line each: "NAME: why"; such a case must not hold'
    )
    parser.add_argument("--json", metavar="FILE", help="writes a report as JSON")
    parser.add_argument("--junitxml", metavar="FILE", help="writes a report as JUnit does")
    arguments = parser.parse_args()
    if not arguments.list and not arguments.proxy:
        parser.error("--proxy names what is judged")
    if any("=" not in e for e in arguments.env):
        parser.error("--env takes NAME=VALUE")
    return parser, arguments


def deviations(path):
    """Cases by name, with the reason."""
    known = {}
    with open(path) as f:
        for number, line in enumerate(f, 1):
            if not line.strip() or line.startswith("#"):
                continue
            name, colon, why = line.strip().partition(": ")
            if not colon or name not in {c.name for c in registry.CASES}:
                raise ValueError(f'{path}:{number}: not "NAME: why" with the name of a case: {line.strip()}')
            known[name] = why
    return known


def ignore_signals():
    """What was made is removed to its end."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def too_long(number, frame):
    raise TimeoutError(f"it took more than {LONGEST} s")


def what_went_wrong(error):
    """With the place in the case, where an assertion says nothing."""
    text = f"{type(error).__name__}: {error}" if not isinstance(error, AssertionError) else str(error)
    place = [f for f in traceback.extract_tb(error.__traceback__) if "/conformance/cases/" in f.filename]
    if place:
        text += f"\n{os.path.basename(place[-1].filename)}:{place[-1].lineno}: {place[-1].line}"
    return text.strip()


def judge(site, case, known):
    begin, seen = time.monotonic(), ""
    signal.alarm(LONGEST)
    try:
        case.function(site)
    except Exception as e:  # whatever it is, the sentence does not hold
        seen = what_went_wrong(e)
    finally:
        signal.alarm(0)
    return report.Result(
        case,
        report.verdict(bool(seen), known.get(case.name)),
        time.monotonic() - begin,
        seen,
        known.get(case.name),
    )


def last_words(path, before):
    """What the proxy has said since."""
    with open(path, errors="replace") as f:
        f.seek(before)
        lines = f.read().splitlines()[-LAST_WORDS:]
    return "\n".join(f"             | {line[:LONGEST_LINE]}" for line in lines)


def judge_all(site, cases, known):
    results = []
    for case in cases:
        before = os.path.getsize(site.node.proxy_log)
        result = judge(site, case, known)
        results.append(result)
        print(report.line(result), flush=True)
        if result.verdict == report.WRONG:
            print(last_words(site.node.proxy_log, before), flush=True)
        try:
            site.tidy(bool(result.seen))
        except (Failed, OSError) as e:
            rest = cases[len(results) :]
            print(f"the proxy does not come back after that, {len(rest)} cases are not judged: {e}")
            seen = f"not judged: the proxy did not come back after {case.name}"
            return results + [report.Result(c, report.WRONG, 0, seen, known.get(c.name)) for c in rest]
    return results


def write(path, text):
    with open(path, "w") as f:
        f.write(text + "\n")


def judge_proxy(program, arguments, cases, known):
    try:
        site = Site(program, dict(e.split("=", 1) for e in arguments.env))
    except (Failed, OSError, subprocess.SubprocessError) as e:
        print(f"{program} cannot be judged, for it does not come to serve two pods: {e}", file=sys.stderr)
        return NOT_JUDGED
    try:
        results = judge_all(site, cases, known)
    finally:
        ignore_signals()
        site.close()
    print(f"{program}: {report.summary(results)}")
    if arguments.json:
        write(arguments.json, report.as_json(program, results))
    if arguments.junitxml:
        write(arguments.junitxml, report.as_junit(program, results))
    return 0 if all(r.verdict in report.GOOD for r in results) else 1


def main():
    parser, arguments = parse()
    try:
        cases = registry.chosen(arguments.only)
        known = deviations(arguments.deviations) if arguments.deviations else {}
    except KeyError as e:
        parser.error(f"there is no case or sentence {e.args[0]}; --list has them")
    except (OSError, ValueError) as e:
        parser.error(str(e))
    if arguments.list:
        print("\n".join(f"{c.name}: {c.title}" for c in cases))
        return 0
    if os.geteuid() != 0:
        print("the judge needs root, for network namespaces", file=sys.stderr)
        return NOT_JUDGED
    signal.signal(signal.SIGALRM, too_long)
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    mounted = network.is_mounted()
    try:
        return judge_proxy(os.path.abspath(arguments.proxy), arguments, cases, known)
    finally:
        if not mounted:
            network.unmount()


if __name__ == "__main__":
    sys.exit(main())
