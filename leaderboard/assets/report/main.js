// The frame: heading, ways through the page, keys.

const DRAWN = {
  summary: drawSummary, samples: drawSamples, compare: drawCompare, routing: drawRouting, time: drawTime, audit: drawAudit, provenance: drawProvenance,
};
const PROTOCOL_TEXTS = {
  paper: "what the official evaluation scripts compute, quirks included",
  strict: "what the paper's text and common sense say",
};
const THEMES = ["auto", "light", "dark"];
const KEYS = [
  ["j, ↓", "next sample"], ["k, ↑", "previous sample"], ["Home, End, Page ↑, Page ↓", "through the list"], ["Enter", "into the sample; Esc back to the list"],
  ["/", "search"], ["Esc", "leave the search, then clear it"], ["[ and ]", "previous and next task"], ["p", "the other protocol"],
  [`1 to ${VIEWS.length}`, VIEWS.map(([, title]) => title).join(", ")], ["t", "automatic, light or dark"], ["?", "this help"],
];
let theme = 0;

function drawTop() {
  const names = RUNS.length > 3 ? `${RUNS.length} runs` : RUNS.map((run) => run.name).join(", ");
  const loud = DOC.notices.map((notice) => /^([A-Z][A-Z ]+):/.exec(notice)).filter(Boolean).map((found) => found[1]);
  const rest = DOC.notices.length - loud.length;
  byId("top").replaceChildren(...[
    el("div", { class: "title" }, el("h1", null, names), el("span", { class: "quiet" }, `medbench report, suite ${RUNS[0].suite}`)),
    DOC.revealed ? el("p", { class: "notice alarm" }, "This file shows texts and images of credentialed datasets. Do not pass it on.") : null,
    DOC.notices.length && route.view !== "summary" ? el("p", { class: "notice brief" }, el("a", { href: linkTo({ view: "summary", task: route.task }) }, [...loud, ...(rest ? [plural(rest, "more notice", "more notices")] : [])].join(", "))) : null,
    el("div", { class: "bar" },
      el("nav", { "aria-label": "Views" }, VIEWS.map(([name, title]) => el("a", { href: linkTo({ view: name, task: route.task }), "aria-current": name === route.view ? "page" : null }, title))),
      el("fieldset", { class: "protocols" }, el("legend", null, "Protocol"), DOC.protocols.map((protocol) => el("label", { title: PROTOCOL_TEXTS[protocol] || "" },
        el("input", { type: "radio", name: "protocol", value: protocol, checked: protocol === route.protocol, onchange: () => { redraw({ protocol }); document.querySelector(`input[value="${protocol}"]`).focus(); } }), ` ${protocol}`))),
      el("button", { type: "button", id: "theme", title: "Automatic, light or dark (t)", onclick: nextTheme }, `Theme: ${THEMES[theme]}`),
      el("button", { type: "button", id: "keys", title: "Keys (?)", onclick: openHelp }, "Keys")),
  ].flat().filter(Boolean));
}

function draw() {
  drawTop();
  document.title = `${VIEWS.find(([name]) => name === route.view)[1]}: ${RUNS.length > 3 ? `${RUNS.length} runs` : RUNS.map((run) => run.name).join(", ")} (medbench report)`;
  const sections = VIEWS.map(([name]) => fill(el("section", { class: `view ${name}`, id: `view-${name}`, hidden: name !== route.view }), null, [DRAWN[name]()]));
  byId("main").replaceChildren(...sections);
  if (list && route.view === "samples") refreshSamples();
}

function nextTheme() {
  theme = (theme + 1) % THEMES.length;
  if (theme) document.documentElement.dataset.theme = THEMES[theme];
  else delete document.documentElement.dataset.theme;
  byId("theme").textContent = `Theme: ${THEMES[theme]}`;
}

function openHelp() {
  const dialog = byId("help");
  dialog.replaceChildren(
    el("h2", { id: "help-title" }, "Keys"),
    table(null, [], KEYS.map(([key, does]) => [el("th", { scope: "row" }, el("kbd", null, key)), does])),
    el("p", { class: "quiet" }, "“Right” is a full score by the chosen metric, for Mean IoU one of at least 50; “wrong” is zero. The address holds what is looked at: copy it to come back."),
    el("button", { type: "button", autofocus: true, onclick: () => dialog.close() }, "Close"));
  if (!dialog.open) dialog.showModal();
}

function goTo(view) {
  location.hash = linkTo({ view, task: route.task });
}

function nextTask(by) {
  const place = TASKS.findIndex((task) => task.name === route.task) + by;
  if (TASKS[place]) redraw({ ...blankFilters(), task: TASKS[place].name });
}

function inList(key) {
  if (route.view !== "samples" || !list) return false;
  const moves = {
    j: () => list.move(1), ArrowDown: () => list.move(1), k: () => list.move(-1), ArrowUp: () => list.move(-1),
    PageDown: () => list.move(list.page()), PageUp: () => list.move(-list.page()), Home: () => list.select(0), End: () => list.toEnd(),
    "[": () => nextTask(-1), "]": () => nextTask(1),
  };
  if (!Object.hasOwn(moves, key)) return false;
  moves[key]();
  return true;
}

function elsewhere(key) {
  if (key === "/") {
    if (route.view !== "samples") redraw({ view: "samples" });
    byId("search").focus();
    byId("search").select();
  } else if (key === "?") openHelp();
  else if (key === "t") nextTheme();
  else if (key === "p") redraw({ protocol: DOC.protocols[(DOC.protocols.indexOf(route.protocol) + 1) % DOC.protocols.length] });
  else if (key === "Enter" && document.activeElement === byId("list")) byId("sample").focus();
  else if (key === "Escape" && byId("sample") && byId("sample").contains(document.activeElement)) byId("list").focus();
  else if (/^[1-9]$/.test(key) && VIEWS[key - 1]) goTo(VIEWS[key - 1][0]);
  else return false;
  return true;
}

function inSearch(event) {
  if (event.key === "Enter" || event.key === "ArrowDown") byId("list").focus();
  else if (event.key === "Escape" && event.target.value) { event.target.value = ""; change({ q: "" }); }
  else if (event.key === "Escape") byId("list").focus();
  else return;
  event.preventDefault();
}

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented || byId("help").open) return;
  if (event.target.id === "search") { inSearch(event); return; }
  const focused = event.target.closest ? event.target.closest("input, select, textarea, button, summary, a") : null;
  const isTyping = focused && /^(INPUT|SELECT|TEXTAREA)$/.test(focused.tagName);
  if (isTyping || (focused && event.key === "Enter")) return;
  const scrolls = /^(Arrow|Page|Home|End)/.test(event.key) && byId("sample") && byId("sample").contains(document.activeElement);
  if (!scrolls && (inList(event.key) || elsewhere(event.key))) event.preventDefault();
});

addEventListener("hashchange", () => {
  route = readRoute();
  draw();
  byId("main").focus({ preventScroll: true });
});

draw();
