"use strict";
/* The ranking, as Tabulator draws it: sorted and filtered by the reader. */

const notRun = (row) =>
  ["blocked", "not_applicable", "failed"]
    .filter((name) => row[name])
    .map((name) => `${row[name]} ${OUTCOMES[name]}`)
    .join(", ");

function drawRanking() {
  const node = (value) => (value instanceof Node ? value : document.createTextNode(String(value)));
  const as = (write) => (cell) => node(write(cell.getValue(), cell.getRow().getData()));
  const number = {
    hozAlign: "right",
    headerHozAlign: "right",
    sorter: "number",
    sorterParams: { alignEmptyValues: "bottom" },
  };
  const text = { formatter: as((value) => value ?? "–"), headerFilter: "list", headerFilterPlaceholder: "all" };
  const listed = { ...text, headerFilterParams: { valuesLookup: true, clearable: true } };
  const sized = (width) => ({ width, minWidth: width });
  const count = { ...number, formatter: as((value) => (value ? value : "·")) };
  const columns = [
    { title: "#", field: "rank", ...sized(38), ...number, frozen: true, formatter: as((value) => value ?? "–") },
    {
      title: "scheme",
      field: "watermark",
      minWidth: 112,
      widthGrow: 3,
      frozen: true,
      formatter: as((v) => el("strong", {}, v)),
      headerFilter: "input",
      headerFilterPlaceholder: "filter",
    },
    { title: "family", field: "family", minWidth: 92, ...listed },
    { title: "reads", field: "reads", minWidth: 76, ...listed },
    { title: "key", field: "derivation", minWidth: 76, ...listed },
    {
      title: "owner’s cost",
      field: "cost_pp",
      ...sized(78),
      ...number,
      formatter: as((value) => (value === null ? "–" : points(value))),
    },
    {
      title: "survived",
      field: "share",
      ...sized(82),
      ...number,
      formatter: as((_, row) => (row.decided ? `${row.survived}/${row.decided}` : "–")),
    },
    { title: "removed", field: "removed", ...sized(82), ...count },
    { title: "forged", field: "forged", ...sized(70), ...count, visible: ranks().some((row) => row.forged) },
    { title: "too costly", field: "too_costly", ...sized(68), ...count },
    { title: "undecided", field: "undecided", ...sized(92), ...count },
    {
      title: "not run",
      field: "not_run",
      ...sized(62),
      ...count,
      tooltip: (_, cell) => notRun(cell.getRow().getData()),
    },
    {
      title: `weakest p in ${data.budget_pp} pp`,
      field: "weakest_log10_p",
      ...sized(84),
      ...number,
      formatter: as(pValue),
    },
    {
      title: "under",
      field: "weakest_attack",
      minWidth: 84,
      formatter: as((value) => (value === null ? "–" : attackName(value))),
    },
    {
      title: "false claims",
      field: "false_claims",
      ...sized(68),
      ...number,
      formatter: as((value) => (value ? el("strong", { class: "alarm" }, value) : "none")),
    },
    { title: "seeds", field: "seeds", ...sized(64), ...count },
  ];
  const rows = ranks().map((row) => ({
    ...row,
    share: row.decided ? row.survived / row.decided : null,
    not_run: row.blocked + row.not_applicable + row.failed,
  }));
  drawRanking.table?.destroy();
  const heads = { headerSortTristate: true, headerWordWrap: true, resizable: false };
  const table_ = new Tabulator("#ranking", {
    data: rows,
    columns,
    columnDefaults: heads,
    layout: "fitColumns",
    renderVertical: "basic",
    placeholder: "No scheme was tried on this board.",
  });
  table_.on("tableBuilt", () => sortableByKeyboard(table_));
  drawRanking.table = table_;
}

/** Tabulator sorts by mouse only. */
function sortableByKeyboard(table_) {
  for (const column of table_.getColumns()) {
    const head = column.getElement();
    head.setAttribute("tabindex", "0");
    head.addEventListener("keydown", (event) => {
      if (event.target !== head || (event.key !== "Enter" && event.key !== " ")) return;
      event.preventDefault();
      table_.setSort(column.getField(), head.getAttribute("aria-sort") === "ascending" ? "desc" : "asc");
    });
  }
}
