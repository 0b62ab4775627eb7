/* The section "Snapshots": what each node does with snapshots, the files of this node, and its log. */

import { get } from "./api.js";
import { downloadWithToken } from "./download.js";
import { byId, el, fillRows, keyedList, setAttribute, setText, setValue } from "./dom.js";
import { bytes, count, known } from "./format.js";
import { nameOf, stateOf } from "./judge.js";
import { snapshotDialog } from "./leading.js";
import { doingView } from "./nodes.js";
import { notify, outcomeView, problemView } from "./notice.js";
import { Poller } from "./poller.js";

const EVERY_MS = 3_000;
const LOG_ROWS = [
  ["First entry", (log) => count(log.first_log_index)],
  ["Last entry", (log) => count(log.last_log_index)],
  ["Committed up to", (log) => count(log.commit_index)],
  ["Applied up to", (log) => count(log.last_applied)],
  ["Entries", (log) => count(log.log_entries)],
  ["Size", (log) => bytes(log.log_size_bytes)],
  ["Term", (log) => count(log.term)],
];

export class SnapshotsPage {
  constructor(context) {
    this.context = context;
    this.rows = keyedList(byId("transfers-body"), nameOf, (node) => this.row(node));
    this.doing = doingView();
    byId("snapshots-doing").append(this.doing.element);
    const load = async () => ({ snapshots: await get("v1/snapshots"), log: await get("v1/log") });
    this.poller = new Poller({
      load,
      every: EVERY_MS,
      onData: (told) => this.take(told),
      onFailure: (error) => this.fail(error),
    });
    downloadWithToken(byId("backup-download"), (text) => notify(context.notices, outcomeView(text, "bad")));
    byId("snapshot-take").addEventListener("click", () => context.act(() => snapshotDialog(context)));
  }

  /** The section is shown. */
  enter() {
    this.poller.start();
    this.update();
  }

  /** The section is not shown any more. */
  leave() {
    this.poller.stop();
  }

  /** Something was changed: look again. */
  refresh() {
    if (this.poller.running) this.poller.soon();
  }

  /** Show what all nodes do. */
  update() {
    this.rows.update(this.context.store.nodes().filter((node) => known(node.node_id)));
  }

  /** The row of a node. */
  row(node) {
    const [index, since, bar] = [el("td"), el("td"), el("td", { class: "wide-cell" })];
    const doing = doingView();
    const idle = el("span");
    bar.append(doing.element, idle);
    const element = el(
      "tr",
      { data: { node: nameOf(node) } },
      el("th", { scope: "row", text: nameOf(node) }),
      index,
      since,
      bar,
    );
    const update = (next) => {
      setValue(index, next.snapshot_index === 0 ? "no snapshot" : count(next.snapshot_index));
      setValue(
        since,
        known(next.snapshot_index) && known(next.last_log_index)
          ? count(Math.max(0, next.last_log_index - next.snapshot_index))
          : null,
      );
      doing.update(next.snapshot_doing);
      const silent = stateOf(next).name === "no answer" || !known(next.last_log_index);
      setText(idle, known(next.snapshot_doing) ? "" : silent ? "does not answer" : "nothing");
      setAttribute(element, "data-doing", next.snapshot_doing || null);
    };
    return { element, update };
  }

  /** Show the files of this node and its log. */
  take({ snapshots, log }) {
    byId("snapshots-problem").replaceChildren();
    setText(byId("snapshots-node"), snapshots.node_id);
    this.doing.update(snapshots.doing);
    fillRows(
      byId("snapshots-body"),
      snapshots.snapshots.map((file) => [count(file.index), count(file.term), bytes(file.size_bytes)]),
    );
    byId("snapshots-none").hidden = snapshots.snapshots.length > 0;
    const rows = LOG_ROWS.map(([name, text]) => {
      const value = el("dd");
      setValue(value, text(log));
      return el("div", {}, el("dt", { text: name }), value);
    });
    byId("log-facts").replaceChildren(...rows);
  }

  /** Show why there is no answer. */
  fail(error) {
    byId("snapshots-problem").replaceChildren(problemView(error));
  }
}
