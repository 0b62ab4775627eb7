/* What the figures of a cluster mean, in words: pure functions that other modules show. */

import { count, counted, known, listed, seconds } from "./format.js";

/** How each state of a node is shown: a tone, and what it means. */
const STATES = {
  ok: ["good", "answers and keeps up"],
  slow: ["warn", "was not heard by the leader for a while"],
  behind: ["warn", "lacks many committed entries and catches up"],
  full: ["warn", "takes no entries, because it has no room"],
  refusing: ["warn", "takes no entries"],
  "cut off": ["bad", "answers here, but the leader does not hear it"],
  "no leader": ["bad", "answers, but follows no leader"],
  "no member": ["bad", "answers, but is no member of this cluster"],
  "no answer": ["bad", "does not answer"],
};

const ROLES = {
  leader: "leader",
  follower: "follower",
  candidate: "candidate",
  learner: "learner",
  leaving: "leaving",
};

/** The tone of a state ("good", "warn", "bad" or "none") and its meaning. */
export function stateOf(node) {
  const [tone, meaning] = STATES[node.state] ?? ["none", "has a state that this page does not know"];
  return { name: node.state ?? "unknown", tone, meaning };
}

/** The role of a node for people; of a node that does not answer only its part is known. */
export function roleOf(node) {
  if (known(node.role)) return ROLES[node.role] ?? node.role;
  return known(node.part) ? `${node.part}, role unknown` : "role unknown";
}

/** What a node is called. */
export function nameOf(node) {
  return node.node_id ?? node.address ?? "unknown node";
}

/** Whether this node is the one that leads the cluster. */
export function leads(node, cluster) {
  return known(node.node_id) && node.node_id === cluster.leader_id;
}

/** Those that count for a majority. */
export function votersOf(cluster) {
  return cluster.nodes.filter((node) => node.part === "voter" || node.part === "leaving");
}

/** Whether the cluster serves: it has a leader that hears a majority. */
export function serves(cluster) {
  return known(cluster.leader_id) && cluster.connected >= cluster.required && cluster.health !== "unhealthy";
}

/** How the cluster is, as one sentence. */
export function healthSentence(cluster) {
  const heard = `${count(cluster.connected) ?? "an unknown number"} of ${counted(cluster.members, "voter") ?? "an unknown number of voters"}`;
  const verb = cluster.connected === 1 ? "is" : "are";
  if (!known(cluster.leader_id)) {
    return `No node leads: writes and linearizable reads wait for an election. ${capital(heard)} ${cluster.connected === 1 ? "answers" : "answer"}, ${count(cluster.required)} are needed.`;
  }
  if (!serves(cluster))
    return `The cluster does not serve: its leader hears ${heard}, ${count(cluster.required)} are needed.`;
  if (cluster.health === "healthy") return `The cluster serves, and nothing is wrong: ${heard} ${verb} heard.`;
  return `The cluster serves, but something is wrong: ${heard} ${verb} heard.`;
}

/** Who leads, as one sentence. */
export function leaderSentence(cluster) {
  if (!known(cluster.leader_id)) return `No leader is known (term ${count(cluster.term) ?? "unknown"}).`;
  const up = known(cluster.uptime) ? `, up for ${seconds(cluster.uptime)}` : "";
  return `${cluster.leader_id} leads in term ${count(cluster.term) ?? "unknown"}${up}.`;
}

/** How many nodes may fail, as one sentence. */
export function spareSentence(cluster) {
  if (!known(cluster.can_lose)) return "It is not known how many voters may fail.";
  if (!serves(cluster))
    return `The majority is missing: ${count(cluster.required)} of ${counted(cluster.members, "voter")} are needed.`;
  if (cluster.members === 1) return "It is a cluster of one: if this voter fails, nothing is served.";
  if (cluster.can_lose === 0) return "No voter may fail now: one more, and nothing is served.";
  return `${counted(cluster.can_lose, "voter")} may fail, and the cluster still serves.`;
}

/** The quorum in figures, as one line. */
export function quorumLine(cluster) {
  const parts = [
    `${count(cluster.reachable) ?? "?"} of ${counted(cluster.members, "voter")} answer`,
    known(cluster.leader_id) ? `the leader hears ${count(cluster.connected) ?? "?"}` : "nobody leads",
    `${count(cluster.required) ?? "?"} are needed`,
    serves(cluster) ? `${count(cluster.can_lose) ?? "?"} may fail` : "the majority is missing",
  ];
  return parts.join(", ");
}

/** How a voter counts for the majority: "helps", "impaired" (answers, but is no help) or "silent". */
export function helpOf(node) {
  if (node.state === "no answer") return "silent";
  return node.takes_entries ? "helps" : "impaired";
}

/** What a change of the leader does to the majority, and how it stands. */
export function arithmetic(cluster) {
  const voters = votersOf(cluster);
  const helping = voters.filter((node) => helpOf(node) === "helps");
  return [
    ["Voters", `${count(voters.length)} (${listed(voters.map(nameOf))})`],
    ["Needed for a majority", count(cluster.required)],
    ["Voters that answer and take entries", count(helping.length)],
    ["May fail now", serves(cluster) ? count(cluster.can_lose) : "none: the majority is missing"],
  ];
}

/** Nodes to whom the leader could hand over, the best first. */
export function successors(cluster) {
  const possible = cluster.nodes.filter(
    (node) => node.part === "voter" && !leads(node, cluster) && known(node.node_id),
  );
  const rank = (node) => [node.may_lead === false ? 1 : 0, node.takes_entries ? 0 : 1, node.lag ?? Infinity];
  return possible.sort((one, other) => {
    const [left, right] = [rank(one), rank(other)];
    const place = left.findIndex((value, index) => value !== right[index]);
    return place < 0 ? 0 : left[place] - right[place];
  });
}

/** A text with a capital letter at its beginning. */
export function capital(text) {
  return text ? text[0].toUpperCase() + text.slice(1) : text;
}
