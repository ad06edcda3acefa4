// A page that asks the proxy every few seconds, and says how old its figures are when nothing comes back.

import { $, attr, badge, text } from "./dom.js";
import { duration } from "./words.js";

const TIMEOUT = 15000; // ms

/**
 * Ask for a path every so many milliseconds; show() gets the parsed response and the proxy's clock in seconds
 * since the epoch.
 */
export function poll(path, every, show) {
  let got = null; // Date.now() of the newest figures

  async function look() {
    try {
      const response = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT) });
      if (!response.ok) throw new TypeError(`the proxy responded ${response.status}`);
      const found = await response.json();
      got = Date.now();
      show(found, (Date.parse(response.headers.get("Date")) || got) / 1000);
      lost("");
    } catch (error) {
      if (!(error instanceof TypeError) && error.name !== "TimeoutError") throw error;
      const age = got === null ? "" : ` These figures are ${duration((Date.now() - got) / 1000)} old.`;
      lost(`No connection to the proxy.${age} Retrying every ${every / 1000} s.`);
    } finally {
      setTimeout(look, every);
    }
  }

  look();
}

function lost(words) {
  attr($("lost"), "hidden", words === "" ? "" : null);
  text($("lost"), words);
  document.body.classList.toggle("stale", words !== "");
  badge($("live"), words === "" ? "ok" : "suspect", words === "" ? "live" : "old");
}
