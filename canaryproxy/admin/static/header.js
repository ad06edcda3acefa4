// The top of the page: state, weight and alarms, the title of the tab, and announcements for screen readers.

import { $, attr, badge, el, keyed, text } from "./dom.js";
import { SERVICE, ofProxy } from "./place.js";
import { CIRCUITS, STANDINGS, STATES, ago, clock, duration, leaving, moment, onCanary, plural, state, usersOnCanary, utc, zone } from "./words.js";

let before = null;

export function header(live) {
  const { release, fresh } = live;
  document.body.classList.toggle("stale", !fresh && release !== null);
  attr($("service"), "hidden", SERVICE === null ? "" : null);
  text($("service-name"), SERVICE ?? "");
  connection(live);
  if (release === null) return;
  document.body.dataset.state = release.state;
  text($("release"), release.release ?? "No release");
  text($("version"), release.version);
  text($("host"), ` on ${release.host}`);
  attr($("environment"), "hidden", release.environment === null ? "" : null);
  text($("environment"), release.environment ?? "");
  for (const each of document.querySelectorAll(".zone")) text(each, ` (${zone(live.now)})`);
  badge($("state"), release.state, state(release));
  text($("weight"), onCanary(release));
  badge($("circuit"), release.circuit.state, CIRCUITS[release.circuit.state]);
  badge($("level"), ...STANDINGS[release.verdict.kind]);
  fleet(release.fleet);
  banner(release, live.now);
  tab(release, fresh);
  announce(release);
}

function fleet(fleet) {
  attr($("fleet-fact"), "hidden", fleet ? null : "");
  if (!fleet) return;
  if (!fleet.connected) badge($("fleet"), "suspect", "Redis unreachable");
  else badge($("fleet"), fleet.leads ? "running" : "ok", `${plural(fleet.replicas, "replica")}${fleet.leads ? ", this one leads" : ""}`);
}

function connection(live) {
  const { fresh, release, age } = live;
  if (fresh) badge($("live"), "running", "live", "ok");
  else if (live.removed) badge($("live"), "suspect", "no such service");
  else if (release === null) badge($("live"), "unknown", "waiting");
  else badge($("live"), "suspect", `${duration(age)} old`);
  const lost = $("lost");
  attr(lost, "hidden", fresh || (release === null && live.connected) ? "" : null);
  if (fresh) return;
  if (release === null && live.removed) text($("release"), "No such service");
  const words = live.removed
    ? `This proxy has no service ${SERVICE}${release === null ? "" : " any more"}. The page goes on if a reload adds it again.`
    : release === null
      ? "No connection to the proxy yet. Retrying every 2 s."
      : `Connection lost. These figures are ${duration(age)} old (from ${clock(release.time)} ${zone(release.time)}). Retrying every 2 s.`;
  if (lost.childElementCount === 0) lost.append(el("strong", {}));
  text(lost.firstElementChild, words);
}

function banner(release, now) {
  const open = release.circuit.state === "open";
  attr($("banner"), "hidden", open || release.breach ? null : "");
  if (!open) {
    if (release.breach) breached(release);
    return;
  }
  const { cause, since, cooldown_left: left, trips } = release.circuit;
  const title = $("banner-title");
  if (title.childElementCount === 0) title.replaceChildren("Tripped ", el("time", {}), ": every user is on stable");
  const time = title.firstElementChild;
  text(time, `${ago(now - since)}, at ${moment(since, now)} ${zone(since)}`);
  attr(time, "title", utc(since));
  text($("banner-cause"), cause ?? "Unknown cause.");
  const can = (action) => release.allowed.includes(action);
  const canary = release.variants.canary?.long_lived;
  const next = [
    canary?.leaving > 0 && leaving("canary", canary, now),
    `Check the canary's logs around ${clock(since)} ${zone(since)}.`,
    can("reset") && "If it is fixed, or was a false alarm: Reset sends the same users back to the canary.",
    can("abort") && "If it is not fixed: Abort ends the release, and users stay on stable.",
    left !== null
      ? `Otherwise a probe with a few users begins in ${duration(left)}.`
      : `The circuit stays open until you reset it${trips > 1 ? ` (tripped ${trips} times)` : ""}.`,
  ].filter(Boolean);
  steps(next);
}

/** A regression of an irreversible release: no user was moved, and an operator must act. */
function breached(release) {
  text($("banner-title"), `The canary is worse than stable, and ${usersOnCanary(release)} stay on it`);
  text($("banner-cause"), release.breach);
  steps([
    "release.reversible is false: stable may not be able to read what these users have stored since.",
    "Deploy a repaired canary. Then Resume: the step starts over with a new judge.",
    "Only if stable can serve these users: Trip.",
  ]);
}

function steps(next) {
  keyed(
    $("banner-next"),
    next.map((words, at) => ({ words, at })),
    (item) => item.at,
    () => el("li", {}),
    (node, item) => text(node, item.words),
  );
}

function tab(release, fresh) {
  const open = release.circuit.state === "open";
  const name = release.release ?? "no release";
  const words = open ? `TRIPPED · ${name}` : `${onCanary(release)} · ${name} · ${STATES[release.state] ?? ""}`;
  const where = [release.environment, release.host].filter(Boolean).join(" · ");
  const of = SERVICE === null ? "" : `${SERVICE}: `;
  const title = `${fresh ? "" : "(old) "}${of}${words} – ${where}`;
  if (document.title !== title) document.title = title;
  attr($("favicon"), "href", ofProxy(`static/favicon${open ? "-tripped" : ""}.svg`));
}

/** Announce changes to screen readers: a trip at once, the rest politely. */
function announce(release) {
  const was = before;
  before = release;
  const open = release.circuit.state === "open";
  if (release.breach && !was?.breach) {
    text($("alert"), `The canary is worse than stable, and users stay on it. ${release.breach}`);
    return;
  }
  if (open && was?.circuit.state !== "open") {
    text($("alert"), `Tripped: every user is on stable. ${release.circuit.cause ?? ""}`);
    return;
  }
  if (!open) text($("alert"), "");
  if (was === null) return;
  const changes = [];
  if (was.state !== release.state || was.step !== release.step) changes.push(state(release));
  if (usersOnCanary(was) !== usersOnCanary(release)) changes.push(`${usersOnCanary(release)} on the canary`);
  if (was.verdict.kind !== release.verdict.kind) changes.push(`judge: ${STANDINGS[release.verdict.kind][1]}`);
  if (was.circuit.state !== release.circuit.state) changes.push(`circuit ${CIRCUITS[release.circuit.state]}`);
  if (changes.length > 0) text($("status"), `${changes.join(", ")}.`);
}
