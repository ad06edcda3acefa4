// Endpoints and routes: two tables of the last minute, fetched every few seconds while the figures are live.

import { $, attr, badge, el, keyed, text } from "./dom.js";
import { ofService } from "./place.js";
import { count, duration, latency, percent } from "./words.js";

const EVERY = 5000; // ms
const CODES = ["2xx", "3xx", "4xx", "5xx"];
const SIDES = ["stable", "canary"];
const LEVELS = { ok: "no regression seen", suspect: "suspect", breach: "regression" };

let asked = -Infinity;

/** Ask for new figures when the last ones are old. */
export function tables(live) {
  if (!live.fresh || Date.now() - asked < EVERY) return;
  asked = Date.now();
  load("endpoints", showEndpoints);
  load("routes", showRoutes);
}

async function load(name, show) {
  try {
    const response = await fetch(ofService(`v1/${name}`), { signal: AbortSignal.timeout(10000) });
    if (response.ok) show(await response.json());
  } catch (error) {
    if (error instanceof TypeError || error.name === "TimeoutError") return; // the connection: tried again
    throw error;
  }
}

const cells = (classes) => classes.map((name) => el("td", { class: name }));
const numbers = (number) => Array(number).fill("number");

const failed = ({ requests, failed: bad }) => (bad === 0 ? "0" : `${count(bad)} (${percent(bad / requests)})`);

function fill(row, from, values) {
  values.forEach((value, at) => text(row.cells[from + at], value));
}

function showEndpoints({ endpoints }) {
  const table = $("endpoint-table");
  if (table.tBodies.length === 0) {
    const right = ["Requests", "Failed", ...CODES, "No response", "P95", "Open"];
    table.append(
      el("caption", {}),
      el("thead", {}, el("tr", {}, heads(["Variant", "Endpoint", "State"]), heads(right, "number"))),
      el("tbody", {}),
    );
  }
  const span = Math.max(0, ...endpoints.map((each) => each.recent.seconds));
  text(table.caption, `Endpoints, last ${duration(span)}`);
  keyed(
    table.tBodies[0],
    endpoints,
    (each) => `${each.variant} ${each.url}`,
    () => el("tr", {}, el("td", {}), el("th", { scope: "row" }), el("td", {}), cells(numbers(9))),
    (row, each) => {
      const { recent } = each;
      const none = Object.values(recent.errors).reduce((sum, one) => sum + one, 0);
      fill(row, 0, [each.variant, each.url]);
      badge(row.cells[2], each.up ? "ok" : "suspect", state(each));
      fill(row, 3, [
        count(recent.requests),
        failed(recent),
        ...CODES.map((code) => count(recent.codes[code] ?? 0)),
        count(none),
        latency(recent.p95),
        count(each.in_flight),
      ]);
      attr(row, "title", recent.failed > 0 && each.last_error !== null ? `Last failure: ${each.last_error}` : null);
    },
  );
}

/** "up", "starting", "standby", "down" with its cause, or in how many of the workers it is down. */
function state({ state: word, up, out, ejected_by: by, workers }) {
  if (out) return `${word}: ${out}`;
  if (word === "starting" || word === "standby" || word === "panic") return word;
  if (up) return "up";
  return by < workers ? `down in ${by} of ${workers} workers` : "down";
}

function showRoutes({ routes, seconds, share }) {
  const table = $("route-table");
  attr(table.parentElement, "hidden", routes.length === 0 ? "" : null);
  if (table.tBodies.length === 0) {
    const right = ["requests", "failed", "P95"];
    table.append(
      el("caption", {}),
      el(
        "thead",
        {},
        el("tr", {}, heads(["Route", "Judge"]), SIDES.flatMap((side) => heads(right.map((what) => `${side} ${what}`), "number"))),
      ),
      el("tbody", {}),
    );
  }
  const part = share < 1 ? `; ${percent(share)} of the requests are counted` : "";
  text(table.caption, `Routes, last ${duration(seconds)}, randomised users${part}`);
  keyed(
    table.tBodies[0],
    routes,
    (each) => each.route,
    () => el("tr", {}, el("th", { scope: "row" }), el("td", {}), cells(numbers(6))),
    (row, each) => {
      text(row.cells[0], each.route);
      badge(row.cells[1], each.level, LEVELS[each.level] ?? each.level);
      fill(row, 2, SIDES.flatMap((side) => [count(each[side].requests), failed(each[side]), latency(each[side].p95)]));
    },
  );
}

const heads = (names, kind = null) => names.map((name) => el("th", { scope: "col", class: kind }, name));
