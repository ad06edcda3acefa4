// Numbers and states as text. Pure.

const COUNT = new Intl.NumberFormat("en-GB", { maximumFractionDigits: 0 });
const NONE = "–";
const SPACE = "\u00a0"; // between a number and its unit: it does not break

const known = (value) => typeof value === "number" && Number.isFinite(value);

const digits = (value, significant) =>
  String(Number(value.toPrecision(significant)));

export const count = (value) => (known(value) ? COUNT.format(value) : NONE);

/** "5%" for a weight in percent, at its resolution of 0.01. */
export const weight = (value) => (known(value) ? `${Number(value.toFixed(2))}%` : NONE);

/** Who is on the canary: "5%", or "1% of users, 50% of staff" where cohorts have it. */
export const users = (row) => (row.cohorts?.length ? row.share : weight(row.weight));

/** Why a service or a proxy needs a person: the level of its badge, and the word in it. */
export const NEEDS = {
  tripped: ["breach", "tripped"],
  breach: ["breach", "regression"],
  suspect: ["suspect", "suspect"],
  held: ["suspect", "holds the step"],
  unreachable: ["suspect", "unreachable"],
  configuration: ["suspect", "problem"],
  waiting: ["info", "waits for resume"],
};

/** "0.59%" for a fraction. */
export function percent(fraction) {
  if (!known(fraction)) return NONE;
  const value = fraction * 100;
  if (value === 0) return "0%";
  if (Math.abs(value) < 0.01) return "<0.01%";
  if (Math.abs(value) === 100) return `${value}%`;
  return `${Math.abs(value) < 10 ? value.toFixed(2) : value.toFixed(1)}%`;
}

/** "48 ms" or "1.25 s" for seconds. */
export function latency(seconds) {
  if (!known(seconds)) return NONE;
  if (seconds >= 0.9995) return `${digits(seconds, 3)}${SPACE}s`;
  const ms = seconds * 1000;
  if (ms === 0) return `0${SPACE}ms`;
  return `${ms < 10 ? ms.toFixed(1) : ms.toFixed(0)}${SPACE}ms`;
}

export const rate = (value) => (known(value) ? `${value < 100 ? digits(value, 3) : count(value)}${SPACE}/s` : NONE);

/** "4 min 48 s" for seconds. */
export function duration(seconds) {
  if (!known(seconds)) return NONE;
  const whole = Math.max(Math.floor(seconds), 0);
  const parts = [
    [Math.floor(whole / 86400), "d"],
    [Math.floor(whole / 3600) % 24, "h"],
    [Math.floor(whole / 60) % 60, "min"],
    [whole % 60, "s"],
  ];
  const first = parts.findIndex(([value]) => value > 0);
  if (first < 0) return "0 s";
  return parts
    .slice(first, first + 2)
    .filter(([value]) => value > 0)
    .map(([value, unit]) => `${value}${SPACE}${unit}`)
    .join(" ");
}

/** "just now" or "4 min 48 s ago". */
export const ago = (seconds) => (seconds < 2 ? "just now" : `${duration(seconds)} ago`);

const pad = (value) => String(value).padStart(2, "0");

/** "2.5%" for a fraction and "25 ms" for seconds, short enough for an axis. */
export const percentTick = (fraction) => `${digits(fraction * 100, 3)}%`;
export const latencyTick = (seconds) => (seconds < 1 ? `${digits(seconds * 1000, 3)}${SPACE}ms` : `${digits(seconds, 3)}${SPACE}s`);

/** Local time of day. */
export function clock(seconds, withSeconds = true) {
  const at = new Date(seconds * 1000);
  return `${pad(at.getHours())}:${pad(at.getMinutes())}${withSeconds ? `:${pad(at.getSeconds())}` : ""}`;
}

/** The browser's time zone at a time, for instance "CET" or "GMT+5:30". */
export const zone = (seconds) =>
  new Intl.DateTimeFormat("en-GB", { timeZoneName: "short" }).formatToParts(new Date(seconds * 1000)).find((part) => part.type === "timeZoneName").value;

/** Local time of day, with the date unless it is the date of `now`. */
export function moment(seconds, now) {
  const at = new Date(seconds * 1000);
  const today = new Date(now * 1000).toDateString() === at.toDateString();
  return today ? clock(seconds) : `${at.getFullYear()}-${pad(at.getMonth() + 1)}-${pad(at.getDate())} ${clock(seconds)}`;
}

/** "2026-01-31 12:03:10 UTC". */
export const utc = (seconds) => `${new Date(seconds * 1000).toISOString().slice(0, 19).replace("T", " ")} UTC`;

const LARGE = [[1e9, " billion"], [1e6, " million"]];

/** "940:1" or "2.4 million:1" for a natural logarithm of evidence. */
export function odds(log) {
  if (!known(log)) return NONE;
  const evidence = Math.exp(log);
  if (evidence >= 1e12) return ">1 trillion:1";
  const [unit, word] = LARGE.find(([size]) => evidence >= size) ?? [1, ""];
  const value = evidence / unit;
  return `${value < 10 ? digits(value, 2) : count(Number(value.toPrecision(3)))}${word}:1`;
}

const times = (value) => `${value >= 100 ? count(value) : digits(value, value < 1 ? 2 : 3)}×`;

/** The interval of the ratio of the rates in words; either side can be unbounded. */
export function interval([low, high]) {
  const below = known(low) && low > 0;
  if (below && known(high)) return `${times(low)} to ${times(high)} stable's rate`;
  if (below) return `at least ${times(low)} stable's rate`;
  if (known(high)) return `at most ${times(high)} stable's rate`;
  return "no bounds yet: not enough data";
}

/** "48 ms (44 to 53)": the unit stands once where both edges have the same. */
function spread({ value, low, high }) {
  const [middle, from, to] = [value, low, high].map(latency);
  const unit = to.split(SPACE)[1];
  const alike = [middle, from].every((each) => each.endsWith(`${SPACE}${unit}`));
  return alike ? `${middle} (${from.split(SPACE)[0]} to ${to.split(SPACE)[0]})` : `${middle} (${from} to ${to})`;
}

/** "canary P95 48 ms (44 to 53), stable 46 ms (45 to 47)"; empty where nothing is known. */
export function timing(found) {
  if (!found?.canary || !found.stable) return "";
  return `canary P${digits(found.quantile * 100, 4)} ${spread(found.canary)}, stable ${spread(found.stable)}`;
}

/** The text with its first letter in upper case. */
export const sentence = (words) => words.charAt(0).toUpperCase() + words.slice(1);

export const ratio = (value) => (known(value) ? times(value) : NONE);

export const STATES = {
  idle: "Idle",
  running: "Running",
  paused: "Paused",
  tripped: "Tripped",
  probing: "Probing",
  promoted: "Promoted",
  aborting: "Aborting",
  aborted: "Aborted",
};

export const CIRCUITS = { closed: "closed", open: "open", half_open: "half open" };

/** Where a metric or a release stands, as glyph and words. */
export const STANDINGS = {
  breach: ["breach", "regression"],
  suspect: ["suspect", "suspect"],
  worse: ["suspect", "looks worse"],
  held: ["suspect", "holds the step"],
  accepted: ["info", "accepted"],
  unknown: ["unknown", "nothing to compare"],
  ok: ["ok", "no regression seen"],
  proven: ["ok", "safety proven"],
};

const METRICS = {
  client_errors: "client errors (4xx)",
  redirects: "redirects (3xx)",
  empty: "empty responses",
  success: "successful responses",
  answers: "3xx, 4xx and empty",
  latency_p50: "median latency",
  latency_p95: "latency P95",
  latency_p99: "latency P99",
  size: "body sizes",
  content_type: "media types",
  connections: "tunnels and streams",
};

export const metric = (name, route = null) => `${METRICS[name] ?? name}${route ? ` on ${route}` : ""}`;

/** The state with the step, for instance "Running, step 2 of 5". */
export function state(release) {
  const word = STATES[release.state] ?? release.state;
  const stepped = ["running", "paused", "tripped", "probing"].includes(release.state);
  if (stepped && release.step > 0) return `${word}, step ${release.step} of ${release.steps.length}`;
  return word;
}

/** The users on the canary: "5%", or with cohorts "1% of users, 50% of staff". */
export const onCanary = (release) => (release.cohorts?.length > 0 ? release.share : weight(release.weight));

/** The same with a noun: "5% of users". */
export const usersOnCanary = (release) => (release.cohorts?.length > 0 ? release.share : `${weight(release.weight)} of users`);

/** The users of a step: "5%", or "50% of staff". */
export const shareOf = (step) => (step.cohort ? `${weight(step.weight)} of ${step.cohort}` : weight(step.weight));

export const plural = (number, word, more = `${word}s`) => `${count(number)} ${number === 1 ? word : more}`;

/** "12 tunnels and streams". */
export const longLived = (number) => plural(number, "tunnel or stream", "tunnels and streams");

/** How many tunnels and streams the users who moved have left behind, and until when. */
export function leaving(side, { leaving: number, until }, now) {
  const seconds = until - now;
  const end = seconds > 0 ? `the last one is closed within ${duration(Math.ceil(seconds))}` : "overdue";
  return `${longLived(number)} on ${side} whose users have moved: ${end}.`;
}
