// The arithmetic of a plot: scales, ticks, downsampling, paths. Pure: numbers in, numbers and path data out.

/** A linear map of [from, to] to [begin, end]. */
export function linear(from, to, begin, end) {
  const slope = to === from ? 0 : (end - begin) / (to - from);
  const map = (value) => begin + (value - from) * slope;
  map.back = (place) => (slope === 0 ? from : from + (place - begin) / slope);
  return map;
}

/** The smallest round number (1, 1.5, 2, 2.5 … times a power of ten) that is not below the value. */
export function ceiling(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  const found = [1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10].find((times) => times * power >= value * (1 - 1e-9));
  return Number((found * power).toPrecision(6));
}

/** About `wanted` round values at even steps from 0 to the top. */
export function ticks(top, wanted = 3) {
  const rough = top / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((times) => times * power).find((size) => size >= rough * (1 - 1e-9));
  const found = [];
  for (let n = 0; n * step <= top * (1 + 1e-9); n += 1) found.push(Number((n * step).toPrecision(6)));
  return found;
}

const TIME_STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400];

/** Round local times in [from, to], at most `most` of them. Times in seconds since the epoch. */
export function timeTicks(from, to, most) {
  const span = Math.max(to - from, 1);
  const step = TIME_STEPS.find((size) => span / size <= most) ?? 86400 * Math.ceil(span / 86400 / most);
  const offset = -new Date(to * 1000).getTimezoneOffset() * 60;
  const found = [];
  for (let at = Math.ceil((from + offset) / step) * step - offset; at <= to; at += step) found.push(at);
  return { step, at: found };
}

/** The index of the point whose time is nearest, or -1. Points are in order of time. */
export function nearest(points, t) {
  let low = 0;
  let high = points.length - 1;
  if (high < 0) return -1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (points[middle].t < t) low = middle + 1;
    else high = middle;
  }
  return low > 0 && t - points[low - 1].t < points[low].t - t ? low - 1 : low;
}

/** The points from one before `from` to one after `to`, so that lines run to the edge. */
export function within(points, from, to) {
  let begin = points.findIndex((point) => point.t >= from);
  if (begin < 0) begin = points.length;
  let end = points.length;
  while (end > begin && points[end - 1].t > to) end -= 1;
  return points.slice(Math.max(begin - 1, 0), end + 1);
}

/**
 * Downsample to at most five values for each of `columns` columns: the first, the least, the greatest, the last and
 * one null per hole, so that a short peak is never lost. `values` are [t, v] with v a number or null.
 */
export function thin(values, columns) {
  if (values.length <= columns * 4) return values;
  const from = values[0][0];
  const width = (values[values.length - 1][0] - from) / columns || 1;
  const found = [];
  for (let at = 0; at < values.length; ) {
    const column = Math.floor((values[at][0] - from) / width);
    const first = at;
    let least = -1;
    let most = -1;
    let hole = -1;
    for (; at < values.length && Math.floor((values[at][0] - from) / width) === column; at += 1) {
      const value = values[at][1];
      if (value === null) hole = at;
      else {
        if (least < 0 || value < values[least][1]) least = at;
        if (most < 0 || value > values[most][1]) most = at;
      }
    }
    const keep = [...new Set([first, least, most, hole, at - 1])].filter((index) => index >= 0);
    for (const index of keep.sort((a, b) => a - b)) found.push(values[index]);
  }
  return found;
}

const place = (value) => value.toFixed(1);

/** Split where a value is missing, or where two are more than `gap` seconds apart. */
export function runs(values, gap) {
  const found = [];
  let run = [];
  for (const value of values) {
    const missing = value[1] === null;
    const apart = run.length > 0 && value[0] - run[run.length - 1][0] > gap;
    if ((missing || apart) && run.length > 0) {
      found.push(run);
      run = [];
    }
    if (!missing) run.push(value);
  }
  if (run.length > 0) found.push(run);
  return found;
}

/** Path data of a line; `stepped` holds each value until the next. */
export function linePath(values, x, y, gap, stepped = false) {
  return runs(values, gap)
    .map((run) => {
      const [first, ...rest] = run;
      const begin = `M${place(x(first[0]))} ${place(y(first[1]))}`;
      if (rest.length === 0) return `${begin}h0.1`;
      return begin + rest.map(([t, v]) => `${stepped ? `H${place(x(t))}V` : `L${place(x(t))} `}${place(y(v))}`).join("");
    })
    .join("");
}

/** Downsample a band to the least low and greatest high per column. `values` are [t, low, high]; low is null in a hole. */
export function thinBand(values, columns) {
  if (values.length <= columns * 2) return values;
  const from = values[0][0];
  const width = (values[values.length - 1][0] - from) / columns || 1;
  const found = [];
  let last = -1;
  for (const [t, low, high] of values) {
    const column = Math.floor((t - from) / width);
    const have = found[found.length - 1];
    if (column !== last || low === null || have[1] === null) found.push([t, low, high]);
    else found[found.length - 1] = [have[0], Math.min(have[1], low), Math.max(have[2], high)];
    last = column;
  }
  return found;
}

/** Path data of the area between low and high. */
export function bandPath(values, x, y, gap) {
  return runs(values, gap)
    .map((run) => {
      const there = run.map(([t, low]) => `${place(x(t))} ${place(y(low))}`);
      const back = run.map(([t, , high]) => `${place(x(t))} ${place(y(high))}`).reverse();
      return `M${there.join("L")}L${back.join("L")}Z`;
    })
    .join("");
}
