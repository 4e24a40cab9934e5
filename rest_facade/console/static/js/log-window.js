// The part of a log that a page shows. However long the log is, the page holds a bounded number of entries.

export class LogWindow {
  /** It holds at most `most` entries: without gaps, in the order of their sequence. */
  constructor(most) {
    this.most = most;
    this.entries = [];
    this.hasOlder = false;
    /** The highest sequence that is known of, shown or not. */
    this.last = 0;
  }

  /** The sequence of the first entry that is shown; 0: there is none. */
  get first() {
    return this.entries[0]?.sequence ?? 0;
  }

  /** How many entries behind those shown are known of. */
  get newerCount() {
    return this.entries.length ? this.last - this.entries.at(-1).sequence : this.last;
  }

  /** Shows this page instead, the newest one. */
  replace(entries, hasOlder) {
    this.entries = entries.slice(-this.most);
    this.hasOlder = hasOlder || entries.length > this.most;
    this.last = Math.max(this.last, entries.at(-1)?.sequence ?? 0);
  }

  /**
   * Takes the next entry. Returns how many old ones it has pushed out; -1 where the entry is known already, or
   * what is shown does not reach to it.
   */
  append(entry) {
    if (entry.sequence <= this.last) return -1;
    const isNext = this.newerCount === 0 && entry.sequence === this.last + 1;
    this.last = entry.sequence;
    if (!isNext) return -1;
    this.entries.push(entry);
    return this.#dropOldest();
  }

  #dropOldest() {
    const over = Math.max(0, this.entries.length - this.most);
    if (over) {
      this.entries.splice(0, over);
      this.hasOlder = true;
    }
    return over;
  }

  /** Puts older entries before those shown. Returns how many new ones they have pushed out. */
  prepend(entries, hasOlder) {
    this.entries.unshift(...entries.filter(({ sequence }) => sequence < this.first || !this.first));
    this.hasOlder = hasOlder;
    const over = Math.max(0, this.entries.length - this.most);
    this.entries.splice(this.entries.length - over, over);
    return over;
  }

  /** Puts what is known now in the place of an entry that is shown. Returns its place; -1: it is not shown. */
  update(entry) {
    const place = this.entries.findIndex(({ sequence }) => sequence === entry.sequence);
    if (place >= 0) this.entries[place] = entry;
    return place;
  }
}
