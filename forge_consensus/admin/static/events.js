/* The section "Events": the newest events of the cluster first, with filters, a pause, and all fields of each. */

import { byId, el, setAttribute, setText, setValue } from "./dom.js";
import { count, known, timeOfDay } from "./format.js";
import { icon } from "./icons.js";
import { groupOf, passes, plain, sentenceOf, shortKind, toneOf } from "./wording.js";

const KEPT = 2_000;
const ROWS_MAX = 500;
const FLUSH_MS = 250;
const STATES = {
  connecting: ["none", "connecting …"],
  open: ["good", "live"],
  retrying: ["warn", "the stream broke; it is connected again by itself"],
  closed: ["none", "stopped while this page is not looked at"],
  failed: ["bad", "the stream was refused; it is tried again every few seconds"],
};

export class Events {
  constructor(context) {
    this.context = context;
    this.kept = [];
    this.fresh = [];
    this.paused = false;
    this.timer = null;
    this.shown = false;
    this.dropped = 0;
    this.list = byId("events-list");
    this.filters = { kind: byId("events-kind"), node: byId("events-node"), text: byId("events-text") };
    for (const control of Object.values(this.filters)) control.addEventListener("input", () => this.redraw());
    byId("events-clear").addEventListener("click", () => this.clearFilters());
    byId("events-pause").addEventListener("click", () => this.pause(!this.paused));
    byId("events-verbose").addEventListener("change", (event) => context.feed.setVerbose(event.target.checked));
    context.feed.subscribe({
      onEvent: (event) => this.take(event),
      onState: (feed) => this.showState(feed),
      onKinds: (kinds) => this.showKinds(kinds),
    });
    this.showState(context.feed);
  }

  /** The section is shown. */
  enter() {
    this.shown = true;
    this.redraw();
  }

  /** The section is not shown any more. */
  leave() {
    this.shown = false;
  }

  /** The nodes may be others now. */
  update() {
    const names = this.context.store
      .nodes()
      .map((node) => node.node_id)
      .filter(known);
    const select = this.filters.node;
    const present = [...select.options].map((option) => option.value);
    for (const name of names) if (!present.includes(name)) select.append(el("option", { value: name, text: name }));
  }

  /** Take an event; it is shown soon, together with those that come at the same time. */
  take(event) {
    this.fresh.push(event);
    if (this.fresh.length > KEPT) this.dropped += this.fresh.splice(0, this.fresh.length - KEPT).length;
    this.timer ??= setTimeout(() => this.flush(), FLUSH_MS);
  }

  /** Show what has come, unless it is paused. */
  flush() {
    this.timer = null;
    if (this.paused) {
      this.showCount();
      return;
    }
    const fresh = this.fresh.splice(0).reverse();
    this.kept.unshift(...fresh);
    this.dropped += this.kept.splice(KEPT).length;
    if (!this.shown) return;
    const filter = this.filter();
    const rows = fresh
      .filter((event) => passes(event, filter))
      .slice(0, ROWS_MAX)
      .map(eventRow);
    this.list.prepend(...rows);
    while (this.list.childElementCount > ROWS_MAX) this.list.lastElementChild.remove();
    this.showCount();
  }

  /** The filters as they are set. */
  filter() {
    return { kind: this.filters.kind.value, node: this.filters.node.value, text: this.filters.text.value.trim() };
  }

  /** Show everything anew, because the filter is another one. */
  redraw() {
    if (!this.shown) return;
    const filter = this.filter();
    const rows = [];
    for (const event of this.kept) {
      if (passes(event, filter)) rows.push(eventRow(event));
      if (rows.length === ROWS_MAX) break;
    }
    this.list.replaceChildren(...rows);
    this.showCount();
  }

  /** Take all filters away. */
  clearFilters() {
    for (const control of Object.values(this.filters)) control.value = "";
    this.redraw();
    this.filters.text.focus();
  }

  /** Hold the list, or let it go on. */
  pause(paused) {
    this.paused = paused;
    const control = byId("events-pause");
    setAttribute(control, "aria-pressed", String(paused));
    if (!paused) this.flush();
    this.showCount();
  }

  /** Say how many there are. */
  showCount() {
    const rows = this.list.childElementCount;
    const parts = [`${count(rows)} of ${count(this.kept.length)} shown`];
    if (rows === ROWS_MAX) parts.push(`no more than ${ROWS_MAX} are`);
    if (this.dropped) parts.push(`${count(this.dropped)} older ones were dropped`);
    if (this.paused) parts.push(`paused, ${count(this.fresh.length)} new`);
    setText(byId("events-count"), `${parts.join(", ")}.`);
    byId("events-empty").hidden = rows > 0;
  }

  /** Say how the stream is. */
  showState(feed) {
    const [tone, text] = STATES[feed.state];
    const place = byId("events-state");
    setAttribute(place, "data-state", feed.state);
    const why = feed.problem ? `: ${feed.problem.text ?? feed.problem.message}` : "";
    place.replaceChildren(icon(tone), el("span", { text: `Stream: ${text}${why}` }));
  }

  /** Offer the kinds and their groups in the filter. */
  showKinds(kinds) {
    const groups = [...new Set(kinds.map(groupOf))].sort();
    const select = this.filters.kind;
    const chosen = select.value;
    select.replaceChildren(
      el("option", { value: "", text: "all kinds" }),
      ...groups.map((group) =>
        el(
          "optgroup",
          { label: group },
          el("option", { value: `${group}.*`, text: `${group}.*` }),
          ...kinds
            .filter((kind) => groupOf(kind) === group)
            .map((kind) => el("option", { value: kind, text: shortKind(kind) })),
        ),
      ),
    );
    select.value = chosen;
  }
}

/** The row of an event; its fields are made when it is opened. */
function eventRow(event) {
  const tone = toneOf(event);
  const date = new Date(event.time ?? NaN);
  const time = el("time", { class: "event-time" });
  setValue(time, timeOfDay(date));
  if (known(event.time)) setAttribute(time, "datetime", event.time);
  const summary = el(
    "summary",
    {},
    time,
    el("span", { class: `event-kind tone-${tone}` }, icon(tone), el("span", { text: shortKind(event.type) })),
    el("span", { class: "event-node", text: event.node_id ?? "" }),
    el("span", { class: "event-text", text: sentenceOf(event) }),
  );
  const details = el("details", {}, summary);
  details.addEventListener(
    "toggle",
    () => details.open && details.childElementCount === 1 && details.append(fieldsOf(event)),
  );
  return el("li", { class: "event", data: { kind: event.type, node: event.node_id ?? "", tone } }, details);
}

/** All fields of an event. */
function fieldsOf(event) {
  const rows = [
    ["Kind", event.type],
    ["Time", event.time],
    ["Node", event.node_id],
    ["Term", count(event.term)],
    ["Number", count(event.sequence)],
    ["Correlation id", event.correlation_id],
    ...Object.entries(event.data ?? {}).map(([name, value]) => [name, plain(value)]),
  ];
  const list = el("dl", { class: "facts event-fields" });
  for (const [name, text] of rows) {
    const value = el("dd");
    setValue(value, text);
    list.append(el("div", {}, el("dt", { text: name }), value));
  }
  return list;
}
