// A mask painted over a picture, with pointer or keyboard, in a dialog.

import { upload } from "./api.js";
import { showFault } from "./controls.js";
import { $, make } from "./elements.js";

export const MASK = "mask.png"; // what an upload is called that is a mask
const LONGEST = 1024,
  COLOR = "#ff3b6b"; // of the canvas, and of what is painted until it is saved as white

// The picture's mask as an upload, beginning with that of `mask`, an id; null when it is cancelled.
export async function paintMask(picture, mask) {
  const scale = Math.min(1, LONGEST / Math.max(picture.width, picture.height));
  const size = [picture.width, picture.height].map((side) => Math.max(1, Math.round(side * scale)));
  $("brush-picture").src = `api/uploads/${picture.id}`;
  $("brush-title").textContent = `Mask of ${picture.name}`;
  const brush = new Brush($("brush-canvas"), size);
  if (mask) await brush.load(`api/uploads/${mask}`);
  $("brush").returnValue = "cancel";
  $("brush").showModal();
  brush.canvas.focus();
  await new Promise((resolve) => $("brush").addEventListener("close", resolve, { once: true }));
  brush.leave();
  if ($("brush").returnValue !== "use") return null;
  return upload(await brush.saved(), MASK).catch((error) => void showFault(error));
}

class Brush {
  constructor(canvas, [width, height]) {
    Object.assign(canvas, { width, height });
    Object.assign(this, {
      canvas,
      context: canvas.getContext("2d", { willReadFrequently: true }),
      at: [width / 2, height / 2],
      past: [],
    });
    this.listening = new AbortController();
    const listen = (element, name, handler) =>
      element.addEventListener(name, handler, { signal: this.listening.signal });
    listen(canvas, "pointerdown", (event) => this.press(event));
    listen(canvas, "pointermove", (event) => this.move(event));
    listen(canvas, "keydown", (event) => this.key(event));
    listen($("brush-size"), "input", () => this.cursor());
    listen($("brush-undo"), "click", () => this.undo());
    listen($("brush-clear"), "click", () => {
      this.remember();
      this.context.clearRect(0, 0, canvas.width, canvas.height);
    });
    listen($("brush-invert"), "click", () => this.invert());
    listen(window, "resize", () => this.cursor());
    listen($("brush-picture"), "load", () => this.cursor());
  }

  leave() {
    this.listening.abort();
  }

  // Diameter in pixels of the canvas: per cent of its longer side.
  get size() {
    return (Number($("brush-size").value) / 100) * Math.max(this.canvas.width, this.canvas.height);
  }

  get erasing() {
    return document.querySelector("input[name=tool]:checked").value === "erase";
  }

  place({ offsetX, offsetY }) {
    return [
      (offsetX * this.canvas.width) / this.canvas.clientWidth,
      (offsetY * this.canvas.height) / this.canvas.clientHeight,
    ];
  }

  press(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.remember();
    this.at = this.place(event);
    this.stroke(this.at);
    this.cursor();
  }

  move(event) {
    const to = this.place(event);
    if (event.buttons & 1) this.stroke(to);
    this.at = to;
    this.cursor();
  }

  key(event) {
    const far = event.shiftKey ? this.size : this.size / 4;
    const [x, y] =
      { ArrowLeft: [-far, 0], ArrowRight: [far, 0], ArrowUp: [0, -far], ArrowDown: [0, far], " ": [0, 0] }[event.key] ??
      [];
    if (x === undefined) return;
    event.preventDefault();
    if (event.key === " ") {
      this.remember();
      this.stroke(this.at);
    }
    const { width, height } = this.canvas;
    this.at = [Math.min(width, Math.max(0, this.at[0] + x)), Math.min(height, Math.max(0, this.at[1] + y))];
    this.cursor();
  }

  // From where the brush is to another place.
  stroke(to) {
    const { context } = this;
    context.globalCompositeOperation = this.erasing ? "destination-out" : "source-over";
    Object.assign(context, { strokeStyle: COLOR, lineWidth: this.size, lineCap: "round" });
    context.beginPath();
    context.moveTo(...this.at);
    context.lineTo(to[0] + 0.01, to[1]);
    context.stroke();
    context.globalCompositeOperation = "source-over";
  }

  cursor() {
    const scale = this.canvas.clientWidth / this.canvas.width,
      { style } = $("brush-cursor");
    style.left = `${this.at[0] * scale}px`;
    style.top = `${this.at[1] * scale}px`;
    style.width = style.height = `${this.size * scale}px`;
  }

  get pixels() {
    return this.context.getImageData(0, 0, this.canvas.width, this.canvas.height);
  }

  remember() {
    this.past = [...this.past.slice(-9), this.pixels];
  }

  undo() {
    if (this.past.length) this.context.putImageData(this.past.pop(), 0, 0);
  }

  invert() {
    const { pixels } = this;
    this.remember();
    this.fill(pixels, (offset) => 255 - pixels.data[offset + 3]);
  }

  // What is white in a mask is painted.
  async load(url) {
    const image = make("img", { src: url });
    await image.decode();
    this.context.drawImage(image, 0, 0, this.canvas.width, this.canvas.height);
    const { pixels } = this;
    this.fill(pixels, (offset) => pixels.data[offset]);
  }

  fill(pixels, alpha) {
    const color = [1, 3, 5].map((at) => parseInt(COLOR.slice(at, at + 2), 16));
    for (let offset = 0; offset < pixels.data.length; offset += 4) pixels.data.set([...color, alpha(offset)], offset);
    this.context.putImageData(pixels, 0, 0);
  }

  // White where it is painted, on black.
  saved() {
    const { width, height } = this.canvas,
      copy = make("canvas", { width, height }),
      context = copy.getContext("2d");
    context.drawImage(this.canvas, 0, 0);
    context.globalCompositeOperation = "source-in";
    context.fillStyle = "#fff";
    context.fillRect(0, 0, width, height);
    context.globalCompositeOperation = "destination-over";
    context.fillStyle = "#000";
    context.fillRect(0, 0, width, height);
    return new Promise((resolve) => copy.toBlob(resolve));
  }
}
