// Both variants side by side, and their endpoints.

import { $, attr, badge, el, keyed, text } from "./dom.js";
import { count, latency, leaving as left, longLived, percent, rate } from "./words.js";

const ROWS = [
  ["Rate", (variant) => rate(variant.rate)],
  ["Errors", (variant) => percent(variant.error_rate)],
  ["P50", (variant) => latency(variant.p50)],
  ["P95", (variant) => latency(variant.p95)],
  ["P99", (variant) => latency(variant.p99)],
  ["In flight", (variant) => count(variant.in_flight)],
  ["Tunnels and streams", ({ long_lived: open }) => count(open.tunnels + open.streams)],
  ["Requests since start", (variant) => count(variant.requests)],
  ["Failed since start", (variant) => count(variant.failed)],
  ["Shed since start", (variant) => count(variant.shed)],
];
const SIDES = ["stable", "canary"];

export function variants(live) {
  if (live.release === null) return;
  const { variants: both } = live.release;
  const node = $("variants");
  if (node.childElementCount === 0) node.append(...make());
  text($("variants-window"), live.release.fleet ? "last 10 s, this replica" : "last 10 s");
  const [table, none, leaving, ...lists] = node.children;
  attr(none, "hidden", both.canary === null ? null : "");
  ROWS.forEach(([, value], row) =>
    SIDES.forEach((side, column) => {
      text(table.tBodies[0].rows[row].cells[column + 1], both[side] === null ? "–" : value(both[side]));
    }),
  );
  const fleet = live.release.fleet?.leaving ?? {};
  const shed = live.release.fleet?.shed ?? {};
  const moved = SIDES.filter((side) => both[side]?.long_lived.leaving > 0).map((side) => left(side, both[side].long_lived, live.now));
  const all = SIDES.filter((side) => fleet[side] > (both[side]?.long_lived.leaving ?? 0)).map((side) => `${longLived(fleet[side])} on ${side} at all replicas.`);
  const refused = SIDES.filter((side) => shed[side] > (both[side]?.shed ?? 0)).map((side) => `${count(shed[side])} requests found ${side} over its measured limit at all replicas.`);
  const notes = [...moved, ...all, ...refused];
  attr(leaving, "hidden", notes.length > 0 ? null : "");
  text(leaving, notes.join(" "));
  SIDES.forEach((side, at) =>
    keyed(lists[at], both[side]?.endpoints ?? [], (each) => each.url, endpoint, (item, each) => {
      text(item.children[0], side);
      text(item.children[1], each.url);
      badge(item.children[2], each.usable ? "ok" : "suspect", each.usable ? "up" : "down");
      text(item.children[3], `${count(each.in_flight)} open`);
    }),
  );
}

function make() {
  const head = SIDES.map((side) => el("th", { scope: "col", class: `of-${side}` }, side));
  const body = ROWS.map(([name]) =>
    el("tr", {}, el("th", { scope: "row" }, name), SIDES.map(() => el("td", {}))),
  );
  return [
    el(
      "table",
      { class: "variants" },
      el("thead", {}, el("tr", {}, el("td", {}), head)),
      el("tbody", {}, body),
    ),
    el("p", { class: "note" }, "No canary is configured: every user is on stable."),
    el("p", { class: "note leaving" }),
    ...SIDES.map((side) => el("ul", { class: "endpoints", "aria-label": `Endpoints of ${side}` })),
  ];
}

const endpoint = () =>
  el(
    "li",
    {},
    el("span", { class: "endpoint-side" }),
    el("span", { class: "endpoint-url" }),
    el("span", {}),
    el("span", { class: "endpoint-flight" }),
  );
