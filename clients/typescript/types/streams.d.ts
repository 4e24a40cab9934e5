/** @import { StreamPart } from "./event-stream.js" */
/** @import { Call, Transport } from "./transport.js" */
/** @import * as T from "./types.js" */
/**
 * Sends a message and yields its reply in pieces: SessionsClient.stream.
 *
 * @param {Transport} transport
 * @param {Call} call
 * @returns {AsyncGenerator<T.ReplyEvent, void, undefined>}
 */
export function converse(transport: Transport, call: Call): AsyncGenerator<T.ReplyEvent, void, undefined>;
/**
 * Yields what happens in a session: SessionsClient.watch.
 *
 * @param {Transport} transport
 * @param {string} sessionId
 * @param {Call} call
 * @param {number} after
 * @param {T.OnState} [onState]
 * @returns {AsyncGenerator<T.SessionEvent, void, undefined>}
 */
export function watch(transport: Transport, sessionId: string, call: Call, after: number, onState?: T.OnState): AsyncGenerator<T.SessionEvent, void, undefined>;
import type { Transport } from "./transport.js";
import type { Call } from "./transport.js";
import type * as T from "./types.js";
