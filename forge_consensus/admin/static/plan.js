/* A change of the members, in the order in which it is safe: first a dry run, whose quorum arithmetic the dialog shows; then,
 * if it is confirmed, the change itself. */

import { Problem } from "./api.js";
import { Dialog } from "./dialog.js";
import { button, el, fillRows } from "./dom.js";
import { count, counted, listed } from "./format.js";
import { icon } from "./icons.js";
import { helpOf } from "./judge.js";
import { outcomeView, problemView } from "./notice.js";

const votes = (member) => member.part !== "learner";

/** What differs between two steps, as sentences. */
export function changesBetween(before, after) {
  const [old, next] = [before, after].map((step) => new Map(step.members.map((member) => [member.id, member])));
  const found = [];
  for (const [id, member] of next) {
    const was = old.get(id);
    if (!was)
      found.push(`${id} is added as a ${member.part}${member.joining ? ", which votes once it has caught up" : ""}`);
    else found.push(...memberChanges(id, was, member));
  }
  for (const [id] of old) if (!next.has(id)) found.push(`${id} is no member any more`);
  return found;
}

/** What differs between two looks at a member. */
function memberChanges(id, was, member) {
  const found = [];
  if (was.part !== member.part) {
    if (member.part === "leaving") found.push(`${id} votes only until this step is over`);
    else found.push(member.part === "voter" ? `${id} votes` : `${id} gets the log and does not vote`);
  }
  if (!was.joining && member.joining) found.push(`${id} will vote once it has caught up`);
  if (was.address !== member.address) found.push(`${id} is reached at ${member.address}`);
  if (was.priority !== member.priority) found.push(`${id} has priority ${member.priority}`);
  if (was.may_lead !== member.may_lead) found.push(member.may_lead ? `${id} may lead` : `${id} never leads`);
  return found;
}

/** The steps between the present and the end of a change; one that is the end already is left out. */
export function stepsBetween(plan) {
  const same = (one, other) =>
    JSON.stringify(one.members) === JSON.stringify(other.members) && one.joint === other.joint;
  const steps = [...plan.steps];
  if (steps.length && same(steps.at(-1), plan.after)) steps.pop();
  return steps;
}

/** The quorum before, during and after a change, as a table. */
export function planTable(plan) {
  const steps = [
    ["Before", plan.before],
    ...stepsBetween(plan).map((step) => [step.joint ? "During (joint)" : "During", step]),
    ["After", plan.after],
  ];
  const names = (step, wanted) =>
    step.members
      .filter((member) => votes(member) === wanted)
      .map((member) => (member.part === "leaving" ? `${member.id} (leaving)` : member.id));
  const cell = (text, key) => el("td", { data: key, text: text ?? "–" });
  const rows = [
    [
      "Voters",
      ([, step], place) =>
        cell(`${count(step.voters)}: ${names(step, true).join(", ")}`, {
          voters: String(step.voters),
          place: String(place),
        }),
    ],
    ["Learners", ([, step]) => cell(names(step, false).join(", ") || "none", {})],
    [
      "Needed for a majority",
      ([, step]) =>
        cell(
          step.joint ? `${count(step.required)}, a majority of those before and of those after` : count(step.required),
          { required: String(step.required) },
        ),
    ],
    ["May fail", ([, step]) => cell(count(step.can_lose), { canLose: String(step.can_lose) })],
  ];
  const body = el("tbody");
  fillRows(body, []);
  body.append(...rows.map(([name, make]) => el("tr", {}, el("th", { scope: "row", text: name }), ...steps.map(make))));
  const head = el("tr", {}, el("td"), ...steps.map(([name]) => el("th", { scope: "col", text: name })));
  return el(
    "div",
    { class: "scroll", role: "region", tabindex: "0", "aria-label": "What the change does to the quorum" },
    el("table", { id: "plan-table", class: "plan" }, el("thead", {}, head), body),
  );
}

/** What the page itself has to say of a plan, as `[tone, text]`. */
export function remarks(plan, cluster) {
  const found = plan.warnings.map((text) => ["warn", text]);
  const voters = plan.after.members.filter(votes);
  const now = new Map((cluster?.nodes ?? []).map((node) => [node.node_id, node]));
  const helping = voters.filter((member) => now.has(member.id) && helpOf(now.get(member.id)) === "helps").length;
  const text = `Of the ${counted(plan.after.voters, "voter")} after the change, ${count(helping)} answer now and take entries; ${count(plan.after.required)} are needed.`;
  found.push([helping < plan.after.required ? "bad" : "info", text]);
  if (helping < plan.after.required) return found;
  if (plan.after.can_lose === 0) found.push(["warn", "After the change no voter may fail."]);
  else if (plan.after.can_lose < plan.before.can_lose) {
    found.push([
      "warn",
      `After the change ${counted(plan.after.can_lose, "voter")} may fail, before ${count(plan.before.can_lose)}.`,
    ]);
  }
  return found;
}

/** The steps in words. */
function stepList(plan) {
  const way = [plan.before, ...plan.steps];
  const texts = plan.steps.map((step, place) => {
    const changes = changesBetween(way[place], step);
    const joint = step.joint
      ? " For its short time a majority of the voters before and one of those after must agree."
      : "";
    return `${changes.length ? `${listed(changes)}.` : "The joint configuration ends."}${joint}`;
  });
  const last = changesBetween(way.at(-1), plan.after);
  if (last.length) texts.push(`In the end ${listed(last)}.`);
  return el("ol", { id: "plan-steps" }, ...texts.map((text) => el("li", { text })));
}

/**
 * The dialog of one change. `send(dryRun, force)` asks the node and returns the plan; `typed` is what has to be typed to
 * confirm; `form`, if given, is `{ element, focus, read() }` and comes first: `send` gets what `read` returned.
 */
export class PlanDialog {
  constructor(context, { id, title, intro, verb, danger = false, typed = "", form = null, send, onClose = null }) {
    Object.assign(this, { context, intro, verb, danger, typed, form, send });
    this.force = false;
    this.told = null;
    this.dialog = new Dialog({ id, title, notices: context.notices, onClose });
  }

  /** Open it: with the form if there is one, else with the dry run. */
  open() {
    this.dialog.open();
    if (!this.dialog.shown) return;
    if (this.form) this.showForm();
    else this.check();
  }

  /** A button that closes it. */
  leave(text = "Cancel") {
    return button(text, () => this.dialog.close(), { data: { action: "cancel" } });
  }

  /** Show the form; sending it begins the dry run. */
  showForm(problem = null) {
    const formElement = el("form", { id: "plan-form" }, this.form.element);
    formElement.addEventListener("submit", (event) => {
      event.preventDefault();
      this.told = this.form.read();
      this.force = false;
      this.check();
    });
    const check = el(
      "button",
      { type: "submit", form: "plan-form", class: "button button-main", data: { action: "check" } },
      "Check first",
    );
    this.dialog.show(
      [el("p", { text: this.intro }), ...(problem ? [problem] : []), formElement],
      [this.leave(), check],
      problem ? ".box" : this.form.focus,
    );
  }

  /** Make the dry run. */
  async check() {
    this.dialog.show(
      [
        el("p", { text: this.intro }),
        el("p", { class: "waiting", text: "Asking the leader what the change would do …" }),
      ],
      [this.leave()],
    );
    try {
      this.showPlan(await this.send(true, this.force, this.told));
    } catch (error) {
      this.showRefusal(Problem.of(error));
    }
  }

  /** Show that the dry run was refused; what is refused for the sake of the quorum may be forced. */
  showRefusal(problem) {
    if (!this.dialog.shown) return;
    const view = problemView(problem);
    const again = button(
      this.form ? "Change the input" : "Check again",
      () => (this.form ? this.showForm() : this.check()),
      { data: { action: "again" } },
    );
    const buttons = [this.leave("Close"), again];
    if (problem.forceable && !this.force) {
      const force = button("Check it with force", () => this.checkForced(), {
        class: "button button-danger",
        data: { action: "force" },
      });
      view.append(
        el("p", {
          text: "Force makes a change although those that answer now are no quorum after it, or a learner lacks much of the log. Use it only for members that will come back.",
        }),
      );
      buttons.push(force);
    }
    this.dialog.show([view], buttons, ".box");
  }

  /** Make the dry run again, with force. */
  checkForced() {
    this.force = true;
    this.check();
  }

  /** Show what the change would do, and ask for a confirmation. */
  showPlan(plan) {
    if (!this.dialog.shown) return;
    const notes = remarks(plan, this.context.store.cluster).map(([tone, text]) =>
      el("li", { class: `note note-${tone}` }, icon(tone), el("span", { text })),
    );
    if (this.force)
      notes.unshift(
        el(
          "li",
          { class: "note note-bad" },
          icon("bad"),
          el("span", { text: "This is with force: the check of the quorum is left out." }),
        ),
      );
    const confirm = el(
      "button",
      {
        type: "submit",
        form: "plan-confirm",
        id: "plan-go",
        class: `button ${this.danger ? "button-danger" : "button-main"}`,
      },
      this.verb,
    );
    const form = el("form", { id: "plan-confirm" }, ...this.typedField(confirm));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (!confirm.disabled) this.carryOut();
    });
    const content = [
      el("p", { text: this.intro }),
      planTable(plan),
      el("h3", { text: "Steps" }),
      stepList(plan),
      el("ul", { id: "plan-notes", class: "notes" }, ...notes),
      el("p", { class: "muted", text: "Nothing has been changed yet." }),
      form,
    ];
    this.dialog.show(content, [this.leave(), confirm]);
  }

  /** The field in which the id has to be typed, if there has to be one. */
  typedField(confirm) {
    if (!this.typed) return [];
    const input = el("input", {
      id: "plan-typed",
      type: "text",
      autocomplete: "off",
      autocapitalize: "off",
      spellcheck: "false",
    });
    confirm.disabled = true;
    input.addEventListener("input", () => {
      confirm.disabled = input.value.trim() !== this.typed;
    });
    return [el("label", { for: "plan-typed" }, "To confirm, type the id ", el("strong", { text: this.typed })), input];
  }

  /** Make the change. */
  async carryOut() {
    this.dialog.setBusy(true);
    let view = null;
    try {
      const plan = await this.send(false, this.force, this.told);
      const more = [
        el("p", {
          text: "The members and the cluster show how far it is. It may take a while until all of it is done.",
        }),
      ];
      view = outcomeView(
        plan.index ? `The change has begun: log entry ${count(plan.index)}.` : "Nothing had to be changed.",
        "good",
        more,
      );
    } catch (error) {
      view = problemView(error);
    }
    this.dialog.setBusy(false);
    this.dialog.end(view, [this.leave("Close")]);
    this.context.refresh();
  }
}
