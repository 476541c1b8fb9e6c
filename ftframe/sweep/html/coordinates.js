// Parallel coordinates: an axis for each key that varies and for each objective, a line for each ranked trial.
const STRONG = 100; // so many lines are told apart; those behind them are drawn the fainter, the more there are

function showCoordinates() {
  const place = document.getElementById("coordinates");
  place.append(make("h2", {}, "Parallel coordinates"));
  if (data.axes.length < 2) {
    place.append(make("p", { class: "quiet" }, "Nothing to draw: no key has two values among the finished trials."));
    return;
  }
  const top = 56, height = 320, gap = Math.max(150, 1140 / data.axes.length), margin = 70;
  const width = 2 * margin + gap * (data.axes.length - 1);
  const x = (index) => margin + gap * index;
  const y = (share) => top + height * (1 - share);
  const svg = draw("svg", { viewBox: `0 0 ${width} ${top + height + 30}`, role: "img", "aria-label": "Parallel coordinates" });
  const rows = data.axes[0].places.map((_, row) => row); // ranked trials come first, so a place's index is its row
  for (const row of rows.toReversed()) { // the best on top
    const points = data.axes.flatMap(({ places }, index) => (places[row] === null ? [] : [`${x(index)},${y(places[row])}`])).join(" ");
    const line = draw("polyline", { points, class: "line", stroke: colourOfRank(data.ranks[row]), "data-row": row });
    if (row >= STRONG) line.style.setProperty("--ink", Math.max(0.15, STRONG / rows.length));
    const hit = draw("polyline", { points, class: "hit" });
    standFor(row, hit, { lit: line, describe: () => describeTrial(row) });
    svg.append(draw("g", {}, line, hit));
  }
  data.axes.forEach((axis, index) => svg.append(drawAxis(axis, x(index), y, gap)));
  const isWide = data.axes.length > 8;
  if (isWide) svg.style.width = `${width}px`;
  const frame = make("div", isWide ? { style: "overflow-x: auto" } : {}, svg);
  const skipped = data.rows.length - rows.length;
  const legend = `The first trial is green, the last ranked one grey.${skipped ? ` ${skipped} trials without a finite value are not drawn.` : ""}`;
  place.append(make("p", { class: "quiet" }, legend), frame);
}

function drawAxis(axis, x, y, gap) {
  const most = Math.floor(gap / 7);
  const title = draw("title", {}, axis.name);
  const remarks = [axis.remark, axis.kind === "log" ? "log" : ""].filter(Boolean).join(", ");
  const group = draw("g", { class: "axes", "data-axis": axis.name, "data-kind": axis.kind },
    draw("line", { class: "axis", x1: x, x2: x, y1: y(0), y2: y(1) }),
    draw("text", { class: "name", x, y: y(1) - 34, "text-anchor": "middle" }, shorten(axis.name, most), title),
    draw("text", { class: "tick", x, y: y(1) - 18, "text-anchor": "middle" }, remarks));
  for (const [share, label] of axis.ticks) {
    group.append(
      draw("line", { class: "axis", x1: x - 4, x2: x + 4, y1: y(share), y2: y(share) }),
      draw("text", { class: "tick halo", x: x + 8, y: y(share) + 4 }, shorten(label, most - 2)));
  }
  group.style.pointerEvents = "none";
  return group;
}
