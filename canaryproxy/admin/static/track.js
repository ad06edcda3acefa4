// The rollout as a track of steps, and what the current step still waits for.

import { acceptedBy } from "./actions.js";
import { $, attr, badge, el, glyph, keyed, text } from "./dom.js";
import { ago, count, duration, sentence, shareOf, usersOnCanary } from "./words.js";

export function track(live) {
  const { release } = live;
  if (release === null) return;
  const ended = release.state === "promoted";
  const at = release.state === "idle" ? -1 : release.step - 1;
  keyed(
    $("steps"),
    release.steps.map((step, index) => ({ step, index })),
    (item) => item.index,
    () => el("li", {}, el("span", { class: "step-bar" }, el("span", { class: "step-fill" })), el("span", { class: "step-weight" }), el("span", { class: "step-note" })),
    (node, { step, index }) => {
      const [bar, percent, note] = node.children;
      const done = ended || index < at;
      const current = !ended && index === at;
      const stopped = current && ["tripped", "aborting", "aborted"].includes(release.state);
      node.className = `step ${done ? "step-done" : stopped ? `step-stopped step-${release.state}` : current ? "step-current" : "step-next"}`;
      attr(node, "aria-current", current ? "step" : null);
      badge(percent, done ? "ok" : current ? release.state : "idle", shareOf(step), done ? "done" : stopped ? release.state : current ? "current" : "next");
      text(note, done ? "done" : stopped ? `${release.state} here` : current ? "now" : planned(step));
      bar.firstElementChild.style.width = `${done ? 100 : current ? 100 * progress(release, step) : 0}%`;
    },
  );
  details(release, at, live);
}

const planned = (step) =>
  [step.hold_back && "hold-back", step.bake > 0 && duration(step.bake), step.min_requests > 0 && `${count(step.min_requests)} req`]
    .filter(Boolean)
    .join(", ") || "no wait";

const part = (have, need) => (need > 0 ? Math.min(have / need, 1) : 1);

/** `7 of 10`, or `25 (10 needed)`. */
const enough = (seen, wanted) => (seen < wanted ? `${count(seen)} of ${count(wanted)}` : `${count(seen)} (${count(wanted)} needed)`);
const users = (step) => (step.weight < 100 ? step.min_users : 0);

const progress = (release, step) =>
  Math.min(part(release.baked, step.bake), part(release.requests, step.min_requests), part(release.users, users(step)));

function details(release, at, live) {
  const node = $("progress");
  const step = release.steps[at];
  const lines = [];
  if (release.variants.canary === null) {
    lines.push(["info", "No canary is configured, so there is nothing to roll out."]);
  } else if (release.steps.length === 0) {
    lines.push(["info", "No release is configured: set the weight by hand."]);
  } else if (release.state === "idle") {
    lines.push(["info", "Not started yet. Start begins the first step."]);
  } else if (release.state === "promoted") {
    lines.push(["ok", `Done: every user has been on the canary for ${duration(live.now - release.since)}.`]);
  } else if (release.state === "aborting") {
    lines.push(["aborted", `Aborting: ${usersOnCanary(release)} are still on the canary, none in ${duration(release.ramp_down ?? 0)}. Abort again, or Trip, takes them back at once.`]);
  } else if (release.state === "aborted") {
    lines.push(["aborted", `Aborted ${ago(live.now - release.since)}: every user is on stable.`]);
  } else if (release.state === "tripped") {
    lines.push(["tripped", `Stopped${step ? ` on step ${release.step}, at ${shareOf(step)}` : ""}: no users are on the canary.`]);
  } else if (release.state === "probing") {
    lines.push(["probing", `Trying the canary again with ${usersOnCanary(release)}.`]);
  } else if (release.ready) {
    const next = release.steps[at + 1];
    lines.push(["suspect", next ? `Ready for the next step. Resume continues to ${shareOf(next)}.` : "Ready. Resume promotes the release."]);
  } else if (release.state === "running" && release.level === "ok" && release.holds.length > 0) {
    for (const hold of release.holds) lines.push(["suspect", `Held: ${hold}`]);
  } else if (release.hold) {
    const kind = release.level === "suspect" ? "suspect" : release.state === "paused" ? "paused" : "info";
    lines.push([kind, kind === "info" ? `Waiting before the next step: ${release.hold}` : sentence(release.hold)]);
  }
  for (const name of release.accepted) lines.push(["info", `Accepted, neither holds nor trips: ${name} ${acceptedBy(name, live.records)}`.trim()]);
  if (release.compared) lines.push(["info", `Compared: ${release.compared}.`]);
  if (release.gate) {
    const words = { asked: "Waiting for the gates", refused: "A gate refused the next step", passed: "Gates passed" }[release.gate.state];
    const kind = { asked: "info", refused: "suspect", passed: "ok" }[release.gate.state];
    lines.push([kind ?? "info", [words ?? release.gate.state, release.gate.cause].filter(Boolean).join(": ")]);
  }
  const meters = [];
  if (step && ["running", "paused"].includes(release.state)) {
    if (step.bake > 0) meters.push(["Bake time", release.baked, step.bake, `${duration(release.baked)} of ${duration(step.bake)}`]);
    if (step.min_requests > 0) meters.push(["Requests", release.requests, step.min_requests, enough(release.requests, step.min_requests)]);
    if (users(step) > 0) meters.push(["Users", release.users, users(step), enough(release.users, users(step))]);
  }
  keyed(
    node,
    [...meters.map((meter) => ({ key: meter[0], meter })), ...lines.map((line, index) => ({ key: index, line }))],
    (item) => item.key,
    (item) =>
      item.meter
        ? el("div", { class: "meter" }, el("label", { for: `meter-${item.key}` }, item.key), el("progress", { id: `meter-${item.key}`, max: 1 }), el("span", { class: "meter-words" }))
        : el("p", { class: "line-note" }),
    (each, { meter, line }) => {
      if (line) badge(each, line[0], line[1]);
      else {
        each.children[1].value = part(meter[1], meter[2]);
        text(each.children[2], meter[3]);
        each.children[2].classList.toggle("enough", meter[1] >= meter[2]);
        if (meter[1] >= meter[2] && each.children[2].childElementCount === 0) each.children[2].prepend(glyph("ok"));
      }
    },
  );
}
