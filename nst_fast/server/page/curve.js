// The loss curve: an SVG on a logarithmic scale, the total and its two main terms.

const WIDTH = 280,
  HEIGHT = 84,
  MARGIN = 4,
  MOST = 600;

const TERMS = ["content", "style", "total"]; // that are drawn, the total on top

export class Curve {
  constructor(element) {
    this.element = element;
    this.start();
  }

  // Begin anew, with what is known: {step: [..], losses: {total: [..], ...}}.
  start({ step = [], losses = {} } = {}) {
    this.points = step.map((at, index) => [at, pick(losses, (values) => values[index])]);
    this.draw();
  }

  add(step, losses) {
    if (!losses || step <= (this.points.at(-1)?.[0] ?? -1)) return;
    this.points.push([step, losses]);
    this.draw();
  }

  draw() {
    const totals = this.points.map(([, losses]) => losses.total).filter((value) => value > 0);
    this.element.dataset.points = totals.length;
    this.element.setAttribute("aria-label", this.words(totals));
    this.element.replaceChildren();
    if (totals.length < 2) return;
    const values = this.points.flatMap(([, losses]) => TERMS.map((name) => losses[name])).filter((value) => value > 0);
    const top = Math.log10(Math.max(...values)),
      bottom = Math.log10(Math.max(Math.min(...values), Math.min(...totals) / 10));
    const first = this.points[0][0],
      last = this.points.at(-1)[0];
    this.place = (step, value) => [
      (WIDTH * (step - first)) / Math.max(1, last - first),
      MARGIN + ((HEIGHT - 2 * MARGIN) * (top - Math.max(bottom, Math.log10(value)))) / (top - bottom || 1),
    ];
    this.grid(top, bottom);
    for (const name of TERMS) this.line(name);
  }

  grid(top, bottom) {
    for (let power = Math.ceil(bottom); power <= top; power++) {
      const y = this.place(this.points[0][0], 10 ** power)[1];
      this.element.append(shape("line", { x1: 0, x2: WIDTH, y1: y, y2: y }));
    }
  }

  line(name) {
    const every = Math.ceil(this.points.length / MOST);
    const drawn = this.points.filter(
      ([, losses], index) => losses[name] > 0 && (index % every === 0 || index === this.points.length - 1),
    );
    const path = drawn
      .map(([step, losses]) =>
        this.place(step, losses[name])
          .map((at) => at.toFixed(1))
          .join(" "),
      )
      .join("L");
    if (drawn.length > 1)
      this.element.append(shape("path", { d: `M${path}`, class: name === "total" ? "total" : "term" }));
  }

  words(totals) {
    if (!totals.length) return "No losses yet";
    return `Loss from ${totals[0].toPrecision(3)} to ${totals.at(-1).toPrecision(3)} by step ${this.points.at(-1)[0]}`;
  }
}

function shape(tag, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

const pick = (losses, taken) =>
  Object.fromEntries(Object.entries(losses).map(([name, values]) => [name, taken(values)]));
