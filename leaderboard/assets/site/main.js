// The frame: the board that is looked at, its notices, what is above and below the table.

function headline(board) {
  const [best, second] = [...entriesOf(board, route.protocol)].filter((entry) => entry.rank).sort(compareOrder);
  if (!best) return el("p", { class: "headline" }, plural(board.runs.length, "run", "runs"), ".");
  const pair = second && board.pairs[route.protocol].find(([one, two]) => [one, two].includes(best.place) && [one, two].includes(second.place));
  const [better, worse, open] = !pair ? [] : pair[0] === best.place ? pair.slice(2) : [pair[3], pair[2], pair[4]];
  return el("p", { class: "headline" }, plural(board.runs.length, "run", "runs"), ". First: ", legendMark(markOf(board, best.place)), el("strong", null, ` ${best.name}`), `, mean rank ${best.rank[0].toFixed(1)} [${best.rank[1].toFixed(1)}, ${best.rank[2].toFixed(1)}]`,
    pair ? [`; better on ${better}, worse on ${worse}, undecided on ${open} tasks against `, legendMark(markOf(board, second.place)), ` ${second.name}.`] : ".");
}

function noticeList(board) {
  if (!board.notices.length) return null;
  const lines = board.notices.map(({ text, runs }) => `${runs.length > 4 ? `${runs.length} runs: ` : runs.length ? `${runs.map((run) => board.runs[run].name).join(", ")}: ` : ""}${text}`);
  const loud = lines.filter((line, place) => !board.notices[place].runs.length);
  const others = lines.filter((line) => !loud.includes(line));
  return [
    loud.map((text) => el("p", { class: "notice" }, text)),
    others.length ? el("details", { class: "notice" }, el("summary", null, plural(others.length, "notice about some of the runs", "notices about some of the runs")), el("ul", null, others.map((text) => el("li", null, text)))) : null,
  ];
}

function chooseBoard(board) {
  history.pushState(null, "", routeText({ ...route, board, task: "", score: "", forest: "", sort: "", kind: "" }));
  route = readRoute();
  draw();
}

function drawTop(board) {
  byId("boards").replaceChildren(...(BOARDS.length > 1 ? BOARDS.map((one, place) => el("button", { type: "button", "aria-pressed": String(one === board), onclick: () => chooseBoard(place) }, one.name)) : [el("span", { class: "quiet" }, board.name)]));
  byId("protocols").replaceChildren(el("legend", null, "Protocol"), ...DOC.protocols.map((protocol) => el("label", { title: DOC.meanings[protocol] },
    el("input", { type: "radio", name: "protocol", value: protocol, checked: protocol === route.protocol, onchange: () => change({ protocol }) }), ` ${protocol}`)));
}

function drawBoard() {
  const board = BOARDS[route.board];
  const entries = shownEntries(board);
  const ranks = board.ranks[route.protocol];
  const unranked = entries.filter((entry) => !entry.reported && ranks.why[entry.place]);
  const lost = Object.entries(ranks.leftOut);
  byId("count").textContent = `${count(entries.length)} of ${plural(entriesOf(board, route.protocol).length, "row", "rows")} shown`;
  byId("board").replaceChildren(...[
    entries.length ? boardTable(board, entries) : el("p", { id: "nothing" }, "No run passes these filters. What is not known of a run passes no filter that asks for it."),
    el("p", { class: "quiet under" }, `Protocol ${route.protocol}: ${DOC.meanings[route.protocol]} Percentages with 95 % intervals; a number leads to its samples. Best bold, second underlined, decided on the samples that the runs share; nobody leads at zero; ${DOC.overlap}`),
    el("details", { class: "behind" }, el("summary", null, "How ranks and means are made"), el("p", { class: "quiet" }, DOC.ranksTold, " Runs that are filtered out count in all ranks, as they do in what is bold."),
      unranked.length ? el("ul", null, unranked.slice(0, 40).map((entry) => el("li", null, `${entry.name}: no rank, ${ranks.why[entry.place]}`))) : null,
      lost.length ? el("ul", null, lost.map(([title, why]) => el("li", null, `${title}: not ranked, ${why}`))) : null,
      el("ul", null, primaryRows(board, route.protocol).filter((row) => row.remark).map((row) => el("li", null, `${taskOf(board, row.task).title}: ${row.remark}`)))),
  ]);
  byId("charts").replaceChildren(...(entries.length ? [charts(board, entries)] : []));
  byId("pairs-of").replaceChildren(...[pairsSection(board)].filter(Boolean));
  drawMetrics(board, entries);
}

function drawMetrics(board, entries) {
  // Drawn when it is opened: two hundred runs have thousands of numbers.
  const fold = byId("every-metric");
  const shown = fold.open && entries.length ? everyMetric(board, entries) : null;
  byId("metrics").replaceChildren(...(shown || []));
}

function draw() {
  const board = BOARDS[route.board];
  RUNS = board.runs;
  drawTop(board);
  byId("head").replaceChildren(...[headline(board), noticeList(board), filterBar(board)].flat(2).filter(Boolean));
  byId("history-of").replaceChildren(...[historySection(board)].filter(Boolean));
  drawBoard();
}

byId("every-metric").addEventListener("toggle", () => drawMetrics(BOARDS[route.board], shownEntries(BOARDS[route.board])));

addEventListener("hashchange", () => {
  route = readRoute();
  draw();
});

addEventListener("popstate", () => {
  route = readRoute();
  draw();
});

addEventListener("keydown", (event) => {
  const writing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) && event.target.type !== "radio";
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "/" && !writing) { event.preventDefault(); byId("q").focus(); }
  else if (event.key === "Escape" && event.target === byId("q")) { byId("q").value = ""; change({ q: "" }); }
  else if (event.key === "t" && !writing) nextTheme();
  else if (event.key === "p" && !writing) { change({ protocol: DOC.protocols[(DOC.protocols.indexOf(route.protocol) + 1) % DOC.protocols.length] }); drawTop(BOARDS[route.board]); }
});

draw();
