# SPDX-License-Identifier: Apache-2.0
"""What is measured, and how each figure is taken."""

import json
import os
import resource
import subprocess
import time

import ways
import ways_report
import workloads
from meters import Meter, add_foreign, calibration
from support.system import Failed, placed, run, wait_for

HTTP, ECHO, BULK, DEAF = 8080, 9000, 5201, 9100
STALLED = 1000  # connections that nobody reads from
GROWTH = (1, 10, 100, 250)  # pods of one node

# rounds and seconds of requests and connections; rounds and seconds of bulk; rounds and seconds of tests of ways, and
# for how long there may be more rounds where the spread asks for it; idle connections; workloads;
# enrollments; seconds at rest
PROFILES = {
    "smoke": {
        "rounds": 1,
        "seconds": 2,
        "bulk_rounds": 1,
        "bulk_seconds": 2,
        "ways": (1, 1, 0),
        "hold": 1000,
        "workloads": 10000,
        "enrollments": 5,
        "rest": 10,
    },
    "quick": {
        "rounds": 3,
        "seconds": 3,
        "bulk_rounds": 2,
        "bulk_seconds": 4,
        "ways": (3, 2, 570),
        "hold": 10000,
        "workloads": 100000,
        "enrollments": 20,
        "rest": 20,
    },
    "full": {
        "rounds": 5,
        "seconds": 6,
        "bulk_rounds": 3,
        "bulk_seconds": 10,
        "ways": (5, 6, 0),
        "hold": 10000,
        "workloads": 100000,
        "enrollments": 50,
        "rest": 60,
    },
}


class Test:
    """kind: load (mode, connections, rate), bulk (streams) or handshakes (clients, options). to: the pod that
    answers. longer: seconds more than the profile says. by: the pod that asks. more: lanes that it
    is measured on with --ways; always: without, too."""

    def __init__(self, name, title, kind, arguments, to="s", longer=0, by="c", more=(), always=True):
        self.name, self.title, self.kind, self.arguments = name, title, kind, arguments
        self.to, self.longer, self.by, self.more, self.always = to, longer, by, more, always


# With --ways: what each test is measured on, and its own lanes beside these.
ALWAYS = ("direct", "bruma")
LONG, KERNEL, BEFORE = ("bruma-long",), ("bruma-long", "bruma-kernel"), ("before",)


TESTS = [
    Test(
        "http_max", "HTTP keep-alive, 1 KB, 64 connections, full speed", "load", ("http", 64, 0), more=BEFORE
    ),
    Test(
        "http_1000", "HTTP keep-alive, 1 KB, 64 connections, 1000 rps", "load", ("http", 64, 1000), longer=1
    ),
    Test("bulk_1", "bulk, 1 stream", "bulk", (1,), more=BEFORE),
    Test("bulk_16", "bulk, 16 streams", "bulk", (16,)),
    Test("conn_1", "new connections, one at a time", "load", ("conn", 1, 0), more=BEFORE),
    Test("conn_64", "new connections, 64 at a time", "load", ("conn", 64, 0), more=BEFORE),
    Test("conn_200", "new connections, 200 a second", "load", ("conn", 64, 200), longer=1),
    Test("handshake", "full handshake, CONNECT, close; 4 clients", "handshakes", (4,)),
    Test("handshake_tls", "TLS and HTTP/2 SETTINGS alone; 4 clients", "handshakes", (4, "-t")),
    Test("handshake_resumed", "resumed handshake, CONNECT, close; 4 clients", "handshakes", (4, "-R")),
    Test("handshake_tls_resumed", "resumed TLS and SETTINGS alone; 4 clients", "handshakes", (4, "-t", "-R")),
    Test(
        "rollout",
        "a hundred peers at once, resumed, ten times",
        "handshakes",
        (100, "-R", "-n", 1000),
        longer=20,
    ),
    Test(
        "rollout_full", "a hundred peers at once, full, ten times", "handshakes", (100, "-n", 1000), longer=20
    ),
    *(
        Test(
            f"{way}_{name}",
            f"{title}, {what}",
            kind,
            arguments,
            to=to,
            by=by,
            more=(*more, *BEFORE) if name == "bulk" or (way, name) == ("same_node", "http") else more,
            always=way != "inbound" and not name.startswith("conn"),
        )
        for way, title, to, by, more in (
            ("same_node", "same node", "l", "c", KERNEL),
            ("outside", "outside the mesh", "x", "c", LONG),
            ("inbound", "plaintext inbound", "l", "x", LONG),
        )
        for name, what, kind, arguments in (
            ("http", "HTTP, full speed", "load", ("http", 64, 0)),
            ("conn_1", "new connections, one at a time", "load", ("conn", 1, 0)),
            ("conn_64", "new connections, 64 at a time", "load", ("conn", 64, 0)),
            ("bulk", "bulk, 1 stream", "bulk", (1,)),
        )
    ),
]


class Plan:
    def __init__(self, bench, targets, profile, say, of_ways=False):
        """of_ways: tests of ways past the proxy alone, each on few lanes."""
        self.bench, self.targets, self.profile, self.say = bench, targets, profile, say
        self.of_ways, self.began = of_ways, time.monotonic()
        self.results = []

    def run(self, only):
        def wanted(name):
            return not only or any(name.startswith(o) for o in only)

        for test in TESTS:
            if wanted(test.name) and (test.more if self.of_ways else test.always):
                self._interleaved(test)
        if self.of_ways:
            if wanted("hook"):
                for target in self.targets:
                    if target.plugin and target.name != "bruma-kernel":
                        self._guarded("hook", target, 0, self._hook)
            return
        if wanted("memory"):
            for target in self.targets:
                if target.client:
                    self._guarded("memory", target, 0, self._memory)
        if wanted("enrollment"):
            for target in self.targets:
                if target.plugin:
                    self._guarded("enrollment", target, 0, self._enrollment)
        if wanted("growth"):
            for target in self.targets:
                if target.plugin:
                    self._guarded("growth", target, 0, self._growth)

    def _interleaved(self, test):
        """Each round goes through all targets before the next begins, so that slow drift hits all alike."""
        rounds = self.profile["bulk_rounds" if test.kind == "bulk" else "rounds"]
        if self.of_ways:
            rounds = self.profile["ways"][0]
        for round_ in range(max(rounds, ways_report.ROUNDS)):
            if round_ >= rounds and not self._asks_for_more(test):
                break
            for target in self.targets:
                if self.of_ways and target.name not in (*ALWAYS, *test.more):
                    continue
                if test.kind == "handshakes" and not target.hbone:
                    continue
                if getattr(target, "splice", False) and test.kind != "bulk":
                    continue
                self._guarded(test.name, target, round_, lambda t, test=test: self._measure(test, t))

    def _asks_for_more(self, test):
        in_time = time.monotonic() - self.began < self.profile["ways"][2]
        return self.of_ways and in_time and ways_report.wants_more(self.results, test.name)

    def _guarded(self, name, target, round_, function):
        """One figure that fails must not lose the others."""
        time.sleep(0.2)
        result = {"test": name, "target": target.name, "round": round_}
        try:
            result["calibration_ms"] = calibration()
            result.update(function(target))
            target.check()
        except (Failed, OSError, ValueError, KeyError, subprocess.SubprocessError) as e:
            result["failed"] = str(e)
        self.results.append(result)
        self.say(f"{name} {round_} {target.name}: {_short(result)}")

    def _measure(self, test, target):
        p = self.profile
        witness = ways.Witness(test, target) if self.of_ways else None
        if self.of_ways and test.kind == "load":
            ways.warm(
                target.pods[test.by], target.pods[test.to], HTTP if test.arguments[0] == "http" else ECHO
            )
        if test.kind == "bulk":
            seconds = p["ways"][1] if self.of_ways else p["bulk_seconds"]
            result = self._bulk(target, *test.arguments, seconds, test.to, test.by)
        elif test.kind == "load":
            seconds = (p["ways"][1] if self.of_ways else p["seconds"]) + test.longer
            mode, connections, rate = test.arguments
            argv = self._load(target, mode, connections, rate, seconds, test.to)
            result = self._tool(target, argv, test.to, by=test.by)
        else:
            result = self._handshakes(test, target)
        if witness:
            witness.ask(result)
        return result

    def _handshakes(self, test, target):
        pod = target.pods[test.to]
        argv = [
            f"{self.bench.build}/tests/bench/bench-handshakes",
            "-a",
            pod.ip,
            "-A",
            f"{pod.ip}:{ECHO}",
            "-r",
            target.roots,
            "-k",
            f"{target.directory}/peer.key",
            "-x",
            f"{target.directory}/peer.pem",
            "-d",
            str(self.profile["seconds"] + test.longer),
            "-c",
            *map(str, test.arguments),
        ]
        return self._tool(target, argv, test.to, netns=target.nodes[1].netns)

    def _load(self, target, mode, connections, rate, seconds, to):
        return [
            f"{self.bench.build}/tests/bench/bench-load",
            "-m",
            mode,
            "-a",
            target.pods[to].ip,
            "-p",
            str(HTTP if mode == "http" else ECHO),
            "-c",
            str(connections),
            "-r",
            str(rate),
            "-d",
            str(seconds),
        ]

    def _start_tool(self, target, argv, netns=None, by="c"):
        """A tool that prints START when it measures. Client pods are in their cgroup, so that they are
        captured."""
        errors = open(f"{target.directory}/tools.log", "ab")
        options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors, "text": True}
        with errors:
            if netns:
                process = subprocess.Popen(placed(argv, netns), **options)
            else:
                process = target.pods[by].pipe(*argv, **options)
        line = process.stdout.readline()
        if line.strip() != "START":
            process.kill()
            process.wait()
            with open(f"{target.directory}/tools.log", errors="replace") as f:
                last = (f.readlines() or ["it said nothing"])[-1].strip()
            raise Failed(f"{os.path.basename(argv[0])}: {last}", f"{target.directory}/tools.log")
        return process

    def _tool(self, target, argv, to, netns=None, by="c"):
        process = self._start_tool(target, argv, netns, by)
        meter = Meter(target, self.bench.servers[target.name][to])
        answer = process.stdout.readline()
        result = meter.stop()
        process.wait(30)
        result.update(json.loads(answer))
        result["unit"] = 1000  # operations that CPU is told for
        add_foreign(result, result["client_cpu"])
        return result

    def _bulk(self, target, streams, seconds, to, by):
        pod = target.pods[to]
        meter = Meter(target, self.bench.sinks[target.name][to])
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        process = target.pods[by].pipe(
            "iperf3",
            "-J",
            "-c",
            pod.ip,
            "-p",
            str(BULK),
            "-P",
            str(streams),
            "-t",
            str(seconds),
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            output, _ = process.communicate(timeout=seconds + 30)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        result = meter.stop()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        answer = json.loads(output)
        if "error" in answer:
            raise Failed(f"iperf3: {answer['error']}")
        received = answer["end"]["sum_received"]
        result.update(gbit=received["bits_per_second"] / 1e9, done=received["bytes"] / 1e9, errors=0, unit=1)
        add_foreign(result, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        return result

    def _memory(self, target):
        """In fresh processes, so that what came before does not show."""
        result, p = {}, self.profile

        def resident(key):
            result[key] = [
                max((process.memory_bytes()[0] for process in side), default=0)
                for side in (target.client, target.server)
            ]

        target.stop()
        target.start()
        time.sleep(1)
        resident("idle")
        result["agent"] = max((a.memory_bytes()[0] for a in target.agents), default=0)
        before = sum(process.cpu_seconds() for process in target.client + target.server)
        time.sleep(5)
        result["idle_cpu_ms"] = (
            (sum(x.cpu_seconds() for x in target.client + target.server) - before) / 5 * 1e3
        )
        self._tool(target, self._load(target, "http", 4, 100, 1, "s"), "s")
        time.sleep(1)
        resident("warm")
        self._hold(target, result, resident)
        self._stall(target, result, resident)
        if target.hbone:
            target.stop()
            result["workloads"] = p["workloads"]
            result["load_seconds"] = target.start_with(p["workloads"])
            result["load_cpu"] = target.client[0].cpu_seconds()
            time.sleep(2)
            resident("loaded")
            result["loaded_peak"] = target.client[0].memory_bytes()[1]
            result["agent_loaded"] = max((a.memory_bytes()[0] for a in target.agents), default=0)
        return result

    def _hold(self, target, result, resident):
        # A relay needs two descriptors a connection.
        most = (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 500) // (1 if target.hbone else 2)
        count = min(self.profile["hold"], most)
        began = time.monotonic()
        process = self._start_tool(target, self._load(target, "hold", count, 0, 5, "s"))
        result["hold"], result["hold_seconds"] = count, time.monotonic() - began
        time.sleep(2)
        resident("held")
        process.wait(30)
        time.sleep(3)
        resident("released")

    def _stall(self, target, result, resident):
        """Connections that nobody reads from, until nothing moves any more: the greatest that the proxies
        were, and after all has ended. In fresh processes too."""
        target.stop()
        target.start()
        pod = target.pods["s"]
        stall = os.path.join(os.path.dirname(os.path.abspath(__file__)), "stall.py")
        server = pod.popen("/usr/bin/python3", stall, "serve", str(DEAF), log=f"{target.directory}/deaf.log")
        try:
            wait_for(
                lambda: f":{DEAF} " in run(["ss", "-Hltn"], netns=pod.netns).stdout,
                "the server that does not read",
            )
            most = (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 500) // 2
            process = self._start_tool(
                target, ["/usr/bin/python3", stall, "push", pod.ip, str(DEAF), str(min(STALLED, most))]
            )
            result.update(json.loads(process.stdout.readline()))
            result["stalled_peak"] = [
                max((x.memory_bytes()[1] for x in side), default=0) for side in (target.client, target.server)
            ]
            process.stdin.close()
            process.wait(30)
        finally:
            server.stop()
        time.sleep(5)
        resident("stalled_after")

    def _hook(self, target):
        seconds = self.profile["ways"][1]
        load = lambda: self._tool(target, self._load(target, "conn", 16, 0, seconds, "x"), "x")
        return ways.hook(target, (0, self.profile["workloads"]), load)

    def _enrollment(self, target):
        target.stop()
        workloads.write_mesh(target.mesh_file, target.known_pods(), 0)
        target.start()
        return target.enrollments(self.profile["enrollments"])

    def _growth(self, target):
        """What a node at rest costs as its pods become more: by number of pods."""
        target.stop()
        target.start()
        return {"growth": target.growth(GROWTH, self.profile["rest"])}


def start_servers(bench, target):
    """HTTP, echo and iperf3 in each of the target's server pods."""
    bench.servers[target.name], bench.sinks[target.name] = {}, {}
    for key in "slx":
        pod = target.pods[key]
        bench.servers[target.name][key] = pod.popen(
            f"{bench.build}/tests/bench/bench-server",
            "-w",
            str(HTTP),
            "-e",
            str(ECHO),
            log=f"{target.directory}/server-{key}.log",
        )
        bench.sinks[target.name][key] = pod.popen(
            "iperf3", "-s", "-p", str(BULK), log=f"{target.directory}/iperf3-{key}.log"
        )
        for port in (HTTP, ECHO, BULK):
            wait_for(
                lambda pod=pod, port=port: f":{port} " in run(["ss", "-Hltn"], netns=pod.netns).stdout,
                f"{target.name}: port {port} of pod {key}",
            )


def _short(r):
    if "failed" in r:
        return f"FAILED: {r['failed']}"
    if "hook" in r:
        return "; ".join(
            f"{row['workloads']} workloads: "
            + ", ".join(f"{n} {s['ns']:.0f} ns" for n, s in row["programs"].items())
            + f", proxy {row['proxy'] / 1e6:.0f} MB"
            for row in r["hook"]
        )
    if "growth" in r:
        return ", ".join(f"{g['pods']} pods: agent {g['agent_cpu_ms']:.1f} ms/s" for g in r["growth"])
    if "plugin_ms" in r:
        return f"plugin {sorted(r['plugin_ms'])[len(r['plugin_ms']) // 2]:.1f} ms, median of {len(r['plugin_ms'])}"
    if "idle" in r:
        return ", ".join(
            f"{k} {r[k][0] / 1e6:.1f}/{r[k][1] / 1e6:.1f} MB" for k in ("idle", "held", "loaded") if k in r
        )
    rate = f"{r['gbit']:.2f} Gbit/s" if "gbit" in r else f"{r['rate']:.0f}/s, p99 {r['p99_us']:.0f} us"
    return (
        f"{rate}, proxies {r['cpu_client']:.2f} + {r['cpu_server']:.2f} s, machine {r['busy']:.2f} of "
        f"{r['wall']:.2f} s, foreign {r['foreign']:.2f} cores, errors {r['errors']}"
    )
