"use strict";
/* What the page carries, unpacked: libraries and trials are gzip in base64, and trials are columns (columns.py). */

let data = null;

async function unpacked(node) {
  const bytes = Uint8Array.from(atob(node.textContent), (letter) => letter.charCodeAt(0));
  const text = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(text).text();
}

/** The policy admits a script by the hash of its text: these run as they would have run in the page. */
async function unpack() {
  for (const node of document.querySelectorAll(".library"))
    document.head.append(el("script", {}, await unpacked(node)));
  data = JSON.parse(await unpacked(document.querySelector("#records")));
  let first = 0;
  data.records = (data.trials.id ?? []).map((_, i) => {
    const trial = new Trial(i, first);
    first += data.trials.points[i];
    return trial;
  });
}

const POOLED = ["options", "reason", "traceback", "scheme", "attack", "nulls", "environment", "owner", "marked"];
const OWN = ["board", "seed", "weakest", "seconds"];
const WITHOUT_NUMBER = ["blocked", "not_applicable", "failed"];

class Trial {
  #place;
  #first;
  #curve = null;

  constructor(place, first) {
    const { trials } = data;
    this.#place = place;
    this.#first = first;
    for (const name of OWN) this[name] = trials[name][place];
    for (const name of [...POOLED, "controls", "overrides"]) this[name] = data.pool[trials[name][place]];
    this.choices = this.#named(trials.axes);
    this.outcome = data.outcomes[trials.outcome[place]];
    this.status = WITHOUT_NUMBER.includes(this.outcome) ? this.outcome : "ok";
    const short = trials.id[place];
    this.id = short.startsWith("-") ? this.#prefix() + short : short;
    const minute = trials.finished[place];
    this.finished = minute === null ? null : new Date((trials.start + minute) * 60000).toISOString();
  }

  #named(columns) {
    const named = Object.entries(columns).map(([name, column]) => [name, data.pool[column[this.#place]]]);
    return Object.fromEntries(named.filter(([, value]) => value !== null));
  }

  #prefix() {
    const options = this.options ?? this.choices;
    const axes = ["task", "model", "watermark", "deployment", "attack"].map((axis) => options[axis] ?? "");
    return [...axes, `s${this.seed}`].join("-");
  }

  get settings() {
    return this.#named(data.trials.config);
  }

  get curve() {
    this.#curve ??= Array.from({ length: data.trials.points[this.#place] }, (_, i) => this.#point(i));
    return this.#curve;
  }

  #point(i) {
    const { curves } = data.trials;
    const at = this.#first + i;
    const given = (name) => data.pool[curves[name][this.#place]][i];
    const beyond = (name) => (given(name) === null ? null : `${curves[`${name}_beyond`][at]} of ${given(name)} ${name}`);
    const point = { strength: given("strength"), beyond: ["keys", "models", "rivals"].map(beyond).filter(Boolean) };
    for (const name of ["accuracy", "agreement", "statistic", "log10_p", "bits"]) point[name] = curves[name][at];
    point.source = data.pool[curves.source[at]];
    point.detected = [false, true, null][curves.detected[at]];
    point.loss_pp = 100 * (this.marked.accuracy - point.accuracy);
    point.cost = { seconds: curves.seconds[at] };
    for (const name of ["queries", "examples", "steps"]) point.cost[name] = given(name);
    return { ...point, ...curves.extras[at] };
  }
}
