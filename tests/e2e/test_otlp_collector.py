# SPDX-License-Identifier: Apache-2.0
"""The export to a real OpenTelemetry Collector, over https, by both proxies: what it passes on is what was sent."""

import ipaddress
import json
import os
import re
import socket
import subprocess

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from support.certificates import Authority, key_pem, pem
from support.network import inside
from support.nodes.mesh import Mesh
from support.nodes.pod_programs import ECHO, ONE_SHOT
from support.otlp import as_attributes, fields, page_samples
from support.programs import ROOT
from support.system import Process, run, wait_for, wait_for_process

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.fixture(scope="module")
def program(build):
    """tests/otelcol, built by the Go of the test cluster (tests/cluster/peers.sh); kept in the build directory."""
    path = f"{build}/otelcol"
    if os.path.exists(path):
        return path
    find = '. tests/cluster/peers.sh && peers_find_go "$(dirname "$(peers_directory)")"'
    go = subprocess.run(["bash", "-c", find], cwd=ROOT, capture_output=True, text=True, timeout=300)
    if go.returncode or not go.stdout.strip():
        pytest.skip(f"otelcol: there is no Go, and none from PyPI: {go.stderr.strip()[-200:]}")
    made = subprocess.run(
        [go.stdout.strip(), "build", "-trimpath", "-ldflags", "-s -w", "-o", path, "."],
        cwd=f"{ROOT}/tests/otelcol",
        env={**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly", "CGO_ENABLED": "0"},
        capture_output=True,
        text=True,
        timeout=800,
    )
    if made.returncode:
        pytest.skip(f"otelcol cannot be built: {made.stderr.strip()[-300:]}")
    return path


class Collector:
    """On a node, for all; what it exports is in a file, a line of OTLP's JSON for each request."""

    def __init__(self, program, node, directory):
        authority, key = Authority("collectors"), ec.generate_private_key(ec.SECP256R1())
        self.roots, self.lines = directory / "roots.pem", directory / "lines.json"
        self.lines.touch()
        names = [x509.IPAddress(ipaddress.ip_address(node.gateway))]
        self.roots.write_bytes(pem(authority.cert))
        (directory / "server.crt").write_bytes(pem(authority.sign(key.public_key(), names)))
        (directory / "server.key").write_bytes(key_pem(key))
        tls = {"cert_file": f"{directory}/server.crt", "key_file": f"{directory}/server.key"}
        pipeline = {"receivers": ["otlp"], "exporters": ["lines"]}
        config = {
            "receivers": {"otlp": {"protocols": {"http": {"endpoint": f"{node.gateway}:4318", "tls": tls}}}},
            "exporters": {"lines": {"path": str(self.lines)}},
            "service": {
                "pipelines": dict.fromkeys(("logs", "metrics", "traces"), pipeline),
            },
        }
        (directory / "config.yaml").write_text(yaml.safe_dump(config))
        self.url = f"https://{node.gateway}:4318"
        self.process = Process(
            [program, "--config", f"file:{directory}/config.yaml"], directory / "log", netns=node.netns
        )
        wait_for_process(self.process, lambda: self.listens(node), "the collector to be ready")

    def listens(self, node):
        with inside(node.netns):
            socket.create_connection((node.gateway, 4318), timeout=5).close()
        return True

    def of(self, signal, node):
        """Requests of one node: of signal "Logs" and so on, those of the scope."""
        with open(self.lines) as f:
            requests = [json.loads(line) for line in f if line.endswith("\n")]
        return [
            scope
            for request in requests
            for resource in request.get(f"resource{signal}", ())
            if attributes(resource["resource"])["host.name"] == node.name
            for scope in resource[f"scope{signal}"]
        ]

    def records(self, node):
        return [r for scope in self.of("Logs", node) for r in scope["logRecords"]]

    def spans(self, node):
        return [s for scope in self.of("Spans", node) for s in scope["spans"]]


def attributes(message):
    def value(of):
        return int(of["intValue"]) if "intValue" in of else of.get("stringValue", "")

    return {a["key"]: value(a["value"]) for a in message.get("attributes", ())}


@pytest.fixture(scope="module")
def mesh(program, tmp_path_factory):
    with Mesh(nodes=2) as m:
        m.web, m.shop = m.pod("web"), m.pod("shop", node=1)
        m.start()
        m.collector = Collector(program, m.nodes[0], tmp_path_factory.mktemp("collector"))
        for node in m.nodes:
            node.proxy.kill(15)
            node.proxy.wait()
            roots = {
                "OTEL_EXPORTER_OTLP_CERTIFICATE": m.collector.roots,
                "OTEL_METRIC_EXPORT_INTERVAL": "1000",
            }
            node.start_proxy(**{ENDPOINT: m.collector.url, **roots})
        m.shop.server(ECHO, "8080")
        for i in range(5):
            assert m.web.python(ONE_SHOT, m.shop.ip, 8080, f"word {i}") == f"word {i}"
        m.web.python(ONE_SHOT, m.shop.ip, 8099, "nobody listens", check=False)
        yield m


def test_logs(mesh):
    for node in mesh.nodes:
        wait_for(lambda n=node: len(mesh.collector.records(n)) >= 6, "records", 20)
        want = []
        for line in node.access_log("connection "):
            level, message, found = fields(line)
            want.append((level, message, sorted(as_attributes(found).items())))
        have = [
            (r["severityText"], r["body"]["stringValue"], sorted(attributes(r).items()))
            for r in mesh.collector.records(node)
        ]
        assert sorted(have) == sorted(want)


def test_spans(mesh):
    source, destination = mesh.nodes
    wait_for(lambda: all(len(mesh.collector.spans(n)) >= 6 for n in mesh.nodes), "spans", 20)
    out, into = ({s["spanId"]: s for s in mesh.collector.spans(n)} for n in (source, destination))
    assert len(out) == len(into) == 6
    assert {s["parentSpanId"] for s in into.values()} == set(out)
    for span in into.values():
        assert span["traceId"] == out[span["parentSpanId"]]["traceId"] and span["kind"] == 2
    assert not any(s.get("parentSpanId") for s in out.values())
    assert sorted(s.get("status", {}).get("code", 0) for s in out.values()) == [0, 0, 0, 0, 0, 2]
    known = {r["spanId"] for r in mesh.collector.records(source)}
    assert known == set(out)


def test_metrics(mesh):
    for node in mesh.nodes:
        samples, _ = page_samples(node.metrics())

        def last(n=node):
            """{(name, labels): point} of the last pages."""
            points = {}
            for scope in mesh.collector.of("Metrics", n):
                for metric in scope["metrics"]:
                    kind = next(k for k in ("sum", "gauge", "histogram") if k in metric)
                    for point in metric[kind]["dataPoints"]:
                        points[metric["name"], tuple(sorted(attributes(point).items()))] = (metric, point)
            return points

        def compared(n=node, now=samples):
            points, count = last(n), 0
            for (name, labels), value in now.items():
                if not name.startswith(("istio_tcp", "bruma_connection", "bruma_tls_handshake_seconds")):
                    continue
                labels = tuple((k, v) for k, v in labels if k != "le")
                histogram = re.sub(r"_(bucket|sum|count)$", "", name)
                metric, point = points.get((name, labels)) or points[histogram, labels]
                if "histogram" in metric:
                    assert metric["histogram"]["aggregationTemporality"] == 2
                    if name.endswith("_count") and int(point["count"]) != value:
                        return 0
                elif float(point.get("asInt", point.get("asDouble"))) != value:
                    return 0
                elif "sum" in metric:
                    assert metric["sum"]["isMonotonic"] and metric["sum"]["aggregationTemporality"] == 2
                count += 1
            return count

        assert wait_for(compared, "a page that says the same", 20) > 20


def test_the_collector_has_taken_all(mesh):
    for node in mesh.nodes:
        text = node.metrics()
        assert "bruma_otlp_dropped" not in text, text
        failed = re.findall(r'bruma_otlp_failures_total{signal="(\w+)"} (\d+)', text)
        assert failed == [("logs", "0"), ("metrics", "0"), ("traces", "0")]


def test_a_request_that_the_collector_cannot_read(mesh):
    """That it is strict: bytes that are none of OTLP's are answered with 400 and words, as test_otlp.py has them."""
    send = [
        "-H",
        "Content-Type: application/x-protobuf",
        "--data-binary",
        "\x7f\x7f",
        f"{mesh.collector.url}/v1/logs",
    ]
    curl = ["curl", "-s", "--cacert", mesh.collector.roots, "-w", "%{http_code}", *send]
    r = run(["ip", "netns", "exec", mesh.nodes[0].netns, *curl])
    assert r.stdout.endswith("400"), r.stdout
