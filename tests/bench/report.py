#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Tables of a run. `report.py results.json` prints them again."""

import json
import statistics
import sys

import ways_report
from plan import TESTS

# What Bruma is to reach beside a peer, in one run: the peer's cost divided by Bruma's.
GOALS = {
    "http_max": 2.0,
    "http_1000": 1.5,
    "bulk_1": 1.0,
    "bulk_16": 1.0,
    "conn_1": 2.0,
    "conn_64": 2.0,
    "handshake": 1.3,
}
MEMORY_GOALS = {"idle": 2.0, "held": 2.0, "loaded": 2.0}
MEMORY_NAMES = {"idle": "idle", "held": "idle connections held", "loaded": "with many workloads"}


def median(values):
    return statistics.median(values) if values else float("nan")


def spread(values):
    """Greatest less least, in % of the median."""
    middle = median(values)
    return (max(values) - min(values)) / middle * 100 if len(values) > 1 and middle else 0


def cost(r):
    """CPU-seconds of the proxies for 1000 operations, or for a GB."""
    return (r["cpu_client"] + r["cpu_server"]) / r["done"] * r["unit"]


def summary(results):
    """test -> target -> medians."""
    floor = {
        (r["test"], r["round"]): cost(r)
        for r in results
        if r["target"] == "relay" and r.get("done") and "unit" in r
    }
    groups = {}
    for r in results:
        if "unit" in r and "failed" not in r and r["done"]:
            groups.setdefault(r["test"], {}).setdefault(r["target"], []).append(r)
    return {
        test: {target: _medians(test, rounds, floor) for target, rounds in targets.items()}
        for test, targets in groups.items()
    }


def _medians(test, rounds, floor):
    rates = [r["gbit"] if "gbit" in r else r["rate"] for r in rounds]
    costs = [cost(r) for r in rounds]
    over = [cost(r) / floor[test, r["round"]] for r in rounds if floor.get((test, r["round"]))]
    out = {
        "bulk": "gbit" in rounds[0],
        "rounds": len(rounds),
        "rate": median(rates),
        "rate_spread": spread(rates),
        "cost": median(costs),
        "cost_spread": spread(costs),
        "over_relay": median(over) if over else None,
        "client": median([r["cpu_client"] / r["done"] * r["unit"] for r in rounds]),
        "server": median([r["cpu_server"] / r["done"] * r["unit"] for r in rounds]),
        "busy": median([r["busy"] / r["done"] * r["unit"] for r in rounds]),
        "foreign": median([r["foreign"] for r in rounds]),
        "calibration": median([r["calibration_ms"] for r in rounds]),
        "errors": sum(r["errors"] for r in rounds),
    }
    for q in ("p50_us", "p90_us", "p99_us"):
        if q in rounds[0]:
            out[q] = median([r[q] for r in rounds])
    return out


def table(head, rows):
    return [
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
    ]


def costs_table(s):
    rows = []
    for test in TESTS:
        direct = s.get(test.name, {}).get("direct")
        for target, d in s.get(test.name, {}).items():
            quantiles = []
            for q in ("p50_us", "p90_us", "p99_us"):
                added = f" (+{d[q] - direct[q]:.0f})" if q in d and direct and target != "direct" else ""
                quantiles.append(f"{d[q]:.0f}{added}" if q in d else "")
            rows.append(
                [
                    test.title,
                    target,
                    f"{d['rate']:.2f} Gbit/s" if d["bulk"] else f"{d['rate']:.0f}/s",
                    "-" if target == "direct" else f"{d['client']:.3f} + {d['server']:.3f} = {d['cost']:.3f}",
                    "-" if d["over_relay"] is None or target == "direct" else f"{d['over_relay']:.2f}",
                    f"{d['busy']:.3f}",
                    *quantiles,
                    f"{d['rate_spread']:.0f} / {d['cost_spread']:.0f}",
                    f"{d['foreign']:.2f}",
                    f"{d['calibration']:.0f}",
                    str(d["errors"]),
                ]
            )
    return (
        table(
            [
                "test",
                "target",
                "rate",
                "proxies' CPU, client + server",
                "over relay",
                "machine",
                "p50",
                "p90",
                "p99",
                "spread rate / CPU %",
                "foreign",
                "calibration ms",
                "errors",
            ],
            rows,
        )
        if rows
        else []
    )


def ratios_table(s, memory, peers):
    rows = []
    for peer in peers:
        for test in TESTS:
            targets = s.get(test.name, {})
            if peer in targets and "bruma" in targets and targets["bruma"]["cost"]:
                rows.append(
                    _ratio(
                        test.title,
                        peer,
                        targets[peer]["cost"],
                        targets["bruma"]["cost"],
                        GOALS.get(test.name),
                    )
                )
        for key, name in MEMORY_NAMES.items():
            if key in memory.get(peer, {}) and memory.get("bruma", {}).get(key, [0])[0]:
                rows.append(
                    _ratio(
                        f"memory, {name}",
                        peer,
                        memory[peer][key][0],
                        memory["bruma"][key][0],
                        MEMORY_GOALS[key],
                    )
                )
    return (
        [
            "## Bruma beside each peer",
            "",
            "How many times more the peer needs: CPU for the same work, or memory.",
            "",
            *table(["test", "peer", "peer / bruma", "goal", ""], rows),
        ]
        if rows
        else []
    )


def _ratio(title, peer, theirs, ours, goal):
    ratio = theirs / ours
    return [
        title,
        peer,
        f"{ratio:.2f}",
        f"{goal:.1f}" if goal else "-",
        "" if not goal else "reached" if ratio >= goal else "missed",
    ]


def memory_table(memory):
    def both(r, key):
        return " / ".join(f"{x / 1e6:.1f}" for x in r[key]) if key in r else "-"

    rows = []
    for target, r in memory.items():
        loaded = (
            f"{r['workloads']}: {r['loaded'][0] / 1e6:.1f} (peak {r['loaded_peak'] / 1e6:.1f})"
            if "loaded" in r
            else "-"
        )
        agents = f"{r['agent'] / 1e6:.1f}; {r['agent_loaded'] / 1e6:.1f}" if r.get("agent_loaded") else "-"
        rows.append(
            [
                target,
                both(r, "idle"),
                both(r, "warm"),
                f"{r.get('hold', '-')}: {both(r, 'held')}",
                both(r, "released"),
                f"{r.get('stalled', '-')}: {both(r, 'stalled_peak')} ({r.get('stalled_cut', '-')} cut)",
                both(r, "stalled_after"),
                loaded,
                f"{r['load_seconds']:.2f} ({r['load_cpu']:.2f})" if "load_seconds" in r else "-",
                f"{r.get('idle_cpu_ms', 0):.1f}",
                agents,
            ]
        )
    return (
        [
            "## Memory",
            "",
            "Resident, MB; node 1 (client side) / node 2.",
            "",
            *table(
                [
                    "target",
                    "idle",
                    "after traffic",
                    "idle connections held",
                    "after their end",
                    "stalled connections, peak",
                    "after their end",
                    "workloads",
                    "ready after s (CPU s)",
                    "idle CPU ms/s",
                    "agent: idle; workloads",
                ],
                rows,
            ),
        ]
        if rows
        else []
    )


def enrollment_table(results):
    rows = [
        [r["target"], str(len(r["plugin_ms"]))]
        + [f"{median(r[k]):.1f} ({max(r[k]):.1f})" for k in ("agent_ms", "plugin_ms", "chain_ms")]
        for r in results
        if "plugin_ms" in r
    ]
    return (
        [
            "## Enrollment of a pod",
            "",
            "Milliseconds, median (greatest).",
            "",
            *table(
                ["target", "pods", "as the agent says", "ADD of the plugin", "ADD of the whole chain"], rows
            ),
        ]
        if rows
        else []
    )


def growth_table(results):
    rows = [
        [
            r["target"],
            str(g["pods"]),
            f"{g['agent_cpu_ms']:.1f}",
            f"{g['proxy_cpu_ms']:.1f}",
            f"{g['agent_rss'] / 1e6:.1f}",
            f"{g['proxy_rss'] / 1e6:.1f}",
            f"{g['add_ms']:.1f}",
            f"{g['pods_ms']:.1f}",
        ]
        for r in results
        if "growth" in r
        for g in r["growth"]
    ]
    return (
        [
            "## A node at rest, as its pods become more",
            "",
            "Processor milliseconds a second, resident MB, milliseconds of one ADD and of the agent's list of pods.",
            "",
            *table(["target", "pods", "agent", "proxy", "agent MB", "proxy MB", "ADD", "list"], rows),
        ]
        if rows
        else []
    )


def markdown(info, results):
    s = summary(results)
    memory = {r["target"]: r for r in results if r["test"] == "memory" and "idle" in r}
    out = [
        f"# Bench of {info['date']}",
        "",
        (
            f"Linux {info['kernel']}, {info['processors']} x {info['processor']}, profile {info['profile']}, "
            f"{info['seconds']:.0f} s, load before {info['load_before'][0]:.2f}, {info['congestion']}"
        ),
        "",
    ]
    if info.get("crypto"):
        out += [
            "One core, 16 KiB: " + ", ".join(f"{k} {v:.1f} Gbit/s" for k, v in info["crypto"].items()),
            "",
        ]
    out += ratios_table(s, memory, info["peers"])
    if info.get("ways"):
        out += ways_report.markdown(results, TESTS, table)
    if s:
        out += [
            "## Cost and latency",
            "",
            (
                "CPU-seconds for 1000 requests, connections or handshakes, for bulk for 10^9 bytes; medians over rounds. "
                '"machine" is all of it. Latency in microseconds, in brackets what it is above direct. "foreign": '
                'cores that others used; "calibration": CPU time of a fixed piece of work just before.'
            ),
            "",
            *costs_table(s),
        ]
    out += memory_table(memory) + enrollment_table(results) + growth_table(results)
    failed = [r for r in results if "failed" in r]
    if failed:
        out += ["## Failed", ""] + [
            f"- {r['test']} {r['round']} {r['target']}: {r['failed']}" for r in failed
        ]
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        saved = json.load(file)
    print(markdown(saved["info"], saved["results"]))
