/* One dialog at a time: it keeps the focus while it is open and gives it back to where it was. */

import { el, setText } from "./dom.js";
import { notify } from "./notice.js";

const FOCUSABLE = "input, select, textarea, button, [tabindex]";

export class Dialog {
  /** `notices` is where outcomes go that come after the dialog was closed. */
  constructor({ id, title, notices, onClose = null }) {
    this.notices = notices;
    this.onClose = onClose;
    this.busy = false;
    this.opener = document.activeElement;
    this.title = el("h2", { id: "dialog-title", class: "dialog-title", tabindex: "-1", text: title });
    this.body = el("div", { class: "dialog-body" });
    this.buttons = el("div", { class: "dialog-buttons" });
    this.element = el(
      "dialog",
      { id, class: "dialog", "aria-labelledby": "dialog-title" },
      this.title,
      this.body,
      this.buttons,
    );
    this.element.addEventListener("close", () => this.closed());
    this.element.addEventListener("cancel", (event) => this.busy && event.preventDefault());
  }

  /** Open it; nothing happens if another one is open. */
  open() {
    if (document.querySelector("dialog[open]")) return;
    document.body.append(this.element);
    this.element.showModal();
    this.title.focus();
  }

  /** Close it. */
  close() {
    this.element.close();
  }

  /** Whether it is open. */
  get shown() {
    return this.element.open;
  }

  /** Show content and buttons, and put the focus on the first element that `focus` selects, else on the title. */
  show(content, buttons, focus = null) {
    this.body.replaceChildren(...content);
    this.buttons.replaceChildren(...buttons);
    if (!this.shown) return;
    const wanted = focus ? this.element.querySelector(focus) : null;
    (wanted ?? this.title).focus();
  }

  /** Change the title. */
  rename(title) {
    setText(this.title, title);
  }

  /** While a request is under way nothing in the dialog can be used, and it stays open. */
  setBusy(busy) {
    this.busy = busy;
    this.element.setAttribute("aria-busy", String(busy));
    if (busy) this.title.focus();
    for (const control of this.element.querySelectorAll(FOCUSABLE)) {
      if ("disabled" in control) control.disabled = busy;
    }
  }

  /** Show an outcome: here, or as a notice if the dialog is closed. */
  end(view, buttons) {
    if (this.shown) this.show([view], buttons, ".box");
    else notify(this.notices, view);
  }

  /** Give the focus back. */
  closed() {
    this.element.remove();
    const place =
      this.opener?.isConnected && this.opener !== document.body
        ? this.opener
        : document.querySelector("main section.page:not([hidden]) h2");
    place?.focus();
    this.onClose?.();
  }
}
