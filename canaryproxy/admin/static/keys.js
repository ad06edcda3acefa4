// Single keys, and the help that lists them. They can be switched off (WCAG 2.1.4).

import { $, el } from "./dom.js";
import { ACTIONS } from "./actions.js";

const SETTING = "canaryproxy-keys";

let enabled = true;

function remember(value) {
  enabled = value;
  try {
    localStorage.setItem(SETTING, value ? "on" : "off");
  } catch {
    // storage is switched off: until the page is left
  }
}

function recall() {
  try {
    return localStorage.getItem(SETTING) !== "off";
  } catch {
    return true;
  }
}

/** Whether keys are text there. What stands in a dialog that has closed keeps the focus until the browser draws. */
const typing = (node) => node.closest("input:not([type=range]), select, textarea") !== null && node.closest("dialog") === null;

/** Listen to keys; `controls` opens dialogs, `plots` chooses ranges. */
export function setUpKeys(controls, plots) {
  enabled = recall();
  const extra = [
    ["1 2 3", "5 min, 30 min, all"],
    ["c", "cursor in the plots; then ← → Home End"],
    ["/", "find in the history"],
    ["?", "this help"],
    ["Esc", "close, change nothing"],
  ];
  const keys = [...Object.values(ACTIONS).map((action) => [action.key, `${action.does}…`]), ...extra];
  const toggle = el("input", { type: "checkbox" });
  toggle.checked = enabled;
  toggle.addEventListener("change", () => remember(toggle.checked));
  $("help-body").replaceChildren(
    el("p", {}, "Every change is explained and confirmed before it is made."),
    el("dl", { class: "keys" }, keys.map(([key, words]) => el("div", {}, el("dt", {}, key.split(" ").map((each) => el("kbd", {}, each))), el("dd", {}, words)))),
    el("label", { class: "toggle" }, toggle, " Single keys are on"),
    el("h3", {}, "Evidence"),
    el(
      "p",
      {},
      "The evidence that the canary is worse starts at 1 to 1. A healthy canary can hardly raise it, however often one looks. ",
      "At the first mark the release is held (suspect); at the second, and with a difference that matters, the circuit opens. ",
      "Bands and intervals hold at every moment, too.",
    ),
  );
  const help = () => $("help").showModal();
  $("help-button").addEventListener("click", help);
  $("help-close").addEventListener("click", () => $("help").close());
  document.addEventListener("keydown", (event) => {
    if (!enabled || event.ctrlKey || event.altKey || event.metaKey || event.repeat) return;
    if (document.querySelector("dialog[open]") || typing(event.target)) return;
    const name = Object.keys(ACTIONS).find((each) => ACTIONS[each].key === event.key);
    if (name) controls.open(name);
    else if ("123".includes(event.key)) plots.range(Number(event.key) - 1);
    else if (event.key === "c") $("cursor").focus();
    else if (event.key === "/") $("history-find").focus();
    else if (event.key === "?") help();
    else return;
    event.preventDefault();
  });
}
