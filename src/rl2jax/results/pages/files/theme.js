// The button that changes between light and dark; it begins with what the reader's system prefers.
(() => {
  const root = document.documentElement, button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  try { chosen = localStorage.getItem("rl2jax-theme"); } catch { /* files may have no storage */ }
  const isDark = () => (chosen ? chosen === "dark" : system.matches);
  function show() {
    if (chosen) root.dataset.theme = chosen;
    button.textContent = isDark() ? "Light theme" : "Dark theme";
  }
  button.addEventListener("click", () => {
    chosen = isDark() ? "light" : "dark";
    try { localStorage.setItem("rl2jax-theme", chosen); } catch { /* it lasts as long as the page */ }
    show();
  });
  system.addEventListener("change", show);
  button.hidden = false;
  show();
})();
