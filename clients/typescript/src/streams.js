/** Streams of events that go on over lost connections. */

import { SessionsError, connectionFailed, errorOf, hasCode, isTemporary } from "./errors.js";
import { sleep, waitMs } from "./transport.js";

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
export async function* converse(transport, call) {
  const { idempotencyKey, signal } = call;
  let isSent = false;
  for (let failures = 0; ; failures += 1) {
    const { events, token } = await transport.open(call);
    /** @type {T.Chunk | undefined} */
    let last;
    let error = connectionFailed("the stream ended early");
    try {
      for await (const part of events) {
        if (!part.type) continue;
        const data = parse(part);
        if (part.type === "error") throw errorOf(data, 200);
        if (part.type === "user_message" && isSent) continue;
        isSent = true;
        last = part.type === "chunk" ? data : undefined;
        yield /** @type {T.ReplyEvent} */ ({ type: part.type, data });
        if (part.type === "done") return;
      }
    } catch (thrown) {
      signal?.throwIfAborted();
      if (!(thrown instanceof SessionsError)) throw thrown;
      error = thrown;
    }
    const isRenewed = hasCode(error, "CREDENTIAL_EXPIRED") && (await transport.renewToken(token));
    const isTooLong = error.retryAfterMs > transport.maxWaitMs;
    if (failures >= transport.retries || isTooLong || !(isRenewed || isTemporary(error, true))) {
      throw Object.assign(error, { idempotencyKey, attempts: failures + 1 });
    }
    if (last) yield { type: "aborted", data: { messageId: last.messageId, attempt: last.attempt } };
    await sleep(waitMs(failures, transport.maxWaitMs, error.retryAfterMs), signal);
  }
}

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
export async function* watch(transport, sessionId, call, after, onState) {
  const { signal } = call;
  const state = { after, isOver: false, failures: 0, retryMs: 0 };
  let isOpened = false;
  try {
    for (;;) {
      // A stream that was open once is right, so that it is worth to look for it without an end.
      const retries = isOpened ? Infinity : transport.retries;
      const { events, token } = await transport.open({ ...call, retries, query: { after: state.after } });
      isOpened = true;
      onState?.("open");
      const isExpired = yield* follow(events, state);
      if (state.isOver) return;
      if (isExpired && !(await transport.renewToken(token))) {
        throw new SessionsError("CREDENTIAL_EXPIRED", "The token has expired", { status: 401 });
      }
      onState?.("lost");
      // A new token is used at once, but not again and again.
      const isAtOnce = isExpired && state.failures === 0;
      await sleep(isAtOnce ? 0 : waitMs(state.failures, transport.maxWaitMs, state.retryMs), signal);
      state.failures += 1;
    }
  } catch (error) {
    if (signal?.aborted) return;
    if (!(isOpened && hasCode(error, "SESSION_NOT_FOUND"))) throw error;
    // It was deleted, or purged, while nobody listened.
    yield { type: "sessionDeleted", data: { sessionId } };
  }
}

/**
 * Yields the events of one connection until it ends. Returns whether that was because the token has expired.
 *
 * @param {AsyncGenerator<StreamPart, void, undefined>} events
 * @param {{ after: number, isOver: boolean, failures: number, retryMs: number }} state
 * @returns {AsyncGenerator<T.SessionEvent, boolean, undefined>}
 */
async function* follow(events, state) {
  /** @type {T.PassingPayloads["messageStreamChunk"] | undefined} */
  let last;
  let isExpired = false;
  try {
    for await (const part of events) {
      isExpired = part.type === "credentialExpired";
      if (isExpired) break;
      state.retryMs = part.retryMs ?? state.retryMs;
      if (part.retryMs === undefined) state.failures = 0;
      if (!part.type) continue;
      const data = parse(part);
      const id = part.id === undefined ? undefined : Number(part.id);
      if (id !== undefined && id <= state.after) continue;
      state.after = id ?? state.after;
      if (part.type === "messageStreamChunk") last = data;
      else if (last && endsReply(part.type, data, last.messageId)) last = undefined;
      state.isOver = part.type === "sessionExpired" || part.type === "sessionDeleted";
      yield /** @type {T.SessionEvent} */ ({ type: part.type, ...(id === undefined ? {} : { id }), data });
      if (state.isOver) return false;
    }
  } catch (error) {
    if (!hasCode(error, "CONNECTION_FAILED")) throw error;
  }
  if (last) {
    const { messageId, attempt, sessionId } = last;
    yield { type: "messageStreamAborted", data: { messageId, attempt, sessionId } };
  }
  return isExpired;
}

/**
 * Tells whether the pieces of a reply are over: it is stored, has failed, or is void.
 *
 * @param {string} type
 * @param {any} data
 * @param {string} messageId that of the pieces
 */
function endsReply(type, data, messageId) {
  if (type === "messageBroadcast") return data.id === messageId;
  if (type === "agentReplyFailed") return data.replyMessageId === messageId;
  return type === "messageStreamAborted" && data.messageId === messageId;
}

/**
 * @param {StreamPart} part
 * @returns {any}
 */
function parse(part) {
  try {
    return JSON.parse(part.data);
  } catch (cause) {
    throw new SessionsError("UNEXPECTED_ANSWER", `The event ${part.type} is no JSON`, { cause });
  }
}
