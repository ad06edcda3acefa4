// What is wrong beside the release, each with what it means.

import { $, attr, badge, el, keyed } from "./dom.js";
import { plural } from "./words.js";

const defects = new Set();

/** Note that a part of this page cannot be drawn; the rest goes on. */
export function defect(part) {
  defects.add(part);
}

export function problems(live) {
  const found = live.release === null ? [] : of(live.release);
  for (const part of defects) found.push(["suspect", `This page cannot show "${part}": that is a defect of the page. Use canaryproxy status.`]);
  attr($("problems"), "hidden", found.length === 0 ? "" : null);
  keyed(
    $("problem-list"),
    found.map(([kind, words]) => ({ kind, words })),
    (item) => item.words,
    () => el("li", {}),
    (node, item) => badge(node, item.kind, item.words),
  );
}

function of(release) {
  const found = [];
  const { config, fleet, unsaved, quiet, variants } = release;
  if (fleet && !fleet.connected) found.push(["suspect", `This replica goes on by itself, and nothing is promoted: ${fleet.error}`]);
  if (fleet?.conflict) found.push(["suspect", `This replica's configuration is not the fleet's: ${fleet.conflict}`]);
  if (unsaved !== null) found.push(["suspect", `The state cannot be saved, a restart would forget it: ${unsaved}`]);
  if (config.error !== null) found.push(["suspect", `The configuration file is not valid, the one before is in force: ${config.error}`]);
  if (config.restart_needed.length > 0) found.push(["suspect", `Changed in the file, in force only after a restart: ${config.restart_needed.join(", ")}`]);
  for (const side of ["stable", "canary"]) {
    const endpoints = variants[side]?.endpoints ?? [];
    const bad = endpoints.filter((each) => !each.usable).length;
    if (bad > 0) found.push(["suspect", `${bad} of ${plural(endpoints.length, "endpoint")} of ${side} ${bad === 1 ? "is" : "are"} unusable`]);
  }
  const compared = release.weight > 0 && release.weight < 100;
  if (quiet !== null && compared) found.push(["info", `Nothing to compare: ${quiet}. The release does not go on without.`]);
  return found;
}
