// One curve of the last hour: a plot of uPlot with our colours, and a legend with the values under the cursor.

import { NONE, orNone } from "./format.js";

const HEIGHT = 150;
const HOUR_S = 3600;

/** The colour that a class has now: uPlot draws on a canvas, which knows no variables. */
function colour(name) {
  const probe = document.createElement("span");
  probe.className = name;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

export class Curve {
  /** `figure` has a place for the plot and a legend; `show` turns a value into words, `steps` are its axis's. */
  constructor(figure, { show, steps }) {
    this.place = figure.querySelector(".plot");
    this.values = [...figure.querySelectorAll("[data-value]")];
    this.title = this.place.getAttribute("aria-label");
    this.show = show;
    this.steps = steps;
    this.data = [[], ...this.values.map(() => [])];
    this.#draw();
    new ResizeObserver(() => this.plot.setSize({ width: this.place.clientWidth, height: HEIGHT })).observe(this.place);
  }

  /** Draws other points: the instants in seconds, then a list of values for each series. */
  setData(data) {
    this.data = data;
    this.plot.setData(data);
    this.#tell(null);
    const told = this.values.map((value) => value.parentElement.textContent.replace(/\s+/g, " ").trim());
    this.place.setAttribute("aria-label", `${this.title}, the last hour; now ${told.join(", ")}`);
  }

  /** Draws it anew in the colours of the present theme. */
  redraw() {
    this.plot.destroy();
    this.#draw();
  }

  #draw() {
    const muted = colour("colour-muted");
    const line = colour("colour-line");
    const axis = { stroke: muted, font: "11px system-ui", grid: { stroke: line, width: 1 }, ticks: { show: false } };
    const steps = this.steps ? { incrs: this.steps } : {};
    const options = {
      width: this.place.clientWidth,
      height: HEIGHT,
      padding: [8, 18, 0, 0],
      legend: { show: false },
      cursor: { sync: { key: "overview" }, drag: { x: false, y: false }, y: false },
      hooks: { setCursor: [(plot) => this.#tell(plot.cursor.idx)] },
      scales: {
        x: { range: (_, __, last) => [(last ?? Date.now() / 1000) - HOUR_S, last ?? Date.now() / 1000] },
        y: { range: (_, __, most) => [0, most > 0 ? most * 1.1 : 1] },
      },
      axes: [
        { ...axis, size: 24, space: 60, values: (_, splits) => splits.map(clock) },
        { ...axis, size: 56, space: 32, ...steps, values: (_, splits) => splits.map((value) => this.show(value)) },
      ],
      series: [{}, ...this.values.map((_, index) => this.#series(index + 1))],
    };
    this.plot = new uPlot(options, this.data, this.place);
  }

  #series(number) {
    return { stroke: colour(`colour-${number}`), width: 1.5, points: { show: false }, spanGaps: false };
  }

  /** Writes the values of a point into the legend; without a point, those of the last. */
  #tell(index) {
    const at = index ?? this.data[0].length - 1;
    for (const [position, value] of this.values.entries()) {
      value.textContent = at < 0 ? NONE : orNone(this.data[position + 1][at], this.show);
    }
  }
}

const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
