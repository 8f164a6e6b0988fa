// SPDX-License-Identifier: Apache-2.0
// What brumactl is asked, how often, and who is told of the answers.

const TIMEOUT = 60000; // milliseconds
const FLOWS_MAX = 2000; // lines that are kept
const FLOWS_PERIOD = 1000; // milliseconds

let lost = 0; // questions in a row without an answer of brumactl itself
const lostListeners = [];

/** Told true when brumactl itself does not answer any more, false when it does again. */
export function onLost(fn) {
  lostListeners.push(fn);
}

function setLost(failed) {
  const before = lost > 1;
  lost = failed ? lost + 1 : 0;
  if (before !== lost > 1) lostListeners.forEach((fn) => fn(lost > 1));
}

/** JSON of one of the addresses below api/; throws with words. */
export async function ask(path) {
  let response;
  try {
    response = await fetch(`api/${path}`, { signal: AbortSignal.timeout(TIMEOUT), cache: "no-store" });
  } catch (error) {
    setLost(true);
    throw new Error("brumactl does not answer", { cause: error });
  }
  setLost(false);
  if (!response.ok) throw new Error((await response.text()).trim() || `status ${response.status}`);
  return response.json();
}

/** {code, said, answer} as a list of nodes, each {node, items} or {node, error}. */
function byNode(reply, key) {
  const said = plainSaid(reply.said);
  if (reply.answer === null) return [{ node: "", error: said || "no answer" }];
  const isFleet = Array.isArray(reply.answer) && reply.answer.every((one) => one !== null && typeof one === "object" && "node" in one && (key in one || "error" in one));
  if (!isFleet || !reply.answer.length) return [{ node: "", items: reply.answer }];
  return reply.answer.map((one) => ("error" in one ? { node: one.node, error: one.error } : { node: one.node, items: one[key] }));
}

export function plainSaid(said) {
  return String(said || "").trim().replace(/^brumactl: /gm, "");
}

/** A question that is asked again and again while the page is seen, and somebody wants the answer. */
export class Question {
  constructor(path, key, period) {
    Object.assign(this, { path, key, period, nodes: [], at: 0, listeners: new Set(), watchers: [], timer: 0, asking: false });
    document.addEventListener("visibilitychange", () => this.plan(0));
  }

  /** fn(nodes) is told of the answers to what others want to know. */
  watch(fn) {
    this.watchers.push(fn);
  }

  tell() {
    for (const fn of [...this.listeners, ...this.watchers]) {
      try {
        fn(this.nodes);
      } catch (error) {
        console.error(error); // an answer that is no answer: what else listens is told all the same
      }
    }
  }

  /** fn(nodes) is told of each answer, at once of one that is there; returns how to stop that. */
  listen(fn) {
    this.listeners.add(fn);
    if (this.at) fn(this.nodes);
    this.plan(this.at ? this.period : 0);
    return () => this.listeners.delete(fn);
  }

  plan(delay) {
    clearTimeout(this.timer);
    if (this.listeners.size && !document.hidden) this.timer = setTimeout(() => this.round(), delay);
  }

  async round() {
    if (this.asking) return;
    const begin = performance.now();
    this.asking = true;
    let error = "";
    const reply = await ask(this.path).catch((thrown) => {
      error = thrown.cause ? "" : thrown.message; // without brumactl itself: said by onLost()
      return null;
    });
    this.asking = false;
    // What takes long is not asked often.
    this.plan(Math.max(this.period, 4 * (performance.now() - begin)));
    if (error) {
      this.nodes = (this.nodes.length ? this.nodes : [{ node: "" }]).map((one) => ({ ...one, error }));
      this.tell();
    }
    if (!reply) return; // the old answer stays
    const before = new Map(this.nodes.map((one) => [one.node, one.items]));
    // Of a node that does not answer, what it has said before.
    this.nodes = byNode(reply, this.key).map((one) => (one.error ? { ...one, items: before.get(one.node) } : one));
    this.at = Date.now();
    this.tell();
  }
}

export const questions = {
  status: new Question("status", "status", 3000),
  pods: new Question("pods", "pods", 3000),
  identities: new Question("identities", "identities", 20000),
  traffic: new Question("traffic", "traffic", 3000),
  waypoints: new Question("waypoints", "waypoints", 60000),
};

/** All items of all nodes, each with its node. */
export function items(nodes) {
  return nodes.flatMap((one) => (Array.isArray(one.items) ? one.items.map((item) => ({ ...item, onNode: one.node, isOld: Boolean(one.error) })) : []));
}

/** The lines of all proxies, as they come: the last of them, with numbers. */
class Flows {
  constructor() {
    Object.assign(this, { lines: [], next: 0, lost: 0, said: "", listeners: new Set(), timer: 0, asking: false });
    document.addEventListener("visibilitychange", () => this.plan(0));
  }

  /** fn(lines) is told of those that are new; returns how to stop that. */
  listen(fn) {
    this.listeners.add(fn);
    this.plan(0);
    return () => this.listeners.delete(fn);
  }

  plan(delay) {
    clearTimeout(this.timer);
    if (this.listeners.size && !document.hidden) this.timer = setTimeout(() => this.round(), delay);
  }

  async round() {
    if (this.asking) return;
    this.asking = true;
    const reply = await ask(`flows?after=${this.next}`).catch(() => null); // said by onLost()
    this.asking = false;
    this.plan(FLOWS_PERIOD);
    if (!reply) return;
    const first = reply.next - reply.lines.length + 1, fresh = reply.lines.map((line, i) => ({ ...line, number: first + i }));
    Object.assign(this, { next: reply.next, lost: this.lost + reply.lost, said: plainSaid(reply.said) });
    this.lines = [...this.lines, ...fresh].slice(-FLOWS_MAX);
    for (const fn of this.listeners) fn(fresh);
  }
}

export const flows = new Flows();
