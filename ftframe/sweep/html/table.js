// The leaderboard: a click on a heading sorts, another click turns the order round.
const isNumeric = data.columns.map(({ kind }, index) => {
  const cells = data.rows.map((row) => row[index]).filter((cell) => cell !== null);
  return kind === "place" || kind === "metric" || (kind === "key" && cells.length > 0 && cells.every(looksLikeNumber));
});

function looksLikeNumber(cell) {
  return String(cell).trim() !== "" && Number.isFinite(Number(cell));
}

// Numbers by value and texts by letters; behind them, in both directions, what is not finite, and then what is missing.
function compare(index, isDescending) {
  const sign = isDescending ? -1 : 1;
  const group = (cell) => (cell === null ? 2 : isNumeric[index] && !Number.isFinite(Number(cell)) ? 1 : 0);
  return (a, b) => {
    const [left, right] = [data.rows[a][index], data.rows[b][index]];
    if (group(left) !== group(right)) return group(left) - group(right);
    if (group(left) > 0) return 0;
    if (isNumeric[index]) return sign * (Number(left) - Number(right));
    return sign * (left < right ? -1 : left > right ? 1 : 0);
  };
}

function showTable() {
  const headings = data.columns.map(({ name, kind }, index) => {
    const words = name === "number" ? "trial" : name.replaceAll("_", " ");
    const button = make("button", { type: "button" }, kind === "key" || kind === "metric" ? name : words);
    const heading = make("th", { scope: "col", "aria-sort": "none" }, button);
    if (isNumeric[index]) heading.classList.add("number");
    button.addEventListener("click", () => sortBy(index));
    return heading;
  });
  const rows = data.rows.map((cells, row) => {
    const line = make("tr", { "data-row": row }, ...cells.map((cell, index) => makeCell(cell, index, row)));
    if (data.ranks[row] === null) line.classList.add("unranked");
    standFor(row, line);
    return line;
  });
  const body = make("tbody", {}, ...rows);
  let order = data.rows.map((_, row) => row);

  function sortBy(index) {
    const isDescending = headings[index].getAttribute("aria-sort") === "ascending";
    for (const heading of headings) heading.setAttribute("aria-sort", "none");
    headings[index].setAttribute("aria-sort", isDescending ? "descending" : "ascending");
    order = order.toSorted(compare(index, isDescending));
    body.append(...order.map((row) => rows[row]));
  }

  if (data.rows.length) headings[column("rank")].setAttribute("aria-sort", "ascending");
  const table = make("table", {}, make("thead", {}, make("tr", {}, ...headings)), body);
  document.getElementById("leaderboard").append(make("h2", {}, "Leaderboard"), make("div", { class: "scroll", tabindex: "0" }, table));
}

function makeCell(cell, index, row) {
  const { name, kind } = data.columns[index];
  const place = make("td", isNumeric[index] ? { class: "number" } : {});
  if (name === "number" && kind === "place" && data.links[row]) {
    place.append(make("a", { href: data.links[row], title: "its run folder" }, String(cell)));
  } else if (name === "state" && kind === "text") {
    place.append(make("span", { class: `state ${cell}` }, cell));
  } else if (isNumeric[index] && cell !== null) {
    place.title = String(cell);
    place.append(spell(toNumber(cell)));
  } else if (cell !== null) {
    place.append(String(cell));
    if (String(cell).length > 40) place.classList.add("long");
  }
  return place;
}
