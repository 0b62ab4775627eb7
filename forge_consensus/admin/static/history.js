/* The last half hour of the figures, as the charts need it: rates from totals, values by time, and terms by their begin.
 * A time is in milliseconds of this browser's clock; a point whose value is null is a gap. */

import { known } from "./format.js";

export const KEPT_MS = 30 * 60_000;
/** Without a value for longer than this, the line of a chart has a gap. */
const GAP_MS = 6_000;
const TERMS_MAX = 500;

/** Values of one figure by time. */
export class Series {
  constructor(name) {
    this.name = name;
    this.points = [];
  }

  /** Take a value; old ones are dropped. */
  push(time, value) {
    const last = this.points.at(-1);
    if (last && time <= last[0]) return;
    if (last && last[1] !== null && time - last[0] > GAP_MS) this.points.push([last[0] + 1, null]);
    this.points.push([time, known(value) ? value : null]);
    if (this.points[0][0] < time - KEPT_MS) this.points = this.points.filter((point) => point[0] >= time - KEPT_MS);
  }

  /** The newest value, null if there is none. */
  get latest() {
    return this.points.at(-1)?.[1] ?? null;
  }
}

/**
 * How much a total grew per second between two looks at the same source, by the source's own clock (`uptime`) if it is
 * the same source still. Null if it cannot be known, undefined if the second look is the first one again.
 */
export function rateBetween(before, after) {
  if (!before || !known(before.total) || !known(after.total) || after.total < before.total) return null;
  let passed = (after.time - before.time) / 1000;
  if (before.source === after.source && known(before.uptime) && known(after.uptime)) {
    passed = after.uptime - before.uptime;
    if (passed === 0) return undefined;
    if (passed < 0) return null;
  } else if (before.source !== after.source && after.exact) {
    return null;
  }
  return passed > 0 ? (after.total - before.total) / passed : null;
}

export class History {
  constructor() {
    this.commits = new Series("commits");
    this.operations = new Series("commands answered");
    this.failed = new Series("commands failed");
    this.reads = new Series("reads");
    this.slowest = new Series("slowest commit");
    this.lags = new Map();
    /** Term -> when it was first seen, and who leads in it if that is known. */
    this.terms = new Map();
    this.looks = new Map();
    /** How far the clock of the node is ahead of this browser's, in milliseconds. */
    this.ahead = 0;
  }

  /** Take the rate of a total into a series. */
  takeRate(series, look) {
    const rate = rateBetween(this.looks.get(series), look);
    if (rate === undefined) return;
    this.looks.set(series, look);
    if (rate !== null || series.points.length) series.push(look.time, rate);
  }

  /** Take an answer of v1/cluster. */
  takeCluster(cluster, time = Date.now()) {
    const { leader_id: source, uptime, commit_index: total } = cluster;
    this.takeRate(this.commits, { source, uptime, total, time });
    this.takeTerm(cluster.term, time, cluster.leader_id);
    for (const node of cluster.nodes) {
      if (!known(node.node_id)) continue;
      if (!this.lags.has(node.node_id)) this.lags.set(node.node_id, new Series(node.node_id));
      this.lags.get(node.node_id).push(time, node.lag);
    }
    for (const [id, series] of this.lags) {
      if (series.points.every((point) => point[1] === null) && !cluster.nodes.some((node) => node.node_id === id))
        this.lags.delete(id);
    }
  }

  /** Take an answer of v1/node. */
  takeNode(node, time = Date.now()) {
    const look = (total) => ({ source: node.node_id, uptime: node.uptime, total, time, exact: true });
    this.takeRate(this.operations, look(node.operations_total));
    this.takeRate(this.failed, look(node.operations_failed));
    this.takeRate(this.reads, look(node.reads_total));
    this.slowest.push(time, node.commit_seconds > 0 ? node.commit_seconds : null); // 0: nothing was committed
  }

  /** Take the begin of a term; the earliest time at which it was seen counts. */
  takeTerm(term, time, leader = null) {
    if (!known(term) || !Number.isFinite(time)) return;
    const before = this.terms.get(term);
    this.terms.set(term, {
      term,
      time: Math.min(time, before?.time ?? time),
      leader: leader || before?.leader || null,
    });
    if (this.terms.size > TERMS_MAX) this.terms.delete(Math.min(...this.terms.keys()));
  }

  /** Take an event: it may tell when a term began, also before this page was opened. */
  takeEvent(event) {
    const leader = event.type === "consensus.leader.elected" ? event.data?.leader : null;
    this.takeTerm(event.term, Date.parse(event.time) - this.ahead, leader);
  }

  /** Take the time of an answer by the node's clock, which has whole seconds only. */
  takeDate(text, now = Date.now()) {
    const ahead = Date.parse(text ?? "") + 500 - now;
    if (Number.isFinite(ahead)) this.ahead = Math.abs(ahead) > 2_000 ? ahead : 0;
  }

  /** The terms in their order. */
  termList() {
    return [...this.terms.values()].sort((one, other) => one.term - other.term);
  }

  /** The terms as points of a chart with steps, up to now. */
  termPoints(now) {
    const points = [];
    for (const { term, time } of this.termList()) points.push([Math.max(time, points.at(-1)?.[0] ?? 0), term]);
    if (points.length) points.push([Math.max(now, points.at(-1)[0]), points.at(-1)[1]]);
    return points;
  }
}
