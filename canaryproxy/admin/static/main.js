// Entry point: draws every panel whenever data arrives.

import { Controls } from "./controls.js";
import { evidence } from "./evidence.js";
import { header } from "./header.js";
import { history, setUpHistory } from "./history.js";
import { setUpKeys } from "./keys.js";
import { setUpLinks } from "./link.js";
import { Live } from "./live.js";
import { Plots } from "./plots.js";
import { defect, problems } from "./problems.js";
import { tables } from "./tables.js";
import { track } from "./track.js";
import { variants } from "./variants.js";

const live = new Live(draw);
const controls = new Controls(live);
const plots = new Plots(live);
const panels = {
  header: () => header(live),
  rollout: () => track(live),
  controls: () => controls.draw(),
  "over time": () => plots.draw(),
  evidence: () => evidence(live, controls),
  variants: () => variants(live),
  "endpoints and routes": () => tables(live),
  history: () => history(live),
  problems: () => problems(live),
};

function draw() {
  for (const [name, panel] of Object.entries(panels)) {
    try {
      panel();
    } catch (error) {
      // A panel that fails must not take the others with it; the page names it.
      console.error(name, error);
      defect(name);
    }
  }
}

setUpHistory(draw);
setUpLinks((to) => {
  plots.show(to);
  draw();
});
setUpKeys(controls, plots);
live.start();
