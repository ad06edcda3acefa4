// DOM helpers. Text is inserted as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";

export const $ = (id) => document.getElementById(id);

function build(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === true) node.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

/** An HTML element; children are nodes or text. */
export const el = (tag, attributes, ...children) => build(document.createElement(tag), attributes, children);

/** An SVG element. */
export const svg = (tag, attributes, ...children) =>
  build(document.createElementNS(SVG, tag), attributes, children);

/** A glyph of index.html, hidden from screen readers: a word always accompanies it. */
export const glyph = (name) =>
  svg("svg", { class: `glyph glyph-${name}`, "aria-hidden": "true" }, svg("use", { href: `#g-${name}` }));

/** Set text only if it differs, so that selections survive and live regions announce it once. */
export function text(node, value) {
  if (node.textContent !== value) node.textContent = value;
}

/** Set an attribute only if it differs; null removes it. */
export function attr(node, name, value) {
  if (value === null) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

/** Show a word with its glyph. */
export function badge(node, name, word, kind = name) {
  const shown = `${name} ${word} ${kind}`;
  if (node.dataset.shown === shown) return;
  node.dataset.shown = shown;
  node.dataset.kind = kind;
  node.replaceChildren(glyph(name), el("span", {}, word));
}

/** Match the children of a node to items by key; existing nodes are reused, so focus and selection survive. */
export function keyed(parent, items, key, make, update = () => {}) {
  const have = new Map([...parent.children].map((node) => [node.dataset.key, node]));
  const wanted = items.map((item) => {
    const name = String(key(item));
    const node = have.get(name) ?? make(item);
    node.dataset.key = name;
    update(node, item);
    return node;
  });
  const keep = new Set(wanted);
  for (const node of have.values()) if (!keep.has(node)) node.remove();
  wanted.forEach((node, at) => {
    if (parent.children[at] !== node) parent.insertBefore(node, parent.children[at] ?? null);
  });
}
