// Sends messages and watches, in Node and in a browser, whatever happens to the service.

/**
 * @param {import("@eliza-sessions/client").SessionsClient} client
 * @param {string} sessionId
 * @param {number} count
 * @param {(what: object) => void} tell
 */
export async function talk(client, sessionId, count, tell) {
  /** @type {Set<string>} */
  const heard = new Set();
  let wake = () => {};
  const watched = (async () => {
    for await (const event of client.watch(sessionId, { onState: (state) => tell({ state }) })) {
      tell(event);
      if (event.type === "messageBroadcast") heard.add(event.data.id);
      wake();
    }
    tell({ state: "ended" });
  })();
  for (let number = 1; number <= count; number += 1) {
    const { agentResponse } = await client.sendAndWait(sessionId, `message ${number}`);
    tell({ answered: agentResponse.text });
    while (!heard.has(agentResponse.id)) await new Promise((resolve) => (wake = () => resolve(undefined)));
    // Else all were said before the service can be killed.
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  await watched;
}
