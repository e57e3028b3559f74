"use strict";
/* Negative controls and nulls; trials that ended without a number. */

function drawControls(schemes, trials) {
  const rows = [];
  for (const scheme of schemes.filter((name) => name !== data.control)) {
    const measured = trials.filter((r) => r.choices.watermark === scheme && r.status === "ok");
    for (const [seed, [record]] of d3.group(measured, (r) => r.seed)) rows.push(controlRow(scheme, seed, record));
  }
  const heads = [
    "scheme",
    "seed",
    "statistic",
    "",
    "marked",
    ...Object.values(CONTROLS),
    "independent models",
    "random keys",
  ];
  document
    .querySelector("#controls")
    .replaceChildren(table("Negative controls by scheme", heads, rows, "figures controls"));
}

function controlRow(scheme, seed, record) {
  const { marked, controls, nulls } = record;
  const unit = marked.unit + (marked.trials ? `, of ${marked.trials}` : "");
  const found = Object.keys(CONTROLS).map((name) => controlCell(controls?.[name], false, name === "unmarked"));
  return [
    scheme,
    String(seed),
    unit,
    spreadPicture(record),
    controlCell(marked, true),
    ...found,
    rangeCell(nulls.independent_models),
    rangeCell(nulls.random_keys),
  ];
}

function controlCell(found, expected, isVictim = false) {
  if (!found) return el("small", {}, isVictim ? "is the marked model" : "not measured");
  const wrong = !expected && found.detected === true;
  const words = el("small", { class: wrong ? "alarm" : null }, "p ", pValue(found.log10_p), `, ${verdict(found)}`);
  return el("span", {}, compact(found.statistic), words);
}

function rangeCell(range) {
  if (!range?.count) return el("small", {}, "no valid null");
  const text =
    range.lowest === null
      ? "unreadable"
      : range.lowest === range.highest
        ? compact(range.lowest)
        : `${compact(range.lowest)} to ${compact(range.highest)}`;
  return el("span", {}, text, el("small", {}, `over ${range.count}`));
}

function spreadPicture({ marked, controls, nulls }) {
  const values = [marked, ...Object.keys(CONTROLS).map((name) => controls?.[name])].map(
    (found) => found?.statistic ?? null,
  );
  const bars = [
    [nulls.random_keys, 8, "var(--bar)"],
    [nulls.independent_models, 4, "var(--soft)"],
  ].filter(([range]) => range?.count && range.lowest !== null);
  const all = [...values, ...bars.flatMap(([range]) => [range.lowest, range.highest])].filter(
    (value) => value !== null,
  );
  const x = d3.scaleLinear(marked.trials ? [0, marked.trials] : d3.extent(all), [6, 134]);
  const picture = svg("svg", {
    viewBox: "0 0 140 16",
    width: 140,
    height: 16,
    role: "img",
    "aria-label": "where the statistics lie",
  });
  picture.append(svg("line", { x1: 6, x2: 134, y1: 8, y2: 8, stroke: "var(--line)" }));
  for (const [range, height, fill] of bars)
    picture.append(
      svg("rect", {
        x: x(range.lowest) - 0.5,
        width: x(range.highest) - x(range.lowest) + 1,
        y: 8 - height / 2,
        height,
        fill,
      }),
    );
  values.forEach((value, i) => {
    if (value !== null)
      picture.append(
        svg("circle", {
          cx: x(value),
          cy: 8,
          r: i ? 3 : 4,
          fill: i ? "var(--page)" : "var(--ink)",
          stroke: "var(--ink)",
        }),
      );
  });
  return picture;
}

function drawUnfinished(trials) {
  const without = trials.filter((record) => record.status !== "ok");
  document.querySelector("#unfinished-section").hidden = !without.length;
  const open = (record) =>
    el("button", { type: "button", class: "link", click: () => showDetails([record]) }, record.id);
  const rows = without.map((r) => [
    open(r),
    el("span", { class: `tag ${r.outcome}` }, OUTCOMES[r.outcome]),
    r.reason ?? "no reason was recorded",
  ]);
  document
    .querySelector("#unfinished")
    .replaceChildren(table("Trials without a number", ["trial", "status", "reason"], rows, "figures reasons"));
}
