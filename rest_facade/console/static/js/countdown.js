// Counts down to what falls due, by the service's clock.

/** A length of time as `1 d 02:03:04` or `02:03`. */
export function clockText(ms) {
  const seconds = Math.max(0, Math.ceil(ms / 1000));
  const [days, hours, minutes] = [Math.floor(seconds / 86_400), Math.floor(seconds / 3600) % 24, Math.floor(seconds / 60) % 60];
  const tail = [...(seconds >= 3600 ? [hours] : []), minutes, seconds % 60].map((one) => String(one).padStart(2, "0")).join(":");
  return days ? `${days} d ${tail}` : tail;
}

export class Countdown {
  /** How much the service's clock is ahead of the browser's. */
  #aheadMs = 0;
  #session = null;
  #places;

  /** `places` are the elements of `warning`, `expiry` and `maximum`. Ticks once a second. */
  constructor(places) {
    this.#places = places;
    setInterval(() => this.tick(), 1000);
  }

  /** Takes the session as the API tells of it. */
  setSession(session) {
    this.#session = session;
    if (session.timeRemaining > 0) this.#aheadMs = Date.parse(session.expiresAt) - session.timeRemaining - Date.now();
    this.tick();
  }

  /** Takes a new expiry, as an event tells of it. */
  setExpiry(expiresAt) {
    if (!this.#session) return;
    this.#session = { ...this.#session, expiresAt };
    this.tick();
  }

  tick() {
    const now = Date.now() + this.#aheadMs;
    if (this.#session) this.#showDeadlines(now);
    for (const place of document.querySelectorAll("[data-until]")) {
      const left = Date.parse(place.dataset.until) - now;
      place.textContent = left > 0 ? `in ${clockText(left)}` : "now, when its turn comes";
    }
  }

  #showDeadlines(now) {
    const { createdAt, expiresAt, timeoutConfig } = this.#session;
    const expiry = Date.parse(expiresAt);
    const maximum = Date.parse(createdAt) + timeoutConfig.maxDurationMinutes * 60_000;
    const warning = expiry - timeoutConfig.warningThresholdMinutes * 60_000;
    const show = (name, at, past) => {
      this.#places[name].textContent = at > now ? clockText(at - now) : past;
    };
    show("warning", warning, expiry > now ? "due" : "over");
    show("expiry", expiry, "expired");
    show("maximum", maximum, "reached");
  }
}
