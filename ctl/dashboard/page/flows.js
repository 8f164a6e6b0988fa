// SPDX-License-Identifier: Apache-2.0
// Connections as they are opened, closed and refused.

import { bytes, el } from "./dom.js";
import { flows, items, questions } from "./store.js";
import { Table } from "./table.js";

/** As `brumactl flows` says it. */
function eventOf(line) {
  if (line.message === "connection opened") return "opened";
  if (line.message === "connection failed") return "refused";
  return line.error ? "failed" : "closed";
}

function endOf(line, side) {
  const workload = line[`${side}.workload`], address = line[`${side}.hbone_addr`] || line[`${side}.addr`] || "";
  return `${workload ? `${line[`${side}.namespace`]}/${workload} ` : ""}${address}`;
}

const columns = [
  { title: "Time", text: (line) => String(line.time || "").slice(11, 23) },
  { title: "Event", text: (line) => `${line.error ? "✕ " : ""}${eventOf(line)}` },
  { title: "From", share: 2, text: (line) => endOf(line, "src") },
  { title: "To", share: 2, text: (line) => endOf(line, "dst") },
  { title: "Reason", share: 2, text: (line) => line.error || "" },
  { title: "Told by", text: (line) => `${line.node || "this node"}, ${line.direction || ""}`, wide: true },
  { title: "Sent, received", text: (line) => ("bytes_sent" in line ? `${bytes(line.bytes_sent)}, ${bytes(line.bytes_recv)}` : ""), wide: true },
  { title: "Time taken", text: (line) => line.duration || "", wide: true },
];

/** The pod that has the address of an end: explain wants its name. */
function podOf(line) {
  const address = String(line["src.addr"] || "").replace(/:\d+$/, "").replace(/^\[|\]$/g, "");
  const pod = items(questions.pods.nodes).find((one) => one.ips?.includes(address));
  return pod ? `${pod.namespace}/${pod.name}` : `${line["src.namespace"] || ""}/${line["src.workload"] || ""}`;
}

export function flowsView({ explain }) {
  const table = new Table({
    label: "Flows, the latest first", columns, key: (line) => line.number, sortable: false,
    kind: (line) => (line.error ? "wrong" : ""), empty: "Nothing has been opened or closed since this page is open.",
    open: (line) => explain(podOf(line), line["dst.hbone_addr"] || line["dst.addr"] || ""),
  });
  const field = el("input", { type: "search", placeholder: "Filter flows", "aria-label": "Filter flows", oninput: () => table.filter(field.value.trim()) });
  const bad = el("input", { type: "checkbox", onchange: show }), said = el("p", { class: "note", role: "status" });
  const pause = el("button", { type: "button", "aria-pressed": false, onclick: () => {
    held = held ? null : [...flows.lines];
    pause.setAttribute("aria-pressed", Boolean(held));
    pause.textContent = held ? "Go on" : "Pause";
    show();
  } }, "Pause");
  let held = null;

  function show() {
    const lines = held || flows.lines;
    table.set((bad.checked ? lines.filter((line) => line.error) : lines).toReversed());
    said.textContent = [flows.lost && `${flows.lost} lines were lost: there are more than can be shown.`, flows.said].filter(Boolean).join(" ");
  }

  const stops = [flows.listen(show), questions.pods.listen(() => {})];
  show();
  return {
    element: el("div", {}, el("div", { class: "tools" }, field, el("label", {}, bad, "only with a reason"), pause),
      said, table.element, el("p", { class: "note" }, "Enter or a click explains the connection.")),
    stop: () => stops.forEach((stop) => stop()),
  };
}
