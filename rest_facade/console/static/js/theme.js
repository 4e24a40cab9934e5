// Sets light or dark before the page is drawn. A classic script: modules come too late for that.
(() => {
  const stored = localStorage.getItem("eliza-sessions.theme");
  document.documentElement.dataset.theme = ["light", "dark"].includes(stored) ? stored : "system";
})();
