// The evidence of each metric: how far it is from holding and from tripping, in a bar and in words.

import { $, attr, badge, el, keyed, text } from "./dom.js";
import { values, with_ } from "./link.js";
import { acceptedBy, allowed, fullName, standsOut } from "./actions.js";
import { STANDINGS, count, duration, interval, metric, odds, percent, plural, ratio, sentence, timing } from "./words.js";

const HEADLINES = ["errors", "latency", "throughput", "business"];

/** Metrics of which there is nothing to tell take one line. */
const brief = (each) =>
  !standsOut(each) && !each.accepted && !HEADLINES.includes(each.metric) && each.log_evidence < each.hold_limit / 2;

export function evidence(live, controls) {
  if (live.release === null) return;
  const metrics = [...live.release.metrics].sort((a, b) => rank(a) - rank(b));
  const node = $("evidence");
  attr($("evidence-axis"), "hidden", metrics.length > 0 ? null : "");
  text($("evidence-verdict"), `${sentence(live.release.verdict.said)}.`);
  text($("evidence-window"), window(live.release));
  notes(live.release);
  if (metrics.length === 0) {
    node.replaceChildren(el("p", { class: "note" }, "No metrics are being compared."));
    return;
  }
  // One scale for all metrics, so that the marks line up.
  const top = Math.max(...metrics.map((each) => each.limit ?? each.hold_limit)) * 1.15;
  axis(metrics, top);
  keyed(node, metrics, (each) => `${each.metric} ${each.route ?? ""}`, (each) => make(each, controls), (article, each) => update(article, each, top, live));
}

/** What needs attention comes first. */
const rank = ({ standing }) => -["worse", "suspect", "breach"].indexOf(standing);

/** The time in which the counts were counted; the reasons name theirs. */
function window({ metrics, circuit }) {
  const watched = longest(metrics);
  if (watched < 1) return "";
  return `this step, ${duration(watched)}${circuit.state === "open" ? " until the trip" : ""}`;
}

const longest = (metrics) => Math.max(0, ...metrics.map((each) => each.watched));

const share = (value, top) => `${(Math.min(Math.max(value / top, 0), 1) * 100).toFixed(2)}%`;

/** The judge's test of itself, and how many routes are compared beside what is shown. */
function notes({ placebo, routes }) {
  const said = [
    placebo && `Placebo: ${placebo.said}.`,
    routes > 0 && `${plural(routes, "route")} compared one by one${routes === 1 ? "" : "; those that stand out are shown"}.`,
  ];
  text($("evidence-notes"), said.filter(Boolean).join(" "));
}

const alike = (metrics, name) => metrics.every((each) => each[name] === null || Math.abs(each[name] - metrics[0][name]) < 0.01);

function axis(metrics, top) {
  const [, hold, trip] = $("evidence-axis").children;
  const most = metrics.find((each) => each.limit !== null);
  // Where metrics have limits of their own, only the first one's odds would be true.
  text(hold, alike(metrics, "hold_limit") ? `hold ${odds(metrics[0].hold_limit)}` : "hold");
  hold.style.left = share(metrics[0].hold_limit, top);
  attr(trip, "hidden", most ? null : "");
  if (!most) return;
  text(trip, alike(metrics.filter((each) => each.limit !== null), "limit") ? `trip ${odds(most.limit)}` : "trip");
  trip.style.left = share(most.limit, top);
}

function make(each, controls) {
  const accept = el("button", { type: "button", class: "accept", "aria-haspopup": "dialog", "aria-label": `Accept ${metric(each.metric, each.route)}…` }, "Accept…");
  accept.addEventListener("click", () => controls.open("accept", fullName(each)));
  return el(
    "article",
    { class: "metric" },
    el("div", { class: "row" }, el("h3", {}, el("a", { class: "plain", href: `#${with_({ metric: fullName(each) })}` }, metric(each.metric, each.route)), " ", el("span", { class: "odds" })), el("span", { class: "level" })),
    el(
      "div",
      { class: "bar-log", role: "meter", "aria-label": `Regression evidence, ${metric(each.metric, each.route)}`, "aria-valuemin": 0 },
      el("span", { class: "bar-fill" }),
      el("span", { class: "bar-mark bar-hold" }),
      el("span", { class: "bar-mark bar-trip" }),
    ),
    el("p", { class: "said" }),
    el("div", { class: "row" }, el("p", { class: "counts" }), accept),
  );
}

function update(node, each, top, { release, records }) {
  const [{ children: [title, level] }, bar, bounds, { children: [counts, accept] }] = node.children;
  attr(accept, "hidden", standsOut(each) && allowed(release, "accept") ? null : "");
  const { log_evidence: log, hold_limit: hold, limit } = each;
  const never = limit === null;
  const length = log ?? (each.level === "breach" ? top : 0); // null: beyond floating point
  const [kind, word] = STANDINGS[each.standing];
  node.dataset.level = kind;
  const named = values().metric === fullName(each);
  if (named && !node.classList.contains("named")) node.scrollIntoView({ block: "nearest" });
  node.classList.toggle("named", named);
  node.classList.toggle("brief", brief(each) && !named);
  text(title.lastElementChild, odds(log));
  const by = each.accepted ? acceptedBy(fullName(each), records) || acceptedBy(each.metric, records) : "";
  badge(level, kind, `${word} ${by}`.trim());
  const [fill, holdMark, tripMark] = bar.children;
  fill.style.width = share(length, top);
  holdMark.style.left = share(hold, top);
  tripMark.style.left = share(limit ?? 0, top);
  attr(tripMark, "hidden", never ? "" : null);
  const limits = `holds at ${odds(hold)}, ${never ? "never trips, only pauses" : `trips at ${odds(limit)}`}`;
  attr(bar, "title", limits);
  attr(bar, "aria-valuemax", top.toFixed(2));
  attr(bar, "aria-valuenow", Math.min(Math.max(length, 0), top).toFixed(2));
  attr(bar, "aria-valuetext", `${odds(log)}; ${limits}`);
  const unseen = !each.comparable && each.canary.trials === 0;
  const times = timing(each.timing) && `${timing(each.timing)}${release.fleet ? " (this replica)" : ""}`;
  text(bounds, unseen ? "" : [never && "pauses only", times || (each.level === "ok" && ratios(each))].filter(Boolean).join(" · "));
  text(counts, times && each.level === "ok" ? "" : `${brief(each) ? rates(each) : sides(each)}${within(each, release.metrics)}`);
}

const ratios = (each) => {
  const bounded = each.interval[0] > 0 && each.interval[1] !== null;
  return interval(each.interval) + (bounded && each.ratio ? ` (about ${ratio(each.ratio)})` : "");
};

/** The time of the counts where it is not that of the others; a reason names its own. */
function within(each, metrics) {
  const apart = each.watched >= 1 && longest(metrics) - each.watched >= 2;
  return apart && each.level === "ok" ? ` in ${duration(each.watched)}` : "";
}

/** The judge's reason, which has the counts; where it adds nothing to the level, only the counts. */
function sides(each) {
  if (each.level !== "ok" || !each.comparable) return each.reason.replace(`${each.metric}: `, "");
  return `canary ${each.known}${rate(each.canary)} · stable ${count(each.stable.events)} of ${count(each.stable.trials)}${rate(each.stable)}`;
}

const rates = ({ canary, stable }) =>
  canary.trials > 0 && stable.trials > 0 ? `canary ${percent(canary.events / canary.trials)} · stable ${percent(stable.events / stable.trials)}` : "";

const rate = ({ trials, events }) => (trials > 0 ? ` = ${percent(events / trials)}` : "");
