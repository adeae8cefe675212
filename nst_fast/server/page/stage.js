// The run in view: its picture while it grows, where it stands, what can be done with it.

import { call, follow, get, post } from "./api.js";
import { Curve } from "./curve.js";
import { $, duration, make, readable, say, sentences, tell, worded } from "./elements.js";

export const active = (run) => run.state === "running" || run.state === "queued";

// Which buttons a state has.
const ACTIONS = {
  queued: ["reuse", "copy-command", "copy-python", "delete"],
  running: ["stop", "slide", "reuse", "copy-command", "copy-python"],
  stopped: ["continue", "download", "open", "slide", "compare", "reuse", "copy-command", "copy-python", "delete"],
  done: ["download", "open", "slide", "compare", "reuse", "copy-command", "copy-python", "delete"],
  failed: ["continue", "reuse", "copy-command", "copy-python", "delete"],
};

export class Stage {
  // `changed` is called with a run that has changed, `reuse` with one whose settings are wanted, `gone` after one is
  // deleted.
  constructor({ changed, reuse, gone }) {
    Object.assign(this, { changed, gone, run: null, other: null, curve: new Curve($("curve")) });
    const act = (id, action) => $(id).addEventListener("click", () => action(this.run));
    act("stop", () => this.ask("stop"));
    act("continue", () => this.ask("continue"));
    act("reuse", reuse);
    act("copy-command", (run) => copy(run.command, "The command is copied"));
    act("copy-python", (run) => copy(run.python, "The program is copied"));
    act("delete", () => this.remove());
    act("slide", () => this.slide($("slide").ariaPressed !== "true"));
    act("compare", () => this.pick($("compare").ariaPressed !== "true"));
    $("cut").addEventListener("input", () => this.cut());
    $("picture").addEventListener("load", () => this.fit());
    new ResizeObserver(() => this.fit()).observe($("frame"));
  }

  // --- which run ----------------------------------------------------------------------------------------------------

  show(run) {
    this.leave?.();
    this.leave = null;
    this.run = run;
    this.said = 0;
    this.pick(false);
    this.slide(false);
    $("invitation").hidden = run !== null;
    $("facts").hidden = $("slider").hidden = run === null;
    document.title = "nst-fast";
    if (!run) return void ($("progress").hidden = true);
    $("before").removeAttribute("src");
    this.curve.start();
    this.update(run);
    this.follow();
  }

  follow() {
    const { id } = this.run;
    this.losses();
    if (!active(this.run)) return;
    this.leave?.();
    this.leave = follow(
      id,
      {
        state: (run) => this.became(run),
        step: (step) => this.stepped(step),
        preview: ({ url }) => this.picture(url),
      },
      () => setTimeout(() => this.run?.id === id && this.follow(), 5000),
    );
  }

  became(run) {
    const before = this.run.state;
    this.update(run);
    this.changed(run);
    if (before !== run.state || run.state === "queued") say(`${run.name}: ${standing(run)}`);
    if (active(run)) return;
    this.leave?.();
    this.losses();
  }

  // The whole curve: what was before this tab came, and at the end the record's.
  async losses() {
    const { id } = this.run,
      losses = await get(`runs/${id}/losses`).catch(() => ({}));
    if (this.run?.id === id) this.curve.start(losses);
  }

  stepped({ step, steps, losses, seconds, seconds_left }) {
    Object.assign(this.run, { step, steps, losses, seconds, seconds_left });
    this.curve.add(step, losses);
    this.words();
    this.changed(this.run);
    if (Date.now() - this.said < 10_000) return;
    this.said = Date.now();
    say(standing(this.run));
  }

  // --- what is seen -------------------------------------------------------------------------------------------------

  update(run) {
    this.run = run;
    const actions = ACTIONS[run.state].filter((id) => run.picture || !["download", "open"].includes(id));
    for (const button of $("actions").children) button.hidden = !actions.includes(button.id);
    if (run.picture) {
      $("download").href = run.picture;
      $("open").href = `${run.picture}?inline=1`;
    }
    $("run-name").textContent = run.name;
    $("run-notes").replaceChildren(...(run.notes ?? []).map((note) => make("li", {}, ...worded(note))));
    const { error } = run;
    $("run-error").replaceChildren(...(error ? sentences(error) : []));
    this.words();
    if (run.state === "queued" && !run.preview) this.picture(`api/uploads/${run.content}`);
    else if (!active(run) && run.picture) this.picture(`${run.picture}?inline=1&at=${run.step}`);
    else this.picture(run.preview ?? `api/uploads/${run.content}`);
  }

  words() {
    const { run } = this;
    $("run-state").textContent = standing(run);
    const losses = Object.entries(run.losses ?? {}).slice(0, 4);
    $("run-losses").textContent = losses.map(([name, value]) => `${name} ${value.toPrecision(3)}`).join("  ·  ");
    $("progress").hidden = !active(run);
    $("progress").value = run.steps ? run.step / run.steps : 0;
    if (active(run)) document.title = `${Math.round(100 * $("progress").value)} % · ${run.name}`;
    else document.title = `${run.name} · nst-fast`;
  }

  // Shown once it is decoded, so that nothing flickers; the newest wins.
  async picture(url) {
    if (this.wanted === url) return;
    this.wanted = url;
    const image = new Image();
    image.src = url;
    await image.decode().catch(() => undefined);
    if (this.wanted !== url || !image.naturalWidth) return;
    $("picture").src = url;
    $("picture").alt = `${this.run.name}, ${readable(this.run.state)} at step ${this.run.step}`;
    $("picture").dataset.shown = 1 + Number($("picture").dataset.shown ?? 0);
  }

  // --- before and after ---------------------------------------------------------------------------------------------

  slide(on) {
    if (on) this.pick(false);
    $("slide").ariaPressed = String(on);
    for (const element of [$("before"), $("cut"), document.querySelector(".grip")]) element.hidden = !on;
    if (!on) return;
    if (!$("before").src) $("before").src = `api/runs/${this.run.id}/content`;
    this.cut();
    $("cut").focus();
  }

  cut() {
    $("slider").style.setProperty("--part", $("cut").value / 100);
  }

  // Where the picture is within the frame, for the divider.
  fit() {
    const { naturalWidth, naturalHeight, clientWidth, clientHeight } = $("picture");
    if (!naturalWidth) return;
    const width = Math.min(clientWidth, (clientHeight * naturalWidth) / naturalHeight);
    const height = (width * naturalHeight) / naturalWidth,
      { style } = $("slider");
    style.setProperty("--width", `${width}px`);
    style.setProperty("--left", `${(clientWidth - width) / 2}px`);
    style.setProperty("--top", `${(clientHeight - height) / 2}px`);
  }

  // --- side by side -------------------------------------------------------------------------------------------------

  // The next run that is chosen in the history is put beside this one.
  pick(on) {
    $("compare").ariaPressed = String(on);
    document.body.classList.toggle("picking", on);
    if (on) return tell("Choose the other picture in the history");
    $("pair").hidden = true;
    document.querySelector(".differences")?.remove();
    $("slider").hidden = this.run === null;
  }

  get picking() {
    return document.body.classList.contains("picking");
  }

  pairWith(other) {
    this.slide(false);
    document.body.classList.remove("picking");
    const pair = [this.run, other];
    $("slider").hidden = true;
    $("pair").hidden = false;
    $("pair").replaceChildren(
      ...pair.map((run) =>
        make(
          "figure",
          {},
          make("img", { src: run.picture ? `${run.picture}?inline=1` : `api/runs/${run.id}/preview`, alt: run.name }),
          make("figcaption", {}, `${run.name}, ${run.step} steps`),
        ),
      ),
    );
    document.querySelector(".differences")?.remove();
    $("facts").append(differences(pair));
    say(`${this.run.name} beside ${other.name}`);
  }

  // --- what is asked of the server ----------------------------------------------------------------------------------

  async ask(what) {
    $(what).disabled = true;
    try {
      const run = await post(`runs/${this.run.id}/${what}`);
      if (what === "stop") say("Stopping after this step");
      this.became(run);
      if (active(run)) this.follow();
    } catch (error) {
      $("run-error").replaceChildren(...sentences(error));
    } finally {
      $(what).disabled = false;
    }
  }

  async remove() {
    const { id, name } = this.run;
    if (!confirm(`Delete ${name}? The picture is deleted too.`)) return;
    try {
      await call("DELETE", `runs/${id}`);
      say(`${name} is deleted`);
      this.gone(id);
    } catch (error) {
      $("run-error").replaceChildren(...sentences(error));
    }
  }
}

// Where a run stands, in words.
export function standing({ state, stopping, place, step, steps, seconds, seconds_left, width, height, error }) {
  const size = width ? `, ${width} × ${height}` : "",
    spent = seconds ? `, ${duration(seconds)}` : "";
  if (state === "queued") return place > 1 ? `Queued, place ${place}` : "Queued, next in line";
  if (stopping) return "Stopping after this step";
  if (state === "running" && !step) return "Preparing";
  if (state === "running")
    return `Step ${step} of ${steps}${seconds_left == null ? "" : `, ${duration(seconds_left)} left`}`;
  if (state === "stopped") return `Stopped after ${step} of ${steps} steps${size}${spent}`;
  return state === "done"
    ? `Done: ${step} steps${size}${spent}`
    : `Failed${error?.option ? ` at ${readable(error.option)}` : ""}`;
}

function differences(pair) {
  const names = Object.keys(pair[0].values ?? {}).filter(
    (name) => JSON.stringify(pair[0].values[name]) !== JSON.stringify(pair[1].values?.[name]),
  );
  const row = (cells, tag = "td") =>
    make("tr", {}, ...cells.map((cell, index) => make(index ? tag : "th", {}, String(cell ?? "auto"))));
  const rows = names.map((name) => row([readable(name), ...pair.map((run) => run.values?.[name])]));
  if (!rows.length) rows.push(row(["The same options", "", ""]));
  return make(
    "table",
    { className: "differences" },
    make("thead", {}, row(["option", ...pair.map(({ name }) => name)], "th")),
    make("tbody", {}, ...rows),
  );
}

async function copy(text, said) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // no secure context, or not allowed: the old way
    const area = make("textarea", { value: text });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  tell(said);
}
