// One session: what it is, what is said in it, and what can be done with it.

import { poll, Refusal, request } from "./api.js";
import { Conversation } from "./conversation.js";
import { Countdown } from "./countdown.js";
import { curl, showCommands } from "./curl.js";
import { badge, idOfPage, instant, make, newUuid, reveal, showJson } from "./dom.js";

const FACTS_SECONDS = 15;

const id = idOfPage();
const api = `api/messaging/sessions/${encodeURIComponent(id)}`;
const data = `console/data/sessions/${encodeURIComponent(id)}`;
const place = (name) => document.getElementById(name);

const countdown = new Countdown({ warning: place("warning"), expiry: place("expiry"), maximum: place("maximum") });
const conversation = new Conversation({ api, data, onStatus, readFacts, redeliver, fail });
let facts = null;
let isGone = false;

/** Reads what the session is. Returns whether it is live. */
async function readFacts() {
  if (isGone) return false;
  try {
    facts = await request(data);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    if (error.status === 404) {
      tellGone(`There is no session ${id}: it never was, was deleted, or has been purged.`);
      return false;
    }
    if (error.status === 403) place("missing").textContent = `Your key may not see this. ${error.message}`;
    place("missing").hidden = error.status !== 403;
    throw error;
  }
  place("missing").hidden = true;
  showFacts();
  return !facts.isExpired;
}

function tellGone(text) {
  isGone = true;
  conversation.stop();
  place("missing").textContent = text;
  place("missing").hidden = false;
  setActions(false);
}

function showFacts() {
  const { session, isExpired, endedAt, agentName, lastSequence } = facts;
  place("session").hidden = false;
  conversation.names = { agent: agentName ?? "Agent" };
  place("state").replaceChildren(
    isExpired ? badge("expired", "off") : session.isNearExpiration ? badge("expiring", "warn") : badge("live", "good"),
  );
  const name = make("bdi", {}, agentName ?? "removed");
  const agent = make("a", { href: `console/agents/${session.agentId}` }, name);
  const user = make("a", { href: `console/sessions?user=${session.userId}`, className: "mono" }, session.userId);
  const { timeoutMinutes, autoRenew } = session.timeoutConfig;
  showList(place("facts"), [
    ["Agent", agent],
    ["User", user],
    ["Channel", make("span", { className: "mono" }, session.channelId)],
    ["Created", instant(session.createdAt)],
    ["Last activity", instant(session.lastActivity)],
    isExpired ? ["Expired", endedAt ? instant(endedAt) : "–"] : ["Expires", instant(session.expiresAt)],
    ["Renewals", `${session.renewalCount}, ${timeoutMinutes} min each, ${autoRenew ? "by itself" : "by hand"}`],
    ["Log", `${lastSequence.toLocaleString("en")} entries`],
  ]);
  place("metadata").textContent = showJson(session.metadata);
  countdown.setSession(session);
  place("timeouts").hidden = isExpired;
  setActions(!isExpired);
  writeCommands();
}

/** Changes only what has changed, so that the focus stays where it is. */
function showList(list, rows) {
  const fresh = rows.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]);
  if (list.children.length !== fresh.length) list.replaceChildren(...fresh);
  for (const [index, item] of fresh.entries()) {
    if (list.children[index]?.outerHTML !== item.outerHTML) list.children[index].replaceWith(item);
  }
}

function setActions(isLive) {
  for (const one of document.querySelectorAll("[data-live]")) one.disabled = !isLive;
  place("end").disabled = isGone;
  place("text").placeholder = isLive ? "A message of the user" : "The session takes no messages any more";
}

/** Takes the status of the session that came with an event. */
function onStatus({ type, expiresAt }) {
  if (type === "deleted") tellGone("The session was deleted.");
  else if (type === "expired") conversation.attempt(readFacts());
  else if (expiresAt) countdown.setExpiry(expiresAt);
}

// What can be done.

const error = place("action-error");

function fail(reason) {
  error.textContent = reveal(reason instanceof Refusal ? reason.message : "The service is out of reach. Try again.");
}

/** Does something while its button cannot be pressed again. Says what went wrong. */
async function act(button, action) {
  error.textContent = "";
  button.disabled = true;
  try {
    return await action();
  } catch (reason) {
    fail(reason);
    return undefined;
  } finally {
    button.disabled = isGone || (facts?.isExpired === true && "live" in button.dataset);
  }
}

const json = { "Content-Type": "application/json" };
const text = place("text");
let sent = { content: "", key: "" };

place("send-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const content = text.value;
  if (!content) return;
  // Pressed again after a lost answer, it is the same message and not a second one.
  if (sent.content !== content) sent = { content, key: newUuid() };
  act(place("send"), async () => {
    const headers = { ...json, "Idempotency-Key": sent.key };
    await request(`${api}/messages`, { method: "POST", headers, body: JSON.stringify({ content }) });
    sent = { content: "", key: "" };
    if (text.value === content) text.value = "";
    text.focus();
    conversation.showNewest();
  });
});

text.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  place("send-form").requestSubmit();
});

place("renew").addEventListener("click", () =>
  act(place("renew"), async () => {
    const session = await request(`${api}/renew`, { method: "POST" });
    countdown.setSession(session);
    await readFacts();
  }),
);

const dialog = place("end-dialog");
place("end").addEventListener("click", () => dialog.showModal());
place("end-cancel").addEventListener("click", () => dialog.close());
place("end-form").addEventListener("submit", () =>
  act(place("end"), async () => {
    await request(api, { method: "DELETE" });
    tellGone("The session was deleted.");
  }),
);

/** Delivers a message anew. Returns its delivery; undefined where that failed. */
function redeliver(delivery, button) {
  return act(button, async () => (await post(redelivery(delivery))).delivery);
}

const redelivery = ({ messageId, messageSequence }) => ({ messageId, messageSequence });
const own = { "HX-Request": "true" };
const post = (body) =>
  request(`${data}/redeliver`, { method: "POST", headers: { ...json, ...own }, body: JSON.stringify(body) });

// As commands.

const commands = place("commands");

function writeCommands() {
  if (!commands.open) return;
  const list = place("command-list");
  if (list.contains(document.activeElement)) return;
  const failed = conversation.deliveries.failed.slice(0, 3);
  showCommands(list, [
    ...(facts.isExpired
      ? []
      : [
          ["Read it", () => curl(api)],
          ["Read its messages", () => curl(`${api}/messages?limit=50`)],
          ["Follow its events", () => curl(`${api}/events?after=${conversation.last}`, { options: ["-N"] })],
          ["Send a message", () => curl(`${api}/messages`, { method: "POST", json: { content: text.value || "Hello" } })],
          ["Renew it", () => curl(`${api}/renew`, { method: "POST" })],
        ]),
    ["Read its transcript", () => curl(`${api}/transcript`)],
    ["End it", () => curl(api, { method: "DELETE" })],
    ...failed.map((one) => [
      `Redeliver #${one.messageSequence}`,
      () => curl(`${data}/redeliver`, { method: "POST", json: redelivery(one), headers: own }),
    ]),
  ]);
}

commands.addEventListener("toggle", () => facts && writeCommands());
text.addEventListener("input", () => facts && writeCommands());

// What the page begins with.

place("session-id").textContent = reveal(id);
document.title = `${id.slice(0, 8)} · ${document.title}`;

const end = poll(async () => {
  const isLive = await readFacts();
  if (isGone) {
    end();
    return;
  }
  try {
    await conversation.begin(isLive);
  } catch (reason) {
    if (reason instanceof Refusal) fail(reason);
    throw reason;
  }
}, FACTS_SECONDS);
