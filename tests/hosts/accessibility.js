// Returns what would keep somebody from using the page: names, roles, headings, contrast (WCAG 2.2 AA).
() => {
  const faults = [];
  const shown = (element) => element.checkVisibility() && !element.closest("noscript");
  const all = (selector) => [...document.querySelectorAll(selector)].filter(shown);
  const say = (what, element) => faults.push(`${what}: ${element.outerHTML.slice(0, 120)}`);
  const labelled = (element) => {
    const ids = (element.getAttribute("aria-labelledby") ?? "").split(" ").filter(Boolean);
    const texts = ids.map((id) => document.getElementById(id)?.textContent ?? "");
    return (element.getAttribute("aria-label") || texts.join("") || element.labels?.[0]?.textContent || "").trim();
  };
  const name = (element) => labelled(element) || element.textContent.trim();

  if (!document.documentElement.lang) faults.push("the page has no language");
  if (!document.title) faults.push("the page has no title");
  for (const landmark of ["header", "main", "footer", "h1"])
    if (document.querySelectorAll(landmark).length !== 1) faults.push(`not one ${landmark}`);
  const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
  if (new Set(ids).size !== ids.length) faults.push("an id is used twice");

  let level = 0;
  for (const heading of all("h1, h2, h3, h4")) {
    const next = Number(heading.tagName[1]);
    if (next > level + 1) say("a level of headings is left out", heading);
    level = next;
    if (!name(heading)) say("a heading says nothing", heading);
  }
  for (const element of all("a, button, select, summary, section")) if (!name(element)) say("no name", element);
  for (const drawing of all("svg"))
    if (drawing.getAttribute("role") !== "img" || name(drawing).length < 20) say("a chart says nothing", drawing);
  for (const table of all("table")) {
    if (!table.caption?.textContent && !labelled(table)) say("a table has no name", table);
    for (const head of table.querySelectorAll("th")) if (!head.scope) say("a head has no scope", head);
    for (const row of table.tBodies[0].rows) {
      const kept = row.hasAttribute("role") || getComputedStyle(row).display === "table-row";
      if (!kept) say("a row lost its role", row);
    }
  }
  for (const icon of all(".icon")) {
    if (icon.getAttribute("aria-hidden") !== "true") say("a sign is read out", icon);
    if (icon.parentElement.textContent.trim().length < 4) say("a sign without a word", icon);
  }
  const live = document.querySelectorAll("[aria-live]");
  if (live.length !== 1 || live[0].getAttribute("aria-live") !== "polite") faults.push("not one live region");

  const parse = (colour) => {
    const [r, g, b, a = 1] = colour.match(/[\d.]+/g).map(Number);
    return { r, g, b, a };
  };
  const over = (top, below) => {
    const mix = (colour) => top[colour] * top.a + below[colour] * (1 - top.a);
    return { r: mix("r"), g: mix("g"), b: mix("b"), a: 1 };
  };
  const ground = (element) => {
    if (!element) return parse(getComputedStyle(document.body).backgroundColor);
    const own = parse(getComputedStyle(element).backgroundColor);
    return own.a === 1 ? own : over(own, ground(element.parentElement));
  };
  const light = ({ r, g, b }) => {
    const [x, y, z] = [r, g, b].map((v) => (v /= 255, v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  for (const element of all("body *")) {
    if (![...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim())) continue;
    const style = getComputedStyle(element);
    const behind = ground(element);
    const ink = over(parse(element instanceof SVGElement ? style.fill : style.color), behind);
    const [low, high] = [light(ink), light(behind)].sort((a, b) => a - b);
    const contrast = (high + 0.05) / (low + 0.05);
    if (contrast < 4.5) say(`contrast ${contrast.toFixed(2)}`, element);
    if (parseFloat(style.fontSize) < 11) say("small type", element);
  }
  return faults;
}
