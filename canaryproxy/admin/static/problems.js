// Problems apart from the release itself, each with its consequence.

import { $, attr, badge, el, keyed } from "./dom.js";
import { plural } from "./words.js";

const defects = new Set();

/** Note that a panel cannot be drawn; the others continue. */
export function defect(part) {
  defects.add(part);
}

export function problems(live) {
  const found = live.release === null ? [] : of(live.release);
  for (const part of defects) found.push(["suspect", `This page cannot show "${part}" because of a bug. Use canaryproxy status.`]);
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
  const { config, fleet, unsaved, quiet, notice, variants } = release;
  if (fleet && !fleet.connected) found.push(["suspect", `Redis is unreachable. This replica keeps its weight and can still trip, but no step begins: ${fleet.error}`]);
  if (fleet?.conflict) found.push(["suspect", `This replica's configuration differs from the fleet's: ${fleet.conflict}`]);
  if (unsaved !== null) found.push(["suspect", `The state file cannot be written, and a restart would lose recent changes: ${unsaved}`]);
  if (config.error !== null) found.push(["suspect", `The configuration file is invalid, and the previous configuration stays in force: ${config.error}`]);
  if (config.restart_needed.length > 0) found.push(["suspect", `Changed in the file, but needs a restart: ${config.restart_needed.join(", ")}`]);
  for (const side of ["stable", "canary"]) {
    const endpoints = variants[side]?.endpoints ?? [];
    const bad = endpoints.filter((each) => !each.usable).length;
    if (bad > 0) found.push(["suspect", `${bad} of ${plural(endpoints.length, "endpoint")} of ${side} ${bad === 1 ? "is" : "are"} down`]);
  }
  for (const words of [...(release.at_fault ?? []), ...(release.unresolved ?? [])]) found.push(["suspect", words]);
  const over = release.capacity?.over ?? [];
  for (const words of release.capacity?.said ?? []) found.push([over.includes(words) ? "suspect" : "info", `Capacity: ${words}.`]);
  const compared = release.weight > 0 && release.weight < 100;
  if (quiet !== null && compared) found.push(["info", `Nothing to compare: ${quiet}. The release stays on its step until there is.`]);
  if (notice) found.push(["info", `${notice[0].toUpperCase()}${notice.slice(1)}.`]);
  return found;
}
