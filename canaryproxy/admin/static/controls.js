// The buttons, and the dialog that explains a change before it is made.

import { $, attr, el, keyed, text } from "./dom.js";
import { ACTIONS, acceptable, allowed, isSafe, outcome } from "./actions.js";
import { change, configTag, look, operator, token } from "./api.js";
import { SERVICE, ofProxy, ofService } from "./place.js";
import { plural, sentence } from "./words.js";

/** What an action is done to, where the proxy has several services. */
const subject = (action) => (SERVICE === null ? "" : ` of ${action.config ? "all services" : SERVICE}`);

const GROUPS = ["rollout", "safety", "circuit", "upkeep"];

export class Controls {
  #live;
  #name = null; // of the action in the dialog
  #seen = null; // {release, etag}: the state that the dialog describes
  #busy = false;
  #fields = {};

  constructor(live) {
    this.#live = live;
    $("buttons").replaceChildren(
      ...GROUPS.map((group) => el("div", { class: `group group-${group}` }, this.#buttons(group))),
    );
    $("confirm-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#do();
    });
    $("confirm-form").addEventListener("input", () => this.#explain());
    $("confirm-cancel").addEventListener("click", () => $("confirm").close());
    $("confirm").addEventListener("close", () => {
      if (!$("confirm").open) this.#name = null; // the event comes late: the next dialog may be open already
    });
  }

  draw() {
    const { release } = this.#live;
    for (const [name, { needed }] of Object.entries(ACTIONS)) {
      $(`do-${name}`).disabled = this.#live.removed || !allowed(release, name) || (needed && !needed(release));
    }
  }

  /** Open the dialog of an action, with the current release; `metric` is what it is about, if it is. */
  async open(name, metric = null) {
    const action = ACTIONS[name];
    if ($("confirm").open || !allowed(this.#live.release, name)) return;
    this.#name = name;
    this.#seen = null;
    this.#make(action);
    if (metric !== null) this.#fields.metric.input.value = metric;
    $("confirm").showModal();
    await this.#look("");
    this.#focus(action);
  }

  #buttons(group) {
    return Object.entries(ACTIONS)
      .filter(([, action]) => action.group === group)
      .map(([name, action]) => {
        const button = el(
          "button",
          { type: "button", id: `do-${name}`, class: action.safe ? "safe" : "asks", disabled: true, "aria-keyshortcuts": action.key, "aria-haspopup": "dialog" },
          action.label,
        );
        button.addEventListener("click", () => this.open(name));
        return button;
      });
  }

  #make(action) {
    const fields = {
      weight: field("Percent of users", { type: "number", min: 0, max: 100, step: 0.01, inputmode: "decimal", required: true }),
      reason: field("Reason (for the history)", { type: "text", maxlength: 200 }),
      metric: field("Metric, or metric and route", { type: "text", maxlength: 200, required: true, list: "acceptable" }),
      why: field("Why it is wanted (for the history)", { type: "text", maxlength: 200, required: true }),
      cause: field("Reason (for the history)", { type: "text", maxlength: 200 }),
      by: field("Your name (for the history)", { type: "text", maxlength: 64, autocomplete: "username" }, operator.get()),
      token: field("Admin token (kept until this tab is closed)", { type: "password", autocomplete: "current-password" }),
    };
    const names = [...(action.fields ?? []), "by", ...(token.get() === "" ? ["token"] : [])];
    this.#fields = Object.fromEntries(names.map((name) => [name, fields[name]]));
    const choices = acceptable(this.#live.release);
    const list = el("datalist", { id: "acceptable" }, choices.map((value) => el("option", { value })));
    $("confirm-fields").replaceChildren(...Object.values(this.#fields).map((each) => each.node), list);
    if (this.#fields.metric) this.#fields.metric.input.value = choices[0] ?? "";
    text($("confirm-title"), `${action.does}${subject(action)}?`);
    text($("confirm-do"), action.does);
    text($("confirm-problem"), "");
    $("confirm-says").replaceChildren(el("li", {}, "Reading the current state…"));
  }

  /** Read the release again: the dialog describes the state that If-Match names. */
  async #look(problem) {
    this.#wait(true);
    const name = this.#name;
    try {
      this.#seen = await look();
      if (ACTIONS[name].config) this.#seen.etag = await configTag();
      this.#live.take(this.#seen.release);
    } catch (error) {
      problem = `${problem} ${error.message}`.trim();
    }
    if (this.#name !== name) return;
    if (this.#seen !== null && !allowed(this.#seen.release, name)) {
      problem = `${problem} ${ACTIONS[name].label.replace("…", "")} is not possible now: the release is ${this.#seen.release.state}.`.trim();
    }
    text($("confirm-problem"), problem);
    this.#wait(false);
  }

  #typed() {
    const input = this.#fields.weight?.input;
    if (!input || input.value === "" || !input.checkValidity()) return null;
    return Number(input.value);
  }

  #explain() {
    if (this.#name === null || this.#seen === null) return;
    const action = ACTIONS[this.#name];
    const metric = this.#fields.metric?.input.value.trim() ?? "";
    const { release, acts } = this.#seen;
    const act = acts.find((each) => each.act === this.#name);
    const told = () => (act?.says ?? []).map((words) => `${sentence(words)}.`);
    // With cohorts, only the proxy knows who moves; for a weight that is being typed it is asked when sent.
    const own = action.says && !(release?.cohorts?.length > 0 && act?.says?.length > 0 && !this.#fields.weight);
    const says = own ? action.says(release, this.#live.records, this.#typed(), metric).filter((words) => words !== null) : told();
    if (own && act?.moved > 0 && !this.#fields.weight) says.splice(1, 0, `That is about ${plural(act.moved, "user")}, by those seen in the last minutes.`);
    $("confirm-do").className = isSafe(action, release, this.#typed()) ? "do" : "do do-careful";
    keyed(
      $("confirm-says"),
      says.map((words, at) => ({ words, at })),
      (item) => item.at,
      () => el("li", {}),
      (node, item) => text(node, item.words),
    );
    const complete = Object.values(this.#fields).every(({ input }) => !input.required || input.value.trim() !== "");
    const ready = complete && allowed(this.#seen.release, this.#name) && (!this.#fields.weight || this.#typed() !== null);
    $("confirm-do").disabled = this.#busy || !ready;
  }

  #wait(busy) {
    this.#busy = busy;
    attr($("confirm"), "aria-busy", String(busy));
    $("confirm-do").disabled = true;
    this.#explain();
  }

  /** Moving users off the canary is one key away; moving them onto it is not. */
  #focus(action) {
    if (!$("confirm").open) return;
    const first = this.#fields.weight ?? this.#fields.why ?? this.#fields.token;
    if (first) first.input.focus();
    else $(action.safe && !$("confirm-do").disabled ? "confirm-do" : "confirm-cancel").focus();
  }

  async #do() {
    if (this.#busy || this.#seen === null || $("confirm-do").disabled) return;
    const name = this.#name;
    const action = ACTIONS[name];
    if (this.#fields.token) token.set(this.#fields.token.input.value.trim());
    const newToken = this.#fields.token !== undefined;
    if (this.#fields.by) operator.set(this.#fields.by.input.value.trim());
    text($("confirm-problem"), "");
    this.#wait(true);
    try {
      if (action.config && newToken) this.#seen.etag = await configTag();
      const etag = isSafe(action, this.#seen.release, this.#typed()) && !this.#fields.weight ? null : this.#seen.etag;
      const body = this.#body();
      const response = await change(action.method, action.config ? ofProxy(action.path) : ofService(action.path), body, etag, action.timeout);
      if (response.drill) this.#live.take(response.release);
      else if (response.state) this.#live.take(response);
      if (this.#name === name) $("confirm").close();
      text($("outcome"), `${SERVICE === null || action.config ? "" : `${SERVICE}: `}${outcome(name, response, body)}`);
      const focus = document.activeElement;
      if (focus === document.body || $("confirm").contains(focus)) $("outcome").focus(); // the button is gone
    } catch (error) {
      if (error.status === undefined) throw error;
      await this.#failed(name, error);
    } finally {
      this.#wait(false);
    }
  }

  async #failed(name, error) {
    if (this.#name !== name) {
      text($("outcome"), error.message); // the dialog was closed meanwhile
      return;
    }
    if (error.status === 401) this.#askToken();
    if (error.status === 412 || error.status === 409) {
      await this.#look(`${error.message} The text above describes the current state.`);
    } else {
      text($("confirm-problem"), error.message);
    }
  }

  #askToken() {
    token.set("");
    if (!this.#fields.token) {
      const again = field("Admin token", { type: "password", autocomplete: "current-password" });
      this.#fields.token = again;
      $("confirm-fields").append(again.node);
    }
    this.#fields.token.input.select();
    this.#fields.token.input.focus();
  }

  #body() {
    const body = {};
    for (const name of ["by", "reason", "cause", "metric"]) {
      const value = this.#fields[name]?.input.value.trim();
      if (value) body[name] = value;
    }
    if (this.#fields.why) body.reason = this.#fields.why.input.value.trim();
    if (this.#fields.weight) body.weight = this.#typed();
    return body;
  }
}

function field(label, attributes, value = "") {
  const input = el("input", { ...attributes, spellcheck: "false" });
  input.value = value;
  return { input, node: el("label", {}, el("span", {}, label), input) };
}
