/* The actions that change no members: hand the leadership over, step down, take a snapshot. Each is confirmed in a dialog
 * that shows how the quorum stands. */

import { request } from "./api.js";
import { Dialog } from "./dialog.js";
import { button, el, valued } from "./dom.js";
import { bytes, count } from "./format.js";
import { icon } from "./icons.js";
import { arithmetic, leads, nameOf, serves, stateOf, successors } from "./judge.js";
import { outcomeView, problemView } from "./notice.js";

/** The quorum as it stands, for a dialog. */
export function standing(cluster, effect) {
  const rows = arithmetic(cluster).map(([name, text]) => el("div", {}, el("dt", { text: name }), valued("dd", text)));
  return el(
    "div",
    { class: "standing" },
    el("h3", { text: "The quorum" }),
    el("dl", { class: "facts" }, ...rows),
    el("p", { text: effect }),
  );
}

/** A sentence with a drawing in front of it. */
function note(tone, text) {
  return el("p", { class: `note note-${tone}` }, icon(tone), el("span", { text }));
}

/** A dialog that asks once and then sends a request. `content` is what it shows, `send` returns the words of the outcome. */
export function confirmDialog(
  context,
  { id, title, content, verb, danger = false, send, focus = null, onClose = null },
) {
  const dialog = new Dialog({ id, title, notices: context.notices, onClose });
  const leave = (text) => button(text, () => dialog.close(), { data: { action: "cancel" } });
  const carryOut = async () => {
    dialog.setBusy(true);
    let view = null;
    try {
      view = outcomeView(await send());
    } catch (error) {
      view = problemView(error);
    }
    dialog.setBusy(false);
    dialog.end(view, [leave("Close")]);
    context.refresh();
  };
  const go = button(verb, carryOut, { id: "dialog-go", class: `button ${danger ? "button-danger" : "button-main"}` });
  dialog.open();
  dialog.show(content, [leave("Cancel"), go], focus);
}

/** Hand the leadership over; `target` is chosen already if it is given. */
export function transferDialog(context, target = "", onClose = null) {
  const { cluster } = context.store;
  const candidates = successors(cluster);
  const select = el(
    "select",
    { id: "transfer-target" },
    el("option", { value: "" }, "the best voter, as the leader finds"),
  );
  for (const node of candidates) {
    const facts = [
      stateOf(node).name,
      ...(node.lag ? [`${count(node.lag)} entries behind`] : []),
      ...(node.may_lead === false ? ["never leads"] : []),
    ];
    select.append(
      el(
        "option",
        { value: node.node_id, disabled: node.may_lead === false, selected: node.node_id === target },
        `${node.node_id} (${facts.join(", ")})`,
      ),
    );
  }
  const doubt = el("div");
  const look = () => {
    const chosen = candidates.find((node) => node.node_id === select.value);
    const bad = chosen && stateOf(chosen).tone !== "good";
    doubt.replaceChildren(
      ...(bad ? [note("warn", `${nameOf(chosen)} ${stateOf(chosen).meaning}: it may not take over in time.`)] : []),
    );
  };
  select.addEventListener("change", look);
  look();
  confirmDialog(context, {
    id: "dialog-transfer",
    title: "Hand the leadership over",
    focus: "#transfer-target",
    onClose,
    content: [
      el("p", {
        text: `${cluster.leader_id ?? "No node"} leads now. The target gets the rest of the log and is told to stand for election at once; what clients send meanwhile waits.`,
      }),
      el("label", { for: "transfer-target", text: "Hand over to" }),
      select,
      doubt,
      standing(
        cluster,
        "A handover changes no members, so the quorum stays as it is. If the target does not catch up or does not win in time, the present leader leads on.",
      ),
    ],
    verb: "Hand over",
    send: async () => (await request("POST", "v1/leader/transfer", { json: { target: select.value } })).data.message,
  });
}

/** Have the leader step down. */
export function stepDownDialog(context, onClose = null) {
  const { cluster } = context.store;
  const others = successors(cluster).filter((node) => node.takes_entries && node.may_lead !== false);
  const doubt = others.length
    ? []
    : [note("bad", "No other voter that may lead answers and takes entries: nobody could take over.")];
  confirmDialog(context, {
    id: "dialog-stepdown",
    title: `Have ${cluster.leader_id ?? "the leader"} step down`,
    onClose,
    content: [
      el("p", {
        text: "The leader hands over to the best voter: one that has all that is committed, then the highest priority, then most of the log.",
      }),
      ...doubt,
      standing(
        cluster,
        "Stepping down changes no members, so the quorum stays as it is. Writes wait until the next leader is there.",
      ),
    ],
    verb: "Step down",
    danger: true,
    send: async () => (await request("POST", "v1/leader/stepdown", { json: {} })).data.message,
  });
}

/** Take a snapshot on the node that serves this page. */
export function snapshotDialog(context, onClose = null) {
  const { cluster, node } = context.store;
  const own = cluster.nodes.find((each) => each.node_id === node?.node_id);
  const text =
    own && leads(own, cluster)
      ? [note("info", "This node leads. A snapshot that is taken on a follower spares the leader.")]
      : [];
  confirmDialog(context, {
    id: "dialog-snapshot",
    title: `Take a snapshot on ${node?.node_id ?? "this node"}`,
    onClose,
    content: [
      el("p", { text: "The node writes its state into a file and cuts its log behind it. It serves meanwhile." }),
      ...text,
      standing(
        cluster,
        serves(cluster)
          ? "A snapshot concerns one node only, so the quorum stays as it is."
          : "A snapshot concerns one node only and needs no majority.",
      ),
    ],
    verb: "Take a snapshot",
    send: async () => {
      const { data } = await request("POST", "v1/snapshots", { json: {} });
      return (
        data.message || `${data.node_id} has a snapshot up to entry ${count(data.index)} (${bytes(data.size_bytes)}).`
      );
    },
  });
}
