/** Reads `text/event-stream` as the HTML standard says. */

import { SessionsError, connectionFailed } from "./errors.js";

/**
 * One event; or a sign of life, which has no type.
 *
 * @typedef {{ type: string, id?: string, data: string, retryMs?: number }} StreamPart
 */

/** How much one event may hold, in characters: far above the largest message with its attachments. */
const MAX_CHARACTERS = 16 * 1024 * 1024;

/**
 * Yields the events of a body until it ends. Throws CONNECTION_FAILED where it breaks off, or is silent for
 * too long.
 *
 * @param {ReadableStream<Uint8Array>} body
 * @param {number} silenceMs
 * @returns {AsyncGenerator<StreamPart, void, undefined>}
 */
export async function* readEvents(body, silenceMs) {
  const parser = new EventParser();
  const decoder = new TextDecoder();
  const reader = body.getReader();
  try {
    for (;;) {
      const { done, value } = await readInTime(reader, silenceMs);
      if (done) return;
      yield* parser.feed(decoder.decode(value, { stream: true }));
    }
  } finally {
    // Ends the request. A body that has failed cannot be cancelled, and says so a second time.
    reader.cancel().catch(() => undefined);
  }
}

/**
 * @param {ReadableStreamDefaultReader<Uint8Array>} reader
 * @param {number} silenceMs
 */
async function readInTime(reader, silenceMs) {
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;
  const silence = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`nothing came for ${silenceMs} ms`)), silenceMs);
  });
  try {
    return await Promise.race([reader.read(), /** @type {Promise<never>} */ (silence)]);
  } catch (error) {
    throw connectionFailed(error);
  } finally {
    clearTimeout(timer);
  }
}

/** Makes events of text that comes in pieces. */
export class EventParser {
  #rest = "";
  /** @type {string[]} */
  #data = [];
  #type = "";
  /** @type {string | undefined} */
  #id;
  #size = 0;

  /**
   * Yields what is complete.
   *
   * @param {string} text
   * @returns {Generator<StreamPart, void, undefined>}
   */
  *feed(text) {
    this.#rest += text;
    let start = 0;
    // A CR at the end may be half of a CRLF.
    for (const end of this.#rest.matchAll(/\r\n|\n|\r(?!$)/g)) {
      const line = this.#rest.slice(start, end.index);
      start = end.index + end[0].length;
      const part = this.#take(line);
      if (part) yield part;
    }
    this.#rest = this.#rest.slice(start);
    if (this.#size + this.#rest.length > MAX_CHARACTERS) {
      throw new SessionsError("UNEXPECTED_ANSWER", "An event is too large");
    }
  }

  /**
   * @param {string} line
   * @returns {StreamPart | undefined}
   */
  #take(line) {
    if (line === "") return this.#finish();
    this.#size += line.length;
    const colon = line.indexOf(":");
    if (colon === 0) return { type: "", data: "" };
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "data") this.#data.push(value);
    else if (field === "event") this.#type = value;
    else if (field === "id" && !value.includes("\0")) this.#id = value;
    else if (field === "retry" && /^\d+$/.test(value)) return { type: "", data: "", retryMs: Number(value) };
    return undefined;
  }

  /** @returns {StreamPart | undefined} */
  #finish() {
    const [data, type, id] = [this.#data, this.#type, this.#id];
    [this.#data, this.#type, this.#id, this.#size] = [[], "", undefined, 0];
    if (!data.length) return undefined;
    return { type: type || "message", data: data.join("\n"), ...(id === undefined ? {} : { id }) };
  }
}
