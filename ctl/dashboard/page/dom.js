// SPDX-License-Identifier: Apache-2.0
// Elements. Text from the cluster becomes text nodes and attribute values, never markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name.startsWith("aria-")) element.setAttribute(name, String(value));
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, String(value));
  }
  element.append(...wanted(children));
  return element;
}

function wanted(children) {
  return children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
}

/** In place of what it had. */
export function put(element, ...children) {
  element.replaceChildren(...wanted(children));
}

/** An element with attributes ("onclick": a function) and children: elements, or texts. */
export function el(name, attributes, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** The same of SVG. */
export function svg(name, attributes, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

/** Names come from outside: no control or direction-changing characters. */
export function plain(text) {
  return String(text ?? "").replace(/[\u0000-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, "\ufffd");
}

export function ago(seconds) {
  if (!(seconds > 0)) return "never";
  const past = Math.max(0, Math.round(Date.now() / 1000 - seconds));
  if (past < 120) return `${past} s ago`;
  return past < 7200 ? `${Math.floor(past / 60)} min ago` : `${Math.floor(past / 3600)} h ago`;
}

export function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let i = 0;
  for (; n >= 1024 && i < units.length - 1; i++) n /= 1024;
  return `${i && n < 10 ? n.toFixed(1) : Math.round(n)} ${units[i]}`;
}
