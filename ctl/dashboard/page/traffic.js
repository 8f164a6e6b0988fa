// SPDX-License-Identifier: Apache-2.0
// Who talks with whom: from two readings of what the proxies have counted, and from the reasons of flows.

const NAMES = {
  istio_tcp_connections_opened_total: "opened", istio_tcp_connections_closed_total: "closed", istio_tcp_connections_failed_total: "failed",
  istio_tcp_sent_bytes_total: "bytes", istio_tcp_received_bytes_total: "bytes",
};
const SERIES = /^(\w+)(?:\{(.*)\})? (\S+)/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;
const REASONS_MAX = 1000;

/** {name, labels, value} of a line of a metrics page; null: it is none. */
export function parseLine(line) {
  const found = SERIES.exec(line);
  if (!found) return null;
  const labels = Object.create(null);
  for (const [, name, value] of (found[2] || "").matchAll(LABEL)) {
    labels[name] = value.replace(/\\(.)/g, (_, c) => (c === "n" ? "\n" : c));
  }
  return { name: found[1], labels, value: Number(found[3]) };
}

const known = (text) => (text && text !== "unknown" ? text : "");

/** What a label set says of one end: {id, name, kind}. Pods of a mesh file need not belong to a named workload. */
function endOf(labels, side) {
  const workload = known(labels[`${side}_workload`]), namespace = known(labels[`${side}_workload_namespace`]);
  const account = /^spiffe:\/\/[^/]*\/ns\/([^/]+)\/sa\/(.+)$/.exec(known(labels[`${side}_principal`]));
  if (workload) return { id: `w/${namespace}/${workload}`, name: `${namespace}/${workload}`, kind: "workload" };
  if (account) return { id: `i/${account[1]}/${account[2]}`, name: `${account[1]}/${account[2]}`, kind: "identity" };
  if (namespace) return { id: `n/${namespace}`, name: `somebody in ${namespace}`, kind: "identity" };
  return { id: "outside", name: "outside the mesh", kind: "outside" };
}

function serviceOf(labels) {
  const name = known(labels.destination_service_name), namespace = known(labels.destination_service_namespace);
  return name ? { id: `s/${namespace}/${name}`, name: namespace ? `${name}.${namespace}` : name, kind: "service" } : null;
}

/** How a connection went: by its flags of the metrics. */
function kindOf(labels) {
  if (labels.response_flags && labels.response_flags !== "-") return labels.response_flags === "DENY" ? "refused" : "failed";
  return labels.connection_security_policy === "mutual_tls" ? "encrypted" : "plaintext";
}

const KINDS = ["encrypted", "plaintext", "refused", "failed"];

class Edges {
  constructor() {
    this.all = new Map();
    this.ends = new Map();
  }

  add({ from, to, kind, what, n, principals }) {
    const id = `${from.id} ${to.id} ${kind}`;
    this.ends.set(from.id, from).set(to.id, to);
    if (!this.all.has(id)) this.all.set(id, { id, from: from.id, to: to.id, kind, connections: 0, bytes: 0, principals: new Set() });
    const edge = this.all.get(id);
    edge[what] += n;
    principals.forEach((pair) => edge.principals.add(pair));
  }
}

/** Sums of one reporter between the same three: what was opened, and what has ended badly of that. */
function addSeries(told, { name, labels, value }) {
  const what = NAMES[name], kind = kindOf(labels), isBad = kind === "refused" || kind === "failed";
  if (!what || !(value > 0) || (what === "closed" && !isBad)) return;
  const from = endOf(labels, "source"), to = endOf(labels, "destination"), service = serviceOf(labels);
  const id = `${from.id} ${service?.id} ${to.id}`;
  if (!told.has(id)) told.set(id, { from, to, service, by: Object.create(null), principals: new Set() });
  const principals = [known(labels.source_principal), known(labels.destination_principal)];
  if (principals.every(Boolean)) told.get(id).principals.add(principals.join(" "));
  const by = (told.get(id).by[labels.reporter] ||= { encrypted: 0, plaintext: 0, refused: 0, failed: 0, bytes: 0, way: "plaintext", opened: 0 });
  if (what === "bytes") by.bytes += value;
  else by[isBad ? kind : "opened"] += value;
  if (labels.connection_security_policy === "mutual_tls") by.way = "encrypted";
}

/** Both proxies of a connection tell of it, and only the destination's knows of policies: that one is taken, unless the
 * source's has told more. */
function connectionsOf(by) {
  const { source, destination } = by, one = destination && (!source || destination.opened >= source.opened) ? destination : source || destination;
  const refused = Math.max(...Object.values(by).map((each) => each.refused));
  const failed = Math.max(0, (one === destination ? one.failed : one.failed - refused));
  return { refused, failed, [one.way]: Math.max(0, one.opened - refused - failed), way: one.way, bytes: one.bytes };
}

/** lines of all nodes as {edges, ends}, both Maps by id. */
export function edgesOf(lines) {
  const told = new Map(), edges = new Edges();
  for (const line of lines) {
    const series = parseLine(line);
    if (series) addSeries(told, series);
  }
  for (const { from, to, service, by, principals } of told.values()) {
    const n = connectionsOf(by), parts = service ? [[from, service], [service, to]] : [[from, to]];
    for (const [a, b] of parts) {
      const add = (kind, what, amount) => amount > 0 && edges.add({ from: a, to: b, kind, what, n: amount, principals });
      KINDS.forEach((kind) => add(kind, "connections", n[kind]));
      add(n.way, "bytes", n.bytes);
    }
  }
  return { edges: edges.all, ends: edges.ends };
}

/** Readings one after another: each edge gets connectionsPerSecond and bytesPerSecond. */
export class Rates {
  constructor() {
    this.before = null;
  }

  add(edges, at) {
    const seconds = this.before && (at - this.before.at) / 1000;
    for (const edge of edges.values()) {
      const old = this.before?.edges.get(edge.id);
      for (const what of ["connections", "bytes"]) {
        // Less than before: another proxy counts now.
        const n = edge[what] - (old && old[what] <= edge[what] ? old[what] : old ? edge[what] : 0);
        edge[`${what}PerSecond`] = seconds > 0 ? n / seconds : 0;
      }
    }
    this.before = { at, edges };
  }
}

/** The latest reason of each pair, from flows: by their identities, since flows name pods, and metrics workloads;
 * else by their names. */
export class Reasons {
  constructor() {
    this.of = new Map();
  }

  add(line) {
    if (!line.error) return;
    const end = (side) => (line[`${side}.workload`] ? `w/${line[`${side}.namespace`]}/${line[`${side}.workload`]}` : "outside");
    const reason = String(line.error).split(":")[0], ids = [line["src.identity"], line["dst.identity"]];
    const pair = ids.every(Boolean) ? ids.join(" ") : `${end("src")} ${end("dst")}`;
    // The source only knows that the other proxy has refused.
    if (reason === "connect_rejected" && this.of.has(pair)) return;
    this.of.delete(pair);
    this.of.set(pair, reason);
    if (this.of.size > REASONS_MAX) this.of.delete(this.of.keys().next().value);
  }

  find(edge) {
    for (const pair of [...edge.principals, `${edge.from} ${edge.to}`]) if (this.of.has(pair)) return this.of.get(pair);
    return "";
  }
}
