// Follows the events of a session over reconnects, restarts of the service and ends of tokens.

import { request } from "./api.js";
import { EVENT_KINDS } from "./entries.js";
import { isLocked, key } from "./key.js";

const PASSING = ["messageStreamChunk", "messageStreamAborted", "sessionDeleted"];
const FIRST_PAUSE_MS = 250;
const LAST_PAUSE_MS = 10_000;

/** A connection that lasted so long was a good one. An overloaded service ends it at once. */
const GOOD_MS = 1000;

/** A token is fetched anew when no more than this is left of it. */
const MARGIN_MS = 5000;

export class Follower {
  #path;
  #listener;
  #after = 0;
  #source = null;
  #timer = 0;
  #failures = 0;
  #openedAt = Infinity;
  #isOver = true;
  #token = null;
  #turn = 0;

  /**
   * `path` is that of the session in the API. The listener has `onEvent(type, data)`, `onState(state)` with
   * `live`, `away` or `paused`, and `onLost()`, which returns whether to go on after a connection was lost.
   */
  constructor(path, listener) {
    this.#path = path;
    this.#listener = listener;
    document.addEventListener("visibilitychange", () => this.#look());
    document.addEventListener("console:key", () => this.#look());
    window.addEventListener("online", () => this.#look());
  }

  /** Begins behind a sequence. */
  start(after) {
    this.#after = after;
    this.#isOver = false;
    this.#look();
  }

  /** Ends for good. */
  stop() {
    this.#isOver = true;
    this.#close();
  }

  /** A tab that nobody sees keeps no connection: a browser has six for one service. */
  #look() {
    if (this.#isOver) return;
    if (document.hidden) {
      this.#close();
      this.#listener.onState("paused");
    } else if (!this.#source) {
      this.#failures = 0;
      this.#connect();
    }
  }

  #close() {
    clearTimeout(this.#timer);
    this.#turn += 1;
    this.#source?.close();
    this.#source = null;
  }

  async #connect() {
    this.#close();
    const turn = this.#turn;
    if (isLocked()) return;
    let query;
    try {
      query = new URLSearchParams({ after: this.#after, ...(await this.#credential()) });
    } catch {
      if (turn === this.#turn) await this.#lose(turn);
      return;
    }
    if (turn !== this.#turn) return;
    const source = new EventSource(`${this.#path}/events?${query}`);
    this.#source = source;
    source.addEventListener("open", () => {
      this.#openedAt = performance.now();
      this.#listener.onState("live");
    });
    source.addEventListener("error", () => this.#lose(turn));
    source.addEventListener("credentialExpired", () => {
      this.#token = null;
      this.#connect();
    });
    for (const type of [...Object.keys(EVENT_KINDS), ...PASSING]) {
      source.addEventListener(type, (event) => {
        this.#failures = 0;
        const data = JSON.parse(event.data);
        if (event.lastEventId && type in EVENT_KINDS) this.#after = Math.max(this.#after, Number(event.lastEventId));
        this.#listener.onEvent(type, data);
      });
    }
  }

  /** The token of the session, where the caller has a key: an EventSource can send no header. */
  async #credential() {
    if (!key()) return {};
    if (!this.#token || this.#token.key !== key() || Date.now() > this.#token.until) {
      const asked = Date.now();
      const headers = { "Content-Type": "application/json" };
      const body = JSON.stringify({ verbs: ["read"] });
      const made = await request(`${this.#path}/tokens`, { method: "POST", headers, body });
      // The clocks may differ: what counts is how long it is good for, and a refused one is not used again.
      this.#token = { text: made.accessToken, key: key(), until: Math.max(asked, Date.parse(made.expiresAt) - MARGIN_MS) };
    }
    return { access_token: this.#token.text };
  }

  /** Comes back after a pause, longer each time, unless the session has ended. */
  async #lose(turn) {
    if (turn !== this.#turn) return;
    this.#close();
    const next = this.#turn;
    this.#token = null;
    this.#failures = performance.now() - this.#openedAt > GOOD_MS ? 1 : this.#failures + 1;
    this.#openedAt = Infinity;
    this.#listener.onState("away");
    const goesOn = await this.#listener.onLost();
    if (next !== this.#turn || this.#isOver) return;
    if (!goesOn) {
      this.stop();
      return;
    }
    const pause = Math.min(LAST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** (this.#failures - 1)) * (0.75 + Math.random() / 2);
    this.#timer = setTimeout(() => this.#connect(), pause);
  }
}
