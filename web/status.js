// status.js: how the server is doing, asked for once a second while somebody looks.

import { api } from './api.js';
import { $, bytes, count, h, notice, seconds } from './dom.js';

const SECOND = 1000;
const BAR = 5; // pixels of a tick, a gap of one included
const STAGES = { denoise: 'picture steps', forward: 'text', text: 'prompts of pictures', decode: 'pictures decoded', encode: 'pictures encoded' };
let ticks = []; // the newest last
let seen = 0;
let limits = { max_batch: 8, max_sequences: 64 };
let timer = 0;

// ---------------------------------------------------------------- numbers

function tile(name, value, more) {
  return h('div', {}, h('dt', {}, name), h('dd', {}, h('strong', {}, value), more && h('span', {}, more)));
}

function showNumbers(s) {
  const q = s.queue, r = s.rates;
  $('numbers').replaceChildren(
    tile('Steps a second', r.steps_s.toFixed(1), `${count(s.totals.images)} pictures so far`),
    tile('Tokens a second', r.tokens_s.toFixed(1), `${count(s.totals.tokens)} so far`),
    tile('Busy', `${Math.round(r.busy * 100)} %`, `of the last ${seconds(r.window_s)}`),
    tile('Running', count(q.running), `${q.rows} row${q.rows === 1 ? '' : 's'}`),
    tile('Waiting', count(q.queued), `of ${count(q.max_queue)} places`),
    tile('Up for', seconds(s.uptime_s), `anneal ${s.version}`));
}

function memoryBar(d, share, words) {
  const part = h('span');
  part.style.width = `${Math.min(1, share) * 100}%`;
  return h('div', { class: share > 0.9 ? 'meter full' : 'meter', role: 'meter', 'aria-label': `Memory of ${d.name}`, 'aria-valuemin': 0, 'aria-valuemax': d.memory_bytes, 'aria-valuenow': d.used_bytes, 'aria-valuetext': words, title: words }, part);
}

function showDevices(s) {
  $('devices').replaceChildren(...s.devices.map((d) => {
    const share = d.memory_bytes ? d.used_bytes / d.memory_bytes : 0;
    const words = `${bytes(d.used_bytes)} of ${bytes(d.memory_bytes)}`;
    return h('div', { class: 'device' },
      h('p', {}, h('span', { class: 'pulse', 'data-state': d.ok ? 'ok' : 'bad' }, d.ok ? 'ok' : 'lost'), h('span', {}, d.description)),
      !d.ok && h('p', { class: 'notice' }, d.error),
      memoryBar(d, share, words),
      h('p', { class: 'meta' }, `${words} \u00b7 ${d.models} model${d.models === 1 ? '' : 's'} loaded \u00b7 ${count(d.ticks)} ticks`));
  }), h('p', { class: 'meta' }, `The process has ${bytes(s.memory.resident_bytes)}; planned ${bytes(s.memory.planned_bytes)}: weights ${bytes(s.memory.weight_bytes)}, activations ${bytes(s.memory.arena_bytes)}`
    + `${s.memory.kv_blocks ? `; keys and values: ${count(s.memory.kv_blocks_used)} of ${count(s.memory.kv_blocks)} blocks in use` : ''}.`));
}

// ---------------------------------------------------------------- the strip

// What a variable of the style sheet comes to: canvases do not know light-dark().
function colour(name) {
  $('strip').style.color = `var(--${name})`;
  return getComputedStyle($('strip')).color;
}

// A bar for each tick: as high as its share of the rows that could be in it.
function drawStrip() {
  const canvas = $('strip'), ratio = devicePixelRatio || 1;
  const width = canvas.clientWidth, height = 120;
  if (!width) return;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const c = canvas.getContext('2d');
  c.scale(ratio, ratio);
  const shown = ticks.slice(-Math.floor(width / BAR));
  const colours = Object.fromEntries(Object.keys(STAGES).map((s) => [s, colour(s)]));
  c.fillStyle = colour('line');
  for (const y of [0, 0.5, 1]) c.fillRect(0, Math.round(y * (height - 1)), width, 1);
  shown.forEach((t, i) => {
    const most = t.stage === 'forward' ? limits.max_sequences : limits.max_batch;
    const high = Math.max(3, Math.min(1, t.rows / most) * (height - 2));
    c.fillStyle = colours[t.stage] ?? 'gray';
    c.fillRect(width - (shown.length - i) * BAR, height - high, BAR - 1, high);
  });
}

function showStrip() {
  drawStrip();
  const recent = ticks.slice(-100), used = [...new Set(ticks.map((t) => t.stage))];
  const mean = recent.length ? recent.reduce((n, t) => n + t.rows, 0) / recent.length : 0;
  $('strip').setAttribute('aria-label', recent.length ? `The last ${recent.length} ticks had ${mean.toFixed(1)} rows on average` : 'No ticks yet');
  $('strip').dataset.ticks = seen;
  $('legend').replaceChildren(...used.map((s) => h('span', { class: `key ${s}` }, STAGES[s] ?? s)),
    h('span', { class: 'meta' }, recent.length ? `${mean.toFixed(1)} rows a tick; full height is ${limits.max_batch} pictures or ${limits.max_sequences} answers` : 'Nothing has been computed yet.'));
}

// ---------------------------------------------------------------- tables

const ago = (now, then) => (then ? (now - then < 1.5 ? 'now' : `${seconds(now - then)} ago`) : '');

function work(j) {
  if (j.kind === 'text') return `${count(j.prompt_tokens)} + ${count(j.completion_tokens)} tokens`;
  const n = j.n > 1 ? `${j.n} \u00d7 ` : '';
  const size = (j.size ?? '').replace('x', '\u00d7');
  return j.kind === 'latents' ? size : `${n}${size}, ${j.step} of ${j.steps} steps`;
}

function requestRow(j, now) {
  const end = j.finished ?? now;
  return h('tr', { class: j.mine ? 'mine' : null },
    h('td', {}, j.kind === 'image' ? 'picture' : j.kind), h('td', {}, j.model),
    h('td', {}, h('span', { class: 'pulse', 'data-state': j.state }, j.state === 'failed' ? `failed: ${j.code}` : j.state)), h('td', {}, work(j)),
    h('td', { class: 'num' }, seconds((j.started ?? end) - j.created)),
    h('td', { class: 'num' }, j.started ? seconds(end - j.started) : '\u2014'),
    h('td', { class: 'num' }, ago(now, j.finished ?? j.created)));
}

function showRequests(s) {
  const all = [...s.jobs, ...s.recent].slice(0, 30);
  $('requests').tBodies[0].replaceChildren(...all.map((j) => requestRow(j, s.now)));
  $('requests-empty').hidden = all.length > 0;
  $('requests').hidden = all.length === 0;
}

export function showModels(models) {
  $('models').tBodies[0].replaceChildren(...models.map((m) => h('tr', {},
    h('td', {}, m.id), h('td', {}, m.kind === 'image' ? `pictures, ${m.size.replace('x', '\u00d7')}` : `text, ${count(m.max_model_len)} tokens`),
    h('td', {}, m.class ?? m.family ?? ''), h('td', {}, m.loaded ? 'yes' : 'no'))));
}

// ---------------------------------------------------------------- asking

async function look() {
  try {
    const s = await api(`v1/status?since=${seen}`);
    const newest = s.ticks.at(-1)?.seq ?? seen;
    if (newest < seen) ticks = []; // another process
    ticks = [...ticks, ...s.ticks].slice(-512);
    seen = newest;
    if (s.queue.running !== limits.running) window.dispatchEvent(new Event('work')); // the header says the same
    limits = s.queue;
    showNumbers(s);
    showStrip();
    showDevices(s);
    showRequests(s);
    notice('status-notice', '');
    return s;
  } catch (e) {
    notice('status-notice', e.message);
    return null;
  }
}

async function round() {
  clearTimeout(timer);
  if ($('status').hidden || document.hidden) return;
  await look();
  timer = setTimeout(round, SECOND);
}

export function statusShown() {
  round();
}

export function wireStatus() {
  document.addEventListener('visibilitychange', round);
  window.addEventListener('resize', () => { if (!$('status').hidden) drawStrip(); });
  window.addEventListener('theme', () => { if (!$('status').hidden) drawStrip(); });
}
