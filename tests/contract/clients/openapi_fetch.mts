// A program on what openapi-typescript makes of /openapi.json: `node openapi_fetch.mts URL AGENT USER`. Checked by tsc.
import createClient from "openapi-fetch";
import type { paths } from "./schema.ts";

const [url, agentId, userId] = process.argv.slice(2) as [string, string, string];
const client = createClient<paths>({ baseUrl: url });

const body = { agentId, userId, metadata: { platform: "web", nested: { numbers: [1, 2] } } };
const session = await client.POST("/api/messaging/sessions", { body });
if (!session.data) throw new Error(session.error.code);
if (session.data.metadata["platform"] !== "web") throw new Error("other metadata");

const params = { path: { sessionId: session.data.sessionId } };
const said = { content: "Hello!", transport: "http" as const, attachments: [{ kind: "file" }, "a"] };
const sent = await client.POST("/api/messaging/sessions/{sessionId}/messages", { params, body: said });
if (!sent.data?.agentResponse) throw new Error(sent.error?.code ?? "no reply");

const streamed = await client.POST("/api/messaging/sessions/{sessionId}/messages#stream", {
  params,
  body: { content: "And again!", transport: "sse" },
  parseAs: "text",
});
if (!streamed.data?.includes("event: done")) throw new Error(streamed.error?.code ?? "no stream");

const page = await client.GET("/api/messaging/sessions/{sessionId}/messages", { params });
if (!page.data) throw new Error(page.error.code);
for (const message of page.data.messages.reverse()) console.log(message.isAgent ? "agent" : "user", message.content);
