// Which runs and which tasks are shown. What is not known of a run passes no filter that asks for it.

const SIZES = [["", "any"], ["4", "up to 4 B"], ["10", "up to 10 B"], ["35", "up to 35 B"], ["over", "over 35 B"]];
const CHOICES = {
  open: ["Weights", [["", "any"], ["yes", "open"], ["no", "closed"]]],
  shot: ["Training data", [["", "any"], ["zero", "zero-shot on all tasks"], ["cells", "zero-shot numbers only"]]],
  leaks: ["Leaks", [["", "marked *"], ["hide", "runs left out"]]],
  from: ["Answers", [["", "all"], ["run", "run here"], ["imported", "imported"], ["reported", "reported by papers"]]],
};

const PASSES = {
  q: (entry, text) => `${entry.name} ${entry.model || ""} ${entry.organization || ""}`.toLowerCase().includes(text.trim().toLowerCase()),
  size: (entry, most) => Boolean(entry.parameters) && (most === "over" ? entry.parameters > 35e9 : entry.parameters <= Number(most) * 1e9),
  since: (entry, year) => Boolean(entry.released) && entry.released.slice(0, 4) >= year,
  open: (entry, wanted) => entry.open_weights === (wanted === "yes"),
  shot: (entry, wanted) => wanted !== "zero" || (entry.declared && entry.tasks.length > 0 && entry.zeroShot.length === entry.tasks.length),
  leaks: (entry) => !entry.leaked.length,
  from: (entry, wanted) => wanted === (entry.reported ? "reported" : entry.imported ? "imported" : "run"),
};

function shownEntries(board) {
  return entriesOf(board, route.protocol).filter((entry) => Object.entries(PASSES).every(([name, passes]) => !route[name] || passes(entry, route[name])));
}

function shownRows(rows, board) {
  return rows.filter((row) => !route.kind || taskOf(board, row.task).kind === route.kind);
}

function choice(name, label, options, chosen, changed) {
  return el("label", { class: "field", for: name }, label, el("select", { id: name, onchange: (event) => changed(event.target.value) },
    options.map(([value, text]) => el("option", { value, selected: value === chosen }, text))));
}

function filterBar(board) {
  const years = [...new Set(board.runs.map((run) => (run.released || "").slice(0, 4)).filter(Boolean))].sort();
  const kinds = kindsOf(board);
  const pick = (name, label, options) => choice(name, label, options, route[name], (value) => change({ [name]: value }));
  return el("form", { class: "filters", id: "filters", role: "search", onsubmit: (event) => event.preventDefault() },
    el("label", { class: "field grow", for: "q" }, "Search", el("input", { type: "search", id: "q", value: route.q, autocomplete: "off", placeholder: "part of a name", oninput: (event) => change({ q: event.target.value }) })),
    kinds.length > 1 ? pick("kind", "Tasks", [["", "all"], ...kinds.map((kind) => [kind, KIND_TITLES[kind] || kind])]) : null,
    board.runs.some((run) => run.parameters) ? pick("size", "Parameters", SIZES) : null,
    years.length ? pick("since", "Released", [["", "any year"], ...years.map((year) => [year, `since ${year}`])]) : null,
    Object.entries(CHOICES).map(([name, [label, options]]) => pick(name, label, options)),
    el("button", { type: "button", id: "clear", onclick: clearFilters }, "Clear"));
}

function clearFilters() {
  change(Object.fromEntries(FILTERS.map((name) => [name, ""])));
  draw();
  byId("q").focus();
}
