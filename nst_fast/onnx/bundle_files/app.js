// The bundle's models driven from a browser: what run.py does, with onnxruntime-web from the folder ort/.

const RUNTIME = new URL("ort/node_modules/onnxruntime-web/dist/", location.href).href;
const COMMAND = "npm install --no-save --prefix ort onnxruntime-web";
const $ = (id) => document.getElementById(id);
const pictures = { content: null, style: null };
let runtime, provider, manifest, stopped = false, running = false;

function say(text) { $("status").textContent = text; }
function warn(text) { $("message").textContent = text; $("message").hidden = !text; }

async function prepare() {
  if (location.protocol === "file:") {
    throw new Error("A browser does not load models from a file address.\nIn this folder: python -m http.server");
  }
  const answer = await fetch("manifest.json");
  if (!answer.ok) throw new Error("manifest.json is missing: this page belongs into a bundle folder.");
  manifest = await answer.json();
  try {
    runtime = await import(RUNTIME + "ort.webgpu.min.mjs");
  } catch {
    throw new Error(`onnxruntime-web is not in the folder ort/. Put it there, in this folder, with\n\n    ${COMMAND}`);
  }
  runtime.env.wasm.wasmPaths = RUNTIME;
  runtime.env.logLevel = "error";
  provider = await chooseProvider();
  say(`ready, computing with ${provider}`);
}

async function chooseProvider() {
  const asked = new URLSearchParams(location.search).get("provider");
  if (asked) return asked;
  return navigator.gpu && (await navigator.gpu.requestAdapter()) ? "webgpu" : "wasm";
}

const open = (name) => runtime.InferenceSession.create(name, { executionProviders: [provider] });
const tensor = (values, shape) => new runtime.Tensor("float32", Float32Array.from(values), shape);
const scalar = (value) => tensor([value], [1]);

// --- pictures ------------------------------------------------------------------------------------------------------

// A file's pixels as three planes of float in [0, 1], on white where transparent, at a longest side in pixels: resized
// as nst-fast does, by averaging squares of pixels and then by the cubic filter.
async function readPicture(file, longestSide) {
  const bitmap = await createImageBitmap(file, { imageOrientation: "from-image" });
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, bitmap.width, bitmap.height);
  context.drawImage(bitmap, 0, 0);
  const { data, width, height } = context.getImageData(0, 0, bitmap.width, bitmap.height);
  const size = [height, width].map((side) => Math.max(1, Math.floor((side * longestSide) / Math.max(width, height) + 0.5)));
  const image = new Float32Array(3 * size[0] * size[1]);
  // A JPEG is first brought to a half, a quarter or an eighth, as decoders do.
  let spare = Math.floor(Math.max(width, height) / (3 * longestSide));
  const first = file.type === "image/jpeg" ? [8, 4, 2, 1].find((factor) => factor <= Math.max(1, spare)) : 1;
  spare = Math.max(1, Math.floor(Math.ceil(Math.max(width, height) / first) / (3 * longestSide)));
  for (let channel = 0; channel < 3; channel++) {
    let plane = { values: new Float32Array(width * height), height, width };
    for (let i = 0; i < width * height; i++) plane.values[i] = data[4 * i + channel] / 255;
    plane = averaged(averaged(plane, first), spare);
    const narrow = resizeRows(plane.values, plane.height, plane.width, size[1], width / (first * spare));
    const turned = transpose(narrow, plane.height, size[1]);
    const resized = transpose(resizeRows(turned, size[1], plane.height, size[0], height / (first * spare)), size[1], size[0]);
    image.set(resized.map((v) => Math.min(1, Math.max(0, v))), channel * size[0] * size[1]);
  }
  return { image, height: size[0], width: size[1] };
}

// Means of squares of so many pixels; of what there is of them at the right and at the bottom.
function averaged({ values, height, width }, factor) {
  if (factor === 1) return { values, height, width };
  const rows = Math.ceil(height / factor), columns = Math.ceil(width / factor), result = new Float32Array(rows * columns);
  for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) {
    const bottom = Math.min(height, (r + 1) * factor), right = Math.min(width, (c + 1) * factor);
    let sum = 0;
    for (let y = r * factor; y < bottom; y++) for (let x = c * factor; x < right; x++) sum += values[y * width + x];
    result[r * columns + c] = sum / ((bottom - r * factor) * (right - c * factor));
  }
  return { values: result, height: rows, width: columns };
}

function transpose(values, rows, columns) {
  const turned = new Float32Array(values.length);
  for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) turned[c * rows + r] = values[r * columns + c];
  return turned;
}

// Every row brought to another length by the cubic filter of Keys (a = -0.5), widened when shrinking: as Pillow does.
// The picture may end within the last pixel: its true length is the extent.
function resizeRows(values, rows, from, to, extent) {
  const scale = extent / to, stretch = Math.max(1, scale), result = new Float32Array(rows * to);
  for (let x = 0; x < to; x++) {
    const centre = (x + 0.5) * scale;
    const first = Math.max(0, Math.floor(centre - 2 * stretch + 0.5));
    const last = Math.min(from, Math.floor(centre + 2 * stretch + 0.5));
    const weights = [];
    for (let i = first; i < last; i++) weights.push(cubic((i + 0.5 - centre) / stretch));
    const sum = weights.reduce((a, b) => a + b, 0);
    for (let r = 0; r < rows; r++) {
      let value = 0;
      for (let i = first; i < last; i++) value += weights[i - first] * values[r * from + i];
      result[r * to + x] = value / sum;
    }
  }
  return result;
}

function cubic(x) {
  const d = Math.abs(x);
  if (d < 1) return (1.5 * d - 2.5) * d * d + 1;
  return d < 2 ? ((-0.5 * d + 2.5) * d - 4) * d + 2 : 0;
}

function draw(image, height, width) {
  const canvas = $("picture");
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const pixels = new ImageData(width, height), plane = width * height;
  for (let i = 0; i < plane; i++) {
    for (let channel = 0; channel < 3; channel++) pixels.data[4 * i + channel] = 255 * image[channel * plane + i];
    pixels.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

function drawCurve(losses) {
  const canvas = $("curve"), context = canvas.getContext("2d"), logs = losses.map(Math.log10);
  const top = Math.max(...logs), bottom = Math.min(...logs), span = top - bottom || 1, margin = 24;
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.strokeStyle = context.fillStyle = "#3b82f6";
  context.font = "16px system-ui, sans-serif";
  context.lineWidth = 2.5;
  context.beginPath();
  logs.forEach((value, step) => {
    const x = (canvas.width * step) / Math.max(1, logs.length - 1);
    context.lineTo(x, margin + ((canvas.height - 2 * margin) * (top - value)) / span);
  });
  context.stroke();
  context.fillText(`loss ${losses[0].toPrecision(4)} → ${losses.at(-1).toPrecision(4)}`, 8, 18);
}

// --- the loop ------------------------------------------------------------------------------------------------------

async function measure(session, picture) {
  return session.run({ image: tensor(picture.image, [1, 3, picture.height, picture.width]) });
}

// Every input of the step model that stays the same over a run.
function constantInputs(content, style, contentSize, styleSize) {
  const feeds = {}, count = (size, halvings) => (size.height >> halvings) * (size.width >> halvings);
  for (const { kind, tap, halvings, factor, power, relative } of manifest.terms) {
    const positions = count(contentSize, halvings);
    let target;
    if (kind === "content") {
      target = feeds[`target/content/${tap}`] = content[`content/${tap}`];
    } else {
      const gram = style[`gram/${tap}`], seen = count(styleSize, halvings);
      target = feeds[`target/gram/${tap}`] = tensor(gram.data.map((v) => v / seen), gram.dims);
      feeds[`inverse_positions/${tap}`] = scalar(1 / positions);
    }
    const energy = relative ? Math.max(target.data.reduce((sum, v) => sum + v * v, 0), 1e-30) : 1;
    feeds[`weight/${kind}/${tap}`] = scalar((factor * positions ** power) / energy);
  }
  const { height, width } = contentSize;
  for (const { name, halvings } of manifest.pools) {
    const odd = [height, width].map((side) => BigInt((side >> halvings) % 2));
    feeds[`pads/${name}`] = new runtime.Tensor("int64", BigInt64Array.from([0n, 0n, 0n, 0n, 0n, 0n, ...odd]), [8]);
  }
  if (manifest.tv_colors) {
    feeds["weight/tv/colors"] = tensor(manifest.tv_colors.flat(), [3, 3, 1, 1]);
    feeds["weight/tv/down"] = scalar(1 / (3 * (height - 1) * width));
    feeds["weight/tv/right"] = scalar(1 / (3 * height * (width - 1)));
  }
  return feeds;
}

async function optimise(content, style, steps, rate) {
  say("measuring the pictures");
  const targets = await open("targets.onnx");
  const fixed = constantInputs(await measure(targets, content), await measure(targets, style), content, style);
  await targets.release();
  say("loading the step");
  const session = await open("step.onnx");
  const shape = [1, 3, content.height, content.width], zeros = new Float32Array(content.image.length);
  let state = { pastiche: tensor(content.image, shape), m: tensor(zeros, shape), v: tensor(zeros, shape) };
  const { beta1, beta2 } = manifest.adam, losses = [], started = performance.now();
  for (let step = 1; step <= steps && !stopped; step++) {
    const scalars = { learning_rate: scalar(rate), correction1: scalar(1 - beta1 ** step), correction2: scalar(1 - beta2 ** step) };
    const wanted = ["new_pastiche", "new_m", "new_v", "total"];
    const result = await session.run({ ...fixed, ...state, ...scalars }, wanted);
    state = { pastiche: result.new_pastiche, m: result.new_m, v: result.new_v };
    losses.push(result.total.data[0]);
    if (!Number.isFinite(losses.at(-1))) throw new Error("The loss is no longer a number. Use a lower learning rate.");
    draw(state.pastiche.data, content.height, content.width);
    drawCurve(losses);
    const speed = (1000 * step) / (performance.now() - started);
    say(`step ${step} of ${steps}: loss ${losses.at(-1).toPrecision(5)}, ${speed.toFixed(2)} steps/s on ${provider}`);
    await new Promise((resume) => setTimeout(resume));
  }
  await session.release();
  say(`${stopped ? "stopped" : "done"} after ${losses.length} steps: loss ${losses.at(-1).toPrecision(5)} on ${provider}`);
  return losses;
}

async function start() {
  warn("");
  stopped = false;
  running = true;
  refresh();
  try {
    const size = Number($("size").value), steps = Number($("steps").value), rate = Number($("rate").value);
    const [content, style] = await Promise.all([pictures.content, pictures.style].map((file) => readPicture(file, size)));
    if (Math.min(content.height, content.width, style.height, style.width) < manifest.smallest_side) {
      throw new Error(`Both sides of both pictures need ${manifest.smallest_side} pixels. Use a larger size.`);
    }
    draw(content.image, content.height, content.width);
    $("curve").dataset.losses = JSON.stringify(await optimise(content, style, steps, rate));
    $("save").disabled = false;
  } catch (error) {
    say("failed");
    warn(error.message);
  }
  running = false;
  refresh();
}

// --- the page ------------------------------------------------------------------------------------------------------

function refresh() {
  $("start").disabled = running || !runtime || !pictures.content || !pictures.style;
  $("stop").disabled = !running;
}

function take(kind, file) {
  if (!file) return;
  pictures[kind] = file;
  const image = new Image();
  image.src = URL.createObjectURL(file);
  image.alt = `The ${kind} picture`;
  $(`${kind}-zone`).querySelectorAll("img, span").forEach((old) => old.remove());
  $(`${kind}-zone`).append(image);
  refresh();
}

for (const kind of ["content", "style"]) {
  const zone = $(`${kind}-zone`);
  $(kind).addEventListener("change", (event) => take(kind, event.target.files[0]));
  zone.addEventListener("dragover", (event) => { event.preventDefault(); zone.classList.add("over"); });
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    take(kind, event.dataTransfer.files[0]);
  });
}
$("start").addEventListener("click", start);
$("stop").addEventListener("click", () => { stopped = true; });
$("save").addEventListener("click", () => $("picture").toBlob((blob) => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = "pastiche.png";
  link.click();
}));

prepare().then(refresh, (error) => { say("not ready"); warn(error.message); });
