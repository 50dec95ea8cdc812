"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const byId = (id) => document.getElementById(id);

  const valueOf = (row, key) => {
    if (key === "name") return row.dataset.model;
    const text = row.cells[Number(key) + 1].dataset.value;
    return text === undefined ? null : Number(text);
  };

  // What has no number comes last in either direction; equals stay as they were.
  const compare = (key, direction) => (one, other) => {
    const a = valueOf(one, key);
    const b = valueOf(other, key);
    if (a === null || b === null) return (a === null) - (b === null);
    return a < b ? -direction : a > b ? direction : 0;
  };

  const sort = (button) => {
    const head = button.closest("th");
    const table = button.closest("table");
    const first = button.dataset.sort === "name" ? "ascending" : "descending";
    const second = first === "ascending" ? "descending" : "ascending";
    const next = { [first]: second, [second]: null }[head.getAttribute("aria-sort")];
    const order = next === undefined ? first : next;
    all("th[aria-sort]", table).forEach((other) => other.removeAttribute("aria-sort"));
    const rows = all("tbody tr", table).sort((a, b) => a.dataset.place - b.dataset.place);
    if (order) {
      head.setAttribute("aria-sort", order);
      rows.sort(compare(button.dataset.sort, order === "ascending" ? 1 : -1));
    }
    table.tBodies[0].append(...rows);
  };

  const filters = byId("filters");
  if (!filters) return;

  const apply = () => {
    const wanted = Object.fromEntries(["suite", "protocol", "task"].map((id) => [id, byId(id).value]));
    const part = byId("model").value.trim().toLowerCase();
    all("section.board").forEach((section) => {
      const other = ["suite", "protocol"].some((name) => wanted[name] && section.dataset[name] !== wanted[name]);
      const lacks = wanted.task && !section.querySelector(`.one-task[data-task="${CSS.escape(wanted.task)}"]`);
      section.hidden = Boolean(other || lacks);
    });
    all("[data-task]").forEach((part) => { part.hidden = Boolean(wanted.task && part.dataset.task !== wanted.task); });
    all("tr[data-model]").forEach((row) => { row.hidden = !row.dataset.model.includes(part); });
    const shown = all("section.board").filter((section) => !section.hidden);
    const models = new Set(shown.flatMap((section) =>
      all("tr[data-model]", section).filter((row) => !row.hidden).map((row) => row.querySelector("a").href)));
    byId("count").textContent = `${models.size} ${models.size === 1 ? "run" : "runs"} shown`;
    byId("nothing").hidden = shown.length > 0 && models.size > 0;
  };

  all("button[data-sort]").forEach((button) => button.addEventListener("click", () => sort(button)));
  filters.addEventListener("input", apply);
  filters.addEventListener("submit", (event) => event.preventDefault());
  document.addEventListener("keydown", (event) => {
    const writing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
    if (event.key === "/" && !writing && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      byId("model").focus();
    } else if (event.key === "Escape" && event.target === byId("model")) {
      byId("model").value = "";
      apply();
    }
  });
  filters.hidden = false;
  apply();
})();
