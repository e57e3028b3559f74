"use strict";
/* The record behind a cell: numbers, costs, environment, and the command that runs it again. */

/** Several trials of one cell (seeds, other settings) are chosen by buttons. */
function showDetails(records, chosen = records[0]) {
  const dialog = document.querySelector("#details");
  const others =
    records.length > 1
      ? el(
          "p",
          { class: "others" },
          "Trials: ",
          records.map((r) => other(r, records, chosen)),
        )
      : null;
  const close = el("button", { type: "button", class: "close", click: () => dialog.close() }, "Close");
  dialog.replaceChildren(close, heading(chosen), ...(others ? [others] : []), ...body(chosen));
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  history.replaceState(null, "", `#${encodeURIComponent(chosen.id)}`);
}

function other(record, records, chosen) {
  const label = `seed ${record.seed}: ${OUTCOMES[record.outcome]}`;
  return el(
    "button",
    { type: "button", "aria-pressed": String(record === chosen), click: () => showDetails(records, record) },
    label,
  );
}

function heading(record) {
  const { watermark, attack } = record.choices;
  return el("h2", { id: "details-title" }, `${schemeName(watermark)} under ${attackName(attack)}`);
}

function body(record) {
  return [
    el("p", {}, el("span", { class: `tag ${record.outcome}` }, shortOutcome(record)), ` ${summary(record)}`),
    ...(record.status === "ok"
      ? [el("div", { class: "scroll" }, evidenceTable(record)), costs(record)]
      : [reasons(record)]),
    el("h3", {}, "Run it again"),
    el("pre", { class: "command", tabindex: 0 }, record.command),
    el(
      "p",
      { class: "note" },
      "The trial’s id is a hash of all its settings: ",
      el("code", {}, record.id),
      "; the command gives the same.",
    ),
    declarations(record),
    folded("Settings", record.settings),
    folded("Environment", flat(record.environment)),
  ];
}

const shortOutcome = (record) => (record.choices.watermark === data.control ? "control" : OUTCOMES[record.outcome]);

function summary(record) {
  if (record.status !== "ok") return MEANING[record.status];
  if (record.choices.watermark === data.control) return "Nothing was marked: what the attack costs by itself.";
  if (!record.curve.length) return "The attack yielded no model.";
  if (record.weakest === null)
    return `No stolen model lost at most ${data.budget_pp} pp; the cheapest ${lost(cheapest(record))}.`;
  const weakest = `Weakest evidence within ${data.budget_pp} pp: log10 p = ${fixed(record.weakest, 2)}, at a declared rate of ${record.marked.fpr}.`;
  const { detected } = record.marked;
  return detected ? weakest : `${weakest} The marked model itself is ${detected === null ? "undecided" : "not found"}.`;
}

function reasons(record) {
  const trace = record.traceback
    ? el("details", {}, el("summary", {}, "Traceback"), el("pre", {}, record.traceback))
    : null;
  return el("div", {}, el("pre", { class: "reason" }, record.reason ?? "no reason was recorded"), trace);
}

function evidenceTable(record) {
  const { marked, controls, owner } = record;
  const axis = record.attack?.axis ?? "strength";
  const row = (name, strength, accuracy, loss, found) => [
    name,
    num(strength),
    num(percent(accuracy)),
    num(loss),
    num(percent(found?.agreement)),
    num(found ? statistic(found, marked.trials) : "–"),
    num(found ? fixed(found.log10_p, 2) : "–"),
    found ? verdict({ ...found, source: marked.source }) : "not measured",
    num(beaten(found)),
    ...spent(found?.cost),
  ];
  const rows = [
    row("unmarked", "", owner.unmarked_accuracy, "", controls?.unmarked),
    row("rival’s model", "", null, "", controls?.marked_by_rival),
    row("rival’s key", "", null, "", controls?.key_of_rival),
    row("marked", "", marked.accuracy, "0.0", marked),
    ...record.curve.map((p) =>
      row("stolen", axis === "none" ? "" : compact(p.strength), p.accuracy, fixed(p.loss_pp, 1), p),
    ),
  ];
  const heads = [
    "model",
    num(axis === "none" ? "" : axis),
    num("accuracy"),
    num("lost, pp"),
    num("agreement"),
    num(marked.unit || "statistic"),
    num("log10 p"),
    "verdict",
    num("as extreme"),
    num("seconds"),
    num("queries"),
    num("examples"),
    num("steps"),
  ];
  return table(`Decided by ${marked.source.replace("_", " ")} at a rate of ${marked.fpr}`, heads, rows, "figures");
}

/** How many nulls were at least as extreme: "0 of 200 keys". */
function beaten(found) {
  const names = { random_keys: "keys", independent_models: "models" };
  const counts = found?.exceed ?? {};
  const full = Object.entries(names).map(([field, noun]) => {
    const count = counts[field] ?? (found?.[field] ? `${found[field].exceed} of ${found[field].count}` : null);
    return count && `${count} ${noun}`;
  });
  return full.filter(Boolean).join(", ");
}

const spent = (cost) => ["seconds", "queries", "examples", "steps"].map((name) => num(cost ? compact(cost[name]) : ""));

function costs(record) {
  const { owner, marked } = record;
  const pp = 100 * (owner.unmarked_accuracy - marked.accuracy);
  const training =
    owner.embeds === false ? "nothing was embedded" : `embedding took ${fixed(owner.embedding_seconds, 1)} s`;
  return el(
    "p",
    { class: "note" },
    `The owner pays ${points(pp)} of accuracy; ${training}; training the unmarked model took ${fixed(owner.victim_seconds, 1)} s.`,
  );
}

const cited = (paper) => (paper && paper !== "none" ? `; ${paper}` : "");

function declarations(record) {
  const lines = [];
  const { scheme, attack } = record;
  if (scheme)
    lines.push(["Scheme", `${scheme.family}; reads ${scheme.reads}; ${scheme.derivation} key${cited(scheme.paper)}`]);
  if (attack)
    lines.push([
      "Attack",
      `needs ${attack.needs}; knows ${attack.scheme_known ? "the scheme" : "nothing of the scheme"}, key known: ${attack.key_known}${cited(attack.paper)}`,
    ]);
  if (record.finished) lines.push(["Finished", record.finished]);
  return el(
    "dl",
    { class: "words" },
    lines.flatMap(([name, text]) => [el("dt", {}, name), el("dd", {}, text)]),
  );
}

const flat = (value, name = "") =>
  value && typeof value === "object"
    ? Object.entries(value).flatMap(([key, item]) => flat(item, name ? `${name}.${key}` : key))
    : [[name, String(value)]];

function folded(title, pairs) {
  const known = pairs.filter(([name]) => name);
  if (!known.length) return el("p", { class: "note" }, `${title}: not recorded.`);
  const rows = known.map(([name, value]) => el("tr", {}, el("th", { scope: "row" }, name), el("td", {}, value)));
  return el("details", {}, el("summary", {}, title), el("table", { class: "pairs" }, el("tbody", {}, rows)));
}
