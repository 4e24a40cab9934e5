/**
 * How long to wait before another try: twice as long each time, at random so that clients spread out, and
 * never shorter than the service asks for.
 *
 * @param {number} failures how many tries have failed before
 * @param {number} maxWaitMs
 * @param {number} [askedMs]
 */
export function waitMs(failures: number, maxWaitMs: number, askedMs?: number): number;
/**
 * Waits. Throws the signal's reason where it aborts.
 *
 * @param {number} ms
 * @param {AbortSignal | undefined} signal
 * @returns {Promise<void>}
 */
export function sleep(ms: number, signal: AbortSignal | undefined): Promise<void>;
/** The requests of one client. */
export class Transport {
    /**
     * @param {string | URL} url
     * @param {ClientOptions} options
     */
    constructor(url: string | URL, options: ClientOptions);
    retries: number;
    maxWaitMs: number;
    timeoutMs: number;
    replyTimeoutMs: number;
    silenceMs: number;
    /**
     * The address of a path.
     *
     * @param {string} path
     * @param {Record<string, string | number | undefined>} [query]
     */
    url(path: string, query?: Record<string, string | number | undefined>): string;
    /**
     * Makes a call; returns the JSON of its answer, and the headers.
     *
     * @param {Call} call
     * @returns {Promise<{ body: any, headers: Headers }>}
     */
    json(call: Call): Promise<{
        body: any;
        headers: Headers;
    }>;
    /**
     * Opens a stream of events, and remembers which token it has.
     *
     * @param {Call} call
     * @returns {Promise<{ events: AsyncGenerator<StreamPart, void, undefined>, token: string | undefined }>}
     */
    open(call: Call): Promise<{
        events: AsyncGenerator<StreamPart, void, undefined>;
        token: string | undefined;
    }>;
    /**
     * Forgets a token that is good no longer. Returns whether another can be had.
     *
     * @param {string | undefined} token
     */
    renewToken(token: string | undefined): Promise<boolean>;
    #private;
}
export type ClientOptions = {
    /**
     * goes into `Authorization: Bearer`. The client
     * keeps what a function gives, and asks it anew once the token is refused.
     */
    token?: string | (() => Promise<string> | string);
    /**
     * go with every request, such as `X-On-Behalf-Of`.
     */
    headers?: Record<string, string>;
    /**
     * how often a call is tried again where that is safe; 5 unless given.
     */
    retries?: number;
    /**
     * the longest wait before another try; 10,000 unless given. Where the service
     * asks for a longer one, the call fails.
     */
    maxWaitMs?: number;
    /**
     * how long one try may take; 40,000 unless given.
     */
    timeoutMs?: number;
    /**
     * the same for `sendAndWait`; 130,000 unless given.
     */
    replyTimeoutMs?: number;
    /**
     * after how long without a sign of life a stream counts as broken; 45,000
     * unless given. The service sends one every 15 seconds.
     */
    silenceMs?: number;
    /**
     * sends the requests instead of the global `fetch`.
     */
    fetch?: typeof fetch;
};
export type Call = {
    method: string;
    path: string;
    body?: unknown;
    query?: Record<string, string | number | undefined>;
    headers?: Record<string, string | undefined>;
    idempotencyKey?: string | undefined;
    signal?: AbortSignal | undefined;
    /**
     * whether it may take effect twice; true unless given
     */
    isRepeatable?: boolean;
    retries?: number;
    timeoutMs?: number;
};
import type { StreamPart } from "./event-stream.js";
