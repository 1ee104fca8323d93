// --- which candidates are drawn ---

// Choosing one in a section chooses it in all; the style sheet hides what is not chosen.
const boxes = [...document.querySelectorAll(".legend-of input")];
const choose = (wanted) => {
  for (const box of boxes) box.checked = wanted(box);
};
for (const box of boxes) {
  box.addEventListener("change", () => choose((b) => (b.value === box.value ? box.checked : b.checked)));
}
for (const legend of document.querySelectorAll(".legend-of")) {
  const own = [...legend.querySelectorAll("input")];
  if (own.length < 4) continue;
  const ways = [
    ["all", () => true],
    ["fewer", (b) => b.defaultChecked],
    ["none", () => false],
  ];
  for (const [word, wanted] of ways) {
    const button = element("button", word);
    button.type = "button";
    button.addEventListener("click", () => {
      const values = new Set(own.map((b) => b.value));
      choose((b) => (values.has(b.value) ? wanted(own.find((o) => o.value === b.value)) : b.checked));
    });
    legend.append(button);
  }
}

// --- any two candidates ---

const ROWS = 14; // rows of a group of figures shown at first

// A figure in four digits, without an exponent where it is readable so.
function digits(value) {
  if (value === null || value === undefined) return "-";
  if (Number.isInteger(value) && Math.abs(value) < 1e15) return value.toLocaleString("en").replace("-", "−");
  const text = Math.abs(value) >= 1e-5 || value === 0 ? Number(value.toPrecision(4)).toString() : value.toExponential(2);
  return text.replaceAll("-", "−");
}
const signed = (value) => (value > 0 ? "+" : "") + digits(value);

function figureCell(entry) {
  const cell = element("td", entry ? digits(entry[0]) : "-", "n");
  if (entry?.length === 2) cell.append(element("small", `±${digits(entry[1])}`));
  if (entry?.length === 3) cell.append(element("small", `[${digits(entry[1])}, ${digits(entry[2])}]`));
  return cell;
}

// What a record measured of B beside A, pair by pair; turned where it was measured of A beside B.
function paired(record, first, second, key) {
  for (const [a, b, entries] of record.pairs) {
    const turned = a === second && b === first;
    if (!turned && !(a === first && b === second)) continue;
    for (const [metric, place, words, value, ...ends] of entries) {
      if (`${metric}\n${place}` !== key) continue;
      const [low, high] = ends.length === 1 ? [value - ends[0], value + ends[0]] : [ends[0] ?? null, ends[1] ?? null];
      if (!turned) return { value, low, high, words };
      if (words === "ratio") return { value: 1 / value, low: high && 1 / high, high: low && 1 / low, words };
      const verdict = { better: "worse", worse: "better" }[words] ?? words;
      return { value: -value, low: high === null ? null : -high, high: low === null ? null : -low, words: verdict };
    }
  }
  return undefined;
}

function differenceCell(record, first, second, key, a, b, exact) {
  const found = first === second ? undefined : paired(record, first, second, key);
  const cell = element("td", "", "n");
  if (found && found.value !== null) {
    const ratio = found.words === "ratio";
    const show = ratio ? digits : signed;
    cell.append(`${ratio ? "× " : ""}${show(found.value)}`);
    const ends = found.low === null ? "no interval" : `[${show(found.low)}, ${show(found.high)}]`;
    cell.append(element("small", `${ends}${found.words && !ratio ? `, B is ${found.words}` : ""}`));
  } else if (a && b && a[0] !== null && b[0] !== null) {
    const whole = Number.isInteger(a[0]) && Number.isInteger(b[0]);
    const difference = whole ? b[0] - a[0] : Number((b[0] - a[0]).toPrecision(6));
    cell.append(element("span", signed(difference), "muted"));
    if (record.why && !exact) cell.append(element("small", "not paired"));
  } else cell.append("-");
  return cell;
}

function pairTable(record, rows, first, second, names) {
  const table = element("table", undefined, "plain");
  const head = table.createTHead().insertRow();
  for (const [i, text] of ["figure", ...names, "B less A"].entries()) {
    const cell = element("th", text, i ? "n" : "");
    cell.scope = "col";
    head.append(cell);
  }
  const body = table.createTBody();
  const [at, to] = [record.sides.indexOf(first), record.sides.indexOf(second)];
  for (const row of rows) {
    const [name, unit, meaning, exact] = record.metrics[row[0]];
    const line = body.insertRow();
    const title = element("th");
    for (const part of (row[1] ? `${name}, ${row[1]}` : name).split(/(?<=_)/)) title.append(part, element("wbr"));
    title.scope = "row";
    if (meaning) title.title = meaning;
    if (unit && unit !== name) title.append(element("small", ` ${unit}`));
    const [a, b] = [row[2 + at] || null, row[2 + to] || null];
    line.append(title, figureCell(a), figureCell(b), differenceCell(record, first, second, `${name}\n${row[1]}`, a, b, exact));
  }
  const scroll = element("div", undefined, "scroll");
  scroll.append(table);
  return scroll;
}

// What rows are over: everything, slices, layers, …
const kindOf = (row) => row[1].replace(/ .*/, "");

function pairGroup(record, kind, rows, first, second, names, open) {
  const group = element("details");
  group.append(element("summary", kind ? `by ${kind}: ${rows.length} figures` : `over everything: ${rows.length} figures`));
  const fill = () => {
    if (!group.open || group.querySelector("table")) return;
    group.append(pairTable(record, rows.slice(0, ROWS), first, second, names));
    if (rows.length <= ROWS) return;
    const more = element("button", `Show all ${rows.length}`);
    more.type = "button";
    more.addEventListener("click", () => {
      group.querySelector(".scroll").replaceWith(pairTable(record, rows, first, second, names));
      more.remove();
    });
    group.append(more);
  };
  group.addEventListener("toggle", fill);
  group.open = open;
  fill();
  return group;
}

function showPair(section, records) {
  const form = section.querySelector("form").elements;
  const [first, second] = [Number(form.first.value), Number(form.second.value)];
  const names = [form.first, form.second].map((s, i) => `${"AB"[i]} ${s.selectedOptions[0].textContent}`);
  const wanted = form.text.value.trim().toLowerCase();
  const parts = [];
  for (const record of records) {
    const [at, to] = [record.sides.indexOf(first), record.sides.indexOf(second)];
    if (at < 0 && to < 0) continue;
    parts.push(element("h3", record.title));
    if (at < 0 || to < 0) {
      parts.push(element("p", `This record has figures of ${names[at < 0 ? 1 : 0]} alone: no difference here.`, "small"));
      continue;
    }
    const rows = record.rows.filter((row) => {
      const text = `${record.metrics[row[0]][0]} ${row[1]}`.toLowerCase();
      return (row[2 + at] || row[2 + to]) && text.includes(wanted);
    });
    for (const kind of new Set(rows.map(kindOf))) {
      const own = rows.filter((row) => kindOf(row) === kind);
      parts.push(pairGroup(record, kind, own, first, second, names, kind === "" || kind === "test" || wanted !== ""));
    }
    if (record.why) parts.push(element("p", `Differences with an interval are paired. Not paired: ${record.why}`, "small"));
  }
  if (parts.length === 0) parts.push(element("p", "No record has figures of these two.", "small"));
  section.querySelector(".pair-tables").replaceChildren(...parts);
}

// The figures as pairs.py packs them.
async function unpack() {
  const bytes = Uint8Array.from(atob(document.getElementById("figures").textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

for (const section of document.querySelectorAll("#pair")) {
  const records = unpack();
  const form = section.querySelector("form");
  const refresh = async () => showPair(section, await records);
  form.addEventListener("input", refresh);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.elements.swap.addEventListener("click", () => {
    const { first, second } = form.elements;
    [first.value, second.value] = [second.value, first.value];
    refresh();
  });
  for (const note of section.querySelectorAll(".without-script")) note.remove();
  refresh();
}
