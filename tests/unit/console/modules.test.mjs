// The modules of the console that need no page, in Node.

import assert from "node:assert/strict";
import { test } from "node:test";

const modules = new URL("../../../rest_facade/console/static/js/", import.meta.url);
const { LogWindow } = await import(new URL("log-window.js", modules));
const { fromEvent, fromRecord, nameKind } = await import(new URL("entries.js", modules));
const { clockText } = await import(new URL("countdown.js", modules));
const { readEvents } = await import(new URL("event-stream.js", modules));

const range = (first, last) => Array.from({ length: last - first + 1 }, (_, index) => ({ sequence: first + index }));
const sequences = (shown) => shown.entries.map(({ sequence }) => sequence);

test("a window never holds more than it may, and has no gaps", () => {
  const shown = new LogWindow(5);
  shown.replace(range(96, 100), true);
  assert.equal(shown.append({ sequence: 101 }), 1);
  assert.deepEqual(sequences(shown), [97, 98, 99, 100, 101]);
  assert.equal(shown.prepend(range(94, 96), true), 3);
  assert.deepEqual(sequences(shown), [94, 95, 96, 97, 98]);
  assert.equal(shown.newerCount, 3);
  assert.equal(shown.append({ sequence: 102 }), -1);
  assert.deepEqual([sequences(shown).at(-1), shown.newerCount, shown.last], [98, 4, 102]);
  shown.replace(range(98, 102), true);
  assert.equal(shown.newerCount, 0);
});

test("an entry that comes again is not shown again", () => {
  const shown = new LogWindow(5);
  shown.replace([], false);
  assert.equal(shown.append({ sequence: 1 }), 0);
  assert.equal(shown.append({ sequence: 1 }), -1);
  assert.deepEqual(sequences(shown), [1]);
});

test("a page that is older than what came meanwhile leaves something to be read", () => {
  const shown = new LogWindow(5);
  shown.replace(range(1, 2), false);
  shown.append({ sequence: 3 });
  shown.replace(range(1, 2), false);
  assert.equal(shown.newerCount, 1);
  assert.equal(shown.append({ sequence: 4 }), -1);
});

test("what was pushed out can be read again", () => {
  const shown = new LogWindow(2);
  shown.replace(range(1, 2), false);
  assert.equal(shown.hasOlder, false);
  shown.append({ sequence: 3 });
  assert.equal(shown.hasOlder, true);
  shown.prepend(range(1, 1), false);
  assert.deepEqual([sequences(shown), shown.hasOlder], [[1, 2], false]);
});

test("what is known of an entry later takes its place", () => {
  const shown = new LogWindow(5);
  shown.replace(range(1, 3), false);
  assert.equal(shown.update({ sequence: 2, at: "x" }), 1);
  assert.equal(shown.entries[1].at, "x");
  assert.equal(shown.update({ sequence: 9 }), -1);
});

test("a message is the same whichever way it came", () => {
  const event = {
    id: "m", isAgent: true, text: "hi", thought: null, actions: [], metadata: { a: null }, attachments: [[null]], createdAt: 1800000000000, sequence: 7,
    sessionStatus: { wasRenewed: false },
  };
  const record = {
    sequence: "7", at: "2027-01-15T08:00:00Z", sessionStatus: {},
    message: { messageId: "m", isAgent: true, content: "hi", metadataJson: '{"a":null}', attachmentsJson: '[[null]]' },
  };
  const [live, stored] = [fromEvent("messageBroadcast", event), fromRecord(record)];
  assert.deepEqual(live.message, stored.message);
  assert.deepEqual([live.sequence, live.kind, nameKind(live)], [stored.sequence, stored.kind, nameKind(stored)]);
  assert.equal(Date.parse(live.at), Date.parse(stored.at));
  assert.deepEqual(stored.raw.message.attachments, [[null]]);
  assert.ok(!("metadataJson" in stored.raw.message));
});

test("each kind of entry says the same whichever way it came", () => {
  const iso = "2027-01-15T08:00:00.000Z";
  const pairs = [
    ["sessionRenewed", { expiresAt: iso, renewalCount: 2 }, { renewal: {}, sessionStatus: { expiresAt: iso, renewalCount: 2 } }],
    ["sessionExpirationWarning", { minutesRemaining: 4.96 }, { expirationWarning: { minutesRemaining: 4.96 } }],
    ["sessionExpired", { expiredAt: iso }, { expiry: { expiredAt: iso } }],
    ["agentReplyFailed", { reason: "no", attempts: 1 }, { replyFailure: { reason: "no", attempts: 1 } }],
  ];
  const timeoutConfig = { timeoutMinutes: 5, autoRenew: false, maxDurationMinutes: 60, warningThresholdMinutes: 1 };
  pairs.push(["sessionTimeoutChanged", { expiresAt: iso, timeoutConfig }, { timeoutChange: { timeoutConfig } }]);
  for (const [type, event, record] of pairs) {
    const [live, stored] = [fromEvent(type, { sequence: 1, ...event }), fromRecord({ sequence: "1", at: iso, ...record })];
    assert.deepEqual([live.kind, live.facts], [stored.kind, stored.facts], type);
    assert.ok(live.facts);
    assert.equal(live.at, null);
  }
});

test("an entry of a newer service is shown, too", () => {
  const entry = fromRecord({ sequence: "3", at: "2027-01-15T08:00:00Z", somethingNew: {} });
  assert.deepEqual([entry.kind, nameKind(entry), entry.facts], ["other", "other", ""]);
});

test("lengths of time count down", () => {
  const told = [[-5, "00:00"], [1, "00:01"], [61_000, "01:01"], [3_600_000, "01:00:00"], [90_061_000, "1 d 01:01:01"], [86_400_000, "1 d 00:00:00"]];
  for (const [ms, text] of told) assert.equal(clockText(ms), text);
});

test("events are read however a body is cut, and one that breaks off is an error", async () => {
  const text = ': alive\n\nevent: chunk\ndata: {"chunk": "a: b — ü"}\n\nid: 7\nevent: done\ndata: {}\n\n';
  const bytes = new TextEncoder().encode(text);
  for (const size of [1, 2, 7, 1000]) {
    const parts = [];
    for (let start = 0; start < bytes.length; start += size) parts.push(bytes.slice(start, start + size));
    const heard = [];
    for await (const event of readEvents(ReadableStream.from(parts))) heard.push(event);
    assert.deepEqual(heard, [{ type: "chunk", data: { chunk: "a: b — ü" } }, { type: "done", data: {} }], `${size}`);
  }
  const broken = new ReadableStream({ start: (controller) => controller.error(new TypeError("broken")) });
  await assert.rejects(async () => {
    for await (const event of readEvents(broken)) assert.fail(event);
  }, TypeError);
});

/** Deliveries over a service of a hundred messages a page, whose states a test sets; and what was asked for. */
async function makeDeliveries(states) {
  const inert = { addEventListener: () => undefined };
  Object.assign(globalThis, {
    document: { ...inert, getElementById: () => inert },
    window: inert,
    sessionStorage: { getItem: () => null },
  });
  const asked = [];
  globalThis.fetch = async (path) => {
    const page = new URLSearchParams(path.split("?")[1]).get("page") ?? "";
    asked.push(page);
    const before = Number(page || states.size + 1);
    const sequences = range(Math.max(1, before - 100), before - 1).reverse();
    const body = {
      deliveries: sequences.map(({ sequence }) => ({ messageSequence: sequence, state: states.get(sequence) })),
      nextPage: before > 101 ? `${before - 100}` : null,
    };
    return { ok: true, status: 200, json: async () => body };
  };
  const { Deliveries } = await import(new URL("deliveries.js", modules));
  return { deliveries: new Deliveries("here"), asked };
}

test("an old message that is delivered anew is looked at until it is over", async () => {
  const states = new Map(range(1, 350).map(({ sequence }) => [sequence, "answered"]));
  states.set(120, "failed");
  const { deliveries, asked } = await makeDeliveries(states);
  await deliveries.read(100);
  assert.deepEqual(asked.splice(0), ["", "251", "151"]);
  deliveries.set({ messageSequence: 120, state: "waiting" });
  await deliveries.read(100);
  assert.deepEqual([asked.splice(0), deliveries.of(120).state], [["", "151"], "failed"]);
  deliveries.set({ messageSequence: 120, state: "waiting" });
  states.set(120, "answered");
  await deliveries.read(100);
  assert.deepEqual([asked.splice(0), deliveries.of(120).state, deliveries.isAnyOpen], [["", "151"], "answered", false]);
  await deliveries.read(100);
  assert.deepEqual(asked, [""]);
});
