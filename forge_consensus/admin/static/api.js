/* Requests to the HTTP API of the node that serves this page. Addresses are relative, because an application may mount
 * the API below a prefix. Everything that goes wrong is a Problem. */

import { authorization, tellStranger } from "./token.js";

/** After this time a request counts as unanswered. */
const LIMIT_MS = 10_000;
/** Changes wait for a majority, so they may take longer. */
const CHANGE_LIMIT_MS = 60_000;

/** What went wrong with a request: the node's own words (RFC 9457), or why there is no answer. */
export class Problem extends Error {
  constructor({
    kind,
    title,
    detail = "",
    status = null,
    code = "",
    requestId = "",
    retryable = null,
    leaderUrl = "",
    forceable = false,
  }) {
    super(detail || title);
    this.name = "Problem";
    /** "problem" if the node answered with one, "network" or "timeout" if it did not, "format" if nobody understands it. */
    this.kind = kind;
    this.title = title;
    this.detail = detail;
    this.status = status;
    this.code = code;
    this.requestId = requestId;
    this.retryable = retryable;
    this.leaderUrl = leaderUrl;
    /** Whether a change of members that was refused would be made with force. */
    this.forceable = forceable;
  }

  /** Whether the node itself could not be reached. */
  get unreached() {
    return this.kind === "network" || this.kind === "timeout";
  }

  /** One line for people. */
  get text() {
    const id = this.requestId ? ` (request ${this.requestId})` : "";
    return `${this.title}${this.detail ? `: ${this.detail}` : ""}${id}`;
  }

  /** Any error as a problem. */
  static of(error) {
    if (error instanceof Problem) return error;
    return new Problem({
      kind: "format",
      title: "the page could not use the answer",
      detail: String(error?.message ?? error),
    });
  }
}

/** The query part of an address; values that are null, false or empty are left out. */
function queryText(query) {
  const parts = new URLSearchParams();
  for (const [name, value] of Object.entries(query ?? {})) {
    if (value !== null && value !== undefined && value !== false && value !== "") parts.set(name, String(value));
  }
  const text = parts.toString();
  return text ? `?${text}` : "";
}

/** The body and the type of a request. */
function bodyOf({ json, body, type }) {
  if (json !== undefined) return { body: JSON.stringify(json), headers: { "Content-Type": "application/json" } };
  return body === undefined ? { headers: {} } : { body, headers: { "Content-Type": type } };
}

/** The problem that an answer is. */
function problemOf(answer, found) {
  const told = found && typeof found === "object" ? found : {};
  return new Problem({
    kind: "problem",
    title: told.title || `the node answered with status ${answer.status}`,
    detail: told.detail || told.message || "",
    status: answer.status,
    code: told.code || "",
    retryable: told.retryable ?? null,
    leaderUrl: told.leader_url || "",
    forceable: told.forceable === true,
    requestId: told.request_id || answer.headers.get("X-Request-Id") || answer.headers.get("X-Raft-Request-Id") || "",
  });
}

/** Send a request and return `{ data, headers }`. Raises Problem. */
export async function request(method, path, options = {}) {
  const limit = options.limit ?? (method === "GET" ? LIMIT_MS : CHANGE_LIMIT_MS);
  const { body, headers } = bodyOf(options);
  const controller = new AbortController();
  const timer = setTimeout(() => controller.abort(), limit);
  try {
    const answer = await fetch(path + queryText(options.query), {
      method,
      body,
      headers: {
        Accept: "application/json, application/problem+json",
        ...authorization(),
        ...headers,
        ...options.headers,
      },
      cache: "no-store",
      signal: controller.signal,
    });
    return await understood(answer);
  } catch (error) {
    if (error instanceof Problem) throw error;
    if (controller.signal.aborted) throw timedOut(method, limit);
    throw unreachable(method);
  } finally {
    clearTimeout(timer);
  }
}

/** What an answer holds. Raises Problem. */
async function understood(answer) {
  if (answer.status === 401) tellStranger();
  const text = await answer.text();
  const isJson = (answer.headers.get("Content-Type") ?? "").includes("json");
  let found = null;
  try {
    found = isJson && text ? JSON.parse(text) : null;
  } catch {
    throw new Problem({ kind: "format", title: "the answer is no JSON", status: answer.status });
  }
  if (!answer.ok) throw problemOf(answer, found);
  if (found === null) throw new Problem({ kind: "format", title: "the answer is no JSON", status: answer.status });
  return { data: found, headers: answer.headers };
}

/** The problem of a request that got no answer in time. What became of a change is not known then. */
function timedOut(method, limit) {
  const after = method === "GET" ? "" : "; the change may have been made all the same: look before you repeat it";
  return new Problem({
    kind: "timeout",
    title: "no answer in time",
    detail: `this node did not answer for ${limit / 1000} s${after}`,
  });
}

/** The problem of a request for which there was no connection. */
function unreachable(method) {
  const after =
    method === "GET" ? "" : "; if the connection broke meanwhile, the change may have been made all the same";
  return new Problem({
    kind: "network",
    title: "no connection",
    detail: `this node cannot be reached from here${after}`,
  });
}

/** Read a resource. Raises Problem. */
export async function get(path, query) {
  return (await request("GET", path, { query })).data;
}

/** The address of a member. Raises Problem for an id that no address can hold. */
export function memberPath(id) {
  return `v1/members/${segment(id)}`;
}

/** The address of a key; slashes are percent-encoded too. Raises Problem for a key that no address can hold. */
export function keyPath(key) {
  return `v1/kv/${segment(key)}`;
}

/** A text as one segment of an address. A browser takes "." and ".." as directions, encoded or not. */
function segment(text) {
  if (text === "." || text === ".." || text === "") {
    throw new Problem({
      kind: "format",
      title: "this name cannot be used here",
      detail: `no address can hold "${text}": use the command line`,
    });
  }
  return encodeURIComponent(text);
}
