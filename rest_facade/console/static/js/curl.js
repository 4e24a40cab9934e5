// What this page does, as commands of curl. The key is never in them: a shell variable stands for it.

import { make, reveal } from "./dom.js";
import { key } from "./key.js";

const VARIABLE = "ELIZA_SESSIONS_KEY";

/** A word of a shell, whatever it holds. */
export const quote = (text) => (/^[\w./:=-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`);

/** A command for a path relative to the root. `json` is its body; `headers` are others than those it needs. */
export function curl(path, { method = "GET", json, headers = {}, options = [] } = {}) {
  const words = ["curl", ...options];
  if (method !== "GET") words.push("-X", method);
  words.push(quote(new URL(path, document.baseURI).href));
  if (key()) words.push("-H", `"Authorization: Bearer $${VARIABLE}"`);
  for (const [name, value] of Object.entries(headers)) words.push("-H", quote(`${name}: ${value}`));
  if (json !== undefined) words.push("-H", quote("Content-Type: application/json"), "-d", quote(reveal(JSON.stringify(json))));
  return words.join(" ");
}

/**
 * Shows commands with a button to copy each. `commands` is a list of names and functions that make the text; it
 * is made anew when it is copied.
 */
export function showCommands(place, commands) {
  place.replaceChildren(
    ...commands.map(([name, write]) => {
      const code = make("code", {}, write());
      const button = make("button", { type: "button", className: "quiet", ariaLabel: `Copy: ${name}` }, "Copy");
      button.addEventListener("click", async () => {
        code.textContent = write();
        button.textContent = (await copy(code.textContent)) ? "Copied" : "Select it";
        setTimeout(() => (button.textContent = "Copy"), 1500);
      });
      return make("li", {}, make("span", { className: "command" }, name), button, make("pre", {}, code));
    }),
  );
}

/** Copies a text. Returns whether it could: a page over http to another machine has no clipboard. */
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = make("textarea", { value: text, className: "hidden", readOnly: true, ariaLabel: "The command" });
    document.body.append(area);
    area.select();
    const isCopied = document.execCommand("copy");
    area.remove();
    return isCopied;
  }
}
