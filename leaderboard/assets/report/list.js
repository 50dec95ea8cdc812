// A list of any length of which only what is in sight is drawn.

const ROW = 58;
const BEYOND = 6;

function makeList(label, drawRow, onSelect) {
  const space = el("div", { class: "space" });
  const host = el("div", { class: "list", role: "listbox", tabindex: 0, "aria-label": label, id: "list" }, space);
  let rows = [];
  let place = -1;
  let waiting = false;

  function render() {
    waiting = false;
    const first = Math.max(0, Math.floor(host.scrollTop / ROW) - BEYOND);
    const last = Math.min(rows.length, Math.ceil((host.scrollTop + (host.clientHeight || 600)) / ROW) + BEYOND);
    space.style.height = `${rows.length * ROW}px`;
    space.replaceChildren(...rows.slice(first, last).map((row, offset) => option(row, first + offset)));
    const inSight = place >= first && place < last;
    if (inSight) host.setAttribute("aria-activedescendant", `option-${place}`);
    else host.removeAttribute("aria-activedescendant");
  }

  function option(row, at) {
    const node = el("div", {
      class: "option", role: "option", id: `option-${at}`, "aria-selected": String(at === place),
      "aria-setsize": rows.length, "aria-posinset": at + 1, onclick: () => select(at),
    }, drawRow(row));
    node.style.top = `${at * ROW}px`;
    return node;
  }

  function later() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(render);
  }

  function select(at) {
    place = rows.length ? Math.min(Math.max(at, 0), rows.length - 1) : -1;
    if (place >= 0) {
      const top = place * ROW;
      if (top < host.scrollTop) host.scrollTop = top;
      const height = host.clientHeight || 600;
      if (top + ROW > host.scrollTop + height) host.scrollTop = top + ROW - height;
    }
    render();
    onSelect(place < 0 ? null : rows[place], place, rows.length);
  }

  host.addEventListener("scroll", later, { passive: true });
  addEventListener("resize", later);
  return {
    host,
    select,
    get place() { return place; },
    move: (by) => select(place + by),
    page: () => Math.max(1, Math.floor((host.clientHeight || 600) / ROW) - 1),
    toEnd: () => select(rows.length - 1),
    show(newRows, wanted) {
      rows = newRows;
      const at = rows.indexOf(wanted);
      if (at < 0) host.scrollTop = 0;
      select(Math.max(0, at));
    },
  };
}
