/* The arithmetic of charts: steps of an axis that people like to read, and lines through points. Pure functions. */

/** The step of an axis (1, 2 or 5 times a power of ten) that makes about so many ticks in a span. */
export function niceStep(span, wanted) {
  const raw = span / wanted;
  const power = 10 ** Math.floor(Math.log10(raw));
  const digit = [1, 2, 5, 10].find((candidate) => raw / power <= candidate * 1.0001);
  return digit * power;
}

/** The ticks of an axis from `low` to at least `high`, for whole numbers only if `integer`. */
export function ticksOf(low, high, { wanted = 4, integer = false } = {}) {
  const end = high > low ? high : low + 1;
  const step = Math.max(niceStep(end - low, wanted), integer ? 1 : 0);
  const first = Math.floor(low / step);
  const ticks = [];
  for (let place = first; ; place += 1) {
    const value = Number((place * step).toPrecision(12));
    ticks.push(value);
    if (value >= end - step * 1e-9) return ticks;
  }
}

/** A function that maps values between `low` and `high` to places between `start` and `end`. */
export function linear(low, high, start, end) {
  const span = high - low || 1;
  return (value) => start + ((value - low) / span) * (end - start);
}

/** The points between two times, and the last one before them, which begins there. */
export function within(points, from, to) {
  const first = points.findIndex((point) => point[0] >= from);
  if (first < 0) return [];
  const inside = points.slice(first).filter((point) => point[0] <= to);
  const before = points[first - 1];
  return before && before[1] !== null ? [[from, before[1]], ...inside] : inside;
}

/** At most `wanted` points: each stands for a span of time, with the highest or the mean value in it. */
export function thinned(points, from, to, wanted, merge = "highest") {
  if (points.length <= wanted) return points;
  const width = (to - from) / wanted;
  const found = [];
  let cell = null;
  for (const [time, value] of points) {
    const place = Math.floor(time / width); // by the clock, so that a cell keeps its points while the window moves
    if (!cell || cell.place !== place) {
      cell = { place, time, values: [], gap: false };
      found.push(cell);
    }
    if (value !== null) cell.values.push(value);
  }
  return found.map(({ time, values }) => [time, values.length ? merged(values, merge) : null]);
}

/** One value for several. */
function merged(values, merge) {
  if (merge === "mean") return values.reduce((sum, value) => sum + value, 0) / values.length;
  return values.reduce((most, value) => Math.max(most, value), values[0]);
}

/** The path of a line through points; it breaks where a value is null. */
export function linePath(points, x, y) {
  let path = "";
  let open = false;
  for (const [time, value] of points) {
    if (value === null) {
      open = false;
      continue;
    }
    const place = `${x(time).toFixed(1)} ${y(value).toFixed(1)}`;
    path += open ? `L${place}` : `M${place}h0.01`;
    open = true;
  }
  return path;
}

/** The path of a line that keeps each value until the next one. */
export function stepPath(points, x, y) {
  let path = "";
  for (const [time, value] of points) {
    const across = x(time).toFixed(1);
    path += path ? `H${across}V${y(value).toFixed(1)}` : `M${across} ${y(value).toFixed(1)}`;
  }
  return path;
}

/** The value of the point that is nearest to a time, and its time; null if there is none near. */
export function nearest(points, time, most) {
  let found = null;
  for (const point of points) {
    if (!found || Math.abs(point[0] - time) < Math.abs(found[0] - time)) found = point;
  }
  return found && Math.abs(found[0] - time) <= most ? found : null;
}

/** Lowest, highest and last of the values that are known; null without any. */
export function extent(points) {
  const values = points.map((point) => point[1]).filter((value) => value !== null);
  if (!values.length) return null;
  return {
    low: values.reduce((a, b) => Math.min(a, b)),
    high: values.reduce((a, b) => Math.max(a, b)),
    last: points.at(-1)[1],
  };
}
