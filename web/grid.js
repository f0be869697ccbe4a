// grid.js: one picture for each pair of values of one or two fields, all with the same seed.

import { h } from './dom.js';
import { samplers } from './settings.js';

const MOST = 64; // pictures

const numbers = (least, most, whole) => (text) => text.split(/[,;\s]+/).filter(Boolean).map((t) => {
  const v = Number(t);
  if (!(v >= least && v <= most) || (whole && !Number.isInteger(v))) throw new Error(`\u201c${t}\u201d is not a ${whole ? 'whole ' : ''}number from ${least} to ${most}.`);
  return v;
});

const FIELDS = {
  prompt: { label: 'Prompt', hint: 'a prompt a line', parse: (text) => text.split('\n').map((t) => t.trim()).filter(Boolean) },
  steps: { label: 'Steps', hint: '4, 8, 16', parse: numbers(1, 100000, true) },
  guidance_scale: { label: 'Guidance', hint: '1, 4, 7.5', parse: numbers(0, 100, false) },
  sampler: {
    label: 'Sampler', hint: 'Euler a, DPM++ 2M',
    parse: (text) => text.split(/[,\n]/).map((t) => t.trim()).filter(Boolean).map((t) => {
      const name = samplers.find((s) => s.toLowerCase() === t.toLowerCase());
      if (!name) throw new Error(`There is no sampler \u201c${t}\u201d.`);
      return name;
    }),
  },
  seed: {
    label: 'Seed', hint: '1, 2, 3',
    parse: (text) => text.split(/[,;\s]+/).filter(Boolean).map((t) => {
      if (!/^\d{1,19}$/.test(t)) throw new Error(`\u201c${t}\u201d is not a seed.`);
      return t;
    }),
  },
};

export function fillAxis(select, values) {
  select.append(h('option', { value: '' }, 'none'), ...Object.entries(FIELDS).map(([id, f]) => h('option', { value: id }, f.label)));
  const show = () => { values.placeholder = FIELDS[select.value]?.hint ?? ''; values.disabled = !select.value; };
  select.addEventListener('change', show);
  show();
}

// {field, label, values} of a select and a text, or null.
export function readAxis(select, text) {
  const field = FIELDS[select.value];
  if (!field) return null;
  const values = [...new Set(field.parse(text))];
  if (!values.length) throw new Error(`The grid needs values for ${field.label.toLowerCase()}.`);
  return { field: select.value, label: field.label, values };
}

// The requests of a grid, row by row.
export function spread(request, x, y) {
  const out = [];
  for (const v of y?.values ?? [null]) {
    for (const u of x?.values ?? [null]) {
      const one = { ...request, n: 1 };
      if (y) one[y.field] = v;
      if (x) one[x.field] = u;
      out.push(one);
    }
  }
  if (out.length > MOST) throw new Error(`That would be ${out.length} pictures; ${MOST} are the most.`);
  return out;
}

// A table whose cells are the elements given, row by row.
export function gridTable({ x, y }, cells) {
  const columns = x?.values.length ?? 1;
  const head = x && h('thead', {}, h('tr', {}, y && h('td', { class: 'corner' }, `${y.label} \u2193 ${x.label} \u2192`), ...x.values.map((v) => h('th', { scope: 'col' }, String(v)))));
  const rows = (y?.values ?? [null]).map((v, i) => h('tr', {}, y && h('th', { scope: 'row' }, String(v)),
    ...cells.slice(i * columns, (i + 1) * columns).map((c) => h('td', {}, c))));
  const names = [y?.label, x?.label].filter(Boolean).join(' by ');
  return h('table', { class: 'grid', 'aria-label': `Grid: ${names}` }, head, h('tbody', {}, ...rows));
}
