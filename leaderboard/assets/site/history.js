// The runs of one model, by the day on which they ended.

function historySection(board) {
  const models = Object.entries(board.history);
  if (!models.length && !board.runs.some((run) => run.date)) return null;
  const byRun = new Map(board.runs.map((run, place) => [run.run, place]));
  const news = [...board.runs].filter((run) => run.date).sort((one, other) => (one.date < other.date ? 1 : one.date > other.date ? -1 : 0)).slice(0, SHOWN);
  return el("details", { class: "behind", id: "history" }, el("summary", null, "History"),
    models.map(([title, runs]) => modelHistory(board, title, runs.map((run) => byRun.get(run)))),
    news.length ? [el("h3", null, "Last to come in"), el("ul", null, news.map((run) => el("li", null, `${run.date}: `, el("a", { href: `./runs/${run.run}.html` }, run.name))))] : null);
}

function modelHistory(board, title, places) {
  const rows = primaryRows(board, route.protocol);
  return table(title, ["Run", "Ended on", head("Mean"), ...rows.map((row) => head(taskOf(board, row.task).title))], places.map((place) => [
    el("th", { scope: "row", class: "pinned" }, el("a", { href: `./runs/${board.runs[place].run}.html` }, board.runs[place].run)), board.runs[place].date || "not noted",
    meanCell({ mean: meanOf(board, route.protocol, place) }), ...rows.map((row) => { const cell = row.cells[place]; return numberCell(cell && cell.value !== null ? percent(cell.value, 1) : ""); }),
  ]), "scores primary");
}
