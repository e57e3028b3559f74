"use strict";
/* What deployments do to thieves: a table of the board's deployments, and the same columns for the ranking. */

const isDeployed = (row) => known(row.clone_fidelity) || row.watched > 0;
const accusedCell = (row) => el("span", { title: row.benign_worst_kind && `customers of the kind ${row.benign_worst_kind.replace("_", " ")}` }, percents(row.benign_fpr_worst));

/** Infinite where half of the thieves never come so far. */
function multiplierCell(row) {
  if (!row.cost_trials) return "–";
  const never = row.cost_never ? `${row.cost_never} of ${plural(row.cost_trials, "thief").replace("thiefs", "thieves")} never get there` : null;
  return el("span", { title: never }, known(row.cost_multiplier) ? compact(row.cost_multiplier) : "never");
}

function alarmCell(row) {
  if (!row.watched) return "–";
  return el("span", { title: `${row.alarmed} of ${plural(row.watched, "trial")} raised an alarm` }, row.alarmed ? compact(row.queries_to_alarm) : "none");
}

function deploymentColumns() {
  return [
    numeric("clone_fidelity", "clone fidelity at budget", (row) => percents(row.clone_fidelity), {
      hint: "Agreement of the last clone with the victim on the test split, under the attack with the largest",
    }),
    { field: "clone_attack", title: "under", show: (row) => (row.clone_attack ? attackName(row.clone_attack) : "–") },
    numeric("queries_to_alarm", "queries to alarm", alarmCell, { hint: "Median of the samples answered before the first alarm" }),
    numeric("benign_fpr_worst", "benign FPR (worst user type)", accusedCell, { up: true, hint: "Share of honest customers accused, of the kind accused most often" }),
    numeric("cost_multiplier", "cost multiplier", multiplierCell, {
      hint: "Queries to 90 % of the fidelity that the same thief reaches where nothing stops him, over the queries he needs there; median",
    }),
  ];
}

function drawDeployments(here) {
  const rows = here.deployments;
  document.querySelector("#deployment-section").hidden = !rows.length;
  if (!rows.length) return;
  const named = { field: "deployment", title: "deployment" };
  const trials = numeric("trials", "trials", (row) => String(row.trials));
  document.querySelector("#deployments").replaceChildren(sortableTable("Deployments", [trials, named, ...deploymentColumns()], rows, deploymentMemory));
}

const deploymentMemory = {};
