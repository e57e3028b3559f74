"use strict";
/* The page: choose a board and a seed, then draw ranking, outcomes, curves and controls from the records inside. */

const data = JSON.parse(document.querySelector("#records").textContent);
for (const record of data.records) for (const field of data.shared) record[field] = data.pool[record[field]];
const chosen = { board: 0, seed: "all" };

const cheapest = (record) => d3.min(record.curve, (point) => point.loss_pp) ?? null;
const ranks = () => data.boards[chosen.board].rows[chosen.seed];
const trialsHere = () =>
  data.records.filter((r) => r.board === chosen.board && (chosen.seed === "all" || String(r.seed) === chosen.seed));

/** The attacks of this board, each with the deployment or trainer where it ran under several. */
function columnsOf(trials) {
  const columns = new Map();
  for (const record of trials) {
    const { attack } = record.choices;
    const several = ["deployment", "trainer"].filter(
      (axis) => new Set(trials.filter((r) => r.choices.attack === attack).map((r) => r.choices[axis])).size > 1,
    );
    const label = (r) => [attackName(r.choices.attack), ...several.map((axis) => r.choices[axis])].join(" · ");
    const known = columns.get(label(record));
    if (known?.needs) continue;
    const needs = record.attack ? `needs ${record.attack.needs}` : "";
    const claims = record.attack?.goal === "claim";
    const holds = (r) => r.choices.attack === attack && label(r) === label(record);
    columns.set(label(record), { label: label(record), attack, needs, claims, holds });
  }
  const order = ["needs weights", "needs scores", "needs labels", ""];
  return d3.sort(
    columns.values(),
    (c) => c.attack !== "none",
    (c) => order.indexOf(c.needs),
    (c) => c.label,
  );
}

/** Ranked schemes, best first, then the control. */
function schemesOf(trials) {
  const present = new Set(trials.map((record) => record.choices.watermark));
  return [...ranks().map((row) => row.watermark), data.control].filter((name) => present.has(name));
}

function drawClaim(columns, schemes, trials) {
  const [task, model] = data.boards[chosen.board].names;
  const marked = schemes.filter((name) => name !== data.control);
  const attacks = new Set(columns.map((column) => column.attack).filter((name) => name !== "none"));
  const rates = [...new Set(trials.filter((r) => r.marked).map((r) => r.marked.fpr))];
  const rate = rates.length
    ? ` at a declared false-positive rate of ${rates.map((value) => `${100 * value} %`).join(" or ")}`
    : "";
  document.querySelector("#claim").textContent =
    `A mark is worth what its owner can still prove after theft${rate}: ${plural(marked.length, "scheme")} under ${plural(attacks.size, "attack")}, ${model} on ${task}.`;
  const last = d3.max(trials, (record) => record.finished ?? undefined);
  const seeds = new Set(trials.map((record) => record.seed)).size;
  document.querySelector("#facts").textContent =
    `${plural(trials.length, "trial")}, ${plural(seeds, "seed")}${last ? `, the last of ${last.slice(0, 10)}` : ""}.`;
  const bound = fixed(100 * 0.05 ** (1 / Math.max(seeds, 1)), 0);
  document.querySelector("#seeds-note").textContent =
    `With ${plural(seeds, "seed")}, surviving every time bounds the true detection rate below by only ${bound} % (95 % confidence).`;
}

function draw() {
  const trials = trialsHere();
  const columns = columnsOf(trials);
  const schemes = schemesOf(trials);
  const styles = looks(schemes);
  drawClaim(columns, schemes, trials);
  drawRanking();
  drawOutcomes(columns, schemes, trials);
  const curves = () => drawCurves(columns, trials, styles);
  curveLegend(schemes, styles, curves);
  curves();
  drawControls(schemes, trials);
  drawUnfinished(trials);
}

function choose(id, options, pick) {
  const label = document.querySelector(id);
  const select = label.querySelector("select");
  select.replaceChildren(...options.map(([value, text]) => el("option", { value }, text)));
  select.onchange = () => pick(select.value);
  label.hidden = options.length < 2;
}

/** Adversary and verification are named only where boards differ in them. */
function boardName(names) {
  const differing = names.filter((name, i) => i < 2 || new Set(data.boards.map((b) => b.names[i])).size > 1);
  return differing.join(" · ");
}

function pickBoard(index) {
  chosen.board = Number(index);
  chosen.seed = "all";
  const { seeds } = data.boards[chosen.board];
  choose(
    "#choose-seed",
    [["all", "all"], ...(seeds.length > 1 ? seeds.map((s) => [String(s), String(s)]) : [])],
    (seed) => {
      chosen.seed = seed;
      draw();
    },
  );
  draw();
}

function start() {
  for (const node of document.querySelectorAll(".budget")) node.textContent = `${data.budget_pp} pp`;
  const dialog = document.querySelector("#details");
  dialog.addEventListener("close", () => history.replaceState(null, "", "#"));
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  if (!data.records.length) {
    document
      .querySelector("main")
      .replaceChildren(el("p", {}, "There are no records yet; assay suite quick makes some."));
    return;
  }
  choose(
    "#choose-board",
    data.boards.map((board, i) => [String(i), boardName(board.names)]),
    pickBoard,
  );
  const linked = data.records.find((record) => record.id === decodeURIComponent(location.hash.slice(1)));
  if (linked) document.querySelector("#choose-board select").value = String(linked.board);
  pickBoard(linked ? linked.board : 0);
  if (linked) showDetails([linked]);
}

start();
