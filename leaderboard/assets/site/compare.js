// All pairs of the best runs: on how many tasks one is better than the other.

function pairsSection(board) {
  const pairs = board.pairs[route.protocol];
  if (!pairs.length) return null;
  const there = new Set(pairs.flatMap(([one, other]) => [one, other]));
  const order = orderOf(board).filter((place) => there.has(place));
  const name = (place) => [legendMark(markOf(board, place)), ` ${board.runs[place].name}`];
  const left = board.runs.length - order.length;
  return el("section", { id: "pairs" }, el("h2", null, "Who beats whom"),
    el("p", { class: "quiet" }, `Tasks on which the run of the row is better / worse than that of the column, and undecided, on the samples that both scored; p by the primary metric of each task, adjusted by Holm over the tasks.${left ? ` The best ${order.length} runs; medbench compare tells of others.` : ""}`),
    table(null, ["", ...order.map((place) => head(name(place)))], order.map((place) => [
      el("th", { scope: "row", class: "pinned" }, name(place)), ...order.map((other) => pairCell(board, pairs, place, other)),
    ]), "scores wins", `wins-${route.protocol}`));
}

function pairCell(board, pairs, run, other) {
  if (run === other) return el("td", { class: "quiet" }, "");
  const [first, , ours, theirs, open] = pairs.find(([one, two]) => (one === run && two === other) || (one === other && two === run));
  const [better, worse] = first === run ? [ours, theirs] : [theirs, ours];
  return el("td", { class: `number ${better > worse ? "ahead" : worse > better ? "behind-of" : ""}`, title: `${board.runs[run].name} against ${board.runs[other].name}: better on ${better}, worse on ${worse}, undecided on ${open}` },
    `${better} / ${worse}`, el("small", null, ` ${open}`));
}
