// One agent: how it fares, what failed, and a chat box to try it.

import { Refusal, request } from "./api.js";
import { fold, idOfPage, make, newUuid, reveal } from "./dom.js";
import { headers, askForKey, key } from "./key.js";
import { readEvents } from "./event-stream.js";

const TEXT_CHARACTERS = 4000;
const MOST_SHOWN = 100;
const SESSIONS = "api/messaging/sessions";

const id = idOfPage();
const place = (name) => document.getElementById(name);
const json = { "Content-Type": "application/json" };

// Modules run before htmx looks at the page.
for (const [name, path] of [["activity", ""], ["open", "/open"], ["failed", "/failed"]]) {
  place(name).setAttribute("hx-get", `console/parts/agents/${encodeURIComponent(id)}${path}`);
}
document.title = `${id.slice(0, 8)} · ${document.title}`;

// Redelivery.

const failed = place("failed");
const problem = place("failed-error");
let failedPage = "";

failed.addEventListener("htmx:configRequest", ({ detail }) => {
  if (failedPage) detail.parameters.page = failedPage;
});

async function redeliver(button) {
  const { redeliver: messageId, session, sequence } = button.dataset;
  await request(`console/data/sessions/${session}/redeliver`, {
    method: "POST",
    headers: { ...json, "HX-Request": "true" },
    body: JSON.stringify({ messageId, messageSequence: Number(sequence) }),
  });
  button.replaceWith(make("span", { className: "note" }, "waits again"));
}

failed.addEventListener("click", async ({ target }) => {
  if (target.dataset.failedPage !== undefined) {
    failedPage = target.dataset.failedPage;
    htmx.trigger(failed, "refresh");
    return;
  }
  const all = [...failed.querySelectorAll("[data-redeliver]")];
  const wanted = target.closest?.("[data-redeliver-all]") ? all : all.filter((button) => button === target);
  if (!wanted.length) return;
  problem.textContent = "";
  target.disabled = true;
  const refusals = [];
  // One after the other: the service bounds how many calls a caller has under way.
  for (const button of wanted) {
    try {
      await redeliver(button);
    } catch (error) {
      refusals.push(explain(error));
    }
  }
  if (refusals.length) problem.textContent = `${refusals.length} of ${wanted.length} failed. ${refusals[0]}`;
  else htmx.trigger(failed, "refresh");
  target.disabled = false;
  htmx.trigger(place("activity"), "refresh");
  htmx.trigger(place("open"), "refresh");
});

const explain = (error) =>
  error instanceof Refusal ? error.message : "The service is out of reach. What was sent is kept: look at the session.";

// The chat.

const form = place("chat");
const user = place("chat-user");
const text = place("chat-text");
const send = place("chat-send");
const said = place("chat-said");
const error = place("chat-error");
let session = null;

place("chat-make").addEventListener("click", () => {
  user.value = newUuid();
  leave();
});
user.addEventListener("input", leave);
place("chat-new").addEventListener("click", () => {
  leave();
  said.replaceChildren();
  text.focus();
});

/** Leaves the session, so that the next message begins another. */
function leave() {
  session = null;
  place("chat-new").hidden = true;
  place("chat-link").hidden = true;
}

async function join() {
  if (session) return session;
  if (!user.value.trim()) user.value = newUuid();
  const body = JSON.stringify({ agentId: id, userId: user.value.trim(), metadata: { source: "console" } });
  const made = await request(SESSIONS, { method: "POST", headers: json, body });
  session = made.sessionId;
  place("chat-link").href = `console/sessions/${session}`;
  place("chat-link").hidden = false;
  place("chat-new").hidden = false;
  return session;
}

function show(who, className, content) {
  const body = typeof content === "string" ? fold("div", { className: "text", dir: "auto" }, content, TEXT_CHARACTERS) : content;
  const item = make("li", { className: `said ${className}` }, make("p", { className: "who" }, who), body);
  said.append(item);
  while (said.children.length > MOST_SHOWN) said.firstElementChild.remove();
  place("chat-log").scrollTop = place("chat-log").scrollHeight;
  return item;
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const content = text.value;
  if (!content || send.disabled) return;
  send.disabled = true;
  error.textContent = "";
  try {
    await talk(await join(), content);
  } catch (reason) {
    error.textContent = reveal(explain(reason));
    if (reason instanceof Refusal && ["SESSION_EXPIRED", "SESSION_NOT_FOUND"].includes(reason.code)) leave();
  } finally {
    send.disabled = false;
    text.focus();
  }
});

text.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  form.requestSubmit();
});

/** Sends a message and shows its reply as it comes. Throws Refusal, or TypeError where the answer breaks off. */
async function talk(sessionId, content) {
  const answer = await fetch(`${SESSIONS}/${sessionId}/messages`, {
    method: "POST",
    headers: { ...json, ...headers() },
    body: JSON.stringify({ content, transport: "sse" }),
  });
  if (answer.status === 401) askForKey(key() !== "");
  if (!answer.ok) throw new Refusal(answer.status, await answer.json().catch(() => ({})));
  let reply = null;
  for await (const { type, data } of readEvents(answer.body)) {
    if (type === "user_message") {
      show("User", "user", data.content);
      if (text.value === content) text.value = "";
    } else if (type === "chunk") {
      reply ??= show("Agent, writing", "agent draft", make("div", { className: "text", dir: "auto" }));
      reply.querySelector(".text").append(data.chunk);
      place("chat-log").scrollTop = place("chat-log").scrollHeight;
    } else if (type === "aborted") {
      reply?.remove();
      reply = null;
    } else {
      reply?.remove();
      if (type === "error") throw new Refusal(0, data);
      show("Agent", "agent", data.content);
      return;
    }
  }
  reply?.remove();
  throw new TypeError("the stream ended without a reply");
}
