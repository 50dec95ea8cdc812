// What the page shows, and how it is read.

const DOC = JSON.parse(byId("document").textContent);
const { runs: RUNS, tasks: TASKS, states: STATES, texts: TEXTS, pictures: PICTURES } = DOC;
const TASK_BY_NAME = new Map(TASKS.map((task) => [task.name, task]));
const RIGHT = 0.9995;
const HIT = 0.5;
const OUTCOMES = { right: "right", partly: "partly right", wrong: "wrong", none: "not scored" };
const MARKS = { right: "✓", partly: "◐", wrong: "✗", none: "–" };

let uris = null;

function uriOf(place) {
  // Parsed when the first picture is looked at: there may be many megabytes of them.
  uris ??= JSON.parse(byId("images").textContent);
  return uris[place];
}

function textOf(column, row) {
  const place = column ? column[row] : -1;
  return place === undefined || place < 0 ? "" : TEXTS[place];
}

function boxOf(column, row) {
  return (column && column[row]) || null;
}

function answered(task) {
  return RUNS.map((_, run) => run).filter((run) => task.answers[run]);
}

function metricTitle(metric) {
  return Object.hasOwn(DOC.metricTitles, metric) ? DOC.metricTitles[metric] : metric;
}

function stateOf(task, run, row) {
  const place = task.answers[run] ? task.answers[run].state[row] : -1;
  return place < 0 ? "" : STATES[place];
}

function scoreOf(task, run, row, protocol, metric) {
  const column = task.answers[run] && task.answers[run][protocol][metric];
  return column ? column[row] ?? null : null;
}

function outcomeOf(score, metric) {
  if (score === null) return "none";
  if (score >= (metric === "iou" ? HIT : RIGHT)) return "right";
  return score > 0 ? "partly" : "wrong";
}

function metricOf(task, protocol, wanted) {
  const there = task.sampleMetrics[protocol];
  if (there.includes(wanted)) return wanted;
  return there.includes(task.primary[protocol]) ? task.primary[protocol] : there[0] || "";
}

function saidOf(task, run, row) {
  const answers = task.answers[run];
  const box = answers ? boxOf(answers.box, row) : null;
  return (box && boxText(box)) || textOf(answers && answers.text, row);
}

function boxText(box) {
  return `[${box.map((edge) => Math.round(edge)).join(", ")}]`;
}
