"""What the page asks for, without a browser: its files, GET /v1/status, and streams of several jobs."""
import base64, hashlib, os, re, select, shutil, sys, unittest
sys.path.insert(0, os.path.dirname(__file__))
from text_models import *

SERVER = KEYED = FOLDER = None
HTML = {'Accept': 'text/html,application/xhtml+xml'}
SECRET = 'heliotrope zeppelin'  # of a prompt: it must not come out again


def setUpModule():
    global SERVER, KEYED, FOLDER
    FOLDER = models()
    demo = os.path.join(ROOT, 'weights', 'demo')
    SERVER = Server('--models', demo, '--models', FOLDER, '--dtype', 'f32', '--max-running', '1', *MAY_BE_LONG)
    KEYED = Server('--models', demo, '--api-key', 'sesame')


def tearDownModule():
    assert SERVER.stop() == 0 and KEYED.stop() == 0
    shutil.rmtree(FOLDER)


def picture(**fields):
    status, job = SERVER.post('/v1/jobs', dict(dict(kind='image', model='emoji', prompt='owl', size='64x64', steps=2, seed=1), **fields))
    assert status == 202, job
    return job


def settled():
    """The status when everything that was begun has ended. A job is over before its last tick is noted, a cancelled one by a whole
    tick; so a picture more is made, and its last tick waited for."""
    must_come(lambda: (lambda h: h['running'] + h['queued'] == 0)(SERVER.get('/health')[1]))
    since = max([t['seq'] for t in SERVER.get('/v1/status')[1]['ticks']], default=0)
    job = picture(steps=1)
    must_come(lambda: SERVER.get('/v1/jobs/' + job['id'])[1]['state'] == 'done')
    return must_come(lambda: (lambda s: s if any(t['stage'] == 'decode' and t['seq'] > since for t in s['ticks']) else None)(SERVER.get('/v1/status')[1]))


INSIDE = {'web/theme.js': 'script', 'web/style.css': 'style'}


class Files(unittest.TestCase):
    def links(self):
        html = SERVER.raw('GET', '/', headers=HTML)[2].decode()
        return html, sorted(set(re.findall(r'(?:src|href)="(web/[^"]+)"', html)) | set(INSIDE))

    def test_everything_is_there_and_small(self):
        html, links = self.links()
        total = len(html)
        self.assertGreater(len(links), 10)
        types = {'js': 'text/javascript; charset=utf-8', 'css': 'text/css; charset=utf-8', 'svg': 'image/svg+xml'}
        for path in links:
            status, headers, data = SERVER.raw('GET', '/' + path)
            self.assertEqual((status, headers['content-type']), (200, types[path.rsplit('.')[-1]]), path)
            with open(os.path.join(ROOT, path), 'rb') as f:
                self.assertEqual(data, f.read())
            total += len(data)
            for imported in re.findall(rb"from '\./([a-z]+\.js)'", data):
                self.assertIn('web/' + imported.decode(), links, 'a module that is not preloaded')
        self.assertEqual({os.path.basename(p) for p in links} | {'index.html'}, set(os.listdir(os.path.join(ROOT, 'web'))))
        self.assertLess(total, 150000)

    def test_headers(self):
        for path in ('/', '/web/main.js'):
            status, headers, data = SERVER.raw('GET', path, headers=HTML)
            self.assertEqual(status, 200)
            policy = headers['content-security-policy']
            self.assertIn("default-src 'none'", policy)
            self.assertNotIn('unsafe', policy)
            self.assertEqual(headers['x-content-type-options'], 'nosniff')
            self.assertEqual(headers['referrer-policy'], 'no-referrer')
            self.assertEqual(headers['cache-control'], 'no-cache')
            status, again, data = SERVER.raw('GET', path, headers={**HTML, 'If-None-Match': headers['etag']})
            self.assertEqual((status, data, again['etag']), (304, b'', headers['etag']))
            self.assertEqual(SERVER.raw('GET', path, headers={**HTML, 'If-None-Match': '"other"'})[0], 200)
            status, head, data = SERVER.raw('HEAD', path, headers=HTML)
            self.assertEqual((status, data, head['content-length']), (200, b'', headers['content-length']))

    def test_two_files_are_inside(self):
        """What the first paint waits for is in the page, and the policy knows it by its hash."""
        _, headers, html = SERVER.raw('GET', '/', headers=HTML)
        for (path, tag), part in zip(INSIDE.items(), ('script-src', 'style-src')):
            with open(os.path.join(ROOT, path), 'rb') as f:
                text = f.read()
            self.assertEqual(html.count(f'<{tag}>'.encode() + text + f'</{tag}>'.encode()), 1, path)
            digest = base64.b64encode(hashlib.sha256(text).digest()).decode()
            self.assertIn(f"{part} 'self' 'sha256-{digest}';", headers['content-security-policy'])

    def test_nothing_else_inline(self):
        html = SERVER.raw('GET', '/', headers=HTML)[2].decode()
        for path, tag in INSIDE.items():
            with open(os.path.join(ROOT, path)) as f:
                html = html.replace(f'<{tag}>{f.read()}</{tag}>', '')
        self.assertFalse(re.search(r'<style|\sstyle=|\son[a-z]+=|javascript:|<script(?![^>]*src=)', html))
        self.assertFalse(re.search(r'(?:src|href)="(?:https?:)?//', html))
        for name in os.listdir(os.path.join(ROOT, 'web')):
            with open(os.path.join(ROOT, 'web', name)) as f:
                self.assertFalse(re.search(r'innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function', f.read()), name)

    def test_a_terminal_gets_text(self):
        status, headers, data = SERVER.raw('GET', '/', headers={'Accept': '*/*'})
        self.assertEqual((status, headers['content-type'], headers['vary']), (200, 'text/plain; charset=utf-8', 'Accept'))
        self.assertIn(b'curl', data)
        self.assertEqual(SERVER.raw('GET', '/web/nothing.js')[0], 404)
        self.assertEqual(SERVER.raw('POST', '/web/main.js', b'{}')[0], 405)

    def test_the_page_needs_no_key_and_its_questions_do(self):
        self.assertEqual(KEYED.raw('GET', '/', headers=HTML)[0], 200)
        self.assertEqual(KEYED.raw('GET', '/web/main.js')[0], 200)
        for path in ('/v1/status', '/v1/events?jobs=x', '/v1/models'):
            self.assertEqual(KEYED.raw('GET', path)[0], 401, path)
        self.assertEqual(KEYED.raw('GET', '/v1/status', headers={'X-Api-Key': 'sesame'})[0], 200)


class Status(unittest.TestCase):
    def test_ticks_jobs_and_totals(self):
        before = settled()
        since = before['ticks'][-1]['seq']
        job = picture(prompt=SECRET, steps=3, n=2)
        must_come(lambda: SERVER.get('/v1/jobs/' + job['id'])[1]['state'] == 'done')
        status, answer = SERVER.post('/v1/chat/completions', dict(model='tiny', messages=[dict(role='user', content=SECRET)], max_tokens=5, seed=1))
        self.assertEqual(status, 200)
        _, headers, data = SERVER.raw('GET', f'/v1/status?since={since}')
        after = json.loads(data)
        self.assertEqual(headers['cache-control'], 'no-store')
        for word in SECRET.split() + [job['id']]:
            self.assertNotIn(word, data.decode())
        seqs = [t['seq'] for t in after['ticks']]
        self.assertEqual(seqs, list(range(since + 1, seqs[-1] + 1)))
        rows = lambda stage: sum(t['rows'] for t in after['ticks'] if t['stage'] == stage)
        self.assertEqual(rows('denoise'), 6)
        self.assertEqual(rows('decode'), 2)
        self.assertGreater(sum(t['tokens'] for t in after['ticks'] if t['stage'] == 'forward'), 5)
        self.assertTrue(all(t['seconds'] > 0 and abs(t['ended'] - after['now']) < patience(100) for t in after['ticks']))
        grew = {k: after['totals'][k] - before['totals'][k] for k in after['totals']}
        used = answer['usage']['completion_tokens']
        self.assertEqual((grew['images'], grew['steps'], grew['tokens'], grew['done']), (2, 6, used, 2))
        chat, image = after['recent'][:2]
        self.assertEqual((chat['kind'], chat['model'], chat['state'], chat['completion_tokens'], chat['mine']), ('text', 'tiny', 'done', used, True))
        self.assertEqual((image['kind'], image['size'], image['n'], image['step'], image['steps']), ('image', '64x64', 2, 6, 6))
        self.assertLessEqual(image['created'], image['started'])
        self.assertLessEqual(image['started'], image['finished'])
        rates = after['rates']
        self.assertTrue(rates['window_s'] <= 10 and 0 < rates['busy'] <= 1 and rates['steps_s'] >= 0)

    def test_device_memory_queue(self):
        s = SERVER.get('/v1/status')[1]
        self.assertEqual((s['status'], len(s['devices'])), ('ok', 1))
        d = s['devices'][0]
        self.assertTrue(d['ok'] and d['models'] >= 1 and 0 < d['used_bytes'] < d['memory_bytes'])
        self.assertIn(d['description'], SERVER.get('/health')[1]['device'])
        self.assertGreater(s['memory']['resident_bytes'], 10 << 20)
        self.assertGreater(s['memory']['planned_bytes'], s['memory']['weight_bytes'])
        self.assertEqual(s['queue']['max_queue'], SERVER.get('/health')[1]['max_queue'])

    def test_since(self):
        ticks = settled()['ticks']
        last = ticks[-1]['seq']
        self.assertEqual(SERVER.get(f'/v1/status?since={last}')[1]['ticks'], [])
        self.assertEqual([t['seq'] for t in SERVER.get(f'/v1/status?since={last - 1}')[1]['ticks']], [last])
        # of another process, or no number: all there are
        for odd in (last + 5, 10 ** 30, '-1', 'x', '1e3', ''):
            self.assertEqual(SERVER.get(f'/v1/status?since={odd}')[1]['ticks'], ticks, odd)

    def test_running_and_waiting(self):
        long = picture(**LONG_ALONE)
        try:
            waiting = picture()
            s = must_come(lambda: (lambda s: s if [j['state'] for j in s['jobs']] == ['running', 'queued'] else None)(SERVER.get('/v1/status')[1]))
            self.assertEqual((s['queue']['running'], s['queue']['queued']), (1, 1))
            self.assertLess(s['jobs'][0]['step'], 1000)
        finally:
            SERVER.delete('/v1/jobs/' + long['id'])
        must_come(lambda: SERVER.get('/v1/jobs/' + waiting['id'])[1]['state'] == 'done')
        states = [j['state'] for j in SERVER.get('/v1/status')[1]['recent'][:2]]
        self.assertEqual(states, ['done', 'cancelled'])


class Events(unittest.TestCase):
    def listen(self, jobs, more=''):
        return list(SERVER.events('GET', f'/v1/events?jobs={",".join(j["id"] for j in jobs)}{more}'))

    def test_several_in_one_stream(self):
        jobs = [picture(seed=i, steps=i + 1, partial_images=1) for i in range(3)]
        jobs.append(SERVER.post('/v1/jobs', dict(kind='text', model='tiny', prompt='the', max_tokens=4, temperature=0))[1])
        seen = {j['id']: [] for j in jobs}
        text = ''
        for name, data in self.listen(jobs):
            if not name:
                continue
            seen[data['job']].append(name)
            text += ''.join(d['text'] for d in data.get('deltas', []))
            if name == 'done':
                self.assertEqual((data['id'], data['state']), (data['job'], 'done'))
                result = data['result']
                if data['kind'] == 'text':
                    self.assertEqual(result['choices'][0]['text'], text)
                else:
                    alone = SERVER.images(model='emoji', prompt='owl', size='64x64', seed=result['data'][0]['seed'], steps=result['data'][0]['seed'] + 1)
                    self.assertEqual(base64.b64decode(result['data'][0]['b64_json']), alone[0])
        for names in seen.values():
            self.assertEqual((names[0], names[-1], names.count('done')), ('queued', 'done', 1))
        for j in jobs[1:3]:
            self.assertEqual(seen[j['id']].count('preview'), 1)

    def test_small_previews(self):
        job = picture(steps=4, partial_images=4)
        for more, size in (('', (64, 64)), ('&previews=full', (64, 64)), ('&previews=small', None)):
            shown = [d for n, d in self.listen([job], more) if n == 'preview']
            self.assertEqual([d['step'] for d in shown], [1, 2, 3, 4])
            for d in shown:
                w, h, _ = png_pixels(base64.b64decode(d['b64_json']))
                if size:
                    self.assertEqual((w, h), size)
                else:
                    self.assertTrue(w < 64 and h < 64)

    def test_place_in_the_queue(self):
        long = [picture(**LONG_ALONE) for _ in range(2)]
        must_come(lambda: SERVER.get('/v1/jobs/' + long[0]['id'])[1]['state'] == 'running')
        waiting = picture()
        places, states = [], []
        try:
            for name, data in SERVER.events('GET', f'/v1/jobs/{waiting["id"]}/events'):
                if name in ('queued', 'position'):
                    places.append(data['queue_position'])
                    if len(places) == 1:
                        SERVER.delete('/v1/jobs/' + long[1]['id'])  # the one between
                    if places[-1] == 0:
                        SERVER.delete('/v1/jobs/' + long[0]['id'])
                elif name:
                    states.append(name)
        finally:
            for j in long:
                SERVER.delete('/v1/jobs/' + j['id'])
        self.assertEqual((places[0], places[-1]), (1, 0))
        self.assertEqual((states[0], states[-1]), ('started', 'done'))

    def test_jobs_of_all_streams(self):
        """128 and 16 for each of --max-sse, however they are spread; whoever leaves makes room."""
        s = Server('--max-sse', '2', '--max-queue', '200', '--max-jobs-kept', '200', *MAY_BE_LONG)
        jobs = [s.post('/v1/jobs', dict(LONG_ALONE, kind='image'))[1]['id']]  # keeps the streams open
        jobs += [s.post('/v1/jobs', dict(kind='image', prompt='owl', size='32x32', steps=1))[1]['id'] for _ in range(127)]
        opened = s.connect()
        opened.request('GET', '/v1/events?jobs=' + ','.join(jobs))
        self.assertEqual(opened.getresponse().status, 200)
        status, answer = s.get('/v1/events?jobs=' + ','.join(jobs[:33]))
        self.assertEqual((status, '160 jobs' in answer['error']['message']), (429, True), answer)
        other = s.connect()
        other.request('GET', '/v1/events?jobs=' + ','.join(jobs[:32]))
        self.assertEqual(other.getresponse().status, 200)
        opened.close()
        other.close()
        for job in jobs:
            s.delete('/v1/jobs/' + job)
        must_come(lambda: s.metrics()['anneal_http_streams'] == 0)
        self.assertEqual(len([n for n, _ in s.events('GET', '/v1/events?jobs=' + ','.join(jobs)) if n in ('done', 'cancelled')]), 128)
        self.assertEqual(s.stop(), 0)

    def test_refused(self):
        job = picture()['id']
        for query, status, param in (('', 400, 'jobs'), ('?jobs=', 400, 'jobs'), ('?jobs=job_0', 404, 'jobs'), (f'?jobs={job},nobody', 404, 'jobs'),
                                     (f'?jobs={",".join([job] * 129)}', 400, 'jobs'), (f'?jobs={job}&previews=huge', 400, 'previews'),
                                     (f'?jobs={"x" * 300}', 404, 'jobs')):
            got, answer = SERVER.get('/v1/events' + query)
            self.assertEqual((got, answer['error']['param']), (status, param), query)
        self.assertEqual(SERVER.get(f'/v1/jobs/{job}/events?previews=no')[0], 400)
        # the same one again and again is told once
        other = picture()['id']
        names = [n for n, _ in self.listen([dict(id=i) for i in [job] * 63 + [other] + [job] * 64])]
        self.assertEqual((names.count('queued'), names.count('done')), (2, 2))


class GivingWay(unittest.TestCase):
    """What one stream has to tell takes neither the encoder thread, of which there is one here, nor the memory from others."""

    def start(self, *options):
        self.s = Server('--models', FOLDER, '--dtype', 'f32', '--encode-threads', '1', '--max-queue', '200',
                        '--keepalive', '3600', *options)  # what is told is compared as it is

    def finished(self, count, **fields):
        """The path of a stream of jobs that have ended, and all it tells."""
        ask = dict(fields, kind='text', model='tiny', prompt='the', temperature=0)
        path = '/v1/events?jobs=' + ','.join(self.s.post('/v1/jobs', ask)[1]['id'] for _ in range(count))
        self.s.raw('GET', path)  # until they have ended
        return path, self.s.raw('GET', path)[2]

    def begin(self, method, path, body=None, room=None):
        """A connection whose answer is not read yet."""
        c = self.s.connect(room=room)
        self.addCleanup(c.close)
        c.request(method, path, body)
        return c

    def numbers(self, data):
        found = re.findall(rb'(?m)^anneal_http_(\w+) (.*)$', data)
        return {name.decode(): float(value) for name, value in found}

    def told_before_ones_turn(self, path, busy):
        """While `busy` templates have the encoder thread a stream begins, and then somebody asks who needs that thread: a large body
        leads /metrics there. How much the stream has told when it is answered; None where the thread was free too early to say."""
        template = json.dumps(dict(model='loops', messages=[dict(role='user', content='Hi')]))
        blanks = b' ' * 100000
        heard = []

        def look():
            heard.append(self.s.raw('GET', '/metrics')[2])
            return self.numbers(heard[-1])
        first = look()
        read = first['body_bytes_total'] + busy * len(template)
        before = [self.begin('POST', '/apply-template', template) for _ in range(busy)]
        must_come(lambda: look()['body_bytes_total'] >= read, 'the templates wait')
        stream = self.begin('GET', path)
        must_come(lambda: look()['streams'] == 1, 'the stream is open')
        after = self.begin('GET', '/metrics', blanks)
        must_come(lambda: look()['body_bytes_total'] >= read + len(blanks), 'the request waits')
        waiting = busy - len(select.select([c.sock for c in before], [], [], 0)[0])
        then = self.numbers(after.getresponse().read())
        for c in before:
            self.assertEqual(c.getresponse().status, 400)  # over the budget
        self.assertEqual(stream.getresponse().read(), self.whole)
        told = then['sent_bytes_total'] - first['sent_bytes_total'] - sum(map(len, heard)) + then['held_bytes'] - len(blanks)
        return told if waiting > 1 else None

    def test_time(self):
        """400 events are ready, and few are told before it is another's turn."""
        self.start()
        path, self.whole = self.finished(100, max_tokens=1, logprobs=5)
        self.assertTrue(100000 < len(self.whole) < 256 << 10, len(self.whole))  # so much is told without waiting for the reader
        for busy in (4, 8, 16, 32):
            told = self.told_before_ones_turn(path, busy)
            if told is not None:
                break
        self.assertIsNotNone(told, 'the templates never kept the thread for long enough')
        self.assertLess(told, len(self.whole) / 2)
        self.assertEqual(self.s.stop(), 0)

    def held(self):
        return self.s.metrics()['anneal_http_held_bytes']

    def test_memory_of_one(self):
        """Who reads nothing, or slowly, holds a fixed part of a long stream, and loses none of it."""
        self.start()
        path, whole = self.finished(60, max_tokens=200, logprobs=20, ignore_eos=True)
        self.assertGreater(len(whole), 4 << 20)
        stream = self.begin('GET', path, room=4096)
        must_come(lambda: self.held() > 256 << 10, 'the stream fills what it may')
        for _ in range(30):  # 240 events are ready; each of these waits until the stream has told 16 of them, or may not
            self.assertEqual(self.s.post('/tokenize', dict(model='tiny', content='Hi'))[0], 200)
        most, read, answer = self.held(), b'', stream.getresponse()
        while len(read) < 2 << 20:
            read += answer.read1(4096)
            most = max(most, self.held())
        self.assertLess(most, 1 << 20)
        self.assertTrue(read + answer.read() == whole)
        must_come(lambda: self.held() == 0, 'a stream that has ended holds nothing')
        self.assertEqual(self.s.stop(), 0)

    def test_memory_of_all(self):
        """--max-held-bytes is for all streams together; when they are read, each comes whole."""
        self.start('--max-held-bytes', '1M')
        path, whole = self.finished(20, max_tokens=200, logprobs=20, ignore_eos=True)
        streams = [self.begin('GET', path, room=4096) for _ in range(12)]
        must_come(lambda: self.held() > 1 << 20, 'the streams fill what they may')
        self.assertLess(max(self.held() for _ in range(50)), 5 << 18)
        self.assertTrue(all(data == whole for data in together(*[lambda c=c: c.getresponse().read() for c in streams])))
        must_come(lambda: self.held() == 0, 'streams that have ended hold nothing')
        self.assertEqual(self.s.stop(), 0)


if __name__ == '__main__':
    unittest.main(verbosity=1)
