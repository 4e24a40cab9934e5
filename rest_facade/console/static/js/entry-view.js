// How an entry of a log looks: as people read it, as an event, as JSON.

import { badge, clock, fold, instant, make, reveal, showJson } from "./dom.js";
import { nameKind } from "./entries.js";

const TEXT_CHARACTERS = 4000;
const LINE_CHARACTERS = 160;
const JSON_CHARACTERS = 6000;

const KIND_BADGES = { expirationWarning: "warn", expiry: "off", replyFailure: "bad" };

/** The item of an entry in one of the views: `conversation`, `log`, `json`. Its `names` say who is who. */
export function showEntry(entry, view, names) {
  const item = VIEWS[view](entry, names);
  item.dataset.sequence = entry.sequence;
  return item;
}

const VIEWS = { conversation: showSpoken, log: showLine, json: showRaw };

function showSpoken(entry, names) {
  if (!entry.message) {
    // A renewal says nothing to those who talk.
    if (entry.kind === "renewal" || entry.kind === "timeoutChange") return make("li", { hidden: true });
    return make(
      "li",
      { className: "notice" },
      badge(nameKind(entry), KIND_BADGES[entry.kind] ?? "off"),
      " ",
      ...at(entry),
      make("bdi", {}, reveal(entry.facts)),
    );
  }
  const { isAgent, text, thought, actions, attachments } = entry.message;
  return make(
    "li",
    { className: isAgent ? "said agent" : "said user" },
    headOf(entry, make("bdi", {}, isAgent ? names.agent : "User")),
    fold("div", { className: "text", dir: "auto" }, text, TEXT_CHARACTERS),
    thought ? aside("Thought", fold("div", { className: "text", dir: "auto" }, thought, TEXT_CHARACTERS)) : null,
    actions.length ? make("p", { className: "note" }, "Actions: ", make("bdi", {}, reveal(actions.join(", ")))) : null,
    attachments.length ? asideJson(count(attachments.length, "attachment"), attachments) : null,
    isAgent ? null : make("div", { className: "delivery" }),
  );
}

const at = ({ at }) => (at ? [clock(at), " "] : []);
const placeOf = ({ sequence }) => make("span", { className: "place" }, `#${sequence}`);
const headOf = (entry, who) => make("p", { className: "who" }, who, " ", ...at(entry), placeOf(entry));
const count = (number, name) => `${number} ${name}${number === 1 ? "" : "s"}`;

const aside = (name, content) => make("details", {}, make("summary", {}, name), content);

/** JSON that is written only when somebody opens it. */
function asideJson(name, value) {
  const made = make("details", {}, make("summary", {}, name));
  made.addEventListener("toggle", () => made.append(fold("pre", {}, showJson(value), JSON_CHARACTERS)), { once: true });
  return made;
}

function showLine(entry) {
  const text = entry.message ? oneLine(entry.message.text) : entry.facts;
  return make(
    "li",
    { className: "line" },
    make("span", { className: "place" }, `${entry.sequence}`),
    entry.at ? clock(entry.at) : make("span", { className: "note" }, "…"),
    make("span", {}, badge(nameKind(entry), KIND_BADGES[entry.kind] ?? (entry.message ? "good" : "off"))),
    make(
      "span",
      { className: "words" },
      make("bdi", {}, reveal(text)),
      entry.message && entry.wasRenewed ? make("span", { className: "note" }, " renewed the session") : null,
      entry.message && !entry.message.isAgent ? make("div", { className: "delivery" }) : null,
    ),
  );
}

function oneLine(text) {
  const flat = text.slice(0, LINE_CHARACTERS * 2).replace(/\s+/g, " ");
  return flat.length > LINE_CHARACTERS || text.length > LINE_CHARACTERS * 2 ? `${flat.slice(0, LINE_CHARACTERS)}…` : flat;
}

function showRaw(entry) {
  const head = headOf(entry, make("bdi", {}, nameKind(entry)));
  return make("li", { className: "raw" }, head, fold("pre", {}, showJson(entry.raw), JSON_CHARACTERS));
}

const STATE_BADGES = { waiting: "warn", "in hand": "warn", answered: "good", failed: "bad" };

/** Fills the place of a delivery below its message. `redeliver` is called for the button. */
export function showDelivery(place, delivery, redeliver) {
  const told = JSON.stringify(delivery);
  if (place.dataset.told === told) return;
  place.dataset.told = told;
  const { state, attempts, maxAttempts, lostConnections, lastFailure, nextAttemptAt, leaseExpiresAt } = delivery;
  const line = make("p", {}, badge(state, STATE_BADGES[state] ?? "off"));
  // What is built in answers without an attempt.
  if (attempts || state !== "answered") line.append(` attempt ${attempts} of ${maxAttempts}`);
  if (lostConnections) line.append(`, ${lostConnections} lost with their worker`);
  if (delivery.workerId) line.append(...nameWorker(delivery));
  if (nextAttemptAt) line.append(", next try ", until(nextAttemptAt));
  if (leaseExpiresAt) line.append(", its time ends ", until(leaseExpiresAt));
  const parts = [line];
  if (lastFailure && state !== "answered") {
    const detail = lastFailure.detail ? [make("br"), make("bdi", {}, reveal(lastFailure.detail))] : [];
    const reason = make("bdi", {}, reveal(lastFailure.reason));
    parts.push(make("p", { className: "error" }, "Last error, ", instant(lastFailure.at), ": ", reason, ...detail));
  }
  if (delivery.canRedeliver) {
    const button = make("button", { type: "button" }, "Redeliver");
    button.addEventListener("click", () => redeliver(delivery, button));
    parts.push(button);
  }
  place.replaceChildren(...parts);
}

function nameWorker({ workerId, workerAddress }) {
  const id = make("span", { className: "mono", title: workerId }, `${workerId.slice(0, 8)}…`);
  return [", worker ", id, workerAddress ? ` at ${workerAddress}` : ""];
}

/** How long it is until an instant: the page counts it down. */
const until = (iso) => make("span", { dataset: { until: iso } }, "…");
