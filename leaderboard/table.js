"use strict";
/* A table that is sorted by its heads and filtered below them; both by keyboard too, because heads are buttons. */

/** columns: {field, title, number, up: smallest first, show(row), value(row), hint, fixed: no filter}; memory: {field, down, filters} of the last drawing. */
function sortableTable(caption, columns, rows, memory) {
  memory.filters ??= {};
  const body = el("tbody", {});
  const redraw = () => fillBody(body, columns, rows, memory);
  const heads = columns.map((column) => sortHead(column, memory, redraw));
  const boxes = columns.map((column) => el("td", {}, column.fixed ? null : filterBox(column, memory, redraw)));
  redraw();
  const head = el("thead", {}, el("tr", {}, heads), el("tr", { class: "filter-row" }, boxes));
  return el("table", { class: "figures sortable" }, el("caption", {}, caption), head, body);
}

const valueOf = (column, row) => (column.value ? column.value(row) : row[column.field]) ?? null;

function sortHead(column, memory, redraw) {
  const head = el("th", { scope: "col", class: column.number ? "num" : null, "data-field": column.field, title: column.hint });
  const sort = () => {
    const largestFirst = Boolean(column.number) && !column.up;
    const again = memory.field === column.field;
    if (again && memory.down !== largestFirst) memory.field = null;
    else Object.assign(memory, { field: column.field, down: again ? !memory.down : largestFirst });
    for (const other of head.parentNode.children) showSort(other, memory);
    redraw();
  };
  head.append(el("button", { type: "button", click: sort }, column.title));
  showSort(head, memory);
  return head;
}

function showSort(head, memory) {
  const sorted = head.dataset.field === memory.field;
  head.setAttribute("aria-sort", sorted ? (memory.down ? "descending" : "ascending") : "none");
}

function filterBox(column, memory, redraw) {
  const label = `${column.title}: ${column.number ? "at least, or < and at most" : "contains"}`;
  const typed = (event) => {
    memory.filters[column.field] = event.target.value;
    redraw();
  };
  const look = { class: column.number ? "num" : null, placeholder: column.number ? "≥" : "filter", "aria-label": label };
  return el("input", { type: "search", size: 1, value: memory.filters[column.field] ?? "", input: typed, ...look });
}

/** Text contains it; a number is at least it, or after a < at most it. What cannot be read filters nothing. */
function passes(column, row, wanted) {
  if (!wanted?.trim()) return true;
  const value = valueOf(column, row);
  if (!column.number) return contains(String(value ?? ""), wanted);
  const bound = Number(wanted.replace(/[<>=≤≥\s]/g, "").replace(MINUS, "-"));
  if (Number.isNaN(bound)) return true;
  return value !== null && (/[<≤]/.test(wanted) ? value <= bound : value >= bound);
}

function fillBody(body, columns, rows, memory) {
  let shown = rows.filter((row) => columns.every((column) => passes(column, row, memory.filters[column.field])));
  const by = columns.find((column) => column.field === memory.field);
  if (by) {
    const key = (row) => valueOf(by, row);
    const order = memory.down ? d3.descending : d3.ascending;
    shown = d3.sort(shown, (a, b) => (key(a) === null) - (key(b) === null) || order(key(a), key(b)));
  }
  const cells = (row) =>
    columns.map((column, i) => {
      const kind = { class: column.number ? "num" : null };
      return el(i === 1 ? "th" : "td", i === 1 ? { scope: "row" } : kind, column.show ? column.show(row) : (row[column.field] ?? "–"));
    });
  const none = el("tr", {}, el("td", { colspan: columns.length, class: "empty" }, rows.length ? "No row passes the filters." : "Nothing here: none ran, or none passes the filters."));
  body.replaceChildren(...(shown.length ? shown.map((row) => el("tr", {}, cells(row))) : [none]));
}
