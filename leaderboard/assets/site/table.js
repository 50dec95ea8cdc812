// The tables: primary metrics with ranks and means first, every metric of a task behind a fold.

const RANK_TITLE = "Mean rank over the kinds of tasks, with the interval that holds 95 % of the ranks when test cases are drawn again";
const MEAN_TITLE = "Mean of the primary metrics, in which kinds of tasks weigh alike; only of runs with a number on every task and no leak";
const SORTS = {
  rank: { title: "Rank", up: true, value: (entry) => (entry.rank ? entry.rank[0] : null) },
  mean: { title: "Mean", value: (entry) => entry.mean },
  name: { title: "Model", up: true, value: (entry) => entry.name.toLowerCase() },
  size: { title: "Parameters", up: true, value: (entry) => entry.parameters || null },
  released: { title: "Released", value: (entry) => entry.released || null },
  date: { title: "Run on", value: (entry) => entry.date || null },
};

function sortOf(board, detail) {
  if (Object.hasOwn(SORTS, route.sort)) return SORTS[route.sort];
  const row = board.tables[route.protocol].rows.find((one) => `${one.task}:${one.metric}` === route.sort);
  return row && (row.primary || detail) ? { title: row.task, up: row.lower, value: (entry) => { const cell = row.cells[entry.place]; return cell ? cell.value : null; } } : null;
}

function sorted(board, entries, detail) {
  // What has no number comes last in either direction; equals stay in the order of their ranks.
  const ordered = [...entries].sort(compareOrder);
  const by = sortOf(board, detail);
  if (!by) return ordered;
  const direction = (by.up ? 1 : -1) * (route.way === "back" ? -1 : 1);
  return ordered.sort((one, other) => {
    const [a, b] = [by.value(one), by.value(other)];
    if (a === null || b === null) return (a === null) - (b === null);
    return a < b ? -direction : a > b ? direction : 0;
  });
}

function sortHead(board, key, text, small, title, detail) {
  const by = sortOf(board, detail);
  const active = route.sort === key && by;
  const rising = active && Boolean(by.up) !== (route.way === "back");
  const next = !active ? { sort: key, way: "" } : route.way ? { sort: "", way: "" } : { sort: key, way: "back" };
  return el("th", { scope: "col", class: key === "name" ? "pinned" : "number", "aria-sort": active ? (rising ? "ascending" : "descending") : null },
    el("button", { type: "button", "data-sort": key, title, onclick: () => { change(next); const again = document.querySelector(`[data-sort="${CSS.escape(key)}"]`); if (again) again.focus(); } },
      el("span", { class: "head" }, headText(text)), small ? el("small", null, small) : null));
}

function headText(text) {
  // Two lines at most: a title breaks behind its last hyphen.
  const at = text.lastIndexOf("-") + 1;
  return at ? [el("span", { class: "whole" }, text.slice(0, at)), el("wbr"), el("span", { class: "whole" }, text.slice(at))] : text;
}

function boardTable(board, entries) {
  const rows = shownRows(primaryRows(board, route.protocol), board);
  const ranked = entries.some((entry) => entry.rank);
  const heats = rows.map((row) => heatOf(row, entries));
  const heads = [
    sortHead(board, "name", "Model", "", "Sort by name"),
    ...(ranked ? [sortHead(board, "rank", "Rank", "95 %", RANK_TITLE)] : []), sortHead(board, "mean", "Mean", "", MEAN_TITLE),
    ...rows.map((row) => sortHead(board, `${row.task}:${row.metric}`, taskOf(board, row.task).title, metricTitle(row.metric), row.definition)),
  ];
  const lines = sorted(board, entries).map((entry) => [
    nameCell(board, entry), ...(ranked ? [rankCell(board, entry)] : []), meanCell(entry),
    ...rows.map((row, place) => scoreCell(board, row, entry, heats[place], false)),
  ]);
  return table(`Primary metric of each task, protocol ${route.protocol}`, heads, lines, "scores primary", `leaderboard-${route.protocol}`);
}

function everyMetric(board, entries) {
  const there = shownRows(board.tables[route.protocol].rows, board);
  const names = [...new Set(there.map((row) => row.task))];
  if (!names.length) return null;
  const chosen = names.includes(route.task) ? route.task : names[0];
  const rows = there.filter((row) => row.task === chosen);
  const heats = rows.map((row) => heatOf(row, entries));
  const heads = [sortHead(board, "name", "Model", "", "Sort by name"), ...rows.map((row) => sortHead(board, `${row.task}:${row.metric}`, metricTitle(row.metric), row.primary ? "primary" : "", row.definition, true))];
  return [
    choice("task", "Task ", names.map((name) => [name, taskOf(board, name).title]), chosen, (task) => { change({ task }); byId("task").focus(); }),
    table(`Every metric of ${taskOf(board, chosen).title}, protocol ${route.protocol}`, heads, sorted(board, entries, true).map((entry) => [nameCell(board, entry), ...rows.map((row, place) => scoreCell(board, row, entry, heats[place], true))]), "scores primary", `${chosen}-${route.protocol}`),
    el("details", { class: "behind" }, el("summary", null, "Exact definitions"), el("ul", null, rows.map((row) => el("li", null, `${metricTitle(row.metric)}: `, el("code", null, row.definition || "of a paper"))))),
  ];
}
