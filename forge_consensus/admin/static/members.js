/* The section "Members": who belongs to the cluster, and the buttons that change it. */

import { get } from "./api.js";
import { addDialog, demoteDialog, editDialog, promoteDialog, removeDialog } from "./changes.js";
import { button, byId, el, keyedList, setAttribute, setShown, setText, setValue } from "./dom.js";
import { count, known } from "./format.js";
import { leads, roleOf, stateOf } from "./judge.js";
import { stepDownDialog, transferDialog } from "./leading.js";
import { setBadge } from "./nodes.js";
import { problemView } from "./notice.js";
import { Poller } from "./poller.js";

const EVERY_MS = 3_000;

/** What the row of a member can do: name of the action, words, whether it fits, and its dialog. */
const ACTIONS = [
  [
    "transfer",
    "Make leader",
    (member, leading) => member.part === "voter" && !leading && member.may_lead !== false,
    (context, member, onClose) => transferDialog(context, member.id, onClose),
  ],
  ["promote", "Promote", (member) => member.part === "learner" && !member.joining, promoteDialog],
  ["demote", "Demote", (member) => member.part === "voter", demoteDialog],
  ["edit", "Edit", () => true, editDialog],
  ["remove", "Remove", (member) => member.part !== "leaving", removeDialog],
];

/** The part of a member for people. */
function partOf(member) {
  return member.joining ? "learner, votes once it has caught up" : member.part;
}

export class Members {
  constructor(context) {
    this.context = context;
    this.told = null;
    this.rows = keyedList(
      byId("members-body"),
      (member) => member.id,
      (member) => this.row(member),
    );
    this.poller = new Poller({
      load: () => get("v1/members"),
      every: EVERY_MS,
      onData: (told) => this.take(told, null),
      onFailure: (error) => this.take(this.told, error),
    });
    byId("member-add").addEventListener("click", () => context.act(() => addDialog(context)));
    byId("member-transfer").addEventListener("click", () => context.act(() => transferDialog(context)));
    byId("member-stepdown").addEventListener("click", () => context.act(() => stepDownDialog(context)));
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

  /** Take an answer, or what went wrong. */
  take(told, problem) {
    this.told = told;
    byId("members-problem").replaceChildren(...(problem ? [problemView(problem)] : []));
    this.update();
  }

  /** The members as they were told; without an answer, as the cluster shows them. */
  list() {
    if (this.told) return this.told.members;
    const nodes = this.context.store.nodes().filter((node) => known(node.part) && known(node.node_id));
    return nodes.map((node) => ({
      id: node.node_id,
      address: node.address,
      part: node.part,
      joining: null,
      priority: node.priority,
      may_lead: node.may_lead,
    }));
  }

  /** Show everything. */
  update() {
    const { cluster } = this.context.store;
    if (!cluster) return;
    const members = this.list();
    this.rows.update(members);
    const voters = members.filter((member) => member.part !== "learner").length;
    setText(byId("members-count"), `${count(members.length)} members, ${count(voters)} of them voters.`);
    setShown(byId("members-change"), Boolean(this.told && !this.told.settled && !cluster.change)); // else it is told above
  }

  /** The row of a member. */
  row(member) {
    const cells = Object.fromEntries(
      ["part", "role", "state", "lag", "leads", "address"].map((name) => [name, el("td")]),
    );
    const state = el("span", { class: "badge" });
    cells.state.append(state);
    const buttons = el("div", { class: "row-actions" });
    const name = el("th", { scope: "row", text: member.id });
    const element = el("tr", { data: { node: member.id } }, name, ...Object.values(cells), el("td", {}, buttons));
    const made = ACTIONS.map(([action, text, , open]) =>
      button(text, () => this.context.act(() => open(this.context, this.current(member.id))), {
        class: "button button-small",
        "aria-label": `${text}: ${member.id}`,
        data: { action },
      }),
    );
    buttons.append(...made);
    const update = (next) => {
      const { store } = this.context;
      const { cluster } = store;
      const node = store.nodeOf(next.id);
      const leading = next.id === cluster.leader_id;
      setAttribute(element, "data-part", next.part);
      setAttribute(element, "data-role", node?.role ?? "unknown");
      setAttribute(element, "data-state", node?.state ?? "unknown");
      setAttribute(element, "data-leader", leading);
      setValue(cells.part, partOf(next));
      setValue(cells.role, node && known(node.role) ? (leading ? "★ leader" : roleOf(node)) : null);
      if (node) setBadge(state, stateOf(node).tone, stateOf(node).name, stateOf(node).tone, stateOf(node).meaning);
      else setBadge(state, "none", "not seen yet", "plain");
      setValue(cells.lag, node && leads(node, cluster) ? "leads" : count(node?.lag));
      setValue(
        cells.leads,
        next.may_lead === false ? "never" : known(next.priority) ? `priority ${next.priority}` : null,
      );
      setValue(cells.address, next.address);
      ACTIONS.forEach(([, , fits], place) => setShown(made[place], fits(next, leading)));
    };
    return { element, update };
  }

  /** A member as it is now. */
  current(id) {
    return this.list().find((member) => member.id === id) ?? { id };
  }

  /** Open what an address such as #members/n2/remove names; null if it names nothing. */
  open(id, action, onClose) {
    const { context } = this;
    if (id === "add") return () => addDialog(context, onClose);
    if (id === "transfer") return () => transferDialog(context, "", onClose);
    if (id === "stepdown") return () => stepDownDialog(context, onClose);
    const member = this.list().find((each) => each.id === id);
    const found = ACTIONS.find(([name]) => name === action);
    return member && found ? () => found[3](context, member, onClose) : null;
  }
}
