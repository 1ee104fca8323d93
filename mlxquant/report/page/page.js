"use strict";
// The page works without this; it adds reasons at cells, keyboard walking, sorting and filtering.

const PAGE = 50; // lines of a table shown at first
const tip = document.getElementById("tip");

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

// --- the map ---

// What the table's lines say of a cell: everything is read from there, so nothing stands twice in the page.
function describe(model, cell) {
  const side = Number(cell.closest("table").dataset.side);
  const numbers = cell.dataset.r.split(" ");
  const row = document.getElementById(`${model.id}-r${numbers[0]}`);
  const cells = [...row.children];
  const wide = model.querySelector(".sortable").dataset.wide;
  const at = 4 + side * wide;
  const why = [...cells[0].querySelectorAll("p")].find((p) => p.dataset.s.split(" ").includes(String(side)));
  const reason = why ? why.cloneNode(true) : null;
  if (reason) for (const letter of reason.querySelectorAll("b")) letter.remove();
  const size = `${cells[at + 1].textContent} bytes`;
  const error = wide > 2 && cells[at + 2].textContent !== "-" ? `, error ${cells[at + 2].textContent}` : "";
  return {
    path: cells[0].querySelector(".path").textContent,
    more: numbers.length > 1 ? ` and ${numbers.length - 1} more of this name` : "",
    stored: cells[at].textContent + (cell.classList.contains("keep") ? ", protected" : ""),
    figures: size + error,
    reason: reason ? reason.textContent.trim() : "",
  };
}

let current = null; // the cell that the tip speaks of

function show(model, cell) {
  const said = describe(model, cell);
  hide();
  current = cell;
  tip.replaceChildren(
    element("p", said.path + said.more, "path"),
    element("p", said.stored, "stored"),
    element("p", said.figures),
    element("p", said.reason, "reason"),
  );
  tip.hidden = false;
  cell.setAttribute("aria-describedby", "tip");
  for (const other of model.querySelectorAll(`.map td[data-r="${cell.dataset.r}"]`)) other.classList.add("twin");
  place();
}

function place() {
  if (!current) return;
  const at = current.getBoundingClientRect();
  if (at.bottom < 0 || at.top > innerHeight) return hide();
  if (matchMedia("(max-width: 640px)").matches) return; // the style sheet puts it at the bottom
  const box = tip.getBoundingClientRect();
  const left = Math.min(Math.max(8, at.left + at.width / 2 - box.width / 2), innerWidth - box.width - 8);
  const above = at.top - box.height - 8;
  tip.style.left = `${left}px`;
  tip.style.top = `${above > 0 ? above : at.bottom + 8}px`;
}

function hide() {
  current = null;
  tip.hidden = true;
  for (const other of document.querySelectorAll(".twin")) other.classList.remove("twin");
  for (const cell of document.querySelectorAll("[aria-describedby=tip]")) cell.removeAttribute("aria-describedby");
}

// The next cell in a direction; columns keep their place across layers that lack some.
function next(table, cell, key) {
  const rows = [...table.tBodies[0].rows];
  const cellsOf = (row) => [...row.querySelectorAll("td[data-r]")];
  const y = rows.indexOf(cell.parentElement);
  const line = cellsOf(rows[y]);
  if (key === "ArrowLeft") return line[line.indexOf(cell) - 1];
  if (key === "ArrowRight") return line[line.indexOf(cell) + 1];
  if (key === "Home") return line[0];
  if (key === "End") return line.at(-1);
  const column = Number(table.dataset.column ?? cell.dataset.c);
  const step = key === "ArrowDown" || key === "PageDown" ? 1 : -1;
  const far = key.startsWith("Page") ? 8 : 1;
  for (let to = y + step * far; to >= 0 && to < rows.length; to += step) {
    const found = cellsOf(rows[to]);
    if (found.length === 0) continue;
    const same = found.find((c) => Number(c.dataset.c) === column);
    if (same || rows[to].classList.contains("wide")) return same ?? found[0];
    if (far === 1) continue;
    return found[0];
  }
  return undefined;
}

function walk(model, table) {
  const cells = [...table.querySelectorAll("td[data-r]")];
  if (cells.length === 0) return;
  for (const cell of cells) cell.tabIndex = -1;
  cells[0].tabIndex = 0;
  const enter = (cell) => {
    for (const old of table.querySelectorAll('td[tabindex="0"]')) old.tabIndex = -1;
    cell.tabIndex = 0;
    cell.focus({ preventScroll: false });
  };
  table.addEventListener("keydown", (event) => {
    const cell = event.target.closest("td[data-r]");
    if (!cell) return;
    if (event.key === "Escape") return hide();
    if (!/^(Arrow|Page|Home|End)/.test(event.key)) return;
    event.preventDefault();
    const to = next(table, cell, event.key);
    if (!to) return;
    // going up or down through a line that spans all columns keeps the column
    if (!to.parentElement.classList.contains("wide")) table.dataset.column = to.dataset.c;
    enter(to);
  });
  table.addEventListener("focusin", (event) => {
    const cell = event.target.closest("td[data-r]");
    if (cell) show(model, cell);
  });
  table.addEventListener("focusout", hide);
  table.addEventListener("mouseover", (event) => {
    const cell = event.target.closest("td[data-r]");
    if (cell) show(model, cell);
  });
  table.addEventListener("mouseleave", hide);
  table.addEventListener("click", (event) => {
    const cell = event.target.closest("td[data-r]");
    if (cell) enter(cell);
  });
}

// --- the table ---

const collator = new Intl.Collator("en", { numeric: true });

function valueOf(cell) {
  if (cell.dataset.v !== undefined) return Number(cell.dataset.v);
  const text = cell.textContent.trim();
  const figure = /^[+−-]?\d[\d,]*(\.\d+)?(e[+−-]?\d+)?(?=$|[\s±%[+−])/.exec(text);
  return figure ? Number(figure[0].replaceAll(",", "").replaceAll("−", "-")) : text;
}

function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return collator.compare(String(a), String(b));
}

function sortable(table, refresh) {
  const heads = [...table.tHead.rows].at(-1).cells;
  for (const [column, head] of [...heads].entries()) {
    const button = element("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...table.tBodies[0].rows].map((row) => [valueOf(row.cells[column]), row]);
      rows.sort((x, y) => (down ? compare(y[0], x[0]) : compare(x[0], y[0])));
      table.tBodies[0].append(...rows.map((pair) => pair[1]));
      refresh();
    });
  }
}

function filterable(section, table) {
  const form = section.querySelector("form");
  const output = form.querySelector("output");
  const button = section.querySelector(".more button");
  const all = [...table.tBodies[0].rows];
  const words = new Map(all.map((row) => [row, row.textContent.toLowerCase()]));
  const forms = new Map(all.map((row) => [row, [...row.querySelectorAll("td:has(> .dot)")].map((c) => c.textContent)]));
  for (const name of [...new Set([...forms.values()].flat())].sort(collator.compare)) {
    form.elements.stored.append(element("option", name));
  }
  let limit = PAGE;
  const fits = (row) => {
    const wanted = form.elements;
    return (
      words.get(row).includes(wanted.text.value.trim().toLowerCase()) &&
      (!wanted.role.value || row.cells[1].textContent === wanted.role.value) &&
      (!wanted.stored.value || forms.get(row).includes(wanted.stored.value)) &&
      (!wanted.kept.checked || row.querySelector(".dot.keep") !== null) &&
      (!wanted.differs?.checked || row.classList.contains("d"))
    );
  };
  const refresh = () => {
    let count = 0;
    for (const row of table.tBodies[0].rows) {
      const matches = fits(row);
      if (matches) count += 1;
      row.hidden = !matches || count > limit;
    }
    output.value = `${count.toLocaleString("en")} of ${all.length.toLocaleString("en")} modules`;
    const left = count > limit ? `, of which ${limit} are printed` : "";
    section.querySelector(".printed").textContent = `${output.value}${left}`;
    button.hidden = count <= limit;
    button.textContent = `Show all ${count.toLocaleString("en")}`;
  };
  button.addEventListener("click", () => {
    limit = Infinity;
    refresh();
  });
  form.addEventListener("input", refresh);
  form.addEventListener("submit", (event) => event.preventDefault());
  sortable(table, refresh);
  refresh();
}

for (const model of document.querySelectorAll("section.model")) {
  const table = model.querySelector(".sortable");
  const sides = model.querySelectorAll(".cards .card").length;
  table.dataset.wide = ([...table.tHead.rows].at(-1).cells.length - 4) / sides;
  for (const map of model.querySelectorAll(".map")) walk(model, map);
  for (const radio of model.querySelectorAll('.maps input[type="radio"]')) {
    radio.addEventListener("change", () => (radio.closest(".maps").dataset.mode = radio.value));
  }
  filterable(model.querySelector(".tensors"), table);
}
for (const table of document.querySelectorAll(".sorts")) sortable(table, () => {});
document.addEventListener("scroll", place, { passive: true, capture: true });
for (const hint of document.querySelectorAll(".controls")) hint.classList.add("ready");

// Paper has what is folded away on the screen; afterwards it is folded as before.
let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not([open])")].filter((group) => !group.closest("#pair"));
  for (const group of folded) group.open = true;
});
addEventListener("afterprint", () => {
  for (const group of folded) group.open = false;
});
