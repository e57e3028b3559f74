"use strict";
/* The record behind a cell: numbers, costs, environment, and the command that runs it again. */

/** A cell's other trials (seeds, other settings) are a click away. */
function drawDetails(here) {
  const dialog = document.querySelector("#details");
  const record = data.records.find((r) => r.id === state.cell);
  if (!record) {
    if (dialog.open) dialog.close();
    return;
  }
  const close = el("button", { type: "button", class: "close", click: () => dialog.close() }, "Close");
  dialog.replaceChildren(close, heading(record), ...siblings(record, here), ...body(record));
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
}

function siblings(record, here) {
  const column = here.columnOf(record);
  const trials = (column && here.cell(record.choices.watermark, column)?.trials) ?? [record];
  if (trials.length < 2) return [];
  const other = (r) => {
    const pressed = { "aria-pressed": String(r === record) };
    return el("button", { type: "button", ...pressed, click: () => go({ cell: r.id }) }, `seed ${r.seed}: ${shortOutcome(r)}`);
  };
  return [el("p", { class: "others" }, "Trials: ", trials.map(other))];
}

function heading(record) {
  const { watermark, attack } = record.choices;
  return el("h2", { id: "details-title" }, schemeLink(watermark), " under ", link("attack", attackName(attack)));
}

function body(record) {
  return [
    el("p", {}, tag(record), ` ${summary(record)}`),
    ...(record.status === "ok"
      ? [el("div", { class: "scroll" }, evidenceTable(record)), ...told(record), costs(record)]
      : [reasons(record)]),
    el("h3", {}, "Run it again"),
    el("pre", { class: "command", tabindex: 0 }, commandOf(record)),
    el(
      "p",
      { class: "note" },
      "The trial’s id is a hash of all its settings: ",
      el("code", {}, record.id),
      "; the command gives the same.",
    ),
    declarations(record),
    folded("Settings", flat(record.settings)),
    folded("Environment", flat(record.environment)),
  ];
}

const tag = (record) => {
  const kind = record.choices.watermark === data.control && record.status === "ok" ? "control" : record.outcome;
  return el("span", { class: `tag ${kind}` }, GLYPHS[kind], " ", shortOutcome(record));
};
const shortOutcome = (record) => (record.choices.watermark === data.control && record.status === "ok" ? "control" : OUTCOMES[record.outcome]);

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

/** As Python's shlex.join quotes it; view.py says the same. */
function commandOf(record) {
  const quoted = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'"'"'`)}'`);
  const options = Object.entries(record.options ?? record.choices).map(([axis, option]) => `${axis}=${option}`);
  return ["assay", "run", ...options, `seed=${record.seed}`, ...(record.overrides ?? [])].map(quoted).join(" ");
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
    found ? verdict(found) : "not measured",
    found ? decider(found) : "",
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
    "decided by",
    num("as extreme"),
    num("seconds"),
    num("queries"),
    num("examples"),
    num("steps"),
  ];
  return table(`Evidence at a declared rate of ${marked.fpr}`, heads, rows, "figures");
}

const NULLS = { random_keys: "keys", independent_models: "models", rivals: "rivals" };
const decider = ({ source }) => (!source || source === "none" ? "–" : (NULLS[source] ?? source));

/** How many nulls were at least as extreme: "0 of 200 keys", "0 of 201 models, 2 of 99 rivals". */
function beaten(found) {
  if (!found) return "";
  if (found.beyond) return found.beyond.join(", ");
  return Object.entries(NULLS)
    .filter(([null_]) => found[null_])
    .map(([null_, noun]) => `${found[null_].exceed} of ${found[null_].count} ${noun}`)
    .join(", ");
}

/** What some attacks and schemes have besides: the thief's own key, the bits read, the buyers accused, an accuser's deposits. */
function told(record) {
  const axis = record.attack?.axis ?? "strength";
  const at = (point) => (axis === "none" ? "" : `${axis} ${compact(point.strength)}`);
  const rows = record.curve.flatMap((point) => [
    ...thiefs(point, at(point)),
    ...(point.bits === null ? [] : [[at(point), "bits of the payload read right", percent(point.bits)]]),
    ...(point.tracing ? [[at(point), "accused of colluding", traced(point.tracing)]] : []),
    ...(point.claimed ? [[at(point), "an accuser’s key", claimedBy(point.claimed)]] : []),
  ]);
  const message = record.marked.message;
  const shown = message?.decoded ? `, decoded ${message.decoded}${message.whole ? "" : " (not whole)"}` : "";
  if (message) rows.unshift(["marked model", "payload", `${percent(message.accuracy)} of ${message.bits} bits read right${shown}`]);
  if (!rows.length) return [];
  return [el("div", { class: "scroll" }, table("What else was read", ["at", "what", "found"], rows, "figures"))];
}

function thiefs(point, at) {
  if (!point.overwriter) return [];
  const said = (found) => `${statistic(found, found.trials)} ${found.unit}, log10 p ${fixed(found.log10_p, 2)}: ${verdict(found)}`;
  const { surrogate, marked } = point.overwriter;
  return [
    [at, "the thief’s own key in his model", said(surrogate)],
    [at, "the thief’s own key in the owner’s model", said(marked)],
  ];
}

const traced = ({ buyers, colluders, accused }) => {
  const guilty = accused.filter((buyer) => colluders.includes(buyer)).length;
  const found = `${guilty} of ${plural(colluders.length, "colluder")}`;
  return `${found}, ${accused.length - guilty} of ${buyers - colluders.length} innocent buyers`;
};

const claimedBy = ({ deposits, models, claims }) =>
  [`best of ${plural(deposits, "deposit")}`, known(claims) ? `also claims ${claims} of ${models} independent models` : ""].filter(Boolean).join("; ");

const spent = (cost) => ["seconds", "queries", "examples", "steps"].map((name) => num(cost ? compact(cost[name]) : ""));

function costs(record) {
  const { owner, marked } = record;
  const took = record.seconds === null ? "" : ` The trial took ${compact(record.seconds)} s, less what was in the cache.`;
  const pp = 100 * (owner.unmarked_accuracy - marked.accuracy);
  const training =
    owner.embeds === false ? "nothing was embedded" : `embedding took ${fixed(owner.embedding_seconds, 1)} s`;
  return el(
    "p",
    { class: "note" },
    `The owner pays ${points(pp)} of accuracy; ${training}; training the unmarked model took ${fixed(owner.victim_seconds, 1)} s.${took}`,
  );
}

const cited = (paper) => (paper && paper !== "none" ? `; ${paper}` : "");

function declarations(record) {
  const pairs = [];
  const { scheme, attack } = record;
  if (scheme)
    pairs.push(["Scheme", `${scheme.family}; reads ${scheme.reads}; ${scheme.derivation} key${cited(scheme.paper)}`]);
  if (attack)
    pairs.push([
      "Attack",
      `needs ${attack.needs}; knows ${attack.scheme_known ? "the scheme" : "nothing of the scheme"}, key known: ${attack.key_known}${cited(attack.paper)}`,
    ]);
  if (record.finished) pairs.push(["Finished", `${record.finished.slice(0, 16).replace("T", " ")} UTC`]);
  return lines(pairs);
}

const flat = (value, name = "") =>
  value && typeof value === "object" && !Array.isArray(value) && Object.keys(value).length
    ? Object.entries(value).flatMap(([key, item]) => flat(item, name ? `${name}.${key}` : key))
    : [[name, typeof value === "string" ? value : JSON.stringify(value)]];

function folded(title, pairs) {
  const known = pairs.filter(([name]) => name);
  if (!known.length) return el("p", { class: "note" }, `${title}: not recorded.`);
  const rows = known.map(([name, value]) => el("tr", {}, el("th", { scope: "row" }, name), el("td", {}, value)));
  return el("details", {}, el("summary", {}, title), el("table", { class: "pairs" }, el("tbody", {}, rows)));
}
