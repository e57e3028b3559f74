"use strict";
/* What the reader chose, kept in the address: #scheme=adi, #attack=prune, #cell=<id>, and the filters beside them. */

const FILTERS = ["schemes", "reads", "family", "key", "attacks", "needs"];
const ACCESS = ["weights", "scores", "labels", "claims"];
const DEFAULTS = {
  board: "",
  seed: "all",
  scheme: "",
  attack: "",
  cell: "",
  order: "rank",
  columns: "overview",
  wins: "rank",
  ...Object.fromEntries(FILTERS.map((name) => [name, ""])),
};
const state = { ...DEFAULTS };

/** The address of the page as it is, with some changes. An id alone is the cell's, as older links have it. */
function addressOf(changes) {
  const changed = Object.entries({ ...state, ...changes }).filter(([name, value]) => value !== DEFAULTS[name]);
  return `#${new URLSearchParams(changed)}`;
}

function readAddress() {
  const text = location.hash.slice(1);
  const given = text.includes("=") ? Object.fromEntries(new URLSearchParams(text)) : { cell: decoded(text) };
  Object.assign(state, DEFAULTS);
  for (const name of Object.keys(DEFAULTS)) if (name in given) state[name] = given[name];
}

/** An address that somebody typed may be no encoding of anything. */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** Views are steps of the history, so that Back leaves them; filters are not. */
function go(changes, step = false) {
  const address = addressOf(changes);
  Object.assign(state, changes);
  history[step ? "pushState" : "replaceState"](null, "", address);
  render();
}

function followLinks() {
  document.addEventListener("click", (event) => {
    const anchor = event.target.closest?.("a[data-view]");
    if (!anchor || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    const { view, name } = anchor.dataset;
    if (view === "cell") go({ cell: name }, true);
    else go({ scheme: "", attack: "", cell: "", ...(name ? { [view]: name } : {}) }, true);
  });
  addEventListener("popstate", () => {
    readAddress();
    render();
  });
}

const contains = (text, part) => text.toLowerCase().includes(part.trim().toLowerCase());

/** Whether the filters let a scheme pass; the control passes where only its name is asked for. */
function schemePasses(name, declared) {
  if (!contains(schemeName(name), state.schemes)) return false;
  if (name === data.control) return !state.reads && !state.family && !state.key;
  const { reads, family, derivation } = declared ?? {};
  return [
    [state.reads, reads],
    [state.family, family],
    [state.key, derivation],
  ].every(([wanted, found]) => !wanted || wanted === found);
}

const attackPasses = (column) => contains(column.label, state.attacks) && (!state.needs || state.needs === column.access);

function drawFilters(declared, columns) {
  const values = (field) => [...new Set([...declared.values()].map((d) => d?.[field]).filter(Boolean))].sort();
  const parts = [
    textFilter("schemes", "Scheme"),
    listFilter("reads", "Reads", values("reads")),
    listFilter("family", "Family", values("family")),
    listFilter("key", "Key", values("derivation")),
    textFilter("attacks", "Attack"),
    listFilter("needs", "Needs", ACCESS.filter((access) => columns.some((c) => c.access === access))),
  ];
  const clear = el("button", { type: "button", id: "clear-filters", click: clearFilters }, "Clear");
  document.querySelector("#filters").replaceChildren(...parts, clear);
  showFilters();
}

function clearFilters() {
  const none = Object.fromEntries(FILTERS.map((name) => [name, ""]));
  for (const name of FILTERS) document.querySelector(`#filter-${name}`).value = "";
  go(none);
}

/** Typing redraws when it pauses. */
function textFilter(name, label) {
  let waiting = 0;
  const typed = (event) => {
    clearTimeout(waiting);
    waiting = setTimeout(() => go({ [name]: event.target.value }), 120);
  };
  const box = { type: "search", id: `filter-${name}`, value: state[name], placeholder: "any", input: typed, size: 10 };
  return el("label", {}, label, " ", el("input", box));
}

function listFilter(name, label, values) {
  const options = ["", ...values].map((value) => el("option", { value, selected: state[name] === value }, value || "any"));
  return el("label", {}, label, " ", el("select", { id: `filter-${name}`, change: (e) => go({ [name]: e.target.value }) }, options));
}

function showFilters() {
  const active = FILTERS.filter((name) => state[name]);
  document.querySelector("#clear-filters").hidden = !active.length;
  for (const name of FILTERS) {
    const box = document.querySelector(`#filter-${name}`);
    if (document.activeElement !== box && box.value !== state[name]) box.value = state[name];
    box.closest("label").classList.toggle("active", Boolean(state[name]));
  }
}
