#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Measures Bruma beside no mesh, a plain relay and other node proxies. bench.sh is the front door; README.md
explains."""

import argparse
import json
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import plan
import report
from support import kernel, network
from support.system import Failed
from targets import SYSCTLS, Bruma, Peer, Relay, Target
from ways import LANES, Before, Lane


def say(text):
    print(time.strftime("%H:%M:%S"), text, flush=True)


class Bench:
    """Names and places of one run, and the lanes' servers."""

    def __init__(self, build, directory):
        self.build, self.directory = build, directory
        self.prefix = f"bruma-bench-{os.getpid()}-"
        self.servers, self.sinks, self.targets, self.mounted = {}, {}, [], []

    def __enter__(self):
        cgroup, mounted = kernel.cgroup2_root(f"{self.directory}/cgroup2")
        self.mounted += [cgroup] if mounted else []
        pins, mounted = kernel.bpf_root(f"{self.directory}/bpf")
        self.mounted += [pins] if mounted else []
        self.cgroup = kernel.cgroup_create(f"{cgroup}/{self.prefix}cgroup")
        self.pins = f"{pins}/{self.prefix}pins"
        os.makedirs(self.pins)
        return self

    def add(self, target):
        self.targets.append(target)
        target.create(self, len(self.targets))
        target.add_pods()
        plan.start_servers(self, target)
        target.start()
        say(f"lane {len(self.targets)}: {target.name} is up")

    def __exit__(self, *exc):
        trouble = []
        for processes in [*self.servers.values(), *self.sinks.values()]:
            for process in processes.values():
                process.stop()
        for target in self.targets:
            trouble += target.destroy()
        for function, argument in [
            (kernel.remove_pins, self.pins),
            (kernel.cgroup_remove, self.cgroup),
            *((kernel.unmount, m) for m in self.mounted),
        ]:
            try:
                function(argument)
            except (OSError, Failed) as e:
                trouble.append(str(e))
        trouble += [f"namespace {n} is left" for n in network.names(self.prefix)]
        for text in trouble:
            say(f"left behind: {text}")
        if trouble and exc[0] is None:
            raise Failed("the bench left something behind")
        return False


def crypto_speed():
    out = {}
    for cipher in ("aes-128-gcm", "aes-256-gcm"):
        r = subprocess.run(
            ["openssl", "speed", "-seconds", "1", "-bytes", "16384", "-elapsed", "-evp", cipher],
            capture_output=True,
            text=True,
        )
        last = (r.stdout.strip().splitlines() or [""])[-1].split()
        if last and last[-1].endswith("k"):
            out[cipher] = float(last[-1][:-1]) * 1000 * 8 / 1e9
    return out


def processor():
    with open("/proc/cpuinfo") as f:
        for line in f:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


def parse():
    parser = argparse.ArgumentParser(description=__doc__, prog="bench.sh")
    parser.add_argument("--build", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--profile", choices=plan.PROFILES, default="quick")
    parser.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="NAME=PATH[,PATH2]",
        help="another node proxy; with two programs the second runs on the server's node",
    )
    parser.add_argument(
        "--env", action="append", default=[], metavar="NAME:KEY=VALUE", help="environment of a peer"
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="TEST",
        help='tests whose name begins so; also "memory", "enrollment", "growth"; with --ways "hook"; may be repeated',
    )
    parser.add_argument(
        "--leave-out",
        action="append",
        default=[],
        metavar="TARGET",
        help="direct, relay, relay-splice or bruma, and with --ways the lanes of ways.py; may be repeated",
    )
    parser.add_argument(
        "--ways",
        action="store_true",
        help="only the ways past the proxy and captured traffic, each beside no mesh, with Bruma's lanes of ways.py",
    )
    parser.add_argument(
        "--before",
        metavar="BUILD",
        help="build directory of another tree, as a lane beside; with --ways what captured traffic is compared with",
    )
    parser.add_argument(
        "--out", metavar="DIRECTORY", help="results.md, results.json, logs (default: a new one in /tmp)"
    )
    return parser.parse_args()


def before(arguments):
    if not arguments.before:
        return []
    for name in ("agent/bruma-agent", "proxy/bruma-proxy", "cni/bruma-cni"):
        if not os.access(f"{arguments.before}/{name}", os.X_OK):
            sys.exit(f"--before {arguments.before}: there is no {name}")
    return [Before(arguments.before)]


def make_ways(arguments):
    targets = [Target("direct"), *(Lane(name) for name in LANES), *before(arguments)]
    return [t for t in targets if t.name not in arguments.leave_out]


def make_targets(arguments):
    if arguments.ways:
        return make_ways(arguments)
    targets = [
        t
        for t in (
            Target("direct"),
            Relay("relay"),
            Relay("relay-splice", True),
            Bruma("bruma"),
            *before(arguments),
        )
        if t.name not in arguments.leave_out
    ]
    for peer in arguments.peer:
        name, _, paths = peer.partition("=")
        programs = paths.split(",")
        for program in programs:
            if not os.access(program, os.X_OK):
                sys.exit(f"--peer {peer}: {program or 'nothing'} is not a program")
        env = dict(e.split(":", 1)[1].split("=", 1) for e in arguments.env if e.split(":", 1)[0] == name)
        targets.append(
            Peer(name, *programs[:2], env=env) if len(programs) > 1 else Peer(name, programs[0], env=env)
        )
    return targets


def main():
    arguments = parse()
    directory = os.path.abspath(arguments.out) if arguments.out else tempfile.mkdtemp(prefix="bruma-bench-")
    targets = make_targets(arguments)
    os.makedirs(directory, exist_ok=True)
    for target in targets:
        shutil.rmtree(f"{directory}/{target.name}", ignore_errors=True)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(130))  # so that everything is taken down
    info = {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "kernel": platform.release(),
        "processors": os.cpu_count(),
        "processor": processor(),
        "profile": arguments.profile,
        "load_before": os.getloadavg(),
        "congestion": SYSCTLS["net.ipv4.tcp_congestion_control"],
        "descriptors": hard,
        "peers": [t.name for t in targets if isinstance(t, Peer)],
        "ways": arguments.ways,
    }
    if not arguments.only:
        info["crypto"] = crypto_speed()
    began = time.monotonic()
    results = []
    try:
        with Bench(os.path.abspath(arguments.build), directory) as bench:
            for target in targets:
                bench.add(target)
            p = plan.Plan(bench, targets, plan.PROFILES[arguments.profile], say, arguments.ways)
            results = p.results
            p.run(arguments.only)
    except Failed as e:
        say(f"FAILED: {e}" + (f"; see {e.log}" if e.log else ""))
        results.append({"test": "setup", "target": "-", "round": 0, "failed": str(e)})
    finally:
        info["seconds"] = time.monotonic() - began
        with open(f"{directory}/results.json", "w") as f:
            json.dump({"info": info, "results": results}, f, indent=1)
    text = report.markdown(info, results)
    with open(f"{directory}/results.md", "w") as f:
        f.write(text)
    print(text)
    print(f"results and logs: {directory}")
    if not results:
        print("nothing was measured")
    return 1 if not results or any("failed" in r for r in results) else 0


if __name__ == "__main__":
    sys.exit(main())
