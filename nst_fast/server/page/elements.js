// Small helpers of the document: making elements, wording values, saying things.

export const $ = (id) => document.getElementById(id);

export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

export const readable = (name) => name.replaceAll("_", " ");

// Text with `names` in backticks as code elements.
export function worded(text) {
  return text.split("`").map((part, index) => (index % 2 ? make("code", {}, readable(part)) : part));
}

// An error's message and its remedy, as the command line puts them.
export const sentences = ({ message, remedy }) => worded(remedy ? `${message.replace(/\.$/, "")}. ${remedy}` : message);

export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds)),
    minutes = Math.floor(whole / 60),
    hours = Math.floor(minutes / 60);
  if (hours) return `${hours} h ${minutes % 60} min`;
  return minutes ? `${minutes} min ${whole % 60} s` : `${whole} s`;
}

export const amount = (mebibytes) =>
  mebibytes < 1024 ? `${Math.round(mebibytes)} MiB` : `${(mebibytes / 1024).toFixed(1)} GiB`;

// Said to a screen reader.
export function say(text) {
  $("say").textContent = text;
}

let fading;

// Said to everyone, for a moment.
export function tell(text) {
  say(text);
  $("toast").textContent = text;
  $("toast").classList.add("shown");
  clearTimeout(fading);
  fading = setTimeout(() => $("toast").classList.remove("shown"), 4000);
}

// One choice of several, as radio buttons side by side.
export function segment(group, value, label, detail, chosen) {
  const input = make("input", { type: "radio", name: group, value, title: detail ?? null });
  input.addEventListener("change", () => chosen(value));
  return make("label", {}, input, make("span", {}, ...label));
}
