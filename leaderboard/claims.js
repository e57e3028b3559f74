"use strict";
/* What was reported of a scheme beside what was measured again here. */

const claimsOf = (scheme, here) => {
  const [task, model] = here.board.names;
  return data.claims.filter((claim) => claim.scheme === scheme && claim.task === task && claim.model === model);
};

/** For the ranking: the verdict on each claim. */
function claimCell(scheme, here) {
  const found = claimsOf(scheme, here);
  return found.length ? el("span", {}, found.map((claim) => el("a", { href: `#scheme=${encodeURIComponent(scheme)}`, "data-view": "scheme", "data-name": scheme, title: claim.name }, claim.verdict))) : "–";
}

function claimsSection(scheme, here) {
  return claimsOf(scheme, here).map((claim) => titled(`Claim ${claim.name}: ${claim.verdict}`, ...claimBody(claim)));
}

function claimBody(claim) {
  const about = `Reported numbers against ${plural(claim.seeds, "seed")} measured here by assay claim verify claims/${claim.name}.json. An interval holds 95 of 100 further runs.`;
  const heads = ["reads", num("reported"), num("measured"), num("95 % for a new run"), "verdict", "where it is reported"];
  const value = (x) => (known(x) ? compact(x) : "–");
  const rows = claim.numbers.map((n) => [
    n.reads,
    num(value(n.reported)),
    num(value(n.mean)),
    num(known(n.low) ? `${value(n.low)} to ${value(n.high)}` : "–"),
    el("span", { title: n.because || null }, n.verdict ?? "not measured"),
    `${n.where}${known(n.reported) && n.provenance !== "verified" ? ` (${n.provenance})` : ""}`,
  ]);
  return [
    el("p", { class: "note" }, about, claim.differs ? ` Another setting than the reported one: ${claim.differs.replace(/\.?$/, ".")}` : ""),
    el("div", { class: "scroll" }, table(`Claim ${claim.name}`, heads, rows, "figures reported")),
  ];
}
