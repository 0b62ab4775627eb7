/* What the page knows at present, how old it is, and whether there is a connection. Everything that is drawn is drawn
 * from here. */

import { age } from "./format.js";

/** What is older than this is not called live any more. */
const OLD_MS = 4_000;

export class Store {
  constructor() {
    /** The last answer of v1/cluster, when it came (performance.now), and what went wrong since. */
    this.cluster = null;
    this.clusterAt = null;
    this.clusterProblem = null;
    /** The same of v1/node. */
    this.node = null;
    this.nodeAt = null;
    this.nodeProblem = null;
    this.listeners = [];
  }

  /** Be told of every change. */
  subscribe(listener) {
    this.listeners.push(listener);
  }

  /** Change values and tell it. */
  set(values) {
    Object.assign(this, values);
    for (const listener of this.listeners) listener(this);
  }

  /** The nodes in the order of their ids; those without one come last. */
  nodes() {
    const name = (node) => node.node_id ?? `\uffff${node.address}`;
    const order = new Intl.Collator("en", { numeric: true });
    return [...(this.cluster?.nodes ?? [])].sort((one, other) => order.compare(name(one), name(other)));
  }

  /** The node with this id, as the cluster was last seen. */
  nodeOf(id) {
    return this.cluster?.nodes.find((node) => node.node_id === id) ?? null;
  }

  /** Seconds since the cluster was last seen, null if it never was. */
  ageSeconds(now = performance.now()) {
    return this.clusterAt === null ? null : (now - this.clusterAt) / 1000;
  }

  /** Whether what is shown is of now. */
  get live() {
    return this.connection().state === "live";
  }

  /** How the connection is: `state` is "waiting", "live", "stale" or "lost"; `text` says it to people. */
  connection(now = performance.now()) {
    const old = this.ageSeconds(now);
    const shown = old === null ? "Nothing was received yet." : `What is shown is ${age(old)} old.`;
    const problem = this.clusterProblem;
    const unreached =
      problem?.kind === "timeout" ? "This node does not answer in time." : "There is no connection to this node.";
    if (problem?.unreached) return { state: "lost", text: `${unreached} ${shown}` };
    if (problem)
      return {
        state: "stale",
        text: `This node answers, but cannot tell about the cluster. ${problem.text}. ${shown}`,
      };
    if (old === null) return { state: "waiting", text: "Waiting for the first answer of this node." };
    if (old * 1000 > OLD_MS) return { state: "stale", text: `This node has not answered for a while. ${shown}` };
    return { state: "live", text: "Live" };
  }
}
