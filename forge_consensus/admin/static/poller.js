/* Asking for one resource again and again: never twice at the same time, more seldom while it fails, and not at all while
 * nobody looks at the page. */

const SLOWEST_MS = 5_000;
/** There is at least this pause between an answer and the next question. */
const PAUSE_MS = 250;

export class Poller {
  /** `load` returns a promise; `onData` gets what it brings, `onFailure` the error. */
  constructor({ load, onData, onFailure, every = 1_000 }) {
    this.load = load;
    this.onData = onData;
    this.onFailure = onFailure;
    this.every = every;
    this.running = false;
    this.busy = false;
    this.again = false;
    this.failures = 0;
    this.timer = null;
    /** When the present question was asked, null if none is under way. */
    this.askedAt = null;
    document.addEventListener("visibilitychange", () => this.ask());
  }

  /** Begin, with a question at once. */
  start() {
    if (this.running) return;
    this.running = true;
    this.ask();
  }

  /** Stop; an answer that is under way is still taken. */
  stop() {
    this.running = false;
    clearTimeout(this.timer);
  }

  /** Ask now, or right after the present answer. */
  soon() {
    this.again = this.busy;
    this.ask();
  }

  /** Ask, unless a question is under way or nobody looks. */
  async ask() {
    if (this.busy || !this.running || document.hidden) return;
    clearTimeout(this.timer);
    this.busy = true;
    this.askedAt = performance.now();
    let found = null;
    let failure = null;
    try {
      found = await this.load();
    } catch (error) {
      failure = error;
    }
    const took = performance.now() - this.askedAt;
    this.busy = false;
    this.askedAt = null;
    this.failures = failure ? this.failures + 1 : 0;
    this.plan(took);
    if (failure) this.onFailure(failure);
    else this.onData(found);
  }

  /** Set the timer for the next question. */
  plan(took) {
    if (!this.running) return;
    const every = this.failures ? Math.min(SLOWEST_MS, this.every * 2 ** this.failures) : this.every;
    const wait = this.again ? 0 : Math.max(PAUSE_MS, every - took);
    this.again = false;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.ask(), Math.max(wait, 0));
  }
}
