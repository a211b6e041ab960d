// The page of an archive: what it shows comes from the STAC API of the server that served it.
const PER_PAGE = 8, DOT_PX = 7, MOST_LINES = 8;
const HIDDEN = /[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g;
const at = (id) => document.getElementById(id);
const archive = document.body.dataset.archive;
let scenes = [], matching = [], first = 0, chosen = null, point = null;
const items = new Map();

// Texts of items are texts, whatever they hold: none is read as HTML, and none turns the direction of writing.
function make(tag, properties = {}, ...parts) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...parts.map((part) => (typeof part === "string" ? part.replace(HIDDEN, "\ufffd") : part)));
  return made;
}

async function json(url, options) {
  const answer = await fetch(url, options);
  const value = await answer.json();
  if (!answer.ok) throw new Error(value.description || answer.statusText);
  return value;
}

const grouping = (count) => count.toLocaleString("en");

function urlOf(version, id) {
  return "/collections/" + encodeURIComponent(version.collection) + "/items/" + encodeURIComponent(id);
}

// Items of one scene share its id; their collections are that of its raw files and some words behind it.
function grouped(data) {
  const bases = new Set();
  for (const [, collection, stage] of data.items) {
    const name = data.collections[collection];
    if (data.stages[stage] === "raw") bases.add(name);
    if (data.stages[stage] === "source") bases.add(name.replace(/-source$/, ""));
  }
  const baseOf = data.collections.map((name) => {
    for (let end = name.length; end > 0; end = name.lastIndexOf("-", end - 1)) {
      if (bases.has(name.slice(0, end))) return name.slice(0, end);
    }
    return name;
  });
  const found = new Map();
  for (const [id, collection, stage, sensor, start, box] of data.items) {
    const base = baseOf[collection], key = base + "\n" + id;
    if (!found.has(key)) found.set(key, { id, base, sensor: data.sensors[sensor] || "", start: start || "", box: null, versions: [] });
    const scene = found.get(key), name = data.collections[collection];
    const task = data.stages[stage] === "restored" ? name.slice(base.length + 1) : "";
    scene.versions.push({ collection: name, stage: data.stages[stage], task });
    if (box && (!scene.box || data.stages[stage] !== "raw")) scene.box = box;
  }
  return [...found.values()];
}

const best = (scene) => scene.versions.find((v) => v.stage === "restored") || scene.versions.find((v) => v.stage === "source") || scene.versions[0];
const cubeOf = (scene, stage) => scene.versions.find((v) => v.stage === stage);

function addOptions(select, values) {
  for (const [value, text] of values) select.append(make("option", { value }, text));
}

function setUpFilters() {
  addOptions(at("sensor"), [...new Set(scenes.map((s) => s.sensor))].filter(Boolean).sort().map((s) => [s, s]));
  const tasks = [...new Set(scenes.flatMap((s) => s.versions.map((v) => v.task)))].filter(Boolean).sort();
  addOptions(at("stage"), [["raw", "raw"], ["source", "source"], ["restored", "restored"], ...tasks.map((t) => ["restored " + t, "restored: " + t])]);
  const form = document.querySelector(".filters");
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", () => filter());
  form.addEventListener("reset", () => { point = null; setTimeout(filter); });
}

function filter() {
  const sensor = at("sensor").value, from = at("from").value, to = at("to").value, place = at("place").value;
  const [stage, task] = at("stage").value.split(" "), text = at("text").value.toLowerCase();
  at("place").options[2].disabled = !point;
  const view = place === "view" ? map.view() : null;
  matching = scenes.filter((s) =>
    (!sensor || s.sensor === sensor)
    && (!stage || s.versions.some((v) => v.stage === stage && (!task || v.task === task)))
    && (!from || s.start.slice(0, 10) >= from) && (!to || (s.start && s.start.slice(0, 10) <= to))
    && (!text || (s.base + "/" + s.id).toLowerCase().includes(text)));
  map.show(matching);
  if (place === "none") matching = matching.filter((s) => !s.box);
  if (view) matching = matching.filter((s) => s.box && map.parts(s.box).some((b) => b[0] <= view[2] && b[2] >= view[0] && b[1] <= view[3] && b[3] >= view[1]));
  if (place === "point" && point) matching = matching.filter((s) => s.box && map.meets(s.box, point));
  first = 0;
  const placeless = matching.filter((s) => !s.box).length;
  at("count").textContent = grouping(matching.length) + " of " + grouping(scenes.length) + " scenes"
    + (placeless ? ", " + grouping(placeless) + " without a place" : "") + leftOut;
  list();
}

async function list() {
  const shown = matching.slice(first, first + PER_PAGE);
  at("newer").disabled = first === 0;
  at("older").disabled = first + PER_PAGE >= matching.length;
  at("range").textContent = shown.length ? grouping(first + 1) + " to " + grouping(first + shown.length) + " of " + grouping(matching.length) : "no scene matches";
  at("list").replaceChildren(...shown.map((scene) => {
    const order = ["raw", "source", "restored"];
    const stages = [...scene.versions].sort((a, b) => order.indexOf(a.stage) - order.indexOf(b.stage)).map((v) => v.task || v.stage).join(", ");
    const day = scene.start ? scene.start.slice(0, 10) : "undated";
    const button = make("button", { type: "button" },
      make("span", { className: "thumb" }),
      make("span", {}, make("strong", { title: scene.id }, scene.id),
        make("small", {}, [day, scene.sensor, stages, scene.box ? "" : "no place"].filter(Boolean).join(" \u00b7 "))));
    button.setAttribute("aria-pressed", String(scene === chosen));
    button.addEventListener("click", () => choose(scene, true));
    return make("li", {}, button);
  }));
  try {
    await load(shown);
  } catch (error) {
    return;  // pictures of a list are no reason for an error; choosing the scene tells it
  }
  shown.forEach((scene, i) => {
    const picture = items.get(urlOf(best(scene), scene.id))?.assets.thumbnail, frame = at("list").children[i]?.querySelector(".thumb");
    if (picture && frame && !frame.firstChild && matching[first + i] === scene) frame.append(make("img", { src: picture.href, alt: "", loading: "lazy" }));
  });
}

// The items of the scenes of a list, by one search.
async function load(shown) {
  const wanted = shown.filter((s) => best(s).stage !== "raw" && !items.has(urlOf(best(s), s.id)));
  if (!wanted.length) return;
  const body = { ids: [...new Set(wanted.map((s) => s.id))], collections: [...new Set(wanted.map((s) => best(s).collection))], limit: 100 };
  const found = await json("/search", { method: "POST", body: JSON.stringify(body) });
  for (const item of found.features) items.set(urlOf(item, item.id), item);
}

async function itemOf(version, id) {
  const url = urlOf(version, id);
  if (!items.has(url)) items.set(url, await json(url));
  return items.get(url);
}

// ------------------------------------------------------------------------------------------------- one scene

async function choose(scene, focus, version) {
  chosen = scene;
  history.replaceState(null, "", "#" + [scene.base, scene.id].map(encodeURIComponent).join("/"));
  [...at("list").children].forEach((row, i) => row.firstChild.setAttribute("aria-pressed", String(matching[first + i] === scene)));
  map.draw();
  const article = at("scene");
  try {
    const shown = version || best(scene), source = cubeOf(scene, "source");
    const after = await itemOf(shown, scene.id);
    const before = shown.stage === "restored" && source ? await itemOf(source, scene.id).catch(() => null) : null;
    if (chosen === scene) fill(article, scene, shown, after, before);
    map.draw();
  } catch (error) {
    article.replaceChildren(make("h3", { id: "scene-title" }, scene.id), make("p", { className: "warning" }, "The item cannot be read: " + error.message));
  }
  article.hidden = false;
  if (focus) { article.focus({ preventScroll: true }); article.scrollIntoView({ block: "nearest" }); }
}

function fill(article, scene, version, after, before) {
  const versions = make("div", { className: "versions" }, make("span", {}, [scene.start ? scene.start.slice(0, 16).replace("T", " ") + " UTC" : "time unknown", scene.sensor].join(" \u00b7 ")));
  const select = make("select");
  addOptions(select, scene.versions.map((v, i) => [String(i), v.collection]));
  select.value = String(scene.versions.findIndex((v) => v.collection === version.collection));
  select.addEventListener("change", () => choose(scene, false, scene.versions[Number(select.value)]));
  versions.append(make("label", {}, "Collection", select));
  const views = make("div", { className: "views" });
  if (after.assets.cube) views.append(pictures(scene, after, before), spectra(version, scene.id));
  else views.append(make("p", { className: "note" }, "This scene is raw: `hypermend ingest` makes a cube of its files, which can be shown."));
  article.replaceChildren(make("h3", { id: "scene-title" }, scene.id), versions, views, ...(after.assets.cube ? [use(version, after)] : []), facts(after));
  setUpPoint(article, version, scene.id);
}

function pictures(scene, after, before) {
  const figure = make("figure");
  const compare = make("div", { className: "compare", tabIndex: 0 });
  compare.setAttribute("role", "group");
  compare.setAttribute("aria-label", "Picture of " + scene.id.replace(HIDDEN, "\ufffd") + ". Arrow keys move the point whose spectra are drawn.");
  const both = before && before.assets.overview && after.assets.overview;
  if (!after.assets.overview) compare.append(make("p", { className: "nothing" }, "no picture of this cube"));
  if (both) compare.append(make("img", { className: "before", src: before.assets.overview.href, alt: "Before the restoration" }));
  if (after.assets.overview) compare.append(make("img", { className: "after", src: after.assets.overview.href, alt: both ? "After the restoration" : "The scene in colour" }));
  const removed = after.assets.removed && make("img", { className: "removed", src: after.assets.removed.href, alt: "Before minus after: grey where nothing was removed", hidden: true });
  if (removed) compare.append(removed);
  compare.append(make("span", { className: "point", hidden: true }));
  figure.append(compare);
  if (both) {
    const slider = make("input", { type: "range", min: "0", max: "100", value: "50" });
    slider.setAttribute("aria-label", "Share of the picture that is shown before the restoration, percent");
    figure.append(make("label", { className: "slider" }, make("span", {}, "before"), slider, make("span", {}, "after")));
    setUpSlider(compare, slider);
  }
  if (removed) figure.append(toggle("toggle", "show what was removed (grey is nothing)", (on) => { removed.hidden = !on; }));
  if (after.assets.false_colour && after.assets.overview) {
    figure.append(toggle("infrared", "near infrared as red", (on) => {
      const name = on ? "false_colour" : "overview";
      for (const [side, item] of [["before", before], ["after", after]]) {
        const shown = compare.querySelector("." + side);
        if (shown && item.assets[name]) shown.src = item.assets[name].href;
      }
    }));
  }
  if (after.assets.overview) figure.append(make("figcaption", {}, (both ? "Both on the stretch of the source. " : "") + "Click the picture for a pixel's spectrum."));
  return figure;
}

function toggle(className, text, change) {
  const box = make("input", { type: "checkbox" });
  box.addEventListener("change", () => change(box.checked));
  return make("label", { className }, box, " " + text);
}

function spectra() {
  const box = make("div", { className: "spectra" });
  const title = make("h4", {}, "Spectrum ", make("span", { className: "where" }));
  title.lastChild.setAttribute("aria-live", "polite");
  const svg = element("svg", { viewBox: "0 0 640 360", role: "img", "aria-label": "Spectra of the chosen pixel" });
  box.append(title, svg, make("p", { className: "legend" }));
  return box;
}

// The point whose spectra are shown: read from the cubes by the server, the newest wish wins.
function setUpPoint(article, version, id) {
  const box = article.querySelector(".spectra"), compare = article.querySelector(".compare");
  if (!box) return;
  let data = null, wish = 0;
  async function show(row, column) {
    const mine = ++wish;
    const where = box.querySelector(".where"), place = row === undefined ? "" : "?row=" + row + "&column=" + column;
    let found;
    try {
      found = await json(urlOf(version, id) + "/spectrum" + place);
    } catch (error) {
      if (mine === wish) where.textContent = "cannot be read: " + error.message.replace(HIDDEN, "\ufffd");
      return;
    }
    if (mine !== wish) return;
    data = found;
    const sides = ["before", "after"].filter((side) => data[side]);
    draw(box.querySelector("svg"), data, sides.map((side) => ({ side, values: data[side].values })));
    where.textContent = "of the pixel in row " + data.row + ", column " + data.column + " ("
      + [...new Set(sides.map((side) => data[side].flags.join(", ") || "not written"))].join("; ") + ")";
    const named = sides.length === 2 ? [["before", "before"], ["after", "after"], ["removed", "before minus after"]] : [["after", data.quantity]];
    box.querySelector(".legend").replaceChildren(...named.map(([name, text]) => make("span", { className: "key " + name }, text)));
    const mark = compare.querySelector(".point");
    mark.style.left = (100 * (data.column + 0.5)) / data.width + "%";
    mark.style.top = (100 * (data.row + 0.5)) / data.height + "%";
    mark.hidden = !compare.querySelector("img");
  }
  const within = (value, size) => Math.min(Math.max(Math.floor(value), 0), size - 1);
  compare.addEventListener("click", (event) => {
    if (!data) return;
    const frame = compare.getBoundingClientRect();
    show(within(((event.clientY - frame.top) / frame.height) * data.height, data.height), within(((event.clientX - frame.left) / frame.width) * data.width, data.width));
  });
  const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  compare.addEventListener("keydown", (event) => {
    const move = moves[event.key];
    if (!move || !data) return;
    event.preventDefault();
    const step = Math.max(1, Math.round(Math.max(data.height, data.width) / 48));
    show(within(data.row + step * move[0], data.height), within(data.column + step * move[1], data.width));
  });
  show();
}

const quoted = (text) => (/^[\w./:@%+=,-]+$/.test(text) ? text : "'" + text.replaceAll("'", "'\\''") + "'");

function use(version, item) {
  const python = JSON.stringify, address = location.origin;
  const lines = [
    ["xarray", "import xarray\n\nds = xarray.open_zarr(\n    " + python(item.assets.cube.href) + "\n)"],
    ["QGIS", "hypermend export \\\n  " + quoted(version.collection + "/" + item.id) + " \\\n  --archive " + quoted(archive) + " \\\n  --format cog --out scene.tif"],
    ["pystac-client", "from pystac_client import Client\n\nclient = Client.open(" + python(address) + ")\nsearch = client.search(\n    ids=[" + python(item.id) + "],\n    collections=[" + python(version.collection) + "],\n)\nitem = next(search.items())"],
  ];
  return make("div", { className: "use" }, ...lines.map(([name, text]) => {
    const code = make("code");
    code.textContent = text;
    const pre = make("pre", { tabIndex: 0 }, code);
    pre.setAttribute("role", "region");
    pre.setAttribute("aria-label", "Lines for " + name);
    const copy = make("button", { type: "button" }, "Copy");
    copy.setAttribute("aria-label", "Copy the lines for " + name);
    copy.addEventListener("click", () => copyText(code, copy));
    return make("section", {}, make("div", {}, make("h4", {}, name), copy), pre);
  }));
}

async function copyText(code, button) {
  try {
    await navigator.clipboard.writeText(code.textContent);
    button.textContent = "Copied";
  } catch (error) {  // without https or permission: selected, so that the keyboard copies it
    getSelection().selectAllChildren(code);
    button.textContent = "Selected";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
}

const FACTS = {
  "hypermend:quantity": "quantity", "hypermend:valid_fraction": "usable share", "hypermend:task": "task", "hypermend:model": "model",
  "hypermend:plan": "plan", "hypermend:cube": "cube", "hypermend:derived_from": "made from", "processing:lineage": "lineage", updated: "published",
};

function facts(item) {
  const rows = [["item", item.collection + "/" + item.id], ["bands", String((item.properties["hypermend:wavelength_nm"] || []).length || "")]];
  for (const [name, text] of Object.entries(FACTS)) {
    const value = item.properties[name];
    if (["string", "number"].includes(typeof value)) rows.push([text, String(value)]);
  }
  const link = make("a", { href: urlOf(item, item.id) }, "STAC item");
  return make("details", {}, make("summary", {}, "Where it comes from"),
    make("dl", { className: "list" }, ...rows.filter(([, value]) => value).map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value)))),
    make("p", { className: "note" }, link));
}

// ------------------------------------------------------------------------------------------------------- map

// Longitude and latitude, as far apart at the map's centre as on the ground; drawn without any other map.
const map = {
  canvas: at("map"), shown: [], lon: 0, lat: 0, scale: 2, drag: null,

  parts: (b) => (b[0] <= b[2] ? [b] : [[b[0], b[1], 180, b[3]], [-180, b[1], b[2], b[3]]]),
  stretch() { return Math.max(Math.cos((this.lat * Math.PI) / 180), 0.2); },
  x(lon) { return this.canvas.clientWidth / 2 + (lon - this.lon) * this.scale * this.stretch(); },
  y(lat) { return this.canvas.clientHeight / 2 - (lat - this.lat) * this.scale; },
  lonOf(x) { return this.lon + (x - this.canvas.clientWidth / 2) / (this.scale * this.stretch()); },
  latOf(y) { return this.lat - (y - this.canvas.clientHeight / 2) / this.scale; },
  view() { return [this.lonOf(0), this.latOf(this.canvas.clientHeight), this.lonOf(this.canvas.clientWidth), this.latOf(0)]; },
  meets(box, p) { return this.parts(box).some((b) => p[0] >= b[0] - p[2] && p[0] <= b[2] + p[2] && p[1] >= b[1] - p[2] && p[1] <= b[3] + p[2]); },

  show(found) { this.shown = found.filter((s) => s.box); this.draw(); },

  fit() {
    const boxes = this.shown.flatMap((s) => this.parts(s.box));
    const [w, s, e, n] = boxes.length ? [0, 1, 2, 3].map((i) => boxes.map((b) => b[i]).reduce((a, b) => (i < 2 ? Math.min(a, b) : Math.max(a, b)))) : [-180, -90, 180, 90];
    [this.lon, this.lat] = [(w + e) / 2, (s + n) / 2];
    const room = 0.84;
    this.scale = Math.min((room * this.canvas.clientWidth) / Math.max((e - w) * this.stretch(), 1e-4), (room * this.canvas.clientHeight) / Math.max(n - s, 1e-4));
    this.zoom(1);
  },

  zoom(factor, x = this.canvas.clientWidth / 2, y = this.canvas.clientHeight / 2) {
    const [lon, lat] = [this.lonOf(x), this.latOf(y)];
    this.scale = Math.min(Math.max(this.scale * factor, 0.5), 2e6);
    this.lat = Math.min(Math.max(this.lat + lat - this.latOf(y), -90), 90);
    this.lon = Math.min(Math.max(this.lon + lon - this.lonOf(x), -180), 180);
    this.moved();
  },

  move(dx, dy) {
    this.lon = Math.min(Math.max(this.lon + dx / (this.scale * this.stretch()), -180), 180);
    this.lat = Math.min(Math.max(this.lat - dy / this.scale, -90), 90);
    this.moved();
  },

  moved() { if (at("place").value === "view") filter(); else this.draw(); },

  pick(x, y) {
    const hit = [this.lonOf(x), this.latOf(y), DOT_PX / this.scale];
    const found = this.shown.filter((s) => this.meets(s.box, hit));
    point = found.length ? hit : null;
    at("place").options[2].disabled = !point;
    at("place").value = point ? "point" : "";
    filter();
    if (found.length) choose(found[0], false);
  },

  draw() {
    const { canvas } = this, style = getComputedStyle(document.documentElement), colour = (name) => style.getPropertyValue("--" + name);
    const [width, height, ratio] = [canvas.clientWidth, canvas.clientHeight, devicePixelRatio || 1];
    if (!width || !height) return;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) [canvas.width, canvas.height] = [Math.round(width * ratio), Math.round(height * ratio)];
    const pen = canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    this.graticule(pen, width, height, colour);
    const kinds = { raw: colour("soft"), source: colour("before"), restored: colour("after") };
    for (const scene of [...this.shown].reverse()) this.outline(pen, scene, kinds[best(scene).stage] || kinds.raw, 1.5, width, height);
    if (chosen && chosen.box) {
      this.outline(pen, chosen, colour("text"), 3, width, height);
      const item = items.get(urlOf(best(chosen), chosen.id));
      if (item) this.rings(pen, item.geometry, colour("text"));
    }
  },

  graticule(pen, width, height, colour) {
    pen.lineWidth = 1;
    pen.strokeStyle = colour("line");
    pen.fillStyle = colour("soft");
    pen.font = '12px system-ui, "DejaVu Sans", sans-serif';
    const [west, south, east, north] = this.view(), step = Math.min(niceStep(Math.max(east - west, 1e-9), MOST_LINES), 30);
    const degrees = (value, ends) => +Math.abs(value).toFixed(6) + "\u00b0" + (value > 1e-9 ? ends[0] : value < -1e-9 ? ends[1] : "");
    for (let lon = Math.ceil(Math.max(west, -180) / step) * step; lon <= Math.min(east, 180) + 1e-9; lon += step) {
      const x = Math.round(this.x(lon)) + 0.5;
      pen.beginPath(); pen.moveTo(x, Math.max(0, this.y(90))); pen.lineTo(x, Math.min(height, this.y(-90))); pen.stroke();
      if (x > 30 && x < width - 30) { pen.textAlign = "center"; pen.fillText(degrees(lon, "EW"), x, height - 8); }
    }
    for (let lat = Math.ceil(Math.max(south, -90) / step) * step; lat <= Math.min(north, 90) + 1e-9; lat += step) {
      const y = Math.round(this.y(lat)) + 0.5;
      pen.beginPath(); pen.moveTo(Math.max(0, this.x(-180)), y); pen.lineTo(Math.min(width, this.x(180)), y); pen.stroke();
      if (y > 16 && y < height - 30) { pen.textAlign = "left"; pen.fillText(degrees(lat, "NS"), 8, y - 4); }
    }
  },

  outline(pen, scene, colour, thick, width, height) {
    pen.strokeStyle = pen.fillStyle = colour;
    pen.lineWidth = thick;
    for (const [w, s, e, n] of this.parts(scene.box)) {
      const [left, right, top, bottom] = [this.x(w), this.x(e), this.y(n), this.y(s)];
      if (right < -DOT_PX || left > width + DOT_PX || bottom < -DOT_PX || top > height + DOT_PX) continue;
      if (Math.max(right - left, bottom - top) < DOT_PX) {
        pen.globalAlpha = thick > 2 ? 1 : 0.6;
        pen.beginPath(); pen.arc((left + right) / 2, (top + bottom) / 2, DOT_PX / 2 + thick - 1.5, 0, 7); pen.fill();
        pen.globalAlpha = 1;
        continue;
      }
      pen.globalAlpha = 0.12;
      pen.fillRect(left, top, right - left, bottom - top);
      pen.globalAlpha = 1;
      pen.strokeRect(left, top, right - left, bottom - top);
    }
  },

  rings(pen, geometry, colour) {
    const polygons = geometry?.type === "Polygon" ? [geometry.coordinates] : geometry?.type === "MultiPolygon" ? geometry.coordinates : [];
    pen.strokeStyle = colour;
    pen.lineWidth = 1.5;
    for (const ring of polygons.flat()) {
      pen.beginPath();
      for (const [lon, lat] of ring) pen.lineTo(this.x(lon), this.y(lat));
      pen.stroke();
    }
  },

  setUp() {
    const { canvas } = this, place = (event) => { const f = canvas.getBoundingClientRect(); return [event.clientX - f.left, event.clientY - f.top]; };
    canvas.addEventListener("pointerdown", (event) => { this.drag = { from: place(event), last: place(event), far: false }; canvas.setPointerCapture(event.pointerId); });
    canvas.addEventListener("pointermove", (event) => {
      if (!this.drag) return;
      const now = place(event), { from, last } = this.drag;
      if (Math.hypot(now[0] - from[0], now[1] - from[1]) > 4) this.drag.far = true;
      if (this.drag.far) this.move(last[0] - now[0], last[1] - now[1]);
      this.drag.last = now;
    });
    canvas.addEventListener("pointerup", () => { const drag = this.drag; this.drag = null; if (drag && !drag.far) this.pick(...drag.from); });
    canvas.addEventListener("pointercancel", () => { this.drag = null; });
    // Only a map that has the focus takes the wheel; the page scrolls otherwise.
    canvas.addEventListener("wheel", (event) => {
      if (document.activeElement !== canvas) return;
      event.preventDefault();
      this.zoom(event.deltaY < 0 ? 1.25 : 0.8, ...place(event));
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const moves = { ArrowUp: [0, -60], ArrowDown: [0, 60], ArrowLeft: [-60, 0], ArrowRight: [60, 0] };
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (moves[event.key]) this.move(...moves[event.key]);
      else if (event.key === "+" || event.key === "=") this.zoom(1.6);
      else if (event.key === "-") this.zoom(1 / 1.6);
      else if (event.key === "0") this.fit();
      else if (event.key === "Enter") this.pick(canvas.clientWidth / 2, canvas.clientHeight / 2);
      else return;
      event.preventDefault();
    });
    at("closer").addEventListener("click", () => this.zoom(1.6));
    at("farther").addEventListener("click", () => this.zoom(1 / 1.6));
    at("fit").addEventListener("click", () => this.fit());
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  },
};

let leftOut = "";

async function start() {
  at("newer").addEventListener("click", () => { first = Math.max(0, first - PER_PAGE); list(); });
  at("older").addEventListener("click", () => { first += PER_PAGE; list(); });
  map.setUp();
  try {
    const data = await json("/footprints");
    scenes = grouped(data);
    if (data.left_out) leftOut = "; " + grouping(data.left_out) + " older items are not listed here, but by /search";
  } catch (error) {
    at("count").textContent = "The list of scenes cannot be read: " + error.message;
    return;
  }
  setUpFilters();
  filter();
  map.fit();
  if (!scenes.length) at("count").textContent = "No scene yet: hypermend catalog, then hypermend ingest bring some.";
  const [base, id] = location.hash.slice(1).split("/").map((part) => { try { return decodeURIComponent(part); } catch (error) { return ""; } });
  const scene = scenes.find((s) => s.base === base && s.id === id) || scenes.find((s) => best(s).stage === "restored") || scenes[0];
  if (scene) choose(scene, false);
}

start();
