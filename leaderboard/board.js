"use strict";
/* The page: unpack, read the address, and draw what it asks for. */

const cheapest = (record) => d3.min(record.curve, (point) => point.loss_pp) ?? null;
let drawn = null;
const left = { view: "", top: 0 };

/** The attacks of these trials, each with the deployment or trainer where it ran under several; by what they need. */
function columnsOf(trials) {
  const columns = new Map();
  for (const [attack, members] of d3.group(trials, (r) => r.choices.attack)) {
    const several = ["deployment", "trainer"].filter((axis) => new Set(members.map((r) => r.choices[axis])).size > 1);
    for (const record of members) {
      const label = [attackName(attack), ...several.map((axis) => record.choices[axis])].join(" · ");
      const column = columns.get(label) ?? { label, attack, trials: [] };
      column.trials.push(record);
      columns.set(label, { ...column, ...accessOf(attack, column.trials) });
    }
  }
  return d3.sort(
    columns.values(),
    (c) => ACCESS.indexOf(c.access),
    (c) => c.attack !== "none",
    (c) => -c.trials.filter((r) => r.outcome === "removed").length,
    (c) => c.label,
  );
}

function accessOf(attack, trials) {
  const known_ = trials.find((r) => r.attack)?.attack;
  const claims = known_?.goal === "claim";
  const needs = known_ ? `needs ${known_.needs}` : "";
  return { claims, needs, axis: known_?.axis, access: claims ? "claims" : attack === "none" ? "weights" : (known_?.needs ?? "weights") };
}

/** The board that the address names, else the one with most trials. */
function placeOfBoard() {
  const named = data.boards.findIndex((board) => board.names.join(",") === state.board);
  const counts = d3.rollup(data.records, (members) => members.length, (r) => r.board);
  return named < 0 ? d3.greatestIndex(data.boards.keys(), (a, b) => counts.get(a) - counts.get(b)) : named;
}

/** Everything the drawing needs of the chosen board and seed, before filters. */
function boardHere() {
  const place = placeOfBoard();
  const board = data.boards[place];
  const rows = board.rows[state.seed] ?? board.rows.all;
  const single = state.seed in board.rows && state.seed !== "all";
  const trials = data.records.filter((r) => r.board === place && (!single || String(r.seed) === state.seed));
  const present = new Set(trials.map((r) => r.choices.watermark));
  const columns = columnsOf(trials);
  const cells = new Map();
  const columnOf = new Map(columns.flatMap((column) => column.trials.map((r) => [r, column])));
  for (const column of columns)
    for (const [scheme, members] of d3.group(column.trials, (r) => r.choices.watermark))
      cells.set(`${scheme}\n${column.label}`, cellOf(scheme, column, members));
  const declared = new Map([...present].map((name) => [name, null]));
  for (const r of trials) if (r.scheme && !declared.get(r.choices.watermark)) declared.set(r.choices.watermark, r.scheme);
  return {
    key: `${place} ${state.seed}`,
    board,
    rows,
    trials,
    declared,
    frontiers: single ? {} : board.frontiers,
    wins: single ? {} : board.wins,
    deployments: single ? [] : board.deployments,
    allColumns: columns,
    allSchemes: [...rows.map((row) => row.watermark), data.control].filter((name) => present.has(name)),
    cell: (scheme, column) => cells.get(`${scheme}\n${column.label}`),
    columnOf: (record) => columnOf.get(record),
  };
}

/** The same with the filters applied. */
function filtered(all) {
  const schemes = all.allSchemes.filter((name) => schemePasses(name, all.declared.get(name)));
  const columns = all.allColumns.filter(attackPasses);
  const under = (column) => schemes.flatMap((name) => all.cell(name, column)?.trials ?? []);
  return { ...all, schemes, columns, under, visible: columns.flatMap(under) };
}

function render() {
  const all = boardHere();
  if (drawn !== all.key) {
    choices();
    drawFilters(all.declared, all.allColumns);
    drawn = all.key;
  }
  showFilters();
  const here = filtered(all);
  const view = Boolean(state.scheme || state.attack);
  document.body.classList.toggle("viewing", view);
  document.querySelector("#overview").hidden = view;
  document.querySelector("#view").hidden = !view;
  drawClaim(here);
  if (view) drawView(here);
  else drawOverview(here);
  drawDetails(here);
  keepPlace();
}

/** A view starts at its top, and the overview is left where it was. */
function keepPlace() {
  const view = state.scheme || state.attack;
  if (view === left.view) return;
  if (!left.view) left.top = scrollY;
  left.view = view;
  scrollTo(0, view ? Math.min(scrollY, document.querySelector("header").offsetHeight) : left.top);
}

function drawOverview(here) {
  drawRanking(here);
  drawHeat(here);
  drawWins(here);
  drawDeployments(here);
  drawFrontiers(here);
  drawCurves(here);
  drawControls(here);
  drawUnfinished(here);
  drawExcluded();
}

function drawClaim(here) {
  const [task, model] = here.board.names;
  const marked = here.allSchemes.filter((name) => name !== data.control);
  const attacks = new Set(here.allColumns.map((column) => column.attack).filter((name) => name !== "none"));
  const rates = [...new Set(here.trials.filter((r) => r.marked).map((r) => r.marked.fpr))];
  const rate = rates.length ? ` at a declared false-positive rate of ${rates.map((value) => `${100 * value} %`).join(" or ")}` : "";
  document.querySelector("#claim").textContent =
    `A mark is worth what its owner can still prove after theft${rate}: ${plural(marked.length, "scheme")} under ${plural(attacks.size, "attack")}, ${model} on ${task}.`;
  const last = d3.max(here.trials, (record) => record.finished ?? undefined);
  const seeds = new Set(here.trials.map((record) => record.seed)).size;
  document.querySelector("#facts").textContent =
    `${plural(here.trials.length, "trial")}, ${plural(seeds, "seed")}${last ? `, the last of ${last.slice(0, 10)}` : ""}.`;
  if (!marked.length) document.querySelector("#claim").textContent = `No scheme on this board: only the control ran, ${model} on ${task}.`;
  const bound = fixed(100 * 0.05 ** (1 / Math.max(seeds, 1)), 0);
  document.querySelector("#seeds-note").textContent =
    `With ${plural(seeds, "seed")}, surviving every time bounds the true detection rate below by only ${bound} % (95 % confidence).`;
  const view = state.scheme ? schemeName(state.scheme) : state.attack;
  document.title = view ? `${view} · Assay` : "Assay: what is a model watermark worth?";
}

/** Adversary and verification are named only where boards differ in them. */
function boardName(names) {
  return names.filter((name, i) => i < 2 || new Set(data.boards.map((b) => b.names[i])).size > 1).join(" · ");
}

function choices() {
  const boards = data.boards.map(({ names }) => [names.join(","), boardName(names)]);
  const place = placeOfBoard();
  choose("#choose-board", boards, boards[place][0], (board) => go({ board, seed: "all", scheme: "", attack: "" }));
  const seeds = data.boards[place].seeds.map(String);
  const options = [["all", "all"], ...(seeds.length > 1 ? seeds.map((seed) => [seed, seed]) : [])];
  choose("#choose-seed", options, state.seed, (seed) => go({ seed }));
}

function choose(id, options, chosen, pick) {
  const label = document.querySelector(id);
  const select = label.querySelector("select");
  select.replaceChildren(...options.map(([value, text]) => el("option", { value, selected: value === chosen }, text)));
  select.onchange = () => pick(select.value);
  label.hidden = options.length < 2;
}

async function start() {
  await unpack();
  for (const node of document.querySelectorAll(".budget")) node.textContent = `${data.budget_pp} pp`;
  const dialog = document.querySelector("#details");
  dialog.addEventListener("close", () => state.cell && go({ cell: "" }));
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  if (!data.records.length) {
    drawNothing();
    return;
  }
  readAddress();
  const linked = data.records.find((record) => record.id === state.cell);
  if (linked && !state.board) state.board = data.boards[linked.board].names.join(",");
  followLinks();
  render();
}

start().catch((error) => {
  const old = typeof DecompressionStream === "undefined";
  const why = old ? "This page needs a browser of 2023 or later (DecompressionStream)." : `This page could not be drawn: ${error.message}`;
  document.querySelector("#overview").replaceChildren(el("p", { class: "alarm" }, why));
  throw error;
});
