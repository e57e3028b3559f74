"use strict";
/* How this page says things: elements, numbers, outcomes. Text is always set as text, never parsed as markup. */

const OUTCOMES = {
  survives: "survives",
  removed: "removed",
  forged: "forged",
  undecided: "undecided",
  too_costly: "too costly",
  blocked: "blocked",
  not_applicable: "n.a.",
  failed: "failed",
};
const MEANING = {
  survives: "evidence in every stolen model within the budget; an accuser’s key finds none",
  removed: "some stolen model within the budget carries none",
  forged: "an accuser’s key finds a model he did not mark",
  undecided: "the null is too small to decide",
  too_costly: "no stolen model within the budget",
  blocked: "the deployment denies what the attack needs",
  not_applicable: "the scheme or the attack has no place in this model",
  failed: "the trial ended in an error",
};
/** One character per outcome, so that no cell is told by its colour alone. */
const GLYPHS = {
  survives: "+",
  removed: "×",
  forged: "F",
  undecided: "?",
  too_costly: "·",
  blocked: "–",
  not_applicable: "/",
  failed: "!",
  control: "o",
};
/** What speaks for a cell of several trials: the worst that has a number. */
const WORST_FIRST = ["removed", "forged", "undecided", "survives", "too_costly", "failed", "blocked", "not_applicable"];
const CONTROLS = { unmarked: "unmarked", marked_by_rival: "rival’s model", key_of_rival: "rival’s key" };

/** el("td", {class: "num"}, "text", node): attributes by name; functions become listeners; null children are left out. */
function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

const svg = (tag, attributes) => {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
};

const MINUS = "−";
const signed = (text) => text.replace("-", MINUS);
/** What rounds to zero has no sign. */
const fixed = (value, digits) => (value === null || value === undefined ? "–" : signed(value.toFixed(digits).replace(/^-(?=[0.]+$)/, "")));
const percent = (share) => (share === null || share === undefined ? "" : `${fixed(100 * share, 1)} %`);
const points = (pp) => `${pp >= 0.05 ? "+" : ""}${fixed(pp, 1)} pp`;
const lost = (pp) => (pp < -0.05 ? `gained ${fixed(-pp, 1)} pp` : `lost ${fixed(Math.max(pp, 0), 1)} pp`);
const percents = (share) => (share === null || share === undefined ? "–" : `${fixed(100 * share, 0)} %`);
const compact = (value) => (value === null || value === undefined ? "–" : signed(String(Number(value.toPrecision(4)))));

/** 10^-77 for -76.8; plain above 0.001. */
function pValue(log10) {
  if (log10 === null || log10 === undefined) return "–";
  if (log10 > -3) return String(Number((10 ** log10).toPrecision(2)));
  return el("span", { class: "power" }, "10", el("sup", {}, fixed(log10, 0)));
}

const verdict = (found) =>
  found.source === "none" ? "–" : { true: "found", false: "not found", null: "undecided" }[found.detected];
const statistic = (found, trials) =>
  compact(found.statistic) + (trials && found.statistic !== null ? ` of ${trials}` : "");
const plural = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;

/** rows: arrays of cells, each a string, a node or {text, class}; the first cell heads its row. */
function table(caption, heads, rows, kind) {
  const cell = (tag, content, extra) => {
    const plain = content === null || typeof content !== "object" || content instanceof Node;
    return el(tag, { ...extra, class: plain ? null : content.class }, plain ? content : content.text);
  };
  return el(
    "table",
    { class: kind },
    el("caption", {}, caption),
    el(
      "thead",
      {},
      el(
        "tr",
        {},
        heads.map((head) => cell("th", head, { scope: "col" })),
      ),
    ),
    el(
      "tbody",
      {},
      rows.map(([first, ...rest]) =>
        el(
          "tr",
          {},
          cell("th", first, { scope: "row" }),
          rest.map((c) => cell("td", c)),
        ),
      ),
    ),
  );
}

const attackName = (attack) => (attack === "none" ? "no attack" : attack);
const schemeName = (scheme) => (scheme === data.control ? "no watermark" : scheme);
const num = (text) => ({ text, class: "num" });

/** A link to a scheme's, an attack's or a cell's view; the filters stay (state.js follows it). */
const link = (kind, name, text = name) =>
  el("a", { href: `#${kind}=${encodeURIComponent(name)}`, "data-view": kind, "data-name": name }, text);
const schemeLink = (scheme) => link("scheme", scheme, schemeName(scheme));
const attackLink = (label) => link("attack", label);

const lines = (pairs) =>
  el(
    "dl",
    { class: "words" },
    pairs.filter(([, text]) => text).flatMap(([name, text]) => [el("dt", {}, name), el("dd", {}, text)]),
  );
