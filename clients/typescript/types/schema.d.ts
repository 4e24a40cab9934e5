// Made from openapi.yaml by generate.mjs.

export interface paths {
    "/api/messaging/sessions": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /** Lists the active sessions, the oldest first. */
        get: operations["listSessions"];
        put?: never;
        /** Creates a session of a user with an agent. */
        post: operations["createSession"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/messaging/sessions/health": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /** Tells how the service is. */
        get: operations["getHealth"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/messaging/sessions/{sessionId}": {
        parameters: {
            query?: never;
            header?: never;
            path: {
                /** @description UUID of the session. What is not a UUID is simply not found. */
                sessionId: components["parameters"]["SessionId"];
            };
            cookie?: never;
        };
        /** Reads one session and its live status. */
        get: operations["getSession"];
        put?: never;
        post?: never;
        /** Ends and removes a session, live or expired. */
        delete: operations["deleteSession"];
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/messaging/sessions/{sessionId}/messages": {
        parameters: {
            query?: never;
            header?: never;
            path: {
                /** @description UUID of the session. What is not a UUID is simply not found. */
                sessionId: components["parameters"]["SessionId"];
            };
            cookie?: never;
        };
        /** Pages through the history, newest first. */
        get: operations["listMessages"];
        put?: never;
        /** Sends a message, which renews the session when auto-renewal is on. */
        post: operations["sendMessage"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/messaging/sessions/{sessionId}/messages#stream": {
        parameters: {
            query?: never;
            header?: never;
            path: {
                /** @description UUID of the session. What is not a UUID is simply not found. */
                sessionId: components["parameters"]["SessionId"];
            };
            cookie?: never;
        };
        get?: never;
        put?: never;
        /** Sends a message with `transport` `sse`, and streams the agent's reply. */
        post: operations["streamMessage"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/messaging/sessions/{sessionId}/events": {
        parameters: {
            query?: never;
            header?: never;
            path: {
                /** @description UUID of the session. What is not a UUID is simply not found. */
                sessionId: components["parameters"]["SessionId"];
            };
            cookie?: never;
        };
        /** Streams the session's events, from the first or from behind a sequence. */
        get: operations["watchEvents"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/messaging/sessions/{sessionId}/transcript": {
        parameters: {
            query?: never;
            header?: never;
            path: {
                /** @description UUID of the session. What is not a UUID is simply not found. */
                sessionId: components["parameters"]["SessionId"];
            };
            cookie?: never;
        };
        /** Streams all that there is of a session, live or expired, until its purge. */
        get: operations["exportTranscript"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/messaging/sessions/{sessionId}/renew": {
        parameters: {
            query?: never;
            header?: never;
            path: {
                /** @description UUID of the session. What is not a UUID is simply not found. */
                sessionId: components["parameters"]["SessionId"];
            };
            cookie?: never;
        };
        get?: never;
        put?: never;
        /** Renews by hand, also when auto-renewal is off. */
        post: operations["renewSession"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/messaging/sessions/{sessionId}/timeout": {
        parameters: {
            query?: never;
            header?: never;
            path: {
                /** @description UUID of the session. What is not a UUID is simply not found. */
                sessionId: components["parameters"]["SessionId"];
            };
            cookie?: never;
        };
        get?: never;
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        /** Changes the timeout settings that the body names. */
        patch: operations["updateTimeout"];
        trace?: never;
    };
    "/api/messaging/sessions/{sessionId}/heartbeat": {
        parameters: {
            query?: never;
            header?: never;
            path: {
                /** @description UUID of the session. What is not a UUID is simply not found. */
                sessionId: components["parameters"]["SessionId"];
            };
            cookie?: never;
        };
        get?: never;
        put?: never;
        /** Keeps alive, and renews when auto-renewal is on. */
        post: operations["sendHeartbeat"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/messaging/sessions/{sessionId}/tokens": {
        parameters: {
            query?: never;
            header?: never;
            path: {
                /** @description UUID of the session. What is not a UUID is simply not found. */
                sessionId: components["parameters"]["SessionId"];
            };
            cookie?: never;
        };
        get?: never;
        put?: never;
        /** Makes a token for this session, for a short time. It is what a browser gets. */
        post: operations["createAccessToken"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/openapi.json": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /** This document. */
        get: operations["getOpenApi"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/api/agents": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /** Lists the agents, the oldest first. */
        get: operations["listAgents"];
        put?: never;
        post?: never;
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
    "/test/clock": {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        /** Reads the test clock; 404 when it is off. */
        get: operations["getClock"];
        put?: never;
        /** Sets or advances the test clock; 404 when it is off. */
        post: operations["setClock"];
        delete?: never;
        options?: never;
        head?: never;
        patch?: never;
        trace?: never;
    };
}
export type webhooks = Record<string, never>;
export interface components {
    schemas: {
        Uuid: string;
        /** @description ISO 8601 in UTC with three fractional digits. */
        Instant: string;
        /** @description Milliseconds since the epoch. */
        Milliseconds: number;
        Cursor: number | string;
        /** @description At most 10,240 bytes as compact JSON, and 30 levels deep. */
        Metadata: {
            [key: string]: unknown;
        };
        TimeoutConfig: {
            timeoutMinutes: number;
            autoRenew: boolean;
            maxDurationMinutes: number;
            warningThresholdMinutes: number;
        };
        /** @description Every field is optional; null counts as absent. A number may be written as a decimal string. */
        TimeoutConfigRequest: {
            timeoutMinutes?: number | null;
            autoRenew?: boolean | null;
            maxDurationMinutes?: number | null;
            warningThresholdMinutes?: number | null;
        };
        CreateSessionRequest: {
            /** Format: uuid */
            agentId: string;
            /** Format: uuid */
            userId: string;
            metadata?: components["schemas"]["Metadata"] | null;
            timeoutConfig?: components["schemas"]["TimeoutConfigRequest"] | null;
        };
        CreateSessionResponse: {
            sessionId: components["schemas"]["Uuid"];
            channelId: components["schemas"]["Uuid"];
            agentId: components["schemas"]["Uuid"];
            userId: components["schemas"]["Uuid"];
            createdAt: components["schemas"]["Instant"];
            metadata: components["schemas"]["Metadata"];
            expiresAt: components["schemas"]["Instant"];
            timeoutConfig: components["schemas"]["TimeoutConfig"];
        };
        SessionInfo: {
            sessionId: components["schemas"]["Uuid"];
            channelId: components["schemas"]["Uuid"];
            agentId: components["schemas"]["Uuid"];
            userId: components["schemas"]["Uuid"];
            createdAt: components["schemas"]["Instant"];
            metadata: components["schemas"]["Metadata"];
            expiresAt: components["schemas"]["Instant"];
            timeoutConfig: components["schemas"]["TimeoutConfig"];
            lastActivity: components["schemas"]["Instant"];
            renewalCount: number;
            /** @description Milliseconds to the expiry. */
            timeRemaining: number;
            isNearExpiration: boolean;
        };
        CreateAccessTokenRequest: {
            /** @description What the token allows. Each must be allowed to the caller. Empty or absent, it is `read` and `send`. */
            verbs?: ("read" | "send" | "change")[] | null;
            /** @description How long the token is good. The service has a bound, which is also what counts where this is absent. */
            seconds?: number | null;
        };
        AccessToken: {
            accessToken: string;
            expiresAt: components["schemas"]["Instant"];
            verbs: ("read" | "send" | "change")[];
            sessionId: components["schemas"]["Uuid"];
        };
        SessionStatus: {
            expiresAt: components["schemas"]["Instant"];
            renewalCount: number;
            wasRenewed: boolean;
            isNearExpiration: boolean;
        };
        AgentList: {
            /** @constant */
            success: true;
            data: {
                agents: {
                    id: components["schemas"]["Uuid"];
                    name: string;
                    /**
                     * @description Inactive while workers are to answer and none is connected.
                     * @enum {string}
                     */
                    status: "active" | "inactive";
                }[];
            };
        };
        SendMessageRequest: {
            content: string;
            metadata?: components["schemas"]["Metadata"] | null;
            /** @description At most 2 MiB as compact JSON, 30 levels deep and 2,000 values. */
            attachments?: unknown[] | null;
            /**
             * @description How the sender learns of the reply; `sse` is the operation streamMessage.
             * @enum {unknown}
             */
            transport?: "websocket" | "http" | "sync" | null;
            /**
             * @description The older name of `transport`, which wins.
             * @enum {unknown}
             */
            mode?: "websocket" | "http" | "sync" | null;
        };
        StreamMessageRequest: {
            content: string;
            metadata?: components["schemas"]["Metadata"] | null;
            /** @description At most 2 MiB as compact JSON, 30 levels deep and 2,000 values. */
            attachments?: unknown[] | null;
            /**
             * @description The two mean the same.
             * @enum {string}
             */
            transport: "sse" | "stream";
        };
        MessageResponse: {
            id: components["schemas"]["Uuid"];
            content: string;
            authorId: components["schemas"]["Uuid"];
            createdAt: components["schemas"]["Instant"];
            metadata: components["schemas"]["Metadata"];
            attachments?: unknown[];
            sessionStatus: components["schemas"]["SessionStatus"];
            agentResponse?: components["schemas"]["AgentResponse"];
        };
        Message: {
            id: components["schemas"]["Uuid"];
            content: string;
            authorId: components["schemas"]["Uuid"];
            isAgent: boolean;
            createdAt: components["schemas"]["Instant"];
            metadata: components["schemas"]["Metadata"];
            attachments?: unknown[];
        };
        AgentResponse: {
            id: components["schemas"]["Uuid"];
            content: string;
            authorId: components["schemas"]["Uuid"];
            isAgent: boolean;
            createdAt: components["schemas"]["Instant"];
            metadata: components["schemas"]["Metadata"];
            attachments?: unknown[];
            /** @description The same as `content`. */
            text: string;
            thought: string | null;
            actions: string[];
        };
        MessagesPage: {
            messages: components["schemas"]["Message"][];
            hasMore: boolean;
            cursors?: {
                before: components["schemas"]["Milliseconds"];
                after: components["schemas"]["Milliseconds"];
            };
        };
        SessionList: {
            sessions: components["schemas"]["SessionInfo"][];
            /** @description A session counts as active until its expiry is written. */
            total: number;
            /** @description Counts over everything stored. They may lag behind the sessions as total does. */
            stats: {
                totalSessions: number;
                activeSessions: number;
                expiredSessions: number;
            };
            /** @description Only when there is more. */
            nextPageToken?: string;
        };
        /** @description Callers who may not know how much the service holds are told `status` and `timestamp` alone. */
        Health: {
            /** @enum {unknown} */
            status: "healthy" | "degraded";
            activeSessions?: number;
            timestamp: components["schemas"]["Instant"];
            expiringSoon?: number;
            /** @description Those that reads have met since the start. */
            invalidSessions?: number;
            /** @description Seconds. */
            uptime?: number;
            /** @description Of the service that runs. */
            version?: string;
        };
        Error: {
            /** @description For people. */
            error: string;
            /** @description For programs. */
            details: {
                [key: string]: unknown;
            };
            code: components["schemas"]["ErrorCode"];
        };
        /** @description An error, and what is known besides. */
        HealthError: {
            /** @constant */
            status: "unhealthy";
            /** @description For people. */
            error: string;
            /** @description For programs. */
            details: {
                [key: string]: unknown;
            };
            code: components["schemas"]["ErrorCode"];
            activeSessions?: number;
            timestamp?: components["schemas"]["Instant"];
            expiringSoon?: number;
            /** @description Those that reads have met since the start. */
            invalidSessions?: number;
            /** @description Seconds. */
            uptime?: number;
            /** @description Of the service that runs. */
            version?: string;
        };
        /** @enum {unknown} */
        ErrorCode: "SESSION_NOT_FOUND" | "SESSION_EXPIRED" | "SESSION_CREATION_FAILED" | "AGENT_NOT_FOUND" | "INVALID_UUID" | "MISSING_FIELDS" | "INVALID_CONTENT" | "INVALID_METADATA" | "INVALID_PAGINATION" | "INVALID_TIMEOUT_CONFIG" | "SESSION_RENEWAL_FAILED" | "MESSAGE_SEND_FAILED" | "INVALID_REQUEST" | "INVALID_FIELD" | "PATH_NOT_FOUND" | "METHOD_NOT_ALLOWED" | "REQUEST_TOO_LARGE" | "UNSUPPORTED_MEDIA_TYPE" | "RATE_LIMITED" | "UNAVAILABLE" | "RESOURCE_EXHAUSTED" | "OVERLOADED" | "DEADLINE_EXCEEDED" | "AGENT_REPLY_TIMEOUT" | "AGENT_REPLY_FAILED" | "REQUEST_ID_REUSED" | "ETAG_MISMATCH" | "ORIGIN_NOT_ALLOWED" | "HOST_NOT_ALLOWED" | "UNAUTHENTICATED" | "CREDENTIAL_EXPIRED" | "PERMISSION_DENIED" | "QUOTA_EXCEEDED" | "INTERNAL";
    };
    responses: {
        /** @description The session as it stands. */
        Session: {
            headers: {
                "Eliza-Unknown-Fields": components["headers"]["UnknownFields"];
                "Preference-Applied": components["headers"]["PreferenceApplied"];
                ETag: components["headers"]["ETag"];
                [name: string]: unknown;
            };
            content: {
                "application/json": components["schemas"]["SessionInfo"];
            };
        };
        /** @description The service's time. */
        Clock: {
            headers: {
                "Eliza-Unknown-Fields": components["headers"]["UnknownFields"];
                "Preference-Applied": components["headers"]["PreferenceApplied"];
                [name: string]: unknown;
            };
            content: {
                "application/json": {
                    now: components["schemas"]["Instant"];
                };
            };
        };
        /** @description Something in the request is not as it must be; `details` say what. */
        BadRequest: {
            headers: {
                "Eliza-Unknown-Fields": components["headers"]["UnknownFields"];
                "Preference-Applied": components["headers"]["PreferenceApplied"];
                [name: string]: unknown;
            };
            content: {
                "application/json": components["schemas"]["Error"];
            };
        };
        /** @description There is no such session, agent or path. */
        NotFound: {
            headers: {
                "Eliza-Unknown-Fields": components["headers"]["UnknownFields"];
                "Preference-Applied": components["headers"]["PreferenceApplied"];
                [name: string]: unknown;
            };
            content: {
                "application/json": components["schemas"]["Error"];
            };
        };
        /** @description There is no credential, or one that is not good, or no longer. Nothing was done. */
        Unauthorized: {
            headers: {
                "Eliza-Unknown-Fields": components["headers"]["UnknownFields"];
                "Preference-Applied": components["headers"]["PreferenceApplied"];
                "WWW-Authenticate": components["headers"]["WwwAuthenticate"];
                "Cache-Control": components["headers"]["NoStore"];
                [name: string]: unknown;
            };
            content: {
                "application/json": components["schemas"]["Error"];
            };
        };
        /** @description A web page of this origin may not use the service, or the caller may not do this. Nothing was done. */
        Forbidden: {
            headers: {
                "Eliza-Unknown-Fields": components["headers"]["UnknownFields"];
                "Preference-Applied": components["headers"]["PreferenceApplied"];
                [name: string]: unknown;
            };
            content: {
                "application/json": components["schemas"]["Error"];
            };
        };
        /** @description The caller exceeds a rate, or has used up a quota. Nothing was done. */
        TooManyRequests: {
            headers: {
                "Eliza-Unknown-Fields": components["headers"]["UnknownFields"];
                "Preference-Applied": components["headers"]["PreferenceApplied"];
                "Retry-After": components["headers"]["RetryAfter"];
                RateLimit: components["headers"]["RateLimit"];
                "RateLimit-Policy": components["headers"]["RateLimitPolicy"];
                [name: string]: unknown;
            };
            content: {
                "application/json": components["schemas"]["Error"];
            };
        };
        /** @description The service is not known by the host that the request names, and nothing was done. */
        HostNotAllowed: {
            headers: {
                [name: string]: unknown;
            };
            content: {
                "application/json": components["schemas"]["Error"];
            };
        };
        /** @description The path does not have this method. */
        MethodNotAllowed: {
            headers: {
                /** @description The methods that it has. */
                Allow: string;
                [name: string]: unknown;
            };
            content: {
                "application/json": components["schemas"]["Error"];
            };
        };
        /** @description The Idempotency-Key was used before, with other content. */
        Conflict: {
            headers: {
                "Eliza-Unknown-Fields": components["headers"]["UnknownFields"];
                "Preference-Applied": components["headers"]["PreferenceApplied"];
                [name: string]: unknown;
            };
            content: {
                "application/json": components["schemas"]["Error"];
            };
        };
        /** @description The session has expired. */
        Expired: {
            headers: {
                "Eliza-Unknown-Fields": components["headers"]["UnknownFields"];
                "Preference-Applied": components["headers"]["PreferenceApplied"];
                [name: string]: unknown;
            };
            content: {
                "application/json": components["schemas"]["Error"];
            };
        };
        /** @description The session is not in the state that If-Match names. */
        PreconditionFailed: {
            headers: {
                "Eliza-Unknown-Fields": components["headers"]["UnknownFields"];
                "Preference-Applied": components["headers"]["PreferenceApplied"];
                [name: string]: unknown;
            };
            content: {
                "application/json": components["schemas"]["Error"];
            };
        };
        /** @description The body is larger than 2 MiB. */
        TooLarge: {
            headers: {
                [name: string]: unknown;
            };
            content: {
                "application/json": components["schemas"]["Error"];
            };
        };
        /** @description The body is not JSON by its content type. */
        UnsupportedMediaType: {
            headers: {
                [name: string]: unknown;
            };
            content: {
                "application/json": components["schemas"]["Error"];
            };
        };
        /** @description A fault of the service. The log has its cause. */
        Internal: {
            headers: {
                "Eliza-Unknown-Fields": components["headers"]["UnknownFields"];
                "Preference-Applied": components["headers"]["PreferenceApplied"];
                [name: string]: unknown;
            };
            content: {
                "application/json": components["schemas"]["Error"];
            };
        };
        /** @description The service cannot answer now. */
        Unavailable: {
            headers: {
                "Eliza-Unknown-Fields": components["headers"]["UnknownFields"];
                "Preference-Applied": components["headers"]["PreferenceApplied"];
                "Retry-After": components["headers"]["RetryAfter"];
                [name: string]: unknown;
            };
            content: {
                "application/json": components["schemas"]["Error"];
            };
        };
        /** @description There was no answer in time. A message that was sent is kept. */
        Timeout: {
            headers: {
                "Eliza-Unknown-Fields": components["headers"]["UnknownFields"];
                "Preference-Applied": components["headers"]["PreferenceApplied"];
                [name: string]: unknown;
            };
            content: {
                "application/json": components["schemas"]["Error"];
            };
        };
    };
    parameters: {
        /** @description UUID of the session. What is not a UUID is simply not found. */
        SessionId: string;
        /** @description What the caller calls this request, so that it can repeat it. The same key with the same content gives the first answer again, until its session is deleted or purged. */
        IdempotencyKey: string;
        /** @description With `handling=strict`, fields that are not documented are an error, INVALID_REQUEST. */
        Prefer: string;
        /** @description Only in the state that this entity tag stands for. */
        IfMatch: string;
    };
    requestBodies: {
        /** @description Nothing is needed; an object is accepted. */
        Nothing: {
            content: {
                "application/json": {
                    [key: string]: unknown;
                };
            };
        };
    };
    headers: {
        /** @description Stands for the state of the session. */
        ETag: string;
        /** @description `true` where this is the first answer again, and nothing was done now. */
        IdempotencyReplayed: "true";
        /** @description The fields of the request that are not documented, at most ten: percent-encoded, separated by commas, with dots before nested ones, `""` for an empty name. They were not looked at. */
        UnknownFields: string;
        /** @description That fields which are not documented are an error, because the request prefers it. */
        PreferenceApplied: "handling=strict";
        /** @description Which credential is wanted, and whether the one that was sent is not good. */
        WwwAuthenticate: string;
        /** @description No cache may keep the answer. */
        NoStore: "no-store";
        /** @description Of the policy nothing remains, and in how many seconds there is more. Where a rate was exceeded. */
        RateLimit: string;
        /** @description The policy, how many calls it allows, and in how many seconds. Where a rate was exceeded. */
        RateLimitPolicy: string;
        /** @description How many seconds to wait before another attempt. */
        RetryAfter: string;
    };
    pathItems: never;
}
export type $defs = Record<string, never>;
export interface operations {
    listSessions: {
        parameters: {
            query?: {
                /** @description At most this many; without it, 1000. Out of range it is clamped, not a number counts as absent. */
                limit?: number;
                /** @description The `nextPageToken` of the page before, with the same filters. */
                pageToken?: string;
                /** @description Only sessions with this agent. */
                agentId?: string;
                /** @description Only sessions of this user. */
                userId?: string;
            };
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description A page of the active sessions. Above 1 MiB it is sent as it arrives, without Content-Length; one that ends without its last chunk is not whole. */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["SessionList"];
                };
            };
            400: components["responses"]["BadRequest"];
            401: components["responses"]["Unauthorized"];
            403: components["responses"]["Forbidden"];
            413: components["responses"]["TooLarge"];
            421: components["responses"]["HostNotAllowed"];
            429: components["responses"]["TooManyRequests"];
            500: components["responses"]["Internal"];
            503: components["responses"]["Unavailable"];
            504: components["responses"]["Timeout"];
        };
    };
    createSession: {
        parameters: {
            query?: never;
            header?: {
                /** @description With `handling=strict`, fields that are not documented are an error, INVALID_REQUEST. */
                Prefer?: components["parameters"]["Prefer"];
                /** @description What the caller calls this request, so that it can repeat it. The same key with the same content gives the first answer again, until its session is deleted or purged. */
                "Idempotency-Key"?: components["parameters"]["IdempotencyKey"];
            };
            path?: never;
            cookie?: never;
        };
        requestBody: {
            content: {
                "application/json": components["schemas"]["CreateSessionRequest"];
            };
        };
        responses: {
            /** @description The new session; or the one that an equal request made before. */
            201: {
                headers: {
                    "Eliza-Unknown-Fields": components["headers"]["UnknownFields"];
                    "Preference-Applied": components["headers"]["PreferenceApplied"];
                    ETag: components["headers"]["ETag"];
                    "Idempotency-Replayed": components["headers"]["IdempotencyReplayed"];
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["CreateSessionResponse"];
                };
            };
            400: components["responses"]["BadRequest"];
            401: components["responses"]["Unauthorized"];
            403: components["responses"]["Forbidden"];
            404: components["responses"]["NotFound"];
            409: components["responses"]["Conflict"];
            413: components["responses"]["TooLarge"];
            415: components["responses"]["UnsupportedMediaType"];
            421: components["responses"]["HostNotAllowed"];
            429: components["responses"]["TooManyRequests"];
            500: components["responses"]["Internal"];
            503: components["responses"]["Unavailable"];
            504: components["responses"]["Timeout"];
        };
    };
    getHealth: {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description It serves. */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Health"];
                };
            };
            401: components["responses"]["Unauthorized"];
            403: components["responses"]["Forbidden"];
            413: components["responses"]["TooLarge"];
            421: components["responses"]["HostNotAllowed"];
            429: components["responses"]["TooManyRequests"];
            500: components["responses"]["Internal"];
            /** @description It cannot write, is overloaded, or is out of reach. */
            503: {
                headers: {
                    "Retry-After": components["headers"]["RetryAfter"];
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["HealthError"];
                };
            };
            504: components["responses"]["Timeout"];
        };
    };
    getSession: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                /** @description UUID of the session. What is not a UUID is simply not found. */
                sessionId: components["parameters"]["SessionId"];
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            200: components["responses"]["Session"];
            401: components["responses"]["Unauthorized"];
            403: components["responses"]["Forbidden"];
            404: components["responses"]["NotFound"];
            410: components["responses"]["Expired"];
            413: components["responses"]["TooLarge"];
            421: components["responses"]["HostNotAllowed"];
            429: components["responses"]["TooManyRequests"];
            500: components["responses"]["Internal"];
            503: components["responses"]["Unavailable"];
            504: components["responses"]["Timeout"];
        };
    };
    deleteSession: {
        parameters: {
            query?: never;
            header?: {
                /** @description Only in the state that this entity tag stands for. */
                "If-Match"?: components["parameters"]["IfMatch"];
            };
            path: {
                /** @description UUID of the session. What is not a UUID is simply not found. */
                sessionId: components["parameters"]["SessionId"];
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description It is gone. */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": {
                        /** @constant */
                        success: true;
                        /** @example Session 5f0c… deleted successfully */
                        message: string;
                    };
                };
            };
            401: components["responses"]["Unauthorized"];
            403: components["responses"]["Forbidden"];
            404: components["responses"]["NotFound"];
            412: components["responses"]["PreconditionFailed"];
            413: components["responses"]["TooLarge"];
            421: components["responses"]["HostNotAllowed"];
            429: components["responses"]["TooManyRequests"];
            500: components["responses"]["Internal"];
            503: components["responses"]["Unavailable"];
            504: components["responses"]["Timeout"];
        };
    };
    listMessages: {
        parameters: {
            query?: {
                /** @description At most this many; out of range it is clamped, not a number means 50. */
                limit?: number;
                /** @description Only messages older than this, in milliseconds since the epoch or ISO 8601. */
                before?: components["schemas"]["Cursor"];
                /** @description Only messages newer than this. Alone, the page is the oldest of these. */
                after?: components["schemas"]["Cursor"];
            };
            header?: never;
            path: {
                /** @description UUID of the session. What is not a UUID is simply not found. */
                sessionId: components["parameters"]["SessionId"];
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description A page of the history. Above 1 MiB it is sent as it arrives, without Content-Length; one that ends without its last chunk is not whole. */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["MessagesPage"];
                };
            };
            400: components["responses"]["BadRequest"];
            401: components["responses"]["Unauthorized"];
            403: components["responses"]["Forbidden"];
            404: components["responses"]["NotFound"];
            410: components["responses"]["Expired"];
            413: components["responses"]["TooLarge"];
            421: components["responses"]["HostNotAllowed"];
            429: components["responses"]["TooManyRequests"];
            500: components["responses"]["Internal"];
            503: components["responses"]["Unavailable"];
            504: components["responses"]["Timeout"];
        };
    };
    sendMessage: {
        parameters: {
            query?: never;
            header?: {
                /** @description With `handling=strict`, fields that are not documented are an error, INVALID_REQUEST. */
                Prefer?: components["parameters"]["Prefer"];
                /** @description What the caller calls this request, so that it can repeat it. The same key with the same content gives the first answer again, until its session is deleted or purged. */
                "Idempotency-Key"?: components["parameters"]["IdempotencyKey"];
            };
            path: {
                /** @description UUID of the session. What is not a UUID is simply not found. */
                sessionId: components["parameters"]["SessionId"];
            };
            cookie?: never;
        };
        requestBody: {
            content: {
                "application/json": components["schemas"]["SendMessageRequest"];
            };
        };
        responses: {
            /** @description The stored message; with `transport` `http`, and the agent's reply. */
            201: {
                headers: {
                    "Eliza-Unknown-Fields": components["headers"]["UnknownFields"];
                    "Preference-Applied": components["headers"]["PreferenceApplied"];
                    "Idempotency-Replayed": components["headers"]["IdempotencyReplayed"];
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["MessageResponse"];
                };
            };
            400: components["responses"]["BadRequest"];
            401: components["responses"]["Unauthorized"];
            403: components["responses"]["Forbidden"];
            404: components["responses"]["NotFound"];
            409: components["responses"]["Conflict"];
            410: components["responses"]["Expired"];
            413: components["responses"]["TooLarge"];
            415: components["responses"]["UnsupportedMediaType"];
            421: components["responses"]["HostNotAllowed"];
            429: components["responses"]["TooManyRequests"];
            500: components["responses"]["Internal"];
            /** @description With `transport` `http`, the agent could not reply. The message is kept. */
            502: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Error"];
                };
            };
            503: components["responses"]["Unavailable"];
            504: components["responses"]["Timeout"];
        };
    };
    streamMessage: {
        parameters: {
            query?: never;
            header?: {
                /** @description With `handling=strict`, fields that are not documented are an error, INVALID_REQUEST. */
                Prefer?: components["parameters"]["Prefer"];
                /** @description What the caller calls this request, so that it can repeat it. The same key with the same content gives the first answer again, until its session is deleted or purged. */
                "Idempotency-Key"?: components["parameters"]["IdempotencyKey"];
            };
            path: {
                /** @description UUID of the session. What is not a UUID is simply not found. */
                sessionId: components["parameters"]["SessionId"];
            };
            cookie?: never;
        };
        requestBody: {
            content: {
                "application/json": components["schemas"]["StreamMessageRequest"];
            };
        };
        responses: {
            /** @description The events `user_message` (MessageResponse), `chunk` ({messageId, chunk, index, attempt}) any number of times, `aborted` ({messageId, attempt}) where the chunks so far are void, then `done` (AgentResponse) or `error` (Error). */
            200: {
                headers: {
                    "Eliza-Unknown-Fields": components["headers"]["UnknownFields"];
                    "Preference-Applied": components["headers"]["PreferenceApplied"];
                    "Idempotency-Replayed": components["headers"]["IdempotencyReplayed"];
                    [name: string]: unknown;
                };
                content: {
                    "text/event-stream": string;
                };
            };
            400: components["responses"]["BadRequest"];
            401: components["responses"]["Unauthorized"];
            403: components["responses"]["Forbidden"];
            404: components["responses"]["NotFound"];
            409: components["responses"]["Conflict"];
            410: components["responses"]["Expired"];
            413: components["responses"]["TooLarge"];
            415: components["responses"]["UnsupportedMediaType"];
            421: components["responses"]["HostNotAllowed"];
            429: components["responses"]["TooManyRequests"];
            500: components["responses"]["Internal"];
            503: components["responses"]["Unavailable"];
            504: components["responses"]["Timeout"];
        };
    };
    watchEvents: {
        parameters: {
            query?: {
                /** @description The sequence of the last event that the client has; the log must have it. */
                after?: number;
            };
            header?: {
                /** @description The same, as an EventSource sends it; it wins over `after`. */
                "Last-Event-ID"?: string;
            };
            path: {
                /** @description UUID of the session. What is not a UUID is simply not found. */
                sessionId: components["parameters"]["SessionId"];
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The events, until the session ends. Each has the sequence as its id, except those that are not kept: `messageStreamChunk`, `messageStreamAborted`, the last one of a session that is deleted, `sessionDeleted`, and the last one where the credential is no longer good, `credentialExpired`. Where Accept names text/event-stream this is also the answer while the service is overloaded or out of reach: `retry:` and no event, so that an EventSource comes back. */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "text/event-stream": string;
                };
            };
            400: components["responses"]["BadRequest"];
            401: components["responses"]["Unauthorized"];
            403: components["responses"]["Forbidden"];
            404: components["responses"]["NotFound"];
            410: components["responses"]["Expired"];
            413: components["responses"]["TooLarge"];
            421: components["responses"]["HostNotAllowed"];
            429: components["responses"]["TooManyRequests"];
            500: components["responses"]["Internal"];
            503: components["responses"]["Unavailable"];
            504: components["responses"]["Timeout"];
        };
    };
    exportTranscript: {
        parameters: {
            query?: never;
            header?: never;
            path: {
                /** @description UUID of the session. What is not a UUID is simply not found. */
                sessionId: components["parameters"]["SessionId"];
            };
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description JSON Lines. Each line says in `record` what it is: first the `session`, then each `entry` of its log, as gRPC's JSON has them. It is sent as it arrives, without Content-Length; one that ends without its last chunk is not whole. */
            200: {
                headers: {
                    "Cache-Control": components["headers"]["NoStore"];
                    [name: string]: unknown;
                };
                content: {
                    "application/jsonl": string;
                };
            };
            401: components["responses"]["Unauthorized"];
            403: components["responses"]["Forbidden"];
            404: components["responses"]["NotFound"];
            413: components["responses"]["TooLarge"];
            421: components["responses"]["HostNotAllowed"];
            429: components["responses"]["TooManyRequests"];
            500: components["responses"]["Internal"];
            503: components["responses"]["Unavailable"];
            504: components["responses"]["Timeout"];
        };
    };
    renewSession: {
        parameters: {
            query?: never;
            header?: {
                /** @description With `handling=strict`, fields that are not documented are an error, INVALID_REQUEST. */
                Prefer?: components["parameters"]["Prefer"];
                /** @description Only in the state that this entity tag stands for. */
                "If-Match"?: components["parameters"]["IfMatch"];
            };
            path: {
                /** @description UUID of the session. What is not a UUID is simply not found. */
                sessionId: components["parameters"]["SessionId"];
            };
            cookie?: never;
        };
        requestBody?: components["requestBodies"]["Nothing"];
        responses: {
            200: components["responses"]["Session"];
            400: components["responses"]["BadRequest"];
            401: components["responses"]["Unauthorized"];
            403: components["responses"]["Forbidden"];
            404: components["responses"]["NotFound"];
            410: components["responses"]["Expired"];
            412: components["responses"]["PreconditionFailed"];
            413: components["responses"]["TooLarge"];
            415: components["responses"]["UnsupportedMediaType"];
            421: components["responses"]["HostNotAllowed"];
            /** @description The maximum duration leaves nothing to gain. */
            422: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["Error"];
                };
            };
            429: components["responses"]["TooManyRequests"];
            500: components["responses"]["Internal"];
            503: components["responses"]["Unavailable"];
            504: components["responses"]["Timeout"];
        };
    };
    updateTimeout: {
        parameters: {
            query?: never;
            header?: {
                /** @description With `handling=strict`, fields that are not documented are an error, INVALID_REQUEST. */
                Prefer?: components["parameters"]["Prefer"];
                /** @description Only in the state that this entity tag stands for. */
                "If-Match"?: components["parameters"]["IfMatch"];
            };
            path: {
                /** @description UUID of the session. What is not a UUID is simply not found. */
                sessionId: components["parameters"]["SessionId"];
            };
            cookie?: never;
        };
        requestBody?: {
            content: {
                "application/json": components["schemas"]["TimeoutConfigRequest"];
            };
        };
        responses: {
            200: components["responses"]["Session"];
            400: components["responses"]["BadRequest"];
            401: components["responses"]["Unauthorized"];
            403: components["responses"]["Forbidden"];
            404: components["responses"]["NotFound"];
            410: components["responses"]["Expired"];
            412: components["responses"]["PreconditionFailed"];
            413: components["responses"]["TooLarge"];
            415: components["responses"]["UnsupportedMediaType"];
            421: components["responses"]["HostNotAllowed"];
            429: components["responses"]["TooManyRequests"];
            500: components["responses"]["Internal"];
            503: components["responses"]["Unavailable"];
            504: components["responses"]["Timeout"];
        };
    };
    sendHeartbeat: {
        parameters: {
            query?: never;
            header?: {
                /** @description With `handling=strict`, fields that are not documented are an error, INVALID_REQUEST. */
                Prefer?: components["parameters"]["Prefer"];
            };
            path: {
                /** @description UUID of the session. What is not a UUID is simply not found. */
                sessionId: components["parameters"]["SessionId"];
            };
            cookie?: never;
        };
        requestBody?: components["requestBodies"]["Nothing"];
        responses: {
            200: components["responses"]["Session"];
            400: components["responses"]["BadRequest"];
            401: components["responses"]["Unauthorized"];
            403: components["responses"]["Forbidden"];
            404: components["responses"]["NotFound"];
            410: components["responses"]["Expired"];
            413: components["responses"]["TooLarge"];
            415: components["responses"]["UnsupportedMediaType"];
            421: components["responses"]["HostNotAllowed"];
            429: components["responses"]["TooManyRequests"];
            500: components["responses"]["Internal"];
            503: components["responses"]["Unavailable"];
            504: components["responses"]["Timeout"];
        };
    };
    createAccessToken: {
        parameters: {
            query?: never;
            header?: {
                /** @description With `handling=strict`, fields that are not documented are an error, INVALID_REQUEST. */
                Prefer?: components["parameters"]["Prefer"];
            };
            path: {
                /** @description UUID of the session. What is not a UUID is simply not found. */
                sessionId: components["parameters"]["SessionId"];
            };
            cookie?: never;
        };
        requestBody?: {
            content: {
                "application/json": components["schemas"]["CreateAccessTokenRequest"];
            };
        };
        responses: {
            /** @description The token. Nobody can ask for it again. */
            201: {
                headers: {
                    "Eliza-Unknown-Fields": components["headers"]["UnknownFields"];
                    "Preference-Applied": components["headers"]["PreferenceApplied"];
                    "Cache-Control": components["headers"]["NoStore"];
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["AccessToken"];
                };
            };
            400: components["responses"]["BadRequest"];
            401: components["responses"]["Unauthorized"];
            403: components["responses"]["Forbidden"];
            404: components["responses"]["NotFound"];
            410: components["responses"]["Expired"];
            413: components["responses"]["TooLarge"];
            415: components["responses"]["UnsupportedMediaType"];
            421: components["responses"]["HostNotAllowed"];
            429: components["responses"]["TooManyRequests"];
            500: components["responses"]["Internal"];
            503: components["responses"]["Unavailable"];
            504: components["responses"]["Timeout"];
        };
    };
    getOpenApi: {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The document, as JSON. */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": {
                        [key: string]: unknown;
                    };
                };
            };
            403: components["responses"]["Forbidden"];
            413: components["responses"]["TooLarge"];
            421: components["responses"]["HostNotAllowed"];
            500: components["responses"]["Internal"];
            503: components["responses"]["Unavailable"];
        };
    };
    listAgents: {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            /** @description The agents, at most 1,000. */
            200: {
                headers: {
                    [name: string]: unknown;
                };
                content: {
                    "application/json": components["schemas"]["AgentList"];
                };
            };
            401: components["responses"]["Unauthorized"];
            403: components["responses"]["Forbidden"];
            413: components["responses"]["TooLarge"];
            421: components["responses"]["HostNotAllowed"];
            429: components["responses"]["TooManyRequests"];
            500: components["responses"]["Internal"];
            503: components["responses"]["Unavailable"];
            504: components["responses"]["Timeout"];
        };
    };
    getClock: {
        parameters: {
            query?: never;
            header?: never;
            path?: never;
            cookie?: never;
        };
        requestBody?: never;
        responses: {
            200: components["responses"]["Clock"];
            401: components["responses"]["Unauthorized"];
            403: components["responses"]["Forbidden"];
            404: components["responses"]["NotFound"];
            413: components["responses"]["TooLarge"];
            421: components["responses"]["HostNotAllowed"];
            429: components["responses"]["TooManyRequests"];
            500: components["responses"]["Internal"];
            503: components["responses"]["Unavailable"];
            504: components["responses"]["Timeout"];
        };
    };
    setClock: {
        parameters: {
            query?: never;
            header?: {
                /** @description With `handling=strict`, fields that are not documented are an error, INVALID_REQUEST. */
                Prefer?: components["parameters"]["Prefer"];
            };
            path?: never;
            cookie?: never;
        };
        requestBody: {
            content: {
                "application/json": {
                    advanceMs?: number;
                    /** Format: date-time */
                    now?: string;
                } & (unknown | unknown);
            };
        };
        responses: {
            200: components["responses"]["Clock"];
            400: components["responses"]["BadRequest"];
            401: components["responses"]["Unauthorized"];
            403: components["responses"]["Forbidden"];
            404: components["responses"]["NotFound"];
            413: components["responses"]["TooLarge"];
            415: components["responses"]["UnsupportedMediaType"];
            421: components["responses"]["HostNotAllowed"];
            429: components["responses"]["TooManyRequests"];
            500: components["responses"]["Internal"];
            503: components["responses"]["Unavailable"];
            504: components["responses"]["Timeout"];
        };
    };
}
