"use strict";
const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 640, HEIGHT = 360, LEFT = 84, RIGHT = 12, TOP = 12, BOTTOM = 52;

function element(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// Values of one side: base64 of 16-bit steps from low to high, (rows, columns, band); 65535 where nothing is known.
function unpacked(packed) {
  const bytes = Uint8Array.from(atob(packed), (c) => c.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return Uint16Array.from({ length: bytes.length / 2 }, (_, i) => view.getUint16(2 * i, true));
}

function spectrumAt(data, steps, row, column) {
  const bands = data.nm.length;
  const start = (row * data.columns.length + column) * bands;
  return Array.from(steps.subarray(start, start + bands), (step) =>
    step === 65535 ? null : data.low + (step / 65534) * (data.high - data.low));
}

function niceStep(span, most) {
  const ten = 10 ** Math.floor(Math.log10(span / most));
  return [1, 2, 5, 10].map((n) => n * ten).find((step) => span / step <= most) || 10 * ten;
}

// Lines of one panel between two heights; each detector has its own, none crosses a wide gap or a band without a value.
function panel(svg, data, lines, top, bottom, fromZero, most) {
  const known = lines.flatMap((line) => line.values).filter((v) => v !== null);
  let low = Math.min(...known), high = Math.max(...known);
  if (fromZero && low >= 0) low = 0;
  if (high <= low) { low -= 1; high += 1; }
  const first = data.nm[0], last = data.nm[data.nm.length - 1];
  const x = (nm) => LEFT + ((nm - first) / Math.max(last - first, 1e-9)) * (WIDTH - LEFT - RIGHT);
  const y = (v) => bottom - ((v - low) / (high - low)) * (bottom - top);
  const step = niceStep(high - low, most);
  for (let i = Math.ceil(low / step); i * step <= high; i++) {
    const at = y(i * step);
    svg.append(element("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: at, y2: at }));
    svg.append(element("text", { x: LEFT - 6, y: at + 5, "text-anchor": "end" }, String(+(i * step).toPrecision(4))));
  }
  for (const { side, values } of lines) {
    let d = "";
    for (const detector of new Set(data.detector)) {
      const own = data.nm.map((_, i) => i).filter((i) => data.detector[i] === detector);
      const steps = own.slice(1).map((i, n) => data.nm[i] - data.nm[own[n]]).sort((a, b) => a - b);
      const gap = 4 * (steps[steps.length >> 1] || 1);
      let before = null;
      for (const i of own) {
        if (values[i] === null) { before = null; continue; }
        d += (before === null || data.nm[i] - before > gap ? "M" : "L") + x(data.nm[i]).toFixed(1) + " " + y(values[i]).toFixed(1);
        before = data.nm[i];
      }
    }
    svg.append(element("path", { class: side, d }));
  }
}

function draw(svg, data, spectra) {
  svg.replaceChildren();
  if (!spectra.some((s) => s.values.some((v) => v !== null))) {
    svg.append(element("text", { x: WIDTH / 2, y: HEIGHT / 2, "text-anchor": "middle" }, "no data here"));
    return;
  }
  const [one, other] = spectra.map((s) => s.values);
  const removed = other && one.map((v, i) => (v === null || other[i] === null ? null : v - other[i]));
  const bottom = HEIGHT - BOTTOM, middle = removed ? bottom - 84 : bottom;
  panel(svg, data, spectra, TOP, removed ? middle - 24 : bottom, true, 5);
  if (removed && removed.some((v) => v !== null)) panel(svg, data, [{ side: "removed", values: removed }], middle, bottom, false, 3);
  const first = data.nm[0], last = data.nm[data.nm.length - 1], step = niceStep(Math.max(last - first, 1), 6);
  for (let i = Math.ceil(first / step); i * step <= last; i++) {
    const at = LEFT + ((i * step - first) / Math.max(last - first, 1e-9)) * (WIDTH - LEFT - RIGHT);
    svg.append(element("text", { x: at, y: bottom + 20, "text-anchor": "middle" }, String(i * step)));
  }
  svg.append(element("text", { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 8, "text-anchor": "middle" }, "wavelength, nm"));
}

function setUpSpectra(article, compare) {
  const box = article.querySelector(".spectra");
  if (!box) return;
  const data = JSON.parse(document.getElementById("spectra-" + box.dataset.scene).textContent);
  const sides = data.values.map(unpacked);
  const point = compare && compare.querySelector(".point");
  const where = box.querySelector(".where");
  let row = data.rows.length >> 1, column = data.columns.length >> 1;
  function show() {
    const spectra = sides.map((steps, i) => ({ side: data.sides[i], values: spectrumAt(data, steps, row, column) }));
    draw(box.querySelector("svg"), data, spectra);
    where.textContent = "of the pixel in row " + data.rows[row] + ", column " + data.columns[column];
    if (point) {
      point.style.left = (100 * (data.columns[column] + 0.5)) / data.width + "%";
      point.style.top = (100 * (data.rows[row] + 0.5)) / data.height + "%";
      point.hidden = false;
    }
  }
  function nearest(places, wanted) {
    return places.reduce((best, place, i) => Math.abs(place - wanted) < Math.abs(places[best] - wanted) ? i : best, 0);
  }
  box.hidden = false;
  show();
  if (!compare) return;
  compare.addEventListener("click", (event) => {
    const frame = compare.getBoundingClientRect();
    row = nearest(data.rows, ((event.clientY - frame.top) / frame.height) * data.height - 0.5);
    column = nearest(data.columns, ((event.clientX - frame.left) / frame.width) * data.width - 0.5);
    show();
  });
  const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  compare.addEventListener("keydown", (event) => {
    const move = moves[event.key];
    if (!move) return;
    event.preventDefault();
    row = Math.min(Math.max(row + move[0], 0), data.rows.length - 1);
    column = Math.min(Math.max(column + move[1], 0), data.columns.length - 1);
    show();
  });
}

for (const article of document.querySelectorAll("article.scene")) {
  const compare = article.querySelector(".compare");
  const slider = article.querySelector(".slider input");
  if (slider) {
    compare.classList.add("split");
    const cut = () => compare.style.setProperty("--cut", slider.value + "%");
    slider.addEventListener("input", cut);
    cut();
  }
  const toggle = article.querySelector(".toggle input");
  if (toggle) toggle.addEventListener("change", () => { compare.querySelector(".removed").hidden = !toggle.checked; });
  const infrared = article.querySelector(".infrared input");
  if (infrared) infrared.addEventListener("change", () => {
    for (const side of ["before", "after"]) {
      const shown = compare.querySelector("." + side), other = article.querySelector("." + side + "-infrared");
      if (shown && other) [shown.src, other.src] = [other.src, shown.src];
    }
  });
  setUpSpectra(article, compare);
}
