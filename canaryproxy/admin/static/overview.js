// The overview: a row for each service of each proxy, in the order of v1/overview; asked for every few seconds.

import { $, attr, badge, el, keyed, text } from "./dom.js";
import { poll } from "./poll.js";
import { CIRCUITS, NEEDS, STANDINGS, moment, plural, state, users, utc, zone } from "./words.js";

const EVERY = 3000; // ms
const NONE = "–";
const COLUMNS = ["Environment", "Release", "State", "Weight", "Circuit", "Verdict", "Since"];

let before = "";

function show({ overview: rows, missing = [], time }) {
  const needing = rows.filter((row) => row.attention !== "none");
  for (const each of document.querySelectorAll(".zone")) text(each, ` (${zone(time)})`);
  const proxies = new Set(rows.map((row) => row.address)).size;
  text($("number"), String(proxies));
  badge($("needing"), needing.length === 0 ? "ok" : "suspect", needing.length === 0 ? "none" : String(needing.length));
  attr($("alone"), "hidden", proxies > 1 ? "" : null);
  attr($("missing"), "hidden", missing.length === 0 ? "" : null);
  text($("missing"), missing.map((words) => `${words}.`).join(" "));
  keyed($("proxies").tBodies[0], rows, (row) => `${row.address ?? ""} ${row.service ?? ""}`, make, (node, row) => fill(node, row, time));
  const tripped = rows.filter((row) => row.attention === "tripped").length;
  const title = `${needing.length === 0 ? "All well" : `${of(needing)} attention`} – canaryproxy overview`;
  if (document.title !== title) document.title = title;
  attr($("favicon"), "href", tripped > 0 ? "static/favicon-tripped.svg" : "static/favicon.svg");
  const said = needing.map((row) => `${full(row)}: ${NEEDS[row.attention]?.[1] ?? row.attention}`).join(", ");
  if (said !== before) text($("status"), said === "" ? "No proxy needs attention." : said);
  before = said;
}

/** The name of a proxy, and of its service if it has several. */
const full = ({ name, service }) => [name, service].filter(Boolean).join(", ");

/** "2 proxies need", or "2 services need". */
const of = (rows) =>
  rows.some((row) => row.service) ? plural(rows.length, "service needs", "services need") : plural(rows.length, "proxy needs", "proxies need");

const make = () =>
  el(
    "tr",
    {},
    el("th", { scope: "row" }),
    COLUMNS.map((name) => el("td", { "data-label": name })),
  );

function fill(row, found, now) {
  const [proxy, environment, release, at, share, circuit, verdict, since] = row.cells;
  const known = found.error === null;
  attr(row, "class", `attention-${found.attention}`);
  named(proxy, found);
  text(environment, found.environment ?? NONE);
  text(release, known ? found.release ?? "no release" : NONE);
  text(at, known ? state({ ...found, steps: Array(found.steps) }) : NONE);
  text(share, users(found));
  text(circuit, CIRCUITS[found.circuit] ?? NONE);
  judgement(verdict, found);
  const when = known ? found.since : found.reached;
  text(since, when === null ? NONE : `${known ? "" : "last reached "}${moment(when, now)}`);
  attr(since, "title", when === null ? null : utc(when));
}

function named(cell, { name, service, dashboard, address }) {
  const shown = `${name} ${service} ${dashboard}`;
  if (cell.dataset.shown === shown) return;
  cell.dataset.shown = shown;
  const title = service ?? name;
  const page = service ? `${dashboard?.replace(/\/?$/, "/")}services/${encodeURIComponent(service)}/` : dashboard;
  const where = address === null ? "this proxy" : address === name ? "" : address;
  const notes = service ? [name, where] : [where];
  cell.replaceChildren(
    dashboard === null ? title : el("a", { href: page }, title),
    ...notes.map((words) => el("span", { class: "note" }, words)),
  );
}

/** The word of what needs a person, or of the verdict, and its sentences. */
function judgement(cell, found) {
  if (cell.childElementCount === 0) cell.append(el("span", { class: "level" }), el("ul"));
  badge(cell.firstElementChild, ...(NEEDS[found.attention] ?? STANDINGS[found.verdict] ?? ["unknown", "unknown"]));
  const said = [found.error, found.said, found.fleet, ...found.problems].filter((each) => each !== null);
  keyed(
    cell.lastElementChild,
    said.map((words, index) => ({ words, index })),
    (item) => item.index,
    () => el("li"),
    (node, item) => text(node, item.words),
  );
}

poll("v1/overview", EVERY, show);
