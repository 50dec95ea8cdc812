// The first page: every number with its interval, and what became of the samples.

function runLegend() {
  return el("ul", { class: "legend", "aria-label": "Runs" }, RUNS.map((run, place) =>
    el("li", null, legendMark(place), el("span", null, run.name), el("code", null, run.run))));
}

function drawSummary() {
  const protocol = route.protocol;
  const ticks = along(0, 100);
  const several = RUNS.length > 1;
  const all = table(null, ["Task", "Metric", ...RUNS.map((run) => head(run.name)), ...(several ? [] : [plotHead(axis(ticks, SHARES))])],
    TASKS.flatMap((task) => scoreRows(task, protocol, true)), "scores", `scores-${protocol}`);
  return [
    leakBanner(),
    noticeList(),
    several ? [headlineText(protocol), primaryTable(protocol), forest(protocol), kindBars(protocol), runLegend()] : null,
    several ? el("details", { class: "behind", open: allShown, ontoggle: (event) => { allShown = event.target.open; } }, el("summary", null, "All metrics"), scoresNote(protocol), all)
      : [el("h2", null, "Scores"), scoresNote(protocol), all],
    el("h2", null, "What happened to the samples"),
    stateTable(),
    writtenTable(),
    missingList(),
    keptHere(),
  ];
}

let allShown = false;

function scoresNote(protocol) {
  return el("p", { class: "quiet" }, "Percentages with 95 % intervals that account for images, patients, volumes or documents. ",
      TASKS.some((task) => task.scores[protocol].some((row) => row.cells.some((cell) => cell && cell.ceiling !== null)))
        ? "“of”, and the dashed line: what a perfect model scores that must write boxes in this model's notation. " : "",
      TASKS.some((task) => task.scores[protocol].some((row) => row.cells.some((cell) => cell && cell.beside.length)))
        ? "“answered”: share of the answers that could be read; under strict the others are wrong, and the number among these is never to be compared. “failures”: the number had all samples that a machine failed on been wrong, and had all been right. " : "",
      TASKS.some((task) => task.leaked.some(Boolean)) ? `“*”: ${LEAKED} ` : "",
      RUNS.length > 1 ? "Whether runs differ is decided on the samples that they share: see Compare. " : "");
}

function keptHere() {
  const titles = TASKS.filter((task) => !task.open && !task.withheld).map((task) => task.title);
  return titles.length ? [el("h2", null, "Before you pass this report on"),
    el("p", null, `It may show texts and images of ${titles.join(", ")}, and nothing says that these data may be passed on.`)] : null;
}

function scoreRows(task, protocol, named) {
  const rows = task.scores[protocol];
  return rows.map((row, place) => {
    const title = metricTitle(row.metric);
    const signatures = [...new Set(row.cells.filter(Boolean).map((cell) => cell.signature))].join("\n");
    return [
      ...(named ? (place ? [] : [el("th", { scope: "rowgroup", rowspan: rows.length }, taskLink(task))]) : []),
      el("td", { class: "metric", title: signatures }, title, row.metric === task.primary[protocol] ? el("span", { class: "star", title: "the task's primary metric" }, " ●") : null),
      ...row.cells.map((cell, run) => numberCell(cell ? [scoreText(cell), task.leaked[run] ? el("abbr", { title: LEAKED }, "*") : null, el("small", null, `n = ${count(cell.n)}`), besideNumber(cell)] : el("span", { class: "quiet" }, unansweredText(task, run)))),
      ...(RUNS.length > 1 && named ? [] : [el("td", { class: "plotted" }, scorePlot(row.cells, `${task.title}, ${title}`))]),
    ];
  });
}

const LEAKED = "There is evidence that the model has seen the test split; such a number leads nobody. See Audit.";

function besideNumber(cell) {
  const among = cell.amongAnswered === null ? [] : [`among these ${percent(cell.amongAnswered)}`];
  return [...cell.beside, ...among].map((text) => el("small", { class: "beside" }, text));
}

function unansweredText(task, run) {
  return RUNS[run].unsupported.includes(task.name) ? "not supported" : "";
}

function taskLink(task) {
  return el("a", { href: linkTo({ view: "samples", task: task.name }) }, task.title);
}

function stateTable() {
  const all = TASKS.flatMap((task) => RUNS.map((run, place) => [task, run, place])).filter(([task, , place]) => task.states[place]);
  // Of many runs, where something else happened than an answer.
  const rows = RUNS.length > MANY ? all.filter(([task, , place]) => STATES.some((state) => state !== "ok" && task.states[place][state])) : all;
  if (!rows.length) return el("p", null, "Every run answered every sample.");
  return [
    rows.length < all.length ? el("p", { class: "quiet" }, `Left out where every sample has an answer: ${count(all.length - rows.length)} of ${count(all.length)} rows.`) : null,
    el("ul", { class: "legend", "aria-label": "States" }, STATES.map((state) => el("li", null, el("span", { class: `swatch ${state}`, "aria-hidden": "true" }), state))),
    table(null, ["Task", ...(RUNS.length > 1 ? ["Run"] : []), ...STATES.map((state) => head(state)), plotHead()],
      rows.map(([task, run, place], at) => [
        ...(at && rows[at - 1][0] === task ? [] : [el("th", { scope: "rowgroup", rowspan: rows.filter(([one]) => one === task).length }, taskLink(task))]),
        ...(RUNS.length > 1 ? [el("td", null, legendMark(place), " ", run.name)] : []),
        ...STATES.map((state) => numberCell(stateCount(task, place, state))),
        el("td", { class: "plotted" }, stackedBar(STATES.map((state) => [state, task.states[place][state] || 0]), `${task.title}, ${run.name}`)),
      ]), "scores"),
  ];
}

function writtenTable() {
  const rows = TASKS.flatMap((task) => RUNS.map((run, place) => [task, run, place])).filter(([task, , place]) => task.written[place]);
  return rows.length ? [
    el("h2", null, "Thoughts, and answers at the limit of tokens"),
    table(null, ["Task", ...(RUNS.length > 1 ? ["Run"] : []), ...DOC.writtenHeads.map((title) => head(title))],
      rows.map(([task, run, place]) => [
        el("th", { scope: "row" }, taskLink(task)),
        ...(RUNS.length > 1 ? [el("td", null, legendMark(place), " ", run.name)] : []),
        ...task.written[place].map((cell) => numberCell(cell)),
      ]), "scores"),
  ] : null;
}

function stateCount(task, run, state) {
  const number = task.states[run][state] || 0;
  if (!number || state === "ok") return count(number);
  return el("a", { href: linkTo({ view: "samples", task: task.name, state, run }) }, count(number));
}

function missingList() {
  const lines = [
    ...[...new Set(RUNS.flatMap((run) => run.missing))].map((line) => `${RUNS.filter((run) => run.missing.includes(line)).map((run) => run.name).join(", ")}: ${line}`),
    ...TASKS.filter((task) => task.missing).map((task) => `${task.title}, prompts, references and images: ${task.missing}`),
    ...TASKS.filter((task) => task.withheld).map((task) => `${task.title}: its data need a signed agreement, so texts and images are left out.`),
  ];
  return lines.length ? [el("h2", null, "Not in this report"), el("ul", { class: "missing" }, lines.map((line) => el("li", null, line)))] : null;
}
