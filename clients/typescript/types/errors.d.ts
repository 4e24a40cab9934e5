/**
 * Tells whether something that was thrown is the error with this code.
 *
 * @template {ErrorCode} Code
 * @param {unknown} error
 * @param {Code} code
 * @returns {error is SessionsError<Code>}
 */
export function hasCode<Code extends ErrorCode>(error: unknown, code: Code): error is SessionsError<Code>;
/**
 * Tells whether another attempt may help and do no harm. `isRepeatable`: the call may take effect twice.
 *
 * @param {unknown} error
 * @param {boolean} isRepeatable
 * @returns {error is SessionsError}
 */
export function isTemporary(error: unknown, isRepeatable: boolean): error is SessionsError;
/**
 * The error of a body as the service writes it.
 *
 * @param {unknown} body
 * @param {number} status
 * @param {number} [retryAfterMs]
 * @returns {SessionsError}
 */
export function errorOf(body: unknown, status: number, retryAfterMs?: number): SessionsError;
/**
 * The error of an answer that did not come, or broke off.
 *
 * @param {unknown} cause
 */
export function connectionFailed(cause: unknown): SessionsError<"CONNECTION_FAILED">;
/**
 * A call that failed. `hasCode` tells which, with its details.
 *
 * @template {ErrorCode} [Code=ErrorCode]
 */
export class SessionsError<Code extends ErrorCode = keyof ErrorDetails> extends Error {
    /**
     * @param {Code} code
     * @param {string} message for people
     * @param {{ status?: number, details?: ErrorDetails[Code], retryAfterMs?: number, cause?: unknown }} [more]
     */
    constructor(code: Code, message: string, { status, details, retryAfterMs, cause }?: {
        status?: number;
        details?: ErrorDetails[Code];
        retryAfterMs?: number;
        cause?: unknown;
    });
    /** Which error it is. A newer service may have codes that this client does not know. */
    code: Code;
    /** The HTTP status; 0 where no answer came. */
    status: number;
    /** What programs may want to know. */
    details: ErrorDetails[Code];
    /** How long the service asks to wait before another attempt, in milliseconds. */
    retryAfterMs: number;
    /** How often the call was tried. */
    attempts: number;
    /**
     * The key of a create or a message: with it the same call may be repeated safely.
     *
     * @type {string | undefined}
     */
    idempotencyKey: string | undefined;
}
/**
 * The details that each code comes with.
 */
export type ErrorDetails = {
    SESSION_NOT_FOUND: {
        sessionId: string;
    };
    SESSION_EXPIRED: {
        sessionId: string;
        expiresAt: string;
    };
    SESSION_CREATION_FAILED: {
        reason: string;
    };
    AGENT_NOT_FOUND: {
        agentId: string;
    };
    INVALID_UUID: {
        field: string;
        value: unknown;
    };
    MISSING_FIELDS: {
        missingFields: string[];
    };
    INVALID_CONTENT: {
        reason: string;
    };
    INVALID_METADATA: {
        reason: string;
        maxBytes: number;
    };
    INVALID_PAGINATION: {
        parameter: string;
        value: unknown;
        reason: string;
    };
    INVALID_TIMEOUT_CONFIG: {
        field: string;
        value: unknown;
        reason: string;
    };
    SESSION_RENEWAL_FAILED: {
        sessionId: string;
        reason: string;
        maxDurationMinutes: number;
        createdAt: string;
    };
    MESSAGE_SEND_FAILED: {
        sessionId: string;
        reason: string;
    };
    INVALID_REQUEST: {
        reason: string;
    };
    INVALID_FIELD: {
        field: string;
        value: unknown;
        reason: string;
    };
    PATH_NOT_FOUND: {
        path: string;
    };
    METHOD_NOT_ALLOWED: {
        method: string;
        allowed: string[];
    };
    REQUEST_TOO_LARGE: {
        maxBytes: number;
    };
    UNSUPPORTED_MEDIA_TYPE: {
        contentType: string;
    };
    RATE_LIMITED: {
        retryAfterSeconds: number;
        policy?: string;
        limit?: number;
        windowSeconds?: number;
    };
    QUOTA_EXCEEDED: {
        retryAfterSeconds: number;
        quota: string;
        limit: number;
    };
    UNAVAILABLE: {
        retryAfterSeconds: number;
    };
    RESOURCE_EXHAUSTED: {
        retryAfterSeconds: number;
    };
    OVERLOADED: {
        retryAfterSeconds: number;
    };
    DEADLINE_EXCEEDED: {};
    AGENT_REPLY_TIMEOUT: {
        sessionId: string;
        messageId: string;
    };
    AGENT_REPLY_FAILED: {
        sessionId: string;
        messageId: string;
        reason: string;
    };
    REQUEST_ID_REUSED: {
        requestId: string;
    };
    ETAG_MISMATCH: {
        sessionId: string;
        etag: string;
    };
    ORIGIN_NOT_ALLOWED: {
        origin: string;
    };
    HOST_NOT_ALLOWED: {
        host: string;
    };
    UNAUTHENTICATED: {};
    CREDENTIAL_EXPIRED: {};
    PERMISSION_DENIED: {};
    INTERNAL: {
        errorId: string;
    };
    CONNECTION_FAILED: {};
    UNEXPECTED_ANSWER: {};
};
export type ErrorCode = keyof ErrorDetails;
