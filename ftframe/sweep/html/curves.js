// What was logged by step: a chart for each metric, all trials laid over each other, each switched by the legend.
const COLOURS = ["#0d9467", "#d9542b", "#2f7fd1", "#b5478f", "#a87900", "#6a5acd", "#00838f", "#c2185b", "#6d8f00", "#8d6e63"];
const SHOWN = 10;

function showCurves() {
  const place = document.getElementById("curves");
  place.append(make("h2", {}, "Curves"));
  const rows = [...new Set(data.curves.flatMap(({ lines }) => lines.map(([row]) => row)))].sort((a, b) => a - b);
  if (!rows.length) {
    place.append(make("p", { class: "quiet" }, "No run has logged train/loss or val/loss by step."));
    return;
  }
  const colours = new Map(rows.map((row, index) => [row, COLOURS[index % COLOURS.length]]));
  const visible = new Set(rows.slice(0, SHOWN));
  const charts = make("div", { class: "charts" });
  const buttons = new Map(rows.map((row) => [row, makeLegend(row, colours.get(row), () => turn(row))]));
  const logarithmic = make("input", { type: "checkbox" });
  logarithmic.addEventListener("change", redraw);

  function turn(row) {
    if (!visible.delete(row)) visible.add(row);
    redraw();
  }
  function choose(chosen) {
    visible.clear();
    chosen.forEach((row) => visible.add(row));
    redraw();
  }
  function redraw() {
    for (const [row, button] of buttons) {
      button.setAttribute("aria-pressed", visible.has(row));
      drawn[row] = drawn[row].filter((element) => !charts.contains(element));
    }
    charts.replaceChildren(...data.curves.map((chart) => drawChart(chart, { visible, colours, isLog: logarithmic.checked })));
  }

  const choice = (text, chosen) => {
    const button = make("button", { type: "button" }, text);
    button.addEventListener("click", () => choose(chosen));
    return button;
  };
  place.append(
    make("div", { class: "choices" }, choice(`first ${Math.min(SHOWN, rows.length)}`, rows.slice(0, SHOWN)), choice("all", rows), choice("none", []),
      make("label", {}, logarithmic, " logarithmic")),
    make("div", { class: "legend" }, ...buttons.values()),
    charts);
  redraw();
}

function makeLegend(row, colour, onClick) {
  const swatch = make("span", { class: "swatch" });
  swatch.style.background = colour;
  const rank = data.ranks[row] === null ? ` (${data.rows[row][column("state")]})` : "";
  const button = make("button", { type: "button", "data-row": row }, swatch, `${data.names[row]}${rank}`);
  button.addEventListener("click", onClick);
  standFor(row, button, { describe: () => describeTrial(row) });
  return button;
}

function drawChart({ metric, lines }, { visible, colours, isLog }) {
  const width = 560, height = 300, left = 62, bottom = 40, top = 26, right = 12;
  const shown = lines.filter(([row]) => visible.has(row));
  const usable = (value) => !isLog || value > 0;
  const scale = (value) => (isLog ? Math.log10(value) : value);
  const steps = rangeOf(shown.flatMap(([, steps]) => [steps[0], steps.at(-1)]));
  const values = padded(rangeOf(shown.flatMap(([, , values]) => rangeOf(values.filter(usable).map(scale)))));
  const x = (step) => left + ((step - steps[0]) / (steps[1] - steps[0])) * (width - left - right);
  const y = (value) => height - bottom - ((scale(value) - values[0]) / (values[1] - values[0])) * (height - bottom - top);
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": metric, "data-metric": metric },
    draw("text", { class: "name", x: left, y: 14 }, metric),
    draw("text", { class: "tick", x: width - right, y: height - 6, "text-anchor": "end" }, "step"));
  if (!shown.length || !values.length) return svg;
  for (const tick of ticksOf(steps)) {
    svg.append(draw("text", { class: "tick", x: x(tick), y: height - bottom + 18, "text-anchor": "middle" }, spell(tick)));
  }
  for (const tick of ticksOf(values).map((value) => (isLog ? 10 ** value : value))) {
    svg.append(draw("line", { class: "grid", x1: left, x2: width - right, y1: y(tick), y2: y(tick) }),
      draw("text", { class: "tick", x: left - 8, y: y(tick) + 4, "text-anchor": "end" }, spell(Number(tick.toPrecision(3)))));
  }
  for (const [row, itsSteps, itsValues] of shown.toReversed()) {
    const kept = itsSteps.map((step, index) => [step, itsValues[index]]).filter(([, value]) => usable(value));
    if (kept.length) svg.append(drawCurve(row, kept, { x, y, colour: colours.get(row), metric }));
  }
  return svg;
}

function drawCurve(row, points, { x, y, colour, metric }) {
  const group = draw("g", { "data-row": row });
  const path = points.map(([step, value]) => `${x(step).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
  const isPoint = points.length === 1;
  const shape = (className) => (isPoint
    ? draw("circle", { cx: x(points[0][0]), cy: y(points[0][1]), r: 4, class: className })
    : draw("polyline", { points: path, class: className }));
  const line = shape("line"), hit = shape("hit");
  line.setAttribute("stroke", colour);
  const nearest = (event) => {
    const box = group.ownerSVGElement.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * group.ownerSVGElement.viewBox.baseVal.width;
    return points.reduce((best, point) => (Math.abs(x(point[0]) - at) < Math.abs(x(best[0]) - at) ? point : best));
  };
  standFor(row, hit, { lit: line, describe: (event) => {
    const [step, value] = nearest(event);
    return [[`${metric}, step ${step}`, spell(value)], ...describeTrial(row)];
  } });
  group.append(line, hit);
  return group;
}

// The least and the greatest, apart from each other.
function rangeOf(numbers) {
  if (!numbers.length) return [];
  const low = numbers.reduce((a, b) => Math.min(a, b)), high = numbers.reduce((a, b) => Math.max(a, b));
  return low < high ? [low, high] : [low - (Math.abs(low) || 1) / 2, high + (Math.abs(high) || 1) / 2];
}

// A little room above and below, so that no curve lies on the edge.
function padded([low, high]) {
  return low === undefined ? [] : [low - (high - low) / 25, high + (high - low) / 25];
}

// Round numbers inside a range.
function ticksOf([low, high]) {
  const rough = (high - low) / 4, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((found) => found >= rough);
  const ticks = [];
  for (let index = Math.ceil(low / step); index * step <= high; index++) ticks.push(index * step);
  return ticks;
}
