// dom.js: making elements. Text only ever becomes text nodes: nothing in this page parses HTML.

export const $ = (id) => document.getElementById(id);

// h('button', {class: 'quiet', onclick: f, 'aria-label': 'x'}, 'text', child, ...). Properties that the
// element has are set as such (onclick, value, disabled), all others as attributes.
export function h(tag, props = {}, ...children) {
  const e = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === 'class') e.className = value;
    else if (name in e && !name.startsWith('aria-')) e[name] = value;
    else e.setAttribute(name, value === true ? '' : value);
  }
  e.append(...children.flat().filter((c) => c !== null && c !== undefined && c !== false));
  return e;
}

// Line drawings for buttons, on a grid of 20.
const PATHS = {
  download: 'M10 3v10M6 9.5l4 4 4-4M4 17h12',
  next: 'M4 10h11M11 5.5l4.5 4.5-4.5 4.5',
  use: 'M4 6h12M4 10h12M4 14h7',
  close: 'M5 5l10 10M15 5 5 15',
  remove: 'M4 6h12M8 6V4h4v2M6 6l.7 10h6.6L14 6',
  copy: 'M7 7V4h9v9h-3M4 7h9v9H4z',
  again: 'M16 10a6 6 0 1 1-2-4.5M14.5 2.5v3.4h-3.4',
};

export function icon(name) {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  const path = document.createElementNS('http://www.w3.org/2000/svg', 'path');
  svg.setAttribute('viewBox', '0 0 20 20');
  svg.setAttribute('aria-hidden', 'true');
  path.setAttribute('d', PATHS[name]);
  svg.append(path);
  return svg;
}

export function iconButton(name, label, onclick) {
  return h('button', { type: 'button', class: 'quiet icon', 'aria-label': label, title: label, onclick }, icon(name));
}

// For screen readers: one line, spoken when they have time.
export function announce(text) {
  $('live').textContent = text;
}

// A line of trouble in its place; '' takes it away.
export function notice(id, text) {
  const e = $(id);
  e.textContent = text;
  e.hidden = !text;
  if (text) e.setAttribute('role', 'alert');
}

export function bytes(n) {
  const units = ['B', 'KB', 'MB', 'GB', 'TB'];
  let i = 0;
  while (n >= 1000 && i < units.length - 1) { n /= 1000; i++; }
  return `${n >= 100 || i === 0 ? n.toFixed(0) : n.toFixed(1)} ${units[i]}`;
}

export function seconds(s) {
  if (s < 0.0995) return `${Math.max(1, Math.round(s * 1000))} ms`;
  if (s < 59.95) return `${s.toFixed(s < 9.95 ? 1 : 0)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${Math.round(s % 60)} s`;
  return `${Math.floor(s / 3600)} h ${Math.round((s % 3600) / 60)} min`;
}

export function count(n) {
  return Math.round(n).toLocaleString('en');
}

// A textarea as high as its text.
export function growing(area, most = 260) {
  const fit = () => {
    area.style.height = 'auto';
    if (area.scrollHeight) area.style.height = `${Math.min(area.scrollHeight + 2, most)}px`;
  };
  area.addEventListener('input', fit);
  return fit;
}

// What the browser keeps; nothing if it does not want to.
export const kept = {
  get(name) {
    try { return JSON.parse(localStorage.getItem(`anneal-${name}`)); } catch { return null; }
  },
  set(name, value) {
    try { localStorage.setItem(`anneal-${name}`, JSON.stringify(value)); } catch { /* full, or switched off */ }
  },
};

export function download(blob, name) {
  const url = URL.createObjectURL(blob);
  h('a', { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}
