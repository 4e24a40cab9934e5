// Calls against a server that fails as services and proxies do.

import assert from "node:assert/strict";
import { test } from "node:test";
import { SessionsClient, SessionsError, hasCode } from "../../../clients/typescript/src/index.js";
import { waitMs } from "../../../clients/typescript/src/transport.js";
import { hangUp, json, refuse, serve } from "./fake.mjs";

const CREATED = json(201, { sessionId: "s" });
const OVERLOADED = refuse(503, "OVERLOADED", { "Retry-After": "0" });

test("a create is repeated with one key until it is answered", async (t) => {
  const truncated = (response) => {
    response.writeHead(201, { "Content-Type": "application/json", "Content-Length": "100" });
    response.write('{"sessionId"');
    setTimeout(() => response.destroy(), 20);
  };
  const page = (response) => response.writeHead(502, { "Content-Type": "text/html" }).end("<h1>Bad Gateway</h1>");
  const server = await serve(t, hangUp, page, OVERLOADED, truncated, json(201, { sessionId: "s" }, { "Idempotency-Replayed": "true" }));
  const client = new SessionsClient(`${server.url}/`, { maxWaitMs: 20 });
  assert.deepEqual(await client.create({ agentId: "a", userId: "u" }), { sessionId: "s", replayed: true });
  const keys = server.requests.map((request) => request.headers["idempotency-key"]);
  assert.equal(keys.length, 5);
  assert.equal(new Set(keys).size, 1);
  assert.match(keys[0], /^[0-9a-f]{32}$/);
  assert.deepEqual(server.requests[4].body, { agentId: "a", userId: "u" });
});

test("each message has a key of its own, unless the caller gives one", async (t) => {
  const server = await serve(t, json(201, {}));
  const client = new SessionsClient(server.url);
  await client.send("s/1", "hi");
  await client.sendAndWait("s", { content: "hi", metadata: { a: 1 } });
  await client.send("s", "hi", { idempotencyKey: "mine" });
  const keys = server.requests.map((request) => request.headers["idempotency-key"]);
  assert.equal(new Set(keys).size, 3);
  assert.equal(keys[2], "mine");
  assert.equal(server.requests[0].url, "/api/messaging/sessions/s%2F1/messages");
  assert.deepEqual(server.requests[1].body, { content: "hi", metadata: { a: 1 }, transport: "http" });
});

test("a wait is as long as the service asks, and a little random", async (t) => {
  const server = await serve(t, refuse(429, "RATE_LIMITED", { "Retry-After": "1" }), CREATED);
  await new SessionsClient(server.url).create({ agentId: "a", userId: "u" });
  const [first, second] = server.requests;
  assert.ok(second.at - first.at >= 990, `${second.at - first.at} ms`);
  const waits = Array.from({ length: 200 }, () => waitMs(0, 10_000, 1000));
  assert.ok(Math.min(...waits) >= 1000 && Math.max(...waits) <= 1125 && new Set(waits).size > 100);
  for (const [failures, longest] of [[0, 250], [1, 500], [5, 8000], [6, 10_000], [5000, 10_000]]) {
    const steps = Array.from({ length: 200 }, () => waitMs(failures, 10_000));
    assert.ok(Math.min(...steps) >= longest / 2 && Math.max(...steps) <= longest, `${failures}: ${steps}`);
  }
});

test("tries have a bound, and the error says how many there were", async (t) => {
  const server = await serve(t, OVERLOADED);
  const client = new SessionsClient(server.url, { retries: 2, maxWaitMs: 10 });
  await assert.rejects(client.send("s", "hi", { idempotencyKey: "k" }), (error) => {
    assert.ok(error instanceof SessionsError && hasCode(error, "OVERLOADED"));
    assert.deepEqual([error.status, error.attempts, error.idempotencyKey], [503, 3, "k"]);
    return true;
  });
  assert.equal(server.requests.length, 3);
});

test("what asks for a longer wait than allowed fails at once", async (t) => {
  const server = await serve(t, refuse(429, "RATE_LIMITED", { "Retry-After": "60", details: { retryAfterSeconds: 60 } }));
  await assert.rejects(new SessionsClient(server.url).get("s"), { code: "RATE_LIMITED", retryAfterMs: 60_000, attempts: 1 });
  assert.equal(server.requests.length, 1);
});

for (const [status, code] of [
  [404, "SESSION_NOT_FOUND"],
  [410, "SESSION_EXPIRED"],
  [429, "QUOTA_EXCEEDED"],
  [403, "PERMISSION_DENIED"],
  [409, "REQUEST_ID_REUSED"],
  [500, "INTERNAL"],
  [502, "AGENT_REPLY_FAILED"],
  [504, "AGENT_REPLY_TIMEOUT"],
]) {
  test(`${code} is not tried again`, async (t) => {
    const server = await serve(t, refuse(status, code, { details: { sessionId: "s" } }));
    const client = new SessionsClient(server.url);
    await assert.rejects(client.sendAndWait("s", "hi"), { name: "SessionsError", code, status, details: { sessionId: "s" } });
    assert.equal(server.requests.length, 1);
  });
}

test("a renewal, and a change of one state, are not repeated where they may have taken effect", async (t) => {
  const server = await serve(t, hangUp);
  const client = new SessionsClient(server.url, { maxWaitMs: 10 });
  await assert.rejects(client.renew("s"), { code: "CONNECTION_FAILED", status: 0, attempts: 1 });
  await assert.rejects(client.updateTimeout("s", { timeoutMinutes: 5 }, { ifMatch: "e" }), { attempts: 1 });
  assert.deepEqual([server.requests[1].headers["if-match"], server.requests[0].headers["if-match"]], ["e", undefined]);
  await assert.rejects(client.updateTimeout("s", { timeoutMinutes: 5 }), { attempts: 6 });
  const refusing = await serve(t, OVERLOADED, json(200, { sessionId: "s" }, { ETag: '"1"' }));
  assert.deepEqual(await new SessionsClient(refusing.url).renew("s"), { sessionId: "s", etag: '"1"' });
});

test("a session that an earlier try has deleted is deleted", async (t) => {
  const gone = refuse(404, "SESSION_NOT_FOUND");
  const server = await serve(t, hangUp, gone);
  await new SessionsClient(server.url).delete("s");
  await assert.rejects(new SessionsClient(server.url).delete("s"), { code: "SESSION_NOT_FOUND" });
});

test("a token is kept until it is refused, and fetched once for all calls", async (t) => {
  const answer = (response, { headers }) =>
    (headers.authorization === "Bearer token 2" ? json(200, { sessionId: "s" }) : refuse(401, "CREDENTIAL_EXPIRED"))(response);
  const server = await serve(t, answer);
  let count = 0;
  const client = new SessionsClient(server.url, { token: async () => `token ${(count += 1)}`, headers: { "X-On-Behalf-Of": "u" } });
  await Promise.all([client.get("a"), client.get("b"), client.get("c")]);
  await client.get("d");
  assert.equal(count, 2);
  assert.equal(server.requests.length, 7);
  assert.ok(server.requests.every((request) => request.headers["x-on-behalf-of"] === "u"));
});

test("a fresh token that is refused too is the end", async (t) => {
  const server = await serve(t, refuse(401, "UNAUTHENTICATED"));
  let count = 0;
  const token = () => `token ${(count += 1)}`;
  await assert.rejects(new SessionsClient(server.url, { token }).get("s"), { code: "UNAUTHENTICATED" });
  assert.deepEqual([count, server.requests.length], [2, 2]);
  await assert.rejects(new SessionsClient(server.url, { token: "fixed" }).get("s"), { code: "UNAUTHENTICATED" });
  assert.equal(server.requests.length, 3);
});

test("what a token function throws is thrown, and it is asked again", async (t) => {
  const server = await serve(t, json(200, {}));
  let count = 0;
  const token = async () => {
    count += 1;
    if (count === 1) throw new RangeError("nobody is logged in");
    return "token";
  };
  const client = new SessionsClient(server.url, { token });
  await assert.rejects(client.get("s"), RangeError);
  await client.get("s");
  assert.equal(server.requests[0].headers.authorization, "Bearer token");
});

test("a late answer is tried again, an aborted call is not", async (t) => {
  const server = await serve(t, () => undefined, json(200, { sessionId: "s" }), () => undefined);
  const client = new SessionsClient(server.url, { timeoutMs: 300 });
  assert.equal((await client.get("s")).sessionId, "s");
  await assert.rejects(client.get("s", { signal: AbortSignal.timeout(50) }), { name: "TimeoutError" });
  assert.equal(server.requests.length, 3);
});

test("a token for a page is asked for as the service wants it", async (t) => {
  const made = { accessToken: "est_1", expiresAt: "2026-01-01T00:00:00.000Z", sessionId: "s", verbs: ["read"] };
  const server = await serve(t, json(201, made));
  assert.deepEqual(await new SessionsClient(server.url).createToken("s", { verbs: ["read"], seconds: 60 }), made);
  const [request] = server.requests;
  assert.deepEqual([request.url, request.body], ["/api/messaging/sessions/s/tokens", { verbs: ["read"], seconds: 60 }]);
});

test("an answer that is no JSON is told as such", async (t) => {
  const server = await serve(t, (response) => response.end("<h1>Welcome</h1>"));
  await assert.rejects(new SessionsClient(server.url).get("s"), { code: "UNEXPECTED_ANSWER", status: 200 });
});

test("the address for an EventSource has the token, and after", () => {
  const client = new SessionsClient("https://example.com/eliza/", { token: "never in an address" });
  assert.equal(
    client.eventSourceUrl("s", { after: 3, accessToken: "est_a b" }),
    "https://example.com/eliza/api/messaging/sessions/s/events?after=3&access_token=est_a+b",
  );
});
