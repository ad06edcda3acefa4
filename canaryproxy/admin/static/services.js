// The overview of several services: what needs a person, who is releasing, and the rest in a list that can be folded.

import { $, attr, badge, el, keyed, text } from "./dom.js";
import { poll } from "./poll.js";
import { CIRCUITS, NEEDS, STANDINGS, STATES, ago, count, plural, state, users, utc } from "./words.js";

const EVERY = 2000; // ms
const UNFOLDED = 12; // quiet services that are shown without being asked for
const UNDER_WAY = ["running", "paused", "tripped", "probing", "aborting"];

let now = 0; // the proxy's clock then, in seconds since the epoch
let shown = null; // the last response
let announced = null;
let folded = null; // whether the list was folded by hand; null: it was not

/** Whether users are on the canary for a time, or are about to be. */
const isReleasing = (row) => UNDER_WAY.includes(row.state) || ((row.weight > 0 || row.cohorts?.length > 0) && row.state !== "promoted");

function draw() {
  const { services, environment, host, version, problems } = shown;
  const find = $("find").value.trim().toLowerCase();
  const matches = ({ name, release }) => `${name} ${release ?? ""}`.toLowerCase().includes(find);
  const needing = services.filter((row) => row.attention !== "none");
  const releasing = services.filter((row) => row.attention === "none" && isReleasing(row));
  const quiet = services.filter((row) => row.attention === "none" && !isReleasing(row));
  text($("version"), version);
  text($("host"), ` on ${host}`);
  attr($("environment"), "hidden", environment === null ? "" : null);
  text($("environment"), environment ?? "");
  badge($("needing"), needing.length === 0 ? "ok" : "suspect", needing.length === 0 ? "none" : count(needing.length));
  text($("releasing"), count(services.filter(isReleasing).length));
  text($("number"), count(services.length));
  wrong(problems);
  tiles("needing", needing.filter(matches));
  tiles("releasing", releasing.filter(matches));
  list(quiet.filter(matches), find !== "");
  attr($("nothing"), "hidden", find === "" && needing.length + releasing.length === 0 ? null : "");
  const none = find !== "" && !services.some(matches);
  attr($("unfound"), "hidden", none ? null : "");
  text($("unfound"), none ? `No service has “${find}” in its name or release.` : "");
  announce(needing);
}

function wrong(problems) {
  attr($("problems"), "hidden", problems.length === 0 ? "" : null);
  keyed(
    $("problem-list"),
    problems.map((words) => ({ words })),
    (item) => item.words,
    () => el("li"),
    (node, { words }) => badge(node, "suspect", `${words[0].toUpperCase()}${words.slice(1)}`),
  );
}

const link = ({ name }) => el("a", { href: `services/${encodeURIComponent(name)}/` }, name);

function tiles(part, rows) {
  attr($(`${part}-part`), "hidden", rows.length === 0 ? "" : null);
  keyed(
    $(`${part}-tiles`),
    rows,
    (row) => row.name,
    (row) =>
      el(
        "li",
        {},
        el("h3", { class: "tile-name" }, link(row)),
        el("p", { class: "tile-release" }),
        el("p", { class: "tile-weight" }),
        el("div", { class: "tile-plan", "aria-hidden": "true" }),
        el("p", { class: "tile-state" }, el("span"), el("span", { class: "tile-since" })),
        el("p", { class: "tile-level" }),
        el("p", { class: "tile-said" }),
      ),
    fill,
  );
}

function fill(node, row) {
  const [, release, share, plan, at, level, said] = node.children;
  attr(node, "class", `tile attention-${row.attention}`);
  text(release, row.release ?? "no release");
  text(share, users(row));
  attr(share, "class", row.cohorts?.length ? "tile-weight of-groups" : "tile-weight");
  attr(share, "title", `of the users of ${row.name} are on the canary`);
  steps(plan, row);
  text(at.firstElementChild, state({ ...row, steps: row.plan }));
  text(at.lastElementChild, row.since === null ? "" : ago(now - row.since));
  attr(at.lastElementChild, "title", row.since === null ? null : utc(row.since));
  badge(level, ...(NEEDS[row.attention] ?? STANDINGS[row.verdict] ?? ["unknown", "unknown"]));
  const words = row.attention === "none" ? [] : [row.said, ...row.problems];
  if (row.circuit !== "closed" && row.attention !== "tripped") words.unshift(`circuit ${CIRCUITS[row.circuit]}`);
  text(said, words.map((each) => `${each[0].toUpperCase()}${each.slice(1)}.`).join(" "));
}

function steps(plan, row) {
  if (plan.childElementCount !== row.plan.length) plan.replaceChildren(...row.plan.map(() => el("span")));
  row.plan.forEach((_, at) => {
    const begun = row.state !== "idle";
    const where = begun && at < row.step - 1 ? "done" : begun && at === row.step - 1 ? "here" : null;
    attr(plan.children[at], "class", where);
  });
}

function list(rows, finding) {
  attr($("quiet"), "hidden", rows.length === 0 ? "" : null);
  text($("quiet-title"), `${plural(rows.length, "quiet service")}`);
  const open = finding || (folded === null ? rows.length <= UNFOLDED : !folded);
  if ($("quiet").open !== open) $("quiet").open = open;
  if (!open) return;
  keyed(
    $("quiet-list"),
    [...rows].sort((a, b) => (a.name < b.name ? -1 : 1)),
    (row) => row.name,
    (row) => el("li", {}, link(row), el("span")),
    (node, row) => {
      text(node.lastElementChild, row.release === null ? "no release" : (STATES[row.state] ?? row.state));
      attr(node.lastElementChild, "title", row.release);
    },
  );
}

function announce(needing) {
  const title = `${needing.length === 0 ? "All well" : `${plural(needing.length, "service needs", "services need")} attention`} – canaryproxy services`;
  if (document.title !== title) document.title = title;
  const tripped = needing.some((row) => row.attention === "tripped" || row.attention === "breach");
  attr($("favicon"), "href", `static/favicon${tripped ? "-tripped" : ""}.svg`);
  const said = needing.map((row) => `${row.name}: ${NEEDS[row.attention]?.[1] ?? row.attention}`).join(", ");
  if (said !== announced) text($("status"), said === "" ? "No service needs attention." : said);
  announced = said;
}

$("find").addEventListener("input", () => shown !== null && draw());
$("quiet").addEventListener("click", (event) => {
  if (event.target.closest("summary") === null) return;
  event.preventDefault(); // drawn below, so that the list is there when it opens
  folded = $("quiet").open;
  draw();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.altKey || event.metaKey || event.target === $("find")) return;
  event.preventDefault();
  $("find").focus();
});
poll("v1/services", EVERY, (found, time) => {
  shown = found;
  now = time;
  draw();
});
