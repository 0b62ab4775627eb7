/* The stream of the cluster's events, by EventSource or, with a token, as it does: it connects again by itself, stops
 * while nobody looks at the page, and gives each event once. */

import { get } from "./api.js";
import { known } from "./format.js";
import { EventStream } from "./stream.js";
import { keptToken } from "./token.js";

const RECENT = 200;
const AGAIN_MS = 5_000;
const REMEMBERED = 4_000;
/** Kinds that come with every few commands: they are left out unless they are asked for. */
const FREQUENT = new Set(["consensus.log.appended", "consensus.log.committed"]);
export const GAP = "consensus.feed.gap";
/** What the page itself adds where it did not listen. */
export const PAUSE = "page.not.listening";

/** The patterns that select all kinds but some: "leader.*" where a whole group is wanted, else single kinds. */
export function patternsWithout(kinds, left) {
  const groups = new Map();
  for (const kind of kinds) {
    const short = kind.replace(/^consensus\./, "");
    const group = short.split(".")[0];
    groups.set(group, [...(groups.get(group) ?? []), { kind, short }]);
  }
  return [...groups].flatMap(([group, members]) => {
    const wanted = members.filter(({ kind }) => !left.has(kind));
    return wanted.length === members.length ? [`${group}.*`] : wanted.map(({ short }) => short);
  });
}

export class Feed {
  constructor() {
    this.listeners = [];
    this.kinds = [];
    this.verbose = false;
    this.source = null;
    this.timer = null;
    this.seen = new Set();
    this.closedAt = null;
    /** "connecting", "open", "retrying", "closed" (nobody looks) or "failed". */
    this.state = "connecting";
    this.problem = null;
    this.attempt = 0;
    document.addEventListener("visibilitychange", () => this.look());
  }

  /** Be told: `onEvent(event)`, `onState(feed)`, `onKinds(kinds)`. */
  subscribe(listener) {
    this.listeners.push(listener);
  }

  /** Tell all listeners. */
  tell(what, value) {
    for (const listener of this.listeners) listener[what]?.(value);
  }

  /** Go to another state. */
  enter(state, problem = null) {
    this.state = state;
    this.problem = problem;
    this.tell("onState", this);
  }

  /** Take all kinds, or all but the frequent ones. */
  setVerbose(verbose) {
    this.verbose = verbose;
    this.open();
  }

  /** Stop while nobody looks at the page, and go on afterwards. */
  look() {
    if (document.hidden) {
      this.close();
      this.closedAt ??= Date.now();
      this.enter("closed");
    } else if (!this.source) this.open();
  }

  /** Close the stream. */
  close() {
    clearTimeout(this.timer);
    this.attempt += 1;
    this.source?.close();
    this.source = null;
  }

  /** Open the stream anew. */
  async open() {
    this.close();
    const attempt = this.attempt;
    if (document.hidden) return;
    this.enter("connecting");
    try {
      if (!this.kinds.length) {
        const { kinds } = await get("v1/events/kinds");
        this.kinds = kinds;
        this.tell("onKinds", kinds);
      }
    } catch (error) {
      if (attempt === this.attempt) this.fail(error);
      return;
    }
    if (attempt === this.attempt) this.listen();
  }

  /** Listen to the stream. */
  listen() {
    const query = new URLSearchParams({ recent: String(RECENT) });
    if (!this.verbose) query.set("kinds", patternsWithout(this.kinds, FREQUENT).join(","));
    const source = new (keptToken() ? EventStream : EventSource)(`v1/events?${query}`);
    this.source = source;
    source.addEventListener("open", () => {
      if (this.source !== source) return;
      this.tellPause();
      this.enter("open");
    });
    source.addEventListener("error", () => {
      if (this.source !== source) return;
      if (source.readyState === EventSource.CLOSED) this.fail(null);
      else this.enter("retrying");
    });
    for (const kind of new Set([...this.kinds, GAP, "message"]))
      source.addEventListener(kind, (message) => this.source === source && this.take(kind, message));
  }

  /** The stream was refused: try again later. */
  fail(problem) {
    this.source?.close();
    this.source = null;
    this.enter("failed", problem);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.open(), AGAIN_MS);
  }

  /** Say for how long the page did not listen: older events than the newest ones are not sent again. */
  tellPause() {
    if (this.closedAt === null) return;
    const passed = Math.round((Date.now() - this.closedAt) / 1000);
    const text = `this page did not listen for ${passed} s; only the last ${RECENT} events of that time are here`;
    this.closedAt = null;
    this.tell("onEvent", {
      type: PAUSE,
      node_id: null,
      term: null,
      sequence: null,
      time: new Date().toISOString(),
      data: { text },
    });
  }

  /** Take a message, once. */
  take(kind, message) {
    let event = null;
    try {
      event = JSON.parse(message.data);
    } catch {
      return;
    }
    if (!event || typeof event !== "object") return;
    event.type ??= kind;
    const id = known(event.sequence) ? `${event.node_id}:${event.sequence}` : `${event.type}:${message.lastEventId}`;
    if (this.seen.has(id)) return;
    this.seen.add(id);
    if (this.seen.size > REMEMBERED) this.seen.delete(this.seen.values().next().value);
    this.tell("onEvent", event);
  }
}
