// SPDX-License-Identifier: Apache-2.0
// The nodes, and what their proxies cost.

import { bytes, el } from "./dom.js";
import { questions } from "./store.js";
import { filtered, Table } from "./table.js";
import { parseLine } from "./traffic.js";

const USED = ["process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds", "process_start_time_seconds"];

/** What a proxy says of itself and of all its connections. */
function usageOf(lines) {
  const usage = { opened: 0, closed: 0, bytes: 0 };
  for (const series of lines.map(parseLine)) {
    if (!series) continue;
    if (USED.includes(series.name)) usage[series.name] = series.value;
    else if (series.name === "istio_tcp_connections_opened_total") usage.opened += series.value;
    else if (series.name === "istio_tcp_connections_closed_total") usage.closed += series.value;
    else if (/^istio_tcp_(sent|received)_bytes_total$/.test(series.name)) usage.bytes += series.value;
  }
  return usage;
}

/** Per second, of two readings of the same proxy. */
function rate(now, before, what) {
  if (!before || before.process_start_time_seconds !== now.process_start_time_seconds || now.at <= before.at) return null;
  return Math.max(0, now[what] - before[what]) / ((now.at - before.at) / 1000);
}

const number = (n, digits, unit = "") => (n === null || n === undefined || Number.isNaN(n) ? "-" : `${n.toFixed(digits)}${unit}`);

export function nodesView() {
  const usage = new Map(), before = new Map();
  let states = [];
  const cpu = (row) => rate(row.usage || {}, row.before, "process_cpu_seconds_total");
  const perGigabyte = (row) => {
    const used = cpu(row), flow = row.usage ? rate(row.usage, row.before, "bytes") : null;
    return used !== null && flow > 1e6 ? used / (flow / 1e9) : null;
  };
  const table = new Table({
    label: "Nodes", empty: "No node.", key: (row) => row.node, kind: (row) => (row.error || row.problems ? "wrong" : ""),
    columns: [
      { title: "Node", text: (row) => row.node },
      { title: "State", share: 2, text: (row) => row.state },
      { title: "Pods in the mesh", text: (row) => row.pods ?? "-" },
      { title: "Processors of the proxy", text: (row) => number(cpu(row), 3), sort: (row) => cpu(row) ?? -1 },
      { title: "Memory of the proxy", text: (row) => (row.usage?.process_resident_memory_bytes ? bytes(row.usage.process_resident_memory_bytes) : "-"), sort: (row) => row.usage?.process_resident_memory_bytes ?? -1 },
      { title: "Connections a second", text: (row) => number(row.usage ? rate(row.usage, row.before, "opened") : null, 1), wide: true },
      { title: "Bytes a second", text: (row) => (row.usage && row.before ? bytes(rate(row.usage, row.before, "bytes") ?? 0) : "-"), wide: true },
      { title: "CPU seconds per GB", text: (row) => number(perGigabyte(row), 2), wide: true },
      { title: "Versions", text: (row) => row.versions, wide: true },
    ],
  });

  function rowOf(one) {
    const status = one.error ? null : one.items, proxy = status?.proxies?.[0], node = one.node || status?.node || "this one";
    const problems = status?.problems?.length || 0;
    const state = one.error ? `✕ does not answer: ${one.error}` : !proxy ? "⚠ no proxy is connected"
      : `${problems ? `⚠ ${problems} problems, ` : ""}proxy ${proxy.state}`;
    return { node, state, problems, error: one.error, pods: status?.pods?.enrolled, usage: usage.get(one.node), before: before.get(one.node),
      versions: status ? `agent ${status.version}, proxy ${proxy?.version || proxy?.kind || "-"}` : "" };
  }

  const show = () => table.set(states.map(rowOf));
  const stops = [
    questions.status.listen((nodes) => {
      states = nodes;
      show();
    }),
    questions.traffic.listen((nodes) => {
      for (const one of nodes) {
        if (one.error || !Array.isArray(one.items)) continue;
        if (usage.has(one.node)) before.set(one.node, usage.get(one.node));
        usage.set(one.node, { ...usageOf(one.items), at: Date.now() });
      }
      show();
    }),
  ];
  return {
    element: el("div", {}, filtered(table, "Filter nodes"),
      el("p", { class: "note" }, "Of two readings of the proxy's metrics. Connections past the proxy cost it nothing.")),
    stop: () => stops.forEach((stop) => stop()),
  };
}
