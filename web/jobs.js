// jobs.js: picture jobs on their way. A browser has six connections to a server, and a grid may have sixty
// jobs: so an event stream listens to many, and there are two streams at most.

import { api, ApiError, events, session, sleep } from './api.js';

const STREAMS = 2;
const A_STREAM = 128; // jobs
const LONGEST = 8; // seconds between two questions
const ENDS = ['done', 'failed', 'cancelled'];
const waiting = new Map(); // id -> job {handler, tab, tries}, of jobs that no stream listens to
const streams = new Set(); // {jobs: id -> job, stop: AbortController}

// Sends a job in, however full the queue is. `seed` is text: it may have more digits than a number holds.
export async function submit(request, signal) {
  const { seed, ...rest } = request;
  const body = JSON.stringify({ kind: 'image', ...rest }).slice(0, -1) + `,"seed":${seed}}`;
  for (;;) {
    try {
      return await api('v1/jobs', { method: 'POST', body, signal });
    } catch (e) {
      if (!(e instanceof ApiError) || e.status !== 429) throw e;
      await sleep(e.retryAfter, signal);
    }
  }
}

export const cancel = (id, tab) => api(`v1/jobs/${id}`, { method: 'DELETE', tab });

// handler(event, data) is called until one of done, failed, cancelled. Jobs of one moment share a stream. One
// that another tab sent in may be another server's, which no stream with ours would find: it is asked for alone.
export function follow(id, handler, tab = session) {
  const job = { handler, tab, tries: 0 };
  if (tab !== session) {
    watch(id, job);
    return;
  }
  waiting.set(id, job);
  if (waiting.size === 1) setTimeout(listen, 20);
}

// Room for those that wait, where all streams are open: the one with the fewest jobs is opened anew, with
// them. It tells what it has told once more; handlers do not mind.
function makeRoom() {
  if (streams.size < STREAMS) return true;
  const [fewest] = [...streams].sort((a, b) => a.jobs.size - b.jobs.size);
  if (fewest.jobs.size + waiting.size > A_STREAM) return false; // until one ends
  for (const [id, job] of fewest.jobs) waiting.set(id, job);
  fewest.jobs.clear();
  streams.delete(fewest);
  fewest.stop.abort();
  return true;
}

async function listen() {
  if (!waiting.size || !makeRoom()) return;
  const jobs = new Map([...waiting].slice(0, A_STREAM));
  for (const id of jobs.keys()) waiting.delete(id);
  const stream = { jobs, stop: new AbortController() };
  streams.add(stream);
  let lost = null;
  try {
    const path = `v1/events?previews=small&jobs=${[...jobs.keys()].join(',')}`;
    for await (const { event, data } of events(path, { signal: stream.stop.signal })) {
      const job = jobs.get(data.job);
      if (ENDS.includes(event)) jobs.delete(data.job);
      if (!job) continue;
      job.tries = 0;
      job.handler(event, data);
    }
  } catch (e) {
    lost = e;
  }
  streams.delete(stream);
  listen(); // whoever waits has its place
  if (jobs.size) await settle(jobs, lost);
}

const pause = (tries) => Math.min(LONGEST, 2 ** tries); // seconds

// A stream that broke off, or did not begin: a 404 means that one of its jobs is unknown, not which. After a
// while each job says how it is; one that nobody knows has ended, the others are listened to again. The while is
// longer each time that a stream has told nothing, whatever the reason.
async function settle(jobs, lost) {
  const tries = Math.min(...[...jobs.values()].map((job) => job.tries));
  await sleep(Math.max(lost?.retryAfter ?? 1, pause(tries)));
  const left = [];
  for (const [id, job] of jobs) {
    job.tries++;
    if (!await ended(id, job)) left.push([id, job]);
  }
  for (const [id, job] of left) waiting.set(id, job);
  listen();
}

async function watch(id, job) {
  for (; !await ended(id, job); job.tries++) await sleep(pause(job.tries));
}

// Asks for a job and tells its handler. True if it has ended, or nobody knows it any more.
async function ended(id, { handler, tab }) {
  try {
    const job = await api(`v1/jobs/${id}`, { tab });
    handler(ENDS.includes(job.state) ? job.state : job.state === 'running' ? 'step' : 'queued', job);
    return ENDS.includes(job.state);
  } catch (e) {
    if (e.status !== 404 && e.status !== 401) return false;
    handler('failed', { error: { message: e.message } });
    return true;
  }
}
