# SPDX-License-Identifier: Apache-2.0
"""Who takes OTLP. Receiver: an HTTP server in a network namespace that decodes by OpenTelemetry's own protobuf classes
(PyPI's opentelemetry-proto), and fails in the ways that it is told."""

import collections
import contextlib
import gzip
import http.server
import importlib
import os
import re
import subprocess
import sys
import threading
import zipfile

import pytest

from support.network import inside
from support.programs import BUILD
from support.system import wait_for

WHEEL = (
    "opentelemetry-proto==1.26.0",
    "sha256:6c4d7b4d4d9c88543bcf8c28ae3f8f0448a753dc291c18c5390444c90b76a725",
)
PATHS = {"/v1/logs": "logs", "/v1/metrics": "metrics", "/v1/traces": "traces"}
Request = collections.namedtuple("Request", "signal headers message size")


def classes():
    """The modules of the three services, from the wheel that is kept in the build directory; without it the test is skipped."""
    directory = f"{BUILD}/otlp"
    if not os.path.exists(f"{directory}/opentelemetry"):
        os.makedirs(directory, exist_ok=True)
        with open(f"{directory}/requirements.txt", "w") as f:
            f.write(f"{WHEEL[0]} --hash={WHEEL[1]}\n")
        got = subprocess.run(
            [
                *(
                    "/usr/bin/python3",
                    "-m",
                    "pip",
                    "download",
                    "-q",
                    "--disable-pip-version-check",
                    "--no-deps",
                ),
                *("--only-binary", ":all:", "--require-hashes", "-r", f"{directory}/requirements.txt"),
                *("-d", directory),
            ],
            capture_output=True,
            text=True,
            timeout=120,
        )
        if got.returncode:
            pytest.skip(f"opentelemetry-proto: nothing from PyPI: {got.stderr.strip()[-200:]}")
        wheel = next(name for name in os.listdir(directory) if name.endswith(".whl"))
        zipfile.ZipFile(f"{directory}/{wheel}").extractall(f"{directory}/new")
        os.rename(f"{directory}/new/opentelemetry", f"{directory}/opentelemetry")
    if directory not in sys.path:
        sys.path.append(directory)
    logs, metrics, traces = (
        importlib.import_module(f"opentelemetry.proto.collector.{part}.v1.{part}_service_pb2")
        for part in ("logs", "metrics", "trace")
    )
    return {
        "logs": (logs.ExportLogsServiceRequest, logs.ExportLogsServiceResponse),
        "metrics": (
            metrics.ExportMetricsServiceRequest,
            metrics.ExportMetricsServiceResponse,
        ),
        "traces": (traces.ExportTraceServiceRequest, traces.ExportTraceServiceResponse),
    }


def plain(attributes):
    """Of a message's attributes, as a dict."""
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in attributes}


def fields(line):
    """Of a line of the access log: level, message, and {key: text}."""
    _, level, _, message, rest = line.split("\t", 4)
    found = re.findall(r'(\S+?)=("(?:[^"\\]|\\.)*"|\S+)', rest)
    return level, message, {k: re.sub(r"\\(.)", r"\1", v.strip('"')) for k, v in found}


def as_attributes(found):
    """What the record of such a line has."""
    expected = dict(found)
    for key in ("bytes_sent", "bytes_recv", "retries"):
        if key in expected:
            expected[key] = int(expected[key])
    if "duration" in expected:
        expected["duration_ms"] = int(expected.pop("duration").removesuffix("ms"))
    if "error" in expected:
        expected["error.type"] = expected["error"].split(":")[0]
    return expected


def page_samples(text):
    """{(name, labels): number} of a page of metrics, and {family: type}."""
    samples = {}
    for name, labels, value in re.findall(r"(?m)^([a-z_]\w*)(?:{(.*)})? (\S+)$", text):
        pairs = re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', labels)
        samples[name, tuple(sorted((k, re.sub(r"\\(.)", r"\1", v)) for k, v in pairs))] = float(value)
    return samples, dict(re.findall(r"(?m)^# TYPE (\S+) (\S+)$", text))


class Receiver:
    """answers: what becomes of the next requests, in their order: a status, (status, headers, body), or a function of the
    handler; then all are taken. context: of TLS."""

    def __init__(self, netns, address="127.0.0.1", port=4318, context=None):
        self.types, self.requests, self.answers, self.attempts = classes(), [], [], 0
        self.lock = threading.Lock()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                outer.post(self)

            def log_message(self, *_):
                pass

        class Server(http.server.ThreadingHTTPServer):
            address_family = http.server.socketserver.socket.AF_INET
            daemon_threads = True

            def handle_error(self, *_):
                pass

        with inside(netns):
            self.server = Server((address, port), Handler)
        self.port = self.server.server_address[1]
        if context:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def post(self, handler):
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        size = len(body)
        with self.lock:
            self.attempts += 1
            answer = self.answers.pop(0) if self.answers else 200
        if callable(answer):
            answer = answer(handler)
            if answer is None:
                handler.close_connection = True
                return
        status, headers, content = (answer, {}, None) if isinstance(answer, int) else answer
        signal = PATHS[handler.path]
        request, response = self.types[signal]
        if status == 200:
            assert handler.headers["Content-Type"] == "application/x-protobuf", handler.headers
            if handler.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            message = request.FromString(body)
            with self.lock:
                self.requests.append(Request(signal, dict(handler.headers), message, size))
            content = response().SerializeToString() if content is None else content
        content = content or b""
        with contextlib.suppress(OSError):
            handler.send_response(status)
            for name, value in headers.items():
                handler.send_header(name, value)
            handler.send_header("Content-Type", "application/x-protobuf")
            handler.send_header("Content-Length", str(len(content)))
            handler.end_headers()
            handler.wfile.write(content)

    # ---- what came ----

    def of(self, signal):
        with self.lock:
            return [r.message for r in self.requests if r.signal == signal]

    def logs(self):
        return [
            r for m in self.of("logs") for x in m.resource_logs for s in x.scope_logs for r in s.log_records
        ]

    def spans(self):
        return [
            r for m in self.of("traces") for x in m.resource_spans for s in x.scope_spans for r in s.spans
        ]

    def metrics(self):
        """Of the last page: {(name, labels): point}, and {name: metric}; points of one time belong together."""
        points, metrics = {}, {}
        for m in self.of("metrics"):
            for one in (o for x in m.resource_metrics for s in x.scope_metrics for o in s.metrics):
                metrics[one.name] = one
                data = getattr(one, one.WhichOneof("data"))
                for point in data.data_points:
                    points[one.name, tuple(sorted(plain(point.attributes).items()))] = point
        return points, metrics

    def wait_logs(self, count, needle=None):
        def there():
            found = [r for r in self.logs() if not needle or needle(r)]
            return found if len(found) >= count else None

        return wait_for(there, f"{count} log records", 30)
