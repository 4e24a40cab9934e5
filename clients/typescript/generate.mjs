// Writes types/: schema.d.ts from the service's OpenAPI document, the rest from the JSDoc of src/.
// Run it after a change of either: npm ci && npm run generate

import { execFileSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import openapi, { astToString } from "openapi-typescript";

const here = fileURLToPath(new URL(".", import.meta.url));
const document = process.argv[2] ?? join(here, "../../rest_facade/routes/openapi.yaml");
const compiler = fileURLToPath(import.meta.resolve("typescript/lib/tsc.js"));

const schema = astToString(await openapi(pathToFileURL(document)));
mkdirSync(join(here, "types"), { recursive: true });
writeFileSync(join(here, "types", "schema.d.ts"), `// Made from openapi.yaml by generate.mjs.\n\n${schema}`);
execFileSync(process.execPath, [compiler, "--project", here], { stdio: "inherit" });
