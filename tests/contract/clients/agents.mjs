// What the published client makes of the list of agents: `node agents.mjs URL`.
import { ElizaClient } from "@elizaos/api-client";

const client = ElizaClient.create({ baseUrl: process.argv[2] });
console.log(JSON.stringify(await client.agents.listAgents()));
