# SPDX-License-Identifier: Apache-2.0
"""The export over OTLP, decoded by OpenTelemetry's own classes: what arrives is what the access log and the metrics page say;
and what becomes of it where the collector fails, in all the ways that a real one does not on demand."""

import ipaddress
import re
import signal
import ssl
import subprocess
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from support.certificates import Authority, key_pem, pem
from support.nodes.mesh import Mesh
from support.nodes.pod_programs import ECHO, ONE_SHOT
from support.otlp import Receiver, as_attributes, fields, page_samples, plain
from support.programs import program
from support.system import wait_for

LOCAL = {
    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318",
    "OTEL_METRIC_EXPORT_INTERVAL": "1000",
    "OTEL_EXPORTER_OTLP_TIMEOUT": "1500",
}
SEVERITIES = {"debug": 5, "info": 9, "warn": 13, "error": 17}


def same_as_log(node, records):
    """Whether each line of the node's access log has its record, and there are no others."""
    lines = [fields(line) for line in node.access_log("connection ")]
    have = sorted(
        (r.severity_text, r.body.string_value, sorted(plain(r.attributes).items())) for r in records
    )
    want = sorted((level, message, sorted(as_attributes(f).items())) for level, message, f in lines)
    assert have == want
    assert all(r.severity_number == SEVERITIES[r.severity_text] for r in records)
    return len(lines)


@pytest.fixture(scope="module")
def mesh():
    with Mesh(
        nodes=2,
        proxy_env={**LOCAL, "OTEL_SERVICE_NAME": "mesh%20", "OTEL_RESOURCE_ATTRIBUTES": "a=b%2Cc,d=e"},
    ) as m:
        m.web, m.shop = m.pod("web"), m.pod("shop", node=1)
        m.receivers = [Receiver(node.netns) for node in m.nodes]
        m.start()
        m.shop.server(ECHO, "8080")
        yield m
        for r in m.receivers:
            r.close()


def talk(mesh, count=3):
    for i in range(count):
        assert mesh.web.python(ONE_SHOT, mesh.shop.ip, 8080, f"word {i}") == f"word {i}"


def test_logs_are_those_of_the_access_log(mesh):
    talk(mesh)
    mesh.web.python(ONE_SHOT, mesh.shop.ip, 8099, "nobody listens", check=False)
    for node, receiver in zip(mesh.nodes, mesh.receivers, strict=True):
        receiver.wait_logs(4)
        wait_for(
            lambda n=node, r=receiver: len(r.logs()) == len(n.access_log("connection ")), "all records", 10
        )
        assert same_as_log(node, receiver.logs()) >= 4
        resource = plain(receiver.of("logs")[0].resource_logs[0].resource.attributes)
        assert resource["service.name"] == "mesh%20" and resource["host.name"] == node.name, resource
        assert resource["a"] == "b,c" and resource["d"] == "e", resource
        assert re.fullmatch(
            r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",
            resource["service.instance.id"],
        )
        assert all(abs(r.time_unix_nano / 1e9 - time.time()) < 120 for r in receiver.logs())
        assert {r.headers["Content-Encoding"] for r in receiver.requests} == {"gzip"}


def test_metrics_are_those_of_the_page(mesh):
    talk(mesh)
    for node, receiver in zip(mesh.nodes, mesh.receivers, strict=True):
        quiet = ("istio_tcp", "bruma_connection", "bruma_tls", "bruma_failures")
        seen = len(receiver.of("metrics"))
        wait_for(lambda r=receiver, s=seen: len(r.of("metrics")) >= s + 3, "a page of after that", 20)
        samples, types = page_samples(node.metrics())
        points, metrics = receiver.metrics()
        compared = 0
        for (name, labels), value in samples.items():
            family = re.sub(r"_(total|bucket|sum|count)$", "", name)
            kind = types.get(name) or types.get(family)
            if not name.startswith(quiet):
                continue
            if kind == "histogram":
                labels = tuple((k, v) for k, v in labels if k != "le")
                point = points[family, labels]
                if name.endswith("_count"):
                    assert point.count == value == sum(point.bucket_counts), (name, labels)
                elif name.endswith("_sum"):
                    assert point.sum == pytest.approx(value), (name, labels)
                assert len(point.bucket_counts) == len(point.explicit_bounds) + 1
                assert metrics[family].unit == ("s" if "seconds" in family else "By")
                assert metrics[family].histogram.aggregation_temporality == 2
            else:
                point = points[name, labels]
                assert (point.as_int or point.as_double) == value, (name, labels)
                if kind == "counter":
                    assert metrics[name].sum.is_monotonic and metrics[name].sum.aggregation_temporality == 2
                    assert 0 < point.start_time_unix_nano <= point.time_unix_nano
                else:
                    assert metrics[name].WhichOneof("data") == "gauge" and not point.start_time_unix_nano
            compared += 1
        assert compared > 40
        # and no family that has samples is missing
        shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name, _ in samples}
        gone = {n for n in shown if n not in metrics and n.removesuffix("_total") in types}
        assert not gone, gone


# ---- a collector that fails ----


@pytest.fixture
def failing(mesh):
    """The first node's proxy with another receiver at its own port, for logs alone; the access log is its own."""
    node = mesh.nodes[0]
    state, log = {}, node.proxy_log

    def start(**env):
        receiver = state["receiver"] = Receiver(node.netns, port=4319, context=env.pop("context", None))
        node.proxy.kill(signal.SIGTERM)
        node.proxy.wait()
        node.proxy_log = f"{log}.{time.monotonic_ns()}"
        scheme = env.pop("scheme", "http")
        endpoint = f"{scheme}://127.0.0.1:4319/v1/logs"
        node.start_proxy(
            **{"OTEL_EXPORTER_OTLP_ENDPOINT": "", "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": endpoint, **env}
        )
        return node, receiver

    yield start
    if "receiver" in state:
        state["receiver"].close()
    node.proxy.kill(signal.SIGTERM)
    node.proxy.wait()
    node.proxy_log = log
    node.start_proxy()


def counted(node, name, **labels):
    samples, _ = page_samples(node.metrics())
    found = [v for (n, have), v in samples.items() if n == name and labels.items() <= dict(have).items()]
    return sum(found)


def exported(node):
    return counted(node, "bruma_otlp_exported_total", signal="logs")


def dropped(node, reason):
    return counted(node, "bruma_otlp_dropped_total", signal="logs", reason=reason)


def status_message(text):
    """google.rpc.Status with a message, as a collector has it in its errors."""
    return b"\x12" + bytes([len(text)]) + text.encode()


def test_what_may_be_taken_later_is_tried_again(mesh, failing):
    node, receiver = failing()
    receiver.answers += [503, 429, 502, 504]
    began = time.monotonic()
    talk(mesh)
    receiver.wait_logs(3)
    # 1, 2, 4 and 8 s, of each at least half
    assert 7 < time.monotonic() - began < 25
    assert len(receiver.logs()) == 3 and receiver.attempts == 5
    assert counted(node, "bruma_otlp_failures_total", signal="logs") == 4
    assert not counted(node, "bruma_otlp_dropped_total")
    assert "logs cannot be exported" in node.proxy.text() and "status 503" in node.proxy.text()
    wait_for(lambda: "logs are exported again" in node.proxy.text(), "to be told of the end", 10)


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after(mesh, failing, form):
    _, receiver = failing()
    when = (
        "4" if form == "seconds" else time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 7))
    )
    receiver.answers.append((503, {"Retry-After": when}, b""))
    talk(mesh)
    wait_for(lambda: receiver.attempts, "the first attempt", 10)
    began = time.monotonic()
    receiver.wait_logs(3)
    assert 3 < time.monotonic() - began < 10 and receiver.attempts == 2


@pytest.mark.parametrize("status", [400, 401, 404, 413, 500, 307])
def test_what_never_will_be_taken_is_dropped(mesh, failing, status):
    node, receiver = failing()
    receiver.answers.append((status, {"Location": "/v1/logs"}, status_message("no such thing")))
    talk(mesh)
    wait_for(lambda: dropped(node, "refused") == 3, "the records to be dropped", 20)
    assert receiver.attempts == 1 and not receiver.logs()
    assert f"status {status}" in node.proxy.text() and 'answer="no such thing"' in node.proxy.text()
    talk(mesh)
    receiver.wait_logs(3)
    wait_for(lambda: exported(node) == 3, "to be counted", 10)


def test_partial_success(mesh, failing):
    node, receiver = failing()
    _, response = receiver.types["logs"]
    partly = response()
    partly.partial_success.rejected_log_records = 2
    partly.partial_success.error_message = 'two are \u00fcber\n"long"'
    receiver.answers.append((200, {}, partly.SerializeToString()))
    talk(mesh)
    wait_for(lambda: dropped(node, "rejected") == 2, "to be counted", 20)
    assert exported(node) == 1
    assert "the collector has remarks on logs\trejected=2" in node.proxy.text()


@pytest.mark.parametrize(
    "body", [b"\xff" * 100, b"\x0a\x02\x08", b"{}" * 200000], ids=["garbage", "cut", "huge"]
)
def test_an_answer_that_cannot_be_read(mesh, failing, body):
    node, receiver = failing()
    receiver.answers.append((200, {}, body))
    talk(mesh)
    wait_for(lambda: exported(node) == 3, "to count as taken", 20)
    assert receiver.attempts == 1 and not counted(node, "bruma_otlp_dropped_total")


def test_rejects_more_than_there_were(mesh, failing):
    node, receiver = failing()
    _, response = receiver.types["logs"]
    partly = response()
    partly.partial_success.rejected_log_records = 2**62
    receiver.answers.append((200, {}, partly.SerializeToString()))
    talk(mesh)
    wait_for(lambda: dropped(node, "rejected") == 3, "to be counted", 20)
    assert exported(node) == 0


def late(handler):
    time.sleep(4)


def test_no_answer_in_time_delays_nothing(mesh, failing):
    node, receiver = failing()
    receiver.answers.append(late)
    talk(mesh, 1)
    wait_for(lambda: receiver.attempts, "the first attempt", 10)
    began = time.monotonic()
    talk(mesh, 2)
    wait_for(lambda: len(node.access_log()) >= 3, "lines of the log meanwhile", 1)
    assert time.monotonic() - began < 2 and not receiver.logs()
    receiver.wait_logs(3)
    assert counted(node, "bruma_otlp_failures_total", signal="logs") == 1
    assert "imed out" in node.proxy.text()


def test_a_collector_that_comes_later(mesh, failing):
    node, receiver = failing()
    receiver.close()
    talk(mesh)
    wait_for(lambda: counted(node, "bruma_otlp_failures_total", signal="logs"), "a failure", 20)
    with Receiver(node.netns, port=4319) as later:
        later.wait_logs(3)
        assert len(later.logs()) == 3


# ---- the end ----


def test_what_is_queued_is_sent_at_the_end(mesh, failing):
    node, receiver = failing()
    talk(mesh)
    node.proxy.kill(signal.SIGTERM)
    assert node.proxy.wait() == 0
    assert same_as_log(node, receiver.logs()) == 3


def test_the_end_does_not_wait_for_long(mesh, failing):
    node, receiver = failing(OTEL_EXPORTER_OTLP_TIMEOUT="60000")
    receiver.answers += [lambda _: time.sleep(20)] * 3
    talk(mesh)
    wait_for(lambda: receiver.attempts, "an attempt that hangs", 10)
    began = time.monotonic()
    node.proxy.kill(signal.SIGTERM)
    assert node.proxy.wait() == 0
    assert time.monotonic() - began < 6


# ---- TLS, headers, settings ----


def server_context(authority, directory):
    key = ec.generate_private_key(ec.SECP256R1())
    names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    (directory / "server.key").write_bytes(key_pem(key))
    (directory / "server.crt").write_bytes(pem(authority.sign(key.public_key(), names)))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "server.crt", directory / "server.key")
    return context


def test_https(mesh, failing, tmp_path):
    authority, other = Authority("collectors"), Authority("others")
    roots, wrong = tmp_path / "roots.pem", tmp_path / "wrong.pem"
    roots.write_bytes(pem(authority.cert))
    wrong.write_bytes(pem(other.cert))
    context = server_context(authority, tmp_path)
    env = {"scheme": "https", "context": context, "OTEL_EXPORTER_OTLP_HEADERS": "api-key=a%20b%3D,x-more=1"}
    node, receiver = failing(
        **env, OTEL_EXPORTER_OTLP_CERTIFICATE=str(roots), OTEL_EXPORTER_OTLP_COMPRESSION="none"
    )
    talk(mesh)
    receiver.wait_logs(3)
    headers = receiver.requests[0].headers
    assert headers["api-key"] == "a b=" and headers["x-more"] == "1" and "Content-Encoding" not in headers
    assert (
        "a b=" not in node.http(15000, "/config_dump")[1]
        and "api-key" not in node.http(15000, "/config_dump")[1]
    )
    receiver.close()
    node, receiver = failing(**env, OTEL_EXPORTER_OTLP_CERTIFICATE=str(wrong))
    talk(mesh)
    wait_for(lambda: counted(node, "bruma_otlp_failures_total", signal="logs"), "a failure", 20)
    assert not receiver.logs() and "certificate" in node.proxy.text().split("logs cannot be exported")[-1]


WRONG = {
    "OTEL_EXPORTER_OTLP_ENDPOINT": [
        "collector:4318",
        "ftp://collector",
        "http://",
        "https://user@collector",
        "http://a b",
    ],
    "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": ["grpc://collector"],
    "OTEL_LOGS_EXPORTER": ["console"],
    "OTEL_EXPORTER_OTLP_PROTOCOL": ["grpc", "http/json"],
    "OTEL_EXPORTER_OTLP_HEADERS": ["token", "a b=c", "x=%0d%0aHost:y", "x=%zz", "=v"],
    "OTEL_EXPORTER_OTLP_COMPRESSION": ["zstd"],
    "OTEL_EXPORTER_OTLP_TIMEOUT": ["10s", "0", "-1"],
    "OTEL_EXPORTER_OTLP_CERTIFICATE": ["/nowhere/roots.pem"],
    "OTEL_RESOURCE_ATTRIBUTES": ["team", "a=%ff", ",".join(f"k{i}=v" for i in range(65))],
    "OTEL_METRIC_EXPORT_INTERVAL": ["1m", "10"],
    "OTEL_TRACES_SAMPLER": ["jaeger_remote"],
    "OTEL_TRACES_SAMPLER_ARG": ["2", "half", "nan"],
}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in WRONG.items() for v in values])
def test_a_wrong_value_is_refused_at_the_start(name, value):
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "CA_ADDRESS": "https://localhost:15012"}
    if name == "OTEL_TRACES_SAMPLER_ARG":
        env["OTEL_TRACES_SAMPLER"] = "traceidratio"
    r = subprocess.run(
        [program("bruma-proxy")], env={**env, name: value}, capture_output=True, text=True, timeout=20
    )
    assert r.returncode == 1 and name in r.stderr and "\n" not in r.stderr.strip(), r.stderr
    assert "%0d" not in r.stderr and "token" not in r.stderr
