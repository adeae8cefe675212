// The page: pictures and settings on one side, the run in view and the history on the other.

import { get, post } from "./api.js";
import { showControls, showFault } from "./controls.js";
import { $, amount, duration, tell } from "./elements.js";
import { History } from "./history.js";
import { Masks } from "./masks.js";
import { Pictures } from "./pictures.js";
import { Settings } from "./settings.js";
import { active, Stage } from "./stage.js";

const KEPT = "setup"; // in the tab's session: what a reload finds again

async function begin() {
  get("about").then(({ devices, version }) => {
    $("machine").textContent = [...devices, version].join("  ·  ");
  });
  const [options, presets] = await Promise.all(["options", "presets"].map(get));
  const settings = new Settings(options, presets);
  showControls(settings);
  const pictures = new Pictures(
    () => changed(),
    (options) => use({ options }),
  );
  const masks = new Masks(settings, pictures);
  const history = new History((run) => (stage.picking && run.id !== stage.run.id ? stage.pairWith(run) : select(run)));
  const stage = new Stage({ changed: (run) => history.update(run), reuse: use, gone });
  history.drawn = (runs) => {
    $("start").textContent = runs.some(active) ? "Add to the queue" : "Paint";
  };

  let waiting;
  settings.listeners.push(() => changed());
  $("setup").addEventListener("submit", (event) => {
    event.preventDefault();
    start();
  });
  await restore();
  await history.refresh();
  const named = location.hash.slice(1);
  select(history.runs.find(({ id }) => id === named) ?? history.runs.find(active) ?? null);

  function body() {
    return { content: pictures.content[0]?.id, styles: pictures.styles.map(({ id }) => id), ...settings.request() };
  }

  function changed() {
    sessionStorage.setItem(KEPT, JSON.stringify(body()));
    masks.refresh();
    clearTimeout(waiting);
    waiting = setTimeout(plan, 400);
  }

  // What the run would take; what is wrong is said before it starts.
  async function plan() {
    const asked = body();
    if (!asked.content) return void ($("plan").textContent = "Choose a photograph and a painting.");
    try {
      const planned = await post("plan", asked);
      if (JSON.stringify(asked) !== JSON.stringify(body())) return;
      showFault(null);
      $("plan").textContent = planWords(planned);
      $("plan").title = (planned.words ?? []).join("\n");
    } catch (error) {
      $("plan").textContent = "";
      showFault(error);
    }
  }

  async function start() {
    const missing = !pictures.content.length ? "content" : !pictures.styles.length ? "styles" : null;
    if (missing) {
      const words = { content: "Choose a photograph first.", styles: "Choose a painting first." };
      showFault({ message: words[missing], option: missing });
      return $(`${missing}-file`).focus();
    }
    $("start").disabled = true;
    try {
      const run = await post("runs", body());
      showFault(null);
      history.update(run);
      select(run);
      if (run.state === "queued" && run.place > 1) tell(`Queued, place ${run.place}`);
      history.refresh();
    } catch (error) {
      showFault(error);
    } finally {
      $("start").disabled = false;
    }
  }

  function select(run) {
    stage.show(run);
    history.choose(run);
    window.history.replaceState(null, "", run ? `#${run.id}` : location.pathname);
    if (run) $("stage").scrollIntoView({ block: "nearest" });
  }

  async function gone() {
    await history.refresh();
    select(history.runs[0] ?? null);
  }

  // The settings of a run, with its pictures, or of a picture's record.
  async function use({ content, styles, ...chosen }) {
    settings.load(chosen);
    if (content) await pictures.load(content, styles);
    tell("Its settings are set");
  }

  async function restore() {
    const kept = JSON.parse(sessionStorage.getItem(KEPT) ?? "null");
    if (!kept) return changed();
    settings.load(kept);
    await pictures.load(...(kept.content ? [kept.content, kept.styles] : [null, kept.styles]));
  }
}

function planWords({ width, height, steps, seconds, memory_mib, engine, device, tiles }) {
  const time = seconds == null ? "time unknown yet" : `about ${duration(seconds)}`;
  const means = [
    `${amount(memory_mib)} of memory`,
    `engine ${engine} on ${device}`,
    ...(tiles > 1 ? [`${tiles} tiles`] : []),
  ];
  return [[`${width} × ${height}`, `${steps} steps`, time], means].map((line) => line.join("  ·  ")).join("\n");
}

begin().catch((error) => {
  showFault({ message: error.message, remedy: error.remedy ?? "" });
  throw error;
});
