/** The client of eliza-sessions. */

export { SessionsClient } from "./client.js";
export { SessionsError, hasCode } from "./errors.js";
export { userIdFor } from "./user-id.js";

/** @typedef {import("./transport.js").ClientOptions} ClientOptions */
/** @typedef {import("./errors.js").ErrorCode} ErrorCode */
/** @typedef {import("./errors.js").ErrorDetails} ErrorDetails */
export * from "./types.js";
