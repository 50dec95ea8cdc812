// The page of a task: its numbers, its filters, the list of its samples and the one that is looked at.

let list = null;
let shownRow = null;

function select(name, label, options, value, onchange) {
  return el("label", { class: "field" }, el("span", null, label),
    el("select", { name, onchange: (event) => onchange(event.target.value) }, options.map(([key, text]) => el("option", { value: key, selected: key === value }, text))));
}

function change(changes) {
  Object.assign(route, changes);
  keepRoute();
  refreshSamples();
}

function redraw(changes) {
  Object.assign(route, changes);
  keepRoute();
  draw();
}

function drawSamples() {
  const task = TASK_BY_NAME.get(route.task);
  if (!task) return [el("p", null, "This run answered no task.")];
  const metric = metricOf(task, route.protocol, route.metric);
  list = makeList(`Samples of ${task.title}`, (row) => drawRow(task, row), (row, place, total) => showSample(task, row, place, total));
  return [
    el("h2", { class: "unseen" }, "Samples"),
    el("div", { class: "task-head" },
      select("task", "Task", TASKS.map((one) => [one.name, one.title]), task.name, (name) => redraw({ ...blankFilters(), task: name })),
      el("details", { class: "numbers" }, el("summary", null, headline(task)), taskNumbers(task), behindTheNumber(task))),
    el("details", { class: "filter-box", open: !matchMedia("(max-width: 860px)").matches }, el("summary", null, "Search and filters"),
      el("form", { class: "filters", role: "search", onsubmit: (event) => event.preventDefault() }, filterFields(task, metric))),
    el("p", { id: "count", role: "status", "aria-live": "polite" }),
    el("div", { class: "browser" }, list.host, el("article", { id: "sample", "aria-labelledby": "sample-title", tabindex: -1 })),
  ];
}

function blankFilters() {
  return { q: "", state: "", outcome: "", between: "", metric: "", at: "", labels: {} };
}

function headline(task) {
  const row = task.scores[route.protocol].find((one) => one.metric === task.primary[route.protocol]) || task.scores[route.protocol][0];
  if (!row) return "Not scored";
  if (RUNS.length > 3) return `${metricTitle(row.metric)} of ${RUNS.length} runs, by label, spread`;
  return `${metricTitle(row.metric)} ${row.cells.map((cell, run) => (cell ? `${RUNS.length > 1 ? `${RUNS[run].name} ` : ""}${scoreText(cell)}` : "")).filter(Boolean).join("; ")}`;
}

function taskNumbers(task) {
  if (RUNS.length > MANY) return [runLegend(), numbersByRun(task)];
  return [runLegend(), table(null, ["Metric", ...RUNS.map((run) => head(run.name)), plotHead(axis(along(0, 100), SHARES))],
    scoreRows(task, route.protocol, false), "scores")];
}

function numbersByRun(task) {
  const rows = task.scores[route.protocol];
  return table(null, ["Run", ...rows.map((row) => head([metricTitle(row.metric), row.metric === task.primary[route.protocol] ? el("span", { class: "star" }, " ●") : null]))],
    runsInOrder(route.protocol).filter((run) => task.answers[run]).map((run) => [el("th", { scope: "row", class: "pinned" }, legendMark(run), ` ${RUNS[run].name}`),
      ...rows.map((row) => numberCell(scoreText(row.cells[run]), task.leaked[run] ? el("abbr", { title: LEAKED }, "*") : null))]), "scores", `${task.name}-${route.protocol}`);
}

function filterFields(task, metric) {
  const others = answered(task);
  const metrics = task.sampleMetrics[route.protocol].map((one) => [one, metricTitle(one)]);
  return [
    el("label", { class: "field grow" }, el("span", null, "Search"),
      el("input", { type: "search", id: "search", name: "q", value: route.q, placeholder: "words in ids, prompts, references, answers ( / )", autocomplete: "off", spellcheck: "false", oninput: (event) => searchSoon(event.target.value) })),
    others.length > 1 ? select("run", "Answers of", others.map((run) => [String(run), RUNS[run].name]), String(route.run), (run) => change({ run: Number(run) })) : null,
    select("state", "State", [["", "any"], ...STATES.map((state) => [state, `${state} (${count((task.states[route.run] || {})[state] || 0)})`])], route.state, (state) => change({ state })),
    select("outcome", "Outcome", [["", "any"], ...Object.entries(OUTCOMES)], route.outcome, (outcome) => change({ outcome })),
    metrics.length > 1 ? select("metric", "By metric", metrics, metric, (one) => change({ metric: one })) : null,
    others.length > 1 ? select("between", "Between runs", [["", "any"], ["answers", "answers differ"], ["scores", "scores differ"],
      ...others.map((run) => [`only-${run}`, `only ${RUNS[run].name} is right`])], route.between, (choice) => change({ between: choice })) : null,
    (task.labels || []).filter(({ values }) => values.length > 1).map(({ key, title, values, of }) =>
      select(`label.${key}`, title, [["", "any"], ...labelOptions(values, of)], route.labels[key] || "", (value) => change({ labels: withLabel(key, value) }))),
    select("sort", "Order", [...(others.length > 1 ? [["differ", "where they differ first"]] : []), ["data", "as in the data"], ["worst", "worst first"], ["best", "best first"]], sortOf(route), (sort) => change({ sort })),
    el("button", { type: "button", onclick: () => redraw(blankFilters()) }, "Clear"),
  ];
}

function labelOptions(values, of) {
  const counts = new Array(values.length).fill(0);
  for (const place of of) if (place >= 0) counts[place] += 1;
  return values.map((value, place) => [value, `${value} (${count(counts[place])})`]);
}

function withLabel(key, value) {
  const labels = { ...route.labels };
  if (value) labels[key] = value;
  else delete labels[key];
  return labels;
}

let typing = 0;

function searchSoon(q) {
  clearTimeout(typing);
  typing = setTimeout(() => change({ q }), 120);
}

function refreshSamples() {
  const task = TASK_BY_NAME.get(route.task);
  const metric = metricOf(task, route.protocol, route.metric);
  const rows = filtered(task, route, metric);
  const wanted = task.ids.indexOf(route.at);
  byId("count").textContent = countText(task, rows, metric);
  list.show(rows, wanted);
}

function countText(task, rows, metric) {
  if (!task.ids.length) return "The samples of this task are not in the report; see “Not in this report” on the first page.";
  const means = answered(task).map((run) => [run, meanScore(task, rows, run, route.protocol, metric)]).filter(([, mean]) => mean !== null);
  if (RUNS.length > 3) return `${count(rows.length)} of ${plural(task.ids.length, "sample", "samples")}`;
  const scores = means.map(([run, mean]) => `${RUNS.length > 1 ? `${RUNS[run].name} ` : ""}${percent(mean, 1)}`).join(", ");
  return `${count(rows.length)} of ${plural(task.ids.length, "sample", "samples")}${scores ? `; sample by sample, ${metricTitle(metric)} averages ${scores}` : ""}`;
}

function drawRow(task, row) {
  const metric = metricOf(task, route.protocol, route.metric);
  const number = task.images && task.images[row] ? task.images[row][0] : undefined;
  const picture = number === undefined ? null : pictureOf(number);
  const right = textOf(task.reference, row);
  const box = boxOf(task.rightBox, row);
  return [
    task.images && task.images.some((images) => images.length) ? (picture ? el("img", { src: picture.uri, alt: "", class: "thumb", width: 42, height: 42 }) : el("span", { class: "thumb absent", "aria-hidden": "true" })) : null,
    RUNS.length > MANY ? manyLines(task, row, metric, right) : el("div", { class: "lines" },
      el("div", { class: "line answers" }, task.withheld ? task.ids[row] : answered(task).map((run) => el("span", null, RUNS.length > 1 ? legendMark(run) : null, saidOf(task, run, row) || el("i", { class: "quiet" }, stateOf(task, run, row) || "not asked")))),
      el("div", { class: "line quiet" }, right ? `reference: ${right}${box && task.kind === "rec" ? ` ${boxText(box)}` : ""}` : task.withheld ? "" : task.ids[row])),
    RUNS.length > MANY ? null : el("div", { class: "chips" }, answered(task).map((run) => {
      const state = stateOf(task, run, row);
      return el("div", null, state && state !== "ok" ? el("span", { class: `chip state ${state}` }, state) : null, outcomeChip(scoreOf(task, run, row, route.protocol, metric), metric));
    })),
  ];
}

function manyLines(task, row, metric, right) {
  return el("div", { class: "lines" },
    el("div", { class: "line" }, right || task.ids[row]),
    el("div", { class: "strip" }, answered(task).map((run) => {
      const score = scoreOf(task, run, row, route.protocol, metric);
      const state = stateOf(task, run, row);
      const outcome = outcomeOf(score, metric);
      return el("span", { class: `dot ${outcome}`, title: `${RUNS[run].name}: ${state && state !== "ok" ? state : OUTCOMES[outcome]}${score === null ? "" : `, ${percent(score, 1)}`}` }, legendMark(run), MARKS[outcome]);
    })));
}

function showSample(task, row, place, total) {
  const article = byId("sample");
  if (!article) return;
  shownRow = row;
  if (row === null) {
    article.replaceChildren(el("p", { class: "quiet", id: "sample-title" }, "No sample fits."));
    return;
  }
  route.at = task.ids[row];
  keepRoute();
  article.replaceChildren(...drawSample(task, row, place, total, metricOf(task, route.protocol, route.metric)).filter(Boolean));
  article.scrollTop = 0;
}
