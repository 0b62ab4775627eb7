/* The colors that were chosen: light, dark, or those of the system. This script is no module and runs before the page is
 * drawn, so that the page never shows the other colors first. */

(() => {
  const KEY = "forge-consensus-theme";
  const CHOICES = ["auto", "light", "dark"];

  /** What was chosen; a browser that keeps nothing has what the system has. */
  function chosen() {
    try {
      const found = localStorage.getItem(KEY);
      return CHOICES.includes(found) ? found : "auto";
    } catch {
      return "auto";
    }
  }

  /** Use a choice, and keep it. */
  function choose(theme) {
    document.documentElement.dataset.theme = theme;
    try {
      localStorage.setItem(KEY, theme);
    } catch {
      // it holds for this page only
    }
  }

  document.documentElement.dataset.theme = chosen();
  document.addEventListener("DOMContentLoaded", () => {
    const select = document.getElementById("theme");
    if (!select) return;
    select.value = chosen();
    select.addEventListener("change", () => choose(select.value));
  });
})();
