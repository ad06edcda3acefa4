// The evidence of each metric: how far it is from holding and from tripping, in a bar and in words.

import { $, attr, badge, el, keyed, text } from "./dom.js";
import { LEVELS, count, interval, metric, odds, percent, ratio } from "./words.js";

export function evidence(live) {
  if (live.release === null) return;
  const { metrics } = live.release;
  const node = $("evidence");
  attr($("evidence-axis"), "hidden", metrics.length > 0 ? null : "");
  if (metrics.length === 0) {
    node.replaceChildren(el("p", { class: "note" }, "No metrics are being compared."));
    return;
  }
  // One scale for all metrics, so that the marks line up.
  const top = Math.max(...metrics.map((each) => each.limit ?? each.hold_limit)) * 1.15;
  axis(metrics, top);
  keyed(node, metrics, (each) => each.metric, make, (article, each) => update(article, each, top));
}

const share = (value, top) => `${(Math.min(Math.max(value / top, 0), 1) * 100).toFixed(2)}%`;

function axis(metrics, top) {
  const [, hold, trip] = $("evidence-axis").children;
  const most = metrics.find((each) => each.limit !== null);
  text(hold, `hold ${odds(metrics[0].hold_limit)}`);
  hold.style.left = share(metrics[0].hold_limit, top);
  attr(trip, "hidden", most ? null : "");
  if (!most) return;
  text(trip, `trip ${odds(most.limit)}`);
  trip.style.left = share(most.limit, top);
}

function make(each) {
  return el(
    "article",
    { class: "metric" },
    el("div", { class: "row" }, el("h3", {}, metric(each.metric), " ", el("span", { class: "odds" })), el("span", { class: "level" })),
    el(
      "div",
      { class: "bar-log", role: "meter", "aria-label": `Regression evidence, ${metric(each.metric)}`, "aria-valuemin": 0 },
      el("span", { class: "bar-fill" }),
      el("span", { class: "bar-mark bar-hold" }),
      el("span", { class: "bar-mark bar-trip" }),
    ),
    el("div", { class: "row" }, el("p", { class: "said" }), el("span", { class: "proof" })),
    el("p", { class: "counts" }),
  );
}

function update(node, each, top) {
  const [{ children: [title, level] }, bar, { children: [bounds, proof] }, counts] = node.children;
  const { log_evidence: log, hold_limit: hold, limit } = each;
  const never = limit === null;
  const length = log ?? (each.level === "breach" ? top : 0); // null: beyond floating point
  const shown = each.comparable || each.level !== "ok" ? each.level : "unknown";
  node.dataset.level = each.level;
  text(title.lastElementChild, odds(log));
  badge(level, shown, shown === "unknown" ? "nothing to compare" : LEVELS[each.level]);
  const [fill, holdMark, tripMark] = bar.children;
  fill.style.width = share(length, top);
  holdMark.style.left = share(hold, top);
  tripMark.style.left = share(limit ?? 0, top);
  attr(tripMark, "hidden", never ? "" : null);
  const limits = `holds at ${odds(hold)}, ${never ? "never trips" : `trips at ${odds(limit)}`}`;
  attr(bar, "aria-valuemax", top.toFixed(2));
  attr(bar, "aria-valuenow", Math.min(Math.max(length, 0), top).toFixed(2));
  attr(bar, "aria-valuetext", `${odds(log)}; ${limits}`);
  const unseen = !each.comparable && each.canary.trials === 0;
  const bounded = each.interval[0] > 0 && each.interval[1] !== null;
  text(bounds, unseen ? "" : interval(each.interval) + (bounded && each.ratio ? ` (about ${ratio(each.ratio)})` : ""));
  attr(proof, "hidden", unseen ? "" : null);
  if (never) badge(proof, "info", "pauses only");
  else if (each.proven) badge(proof, "ok", "safety proven");
  else badge(proof, "unknown", "safety not proven yet");
  text(counts, sides(each));
}

/** The judge's reason, which has the counts; where it adds nothing to the level, only the counts. */
function sides(each) {
  if (each.level !== "ok" || !each.comparable) return each.reason.replace(`${each.metric}: `, "");
  return `canary ${side(each.canary)} · stable ${side(each.stable)}`;
}

const side = ({ trials, events }) =>
  `${count(events)} of ${count(trials)}${trials > 0 ? ` = ${percent(events / trials)}` : ""}`;
