/* A chart over time: axes with units, one line a series, a summary for screen readers, the values under the pointer, and
 * the same figures as a table. */

import { byId, el, fillRows, setAttribute, setShown, setText, setValue, svg } from "./dom.js";
import { age, span } from "./format.js";
import { extent, linear, linePath, nearest, stepPath, thinned, ticksOf, within } from "./scale.js";

const HEIGHT = 176;
const LEFT = 62;
const RIGHT = 10;
const TOP = 10;
const BOTTOM = 24;
const POINTS_MAX = 240;
const TABLE_ROWS = 10;
/** So many kinds of lines have a look of their own. */
const LINES = 8;

export class Chart {
  /**
   * `container` is the id of an empty element. `format` makes a text of a value; `integer`: the axis has whole numbers
   * only; `steps`: a value stays until the next one; `fromZero`: the axis begins there; `merge`: how thinning merges.
   */
  constructor(container, { title, about, format, integer = false, steps = false, fromZero = true, merge = "highest" }) {
    Object.assign(this, { title, format, integer, steps, fromZero, merge });
    this.pointer = null;
    this.width = 0;
    this.data = null;
    this.build(byId(container), container, about);
  }

  /** Make the elements. */
  build(figure, id, about) {
    this.now = el("p", { class: "chart-now" });
    this.drawing = svg("svg", { class: "chart-drawing", role: "img", height: HEIGHT, "aria-label": this.title });
    this.legend = el("ul", { class: "legend" });
    this.readout = el("p", { class: "chart-readout", "aria-hidden": "true" });
    this.head = el("tr");
    this.body = el("tbody");
    const region = el(
      "div",
      { class: "scroll", role: "region", tabindex: "0", "aria-label": `${this.title} as a table` },
      el("table", {}, el("thead", {}, this.head), this.body),
    );
    this.details = el(
      "details",
      { class: "chart-table" },
      el("summary", { text: `Table of ${this.title.toLowerCase()}` }),
      region,
    );
    this.details.addEventListener("toggle", () => this.drawTable());
    setAttribute(figure, "aria-labelledby", `${id}-title`);
    figure.append(
      el(
        "figcaption",
        {},
        el("h4", { id: `${id}-title`, text: this.title }),
        el("p", { class: "chart-about", text: about }),
      ),
      this.now,
      this.drawing,
      this.readout,
      this.legend,
      this.details,
    );
    this.drawing.addEventListener("pointermove", (event) =>
      this.point(event.clientX - this.drawing.getBoundingClientRect().left),
    );
    this.drawing.addEventListener("pointerleave", () => this.point(null));
    new ResizeObserver(() => this.draw()).observe(figure);
  }

  /** Show series `{ name, points, look }` from one time to another. `table` replaces the table: `{ heads, rows }`. */
  update(data) {
    this.data = data;
    this.draw();
  }

  /** Move the line under the pointer. */
  point(place) {
    this.pointer = place;
    this.draw();
  }

  /** Draw everything anew. */
  draw() {
    const width = Math.floor(this.drawing.clientWidth || this.drawing.parentElement.clientWidth);
    if (!this.data || width < 80) return;
    const { from, to } = this.data;
    const shown = this.data.series.map(({ name, points, look }, place) => ({
      name,
      look: (look ?? place) % LINES,
      points: this.steps
        ? within(points, from, to)
        : thinned(within(points, from, to), from, to, POINTS_MAX, this.merge),
    }));
    const all = extent(shown.flatMap((series) => series.points));
    const low = this.fromZero || !all ? 0 : all.low - 1;
    const ticks = ticksOf(Math.max(low, 0), all ? all.high : 1, { integer: this.integer });
    const x = linear(from, to, LEFT, width - RIGHT);
    const y = linear(ticks[0], ticks.at(-1), HEIGHT - BOTTOM, TOP);
    setAttribute(this.drawing, "viewBox", `0 0 ${width} ${HEIGHT}`);
    this.drawing.replaceChildren(
      ...this.axes(ticks, x, y, width),
      ...shown.map((series) =>
        svg("path", { class: `line line-${series.look}`, d: (this.steps ? stepPath : linePath)(series.points, x, y) }),
      ),
      ...this.cursor(shown, x, width),
      ...(all
        ? []
        : [
            svg(
              "text",
              { class: "chart-empty", x: (LEFT + width) / 2, y: HEIGHT / 2, "text-anchor": "middle" },
              "no values in this time",
            ),
          ]),
    );
    this.tell(shown, from, to);
    this.drawTable();
  }

  /** The lines and texts of both axes. */
  axes(ticks, x, y, width) {
    const { from, to } = this.data;
    const parts = ticks.map((tick) =>
      svg(
        "g",
        { class: "tick" },
        svg("line", { x1: LEFT, x2: width - RIGHT, y1: y(tick), y2: y(tick) }),
        svg("text", { x: LEFT - 6, y: y(tick) + 4, "text-anchor": "end" }, this.format(tick) ?? ""),
      ),
    );
    const seconds = (to - from) / 1000;
    const divisions = width < 600 ? 2 : 4;
    for (let place = 0; place <= divisions; place += 1) {
      const back = seconds * (1 - place / divisions);
      const anchor = place === 0 ? "start" : place === divisions ? "end" : "middle";
      const text = back === 0 ? "now" : `${span(back)} ago`;
      parts.push(svg("text", { class: "time", x: x(to - back * 1000), y: HEIGHT - 6, "text-anchor": anchor }, text));
    }
    return parts;
  }

  /** The line under the pointer; its values are written below the chart. */
  cursor(shown, x, width) {
    if (this.pointer === null || this.pointer < LEFT || this.pointer > width - RIGHT) {
      setText(this.readout, "");
      return [];
    }
    const { from, to } = this.data;
    const time = linear(LEFT, width - RIGHT, from, to)(this.pointer);
    const texts = shown.map((series) => {
      const point = this.steps
        ? series.points.findLast((each) => each[0] <= time)
        : nearest(series.points, time, (to - from) / 40);
      return `${series.name} ${point ? (this.format(point[1]) ?? "–") : "–"}`;
    });
    setText(this.readout, `${age((to - time) / 1000)} ago: ${texts.join(" · ")}`);
    return [svg("line", { class: "cursor", x1: this.pointer, x2: this.pointer, y1: TOP, y2: HEIGHT - BOTTOM })];
  }

  /** Write the newest values, the legend, and the text alternative. */
  tell(shown, from, to) {
    const found = shown.map(({ name, look, points }) => {
      const values = extent(points);
      return { name, look, values, last: (values && this.format(values.last)) ?? null };
    });
    const several = found.length > 1;
    setShown(this.now, !several);
    setShown(this.legend, several);
    setValue(this.now, found[0]?.last ?? null);
    const summaries = found.map(({ name, values, last }) =>
      values
        ? `${name}: now ${last ?? "unknown"}, between ${this.format(values.low)} and ${this.format(values.high)}`
        : `${name}: no values`,
    );
    setAttribute(
      this.drawing,
      "aria-label",
      `${this.title} in the last ${span((to - from) / 1000)}. ${summaries.join(". ") || "No values"}.`,
    );
    const names = found.map(({ name, look }) => `${look} ${name}`).join("\n");
    if (this.legend.dataset.names !== names) {
      this.legend.dataset.names = names;
      this.legend.replaceChildren(...found.map(({ name, look }) => legendItem(name, look)));
    }
    found.forEach(({ last }, place) => setValue(this.legend.children[place].lastElementChild, last));
  }

  /** Write the table, if it is open. */
  drawTable() {
    if (!this.details.open || !this.data) return;
    const { heads, rows } = this.data.table ?? this.tableOfValues();
    this.head.replaceChildren(...heads.map((text) => el("th", { scope: "col", text })));
    fillRows(this.body, rows);
  }

  /** The values at some times. */
  tableOfValues() {
    const { from, to, series } = this.data;
    const step = (to - from) / TABLE_ROWS;
    const rows = [];
    for (let place = 0; place < TABLE_ROWS; place += 1) {
      const time = to - place * step;
      const values = series.map(({ points }) => {
        const inside = points.filter((point) => point[0] > time - step && point[0] <= time);
        return this.format(extent(thinned(inside, time - step, time, 1, this.merge))?.high ?? null);
      });
      rows.push([place === 0 ? `last ${span(step / 1000)}` : `${span((place * step) / 1000)} ago`, ...values]);
    }
    const how = this.merge === "mean" ? "mean" : "highest";
    return { heads: ["When", ...series.map(({ name }) => `${name} (${how})`)], rows };
  }
}

/** One entry of a legend: a sample of the line, its name, and a place for its newest value. */
function legendItem(name, look) {
  const sample = svg(
    "svg",
    { width: 26, height: 10, "aria-hidden": "true" },
    svg("path", { class: `line line-${look}`, d: "M1 5H25" }),
  );
  return el("li", {}, sample, el("span", { text: name }), el("strong"));
}
