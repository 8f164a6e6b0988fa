// SPDX-License-Identifier: Apache-2.0
// A table of any length: only the rows that are seen exist. By keyboard: arrows, Page Up and Down, Home, End, Enter.

import { el, plain } from "./dom.js";

const ROW = 34; // pixels; on narrow screens each cell is a line of its own
const LINE = 22;
const SPARE = 6; // rows above and below those that are seen

export class Table {
  /** columns: {title, text(row), sort(row)?, wide?: not on narrow screens, share?: of the width, 1}; key(row): a text of its own;
   * open(row): Enter or a click; kind(row): a class. */
  constructor({ label, columns, key, open, kind, empty, sortable = true }) {
    Object.assign(this, { columns, key, open, kind, empty });
    this.rows = this.shown = [];
    this.needle = "";
    this.active = 0;
    this.order = null;
    this.body = el("tbody", {});
    this.head = el("tr", { role: "row" });
    this.table = el("table", { role: "grid", "aria-label": label, tabindex: 0 }, el("thead", { role: "rowgroup" }, this.head), this.body);
    this.scroll = el("div", { class: "scroll" }, this.table);
    this.note = el("p", { class: "note" });
    this.element = el("div", { class: "grid" }, this.scroll, this.note);
    this.addHead(sortable);
    this.scroll.addEventListener("scroll", () => this.later());
    this.table.addEventListener("keydown", (event) => this.onKey(event));
    new ResizeObserver(() => this.later()).observe(this.scroll);
  }

  addHead(sortable) {
    const all = this.columns.reduce((sum, column) => sum + (column.share || 1), 0);
    this.columns.forEach((column, i) => {
      const cell = el("th", { role: "columnheader", scope: "col", class: column.wide && "wide" });
      cell.style.width = `${(100 * (column.share || 1)) / all}%`;
      if (sortable) cell.append(el("button", { type: "button", onclick: () => this.sortBy(i) }, column.title));
      else cell.append(column.title);
      this.head.append(cell);
    });
  }

  sortBy(i) {
    const down = this.order?.i === i && !this.order.down;
    this.order = { i, down };
    [...this.head.children].forEach((cell, j) =>
      j === i ? cell.setAttribute("aria-sort", down ? "descending" : "ascending") : cell.removeAttribute("aria-sort"));
    this.arrange();
  }

  set(rows) {
    this.rows = rows;
    this.arrange();
  }

  /** Only rows whose cells have all words of the text. */
  filter(text) {
    this.needle = text.toLowerCase();
    this.scroll.scrollTop = 0;
    this.arrange();
  }

  matches(row) {
    const all = this.columns.map((column) => column.text(row)).join(" ").toLowerCase();
    return this.needle.split(/\s+/).every((word) => all.includes(word));
  }

  arrange() {
    const kept = this.shown[this.active] && this.key(this.shown[this.active]);
    this.shown = this.needle ? this.rows.filter((row) => this.matches(row)) : [...this.rows];
    if (this.order) {
      const column = this.columns[this.order.i], value = column.sort || column.text, sign = this.order.down ? -1 : 1;
      const keyed = this.shown.map((row) => [value(row), row]);
      const compare = (a, b) => (typeof a === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true }));
      keyed.sort((a, b) => sign * compare(a[0], b[0]));
      this.shown = keyed.map((pair) => pair[1]);
    }
    const at = kept === undefined ? -1 : this.shown.findIndex((row) => this.key(row) === kept);
    this.active = at >= 0 ? at : Math.min(this.active, Math.max(0, this.shown.length - 1));
    this.table.setAttribute("aria-rowcount", this.shown.length + 1);
    this.note.textContent = this.shown.length
      ? `${this.shown.length}${this.shown.length < this.rows.length ? ` of ${this.rows.length}` : ""} rows`
      : this.needle && this.rows.length ? "Nothing matches." : this.empty;
    this.later();
  }

  later() {
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      this.draw();
    });
  }

  isNarrow() {
    return matchMedia("(max-width: 640px)").matches;
  }

  height() {
    return this.isNarrow() ? LINE * this.columns.filter((column) => !column.wide).length + 13 : ROW;
  }

  draw() {
    const height = this.height(), first = Math.max(0, Math.floor(this.scroll.scrollTop / height) - SPARE);
    const count = Math.ceil(this.scroll.clientHeight / height) + 2 * SPARE;
    const rows = this.shown.slice(first, first + count).map((row, i) => this.row(row, first + i, height));
    const after = this.shown.length - first - rows.length;
    const gap = (n) => el("tr", { "aria-hidden": "true", class: "gap", role: "presentation" }, el("td", { colspan: this.columns.length }));
    const above = gap(), below = gap();
    above.firstChild.style.height = `${first * height}px`;
    below.firstChild.style.height = `${after * height}px`;
    this.body.replaceChildren(above, ...rows, below);
    const chosen = this.body.querySelector("[aria-selected=true]");
    if (chosen) this.table.setAttribute("aria-activedescendant", chosen.id);
    else this.table.removeAttribute("aria-activedescendant");
  }

  row(row, number, height) {
    const line = el("tr", {
      role: "row", id: `${this.id ||= `t${++Table.count}`}-${number}`, "aria-rowindex": number + 2,
      "aria-selected": number === this.active, class: this.kind?.(row),
      onclick: () => { this.active = number; this.later(); this.open?.(row); },
    }, this.columns.map((column) => el("td", { role: "gridcell", "data-title": column.title, class: column.wide && "wide" },
      plain(column.text(row)))));
    line.style.height = `${height}px`;
    return line;
  }

  onKey(event) {
    const page = Math.max(1, Math.floor(this.scroll.clientHeight / this.height()) - 1), last = this.shown.length - 1;
    const to = { ArrowDown: this.active + 1, ArrowUp: this.active - 1, PageDown: this.active + page,
      PageUp: this.active - page, Home: 0, End: last }[event.key];
    if (event.key === "Enter" && event.target === this.table && this.shown[this.active]) this.open?.(this.shown[this.active]);
    else if (to === undefined || event.target !== this.table) return;
    else this.moveTo(Math.max(0, Math.min(last, to)));
    event.preventDefault();
  }

  moveTo(number) {
    const height = this.height(), top = number * height, room = this.scroll.clientHeight - this.head.offsetHeight;
    this.active = number;
    if (top < this.scroll.scrollTop) this.scroll.scrollTop = top;
    else if (top + height > this.scroll.scrollTop + room) this.scroll.scrollTop = top + height - room;
    this.later();
  }
}
Table.count = 0;

/** A table with a field that filters it. */
export function filtered(table, label) {
  const field = el("input", { type: "search", placeholder: label, "aria-label": label, oninput: () => table.filter(field.value.trim()) });
  return el("div", { class: "filtered" }, el("div", { class: "tools" }, field), table.element);
}
