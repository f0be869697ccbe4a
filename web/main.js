// main.js: the frame of the page: views, keys, theme, key of the API, and whether the server is there.

import { api, apiKey, session, setApiKey } from './api.js';
import { chatReady, send, stop, wireChat } from './chat.js';
import { $, notice } from './dom.js';
import { cancelNewest, imagesReady, wireImages } from './images.js';
import { askChoices } from './settings.js';
import { showModels, statusShown, wireStatus } from './status.js';

const VIEWS = ['images', 'chat', 'status'];
const view = () => VIEWS.find((v) => !$(v).hidden);

// ---------------------------------------------------------------- views

function show(name) {
  for (const v of VIEWS) {
    const on = v === name, tab = $(`tab-${v}`);
    $(v).hidden = !on;
    tab.setAttribute('aria-selected', on);
    tab.tabIndex = on ? 0 : -1;
  }
  document.body.dataset.view = name;
  if (location.hash !== `#/${name}`) history.replaceState(null, '', `#/${name}`); // no element's id: the focus stays at the top
  if (name === 'status') statusShown();
  if (name === 'chat') $('messages').scrollTop = $('messages').scrollHeight;
}

function wireTabs() {
  for (const v of VIEWS) $(`tab-${v}`).addEventListener('click', () => show(v));
  document.querySelector('[role=tablist]').addEventListener('keydown', (e) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[e.key];
    const to = by ? VIEWS[(VIEWS.indexOf(view()) + by + VIEWS.length) % VIEWS.length] : { Home: VIEWS[0], End: VIEWS.at(-1) }[e.key];
    if (!to) return;
    e.preventDefault();
    show(to);
    $(`tab-${to}`).focus();
  });
  const named = () => VIEWS.find((v) => location.hash === `#/${v}`);
  window.addEventListener('hashchange', () => { if (named()) show(named()); });
  show(named() ?? VIEWS[0]);
}

function wireKeys() {
  document.addEventListener('keydown', (e) => {
    if (document.querySelector('dialog[open]') || e.isComposing) return;
    if (e.key === 'Enter' && (e.ctrlKey || e.metaKey)) {
      if (view() === 'images') { e.preventDefault(); $('image-form').requestSubmit(); }
      if (view() === 'chat') { e.preventDefault(); send(); }
    } else if (e.key === 'Escape') {
      const did = view() === 'images' ? cancelNewest() : view() === 'chat' && stop();
      if (did) e.preventDefault();
    }
  });
}

// ---------------------------------------------------------------- theme

function wireTheme() {
  const root = document.documentElement, dark = matchMedia('(prefers-color-scheme: dark)');
  $('theme-button').addEventListener('click', () => {
    const now = root.dataset.theme ?? (dark.matches ? 'dark' : 'light');
    const next = now === 'dark' ? 'light' : 'dark';
    // what the system says anyway is not insisted on
    if (next === (dark.matches ? 'dark' : 'light')) delete root.dataset.theme;
    else root.dataset.theme = next;
    try {
      if (root.dataset.theme) localStorage.setItem('anneal-theme', next);
      else localStorage.removeItem('anneal-theme');
    } catch { /* for this page only, then */ }
    window.dispatchEvent(new Event('theme'));
  });
}

// ---------------------------------------------------------------- the key

function wireKey() {
  const open = (why) => {
    notice('key-notice', why);
    if ($('key-dialog').open) return; // somebody may be typing
    $('key').value = apiKey();
    $('key-dialog').showModal();
  };
  $('key-button').addEventListener('click', () => open(''));
  $('key-cancel').addEventListener('click', () => $('key-dialog').close());
  $('key-form').addEventListener('submit', () => { setApiKey($('key').value.trim()); begin(); });
  window.addEventListener('key-refused', (e) => open(e.detail.had ? 'The server does not know this key.' : 'This server wants an API key.'));
}

// ---------------------------------------------------------------- is it there?

const WORDS = { ok: 'ready', loading: 'loading', shutting_down: 'stopping', device_failed: 'device lost' };
let ready = false;

async function pulse() {
  let state = 'bad', words = 'not reachable';
  try {
    const answer = await fetch('health', { cache: 'no-store', headers: { 'X-Session-Id': session } });
    const s = await answer.json();
    state = s.status === 'ok' ? 'ok' : s.status === 'loading' ? 'busy' : 'bad';
    words = s.running + s.queued === 0 ? WORDS[s.status] ?? s.status : `${s.running} running${s.queued ? `, ${s.queued} waiting` : ''}`;
    if (state === 'ok' && s.running + s.queued > 0) state = 'running';
    if (s.status === 'ok' && !ready) begin();
  } catch { ready = false; }
  $('pulse').dataset.state = state;
  $('pulse').textContent = words;
}

let begun = 0, told = 0;

// Two may be under way (another key; a server that came back): an answer counts unless a later one was there first.
async function begin() {
  const mine = ++begun;
  try {
    const { data } = await api('v1/models');
    ready = true;
    const choices = await askChoices();
    if (mine < told) return;
    told = mine;
    imagesReady(data, choices);
    chatReady(data);
    showModels(data);
  } catch (e) {
    if (mine < told) return;
    ready = e.status === 401; // asking again without another key is of no use
    if (!ready) notice('image-notice', e.message);
  }
}

wireTabs();
wireKeys();
wireTheme();
wireKey();
wireChat();
wireStatus();
wireImages().then(pulse);
setInterval(() => { if (!document.hidden) pulse(); }, 3000);
// something was sent or has ended: sooner than that
let soon = 0;
window.addEventListener('work', () => { clearTimeout(soon); soon = setTimeout(pulse, 150); });
