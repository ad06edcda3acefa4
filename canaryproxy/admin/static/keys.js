// Single-key shortcuts, and the help that lists them. They can be turned off (WCAG 2.1.4).

import { $, el } from "./dom.js";
import { ACTIONS } from "./actions.js";

const SETTING = "canaryproxy-keys";

let enabled = true;

function remember(value) {
  enabled = value;
  try {
    localStorage.setItem(SETTING, value ? "on" : "off");
  } catch {
    // storage is disabled: until the page is left
  }
}

function recall() {
  try {
    return localStorage.getItem(SETTING) !== "off";
  } catch {
    return true;
  }
}

/** Whether a node takes keys as text. A field of a closed dialog keeps the focus until the next frame; it does not. */
const typing = (node) => node.closest("input:not([type=range]), select, textarea") !== null && node.closest("dialog") === null;

/** Listen for keys; `controls` opens dialogs, `plots` selects ranges. */
export function setUpKeys(controls, plots) {
  enabled = recall();
  const extra = [
    ["1 2 3", "show 5 min, 30 min, all"],
    ["c", "move the cursor in the plots, with ← → Home End"],
    ["/", "search the history"],
    ["?", "this help"],
    ["Esc", "close without changing anything"],
  ];
  const keys = [...Object.values(ACTIONS).map((action) => [action.key, `${action.does}…`]), ...extra];
  const toggle = el("input", { type: "checkbox" });
  toggle.checked = enabled;
  toggle.addEventListener("change", () => remember(toggle.checked));
  $("help-body").replaceChildren(
    el("p", {}, "Every change is explained and confirmed before it is made."),
    el("dl", { class: "keys" }, keys.map(([key, words]) => el("div", {}, el("dt", {}, key.split(" ").map((each) => el("kbd", {}, each))), el("dd", {}, words)))),
    el("label", { class: "toggle" }, toggle, " Enable single-key shortcuts"),
    el("h3", {}, "Regression evidence"),
    el(
      "p",
      {},
      "Evidence that the canary is worse starts at 1:1. A healthy canary rarely raises it, however often you look. ",
      "At the first mark the metric is suspect and the release stays on its step; at the second, if the difference also exceeds the margin, the circuit trips. ",
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
