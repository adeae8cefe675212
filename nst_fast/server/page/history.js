// The runs of this machine, newest first.

import { get } from "./api.js";
import { $, make, tell } from "./elements.js";
import { active } from "./stage.js";

const SOON = 2500,
  LATER = 15_000;

export class History {
  // `chosen` is called with the run that is clicked.
  constructor(chosen) {
    Object.assign(this, { chosen, runs: [], current: null, items: new Map() });
    document.addEventListener("visibilitychange", () => document.hidden || this.refresh());
  }

  // Ask now, and again: soon while something is under way. Other tabs and the command line make runs too.
  async refresh() {
    clearTimeout(this.timer);
    try {
      this.runs = await get("runs");
      this.draw();
    } catch (error) {
      tell(error.message);
    } finally {
      if (!document.hidden) this.timer = setTimeout(() => this.refresh(), this.runs.some(active) ? SOON : LATER);
    }
  }

  update(run) {
    const known = this.runs.findIndex(({ id }) => id === run.id);
    this.runs = known < 0 ? [run, ...this.runs] : this.runs.with(known, run);
    this.draw();
  }

  choose(run) {
    this.current = run?.id ?? null;
    this.draw();
  }

  draw() {
    $("history").hidden = !this.runs.length;
    this.drawn(this.runs);
    const kept = new Set(this.runs.map(({ id }) => id));
    for (const [id, item] of this.items)
      if (!kept.has(id)) {
        item.remove();
        this.items.delete(id);
      }
    this.runs.forEach((run, index) => {
      if (!this.items.has(run.id)) this.items.set(run.id, this.item(run.id));
      const item = this.items.get(run.id);
      if ($("runs").children[index] !== item) $("runs").insertBefore(item, $("runs").children[index] ?? null);
      this.show(item.firstChild, run);
    });
  }

  item(id) {
    const button = make("button", { type: "button" }, make("img", { alt: "", loading: "lazy" }), make("span"));
    button.addEventListener("click", () => this.chosen(this.runs.find((run) => run.id === id)));
    return make("li", {}, button);
  }

  show(button, run) {
    const [image, words] = button.children,
      short = shortly(run);
    const kept = `api/runs/${run.id}/thumbnail?at=${run.state}-${run.step}`;
    const source = (active(run) && run.preview) || kept;
    if (image.getAttribute("src") !== source) image.src = source;
    words.textContent = short;
    button.title = `${run.name}, ${run.created}`;
    button.setAttribute("aria-label", `${run.name}: ${short}`);
    button.classList.toggle("active", active(run));
    if (run.id === this.current) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
  }
}

function shortly({ state, preset, place, step, steps }) {
  if (state === "queued") return `queued, ${place}`;
  if (state === "running") return `${Math.round((100 * step) / steps)} %`;
  if (state === "failed") return "failed";
  return [...(state === "stopped" ? ["stopped"] : preset ? [preset] : []), `${step} steps`].join(", ");
}
