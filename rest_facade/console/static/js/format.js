// Numbers as people read them.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

export const NONE = "–";

/** A count, with thousands apart: `12,345`. */
export const count = (value) => Math.round(value).toLocaleString("en");

/** A rate per second: `0.25`, `3.1`, `1,200`. */
export function rate(value) {
  if (value === 0) return "0";
  if (value < 1) return value.toFixed(2);
  return value < 100 ? value.toFixed(1) : count(value);
}

/** A length of time in ms, from ms: `0.4 ms`, `35 ms`, `1.2 s`. */
export function ms(value) {
  if (value >= 60_000) return `${(value / 60_000).toFixed(1)} min`;
  if (value >= 1000) return `${(value / 1000).toFixed(1)} s`;
  return value > 0 && value < 10 ? `${value.toFixed(1)} ms` : `${Math.round(value)} ms`;
}

/** A number of bytes: `1.5 GiB`. */
export function size(bytes) {
  let value = bytes;
  let steps = 0;
  while (value >= 1000 && steps < UNITS.length - 1) {
    value /= 1024;
    steps += 1;
  }
  return `${steps && value < 100 ? value.toFixed(1) : Math.round(value)} ${UNITS[steps]}`;
}

/** What `show` makes of a value, or a dash where there is none. */
export const orNone = (value, show) => (value === null || value === undefined ? NONE : show(value));
