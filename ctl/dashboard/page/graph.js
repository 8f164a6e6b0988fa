// SPDX-License-Identifier: Apache-2.0
// Workloads and services, and the connections between them; the same as a table.

import { bytes, el, plain, put, svg } from "./dom.js";
import { layout } from "./layout.js";
import { flows, questions } from "./store.js";
import { filtered, Table } from "./table.js";
import { edgesOf, Rates, Reasons } from "./traffic.js";

const NODES_MAX = 80; // those with the most connections; the table has all
const LABELS_MAX = 60; // edges; of more than that only the chosen node's have a text
const WIDE = 350, HIGH = 76, BOX = 164, BOX_HIGH = 34, PLACES = 12; // pixels, but PLACES: nodes of a column
const SIGN = { encrypted: "", plaintext: "", refused: "✕ ", failed: "! " };

const rates = new Rates(), reasons = new Reasons();
let waypoints = new Set(), reading = { edges: new Map(), ends: new Map() }, listeners = new Set();

/** Readings go on while another view is seen, so that rates are there at once. */
function follow() {
  questions.traffic.listen((nodes) => {
    const next = edgesOf(nodes.flatMap((one) => one.items || []));
    rates.add(next.edges, Date.now());
    reading = next;
    listeners.forEach((fn) => fn());
  });
  questions.waypoints.listen((nodes) => {
    waypoints = new Set(nodes.flatMap((one) => one.items || []));
  });
  flows.listen((lines) => lines.forEach((line) => reasons.add(line)));
}
follow();

function kindOf(end) {
  return (end.kind === "workload" || end.kind === "identity") && waypoints.has(end.name) ? "waypoint" : end.kind;
}

function edgeText(edge) {
  const rate = edge.connectionsPerSecond >= 0.05 ? `${edge.connectionsPerSecond.toFixed(1)}/s` : `${edge.connections}`;
  const reason = edge.kind === "refused" || edge.kind === "failed" ? reasons.find(edge) : "";
  return `${SIGN[edge.kind]}${edge.kind} ${rate}${reason ? ` ${reason}` : ""}`;
}

/** The busiest nodes, and the edges between them. */
function busiest() {
  const weight = new Map();
  for (const edge of reading.edges.values()) {
    for (const id of [edge.from, edge.to]) {
      weight.set(id, (weight.get(id) || 0) + 1 + edge.connections + 1000 * edge.connectionsPerSecond);
    }
  }
  const ids = [...weight.keys()].sort((a, b) => weight.get(b) - weight.get(a)).slice(0, NODES_MAX), shown = new Set(ids);
  return { ids, left: weight.size - ids.length, edges: [...reading.edges.values()].filter((e) => shown.has(e.from) && shown.has(e.to)) };
}

const SHAPES = {
  workload: (w, h) => svg("rect", { x: 0, y: 0, width: w, height: h }),
  identity: (w, h) => svg("path", { d: `M0 0H${w - 10}L${w} 10V${h}H10L0 ${h - 10}Z` }),
  service: (w, h) => svg("rect", { x: 0, y: 0, width: w, height: h, rx: h / 2 }),
  waypoint: (w, h) => svg("path", { d: `M0 ${h / 2}L14 0H${w - 14}L${w} ${h / 2}L${w - 14} ${h}H14Z` }),
  outside: (w, h) => svg("rect", { x: 0, y: 0, width: w, height: h, "stroke-dasharray": "3 3" }),
};

function drawNode(end, at, choose) {
  const kind = kindOf(end), name = plain(end.name), short = name.length > 22 ? `${name.slice(0, 10)}…${name.slice(-11)}` : name;
  return svg("g", {
    class: `node ${kind}`, tabindex: 0, role: "button", "data-id": end.id, "aria-label": `${kind} ${name}`,
    transform: `translate(${at.x} ${at.y})`, onclick: () => choose(end.id),
    onkeydown: (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      choose(end.id);
      event.preventDefault();
    },
  }, svg("title", {}, `${kind} ${name}`), SHAPES[kind](BOX, BOX_HIGH),
  svg("text", { x: BOX / 2, y: 15, class: "name" }, short), svg("text", { x: BOX / 2, y: 28, class: "kind" }, kind));
}

const TEXT_AT = [0.5, 0.3, 0.7, 0.4, 0.6]; // of the way, by turns: texts of edges that cross stand apart
const LETTER = 6, LINE = 13; // pixels of a text's letter and line

/** Up or down, until the text covers neither a node nor another text; taken: boxes, and gets this one. */
function freePlace({ x, y }, words, taken) {
  const width = LETTER * words.length + 6;
  for (let i = 0; i < 12; i++) {
    const box = { left: x - width / 2, right: x + width / 2, bottom: y + 3 + LINE * Math.ceil(i / 2) * (i % 2 ? 1 : -1) };
    box.top = box.bottom - LINE;
    if (i < 11 && taken.some((t) => box.left < t.right && t.left < box.right && box.top < t.bottom && t.top < box.bottom)) continue;
    taken.push(box);
    return { x, y: box.bottom - 3 };
  }
}

/** Edges of several kinds between the same two run beside each other: number counts them, turn all of a source;
 * taken: boxes that a text must not cover. */
function drawEdge({ edge, from, to, number, turn, taken }) {
  const back = to.x <= from.x, shift = 16 * number;
  const start = { x: from.x + (back ? BOX / 2 : BOX), y: from.y + (back ? BOX_HIGH : 10 + shift) };
  const end = { x: to.x + (back ? BOX / 2 + 12 : 0), y: to.y + (back ? BOX_HIGH : 10 + shift) };
  const bend = back ? 40 + shift : 0, middle = (start.x + end.x) / 2;
  const path = back
    ? `M${start.x} ${start.y}C${start.x} ${start.y + bend} ${end.x} ${end.y + bend} ${end.x} ${end.y}`
    : `M${start.x} ${start.y}C${middle} ${start.y} ${middle} ${end.y} ${end.x} ${end.y}`;
  const t = TEXT_AT[turn % TEXT_AT.length], eased = t * t * (3 - 2 * t); // of a curve that begins and ends level
  const text = back ? { x: middle, y: start.y + bend * 0.75 + (end.y - start.y) / 2 }
    : { x: start.x + (end.x - start.x) * (1.5 * t * (1 - t) + t ** 3), y: start.y + (end.y - start.y) * eased - 3 };
  return svg("g", { class: `edge ${edge.kind}`, "data-from": edge.from, "data-to": edge.to, "data-kind": edge.kind },
    svg("path", { d: path, "marker-end": `url(#end-${edge.kind})` }),
    svg("text", { ...freePlace(text, edgeText(edge), taken), "data-edge": edge.id }, edgeText(edge)));
}

function markers() {
  return svg("defs", {}, ["encrypted", "plaintext", "refused", "failed"].map((kind) =>
    svg("marker", { id: `end-${kind}`, viewBox: "0 0 10 10", refX: 9, refY: 5, markerWidth: 8, markerHeight: 8, orient: "auto", class: kind },
      svg("path", { d: kind === "refused" || kind === "failed" ? "M2 1L8 9M8 1L2 9" : "M1 1L9 5L1 9Z" }))));
}

function legend() {
  const line = (kind) => svg("svg", { width: 54, height: 14, "aria-hidden": "true", class: "sample" },
    svg("g", { class: `edge ${kind}` }, svg("path", { d: "M2 7H44", "marker-end": `url(#end-${kind})` })));
  const shape = (kind) => svg("svg", { width: 38, height: 18, "aria-hidden": "true", class: "sample" },
    svg("g", { class: `node ${kind}`, transform: "translate(2 2)" }, SHAPES[kind](34, 14)));
  return el("ul", { class: "legend", "aria-label": "What the signs mean" },
    [["encrypted", "encrypted: mutual TLS"], ["plaintext", "plaintext"], ["refused", "✕ refused by policy"], ["failed", "! failed"]]
      .map(([kind, words]) => el("li", {}, line(kind), words)),
    [["workload", "workload"], ["identity", "identity, of a workload without a name"], ["service", "service"], ["waypoint", "waypoint"], ["outside", "outside the mesh"]]
      .map(([kind, words]) => el("li", {}, shape(kind), words)));
}

export function graphView() {
  const drawing = svg("svg", { role: "group", "aria-label": "Who talks with whom" });
  const scroll = el("div", { class: "drawing", tabindex: 0, role: "region", "aria-label": "Graph; the table below says the same" }, drawing);
  const note = el("p", { class: "note", role: "status" });
  let signature = "", chosen = "";
  const table = new Table({
    label: "Connections between workloads", empty: "No connection has been counted yet.", key: (edge) => edge.id,
    kind: (edge) => (edge.kind === "refused" || edge.kind === "failed" ? "wrong" : ""),
    columns: [
      { title: "From", text: (edge) => reading.ends.get(edge.from)?.name },
      { title: "To", text: (edge) => reading.ends.get(edge.to)?.name },
      { title: "How", text: (edge) => `${SIGN[edge.kind]}${edge.kind}` },
      { title: "Connections", text: (edge) => edge.connections, sort: (edge) => edge.connections },
      { title: "A second", text: (edge) => edge.connectionsPerSecond.toFixed(1), sort: (edge) => edge.connectionsPerSecond, wide: true },
      { title: "Bytes a second", text: (edge) => bytes(edge.bytesPerSecond), sort: (edge) => edge.bytesPerSecond, wide: true },
      { title: "Last reason", text: (edge) => (edge.kind === "refused" || edge.kind === "failed" ? reasons.find(edge) : "") },
    ],
    open: (edge) => choose(edge.from),
  });

  function choose(id) {
    chosen = chosen === id ? "" : id;
    mark();
  }

  function mark() {
    const few = drawing.querySelectorAll(".edge").length <= LABELS_MAX;
    for (const edge of drawing.querySelectorAll(".edge")) {
      const near = edge.dataset.from === chosen || edge.dataset.to === chosen;
      edge.classList.toggle("far", Boolean(chosen) && !near);
      edge.classList.toggle("silent", chosen ? !near : !few);
    }
    for (const node of drawing.querySelectorAll(".node")) node.classList.toggle("chosen", node.dataset.id === chosen);
  }

  function draw({ ids, edges }) {
    const places = layout(ids, edges, PLACES), beside = new Map(), turns = new Map(), focus = document.activeElement?.dataset?.id;
    const at = (id) => ({ x: 8 + places.get(id).layer * WIDE, y: 8 + places.get(id).place * HIGH });
    const all = [...places.values()], columns = 1 + Math.max(0, ...all.map((p) => p.layer)), lines = 1 + Math.max(0, ...all.map((p) => p.place));
    const width = (columns - 1) * WIDE + BOX + 16, height = lines * HIGH + 50;
    const taken = ids.map((id) => ({ left: at(id).x, right: at(id).x + BOX, top: at(id).y, bottom: at(id).y + BOX_HIGH }));
    put(drawing, markers(), edges.map((edge) => {
      const pair = `${edge.from} ${edge.to}`, number = beside.get(pair) || 0;
      beside.set(pair, number + 1);
      turns.set(edge.from, (turns.get(edge.from) ?? -1) + 1);
      return drawEdge({ edge, from: at(edge.from), to: at(edge.to), number, turn: turns.get(edge.from), taken });
    }), ids.map((id) => drawNode(reading.ends.get(id), at(id), choose)));
    for (const [name, value] of Object.entries({ width, height, viewBox: `0 0 ${width} ${height}` })) drawing.setAttribute(name, value);
    mark();
    if (focus) drawing.querySelector(`[data-id="${CSS.escape(focus)}"]`)?.focus();
  }

  function update() {
    const now = busiest(), next = JSON.stringify([now.ids.map((id) => [id, kindOf(reading.ends.get(id))]).sort(), now.edges.map((edge) => edge.id).sort()]);
    if (next !== signature) draw(now);
    else for (const text of drawing.querySelectorAll("[data-edge]")) {
      const edge = reading.edges.get(text.dataset.edge), words = edge && edgeText(edge);
      if (words && text.textContent !== words) text.textContent = words;
    }
    signature = next;
    note.textContent = !now.ids.length ? "No connection has been counted yet."
      : now.left ? `The ${now.ids.length} busiest are drawn; ${now.left} more are in the table.` : "";
    table.set([...reading.edges.values()]);
  }

  listeners.add(update);
  update();
  return {
    element: el("div", {}, legend(), note, scroll, el("h2", {}, "As a table"), filtered(table, "Filter connections")),
    stop: () => listeners.delete(update),
  };
}
