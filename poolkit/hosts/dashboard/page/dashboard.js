// Asks for the figures every few seconds, and shows them. All text is set as text: nothing that comes is markup.

import { Chart } from "./chart.js";
import { changed, icon, make, put } from "./dom.js";
import { count, duration, percent, rate, time } from "./words.js";
import { Holders, fillEvents, fillServers } from "./tables.js";

const MARKS = {
  healthy: "●",
  degraded: "▲",
  exhausted: "◆",
  unavailable: "■",
  closed: "□",
  "not opened": "○",
};
const FORGET = 60; // seconds after which a process that no longer answers is not offered any more
const CHANCE = 1e-4; // that it just was not asked: if it is less, another process is shown instead

const $ = (id) => document.getElementById(id);
const processes = new Map(); // by id: what each of them has told
const panels = new Map(); // by backend
const holders = new Set(); // whose stacks are open
let shown = null; // the id of the process that is shown
let others = []; // the ids of those that have answered since it did
let timer = 0;
let failures = 0;
let told = new Map(); // the conditions that were told last

function mark(element, condition) {
  if (!changed(element, condition)) return;
  element.className = `condition ${condition.replace(" ", "-")}`;
  element.replaceChildren(icon(MARKS[condition]), condition);
}

/** A pool: its condition, why it is exhausted, its charts and figures, its holders and servers. */
class Panel {
  constructor({ backend, name }) {
    this.condition = make("p", "condition");
    this.reasons = make("ul", "reasons");
    this.shortage = make("div", "shortage");
    this.shortage.hidden = true;
    this.figures = make("dl", "figures");
    const value = (at) => (frame) => frame.values[backend][at];
    this.charts = [
      new Chart("Connections", [
        { label: "in use", look: "area", of: value("in_use") },
        { label: "idle", look: "stacked", of: value("idle") },
        { label: "at most", look: "dashed", of: value("max_size") },
      ], { format: count }),
      new Chart("Waiting threads", [{ label: "waiting", look: "area", of: value("waiting") }], { format: count }),
      new Chart("Throughput, a second", [
        { label: "operations", look: "area", of: value("operations") },
        { label: "leases", look: "dashed", of: value("leases") },
        { label: "errors", look: "line", bad: true, of: value("errors") },
      ], { format: rate }),
      new Chart("Wait for a connection", [
        { label: "p99", look: "line", of: value("wait_p99") },
        { label: "p50", look: "dashed", of: value("wait_p50") },
      ], { format: duration, log: true }),
      new Chart("Use of a connection", [
        { label: "p99", look: "line", of: value("use_p99") },
        { label: "p50", look: "dashed", of: value("use_p50") },
      ], { format: duration, log: true }),
    ];
    const figures = make("div", "minute", make("h3", "", "Last minute"), this.figures);
    this.holders = new Holders(`${backend}-holders`, holders, poll);
    this.servers = make("div", "servers");
    this.title = make("h2", "", make("span", "name", name), " ", make("span", "soft", backend));
    this.title.id = `${backend}-title`;
    this.element = make(
      "section",
      "panel",
      make("div", "head", this.title, this.condition, this.reasons),
      this.shortage,
      make("div", "charts", ...this.charts.map((chart) => chart.element), figures),
      this.holders.element,
      this.servers,
    );
    this.element.id = `pool-${backend}`;
    this.element.setAttribute("aria-labelledby", this.title.id);
    this.row = make("tr");
    const link = make("a", "", name);
    link.href = `#${this.element.id}`;
    const head = make("th", "", link);
    head.scope = "row";
    const wide = [false, true, false, true, true, true];
    const numbers = wide.map((is) => make("td", is ? "number wide" : "number"));
    this.cells = [head, make("td"), ...numbers];
    this.cells[1].append((this.short = make("span", "condition")));
    this.row.append(...this.cells);
  }

  show(pool, frames, now, span) {
    mark(this.condition, pool.condition);
    mark(this.short, pool.condition);
    if (changed(this.reasons, pool.reasons)) {
      this.reasons.replaceChildren(...pool.reasons.map((reason) => make("li", "", reason)));
    }
    this.explain(pool);
    for (const chart of this.charts) chart.draw(frames, now, span);
    this.count(pool);
    this.holders.show(pool);
    fillServers(this.servers, pool);
    const last = frames.length ? frames[frames.length - 1].values[pool.backend] : null;
    const minute = pool.minute ?? {};
    const texts = [
      `${count(pool.now.in_use)}/${count(pool.now.max_size)}`,
      count(pool.now.idle),
      count(pool.now.waiting),
      rate(last?.operations),
      duration(minute.wait_p99),
      duration(minute.use_p99),
    ];
    texts.forEach((text, at) => put(this.cells[at + 2], text));
  }

  explain({ shortage, name }) {
    this.shortage.hidden = !shortage;
    if (!shortage) return this.shortage.replaceChildren();
    const [what, who, ...todo] = shortage;
    this.shortage.replaceChildren(
      make("h3", "", `Why ${name} is exhausted`),
      make("p", "", what),
      make("p", "", who),
      make("h4", "", "What to do"),
      make("ul", "", ...todo.map((text) => make("li", "", text))),
    );
  }

  count({ minute, now, budget, latency, checked }) {
    const of = minute ?? {};
    const share = of.errors ? ` (${percent(of.errors / Math.max(1, of.operations))})` : "";
    const answered = latency === null ? "no answer" : duration(latency);
    const batch = of.mean_batch ? of.mean_batch.toFixed(1) : "–";
    const figures = {
      Operations: count(of.operations),
      Errors: `${count(of.errors)}${share}`,
      Retries: count(of.retries),
      "Retry budget": budget === null ? "–" : `${percent(budget)} left`,
      "Timed out, refused": `${count(of.timeouts)}, ${count(of.refused)}`,
      "Batches: mean, largest": now.largest_batch ? `${batch}, ${count(now.largest_batch)}` : "none",
      "Wait p50, p99": `${duration(of.wait_p50)}, ${duration(of.wait_p99)}`,
      "Use p50, p99": `${duration(of.use_p50)}, ${duration(of.use_p99)}`,
      "Health check": checked === null ? "none yet" : `${answered}, at ${time(checked)}`,
    };
    if (!this.figures.children.length) {
      this.figures.append(...Object.keys(figures).flatMap((label) => [make("dt", "", label), make("dd")]));
    }
    const values = this.figures.querySelectorAll("dd");
    Object.values(figures).forEach((text, at) => put(values[at], text));
  }
}

/** Adds what came to what is known of its process, and chooses which one is shown. */
function take(data) {
  const known = processes.get(data.process.id) ?? { frames: [] };
  const names = data.pools.map((pool) => pool.backend);
  for (const [number, at, pools] of data.frames) {
    const last = known.frames[known.frames.length - 1];
    if (last && number <= last.number) continue;
    const values = {};
    names.forEach((name, i) => {
      values[name] = Object.fromEntries(data.series.map((what, n) => [what, pools[i][n]]));
    });
    known.frames.push({ number, at, values });
  }
  const oldest = data.now - data.window;
  while (known.frames.length && known.frames[0].at < oldest) known.frames.shift();
  known.data = data;
  known.heard = performance.now() / 1000;
  processes.set(data.process.id, known);
  const silent = (id) => known.heard - processes.get(id).heard;
  others = data.process.id === shown ? [] : [...others, data.process.id];
  if (shown === null || !processes.has(shown) || gone()) stay(data.process.id);
  for (const id of processes.keys()) {
    const begun = id !== data.process.id && id === data.process.unused;
    if (begun && shown === id) stay(data.process.id); // it is the same, which has begun to use its pools
    if (begun || (id !== shown && silent(id) > FORGET)) processes.delete(id);
  }
}

/** Whether the process that is shown has ended, as far as can be told: any may answer, and only others did. */
function gone() {
  const all = new Set(others).size + 1;
  return (1 - 1 / all) ** others.length < CHANCE;
}

function stay(id) {
  shown = id;
  others = [];
}

/** Shows the process that is shown. */
function show() {
  const { data, frames } = processes.get(shown);
  document.title = `${data.kit.status === "healthy" ? "" : `${MARKS[data.kit.status]} `}Pools of ${data.kit.name}`;
  put($("kit"), data.kit.name);
  mark($("overall"), data.kit.status);
  $("none").hidden = data.pools.length > 0;
  $("overview").hidden = data.pools.length === 0;
  $("unused").hidden = data.since !== null || data.pools.length === 0;
  for (const pool of data.pools) {
    if (!panels.has(pool.backend)) {
      const panel = new Panel(pool);
      panels.set(pool.backend, panel);
      $("pools").append(panel.element);
      $("overview").tBodies[0].append(panel.row);
    }
    panels.get(pool.backend).show(pool, frames, data.now, span(data));
  }
  fillEvents($("events"), data.events);
  $("quiet").hidden = data.events.length > 0;
  $("events").hidden = data.events.length === 0;
  const { pid, host } = data.process;
  const since = data.since === null ? "which has not used its pools yet" : `watched since ${time(data.since)}`;
  put($("about"), `Process ${pid} on ${host}, ${since}. Asked every ${data.every} s while this page is seen.`);
  choose();
  announce(data);
}

/** Returns how many seconds charts show: all there are, if there are only some minutes. */
function span({ now, since, window }) {
  return [60, 120].find((seconds) => since === null || now - since < seconds) ?? window;
}

/** Offers the processes that have answered, if there are several. */
function choose() {
  const several = processes.size > 1;
  const { pid, host } = processes.get(shown).data.process;
  $("process").hidden = $("process-label").hidden = !several;
  put($("process-name"), several ? `of ${processes.size} on ${host}` : `Process ${pid} on ${host}`);
  const options = [...processes].map(([id, { data }]) => [id, String(data.process.pid)]);
  if (changed($("process"), options)) {
    $("process").replaceChildren(...options.map(([id, text]) => new Option(text, id)));
  }
  $("process").value = shown;
}

/** Tells a screen reader of pools whose condition has changed, and of nothing else. */
function announce(data) {
  const now = new Map(data.pools.map((pool) => [pool.backend, pool.condition]));
  const news = data.pools
    .filter(({ backend, condition }) => told.has(backend) && told.get(backend) !== condition)
    .map(({ name, condition, reasons }) => `Pool ${name} is ${condition}. ${reasons[0] ?? ""}`);
  if (news.length) put($("news"), news.join(" "));
  told = now;
}

function age() {
  const known = processes.get(shown);
  if (!known) return;
  const seconds = Math.round(performance.now() / 1000 - known.heard);
  put($("age"), paused() ? "paused" : seconds > Math.max(4, 3 * known.data.every) ? `${seconds} s ago` : "");
}

const paused = () => $("pause").getAttribute("aria-pressed") === "true";

function plan(seconds) {
  clearTimeout(timer);
  if (!paused() && !document.hidden) timer = setTimeout(poll, 1000 * seconds);
}

async function poll() {
  clearTimeout(timer);
  const frames = processes.get(shown)?.frames ?? [];
  const after = frames.length ? frames[frames.length - 1].number : 0;
  const query = new URLSearchParams({ process: shown ?? "", after });
  for (const id of holders) query.append("stack", id);
  let next = processes.get(shown)?.data.every ?? 2;
  try {
    const answer = await fetch(`data.json?${query}`, { cache: "no-store", signal: AbortSignal.timeout(10_000) });
    if (answer.status === 401 || answer.status === 403) throw new Error("you have no access any more; reload the page");
    if (!answer.ok) throw new Error(`the server said ${answer.status}`);
    const data = await answer.json();
    take(data);
    show();
    next = data.every;
    failures = 0;
    $("trouble").hidden = true;
  } catch (error) {
    failures += 1;
    next = Math.min(10, next * failures);
    const cause = error.name === "TypeError" ? "the server can't be reached" : error.message;
    put($("trouble"), `No new figures: ${cause}. Trying again.`);
    $("trouble").hidden = false;
  }
  age();
  plan(next);
}

$("pause").addEventListener("click", () => {
  $("pause").setAttribute("aria-pressed", String(!paused()));
  if (paused()) clearTimeout(timer);
  else poll();
  age();
});
$("process").addEventListener("change", () => {
  stay($("process").value);
  told = new Map();
  show();
});
document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : plan(0)));
addEventListener("resize", () => processes.has(shown) && show());
setInterval(age, 1000);
poll();
