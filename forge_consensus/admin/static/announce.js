/* What a screen reader is told without being asked: changes of the leader and of the health, and a lost connection. At
 * most one text every few seconds, the newest one of each subject. */

import { known } from "./format.js";
import { healthSentence } from "./judge.js";

const PAUSE_MS = 4_000;

export class Announcer {
  constructor(region) {
    this.region = region;
    this.waiting = new Map();
    this.timer = null;
    this.spokenAt = -Infinity;
    this.leader = undefined;
    this.health = undefined;
    this.reached = undefined;
  }

  /** Say a text soon; a newer one on the same subject replaces it. */
  say(subject, text) {
    this.waiting.set(subject, text);
    if (this.timer !== null) return;
    this.timer = setTimeout(() => this.speak(), Math.max(100, this.spokenAt + PAUSE_MS - performance.now()));
  }

  /** Say what waits. */
  speak() {
    this.timer = null;
    this.spokenAt = performance.now();
    this.region.textContent = [...this.waiting.values()].join(" ");
    this.waiting.clear();
  }

  /** Look what has changed; what the page has first seen is no change. */
  watch(store) {
    const { cluster } = store;
    const reached = store.connection().state;
    if (reached === "lost" && this.reached === "live") this.say("connection", "The connection to the node is lost.");
    if (reached === "live" && this.reached === "lost") this.say("connection", "The connection to the node is back.");
    if (reached === "live" || reached === "lost") this.reached = reached;
    if (!cluster || reached !== "live") return;
    if (this.leader !== undefined && this.leader !== cluster.leader_id) {
      this.say(
        "leader",
        known(cluster.leader_id) ? `${cluster.leader_id} leads now, in term ${cluster.term}.` : "No node leads now.",
      );
    }
    if (this.health !== undefined && this.health !== cluster.health)
      this.say("health", `Health is ${cluster.health}. ${healthSentence(cluster)}`);
    this.leader = cluster.leader_id;
    this.health = cluster.health;
  }
}
