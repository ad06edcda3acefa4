// Changes: sent with the token and with the ETag of what the operator saw; answers in words.

const TOKEN = "canaryproxy-token";
const NAME = "canaryproxy-name";
const TIMEOUT = 30000; // ms

/** A change that was not done, or not known to be done; `message` is for people. */
export class Failed extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

// Storage can be switched off in the browser; then things are known until the page is left.
const memory = new Map();

function recall(storage, key) {
  try {
    return storage().getItem(key) ?? memory.get(key) ?? "";
  } catch {
    return memory.get(key) ?? "";
  }
}

function keep(storage, key, value) {
  memory.set(key, value);
  try {
    if (value === "") storage().removeItem(key);
    else storage().setItem(key, value);
  } catch {
    // it stays in memory
  }
}

const tab = () => window.sessionStorage;
const browser = () => window.localStorage;

/** The admin token: kept until the tab is closed. */
export const token = { get: () => recall(tab, TOKEN), set: (value) => keep(tab, TOKEN, value) };

/** Who the operator is, for the history. */
export const operator = { get: () => recall(browser, NAME), set: (value) => keep(browser, NAME, value) };

async function ask(path, options) {
  try {
    return await fetch(path, { ...options, cache: "no-store", signal: AbortSignal.timeout(TIMEOUT) });
  } catch (error) {
    const why = error.name === "TimeoutError" ? `No answer within ${TIMEOUT / 1000} s.` : "The proxy cannot be reached.";
    throw new Failed(0, why);
  }
}

const authorization = () => (token.get() === "" ? {} : { Authorization: `Bearer ${token.get()}` });

/** The release as it is now, with its ETag. */
export async function look() {
  const answer = await ask("v1/release", {});
  if (!answer.ok) throw new Failed(answer.status, await words(answer));
  return { release: await answer.json(), etag: answer.headers.get("ETag") };
}

/** The ETag of the configuration in force: another one for who has no token. */
export async function configTag() {
  const answer = await ask("v1/config", { headers: authorization() });
  if (!answer.ok) throw new Failed(answer.status, await words(answer));
  return answer.headers.get("ETag");
}

/** Send a change and return the answer's document. Raises Failed. */
export async function change(method, path, body, etag) {
  const headers = { "Content-Type": "application/json", ...authorization() };
  if (etag) headers["If-Match"] = etag;
  let answer;
  try {
    answer = await ask(path, { method, headers, body: JSON.stringify(body) });
  } catch (error) {
    throw new Failed(0, `${error.message} Whether it was done is not known: the figures will tell when they are live again.`);
  }
  if (answer.ok) return answer.json();
  throw new Failed(answer.status, await words(answer));
}

/** What a problem means and what to do. */
async function words(answer) {
  const detail = await problem(answer);
  switch (answer.status) {
    case 401:
      return `Nothing was done: the proxy wants its admin token (admin.token_file or admin.token_env in its configuration), and does not know this one. ${detail}`;
    case 403:
      return `Nothing was done: the proxy does not take changes from this page. Open it at the proxy's own admin address. ${detail}`;
    case 409:
      return `Nothing was done: the release does not allow it now. ${detail}`;
    case 412:
      return `Nothing was done: the release has changed since you looked. ${detail}`;
    case 421:
      return `Nothing was done: the proxy does not know itself by the name ${location.host}. Open it by its address, or add the name to admin.hosts. ${detail}`;
    case 422:
      return `Nothing was done: a value is not valid. ${detail}`;
    case 507:
      return `The proxy cannot write its state file. ${detail}`;
    default:
      return `The proxy answered ${answer.status}. ${detail}`;
  }
}

async function problem(answer) {
  try {
    const { title, detail, errors } = await answer.json();
    const each = (errors ?? []).map((error) => [error.path, error.message].filter(Boolean).join(": "));
    return [detail ?? title ?? "", ...each].join(" ").trim();
  } catch {
    return ""; // no document, for instance from a proxy in between
  }
}
