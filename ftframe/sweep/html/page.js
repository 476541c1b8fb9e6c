// What all parts of the page share. Everything from trials goes onto the page as text, never as HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";
const tip = document.getElementById("tip");
const drawn = data.rows.map(() => []); // of each row, all elements that stand for its trial
const column = (name) => data.columns.findIndex((found) => found.name === name);

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}
const make = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const draw = (tag, attributes = {}, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

// JSON has no NaN and no infinity: they come as texts.
const toNumber = (cell) => (cell === null ? null : Number(cell));

function spell(number) {
  if (!Number.isFinite(number)) return Number.isNaN(number) ? "NaN" : number > 0 ? "∞" : "-∞";
  const size = Math.abs(number);
  if (Number.isInteger(number) && size < 1e6) return String(number);
  if (size >= 1000 && size < 1e7) return Math.round(number).toLocaleString("en");
  if (size >= 1e-4 && size < 1000) return String(Number(number.toPrecision(4)));
  return number.toExponential(2).replace("e+", "e");
}

function shorten(text, most) {
  const letters = Array.from(text);
  return letters.length > most ? letters.slice(0, most - 1).join("") + "…" : text;
}

// From the best trial's colour to the last one's.
const RAMP = [[13, 148, 103], [47, 127, 209], [150, 110, 205], [160, 160, 165]];
function colourOfRank(rank) {
  const ranked = data.ranks.filter((found) => found !== null).length;
  const place = ranked > 1 ? ((rank - 1) / (ranked - 1)) * (RAMP.length - 1) : 0;
  const [from, to] = [RAMP[Math.floor(place)], RAMP[Math.ceil(place)]];
  const mixed = from.map((part, index) => Math.round(part + (to[index] - part) * (place % 1)));
  return `rgb(${mixed.join(" ")})`;
}

function highlight(row, isLit) {
  for (const element of drawn[row]) {
    element.classList.toggle("lit", isLit);
    element.ownerSVGElement?.classList.toggle("dimmed", isLit);
  }
}

// Let an element stand for a trial: pointing at it lights the trial up wherever it is drawn.
function standFor(row, element, { lit = element, describe = null } = {}) {
  if (!drawn[row].includes(lit)) drawn[row].push(lit);
  element.addEventListener("pointerenter", () => highlight(row, true));
  element.addEventListener("pointerleave", () => { highlight(row, false); tip.hidden = true; });
  if (describe) element.addEventListener("pointermove", (event) => showTip(event, row, describe(event)));
}

function showTip(event, row, lines) {
  const rank = data.ranks[row] === null ? data.rows[row][column("state")] : `rank ${data.ranks[row]}`;
  const cells = lines.map(([name, text]) => make("tr", {}, make("td", {}, name), make("td", {}, shorten(text, 80))));
  tip.replaceChildren(make("strong", {}, `Trial ${data.names[row]}, ${rank}`), make("table", {}, ...cells));
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const isRight = event.clientX + width + 24 > innerWidth, isLow = event.clientY + height + 24 > innerHeight;
  tip.style.left = `${Math.max(4, isRight ? event.clientX - width - 12 : event.clientX + 12)}px`;
  tip.style.top = `${Math.max(4, isLow ? event.clientY - height - 12 : event.clientY + 12)}px`;
}

// A trial's keys and objectives.
function describeTrial(row) {
  const objectives = data.objectives.map((objective) => objective.metric);
  const lines = [];
  data.columns.forEach(({ name, kind }, index) => {
    const cell = data.rows[row][index];
    if (cell === null) return;
    if (kind === "key") lines.push([name, cell]);
    if (kind === "metric" && objectives.includes(name)) lines.push([name, spell(toNumber(cell))]);
  });
  return lines;
}

function showSummary() {
  const place = document.getElementById("summary");
  place.append(make("h1", {}, data.title));
  for (const { folder, command } of data.sweeps) {
    const line = make("p", { class: "quiet" }, make("code", {}, shorten(command, 400)));
    if (data.sweeps.length > 1) line.prepend(`${folder}: `);
    place.append(line);
  }
  const states = Object.entries(data.states).map(([state, count]) => `${count} ${state}`);
  const by = data.objectives.map(({ metric, direction }) => `${metric} (${direction})`).join(" and ");
  place.append(make("p", { class: "quiet" }, `${data.rows.length} trials: ${states.join(", ") || "none yet"}. Ranked by ${by}.`));
  const best = data.ranks.indexOf(1);
  const front = column("pareto_front");
  if (best >= 0) {
    const facts = describeTrial(best).map(([name, text]) => make("span", {}, make("span", { class: "quiet" }, `${name} `), shorten(text, 80)));
    const card = make("div", { class: "best" }, make("strong", {}, `Trial ${data.names[best]} is first`), make("div", { class: "facts" }, ...facts));
    if (front >= 0) {
      const others = data.rows.filter((row) => row[front] === "yes").length;
      card.append(make("p", { class: "quiet" }, `${others} trials are on the Pareto front: none is better in one objective and as good in the others.`));
    }
    if (data.again) card.append(make("code", {}, data.again));
    place.append(card);
  }
  for (const note of data.notes) place.append(make("p", { class: "note" }, note));
}

function showImportances() {
  const place = document.getElementById("importances");
  place.append(make("h2", {}, "Importances"), make("p", { class: "quiet" }, data.importances.how));
  const shares = make("div", { class: "shares" });
  for (const [key, share] of data.importances.shares) {
    const bar = make("div", { class: "bar" });
    bar.style.width = `${(100 * share).toFixed(2)}%`;
    shares.append(make("span", {}, key), make("div", {}, bar), make("span", { class: "number" }, `${(100 * share).toFixed(1)} %`));
  }
  place.append(shares);
}

function show() {
  showSummary();
  showTable();
  showCoordinates();
  showCurves();
  showImportances();
}
