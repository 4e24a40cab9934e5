/**
 * What fails, by its `code`.
 *
 * `CONNECTION_FAILED` is the client's own: no answer came, or it broke off. `UNEXPECTED_ANSWER` is an answer
 * that the service does not give, such as a proxy's page.
 */

/**
 * The details that each code comes with.
 *
 * @typedef {{
 *   SESSION_NOT_FOUND: { sessionId: string },
 *   SESSION_EXPIRED: { sessionId: string, expiresAt: string },
 *   SESSION_CREATION_FAILED: { reason: string },
 *   AGENT_NOT_FOUND: { agentId: string },
 *   INVALID_UUID: { field: string, value: unknown },
 *   MISSING_FIELDS: { missingFields: string[] },
 *   INVALID_CONTENT: { reason: string },
 *   INVALID_METADATA: { reason: string, maxBytes: number },
 *   INVALID_PAGINATION: { parameter: string, value: unknown, reason: string },
 *   INVALID_TIMEOUT_CONFIG: { field: string, value: unknown, reason: string },
 *   SESSION_RENEWAL_FAILED:
 *     { sessionId: string, reason: string, maxDurationMinutes: number, createdAt: string },
 *   MESSAGE_SEND_FAILED: { sessionId: string, reason: string },
 *   INVALID_REQUEST: { reason: string },
 *   INVALID_FIELD: { field: string, value: unknown, reason: string },
 *   PATH_NOT_FOUND: { path: string },
 *   METHOD_NOT_ALLOWED: { method: string, allowed: string[] },
 *   REQUEST_TOO_LARGE: { maxBytes: number },
 *   UNSUPPORTED_MEDIA_TYPE: { contentType: string },
 *   RATE_LIMITED: { retryAfterSeconds: number, policy?: string, limit?: number, windowSeconds?: number },
 *   QUOTA_EXCEEDED: { retryAfterSeconds: number, quota: string, limit: number },
 *   UNAVAILABLE: { retryAfterSeconds: number },
 *   RESOURCE_EXHAUSTED: { retryAfterSeconds: number },
 *   OVERLOADED: { retryAfterSeconds: number },
 *   DEADLINE_EXCEEDED: {},
 *   AGENT_REPLY_TIMEOUT: { sessionId: string, messageId: string },
 *   AGENT_REPLY_FAILED: { sessionId: string, messageId: string, reason: string },
 *   REQUEST_ID_REUSED: { requestId: string },
 *   ETAG_MISMATCH: { sessionId: string, etag: string },
 *   ORIGIN_NOT_ALLOWED: { origin: string },
 *   HOST_NOT_ALLOWED: { host: string },
 *   UNAUTHENTICATED: {},
 *   CREDENTIAL_EXPIRED: {},
 *   PERMISSION_DENIED: {},
 *   INTERNAL: { errorId: string },
 *   CONNECTION_FAILED: {},
 *   UNEXPECTED_ANSWER: {},
 * }} ErrorDetails
 */

/** @typedef {keyof ErrorDetails} ErrorCode */

/** With these the service did nothing, so any call may be repeated. */
const DID_NOTHING = new Set(["OVERLOADED", "RATE_LIMITED"]);

/** With these the call may have taken effect. */
const PERHAPS_DONE = new Set(["UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "CONNECTION_FAILED"]);

/** What proxies answer while the service is away. */
const PROXY_STATUSES = new Set([502, 503, 504]);

/**
 * A call that failed. `hasCode` tells which, with its details.
 *
 * @template {ErrorCode} [Code=ErrorCode]
 */
export class SessionsError extends Error {
  /**
   * @param {Code} code
   * @param {string} message for people
   * @param {{ status?: number, details?: ErrorDetails[Code], retryAfterMs?: number, cause?: unknown }} [more]
   */
  constructor(code, message, { status = 0, details, retryAfterMs = 0, cause } = {}) {
    super(message, { cause });
    this.name = "SessionsError";
    /** Which error it is. A newer service may have codes that this client does not know. */
    this.code = code;
    /** The HTTP status; 0 where no answer came. */
    this.status = status;
    /** What programs may want to know. */
    this.details = details ?? /** @type {ErrorDetails[Code]} */ ({});
    /** How long the service asks to wait before another attempt, in milliseconds. */
    this.retryAfterMs = retryAfterMs;
    /** How often the call was tried. */
    this.attempts = 1;
    /**
     * The key of a create or a message: with it the same call may be repeated safely.
     *
     * @type {string | undefined}
     */
    this.idempotencyKey = undefined;
  }
}

/**
 * Tells whether something that was thrown is the error with this code.
 *
 * @template {ErrorCode} Code
 * @param {unknown} error
 * @param {Code} code
 * @returns {error is SessionsError<Code>}
 */
export function hasCode(error, code) {
  return error instanceof SessionsError && error.code === code;
}

/**
 * Tells whether another attempt may help and do no harm. `isRepeatable`: the call may take effect twice.
 *
 * @param {unknown} error
 * @param {boolean} isRepeatable
 * @returns {error is SessionsError}
 */
export function isTemporary(error, isRepeatable) {
  if (!(error instanceof SessionsError)) return false;
  if (DID_NOTHING.has(error.code)) return true;
  const isFromProxy = error.code === "UNEXPECTED_ANSWER" && PROXY_STATUSES.has(error.status);
  return isRepeatable && (isFromProxy || PERHAPS_DONE.has(error.code));
}

/**
 * The error of a body as the service writes it.
 *
 * @param {unknown} body
 * @param {number} status
 * @param {number} [retryAfterMs]
 * @returns {SessionsError}
 */
export function errorOf(body, status, retryAfterMs = 0) {
  const said = /** @type {{ error?: unknown, code?: unknown, details?: any }} */ (body ?? {});
  if (typeof said.code !== "string") {
    const message = `The answer has the status ${status} and no code`;
    return new SessionsError("UNEXPECTED_ANSWER", message, { status, retryAfterMs });
  }
  const code = /** @type {ErrorCode} */ (said.code);
  const details = said.details ?? {};
  const waitMs = retryAfterMs || Number(details.retryAfterSeconds ?? 0) * 1000;
  return new SessionsError(code, String(said.error), { status, details, retryAfterMs: waitMs });
}

/**
 * The error of an answer that did not come, or broke off.
 *
 * @param {unknown} cause
 */
export function connectionFailed(cause) {
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new SessionsError("CONNECTION_FAILED", `No whole answer came: ${reason}`, { cause });
}
