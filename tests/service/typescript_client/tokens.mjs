// A back end with a key, and a page with tokens that last a second: its watch outlives them.

import assert from "node:assert/strict";
import { SessionsClient } from "@eliza-sessions/client";

const [url = "", key = "", agentId = ""] = process.argv.slice(2);
const backend = new SessionsClient(url, { token: key });
const { sessionId } = await backend.create({ agentId, userId: "11111111-1111-4111-8111-111111111111" });
let count = 0;
const token = async () => {
  count += 1;
  return (await backend.createToken(sessionId, { verbs: ["read", "send"], seconds: 1 })).accessToken;
};
const page = new SessionsClient(url, { token });

const talking = (async () => {
  let sent = 0;
  for (; count < 4; sent += 1) {
    await page.sendAndWait(sessionId, `message ${sent}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  await backend.delete(sessionId);
  return sent;
})();
const ids = [];
for await (const event of page.watch(sessionId)) if (event.id) ids.push(event.id);
const sent = await talking;
assert.deepEqual(ids, Array.from({ length: 2 * sent }, (_, index) => index + 1));
for (const client of [new SessionsClient(url), new SessionsClient(url, { token: "wrong, wrong" })]) {
  await assert.rejects(client.get(sessionId), { code: "UNAUTHENTICATED", status: 401 });
}
console.log("all tokens were renewed");
