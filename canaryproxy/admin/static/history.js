// The history, newest first, filtered by kind and by text.

import { $, attr, badge, el, keyed, text } from "./dom.js";
import { values, with_ } from "./link.js";
import { count, duration, latency, moment, odds, plural, utc, weight } from "./words.js";

const KINDS = {
  everything: null,
  "trips and warnings": ["tripped", "breached", "reset", "probing", "recovered", "suspect", "cleared", "capacity", "accepted", "ejected", "readmitted", "shedding", "shed"],
  "steps and weights": ["release", "started", "step", "ready", "weight", "paused", "resumed", "promoted", "aborting", "aborted", "gate", "merged", "moved"],
  "drills and configuration": ["drill", "reload", "reload_failed", "restart", "upgrade", "upgrade_failed"],
};
const GLYPHS = {
  tripped: "tripped",
  breached: "breach",
  probing: "probing",
  recovered: "ok",
  cleared: "ok",
  suspect: "suspect",
  capacity: "suspect",
  ejected: "suspect",
  readmitted: "ok",
  shedding: "suspect",
  shed: "ok",
  accepted: "suspect",
  reload_failed: "suspect",
  upgrade_failed: "suspect",
  merged: "suspect",
  step: "running",
  started: "running",
  resumed: "running",
  paused: "paused",
  promoted: "promoted",
  aborting: "aborted",
  aborted: "aborted",
};
const WORDS = { restart: "restarted", reload_failed: "reload failed", upgrade_failed: "restart failed", upgrade: "taken over", merged: "replicas merged", moved: "connections moved", capacity: "held for capacity", ejected: "endpoint ejected", readmitted: "endpoint back", shedding: "load shedding begins", shed: "load shedding is over" };
/** Records of what a trip and a reset do to the release: the ones before have said it. */
const CONSEQUENCES = ["stopped", "restored"];
const PAGE = 50;

let shown = PAGE;

/** Set up the filter; `changed` redraws. */
export function setUpHistory(changed) {
  $("history-kind").append(...Object.keys(KINDS).map((kind) => el("option", { value: kind }, kind)));
  for (const id of ["history-kind", "history-find"]) {
    $(id).addEventListener("input", () => {
      shown = PAGE;
      changed();
    });
  }
  $("history-more").addEventListener("click", () => {
    shown += PAGE;
    changed();
  });
}

export function history(live) {
  const kinds = KINDS[$("history-kind").value];
  const find = $("history-find").value.trim().toLowerCase();
  const named = values().event;
  const told = live.records.filter((record) => !CONSEQUENCES.includes(record.what) || record.id === named);
  const found = told.filter(
    (record) =>
      (kinds === null || kinds.includes(record.what)) &&
      (find === "" || `${record.id} ${record.what} ${record.cause}`.toLowerCase().includes(find)),
  );
  const at = found.findIndex((record) => record.id === named);
  if (at >= 0) shown = Math.max(shown, found.length - at);
  const newest = found.slice(-shown).reverse();
  text($("history-count"), found.length === told.length ? plural(found.length, "event") : `${count(found.length)} of ${plural(told.length, "event")}`);
  attr($("history-more"), "hidden", found.length > shown ? null : "");
  text($("history-more"), `Show ${Math.min(PAGE, found.length - shown)} more`);
  keyed(
    $("history").tBodies[0],
    newest,
    (record) => record.id,
    (record) => make(record),
    (row, record) => {
      text(row.cells[1].firstElementChild, moment(record.time, live.now));
      const here = record.id === named;
      if (here && !row.classList.contains("named")) requestAnimationFrame(() => row.scrollIntoView({ block: "nearest" }));
      row.classList.toggle("named", here);
      attr(row, "aria-current", here ? "true" : null);
    },
  );
}

function make(record) {
  const what = el("td", { class: "what" });
  badge(what, GLYPHS[record.what] ?? "info", WORDS[record.what] ?? record.what, record.what);
  const iso = new Date(record.time * 1000).toISOString();
  return el(
    "tr",
    {},
    el("td", { class: "id" }, el("a", { href: `#${with_({ event: record.id })}`, title: "Link to this event" }, String(record.id))),
    el("td", { class: "when" }, el("time", { datetime: iso, title: utc(record.time) })),
    what,
    el("td", { class: "cause" }, record.cause),
    el("td", { class: "record-figures" }, figures(record.figures ?? {})),
  );
}

const FIGURES = {
  weight: (value) => `at ${weight(value)}`,
  evidence: (value) => `evidence ${odds(Math.log(value))}`,
  log_evidence: (value) => `evidence ${odds(value)}`,
  baked: (value) => (value >= 1 ? `baked for ${duration(value)}` : ""),
  seconds_to_last_request: (value) => `last request after ${latency(value)}`,
  users: (value) => (value > 0 ? `${plural(value, "canary user")} compared` : ""),
  requests_after: (value) => `${plural(value, "request")} after`,
  judged: (value) => `${plural(value, "canary request")} compared`,
  answered: () => "", // those that were not compared, too: of no use without what became of them
  passed: (value) => (value ? "passed" : "refused"),
};

/** Figures in words if known, otherwise by name; those of metrics are in the cause already. */
function figures(all) {
  const words = [];
  if (typeof all.step === "number" && typeof all.steps === "number") words.push(all.step > 0 ? `step ${all.step} of ${all.steps}` : `before step 1 of ${all.steps}`);
  for (const [name, value] of Object.entries(all)) {
    if (["step", "steps", "metrics", "endpoints_of", "cohorts"].includes(name) || (name === "weight" && all.share) || value === null) continue;
    if (Array.isArray(value)) {
      if (value.length > 0) words.push(`${name.replaceAll("_", " ")}: ${value.join(", ")}`);
      continue;
    }
    const known = FIGURES[name];
    if (known && typeof value !== "object" && typeof value !== "string") words.push(known(value));
    else if (name === "share") words.push(`at ${value}`);
    else words.push(`${name.replaceAll("_", " ")} ${typeof value === "object" ? JSON.stringify(value) : value}`);
  }
  return words.filter((word) => word !== "").join(" · ");
}
