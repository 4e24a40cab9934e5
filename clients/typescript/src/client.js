/** The calls of the API. */

import { hasCode } from "./errors.js";
import { converse, watch } from "./streams.js";
import { Transport } from "./transport.js";

/** @import { Call, ClientOptions } from "./transport.js" */
/** @import * as T from "./types.js" */

const SESSIONS = "/api/messaging/sessions";

/** A client of one service. All its calls throw SessionsError. */
export class SessionsClient {
  #transport;

  /**
   * @param {string | URL} url where the service is, without `/api`
   * @param {ClientOptions} [options]
   */
  constructor(url, options = {}) {
    this.#transport = new Transport(url, options);
  }

  /**
   * Creates a session of a user with an agent.
   *
   * @param {T.CreateSession} session
   * @param {T.KeyedOptions} [options]
   * @returns {Promise<T.CreatedSession>}
   */
  async create(session, { idempotencyKey = newKey(), signal } = {}) {
    return withReplayed(await this.#post(SESSIONS, session, { idempotencyKey, signal }));
  }

  /**
   * Reads a session.
   *
   * @param {string} sessionId
   * @param {T.CallOptions} [options]
   * @returns {Promise<T.Session>}
   */
  async get(sessionId, { signal } = {}) {
    return withEtag(await this.#transport.json({ method: "GET", path: pathOf(sessionId), signal }));
  }

  /**
   * One page of the live sessions, the oldest first.
   *
   * @param {T.ListOptions & { pageToken?: string }} [options]
   * @returns {Promise<T.SessionList>}
   */
  async list({ signal, ...query } = {}) {
    return (await this.#transport.json({ method: "GET", path: SESSIONS, query, signal })).body;
  }

  /**
   * All pages of the live sessions, the oldest first.
   *
   * @param {T.ListOptions} [options]
   * @returns {AsyncGenerator<T.SessionList, void, undefined>}
   */
  async *listPages(options = {}) {
    /** @type {{ pageToken?: string }} */
    let next = {};
    do {
      const page = await this.list({ ...options, ...next });
      yield page;
      next = page.nextPageToken ? { pageToken: page.nextPageToken } : {};
    } while (next.pageToken);
  }

  /**
   * Sends a message and does not wait for the reply. That comes as an event, and into the history.
   *
   * @param {string} sessionId
   * @param {T.Outgoing} message
   * @param {T.KeyedOptions} [options]
   * @returns {Promise<T.SentMessage>}
   */
  async send(sessionId, message, { idempotencyKey = newKey(), signal } = {}) {
    const path = pathOf(sessionId, "/messages");
    return withReplayed(await this.#post(path, bodyOf(message), { idempotencyKey, signal }));
  }

  /**
   * Sends a message and waits for the reply, which is in `agentResponse`. Throws AGENT_REPLY_TIMEOUT and
   * AGENT_REPLY_FAILED; the message is kept then. With the error's `idempotencyKey` the same call waits on.
   *
   * @param {string} sessionId
   * @param {T.Outgoing} message
   * @param {T.KeyedOptions} [options]
   * @returns {Promise<T.AnsweredMessage>}
   */
  async sendAndWait(sessionId, message, { idempotencyKey = newKey(), signal } = {}) {
    const body = { ...bodyOf(message), transport: "http" };
    const more = { idempotencyKey, signal, timeoutMs: this.#transport.replyTimeoutMs };
    return withReplayed(await this.#post(pathOf(sessionId, "/messages"), body, more));
  }

  /**
   * Sends a message and yields the reply while the agent writes it. Where the connection breaks, it sends the
   * message again with the same key: it is stored once, and the chunks so far are `aborted`.
   *
   * @param {string} sessionId
   * @param {T.Outgoing} message
   * @param {T.KeyedOptions} [options]
   * @returns {AsyncGenerator<T.ReplyEvent, void, undefined>}
   */
  async *stream(sessionId, message, { idempotencyKey = newKey(), signal } = {}) {
    const body = { ...bodyOf(message), transport: "sse" };
    const call = { method: "POST", path: pathOf(sessionId, "/messages"), body, idempotencyKey, signal };
    yield* converse(this.#transport, call);
  }

  /**
   * One page of the history. Without `after` the newest messages, newest first.
   *
   * @param {string} sessionId
   * @param {T.HistoryOptions} [options]
   * @returns {Promise<T.MessagesPage>}
   */
  async messages(sessionId, { signal, ...query } = {}) {
    const path = pathOf(sessionId, "/messages");
    return (await this.#transport.json({ method: "GET", path, query, signal })).body;
  }

  /**
   * All pages of the history: backwards from the newest message; forwards where only `after` is given.
   *
   * @param {string} sessionId
   * @param {T.HistoryOptions} [options]
   * @returns {AsyncGenerator<T.MessagesPage, void, undefined>}
   */
  async *messagePages(sessionId, options = {}) {
    const isForward = options.after !== undefined && options.before === undefined;
    for (let query = options; ; ) {
      const page = await this.messages(sessionId, query);
      yield page;
      if (!page.hasMore || !page.cursors) return;
      const next = isForward ? { after: page.cursors.after } : { before: page.cursors.before };
      query = { ...query, ...next };
    }
  }

  /**
   * Renews a session by hand. It is not repeated where it may have taken effect.
   *
   * @param {string} sessionId
   * @param {T.ConditionalOptions} [options]
   * @returns {Promise<T.Session>}
   */
  async renew(sessionId, { ifMatch, signal } = {}) {
    const more = { headers: { "If-Match": ifMatch }, isRepeatable: false, signal };
    return withEtag(await this.#post(pathOf(sessionId, "/renew"), undefined, more));
  }

  /**
   * Changes the timeout settings that are named.
   *
   * @param {string} sessionId
   * @param {T.TimeoutChange} change
   * @param {T.ConditionalOptions} [options]
   * @returns {Promise<T.Session>}
   */
  async updateTimeout(sessionId, change, { ifMatch, signal } = {}) {
    const call = { method: "PATCH", path: pathOf(sessionId, "/timeout"), body: change, signal };
    // Once it has taken effect, the tag is another one.
    const more = { headers: { "If-Match": ifMatch }, isRepeatable: ifMatch === undefined };
    return withEtag(await this.#transport.json({ ...call, ...more }));
  }

  /**
   * Keeps a session alive, and renews it where auto-renewal is on.
   *
   * @param {string} sessionId
   * @param {T.CallOptions} [options]
   * @returns {Promise<T.Session>}
   */
  async heartbeat(sessionId, { signal } = {}) {
    return withEtag(await this.#post(pathOf(sessionId, "/heartbeat"), undefined, { signal }));
  }

  /**
   * Ends a session and removes it.
   *
   * @param {string} sessionId
   * @param {T.ConditionalOptions} [options]
   * @returns {Promise<void>}
   */
  async delete(sessionId, { ifMatch, signal } = {}) {
    try {
      const headers = { "If-Match": ifMatch };
      await this.#transport.json({ method: "DELETE", path: pathOf(sessionId), headers, signal });
    } catch (error) {
      // An earlier try has done it, and its answer was lost.
      if (!hasCode(error, "SESSION_NOT_FOUND") || error.attempts === 1) throw error;
    }
  }

  /**
   * Makes a token for one session, which a back end gives to its page. `seconds` is how long it is good: at
   * most 15 minutes, unless the service is set otherwise.
   *
   * @param {string} sessionId
   * @param {{ verbs?: T.Verb[], seconds?: number } & T.CallOptions} [options]
   * @returns {Promise<T.AccessToken>}
   */
  async createToken(sessionId, { signal, ...wanted } = {}) {
    return (await this.#post(pathOf(sessionId, "/tokens"), wanted, { signal })).body;
  }

  /**
   * The agents.
   *
   * @param {T.CallOptions} [options]
   * @returns {Promise<T.Agent[]>}
   */
  async agents({ signal } = {}) {
    return (await this.#transport.json({ method: "GET", path: "/api/agents", signal })).body.data.agents;
  }

  /**
   * How the service is, asked once. Throws where it is not well.
   *
   * @param {T.CallOptions} [options]
   * @returns {Promise<T.Health>}
   */
  async health({ signal } = {}) {
    const path = `${SESSIONS}/health`;
    return (await this.#transport.json({ method: "GET", path, signal, retries: 0 })).body;
  }

  /**
   * Yields what happens in a session: each entry of its log, once and in order, from the first on or from
   * behind `after`.
   *
   * Once it was open, it goes on over lost connections and restarts of the service, however long they take.
   * The pieces so far of a reply are `messageStreamAborted` then. It ends after `sessionExpired` and
   * `sessionDeleted`, and when `signal` aborts. It throws what the service has against it.
   *
   * @param {string} sessionId
   * @param {T.WatchOptions} [options]
   * @returns {AsyncGenerator<T.SessionEvent, void, undefined>}
   */
  async *watch(sessionId, { after = 0, signal, onState } = {}) {
    const call = { method: "GET", path: pathOf(sessionId, "/events"), signal };
    yield* watch(this.#transport, sessionId, call, after, onState);
  }

  /**
   * The address for an `EventSource`, which cannot send headers. `watch` needs no such address.
   *
   * @param {string} sessionId
   * @param {{ after?: number, accessToken?: string }} [options]
   */
  eventSourceUrl(sessionId, { after, accessToken } = {}) {
    return this.#transport.url(pathOf(sessionId, "/events"), { after, access_token: accessToken });
  }

  /**
   * @param {string} path
   * @param {unknown} body
   * @param {Omit<Call, "method" | "path" | "body">} more
   */
  #post(path, body, more) {
    return this.#transport.json({ method: "POST", path, body, ...more });
  }
}

/** @param {T.Outgoing} message */
function bodyOf(message) {
  return typeof message === "string" ? { content: message } : message;
}

/**
 * @param {string} sessionId
 * @param {string} [rest]
 */
function pathOf(sessionId, rest = "") {
  return `${SESSIONS}/${encodeURIComponent(sessionId)}${rest}`;
}

/** @param {{ body: any, headers: Headers }} answer */
function withEtag({ body, headers }) {
  return { ...body, etag: headers.get("ETag") ?? "" };
}

/** @param {{ body: any, headers: Headers }} answer */
function withReplayed({ body, headers }) {
  return { ...body, replayed: headers.get("Idempotency-Replayed") === "true" };
}

/** Not `crypto.randomUUID`, which browsers have only on https and localhost. */
function newKey() {
  const bytes = [...crypto.getRandomValues(new Uint8Array(16))];
  return bytes.map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
