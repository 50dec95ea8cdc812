// Names and numbers as cells.

const LEAKED = "There is evidence that the model has seen the test split; this number leads nobody.";

function nameCell(board, entry) {
  const facts = [
    entry.organization || "",
    sizeText(entry.parameters), entry.released ? `released ${entry.released}` : "", entry.open_weights === true ? "open weights" : entry.open_weights === false ? "closed weights" : "",
    entry.limit ? `first ${entry.limit} samples a task` : "",
  ].filter(Boolean);
  return el("th", { scope: "row", class: "pinned" }, legendMark(markOf(board, entry.place)), " ",
    entry.reported ? entry.name : el("a", { href: `./runs/${entry.run}.html` }, entry.name),
    entry.reported ? el("span", { class: "badge", title: entry.source }, "reported") : null,
    entry.imported ? el("span", { class: "badge", title: "Its answers were made elsewhere and handed in" }, "imported") : null,
    entry.leaked.length ? el("span", { class: "badge bad", title: `${LEAKED} ${entry.leaked.join(", ")}` }, "leak") : null,
    facts.length ? el("small", null, facts.join(" · ")) : null);
}

function rankCell(board, entry) {
  if (!entry.rank) return el("td", { class: "number quiet", title: entry.reported ? "Nothing is decided between a run and a paper" : board.ranks[route.protocol].why[entry.place] || null }, "–");
  const [rank, low, high] = entry.rank;
  return el("td", { class: "number" }, rank.toFixed(1), el("small", null, `${low.toFixed(1)} to ${high.toFixed(1)}`));
}

function meanCell(entry) {
  return el("td", { class: entry.mean === null ? "number quiet" : "number" }, entry.mean === null ? "–" : percent(entry.mean, 1));
}

function heatOf(row, entries) {
  // How dark a number stands: between the worst and the best of the runs that are shown.
  const values = entries.map((entry) => row.cells[entry.place]).filter((cell) => cell && cell.value !== null).map((cell) => cell.value);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  return (value) => (high > low ? (0.7 * (row.lower ? high - value : value - low)) / (high - low) : 0);
}

function scoreCell(board, row, entry, heat, detailed) {
  const cell = row.cells[entry.place];
  const hidden = route.shot === "cells" && !(cell && cell.zeroShot);
  if (!cell || hidden) return el("td", { class: "number quiet" }, hidden && cell ? el("span", { title: "Not known to be zero-shot" }, "·") : "");
  const title = `${entry.name}, ${taskOf(board, row.task).title}, ${metricTitle(row.metric)}: ${textOf(cell)}`;
  const number = el(cell.standing === "best" ? "b" : cell.standing === "second" ? "u" : "span", null, cell.value === null ? "n/a" : percent(cell.value, detailed ? 2 : 1));
  const href = samplesLink(entry, row);
  const node = el("td", { class: `number heat${cell.zeroShot ? " zero-shot" : ""}`, title },
    href ? el("a", { href }, number) : number,
    cell.beside && !detailed ? el("abbr", { class: "shot warned", title: cell.beside.join("; ") }, "!") : null,
    cell.leaked ? el("abbr", { title: LEAKED }, "*") : null, cell.zeroShot ? el("abbr", { class: "shot", title: "Zero-shot: known not to have seen the task's train split" }, "zs") : null,
    cell.ci ? el("small", null, `${percent(cell.ci[0], 1)}–${percent(cell.ci[1], 1)}`) : null,
    detailed && cell.std ? el("small", null, `± ${percent(cell.std, 2)}`) : null,
    detailed && cell.beside ? cell.beside.map((text) => el("small", { class: "beside" }, text)) : null);
  node.style.setProperty("--weight", String(cell.value === null ? 0 : heat(cell.value)));
  return node;
}

function textOf(cell) {
  const interval = cell.ci ? ` [${cell.ci.map((end) => percent(end, 1)).join(", ")}]` : "";
  const ceiling = cell.ceiling === undefined || cell.ceiling === null ? "" : ` of ${percent(cell.ceiling, 1)}`;
  return `${percent(cell.value)}${interval}${ceiling}${cell.n ? `, n = ${count(cell.n)}` : ""}${cell.beside ? `; ${cell.beside.join("; ")}` : ""}`;
}
