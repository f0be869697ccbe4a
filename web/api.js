// api.js: talking to the server. Addresses are relative, so that the page works below a prefix of a proxy.

const KEY = 'anneal-key';
let memory = ''; // where sessionStorage is switched off

export function apiKey() {
  try { return sessionStorage.getItem(KEY) ?? memory; } catch { return memory; }
}

export function setApiKey(key) {
  memory = key;
  try { sessionStorage.setItem(KEY, key); } catch { /* as above */ }
}

// One for each tab, and said with every question: of several servers behind a proxy each knows its own jobs and
// its own beginnings of prompts alone, and by this the proxy finds the one that is ours.
export const session = (() => {
  const fresh = Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, '0')).join('');
  try {
    const known = sessionStorage.getItem('anneal-session');
    if (!known) sessionStorage.setItem('anneal-session', fresh);
    return known ?? fresh;
  } catch { return fresh; }
})();

export class ApiError extends Error {
  constructor(status, body, retryAfter) {
    const error = body?.error ?? {};
    super(error.message ?? `the server answered ${status}`);
    this.status = status;
    this.code = error.code ?? '';
    this.param = error.param ?? '';
    this.retryAfter = retryAfter; // seconds, for 429 and 503
  }
}

// tab: whose session the question belongs to, if not to ours.
async function ask(path, { method = 'GET', body, signal, tab = session } = {}) {
  const headers = { 'X-Session-Id': tab };
  const key = apiKey();
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body !== undefined) headers['Content-Type'] = 'application/json';
  let answer;
  try {
    answer = await fetch(path, { method, headers, signal, cache: 'no-store', body: typeof body === 'object' ? JSON.stringify(body) : body });
  } catch (e) {
    if (e.name === 'AbortError') throw e;
    throw new ApiError(0, { error: { message: 'The server cannot be reached.' } });
  }
  if (answer.ok) return answer;
  const text = await answer.text();
  let json = null;
  try { json = JSON.parse(text); } catch { /* a proxy's own page */ }
  const error = new ApiError(answer.status, json, Number(answer.headers.get('Retry-After')) || 1);
  if (answer.status === 401 && key === apiKey()) window.dispatchEvent(new CustomEvent('key-refused', { detail: { had: key !== '' } }));
  throw error;
}

// The JSON of an answer. body: an object, or JSON text.
export async function api(path, options) {
  return (await ask(path, options)).json();
}

// Server-sent events: yields {event, data}; data is JSON, or the text if it is none ([DONE]).
export async function* events(path, options) {
  const answer = await ask(path, options);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let parts = []; // joined only when a message ends in them: one with pictures comes in hundreds of pieces
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const ends = value.includes('\n\n') || (value.startsWith('\n') && parts.at(-1)?.endsWith('\n'));
      parts.push(value);
      if (!ends) continue;
      const messages = parts.join('').split('\n\n');
      parts = [messages.pop()];
      for (const message of messages) {
        let event = 'message', data = '';
        for (const line of message.split('\n')) {
          if (line.startsWith('event: ')) event = line.slice(7);
          else if (line.startsWith('data: ')) data += line.slice(6);
        }
        if (!data) continue;
        let json = data;
        try { json = JSON.parse(data); } catch { /* [DONE] */ }
        yield { event, data: json };
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

export const sleep = (seconds, signal) => new Promise((resolve, reject) => {
  const timer = setTimeout(resolve, seconds * 1000);
  signal?.addEventListener('abort', () => { clearTimeout(timer); reject(signal.reason); }, { once: true });
});
