// The caller's key: it lives in this tab's sessionStorage and goes as Authorization, to this service alone.

const NAME = "eliza-sessions.key";

const dialog = document.getElementById("key-dialog");
const text = document.getElementById("key-text");
const error = document.getElementById("key-error");
const why = document.getElementById("key-why");
const button = document.getElementById("key");

let isRefused = false;
let hiddenKey = "";

/** The key, or an empty text. */
export const key = () => sessionStorage.getItem(NAME) ?? "";

/** Whether the service wants another key before it answers. Nothing is asked for until then. */
export const isLocked = () => isRefused;

/** The headers of a request with the caller's credential. */
export function headers() {
  return key() ? { Authorization: `Bearer ${key()}` } : {};
}

/** Asks for a key, because there was a 401: `hadKey` tells whether one was sent. */
export function askForKey(hadKey) {
  isRefused = true;
  if (dialog.open) return;
  why.textContent = hadKey
    ? "The service does not take your key, or no longer."
    : "The service is protected: it wants to know who asks.";
  open();
}

function open() {
  error.textContent = "";
  text.value = "";
  if (!dialog.open) dialog.showModal();
  text.focus();
}

function show() {
  button.textContent = key() ? "Forget the key" : "Use a key";
}

/** Tries a key with one call, and says what is wrong with it; an empty text if it is good. */
async function check(entered) {
  // A header can carry no others, and no key has them.
  if (!/^[\x21-\x7e]+$/.test(entered)) return "A key has only letters, digits and signs, and no spaces.";
  let answer;
  try {
    answer = await fetch("console/data/key", { headers: { Authorization: `Bearer ${entered}` }, cache: "no-store" });
  } catch {
    return "The service is out of reach. Try again.";
  }
  if (answer.ok) return "";
  if (answer.status === 401) return "The service does not know this key.";
  const told = await answer.json().catch(() => ({}));
  return told.error ?? `The service answered with ${answer.status}.`;
}

document.getElementById("key-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const entered = text.value.trim();
  error.textContent = "";
  const problem = await check(entered);
  if (problem) {
    error.textContent = problem;
    text.select();
    return;
  }
  sessionStorage.setItem(NAME, entered);
  text.value = "";
  isRefused = false;
  dialog.close();
  show();
  document.dispatchEvent(new CustomEvent("console:key"));
});

document.getElementById("key-cancel").addEventListener("click", () => dialog.close());

button.addEventListener("click", () => {
  if (!key()) {
    why.textContent = "With a key you see what it may see.";
    open();
    return;
  }
  sessionStorage.removeItem(NAME);
  // What is on the page was seen with the key.
  location.reload();
});

document.addEventListener("click", (event) => {
  if (event.target.closest?.("[data-enter-key]")) open();
});

// A page that the browser had put aside comes back as it was, with what was seen with a key that is forgotten now.
window.addEventListener("pagehide", () => (hiddenKey = key()));
window.addEventListener("pageshow", (event) => {
  if (event.persisted && key() !== hiddenKey) location.reload();
});

show();
