// What every page has: the key, the theme, and parts that are asked for again.

import { poll, Refusal } from "./api.js";
import { askForKey, headers, key } from "./key.js";

const AWAY = new Set([0, 429, 502, 503, 504]);

// Parts.

document.addEventListener("htmx:configRequest", (event) => Object.assign(event.detail.headers, headers()));

document.addEventListener("htmx:beforeSwap", (event) => {
  const { xhr, target } = event.detail;
  if (xhr.status === 401) askForKey(key() !== "");
  // What is there stays until the service is back; a notice tells that it is from before.
  if ((AWAY.has(xhr.status) || xhr.status === 401) && target.dataset.isFilled) event.detail.shouldSwap = false;
});

document.addEventListener("htmx:afterSwap", (event) => {
  const { target, xhr } = event.detail;
  target.removeAttribute("aria-busy");
  if (xhr.status < 400) target.dataset.isFilled = "yes";
  else delete target.dataset.isFilled;
  nameLocalTimes(target);
});

document.addEventListener("htmx:load", (event) => {
  const found = event.detail.elt.querySelectorAll("[data-refresh-seconds]");
  for (const part of [event.detail.elt, ...found]) {
    if (part.dataset?.refreshSeconds && !part.dataset.isRefreshed) refresh(part);
  }
});

document.addEventListener("console:key", () => {
  for (const part of document.querySelectorAll("[hx-trigger*=refresh]:not([data-refresh-seconds])")) {
    htmx.trigger(part, "refresh");
  }
});

/** Asks for a part again and again; not while the focus is in it where it would be lost. */
function refresh(part) {
  part.dataset.isRefreshed = "yes";
  const end = poll(async () => {
    if (!part.isConnected) {
      end();
      return;
    }
    if (holdsFocus(part)) return;
    const answered = answerOf(part);
    htmx.trigger(part, "refresh");
    await answered;
  }, Number(part.dataset.refreshSeconds));
}

/** Whether the focus is on data that a new part would not have: htmx finds it again by its id. */
function holdsFocus(part) {
  const { activeElement } = document;
  return part.dataset.isFilled && part !== activeElement && part.contains(activeElement) && !activeElement.id;
}

/** Waits for the answer to a part's request. Throws where it is no success. */
function answerOf(part) {
  return new Promise((resolve, reject) => {
    part.addEventListener(
      "htmx:afterRequest",
      ({ detail: { successful, xhr } }) => {
        if (successful) resolve();
        else reject(xhr.status ? new Refusal(xhr.status, {}) : new TypeError("no answer"));
      },
      { once: true },
    );
  });
}

function nameLocalTimes(part) {
  for (const time of part.querySelectorAll("time[datetime]")) {
    time.title = new Date(time.dateTime).toLocaleString();
  }
}

// The theme: as the system has it, light, dark.

const THEMES = ["system", "light", "dark"];
const theme = document.getElementById("theme");
const root = document.documentElement;

function showTheme() {
  theme.ariaLabel = theme.title = `Theme: ${root.dataset.theme}`;
  document.dispatchEvent(new CustomEvent("console:theme"));
}

theme.addEventListener("click", () => {
  const chosen = THEMES[(THEMES.indexOf(root.dataset.theme) + 1) % THEMES.length];
  root.dataset.theme = chosen;
  localStorage.setItem("eliza-sessions.theme", chosen);
  showTheme();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showTheme);
showTheme();

// Links within the page: <base> would lead them to the root.

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  // Swagger UI would put the anchor into the address.
  event.stopPropagation();
  document.getElementById("main").focus();
});
