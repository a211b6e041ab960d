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
  if (slider) setUpSlider(compare, slider);
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
