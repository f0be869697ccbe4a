// settings.js: the form of a picture, as a request and back.

import { api } from './api.js';
import { $, h, kept } from './dom.js';
import { parseInfotext } from './png.js';

const OWN = ''; // the model's own sampler
let models = [];
let limits = { n: 10, steps: 150, width: 2048, height: 2048 };
export let samplers = []; // names, in the server's order
let schedules = []; // {name, label}
let extras = {}; // what a picture said that the form has no field for, and that changes the picture

// Until the choices are there the form cannot be sent, but it can be typed into, and a picture's settings can
// be wanted: that stays, and is not overwritten by what was kept from last time.
let filled = false;
const typed = new Set(); // ids
let wanted = null; // a function: the request asked for, as far as it is understood by then

const form = () => $('image-form');
const model = () => models.find((m) => m.id === $('image-model').value);
const sizeOf = (text) => text.split('x').map(Number);
const set = (id, value) => { if (!typed.has(id)) $(id).value = value; };

// What the server has besides models, for fillChoices().
export async function askChoices() {
  const [names, kinds, health] = await Promise.all([
    api('sdapi/v1/samplers'), api('sdapi/v1/schedulers'), api('health').catch(() => null)]);
  return { samplers: names.map((s) => s.name), schedules: kinds.filter((s) => s.name !== 'automatic'), limits: health?.limits };
}

// All in one go: nobody sees a form that is half filled. Choices may come again, from a server that was started
// anew or for another key: what stands in the form stays, unless its model is gone.
export function fillChoices(all, choices) {
  const before = $('image-model').value, own = { sampler: $('sampler').value, schedule: $('schedule').value };
  models = all.filter((m) => m.kind === 'image');
  ({ samplers, schedules } = choices);
  limits = choices.limits ?? limits;
  $('image-model').replaceChildren(...models.map((m) => h('option', { value: m.id }, m.id)));
  $('sampler').replaceChildren(h('option', { value: OWN }, "Model's own"), ...samplers.map((s) => h('option', { value: s }, s)));
  $('schedule').replaceChildren(h('option', { value: OWN }, "Sampler's own"), ...schedules.map((s) => h('option', { value: s.name }, s.label)));
  $('count').max = limits.n;
  $('steps').max = limits.steps;
  for (const [id, value] of Object.entries(own)) choose($(id), value);
  const same = models.find((m) => m.id === before);
  const chosen = same ?? models.find((m) => m.default) ?? models[0];
  if (!chosen) return;
  $('image-model').value = chosen.id;
  if (same) offerSizes(same);
  else takeModel();
  if (!filled) restore();
}

// Shapes of about as many pixels as the model likes.
function shapes(m) {
  const [w, hgt] = sizeOf(m.size), step = m.size_multiple;
  const fit = (x) => Math.max(step, Math.round(x / step) * step);
  const of = (a, b) => { const f = Math.sqrt((w * hgt) / (a * b)); return `${fit(a * f)}x${fit(b * f)}`; };
  return [...new Set([m.size, of(3, 2), of(2, 3), of(16, 9), of(9, 16), `${w * 2}x${hgt * 2}`])].filter((s) => {
    const [a, b] = sizeOf(s);
    return a <= limits.width && b <= limits.height;
  });
}

// The sizes of a model; the one that was chosen stays so.
function offerSizes(m) {
  const size = $('size').value, shown = (s) => s.replace('x', ' \u00d7 ');
  $('size').replaceChildren(...shapes(m).map((s) => h('option', { value: s }, shown(s))), h('option', { value: 'custom' }, 'other\u2026'));
  for (const id of ['width', 'height']) $(id).step = m.size_multiple;
  if (size === 'custom') $('size').value = size;
  else if (size) setSize(size);
}

function takeModel() {
  const m = model();
  if (!m) return;
  offerSizes(m);
  set('steps', m.steps);
  set('guidance', m.guidance_scale);
  setSize(m.size);
}

function setSize(size) {
  const own = typed.has('width') || typed.has('height');
  const known = !own && [...$('size').options].some((o) => o.value === size);
  $('size').value = known ? size : 'custom';
  for (const [k, id] of ['width', 'height'].entries()) set(id, sizeOf(size)[k]);
  $('custom-size').hidden = known;
}

// A number as the form has it, undefined if it is empty.
const number = (id) => ($(id).value === '' ? undefined : Number($(id).value));

// 32 bits are enough for a page; a PNG's own seed may be longer, and stays text.
export const newSeed = () => String(crypto.getRandomValues(new Uint32Array(1))[0]);

// What POST /v1/jobs takes, complete: the same request makes the same picture.
export function readForm() {
  const size = $('size').value === 'custom' ? `${$('width').value}x${$('height').value}` : $('size').value;
  const seed = $('seed').value.trim();
  if (seed && !/^\d{1,19}$/.test(seed)) throw new Error('The seed must be a whole number.');
  return {
    model: $('image-model').value || undefined,
    prompt: $('prompt').value,
    negative_prompt: $('negative').value || undefined,
    sampler: $('sampler').value || undefined,
    schedule: $('schedule').value || undefined,
    ...extras,
    steps: number('steps') ?? model()?.steps,
    guidance_scale: number('guidance'),
    size,
    n: number('count') ?? 1,
    seed: seed || newSeed(),
  };
}

// An option that is not there yet is added: the server knows more names than it lists.
function choose(select, value) {
  if (value && ![...select.options].some((o) => o.value === value)) select.append(h('option', { value }, value));
  select.value = value ?? OWN;
}

function setExtras({ rng, clip_skip, guidance_rescale }) {
  extras = Object.fromEntries(Object.entries({ rng, clip_skip, guidance_rescale }).filter(([, v]) => v !== undefined));
  const words = { rng: 'noise as on the', clip_skip: 'clip skip', guidance_rescale: 'guidance rescale' };
  $('extras').hidden = !Object.keys(extras).length;
  $('extras').firstElementChild.textContent = `With ${Object.entries(extras).map(([name, v]) => `${words[name]} ${name === 'rng' ? v.toUpperCase() : v}`).join(', ')}.`;
}

function fill(request) {
  if (request.model && models.some((m) => m.id === request.model) && $('image-model').value !== request.model) {
    $('image-model').value = request.model;
    takeModel();
  }
  set('prompt', request.prompt ?? '');
  set('negative', request.negative_prompt ?? '');
  choose($('sampler'), request.sampler);
  choose($('schedule'), request.schedule);
  setExtras(request);
  if (request.steps) set('steps', request.steps);
  if (request.guidance_scale !== undefined) set('guidance', request.guidance_scale);
  if (request.size) setSize(request.size);
  if (request.n) set('count', request.n);
  if (request.seed !== undefined) set('seed', request.seed);
  for (const id of ['prompt', 'negative']) $(id).dispatchEvent(new Event('input'));
}

function fillWith(what) {
  typed.clear();
  if (!filled) wanted = what;
  fill(what());
  remember();
}

export const fillForm = (request) => fillWith(() => request);
export const fillFromInfotext = (text) => fillWith(() => fromInfotext(text));

// Infotext to a request; what it does not say stays out.
function fromInfotext(text) {
  const { prompt, negative, settings } = parseInfotext(text);
  const out = { prompt, negative_prompt: negative, n: 1 };
  if (settings.Steps) out.steps = Number(settings.Steps);
  if (settings['CFG scale']) out.guidance_scale = Number(settings['CFG scale']);
  if (/^\d+$/.test(settings.Seed ?? '')) out.seed = settings.Seed;
  if (/^\d+x\d+$/.test(settings.Size ?? '')) out.size = settings.Size;
  if (settings.Model) out.model = settings.Model;
  if (settings.RNG === 'CPU') out.rng = 'cpu';
  if (Number(settings['Clip skip']) > 1) out.clip_skip = Number(settings['Clip skip']);
  if (Number(settings['CFG Rescale phi']) > 0) out.guidance_rescale = Number(settings['CFG Rescale phi']);
  if (settings.Sampler) out.sampler = samplers.find((s) => s.toLowerCase() === settings.Sampler.toLowerCase()) ?? settings.Sampler;
  const schedule = settings['Schedule type']?.toLowerCase();
  out.schedule = schedules.find((s) => s.label.toLowerCase() === schedule || s.name === schedule)?.name;
  return out;
}

// After the one named; the first after the model's own and after the last.
export function nextSampler(name) {
  const at = samplers.indexOf(name);
  return samplers[(at + 1) % samplers.length];
}

// The form survives a reload. What has been entered meanwhile comes first.
function restore() {
  filled = true;
  const last = kept.get('form');
  if (wanted) fill(wanted());
  else if (last) fill({ ...last, seed: last.seed ?? '' });
  const entered = wanted || typed.size;
  wanted = null;
  typed.clear();
  if (entered) remember();
}

export function remember() {
  if (!filled) return; // it would keep a form without a model
  try {
    const request = readForm();
    kept.set('form', { ...request, seed: $('seed').value.trim() });
  } catch { /* not complete yet */ }
}

export function wireSettings() {
  $('image-model').addEventListener('change', takeModel);
  $('size').addEventListener('change', () => {
    const custom = $('size').value === 'custom';
    $('custom-size').hidden = !custom;
    if (custom) $('width').focus();
    else setSize($('size').value);
  });
  $('extras-clear').addEventListener('click', () => { setExtras({}); remember(); $('seed').focus(); });
  $('seed-clear').addEventListener('click', () => { $('seed').value = ''; $('seed').focus(); });
  form().addEventListener('change', remember);
  form().addEventListener('input', (e) => { if (!filled) typed.add(e.target.id); });
  for (const e of form().elements) if (e.defaultValue !== undefined && e.value !== e.defaultValue) typed.add(e.id); // before this ran
}
