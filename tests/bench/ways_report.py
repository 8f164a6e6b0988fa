# SPDX-License-Identifier: Apache-2.0
"""Tables of the ways past the proxy: each lane beside no mesh in the same round, and captured traffic beside the
build that is called "before"."""

import statistics

from ways import LONG

# The lane that is to reach so much of no mesh's rate.
GOALS = {
    **{f"{way}_{kind}": ("bruma", 0.97) for way in ("outside", "inbound") for kind in ("http", "bulk")},
    **{f"{way}_conn_{n}": ("bruma", 0.85) for way in ("outside", "inbound") for n in (1, 64)},
    **{f"same_node_{kind}": ("bruma-kernel", 0.95) for kind in ("http", "bulk", "conn_1", "conn_64")},
}
CAPTURED = ("http_max", "bulk_1", "conn_1", "conn_64")
NOISE = 0.05  # by which a cost may be more, and still be the same
ROUNDS = 5  # at most, where the spread asks for it
SPREAD = 0.08


def rate(r):
    return r["gbit"] if "gbit" in r else r["rate"]


def cost(r):
    """CPU-seconds of the proxies for 1000 operations, or for a GB."""
    return (r["cpu_client"] + r["cpu_server"]) / r["done"] * r["unit"]


def by_round(results, test):
    """target -> round -> result."""
    out = {}
    for r in results:
        if r["test"] == test and "failed" not in r and r.get("done"):
            out.setdefault(r["target"], {})[r["round"]] = r
    return out


def ratios(mine, others, value):
    return [value(mine[i]) / value(others[i]) for i in mine if i in others and value(others[i])]


def spread_of(values):
    return (max(values) - min(values)) / statistics.median(values) if len(values) > 1 else 0


def wants_more(results, test):
    """Whether the goal cannot be told from the rounds so far."""
    targets = by_round(results, test)
    if test in CAPTURED and "bruma" in targets and "before" in targets:
        return spread_of(ratios(targets["bruma"], targets["before"], cost)) > SPREAD
    if test not in GOALS:
        return False
    lane, _ = GOALS[test]
    if lane not in targets or "direct" not in targets:
        return False
    return spread_of(ratios(targets[lane], targets["direct"], rate)) > SPREAD


def _percent(values):
    return f"{statistics.median(values) * 100:.0f} % ({min(values) * 100:.0f} to {max(values) * 100:.0f})"


def _speed(r):
    middle = statistics.median([rate(x) for x in r.values()])
    return f"{middle:.2f} Gbit/s" if "gbit" in next(iter(r.values())) else f"{middle:.0f}/s"


def _verdict(test, lane, values, taken):
    if GOALS.get(test, (None,))[0] != lane:
        return "", ""
    goal = GOALS[test][1]
    if not taken:
        return f"{goal * 100:.0f} %", "**way not taken**"
    reached = statistics.median(values) >= goal
    return f"{goal * 100:.0f} %", "reached" if reached else "**missed**"


def _rows(results, tests):
    for test in tests:
        targets = by_round(results, test.name)
        direct = targets.get("direct")
        if not direct or (test.name not in GOALS and test.name not in CAPTURED):
            continue
        for lane, rounds in targets.items():
            if lane == "direct":
                yield [test.title, "no mesh", str(len(rounds)), _speed(rounds), "100 %", "-", "", ""]
                continue
            values = ratios(rounds, direct, rate)
            if not values:
                continue
            taken = not any("not_taken" in r for r in rounds.values())
            yield [
                test.title,
                lane,
                str(len(rounds)),
                _speed(rounds),
                _percent(values),
                f"{statistics.median([cost(r) for r in rounds.values()]):.3f}",
                *_verdict(test.name, lane, values, taken),
            ]


def _beside(results, tests, mine, other, names):
    """Rate and cost of one lane as a factor of the other's in the same round."""
    for test in tests:
        targets = by_round(results, test.name)
        if test.name not in names or mine not in targets or other not in targets:
            continue
        faster = ratios(targets[mine], targets[other], rate)
        dearer = ratios(targets[mine], targets[other], cost)
        if faster and dearer:
            yield test, statistics.median(faster), statistics.median(dearer), spread_of(dearer)


def _relay_rows(results, tests):
    names = [t.name for t in tests if t.name.startswith("same_node_")]
    for test, faster, dearer, _ in _beside(results, tests, "bruma", LONG, names):
        if test.kind == "bulk":
            goal, reached = "rate 2.0", faster >= 2
        else:
            goal, reached = "CPU 1.00", dearer <= 1 + NOISE
        yield [
            test.title,
            f"{faster:.2f}",
            f"{dearer:.2f}",
            goal,
            "reached" if reached else "**missed**",
        ]


def _captured_rows(results, tests):
    for test, faster, dearer, spread in _beside(results, tests, "bruma", "before", CAPTURED):
        reached = dearer <= 1 + NOISE
        yield [
            test.title,
            f"{faster:.2f}",
            f"{dearer:.2f} (spread {spread * 100:.0f} %)",
            "CPU 1.00",
            "reached" if reached else "**missed**",
        ]


def _spliced_rows(results, tests):
    """What is still relayed, beside copying it."""
    for test, faster, dearer, _ in _beside(results, tests, LONG, "before", ("outside_bulk", "inbound_bulk")):
        yield [test.title, f"{faster:.2f}", f"{dearer:.2f}", "", ""]


def _hook_rows(results):
    for r in results:
        for row in r.get("hook", []):
            spent = ", ".join(f"{n} {s['ns']:.0f} ({s['runs']:.1f})" for n, s in row["programs"].items())
            maps = ", ".join(f"{n} {b / 1e6:.1f}" for n, b in row["maps"].items() if b >= 1e5)
            yield [
                r["target"],
                str(row["workloads"]),
                f"{row['rate']:.0f}/s",
                spent,
                maps or "-",
                f"{row['maps_all'] / 1e6:.1f}",
                f"{row['agent'] / 1e6:.1f}",
                f"{row['proxy'] / 1e6:.1f}",
            ]


def _section(table, title, text, head, rows):
    rows = list(rows)
    return [f"## {title}", "", text, "", *table(head, rows)] if rows else []


def markdown(results, tests, table):
    """Lines. table: of report.py."""
    missing = sorted({f"{r['test']}, {r['target']}: {r['not_taken']}" for r in results if "not_taken" in r})
    out = _section(
        table,
        "What needs no proxy",
        "Per cent of no mesh in the same round: median (least to greatest). CPU-seconds of both proxies for 1000 "
        "operations, or for 10^9 bytes.",
        ["test", "lane", "rounds", "rate", "of no mesh", "proxies' CPU", "goal", ""],
        _rows(results, tests),
    )
    out += _section(
        table,
        "One node: relayed instead of HBONE",
        "bruma / bruma-long, in the same round.",
        ["test", "rate", "proxies' CPU", "goal", ""],
        _relay_rows(results, tests),
    )
    out += _section(
        table,
        "Captured traffic, beside the build before",
        "bruma / before, in the same round.",
        ["test", "rate", "proxies' CPU", "goal", ""],
        _captured_rows(results, tests),
    )
    out += _section(
        table,
        "Relayed in plaintext, beside the build before",
        "bruma-long / before, in the same round.",
        ["test", "rate", "proxies' CPU", "goal", ""],
        _spliced_rows(results, tests),
    )
    out += _section(
        table,
        "connect() and many workloads",
        "Nanoseconds of one run of each program (runs for each connection) while pod c opens connections to outside "
        "the mesh; MB of maps, and resident MB of agent and proxy of node 1.",
        ["lane", "workloads", "connections", "programs", "maps of the ways", "all maps", "agent", "proxy"],
        _hook_rows(results),
    )
    if missing:
        out += ["## Ways that were not taken", "", *(f"- {m}" for m in missing), ""]
    return out
