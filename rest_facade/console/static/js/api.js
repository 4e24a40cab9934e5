// Requests of our own modules. Those of htmx get the same headers in console.js.

import { askForKey, headers, isLocked, key } from "./key.js";

/** An answer that is no success: `status`, and the `code` and `details` of its body. */
export class Refusal extends Error {
  constructor(status, body) {
    super(body.error ?? `The service answered with ${status}.`);
    this.status = status;
    this.code = body.code ?? "";
    this.details = body.details ?? {};
  }
}

/**
 * Makes a request with the caller's key and returns the JSON of its answer.
 *
 * `path` is relative to the root, such as `api/messaging/sessions`; `options` are those of fetch. Throws
 * Refusal, or TypeError where the service is out of reach. After a 401 the page asks for a key by itself.
 */
export async function request(path, options = {}) {
  const hadKey = key() !== "";
  const answer = await fetch(path, { ...options, cache: "no-store", headers: { ...options.headers, ...headers() } });
  const body = await answer.json().catch(() => ({}));
  if (answer.status === 401) askForKey(hadKey);
  if (!answer.ok) throw new Refusal(answer.status, body);
  return body;
}

/**
 * Calls `ask` now and then every `seconds` while somebody looks at the page and no key is missing.
 *
 * While `ask` throws, the calls come ever more seldom, up to every 30 seconds. A new key, and a page that is seen
 * again, make it ask at once. Returns a function that ends it.
 */
export function poll(ask, seconds) {
  let timer = 0;
  let failures = 0;
  let isAsking = false;
  let isOver = false;

  async function turn() {
    clearTimeout(timer);
    if (isAsking || isOver || document.hidden || isLocked()) return;
    isAsking = true;
    try {
      await ask();
      failures = 0;
    } catch (error) {
      failures += 1;
      tell(error);
    } finally {
      isAsking = false;
    }
    if (!failures) tell(null);
    const pause = Math.max(seconds, Math.min(30, seconds * 2 ** failures) * (0.5 + Math.random() / 2));
    if (!isOver) timer = setTimeout(turn, (failures ? pause : seconds) * 1000);
  }

  document.addEventListener("visibilitychange", turn);
  document.addEventListener("console:key", turn);
  window.addEventListener("online", turn);
  turn();
  return () => {
    isOver = true;
    clearTimeout(timer);
    document.removeEventListener("visibilitychange", turn);
    document.removeEventListener("console:key", turn);
    window.removeEventListener("online", turn);
  };
}

const notice = document.getElementById("notice");

/** Says above the page that the service is away, or no longer. */
export function tell(error) {
  const isAway = error !== null && !(error instanceof Refusal && error.status < 500 && error.status !== 429);
  if (error !== null && !isAway) return;
  notice.hidden = !isAway;
  notice.textContent = isAway ? "The service does not answer. What you see is from before; trying again…" : "";
}
