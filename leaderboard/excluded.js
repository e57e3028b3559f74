"use strict";
/* What counts nowhere on the page and why; boards and pages on which nothing counts. */

function drawExcluded() {
  const { excluded, unsigned } = data;
  document.querySelector("#excluded-section").hidden = !excluded.length && !unsigned;
  document.querySelector("#unsigned-note").textContent = unsigned
    ? `${plural(unsigned, "trial")} of this page ${unsigned === 1 ? "has" : "have"} no content hash, as records did before hashes: they count, and an edit of them would not be seen.`
    : "";
  if (!excluded.length) {
    document.querySelector("#h-excluded").textContent = "Nothing is excluded";
    document.querySelector("#excluded-section > p").hidden = true;
    return;
  }
  const place = document.querySelector("#excluded");
  const rows = (count) => excluded.slice(0, count).map(([kind, file, because]) => [file, kind, because]);
  const all = el("button", { type: "button", class: "more", click: () => shown(excluded.length) }, `All ${plural(excluded.length, "file")}`);
  const shown = (count) => place.replaceChildren(table("Excluded files", ["file", "what", "because it"], rows(count), "figures excluded"), ...(count < excluded.length ? [all] : []));
  shown(DOZEN);
}

/** No record counts: what was found instead, or how to make some. */
function drawNothing() {
  const sections = document.querySelectorAll("#overview section:not(#excluded-section)");
  for (const section of sections) section.remove();
  const none = data.excluded.length ? "No record counts." : "There are no records yet; assay suite quick makes some.";
  document.querySelector("#overview").prepend(el("p", {}, none));
  drawExcluded();
}
