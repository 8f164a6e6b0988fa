# SPDX-License-Identifier: Apache-2.0
"""Rules for Prometheus, in its own simulation (promtool test rules): each alert comes where it should, alone, and none where
nothing is wrong."""

import re
import subprocess

import pytest
import yaml

from support.programs import ROOT

RULES = [f"{ROOT}/packaging/prometheus/{name}.yaml" for name in ("recording", "alerts")]
HOURS = 3
PROXY = 'instance="p",job="proxy",node="a"'
EDGE = 'instance="p",job="proxy",node="a",reporter="source"'

# A node where all is well. Values are those of every minute.
WELL = {
    'bruma_agent_ready{node="a"}': "1",
    'bruma_proxy_serving{node="a"}': "1",
    'bruma_source_current{node="a"}': "1",
    'bruma_guard_closed{node="a"}': "0",
    'bruma_guard_gave_up_total{node="a"}': "2",
    'bruma_pods_captured_late_total{node="a"}': "4",
    'bruma_pods{node="a",state="enrolling"}': "0",
    'bruma_pods{node="a",state="enrolled"}': "7",
    'bruma_verify_rounds_total{node="a"}': "grows",
    'bruma_agent_log_dropped_lines_total{node="a"}': "0",
    'bruma_connections_turned_away_total{node="a",server="metrics"}': "0",
    f'bruma_build{{{PROXY},version="1"}}': "1",
    f"bruma_xds_connected{{{PROXY}}}": "1",
    f"bruma_xds_stalls_total{{{PROXY}}}": "0",
    f'istio_xds_connection_terminations_total{{{PROXY},reason="Reconnect"}}': "30x2",
    f'bruma_certificates{{{PROXY},state="failing"}}': "0",
    f"bruma_certificates_not_renewed{{{PROXY}}}": "0",
    f"bruma_certificate_expiry_timestamp_seconds{{{PROXY}}}": "86400",
    f"bruma_memory_pressure{{{PROXY}}}": "1",
    f"bruma_crl_unusable{{{PROXY}}}": "0",
    f"process_open_fds{{{PROXY}}}": "100",
    f"process_max_fds{{{PROXY}}}": "1000",
    'process_open_fds{instance="x",job="another",node="a"}': "999",
    'process_max_fds{instance="x",job="another",node="a"}': "1000",
    f'bruma_handed_over_connections_total{{{PROXY},direction="out",result="left"}}': "0",
    f'bruma_failures_total{{{PROXY},reason="policy_denied"}}': "grows",
    f'istio_tcp_connections_opened_total{{{EDGE},response_flags="-"}}': "grows",
    f'istio_tcp_connections_closed_total{{{EDGE},response_flags="-"}}': "grows",
    f'istio_tcp_connections_closed_total{{{EDGE},response_flags="DENY"}}': "grows",
    f'istio_tcp_connections_failed_total{{{EDGE},response_flags="DENY"}}': "grows",
    f"istio_dns_upstream_requests_total{{{PROXY}}}": "grows",
    f"istio_dns_upstream_failures_total{{{PROXY}}}": "0",
    f'bruma_otlp_dropped_total{{{PROXY},reason="replaced",signal="metrics"}}': "grows",
}
LIMITS = ["out_of_resources", "pod_descriptors", "peer_connections", "handshake_evicted"]
LIMITS += ["name_queries", "lookup_limit", "dns_pod_queries", "dns_queries"]
# What is otherwise; None: it is not there. "late": it is there, as 1, only in the last five minutes.
SCENES = {
    "BrumaProxyAway": {'bruma_proxy_serving{node="a"}': "0"},
    "BrumaAgentAway": {name: None for name in WELL if '"proxy"' not in name and "another" not in name},
    "BrumaAgentNotReady": {'bruma_agent_ready{node="a"}': "0"},
    "BrumaSourceAway": {'bruma_source_current{node="a"}': "0"},
    "BrumaVerificationStopped": {'bruma_verify_rounds_total{node="a"}': "500"},
    "BrumaPodFailed": {'bruma_pod_failed{node="a",namespace="shop",pod="x"}': "1"},
    "BrumaPodsNotEnrolled": {'bruma_pods{node="a",state="enrolling"}': "1"},
    "BrumaPodsCapturedLate": {'bruma_pods_captured_late_total{node="a"}': "more"},
    "BrumaGuardClosed": {'bruma_guard_closed{node="a"}': "1"},
    "BrumaGuardGaveUp": {'bruma_guard_gave_up_total{node="a"}': "more"},
    "BrumaCaptureBroken": {'bruma_mends_total{node="a",reason="rule_missing"}': "late"},
    "BrumaSteeringFails": {'bruma_steering_failures_total{node="a",reason="pod_undecided"}': "grows"},
    "BrumaControlPlaneAway": {f"bruma_xds_connected{{{PROXY}}}": "0"},
    "BrumaControlPlaneStalls": {f"bruma_xds_stalls_total{{{PROXY}}}": "more"},
    "BrumaControlPlaneUnsteady": {
        f'istio_xds_connection_terminations_total{{{PROXY},reason="Reconnect"}}': "grows"
    },
    "BrumaCertificatesMissing": {f'bruma_certificates{{{PROXY},state="failing"}}': "2"},
    "BrumaCertificatesNotRenewed": {f"bruma_certificates_not_renewed{{{PROXY}}}": "1"},
    "BrumaCertificateExpires": {f"bruma_certificate_expiry_timestamp_seconds{{{PROXY}}}": "11000"},
    "BrumaRevocationListUnusable": {f"bruma_crl_unusable{{{PROXY}}}": "1"},
    "BrumaConnectionsFail": {
        f'istio_tcp_connections_closed_total{{{EDGE},response_flags="CONNECT"}}': "grows",
        f'istio_tcp_connections_failed_total{{{EDGE},response_flags="CONNECT"}}': "grows",
    },
    "BrumaInternalErrors": {f'bruma_failures_total{{{PROXY},reason="internal"}}': "late"},
    "BrumaLimitReached": {f'bruma_failures_total{{{PROXY},reason="memory_budget"}}': "late"},
    "BrumaMemoryPressure": {f"bruma_memory_pressure{{{PROXY}}}": "2"},
    "BrumaDescriptorsRunOut": {f"process_open_fds{{{PROXY}}}": "900"},
    "BrumaNamesNotAnswered": {f"istio_dns_upstream_failures_total{{{PROXY}}}": "grows"},
    "BrumaHandOverIncomplete": {
        f'bruma_handed_over_connections_total{{{PROXY},direction="out",result="left"}}': "more"
    },
    "BrumaLogLinesLost": {f"bruma_access_log_dropped_lines_total{{{PROXY}}}": "late"},
    "BrumaTelemetryNotExported": {
        f'bruma_otlp_dropped_total{{{PROXY},reason="queue_full",signal="logs"}}': "late"
    },
    "BrumaEventsLost": {f"bruma_direct_ends_lost_total{{{PROXY}}}": "late"},
    "BrumaTurnedAway": {'bruma_connections_turned_away_total{node="a",server="metrics"}': "more"},
    "BrumaLabelsOverflow": {f"bruma_telemetry_overflow_connections_total{{{PROXY}}}": "late"},
    "BrumaDirectNotWritten": {f"bruma_direct_mesh_failures_total{{{PROXY}}}": "late"},
}
VERSIONS = {'bruma_build{instance="q",job="proxy",node="a",version="2"}': "1"}
# Other series of the same kind, which count too; and those of a program that has just started, which had something to count
# before it was visited for the first time.
ALIKE = {
    "BrumaPodsCapturedLate": {'bruma_pods_captured_late_total{node="a"}'},
    "BrumaGuardGaveUp": {'bruma_guard_gave_up_total{node="a"}'},
    "BrumaHandOverIncomplete": {
        f'bruma_handed_over_connections_total{{{PROXY},direction="in",result="refused"}}',
        f'bruma_handed_over_connections_total{{{PROXY},direction="out",result="left"}}',
    },
    "BrumaLimitReached": {f'bruma_failures_total{{{PROXY},reason="{reason}"}}' for reason in LIMITS},
    "BrumaLogLinesLost": {
        f"bruma_log_dropped_lines_total{{{PROXY}}}",
        'bruma_agent_log_dropped_lines_total{node="a"}',
    },
    "BrumaTelemetryNotExported": {
        f'bruma_otlp_dropped_total{{{PROXY},reason="gave_up",signal="traces"}}',
    },
    "BrumaEventsLost": {
        f"bruma_direct_lost_events_total{{{PROXY}}}",
        f"bruma_direct_broken_records_total{{{PROXY}}}",
    },
    "BrumaTurnedAway": {f'bruma_connections_turned_away_total{{{PROXY},server="admin"}}'},
    "BrumaDirectNotWritten": {
        f"bruma_direct_{what}_total{{{PROXY}}}" for what in ("lost", "pod_failures", "socket_failures")
    },
}
EVERYTHING = [
    *SCENES.items(),
    *((alert, {series: "late"}) for alert, all in ALIKE.items() for series in sorted(all)),
]


def values(kind):
    """What promtool takes for a value of each minute."""
    minutes = HOURS * 60
    if kind == "grows":
        return f"0+60x{minutes}"
    if kind == "more":
        return f"4x{minutes - 5} 5x6"
    if kind == "new":
        return f"_x{minutes - 6} 0x6"
    if kind == "late":
        return f"_x{minutes - 6} 1x6"
    if kind == "30x2":  # twice an hour
        return " ".join(f"{n}x29" for n in range(2 * HOURS + 1))
    return f"{kind}x{minutes}"


@pytest.fixture(scope="module")
def alerts():
    with open(RULES[1]) as f:
        return {r["alert"]: r for g in yaml.safe_load(f)["groups"] for r in g["rules"]}


def on_node(series, node):
    return series.replace('node="a"', f'node="{node}"').replace('instance="', f'instance="{node}-')


def simulate(folder, scenes):
    """scenes: {node: (what comes, what is otherwise there)}, all at once. Returns what promtool has against it."""
    series = [
        {"series": on_node(s, node), "values": values(v)}
        for node, (_, change) in scenes.items()
        for s, v in {**WELL, **change}.items()
        if v is not None
    ]
    expected = [
        {"labels": f'{{alertname="{alert}",node="{node}"}}', "value": 1}
        for node, (alert, _) in scenes.items()
        if alert
    ]
    query = {
        "expr": 'count by (alertname, node) (ALERTS{alertstate="firing"})',
        "eval_time": f"{HOURS}h",
        "exp_samples": expected,
    }
    test = {"interval": "1m", "input_series": series, "promql_expr_test": [query]}
    path = f"{folder}/test.yaml"
    with open(path, "w") as f:
        yaml.safe_dump({"rule_files": RULES, "evaluation_interval": "1m", "tests": [test]}, f)
    r = subprocess.run(["promtool", "test", "rules", path], capture_output=True, text=True, timeout=300)
    return r.stdout + r.stderr if r.returncode else ""


def test_where_nothing_is_wrong_there_is_no_alert(tmp_path):
    assert not simulate(tmp_path, {"a": (None, {})})


def test_nor_of_a_node_that_has_just_started(tmp_path):
    """Nothing was known of it a quarter of an hour ago, and what it counts is still 0."""
    fresh = {
        series: "new" if "_total{" in series and kind not in ("grows", "30x2") else kind
        for series, kind in WELL.items()
    }
    assert "new" in fresh.values()
    assert not simulate(tmp_path, {"a": (None, fresh)})


def test_each_comes_alone(tmp_path):
    assert not simulate(tmp_path, {f"n{i}": scene for i, scene in enumerate(EVERYTHING)})


def test_two_versions_are_told_once(tmp_path):
    """Of no node, but of all."""
    assert 'alertname="BrumaVersions"' in simulate(tmp_path, {"a": (None, VERSIONS)})


def test_the_simulation_would_tell(tmp_path):
    wrong = SCENES["BrumaProxyAway"]
    assert "FAILED" in simulate(tmp_path, {"a": (None, wrong)})
    assert "FAILED" in simulate(tmp_path, {"a": ("BrumaProxyAway", {})})


def test_each_alert_has_a_scene(alerts):
    assert {*SCENES, "BrumaVersions"} == set(alerts)


def test_each_says_where_how_bad_and_what_to_do(alerts):
    for name, alert in alerts.items():
        assert name.startswith("Bruma") and alert["labels"]["severity"] in ("critical", "warning", "info"), (
            name
        )
        texts = alert["annotations"]
        assert set(texts) == {"summary", "description"} and all(texts.values()), name
        assert name == "BrumaVersions" or "$labels.node" in texts["summary"], name


def test_reasons_in_them_exist(alerts):
    with open(f"{ROOT}/include/bruma/reasons.h") as f:
        known = set(re.findall(r'BRUMA_REASON\(\w+, "(\w+)"', f.read()))
    named = {
        reason
        for alert in alerts.values()
        for names in re.findall(r'reason=~?"([^"]+)"', alert["expr"])
        for reason in names.split("|")
    }
    assert named and named <= known


def test_promtool_takes_them():
    r = subprocess.run(["promtool", "check", "rules", *RULES], capture_output=True, text=True, timeout=60)
    assert r.returncode == 0, r.stdout + r.stderr
