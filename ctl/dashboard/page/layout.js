// SPDX-License-Identifier: Apache-2.0
// Where the graph's nodes stand: in layers, clients first. No part of the page.

/** Edges that lead back, in the order of a depth-first walk, do not count. */
function forward(ids, out) {
  const state = new Map(), kept = new Map(ids.map((id) => [id, []]));
  for (const root of ids) {
    const stack = state.has(root) ? [] : [[root, 0]];
    if (stack.length) state.set(root, 1);
    while (stack.length) {
      const top = stack[stack.length - 1], next = out.get(top[0])[top[1]++];
      if (next === undefined) {
        state.set(top[0], 2);
        stack.pop();
      } else if (state.get(next) !== 1) {
        kept.get(top[0]).push(next);
        if (!state.has(next)) {
          state.set(next, 1);
          stack.push([next, 0]);
        }
      }
    }
  }
  return kept;
}

function layersOf(ids, kept) {
  const waits = new Map(ids.map((id) => [id, 0])), layer = new Map(ids.map((id) => [id, 0]));
  for (const targets of kept.values()) for (const to of targets) waits.set(to, waits.get(to) + 1);
  const ready = ids.filter((id) => !waits.get(id));
  for (let i = 0; i < ready.length; i++) {
    for (const to of kept.get(ready[i])) {
      layer.set(to, Math.max(layer.get(to), layer.get(ready[i]) + 1));
      waits.set(to, waits.get(to) - 1);
      if (!waits.get(to)) ready.push(to);
    }
  }
  return layer;
}

/** Nodes near those that they are linked with: fewer edges cross. */
function order(layers, links) {
  for (let round = 0; round < 4; round++) {
    const at = new Map(layers.flatMap((layer) => layer.map((id, i) => [id, i / Math.max(1, layer.length - 1)])));
    const middle = (id) => {
      const all = links.get(id).map((other) => at.get(other));
      return all.length ? all.reduce((a, b) => a + b, 0) / all.length : at.get(id);
    };
    for (const layer of layers) layer.sort((a, b) => middle(a) - middle(b) || (a < b ? -1 : 1));
  }
}

/** ids: of nodes; edges: {from, to}. Map id -> {layer, place}: whole numbers from 0 on; a layer has at most
 * `most` places, what is over goes to one more. */
export function layout(ids, edges, most) {
  const sorted = [...ids].sort(), out = new Map(sorted.map((id) => [id, []])), links = new Map(sorted.map((id) => [id, []]));
  for (const { from, to } of edges) {
    if (from === to) continue;
    out.get(from).push(to);
    links.get(from).push(to);
    links.get(to).push(from);
  }
  const layer = layersOf(sorted, forward(sorted, out)), layers = [];
  for (const id of sorted) (layers[layer.get(id)] ||= []).push(id);
  order(layers, links);
  const places = new Map();
  let column = 0;
  for (const one of layers) {
    for (let at = 0; at < one.length; at += most) {
      one.slice(at, at + most).forEach((id, i) => places.set(id, { layer: column, place: i }));
      column++;
    }
  }
  return places;
}
