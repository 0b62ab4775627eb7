/* Reading an OpenAPI 3.1 description: references, operations by tag, schemas as rows, and curl lines. Pure functions. */

const METHODS = ["get", "post", "put", "patch", "delete", "head", "options"];
const DEPTH_MAX = 5;

/** What a local reference such as #/components/schemas/Plan means; anything else is what it is. */
export function resolved(document, value, steps = 0) {
  const reference = value?.$ref;
  if (typeof reference !== "string" || !reference.startsWith("#/") || steps > 20) return value ?? {};
  const path = reference
    .slice(2)
    .split("/")
    .map((part) => decodeURIComponent(part).replaceAll("~1", "/").replaceAll("~0", "~"));
  const found = path.reduce((place, part) => place?.[part], document);
  return found === undefined ? value : { ...resolved(document, found, steps + 1), ...siblings(value) };
}

/** What stands beside a reference: OpenAPI 3.1 allows that. */
function siblings(value) {
  const { $ref, ...others } = value;
  return others;
}

/** The operations by tag, in the order of the tags: `[{ name, description, operations }]`. */
export function groupsOf(document) {
  const groups = new Map(
    (document.tags ?? []).map((tag) => [
      tag.name,
      { name: tag.name, description: tag.description ?? "", operations: [] },
    ]),
  );
  for (const [path, item] of Object.entries(document.paths ?? {})) {
    const shared = resolved(document, item);
    for (const method of METHODS.filter((name) => shared[name])) {
      const operation = operationOf(document, path, method, shared);
      const tag = operation.tags[0] ?? "other";
      if (!groups.has(tag)) groups.set(tag, { name: tag, description: "", operations: [] });
      groups.get(tag).operations.push(operation);
    }
  }
  return [...groups.values()].filter((group) => group.operations.length);
}

/** One operation with all its references followed. */
function operationOf(document, path, method, item) {
  const told = item[method];
  const parameters = new Map();
  for (const each of [...(item.parameters ?? []), ...(told.parameters ?? [])]) {
    const parameter = resolved(document, each);
    parameters.set(`${parameter.in}:${parameter.name}`, { ...parameter, schema: resolved(document, parameter.schema) });
  }
  const answers = Object.entries(told.responses ?? {}).map(([status, answer]) => {
    const found = resolved(document, answer);
    return {
      status,
      description: found.description ?? "",
      headers: Object.keys(found.headers ?? {}),
      content: contentOf(document, found.content),
    };
  });
  const body = resolved(document, told.requestBody);
  return {
    id: `${method}-${path}`.replace(/[^\w]+/g, "-").replace(/-+$/, ""),
    path,
    method,
    tags: told.tags ?? [],
    summary: told.summary ?? "",
    description: told.description ?? "",
    deprecated: Boolean(told.deprecated),
    parameters: [...parameters.values()],
    body: told.requestBody
      ? {
          required: Boolean(body.required),
          description: body.description ?? "",
          content: contentOf(document, body.content),
        }
      : null,
    answers,
  };
}

/** The media types of a body: `[{ type, schema, example }]`. */
function contentOf(document, content) {
  return Object.entries(content ?? {}).map(([type, media]) => {
    const example = media.example ?? Object.values(media.examples ?? {})[0]?.value;
    return { type, schema: media.schema ?? {}, example };
  });
}

/** The type of a schema in a few words. */
export function typeText(document, given) {
  const schema = resolved(document, given);
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  const several = schema.oneOf ?? schema.anyOf;
  if (several) return [...new Set(several.map((each) => typeText(document, each)))].join(" | ");
  const types = Array.isArray(schema.type)
    ? schema.type
    : [schema.type ?? (schema.properties || schema.allOf ? "object" : "any")];
  return types
    .map((type) => (type === "array" ? `array of ${typeText(document, schema.items ?? {})}` : format(type, schema)))
    .join(" | ");
}

/** A type with its format. */
function format(type, schema) {
  return schema.format && type !== "null" ? `${type} (${schema.format})` : type;
}

/** All properties of a schema, those of its parts (allOf) too. */
export function propertiesOf(document, given) {
  const schema = resolved(document, given);
  const parts = [schema, ...(schema.allOf ?? []).map((each) => resolved(document, each))];
  return {
    properties: Object.assign({}, ...parts.map((part) => part.properties ?? {})),
    required: parts.flatMap((part) => part.required ?? []),
  };
}

/** The fields of a schema as rows: `{ name, type, required, description }`, with dotted names for what lies inside. */
export function rowsOf(document, given, { inside = "", depth = 0, seen = [] } = {}) {
  const schema = resolved(document, given);
  if (depth > DEPTH_MAX || (given?.$ref && seen.includes(given.$ref))) return [];
  const way = given?.$ref ? [...seen, given.$ref] : seen;
  if (schema.items) return rowsOf(document, schema.items, { inside: `${inside}[]`, depth: depth + 1, seen: way });
  const several = schema.oneOf ?? schema.anyOf;
  if (several) return several.flatMap((each) => rowsOf(document, each, { inside, depth, seen: way }));
  const { properties, required } = propertiesOf(document, schema);
  return Object.entries(properties).flatMap(([name, each]) => {
    const place = inside ? `${inside}.${name}` : name;
    const found = resolved(document, each);
    const row = {
      name: place,
      type: typeText(document, each),
      required: required.includes(name),
      description: found.description ?? "",
    };
    return [row, ...rowsOf(document, each, { inside: place, depth: depth + 1, seen: way })];
  });
}

/** An example of a schema; what has no example of its own is made from its type. */
export function exampleOf(document, given, depth = 0) {
  const schema = resolved(document, given);
  for (const found of [schema.example, schema.examples?.[0], schema.default, schema.const, schema.enum?.[0]])
    if (found !== undefined) return found;
  const several = schema.oneOf ?? schema.anyOf;
  if (several) return exampleOf(document, several[0], depth);
  const type = Array.isArray(schema.type) ? schema.type[0] : schema.type;
  if (type === "array") return depth > DEPTH_MAX ? [] : [exampleOf(document, schema.items ?? {}, depth + 1)];
  if (type === "integer" || type === "number") return schema.minimum ?? 0;
  if (type === "boolean") return false;
  if (type === "string") return "text";
  const { properties } = propertiesOf(document, schema);
  if (depth > DEPTH_MAX) return {};
  return Object.fromEntries(
    Object.entries(properties).map(([name, each]) => [name, exampleOf(document, each, depth + 1)]),
  );
}

/** A text as one word of a shell. */
export function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** The line that makes the request; `base` is the address of the API with a slash at its end. */
export function curlOf(document, operation, base) {
  let path = operation.path.replace(/^\//, "");
  const query = [];
  for (const parameter of operation.parameters) {
    const example = String(parameter.example ?? exampleOf(document, parameter.schema));
    if (parameter.in === "path")
      path = path.replace(`{${parameter.name}}`, () =>
        encodeURIComponent(example === "text" ? parameter.name : example),
      );
    if (parameter.in === "query" && parameter.required) query.push(`${parameter.name}=${encodeURIComponent(example)}`);
  }
  const parts = ["curl"];
  if (operation.answers.some((answer) => answer.content.some((each) => each.type === "text/event-stream")))
    parts.push("-N");
  if (operation.method !== "get") parts.push("-X", operation.method.toUpperCase());
  parts.push(quoted(`${base}${path}${query.length ? `?${query.join("&")}` : ""}`));
  const body = operation.body?.content[0];
  if (body) {
    const example = body.example ?? exampleOf(document, body.schema);
    parts.push(
      "-H",
      quoted(`Content-Type: ${body.type}`),
      "--data-binary",
      quoted(typeof example === "string" ? example : JSON.stringify(example)),
    );
  }
  return parts.join(" ");
}
