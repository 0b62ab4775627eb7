/* The changes of members that one can make on the page: add, remove, promote, demote, and what is told of a member. */

import { memberPath, request } from "./api.js";
import { el } from "./dom.js";
import { PlanDialog } from "./plan.js";

/** A labelled control; the text below it says what it does. */
function field(id, label, control, hint = "") {
  control.id = id;
  if (hint) control.setAttribute("aria-describedby", `${id}-hint`);
  return el(
    "div",
    { class: "field" },
    el("label", { for: id, text: label }),
    control,
    hint ? el("p", { id: `${id}-hint`, class: "hint", text: hint }) : null,
  );
}

/** An input of one line. */
function line(properties) {
  return el("input", { type: "text", autocomplete: "off", autocapitalize: "off", spellcheck: "false", ...properties });
}

/** Add a node that was started with --join. */
export function addDialog(context, onClose = null) {
  const id = line({ required: true, maxlength: "128" });
  const address = line({ required: true, placeholder: "10.0.0.4:7001" });
  const part = el(
    "select",
    {},
    el("option", { value: "voter" }, "voter, once it has caught up"),
    el("option", { value: "learner" }, "learner: gets the log, does not vote"),
  );
  const form = {
    element: el(
      "div",
      {},
      field("add-id", "Id of the node", id),
      field("add-address", "Address", address, "HOST:PORT at which the members reach it."),
      field("add-part", "Part", part),
    ),
    focus: "#add-id",
    read: () => ({ id: id.value.trim(), address: address.value.trim(), part: part.value }),
  };
  new PlanDialog(context, {
    id: "dialog-add",
    title: "Add a node",
    intro: "The node must run by then: start it on an empty folder with --join and the address of a member.",
    verb: "Add it",
    form,
    onClose,
    send: async (dryRun, force, told) =>
      (await request("POST", "v1/members", { json: { ...told, dry_run: dryRun, force } })).data,
  }).open();
}

/** Remove a member; its id has to be typed. */
export function removeDialog(context, member, onClose = null) {
  const leading = member.id === context.store.cluster?.leader_id;
  const after = leading ? " It leads now: it leads until its removal is committed, and then hands over." : "";
  new PlanDialog(context, {
    id: "dialog-remove",
    title: `Remove ${member.id}`,
    intro: `${member.id} at ${member.address} is a member no more afterwards. It keeps its folder, gets no vote and serves nobody; the same id may be added again on an empty folder only.${after}`,
    verb: `Remove ${member.id}`,
    danger: true,
    typed: member.id,
    onClose,
    send: async (dryRun, force) =>
      (await request("DELETE", memberPath(member.id), { query: { dry_run: dryRun, force } })).data,
  }).open();
}

/** Change a member by PATCH. */
function patchDialog(context, member, options) {
  new PlanDialog(context, {
    ...options,
    send: async (dryRun, force, told) =>
      (await request("PATCH", memberPath(member.id), { json: { ...(told ?? options.change), dry_run: dryRun, force } }))
        .data,
  }).open();
}

/** Let a learner vote. */
export function promoteDialog(context, member, onClose = null) {
  patchDialog(context, member, {
    id: "dialog-promote",
    title: `Promote ${member.id} to a voter`,
    intro: `${member.id} gets a vote once it has almost all of the log.`,
    verb: "Promote it",
    change: { part: "voter" },
    onClose,
  });
}

/** Let a voter be a learner. */
export function demoteDialog(context, member, onClose = null) {
  patchDialog(context, member, {
    id: "dialog-demote",
    title: `Demote ${member.id} to a learner`,
    intro: `${member.id} still gets the log, but does not vote any more.`,
    verb: "Demote it",
    danger: true,
    change: { part: "learner" },
    onClose,
  });
}

/** Tell the cluster of another address of a member, or how much it is to lead. */
export function editDialog(context, member, onClose = null) {
  const address = line({ required: true, value: member.address ?? "" });
  const priority = el("input", { type: "number", step: "1", required: true, value: String(member.priority ?? 0) });
  const mayLead = el("input", { type: "checkbox", checked: member.may_lead !== false });
  mayLead.id = "edit-may-lead";
  const form = {
    element: el(
      "div",
      {},
      field("edit-address", "Address", address, "HOST:PORT at which the members look for it."),
      field("edit-priority", "Priority as a leader", priority, "0 is usual; the highest one leads if it can."),
      el("div", { class: "field field-check" }, mayLead, el("label", { for: "edit-may-lead", text: "It may lead" })),
    ),
    focus: "#edit-address",
    read: () => {
      const told = {};
      if (address.value.trim() !== member.address) told.address = address.value.trim();
      if (Number(priority.value) !== (member.priority ?? 0)) told.priority = Number(priority.value);
      if (mayLead.checked !== (member.may_lead !== false)) told.may_lead = mayLead.checked;
      return told;
    },
  };
  patchDialog(context, member, {
    id: "dialog-edit",
    title: `Settings of the member ${member.id}`,
    intro: "All members agree on these, and nodes that join later learn them.",
    verb: "Change it",
    form,
    onClose,
  });
}
