/* The nodes as a list of cards: everything that is known of each, the most important first. */

import { el, keyedList, setAttribute, setShown, setText, setValue } from "./dom.js";
import { age, bytes, clockOffset, count, known, percentIn, seconds } from "./format.js";
import { icon } from "./icons.js";
import { leads, nameOf, roleOf, stateOf } from "./judge.js";

/** Figures that every card shows: name, and the text of a node's value. */
const FIGURES = [
  ["Lag", (node, leading) => (leading ? "leads" : known(node.lag) ? `${count(node.lag)} entries` : null)],
  [
    "Heard",
    (node, leading) => (leading ? "itself" : known(node.last_contact) ? `${seconds(node.last_contact)} ago` : null),
  ],
  ["Committed", (node) => count(node.commit_index)],
  ["Term", (node) => count(node.term)],
];

/** Figures behind "More": the same. */
const MORE = [
  ["Address", (node) => node.address],
  ["Program", (node) => node.version],
  ["Part", (node) => node.part ?? "no member"],
  ["Priority", (node) => (node.may_lead === false ? "never leads" : count(node.priority))],
  ["Takes entries", (node) => (known(node.takes_entries) ? (node.takes_entries ? "yes" : "no") : null)],
  ["Follows", (node) => node.leader_id],
  ["On its disk up to", (node) => count(node.match_index)],
  ["Applied", (node) => count(node.last_applied)],
  ["Log ends at", (node) => count(node.last_log_index)],
  ["Snapshot up to", (node) => (node.snapshot_index === 0 ? "no snapshot" : count(node.snapshot_index))],
  ["Clock", (node, leading) => (leading ? "is the measure" : clockOffset(node.clock_ahead_ms))],
  ["Storage", (node) => storageText(node)],
  ["Disk free", (node) => bytes(node.disk_free_bytes)],
  ["Up for", (node) => age(node.uptime)],
  ["Starts on its folder", (node) => count(node.boot)],
  ["Refused", (node) => refusedText(node.refused)],
];

/** How much of its quota a node uses. */
function storageText(node) {
  if (!known(node.storage_used_bytes)) return null;
  return node.storage_quota_bytes
    ? `${bytes(node.storage_used_bytes)} of ${bytes(node.storage_quota_bytes)}`
    : bytes(node.storage_used_bytes);
}

/** What a node has refused since its start. */
function refusedText(refused) {
  if (!refused) return null;
  const parts = Object.entries(refused).filter(([, times]) => times > 0);
  return parts.length ? parts.map(([reason, times]) => `${reason} ${count(times)}`).join(", ") : "nothing";
}

/** The list of cards in `list`; returns a function that shows the nodes of a store. */
export function nodeCards(list) {
  const store = { cluster: null, own: null };
  const cards = keyedList(list, nameOf, () => card(store));
  return (now) => {
    store.cluster = now.cluster;
    store.own = now.node?.node_id ?? null;
    cards.update(now.nodes());
  };
}

/** Terms and their values as a description list; returns it with a function that sets the values. */
function figures(rows, properties) {
  const values = rows.map(() => el("dd"));
  const list = el(
    "dl",
    properties,
    ...rows.map(([name], place) => el("div", {}, el("dt", { text: name }), values[place])),
  );
  return [list, (...told) => rows.forEach(([, text], place) => setValue(values[place], text(...told)))];
}

/** The card of one node. */
function card(store) {
  const name = el("h4", { class: "card-name" });
  const role = el("span", { class: "badge badge-role" });
  const state = el("span", { class: "badge" });
  const own = el("span", { class: "badge badge-plain", text: "serves this page" });
  const [main, setMain] = figures(FIGURES, { class: "card-figures" });
  const [more, setMore] = figures(MORE, { class: "card-more" });
  const doing = doingView();
  const problems = el("ul", { class: "card-problems" });
  const link = el("a", { class: "card-link" });
  const details = el("details", {}, el("summary", {}, "More", el("span", { class: "vh" })), more, link);
  const element = el(
    "li",
    { class: "card" },
    el("div", { class: "card-head" }, name, role, state, own),
    main,
    doing.element,
    problems,
    details,
  );
  const update = (node) => {
    const leading = leads(node, store.cluster);
    const told = stateOf(node);
    setAttribute(element, "data-node", nameOf(node));
    setAttribute(element, "data-role", node.role ?? "unknown");
    setAttribute(element, "data-part", node.part ?? "none");
    setAttribute(element, "data-state", told.name);
    setAttribute(element, "data-leader", leading);
    setText(name, nameOf(node));
    setBadge(role, leading ? "star" : null, leading ? "leader" : roleOf(node), leading ? "leader" : "plain");
    setBadge(state, told.tone, told.name, told.tone, `${nameOf(node)} ${told.meaning}`);
    setShown(own, known(node.node_id) && node.node_id === store.own);
    setMain(node, leading);
    setMore(node, leading);
    doing.update(node.snapshot_doing);
    setProblems(problems, node);
    setText(details.firstElementChild.lastElementChild, ` about ${nameOf(node)}`);
    setLink(link, node, node.node_id === store.own);
  };
  return { element, update };
}

/** Set the drawing and the text of a badge. */
export function setBadge(badge, drawing, text, tone, title = null) {
  const looks = `${drawing} ${text}`;
  setAttribute(badge, "title", title);
  setAttribute(badge, "class", `badge badge-${tone}`);
  if (badge.dataset.looks === looks) return;
  badge.dataset.looks = looks;
  badge.replaceChildren(...(drawing ? [icon(drawing)] : []), el("span", { text }));
}

/** What a node does with snapshots: a text, and a bar if the text has a percentage. */
export function doingView() {
  const text = el("span");
  const bar = el("progress", { max: "100", "aria-label": "progress of the snapshot" });
  const element = el("p", { class: "doing" }, bar, text);
  const update = (doing) => {
    const percent = percentIn(doing);
    setShown(element, known(doing));
    setShown(bar, percent !== null);
    if (percent !== null) bar.value = percent;
    setText(text, doing ?? "");
  };
  return { element, update };
}

/** Write what is wrong with a node. */
function setProblems(list, node) {
  const texts = [...(node.error ? [`It does not answer: ${node.error}.`] : []), ...(node.details ?? [])];
  setShown(list, texts.length > 0);
  if (list.dataset.texts === texts.join("\n")) return;
  list.dataset.texts = texts.join("\n");
  list.replaceChildren(...texts.map((text) => el("li", { text })));
}

/** Set the link to the page that a node itself serves; only addresses of the web are followed. */
function setLink(link, node, own) {
  const there = /^https?:\/\//i.test(node.http_url ?? "") && !own;
  setShown(link, there);
  setAttribute(link, "href", there ? node.http_url : null);
  setText(link, there ? `Where ${nameOf(node)} answers HTTP: ${node.http_url}` : "");
}
