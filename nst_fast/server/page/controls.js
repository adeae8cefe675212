// The controls of the settings: the few in view, and the panel of all options, generated from their declarations.

import { $, make, readable, segment, sentences, worded } from "./elements.js";

const COLORS = { none: "Painting", keep: "Photo", match: "Matched", luma: "Luma" };
const SIZES = [256, 512, 1024, 2048];
const MASKS = ["region", "map", "content_mask", "style_mask"]; // have controls of their own

export function showControls(settings) {
  const refreshers = [looks, recipes, strength, stroke, colors, qualities, sizes, panel].map((show) => show(settings));
  const refresh = () => refreshers.forEach((each) => each());
  settings.listeners.push(refresh);
  refresh();
}

// --- in view --------------------------------------------------------------------------------------------------------

function looks(settings) {
  const names = [...settings.presets.values()].filter((preset) => preset.look);
  for (const { name, summary } of names) {
    const input = make("input", { type: "radio", name: "look", value: name, title: summary });
    input.addEventListener("change", () => settings.choosePreset(name === names[0].name ? null : name));
    const picture = make("img", { src: `page/look-${name}.webp`, alt: "", width: 96, height: 96 });
    $("looks").append(make("label", {}, input, picture, make("span", {}, name)));
  }
  return () => {
    const chosen = settings.presets.get(settings.preset ?? names[0].name);
    check("look", chosen.name);
    $("look-summary").textContent = chosen.summary;
  };
}

function recipes(settings) {
  const names = [...settings.presets.values()].filter((preset) => !preset.look).map((preset) => preset.name);
  $("recipes").append(...names.map((name) => make("option", { value: name }, name)));
  $("recipes").addEventListener("change", (event) => settings.choosePreset(event.target.value || null));
  return () => {
    $("recipes").value = names.includes(settings.preset) ? settings.preset : "";
  };
}

function strength(settings) {
  $("strength").addEventListener("input", (event) => settings.set("strength", Number(event.target.value)));
  return () => {
    $("strength").value = settings.value("strength");
    $("strength-shown").textContent = `${Math.round(100 * settings.value("strength"))} %`;
  };
}

// Equal steps of the slider are equal ratios.
function stroke(settings) {
  $("stroke").addEventListener("input", (event) =>
    settings.set("style_scale", Math.round(100 * 2 ** Number(event.target.value)) / 100),
  );
  return () => {
    const scale = settings.value("style_scale"),
      text = `${scale} times the painting’s`;
    $("stroke").value = Math.log2(scale);
    $("stroke").setAttribute("aria-valuetext", text);
    $("stroke-shown").textContent = `× ${scale}`;
  };
}

function colors(settings) {
  const { choices, help } = settings.declared.get("color");
  const chosen = (value) => settings.set("color", value);
  $("colors").append(...choices.map((name) => segment("color", name, [COLORS[name] ?? name], help, chosen)));
  return () => check("color", settings.value("color"));
}

function qualities(settings) {
  const entries = Object.entries(settings.qualities);
  const steps = (count) => make("small", {}, `${count} steps`);
  const chosen = (name) => settings.chooseQuality(name);
  $("qualities").append(
    ...entries.map(([name, values]) => segment("quality", name, [readable(name), steps(values.steps)], null, chosen)),
  );
  return () => check("quality", entries.find(([, values]) => values.steps === settings.value("steps"))?.[0]);
}

function sizes(settings) {
  const { minimum, maximum } = settings.declared.get("image_size");
  Object.assign($("size"), { min: minimum, max: maximum });
  $("sizes").append(
    ...SIZES.map((size) => segment("size", size, [String(size)], null, () => settings.set("image_size", size))),
  );
  $("size").addEventListener("change", () => settings.set("image_size", number($("size"))));
  return () => {
    $("size").value = settings.value("image_size");
    check("size", settings.value("image_size"));
  };
}

function check(group, value) {
  for (const input of document.querySelectorAll(`input[name="${group}"]`))
    input.checked = input.value === String(value);
}

const number = (input) => (input.value === "" ? undefined : Number(input.value));

// --- the panel ------------------------------------------------------------------------------------------------------

function panel(settings) {
  const fields = [...settings.declared.values()]
    .filter(({ name }) => !MASKS.includes(name))
    .map((option) => field(option, settings));
  const groups = Map.groupBy(fields, (each) => each.option.group);
  for (const [title, members] of groups) {
    $("groups").append(make("details", {}, make("summary", {}, title), ...members.map((each) => each.element)));
  }
  $("find").addEventListener("input", () => find($("find").value.trim().toLowerCase(), fields));
  return () => {
    for (const each of fields) each.refresh();
    $("changed").textContent = settings.given.size ? `${settings.given.size} changed` : "";
  };
}

function find(text, fields) {
  for (const { option, element } of fields) {
    element.hidden = !`${option.name} ${readable(option.name)} ${option.help}`.toLowerCase().includes(text);
  }
  for (const group of $("groups").children) {
    const found = group.querySelector(".option:not([hidden])") !== null;
    group.hidden = !found;
    group.open = Boolean(text) && found;
  }
}

// One option: its label, input, help, and a button that takes its value back.
function field(option, settings) {
  const { name, help } = option,
    id = `option-${name}`;
  const control = input(option, { id, "aria-describedby": `help-${name} fault-${name}` });
  control.addEventListener("change", () => settings.set(name, entered(option, control)));
  const reset = make(
    "button",
    { type: "button", className: "reset", "aria-label": `Reset ${readable(name)}`, title: "Reset" },
    "↺",
  );
  reset.addEventListener("click", () => {
    settings.set(name, undefined);
    control.focus();
  });
  const element = make(
    "div",
    { className: "option", "data-option": name },
    make("label", { htmlFor: id }, readable(name)),
    control,
    reset,
    make("p", { className: "help", id: `help-${name}` }, ...worded(help + range(option))),
  );
  return {
    option,
    element,
    refresh: () => {
      show(option, control, settings.value(name));
      element.classList.toggle("set", settings.given.has(name));
    },
  };
}

function input(option, attributes) {
  if (option.kind === "choice") {
    return make("select", attributes, ...option.choices.map((value) => make("option", { value }, value)));
  }
  if (option.kind === "boolean") return make("input", { type: "checkbox", ...attributes });
  if (option.kind === "text")
    return make("input", { type: "text", spellcheck: false, placeholder: option.metavar ?? "", ...attributes });
  const step = option.kind === "integer" ? 1 : "any";
  return make("input", {
    type: "number",
    min: option.minimum,
    max: option.maximum,
    step,
    placeholder: "auto",
    ...attributes,
  });
}

function range({ kind, minimum, maximum }) {
  if (!["integer", "number"].includes(kind) || minimum === null) return "";
  return maximum === null ? ` At least ${minimum}.` : ` From ${minimum} to ${maximum}.`;
}

function entered({ kind }, control) {
  if (kind === "boolean") return control.checked;
  return kind === "integer" || kind === "number" ? number(control) : control.value;
}

function show({ kind }, control, value) {
  if (kind === "boolean") control.checked = value;
  else control.value = value ?? "";
}

// --- errors ---------------------------------------------------------------------------------------------------------

// Take the messages away, and put one where its option is set; where there is none, above the button that starts.
export function showFault(error) {
  document.querySelectorAll("[data-option] > .fault").forEach((old) => old.remove());
  document.querySelectorAll("#setup [aria-invalid]").forEach((old) => old.removeAttribute("aria-invalid"));
  $("fault").replaceChildren();
  if (!error) return;
  const places = [...document.querySelectorAll(`#setup [data-option="${error.option}"]`)];
  if (!places.length) $("fault").replaceChildren(...sentences(error));
  for (const place of places) {
    place.append(
      make(
        "p",
        { className: "fault", role: "alert", id: place.matches(".option") ? `fault-${error.option}` : null },
        ...sentences(error),
      ),
    );
    place
      .querySelectorAll("input:not([type=radio], [type=file]), select")
      .forEach((each) => each.setAttribute("aria-invalid", "true"));
  }
  if (places.length) reveal(places[0]);
}

function reveal(place) {
  for (let fold = place.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
  place.scrollIntoView({ block: "nearest" });
}
