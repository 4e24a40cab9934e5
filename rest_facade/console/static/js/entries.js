// The entries of a session's log, in one shape, whichever way they came.

/**
 * An entry: `sequence`, `at` (ISO 8601; null where the event does not say), `kind`, `message` where it is one
 * (`id`, `isAgent`, `text`, `thought`, `actions`, `metadata`, `attachments`), `expiresAt` where it tells of the
 * expiry, `facts` in words, and `raw`, as it came.
 */

const KINDS = {
  message: "message",
  renewal: "renewed",
  timeoutChange: "timeouts changed",
  expirationWarning: "expires soon",
  expiry: "expired",
  replyFailure: "no reply",
};

/** The events of a stream that tell of an entry, each with its kind. */
export const EVENT_KINDS = {
  messageBroadcast: "message",
  sessionRenewed: "renewal",
  sessionTimeoutChanged: "timeoutChange",
  sessionExpirationWarning: "expirationWarning",
  sessionExpired: "expiry",
  agentReplyFailed: "replyFailure",
};

/** Makes an entry of gRPC's JSON, which leaves out what is empty, and has JSON as text. */
export function fromRecord(record) {
  const raw = record.message ? { ...record, message: readJson(record.message) } : record;
  const kind = Object.keys(KINDS).find((one) => one in raw) ?? "other";
  const { message, sessionStatus = {} } = raw;
  return {
    sequence: Number(raw.sequence),
    at: raw.at,
    kind,
    message: message && {
      id: message.messageId,
      isAgent: message.isAgent ?? false,
      text: message.content ?? "",
      thought: message.thought ?? null,
      actions: message.actions ?? [],
      metadata: message.metadata ?? {},
      attachments: message.attachments ?? [],
    },
    wasRenewed: sessionStatus.wasRenewed ?? false,
    facts: tell(kind, { ...raw[kind], expiresAt: sessionStatus.expiresAt, renewalCount: sessionStatus.renewalCount ?? 0 }),
    raw,
  };
}

function readJson({ metadataJson, attachmentsJson, ...message }) {
  if (metadataJson) message.metadata = JSON.parse(metadataJson);
  if (attachmentsJson) message.attachments = JSON.parse(attachmentsJson);
  return message;
}

/** Makes an entry of an event of the stream. */
export function fromEvent(type, raw) {
  const kind = EVENT_KINDS[type];
  const isMessage = kind === "message";
  return {
    sequence: raw.sequence,
    at: isMessage ? new Date(raw.createdAt).toISOString() : null,
    kind,
    message: isMessage
      ? {
          id: raw.id,
          isAgent: raw.isAgent,
          text: raw.text,
          thought: raw.thought,
          actions: raw.actions,
          metadata: raw.metadata ?? {},
          attachments: raw.attachments ?? [],
        }
      : undefined,
    wasRenewed: raw.sessionStatus?.wasRenewed ?? kind === "renewal",
    facts: tell(kind, raw),
    raw,
  };
}

/** What happened, in a word. */
export const nameKind = (entry) =>
  entry.kind === "message" ? (entry.message.isAgent ? "agent" : "user") : (KINDS[entry.kind] ?? "other");

function tell(kind, facts) {
  switch (kind) {
    case "renewal":
      return `until ${short(facts.expiresAt)}, renewal ${facts.renewalCount}`;
    case "timeoutChange": {
      const { timeoutMinutes, autoRenew, maxDurationMinutes, warningThresholdMinutes } = facts.timeoutConfig;
      const renewal = autoRenew ? "renews by itself" : "does not renew by itself";
      const warning = `warning ${warningThresholdMinutes} min before`;
      return `${timeoutMinutes} min, at most ${maxDurationMinutes} min, ${warning}, ${renewal}`;
    }
    case "expirationWarning":
      return `${Math.round(facts.minutesRemaining * 10) / 10} min are left`;
    case "expiry":
      return `at ${short(facts.expiredAt)}`;
    case "replyFailure":
      return `after ${facts.attempts ?? 0} ${facts.attempts === 1 ? "attempt" : "attempts"}: ${facts.reason ?? ""}`;
    default:
      return "";
  }
}

const short = (iso) => (iso ? `${new Date(iso).toISOString().slice(0, 19).replace("T", " ")} UTC` : "–");
