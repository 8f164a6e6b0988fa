// SPDX-License-Identifier: Apache-2.0
// All pods: in the mesh or not, and why.

import { ago, el, plain, put } from "./dom.js";
import { items, questions } from "./store.js";
import { filtered, Table } from "./table.js";

/** What a node says is text until it is known to be a list. */
function listOf(value) {
  return Array.isArray(value) ? value.join(", ") : "";
}

function unmendedOf(pod) {
  return listOf(pod.unmended);
}

/** As `brumactl pods` says it. */
function stateOf(pod) {
  if (pod.isOld) return `not known now, was ${pod.state}`;
  if (pod.state !== "outside" && pod.endingAt > 0) return "ending";
  return pod.state === "enrolled" && pod.forwards ? "enrolled, not announced" : pod.state;
}

function reasonOf(pod) {
  if (unmendedOf(pod)) return `not whole: ${unmendedOf(pod)}`;
  if (pod.lastReason && pod.lastReason !== "none" && pod.state !== "enrolled") return `${pod.lastReason}: ${pod.lastError}`;
  return pod.why || "";
}

function isWrong(pod) {
  return Boolean(unmendedOf(pod)) || (pod.wanted && pod.state === "outside") || (pod.state === "enrolled" && pod.proxy !== "serving");
}

function direct(pod) {
  const inbound = ["pass", "refuse", "bypass"].includes(pod.direct?.inbound), outside = pod.direct?.outside === "direct";
  return [outside && "outside", inbound && "inbound"].filter(Boolean).join(", ") || "-";
}

function details(pod) {
  const shown = {
    State: stateOf(pod), Why: pod.why, "Not whole": unmendedOf(pod), "Last reason": pod.lastReason !== "none" && `${pod.lastReason}: ${pod.lastError}`,
    Proxy: pod.proxy, Identity: pod.identity, Addresses: listOf(pod.ips), "Past the proxy": direct(pod),
    "In the mesh since": pod.enrolledAt && ago(pod.enrolledAt), "Before its first process": pod.state === "outside" ? "" : pod.capturedSinceStart ? "yes" : "no",
    Verified: pod.state !== "outside" && ago(pod.verifiedAt), Repaired: Object.entries(pod.mends || {}).map(([what, n]) => `${what} ${n.count ?? n}`).join(", "),
    Node: pod.onNode, "Network namespace": pod.netns,
  };
  return el("dl", {}, Object.entries(shown).filter(([, value]) => value).map(([name, value]) => [el("dt", {}, name), el("dd", {}, plain(value))]));
}

export function podsView({ explain }) {
  const panel = el("section", { class: "panel", "aria-label": "One pod", hidden: true });
  const table = new Table({
    label: "Pods", empty: "No pod is known.",
    key: (pod) => `${pod.onNode}/${pod.namespace}/${pod.name}/${pod.uid}`,
    kind: (pod) => (isWrong(pod) ? "wrong" : ""),
    columns: [
      { title: "Pod", share: 2, text: (pod) => `${pod.namespace}/${pod.name}` },
      { title: "State", text: (pod) => `${isWrong(pod) ? "⚠ " : ""}${stateOf(pod)}` },
      { title: "Reason", share: 2, text: reasonOf },
      { title: "Node", text: (pod) => pod.onNode || "this one" },
      { title: "Proxy", text: (pod) => pod.proxy || "-", wide: true },
      { title: "Addresses", text: (pod) => listOf(pod.ips) || "-", wide: true },
    ],
    open: (pod) => {
      panel.hidden = false;
      put(panel,
        el("h2", { tabindex: -1 }, plain(`${pod.namespace}/${pod.name}`)), details(pod),
        el("button", { type: "button", onclick: () => explain(`${pod.namespace}/${pod.name}`, "") }, "Explain its state"),
        el("button", { type: "button", onclick: () => { panel.hidden = true; table.table.focus(); } }, "Close"));
      panel.firstChild.focus();
    },
  });
  const stop = questions.pods.listen((nodes) => table.set(items(nodes)));
  return { element: el("div", {}, filtered(table, "Filter pods"), panel), stop, table };
}
