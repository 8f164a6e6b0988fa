// SPDX-License-Identifier: Apache-2.0
// Views behind tabs, the state of the nodes above them.

import { certificatesView } from "./certificates.js";
import { el, plain, put } from "./dom.js";
import { explainView } from "./explain.js";
import { flowsView } from "./flows.js";
import { graphView } from "./graph.js";
import { nodesView } from "./nodes.js";
import { podsView } from "./pods.js";
import { onLost, questions } from "./store.js";

const views = [
  { id: "graph", title: "Graph", make: graphView },
  { id: "pods", title: "Pods", make: podsView },
  { id: "flows", title: "Flows", make: flowsView },
  { id: "explain", title: "Explain", make: explainView },
  { id: "certificates", title: "Certificates", make: certificatesView },
  { id: "nodes", title: "Nodes and cost", make: nodesView },
];
const main = document.getElementById("main"), tabs = document.getElementById("tabs");
let shown = null, statuses = [];
/** Of each question to proxies: the nodes whose proxy has not answered. */
const silentProxies = new Map();

/** What views may ask of the page. */
const page = {
  explain(from, to) {
    show("explain", { from, to });
  },
};

function show(id, wanted) {
  const view = views.find((one) => one.id === id) || views[0];
  shown?.stop?.();
  silentProxies.clear(); // nobody asks them until a view does
  shown = view.make(page, wanted);
  main.replaceChildren(shown.element);
  main.setAttribute("aria-label", view.title);
  for (const tab of tabs.children) {
    const chosen = tab.id === `tab-${view.id}`;
    tab.setAttribute("aria-selected", chosen);
    tab.tabIndex = chosen ? 0 : -1;
  }
  history.replaceState(null, "", `#${view.id}`);
}

function addTabs() {
  for (const view of views) {
    tabs.append(el("button", {
      type: "button", role: "tab", id: `tab-${view.id}`, "aria-controls": "main", onclick: () => show(view.id),
    }, view.title));
  }
  tabs.addEventListener("keydown", (event) => {
    const at = views.findIndex((view) => `tab-${view.id}` === document.activeElement.id);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: views.length - 1 }[event.key];
    if (to === undefined || at < 0) return;
    const id = views[(to + views.length) % views.length].id;
    show(id);
    document.getElementById(`tab-${id}`).focus();
    event.preventDefault();
  });
}

function problemsOf(one) {
  if (one.error) return [{ node: one.node, what: "does not answer", detail: one.error, silent: true }];
  return (Array.isArray(one.items?.problems) ? one.items.problems : []).map((problem) => ({ node: one.node || one.items.node, ...problem }));
}

/** Of nodes whose agent answers. */
function proxyProblems() {
  const away = new Set(statuses.filter((one) => one.error).map((one) => one.node));
  const found = new Map([...silentProxies.values()].flat().map((one) => [one.node, one]));
  return [...found.values()].filter((one) => !away.has(one.node))
    .map((one) => ({ node: one.node, what: "the proxy does not answer", detail: one.error }));
}

function showProblems() {
  const nodes = statuses, problems = [...nodes.flatMap(problemsOf), ...proxyProblems()], silent = problems.filter((problem) => problem.silent).length;
  document.getElementById("summary").textContent =
    `${nodes.length} ${nodes.length === 1 ? "node" : "nodes"}, ` +
    (silent ? `${silent} of them ${silent === 1 ? "does" : "do"} not answer, ` : "") +
    (problems.length - silent ? `${problems.length - silent} problems` : "no other problem");
  put(document.getElementById("trouble"), problems.slice(0, 20).map((problem) => el("p", { class: "problem" },
    el("strong", {}, plain(`⚠ ${problem.node ? `Node ${problem.node}` : "This node"}: ${problem.what}`)),
    plain(` ${problem.detail || ""}${problem.reason ? ` (${problem.reason})` : ""}`),
    problem.check && plain(` Check: ${problem.check}`))));
}

addTabs();
show(location.hash.slice(1));
questions.status.listen((nodes) => {
  statuses = nodes;
  showProblems();
});
for (const question of [questions.traffic, questions.identities]) {
  question.watch((nodes) => {
    silentProxies.set(question.path, nodes.filter((one) => one.error));
    showProblems();
  });
}
onLost((isLost) => {
  document.getElementById("offline").hidden = !isLost;
});
