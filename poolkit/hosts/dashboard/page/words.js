// Numbers as people read them.

const WHOLE = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const missing = (value) => value === null || value === undefined;

/** Three digits at most, none of them idle. */
function short(value) {
  return value >= 100 ? value.toFixed(0) : String(Number(value.toPrecision(2)));
}

export function count(value) {
  return missing(value) ? "–" : WHOLE.format(value);
}

export function rate(value) {
  if (missing(value)) return "–";
  if (value >= 10_000) return `${short(value / 1000)}k`;
  return value >= 10 ? WHOLE.format(value) : String(Number(value.toFixed(1)));
}

export function percent(share) {
  const value = 100 * share;
  return `${value > 0 && value < 10 ? value.toFixed(1) : value.toFixed(0)} %`;
}

export function duration(seconds) {
  if (missing(seconds)) return "–";
  if (seconds <= 0) return "0";
  if (seconds < 0.000_999_5) return `${short(seconds * 1e6)} µs`;
  if (seconds < 0.999_5) return `${short(seconds * 1e3)} ms`;
  return seconds < 60 ? `${short(seconds)} s` : span(seconds);
}

function span(seconds) {
  const minutes = Math.floor(seconds / 60);
  if (minutes >= 120) return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  return `${minutes} min ${Math.floor(seconds % 60)} s`;
}

export function time(at) {
  return new Date(1000 * at).toLocaleTimeString("en-GB");
}

/** Returns `/long/path/to/views/orders.py:42 in create.<locals>.place_order` without most of its path. */
export function place(site) {
  const [path, ...rest] = site.split(" in ");
  const parts = path.split("/");
  const end = parts.length > 3 ? `…/${parts.slice(-2).join("/")}` : path;
  return [end, ...rest.map((name) => name.split("<locals>.").pop())].join(" in ");
}
