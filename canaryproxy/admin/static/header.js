// The top of the page: what a glance has to tell. Also the tab's title, and what is said aloud.

import { $, attr, badge, el, keyed, text } from "./dom.js";
import { CIRCUITS, LEVELS, STATES, ago, clock, duration, moment, plural, state, utc, weight } from "./words.js";

let before = null;

export function header(live) {
  const { release, fresh } = live;
  document.body.classList.toggle("stale", !fresh && release !== null);
  connection(live);
  if (release === null) return;
  document.body.dataset.state = release.state;
  text($("release"), release.release ?? "No release");
  text($("version"), release.version);
  badge($("state"), release.state, state(release));
  text($("weight"), weight(release.weight));
  badge($("circuit"), release.circuit.state, CIRCUITS[release.circuit.state]);
  const both = release.weight > 0 && release.weight < 100 && release.metrics.length > 0;
  const silent = release.level === "ok" && (!both || release.quiet !== null);
  badge($("level"), silent ? "unknown" : release.level, silent ? "nothing to compare" : LEVELS[release.level]);
  fleet(release.fleet);
  banner(release, live.now);
  tab(release, fresh);
  announce(release);
}

function fleet(fleet) {
  attr($("fleet-fact"), "hidden", fleet ? null : "");
  if (!fleet) return;
  if (!fleet.connected) badge($("fleet"), "suspect", "by itself");
  else badge($("fleet"), fleet.leads ? "running" : "ok", `${plural(fleet.replicas, "replica")}${fleet.leads ? ", this one leads" : ""}`);
}

function connection(live) {
  const { fresh, release, age } = live;
  if (fresh) badge($("live"), "running", "live", "ok");
  else if (release === null) badge($("live"), "unknown", "waiting");
  else badge($("live"), "suspect", `${duration(age)} old`);
  const lost = $("lost");
  attr(lost, "hidden", fresh || (release === null && live.connected) ? "" : null);
  if (fresh) return;
  const words =
    release === null
      ? "No connection to the proxy yet. Trying again every 2 s."
      : `Connection lost. These figures are ${duration(age)} old, of ${clock(release.time)}. Trying again every 2 s.`;
  if (lost.childElementCount === 0) lost.append(el("strong", {}));
  text(lost.firstElementChild, words);
}

function banner(release, now) {
  const open = release.circuit.state === "open";
  attr($("banner"), "hidden", open ? null : "");
  if (!open) return;
  const { cause, since, cooldown_left: left, trips } = release.circuit;
  const title = $("banner-title");
  if (title.childElementCount === 0) title.append("Tripped ", el("time", {}), ": every user is on stable");
  const time = title.firstElementChild;
  text(time, `${ago(now - since)}, at ${moment(since, now)}`);
  attr(time, "title", utc(since));
  text($("banner-cause"), cause ?? "The cause is not known.");
  const can = (action) => release.allowed.includes(action);
  const next = [
    `Look at what the canary logged around ${clock(since)}.`,
    can("reset") && "Fixed, or a false alarm: Reset gives the same users the canary again.",
    can("abort") && "Not fixed: Abort ends the release; users stay on stable.",
    left !== null
      ? `If nobody does anything, a small probe begins in ${duration(left)}.`
      : `It stays open until somebody resets it${trips > 1 ? `: it has tripped ${trips} times` : ""}.`,
  ].filter(Boolean);
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
  const words = open ? `TRIPPED · ${name}` : `${weight(release.weight)} · ${name} · ${STATES[release.state] ?? ""}`;
  const title = `${fresh ? "" : "(old) "}${words}`;
  if (document.title !== title) document.title = title;
  attr($("favicon"), "href", open ? "static/favicon-tripped.svg" : "static/favicon.svg");
}

/** Say what has changed: a trip at once, the rest when there is time. */
function announce(release) {
  const was = before;
  before = release;
  const open = release.circuit.state === "open";
  if (open && was?.circuit.state !== "open") {
    text($("alert"), `Tripped: every user is on stable. ${release.circuit.cause ?? ""}`);
    return;
  }
  if (!open) text($("alert"), "");
  if (was === null) return;
  const said = [];
  if (was.state !== release.state || was.step !== release.step) said.push(state(release));
  if (was.weight !== release.weight) said.push(`${weight(release.weight)} of users on the canary`);
  if (was.level !== release.level) said.push(`judge: ${LEVELS[release.level]}`);
  if (was.circuit.state !== release.circuit.state) said.push(`circuit ${CIRCUITS[release.circuit.state]}`);
  if (said.length > 0) text($("status"), `${said.join(", ")}.`);
}
