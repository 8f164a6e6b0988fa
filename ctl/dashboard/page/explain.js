// SPDX-License-Identifier: Apache-2.0
// One connection, step by step along the way of its packets: `brumactl explain`.

import { el, plain, put } from "./dom.js";
import { ask, items, plainSaid, questions } from "./store.js";

/** Where on the way a check belongs, in the order of the way; what is in none is said of the other end. */
const STAGES = [
  ["The pod that connects", ["from", "source", "port"]],
  ["The kernel of its node: connect()", ["capture"]],
  ["The proxy of its node: where it goes", ["to", "destination", "way", "name", "answer", "query", "hostname", "gateway", "network"]],
  ["Who is expected there", ["expected at the other end", "behind the waypoint", "identity"]],
  ["Policies of the destination", ["policy of the destination", "verdict", "dry run", "health"]],
];

function stageOf(check) {
  const at = STAGES.findIndex(([, checks]) => checks.includes(check));
  return at < 0 ? STAGES.length : at;
}

function step(line) {
  return el("li", { class: line.ok ? "" : "wrong" },
    el("strong", {}, line.ok ? "✓ ok " : "✕ wrong "), el("b", {}, plain(`${line.check}: `)), plain(line.detail),
    !line.ok && line.reason && el("p", {}, "Reason: ", el("code", {}, plain(line.reason))),
    !line.ok && line.advice && el("p", {}, plain(`Check: ${line.advice}`)));
}

/** lines of explain as a list of steps; a pod alone has no way. */
export function steps(lines, isConnection) {
  if (!isConnection) return [el("ol", { class: "steps" }, lines.map(step))];
  const stages = [...STAGES.map(([title]) => title), "At the other end: the pod, its listeners, its proxy"];
  const wrong = lines.filter((line) => !line.ok).length;
  return [
    el("p", { class: "verdict" }, wrong ? `✕ ${wrong === 1 ? "One thing is" : `${wrong} things are`} wrong on the way.` : "✓ Nothing is wrong on the way."),
    el("ol", { class: "stages" }, stages.map((title, i) => {
      const found = lines.filter((line) => stageOf(line.check) === i);
      return found.length > 0 && el("li", {}, el("h3", {}, title), el("ul", { class: "steps" }, found.map(step)));
    })),
  ];
}

export function explainView(_, wanted) {
  const names = el("datalist", { id: "pod-names" }), answer = el("div", { "aria-live": "polite" });
  const from = el("input", { name: "from", required: true, list: "pod-names", placeholder: "shop/web-0", value: wanted?.from ?? "", autocomplete: "off" });
  const to = el("input", { name: "to", list: "pod-names", placeholder: "shop/cart-0:8080, 10.0.1.9:6379, cart.shop", value: wanted?.to ?? "", autocomplete: "off" });

  async function run(event) {
    event?.preventDefault();
    put(answer, el("p", {}, "Asking."));
    try {
      const reply = await ask(`explain?from=${encodeURIComponent(from.value.trim())}&to=${encodeURIComponent(to.value.trim())}`);
      const lines = Array.isArray(reply.answer) ? reply.answer : reply.answer ? [{ ok: true, check: reply.answer.name || "reason", detail: JSON.stringify(reply.answer) }] : [];
      put(answer, reply.said && el("p", { class: "problem" }, plain(plainSaid(reply.said))),
        lines.length > 0 && steps(lines, Boolean(to.value.trim())));
    } catch (error) {
      put(answer, el("p", { class: "problem" }, plain(error.message)));
    }
  }

  const stop = questions.pods.listen((nodes) => {
    const all = items(nodes).map((pod) => `${pod.namespace}/${pod.name}`);
    if (all.length !== names.children.length) put(names, all.slice(0, 2000).map((name) => el("option", { value: name })));
  });
  if (wanted?.from) run();
  return {
    element: el("div", {}, el("form", { class: "tools", onsubmit: run },
      el("label", {}, "From the pod", from), el("label", {}, "to a pod, an address or a name", to), el("button", {}, "Explain")),
    el("p", { class: "note" }, "Without a destination: the state of the pod. Nothing is sent to the pods."), names, answer),
    stop,
  };
}
