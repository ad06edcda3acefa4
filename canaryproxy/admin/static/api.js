// Requests to the admin API: changes carry the token and the ETag that the operator saw; errors become text.

import { ofProxy, ofService } from "./place.js";

const TOKEN = "canaryproxy-token";
const NAME = "canaryproxy-name";
const TIMEOUT = 30000; // ms

/** A change that failed, or whose result is unknown; `message` is for people. */
export class Failed extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

// With storage disabled in the browser, values last until the page is left.
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
    // kept in memory
  }
}

const tab = () => window.sessionStorage;
const browser = () => window.localStorage;

/** The admin token, kept until the tab is closed. */
export const token = { get: () => recall(tab, TOKEN), set: (value) => keep(tab, TOKEN, value) };

/** The name of the operator, for the history. */
export const operator = { get: () => recall(browser, NAME), set: (value) => keep(browser, NAME, value) };

async function ask(path, options, timeout = TIMEOUT) {
  try {
    return await fetch(path, { ...options, cache: "no-store", signal: AbortSignal.timeout(timeout) });
  } catch (error) {
    const why = error.name === "TimeoutError" ? `The proxy did not respond within ${timeout / 1000} s.` : "The proxy cannot be reached.";
    throw new Failed(0, why);
  }
}

const authorization = () => (token.get() === "" ? {} : { Authorization: `Bearer ${token.get()}` });

/** The current release view with its ETag, and what each act would do. */
export async function look() {
  const [response, previews] = await Promise.all([ask(ofService("v1/release"), {}), ask(ofService("v1/acts"), {})]);
  if (!response.ok) throw new Failed(response.status, await words(response));
  const { acts } = previews.ok ? await previews.json() : { acts: [] };
  return { release: await response.json(), etag: response.headers.get("ETag"), acts };
}

/** The ETag of the configuration; it differs without the token. */
export async function configTag() {
  const response = await ask(ofProxy("v1/config"), { headers: authorization() });
  if (!response.ok) throw new Failed(response.status, await words(response));
  return response.headers.get("ETag");
}

/** Send a change and return the body of the response. Throws Failed. */
export async function change(method, path, body, etag, timeout) {
  const headers = { "Content-Type": "application/json", ...authorization() };
  if (etag) headers["If-Match"] = etag;
  let response;
  try {
    response = await ask(path, { method, headers, body: JSON.stringify(body) }, timeout);
  } catch (error) {
    throw new Failed(0, `${error.message} The change may or may not have been made: check the figures once they are live again.`);
  }
  if (response.ok) return response.json();
  throw new Failed(response.status, await words(response));
}

/** What an error means, and what to do next. */
async function words(response) {
  const detail = await problem(response);
  switch (response.status) {
    case 401:
      return "Wrong admin token. Nothing changed. It is the one in admin.token_file or admin.token_env of the configuration.";
    case 403:
    case 404:
      return `Nothing changed: ${detail}`;
    case 409:
      return `Nothing changed: ${detail}`;
    case 412:
      return "Nothing changed: someone else, or a completed step, made a change in the meantime.";
    case 421:
      return `Nothing changed: the proxy does not serve the name ${location.host}. Open this page by IP address, or add the name to admin.hosts.`;
    case 422:
      return `Nothing changed. ${detail}`;
    case 507:
      return `The proxy cannot write its state file. ${detail}`;
    default:
      return `The proxy responded ${response.status}. ${detail}`;
  }
}

async function problem(response) {
  try {
    const { title, detail, errors } = await response.json();
    const each = (errors ?? []).map((error) => [error.path, error.message].filter(Boolean).join(": "));
    return [detail ?? title ?? "", ...each].join(" ").trim();
  } catch {
    return ""; // not JSON, for instance from a proxy in between
  }
}
