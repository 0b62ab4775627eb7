/* A stream of Server-Sent Events with a token: EventSource can send none, so this does the same by fetch. It connects
 * again by itself and goes on behind the last event. A refusal ends it. */

import { authorization, tellStranger } from "./token.js";

const CONNECTING = 0;
const OPEN = 1;
const CLOSED = 2;
const RETRY_MS = 1_000;

/** Text of a stream in pieces -> messages, as the HTML standard has it. */
export class Messages {
  constructor() {
    this.rest = "";
    this.clear();
    this.lastId = "";
    this.retry = RETRY_MS;
  }

  /** Forget the message that is not complete. */
  clear() {
    this.kind = "";
    this.lines = [];
  }

  /** Take a piece, and return the messages that it completes. */
  take(text) {
    const found = [];
    const lines = (this.rest + text).split("\n");
    this.rest = lines.pop();
    for (const line of lines) {
      const plain = line.endsWith("\r") ? line.slice(0, -1) : line;
      if (plain) this.field(plain);
      else {
        if (this.lines.length)
          found.push({ type: this.kind || "message", data: this.lines.join("\n"), lastEventId: this.lastId });
        this.clear();
      }
    }
    return found;
  }

  /** Take one line. */
  field(line) {
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "event") this.kind = value;
    else if (name === "data") this.lines.push(value);
    else if (name === "id" && !value.includes("\0")) this.lastId = value;
    else if (name === "retry" && /^\d+$/.test(value)) this.retry = Number(value);
  }
}

export class EventStream {
  constructor(address) {
    this.address = address;
    this.readyState = CONNECTING;
    this.listeners = new Map();
    this.lastId = "";
    this.retry = RETRY_MS;
    this.stop = new AbortController();
    queueMicrotask(() => this.run());
  }

  /** Be told of events of a kind, and of "open" and "error". */
  addEventListener(kind, listener) {
    this.listeners.set(kind, [...(this.listeners.get(kind) ?? []), listener]);
  }

  /** Tell the listeners. */
  tell(kind, message = { type: kind }) {
    for (const listener of this.listeners.get(kind) ?? []) listener(message);
  }

  /** End it. */
  close() {
    this.readyState = CLOSED;
    this.stop.abort();
  }

  /** Connect, read, and connect again until it is closed. */
  async run() {
    while (this.readyState !== CLOSED) {
      try {
        await this.connect();
      } catch {
        // the connection broke, or there was none
      }
      if (this.readyState === CLOSED) return;
      this.readyState = CONNECTING;
      this.tell("error");
      await new Promise((resume) => setTimeout(resume, this.retry));
    }
  }

  /** Connect once, and read to the end. */
  async connect() {
    const headers = { Accept: "text/event-stream", ...authorization() };
    if (this.lastId) headers["Last-Event-ID"] = this.lastId;
    const answer = await fetch(this.address, { headers, cache: "no-store", signal: this.stop.signal });
    if (!answer.ok || !(answer.headers.get("Content-Type") ?? "").startsWith("text/event-stream")) {
      await answer.body?.cancel();
      this.close();
      this.tell("error");
      if (answer.status === 401) tellStranger();
      return;
    }
    this.readyState = OPEN;
    this.tell("open");
    const messages = new Messages();
    messages.lastId = this.lastId;
    const decoder = new TextDecoder();
    for (const reader = answer.body.getReader(); ; ) {
      const { done, value } = await reader.read();
      if (done || this.readyState === CLOSED) return;
      for (const message of messages.take(decoder.decode(value, { stream: true }))) {
        this.lastId = message.lastEventId;
        this.tell(message.type, message);
      }
      this.retry = messages.retry;
    }
  }
}
