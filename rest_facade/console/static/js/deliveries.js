// The deliveries of a session's messages, as far back as the page shows messages.

import { request } from "./api.js";

/** How many older pages are read at once, at most: to reach the oldest message that is shown, or again. */
const MOST_PAGES = 5;

const OPEN = new Set(["waiting", "in hand"]);

export class Deliveries {
  #path;
  #bySequence = new Map();
  #lowest = Infinity;
  #next = null;
  /** The older pages that were read: the token and the sequences of each, the newest first. */
  #pages = [];

  /** `path` is that of the session's data. */
  constructor(path) {
    this.#path = `${path}/deliveries`;
  }

  of(sequence) {
    return this.#bySequence.get(sequence);
  }

  set(delivery) {
    this.#bySequence.set(delivery.messageSequence, delivery);
  }

  /** Whether one of them is not over, so that it is worth asking again. */
  get isAnyOpen() {
    return [...this.#bySequence.values()].some(({ state }) => OPEN.has(state));
  }

  /** All that could be delivered anew. */
  get failed() {
    return [...this.#bySequence.values()].filter(({ canRedeliver }) => canRedeliver);
  }

  /**
   * Reads the newest page, and those with older messages that are not over, such as one that is delivered anew;
   * then more, as far as needed for the messages from `first` on.
   */
  async read(first) {
    const page = await request(this.#path);
    const lowest = Math.min(...page.deliveries.map(({ messageSequence }) => messageSequence));
    // More have come since the last time than a page holds: what is known does not join on.
    if (lowest > Math.max(...this.#bySequence.keys())) this.reset();
    if (this.#lowest === Infinity) this.#next = page.nextPage;
    this.#add(page.deliveries);
    await this.#refresh(lowest);
    await this.#reach(first);
  }

  /** Forgets all. */
  reset() {
    this.#bySequence.clear();
    this.#lowest = Infinity;
    this.#next = null;
    this.#pages = [];
  }

  /** Reads those pages again that have open messages before a sequence. The oldest are answered first. */
  async #refresh(before) {
    const open = [...this.#bySequence].filter(([sequence, { state }]) => sequence < before && OPEN.has(state));
    const stale = this.#pages.filter(({ low, high }) => open.some(([sequence]) => low <= sequence && sequence <= high));
    for (const { token } of stale.slice(-MOST_PAGES)) this.#add((await this.#readPage(token)).deliveries);
  }

  #readPage(token) {
    return request(`${this.#path}?page=${encodeURIComponent(token)}`);
  }

  /** Reads older pages, until those of the messages from `first` on are known. */
  async #reach(first) {
    for (let pages = 0; this.#next && this.#lowest > first && pages < MOST_PAGES; pages += 1) {
      const page = await this.#readPage(this.#next);
      const sequences = page.deliveries.map(({ messageSequence }) => messageSequence);
      this.#pages.push({ token: this.#next, low: Math.min(...sequences), high: Math.max(...sequences) });
      this.#add(page.deliveries);
      this.#next = page.nextPage;
    }
  }

  #add(deliveries) {
    for (const delivery of deliveries) {
      this.set(delivery);
      this.#lowest = Math.min(this.#lowest, delivery.messageSequence);
    }
  }

  /** Forgets those of messages that are not shown, behind the newest page: it is asked for anew. */
  forget(first, last) {
    for (const [sequence, { state }] of this.#bySequence) {
      if ((sequence < first || sequence > last) && !OPEN.has(state)) this.#bySequence.delete(sequence);
    }
  }
}
