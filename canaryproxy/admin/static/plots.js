// The panel of plots: one time axis and one cursor for all of them, by mouse, touch or keyboard.

import { $, attr, el, text } from "./dom.js";
import { iso, remember, with_ } from "./link.js";
import { MARGIN, Plot } from "./plot.js";
import { linear, nearest, timeTicks, within } from "./scale.js";
import { clock, duration, latency, latencyTick, moment, percent, percentTick, utc, weight } from "./words.js";

const RANGES = [
  { name: "5 min", key: "5m", seconds: 300 },
  { name: "30 min", key: "30m", seconds: 1800 },
  { name: "All", key: "all", seconds: Infinity },
];
const QUANTILES = ["p50", "p95", "p99"];
const ROWS = 20; // of the table
const MARKS = {
  tripped: () => "tripped",
  breached: () => "breach",
  started: (record) => `start ${percentOf(record)}`,
  step: (record) => percentOf(record),
  weight: (record) => percentOf(record),
  promoted: () => "promoted",
  aborting: () => "aborting",
  aborted: () => "aborted",
  paused: () => "",
  resumed: () => "",
  suspect: () => "suspect",
  reset: () => "reset",
  probing: () => "probe",
  recovered: () => "recovered",
};

const percentOf = (record) => (typeof record.figures.weight === "number" ? weight(record.figures.weight) : "");

const sides = (value, low, high) =>
  [
    ["stable", "stable"],
    ["canary", "canary"],
  ].map(([name, kind]) => ({
    name,
    kind,
    value: (point) => point[kind]?.[value()],
    low: low && ((point) => point[kind]?.[low()]),
    high: high && ((point) => point[kind]?.[high()]),
  }));

/** The title of the first plot: its weight is of all users, and cohorts have weights of their own. */
function usersTitle(release) {
  const groups = release?.cohorts?.map(shareOfCohort) ?? [];
  return groups.length === 0 ? "Users on the canary" : `Users on the canary, apart from ${groups.join(", ")}`;
}

const shareOfCohort = ({ name, weight: of }) => `${weight(of)} of ${name}`;

export class Plots {
  #range = RANGES[0];
  #quantile = "p95";
  #cursor = null; // seconds since the epoch
  #fixed = null; // {begin, end} of a link, in seconds since the epoch
  #event = null; // number of the record that a link names
  #live;
  #plots;
  #shown = [];
  #x = null;

  constructor(live) {
    this.#live = live;
    const quantile = () => this.#quantile;
    this.#plots = [
      new Plot({
        title: "Users on the canary",
        height: 84,
        lines: [
          { name: "actual share", kind: "share", value: (point) => (point.share === null ? null : point.share * 100) },
          { name: "weight", kind: "weight", value: (point) => point.weight, stepped: true },
        ],
        format: (value) => `${value.toFixed(1)}%`,
        tick: weight,
        least: 2,
        most: 100,
        labels: true,
      }),
      new Plot({
        title: "Error rate",
        height: 132,
        lines: sides(
          () => "error_rate",
          () => "error_low",
          () => "error_high",
        ),
        format: percent,
        tick: percentTick,
        least: 0.01,
        most: 1,
      }),
      new Plot({
        title: "P95 to first byte",
        height: 132,
        lines: sides(
          quantile,
          () => `${this.#quantile}_low`,
          () => `${this.#quantile}_high`,
        ),
        format: latency,
        tick: latencyTick,
        least: 0.01,
        axis: true,
      }),
    ];
    $("figures").replaceChildren(...this.#plots.map((plot) => plot.node));
    this.#choices($("ranges"), RANGES, (range) => range.name, () => this.#range, (range) => this.range(range));
    this.#choices(
      $("quantiles"),
      QUANTILES,
      (name) => name.toUpperCase(),
      () => this.#quantile,
      (name) => {
        remember({ quantile: name });
        this.#percentile(name);
        this.draw();
      },
    );
    for (const plot of this.#plots) {
      plot.svg.addEventListener("pointermove", (event) => this.#point(plot, event));
      plot.svg.addEventListener("pointerdown", (event) => this.#point(plot, event));
      plot.svg.addEventListener("pointerleave", () => this.#move(null));
    }
    const slider = $("cursor");
    slider.addEventListener("input", () => {
      const at = Number(slider.value);
      this.#move(at >= Number(slider.max) ? null : this.#shown[at]?.t ?? null);
    });
    slider.addEventListener("blur", () => this.#move(null));
    $("plots-now").addEventListener("click", () => this.range(this.#range));
    $("table-details").addEventListener("toggle", () => this.draw());
    new ResizeObserver(() => this.draw()).observe($("figures"));
  }

  /** Select a range, or the range at an index from 0 to 2. */
  range(range) {
    this.#range = RANGES[range] ?? range;
    this.#fixed = this.#event = null;
    remember({ range: this.#range.key, from: null, to: null, event: null });
    this.#press($("ranges"), RANGES.indexOf(this.#range));
    this.draw();
  }

  /** Show what an address names: {range, quantile, from, to, event}. */
  show({ range, quantile, from, to, event }) {
    this.#range = RANGES.find((each) => each.key === range) ?? this.#range;
    this.#press($("ranges"), RANGES.indexOf(this.#range));
    if (QUANTILES.includes(quantile)) this.#percentile(quantile);
    this.#fixed = from !== null && to !== null && to > from ? { begin: from, end: to } : null;
    this.#event = event;
  }

  #percentile(name) {
    this.#quantile = name;
    this.#press($("quantiles"), QUANTILES.indexOf(name));
    text(this.#plots[2].title, `${name.toUpperCase()} to first byte`);
  }

  /** The range in view: that of a link, that around its event, or the newest. */
  #bounds(points) {
    const event = this.#live.records.find((record) => record.id === this.#event);
    if (this.#fixed) return this.#fixed;
    const newest = points.at(-1)?.t ?? this.#live.now;
    const end = this.#live.fresh ? newest : Math.max(this.#live.now, newest);
    const first = points[0]?.t ?? end - 300;
    const begin = Math.max(end - this.#range.seconds, Math.min(first, end - 60));
    if (!event || event.time >= begin || event.time < first) return { begin, end };
    const half = this.#range.seconds / 2;
    return { begin: event.time - half, end: event.time + half };
  }

  draw() {
    const width = Math.floor($("figures").clientWidth);
    if (width < 100) return;
    const { records } = this.#live;
    const points = this.#upToNow();
    const { begin, end } = this.#bounds(points);
    text(this.#plots[0].title, usersTitle(this.#live.release));
    attr($("plots-link"), "href", `#${with_({ from: iso(begin), to: iso(end), range: null })}`);
    attr($("plots-now"), "hidden", this.#fixed || this.#event !== null ? null : "");
    this.#x = linear(begin, end, MARGIN.left, width - MARGIN.right);
    this.#shown = within(points, begin, end).filter((point) => point.t >= begin - 5);
    const found = timeTicks(begin, end, Math.max(Math.floor(width / 90), 2));
    const times = { at: found.at, format: (t) => clock(t, found.step < 60) };
    const marks = records
      .filter((record) => record.what in MARKS && record.time >= begin && record.time <= end)
      .map((record) => ({ t: record.time, kind: record.what, label: MARKS[record.what](record) }));
    const gap = Math.max(5, (4 * (end - begin)) / Math.max(this.#shown.length, 1));
    for (const plot of this.#plots) plot.draw(this.#shown, this.#x, width, marks, gap, end, times);
    attr($("cursor"), "max", Math.max(this.#shown.length - 1, 0));
    this.#move(this.#cursor);
    this.#describe(begin, end);
    if ($("table-details").open) this.#table();
  }

  /** The points, extended by the current weight: a trip shows before the next point arrives. */
  #upToNow() {
    const { points, release } = this.#live;
    const last = points.at(-1);
    if (!last || release === null || release.weight === last.weight || release.time <= last.t) return points;
    return [...points, { ...last, t: release.time, weight: release.weight }];
  }

  #choices(parent, all, name, current, choose) {
    const buttons = all.map((each) => {
      const button = el("button", { type: "button", "aria-pressed": String(each === current()) }, name(each));
      button.addEventListener("click", () => {
        choose(each);
        this.#press(parent, all.indexOf(each));
      });
      return button;
    });
    parent.replaceChildren(...buttons);
  }

  #press(parent, at) {
    [...parent.children].forEach((button, index) => attr(button, "aria-pressed", String(index === at)));
  }

  #point(plot, event) {
    if (this.#x === null) return;
    const left = plot.svg.getBoundingClientRect().left;
    this.#move(this.#x.back(event.clientX - left));
  }

  #move(t) {
    this.#cursor = t;
    const at = t === null ? -1 : nearest(this.#shown, t);
    const point = at < 0 ? null : this.#shown[at];
    const newest = this.#shown.at(-1) ?? null;
    for (const plot of this.#plots) plot.point(point, this.#x, newest);
    const slider = $("cursor");
    slider.value = String(point === null ? slider.max : at);
    const words = point === null ? "newest" : this.#words(point);
    attr(slider, "aria-valuetext", words);
    text($("cursor-time"), point === null ? "" : this.#when(point));
  }

  #when(point) {
    const near = this.#live.records.findLast((record) => Math.abs(record.time - point.t) < this.#near());
    return `${moment(point.t, this.#live.now)}${near ? ` · ${near.what}` : ""}`;
  }

  /** Seconds per three pixels, the reach of the cursor. */
  #near() {
    return Math.max(this.#x.back(3) - this.#x.back(0), 0.6);
  }

  #words(point) {
    const lines = this.#plots.flatMap((plot) =>
      plot.options.lines.map(
        (line) => `${plot.title.textContent}, ${line.name} ${plot.words(line, point, plot.options.format)}`,
      ),
    );
    return [this.#when(point), ...lines].join("; ");
  }

  /** Describe each plot for screen readers. */
  #describe(begin, end) {
    for (const plot of this.#plots) {
      const lines = plot.options.lines.map((line) => {
        const values = this.#shown.map(line.value).filter((value) => typeof value === "number");
        if (values.length === 0) return `${line.name}: no data`;
        const { format } = plot.options;
        return `${line.name}: ${format(Math.min(...values))} to ${format(Math.max(...values))}, now ${format(values.at(-1))}`;
      });
      attr(plot.svg, "aria-label", `${plot.title.textContent} over ${duration(end - begin)}. ${lines.join("; ")}.`);
    }
  }

  #table() {
    const every = Math.max(Math.ceil(this.#shown.length / ROWS), 1);
    const rows = this.#shown.filter((_, at) => (this.#shown.length - 1 - at) % every === 0).reverse();
    const lines = this.#plots.flatMap((plot) => plot.options.lines.map((line) => ({ plot, line })));
    const head = lines.map(({ plot, line }) =>
      el("th", { scope: "col" }, plot === this.#plots[0] ? line.name : `${plot.title.textContent}, ${line.name}`),
    );
    const body = rows.map((point) =>
      el(
        "tr",
        {},
        el("th", { scope: "row" }, el("time", { title: utc(point.t) }, moment(point.t, this.#live.now))),
        lines.map(({ plot, line }) => el("td", {}, plot.words(line, point, plot.options.format))),
      ),
    );
    $("figures-table").replaceChildren(
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Time"), head)),
      el("tbody", {}, body),
    );
  }
}
