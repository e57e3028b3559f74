"use strict";
/* Schemes against each other: what share of the cells both decided the row's scheme alone survived, and Holm's p of the pair. */

const SURE = Math.log10(0.05);
const pairsMemory = {};

/** The board's pairs, each seen from both sides: [row, column] -> what the row's scheme won. */
function duels({ names, ...columns }) {
  const found = new Map();
  names ??= [];
  (columns.first ?? []).forEach((place, i) => {
    const [first, second] = [names[place], names[columns.second[i]]];
    const at = (name) => columns[name][i];
    const shared = at("wins") + at("losses") + at("equal");
    const common = { shared, p: at("log10_p"), holm: at("holm_log10_p") };
    const side = (row, column, alone, other, ahead, behind) => ({ row, column, alone, other, ahead, behind, ...common });
    found.set(`${first}\n${second}`, side(first, second, at("wins"), at("losses"), at("ahead"), at("behind")));
    found.set(`${second}\n${first}`, side(second, first, at("losses"), at("wins"), at("behind"), at("ahead")));
  });
  return found;
}

const share = (count, shared) => `${fixed((100 * count) / shared, 0)} %`;
const sure = (duel) => duel.holm <= SURE;

function drawWins(here) {
  const found = duels(here.wins);
  const names = here.schemes.filter((name) => name !== data.control);
  const between = [...found.values()].filter((duel) => names.includes(duel.row) && names.includes(duel.column));
  document.querySelector("#wins-section").hidden = !between.length;
  if (!between.length) return;
  const orders = { rank: "Ranking order", share: "By mean share of wins" };
  const press = (name) => ({ type: "button", "aria-pressed": String(state.wins === name), click: () => go({ wins: name }) });
  document.querySelector("#wins-order").replaceChildren(...Object.entries(orders).map(([name, title]) => el("button", press(name), title)));
  document.querySelector("#wins").replaceChildren(winsGrid(ordered(names, between), found));
  document.querySelector("#wins-note").textContent = winsNote(here, found.size / 2);
  document.querySelector("#wins-table").replaceChildren(...folding("The same as a table", () => duelsTable(oneSide(between))));
}

function ordered(names, between) {
  if (state.wins !== "share") return names;
  const mean = new Map(d3.rollups(between, (duels_) => d3.mean(duels_, (duel) => duel.alone / duel.shared), (duel) => duel.row));
  return d3.sort(names, (name) => -(mean.get(name) ?? -1));
}

/** Each pair once, the surest difference first. */
const oneSide = (between) =>
  d3.sort(
    between.filter((duel) => duel.ahead > duel.behind || (duel.ahead === duel.behind && duel.row < duel.column)),
    (duel) => duel.holm,
    (duel) => -Math.abs(duel.alone - duel.other) / duel.shared,
  );

function winsNote(here, pairs) {
  const needed = Math.ceil(1 + Math.log2(pairs / 0.05));
  const seeds = here.board.seeds.length;
  return `An asterisk marks p ≤ 5 % of an exact sign test over seeds after Holm’s correction over ${plural(pairs, "pair")}. With n seeds no p is below 2 to the power 1 − n, so ${
    seeds < needed ? `${plural(seeds, "seed")} cannot show a difference here: ${needed} would be needed; until then the shares describe` : `${needed} seeds are needed at least; here are ${seeds}`
  }.`;
}

function winsGrid(names, found) {
  const roomy = names.length <= ROOMY;
  const head = el("tr", {}, el("td", {}, "scheme"), names.map((name) => el("th", { scope: "col" }, schemeLink(name))));
  const rows = names.map((row) => el("tr", {}, el("th", { scope: "row" }, schemeLink(row)), names.map((column) => winCell(row, column, found))));
  const look = { role: "grid", class: roomy ? "heat wins roomy" : "heat wins", "aria-label": "Share of cells that the row’s scheme alone survived", style: `--cell: ${Math.max(1.5, Math.min(2.4, 78 / names.length))}rem` };
  const grid = el("table", look, el("thead", {}, head), el("tbody", {}, rows));
  grid.querySelector("[role=gridcell]")?.setAttribute("tabindex", "0");
  listen(grid, { tip: duelTip, open: (node) => node?.focus() });
  return grid;
}

function winCell(row, column, found) {
  const duel = found.get(`${row}\n${column}`);
  const plain = { role: "gridcell", class: row === column ? "untried own" : "untried", tabindex: -1 };
  if (!duel) return el("td", { ...plain, "aria-label": row === column ? "itself" : `${row} and ${column} share no decided cell` });
  const part = duel.alone / duel.shared;
  const paint = part ? `background: color-mix(in srgb, var(--c0) ${Math.round(8 + 50 * part)}%, var(--page))` : null;
  const label = `${row} against ${column}: ${share(duel.alone, duel.shared)} of ${duel.shared} cells survived by ${row} alone; ${holmWords(duel)}`;
  const text = `${part ? fixed(100 * part, 0) : "·"}${sure(duel) ? "*" : ""}`;
  const node = el("td", { role: "gridcell", class: sure(duel) ? "win sure" : "win", "aria-label": label, tabindex: -1, style: paint }, text);
  node.cell = duel;
  return node;
}

const pText = (log10) => (log10 > -3 ? compact(10 ** log10) : `10^${fixed(log10, 1)}`);
const holmWords = (duel) => `Holm-corrected p ${pText(duel.holm)}${sure(duel) ? (duel.ahead > duel.behind ? ", ahead" : ", behind") : ", no difference shown"}`;

function duelTip(duel) {
  const equal = duel.shared - duel.alone - duel.other;
  return [
    el("strong", {}, `${duel.row} against ${duel.column}`),
    el("p", {}, `${plural(duel.shared, "cell")} that both decided`),
    el("p", {}, `${duel.row} alone survived ${duel.alone} (${share(duel.alone, duel.shared)})`),
    el("p", {}, `${duel.column} alone survived ${duel.other} (${share(duel.other, duel.shared)}); alike in ${equal}`),
    el("p", {}, `ahead in ${plural(duel.ahead, "seed")}, behind in ${duel.behind}; p ${pText(duel.p)}`),
    el("p", {}, el("strong", {}, holmWords(duel))),
  ];
}

function duelsTable(rows) {
  const part = (name) => (row) => `${row[name]} (${share(row[name], row.shared)})`;
  const columns = [
    numeric("holm", "Holm’s p", (row) => `${pText(row.holm)}${sure(row) ? " *" : ""}`, { up: true, hint: "Filtered as log10 p" }),
    { field: "row", title: "scheme", show: (row) => schemeLink(row.row) },
    { field: "column", title: "against", show: (row) => schemeLink(row.column) },
    numeric("shared", "cells shared", (row) => String(row.shared)),
    numeric("alone", "survived alone", part("alone"), { value: (row) => row.alone / row.shared }),
    numeric("other", "the other alone", part("other"), { value: (row) => row.other / row.shared }),
    numeric("ahead", "seeds ahead", (row) => String(row.ahead)),
    numeric("behind", "seeds behind", (row) => String(row.behind)),
    numeric("p", "p", (row) => pText(row.p), { up: true, hint: "Filtered as log10 p" }),
  ];
  return el("div", { class: "scroll" }, sortableTable("Pairs of schemes", columns, rows, pairsMemory));
}

/** What is drawn only when it is opened. */
function folding(title, draw) {
  const place = el("div", {});
  const opened = (event) => event.target.open && place.replaceChildren(draw());
  return [el("details", { toggle: opened }, el("summary", {}, title), place)];
}
