/* The section "Overview": the picture, the quorum, the logs, the nodes, the charts and the figures of this node. */

import { Chart } from "./chart.js";
import { byId, el, setAttribute, setShown, setText, setValue } from "./dom.js";
import { age, bytes, count, known, perSecond, seconds } from "./format.js";
import { addDialog } from "./changes.js";
import { stateOf } from "./judge.js";
import { snapshotDialog, stepDownDialog, transferDialog } from "./leading.js";
import { Logs } from "./logs.js";
import { nodeCards } from "./nodes.js";
import { Picture } from "./picture.js";
import { drawQuorum } from "./quorum.js";

const LAGS_MAX = 8;

/** The figures of the node that serves the page: name, text, and what they mean. */
const FIGURES = [
  ["Role", (node) => node.role, ""],
  ["Commands per second", (node, history) => perSecond(history.operations.latest), "answered by this node"],
  ["Reads per second", (node, history) => perSecond(history.reads.latest), "answered by this node"],
  ["Commands", (node) => count(node.operations_total), "since its start"],
  ["Of these failed", (node) => count(node.operations_failed), ""],
  ["Busy answers", (node) => count(node.busy_total), "because too much waited"],
  [
    "Slowest commit",
    (node) => (node.commit_seconds > 0 ? seconds(node.commit_seconds) : known(node.commit_seconds) ? "none" : null),
    "of the last 10 s",
  ],
  [
    "Waiting to be applied",
    (node) => (known(node.backlog_entries) ? `${count(node.backlog_entries)} entries` : null),
    "",
  ],
  ["Log", (node) => bytes(node.storage?.log_size_bytes), "on disk"],
  [
    "Storage",
    (node) =>
      known(node.storage?.storage_used_bytes)
        ? `${bytes(node.storage.storage_used_bytes)} of ${bytes(node.storage.storage_quota_bytes)}`
        : null,
    "",
  ],
  ["Disk free", (node) => bytes(node.storage?.disk_free_bytes), ""],
  ["Snapshots taken", (node) => count(node.snapshots_total), "since its start"],
  ["Up for", (node) => age(node.uptime), ""],
];

export class Overview {
  constructor(context) {
    this.context = context;
    this.picture = new Picture(byId("picture"));
    this.logs = new Logs(byId("logs"), byId("logs-low"), byId("logs-high"));
    this.showNodes = nodeCards(byId("nodes"));
    this.values = FIGURES.map(() => el("dd"));
    byId("node-figures").append(
      ...FIGURES.map(([name, , about], place) =>
        el(
          "div",
          {},
          el("dt", {}, name, about ? el("span", { class: "muted", text: ` ${about}` }) : null),
          this.values[place],
        ),
      ),
    );
    this.charts = this.makeCharts();
    for (const id of ["logs-span", "chart-window"]) byId(id).addEventListener("change", () => this.update());
    byId("act-transfer").addEventListener("click", () => context.act(() => transferDialog(context)));
    byId("act-stepdown").addEventListener("click", () => context.act(() => stepDownDialog(context)));
    byId("act-snapshot").addEventListener("click", () => context.act(() => snapshotDialog(context)));
    byId("act-add").addEventListener("click", () => context.act(() => addDialog(context)));
  }

  /** Make the charts. */
  makeCharts() {
    const entries = (value) => count(value);
    return {
      commits: new Chart("chart-commits", {
        title: "Entries committed",
        about: "By the whole cluster, per second.",
        format: perSecond,
        merge: "mean",
      }),
      operations: new Chart("chart-operations", {
        title: "Operations",
        about: "Answered by the node that serves this page, per second.",
        format: perSecond,
        merge: "mean",
      }),
      slowest: new Chart("chart-slowest", {
        title: "Slowest commit",
        about: "Of the last 10 seconds on this node. No line: nothing was committed.",
        format: seconds,
      }),
      lag: new Chart("chart-lag", {
        title: "Lag",
        about: "Committed entries that a node lacks, as the leader knows.",
        format: entries,
        integer: true,
      }),
      terms: new Chart("chart-terms", {
        title: "Terms",
        about: "A step is an election. Many steps: elections do not settle.",
        format: entries,
        integer: true,
        steps: true,
        fromZero: false,
      }),
    };
  }

  /** The section is shown. */
  enter() {
    this.update();
  }

  /** Show everything. */
  update() {
    const { store } = this.context;
    if (!store.cluster) return;
    const nodes = store.nodes();
    setShown(byId("picture-many"), !this.picture.update(store));
    drawQuorum(byId("quorum"), byId("quorum-text"), store.cluster);
    this.logs.update(
      nodes.filter((node) => known(node.node_id)),
      store.cluster.last_log_index,
      byId("logs-span").value,
    );
    this.showNodes(store);
    this.showTransfers(nodes);
    this.showOwn(store);
    this.showCharts();
  }

  /** Say which snapshots are taken or sent. */
  showTransfers(nodes) {
    const texts = nodes
      .filter((node) => known(node.snapshot_doing))
      .map((node) => `${node.node_id} ${node.snapshot_doing}`);
    setText(byId("transfers-text"), texts.length ? `Snapshots: ${texts.join("; ")}.` : "");
    setShown(byId("transfers-text"), texts.length > 0);
  }

  /** Show the figures of this node, and how old they are if they are. */
  showOwn(store) {
    const { node, nodeAt, nodeProblem } = store;
    setText(byId("own-name"), node?.node_id ?? "this node");
    FIGURES.forEach(([, text], place) => setValue(this.values[place], node ? text(node, this.context.history) : null));
    const old =
      nodeAt === null ? "Nothing was received yet" : `What is shown is ${age((performance.now() - nodeAt) / 1000)} old`;
    setText(byId("own-problem"), nodeProblem ? `The node does not tell its figures: ${nodeProblem.text}. ${old}.` : "");
    setShown(byId("own-problem"), Boolean(nodeProblem));
    setAttribute(byId("own"), "data-state", nodeProblem ? "stale" : node ? "live" : "waiting");
  }

  /** Draw the charts. */
  showCharts() {
    const { history, store } = this.context;
    const to = Date.now();
    const from = to - Number(byId("chart-window").value) * 1000;
    const show = (chart, series, table) => this.charts[chart].update({ from, to, series, table });
    show("commits", [{ name: "committed", points: history.commits.points }]);
    show("operations", [history.operations, history.reads, history.failed]);
    show("slowest", [history.slowest]);
    show("lag", this.lags(store));
    show("terms", [{ name: "term", points: history.termPoints(to) }], this.termTable(to));
  }

  /** The lags of the nodes; of many, those that lag most. A node keeps its look, whoever leads. */
  lags(store) {
    const found = [];
    store.nodes().forEach((node, look) => {
      const series = this.context.history.lags.get(node.node_id);
      if (series && node.node_id !== store.cluster.leader_id && stateOf(node).name !== "no member")
        found.push({ series, look });
    });
    if (found.length > LAGS_MAX)
      found.sort((one, other) => (other.series.latest ?? -1) - (one.series.latest ?? -1)).splice(LAGS_MAX);
    return found.map(({ series, look }) => ({ name: series.name, points: series.points, look }));
  }

  /** The terms as a table, the newest first. */
  termTable(now) {
    const rows = this.context.history.termList().reverse().slice(0, 50);
    return {
      heads: ["Term", "Leader", "First seen"],
      rows: rows.map(({ term, time, leader }) => [count(term), leader, `${age(Math.max(0, (now - time) / 1000))} ago`]),
    };
  }
}
