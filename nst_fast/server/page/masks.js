// Masks: where the content counts, parts with a style of their own, what of a style is used, maps of colours.

import { upload } from "./api.js";
import { MASK, paintMask } from "./brush.js";
import { showFault } from "./controls.js";
import { $, make } from "./elements.js";
import { shelf } from "./pictures.js";

const SEPARATOR = ";"; // as in nst_fast/options/regions.py

export class Masks {
  constructor(settings, pictures) {
    Object.assign(this, { settings, pictures, shelf: [], unfinished: null, maps: ["", ""] });
    $("masks").addEventListener("toggle", async () => {
      if (!$("masks").open) return;
      this.shelf = await shelf();
      this.drawn = null;
      this.refresh();
    });
  }

  // Draw anew if something changed; what had the focus keeps it.
  refresh() {
    const { settings, pictures } = this,
      values = ["region", "map", "content_mask", "style_mask"].map((name) => settings.value(name));
    const now = JSON.stringify([values, pictures.content, pictures.styles, this.unfinished, this.maps]);
    if (!$("masks").open || now === this.drawn) return;
    this.drawn = now;
    const focused = document.activeElement?.id;
    $("mask-list").replaceChildren(this.content(), this.regions(), this.styles(), this.colors());
    if (focused?.startsWith("mask-")) $(focused)?.focus();
  }

  content() {
    const id = this.settings.value("content_mask"),
      scene = this.pictures.content[0];
    const set = (mask) => this.settings.set("content_mask", mask);
    return block(
      "content_mask",
      "Where the content is kept",
      "White: the scene is held to. Black: the style is free.",
      make(
        "div",
        { className: "tools" },
        ...(id ? [thumbnail(id)] : []),
        ...this.ways("mask-content", scene, id, set),
        ...(id ? [button("mask-content-clear", "Clear", () => set(undefined))] : []),
      ),
    );
  }

  // --- parts with a style of their own ------------------------------------------------------------------------------

  get parts() {
    return split(this.settings.value("region")).map(part);
  }

  setParts(parts) {
    this.settings.set("region", parts.map(written).join(SEPARATOR) || undefined);
  }

  regions() {
    const begun = (mask) => {
      this.unfinished = mask;
      this.refresh();
      $("mask-region-style")?.focus();
    };
    const list = make("ul", {}, ...this.parts.map((each, index) => this.region(each, index)));
    const next = this.unfinished
      ? [thumbnail(this.unfinished), ...this.styleOf()]
      : this.ways("mask-region", this.pictures.content[0], null, begun);
    return block(
      "region",
      "Parts with a style of their own",
      "What no mask has is painted like the first style.",
      list,
      make("div", { className: "tools" }, ...next),
    );
  }

  region({ mask, style, weight }, index) {
    const others = this.parts.filter((_, each) => each !== index);
    const number = make("input", {
      type: "number",
      id: `mask-weight-${index}`,
      min: 0.01,
      step: "any",
      value: weight,
      "aria-label": `Weight of part ${index + 1}`,
    });
    number.addEventListener("change", () =>
      this.setParts(this.parts.with(index, { mask, style, weight: number.value || 1 })),
    );
    const remove = button(`mask-remove-${index}`, "Remove", () => this.setParts(others));
    return make("li", {}, thumbnail(mask), "like", thumbnail(style), "weight", number, remove);
  }

  // The style of the part that was just painted: a picture that is here, or a file.
  styleOf() {
    const known = new Map([...this.pictures.styles, ...this.shelf].map((picture) => [picture.id, picture.name]));
    const choice = make(
      "select",
      { id: "mask-region-style", "aria-label": "Style of this part" },
      make("option", { value: "" }, "Its style…"),
      ...[...known].map(([value, name]) => make("option", { value }, name)),
    );
    const chosen = (style) => {
      const { unfinished } = this;
      this.unfinished = null;
      this.setParts([...this.parts, { mask: unfinished, style, weight: 1 }]);
    };
    choice.addEventListener("change", () => choice.value && chosen(choice.value));
    const drop = button("mask-region-drop", "Cancel", () => {
      this.unfinished = null;
      this.refresh();
    });
    return [choice, this.file("mask-region-file", "Style from a file", chosen), drop];
  }

  // --- what of a style is used --------------------------------------------------------------------------------------

  styles() {
    const masks = split(this.settings.value("style_mask")),
      { styles } = this.pictures;
    const rows = styles.map((style, index) => {
      const id = masks[index],
        set = (mask) => this.setStyleMask(index, mask);
      return make(
        "li",
        {},
        thumbnail(style.id),
        ...(id ? ["by", thumbnail(id)] : []),
        ...this.ways(`mask-style-${index}`, style, id, set),
        ...(id ? [button(`mask-style-${index}-clear`, "Clear", () => this.settings.set("style_mask", undefined))] : []),
      );
    });
    return block(
      "style_mask",
      "What of a painting is used",
      styles.length ? "" : "Choose a painting first.",
      make("ul", {}, ...rows),
    );
  }

  // The option has one mask for each style image: those that have none get a white one.
  async setStyleMask(index, mask) {
    const masks = split(this.settings.value("style_mask")),
      white = await upload(await whiteMask(), MASK);
    const all = this.pictures.styles.map((_, each) => (each === index ? mask : (masks[each] ?? white.id)));
    this.settings.set("style_mask", all.join(SEPARATOR));
  }

  // --- maps of colours ----------------------------------------------------------------------------------------------

  colors() {
    const value = this.settings.value("map"),
      pair = value ? value.split("=") : this.maps;
    const set = (index) => (id) => {
      this.maps = pair.with(index, id);
      if (this.maps.every(Boolean)) this.settings.set("map", this.maps.join("="));
      else this.refresh();
    };
    const clear = () => {
      this.maps = ["", ""];
      this.settings.set("map", undefined);
      this.refresh();
    };
    const each = ["Of the photograph", "Of the painting"].flatMap((label, index) => [
      ...(pair[index] ? [thumbnail(pair[index])] : []),
      this.file(`mask-map-${index}`, label, set(index)),
    ]);
    const used = pair.some(Boolean) ? [button("mask-map-clear", "Clear", clear)] : [];
    return block(
      "map",
      "Maps of colours",
      "One colour per region in both; like is painted like like.",
      make("div", { className: "tools" }, ...each, ...used),
    );
  }

  // --- how a mask is given: painted, or from a file -----------------------------------------------------------------

  ways(id, picture, mask, set) {
    const paint = button(`${id}-paint`, mask ? "Edit…" : "Paint…", async () => {
      const painted = await paintMask(picture, mask);
      if (painted) set(painted.id);
    });
    paint.disabled = !picture;
    return [paint, this.file(`${id}-file`, "From a file", set)];
  }

  file(id, label, set) {
    const input = make("input", { type: "file", id, accept: "image/*" });
    input.addEventListener("change", async () => {
      try {
        set((await upload(input.files[0])).id);
      } catch (error) {
        error.option = input.closest("[data-option]").dataset.option;
        showFault(error);
      }
    });
    return make("label", { className: "file" }, label, input);
  }
}

const split = (text) => (text ?? "").split(SEPARATOR).filter(Boolean);

function part(text) {
  const [mask, rest] = text.split("="),
    [style, weight = "1"] = rest.split(":");
  return { mask, style, weight };
}

const written = ({ mask, style, weight }) => `${mask}=${style}${Number(weight) === 1 ? "" : `:${weight}`}`;

const thumbnail = (id) => make("img", { src: `api/uploads/${id}/thumbnail`, alt: "" });

function button(id, label, action) {
  const made = make("button", { type: "button", id }, label);
  made.addEventListener("click", action);
  return made;
}

const block = (option, title, help, ...children) =>
  make(
    "div",
    { className: "mask", "data-option": option },
    make("h3", {}, title),
    ...(help ? [make("p", { className: "help" }, help)] : []),
    ...children,
  );

function whiteMask() {
  const canvas = make("canvas", { width: 64, height: 64 }),
    context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, 64, 64);
  return new Promise((resolve) => canvas.toBlob(resolve));
}
