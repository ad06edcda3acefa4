// What an operator can do, and what it means for users, in plain words. Pure: the release in, words out.

import { LEVELS, latency, metric, plural, weight } from "./words.js";

/** How many percent of users move between two weights. */
export function moved(from, to) {
  const difference = Math.abs(to - from);
  if (difference < 0.005) return "No user moves.";
  const way = to > from ? "from stable to the canary" : "from the canary to stable";
  const whole = to === 0 ? " Every user is then on stable." : to === 100 ? " Every user is then on the canary." : "";
  return `${weight(difference)} of users move ${way}, with their next request: ${weight(from)} → ${weight(to)}.${whole}`;
}

const current = (release) => release.steps[release.step - 1];
const next = (release) => release.steps[release.step];

/** The weight that a reset gives back: that of the oldest stop since the circuit opened. */
export function weightBefore(release, records) {
  let found = null;
  for (const record of [...records].reverse()) {
    if (["restored", "started", "promoted", "release"].includes(record.what)) break;
    if (record.what === "stopped" && typeof record.figures.weight === "number") found = record.figures.weight;
  }
  return found ?? current(release)?.weight ?? null;
}

/** What the judge knows, for who is about to give the canary more users. */
function judgement(release) {
  const bad = release.metrics.filter((each) => each.level !== "ok").map((each) => metric(each.metric));
  if (bad.length > 0) return `Mind: the judge finds ${bad.join(", ")} ${LEVELS[release.level]}.`;
  if (release.metrics.length === 0 || release.quiet !== null) return "Mind: the judge has nothing to compare.";
  const open = release.metrics.filter((each) => !each.proven && each.limit !== null).map((each) => metric(each.metric));
  return `The judge sees no sign of a change${open.length > 0 ? `; not proven yet: ${open.join(", ")}` : ""}.`;
}

const post = (name) => ({ method: "POST", path: `v1/release/${name}` });
const ends = "The release ends; a new start begins with the first step.";

/**
 * By name: `label` of the button, `key`, request, `title` and `says` (release, records, typed) of the dialog, `does`
 * (what the button that does it is called), `safe` if it takes users off the canary or moves nobody, `fields`;
 * `always`: whatever `allowed` says; `config`: its If-Match is that of the configuration.
 */
export const ACTIONS = {
  start: {
    ...post("start"),
    label: "Start",
    key: "s",
    group: "rollout",
    does: "Start the release",
    says: (release) => [
      moved(release.weight, release.steps[0]?.weight ?? 0),
      "The plan begins with its first step, and the judge afresh.",
    ],
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
      `No user moves: ${weight(release.weight)} stay on the canary.`,
      "No further step until somebody resumes. The judge goes on watching and can still trip.",
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
        return [moved(release.weight, after.weight), judgement(release), `Step ${release.step + 1} of ${release.steps.length} begins.`];
      }
      return [
        moved(release.weight, current(release)?.weight ?? release.weight),
        `Step ${release.step} of ${release.steps.length} goes on.`,
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
    fields: ["weight", "reason"],
    says: (release, _records, typed) => [
      typed === null ? "Type a weight from 0 to 100 percent, in steps of 0.01." : moved(release.weight, typed),
      typed !== null && typed > release.weight && release.weight > 0 ? judgement(release) : null,
      release.state === "idle"
        ? "No release is running; this is the weight until one starts."
        : "The plan is paused at this weight until somebody resumes.",
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
      judgement(release),
      release.step < release.steps.length
        ? `${plural(release.steps.length - release.step, "step")} of the plan ${release.steps.length - release.step === 1 ? "is" : "are"} left out.`
        : null,
      "The release ends. With nobody on stable nothing can be compared any more: only guard rails watch.",
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
    says: (release) => [moved(release.weight, 0), ends],
  },
  trip: {
    ...post("trip"),
    label: "Trip",
    key: "t",
    group: "safety",
    does: "Open the circuit",
    safe: true,
    fields: ["cause"],
    says: (release) => [
      moved(release.weight, 0),
      "The circuit opens as it does on a breach. The release is kept: a reset gives the same users the canary again.",
    ],
  },
  reset: {
    ...post("reset"),
    label: "Reset",
    key: "x",
    group: "circuit",
    does: "Close the circuit",
    fields: ["reason"],
    says: (release, records) => {
      const before = weightBefore(release, records);
      return [
        before === null ? "The users that were on the canary come back to it." : moved(release.weight, before),
        `The circuit closes${release.step > 0 ? `, and step ${release.step} begins anew` : ""}: the same users, a new judge.`,
        `It had opened because: ${release.circuit.cause ?? "the cause is not known"}`,
      ];
    },
  },
  drill: {
    ...post("drill"),
    label: "Drill",
    key: "d",
    group: "upkeep",
    does: "Run the drill",
    says: (release) => [
      `A rehearsal of a trip, with real users: the circuit opens, ${weight(release.weight)} of users move to stable, and move back when it is measured.`,
      "It measures how long after a trip the last request reaches the canary: some seconds, at most ten.",
      release.steps.length > 0 && release.state !== "idle" ? "The step then begins anew: its bake time counts from zero." : null,
    ],
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
      `Reads ${release.config.file ?? "the configuration"} again. If it is not valid, nothing changes.`,
      "A plan with other weights moves users at once.",
    ],
  },
};

/** What to say when it was done. */
export function outcome(name, answer) {
  if (name === "drill") {
    const { seconds_to_last_request: seconds, requests_after: after } = answer.drill;
    if (seconds === null) return "Drill done: the canary still got requests at its end. Look at the history.";
    if (!after) return "Drill done: no request reached the canary after the trip.";
    return `Drill done: the last request reached the canary ${latency(seconds)} after the trip (${plural(after, "request")} in all).`;
  }
  if (name === "reload") {
    const changed = answer.changed?.length ? `changed ${answer.changed.join(", ")}` : "nothing has changed";
    const restart = answer.restart_needed?.length ? `; restart needed for ${answer.restart_needed.join(", ")}` : "";
    return `Reloaded: ${changed}${restart}.`;
  }
  return `Done: the release is ${answer.state}, ${weight(answer.weight)} of users are on the canary.`;
}
