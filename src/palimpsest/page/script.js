"use strict";
(() => {
  const root = document.documentElement;
  const find = (selector) => document.querySelector(selector);
  for (const element of document.querySelectorAll(".needs-script")) element.hidden = false;

  // Theme: follows the system until the reader chooses; a file opened from disk may have no storage.
  const button = find("#theme");
  const remember = (value) => { try { localStorage.setItem("palimpsest-theme", value); } catch { /* not kept */ } };
  const recall = () => { try { return localStorage.getItem("palimpsest-theme"); } catch { return null; } };
  const dark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const name = () => { button.textContent = dark() ? "Light" : "Dark"; button.setAttribute("aria-label", `Switch to ${dark() ? "light" : "dark"} colors`); };
  const kept = recall();
  if (kept === "dark" || kept === "light") root.dataset.theme = kept;
  button.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; remember(root.dataset.theme); name(); });
  name();

  // Sorting: the order of the report is kept for ties, undefined values stay last either way.
  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0];
    const rows = [...body.rows];
    body.classList.add("grouped");
    const heads = [...table.tHead.rows[0].cells];
    // A row is named by its figure and its run, which are sorted apart; all other columns hold one value.
    const parts = { Figure: ".figure-of", Run: ".run" };
    const text = (row, selector) => row.cells[0].querySelector(selector).textContent;
    const sort = (button, head, column) => {
      const number = head.classList.contains("n");
      const chosen = button.getAttribute("aria-pressed") === "true";
      const up = chosen ? head.getAttribute("aria-sort") !== "ascending" : !number;
      for (const other of heads) {
        if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
        for (const one of other.querySelectorAll("button")) one.setAttribute("aria-pressed", String(one === button));
      }
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const part = parts[button.textContent];
      const key = (row) => number ? (row.cells[column].dataset.sort ?? "") : text(row, part);
      const sorted = rows.map((row, place) => [key(row), place, row]).sort(([a, i], [b, j]) => {
        if (number && (a === "" || b === "")) return (a === "") - (b === "") || i - j;
        const order = number ? a - b : a.localeCompare(b);
        return (up ? order : -order) || i - j;
      });
      body.classList.toggle("grouped", part === parts.Figure);
      let last = null;
      for (const [, , row] of sorted) {
        row.classList.toggle("first", text(row, parts.Figure) !== last);
        last = text(row, parts.Figure);
        body.append(row);
      }
    };
    heads.forEach((head, column) => {
      for (const button of head.querySelectorAll("button")) button.addEventListener("click", () => sort(button, head, column));
    });
  }

  // Trade-off on other axes: the same frame, shapes and label spots as the drawing that came with the page.
  const data = JSON.parse(find("#data").textContent);
  const figure = find("#tradeoff-figure");
  const [across, upward] = [find("#axis-x"), find("#axis-y")];
  const W = 720, H = 430, L = 64, R = 24, T = 20, B = 56, S = 5.5;
  const minus = (text) => text.replace("-", "−");
  const short = (value) => minus(String(Number(value.toPrecision(3))));
  const node = (parent, tag, attributes, text) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    parent.append(element);
    return element;
  };
  const extent = (values) => {
    const finite = values.filter((value) => value !== null);
    const low = Math.min(...finite), high = Math.max(...finite);
    const margin = 0.08 * (high - low) || 0.08 * Math.abs(high) || 0.5;
    return [low - margin, high + margin];
  };
  const ticks = ([low, high]) => {
    const raw = (high - low) / 5, power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw * (1 - 1e-9));
    const found = [];
    for (let k = Math.ceil(low / step - 1e-9); k <= Math.floor(high / step + 1e-9); k++) found.push(Number((k * step).toPrecision(10)));
    return found;
  };
  const mark = (svg, kind, x, y) => {
    if (kind === "before") node(svg, "circle", { class: "mark hollow", cx: x, cy: y, r: S });
    else if (kind === "after") node(svg, "circle", { class: "mark accent", cx: x, cy: y, r: S + 0.5 });
    else if (kind === "reference") node(svg, "path", { class: "mark hollow", d: `M${x} ${y - S - 2}l${S + 2} ${S + 2}l${-S - 2} ${S + 2}l${-S - 2} ${-S - 2}z` });
    else if (kind === "variant" || kind === "stage") node(svg, "path", { class: `mark ${kind === "stage" ? "solid" : "accent"}`, d: `M${x} ${y - S - 1}l${S + 1} ${2 * S}h${-2 * S - 2}z` });
    else node(svg, "rect", { class: "mark solid", x: x - S + 1, y: y - S + 1, width: 2 * S - 2, height: 2 * S - 2 });
  };
  const place = (label, x, y, placed) => {
    const w = 7.2 * label.length;
    const spots = [-8, 8, -24, 24, -40, 40, -56, 56, -72, 72].flatMap((lift) => [x + 11, x - 11 - w, x - w / 2].map((side) => [side, y + lift]));
    const inside = spots.filter(([a, b]) => L < a && a < W - w - 2 && T - 12 < b && b < H - B - 14);
    const free = ([a, b]) => !placed.some(([c, d, e, f]) => a < c + e && c < a + w && b < d + f && d < b + 16);
    const [left, top] = inside.find(free) ?? inside[0] ?? spots[0];
    placed.push([left, top, w, 16]);
    return [left, top + 12];
  };
  const draw = () => {
    const runs = data.runs.map((run) => ({ ...run, x: run.scores[across.value], y: run.scores[upward.value] }))
      .filter((run) => run.x && run.y && run.x[0] !== null && run.y[0] !== null);
    figure.replaceChildren();
    if (!runs.length) { figure.textContent = "No run was measured in both figures."; return; }
    const xs = extent(runs.flatMap((run) => run.x)), ys = extent(runs.flatMap((run) => run.y));
    const at = (value) => L + (value - xs[0]) / (xs[1] - xs[0]) * (W - L - R);
    const up = (value) => H - B - (value - ys[0]) / (ys[1] - ys[0]) * (H - T - B);
    const [xLabel, yLabel] = [data.axes[across.value], data.axes[upward.value]];
    const title = `${yLabel} against ${xLabel}`;
    const svg = node(figure, "svg", { class: "tradeoff", viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": title });
    node(svg, "title", {}, title);
    node(svg, "desc", {}, runs.map((run) => `${run.name}: ${short(run.x[0])}, ${short(run.y[0])}`).join("; "));
    for (const value of ticks(xs)) {
      node(svg, "line", { class: "grid", x1: at(value), x2: at(value), y1: T, y2: H - B });
      node(svg, "text", { class: "tick", x: at(value), y: H - B + 18, "text-anchor": "middle" }, minus(String(value)));
    }
    for (const value of ticks(ys)) {
      node(svg, "line", { class: "grid", x1: L, x2: W - R, y1: up(value), y2: up(value) });
      node(svg, "text", { class: "tick", x: L - 8, y: up(value) + 4, "text-anchor": "end" }, minus(String(value)));
    }
    node(svg, "text", { class: "label", x: (L + W - R) / 2, y: H - 12, "text-anchor": "middle" }, xLabel);
    node(svg, "text", { class: "label", transform: `translate(14 ${(T + H - B) / 2}) rotate(-90)`, "text-anchor": "middle" }, yLabel);
    const placed = [];
    for (const { x, y } of runs) {
      placed.push([at(x[0]) - 7, up(y[0]) - 7, 14, 14]);
      if (!x.includes(null)) {
        node(svg, "line", { class: "whisker", x1: at(x[1]), x2: at(x[2]), y1: up(y[0]), y2: up(y[0]) });
        placed.push([at(x[1]), up(y[0]) - 1, at(x[2]) - at(x[1]), 2]);
      }
      if (!y.includes(null)) {
        node(svg, "line", { class: "whisker", x1: at(x[0]), x2: at(x[0]), y1: up(y[1]), y2: up(y[2]) });
        placed.push([at(x[0]) - 1, up(y[2]), 2, up(y[1]) - up(y[2])]);
      }
    }
    for (const run of runs) {
      const [left, base] = place(run.name, at(run.x[0]), up(run.y[0]), placed);
      mark(svg, run.kind, at(run.x[0]), up(run.y[0]));
      node(svg, "text", { class: `name ${run.kind}`, x: left, y: base }, run.name);
    }
  };
  if (figure && across && upward) {
    across.addEventListener("change", draw);
    upward.addEventListener("change", draw);
    draw();
  }

  // Paper shows what is folded on the screen, and folds it again.
  let folded = [];
  addEventListener("beforeprint", () => { folded = [...document.querySelectorAll("details:not([open])")]; for (const d of folded) d.open = true; });
  addEventListener("afterprint", () => { for (const d of folded) d.open = false; });
  root.dataset.ready = "true";
})();
