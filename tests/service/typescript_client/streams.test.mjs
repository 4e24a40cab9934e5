// Streams of events that break, end, fall silent and lose their token.

import assert from "node:assert/strict";
import { test } from "node:test";
import { SessionsClient } from "../../../clients/typescript/src/index.js";
import { EventParser } from "../../../clients/typescript/src/event-stream.js";
import { collect, hangUp, refuse, serve, stream } from "./fake.mjs";

const FAST = { maxWaitMs: 20, retries: 3 };
const message = (number) => ["messageBroadcast", { id: `m${number}`, sequence: number }, number];
const chunk = (text) => ["messageStreamChunk", { messageId: "r", chunk: text, index: 0, attempt: 1, sessionId: "s" }];
const deleted = ["sessionDeleted", { sessionId: "s" }];

test("a watch goes on behind the last event over every kind of loss", async (t) => {
  const server = await serve(
    t,
    stream(["retry: 10\n\n", message(1), message(2)], { breaks: true }),
    hangUp,
    refuse(503, "UNAVAILABLE", { "Retry-After": "0" }),
    refuse(503, "OVERLOADED", { "Retry-After": "1" }),
    stream(["retry: 10\n\n"]),
    stream([message(2), message(3), ": alive\n\n"]),
    stream([message(4), deleted], { stays: true }),
  );
  const states = [];
  const { found, error } = await collect(new SessionsClient(server.url, FAST).watch("s", { onState: (state) => states.push(state) }));
  assert.equal(error, undefined);
  assert.deepEqual(found.map((event) => event.id), [1, 2, 3, 4, undefined]);
  assert.deepEqual(found.at(-1), { type: "sessionDeleted", data: { sessionId: "s" } });
  assert.deepEqual(server.requests.map(({ url }) => url.split("?")[1]), [
    "after=0", "after=2", "after=2", "after=2", "after=2", "after=2", "after=3",
  ]);
  assert.deepEqual(states, ["open", "lost", "open", "lost", "open", "lost", "open"]);
});

test("pieces are void where their reply can be heard no longer", async (t) => {
  const server = await serve(
    t,
    stream([chunk("half "), chunk("a ")], { breaks: true }),
    stream([chunk("whole"), ["messageBroadcast", { id: "r" }, 1]], { breaks: true }),
    stream([chunk("x"), ["messageStreamAborted", { messageId: "r", attempt: 1, sessionId: "s" }]]),
    stream([chunk("y"), ["agentReplyFailed", { messageId: "m", replyMessageId: "r" }, 2]]),
    stream([deleted]),
  );
  const { found } = await collect(new SessionsClient(server.url, FAST).watch("s"));
  assert.deepEqual(found.map(({ type }) => type), [
    "messageStreamChunk", "messageStreamChunk", "messageStreamAborted",
    "messageStreamChunk", "messageBroadcast",
    "messageStreamChunk", "messageStreamAborted",
    "messageStreamChunk", "agentReplyFailed",
    "sessionDeleted",
  ]);
  assert.deepEqual(found[2].data, { messageId: "r", attempt: 1, sessionId: "s" });
});

test("a watch ends with its session", async (t) => {
  const expired = await serve(t, stream([["sessionExpired", { sessionId: "s" }, 7]], { stays: true }));
  const { found, error } = await collect(new SessionsClient(expired.url, FAST).watch("s", { after: 6 }));
  assert.deepEqual([found.map(({ id }) => id), error, expired.requests.length], [[7], undefined, 1]);
  const away = await serve(t, stream([message(1)]), refuse(404, "SESSION_NOT_FOUND"));
  const gone = await collect(new SessionsClient(away.url, FAST).watch("s"));
  assert.deepEqual([gone.found.at(-1), gone.error], [{ type: "sessionDeleted", data: { sessionId: "s" } }, undefined]);
});

test("a watch throws what the service has against it", async (t) => {
  for (const [status, code] of [[404, "SESSION_NOT_FOUND"], [410, "SESSION_EXPIRED"], [400, "INVALID_FIELD"], [403, "PERMISSION_DENIED"]]) {
    const server = await serve(t, refuse(status, code));
    const { found, error } = await collect(new SessionsClient(server.url, FAST).watch("s"));
    assert.deepEqual([found, error.code, server.requests.length], [[], code, 1]);
  }
});

test("a watch that was never open gives up, one that was does not", async (t) => {
  const never = await serve(t, hangUp);
  const { error } = await collect(new SessionsClient(never.url, FAST).watch("s"));
  assert.deepEqual([error.code, never.requests.length], ["CONNECTION_FAILED", 4]);
  const away = Array.from({ length: 20 }, () => hangUp);
  const back = await serve(t, stream([message(1)]), ...away, stream([message(2), deleted]));
  const { found } = await collect(new SessionsClient(back.url, { ...FAST, maxWaitMs: 5 }).watch("s"));
  assert.deepEqual(found.map(({ id }) => id), [1, 2, undefined]);
});

test("a silent stream counts as broken", async (t) => {
  const server = await serve(t, stream([message(1)], { stays: true }), stream([deleted]));
  const { found } = await collect(new SessionsClient(server.url, { ...FAST, silenceMs: 200 }).watch("s"));
  assert.deepEqual([found.length, server.requests.length], [2, 2]);
});

test("a token that expires during a watch is fetched anew at once", async (t) => {
  const expired = ["credentialExpired", { code: "CREDENTIAL_EXPIRED" }];
  const server = await serve(
    t,
    stream(["retry: 30000\n\n", message(1), expired]),
    refuse(401, "CREDENTIAL_EXPIRED"),
    stream([message(2), deleted]),
  );
  let count = 0;
  const token = async () => `token ${(count += 1)}`;
  const { found } = await collect(new SessionsClient(server.url, { ...FAST, token }).watch("s"));
  assert.deepEqual(found.map(({ type }) => type), ["messageBroadcast", "messageBroadcast", "sessionDeleted"]);
  assert.deepEqual(server.requests.map(({ url, headers }) => [url.split("?")[1], headers.authorization]), [
    ["after=0", "Bearer token 1"], ["after=1", "Bearer token 2"], ["after=1", "Bearer token 3"],
  ]);
  const fixed = await serve(t, stream([message(1), expired]));
  const { error } = await collect(new SessionsClient(fixed.url, { ...FAST, token: "fixed" }).watch("s"));
  assert.deepEqual([error.code, error.status, fixed.requests.length], ["CREDENTIAL_EXPIRED", 401, 1]);
});

test("tokens that expire at once are not fetched in a hurry", async (t) => {
  const server = await serve(t, stream([["credentialExpired", {}]]));
  const stop = new AbortController();
  const ended = collect(new SessionsClient(server.url, { token: () => "t" }).watch("s", { signal: stop.signal }));
  await new Promise((resolve) => setTimeout(resolve, 700));
  stop.abort();
  assert.deepEqual(await ended, { found: [] });
  assert.ok(server.requests.length >= 2 && server.requests.length <= 5, `${server.requests.length} requests`);
});

test("a service that ends each stream at once is asked ever less often", async (t) => {
  const server = await serve(t, stream(["retry: 1\n\n"]));
  const stop = new AbortController();
  const ended = collect(new SessionsClient(server.url).watch("s", { signal: stop.signal }));
  await new Promise((resolve) => setTimeout(resolve, 1500));
  stop.abort();
  await ended;
  assert.ok(server.requests.length >= 2 && server.requests.length <= 4, `${server.requests.length} requests`);
});

test("a stream may last longer than a call", async (t) => {
  const server = await serve(t, (response) => {
    stream([message(1)], { stays: true })(response);
    setTimeout(() => response.end('event: sessionDeleted\ndata: {"sessionId": "s"}\n\n'), 600);
  });
  const { found } = await collect(new SessionsClient(server.url, { ...FAST, timeoutMs: 200 }).watch("s"));
  assert.deepEqual([found.length, server.requests.length], [2, 1]);
});

test("a watch that is aborted ends, and its request too", async (t) => {
  let isClosed;
  const server = await serve(t, (response) => {
    isClosed = new Promise((resolve) => response.on("close", resolve));
    stream([message(1)], { stays: true })(response);
  });
  const stop = new AbortController();
  for await (const event of new SessionsClient(server.url).watch("s", { signal: stop.signal })) {
    assert.equal(event.id, 1);
    stop.abort();
  }
  await isClosed;
  for await (const event of new SessionsClient(server.url).watch("s")) if (event.id) break;
  await isClosed;
});

test("a reply that breaks off is waited for with the same key", async (t) => {
  const sent = ["user_message", { id: "m" }];
  const piece = (text) => ["chunk", { messageId: "r", chunk: text, index: 0, attempt: 1 }];
  const server = await serve(
    t,
    stream([sent, piece("half ")], { breaks: true }),
    refuse(503, "UNAVAILABLE", { "Retry-After": "0" }),
    stream([sent, ["error", { error: "away", code: "UNAVAILABLE", details: {} }]]),
    stream([sent, piece("the "), piece("whole"), ["done", { text: "the whole" }]]),
  );
  const { found, error } = await collect(new SessionsClient(server.url, FAST).stream("s", "hi"));
  assert.equal(error, undefined);
  assert.deepEqual(found.map(({ type }) => type), ["user_message", "chunk", "aborted", "chunk", "chunk", "done"]);
  assert.equal(new Set(server.requests.map(({ headers }) => headers["idempotency-key"])).size, 1);
  assert.deepEqual(server.requests[0].body, { content: "hi", transport: "sse" });
});

test("a stream of a reply throws its error, and has a bound", async (t) => {
  const failed = ["error", { error: "no", code: "AGENT_REPLY_FAILED", details: { reason: "it threw" } }];
  const server = await serve(t, stream([["user_message", {}], failed]));
  const { error } = await collect(new SessionsClient(server.url, FAST).stream("s", "hi", { idempotencyKey: "k" }));
  assert.deepEqual([error.code, error.details, error.idempotencyKey], ["AGENT_REPLY_FAILED", { reason: "it threw" }, "k"]);
  const breaking = await serve(t, stream([["user_message", {}]], { breaks: true }));
  const ended = await collect(new SessionsClient(breaking.url, FAST).stream("s", "hi"));
  assert.deepEqual([ended.error.code, breaking.requests.length, ended.found.length], ["CONNECTION_FAILED", 4, 1]);
});

test("a stream of a reply waits no longer than a call", async (t) => {
  const sent = ["user_message", { id: "m" }];
  const limited = ["error", { error: "slow down", code: "RATE_LIMITED", details: { retryAfterSeconds: 3600 } }];
  const server = await serve(t, stream([sent, limited]));
  const { found, error } = await collect(new SessionsClient(server.url, FAST).stream("s", "Hi"));
  assert.deepEqual([found.length, error.code, error.retryAfterMs], [1, "RATE_LIMITED", 3_600_000]);
});

test("events are the same however the text is cut", () => {
  const text =
    "retry: 10\r\n\r\n: alive\n\nid: 1\nevent: a\ndata: {\"x\":\r\ndata:  1}\n\ndata\n\nevent: b\rid: 2\rdata: é😀\r\revent: none\n\nid: 3\ndata: cut";
  const whole = [...new EventParser().feed(text)];
  assert.deepEqual(whole, [
    { type: "", data: "", retryMs: 10 },
    { type: "", data: "" },
    { type: "a", data: '{"x":\n 1}', id: "1" },
    { type: "message", data: "" },
    { type: "b", data: "é😀", id: "2" },
  ]);
  for (let size = 1; size < 20; size += 1) {
    for (let offset = 0; offset < size; offset += 1) {
      const parser = new EventParser();
      const found = [...parser.feed(text.slice(0, offset))];
      for (let start = offset; start < text.length; start += size) found.push(...parser.feed(text.slice(start, start + size)));
      assert.deepEqual(found, whole, `pieces of ${size} from ${offset}`);
    }
  }
});

test("an event has a bound", () => {
  const parser = new EventParser();
  const line = `data: ${"x".repeat(1024 * 1024)}\n`;
  assert.throws(() => {
    for (let count = 0; count < 20; count += 1) [...parser.feed(line)];
  }, { code: "UNEXPECTED_ANSWER" });
});
