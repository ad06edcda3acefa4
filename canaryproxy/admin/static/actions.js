// The actions of an operator, and what each means for users. Pure: the release in, text out.

import { count, duration, latency, longLived, plural, sentence, usersOnCanary, weight } from "./words.js";

/** Which percentage of users moves between two weights, and where to. */
export function moved(from, to, over = null) {
  const difference = Math.abs(to - from);
  if (difference < 0.005) return "No users move.";
  const way = to > from ? "from stable to the canary" : "from the canary to stable";
  const whole = to === 0 ? " Then every user is on stable." : to === 100 ? " Then every user is on the canary." : "";
  return `${weight(difference)} of users move ${way} ${over ? `over ${duration(over)}` : "with their next request"} (${weight(from)} → ${weight(to)}).${whole}`;
}

const current = (release) => release.steps[release.step - 1];
const next = (release) => release.steps[release.step];

/** The weight that a reset restores: the weight at the first stop since the circuit opened. */
export function weightBefore(release, records) {
  let found = null;
  for (const record of [...records].reverse()) {
    if (["restored", "started", "promoted", "release"].includes(record.what)) break;
    if (record.what === "stopped" && typeof record.figures.weight === "number") found = record.figures.weight;
  }
  return found ?? current(release)?.weight ?? null;
}

/** The judge's verdict, for an operator about to send more users to the canary. */
const judgement = ({ verdict: { kind, said } }) => `${["ok", "proven"].includes(kind) ? "" : "Caution: "}${said}.`;

/** Whether a metric holds or trips now. */
export const standsOut = (each) => ["breach", "suspect", "worse"].includes(each.standing);

const standing = (release) => release.metrics.filter(standsOut);

/** The name by which a metric is accepted: the metric, or the metric and its route. */
export const fullName = ({ metric, route }) => (route === null ? metric : `${metric} ${route}`);

/** The names that can be accepted, those that stand out first. */
export function acceptable(release) {
  const names = [...standing(release), ...release.metrics].map(fullName);
  return [...new Set(names)].filter((each) => !release.accepted.includes(each));
}

/** Who accepted a metric and why, as "by ann: the login is required"; empty if the history has it no more. */
export function acceptedBy(name, records) {
  const found = records.findLast((record) => record.what === "accepted" && record.figures.metric === name);
  return found ? found.cause.slice(name.length).trim() : "";
}

const post = (name) => ({ method: "POST", path: `v1/release/${name}` });
const startsOver = "Starting it again begins with the first step and a new judge.";
const ends = (release) => `${release.state === "promoted" ? "The promotion is taken back" : "The release ends"}. ${startsOver}`;

/** What must still be true when users go back after the promotion. */
const previous = (release) => (release.state === "promoted" ? "Stable must still run the version before this release." : null);

/**
 * By name: `label` and `key` of the button; method and path of the request; `does`, the title of the dialog and of
 * its button; `says`, the lines of the dialog for (release, records, typed weight, typed metric), by default what v1/acts says;
 * `fields` of the dialog; `timeout` of the request in ms; `safe` if it moves users off the canary or moves none (as `asks` of v1/acts says): it carries no If-Match, because an act
 * towards stable must not lose a race, and no warning; `needed` if there is something to do it for; `always` if `allowed`
 * does not restrict it; `config` if its If-Match is the configuration's ETag.
 */
export const ACTIONS = {
  start: {
    ...post("start"),
    label: "Start",
    key: "s",
    group: "rollout",
    does: "Start the release",
  },
  pause: {
    ...post("pause"),
    label: "Pause",
    key: "p",
    group: "rollout",
    does: "Pause the release",
    safe: true,
    fields: ["reason"],
    says: (release) => [
      `No users move: ${weight(release.weight)} stay on the canary.`,
      "No further step begins until you resume. The judge keeps watching and can still trip.",
    ],
  },
  resume: {
    ...post("resume"),
    label: "Resume",
    key: "r",
    group: "rollout",
    does: "Resume the release",
    says: (release) => {
      if (release.state === "running" && release.ready) {
        const after = next(release);
        if (!after) return [moved(release.weight, 100), "This was the last step: the release is promoted."];
        return [moved(release.weight, after.weight), sentence(judgement(release)), `Step ${release.step + 1} of ${release.steps.length} begins.`];
      }
      return [
        moved(release.weight, current(release)?.weight ?? release.weight),
        release.step > 0 ? `Step ${release.step} of ${release.steps.length} continues.` : "The first step begins once stable has been watched.",
      ];
    },
  },
  weight: {
    method: "PUT",
    path: "v1/weight",
    label: "Weight…",
    key: "w",
    group: "rollout",
    does: "Set the weight",
    lowers: (release, typed) => typed !== null && typed <= release.weight,
    fields: ["weight", "reason"],
    says: (release, _records, typed) => [
      typed === null ? "Type a weight from 0 to 100 percent, with at most two decimals." : moved(release.weight, typed),
      typed !== null && typed > release.weight && release.weight > 0 ? sentence(judgement(release)) : null,
      release.state === "idle"
        ? "No release is running: this weight holds until one starts."
        : "The release pauses at this weight until you resume.",
    ],
  },
  promote: {
    ...post("promote"),
    label: "Promote",
    key: "m",
    group: "rollout",
    does: "Promote the canary",
    fields: ["reason"],
    says: (release) => [
      moved(release.weight, 100),
      sentence(judgement(release)),
      release.step < release.steps.length
        ? `Skips ${plural(release.steps.length - release.step, "remaining step")} and does not ask the gates.`
        : null,
      "The release ends. With no users on stable there is nothing to compare: only guard rails can still trip.",
    ],
  },
  accept: {
    ...post("accept"),
    label: "Accept…",
    key: "e",
    group: "rollout",
    does: "Accept a difference",
    needed: (release) => standing(release).length + release.holds.length > 0,
    fields: ["metric", "why"],
    says: (release, _records, _weight, typed) => [
      typed === ""
        ? "Name a metric, or a metric and a route, whose difference is wanted."
        : `${typed} neither holds the release nor opens the circuit any more, until this release ends. All other metrics do.`,
      ...standing(release).map((each) => `Now: ${each.reason}`),
      release.accepted.length > 0 ? `Accepted before: ${release.accepted.join(", ")}.` : null,
    ],
  },
  abort: {
    ...post("abort"),
    label: "Abort",
    key: "a",
    group: "safety",
    does: "Abort the release",
    safe: true,
    fields: ["reason"],
    says: (release) => [
      moved(release.weight, 0, release.state === "aborting" ? null : release.ramp_down),
      ends(release),
      previous(release),
    ],
  },
  trip: {
    ...post("trip"),
    label: "Trip",
    key: "t",
    group: "safety",
    does: "Trip the circuit",
    safe: true,
    fields: ["cause"],
    says: (release) => [
      moved(release.weight, 0),
      "The circuit opens as it does on a regression. The release is kept: Reset sends the same users back to the canary.",
      previous(release),
    ],
  },
  reset: {
    ...post("reset"),
    label: "Reset",
    key: "x",
    group: "circuit",
    does: "Reset the circuit",
    fields: ["reason"],
    says: (release, records) => {
      const before = weightBefore(release, records);
      return [
        before === null ? "The users who were on the canary go back to it." : moved(release.weight, before),
        `The circuit closes${release.step > 0 ? `, step ${release.step} starts over` : ""}, and the judge starts over. The canary gets the same users as before.`,
        `It tripped because: ${release.circuit.cause ?? "unknown cause"}`,
      ];
    },
  },
  drill: {
    ...post("drill"),
    label: "Drill",
    key: "d",
    group: "upkeep",
    does: "Run the drill",
    timeout: 900000, // ms: it waits for the last tunnel or stream
  },
  reload: {
    method: "POST",
    path: "v1/reload",
    label: "Reload",
    key: "l",
    group: "upkeep",
    does: "Reload the configuration",
    always: true,
    config: true,
    says: (release) => [
      `Reads ${release.config.file ?? "the configuration"} again. If it is invalid, nothing changes.`,
      "If weights in the plan changed, users move at once.",
    ],
  },
};

/** Whether an action is possible now. */
export const allowed = (release, name) => release !== null && (ACTIONS[name].always === true || release.allowed.includes(name));

/** Whether an action sends users to a stable that cannot serve them (release.reversible: false). */
export const isReturn = (action, release, typed) =>
  release?.reversible === false &&
  (release.weight > 0 || release.cohorts?.length > 0) &&
  (action === ACTIONS.abort || action === ACTIONS.trip || action === ACTIONS.drill || (action === ACTIONS.weight && typed !== null && typed < release.weight));

/** Whether an action, with the typed weight, takes users off the canary without harm, or moves none. */
export const isSafe = (action, release, typed) =>
  !isReturn(action, release, typed) &&
  (action.safe === true || (action.lowers !== undefined && release !== null && action.lowers(release, typed)));

/** The result of a drill. */
function drilled({ seconds_to_last_request: seconds, requests_after: after, connections: all, connections_left: left, seconds_to_last_connection: last }) {
  const stays = "the circuit stays open, and every user is on stable. Find out why, then Reset.";
  if (seconds === null) return `requests still reached the canary at its end: ${stays}`;
  if (left > 0) return `${count(left)} of ${longLived(all)} had not left the canary at its end: ${stays}`;
  const came = after ? `the last request reached the canary ${latency(seconds)} after the trip (${plural(after, "request")} in total)` : "no request reached the canary after the trip";
  return `${came}${last === null ? "" : `; the last of ${longLived(all)} left it after ${latency(last)}`}.`;
}

/** The result of an action, in one sentence; `sent` is the body of the request. */
export function outcome(name, response, sent) {
  if (name === "accept") return `Done: ${sent.metric} is accepted until this release ends.`;
  if (name === "drill") {
    return `Drill done: ${drilled(response.drill)}`;
  }
  if (name === "reload") {
    const changed = response.changed?.length ? `changed ${response.changed.join(", ")}` : "no changes";
    const restart = response.restart_needed?.length ? `; restart needed for ${response.restart_needed.join(", ")}` : "";
    return `Reloaded: ${changed}${restart}.`;
  }
  return `Done: the release is ${response.state}, with ${usersOnCanary(response)} on the canary.`;
}
