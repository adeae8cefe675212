// The pictures of the next run: dropped, pasted, chosen from a file, from the samples or from earlier uploads.

import { get, upload } from "./api.js";
import { MASK } from "./brush.js";
import { showFault } from "./controls.js";
import { $, make, say, tell } from "./elements.js";

const KINDS = ["content", "styles"];

export class Pictures {
  // `changed` is called when there are other pictures, `record` with the options of one that nst-fast made.
  constructor(changed, record) {
    Object.assign(this, { content: [], styles: [], changed, record });
    for (const kind of KINDS) this.receive(kind);
    this.receiveAnywhere();
    $("shelf").addEventListener("toggle", () => $("shelf").open && this.fillShelf());
    $("try-samples").addEventListener("click", () => this.trySamples());
  }

  receive(kind) {
    const input = $(`${kind}-file`);
    input.addEventListener("change", async () => {
      await this.take(kind, [...input.files]);
      input.value = "";
    });
    droppable($(kind), (files) => this.take(kind, files));
  }

  // On the stage: a picture made by nst-fast brings its settings, another is the content, the next ones are styles.
  receiveAnywhere() {
    droppable($("frame"), (files) => this.sort(files));
    document.addEventListener("dragover", (event) => event.preventDefault());
    document.addEventListener("drop", (event) => event.preventDefault());
    document.addEventListener("paste", (event) => {
      const files = [...event.clipboardData.files];
      if (files.length) this.sort(files, document.activeElement.closest?.(".well")?.id);
    });
  }

  async sort(files, kind) {
    for (const file of files) {
      const [picture] = await this.uploaded("content", [file]);
      if (picture?.record && !kind) this.record(picture.record);
      else if (picture) this.add(kind ?? (this.content.length ? "styles" : "content"), [picture]);
    }
  }

  async take(kind, files) {
    this.add(kind, await this.uploaded(kind, files));
  }

  // The pictures that the server has read; of a file that it refuses its reason is shown.
  async uploaded(kind, files) {
    const pictures = [];
    $(kind).setAttribute("aria-busy", "true");
    try {
      for (const file of files) pictures.push(await upload(file));
    } catch (error) {
      if ([null, "file"].includes(error.option)) error.option = kind;
      showFault(error);
    } finally {
      $(kind).removeAttribute("aria-busy");
    }
    return pictures;
  }

  add(kind, pictures) {
    if (!pictures.length) return;
    this.set(kind, kind === "content" ? pictures.slice(-1) : [...this.styles, ...pictures]);
    say(`${pictures.map(({ name }) => name).join(", ")} added as ${kind === "content" ? "content" : "style"}`);
  }

  set(kind, pictures) {
    this[kind] = pictures;
    const list = $(kind).querySelector(".pictures");
    list.replaceChildren(...pictures.map((picture, index) => this.item(kind, picture, index)));
    $(kind)
      .querySelector(".add span")
      .replaceChildren(...adding(kind, pictures.length));
    this.changed();
  }

  item(kind, picture, index) {
    const remove = make("button", { type: "button", "aria-label": `Remove ${picture.name}`, title: "Remove" }, "×");
    remove.addEventListener("click", () => {
      this.set(
        kind,
        this[kind].filter((_, each) => each !== index),
      );
      $(`${kind}-file`).focus();
    });
    const item = make("li", {}, make("img", { src: `api/uploads/${picture.id}/thumbnail`, alt: picture.name }), remove);
    if (picture.record) {
      const use = make("button", { type: "button", className: "record" }, "Use its settings");
      use.addEventListener("click", () => this.record(picture.record));
      item.append(use);
    }
    return item;
  }

  // Pictures by their ids, as a run names them.
  async load(content, styles) {
    const found = await Promise.all([content, ...styles].map((id) => get(`uploads/${id}/about`).catch(() => null)));
    const [scene, ...manners] = found;
    this.set("content", scene ? [scene] : []);
    this.set("styles", manners.filter(Boolean));
    if (found.includes(null)) tell("Some pictures of that run are no longer there");
  }

  async fillShelf() {
    const pictures = await shelf();
    $("shelf")
      .querySelector("ul")
      .replaceChildren(
        ...pictures.map((picture) =>
          make(
            "li",
            {},
            make("img", { src: `api/uploads/${picture.id}/thumbnail`, alt: picture.name, loading: "lazy" }),
            make("div", {}, ...KINDS.map((kind) => this.button(kind, picture))),
          ),
        ),
      );
  }

  button(kind, picture) {
    const word = kind === "content" ? "content" : "style";
    const button = make("button", { type: "button", "aria-label": `${picture.name} as ${word}` }, word);
    button.addEventListener("click", () => this.add(kind, [picture]));
    return button;
  }

  async trySamples() {
    say("The samples are being drawn");
    $("try-samples").disabled = true;
    const samples = await get("samples").finally(() => {
      $("try-samples").disabled = false;
    });
    for (const kind of KINDS) this.set(kind, samples.filter((sample) => kind.startsWith(sample.kind)).slice(0, 1));
    $("start").focus();
    say("The samples are chosen");
  }
}

// The samples, and the pictures that were uploaded before.
export async function shelf() {
  const [samples, uploads] = await Promise.all([get("samples"), get("uploads")]);
  const known = new Set(samples.map(({ id }) => id));
  return [...samples, ...uploads.filter(({ id, name }) => !known.has(id) && name !== MASK)];
}

function adding(kind, count) {
  if (count) return [kind === "content" ? "Replace" : "Add another"];
  const [what, how] = kind === "content" ? ["Photograph", "drop, paste or choose"] : ["Painting", "one or several"];
  return [make("b", {}, what), make("br"), how];
}

function droppable(element, taken) {
  element.addEventListener("dragover", () => element.classList.add("over"));
  element.addEventListener("dragleave", () => element.classList.remove("over"));
  element.addEventListener("drop", (event) => {
    event.preventDefault();
    element.classList.remove("over");
    taken([...event.dataTransfer.files]);
  });
}
