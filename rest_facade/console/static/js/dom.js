// Builds what a page shows of foreign text: only ever as text, never as markup.

/** Makes an element with these properties; `dataset` is set name by name. Children that are null are left out. */
export function make(tag, { dataset = {}, ...properties } = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  Object.assign(made.dataset, dataset);
  made.append(...children.filter((child) => child !== null));
  return made;
}

/** A word on a coloured ground: good, warn, bad or off. */
export const badge = (word, kind) => make("span", { className: `badge ${kind}` }, word);

/** An instant in UTC to the second, which names the reader's own time. */
export function instant(iso) {
  const at = new Date(iso);
  return make("time", { dateTime: iso, title: at.toLocaleString() }, `${at.toISOString().slice(0, 19).replace("T", " ")} UTC`);
}

/** The same, without its day where that is today's. */
export function clock(iso) {
  const whole = new Date(iso).toISOString();
  const isToday = whole.slice(0, 10) === new Date().toISOString().slice(0, 10);
  const text = isToday ? whole.slice(11, 19) : whole.slice(0, 19).replace("T", " ");
  return make("time", { dateTime: iso, title: `${whole.slice(0, 23).replace("T", " ")} UTC` }, text);
}

// Invisible characters that would change how what is around them reads; line feeds and tabs may stay.
const INVISIBLE = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;

/** A text in which characters that nobody sees are written as JSON escapes them. */
export const reveal = (text) =>
  text.replace(INVISIBLE, (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, "0")}`);

/** JSON for people, with nothing invisible in it. */
export const showJson = (value) => reveal(JSON.stringify(value, null, 2));

/** An element with a long text of which it shows the beginning, and a button for the rest. */
export function fold(tag, properties, text, most) {
  if (text.length <= most) return make(tag, properties, text);
  // Not between the halves of a character.
  const cut = /[\ud800-\udbff]/.test(text[most - 1]) ? most - 1 : most;
  const shown = make(tag, properties, `${text.slice(0, cut)}…`);
  const count = text.length.toLocaleString("en");
  const button = make("button", { type: "button", className: "quiet" }, `Show all ${count} characters`);
  button.addEventListener("click", () => {
    shown.textContent = text;
    button.remove();
  });
  return make("div", { className: "folded" }, shown, button);
}

/** A random UUID, also where a page is not in a secure context. */
export function newUuid() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  // Version 4 of RFC 9562, and its variant.
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

/** What the path of this page names last. */
export const idOfPage = () => decodeURIComponent(location.pathname.replace(/\/+$/, "").split("/").at(-1));
