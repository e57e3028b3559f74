"use strict";
/* Negative controls and nulls; trials that ended without a number. */

/** Of many schemes only when the reader asks. */
function drawControls(here) {
  const marked = here.schemes.filter((name) => name !== data.control);
  const measured = here.trials.filter((r) => r.status === "ok");
  const place = document.querySelector("#controls");
  const shown = () => place.replaceChildren(controlsTable(marked, measured), controlsNote());
  const ask = el("button", { type: "button", class: "more", click: shown }, `Show the controls of ${plural(marked.length, "scheme")}`);
  if (marked.length > 12) place.replaceChildren(ask);
  else shown();
}

function controlsTable(schemes, measured) {
  const rows = [];
  const rivals = measured.some((r) => r.nulls.rivals?.count);
  for (const scheme of schemes) {
    const trials = measured.filter((r) => r.choices.watermark === scheme);
    for (const [seed, [record]] of d3.group(trials, (r) => r.seed)) rows.push(controlRow(scheme, seed, record, rivals));
  }
  const found = ["marked", ...Object.values(CONTROLS), "independent models", ...(rivals ? ["rivals’ models"] : []), "random keys"];
  const heads = ["scheme", num("seed"), "statistic", "", ...found];
  return el("div", { class: "scroll" }, table("Negative controls by scheme", heads, rows, "figures controls"));
}

const controlsNote = () =>
  el(
    "p",
    { class: "note" },
    "In the picture: bars hold all random keys (wide) and all independent models (narrow), the line below them all rivals’ models, darker where nine in ten of them lie; rings are the three controls, the disc is the marked model.",
  );

function controlRow(scheme, seed, record, rivals) {
  const { marked, controls, nulls } = record;
  const unit = marked.unit + (marked.trials ? `, of ${marked.trials}` : "");
  const found = Object.keys(CONTROLS).map((name) => controlCell(controls?.[name], false, name === "unmarked"));
  return [
    schemeLink(scheme),
    num(String(seed)),
    unit,
    spreadPicture(record),
    controlCell(marked, true),
    ...found,
    rangeCell(nulls.independent_models),
    ...(rivals ? [nulls.rivals?.count ? rangeCell(nulls.rivals) : "–"] : []),
    rangeCell(nulls.random_keys),
  ];
}

function controlCell(found, expected, isVictim = false) {
  if (!found) return el("small", {}, isVictim ? "is the marked model" : "not measured");
  const wrong = !expected && found.detected === true;
  const words = el("small", { class: wrong ? "alarm" : null }, "p ", pValue(found.log10_p), `, ${verdict(found)}`);
  return el("span", {}, compact(found.statistic), words, found.source === "rivals" ? el("small", {}, "by rivals") : null);
}

function rangeCell(range) {
  if (!range?.count) return el("small", {}, "no valid null");
  const [lowest, highest] = range.quantiles ? [range.quantiles[0], range.quantiles.at(-1)].map(compact) : [];
  const text = range.quantiles ? (lowest === highest ? lowest : `${lowest} to ${highest}`) : "unreadable";
  return el("span", {}, text, el("small", {}, `over ${range.count}`));
}

function spreadPicture({ marked, controls, nulls }) {
  const values = [marked, ...Object.keys(CONTROLS).map((name) => controls?.[name])].map((found) => found?.statistic ?? null);
  const bars = [
    [nulls.random_keys, 10, 8],
    [nulls.independent_models, 5, 8],
    [nulls.rivals, 2, 15],
  ].filter(([range]) => range?.quantiles);
  const all = [...values, ...bars.flatMap(([range]) => range.quantiles)].filter((value) => value !== null);
  const x = d3.scaleLinear(marked.trials ? [0, marked.trials] : d3.extent(all), [6, 134]);
  const picture = svg("svg", { viewBox: "0 0 140 16", width: 140, height: 16, role: "img", "aria-label": "where the statistics lie" });
  picture.append(svg("line", { x1: 6, x2: 134, y1: 8, y2: 8, stroke: "var(--line)" }));
  const bar = ([from, to], height, middle, fill) =>
    svg("rect", { x: x(from) - 0.5, width: x(to) - x(from) + 1, y: middle - height / 2, height, fill });
  for (const [{ quantiles: q }, ...place] of bars)
    picture.append(bar([q[0], q.at(-1)], ...place, "var(--bar)"), bar([q[1], q.at(-2)], ...place, "var(--faint)"));
  const disc = (value, i) => ({ cx: x(value), cy: 8, r: i ? 3 : 4, fill: i ? "var(--page)" : "var(--ink)", stroke: "var(--ink)" });
  picture.append(...values.map((value, i) => value !== null && svg("circle", disc(value, i))).filter(Boolean));
  return picture;
}

/** Grouped by what was said: most attacks that fit no scheme fit none for one reason. */
function drawUnfinished(here) {
  const without = here.visible.filter((record) => record.status !== "ok");
  document.querySelector("#unfinished-section").hidden = !without.length;
  const groups = d3.sort(d3.groups(without, (r) => r.status, (r) => r.reason ?? "no reason was recorded").flatMap(([status, reasons_]) => reasons_.map(([reason, trials]) => ({ status, reason, trials }))), (g) => ["failed", "blocked", "not_applicable"].indexOf(g.status), (g) => -g.trials.length);
  const rows = (count) => groups.slice(0, count).map((g) => [el("span", { class: `tag ${g.status}` }, GLYPHS[g.status], " ", OUTCOMES[g.status]), g.reason, num(String(g.trials.length)), someTrials(g.trials)]);
  const place = document.querySelector("#unfinished");
  const shown = (count) => place.replaceChildren(table("Trials without a number", ["status", "reason", num("trials"), ""], rows(count), "figures reasons"), ...(groups.length > count ? [el("button", { type: "button", class: "more", click: () => shown(groups.length) }, `All ${plural(groups.length, "reason")}`)] : []));
  shown(DOZEN);
}

function someTrials(trials) {
  const named = trials.slice(0, 3).map((r) => link("cell", r.id, `${schemeName(r.choices.watermark)} under ${attackName(r.choices.attack)}`));
  const others = trials.length > 3 ? ` and ${trials.length - 3} more` : "";
  return el("span", { class: "trials" }, named, others);
}
