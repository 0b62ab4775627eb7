/* Numbers, sizes, times and ages for people. What is not known is null here and a dash on the page, never 0. */

const NUMBER = new Intl.NumberFormat("en");
const FEW = new Intl.NumberFormat("en", { maximumSignificantDigits: 2 });
const SIZES = ["B", "KiB", "MiB", "GiB", "TiB"];

/** Whether a value is there. */
export function known(value) {
  return typeof value === "number" ? Number.isFinite(value) : value !== null && value !== undefined && value !== "";
}

/** A whole number with separators. */
export function count(value) {
  return known(value) ? NUMBER.format(value) : null;
}

/** A number and its noun: "1 node", "2 nodes". */
export function counted(value, noun) {
  return known(value) ? `${NUMBER.format(value)} ${noun}${value === 1 ? "" : "s"}` : null;
}

/** A rate, with two digits if it is small. */
export function perSecond(value) {
  if (!known(value)) return null;
  return `${value !== 0 && Math.abs(value) < 10 ? FEW.format(value) : NUMBER.format(Math.round(value))}/s`;
}

/** A size in binary units. */
export function bytes(value) {
  if (!known(value)) return null;
  let size = value;
  let unit = 0;
  while (Math.abs(size) >= 1024 && unit < SIZES.length - 1) {
    size /= 1024;
    unit += 1;
  }
  return `${unit && Math.abs(size) < 10 ? size.toFixed(1) : NUMBER.format(Math.round(size))} ${SIZES[unit]}`;
}

/** A duration, in the two largest units that matter. */
export function seconds(value) {
  if (!known(value)) return null;
  const size = Math.abs(value);
  if (size === 0) return "0 s";
  if (size < 0.01) return `${FEW.format(value * 1000)} ms`;
  if (size < 0.9995) return `${Math.round(value * 1000)} ms`;
  if (size < 9.95) return `${Number.isInteger(value) ? value : value.toFixed(1)} s`;
  if (size < 59.5) return `${Math.round(value)} s`;
  const whole = Math.round(value);
  if (size < 3600) return pair(whole, 60, "min", 1, "s");
  if (size < 86400) return pair(whole, 3600, "h", 60, "min");
  return pair(whole, 86400, "d", 3600, "h");
}

/** A number of seconds in a large and a small unit. */
function pair(value, large, largeName, small, smallName) {
  const rest = Math.floor((value % large) / small);
  return `${NUMBER.format(Math.floor(value / large))} ${largeName}${rest ? ` ${rest} ${smallName}` : ""}`;
}

/** An age: whole seconds are enough. */
export function age(value) {
  return known(value) ? seconds(value < 1 ? Math.ceil(value) : Math.round(value)) : null;
}

/** How far a clock is ahead or behind, from milliseconds. */
export function clockOffset(milliseconds) {
  if (!known(milliseconds)) return null;
  const text = seconds(Math.abs(milliseconds) / 1000);
  if (Math.abs(milliseconds) < 1) return "even";
  return `${text} ${milliseconds > 0 ? "ahead" : "behind"}`;
}

/** The time of day of a Date, with milliseconds; null for a date that is none. */
export function timeOfDay(date) {
  if (!(date instanceof Date) || Number.isNaN(date.getTime())) return null;
  const two = (number) => String(number).padStart(2, "0");
  const rest = String(date.getMilliseconds()).padStart(3, "0");
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}.${rest}`;
}

/** A span of time on an axis, from seconds: "2 min", "45 s". */
export function span(value) {
  if (value < 60) return `${Math.round(value)} s`;
  const rest = Math.round(value % 60);
  return `${Math.floor(value / 60)} min${rest ? ` ${rest} s` : ""}`;
}

/** A text that is at most so long. */
export function shortened(text, length) {
  return text.length > length ? `${text.slice(0, length - 1)}…` : text;
}

/** Names with commas and an "and". */
export function listed(names) {
  if (names.length < 2) return names.join("");
  return `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`;
}

/** The percentage in a text such as "receives a snapshot: 40% of 3 MiB", null without one. */
export function percentIn(text) {
  const found = /(\d{1,3})\s?%/.exec(text ?? "");
  return found && Number(found[1]) <= 100 ? Number(found[1]) : null;
}
