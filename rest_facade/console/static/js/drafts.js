// Replies under way: their pieces, until they are stored or void.

import { make } from "./dom.js";

export class Drafts {
  #place;
  #byMessage = new Map();

  /** `place` is the list that shows them. */
  constructor(place) {
    this.#place = place;
  }

  /** Adds a piece, as the event of the stream has it; `name` is that of the agent. */
  add({ messageId, chunk, index, attempt }, name) {
    let draft = this.#byMessage.get(messageId);
    if (!draft) {
      // Who comes late has missed the beginning; the finished reply will have it.
      const text = make("div", { className: "text", dir: "auto" }, index > 0 ? "…" : "");
      const doing = attempt > 1 ? `is writing, attempt ${attempt}` : "is writing";
      const head = make("p", { className: "who" }, make("bdi", {}, name), make("span", {}, doing));
      draft = { text, item: make("li", { className: "said agent draft" }, head, text) };
      this.#byMessage.set(messageId, draft);
      this.#place.append(draft.item);
    }
    draft.text.append(chunk);
  }

  /** Removes the draft of a message, if there is one. */
  drop(messageId) {
    this.#byMessage.get(messageId)?.item.remove();
    this.#byMessage.delete(messageId);
  }

  /** Removes all. */
  dropAll() {
    for (const messageId of [...this.#byMessage.keys()]) this.drop(messageId);
  }
}
