/**
 * The shapes of the API, from its OpenAPI document, and the events of a session (docs/events.md).
 *
 * @import { components } from "../types/schema.js"
 */

/** @typedef {components["schemas"]} Schemas */

/** @typedef {Schemas["CreateSessionRequest"]} CreateSession */

/** @typedef {Schemas["CreateSessionResponse"] & { replayed: boolean }} CreatedSession */

/**
 * A session as it stands. `etag` stands for this state: calls with `ifMatch` change no other one.
 *
 * @typedef {Schemas["SessionInfo"] & { etag: string }} Session
 */

/** @typedef {Schemas["SessionList"]} SessionList */

/** @typedef {Schemas["TimeoutConfigRequest"]} TimeoutChange */

/** @typedef {Schemas["Message"]} Message */

/** @typedef {Schemas["MessagesPage"]} MessagesPage */

/** @typedef {Schemas["AgentResponse"]} AgentReply */

/** @typedef {Omit<Schemas["MessageResponse"], "agentResponse"> & { replayed: boolean }} SentMessage */

/** @typedef {SentMessage & { agentResponse: AgentReply }} AnsweredMessage */

/** @typedef {Schemas["Health"]} Health */

/** @typedef {Schemas["AgentList"]["data"]["agents"][number]} Agent */

/**
 * What to say: a text, or a text with more.
 *
 * @typedef {{ content: string, metadata?: Record<string, unknown>, attachments?: unknown[] }} MessageBody
 */

/** @typedef {string | MessageBody} Outgoing */

/** @typedef {"read" | "send" | "change"} Verb */

/**
 * A token for one session. `expiresAt` is ISO 8601.
 *
 * @typedef {{ accessToken: string, expiresAt: string, sessionId: string, verbs: Verb[] }} AccessToken
 */

/** @typedef {{ signal?: AbortSignal | undefined }} CallOptions */

/** @typedef {{ agentId?: string, userId?: string, limit?: number } & CallOptions} ListOptions */

/** @typedef {number | string} Cursor milliseconds since the epoch, or ISO 8601 */

/** @typedef {{ limit?: number, before?: Cursor, after?: Cursor } & CallOptions} HistoryOptions */

/** @typedef {CallOptions & { idempotencyKey?: string | undefined }} KeyedOptions */

/** @typedef {CallOptions & { ifMatch?: string | undefined }} ConditionalOptions */

/** @typedef {{ messageId: string, chunk: string, index: number, attempt: number }} Chunk */

/** @typedef {{ messageId: string, attempt: number }} Aborted */

/**
 * What `stream` yields. After `aborted` the chunks so far are void. `done` is the last one.
 *
 * @typedef {{ type: "user_message", data: Schemas["MessageResponse"] }
 *   | { type: "chunk", data: Chunk }
 *   | { type: "aborted", data: Aborted }
 *   | { type: "done", data: AgentReply }} ReplyEvent
 */

/**
 * @typedef {object} Broadcast
 * @property {string} id
 * @property {string} senderId
 * @property {string} senderName
 * @property {string} text
 * @property {string} roomId
 * @property {string} channelId
 * @property {string} sessionId
 * @property {number} createdAt milliseconds since the epoch
 * @property {"user" | "agent_response"} source
 * @property {boolean} isAgent
 * @property {string | null} thought
 * @property {string[]} actions
 * @property {Record<string, unknown>} metadata
 * @property {unknown[]} attachments
 * @property {number} sequence
 * @property {Schemas["SessionStatus"]} sessionStatus
 */

/** @typedef {{ sessionId: string, sequence: number }} Entry */

/** @typedef {{ messageId: string, replyMessageId: string, reason: string, attempts: number }} ReplyFailure */

/**
 * The payload of each event that has a sequence.
 *
 * @typedef {{
 *   messageBroadcast: Broadcast,
 *   sessionRenewed: Entry & { expiresAt: string, renewalCount: number },
 *   sessionTimeoutChanged: Entry & { expiresAt: string, timeoutConfig: Schemas["TimeoutConfig"] },
 *   sessionExpirationWarning: Entry & { minutesRemaining: number },
 *   sessionExpired: Entry & { expiredAt: string },
 *   agentReplyFailed: Entry & ReplyFailure,
 * }} EntryPayloads
 */

/**
 * The payload of each event that is not kept.
 *
 * @typedef {{
 *   messageStreamChunk: Chunk & { agentId: string, channelId: string, sessionId: string },
 *   messageStreamAborted: Aborted & { sessionId: string },
 *   sessionDeleted: { sessionId: string },
 * }} PassingPayloads
 */

/**
 * What `watch` yields. `id` is the sequence, to go on from.
 *
 * @typedef {{ [T in keyof EntryPayloads]: { type: T, id: number, data: EntryPayloads[T] } }} EntryEvents
 */

/** @typedef {{ id?: undefined }} NoId */

/**
 * @typedef {{ [T in keyof PassingPayloads]: NoId & { type: T, data: PassingPayloads[T] } }} PassingEvents
 */

/** @typedef {EntryEvents[keyof EntryEvents] | PassingEvents[keyof PassingEvents]} SessionEvent */

/**
 * `after` is the `id` of the last event that you have. `onState` is told when the stream is open, and when it
 * is lost and looked for again.
 *
 * @typedef {(state: "open" | "lost") => void} OnState
 */

/** @typedef {CallOptions & { after?: number | undefined, onState?: OnState | undefined }} WatchOptions */

export {};
