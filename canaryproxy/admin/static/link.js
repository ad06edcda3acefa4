// What the address names after its #: an event, a metric, a time range, a percentile. A link shows the same to all.

const read = () => new URLSearchParams(location.hash.slice(1));

let listener = () => {};

/** Call `changed` with the values now and whenever the address changes. */
export function setUpLinks(changed) {
  listener = changed;
  addEventListener("hashchange", () => listener(values()));
  listener(values());
}

/** { event, metric, range, quantile, from, to }: null where the address does not say it; times in seconds. */
export function values() {
  const found = read();
  const time = (name) => {
    const at = Date.parse(found.get(name) ?? "") / 1000;
    return Number.isFinite(at) ? at : null;
  };
  const event = /^[0-9]{1,15}$/.test(found.get("event") ?? "") ? Number(found.get("event")) : null;
  return { event, metric: found.get("metric"), range: found.get("range"), quantile: found.get("quantile"), from: time("from"), to: time("to") };
}

/** Put values into the address without going there; null takes one out. */
export function remember(changes) {
  const hash = `#${with_(changes)}`;
  if (hash !== location.hash) history.replaceState(null, "", hash === "#" ? location.pathname : hash);
}

/** The part of an address after the # with other values. */
export function with_(changes) {
  const found = read();
  for (const [name, value] of Object.entries(changes)) {
    if (value === null) found.delete(name);
    else found.set(name, value);
  }
  return found.toString();
}

/** A time in an address. */
export const iso = (seconds) => new Date(Math.round(seconds) * 1000).toISOString().replace(".000Z", "Z");
