/* Events as sentences, and which of them a filter lets through. Pure functions. */

import { counted, known, listed, seconds } from "./format.js";
import { GAP, PAUSE } from "./feed.js";

const PREFIX = "consensus.";

/** Sentences for the kinds that are looked for most; `d` is the payload, `n` the node that tells it. */
const SENTENCES = {
  "node.started": (d, n) => `${n} has started`,
  "node.stopped": (d, n) => `${n} stops in order`,
  "node.joined": (d) => `${d.peer} is a member, at ${d.address}`,
  "node.left": (d) => `${d.peer} is no member any more`,
  "node.failed": (d, n) => `${n} hears nothing of ${d.peer}: ${d.reason}`,
  "node.recovered": (d, n) => `${n} hears ${d.peer} again`,
  "node.refused": (d, n) => `${n} refuses ${d.peer} (${d.reason}): ${d.detail}`,
  "node.removed": (d, n) => `${n} was removed from its cluster`,
  "leader.elected": (d, n) =>
    `${d.leader} leads${known(d.votes) && d.votes > 0 ? `, with ${d.votes} of ${counted(d.total, "vote")}` : ""}${d.leader === n ? ` after ${seconds(d.duration)}` : ""}`,
  "leader.stepdown": (d) => `${d.leader} leads no more: ${d.reason}`,
  "leader.transfer": (d) => `${d.leader} hands over to ${d.target}`,
  "leader.lost": (d, n) => `${n} does not hear its leader ${d.leader}: ${d.reason}`,
  "role.changed": (d, n) => `${n} was ${d.old} and is ${d.new}: ${d.reason}`,
  "role.follower": (d, n) => `${n} follows ${d.leader ?? "nobody yet"}`,
  "role.candidate": (d, n) => `${n} stands for election`,
  "role.leader": (d, n) => `${n} leads`,
  "cluster.quorum.achieved": (d, n) => `${n} sees a majority: ${d.healthy} of ${d.total}, ${d.required} needed`,
  "cluster.quorum.lost": (d, n) => `${n} sees no majority: ${d.healthy} of ${d.total}, ${d.required} needed`,
  "cluster.membership.changed": (d) => `${d.affected_node_id} is ${d.action}`,
  "snapshot.started": (d, n) => `${n} takes a snapshot up to entry ${d.index}`,
  "snapshot.completed": (d, n) => `${n} has a snapshot up to entry ${d.index}`,
  "snapshot.failed": (d, n) => `${n} has no new snapshot: ${d.error}`,
  "snapshot.restored": (d, n) => `${n} took over a snapshot up to entry ${d.index}`,
  "settings.differ": (d, n) => `${d.peer} runs with other settings than ${n}: ${listed(d.differences ?? [])}`,
  "address.differs": (d) =>
    `${d.peer} says that it is reached at ${d.listens}, the members look for it at ${d.expected}`,
  "cluster.formed": (d) => `the cluster is formed by ${listed(d.members ?? [])}`,
  "cluster.updated": (d) =>
    `voters ${listed(d.voters ?? [])}${d.learners?.length ? `; learners ${listed(d.learners)}` : ""}${d.outgoing?.length ? `; a majority of ${listed(d.outgoing)} is needed too` : ""}`,
  "log.appended": (d, n) => `${n} wrote entries ${d.first_index} to ${d.last_index}`,
  "log.committed": (d, n) => `${n} knows that entries ${d.first_index} to ${d.last_index} are committed`,
  "log.compacted": (d, n) =>
    `${n} discarded ${d.removed} entries that a snapshot covers; its log begins at ${d.first_index}`,
  "log.truncated": (d, n) => `${n} took back ${d.removed} uncommitted entries from ${d.from_index} on`,
  "apply.slow": (d, n) => `${n} took ${seconds(d.duration)} to apply the command ${d.command} of entry ${d.index}`,
  "query.slow": (d, n) => `${n} took ${seconds(d.duration)} for the query ${d.query}`,
  "time.skewed": (d) => `the clock of ${d.member} is ${seconds(Math.abs(d.ahead))} ${d.ahead > 0 ? "ahead" : "behind"}`,
  "time.stepped": (d) => `the wall time of the log was set back by ${seconds(Math.abs(d.seconds))}`,
  "snapshot.on_thread": (d, n) => `${n} writes snapshots on a thread: ${d.reason}`,
  "health.healthy": (d, n) => `${n} is healthy`,
  "health.degraded": (d, n) => `${n} is degraded: ${listed(d.details ?? [])}`,
  "health.unhealthy": (d, n) => `${n} is unhealthy: ${listed(d.details ?? [])}`,
  "health.recovering": (d, n) => `${n} does not serve yet: ${listed(d.details ?? [])}`,
};

/** The kind of an event without what all kinds begin with. */
export function shortKind(kind) {
  return kind.startsWith(PREFIX) ? kind.slice(PREFIX.length) : kind;
}

/** The group of a kind: "leader" of "consensus.leader.elected". */
export function groupOf(kind) {
  return shortKind(kind).split(".")[0];
}

/** A value of a payload as text. */
export function plain(value) {
  if (value === null || value === undefined) return "–";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/** An event as one sentence. */
export function sentenceOf(event) {
  const data = event.data ?? {};
  if (event.type === PAUSE) return data.text;
  if (event.type === GAP)
    return `events are missing here: ${fieldsText(data) || fieldsText(event, ["type", "cluster_id", "data"])}`;
  const make = SENTENCES[shortKind(event.type)];
  return make ? make(data, event.node_id) : fieldsText(data) || shortKind(event.type);
}

/** Fields as "name value, name value". */
function fieldsText(fields, without = []) {
  return Object.entries(fields)
    .filter(([name, value]) => !without.includes(name) && value !== null)
    .map(([name, value]) => `${name} ${plain(value)}`)
    .join(", ");
}

/** How much attention an event deserves: "bad", "warn", "good" or "info". */
export function toneOf(event) {
  const kind = shortKind(event.type);
  if (/^(cluster\.quorum\.lost|health\.unhealthy|node\.(failed|removed))$/.test(kind)) return "bad";
  if (
    /^(leader\.(lost|stepdown)|health\.(degraded|recovering)|snapshot\.failed|log\.truncated|node\.refused|.*\.slow|time\.|settings\.|address\.|feed\.gap)/.test(
      kind,
    )
  )
    return "warn";
  if (event.type === PAUSE) return "warn";
  if (
    /^(leader\.elected|health\.healthy|cluster\.quorum\.achieved|node\.(recovered|joined)|snapshot\.(completed|restored))$/.test(
      kind,
    )
  )
    return "good";
  return "info";
}

/** Everything of an event as text, for the filter. */
export function searchable(event) {
  return `${event.type} ${event.node_id ?? ""} ${event.correlation_id ?? ""} ${sentenceOf(event)} ${JSON.stringify(event.data ?? {})}`.toLowerCase();
}

/** Whether a filter lets an event through: `kind` is "", a group such as "leader.*", or a kind. */
export function passes(event, { kind, node, text }) {
  if (node && event.node_id !== node) return false;
  if (kind && (kind.endsWith(".*") ? groupOf(event.type) !== kind.slice(0, -2) : event.type !== kind)) return false;
  return (
    !text ||
    text
      .toLowerCase()
      .split(/\s+/)
      .every((word) => searchable(event).includes(word))
  );
}
