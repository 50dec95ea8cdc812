// Automatic, light or dark; kept for the other pages where the browser keeps anything.

const THEMES = ["auto", "light", "dark"];

function keptTheme() {
  try {
    return Math.max(0, THEMES.indexOf(localStorage.getItem("medbench-theme")));
  } catch {
    return 0;
  }
}

function showTheme() {
  if (theme) document.documentElement.dataset.theme = THEMES[theme];
  else delete document.documentElement.dataset.theme;
  byId("theme").textContent = `Theme: ${THEMES[theme]}`;
}

function nextTheme() {
  theme = (theme + 1) % THEMES.length;
  try {
    localStorage.setItem("medbench-theme", THEMES[theme]);
  } catch {
    // A page from disk may keep nothing; it stays for this page.
  }
  showTheme();
}

let theme = keptTheme();
byId("theme").addEventListener("click", nextTheme);
byId("theme").hidden = false;
showTheme();
