// The overview: figures of now and curves of the last hour, asked for every five seconds.

import { poll, request, Refusal } from "./api.js";
import { Curve } from "./curve.js";
import { count, ms, orNone, rate, size } from "./format.js";

const SECONDS = 5;
const HOUR_MS = 3_600_000;
const GAP_MS = 25_000; // A point is of ten seconds: more between two is a time without figures.

/** The steps of an axis of bytes. */
const POWERS = Array.from({ length: 55 }, (_, power) => 2 ** power);

/** The steps of an axis of counts: whole numbers. */
const WHOLE = Array.from({ length: 9 }, (_, power) => [1, 2, 5].map((one) => one * 10 ** power)).flat();

const SERIES = {
  messages: { names: ["messages", "replies"], show: rate },
  firstChunk: { names: ["firstChunkP50", "firstChunkP95"], show: ms },
  reply: { names: ["replyP50", "replyP95"], show: ms },
  openDeliveries: { names: ["openDeliveries"], show: count, steps: WHOLE },
  liveSessions: { names: ["liveSessions", "expiringSessions"], show: count, steps: WHOLE },
  openStreams: { names: ["openStreams"], show: count, steps: WHOLE },
  refusals: { names: ["refusals"], show: rate },
  storeBytes: { names: ["storeBytes"], show: size, steps: POWERS },
  loopLag: { names: ["loopLag"], show: ms },
};

/** Each figure: what it shows, and the line below. */
const FIGURES = {
  messages: ({ now }) => [`${rate(now.messages)} /s`, `replies ${rate(now.replies)} /s`],
  firstChunk: ({ now }) => percentiles(now.firstChunkP50, now.firstChunkP95),
  reply: ({ now }) => percentiles(now.replyP50, now.replyP95),
  openDeliveries: ({ now, oldestDeliverySeconds }) => [
    count(now.openDeliveries),
    now.openDeliveries ? `the oldest ${ms(oldestDeliverySeconds * 1000)}` : "none waits",
  ],
  liveSessions: ({ now }) => [count(now.liveSessions), `${count(now.expiringSessions)} expire soon`],
  openStreams: ({ now }) => [count(now.openStreams), "of all kinds"],
  refusals: ({ now, refusalsByReason }) => [`${rate(now.refusals)} /s`, `${count(sum(refusalsByReason))} in all`],
  storeBytes: ({ now }) => [size(now.storeBytes), "data and its log"],
  loopLag: ({ now, expiryLagSeconds }) => [ms(now.loopLag), `expiry by ${ms(expiryLagSeconds * 1000)}`],
};

const percentiles = (p50, p95) => [orNone(p50, ms), p50 === null ? "no reply just now" : `p95 ${orNone(p95, ms)}`];
const sum = (counts) => Object.values(counts).reduce((total, one) => total + one, 0);

const failure = document.getElementById("failure");
const curves = new Map(
  [...document.querySelectorAll("[data-curve]")].map((figure) => {
    const name = figure.dataset.curve;
    return [name, new Curve(figure, SERIES[name])];
  }),
);

/** The points of the last hour: instants in ms, and a list of values for each figure. */
let at = [];
let points = {};

async function ask() {
  const last = at.at(-1);
  try {
    const answer = await request(`console/data/overview${last === undefined ? "" : `?after=${last}`}`);
    failure.hidden = true;
    add(answer);
    show(answer);
  } catch (error) {
    showFailure(error);
    throw error;
  }
}

/** Adds new points and drops what is older than an hour. */
function add(answer) {
  if (answer.nowAt < at.at(-1)) {
    // The service's clock was set back: behind our last point nothing would come for as long as that.
    at = [];
    points = {};
    return;
  }
  for (const [index, when] of answer.at.entries()) {
    // Two tabs of time: an answer that comes late may have points that are there already.
    if (at.length && when <= at.at(-1)) continue;
    if (at.length && when - at.at(-1) > GAP_MS) push(at.at(-1) + 1000, () => null, answer);
    push(when, (name) => answer.points[name][index], answer);
  }
  const first = at.findIndex((when) => when > (at.at(-1) ?? 0) - HOUR_MS);
  if (first > 0) {
    at = at.slice(first);
    for (const name of Object.keys(points)) points[name] = points[name].slice(first);
  }
}

function push(when, valueOf, answer) {
  at.push(when);
  for (const name of Object.keys(answer.points)) (points[name] ??= []).push(valueOf(name));
}

function show(answer) {
  for (const [name, tell] of Object.entries(FIGURES)) {
    const [figure, note] = tell(answer);
    document.querySelector(`[data-figure="${name}"]`).textContent = figure;
    document.querySelector(`[data-note="${name}"]`).textContent = note;
  }
  const seconds = at.map((when) => when / 1000);
  for (const [name, curve] of curves) {
    curve.setData([seconds, ...SERIES[name].names.map((one) => points[one] ?? [])]);
  }
  const since = new Date(answer.startedAt).toISOString().slice(0, 19).replace("T", " ");
  document.getElementById("since").textContent = `It started at ${since} UTC.`;
  showRefusals(answer.refusalsByReason);
}

function showRefusals(byReason) {
  const rows = Object.entries(byReason)
    .sort(([, one], [, other]) => other - one)
    .map(([reason, calls]) => row([reason, ""], [count(calls), "number"]));
  document.getElementById("refusals").replaceChildren(...(rows.length ? rows : [row(["None", "empty"], ["0", "number"])]));
}

function row(...cells) {
  const made = document.createElement("tr");
  for (const [text, className] of cells) {
    const cell = made.insertCell();
    cell.textContent = text;
    cell.className = className;
  }
  return made;
}

/** Says why there are no figures. When the service is away, the notice above the page says it. */
function showFailure(error) {
  const isTold = error instanceof Refusal && error.status < 500 && error.status !== 429;
  failure.hidden = !isTold;
  if (isTold && error.status === 401) failure.replaceChildren("This needs a key. ", keyButton());
  else if (isTold) failure.textContent = `Your key may not see this. ${error.message}`;
}

function keyButton() {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "quiet";
  button.dataset.enterKey = "";
  button.textContent = "Enter a key";
  return button;
}

document.addEventListener("console:theme", () => curves.forEach((curve) => curve.redraw()));

poll(ask, SECONDS);
