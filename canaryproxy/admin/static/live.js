// Data from the proxy: the past once, then the stream. Tracks the age of the figures and never hides it.

import { SERVICE, ofService } from "./place.js";

const RETRY = 2000; // ms between attempts
const LATE = 4000; // ms without an event after which figures count as old; one arrives every second
const MOST_POINTS = 20000;
const MOST_RECORDS = 1000;

/** Points by time, each once; thinned at the old end when a page has been open for hours. */
export function merge(points, more) {
  if (more.length === 0) return points;
  let merged = points;
  const last = points.length > 0 ? points[points.length - 1].t : -Infinity;
  if (more.length === 1 && more[0].t > last) merged = [...points, more[0]];
  else {
    const known = new Map(points.map((point) => [point.t, point]));
    for (const point of more) known.set(point.t, point);
    merged = [...known.values()].sort((a, b) => a.t - b.t);
  }
  if (merged.length > MOST_POINTS) {
    const half = merged.length >> 1;
    merged = merged.filter((_, at) => at >= half || at % 2 === 0);
  }
  return merged;
}

/** Records by id, each once, oldest first. */
export function mergeRecords(records, more) {
  const known = new Map(records.map((record) => [record.id, record]));
  for (const record of more) known.set(record.id, record);
  return [...known.values()].sort((a, b) => a.id - b.id).slice(-MOST_RECORDS);
}

async function json(path) {
  const response = await fetch(ofService(path), { signal: AbortSignal.timeout(10000) });
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return response.json();
}

export class Live {
  release = null;
  points = [];
  records = [];
  connected = false;
  heard = null; // when the last figures arrived, ms
  removed = false; // the proxy says that it has no such service

  #changed;
  #source = null;
  #retry = null;

  /** `changed` is called after every change. */
  constructor(changed) {
    this.#changed = changed;
  }

  start() {
    this.#connect();
    setInterval(() => this.#watch(), 1000);
  }

  /** Take the release view of a response. */
  take(release) {
    if (this.release !== null && release.time < this.release.time) return;
    this.release = release;
    this.heard = Date.now();
    this.#changed();
  }

  /** Seconds since the last figures arrived. */
  get age() {
    return this.heard === null ? null : Math.max(Date.now() - this.heard, 0) / 1000;
  }

  get fresh() {
    return this.connected && this.heard !== null && Date.now() - this.heard < LATE;
  }

  /** The proxy's clock, in seconds since the epoch. */
  get now() {
    return this.release === null ? Date.now() / 1000 : this.release.time + this.age;
  }

  #connect() {
    clearTimeout(this.#retry);
    this.#retry = null;
    const source = new EventSource(ofService("v1/stream"));
    this.#source = source;
    source.addEventListener("release", (event) => {
      const release = JSON.parse(event.data);
      const anew = this.records.length > 0 && release.history_id < this.records[this.records.length - 1].id;
      if (anew) [this.records, this.points] = [[], []]; // the history restarted: another proxy
      if (!this.connected || anew) this.#past(source);
      this.connected = true;
      this.removed = false;
      this.release = release;
      this.heard = Date.now();
      this.#changed();
    });
    source.addEventListener("point", (event) => {
      this.points = merge(this.points, [JSON.parse(event.data)]);
    });
    source.addEventListener("record", (event) => {
      this.records = mergeRecords(this.records, [JSON.parse(event.data)]);
      this.#changed();
    });
    source.addEventListener("error", () => this.#lost(source));
  }

  /** Fetch the history and series from before the stream began. */
  async #past(source) {
    const since = this.points.length > 0 ? this.points[this.points.length - 1].t : 0;
    const last = this.records.length > 0 ? this.records[this.records.length - 1].id : null;
    try {
      const [series, history] = await Promise.all([
        json(`v1/series?since=${since}`),
        json(last === null ? `v1/history?limit=${MOST_RECORDS}` : `v1/history?limit=${MOST_RECORDS}&after=${last}`),
      ]);
      if (source !== this.#source) return;
      this.points = merge(this.points, series.points);
      this.records = mergeRecords(this.records, history.records);
      this.#changed();
    } catch {
      this.#lost(source); // the next connection retries
    }
  }

  #lost(source) {
    if (source !== this.#source) return;
    source.close();
    this.#source = null;
    this.connected = false;
    this.#retry ??= setTimeout(() => this.#connect(), RETRY);
    this.#changed();
    this.#ask();
  }

  /** Tell a service that a reload has removed from a proxy that cannot be reached: a stream does not say it. */
  async #ask() {
    if (SERVICE === null) return;
    try {
      const response = await fetch(ofService("v1/release"), { cache: "no-store", signal: AbortSignal.timeout(RETRY) });
      if (this.connected || this.removed === (response.status === 404)) return;
      this.removed = response.status === 404;
      this.#changed();
    } catch {
      // not reached: as the connection says
    }
  }

  /** Treat an open connection that delivers nothing as lost. */
  #watch() {
    if (this.#source !== null && this.heard !== null && Date.now() - this.heard > 3 * LATE) this.#lost(this.#source);
    if (!this.fresh) this.#changed();
  }
}
