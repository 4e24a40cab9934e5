export type Schemas = components["schemas"];
export type CreateSession = Schemas["CreateSessionRequest"];
export type CreatedSession = Schemas["CreateSessionResponse"] & {
    replayed: boolean;
};
/**
 * A session as it stands. `etag` stands for this state: calls with `ifMatch` change no other one.
 */
export type Session = Schemas["SessionInfo"] & {
    etag: string;
};
export type SessionList = Schemas["SessionList"];
export type TimeoutChange = Schemas["TimeoutConfigRequest"];
export type Message = Schemas["Message"];
export type MessagesPage = Schemas["MessagesPage"];
export type AgentReply = Schemas["AgentResponse"];
export type SentMessage = Omit<Schemas["MessageResponse"], "agentResponse"> & {
    replayed: boolean;
};
export type AnsweredMessage = SentMessage & {
    agentResponse: AgentReply;
};
export type Health = Schemas["Health"];
export type Agent = Schemas["AgentList"]["data"]["agents"][number];
/**
 * What to say: a text, or a text with more.
 */
export type MessageBody = {
    content: string;
    metadata?: Record<string, unknown>;
    attachments?: unknown[];
};
export type Outgoing = string | MessageBody;
export type Verb = "read" | "send" | "change";
/**
 * A token for one session. `expiresAt` is ISO 8601.
 */
export type AccessToken = {
    accessToken: string;
    expiresAt: string;
    sessionId: string;
    verbs: Verb[];
};
export type CallOptions = {
    signal?: AbortSignal | undefined;
};
export type ListOptions = {
    agentId?: string;
    userId?: string;
    limit?: number;
} & CallOptions;
/**
 * milliseconds since the epoch, or ISO 8601
 */
export type Cursor = number | string;
export type HistoryOptions = {
    limit?: number;
    before?: Cursor;
    after?: Cursor;
} & CallOptions;
export type KeyedOptions = CallOptions & {
    idempotencyKey?: string | undefined;
};
export type ConditionalOptions = CallOptions & {
    ifMatch?: string | undefined;
};
export type Chunk = {
    messageId: string;
    chunk: string;
    index: number;
    attempt: number;
};
export type Aborted = {
    messageId: string;
    attempt: number;
};
/**
 * What `stream` yields. After `aborted` the chunks so far are void. `done` is the last one.
 */
export type ReplyEvent = {
    type: "user_message";
    data: Schemas["MessageResponse"];
} | {
    type: "chunk";
    data: Chunk;
} | {
    type: "aborted";
    data: Aborted;
} | {
    type: "done";
    data: AgentReply;
};
export type Broadcast = {
    id: string;
    senderId: string;
    senderName: string;
    text: string;
    roomId: string;
    channelId: string;
    sessionId: string;
    /**
     * milliseconds since the epoch
     */
    createdAt: number;
    source: "user" | "agent_response";
    isAgent: boolean;
    thought: string | null;
    actions: string[];
    metadata: Record<string, unknown>;
    attachments: unknown[];
    sequence: number;
    sessionStatus: Schemas["SessionStatus"];
};
export type Entry = {
    sessionId: string;
    sequence: number;
};
export type ReplyFailure = {
    messageId: string;
    replyMessageId: string;
    reason: string;
    attempts: number;
};
/**
 * The payload of each event that has a sequence.
 */
export type EntryPayloads = {
    messageBroadcast: Broadcast;
    sessionRenewed: Entry & {
        expiresAt: string;
        renewalCount: number;
    };
    sessionTimeoutChanged: Entry & {
        expiresAt: string;
        timeoutConfig: Schemas["TimeoutConfig"];
    };
    sessionExpirationWarning: Entry & {
        minutesRemaining: number;
    };
    sessionExpired: Entry & {
        expiredAt: string;
    };
    agentReplyFailed: Entry & ReplyFailure;
};
/**
 * The payload of each event that is not kept.
 */
export type PassingPayloads = {
    messageStreamChunk: Chunk & {
        agentId: string;
        channelId: string;
        sessionId: string;
    };
    messageStreamAborted: Aborted & {
        sessionId: string;
    };
    sessionDeleted: {
        sessionId: string;
    };
};
/**
 * What `watch` yields. `id` is the sequence, to go on from.
 */
export type EntryEvents = { [T in keyof EntryPayloads]: {
    type: T;
    id: number;
    data: EntryPayloads[T];
}; };
export type NoId = {
    id?: undefined;
};
export type PassingEvents = { [T in keyof PassingPayloads]: NoId & {
    type: T;
    data: PassingPayloads[T];
}; };
export type SessionEvent = EntryEvents[keyof EntryEvents] | PassingEvents[keyof PassingEvents];
/**
 * `after` is the `id` of the last event that you have. `onState` is told when the stream is open, and when it
 * is lost and looked for again.
 */
export type OnState = (state: "open" | "lost") => void;
export type WatchOptions = CallOptions & {
    after?: number | undefined;
    onState?: OnState | undefined;
};
import type { components } from "../types/schema.js";
