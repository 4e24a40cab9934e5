// A program on what @hey-api/openapi-ts makes of /openapi.json: `node hey_api.mts URL AGENT USER`. Checked by tsc.
import { client } from "./hey/client.gen.ts";
import { createSession, listMessages, sendMessage, streamMessage } from "./hey/sdk.gen.ts";

const [baseUrl, agentId, userId] = process.argv.slice(2) as [string, string, string];
client.setConfig({ baseUrl });

const metadata = { platform: "web", nested: { numbers: [1, 2] } };
const session = await createSession({ body: { agentId, userId, metadata }, throwOnError: true });
if (session.data.metadata["platform"] !== "web") throw new Error("other metadata");

const path = { sessionId: session.data.sessionId };
const body = { content: "Hello!", transport: "http" as const, attachments: [{ kind: "file" }, "a"] };
const sent = await sendMessage({ path, body, throwOnError: true });
if (!sent.data.agentResponse) throw new Error("no reply");

let last = "";
const onSseEvent = ({ event }: { event?: string }) => {
  last = event ?? last;
};
const streamed = await streamMessage({ path, body: { content: "And again!", transport: "sse" }, onSseEvent, sseMaxRetryAttempts: 1 });
for await (const _ of streamed.stream);
if (last !== "done") throw new Error(`the stream ended with ${last}`);

const page = await listMessages({ path, throwOnError: true });
for (const message of page.data.messages.reverse()) console.log(message.isAgent ? "agent" : "user", message.content);
