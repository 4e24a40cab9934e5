/** Sends requests: with the token, again where that is safe, and with errors that have a code. */

import { SessionsError, connectionFailed, errorOf, isTemporary } from "./errors.js";
import { readEvents } from "./event-stream.js";

/** @import { StreamPart } from "./event-stream.js" */

/**
 * @typedef {object} ClientOptions
 * @property {string | (() => Promise<string> | string)} [token] goes into `Authorization: Bearer`. The client
 *   keeps what a function gives, and asks it anew once the token is refused.
 * @property {Record<string, string>} [headers] go with every request, such as `X-On-Behalf-Of`.
 * @property {number} [retries] how often a call is tried again where that is safe; 5 unless given.
 * @property {number} [maxWaitMs] the longest wait before another try; 10,000 unless given. Where the service
 *   asks for a longer one, the call fails.
 * @property {number} [timeoutMs] how long one try may take; 40,000 unless given.
 * @property {number} [replyTimeoutMs] the same for `sendAndWait`; 130,000 unless given.
 * @property {number} [silenceMs] after how long without a sign of life a stream counts as broken; 45,000
 *   unless given. The service sends one every 15 seconds.
 * @property {typeof fetch} [fetch] sends the requests instead of the global `fetch`.
 */

/**
 * @typedef {object} Call
 * @property {string} method
 * @property {string} path
 * @property {unknown} [body]
 * @property {Record<string, string | number | undefined>} [query]
 * @property {Record<string, string | undefined>} [headers]
 * @property {string | undefined} [idempotencyKey]
 * @property {AbortSignal | undefined} [signal]
 * @property {boolean} [isRepeatable] whether it may take effect twice; true unless given
 * @property {number} [retries]
 * @property {number} [timeoutMs]
 */

/** What the wait before the first repetition is about, in milliseconds. */
const FIRST_WAIT_MS = 250;

/**
 * How long to wait before another try: twice as long each time, at random so that clients spread out, and
 * never shorter than the service asks for.
 *
 * @param {number} failures how many tries have failed before
 * @param {number} maxWaitMs
 * @param {number} [askedMs]
 */
export function waitMs(failures, maxWaitMs, askedMs = 0) {
  const stepMs = Math.min(maxWaitMs, FIRST_WAIT_MS * 2 ** failures);
  return Math.max(askedMs, stepMs / 2) + (Math.random() * stepMs) / 2;
}

/**
 * Waits. Throws the signal's reason where it aborts.
 *
 * @param {number} ms
 * @param {AbortSignal | undefined} signal
 * @returns {Promise<void>}
 */
export function sleep(ms, signal) {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const abort = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", abort);
      resolve();
    }, ms);
    signal?.addEventListener("abort", abort, { once: true });
  });
}

/** The requests of one client. */
export class Transport {
  #base;
  #options;
  /** @type {Promise<string> | undefined} */
  #token;

  /**
   * @param {string | URL} url
   * @param {ClientOptions} options
   */
  constructor(url, options) {
    this.#base = String(url).replace(/\/+$/, "");
    this.#options = options;
    this.retries = options.retries ?? 5;
    this.maxWaitMs = options.maxWaitMs ?? 10_000;
    this.timeoutMs = options.timeoutMs ?? 40_000;
    this.replyTimeoutMs = options.replyTimeoutMs ?? 130_000;
    this.silenceMs = options.silenceMs ?? 45_000;
  }

  /**
   * The address of a path.
   *
   * @param {string} path
   * @param {Record<string, string | number | undefined>} [query]
   */
  url(path, query = {}) {
    const given = Object.entries(query).filter(([, value]) => value !== undefined);
    const text = new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
    return `${this.#base}${path}${text && `?${text}`}`;
  }

  /**
   * Makes a call; returns the JSON of its answer, and the headers.
   *
   * @param {Call} call
   * @returns {Promise<{ body: any, headers: Headers }>}
   */
  json(call) {
    return this.#retry(call, async () => {
      const timeout = AbortSignal.timeout(call.timeoutMs ?? this.timeoutMs);
      const { response } = await this.#request(call, timeout);
      return { body: await bodyOf(response), headers: response.headers };
    });
  }

  /**
   * Opens a stream of events, and remembers which token it has.
   *
   * @param {Call} call
   * @returns {Promise<{ events: AsyncGenerator<StreamPart, void, undefined>, token: string | undefined }>}
   */
  open(call) {
    return this.#retry(call, async () => {
      const late = new AbortController();
      const timer = setTimeout(() => late.abort(new Error("the answer is late")), this.timeoutMs);
      try {
        const { response, token } = await this.#request(call, late.signal);
        const type = response.headers.get("Content-Type") ?? "";
        if (!response.body || !type.startsWith("text/event-stream")) {
          await response.body?.cancel();
          const { status } = response;
          throw new SessionsError("UNEXPECTED_ANSWER", "The answer is no stream of events", { status });
        }
        return { events: readEvents(response.body, this.silenceMs), token };
      } finally {
        clearTimeout(timer);
      }
    });
  }

  /**
   * Forgets a token that is good no longer. Returns whether another can be had.
   *
   * @param {string | undefined} token
   */
  async renewToken(token) {
    if (typeof this.#options.token !== "function") return false;
    // Where another call was faster, its token is kept.
    const known = this.#token;
    if ((await known) === token && this.#token === known) this.#token = undefined;
    return true;
  }

  /**
   * @template Answer
   * @param {Call} call
   * @param {() => Promise<Answer>} attempt
   * @returns {Promise<Answer>}
   */
  async #retry(call, attempt) {
    const retries = call.retries ?? this.retries;
    for (let failures = 0; ; failures += 1) {
      try {
        return await attempt();
      } catch (error) {
        call.signal?.throwIfAborted();
        if (!(error instanceof SessionsError)) throw error;
        error.attempts = failures + 1;
        error.idempotencyKey = call.idempotencyKey;
        const isTooLong = error.retryAfterMs > this.maxWaitMs && retries !== Infinity;
        if (failures >= retries || isTooLong || !isTemporary(error, call.isRepeatable ?? true)) throw error;
        await sleep(waitMs(failures, this.maxWaitMs, error.retryAfterMs), call.signal);
      }
    }
  }

  /**
   * One try; a second one where the token has expired.
   *
   * @param {Call} call
   * @param {AbortSignal} timeout
   */
  async #request(call, timeout) {
    for (let isRenewed = false; ; isRenewed = true) {
      const token = await this.#currentToken();
      const response = await this.#fetch(call, token, timeout);
      if (response.ok) return { response, token };
      const error = await refusalOf(response);
      if (error.status !== 401 || isRenewed || !(await this.renewToken(token))) throw error;
    }
  }

  /**
   * @param {Call} call
   * @param {string | undefined} token
   * @param {AbortSignal} timeout
   */
  async #fetch(call, token, timeout) {
    const headers = new Headers(this.#options.headers);
    if (token) headers.set("Authorization", `Bearer ${token}`);
    if (call.idempotencyKey) headers.set("Idempotency-Key", call.idempotencyKey);
    for (const [name, value] of Object.entries(call.headers ?? {})) {
      if (value !== undefined) headers.set(name, value);
    }
    if (call.body !== undefined) headers.set("Content-Type", "application/json");
    const body = call.body === undefined ? null : JSON.stringify(call.body);
    const signal = call.signal ? AbortSignal.any([call.signal, timeout]) : timeout;
    const send = this.#options.fetch ?? globalThis.fetch;
    const url = this.url(call.path, call.query);
    try {
      return await send(url, { method: call.method, headers, body, signal, cache: "no-store" });
    } catch (error) {
      throw connectionFailed(error);
    }
  }

  /** @returns {Promise<string | undefined>} */
  async #currentToken() {
    const { token } = this.#options;
    if (typeof token !== "function") return token;
    const asked = (this.#token ??= Promise.resolve(token()));
    try {
      return await asked;
    } catch (error) {
      // It is asked again the next time.
      if (this.#token === asked) this.#token = undefined;
      throw error;
    }
  }
}

/**
 * @param {Response} response
 * @returns {Promise<any>}
 */
async function bodyOf(response) {
  const text = await response.text().catch((error) => {
    throw connectionFailed(error);
  });
  try {
    return JSON.parse(text);
  } catch (cause) {
    const message = `The answer with the status ${response.status} is no JSON`;
    throw new SessionsError("UNEXPECTED_ANSWER", message, { status: response.status, cause });
  }
}

/** @param {Response} response */
async function refusalOf(response) {
  const seconds = Number(response.headers.get("Retry-After") ?? 0);
  const retryAfterMs = Number.isFinite(seconds) ? seconds * 1000 : 0;
  const text = await response.text().catch(() => "");
  let body;
  try {
    body = JSON.parse(text);
  } catch {
    // A proxy's page: its status says enough.
    body = undefined;
  }
  return errorOf(body, response.status, retryAfterMs);
}
