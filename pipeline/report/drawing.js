"use strict";
const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 640, HEIGHT = 360, LEFT = 84, RIGHT = 12, TOP = 12, BOTTOM = 52;

function element(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
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

// The slider of a comparison moves the edge between the pictures.
function setUpSlider(compare, slider) {
  compare.classList.add("split");
  const cut = () => compare.style.setProperty("--cut", slider.value + "%");
  slider.addEventListener("input", cut);
  cut();
}
