/** A client of one service. All its calls throw SessionsError. */
export class SessionsClient {
    /**
     * @param {string | URL} url where the service is, without `/api`
     * @param {ClientOptions} [options]
     */
    constructor(url: string | URL, options?: ClientOptions);
    /**
     * Creates a session of a user with an agent.
     *
     * @param {T.CreateSession} session
     * @param {T.KeyedOptions} [options]
     * @returns {Promise<T.CreatedSession>}
     */
    create(session: T.CreateSession, { idempotencyKey, signal }?: T.KeyedOptions): Promise<T.CreatedSession>;
    /**
     * Reads a session.
     *
     * @param {string} sessionId
     * @param {T.CallOptions} [options]
     * @returns {Promise<T.Session>}
     */
    get(sessionId: string, { signal }?: T.CallOptions): Promise<T.Session>;
    /**
     * One page of the live sessions, the oldest first.
     *
     * @param {T.ListOptions & { pageToken?: string }} [options]
     * @returns {Promise<T.SessionList>}
     */
    list({ signal, ...query }?: T.ListOptions & {
        pageToken?: string;
    }): Promise<T.SessionList>;
    /**
     * All pages of the live sessions, the oldest first.
     *
     * @param {T.ListOptions} [options]
     * @returns {AsyncGenerator<T.SessionList, void, undefined>}
     */
    listPages(options?: T.ListOptions): AsyncGenerator<T.SessionList, void, undefined>;
    /**
     * Sends a message and does not wait for the reply. That comes as an event, and into the history.
     *
     * @param {string} sessionId
     * @param {T.Outgoing} message
     * @param {T.KeyedOptions} [options]
     * @returns {Promise<T.SentMessage>}
     */
    send(sessionId: string, message: T.Outgoing, { idempotencyKey, signal }?: T.KeyedOptions): Promise<T.SentMessage>;
    /**
     * Sends a message and waits for the reply, which is in `agentResponse`. Throws AGENT_REPLY_TIMEOUT and
     * AGENT_REPLY_FAILED; the message is kept then. With the error's `idempotencyKey` the same call waits on.
     *
     * @param {string} sessionId
     * @param {T.Outgoing} message
     * @param {T.KeyedOptions} [options]
     * @returns {Promise<T.AnsweredMessage>}
     */
    sendAndWait(sessionId: string, message: T.Outgoing, { idempotencyKey, signal }?: T.KeyedOptions): Promise<T.AnsweredMessage>;
    /**
     * Sends a message and yields the reply while the agent writes it. Where the connection breaks, it sends the
     * message again with the same key: it is stored once, and the chunks so far are `aborted`.
     *
     * @param {string} sessionId
     * @param {T.Outgoing} message
     * @param {T.KeyedOptions} [options]
     * @returns {AsyncGenerator<T.ReplyEvent, void, undefined>}
     */
    stream(sessionId: string, message: T.Outgoing, { idempotencyKey, signal }?: T.KeyedOptions): AsyncGenerator<T.ReplyEvent, void, undefined>;
    /**
     * One page of the history. Without `after` the newest messages, newest first.
     *
     * @param {string} sessionId
     * @param {T.HistoryOptions} [options]
     * @returns {Promise<T.MessagesPage>}
     */
    messages(sessionId: string, { signal, ...query }?: T.HistoryOptions): Promise<T.MessagesPage>;
    /**
     * All pages of the history: backwards from the newest message; forwards where only `after` is given.
     *
     * @param {string} sessionId
     * @param {T.HistoryOptions} [options]
     * @returns {AsyncGenerator<T.MessagesPage, void, undefined>}
     */
    messagePages(sessionId: string, options?: T.HistoryOptions): AsyncGenerator<T.MessagesPage, void, undefined>;
    /**
     * Renews a session by hand. It is not repeated where it may have taken effect.
     *
     * @param {string} sessionId
     * @param {T.ConditionalOptions} [options]
     * @returns {Promise<T.Session>}
     */
    renew(sessionId: string, { ifMatch, signal }?: T.ConditionalOptions): Promise<T.Session>;
    /**
     * Changes the timeout settings that are named.
     *
     * @param {string} sessionId
     * @param {T.TimeoutChange} change
     * @param {T.ConditionalOptions} [options]
     * @returns {Promise<T.Session>}
     */
    updateTimeout(sessionId: string, change: T.TimeoutChange, { ifMatch, signal }?: T.ConditionalOptions): Promise<T.Session>;
    /**
     * Keeps a session alive, and renews it where auto-renewal is on.
     *
     * @param {string} sessionId
     * @param {T.CallOptions} [options]
     * @returns {Promise<T.Session>}
     */
    heartbeat(sessionId: string, { signal }?: T.CallOptions): Promise<T.Session>;
    /**
     * Ends a session and removes it.
     *
     * @param {string} sessionId
     * @param {T.ConditionalOptions} [options]
     * @returns {Promise<void>}
     */
    delete(sessionId: string, { ifMatch, signal }?: T.ConditionalOptions): Promise<void>;
    /**
     * Makes a token for one session, which a back end gives to its page. `seconds` is how long it is good: at
     * most 15 minutes, unless the service is set otherwise.
     *
     * @param {string} sessionId
     * @param {{ verbs?: T.Verb[], seconds?: number } & T.CallOptions} [options]
     * @returns {Promise<T.AccessToken>}
     */
    createToken(sessionId: string, { signal, ...wanted }?: {
        verbs?: T.Verb[];
        seconds?: number;
    } & T.CallOptions): Promise<T.AccessToken>;
    /**
     * The agents.
     *
     * @param {T.CallOptions} [options]
     * @returns {Promise<T.Agent[]>}
     */
    agents({ signal }?: T.CallOptions): Promise<T.Agent[]>;
    /**
     * How the service is, asked once. Throws where it is not well.
     *
     * @param {T.CallOptions} [options]
     * @returns {Promise<T.Health>}
     */
    health({ signal }?: T.CallOptions): Promise<T.Health>;
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
    watch(sessionId: string, { after, signal, onState }?: T.WatchOptions): AsyncGenerator<T.SessionEvent, void, undefined>;
    /**
     * The address for an `EventSource`, which cannot send headers. `watch` needs no such address.
     *
     * @param {string} sessionId
     * @param {{ after?: number, accessToken?: string }} [options]
     */
    eventSourceUrl(sessionId: string, { after, accessToken }?: {
        after?: number;
        accessToken?: string;
    }): string;
    #private;
}
import type * as T from "./types.js";
import type { ClientOptions } from "./transport.js";
