"use strict";
/* Schemes by attacks, a word and a number in every cell. */

/** What speaks for a cell of several trials: the worst that has a number. */
const WORST_FIRST = ["removed", "forged", "undecided", "survives", "too_costly", "failed", "blocked", "not_applicable"];

function drawOutcomes(columns, schemes, trials) {
  const heads = [
    { text: "scheme" },
    ...columns.map((c) => ({ text: el("span", {}, c.label, el("small", {}, c.needs)) })),
  ];
  const rows = schemes.map((scheme) => [
    schemeName(scheme),
    ...columns.map((column) => outcomeCell(trials.filter((r) => r.choices.watermark === scheme && column.holds(r)))),
  ]);
  document.querySelector("#outcomes").replaceChildren(table("Outcome by scheme and attack", heads, rows, "heat"));
  const used = data.outcomes.filter((name) =>
    trials.some((r) => r.outcome === name && r.choices.watermark !== data.control),
  );
  const items = used.map((name) =>
    el("li", {}, el("span", { class: `tag ${name}` }, OUTCOMES[name]), ` ${MEANING[name]}`),
  );
  document.querySelector("#outcome-legend").replaceChildren(...items);
}

function outcomeCell(trials) {
  if (!trials.length) return { text: "not tried", class: "empty" };
  const control = trials[0].choices.watermark === data.control && trials.every((r) => r.status === "ok");
  const worst = control ? "control" : WORST_FIRST.find((name) => trials.some((r) => r.outcome === name));
  const count = trials.filter((r) => r.outcome === worst).length;
  const word = control ? "control" : OUTCOMES[worst] + (trials.length > 1 ? ` ${count}/${trials.length}` : "");
  const button = el(
    "button",
    { type: "button", class: worst, click: () => showDetails(trials) },
    word,
    el("small", {}, cellNumber(trials, control)),
  );
  return { text: button, class: "cell" };
}

function cellNumber(trials, control) {
  const weakest = d3.max(trials, (record) => record.weakest ?? undefined);
  if (!control && weakest !== undefined) return fixed(weakest, weakest > -1 ? 2 : 1);
  const losses = trials.map(cheapest).filter((loss) => loss !== null);
  return losses.length ? lost(d3.min(losses)) : "\u00a0";
}
