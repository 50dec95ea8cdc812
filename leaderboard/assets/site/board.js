// What the page shows, and how it is read: a board has runs, tasks, and a table for each protocol.

const DOC = JSON.parse(byId("document").textContent);
const BOARDS = DOC.boards;
const MARKED = 12;
const KIND_TITLES = { qa: "Text questions", vqa: "Visual questions", report: "Reports", rec: "Finding boxes", reg: "Naming boxes", cls: "Classes" };

// What plots.js asks for: the runs of the board that is looked at, and names of metrics.
let RUNS = [];

function metricTitle(metric) {
  return Object.hasOwn(DOC.metricTitles, metric) ? DOC.metricTitles[metric] : metric;
}

function taskOf(board, name) {
  return board.tasks.find((task) => task.name === name);
}

function primaryRows(board, protocol) {
  return board.tables[protocol].rows.filter((row) => row.primary);
}

function rankOf(board, protocol, run) {
  return board.ranks[protocol].overall[run] || null;
}

function kindsOf(board) {
  return [...new Set(board.tasks.map((task) => task.kind))];
}

function meanOfKind(board, protocol, kind, run) {
  // A run without a number on one of the tasks has no mean, and a leaked number enters none.
  const cells = primaryRows(board, protocol).filter((row) => taskOf(board, row.task).kind === kind).map((row) => row.cells[run]);
  return cells.length && cells.every((cell) => cell && cell.value !== null && !cell.leaked) ? cells.reduce((sum, cell) => sum + cell.value, 0) / cells.length : null;
}

function meanOf(board, protocol, run) {
  // Kinds weigh alike, as they do in the mean rank.
  const means = kindsOf(board).filter((kind) => primaryRows(board, protocol).some((row) => taskOf(board, row.task).kind === kind))
    .map((kind) => meanOfKind(board, protocol, kind, run));
  return means.length && means.every((mean) => mean !== null) ? means.reduce((sum, mean) => sum + mean, 0) / means.length : null;
}

function entriesOf(board, protocol) {
  // A row for each run, then one for each model of a paper; `place` is its place among the cells.
  const reported = board.tables[protocol].reported.map((one) => ({ ...one, reported: true, zeroShot: [], leaked: [], tasks: [], declared: false }));
  return [...board.runs, ...reported].map((run, place) => ({ ...run, place, rank: rankOf(board, protocol, place), mean: meanOf(board, protocol, place) }));
}

function inDefaultOrder(one, other) {
  // Who has a rank comes first, then who has a mean; a paper's numbers were ranked with nobody's.
  return (one.reported ? 1 : 0) - (other.reported ? 1 : 0) || (one.rank ? one.rank[0] : Infinity) - (other.rank ? other.rank[0] : Infinity) || 0
    || (other.mean ?? -1) - (one.mean ?? -1) || one.place - other.place;
}

function orderOf(board) {
  board.order ??= entriesOf(board, DOC.protocols[0]).sort((one, other) => compareOrder(one, other)).map((entry) => entry.place);
  return board.order;
}

function compareOrder(one, other) {
  const order = inDefaultOrder(one, other);
  return Number.isNaN(order) ? (other.mean ?? -1) - (one.mean ?? -1) || one.place - other.place : order;
}

function markOf(board, place) {
  // The best twelve have a colour and a mark of their own, the same in every table and plot; all others are grey.
  const rank = orderOf(board).indexOf(place);
  return rank < MARKED ? rank : -1;
}

function sizeText(parameters) {
  if (!parameters) return "";
  const [unit, word] = [[1e9, "B"], [1e6, "M"], [1e3, "K"]].find(([size]) => parameters >= size) || [1, ""];
  return `${Number((parameters / unit).toPrecision(2))} ${word}`.trim();
}

function scoreOf(board, protocol, wanted, entry) {
  // By the mean, or by a task's primary metric; null where there is no such number.
  if (wanted === "mean") return entry.mean;
  const row = primaryRows(board, protocol).find((one) => one.task === wanted);
  const cell = row && row.cells[entry.place];
  return cell ? cell.value : null;
}
