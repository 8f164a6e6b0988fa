# SPDX-License-Identifier: Apache-2.0
"""Writes Grafana's dashboards, packaging/grafana/*.json, from the lists of panels below:

    /usr/bin/python3 packaging/dashboards.py

They are files of the chart (packaging/grafana is a link to them), since helm reads only those. A query with several series has
a legend. Each is asked of a real Prometheus by tests/e2e/test_dashboards.py.
"""

import json
import os

from panels import (
    NODE,
    WIDTH,
    dashboard,
    gauge,
    graph,
    grown,
    of_label,
    or_zero,
    quantiles,
    rate,
    row,
    stat,
    table,
)

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "grafana")
EDGE = "source_workload_namespace, source_workload, destination_workload_namespace, destination_workload"
EDGE_NAME = (
    "{{source_workload_namespace}}/{{source_workload}} → "
    "{{destination_workload_namespace}}/{{destination_workload}}"
)
OPENED, CLOSED, FAILED = (f"istio_tcp_connections_{what}_total" for what in ("opened", "closed", "failed"))
SENT, RECEIVED = "istio_tcp_sent_bytes_total", "istio_tcp_received_bytes_total"
SOURCE, DESTINATION = 'reporter="source"', 'reporter="destination"'
PROVEN = 'source_principal!="unknown"'
OF_NAMESPACE = 'source_workload_namespace=~"$namespace"'
TO_NAMESPACE = 'destination_workload_namespace=~"$namespace"'
BOTH = (OF_NAMESPACE, TO_NAMESPACE)

MESH = [
    row("At a glance"),
    stat("Nodes", "Nodes whose agent is ready.", f"count(bruma_agent_ready{{{NODE}}} == 1)"),
    stat(
        "Pods in the mesh",
        "As verified in their network namespaces.",
        f'sum(bruma_pods{{{NODE}, state="enrolled"}})',
    ),
    stat("New connections", "From pods of the mesh.", rate(OPENED, SOURCE, by=""), "cps"),
    stat(
        "Open connections",
        "Both ends of each that has both in the mesh.",
        f"sum(istio_tcp_sockets_open{{{NODE}}})",
    ),
    stat(
        "Failed",
        "Share of the connections that ended, at the side that opened them.",
        or_zero(f"{rate(FAILED, SOURCE, by='')} / ({rate(CLOSED, SOURCE, by='')} > 0)"),
        "percentunit",
        0.05,
    ),
    stat(
        "Encrypted",
        "Share of the new connections to pods of the mesh whose identities are proven by mutual TLS, or that stay on a node.",
        or_zero(f"{rate(OPENED, DESTINATION, PROVEN, by='')} / ({rate(OPENED, DESTINATION, by='')} > 0)"),
        "percentunit",
    ),
    row("Who talks with whom"),
    graph(
        "New connections, busiest pairs",
        "As their sources count them.",
        (f"topk(15, {rate(OPENED, SOURCE, *BOTH, by=EDGE)})", EDGE_NAME),
        unit="cps",
    ),
    graph(
        "Bytes, busiest pairs",
        "Both directions, as their sources count them.",
        (
            f"topk(15, {rate(SENT, SOURCE, *BOTH, by=EDGE)} + {rate(RECEIVED, SOURCE, *BOTH, by=EDGE)})",
            EDGE_NAME,
        ),
        unit="Bps",
    ),
    graph(
        "New connections by service",
        'Of a service; "unknown": to a pod or a place of its own address.',
        (rate(OPENED, SOURCE, OF_NAMESPACE, by="destination_service"), "{{destination_service}}"),
        unit="cps",
        stacked=True,
    ),
    table(
        "Pairs",
        "New connections within the time that is shown.",
        f"{grown(OPENED, SOURCE, *BOTH, by=EDGE)} > 0",
    ),
    row("What is not encrypted, and what is refused"),
    graph(
        "New connections to pods of the mesh, by security",
        "mutual_tls: by a tunnel; unknown: in plaintext, or between two pods of a node.",
        (
            rate(OPENED, DESTINATION, TO_NAMESPACE, by="connection_security_policy"),
            "{{connection_security_policy}}",
        ),
        unit="cps",
        stacked=True,
    ),
    graph(
        "Plaintext from outside the mesh, by destination",
        "Nobody vouches for these clients.",
        (
            rate(
                OPENED,
                DESTINATION,
                'source_principal="unknown"',
                TO_NAMESPACE,
                by="destination_workload_namespace, destination_workload",
            ),
            "{{destination_workload_namespace}}/{{destination_workload}}",
        ),
        unit="cps",
    ),
    graph(
        "To outside the mesh, by source",
        "Connections to where the mesh knows nobody, or to workloads without a mesh.",
        (
            rate(
                OPENED,
                SOURCE,
                'destination_principal="unknown"',
                OF_NAMESPACE,
                by="source_workload_namespace, source_workload",
            ),
            "{{source_workload_namespace}}/{{source_workload}}",
        ),
        unit="cps",
    ),
    graph(
        "Refused by policy",
        "At the destination's node, by the pair.",
        (
            rate(FAILED, DESTINATION, 'response_flags="DENY"', *BOTH, by=EDGE),
            EDGE_NAME,
        ),
        unit="cps",
    ),
    graph(
        "Failed, by response flag",
        "At the side that counts them; DENY: a policy, CONNECT: the destination, TLS_FAILURE and IDENTITY_ERROR: certificates.",
        (rate(FAILED, *BOTH, by="reporter, response_flags"), "{{reporter}}: {{response_flags}}"),
        unit="cps",
        stacked=True,
    ),
    graph(
        "Ways",
        "Of new connections of pods: to the proxy, past it, or within the node without a tunnel.",
        (rate("bruma_pod_outbound_captured_connections_total", by=""), "to the proxy"),
        (rate("bruma_pod_direct_outside_connections_total", by=""), "directly to outside"),
        (rate("bruma_pod_direct_node_connections_total", by=""), "directly within the node"),
        (rate("bruma_pod_direct_inbound_lookups_total", by=""), "directly from outside"),
        (or_zero(rate("bruma_same_node_relayed_connections_total", by="")), "within the node, by the proxy"),
        unit="cps",
    ),
]

LOST = "Counted only where something was lost: 0 is as it should be."
PROCESS = f"* on (instance, job) group_left () bruma_build{{{NODE}}}"
PROCESSORS = f"sum by (node) (rate(process_cpu_seconds_total{{{NODE}}}[$__rate_interval]) {PROCESS})"

NODES = [
    row("Health"),
    stat(
        "Agents not ready",
        "They cannot decide, do not capture, or are not installed.",
        f"count(bruma_agent_ready{{{NODE}}} == 0) or vector(0)",
        bad=1,
    ),
    stat(
        "Nodes without a proxy",
        "Connections of their pods wait.",
        f"count(bruma_proxy_serving{{{NODE}}} == 0) or vector(0)",
        bad=1,
    ),
    stat(
        "Control plane away",
        "Proxies without a stream; they go on with what they know.",
        f"count(bruma_xds_connected{{{NODE}}} == 0) or vector(0)",
        bad=1,
    ),
    stat(
        "Pods that failed",
        "Whose last step failed; brumactl explain says why.",
        or_zero(f"sum(bruma_pod_failed{{{NODE}}})"),
        bad=1,
    ),
    stat(
        "Without a certificate",
        "Identities whose requests fail, and that have no certificate that is good.",
        f'sum(bruma_certificates{{{NODE}, state="failing"}})',
        bad=1,
    ),
    stat(
        "First certificate ends",
        "Time to the end of the first certificate. It is renewed at half of its life.",
        f"min(bruma_certificate_expiry_timestamp_seconds{{{NODE}}}) - time()",
        "s",
    ),
    row("Agent"),
    graph(
        "Pods by state",
        "What was verified in their network namespaces.",
        (gauge("bruma_pods", by="state"), "{{state}}"),
        stacked=True,
    ),
    graph(
        "Rounds of verification",
        "Per second; 0: the agent verifies nothing any more.",
        (rate("bruma_verify_rounds_total", by="node"), "{{node}}"),
    ),
    graph(
        "Captured late, mended, guard",
        "Pods that ran uncaptured; parts of capture that were found broken; how often the guard gave up.",
        (grown("bruma_pods_captured_late_total", by="node"), "captured late, {{node}}"),
        (or_zero(grown("bruma_mends_total")), "mended"),
        (grown("bruma_guard_gave_up_total", by="node"), "guard gave up, {{node}}"),
        (gauge("bruma_guard_closed"), "guard is closed, {{node}}"),
    ),
    graph(
        "Calls of the CNI plugin",
        "Answers by code; 500: a pod was not started and is tried again.",
        (rate("istio_cni_plugin_requests_total", by="response_code"), "{{response_code}}"),
    ),
    row("Proxy"),
    graph(
        "Processors",
        "In use by the proxy, user and system.",
        (PROCESSORS, "{{node}}"),
    ),
    graph(
        "Memory",
        "Resident, and what is buffered for slow readers.",
        (f"process_resident_memory_bytes{{{NODE}}} {PROCESS}", "resident, {{node}}"),
        (gauge("bruma_buffered_bytes"), "buffered, {{node}}"),
    ),
    graph(
        "Buffers, share of the budget",
        "At 1 the connections that hold most are closed.",
        (f"bruma_buffered_bytes{{{NODE}}} / bruma_buffered_budget_bytes", "{{node}}"),
        (gauge("bruma_memory_pressure"), "pressure (0 to 3), {{node}}"),
    ),
    graph(
        "File descriptors, share of the limit",
        "Each connection has some.",
        (f"process_open_fds{{{NODE}}} / process_max_fds {PROCESS}", "{{node}}"),
    ),
    graph(
        "Open connections",
        "By side, and those that go past the proxy.",
        (gauge("istio_tcp_sockets_open", by="node, reporter"), "{{reporter}}, {{node}}"),
        (gauge("bruma_direct_connections"), "direct, {{node}}"),
    ),
    graph(
        "Cost of a connection",
        "Processor time of the proxy by its new connections; little of it with few but long connections.",
        (f"{PROCESSORS} / ({rate(OPENED, by='node')} > 0)", "{{node}}"),
        unit="s",
    ),
    row("Connections"),
    graph(
        "Life of a connection",
        "Half, and 99 of 100, ended earlier; by way: tunnel, plaintext, within the node, past the proxy.",
        *quantiles("bruma_connection_duration_seconds", "way"),
        unit="s",
    ),
    graph(
        "First byte back",
        "From the opening of a connection, at the side that opened it; what the mesh adds, and how fast applications answer.",
        *quantiles("bruma_connection_first_byte_seconds", "way", SOURCE),
        unit="s",
    ),
    graph(
        "Bytes of a connection",
        "Both directions together.",
        *quantiles("bruma_connection_bytes", "way"),
        unit="bytes",
    ),
    graph(
        "Waiting",
        "Of connections that had to: for their pod's identity, for policies, for a tunnel that was being opened.",
        *quantiles("bruma_connection_wait_seconds", "for"),
        unit="s",
    ),
    graph(
        "TLS handshakes",
        "Of tunnels, from the first message to the last.",
        *quantiles("bruma_tls_handshake_seconds", "reporter"),
        unit="s",
    ),
    graph(
        "TLS handshakes, full and resumed",
        "A second. A handshake that is resumed costs a fraction of a full one.",
        (rate("bruma_tls_handshakes_total", by="reporter, handshake"), "{{reporter}}: {{handshake}}"),
        stacked=True,
    ),
    graph(
        "Round trips, and what was sent again",
        "Of TCP sockets at their end: to who opened the connection, to where it goes, of tunnels.",
        *quantiles("bruma_tcp_round_trip_seconds", "leg"),
        (rate("bruma_tcp_retransmitted_segments_total", by="leg"), "{{leg}}: segments sent again"),
        unit="s",
    ),
    row("Control plane and certificates"),
    graph(
        "Messages of the control plane",
        "Responses, by type.",
        (rate("istio_xds_message_total", by="url"), "{{url}}"),
    ),
    graph(
        "Ends of its stream",
        "Some are normal: istiod ends each after half an hour.",
        (or_zero(grown("istio_xds_connection_terminations_total")), "ends"),
        (or_zero(grown("bruma_xds_stalls_total")), "without progress"),
    ),
    graph(
        "Certificates",
        "Identities that the proxy speaks for, by state.",
        (gauge("bruma_certificates", by="state"), "{{state}}"),
        (gauge("bruma_certificates_not_renewed", by="node"), "not renewed, {{node}}"),
        stacked=False,
    ),
    graph(
        "DNS",
        "Queries of pods, those that were forwarded, and those without an answer.",
        (or_zero(rate("istio_dns_requests_total", by="")), "queries"),
        (or_zero(rate("istio_dns_upstream_requests_total", by="")), "forwarded"),
        (or_zero(rate("istio_dns_upstream_failures_total", by="")), "not answered"),
    ),
    row("Hand-over and losses"),
    graph(
        "Handed over",
        "Live connections that moved to the proxy that took over, and those that did not.",
        (
            grown("bruma_handed_over_connections_total", by="direction, result"),
            "{{direction}}, {{result}}",
        ),
    ),
    graph(
        "Pause of a hand-over",
        "Of 99 of 100 connections: for how long nobody served them.",
        (
            "histogram_quantile(0.99, "
            + gauge("bruma_handed_over_pause_seconds_bucket", by="le", sums="sum")
            + ")",
            "99 of 100",
        ),
        unit="s",
    ),
    graph(
        "Log lines and events that were lost",
        LOST,
        (or_zero(grown("bruma_access_log_dropped_lines_total")), "access log"),
        (or_zero(grown("bruma_log_dropped_lines_total")), "log of proxies"),
        (grown("bruma_agent_log_dropped_lines_total"), "log of agents"),
        (or_zero(grown("bruma_direct_lost_events_total")), "events of direct connections"),
        (or_zero(grown("bruma_direct_ends_lost_total")), "ends of direct connections"),
    ),
    graph(
        "Caps",
        LOST,
        (or_zero(grown("bruma_connections_turned_away_total")), "connections to pages"),
        (or_zero(grown("bruma_telemetry_overflow_connections_total")), "label sets"),
        (or_zero(grown("bruma_relay_pipes_missed_total")), "pipes"),
        (or_zero(grown("bruma_client_addresses_hidden_total")), "ports under clients' addresses"),
        (or_zero(grown("bruma_direct_verdicts_full_total")), "verdicts of the node"),
    ),
]

REASONS = [
    row("Connections"),
    graph(
        "Failed or ended, by reason",
        "docs/reasons.md says of each what happened and what to look at.",
        (rate("bruma_failures_total", by="reason"), "{{reason}}"),
        unit="cps",
        stacked=True,
    ),
    table(
        "Reasons",
        "Within the time that is shown.",
        f"{grown('bruma_failures_total', by='node, reason')} > 0",
    ),
    graph(
        "Refused or reset in the kernel, by reason",
        "Before a proxy saw them.",
        (or_zero(rate("bruma_steering_failures_total", by="reason")), "{{reason}}"),
        unit="cps",
    ),
    graph(
        "Tried on another endpoint, by reason",
        "What the endpoint before failed for.",
        (or_zero(rate("bruma_outbound_retries_total", by="reason")), "{{reason}}"),
        unit="cps",
    ),
    table(
        "Where",
        "Failed connections by destination and flag, within the time that is shown.",
        f"{grown(FAILED, by='reporter, destination_workload_namespace, destination_workload, response_flags')} > 0",
        width=WIDTH,
    ),
    row("Ways"),
    graph(
        "Not directly to outside, by reason",
        "Why connections of pods were captured.",
        (rate("bruma_pod_outbound_long_way_total", by="reason"), "{{reason}}"),
        unit="cps",
    ),
    graph(
        "Not directly from outside, by reason",
        "Why plaintext connections to pods went to the proxy.",
        (rate("bruma_pod_inbound_long_way_total", by="reason"), "{{reason}}"),
        unit="cps",
    ),
    graph(
        "By a tunnel although within the node, by reason",
        "Why they were not relayed.",
        (or_zero(rate("bruma_same_node_tunnelled_connections_total", by="reason")), "{{reason}}"),
        unit="cps",
    ),
    graph(
        "Policies that are tried out (dry run)",
        "What they would have made of connections.",
        (or_zero(rate("bruma_dry_run_connections_total", by="policy, outcome")), "{{policy}}: {{outcome}}"),
        unit="cps",
    ),
    row("Pods"),
    table(
        "Pods that failed",
        "The last step failed; brumactl explain NAMESPACE/POD says why.",
        or_zero(gauge("bruma_pod_failed", by="node, namespace, pod")),
    ),
    graph(
        "Mended, by reason",
        "Parts of pods' capture that were found broken and repaired.",
        (or_zero(rate("bruma_mends_total", by="reason")), "{{reason}}"),
    ),
]


def dashboards():
    """name -> text"""
    namespace = of_label("namespace", OPENED, "destination_workload_namespace")
    found = {
        "mesh": dashboard("mesh", "Bruma: mesh", MESH, namespace),
        "node": dashboard("node", "Bruma: nodes", NODES),
        "reasons": dashboard("reasons", "Bruma: reasons", REASONS),
    }
    return {name: json.dumps(d, indent=1, ensure_ascii=False) + "\n" for name, d in found.items()}


if __name__ == "__main__":
    for name, text in dashboards().items():
        with open(os.path.join(FOLDER, f"{name}.json"), "w") as f:
            f.write(text)
