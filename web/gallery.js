// gallery.js: what has been asked for, as tiles and grids, from the queue to the picture; and the viewer.
//
// A record is one press of the button: {key, created, grid, jobs: [{request, id, session, state, step, steps,
// position, error, pictures: [{blob, info, seed}]}]}. What begins with _ is not kept.

import { $, announce, download, h, icon, iconButton } from './dom.js';
import { gridTable } from './grid.js';
import { parseInfotext } from './png.js';

let act = {}; // what the buttons do: images.js
const records = []; // newest first
const live = (job) => ['sending', 'queued', 'running'].includes(job.state);

export function wireGallery(actions) {
  act = actions;
  $('viewer').addEventListener('click', (e) => { if (e.target === $('viewer')) $('viewer').close(); });
  $('viewer').addEventListener('keydown', (e) => {
    if (e.key === 'ArrowLeft') step(-1);
    if (e.key === 'ArrowRight') step(1);
  });
}

export const allRecords = () => records;
export const isLive = (record) => record.jobs.some(live);

// ---------------------------------------------------------------- words

const url = (picture) => (picture._url ??= URL.createObjectURL(picture.blob));

export function settingsLine(job, k) {
  const info = job.pictures[k]?.info;
  const s = info ? parseInfotext(info).settings : {};
  const r = job.request;
  return [
    s.Sampler ?? r.sampler, `${s.Steps ?? r.steps ?? '?'} steps`, `guidance ${s['CFG scale'] ?? r.guidance_scale ?? '?'}`,
    `seed ${job.pictures[k]?.seed ?? (BigInt(r.seed) + BigInt(k))}`, (s.Size ?? r.size ?? '').replace('x', '\u00d7'),
  ].filter(Boolean).join(' \u00b7 ');
}

function stateLine(job, k) {
  const p = job._progress?.[k];
  switch (job.state) {
    case 'sending': return 'sending';
    case 'queued': return job.position > 0 ? `${job.position} before it` : 'next in the queue';
    case 'running': return p ? `step ${p.step} of ${p.steps}` : job.step ? `${job.step} of ${job.steps}` : 'starting';
    case 'failed': return job.error || 'failed';
    case 'cancelled': return 'cancelled';
    default: return '';
  }
}

// ---------------------------------------------------------------- one picture

// The frame of picture k of a job: a button that opens the viewer, with what there is to see so far.
function frame(record, job, k) {
  const [w, hgt] = (job.request.size ?? '1x1').split('x').map(Number);
  const img = h('img', { alt: '', draggable: false });
  const words = h('span', { class: 'words' });
  const bar = h('progress', { max: 1, value: 0, 'aria-label': 'Progress' });
  const button = h('button', { type: 'button', class: 'frame', onclick: () => view(record, job, k) }, img, words, bar);
  button.style.aspectRatio = `${w} / ${hgt}`;
  const update = () => {
    const picture = job.pictures[k];
    const src = picture ? url(picture) : job._previews?.[k];
    if (src && img.src !== src) img.src = src;
    img.hidden = !src;
    button.dataset.state = picture ? 'done' : job.state;
    button.disabled = !picture;
    button.setAttribute('aria-label', `${job.request.prompt || 'no prompt'}: ${picture ? settingsLine(job, k) : stateLine(job, k)}`);
    words.textContent = picture ? '' : stateLine(job, k);
    const p = job._progress?.[k];
    bar.hidden = Boolean(picture) || !live(job);
    if (p) bar.value = p.step / p.steps;
    else if (job.steps) bar.value = job.step / job.steps;
  };
  return { element: button, update };
}

function tile(record, job, k) {
  const { element, update } = frame(record, job, k);
  const meta = h('p', { class: 'meta' });
  const actions = h('div', { class: 'actions' });
  const figure = h('figure', { class: 'tile' }, element, h('figcaption', {},
    h('p', { class: 'words', title: job.request.prompt }, job.request.prompt || '\u2014'), meta, actions));
  let shown = '';
  return {
    element: figure,
    update() {
      update();
      figure.dataset.state = element.dataset.state;
      meta.textContent = settingsLine(job, k);
      const state = job.pictures[k] ? 'done' : live(job) ? 'live' : 'over';
      if (state === shown) return;
      shown = state;
      const focused = actions.contains(document.activeElement);
      actions.replaceChildren(...buttons(record, job, k, state));
      if (focused) actions.querySelector('button')?.focus();
    },
  };
}

function buttons(record, job, k, state) {
  if (state === 'live') {
    return [h('button', { type: 'button', class: 'quiet small', onclick: () => act.cancel(record) }, job.request.n > 1 ? 'Cancel all' : 'Cancel')];
  }
  const remove = iconButton('remove', 'Remove', () => removeRecord(record));
  const use = iconButton('use', 'Use these settings', () => act.use(job, k));
  if (state === 'over') return [use, remove];
  return [
    iconButton('next', 'Same seed, next sampler', () => act.next(job, k)), use,
    iconButton('download', 'Download', () => save(job, k)), remove,
  ];
}

function save(job, k) {
  const name = job.request.prompt.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, '-').replace(/^-|-$/g, '').slice(0, 60);
  download(job.pictures[k].blob, `${name || 'picture'}-${job.pictures[k].seed}.png`);
}

// ---------------------------------------------------------------- records

function gridCard(record) {
  const frames = record.jobs.map((job) => frame(record, job, 0));
  const meta = h('p', { class: 'meta' });
  const actions = h('div', { class: 'actions' });
  const first = record.jobs[0].request;
  const axes = [record.grid.x, record.grid.y].filter(Boolean);
  const prompt = axes.some((a) => a.field === 'prompt') ? axes.map((a) => a.label).join(' and ') : first.prompt;
  const element = h('article', { class: 'card wide' }, h('div', { class: 'scroll', tabIndex: 0, role: 'region', 'aria-label': 'Grid' },
    gridTable(record.grid, frames.map((f) => f.element))), h('p', { class: 'words' }, prompt || '\u2014'), meta, actions);
  let shown = '';
  return {
    element,
    update() {
      for (const f of frames) f.update();
      const done = record.jobs.filter((j) => j.state === 'done').length;
      const fixed = Object.entries({ steps: 'steps', guidance_scale: 'guidance', sampler: 'sampler', seed: 'seed' })
        .filter(([field]) => first[field] !== undefined && !axes.some((a) => a.field === field));
      meta.textContent = [`${done} of ${record.jobs.length} pictures`, ...fixed.map(([field, name]) => `${name} ${first[field]}`)].join(' \u00b7 ');
      const state = isLive(record) ? 'live' : 'over';
      if (state === shown) return;
      shown = state;
      actions.replaceChildren(state === 'live'
        ? h('button', { type: 'button', class: 'quiet small', onclick: () => act.cancel(record) }, 'Cancel')
        : iconButton('remove', 'Remove', () => removeRecord(record)));
    },
  };
}

// Shows a record above the others.
export function addRecord(record) {
  const parts = record.grid ? [gridCard(record)] : record.jobs.flatMap((job) => Array.from({ length: job.request.n ?? 1 }, (_, k) => tile(record, job, k)));
  record._parts = parts;
  record._element = h('div', { class: 'record' }, ...parts.map((p) => p.element));
  records.unshift(record);
  $('gallery').prepend(record._element);
  updateRecord(record);
  tidy();
}

export function updateRecord(record) {
  for (const p of record._parts) p.update();
}

function removeRecord(record) {
  const beside = record._element.nextElementSibling ?? record._element.previousElementSibling;
  records.splice(records.indexOf(record), 1);
  record._element.remove();
  for (const job of record.jobs) for (const p of job.pictures) if (p._url) URL.revokeObjectURL(p._url);
  act.forget(record);
  tidy();
  (beside?.querySelector('button:not(:disabled)') ?? $('prompt')).focus();
  announce('Removed');
}

export function removeAll() {
  for (const r of [...records]) if (!isLive(r)) removeRecord(r);
}

function tidy() {
  $('gallery-empty').hidden = records.length > 0;
  $('gallery-tools').hidden = records.length === 0;
}

// ---------------------------------------------------------------- the viewer

let at = null; // {record, job, k}

const finished = () => records.flatMap((record) => record.jobs.flatMap((job) => job.pictures.map((p, k) => p && { record, job, k }).filter(Boolean)));

function step(by) {
  const all = finished(), i = all.findIndex((p) => p.job === at.job && p.k === at.k) + by;
  if (all[i]) view(all[i].record, all[i].job, all[i].k);
}

function view(record, job, k) {
  at = { record, job, k };
  const picture = job.pictures[k];
  const { prompt, negative, settings } = parseInfotext(picture.info ?? job.request.prompt);
  const close = (then) => () => { $('viewer').close(); then?.(); };
  const row = (name, value) => value && [h('dt', {}, name), h('dd', {}, value)];
  $('viewer').replaceChildren(
    h('img', { src: url(picture), alt: prompt }),
    h('div', { class: 'about' },
      h('div', { class: 'top' }, h('h2', {}, 'Picture'), iconButton('close', 'Close', close())),
      h('p', { class: 'words' }, prompt || '\u2014'),
      negative && h('p', { class: 'meta' }, `without: ${negative}`),
      h('dl', { class: 'facts' }, ...Object.entries(settings).flatMap(([name, value]) => row(name, value)).filter(Boolean)),
      h('div', { class: 'actions' },
        h('button', { type: 'button', class: 'primary', onclick: close(() => act.next(job, k)) }, icon('next'), 'Same seed, next sampler'),
        h('button', { type: 'button', onclick: close(() => act.use(job, k)) }, icon('use'), 'Use these settings'),
        h('button', { type: 'button', onclick: () => save(job, k) }, icon('download'), 'Download'),
        h('button', { type: 'button', onclick: close(() => removeRecord(record)) }, icon('remove'), record.grid ? 'Remove the grid' : 'Remove')),
      h('p', { class: 'hint' }, 'Arrow keys go through all pictures.')));
  if (!$('viewer').open) $('viewer').showModal();
}
