/* The section "Keys": look at the keys of the built-in state machine, read one, write one, delete one. */

import { get, keyPath, Problem, request } from "./api.js";
import { Dialog } from "./dialog.js";
import { button, byId, el, keyedList, setShown, setText } from "./dom.js";
import { bytes, count, shortened } from "./format.js";
import { confirmDialog, standing } from "./leading.js";
import { outcomeView, problemView } from "./notice.js";

const PREVIEW = 90;
const TYPES = { text: "text/plain; charset=utf-8", json: "application/json", bytes: "application/octet-stream" };

/** The base64 of a value that is bytes: it comes as a text, or as a text in an object. */
function base64Of(value) {
  return typeof value === "object" && value !== null ? String(value.base64 ?? "") : String(value ?? "");
}

/** A value as text: JSON is indented, bytes are base64. */
export function valueText(pair) {
  if (pair.kind === "json") return JSON.stringify(pair.value, null, 2);
  if (pair.kind === "bytes") return base64Of(pair.value);
  return pair.value === null ? "" : String(pair.value);
}

/** The size of a value as it is shown; of bytes it follows from the length of the base64. */
export function sizeOf(pair) {
  if (pair.kind === "bytes") return Math.floor((base64Of(pair.value).replace(/=+$/, "").length * 3) / 4);
  return new TextEncoder().encode(pair.kind === "json" ? JSON.stringify(pair.value) : String(pair.value)).length;
}

/** Which entries of the log made a key and wrote it last. */
export function historyText(pair) {
  const entry = (index) => `entry ${count(index) ?? "unknown"}`;
  const made = `made by ${entry(pair.created)}`;
  return pair.created === pair.modified ? made : `${made}, written last by ${entry(pair.modified)}`;
}

/** What becomes of a key with a lease. */
export function leaseText(pair) {
  return `It goes with lease ${pair.lease}. Written here, it loses the lease and stays.`;
}

/** Whether a value has a whole number that a browser cannot hold exactly. */
export function isInexact(value) {
  if (typeof value === "number") return Number.isInteger(value) && !Number.isSafeInteger(value);
  return typeof value === "object" && value !== null && Object.values(value).some(isInexact);
}

/** The body of a request that writes a text as a value of that kind. Raises Problem if it is no such value. */
export function bodyOf(kind, text) {
  if (kind === "text") return text;
  const refuse = (title) => new Problem({ kind: "format", title, detail: "Nothing was sent: correct the value." });
  if (kind === "json") {
    try {
      JSON.parse(text);
    } catch (error) {
      throw refuse(`this is no JSON (${error.message})`);
    }
    return text;
  }
  try {
    return Uint8Array.from(atob(text.replace(/\s+/g, "")), (letter) => letter.charCodeAt(0));
  } catch {
    throw refuse("this is no base64");
  }
}

export class Keys {
  constructor(context) {
    this.context = context;
    this.pairs = [];
    this.asked = null;
    this.attempt = 0;
    this.rows = keyedList(
      byId("keys-body"),
      (pair) => pair.key,
      (pair) => this.row(pair),
    );
    byId("keys-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.list();
    });
    byId("keys-more").addEventListener("click", () => this.list(true));
    byId("key-add").addEventListener("click", () => context.act(() => this.writeDialog()));
  }

  /** The section is shown. */
  enter() {
    if (!this.asked) this.list();
  }

  /** Something was changed: look again. */
  refresh() {
    if (this.asked && !byId("page-keys").hidden) this.list();
  }

  /** Ask for the keys, or for more of them. */
  async list(more = false) {
    this.asked = more ? this.asked : { prefix: byId("keys-prefix").value, limit: byId("keys-limit").value };
    const attempt = (this.attempt += 1);
    setText(byId("keys-state"), "Asking …");
    try {
      const found = await get("v1/kv", { ...this.asked, after: more ? this.pairs.at(-1)?.key : null });
      if (attempt !== this.attempt) return;
      this.pairs = more ? [...this.pairs, ...found.pairs] : found.pairs;
      byId("keys-problem").replaceChildren();
      this.show(found);
    } catch (error) {
      if (attempt !== this.attempt) return;
      setText(byId("keys-state"), this.pairs.length ? "The list is an older one." : "");
      byId("keys-problem").replaceChildren(problemView(error));
    }
  }

  /** Show the keys. */
  show(found) {
    this.rows.update(this.pairs);
    const about = this.asked.prefix ? ` that begin with "${this.asked.prefix}"` : "";
    const many = this.pairs.length === 1 ? "1 key" : `${count(this.pairs.length)} keys`;
    setText(
      byId("keys-state"),
      `${many}${about}${found.more ? ", and there are more" : ""}; the state of entry ${count(found.applied) ?? "unknown"}.`,
    );
    setShown(byId("keys-more"), found.more);
    setShown(byId("keys-table"), this.pairs.length > 0);
  }

  /** The row of a key. */
  row() {
    let key = "";
    const name = button("", () => this.valueDialog(key), { class: "button button-link" });
    const [kind, size, written, lease] = [el("td"), el("td"), el("td"), el("td")];
    const value = el("td", { class: "preview" });
    const element = el("tr", {}, el("th", { scope: "row" }, name), kind, size, value, written, lease);
    const update = (pair) => {
      key = pair.key;
      element.dataset.key = pair.key;
      setText(name, pair.key === "" ? "(the empty key)" : shortened(pair.key, 120));
      setText(kind, pair.kind);
      setText(size, bytes(sizeOf(pair)));
      setText(written, count(pair.modified) ?? "unknown");
      setText(lease, pair.lease ? String(pair.lease) : "–");
      setText(value, shortened(valueText(pair).replace(/\s+/g, " "), PREVIEW));
    };
    return { element, update };
  }

  /** Show a key as it is now. */
  async valueDialog(key) {
    const dialog = new Dialog({ id: "dialog-key", title: "Key", notices: this.context.notices });
    const leave = button("Close", () => dialog.close());
    const then = (action) => () => {
      dialog.close();
      this.context.act(action);
    };
    dialog.open();
    dialog.show([el("p", { class: "key-name", text: key }), el("p", { class: "waiting", text: "Reading …" })], [leave]);
    try {
      const pair = await get(keyPath(key));
      if (!dialog.shown) return;
      const kind = pair.kind === "bytes" ? "bytes, shown as base64" : pair.kind;
      const facts = `${kind}, ${bytes(sizeOf(pair))}, ${historyText(pair)}`;
      const value = el("pre", {
        class: "value",
        tabindex: "0",
        role: "region",
        "aria-label": "Value",
        text: valueText(pair),
      });
      const inexact = pair.kind === "json" && isInexact(pair.value);
      const doubt = inexact
        ? el("p", {
            class: "note note-warn",
            text: "It has a number that a browser cannot hold exactly, so it may be shown rounded and cannot be edited here.",
          })
        : null;
      const change = [
        button(
          "Delete",
          then(() => this.deleteDialog(key)),
          { class: "button button-danger" },
        ),
        button(
          "Edit",
          then(() => this.writeDialog(pair)),
          { class: "button button-main", disabled: inexact },
        ),
      ];
      dialog.show(
        [
          el("p", { class: "key-name", text: key }),
          el("p", { class: "muted", text: facts }),
          value,
          ...(doubt ? [doubt] : []),
          ...(pair.lease ? [el("p", { class: "note note-warn", text: leaseText(pair) })] : []),
        ],
        [leave, ...change],
      );
    } catch (error) {
      if (dialog.shown) dialog.show([el("p", { class: "key-name", text: key }), problemView(error)], [leave], ".box");
    }
  }

  /** Write a key: a new one, or another value of one that is there. */
  writeDialog(pair = null) {
    const dialog = new Dialog({
      id: "dialog-write",
      title: pair ? "Write another value" : "Write a key",
      notices: this.context.notices,
    });
    const form = writeForm(pair);
    const save = el("button", { type: "submit", form: "write-form", class: "button button-main" }, "Write");
    const buttons = [button("Cancel", () => dialog.close()), save];
    const showForm = (problem = null) =>
      dialog.show([...(problem ? [problem] : []), form.element], buttons, problem ? ".box" : form.focus);
    form.element.addEventListener("submit", async (event) => {
      event.preventDefault();
      dialog.setBusy(true);
      let problem = null;
      try {
        const { key, kind, text } = form.read();
        const headers = pair ? { "If-Match": `"${pair.modified}"` } : {};
        await request("PUT", keyPath(key), { body: bodyOf(kind, text), type: TYPES[kind], headers });
      } catch (error) {
        problem = problemView(error);
      }
      dialog.setBusy(false);
      if (!problem)
        dialog.end(outcomeView("It is written: a majority has it on disk."), [button("Close", () => dialog.close())]);
      else if (dialog.shown) showForm(problem);
      else dialog.end(problem, []);
      this.context.refresh();
    });
    dialog.open();
    showForm();
  }

  /** Delete a key. */
  deleteDialog(key) {
    confirmDialog(this.context, {
      id: "dialog-delete",
      title: "Delete a key",
      content: [
        el("p", { class: "key-name", text: key }),
        el("p", { text: "The key is deleted on all nodes, for good." }),
        standing(
          this.context.store.cluster,
          "The deletion is a command like any other: it takes a majority, and changes no members.",
        ),
      ],
      verb: "Delete it",
      danger: true,
      send: async () =>
        (await request("DELETE", keyPath(key))).data.deleted ? "The key is deleted." : "There was no such key.",
    });
  }
}

/** The form that writes a value. */
function writeForm(pair) {
  const key = el("input", {
    id: "write-key",
    type: "text",
    required: true,
    value: pair?.key ?? "",
    readonly: Boolean(pair),
    autocomplete: "off",
    autocapitalize: "off",
    spellcheck: "false",
  });
  const kind = el(
    "select",
    { id: "write-kind" },
    ...[
      ["text", "text"],
      ["json", "JSON"],
      ["bytes", "bytes, given as base64"],
    ].map(([value, text]) => el("option", { value, text, selected: value === pair?.kind })),
  );
  const value = el("textarea", { id: "write-value", rows: "8", spellcheck: "false" });
  value.value = pair ? valueText(pair) : "";
  const field = (control, text) => el("div", { class: "field" }, el("label", { for: control.id, text }), control);
  return {
    element: el(
      "form",
      { id: "write-form" },
      field(key, "Key"),
      field(kind, "Kind of the value"),
      field(value, "Value"),
    ),
    focus: pair ? "#write-value" : "#write-key",
    read: () => ({ key: key.value, kind: kind.value, text: value.value }),
  };
}
