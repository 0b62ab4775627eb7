/* The cluster as a picture: its nodes as a ring, with lines from the leader to those that it hears. Where the ring has no
 * room (many nodes), the list of nodes below it says it all. */

import { setAttribute, setShown, svg } from "./dom.js";
import { count, known, listed, shortened } from "./format.js";
import { iconPath } from "./icons.js";
import { leads, nameOf, roleOf, stateOf } from "./judge.js";

const HEIGHT = 390;
/** The width follows the place on the page, so that the texts keep their size. */
const WIDTHS = { least: 300, most: 480, narrow: 380 };
const NODES_MAX = 12;
const NODES_MAX_NARROW = 7;
const RADIUS = 34;

/** The ring in an `<svg>`; `update(store)` draws it anew if anything that it shows has changed. */
export class Picture {
  constructor(drawing) {
    this.drawing = drawing;
    this.shown = "";
  }

  /** Show the cluster; returns whether there is room for a picture. */
  update(store) {
    const { cluster } = store;
    const nodes = store.nodes();
    const width = Math.min(
      WIDTHS.most,
      Math.max(WIDTHS.least, Math.floor(this.drawing.parentElement.clientWidth - 30)),
    );
    const fits = nodes.length > 0 && nodes.length <= (width < WIDTHS.narrow ? NODES_MAX_NARROW : NODES_MAX);
    setShown(this.drawing, fits);
    const looks = nodes.map((node) => [nameOf(node), node.role, node.part, node.state, node.lag, leads(node, cluster)]);
    const shown = JSON.stringify([width, looks]);
    if (shown === this.shown || !fits) return fits;
    this.shown = shown;
    const places = placesOf(nodes.length, width);
    const first = nodes.findIndex((node) => leads(node, cluster));
    const size = nodes.length > 7 ? 26 : RADIUS;
    setAttribute(this.drawing, "viewBox", `0 0 ${width} ${HEIGHT}`);
    this.drawing.replaceChildren(
      ...nodes.flatMap((node, place) =>
        first < 0 || place === first ? [] : edge(places[first], places[place], node, size),
      ),
      ...nodes.map((node, place) => circle(node, places[place], size, leads(node, cluster))),
    );
    setAttribute(this.drawing, "aria-label", this.told(nodes, cluster));
    return fits;
  }

  /** The picture in words. */
  told(nodes, cluster) {
    const leader = nodes.find((node) => leads(node, cluster));
    const others = nodes
      .filter((node) => node !== leader)
      .map((node) => `${nameOf(node)} (${roleOf(node)}, ${stateOf(node).name})`);
    const first = leader ? `${nameOf(leader)} leads` : "no node leads";
    return `The cluster as a ring of ${nodes.length}: ${first}${others.length ? `; ${listed(others)}` : ""}.`;
  }
}

/** Where the nodes stand: on an ellipse, the first one at the top. */
function placesOf(many, width) {
  if (many === 1) return [{ x: width / 2, y: HEIGHT / 2 - 20 }];
  return Array.from({ length: many }, (_, place) => {
    const angle = (2 * Math.PI * place) / many - Math.PI / 2;
    return { x: width / 2 + Math.cos(angle) * (width / 2 - 58), y: HEIGHT / 2 - 12 + Math.sin(angle) * 138 };
  });
}

/** The line from the leader to a node; it is broken where the leader does not hear it. */
function edge(from, to, node, size) {
  const { tone, name } = stateOf(node);
  const far = Math.hypot(to.x - from.x, to.y - from.y);
  const cut = (place, away) => ({
    x: place.x + ((to.x - from.x) / far) * away,
    y: place.y + ((to.y - from.y) / far) * away,
  });
  const start = cut(from, size + 5);
  const end = cut(to, -size - 5);
  const middle = { x: (start.x + end.x) / 2, y: (start.y + end.y) / 2 };
  const silent = name === "no answer" || name === "cut off";
  const parts = [
    svg("line", { class: `edge edge-${silent ? "broken" : tone}`, x1: start.x, y1: start.y, x2: end.x, y2: end.y }),
  ];
  if (silent) parts.push(mark("bad", middle.x, middle.y, 9));
  return parts;
}

/** A small disc with a drawing. */
function mark(name, x, y, radius) {
  const scale = (radius * 1.15) / 16;
  return svg(
    "g",
    { class: `mark mark-${name}` },
    svg("circle", { cx: x, cy: y, r: radius }),
    iconPath(name, { transform: `translate(${x - 8 * scale} ${y - 8 * scale}) scale(${scale})` }),
  );
}

/** A node: its shape tells its part, its rim whether it leads or answers, its mark its state. */
function circle(node, { x, y }, size, leading) {
  const { name, tone } = stateOf(node);
  const learner = node.part === "learner";
  const shape = learner
    ? svg("rect", { class: "disc", x: x - size, y: y - size, width: 2 * size, height: 2 * size, rx: 10 })
    : svg("circle", { class: "disc", cx: x, cy: y, r: size });
  const text = (row, content, kind) =>
    svg("text", { class: kind, x, y: y + size + row, "text-anchor": "middle" }, content);
  const data = { node: nameOf(node), state: name, role: known(node.role) ? node.role : "unknown" };
  return svg(
    "g",
    { class: `node node-${tone}${leading ? " node-leads" : ""}${name === "no answer" ? " node-silent" : ""}`, data },
    shape,
    leading ? svg("circle", { class: "rim", cx: x, cy: y, r: size + 5 }) : null,
    leading ? iconPath("star", { transform: `translate(${x - 9} ${y - size + 2}) scale(1.1)` }) : null,
    svg(
      "text",
      { class: "node-name", x, y: y + (leading ? 13 : 6), "text-anchor": "middle" },
      shortened(nameOf(node), 9),
    ),
    mark(tone, x + size * 0.78, y - size * 0.78, 9),
    text(18, leading ? "leader" : roleOf(node).replace(", role unknown", ""), "node-role"),
    name === "ok"
      ? null
      : text(33, name === "behind" && node.lag > 0 ? `${count(node.lag)} behind` : name, `node-state text-${tone}`),
  );
}
