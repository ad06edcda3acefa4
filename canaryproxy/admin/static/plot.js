// One SVG plot: lines with bands over a shared time axis, marks, and a cursor. Its arithmetic is in scale.js.

import { attr, el, svg, text } from "./dom.js";
import { bandPath, ceiling, linePath, linear, thin, thinBand, ticks } from "./scale.js";

export const MARGIN = { left: 46, right: 10, top: 6, bottom: 4 };
const AXIS = 18; // px below the last plot for the times
const LETTER = 6.5; // px of a letter of a mark

let unique = 0;

export class Plot {
  /**
   * `options`: title; height (px); lines, each {name, kind, value, low, high, stepped} with functions of a point;
   * format and tick (functions from value to text, tick for the axis); least and most (bounds of the axis' top);
   * axis (whether times are shown below); labels (whether marks have labels).
   */
  constructor(options) {
    this.options = options;
    this.height = options.height + (options.axis ? AXIS : 0);
    const clip = `clip-${(unique += 1)}`;
    this.clip = svg("rect", { y: 0, x: MARGIN.left });
    this.grid = svg("g", { class: "grid" });
    this.marks = svg("g", { class: "marks" });
    this.hole = svg("rect", { class: "hole", y: MARGIN.top, height: options.height - MARGIN.top - MARGIN.bottom });
    this.bands = options.lines.map((line) => svg("path", { class: `band band-${line.kind}` }));
    this.paths = options.lines.map((line) => svg("path", { class: `line line-${line.kind}` }));
    this.hair = svg("line", { class: "hair", y1: 0, y2: options.height });
    this.dots = options.lines.map((line) => svg("circle", { class: `dot dot-${line.kind}`, r: 3.5 }));
    this.svg = svg(
      "svg",
      { role: "img", height: this.height, class: "plot" },
      svg("clipPath", { id: clip }, this.clip),
      this.grid,
      svg("g", { "clip-path": `url(#${clip})` }, this.hole, this.bands, this.marks, this.paths),
      this.hair,
      this.dots,
    );
    this.values = options.lines.map(() => el("span", { class: "value" }));
    const legend = options.lines.map((line, at) =>
      el("span", { class: "key" }, sample(line.kind), `${line.name} `, this.values[at]),
    );
    this.title = el("h3", {}, options.title);
    this.node = el("figure", { class: "figure" }, el("figcaption", {}, this.title, legend), this.svg);
  }

  /** Draw `points` on the time scale `x`; `marks` are {t, kind, label}; a `gap` in seconds breaks the lines. */
  draw(points, x, width, marks, gap, end, times) {
    const { lines, height } = this.options;
    const y = linear(0, this.#top(points), height - MARGIN.bottom, MARGIN.top);
    const right = width - MARGIN.right;
    attr(this.svg, "width", width);
    attr(this.clip, "width", Math.max(right - MARGIN.left, 0));
    attr(this.clip, "height", height);
    this.#grid(y, right, x, times);
    const columns = Math.max(Math.floor((right - MARGIN.left) / 2), 50);
    lines.forEach((line, at) => {
      const values = points.map((point) => [point.t, line.value(point) ?? null]);
      this.paths[at].setAttribute("d", linePath(thin(values, columns), x, y, gap, line.stepped));
      if (line.low) {
        const band = points.map((point) => {
          const [low, high] = [line.low(point) ?? null, line.high(point) ?? null];
          return low === null || high === null ? [point.t, null, null] : [point.t, low, high];
        });
        this.bands[at].setAttribute("d", bandPath(thinBand(band, columns), x, y, gap));
      }
    });
    const last = points.length > 0 ? x(points[points.length - 1].t) : MARGIN.left;
    attr(this.hole, "x", Math.max(last, MARGIN.left));
    attr(this.hole, "width", end - (points.at(-1)?.t ?? end) > gap ? Math.max(right - last, 0) : 0);
    this.#marks(marks, x);
    this.y = y;
  }

  /** Show the values of the point `at`; null hides the cursor and shows the values of `newest`. */
  point(at, x, newest) {
    const shown = at ?? newest;
    const { lines, format } = this.options;
    attr(this.hair, "visibility", at === null ? "hidden" : "visible");
    if (at !== null) {
      attr(this.hair, "x1", x(at.t));
      attr(this.hair, "x2", x(at.t));
    }
    lines.forEach((line, index) => {
      const value = shown ? line.value(shown) ?? null : null;
      const visible = at !== null && value !== null;
      attr(this.dots[index], "visibility", visible ? "visible" : "hidden");
      if (visible) {
        attr(this.dots[index], "cx", x(at.t));
        attr(this.dots[index], "cy", Math.max(this.y(value), MARGIN.top));
      }
      text(this.values[index], this.words(line, shown, format));
    });
  }

  /** A value with its interval. */
  words(line, point, format) {
    const value = point ? line.value(point) ?? null : null;
    if (value === null) return "–";
    const [low, high] = line.low ? [line.low(point) ?? null, line.high(point) ?? null] : [null, null];
    return low === null || high === null ? format(value) : `${format(value)} (${format(low)} – ${format(high)})`;
  }

  /** The top of the axis. Lines always fit; bands may be cut, because they would flatten the lines. */
  #top(points) {
    const { lines, least, most } = this.options;
    let line = 0;
    let band = 0;
    for (const point of points) {
      for (const each of lines) {
        line = Math.max(line, each.value(point) ?? 0);
        band = Math.max(band, each.high?.(point) ?? 0);
      }
    }
    return Math.min(ceiling(Math.max(line * 1.12, Math.min(band, line * 2), least)), most ?? Infinity);
  }

  #grid(y, right, x, times) {
    const { height, axis, tick } = this.options;
    const top = y.back(MARGIN.top);
    const rows = ticks(top, height > 100 ? 4 : 2).map((value) => [
      svg("line", { x1: MARGIN.left, x2: right, y1: y(value), y2: y(value), class: value === 0 ? "zero" : null }),
      svg("text", { x: MARGIN.left - 6, y: y(value) + (value === 0 ? 0 : 4), "text-anchor": "end" }, tick(value)),
    ]);
    const columns = times.at.map((t) => [
      svg("line", { x1: x(t), x2: x(t), y1: MARGIN.top, y2: height - MARGIN.bottom }),
      axis ? svg("text", { x: x(t), y: height + 12, "text-anchor": "middle" }, times.format(t)) : null,
    ]);
    this.grid.replaceChildren(...[...rows, ...columns].flat().filter((node) => node !== null));
  }

  #marks(marks, x) {
    const bottom = this.options.height - MARGIN.bottom;
    const lines = marks.map(({ t, kind }) =>
      svg("line", { class: `mark mark-${kind}`, x1: x(t), x2: x(t), y1: 0, y2: bottom }),
    );
    this.marks.replaceChildren(...lines, ...(this.options.labels ? this.#labels(marks, x) : []));
  }

  /** Labels that do not overlap: trips first, then the newest. */
  #labels(marks, x) {
    const right = Number(this.svg.getAttribute("width")) - MARGIN.right;
    const taken = [];
    const order = [...marks].reverse().filter((mark) => mark.label);
    order.sort((a, b) => (b.kind === "tripped") - (a.kind === "tripped"));
    return order.flatMap(({ t, kind, label }) => {
      const width = label.length * LETTER + 8;
      const before = x(t) + width > right;
      const from = before ? x(t) - width : x(t);
      if (taken.some((other) => from < other.to && other.from < from + width)) return [];
      taken.push({ from, to: from + width });
      const place = { x: x(t) + (before ? -4 : 4), y: MARGIN.top + 10, "text-anchor": before ? "end" : "start" };
      return [svg("text", { class: `mark-label mark-label-${kind}`, ...place }, label)];
    });
  }
}

const sample = (kind) =>
  svg(
    "svg",
    { class: "sample", width: 22, height: 8, "aria-hidden": "true" },
    svg("path", { class: `line line-${kind}`, d: "M0 4H22" }),
  );
