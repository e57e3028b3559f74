"use strict";
/* The ranking: a row per scheme, and what its columns say in three sets. */

const COLUMN_SETS = { overview: "Overview", outcomes: "Outcomes", scores: "Scores", costs: "Costs and capacity", deployed: "Deployments" };
const rankingMemory = {};

const notRun = (row) =>
  ["blocked", "not_applicable", "failed"]
    .filter((name) => row[name])
    .map((name) => `${row[name]} ${OUTCOMES[name]}`)
    .join(", ");

const known = (value) => value !== null && value !== undefined;
const numeric = (field, title, show, more = {}) => ({ field, title, number: true, show, ...more });
const counted = (field, title) => numeric(field, title, (row) => (row[field] ? String(row[field]) : "·"));

/** 0.50 over its interval (or with the interval as its title); bounds where trials are undecided. */
function estimate(row, name, { digits = 2, scale = 1, brief = false } = {}) {
  const [value, least, most, low, high] = ["", "_least", "_most", "_low", "_high"].map((end) => row[name + end]);
  if (!known(value) && !known(least)) return "–";
  const write = (x) => fixed(scale * x, digits);
  const text = known(value) || write(least) === write(most) ? write(value ?? least) : `${write(least)} to ${write(most)}`;
  const interval = known(low) ? `${write(low)} to ${write(high)}` : null;
  if (brief) return el("span", { title: interval && `95 % interval ${interval}` }, text);
  return el("span", {}, text, interval && el("small", {}, interval));
}

/** A share of 0 to 1 as a dot on its interval. */
function intervalBar(row, name) {
  const [least, most, low, high] = ["_least", "_most", "_low", "_high"].map((end) => row[name + end]);
  if (!known(least)) return "–";
  const x = (share) => 4 + 72 * share;
  const label = `${percents(least)}${most > least ? ` to ${percents(most)}` : ""}, 95 % interval ${percents(low)} to ${percents(high)}`;
  const picture = svg("svg", { viewBox: "0 0 80 14", width: 80, height: 14, role: "img", "aria-label": label });
  const line = (from, to, width, stroke) =>
    svg("line", { x1: x(from), x2: x(to), y1: 7, y2: 7, "stroke-width": width, stroke, "stroke-linecap": "round" });
  picture.append(line(0, 1, 1, "var(--line)"), line(low, high, 3, "var(--bar)"), line(least, most, 7, "var(--ink)"));
  return el("span", { class: "interval", title: label }, picture);
}

/** The ranks that the intervals of a board's schemes leave open, as export.py writes them; the place where there are none. */
const rankOf = ({ rank, tied_best: best, tied_worst: last }) => (!known(best) ? rank : best === last ? best : `${best}–${last}`);
const rankHint = "The ranks that the 95 % intervals under the worst attack leave open (of one seed: the place); the rows stand in the order described above";

/** As scores.py names it: none where every theft is proved; with how many others are as bad. */
const worstAttack = ({ tpr_attack: attack, tpr_least: least, tpr_equals: equals }) =>
  !attack || least === 1 ? null : attackName(attack) + (equals ? ` +${equals}` : "");

function identity() {
  const few = (row) => `${row.cells} of the ${row.board_cells} attacks that this board decides: too few for a rank`;
  const rank = (row) => (row.rank ? rankOf(row) : el("span", { title: row.decided ? few(row) : "nothing decided" }, "–"));
  return [
    numeric("rank", "#", rank, { up: true, fixed: true, value: (row) => row.rank, hint: rankHint }),
    { field: "watermark", title: "scheme", show: (row) => schemeLink(row.watermark) },
    { field: "family", title: "family" },
    { field: "reads", title: "reads" },
    { field: "derivation", title: "key" },
  ];
}

const survivedColumn = numeric("survived", "survived", (row) => (row.decided ? `${row.survived} of ${row.decided}` : "–"), {
  value: (row) => (row.decided ? row.survived / row.decided : null),
  hint: "Decided trials in which every stolen model within the budget still carries evidence; sorted by their share",
});
const costColumn = numeric("cost_pp", "owner’s cost", (row) => (known(row.cost_pp) ? points(row.cost_pp) : "–"), {
  hint: "Accuracy of the unmarked model minus that of the marked one",
});
const survivalColumn = numeric("survival_least", "worst attack", (row) => intervalBar(row, "survival"), {
  hint: "Rate at which thefts within the budget are still proved under the worst attack, with its exact 95 % interval",
});
/** Claims on rivals' models and marks, where the null holds none of theirs, speak against the null: shown, and not of this scheme. */
const rivals = (row) => (row.claims_on_rivals ? `${row.claims_on_rivals} of rivals` : "");
const forgedColumn = (row) =>
  row.false_claims ? el("strong", { class: "alarm" }, row.false_claims) : el("span", {}, "none", rivals(row) && el("small", {}, rivals(row)));

function weakColumns() {
  return [
    numeric("weakest_log10_p", `weakest p in ${data.budget_pp} pp`, (row) => pValue(row.weakest_log10_p), {
      hint: "Filtered as log10 p",
    }),
    { field: "weakest_attack", title: "under", show: (row) => (row.weakest_attack ? attackName(row.weakest_attack) : "–") },
  ];
}

const claimHint = "Controls in which ownership was found; of rivals: on their models or with their keys, where no null model is a rival's";
const reliability = () => [numeric("false_claims", "false claims", forgedColumn, { hint: claimHint }), counted("seeds", "seeds")];

function outcomeColumns(rows) {
  const forged = rows.some((row) => row.forged) ? [counted("forged", "forged")] : [];
  const missing = numeric("not_run", "not run", (row) => el("span", { title: notRun(row) }, row.not_run || "·"));
  const counts = [counted("too_costly", "too costly"), counted("undecided", "undecided"), missing];
  return [survivedColumn, counted("removed", "removed"), ...forged, ...counts, ...weakColumns(), ...reliability()];
}

function scoreColumns() {
  const size = (row) => (known(row.size) ? estimate(row, "size", { scale: 100 }) : "–");
  const forging = (row) => el("span", { title: `${estimateText(row, "forging")}` }, row.forging ?? "–");
  return [
    numeric("survival_least", "proved at worst", (row) => estimate(row, "survival")),
    { field: "tpr_attack", title: "under", show: (row) => worstAttack(row) ?? "–", value: worstAttack, hint: "The worst attack, and how many others are as bad; none where every theft is proved" },
    numeric("area_narrow_least", `area, ${data.budget_pp} pp`, (row) => estimate(row, "area_narrow")),
    numeric("area_wide_least", `area, ${data.wide_pp} pp`, (row) => estimate(row, "area_wide")),
    numeric("auroc_marked", "AUROC marked", (row) => estimate(row, "auroc_marked", { digits: 3 })),
    numeric("auroc", "AUROC at worst", (row) => estimate(row, "auroc", { digits: 3 })),
    { field: "forging", title: "forging", show: forging },
    numeric("size", "false positives, %", size, { hint: "Random keys on independent models, by the scheme’s exact tail" }),
  ];
}

const estimateText = (row, name) => {
  const ends = ["least", "most", "low", "high"].map((end) => row[`${name}_${end}`]);
  return known(ends[0]) ? `${percents(ends[0])} to ${percents(ends[1])}, interval ${percents(ends[2])} to ${percents(ends[3])}` : "";
};

function costColumns(rows) {
  const share = (field) => (row) => (known(row[field]) ? percent(row[field]) : "–");
  const plain = (field) => (row) => (known(row[field]) ? compact(row[field]) : "–");
  return [
    numeric("cost_pp", "owner’s cost, pp", (row) => (known(row.cost_pp) ? estimate({ ...row, cost_pp_least: null }, "cost_pp") : "–")),
    numeric("embedding_seconds", "embedding, s", plain("embedding_seconds")),
    ...toldColumns(rows),
    numeric("bits", "payload, bits", plain("bits")),
    numeric("bit_accuracy", "read right", share("bit_accuracy")),
    numeric("bit_accuracy_attacked", "after the worst attack", share("bit_accuracy_attacked")),
  ];
}

/** Of the owner's side, what the records of this board tell. */
function toldColumns(rows) {
  const milliseconds = (row) => (known(row.verification_seconds) ? 1000 * row.verification_seconds : null);
  const columns = [
    numeric("verification_queries", "queries to verify", (row) => compact(row.verification_queries)),
    numeric("verification_seconds", "ms to verify", (row) => compact(milliseconds(row)), { value: milliseconds }),
    numeric("detectability_auc", "detectable, AUC", (row) => fixed(row.detectability_auc, 2), { hint: "How well the best of several detectors tells marked models or queries from others; a guess is at 0.5, the best of some guesses a little above" }),
  ];
  return columns.filter(({ field }) => rows.some((row) => known(row[field])));
}

/** The columns with something in them. */
function rankingColumns(rows, here) {
  const scored = rows.some((row) => known(row.survival_least));
  const sets = {
    overview: () => [
      costColumn,
      survivedColumn,
      ...(scored ? [survivalColumn, numeric("area_narrow_least", "area", (r) => estimate(r, "area_narrow", { brief: true }))] : []),
      ...(scored ? [numeric("auroc", "AUROC", (r) => estimate(r, "auroc", { brief: true }))] : []),
      ...weakColumns(),
      ...reliability(),
      ...(rows.some((row) => claimsOf(row.watermark, here).length) ? [{ field: "claim", title: "claim", show: (row) => claimCell(row.watermark, here), value: (row) => claimsOf(row.watermark, here)[0]?.verdict }] : []),
    ],
    outcomes: () => outcomeColumns(rows),
    scores: scoreColumns,
    costs: () => costColumns(rows),
    deployed: deploymentColumns,
  };
  const open = state.columns === "deployed" ? rows.some(isDeployed) : scored || state.columns === "outcomes";
  const chosen = open ? state.columns : "overview";
  return [...identity(), ...(sets[chosen] ?? sets.overview)()];
}

function drawRanking(here) {
  const rows = here.rows
    .filter((row) => here.schemes.includes(row.watermark))
    .map((row) => ({ ...row, not_run: row.blocked + row.not_applicable + row.failed }));
  const offered = Object.entries(COLUMN_SETS).filter(([name]) => name !== "deployed" || rows.some(isDeployed));
  const sets = offered.map(([name, title]) =>
    el("button", { type: "button", "aria-pressed": String(state.columns === name), click: () => go({ columns: name }) }, title),
  );
  document.querySelector("#column-sets").replaceChildren(...sets);
  document.querySelector("#ranking").replaceChildren(sortableTable("Ranking", rankingColumns(rows, here), rows, rankingMemory));
}
