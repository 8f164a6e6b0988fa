// SPDX-License-Identifier: Apache-2.0
// Certificates, those that expire first at the top.

import { el } from "./dom.js";
import { items, questions } from "./store.js";
import { filtered, Table } from "./table.js";

/** Until the first of its chain ends. */
function until(certificate) {
  const ends = (certificate.certChain ?? []).map((one) => Date.parse(one.expirationTime)).filter((end) => !Number.isNaN(end));
  return ends.length ? (Math.min(...ends) - Date.now()) / 1000 : -Infinity;
}

function left(certificate) {
  const seconds = until(certificate);
  if (seconds === -Infinity) return "✕ there is none";
  if (seconds <= 0) return "✕ expired";
  const words = seconds < 7200 ? `${Math.floor(seconds / 60)} min` : seconds < 172800 ? `${Math.floor(seconds / 3600)} h` : `${Math.floor(seconds / 86400)} days`;
  return `${isSoon(certificate) ? "⚠ " : ""}in ${words}`;
}

/** Less than a tenth of its time is left: it should have been renewed. */
function isSoon(certificate) {
  const leaf = certificate.certChain?.[0], all = (Date.parse(leaf?.expirationTime) - Date.parse(leaf?.validFrom)) / 1000;
  return !(until(certificate) > all / 10);
}

export function certificatesView() {
  const table = new Table({
    label: "Certificates", empty: "No identity is needed: no pod of the mesh is there.",
    key: (one) => `${one.onNode} ${one.identity}`, kind: (one) => (isSoon(one) || one.error ? "wrong" : ""),
    columns: [
      { title: "Identity", share: 3, text: (one) => one.identity },
      { title: "Expires", text: left, sort: until },
      { title: "State", text: (one) => (one.error ? `${one.state}, but no newer one: ${one.error}` : one.state) },
      { title: "Node", text: (one) => one.onNode || "this one" },
      { title: "Valid to", text: (one) => one.certChain?.[0]?.expirationTime ?? "-", wide: true },
      { title: "Source", text: (one) => one.source, wide: true },
      { title: "Serial", text: (one) => one.certChain?.[0]?.serialNumber ?? "-", wide: true },
    ],
  });
  const stop = questions.identities.listen((nodes) => table.set(items(nodes)));
  table.sortBy(1);
  return { element: el("div", {}, filtered(table, "Filter certificates")), stop };
}
