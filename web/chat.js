// chat.js: the view of a conversation. It lives in this browser; the server is told all of it each time, and
// remembers the beginning as keys and values.

import { ApiError, events, sleep } from './api.js';
import { $, announce, count, growing, h, iconButton, kept, notice, seconds } from './dom.js';
import { render } from './markdown.js';

const NUMBERS = ['temperature', 'top_p', 'top_k', 'min_p', 'repetition_penalty', 'max_tokens', 'seed'];
let turns = []; // {role, content, meta}
let running = null; // AbortController of the answer under way
let fitMessage = () => {};

// ---------------------------------------------------------------- showing

const atEnd = () => $('messages').scrollHeight - $('messages').scrollTop - $('messages').clientHeight < 60;
const toEnd = () => { $('messages').scrollTop = $('messages').scrollHeight; };

function turnElement(turn, i) {
  const body = h('div', { class: 'body' });
  if (turn.role === 'user') body.textContent = turn.content;
  else render(body, turn.content);
  const meta = h('span', { class: 'meta' }, turn.meta ?? '');
  const copy = iconButton('copy', 'Copy', () => navigator.clipboard?.writeText(turn.content));
  const again = turn.role === 'assistant' && i === turns.length - 1 && iconButton('again', 'Regenerate', regenerate);
  return h('article', { class: `turn ${turn.role}`, 'aria-label': turn.role === 'user' ? 'You' : 'Answer' },
    body, turn.role === 'assistant' && h('div', { class: 'actions' }, meta, copy, again));
}

function show() {
  $('messages').replaceChildren(...turns.map(turnElement));
  $('chat-empty').hidden = turns.length > 0;
  toEnd();
}

function keep() {
  kept.set('chat', turns);
}

function keepSettings() {
  const values = { system: $('system').value, model: $('chat-model').value };
  for (const name of NUMBERS) values[name] = $('chat-settings').elements[name].value;
  kept.set('chat-settings', values);
}

// ---------------------------------------------------------------- asking

function request() {
  const messages = turns.map(({ role, content }) => ({ role, content }));
  const system = $('system').value.trim();
  if (system) messages.unshift({ role: 'system', content: system });
  const body = { model: $('chat-model').value || undefined, messages, stream: true, stream_options: { include_usage: true } };
  for (const name of NUMBERS) {
    const input = $('chat-settings').elements[name];
    if (input.value === '') continue;
    if (!input.checkValidity()) throw new Error(`${input.closest('label').textContent.trim()}: ${input.validationMessage}`);
    body[name] = Number(input.value);
  }
  return body;
}

function busy(on) {
  $('stop').hidden = !on;
  $('send').hidden = on;
  $('messages').setAttribute('aria-busy', on);
  window.dispatchEvent(new Event('work'));
}

// Tokens a second, from the first to the last; of what came in one piece nothing can be said.
function speed(clock, tokens) {
  const parts = [];
  if (tokens) parts.push(`${count(tokens)} token${tokens === 1 ? '' : 's'}`);
  if (tokens > 1 && clock.last - clock.first > 50) parts.push(`${((tokens - 1) * 1000 / (clock.last - clock.first)).toFixed(1)} a second`);
  if (clock.first) parts.push(`first after ${seconds((clock.first - clock.begun) / 1000)}`);
  return parts.join(' \u00b7 ');
}

// Reads one answer to its end into turn; draw is called whenever there is more.
async function read(body, turn, signal, draw) {
  const clock = { begun: performance.now(), first: 0, last: 0 };
  let pieces = 0, tokens = 0, finish = '';
  for await (const { data } of events('v1/chat/completions', { method: 'POST', body, signal })) {
    if (data.error) throw new ApiError(200, data);
    const choice = data.choices?.[0];
    if (choice?.delta?.content) {
      clock.last = performance.now();
      clock.first ||= clock.last;
      pieces++;
      turn.content += choice.delta.content;
    }
    finish = choice?.finish_reason ?? finish;
    tokens = data.usage?.completion_tokens ?? tokens;
    turn.meta = speed(clock, tokens || pieces);
    draw();
  }
  if (finish === 'length') turn.meta += ' \u00b7 cut at its length';
}

async function answer() {
  const turn = { role: 'assistant', content: '', meta: '' };
  let body;
  try { body = request(); } catch (e) { notice('chat-notice', e.message); return; }
  turns.push(turn);
  show();
  const element = $('messages').lastElementChild, text = element.querySelector('.body'), meta = element.querySelector('.meta');
  element.classList.add('growing');
  running = new AbortController();
  const { signal } = running;
  let due = false;
  const draw = () => {
    if (due) return;
    due = true;
    requestAnimationFrame(() => {
      due = false;
      const follow = atEnd();
      render(text, turn.content);
      meta.textContent = turn.meta;
      if (follow) toEnd();
    });
  };
  notice('chat-notice', '');
  busy(true);
  announce('Answering');
  try {
    for (let done = false; !done;) {
      try {
        await read(body, turn, signal, draw);
        done = true;
      } catch (e) {
        if (e.status !== 429 || turn.content) throw e;
        meta.textContent = 'waiting for a place';
        await sleep(e.retryAfter, signal);
      }
    }
    announce(`Answer: ${turn.content.slice(0, 2000)}`);
  } catch (e) {
    if (signal.aborted) {
      turn.meta = [turn.meta, 'stopped'].filter(Boolean).join(' \u00b7 ');
      announce('Stopped');
    } else {
      notice('chat-notice', e.message);
    }
  }
  running = null;
  busy(false);
  if (!turn.content) turns.pop();
  keep();
  const follow = atEnd();
  const place = $('messages').scrollTop;
  show();
  if (!follow) $('messages').scrollTop = place;
}

export function send() {
  const text = $('message').value.trim();
  if (!text || running) return;
  turns.push({ role: 'user', content: text });
  $('message').value = '';
  fitMessage();
  keep();
  answer();
}

function regenerate() {
  if (running) return;
  if (turns.at(-1)?.role === 'assistant') turns.pop();
  answer();
  $('message').focus();
}

// True if there was something to stop.
export function stop() {
  if (!running) return false;
  running.abort();
  $('message').focus();
  return true;
}

// ---------------------------------------------------------------- beginning

export function wireChat() {
  fitMessage = growing($('message'), 200);
  growing($('system'));
  turns = kept.get('chat') ?? [];
  const settings = kept.get('chat-settings') ?? {};
  $('system').value = settings.system ?? '';
  for (const name of NUMBERS) if (settings[name]) { $('chat-settings').elements[name].value = settings[name]; $('sampling').open = true; }
  $('chat-form').addEventListener('submit', (e) => { e.preventDefault(); send(); });
  $('message').addEventListener('keydown', (e) => {
    if (e.key === 'Enter' && !e.shiftKey && !e.isComposing) { e.preventDefault(); send(); }
  });
  $('stop').addEventListener('click', stop);
  $('chat-settings').addEventListener('submit', (e) => e.preventDefault());
  $('chat-settings').addEventListener('change', keepSettings);
  $('chat-new').addEventListener('click', () => { stop(); turns = []; keep(); show(); $('message').focus(); });
  show();
}

export function chatReady(models) {
  const able = models.filter((m) => m.kind === 'text' && m.chat_template);
  $('chat-model').replaceChildren(...able.map((m) => h('option', { value: m.id }, m.id)));
  const wanted = kept.get('chat-settings')?.model;
  $('chat-model').value = able.find((m) => m.id === wanted)?.id ?? (able.find((m) => m.default) ?? able[0])?.id ?? '';
  $('send').disabled = !able.length;
  $('chat-empty').textContent = able.length ? 'Ask something.' : 'This server has no language model with a chat template.';
}
