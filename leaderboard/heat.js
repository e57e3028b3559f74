"use strict";
/* Schemes by attacks: a colour and a character per cell, its numbers on hover and focus, its records on a click. */

/** Of few attacks the cells have room for words. */
const ROOMY = 8;
/** In rem, so that a board of 74 attacks fits a desktop. */
const cellWidth = (columns) => Math.max(1.05, Math.min(2.4, 78 / columns));

/** What a cell says of its trials, one or several seeds. */
function cellOf(scheme, column, trials) {
  const control = scheme === data.control && trials.every((r) => r.status === "ok");
  const worst = control ? "control" : WORST_FIRST.find((name) => trials.some((r) => r.outcome === name));
  const losses = trials.map(cheapest).filter((loss) => loss !== null);
  return {
    scheme,
    column,
    trials,
    worst,
    count: trials.filter((r) => r.outcome === worst).length,
    weakest: column.claims ? d3.min(trials, (r) => r.weakest ?? undefined) : d3.max(trials, (r) => r.weakest ?? undefined),
    loss: losses.length ? d3.min(losses) : null,
  };
}

function cellNumber({ worst, weakest, loss }) {
  if (worst !== "control" && weakest !== undefined) return fixed(weakest, weakest > -1 ? 2 : 1);
  return loss === null ? "\u00a0" : lost(loss);
}

function cellWord({ worst, count, trials }) {
  if (worst === "control") return "control";
  return OUTCOMES[worst] + (trials.length > 1 ? ` ${count}/${trials.length}` : "");
}

/** Seeds that differ share the cell: a stripe for each outcome, the worst at the bottom. */
function stripes(trials) {
  const seen = WORST_FIRST.filter((name) => trials.some((r) => r.outcome === name));
  if (seen.length < 2) return null;
  let done = 0;
  const stops = seen.map((name) => {
    const from = done;
    done += (100 * trials.filter((r) => r.outcome === name).length) / trials.length;
    return `var(--${name}) ${from}% ${done}%`;
  });
  return `background-image: linear-gradient(to top, ${stops.join(", ")})`;
}

function heatCell(cell, roomy) {
  const { scheme, column, worst, weakest, loss, trials } = cell;
  const numbers = [
    weakest !== undefined && worst !== "control" ? `weakest log10 p ${fixed(weakest, 2)}` : "",
    loss === null ? "" : `cheapest theft ${lost(loss)}`,
  ];
  const label = [`${schemeName(scheme)}, ${column.label}: ${cellWord(cell)}`, ...numbers].filter(Boolean).join("; ");
  const words = roomy ? [cellWord(cell), el("small", {}, cellNumber(cell))] : [GLYPHS[worst]];
  const style = worst === "control" ? null : stripes(trials);
  const node = el("td", { role: "gridcell", class: style ? `${worst} striped` : worst, "aria-label": label, tabindex: -1, style }, words);
  node.cell = cell;
  return node;
}

function heatRow(scheme, here, first, roomy) {
  const cells = here.columns.map((column) => {
    const cell = here.cell(scheme, column);
    const none = { role: "gridcell", class: "untried", "aria-label": "not tried", tabindex: -1 };
    const node = cell ? heatCell(cell, roomy) : el("td", none);
    if (first.has(column)) node.classList.add("first");
    return node;
  });
  return el("tr", {}, el("th", { scope: "row" }, schemeLink(scheme)), cells);
}

/** groups: [title or nothing, schemes] each. */
function heatGrid(here, groups) {
  const roomy = here.columns.length <= ROOMY;
  const needs = d3.groups(here.columns, (c) => c.access);
  const first = new Set(needs.map(([, [column]]) => column));
  const access = needs.map(([name, members]) => el("th", { colspan: members.length, scope: "colgroup" }, el("span", {}, name)));
  const heads = here.columns.map((c) => el("th", { scope: "col", class: first.has(c) ? "first" : null }, attackLink(c.label)));
  const wide = { colspan: here.columns.length + 1, scope: "rowgroup" };
  const bodies = groups.map(([title, schemes]) => {
    const head = title ? el("tr", { class: "family" }, el("th", wide, el("span", {}, title))) : null;
    return el("tbody", {}, head, ...schemes.map((name) => heatRow(name, here, first, roomy)));
  });
  const head = el("thead", {}, el("tr", { class: "access" }, el("td", {}), access), el("tr", {}, el("td", {}, "scheme"), heads));
  const look = { role: "grid", class: roomy ? "heat roomy" : "heat", "aria-label": "Outcome by scheme and attack", style: `--cell: ${cellWidth(here.columns.length)}rem` };
  const grid = el("table", look, head, bodies);
  grid.querySelector("[role=gridcell]")?.setAttribute("tabindex", "0");
  listen(grid, { tip: cellTip, open: openCell });
  return grid;
}

function drawHeat(here) {
  const family = (name) => here.declared.get(name)?.family ?? "control";
  const groups = state.order === "family" ? d3.groups(here.schemes, family) : [["", here.schemes]];
  document.querySelector("#outcomes").replaceChildren(heatGrid(here, groups));
  heatLegend(here);
}

function heatLegend(here) {
  const used = data.outcomes.filter((name) => here.trials.some((r) => r.outcome === name && r.choices.watermark !== data.control));
  const items = used.map((name) =>
    el("li", {}, el("span", { class: `tag ${name}` }, GLYPHS[name]), el("strong", {}, OUTCOMES[name]), ` ${MEANING[name]}`),
  );
  document.querySelector("#outcome-legend").replaceChildren(...items);
  const orders = { rank: "Ranking order", family: "By family" };
  const buttons = Object.entries(orders).map(([name, title]) =>
    el("button", { type: "button", "aria-pressed": String(state.order === name), click: () => go({ order: name }) }, title),
  );
  document.querySelector("#heat-order").replaceChildren(...buttons);
}

/** tip(cell): the lines of a cell's tip; open(node): what a click or Enter does. */
function listen(grid, { tip, open }) {
  const at = (event) => event.target.closest("[role=gridcell]");
  const tell = (node) => showTip(node, tip(node.cell));
  grid.addEventListener("mouseover", (event) => (at(event)?.cell ? tell(at(event)) : hideTip()));
  grid.addEventListener("mouseleave", hideTip);
  grid.addEventListener("focusin", (event) => at(event)?.cell && tell(at(event)));
  grid.addEventListener("focusout", hideTip);
  grid.addEventListener("click", (event) => open(at(event)));
  grid.addEventListener("keydown", (event) => at(event) && stepFrom(at(event), event, grid, open));
}

function openCell(node) {
  if (!node?.cell) return;
  hideTip();
  go({ cell: node.cell.trials.find((r) => r.outcome === node.cell.worst)?.id ?? node.cell.trials[0].id }, true);
}

/** Arrows move in the grid, of which one cell at a time is a stop of the Tab key. */
function stepFrom(node, event, grid, open) {
  if (event.key === "Escape") hideTip();
  if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    open(node);
  }
  const rows = [...grid.querySelectorAll("tbody tr:not(.family)")];
  const [r, c] = [rows.indexOf(node.parentNode), node.cellIndex];
  const last = node.parentNode.cells.length - 1;
  const moves = { ArrowLeft: [r, c - 1], ArrowRight: [r, c + 1], ArrowUp: [r - 1, c], ArrowDown: [r + 1, c], Home: [r, 1], End: [r, last] };
  const [row, place] = moves[event.key] ?? [];
  const next = place >= 1 ? rows[row]?.cells[place] : null;
  if (!next) return;
  event.preventDefault();
  grid.querySelector("[role=gridcell][tabindex='0']")?.setAttribute("tabindex", "-1");
  next.setAttribute("tabindex", "0");
  next.focus();
}

function cellTip({ scheme, column, trials, weakest, loss, worst, count }) {
  const seeds = trials.length > 1 ? trials.slice(0, 12).map((r) => el("li", {}, `seed ${r.seed}: ${shortOutcome(r)}${r.weakest === null ? "" : `, ${fixed(r.weakest, 2)}`}`)) : [];
  return [
    el("strong", {}, `${schemeName(scheme)} under ${column.label}`),
    el("p", {}, el("span", { class: `tag ${worst}` }, GLYPHS[worst]), ` ${cellWord({ worst, count, trials })}`),
    ...(weakest === undefined || worst === "control" ? [] : [el("p", {}, `${column.claims ? "strongest" : "weakest"} log10 p: ${fixed(weakest, 2)}`)]),
    ...(loss === null ? [] : [el("p", {}, `cheapest theft ${lost(loss)}`)]),
    ...(trials[0].reason ? [el("p", { class: "why" }, trials[0].reason.slice(0, 160))] : []),
    ...(seeds.length ? [el("ul", {}, seeds)] : []),
  ];
}

function showTip(node, told) {
  const tip = document.querySelector("#tip");
  tip.replaceChildren(...told);
  tip.hidden = false;
  const [box, own] = [node.getBoundingClientRect(), tip.getBoundingClientRect()];
  const left = Math.max(8, Math.min(box.left + box.width / 2 - own.width / 2, innerWidth - own.width - 8));
  const above = box.top - own.height - 8;
  tip.style.left = `${left}px`;
  tip.style.top = `${above < 8 ? box.bottom + 8 : above}px`;
}

function hideTip() {
  document.querySelector("#tip").hidden = true;
}
