export { SessionsClient } from "./client.js";
export { userIdFor } from "./user-id.js";
export * from "./types.js";
export type ClientOptions = import("./transport.js").ClientOptions;
export type ErrorCode = import("./errors.js").ErrorCode;
export type ErrorDetails = import("./errors.js").ErrorDetails;
export { SessionsError, hasCode } from "./errors.js";
