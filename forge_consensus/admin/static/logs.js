/* The logs of all nodes as bars on one common scale: what a snapshot covers, what is applied, committed, and not yet. */

import { el, keyedList, setAttribute, setText, svg } from "./dom.js";
import { count, known } from "./format.js";
import { nameOf } from "./judge.js";

const TAIL = 1_000;
const BAR = 16;

/** The entries that the bars span: "whole", from the oldest "snapshot" (the default), or the "tail" of the log. */
export function spanOf(nodes, lastIndex, mode) {
  const ends = nodes.map((node) => node.last_log_index).filter(known);
  const high = Math.max(1, ...ends, lastIndex ?? 0);
  if (mode === "whole") return [0, high];
  if (mode === "tail") return [Math.max(0, high - TAIL), high];
  const snapshots = nodes.map((node) => node.snapshot_index).filter(known);
  const oldest = snapshots.length ? Math.min(...snapshots) : 0;
  return [Math.max(0, Math.floor(oldest - (high - oldest) * 0.12)), high];
}

/** The parts of a log, `[kind, from, to]`; empty if the node does not tell. */
export function partsOf(node) {
  const { snapshot_index: snapshot, last_applied: applied, commit_index: commit, last_log_index: end } = node;
  if (!known(end)) return [];
  const covered = snapshot ?? 0;
  const done = Math.max(covered, applied ?? covered);
  const agreed = Math.max(done, commit ?? done);
  const parts = [
    ["snapshot", 0, covered],
    ["applied", covered, done],
    ["committed", done, agreed],
    ["open", agreed, Math.max(agreed, end)],
  ];
  return parts.filter(([, from, to]) => to > from);
}

/** The list of bars; `update(nodes, lastIndex, mode)`. */
export class Logs {
  constructor(list, low, high) {
    this.low = low;
    this.high = high;
    this.span = [0, 1];
    this.rows = keyedList(list, nameOf, (node) => this.row(node));
  }

  /** Show the logs of these nodes. */
  update(nodes, lastIndex, mode) {
    this.span = spanOf(nodes, lastIndex, mode);
    setText(this.low, `entry ${count(this.span[0])}`);
    setText(this.high, `entry ${count(this.span[1])}`);
    this.rows.update(nodes);
  }

  /** The row of one node. */
  row(node) {
    const name = el("span", { class: "log-name" });
    const drawing = svg("svg", { class: "log-bar", role: "img", height: BAR, width: "100%" });
    const text = el("span", { class: "log-text" });
    const element = el("li", { class: "log-row", data: { node: nameOf(node) } }, name, drawing, text);
    const update = (next) => {
      const words = wordsOf(next);
      setText(name, nameOf(next));
      setText(text, words);
      setAttribute(drawing, "aria-label", `Log of ${nameOf(next)}: ${words}`);
      this.draw(drawing, next);
    };
    return { element, update };
  }

  /** Draw the bar of one node. */
  draw(drawing, node) {
    const [low, high] = this.span;
    const across = (index) => Math.min(100, Math.max(0, (100 * (index - low)) / (high - low || 1)));
    const shown = partsOf(node)
      .map(([kind, from, to]) => [kind, across(from), across(to)])
      .filter(([, from, to]) => to > from);
    const heard = !shown.length && known(node.match_index) ? across(node.match_index) : null;
    const looks = JSON.stringify([shown, heard]);
    if (drawing.dataset.looks === looks) return;
    drawing.dataset.looks = looks;
    drawing.replaceChildren(
      svg("rect", { class: "log-track", x: 0, y: 0, width: "100%", height: BAR, rx: 3 }),
      ...shown.map(([kind, from, to]) =>
        svg("rect", { class: `log-${kind}`, x: `${from}%`, y: 0, width: `${to - from}%`, height: BAR }),
      ),
      ...shown
        .filter(([kind]) => kind === "snapshot")
        .map(([, from, to]) =>
          svg("rect", { fill: "url(#hatch)", x: `${from}%`, y: 0, width: `${to - from}%`, height: BAR }),
        ),
      ...(heard === null
        ? []
        : [svg("rect", { class: "log-match", x: `${Math.max(0, heard - 0.4)}%`, y: 0, width: 3, height: BAR })]),
    );
  }
}

/** The log of a node in words. */
function wordsOf(node) {
  if (!known(node.last_log_index)) {
    if (known(node.match_index)) return `not told; the leader knows of entries up to ${count(node.match_index)} there`;
    return "not told, because the node does not answer";
  }
  const part = (text, value) => `${text} ${count(value) ?? "unknown"}`;
  const snapshot = node.snapshot_index === 0 ? "no snapshot" : part("snapshot", node.snapshot_index);
  return [
    snapshot,
    part("applied", node.last_applied),
    part("committed", node.commit_index),
    part("end", node.last_log_index),
  ].join(" · ");
}
