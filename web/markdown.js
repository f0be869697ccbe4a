// markdown.js: what models write, as elements. Whatever is not understood stays text: every character ends in
// a text node, no HTML is parsed, and a link leads to http or https or is none. Pictures are shown as links:
// a model must not make the browser fetch anything.

import { h, iconButton } from './dom.js';

const DEPTH = 8; // of quotes and lists in each other
const COLUMNS = 100; // of a table: a line of 100,000 cells would make as many elements

// ---------------------------------------------------------------- inside a line

const INLINE = new RegExp([
  /(?<escape>\\[!-/:-@[-`{-~])/,
  /(?<!(?<!\\)`)(?<ticks>`+)(?<code>[^`](?:[^]*?[^`])?)\k<ticks>(?!`)/,
  /!?\[(?<text>[^[\]]{1,500})\]\((?<to>[^\s()<>]{1,2000}(?:\([^\s()<>]*\))?)(?:\s+"[^"]*")?\)/,
  /<(?<auto>https?:\/\/[^\s<>]{1,2000})>/,
  /(?<bare>\bhttps?:\/\/[^\s<>"')\]]{1,2000}[^\s<>"')\].,;:!?])/,
  /\*\*(?<strong>[^\s*](?:[^]*?[^\s])?)\*\*(?!\*)/,
  /(?<![\p{L}\p{N}_])__(?<strong2>[^\s_](?:[^]*?[^\s])?)__(?![\p{L}\p{N}_])/,
  /(?<![\w)])\*(?<em>[^\s*](?:[^*]*?[^\s*])?)\*(?![\w*])/, // 2*3*4 is a product
  /(?<![\p{L}\p{N}_])_(?<em2>[^\s_](?:[^_]*?[^\s_])?)_(?![\p{L}\p{N}_])/,
  /~~(?<del>[^\s~](?:[^~]*?[^\s~])?)~~/,
  /(?<br>(?<! ) {2,}\n)/,
].map((r) => r.source).join('|'), 'gu');

function link(to, children) {
  let address = null;
  try { address = new URL(to); } catch { /* relative: there is nothing to be relative to */ }
  if (!address || !['http:', 'https:'].includes(address.protocol)) return children;
  return [h('a', { href: address.href, target: '_blank', rel: 'noopener noreferrer nofollow' }, ...children)];
}

function piece(g, whole, depth) {
  const inner = (text) => inline(text, depth + 1);
  if (g.escape) return [g.escape[1]];
  if (g.code !== undefined) return [h('code', {}, g.code.startsWith(' ') && g.code.endsWith(' ') && /[^ ]/.test(g.code) ? g.code.slice(1, -1) : g.code)];
  if (g.to) return link(g.to, inner(g.text));
  if (g.auto ?? g.bare) return link(g.auto ?? g.bare, [g.auto ?? g.bare]);
  if (g.strong ?? g.strong2) return [h('strong', {}, ...inner(g.strong ?? g.strong2))];
  if (g.em ?? g.em2) return [h('em', {}, ...inner(g.em ?? g.em2))];
  if (g.del) return [h('del', {}, ...inner(g.del))];
  if (g.br) return [h('br')];
  return [whole];
}

function inline(text, depth = 0) {
  if (depth > DEPTH || text.length > 20000) return [text];
  const out = [];
  let from = 0;
  for (const m of text.matchAll(INLINE)) {
    if (m.index > from) out.push(text.slice(from, m.index));
    out.push(...piece(m.groups, m[0], depth));
    from = m.index + m[0].length;
  }
  if (from < text.length) out.push(text.slice(from));
  return out;
}

// ---------------------------------------------------------------- blocks

// A model may write any line, of any length: none of these may try two repeated parts against the same characters
// (of blanks, "\s+(.*?)\s*#*\s*$" needs the cube of the time).
const FENCE = /^ {0,3}(`{3,}(?!`)|~{3,}(?!~))([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})\s+([^]*)$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])(\s+|$)/;

// A list goes on with items of its kind, with what is indented, and with lines that follow without a gap.
function listEnd(lines, i) {
  const kind = (line) => line.match(ITEM)?.[2].slice(-1);
  const first = kind(lines[i]);
  let k = i + 1;
  for (; k < lines.length; k++) {
    const line = lines[k].trim() === '' ? lines[k + 1] ?? '' : lines[k];
    const gap = line !== lines[k];
    if (/^(\s{2,}|\t)\S/.test(line)) continue;
    if (ITEM.test(line) ? kind(line) !== first : gap || starts(line) || line.trim() === '') break;
  }
  return k;
}

// The lines of a block and where the next begins. Cuts only; what they are is told below.
function blockEnd(lines, i) {
  const fence = lines[i].match(FENCE);
  if (fence) {
    let k = i + 1;
    while (k < lines.length && !(lines[k].trim().startsWith(fence[1]) && /^[`~]+$/.test(lines[k].trim()))) k++;
    return Math.min(k + 1, lines.length);
  }
  if (HEADING.test(lines[i]) || RULE.test(lines[i])) return i + 1;
  let k = i + 1;
  if (ITEM.test(lines[i])) return listEnd(lines, i);
  const quote = QUOTE.test(lines[i]);
  while (k < lines.length && lines[k].trim() !== '' && (quote ? QUOTE.test(lines[k]) : !starts(lines[k]))) k++;
  return k;
}

const starts = (line) => FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) || ITEM.test(line);

function split(text) {
  const lines = text.replace(/\r\n?/g, '\n').split('\n');
  const blocks = [];
  for (let i = 0; i < lines.length;) {
    if (lines[i].trim() === '') { i++; continue; }
    const end = blockEnd(lines, i);
    blocks.push(lines.slice(i, end).join('\n'));
    i = end;
  }
  return blocks;
}

function list(lines, depth) {
  const marker = lines[0].match(ITEM)[2];
  const items = [];
  for (const line of lines) {
    const m = line.match(ITEM);
    if (m && (!items.length || m[1].length < 2 || m[1].length < items.at(-1).indent)) {
      items.push({ indent: m[0].length, lines: [line.slice(m[0].length)] });
    } else {
      const indent = Math.min(items.at(-1).indent, line.length - line.trimStart().length);
      items.at(-1).lines.push(line.slice(indent));
    }
  }
  const ordered = /\d/.test(marker);
  const tight = !lines.includes('');
  return h(ordered ? 'ol' : 'ul', ordered && parseInt(marker, 10) !== 1 ? { start: parseInt(marker, 10) } : {}, ...items.map((item) => {
    const inner = blocks(item.lines.join('\n'), depth + 1);
    return h('li', {}, ...inner.flatMap((b) => (tight && b.tagName === 'P' ? [...b.childNodes] : [b])));
  }));
}

const pieces = (line) => line.trim().replace(/^\||\|$/g, '').split(/(?<!\\)\|/);
const divides = (line) => pieces(line).every((c) => /^:?-+:?$/.test(c.trim()));

// What is beyond the last column stays in it, as it was written.
function cells(line) {
  const all = pieces(line);
  if (all.length > COLUMNS) all.push(all.splice(COLUMNS - 1).join('|'));
  return all.map((c) => c.trim().replace(/\\\|/g, '|'));
}

function table(lines) {
  const align = cells(lines[1]).map((c) => (/^:-+:$/.test(c) ? 'center' : /-:$/.test(c) ? 'right' : ''));
  const row = (line, tag) => h('tr', {}, ...cells(line).map((c, i) => h(tag, { class: align[i] || null }, ...inline(c))));
  return h('div', { class: 'scroll' }, h('table', {}, h('thead', {}, row(lines[0], 'th')), h('tbody', {}, ...lines.slice(2).map((l) => row(l, 'td')))));
}

function code(lines) {
  const [, mark, info] = lines[0].match(FENCE);
  const language = info.trim().split(/\s/)[0];
  const closed = lines.length > 1 && lines.at(-1).trim().startsWith(mark);
  const text = lines.slice(1, closed ? -1 : undefined).join('\n');
  return h('div', { class: 'code' }, h('div', { class: 'top' }, h('span', {}, language),
    iconButton('copy', 'Copy the code', () => navigator.clipboard?.writeText(text))), h('pre', { tabIndex: 0 }, h('code', {}, text)));
}

// A heading may be closed by any number of #.
function title(text) {
  const all = text.trim();
  let end = all.length;
  while (end > 0 && all[end - 1] === '#') end--;
  return all.slice(0, end).trimEnd();
}

function block(source, depth) {
  const lines = source.split('\n');
  if (FENCE.test(lines[0])) return code(lines);
  const heading = lines[0].match(HEADING);
  if (heading) return h(`h${Math.min(6, heading[1].length + 2)}`, {}, ...inline(title(heading[2])));
  if (RULE.test(source)) return h('hr');
  if (depth < DEPTH && QUOTE.test(lines[0])) return h('blockquote', {}, ...blocks(lines.map((l) => l.replace(QUOTE, '')).join('\n'), depth + 1));
  if (depth < DEPTH && ITEM.test(lines[0])) return list(lines, depth);
  if (lines.length > 1 && lines[0].includes('|') && divides(lines[1])) return table(lines);
  return h('p', {}, ...inline(source));
}

const blocks = (text, depth) => split(text).map((b) => block(b, depth));

// Shows text in an element. While it grows, blocks that did not change are left as they are.
export function render(into, text) {
  const sources = split(text), old = into._sources ?? [];
  let same = 0;
  while (same < sources.length && same < old.length && sources[same] === old[same]) same++;
  while (into.childNodes.length > same) into.lastChild.remove();
  into.append(...sources.slice(same).map((b) => block(b, 0)));
  into._sources = sources;
}
