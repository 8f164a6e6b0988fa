# SPDX-License-Identifier: Apache-2.0
"""The demonstrations. Each does something in the lab, prints what was seen, and returns that in a few words;
what was not as it should be is a Failed that says what was seen instead."""

import hashlib
import json
import re
import subprocess
import time

from support import agent
from support.system import Failed, run, wait_for
from support.wire.access_log import AccessLog
from support.wire.capture import Capture
from world import BOOKS4, BOOKS6, DOWNLOAD_BYTES, HOST, RUN, VIP4, VIP6


def url(ip, port=8080, path="/"):
    return f"http://[{ip}]:{port}{path}" if ":" in ip else f"http://{ip}:{port}{path}"


def curl(pod, target, *options, check=True):
    """(status, body, time in ms) of a GET from the pod."""
    r = pod.run(
        "curl", "-sS", "-m", "10", "-w", "\n%{http_code} %{time_total}", *options, target, check=False
    )
    body, _, last = r.stdout.rpartition("\n")
    code, seconds = last.split() if last else ("000", "0")
    if check and r.returncode:
        raise Failed(f"curl {target} in pod {pod.name}: {r.stderr.strip()} (exit {r.returncode})")
    return code, body, float(seconds) * 1000, r


def expect(condition, text, log=None):
    if not condition:
        raise Failed(text, log)


class Steps:
    def __init__(self, world, show):
        self.w, self.show = world, show

    # ---- building it ----

    def nodes(self):
        self.w.create()
        for node in (self.w.n1, self.w.n2):
            self.show.saw(
                f'{node.netns}: bridge "pods" {node.subnet4}.{node.number}.0/24 '
                f"{node.subnet6}:0:0:{node.number}::/64, uplink {node.ip} {node.ip6}"
            )
        return "2 host namespaces, routed, IPv4 and IPv6"

    def programs(self):
        self.w.write_mesh()
        self.w.start()
        for node in (self.w.n1, self.w.n2):
            s = agent.status(node.run_dir)
            expect(
                s.get("meshReady") is True,
                f"the agent of {node.name} has no good mesh file: {s.get('meshError')}",
                node.agent_log,
            )
            expect(
                s.get("cgroupHooks") == "attached",
                f"connect hooks of {node.name}: {s.get('cgroupHooks')}",
                node.agent_log,
            )
            self.show.saw(
                f"{node.name}: agent {s['pid']} and proxy {node.proxy.pid} ready, connect hooks attached to "
                f"{s['cgroup']}, {s['workloads']} workloads, {s['policies']} policy"
            )
        return "agents and proxies ready on both"

    def pods(self):
        w = self.w
        w.create_pods()
        micros = []
        for pod in w.mesh_pods:
            s = pod.wait_enrolled()
            chain = sum(t for (c, _), t in pod.node.runtime.times.items() if c == pod.container)
            plugin = pod.node.runtime.times[pod.container, "bruma-cni"]
            micros.append(s["enrolMicroseconds"])
            self.show.saw(
                f"{pod.full_name} on {pod.node.name} {pod.ip} {pod.ip6}: {s['state']} as {s['identity']}; "
                f"enrollment {s['enrolMicroseconds'] / 1000:.1f} ms, bruma-cni {plugin * 1000:.0f} ms, "
                f"whole chain {chain * 1000:.0f} ms"
            )
        outside = w.outside.item()
        expect(
            outside is None or outside["state"] == "outside",
            f"the pod outside the mesh is {outside}",
            w.n2.agent_log,
        )
        self.show.saw(
            f"{w.outside.full_name} on n2 {w.outside.ip}: "
            f"{outside['state'] if outside else 'not known to the agent'}"
        )
        for pod in w.mesh_pods:
            pod.node.runtime.check(pod.container)
        self.show.saw("CNI CHECK of each pod in the mesh: no complaint")
        w.start_apps()
        return f"4 enrolled in {min(micros) / 1000:.1f} to {max(micros) / 1000:.1f} ms each, 1 left outside"

    # ---- traffic ----

    def _client_seen(self, pod, before):
        """The client of the newest line in nginx's log, which is written a moment after the answer."""
        return wait_for(
            lambda: self.w.server_saw(pod)[before:], f"a line in the log of {pod.name}'s nginx", 10
        )[-1]

    def other_node(self):
        w, seen = self.w, []
        logs = AccessLog(w.n1), AccessLog(w.n2)
        with Capture(w.n1, f"{RUN}/other-node.pcap") as capture:
            for ip, target, options in (
                (w.shop.ip, url(w.shop.ip), ()),
                (w.shop.ip6, url(w.shop.ip6), ()),
                (VIP4, f"http://{HOST}/", ("--resolve", f"{HOST}:80:{VIP4}")),
                (VIP6, f"http://{HOST}/", ("--resolve", f"{HOST}:80:[{VIP6}]")),
            ):
                before = len(w.server_saw(w.shop))
                code, body, ms, _ = curl(w.web, target, *options)
                expect(
                    code == "200" and w.secret in body,
                    f"GET {target} gave {code}: {body[:200]!r}",
                    w.n1.proxy_log,
                )
                who = self._client_seen(w.shop, before)
                expect(
                    who in w.web.ips, f"shop's nginx saw the client {who}, which is not web", w.n2.proxy_log
                )
                self.show.saw(
                    f"web: GET {target} ({ip}) -> {code} in {ms:.1f} ms; nginx saw the client {who}"
                )
                seen.append(code)
        for log, direction, node in ((logs[0], "outbound", w.n1), (logs[1], "inbound", w.n2)):
            line = log.wait(f"an {direction} connection from web", direction=direction, src__workload="web")
            expect(
                line.get("src.identity") == "spiffe://cluster.local/ns/store/sa/web"
                and line.get("dst.identity") == "spiffe://cluster.local/ns/store/sa/shop",
                f"the access log of {node.name} names other identities: {line['line']}",
                node.proxy_log,
            )
            self.show.saw(f"{node.name} {direction}: {line['src.identity']} -> {line['dst.identity']}")
        total, mesh = capture.packets("tcp"), capture.packets("tcp port 15008")
        plain = capture.packets("tcp and not port 15008")
        expect(mesh > 0, "the capture between the nodes has no packet of port 15008", capture.process.log)
        expect(plain == 0, f"{plain} packets between the nodes were not HBONE", capture.path)
        expect(not capture.holds(w.secret), "the payload can be read between the nodes", capture.path)
        expect(not capture.holds("GET / HTTP"), "the request can be read between the nodes", capture.path)
        self.show.saw(
            f"capture between the nodes: {total} packets, {mesh} of port 15008, {len(capture.bytes)} bytes; "
            f'payload "{w.secret[:12]}..." found 0 times'
        )
        return (
            f"4 of 4 answered (v4, v6, service v4, v6); {mesh} packets captured, all HBONE, payload in none"
        )

    def same_node(self):
        w, log = self.w, AccessLog(self.w.n1)
        for ip in w.cart.ips:
            w.web.run("redis-cli", "-h", ip, "SET", "item", w.secret)
            got = w.web.run("redis-cli", "-h", ip, "GET", "item").stdout.strip()
            expect(got == w.secret, f"redis-cli GET item from {ip} gave {got!r}", w.n1.proxy_log)
            self.show.saw(f"web: redis-cli SET and GET on cart {ip} -> {got[:12]}...")
        line = log.wait("an inbound connection to cart", direction="inbound", dst__workload="cart")
        expect(
            line.get("src.identity", "").endswith("/sa/web"),
            f"the access log says {line['line']}",
            w.n1.proxy_log,
        )
        self.show.saw(f"n1 inbound: {line['src.identity']} -> {line.get('dst.identity', 'cart')}")
        return "redis answered over v4 and v6; identity web seen by the policy"

    def refused(self):
        w, reasons = self.w, []
        for pod, node in ((w.shop, w.n2), (w.cart, w.n1)):
            for ip in pod.ips:
                log = AccessLog(node)
                port = 8080 if pod is w.shop else 6379
                _, body, _, r = curl(w.intruder, url(ip, port), "--http0.9", check=False)
                expect(
                    r.returncode != 0 and w.secret not in body,
                    f"intruder got an answer from {pod.name}: {body[:100]!r}",
                    node.proxy_log,
                )
                line = log.wait(
                    f"a refused connection of intruder to {pod.name}",
                    line=lambda text: "policy_denied" in text or "policy" in text.lower(),
                )
                why = line.get("error") or line.get("reason") or line["line"]
                reasons.append(why)
                self.show.saw(
                    f'intruder -> {pod.name} {ip}: curl says "{r.stderr.strip()}"; {node.name} says: {why}'
                )
        return f"4 of 4 refused, the reason as logged: {reasons[0]}"

    def untouched(self):
        w = self.w
        counters = w.web.item().get("counters") or {}
        with Capture(w.n1, f"{RUN}/outside.pcap") as capture:
            for ip in w.outside.ips:
                before = len(w.server_saw(w.outside))
                code, body, ms, _ = curl(w.web, url(ip))
                expect(
                    code == "200" and w.secret in body,
                    f"GET {url(ip)} gave {code}: {body[:200]!r}",
                    w.n1.proxy_log,
                )
                who = self._client_seen(w.outside, before)
                self.show.saw(
                    f"web: GET {url(ip)} -> {code} in {ms:.1f} ms; outside's nginx saw the client {who}"
                )
                expect(who in w.web.ips, f"the client's address was changed to {who}", w.n1.proxy_log)
        plain = capture.packets("tcp and not port 15008")
        expect(
            capture.holds(w.secret),
            "the payload to outside cannot be read between the nodes: was it captured?",
            capture.path,
        )
        self.show.saw(
            f"capture between the nodes: {plain} packets beside port 15008, and the payload is readable in "
            "them, as it should be for a destination without a mesh (and it shows that the capture works)"
        )
        after = w.web.item().get("counters") or {}
        grew = {k: after[k] - counters.get(k, 0) for k in after if after[k] != counters.get(k, 0)}
        self.show.saw(
            "web's counters meanwhile: " + (", ".join(f"{k} +{v}" for k, v in grew.items()) or "no change")
        )
        code, _, _, r = curl(w.outside, url(w.shop.ip), check=False)
        expect(
            r.returncode != 0,
            f"outside got {code} from shop, whose policy wants a mesh identity",
            w.n2.proxy_log,
        )
        self.show.saw(f"outside -> shop {w.shop.ip}, without identity: {r.stderr.strip()}")
        return "v4 and v6 answered in plaintext with the client's own address"

    def label(self):
        """The namespace leaves the mesh and comes back while a download runs."""
        w = self.w
        with open(f"{RUN}/shop/www/download", "rb") as f:
            want = hashlib.sha256(f.read()).hexdigest()
        started = time.monotonic()
        # What is not read here stays at the server, so the download lasts as long as the two changes take.
        with open(f"{RUN}/download.log", "w+") as log:
            download = w.web.pipe(
                "curl",
                "-sSN",
                "-m",
                "60",
                url(w.shop.ip, path="/download"),
                stdout=subprocess.PIPE,
                stderr=log,
            )
            try:
                got = hashlib.sha256(download.stdout.read(1 << 20))
                self._leave_and_return(lambda: got.update(download.stdout.read(8 << 20)))
                with open(f"{RUN}/shop/access.log") as served:
                    expect(
                        "/download" not in served.read(),
                        "the server had sent all of it before the label was back",
                    )
                for part in iter(lambda: download.stdout.read(1 << 20), b""):
                    got.update(part)
                download.wait(10)
            finally:
                if download.poll() is None:
                    download.kill()
                    download.wait()
                download.stdout.close()
            log.seek(0)
            expect(
                download.returncode == 0,
                f"the download broke: {log.read().strip()} (curl exit {download.returncode})",
                w.n1.proxy_log,
            )
        expect(
            got.hexdigest() == want,
            f"the download is damaged: sha256 {got.hexdigest()}, not {want}",
            w.n1.proxy_log,
        )
        seconds = time.monotonic() - started
        self.show.saw(
            f"download: {DOWNLOAD_BYTES} bytes in {seconds:.1f} s, sha256 {want[:16]}... as on the server"
        )
        return f"{DOWNLOAD_BYTES >> 20} MiB over {seconds:.0f} s unbroken and intact across both changes"

    def _leave_and_return(self, go_on):
        """go_on: takes some more of the download."""
        w = self.w
        pods = [p for p in w.mesh_pods if p.namespace == "store"]
        generations = {p: p.item()["generation"] for p in pods}
        t = time.monotonic()
        w.mesh.namespace("store", ambient=False)
        w.mesh.write(w.mesh_file)
        for pod in pods:
            wait_for(
                lambda pod=pod: pod.item()["state"] in ("draining", "outside"),
                f"{pod.name} to leave the mesh",
                20,
                log=pod.node.agent_log,
            )
        self.show.saw(
            f"label taken away: {', '.join(p.name + ' ' + p.item()['state'] for p in pods)} after "
            f"{(time.monotonic() - t) * 1000:.0f} ms"
        )
        go_on()
        with Capture(w.n1, f"{RUN}/unlabelled.pcap") as capture:
            code, body, ms, _ = curl(w.web, url(w.shop.ip))
        expect(
            code == "200" and w.secret in body, f"without the label, web -> shop gave {code}", w.n1.proxy_log
        )
        expect(
            capture.holds(w.secret),
            "without the label, a new connection web -> shop was still encrypted",
            capture.path,
        )
        self.show.saw(
            f"meanwhile a new connection web -> shop: {code} in {ms:.1f} ms, readable between the nodes"
        )
        t = time.monotonic()
        w.mesh.namespace("store")
        w.mesh.write(w.mesh_file)
        for pod in pods:
            s = pod.wait_enrolled()
            expect(
                s["generation"] > generations[pod],
                f"{pod.name} was not enrolled again: {s}",
                pod.node.agent_log,
            )
            self.show.saw(
                f"label put back: {pod.name} {s['state']}, enrollment {s['enrolMicroseconds'] / 1000:.1f} ms, "
                f"{(time.monotonic() - t) * 1000:.0f} ms after the file was written"
            )
        with Capture(w.n1, f"{RUN}/labelled.pcap") as capture:
            wait_for(
                lambda: curl(w.web, url(w.shop.ip))[0] == "200",
                "web -> shop to work again",
                log=w.n1.proxy_log,
            )
        expect(
            not capture.holds(w.secret),
            "with the label, web -> shop can still be read between the nodes",
            capture.path,
        )
        self.show.saw("a new connection web -> shop: 200, and the payload cannot be read between the nodes")
        go_on()

    # ---- looking in ----

    def maps(self):
        """bpftool alone, as a person would use it."""
        w, found = self.w, 0
        for node in (w.n1, w.n2):
            path = f"{node.pin_dir}/maps/pods"
            text = run(["bpftool", "map", "dump", "pinned", path]).stdout
            self.show.saw(f"bpftool map dump pinned {path}")
            dump = _entries(text)
            for entry in dump:
                self.show.raw("  " + _summary(entry))
            names = {e["value"]["pod"] for e in dump if isinstance(e.get("value"), dict)}
            wanted = {p.full_name for p in w.mesh_pods if p.node is node}
            expect(
                names == wanted,
                f"the map of {node.name} names {sorted(names)} and not {sorted(wanted)}",
                path,
            )
            found += len(names)
        counters = f"{w.n1.pin_dir}/maps/pod_counters"
        self.show.saw(f"bpftool map dump pinned {counters}")
        cookie = w.web.item()["cookie"]
        for entry in _entries(run(["bpftool", "map", "dump", "pinned", counters]).stdout):
            if str(entry["key"]) == cookie:
                self.show.raw("  web: " + ", ".join(f"{k} {v}" for k, v in entry["value"].items() if v))
        return f"{found} pods in the maps of 2 nodes, by name and identity"

    def tool(self):
        """brumactl's own view."""
        w = self.w
        shown = 0
        for node, arguments in (
            (w.n1, ["status"]),
            (w.n1, ["pods"]),
            (w.n2, ["pods"]),
            (w.n1, ["identities"]),
            (w.n1, ["explain", "store/web"]),
        ):
            r = run([f"{w.build}/ctl/brumactl", "--run-dir", node.run_dir, *arguments], netns=node.netns)
            self.show.saw(f"brumactl --run-dir {node.run_dir} {' '.join(arguments)}")
            self.show.raw(r.stdout)
            shown += 1
        text = run(
            [f"{w.build}/ctl/brumactl", "--run-dir", w.n1.run_dir, "pods", "-o", "json"], netns=w.n1.netns
        ).stdout
        names = json.dumps(json.loads(text))
        for pod in (w.web, w.cart, w.intruder):
            expect(pod.name in names, f"brumactl pods -o json of n1 does not name {pod.full_name}")
        return f"{shown} views, and JSON that names the 3 pods of n1"

    # ---- layer 7 ----

    def waypoint(self, envoy):
        """A stock Envoy before a service: methods, versions, and no way around it."""
        w = self.w
        w.add_waypoint(envoy)
        for pod in w.books:
            pod.wait_enrolled()
        version = run([envoy, "--version"]).stdout.partition("version: ")[2].split("/")[1]
        log = AccessLog(w.n1)
        with Capture(w.n1, f"{RUN}/waypoint.pcap") as capture:
            wait_for(
                lambda: curl(w.web, f"http://{BOOKS4}/", check=False)[0] == "200",
                "web -> books by the waypoint",
                log=w.n1.proxy_log,
            )
            line = log.wait("a connection to the waypoint", direction="outbound", dst__workload="waypoint")
            expect(
                line.get("dst.identity") == "spiffe://cluster.local/ns/store/sa/waypoint",
                f"n1 says {line['line']}",
                w.n1.proxy_log,
            )
            self.show.saw(
                f"Envoy {version} in pod waypoint of n2; n1 outbound: {line.get('src.identity')} -> {line.get('dst.identity')} "
                f"for {line.get('dst.hbone_addr')}"
            )
            split = self._versions(80)
            for ip in (BOOKS4, BOOKS6):
                self._forbidden(w.web, ip, "DELETE")
            self._forbidden(w.intruder, BOOKS4, "GET")
        expect(not capture.holds(w.secret), "the payload can be read between the nodes", capture.path)
        self.show.saw(
            f"capture between the nodes: {capture.packets('tcp port 15008')} packets of port 15008, payload found 0 times"
        )
        for pod in w.books:
            log = AccessLog(pod.node)
            _, body, _, r = curl(w.web, url(pod.ip), check=False)
            expect(
                r.returncode != 0 and w.secret not in body,
                f"web reached {pod.name} around the waypoint",
                pod.node.proxy_log,
            )
            line = log.wait(f"a refused connection to {pod.name}", line=lambda text: "policy_denied" in text)
            self.show.saw(
                f'web -> {pod.name} {pod.ip}, around the waypoint: curl says "{r.stderr.strip()}"; '
                f"{pod.node.name} says: {line.get('error')}"
            )
        return f"GET 200, DELETE 403 by Envoy's RBAC, {split}; direct connections refused by policy"

    def _versions(self, count):
        """GETs through the waypoint, and who answered them."""
        seen = {pod.name: 0 for pod in self.w.books}
        for i in range(count):
            target = (BOOKS4, BOOKS6)[i % 2]
            code, body, _, _ = curl(self.w.web, url(target, 80))
            expect(
                code == "200" and self.w.secret in body,
                f"GET {url(target, 80)} gave {code}: {body[:200]!r}",
                self.w.envoy.log,
            )
            seen[body.split(";")[0].removeprefix("this is ")] += 1
        expect(all(seen.values()), f"of {count} requests one version answered none: {seen}", self.w.envoy.log)
        for pod in self.w.books:
            who = set(self.w.server_saw(pod))
            expect(
                who <= set(self.w.gate.ips),
                f"{pod.name}'s nginx saw the clients {who}, not the waypoint",
                pod.node.proxy_log,
            )
        split = ", ".join(f"{name} {n}" for name, n in seen.items())
        self.show.saw(
            f"web: GET {url(BOOKS4, 80)} {count} times -> 200, answered by {split} (weights 80 and 20)"
        )
        return f"{count} GETs split {split}"

    def _forbidden(self, pod, ip, method):
        code, body, ms, _ = curl(pod, url(ip, 80), "-X", method)
        expect(
            code == "403" and "RBAC" in body,
            f"{method} of {pod.name} gave {code}: {body[:200]!r}",
            self.w.envoy.log,
        )
        self.show.saw(f"{pod.name}: {method} {url(ip, 80)} -> {code} {body} in {ms:.1f} ms")


def _entries(text):
    """bpftool's dump: JSON when the map has BTF. Its hexadecimal and character values are not JSON proper."""
    text = re.sub(r":\s*(0x[0-9a-fA-F]+)", lambda m: f": {int(m.group(1), 16)}", text)
    try:
        return json.loads(text)
    except ValueError as e:
        raise Failed(f"the dump is not readable, has the map BTF? ({e}): {text[:300]}") from e


def _summary(entry):
    value = entry["value"]
    return (
        f"{entry['key']}: pod {value['pod']}, identity {value['identity']}, generation {value['generation']}"
    )
