// A user's program in TypeScript: every call of the client, against a service with its test clock on.

import assert from "node:assert/strict";
import { SessionsClient, SessionsError, hasCode, userIdFor } from "@eliza-sessions/client";
import type { Message, Session, SessionEvent } from "@eliza-sessions/client";

const [url = "", agentId = ""] = process.argv.slice(2);
const client = new SessionsClient(url);
const userId = await userIdFor("alice@example.com");

async function rejected(promise: Promise<unknown>): Promise<unknown> {
  return promise.then(() => assert.fail("it was answered"), (error: unknown) => error);
}

// Create, once for one key.
const wanted = { agentId, userId, metadata: { platform: "web" }, timeoutConfig: { timeoutMinutes: 30 } };
const created = await client.create(wanted, { idempotencyKey: `key-${Date.now()}-${process.pid}` });
const { sessionId } = created;
assert.deepEqual([created.userId, created.replayed, created.metadata], [userId, false, { platform: "web" }]);
const again = await client.create(wanted, { idempotencyKey: "of this user" });
const replayed = await client.create(wanted, { idempotencyKey: "of this user" });
assert.deepEqual([replayed.replayed, replayed.sessionId], [true, again.sessionId]);

// Read, in lists too.
const read: Session = await client.get(sessionId);
assert.deepEqual([read.sessionId, read.renewalCount], [sessionId, 0]);
const listed: string[] = [];
for await (const page of client.listPages({ userId, limit: 1 })) listed.push(...page.sessions.map((one) => one.sessionId));
assert.ok(listed.length >= 2 && listed.includes(sessionId) && listed.includes(again.sessionId));
assert.equal((await client.list({ userId, agentId })).sessions.length, listed.length);

// Send in three ways.
const sent = await client.send(sessionId, { content: "Hello!", metadata: { mood: "curious" }, attachments: [{ a: 1 }] });
assert.deepEqual([sent.content, sent.metadata["mood"], sent.sessionStatus.wasRenewed], ["Hello!", "curious", true]);
const answered = await client.sendAndWait(sessionId, "And now?");
assert.deepEqual([answered.agentResponse.text, answered.agentResponse.actions], ["And now?", []]);
let pieces = "";
const types = new Set<string>();
for await (const event of client.stream(sessionId, "In some pieces")) {
  types.add(event.type);
  if (event.type === "chunk") pieces += event.data.chunk;
  if (event.type === "done") assert.equal(event.data.text, pieces);
}
assert.deepEqual([pieces, [...types]], ["In some pieces", ["user_message", "chunk", "done"]]);

// The history, both ways.
const backwards: Message[] = [];
for await (const page of client.messagePages(sessionId, { limit: 2 })) backwards.push(...page.messages);
assert.equal(backwards.length, 6);
const forwards: string[] = [];
for await (const page of client.messagePages(sessionId, { limit: 2, after: Date.parse(created.createdAt) - 1 })) {
  forwards.push(...page.messages.map((message) => message.id).reverse());
}
assert.deepEqual(forwards, backwards.map((message) => message.id).reverse());
assert.equal((await client.messages(sessionId, { limit: 1 })).messages[0]?.content, "In some pieces");

// Renew, change, keep alive; and only in the state that was seen.
const renewed = await client.renew(sessionId);
assert.notEqual(renewed.etag, read.etag);
const changed = await client.updateTimeout(sessionId, { timeoutMinutes: 60 }, { ifMatch: renewed.etag });
assert.equal(changed.timeoutConfig.timeoutMinutes, 60);
const stale = await rejected(client.updateTimeout(sessionId, { autoRenew: false }, { ifMatch: renewed.etag }));
assert.ok(hasCode(stale, "ETAG_MISMATCH") && stale.details.etag.length > 0, String(stale));
assert.equal((await client.heartbeat(sessionId)).sessionId, sessionId);

// Errors have a code, and the details of that code.
const missing = await rejected(client.create({ agentId } as never));
assert.ok(missing instanceof SessionsError && hasCode(missing, "MISSING_FIELDS"));
assert.deepEqual([missing.details.missingFields, missing.status], [["userId"], 400]);
const unknown = await rejected(client.get("nobody"));
assert.ok(hasCode(unknown, "SESSION_NOT_FOUND") && unknown.details.sessionId === "nobody");

// Watch from the first event to the end of the session.
const watched: SessionEvent[] = [];
for await (const event of client.watch(sessionId)) {
  watched.push(event);
  if (event.type === "messageBroadcast") assert.equal(typeof event.data.sessionStatus.expiresAt, "string");
  if (event.type === "sessionTimeoutChanged") {
    assert.equal(event.data.timeoutConfig.timeoutMinutes, 60);
    void client.delete(sessionId);
  }
}
const ids = watched.flatMap((event) => event.id ?? []);
assert.deepEqual(ids, ids.map((_, index) => index + 1));
assert.deepEqual(watched.at(-1), { type: "sessionDeleted", data: { sessionId } });
assert.ok(hasCode(await rejected(client.delete(sessionId)), "SESSION_NOT_FOUND"));
assert.ok(hasCode(await rejected(client.watch(sessionId).next()), "SESSION_NOT_FOUND"));

// The service itself.
assert.equal((await client.health()).status, "healthy");
assert.ok((await client.agents()).some((agent) => agent.id === agentId));
/** Never called: what the types refuse. */
export async function refused(error: unknown): Promise<void> {
  // @ts-expect-error A message is a text.
  await client.send(sessionId, 7);
  // @ts-expect-error A session needs a user.
  await client.create({ agentId });
  // @ts-expect-error This code has another detail.
  if (hasCode(error, "SESSION_EXPIRED")) console.log(error.details.etag);
  // @ts-expect-error There is no such code.
  hasCode(error, "SESSION_LOST");
  for await (const event of client.watch(sessionId)) {
    // @ts-expect-error Another event has it.
    if (event.type === "sessionExpired") console.log(event.data.minutesRemaining);
    // @ts-expect-error There is no such event.
    if (event.type === "sessionLost") return;
  }
}

console.log("all as typed");
