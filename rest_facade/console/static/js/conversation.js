// What is said in a session: the newest page of its log, older ones on demand, and live what comes.

import { Refusal, request } from "./api.js";
import { Deliveries } from "./deliveries.js";
import { Drafts } from "./drafts.js";
import { fromEvent, fromRecord, nameKind } from "./entries.js";
import { showDelivery, showEntry } from "./entry-view.js";
import { Follower } from "./follow.js";
import { LogWindow } from "./log-window.js";

const MOST_ENTRIES = 200;
const PAGE = 50;
const NEAR_PIXELS = 48;
const SOON_MS = 250;
const OPEN_MS = 2000;
const MOST_ROUNDS = 5;

const STATES = {
  live: ["live", "good"],
  away: ["reconnecting", "warn"],
  paused: ["paused", "off"],
  over: ["over", "off"],
};
const VIEWS = ["conversation", "log", "json"];

const place = (name) => document.getElementById(name);

export class Conversation {
  #data;
  #hooks;
  #window = new LogWindow(MOST_ENTRIES);
  #follower;
  #drafts = new Drafts(place("drafts"));
  #timeless = new Set();
  #timers = { deliveries: 0, times: 0 };
  #view = "conversation";
  #isBegun = false;
  #isOver = false;
  #isLoading = false;
  #names = { agent: "Agent" };

  /**
   * `api` and `data` are the paths of the session; `onStatus` hears of its expiry and its end, `readFacts` asks
   * whether it is live, `redeliver` delivers a message anew, `fail` tells of an error.
   */
  constructor({ api, data, ...hooks }) {
    this.#data = data;
    this.#hooks = hooks;
    this.deliveries = new Deliveries(data);
    this.#follower = new Follower(api, {
      onEvent: (type, event) => this.#onEvent(type, event),
      onState: (state) => this.#showState(state),
      onLost: () => this.#onLost(),
    });
    this.#addControls();
  }

  /** The sequence of the last entry that is known of. */
  get last() {
    return this.#window.last;
  }

  set names(names) {
    const isNew = names.agent !== this.#names.agent;
    this.#names = names;
    if (isNew && this.#isBegun) this.#draw();
  }

  /** Shows the newest page, once; and follows what comes while the session is live. */
  async begin(isLive) {
    if (this.#isBegun) {
      if (!isLive) await this.#finish();
      return;
    }
    await this.#loadNewest();
    this.#isBegun = true;
    if (isLive) this.#follower.start(this.last);
    else this.stop();
  }

  /** Follows no longer. */
  stop() {
    this.#isOver = true;
    this.#follower.stop();
    this.#drafts.dropAll();
    this.#showState("over");
  }

  /** Waits for something in the background, and tells where it fails. */
  attempt(work) {
    work.catch((error) => this.#hooks.fail(error));
  }

  /** Shows the end of the log, where it is not shown already. */
  showNewest() {
    if (this.#window.newerCount) this.attempt(this.#loadNewest());
    else this.#scrollToEnd();
  }

  // The stream.

  #onEvent(type, event) {
    if (type === "messageStreamChunk") this.#addChunk(event);
    else if (type === "messageStreamAborted") this.#drafts.drop(event.messageId);
    else if (type === "sessionDeleted") this.#hooks.onStatus({ type: "deleted" });
    else this.#addEntry(fromEvent(type, event), type, event);
  }

  #addEntry(entry, type, event) {
    const isNear = this.#isNearEnd();
    this.#drafts.drop(entry.message?.id ?? event.replyMessageId);
    const over = this.#window.append(entry);
    if (over >= 0) {
      for (let gone = 0; gone < over; gone += 1) place("entries").firstElementChild?.remove();
      place("entries").append(this.#show(entry));
      if (entry.at === null) this.#timeless.add(entry.sequence);
    }
    this.#showEnds();
    if (isNear) this.#scrollToEnd();
    if (entry.message) place("heard").textContent = `${nameKind(entry)}: ${entry.message.text.slice(0, 200)}`;
    if (type === "sessionExpired") this.#hooks.onStatus({ type: "expired" });
    else this.#hooks.onStatus({ type, expiresAt: event.expiresAt ?? event.sessionStatus?.expiresAt });
    this.#later("deliveries", () => this.#readDeliveries(), SOON_MS);
    if (this.#timeless.size) this.#later("times", () => this.#readTimes(), SOON_MS);
  }

  #addChunk(event) {
    const isNear = this.#isNearEnd();
    this.#drafts.add(event, this.#names.agent);
    if (isNear) this.#scrollToEnd();
  }

  /** A connection was lost: pieces may have been missed. Returns whether to come back. */
  async #onLost() {
    this.#drafts.dropAll();
    try {
      const isLive = await this.#hooks.readFacts();
      if (!isLive) await this.#finish();
      return isLive;
    } catch {
      return true;
    }
  }

  /** The session has expired: shows what the stream did not bring any more. */
  async #finish() {
    if (this.#isOver) return;
    this.stop();
    if (!this.#window.newerCount) await this.#loadNewest();
  }

  #showState(state) {
    const [word, kind] = STATES[state];
    place("stream").className = `badge ${kind}`;
    place("stream").textContent = word;
  }

  // Pages of the log.

  async #readLog(before, limit = PAGE) {
    const query = new URLSearchParams({ limit, ...(before ? { before } : {}) });
    const page = await request(`${this.#data}/log?${query}`);
    return { entries: page.entries.map(fromRecord), hasOlder: page.hasOlder };
  }

  async #loadNewest() {
    await this.#whileLoading(async () => {
      for (let round = 0; round < MOST_ROUNDS; round += 1) {
        const { entries, hasOlder } = await this.#readLog(0);
        this.#window.replace(entries, hasOlder);
        // What came meanwhile was not shown, because the page did not reach to it.
        if (!this.#window.newerCount) break;
      }
      this.deliveries.reset();
      this.#draw();
      this.#scrollToEnd();
      await this.#readDeliveries();
    });
  }

  async #loadOlder() {
    const log = place("log");
    await this.#whileLoading(async () => {
      const { entries, hasOlder } = await this.#readLog(this.#window.first);
      const anchor = place("entries").firstElementChild;
      const top = anchor.offsetTop - log.scrollTop;
      const over = this.#window.prepend(entries, hasOlder);
      for (let gone = 0; gone < over; gone += 1) place("entries").lastElementChild.remove();
      place("entries").prepend(...entries.map((entry) => this.#show(entry)));
      this.#showEnds();
      // What was read stays where it was.
      log.scrollTop = anchor.offsetTop - top;
      this.deliveries.forget(this.#window.first, this.#window.entries.at(-1).sequence);
      await this.#readDeliveries();
    });
  }

  async #whileLoading(work) {
    if (this.#isLoading) return;
    this.#isLoading = true;
    place("older").disabled = true;
    try {
      await work();
    } finally {
      this.#isLoading = false;
      place("older").disabled = false;
    }
  }

  /** Entries that came without their time: the log has it. */
  async #readTimes() {
    const wanted = [...this.#timeless].sort((one, other) => one - other);
    const last = wanted.at(-1);
    const limit = Math.min(100, last - wanted[0] + 1);
    const { entries } = await this.#readLog(last + 1, limit);
    for (const sequence of wanted) this.#timeless.delete(sequence);
    for (const entry of entries) {
      if (!wanted.includes(entry.sequence) || this.#window.update(entry) < 0) continue;
      document.querySelector(`#entries > [data-sequence="${entry.sequence}"]`)?.replaceWith(this.#show(entry));
    }
  }

  async #readDeliveries() {
    clearTimeout(this.#timers.deliveries);
    await this.deliveries.read(this.#window.first);
    for (const item of place("entries").children) this.#showDelivery(item);
    const isWatched = !document.hidden && !this.#isOver;
    if (isWatched && this.deliveries.isAnyOpen) this.#later("deliveries", () => this.#readDeliveries(), OPEN_MS);
  }

  #later(name, work, pauseMs) {
    clearTimeout(this.#timers[name]);
    this.#timers[name] = setTimeout(async () => {
      try {
        await work();
      } catch (error) {
        // The service is away, for now.
        const isRefused = error instanceof Refusal && error.status < 500 && error.status !== 429;
        if (!isRefused && !this.#isOver) this.#later(name, work, OPEN_MS * 2);
      }
    }, pauseMs);
  }

  // What is seen.

  #draw() {
    place("entries").className = `entries view-${this.#view}`;
    place("entries").replaceChildren(...this.#window.entries.map((entry) => this.#show(entry)));
    place("drafts").hidden = this.#view === "json";
    this.#showEnds();
  }

  #show(entry) {
    const item = showEntry(entry, this.#view, this.#names);
    this.#showDelivery(item);
    return item;
  }

  #showDelivery(item) {
    const delivery = this.deliveries.of(Number(item.dataset.sequence));
    const spot = delivery && item.querySelector(".delivery");
    if (spot) showDelivery(spot, delivery, (one, button) => this.attempt(this.#redeliver(one, button)));
  }

  async #redeliver(delivery, button) {
    const now = await this.#hooks.redeliver(delivery, button);
    if (now) this.deliveries.set(now);
    await this.#readDeliveries();
  }

  #showEnds() {
    const { hasOlder, newerCount, entries } = this.#window;
    place("older").hidden = !hasOlder;
    place("newer").hidden = !newerCount;
    place("newer").textContent = `To the newest, ${newerCount.toLocaleString("en")} further on`;
    place("empty").hidden = entries.length > 0;
  }

  #isNearEnd() {
    const log = place("log");
    return log.scrollHeight - log.scrollTop - log.clientHeight < NEAR_PIXELS;
  }

  #scrollToEnd() {
    place("log").scrollTop = place("log").scrollHeight;
  }

  #addControls() {
    document.addEventListener("visibilitychange", () => {
      const isSeen = !document.hidden && this.#isBegun && !this.#isOver;
      if (isSeen) this.#later("deliveries", () => this.#readDeliveries(), SOON_MS);
    });
    place("older").addEventListener("click", () => this.attempt(this.#loadOlder()));
    place("newer").addEventListener("click", () => this.attempt(this.#loadNewest()));
    const asked = new URLSearchParams(location.search).get("view");
    this.#view = VIEWS.includes(asked) ? asked : VIEWS[0];
    for (const input of document.querySelectorAll("input[name=view]")) {
      input.checked = input.value === this.#view;
      input.addEventListener("change", () => {
        this.#view = input.value;
        history.replaceState(null, "", `${location.pathname}?view=${this.#view}`);
        this.#draw();
        this.#scrollToEnd();
      });
    }
  }
}
