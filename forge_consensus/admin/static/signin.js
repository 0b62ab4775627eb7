/* Asking for a token, where the node wants to know who looks at its page. */

import { Dialog } from "./dialog.js";
import { button, el, setShown, setText } from "./dom.js";
import { keepToken, keptToken, onStranger } from "./token.js";

const TOKEN_CHARS_MAX = "200";

export class SignIn {
  /** `control` is the button of the page; `onChange` is called when there is another token, or none. */
  constructor(context, control, onChange) {
    this.context = context;
    this.control = control;
    this.onChange = onChange;
    this.dialog = null;
    /** Whether the page has asked by itself; it does so once, and again when a token is refused. */
    this.asked = false;
    control.addEventListener("click", () => (keptToken() ? this.take("") : this.ask()));
    onStranger(() => this.refused());
    this.show();
  }

  /** Show what the button does. */
  show(wanted = false) {
    const kept = Boolean(keptToken());
    if (kept || wanted) setShown(this.control, true);
    setText(this.control, kept ? "Sign out" : "Sign in");
  }

  /** The node does not know who asks. */
  refused() {
    const had = keptToken();
    if (had) keepToken("");
    this.show(true);
    if (!this.asked || had) this.ask(had ? "The node does not take the token: it is wrong, over, or was revoked." : "");
    this.asked = true;
  }

  /** Take a token, or forget it with "". */
  take(text) {
    keepToken(text);
    this.show(true);
    this.onChange();
  }

  /** Ask for a token. */
  ask(problem = "") {
    if (this.dialog?.shown) return;
    this.dialog = new Dialog({ id: "dialog-token", title: "Who are you?", notices: this.context.notices });
    this.dialog.open();
    if (!this.dialog.shown) return;
    const token = el("input", {
      id: "token",
      type: "password",
      required: true,
      maxlength: TOKEN_CHARS_MAX,
      autocomplete: "off",
      "aria-describedby": "token-hint",
    });
    const form = el(
      "form",
      { id: "token-form" },
      el(
        "div",
        { class: "field" },
        el("label", { for: "token", text: "Token" }),
        token,
        el("p", {
          id: "token-hint",
          class: "hint",
          text: "Made by forge-consensus auth token create. It is kept until this tab is closed.",
        }),
      ),
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.dialog.close();
      this.take(token.value.trim());
    });
    this.dialog.show(
      [el("p", { text: problem || "This node answers only those whom it knows." }), form],
      [
        button("Cancel", () => this.dialog.close(), { data: { action: "cancel" } }),
        el("button", { type: "submit", form: "token-form", class: "button button-main" }, "Sign in"),
      ],
      "#token",
    );
  }
}
