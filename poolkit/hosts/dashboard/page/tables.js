// Who holds connections, how it is with each server, and what happened lately.

import { changed, icon, make, put } from "./dom.js";
import { count, duration, percent, place, time } from "./words.js";

const LEVELS = { error: "■", warning: "▲", good: "●", note: "○" };

/** Has *element* say where in the code something is, in short; the whole path is its title. */
function at(element, site) {
  put(element, place(site));
  element.title = site;
  return element;
}

/** Says what the parts of a table are, for one that narrow screens lay out differently. */
function withRoles(made) {
  made.setAttribute("role", "table");
  for (const group of made.querySelectorAll("thead, tbody")) group.setAttribute("role", "rowgroup");
  for (const row of made.querySelectorAll("tr")) row.setAttribute("role", "row");
  for (const cell of made.querySelectorAll("th")) cell.setAttribute("role", "columnheader");
  return made;
}

function rowWithRoles(...cells) {
  const row = make("tr", "", ...cells);
  row.setAttribute("role", "row");
  for (const cell of cells) cell.setAttribute("role", cell.tagName === "TH" ? "rowheader" : "cell");
  return row;
}

function table(caption, columns) {
  const made = make("table");
  const head = columns.map(([title, className]) => {
    const cell = make("th", className, title);
    cell.scope = "col";
    return cell;
  });
  made.append(make("caption", "", caption), make("thead", "", make("tr", "", ...head)), make("tbody"));
  return made;
}

/** The holders of a pool. Rows stay the same elements as long as a connection is held, and so stay open and focused. */
export class Holders {
  constructor(id, open, ask) {
    this.open = open;
    this.ask = ask;
    this.rows = new Map();
    this.heights = [];
    this.table = withRoles(table("", [["Held for", "number"], ["Thread", ""], ["Acquired at", ""], ["Now at", ""]]));
    this.table.classList.add("holders");
    this.more = make("p", "soft");
    this.nobody = make("p", "soft nobody", "Nobody holds a connection.");
    this.element = make("div", "holding", this.table, this.more, this.nobody);
    this.element.id = id;
  }

  show({ holders, more_holders, now }) {
    this.table.hidden = !holders.length;
    this.nobody.hidden = holders.length > 0 || now.in_use > 0;
    this.more.hidden = !more_holders;
    put(this.more, `… and ${more_holders} more.`);
    const overdue = holders.filter((holder) => holder.overdue).length;
    const late = overdue ? `, ${overdue} overdue` : "";
    put(this.table.caption, `Who holds a connection: ${holders.length + more_holders}${late}`);
    const seen = new Set(holders.map((holder) => holder.id));
    for (const [id, row] of this.rows) {
      if (!seen.has(id)) {
        row.element.remove();
        this.rows.delete(id);
        this.open.delete(id);
      }
    }
    holders.forEach((holder, index) => {
      if (!this.rows.has(holder.id)) this.rows.set(holder.id, this.row(holder));
      const row = this.rows.get(holder.id);
      this.fill(row, holder);
      const body = this.table.tBodies[0];
      if (body.children[index] !== row.element) body.insertBefore(row.element, body.children[index] ?? null);
    });
    this.settle();
  }

  /** Takes as much room as it took in the last half minute, or all below would jump with each short use. */
  settle() {
    const now = performance.now();
    this.element.style.minHeight = "0";
    const { offsetWidth, offsetHeight } = this.element;
    this.heights = this.heights.filter(([at, width]) => now - at < 30_000 && width === offsetWidth);
    this.heights.push([now, offsetWidth, offsetHeight]);
    this.element.style.minHeight = `${Math.max(...this.heights.map(([, , height]) => height))}px`;
  }

  row({ id, thread, site }) {
    const held = make("span");
    const late = make("span", "late", icon("▲"), "overdue");
    const now = make("span", "place");
    const stack = make("ol", "stack");
    const whose = make("span", "unseen", `Stack of ${thread}: `);
    const details = make("details", "", make("summary", "", whose, now), stack);
    details.addEventListener("toggle", () => {
      if (details.open) this.open.add(id);
      else this.open.delete(id);
      this.heights = []; // the reader knows why it takes less
      if (details.open) this.ask();
    });
    const acquired = at(make("td", "place"), site);
    const head = make("th", "", thread);
    head.scope = "row";
    const element = rowWithRoles(make("td", "number", held, late), head, acquired, make("td", "", details));
    return { element, held, late, now, stack };
  }

  fill({ held, late, now, stack }, holder) {
    put(held, duration(holder.held_for));
    late.hidden = !holder.overdue;
    at(now, holder.now_at);
    if (holder.stack === null) return;
    const places = holder.stack.length ? holder.stack : ["The thread has ended."];
    if (changed(stack, places)) stack.replaceChildren(...places.map((text) => at(make("li"), text)));
  }
}

/** Fills in how it is with each server of a pool, where there are several. */
export function fillServers(element, { servers }) {
  element.hidden = !servers.length;
  if (!changed(element, servers)) return;
  if (!servers.length) return element.replaceChildren();
  const made = table("Servers", [
    ["Server", ""],
    ["In use", "number"],
    ["Waiting", "number"],
    ["Retry budget", "number wide"],
    ["Reached", ""],
  ]);
  for (const { name, in_use, max_size, waiting, budget, reachable } of servers) {
    const head = make("th", "", name);
    head.scope = "row";
    made.tBodies[0].append(
      make(
        "tr",
        "",
        head,
        make("td", "number", `${count(in_use)}/${count(max_size)}`),
        make("td", "number", count(waiting)),
        make("td", "number wide", budget === null ? "–" : percent(budget)),
        make("td", reachable ? "" : "condition unavailable", ...(reachable ? ["yes"] : [icon("■"), "no"])),
      ),
    );
  }
  element.replaceChildren(made);
}

/** Fills in the last events, the newest first. */
export function fillEvents(element, events) {
  if (!changed(element, events)) return;
  withRoles(element);
  const rows = events.map(({ pool, kind, level, text, first, last, count: times }) => {
    const when = times > 1 ? `${time(last)}, ${count(times)} × since ${time(first)}` : time(last);
    return rowWithRoles(
      make("td", "when", when),
      make("td", "name", pool),
      make("td", `level ${level}`, icon(LEVELS[level]), kind),
      make("td", "", text),
    );
  });
  element.tBodies[0].replaceChildren(...rows);
}
