// A chart over time, drawn as SVG: areas and lines, a few gridlines, and words that say the same.

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 104;
const TOP = 6;
const BOTTOM = 16;
const LEFT = 46;
const RIGHT = 2;

function svg(tag, attributes, text) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

/** Returns the top of a scale for values up to `most`: 1, 2 or 5 times a power of ten, and even. */
function roundUp(most) {
  if (most <= 2) return 2;
  const power = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 4, 5, 10].find((step) => step * power >= most) * power;
}

/** A linear scale from 0. */
function linear(values) {
  const top = roundUp(Math.max(0, ...values));
  return { ticks: top % 2 ? [0, top] : [0, top / 2, top], share: (value) => value / top };
}

/** A logarithmic scale of whole decades, for durations; 0 is at its bottom. */
function logarithmic(values) {
  const positive = values.filter((value) => value > 0);
  const low = Math.min(-4, ...positive.map((value) => Math.floor(Math.log10(value))));
  const high = Math.max(low + 2, ...positive.map((value) => Math.ceil(Math.log10(value))));
  const step = high - low > 4 ? 2 : 1;
  const ticks = [];
  for (let decade = low; decade <= high; decade += step) ticks.push(10 ** decade);
  const share = (value) => (value > 0 ? Math.max(0, (Math.log10(value) - low) / (high - low)) : 0);
  return { ticks, share };
}

export class Chart {
  /**
   * `series` are `{ label, look, of }`: `look` is area, stacked, line or dashed, `of` returns the value in a frame.
   * Those with `look: "stacked"` stand on the one before.
   */
  constructor(title, series, { format, log = false, level = 3 }) {
    this.title = title;
    this.series = series;
    this.format = format;
    this.scale = log ? logarithmic : linear;
    this.drawing = svg("svg", { role: "img", class: "chart", height: HEIGHT });
    this.values = series.map(() => document.createElement("b"));

    const heading = document.createElement(`h${level}`);
    heading.textContent = title;
    const legend = document.createElement("ul");
    legend.className = "legend";
    series.forEach(({ label, look, bad }, at) => {
      const item = document.createElement("li");
      const swatch = document.createElement("span");
      swatch.className = `swatch ${look}${bad ? " bad" : ""}`;
      item.append(swatch, `${label} `, this.values[at]);
      legend.append(item);
    });
    this.element = document.createElement("figure");
    this.element.append(heading, legend, this.drawing);
  }

  /** Draws `frames`, objects with `at`, from `now - span` seconds to `now`. */
  draw(frames, now, span) {
    const columns = this.series.map(({ of }) => frames.map(of));
    const heights = columns.map((column, at) =>
      this.series[at].look === "stacked" ? column.map((value, i) => value + columns[at - 1][i]) : column,
    );
    const { ticks, share } = this.scale(heights.flat().filter((value) => value !== null));
    const width = Math.max(160, this.drawing.clientWidth || 320);
    const x = (at) => LEFT + (width - LEFT - RIGHT) * (1 - (now - at) / span);
    const y = (value) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - share(value));

    const parts = ticks.flatMap((tick) => [
      svg("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(tick), y2: y(tick) }),
      svg("text", { class: "tick", x: LEFT - 6, y: y(tick) + 3.5, "text-anchor": "end" }, this.format(tick)),
    ]);
    parts.push(svg("text", { class: "tick", x: LEFT, y: HEIGHT - 3 }, `${Math.round(span / 60)} min ago`));
    parts.push(svg("text", { class: "tick", x: width - RIGHT, y: HEIGHT - 3, "text-anchor": "end" }, "now"));
    this.series.forEach(({ look, bad }, at) => {
      for (const run of runs(frames, heights[at], now - span)) {
        const line = run.map(([i, value]) => `${x(frames[i].at).toFixed(1)},${y(value).toFixed(1)}`);
        if (look === "area" || look === "stacked") {
          const below = run.map(([i]) => (look === "stacked" ? heights[at - 1][i] : 0));
          const back = run.map(([i], n) => `${x(frames[i].at).toFixed(1)},${y(below[n]).toFixed(1)}`).reverse();
          parts.push(svg("polygon", { class: `fill ${look}`, points: [...line, ...back].join(" ") }));
        }
        if (line.length === 1) line.push(line[0]); // a round end makes a dot of it
        parts.push(svg("polyline", { class: `stroke ${look}${bad ? " bad" : ""}`, points: line.join(" ") }));
      }
    });
    this.drawing.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.drawing.replaceChildren(...parts);
    this.tell(columns);
  }

  /** Says in words what is drawn. */
  tell(columns) {
    const told = columns.map((column, at) => {
      const known = column.filter((value) => value !== null);
      const last = column.length ? column[column.length - 1] : null;
      const shown = last === null ? "–" : this.format(last);
      if (this.values[at].textContent !== shown) this.values[at].textContent = shown;
      const { label } = this.series[at];
      if (!known.length) return `${label}: nothing yet`;
      const range = `from ${this.format(Math.min(...known))} to ${this.format(Math.max(...known))}`;
      return `${label}: ${last === null ? "nothing" : shown} now, ${range}`;
    });
    this.drawing.setAttribute("aria-label", `${this.title} over the last minutes. ${told.join("; ")}.`);
  }
}

/** Returns the stretches of `column` without gaps, as pairs of index and value. */
function runs(frames, column, since) {
  const found = [[]];
  column.forEach((value, i) => {
    if (value === null || frames[i].at < since) {
      if (found[found.length - 1].length) found.push([]);
    } else found[found.length - 1].push([i, value]);
  });
  return found.filter((run) => run.length);
}
