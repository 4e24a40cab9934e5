// A React hook that shows a conversation: copy it into your app. The package itself does not need React.

import { useCallback, useEffect, useState } from "react";

/** @import { Broadcast, SessionEvent, SessionsClient } from "@eliza-sessions/client" */

/**
 * @typedef {object} Conversation
 * @property {Broadcast[]} messages
 * @property {string} pieces of the reply that the agent is writing
 * @property {boolean} isConnected
 * @property {boolean} isOver
 * @property {unknown} error ended the watch
 */

/** @type {Conversation} */
const NOTHING = { messages: [], pieces: "", isConnected: false, isOver: false, error: undefined };

/**
 * The conversation of a session, as it goes on.
 *
 * @param {SessionsClient} client made once, outside of the component or by `useMemo`
 * @param {string} sessionId
 */
export function useSession(client, sessionId) {
  const [conversation, setConversation] = useState(NOTHING);

  useEffect(() => {
    const stop = new AbortController();
    /** @param {Partial<Conversation>} change */
    const change = (change) => {
      if (!stop.signal.aborted) setConversation((before) => ({ ...before, ...change }));
    };
    const follow = async () => {
      change(NOTHING);
      const onState = (/** @type {string} */ state) => change({ isConnected: state === "open" });
      for await (const event of client.watch(sessionId, { signal: stop.signal, onState })) {
        if (!stop.signal.aborted) setConversation((before) => take(before, event));
      }
      change({ isOver: true, isConnected: false });
    };
    follow().catch((error) => change({ error, isConnected: false }));
    return () => stop.abort();
  }, [client, sessionId]);

  /** @type {(content: string) => Promise<unknown>} */
  const send = useCallback((content) => client.send(sessionId, content), [client, sessionId]);
  return { ...conversation, send };
}

/**
 * The conversation after an event.
 *
 * @param {Conversation} before
 * @param {SessionEvent} event
 * @returns {Conversation}
 */
function take(before, event) {
  switch (event.type) {
    case "messageBroadcast": {
      const pieces = event.data.isAgent ? "" : before.pieces;
      return { ...before, messages: [...before.messages, event.data], pieces };
    }
    case "messageStreamChunk":
      return { ...before, pieces: before.pieces + event.data.chunk };
    case "messageStreamAborted":
    case "agentReplyFailed":
      return { ...before, pieces: "" };
    default:
      return before;
  }
}
