"use strict";
/* Of each scheme the share of thefts still proved at every loss under the worst attack, with its exact interval. */

function drawFrontiers(here) {
  const known_ = here.schemes.filter((name) => here.frontiers[name]);
  document.querySelector("#frontier-section").hidden = !known_.length;
  if (!known_.length) return;
  const panels = () => {
    const drawn = known_.slice(0, more.frontiers).map((name) => frontierPanel(name, here.frontiers[name]));
    document.querySelector("#frontiers").replaceChildren(...drawn);
    moreButton(document.querySelector("#frontiers-more"), "frontiers", known_.length, "scheme", panels);
  };
  panels();
}

function frontierPanel(name, found, size = { width: 250, height: 150 }) {
  return el("figure", { class: "panel" }, el("figcaption", {}, schemeLink(name)), frontierChart(found, size));
}

function frontierChart(found, size) {
  const steps = found.loss_pp.map((loss, i) => {
    const values = ["least", "most", "low", "high"].map((end) => [end, found[end][i]]);
    return { loss, ...Object.fromEntries(values) };
  });
  const there = (step) => step.least !== null;
  const step = { x: "loss", curve: "step-after" };
  const band = (y1, y2, fill) => Plot.areaY(steps, { ...step, y1: (s) => (there(s) ? s[y1] : NaN), y2: (s) => (there(s) ? s[y2] : NaN), fill, fillOpacity: 0.5 });
  const titled = (s) =>
    [
      `losing at most ${fixed(s.loss, 2)} pp`,
      `proved: ${percents(s.least)}${s.most > s.least ? ` to ${percents(s.most)}` : ""}`,
      `95 % interval: ${percents(s.low)} to ${percents(s.high)}`,
    ].join("\n");
  return Plot.plot({
    ...size,
    marginLeft: 38,
    marginBottom: 32,
    marginTop: 10,
    ariaLabel: "Share of thefts proved under the worst attack, by accuracy lost",
    x: { domain: [0, data.wide_pp], ticks: 5, label: "accuracy lost (pp)" },
    y: { domain: [0, 1], ticks: [0, 0.5, 1], tickFormat: (value) => `${100 * value} %`, label: null },
    marks: [
      band("low", "high", "var(--bar)"),
      band("least", "most", "var(--soft)"),
      Plot.ruleX([data.budget_pp], { stroke: "var(--rule)", strokeDasharray: "2 3" }),
      Plot.line(steps, { ...step, y: (s) => (there(s) ? s.least : NaN), stroke: "var(--c0)", strokeWidth: 2 }),
      Plot.tip(steps.filter(there), Plot.pointerX({ x: "loss", y: "least", title: titled, fontSize: 12, lineHeight: 1.3 })),
    ],
  });
}
