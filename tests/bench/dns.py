#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What DNS costs a pod, and its node: queries that the proxy answers, and those that it forwards, beside the same queries
sent to the server directly. By itself, as root, once tests/bench/bench.sh has installed and built what it needs:

    tests/bench/dns.py --build build                                      # 10,000 a second and full speed, by UDP
    tests/bench/dns.py --build build --coredns PATH --peer ztunnel=PATH   # another server; a stock node proxy

The server runs in a pod outside the mesh on the other node: CoreDNS if given, else dnsmasq. A peer is driven as by
bench.py; its own server of DNS is that one too. The client is dnsperf.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import workloads
from bench import Bench, say
from meters import Meter, add_foreign, calibration
from support.system import Failed, run, wait_for
from targets import Bruma, Peer, Target

OUTSIDE, NAME = "outside.test", f"web.{workloads.NAMESPACE}.svc.cluster.local"
SERVICES = f"""\
services:
- name: web
  namespace: {workloads.NAMESPACE}
  hostname: {NAME}
  vips: ["/10.96.0.1", "/fd00:96::1"]
  ports: {{80: 8080}}
"""
COREFILE = """\
.:53 {{
    hosts {{
        192.0.2.1 {outside}
        10.96.0.1 {name}
    }}
}}
"""
CLIENTS, OUTSTANDING = 16, 200


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--build", required=True, help="meson build directory")
    parser.add_argument("--coredns", metavar="PATH", help="the program of CoreDNS; else dnsmasq serves")
    parser.add_argument(
        "--peer", action="append", default=[], metavar="NAME=PATH", help="a stock node proxy's program"
    )
    parser.add_argument("--rate", type=int, default=10000, help="queries a second (default 10000)")
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tcp", action="store_true", help="by TCP as well")
    parser.add_argument("--out", metavar="DIRECTORY", help="logs (default: a new one in /tmp)")
    return parser.parse_args()


# ---- lanes ----


def with_services(path):
    """In a file of workloads.py, which has none."""
    with open(path) as f:
        text = f.read()
    with open(path + ".new", "w") as f:
        f.write(text.replace("services: []\n", SERVICES))
    os.rename(path + ".new", path)


def with_server(target, program):
    """A program that runs the peer's with a resolv.conf of its own: of the lane's server."""
    resolv, script = f"{target.directory}/resolv.conf", f"{target.directory}/peer.sh"
    with open(resolv, "w") as f:
        f.write(f"nameserver {target.pods['x'].ip}\n")
    with open(script, "w") as f:
        f.write(
            f'#!/bin/sh\nexec unshare -m sh -c \'mount --bind {resolv} /etc/resolv.conf && exec "$0" "$@"\' {program} "$@"\n'
        )
    os.chmod(script, 0o755)
    return script


def add(bench, target, coredns):
    bench.targets.append(target)
    target.create(bench, len(bench.targets))
    bench.servers[target.name] = {"x": serve(target, coredns)}
    bench.sinks[target.name] = {}
    if isinstance(target, Peer):
        target.programs = {n: with_server(target, p) for n, p in target.programs.items()}
        local = f"{target.directory}/local-0.yaml"
        workloads.write_local(local, target.known_pods(), 0)
        with_services(local)
    if isinstance(target, Bruma):
        with_services(target.mesh_file)
    target.add_pods()
    target.start()
    for name, answer in ((OUTSIDE, "192.0.2.1"), (NAME, "10.96.0.1")):
        wait_for(lambda name=name, answer=answer: asked(target, name) == answer, f"{target.name}: {name}", 60)
    say(f"lane {len(bench.targets)}: {target.name} is up")


def asked(target, name):
    argv = ["dig", "+short", "+time=1", "+tries=1", f"@{target.pods['x'].ip}", name, "A"]
    return target.pods["c"].run(*argv, check=False).stdout.strip()


def serve(target, coredns):
    pod, log = target.pods["x"], f"{target.directory}/server.log"
    if coredns:
        corefile = f"{target.directory}/Corefile"
        with open(corefile, "w") as f:
            f.write(COREFILE.format(outside=OUTSIDE, name=NAME))
        argv = [coredns, "-conf", corefile]
    else:
        argv = [
            "dnsmasq",
            "--keep-in-foreground",
            "--no-resolv",
            "--no-hosts",
            "--user=root",
            "--pid-file=",
            "--conf-file=/dev/null",
            f"--host-record={OUTSIDE},192.0.2.1",
            f"--host-record={NAME},10.96.0.1",
        ]
    process = pod.popen(*argv, log=log)
    wait_for(
        lambda: ":53 " in run(["ss", "-Hlnu"], netns=pod.netns).stdout, f"{target.name}: the server of DNS"
    )
    return process


# ---- figures ----


def percentile(values, part):
    return values[min(int(len(values) * part), len(values) - 1)]


def measure(bench, target, name, rate, seconds, tcp):
    """rate 0: as many as it takes."""
    questions = f"{target.directory}/questions"
    with open(questions, "w") as f:
        f.write(f"{name} A\n")
    argv = [
        "dnsperf",
        "-s",
        target.pods["x"].ip,
        "-d",
        questions,
        "-l",
        seconds,
        "-c",
        CLIENTS,
        "-q",
        OUTSTANDING,
    ]
    argv += ["-T", 1, "-t", 2, "-m", "tcp" if tcp else "udp", *(["-Q", rate, "-v"] if rate else [])]
    meter = Meter(target, bench.servers[target.name]["x"])
    process = target.pods["c"].pipe(
        *map(str, argv), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    out, _ = process.communicate(timeout=seconds + 60)
    result = meter.stop()
    done = int(re.search(r"Queries completed:\s+(\d+)", out)[1])
    if process.returncode or not done or not re.search(r"Response codes:\s+NOERROR \d+ \(100\.00%\)", out):
        raise Failed(f"dnsperf: {out[-800:]}")
    took = sorted(float(m) * 1e6 for m in re.findall(r"^> NOERROR \S+ A ([0-9.]+)$", out, re.M))
    add_foreign(result, 0)
    return {
        "rate": float(re.search(r"Queries per second:\s+([0-9.]+)", out)[1]),
        "lost": int(re.search(r"Queries lost:\s+(\d+)", out)[1]),
        "mean": float(re.search(r"Average Latency \(s\):\s+([0-9.]+)", out)[1]) * 1e6,
        "p50": percentile(took, 0.5) if took else None,
        "p99": percentile(took, 0.99) if took else None,
        "proxy": (result["cpu_client"] + result["cpu_server"]) / done * 1e6,
        "server": result["cpu_application"] / done * 1e6,
        "busy": result["busy"] / result["wall"],
        "calibration": calibration(),
    }


def median(rows, key):
    values = sorted(r[key] for r in rows if r[key] is not None)
    return values[len(values) // 2] if values else None


def table(results):
    """results: {(test, target): [measure()]}"""
    print(
        "| queries | target | a second | lost | mean µs | p50 µs | p99 µs | proxy CPU µs each | server CPU µs each |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for (test, target), rows in results.items():
        cells = [f"{median(rows, 'rate'):.0f}", str(sum(r["lost"] for r in rows))]
        for key in ("mean", "p50", "p99", "proxy", "server"):
            value = median(rows, key)
            cells.append(
                "-"
                if value is None
                else f"{value:.0f}"
                if key[0] in "mp" and key != "proxy"
                else f"{value:.1f}"
            )
        print(f"| {test} | {target} | {' | '.join(cells)} |")


def main():
    arguments = parse()
    if os.geteuid() != 0 or not shutil.which("dnsperf"):
        sys.exit("this needs root, and dnsperf")
    directory = os.path.abspath(arguments.out) if arguments.out else tempfile.mkdtemp(prefix="bruma-dns-")
    targets = [Target("direct"), Bruma("bruma")]
    targets += [Peer(*peer.split("=", 1)) for peer in arguments.peer]
    for target in targets:
        shutil.rmtree(f"{directory}/{target.name}", ignore_errors=True)
    tests = [
        (
            f"{what}, {transport}, {f'{rate} a second' if rate else 'full speed'}",
            name,
            rate,
            transport == "TCP",
        )
        for transport in (("UDP", "TCP") if arguments.tcp else ("UDP",))
        for rate in (arguments.rate, 0)
        for what, name in (("of the mesh", NAME), ("others", OUTSIDE))
    ]
    results, failed = {}, False
    with Bench(os.path.abspath(arguments.build), directory) as bench:
        for target in targets:
            add(bench, target, arguments.coredns)
        for test, name, rate, tcp in tests:
            for _ in range(arguments.rounds):
                for target in targets:
                    time.sleep(0.2)
                    try:
                        row = measure(bench, target, name, rate, arguments.seconds, tcp)
                    except (Failed, subprocess.SubprocessError) as e:
                        say(f"FAILED: {test}, {target.name}: {e}")
                        failed = True
                        continue
                    results.setdefault((test, target.name), []).append(row)
                    say(
                        f"{test}, {target.name}: {row['rate']:.0f}/s, mean {row['mean']:.0f} us, lost {row['lost']}"
                    )
    table(results)
    print(f"server: {'CoreDNS' if arguments.coredns else 'dnsmasq'}; logs: {directory}")
    return 1 if failed or not results else 0


if __name__ == "__main__":
    sys.exit(main())
