// images.js: the view of pictures: from the form to jobs, from their events to the gallery.

import { api, session } from './api.js';
import { $, announce, growing, notice } from './dom.js';
import { addRecord, allRecords, isLive, removeAll, updateRecord, wireGallery } from './gallery.js';
import { fillAxis, readAxis, spread } from './grid.js';
import { cancel, follow, submit } from './jobs.js';
import { parseInfotext, pngTexts } from './png.js';
import { fillChoices, fillForm, fillFromInfotext, nextSampler, readForm, remember, wireSettings } from './settings.js';
import * as store from './store.js';

// ---------------------------------------------------------------- keeping

const plain = (o) => Object.fromEntries(Object.entries(o).filter(([name]) => !name.startsWith('_')));

function keep(record) {
  if (!allRecords().includes(record)) return;
  store.save({ ...plain(record), jobs: record.jobs.map((j) => ({ ...plain(j), pictures: j.pictures.map(plain) })) });
}

// ---------------------------------------------------------------- making

let last = 0; // keys are times, and differ

async function start(requests, grid, walk = 0) {
  last = Math.max(Date.now(), last + 1);
  const record = {
    key: last, created: last, grid,
    jobs: requests.map((request) => ({ request, id: null, state: 'sending', step: 0, steps: 0, position: 0, error: '', pictures: [] })),
    _stop: new AbortController(), _walk: walk,
  };
  notice('image-notice', '');
  addRecord(record);
  announce(requests.length > 1 ? `${requests.length} pictures asked for` : 'Picture asked for');
  document.querySelector('.stage').scrollTop = 0;
  if (matchMedia('(max-width: 860px)').matches) $('gallery').scrollIntoView(); // below the form
  for (const job of record.jobs) if (!record._stop.signal.aborted) await send(record, job);
  keep(record);
}

async function send(record, job) {
  try {
    const steps = job.request.steps;
    const sent = await submit({ ...job.request, partial_images: steps ?? 1 }, record._stop.signal);
    window.dispatchEvent(new Event('work'));
    Object.assign(job, { id: sent.id, session, state: sent.state, steps: sent.steps, position: sent.queue_position ?? 0 });
    if (record._stop.signal.aborted) cancel(job.id, session).catch(() => {});
    listen(record, job);
  } catch (e) {
    if (e.name === 'AbortError') return;
    if (e.param === 'sampler' && record._walk-- > 0) { // not every sampler can do with every model
      job.request.sampler = nextSampler(job.request.sampler);
      await send(record, job);
      return;
    }
    end(record, job, 'failed', e.message);
  }
  updateRecord(record);
}

function listen(record, job) {
  follow(job.id, (event, data) => {
    take(record, job, event, data);
    updateRecord(record);
  }, job.session);
}

function take(record, job, event, data) {
  job._previews ??= {};
  job._progress ??= {};
  switch (event) {
    case 'queued':
    case 'position':
      job.position = data.queue_position ?? 0;
      break;
    case 'started':
      job.state = 'running';
      break;
    case 'step':
      job.state = 'running';
      if (data.step >= job.step) Object.assign(job, { step: data.step, steps: data.steps }); // not one told again
      break;
    case 'preview':
      job.state = 'running';
      if (data.step < (job._progress[data.index]?.step ?? 0)) break;
      job._progress[data.index] = { step: data.step, steps: data.steps };
      if (data.b64_json) job._previews[data.index] = `data:image/png;base64,${data.b64_json}`;
      break;
    case 'done':
      finish(record, job, data);
      break;
    case 'failed':
    case 'cancelled':
      end(record, job, event, event === 'failed' ? data.error?.message : '');
      break;
    default:
  }
}

async function finish(record, job, data) {
  if (!data.result) {
    end(record, job, 'failed', data.error?.message ?? 'The picture is no longer kept.');
    return;
  }
  const files = data.result.data.map((d) => Uint8Array.from(atob(d.b64_json), (c) => c.charCodeAt(0)));
  const infos = await Promise.all(files.map((f) => pngTexts(f).then((t) => t.parameters ?? '')));
  job.pictures = files.map((file, k) => ({
    blob: new Blob([file], { type: 'image/png' }), info: infos[k],
    // from the text: JSON's numbers end at 2^53
    seed: parseInfotext(infos[k]).settings.Seed ?? String(data.result.data[k].seed),
  }));
  end(record, job, 'done', '');
  updateRecord(record);
}

function end(record, job, state, error) {
  Object.assign(job, { state, error: error ?? '' });
  job._previews = job._progress = null;
  if (state === 'failed') notice('image-notice', error);
  window.dispatchEvent(new Event('work'));
  if (!isLive(record)) {
    const pictures = record.jobs.reduce((n, j) => n + j.pictures.length, 0);
    announce(state === 'done' ? `${pictures === 1 ? 'The picture is' : `${pictures} pictures are`} finished` : state === 'failed' ? `Failed: ${error}` : 'Cancelled');
  }
  keep(record);
}

// ---------------------------------------------------------------- actions

function cancelRecord(record) {
  record._cancelled = true;
  record._stop?.abort();
  for (const job of record.jobs) {
    if (job.state === 'sending') end(record, job, 'cancelled');
    else if (['queued', 'running'].includes(job.state)) cancel(job.id, job.session).catch((e) => notice('image-notice', e.message));
  }
  updateRecord(record);
}

// The request of picture k alone.
const alone = (job, k) => ({ ...job.request, n: 1, seed: job.pictures[k]?.seed ?? job.request.seed });

const actions = {
  cancel: cancelRecord,
  forget: (record) => store.remove(record.key),
  use(job, k) {
    fillForm(alone(job, k));
    announce('Settings taken over');
    $('prompt').focus();
  },
  next(job, k) {
    if (!able()) return;
    const used = parseInfotext(job.pictures[k].info ?? '').settings.Sampler ?? job.request.sampler;
    start([{ ...alone(job, k), sampler: nextSampler(used) }], null, 3);
  },
};

let unable = 'The server has not said yet what it can make.'; // why no picture can be asked for

// Says so if not. Ctrl Enter does not ask the button.
function able() {
  if (unable) notice('image-notice', unable);
  return !unable;
}

function generate() {
  if (!able()) return;
  try {
    const request = readForm();
    const x = readAxis($('x-field'), $('x-values').value), y = readAxis($('y-field'), $('y-values').value);
    if (x && y && x.field === y.field) throw new Error('Columns and rows of a grid must differ.');
    remember();
    start(x || y ? spread(request, x, y) : [request], x || y ? { x, y } : null);
  } catch (e) {
    notice('image-notice', e.message);
  }
}

// Esc: the newest that is on its way. True if there was one.
export function cancelNewest() {
  const record = allRecords().find((r) => isLive(r) && !r._cancelled); // once more means the one before it
  if (record) cancelRecord(record);
  return Boolean(record);
}

// ---------------------------------------------------------------- settings from a picture

async function readSettings(file) {
  try {
    let text;
    if (file.type === 'image/png') text = (await pngTexts(new Uint8Array(await file.arrayBuffer()))).parameters;
    else text = (await api('sdapi/v1/png-info', { method: 'POST', body: { image: await base64(file) } })).info;
    if (!text) throw new Error(`${file.name} does not say how it was made.`);
    fillFromInfotext(text);
    notice('image-notice', '');
    announce(`Settings read from ${file.name}`);
    $('prompt').focus();
  } catch (e) {
    notice('image-notice', e.message);
  }
}

const base64 = (file) => new Promise((resolve, reject) => {
  const reader = new FileReader();
  reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(',') + 1));
  reader.onerror = () => reject(new Error(`${file.name} cannot be read.`));
  reader.readAsDataURL(file);
});

function wireDrop() {
  let depth = 0;
  const show = (on) => { depth = on ? depth : 0; $('drop').hidden = !on; };
  const wanted = (e) => !$('images').hidden && e.dataTransfer?.types.includes('Files');
  window.addEventListener('dragenter', (e) => { if (wanted(e)) { depth++; show(true); } });
  window.addEventListener('dragleave', (e) => { if (wanted(e) && --depth <= 0) show(false); });
  window.addEventListener('dragover', (e) => { if (wanted(e)) e.preventDefault(); });
  window.addEventListener('drop', (e) => {
    if (!wanted(e)) return;
    e.preventDefault();
    show(false);
    if (e.dataTransfer.files[0]) readSettings(e.dataTransfer.files[0]);
  });
}

// ---------------------------------------------------------------- beginning

async function restoreGallery() {
  for (const record of await store.load()) {
    for (const job of record.jobs) if (job.state === 'sending') job.state = 'cancelled';
    addRecord(record);
    for (const job of record.jobs) if (['queued', 'running'].includes(job.state)) listen(record, job);
  }
}

export async function wireImages() {
  wireSettings();
  wireGallery(actions);
  wireDrop();
  for (const id of ['prompt', 'negative', 'x-values', 'y-values']) growing($(id));
  fillAxis($('x-field'), $('x-values'));
  fillAxis($('y-field'), $('y-values'));
  $('image-form').addEventListener('submit', (e) => { e.preventDefault(); generate(); });
  $('png-file').addEventListener('change', (e) => { if (e.target.files[0]) readSettings(e.target.files[0]); e.target.value = ''; });
  $('gallery-clear').addEventListener('click', removeAll);
  $('prompt').addEventListener('paste', (e) => {
    const text = e.clipboardData.getData('text');
    if (!/\nSteps: \d+, .*Seed: \d+/.test(text)) return;
    e.preventDefault();
    fillFromInfotext(text);
  });
  await restoreGallery();
}

// The models and what else there is to choose from are known, or known anew.
export function imagesReady(models, choices) {
  fillChoices(models, choices);
  unable = models.some((m) => m.kind === 'image') ? '' : 'This server has no model that makes pictures.';
  $('generate').disabled = Boolean(unable);
  notice('image-notice', unable);
}
