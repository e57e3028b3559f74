"use strict";
/* A scheme's page and an attack's: what is known of it, its cells, curves, controls and settings. */

function drawView(here) {
  const kind = state.scheme ? "scheme" : "attack";
  const name = state[kind];
  const place = document.querySelector("#view");
  const column = here.allColumns.find((c) => c.label === name) ?? here.allColumns.find((c) => c.attack === name);
  const known_ = kind === "scheme" ? here.allSchemes.includes(name) : Boolean(column);
  const back = link("", "", "← All schemes and attacks");
  const missing = [el("h2", {}, name), el("p", {}, `No trial on this board is of ${kind} ${name}.`)];
  const body = !known_ ? missing : kind === "scheme" ? schemeView(name, here) : attackView(column, here);
  place.replaceChildren(el("p", { class: "back" }, back), ...body);
}

const titled = (text, ...body) => el("section", {}, el("h3", {}, text), ...body);
const onlyOne = (colour = "var(--c0)") => ({
  styles: new Map([["", { colour, symbol: d3.symbolCircle }]]),
  groupOf: () => "",
});

function schemeView(name, here) {
  const trials = here.trials.filter((r) => r.choices.watermark === name);
  const row = here.rows.find((r) => r.watermark === name);
  const measured = trials.filter((r) => r.status === "ok");
  const frontier = here.frontiers[name];
  const chart_ = frontier && frontierChart(frontier, { width: 420, height: 200 });
  const proved = el("figcaption", {}, "Thefts proved under the worst attack, at every loss");
  const cells = here.columns.map((c) => here.cell(name, c)).filter(Boolean);
  const asTable = el("summary", {}, "The same as a table, the weakest evidence first");
  return [
    el("h2", {}, schemeName(name)),
    el("div", { class: "beside" }, schemeFacts(name, row, here), frontier ? el("figure", { class: "panel" }, proved, chart_) : null),
    titled(
      "Under every attack",
      el("div", { class: "heat-box" }, heatGrid(here, [["", [name]]])),
      el("details", {}, asTable, cellsTable(cells, (c) => attackLink(c.column.label))),
    ),
    titled("Accuracy against evidence", smallMultiples(name, here)),
    ...against(name, here),
    ...claimsSection(name, here),
    ...(name === data.control ? [] : [titled("Negative controls and nulls", controlsTable([name], measured), controlsNote())]),
    titled("Settings", settingsOf(trials[0], ["watermark", "verification", "task", "model", "trainer"])),
  ];
}

function against(name, here) {
  const rows = d3.sort([...duels(here.wins).values()].filter((duel) => duel.row === name), (duel) => duel.holm, (duel) => (duel.alone - duel.other) / duel.shared);
  return rows.length ? [titled("Against every other scheme", ...folding("A table, the scheme that beats it most often first", () => duelsTable(rows)))] : [];
}

function schemeFacts(name, row, here) {
  const d = here.declared.get(name);
  const seeds = new Set(here.trials.filter((r) => r.choices.watermark === name).map((r) => r.seed)).size;
  const among = here.rows.filter((other) => known(known(row?.tied_best) ? other.tied_best : other.rank)).length;
  const bits = row?.bits ? `${row.bits} bits, ${percent(row.bit_accuracy)} read right` : "";
  return lines([
    ["Reads", d?.reads],
    ["Family", d?.family],
    ["Key", d?.derivation],
    ["Paper", d?.paper === "none" ? "" : d?.paper],
    ["Rank", row?.rank ? `${rankOf(row)} of ${among}` : ""],
    ["Attacks decided", row ? `${row.cells} of ${row.board_cells}${row.rank || !row.decided ? "" : ", too few for a rank"}` : ""],
    ["Survived", row?.decided ? `${row.survived} of ${row.decided} decided trials over ${plural(seeds, "seed")}` : ""],
    ["Owner’s cost", known(row?.cost_pp) ? points(row.cost_pp) : ""],
    ["Payload", bits],
    ["False claims", row?.controls ? `${row.false_claims || "none"} in ${plural(row.controls, "control")}` : ""],
    ["Claims on rivals", row?.claims_on_rivals ? `${row.claims_on_rivals}; no null model is a rival’s` : ""],
  ]);
}

/** A small panel per attack, the weakest evidence first. */
function smallMultiples(name, here) {
  const cells = here.columns.map((c) => here.cell(name, c)).filter((c) => c?.trials.some((r) => r.curve.length));
  const sorted = d3.sort(cells, margin);
  const axes = axesOf(cells.flatMap((c) => c.trials));
  const mark = (c) => el("span", { class: `tag ${c.worst}`, title: cellWord(c) }, GLYPHS[c.worst]);
  const drawn = (c) => panel([mark(c), " ", attackLink(c.column.label)], c.trials, onlyOne(), axes, { width: 230, height: 170 });
  const [place, buttons] = [el("div", { class: "panels small" }), el("p", { class: "segments" })];
  const draw = () => {
    place.replaceChildren(...sorted.slice(0, more.multiples).map(drawn));
    moreButton(buttons, "multiples", sorted.length, "attack", draw);
  };
  draw();
  return sorted.length ? el("div", {}, place, buttons) : el("p", { class: "note" }, "No curves.");
}

function attackView(column, here) {
  const cells = here.schemes.map((name) => here.cell(name, column)).filter(Boolean);
  const trials = here.under(column);
  const look = looks(here);
  const legend = el("div", { class: "legend", role: "group", "aria-label": "Lines shown" });
  const place = el("div", { class: "wide" });
  const draw = () => place.replaceChildren(panel([], trials, look, axesOf(trials), { width: 760, height: 420 }));
  curveLegend(legend, look, draw);
  draw();
  return [
    el("h2", {}, column.label),
    attackFacts(column, trials),
    titled("Accuracy against evidence", legend, place),
    titled("Every scheme under it, by weakest evidence", cellsTable(cells, (c) => schemeLink(c.scheme))),
    ...(trials.length ? [titled("Settings", settingsOf(trials[0], ["attack", "adversary", "deployment"]))] : []),
  ];
}

function attackFacts(column, trials) {
  const a = trials.find((r) => r.attack)?.attack;
  if (!a) return lines([]);
  const knows = [a.scheme_known ? "the scheme" : "", a.key_known === "none" ? "" : `the key: ${a.key_known}`].filter(Boolean);
  return lines([
    ["Needs", a.needs],
    ["Goal", a.goal],
    ["Data", a.data],
    ["Knows", knows.join(", ") || "nothing of the scheme"],
    ["Strength", a.axis === "none" ? "one" : a.axis],
    ["Function", a.preserves ? "preserved" : ""],
    ["Paper", a.paper === "none" ? "" : a.paper],
  ]);
}

/** How far a cell is from a verdict against the owner, in powers of ten of p: of thefts evidence saves him, of claims it is his loss. */
function margin(cell) {
  if (cell.worst === "control") return Infinity;
  if (cell.weakest === undefined) return Number.MAX_VALUE;
  const threshold = Math.log10(cell.trials.find((r) => r.marked).marked.fpr);
  return cell.column.claims ? cell.weakest - threshold : threshold - cell.weakest;
}

function cellsTable(cells, named) {
  const sorted = d3.sort(cells, margin, (c) => WORST_FIRST.indexOf(c.worst));
  const heads = ["", "outcome", num("log10 p"), num("cheapest theft"), num("seeds"), "trials"];
  const rows = sorted.map((c) => [
    named(c),
    el("span", {}, el("span", { class: `tag ${c.worst}` }, GLYPHS[c.worst]), ` ${cellWord(c)}`),
    num(c.weakest === undefined || c.worst === "control" ? "–" : fixed(c.weakest, 2)),
    num(c.loss === null ? "–" : lost(c.loss)),
    num(String(new Set(c.trials.map((r) => r.seed)).size)),
    el("span", { class: "trials" }, c.trials.map((r) => link("cell", r.id, `seed ${r.seed}`))),
  ]);
  return el("div", { class: "scroll" }, table("Cells by weakest evidence", heads, rows, "figures cells"));
}

function settingsOf(record, groups) {
  if (!record) return el("p", { class: "note" }, "Not recorded.");
  const chosen = Object.fromEntries(groups.filter((g) => g in record.settings).map((g) => [g, record.settings[g]]));
  return el("div", {}, folded(groups.join(", "), flat(chosen)));
}
