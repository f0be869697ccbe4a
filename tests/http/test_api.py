"""The API as request and response: what works, and every kind of bad input."""
import base64, json, os, socket, struct, sys, threading, time, unittest, zlib
sys.path.insert(0, os.path.dirname(__file__))
from harness import *

SERVER = None


def setUpModule():
    global SERVER
    SERVER = Server('--dtype', 'f32', '--max-n', '4', *MAY_BE_LONG, '--keepalive', '1')


def tearDownModule():
    assert SERVER.stop() == 0


QUICK = dict(prompt='owl', seed=3, steps=2, **({'size': '64x64'} if SLOW else {}))


class Images(unittest.TestCase):
    def test_default_answer(self):
        status, body = SERVER.post('/v1/images/generations', APPLE)
        self.assertEqual(status, 200)
        self.assertEqual(body['data'][0]['seed'], 1)
        self.assertNotIn('warnings', body)
        w, h, pixels = png_pixels(base64.b64decode(body['data'][0]['b64_json']))
        self.assertEqual((w, h), (128, 128))
        # blue around, red in the middle: the picture is what was asked for
        corner = pixels[:3]
        self.assertGreater(corner[2], corner[0])
        middle = pixels[(64 * 128 + 64) * 3:][:3]
        self.assertGreater(middle[0], middle[2])

    def test_seeds_count_up(self):
        status, body = SERVER.post('/v1/images/generations', dict(QUICK, n=3))
        self.assertEqual([d['seed'] for d in body['data']], [3, 4, 5])
        alone = SERVER.images(**dict(QUICK, seed=5))[0]
        self.assertEqual(png_pixels(base64.b64decode(body['data'][2]['b64_json'])), png_pixels(alone))

    def test_random_seed_comes_back(self):
        seeds = set()
        for seed in (-1, None):
            status, body = SERVER.post('/v1/images/generations', dict(QUICK, seed=seed))
            self.assertEqual(status, 200)
            seeds.add(body['data'][0]['seed'])
            again = SERVER.images(**dict(QUICK, seed=body['data'][0]['seed']))[0]
            self.assertEqual(base64.b64decode(body['data'][0]['b64_json']), again)
        self.assertEqual(len(seeds), 2)

    def test_sizes_need_not_be_square_or_even_latents(self):
        for size in ('64x128', '136x72', '8x8'):
            png = SERVER.images(**dict(QUICK, size=size))[0]
            self.assertEqual('%dx%d' % png_pixels(png)[:2], size)

    def test_formats(self):
        for fmt, magic in (('png', b'\x89PNG'), ('jpeg', b'\xff\xd8\xff'), ('webp', b'RIFF')):
            status, body = SERVER.post('/v1/images/generations',
                                       dict(QUICK, output_format=fmt, output_compression=80))
            self.assertEqual(body['output_format'], fmt)
            self.assertTrue(base64.b64decode(body['data'][0]['b64_json']).startswith(magic))

    def test_url(self):
        status, body = SERVER.post('/v1/images/generations', dict(QUICK, response_format='url'))
        url = body['data'][0]['url']
        self.assertTrue(url.startswith(f'http://127.0.0.1:{SERVER.port}/'))
        status, headers, data = SERVER.raw('GET', url.split(str(SERVER.port), 1)[1])
        self.assertEqual((status, headers['content-type']), (200, 'image/png'))
        self.assertEqual(data, SERVER.images(**QUICK)[0])
        self.assertEqual(SERVER.get('/v1/files/0123.png')[0], 404)

    def test_unknown_fields_are_named(self):
        status, body = SERVER.post('/v1/images/generations', dict(QUICK, quality='hd', foo=1))
        self.assertEqual(status, 200)
        self.assertIn("unknown field 'foo' was ignored", body['warnings'])

    def test_long_prompt_is_cut_with_a_warning(self):
        status, body = SERVER.post('/v1/images/generations', dict(QUICK, prompt='red apple ' * 60))
        self.assertEqual(status, 200)
        self.assertIn('cut', body['warnings'][0])

    def test_a_cut_negative_prompt_is_said_too(self):
        ask = dict(QUICK, negative_prompt='dark blue night ' * 60)
        status, body = SERVER.post('/v1/images/generations', ask)
        self.assertIn('negative prompt', body['warnings'][0])
        status, j = SERVER.post('/v1/jobs', dict(ask, kind='image'))
        self.assertIn('negative prompt', j['warnings'][0])
        for name, data in SERVER.events('GET', f"/v1/jobs/{j['id']}/events"):
            if name == 'done':
                self.assertIn('negative prompt', data['result']['warnings'][0])
        status, body = SERVER.post('/sdapi/v1/txt2img', dict(prompt='a ' * 8000, steps=1, width=32, height=32))
        self.assertIn('cut', body['warnings'][0])

    def test_same_seed_other_rng(self):
        self.assertNotEqual(SERVER.images(**QUICK), SERVER.images(**dict(QUICK, rng='cpu')))

    def test_samplers_by_any_name(self):
        groups = [('EulerAncestralDiscreteScheduler', 'euler_a', 'Euler a'),
                  ('DPMSolverMultistepScheduler', 'dpmpp_2m', 'DPM++ 2M')]
        for names in groups:
            pictures = {png_pixels(SERVER.images(**dict(QUICK, sampler=n))[0]) for n in names}
            self.assertEqual(len(pictures), 1, names)
        with_label = SERVER.images(**dict(QUICK, sampler='DPM++ 2M Karras'))[0]
        with_field = SERVER.images(**dict(QUICK, sampler='dpmpp_2m', schedule='karras'))[0]
        self.assertEqual(png_pixels(with_label), png_pixels(with_field))

    def test_stream(self):
        events = [(n, d) for n, d in SERVER.events('POST', '/v1/images/generations', dict(
            QUICK, steps=6, stream=True, partial_images=3)) if n]
        names = [n for n, _ in events]
        self.assertEqual(names, ['image_generation.partial_image'] * 3 + ['image_generation.completed'])
        self.assertEqual([d['partial_image_index'] for n, d in events if n.endswith('partial_image')], [0, 1, 2])
        final = events[-1][1]
        self.assertEqual(final['type'], 'image_generation.completed')
        self.assertEqual(base64.b64decode(final['b64_json']), SERVER.images(**dict(QUICK, steps=6))[0])
        preview, whole = (png_pixels(base64.b64decode(e[1]['b64_json'])) for e in (events[0], events[-1]))
        self.assertEqual(preview[:2], whole[:2])

    def test_hang_up_cancels(self):
        c = SERVER.connect()
        key = {'Authorization': 'Bearer hangup'}
        c.request('POST', '/v1/images/generations', json.dumps(LONG), key)
        jobs = lambda: SERVER.get('/v1/jobs', key)[1]['data']
        must_come(lambda: [j['state'] for j in jobs()] == ['running'])
        before = SERVER.metrics()['anneal_jobs_total{state="cancelled"}']
        c.sock.shutdown(socket.SHUT_RDWR)
        c.sock.close()
        c.close()
        # its answer was the job's only use: the store forgets it as soon as it ends
        must_come(lambda: not jobs())
        self.assertEqual(SERVER.metrics()['anneal_jobs_total{state="cancelled"}'], before + 1)


class Jobs(unittest.TestCase):
    def wait(self, job, key=None):
        until = time.time() + patience(40)
        while time.time() < until:
            status, j = SERVER.get('/v1/jobs/' + job, key)
            self.assertEqual(status, 200)
            if j['state'] not in ('queued', 'running'):
                return j
            time.sleep(0.02)
        self.fail(f'the job did not end: {j}')

    def test_life_of_a_job(self):
        status, j = SERVER.post('/v1/jobs', dict(QUICK, kind='image'))
        self.assertEqual(status, 202)
        self.assertIn(j['state'], ('queued', 'running'))
        done = self.wait(j['id'])
        self.assertEqual(done['state'], 'done')
        self.assertEqual((done['step'], done['steps']), (2, 2))
        self.assertIsNone(done['error'])
        self.assertEqual(base64.b64decode(done['result']['data'][0]['b64_json']), SERVER.images(**QUICK)[0])

    def test_events(self):
        status, j = SERVER.post('/v1/jobs', dict(QUICK, kind='image', steps=5, partial_images=2))
        events = [(n, d) for n, d in SERVER.events('GET', f"/v1/jobs/{j['id']}/events") if n]
        names = [n for n, _ in events]
        self.assertEqual(names[0], 'queued')
        self.assertEqual(names[-1], 'done')
        self.assertEqual(names.count('preview'), 2)
        self.assertIn('started', names)
        steps = [d['step'] for n, d in events if n == 'step']
        self.assertEqual(steps, sorted(steps))
        self.assertEqual(events[-1][1]['result']['data'][0]['seed'], 3)
        # a late listener still gets the whole story's end
        late = [n for n, _ in SERVER.events('GET', f"/v1/jobs/{j['id']}/events") if n]
        self.assertEqual(late[-1], 'done')

    def test_cancel(self):
        key = {'Authorization': 'Bearer canceller'}
        status, j = SERVER.post('/v1/jobs', dict(LONG, kind='image'), key)
        self.assertEqual(SERVER.delete('/v1/jobs/' + j['id'])[0], 404)  # another client's
        self.assertEqual(SERVER.delete('/v1/jobs/' + j['id'], key)[0], 200)
        done = self.wait(j['id'], key)
        self.assertEqual(done['state'], 'cancelled')
        self.assertEqual(SERVER.delete('/v1/jobs/' + j['id'], key)[0], 200)  # again is harmless
        self.assertEqual(SERVER.get('/v1/jobs/nonsense')[0], 404)

    def test_deadline(self):
        status, j = SERVER.post('/v1/jobs', dict(LONG, kind='image', deadline_ms=30))
        done = self.wait(j['id'])
        self.assertEqual(done['state'], 'failed')
        self.assertIn('deadline', done['error']['message'])

    def test_listener_may_leave(self):
        status, j = SERVER.post('/v1/jobs', dict(LONG, kind='image'))
        stream = SERVER.events('GET', f"/v1/jobs/{j['id']}/events")
        names = (name for name, _ in stream if name)  # without what keeps the connection alive
        self.assertEqual([next(names) for _ in range(3)][0], 'queued')
        stream.close()
        SERVER.delete('/v1/jobs/' + j['id'])
        self.assertEqual(self.wait(j['id'])['state'], 'cancelled')

    def test_lists_own_jobs_only(self):
        a, b = ({'Authorization': 'Bearer ' + k} for k in ('alice', 'bob'))
        SERVER.post('/v1/jobs', dict(QUICK, kind='image'), a)
        self.assertEqual(len(SERVER.get('/v1/jobs', a)[1]['data']), 1)
        self.assertEqual(SERVER.get('/v1/jobs', b)[1]['data'], [])


class A1111(unittest.TestCase):
    def test_txt2img_and_png_info(self):
        ask = dict(prompt='owl', negative_prompt='night, (dark:1.3)', seed=7, steps=3, cfg_scale=5,
                   sampler_name='DPM++ 2M', scheduler='Karras', width=64, height=96, batch_size=2)
        status, body = SERVER.post('/sdapi/v1/txt2img', ask)
        self.assertEqual(status, 200, body)
        info = json.loads(body['info'])
        self.assertEqual(info['all_seeds'], [7, 8])
        self.assertEqual(len(body['images']), 2)
        status, back = SERVER.post('/sdapi/v1/png-info', dict(image=body['images'][1]))
        self.assertEqual(back['info'], info['infotexts'][1])
        p = back['parameters']
        self.assertEqual((p['Prompt'], p['Negative prompt'], p['Seed'], p['Steps'], p['Size-1'], p['Size-2']),
                         ('owl', 'night, (dark:1.3)', '8', '3', 64, 96))
        self.assertEqual((p['Sampler'], p['Schedule type']), ('DPM++ 2M', 'Karras'))

    def test_weights_change_the_picture(self):
        pictures = set()
        for prompt in ('red apple', '(red:1.5) apple', '[red] apple', 'red apple BREAK owl'):
            status, body = SERVER.post('/sdapi/v1/txt2img', dict(prompt=prompt, seed=1, steps=2, width=64, height=64))
            self.assertEqual(status, 200)
            pictures.add(png_pixels(base64.b64decode(body['images'][0])))
        self.assertEqual(len(pictures), 4)

    def test_automatic_scheduler(self):
        ask = dict(prompt='owl', seed=1, steps=3, width=64, height=64, sampler_name='DPM++ 2M Karras')
        a = SERVER.post('/sdapi/v1/txt2img', dict(ask, scheduler='Automatic'))[1]
        b = SERVER.post('/sdapi/v1/txt2img', ask)[1]
        self.assertEqual(png_pixels(base64.b64decode(a['images'][0])), png_pixels(base64.b64decode(b['images'][0])))

    def test_lists(self):
        names = [s['name'] for s in SERVER.get('/sdapi/v1/samplers')[1]]
        for name in ('Euler a', 'DPM++ 2M', 'UniPC', 'DDIM', 'LMS', 'Heun'):
            self.assertIn(name, names)
        self.assertIn('karras', [s['name'] for s in SERVER.get('/sdapi/v1/schedulers')[1]])
        self.assertEqual(SERVER.get('/sdapi/v1/sd-models')[1][0]['model_name'], 'emoji')
        self.assertEqual(SERVER.get('/sdapi/v1/options')[1]['sd_model_checkpoint'], 'emoji')

    def test_progress_and_interrupt_reach_own_jobs_only(self):
        a, b = ({'Authorization': 'Bearer ' + k} for k in ('p1', 'p2'))
        status, j = SERVER.post('/v1/jobs', dict(LONG, kind='image'), a)
        self.assertEqual(SERVER.get('/sdapi/v1/progress', b)[1]['state']['job_count'], 0)
        SERVER.post('/sdapi/v1/interrupt', {}, b)
        p = SERVER.get('/sdapi/v1/progress', a)[1]
        self.assertEqual(p['state']['job_count'], 1)
        self.assertEqual(SERVER.get('/v1/jobs/' + j['id'])[1]['state'] in ('queued', 'running'), True)
        SERVER.post('/sdapi/v1/interrupt', {}, a)
        must_come(lambda: SERVER.get('/v1/jobs/' + j['id'])[1]['state'] == 'cancelled')


class Latents(unittest.TestCase):
    def test_round_trip(self):
        png = SERVER.images(**dict(APPLE, steps=8))[0]
        status, enc = SERVER.post('/v1/latents', dict(image=base64.b64encode(png).decode()))
        self.assertEqual(status, 200, enc)
        self.assertEqual(enc['latents']['shape'], [8, 16, 16])
        status, dec = SERVER.post('/v1/latents', dict(latents=enc['latents']))
        self.assertEqual(status, 200, dec)
        a, b = png_pixels(png)[2], png_pixels(base64.b64decode(dec['data'][0]['b64_json']))[2]
        self.assertLess(compare(a, b)[1], 12)

    def test_bad(self):
        for body, word in ((dict(), 'image'), (dict(image='x', latents={}), 'image'),
                           (dict(image='!!!'), 'base64'), (dict(image='aGVsbG8='), 'PNG'),
                           (dict(latents=dict(shape=[8, 2], data='')), 'shape'),
                           (dict(latents=dict(shape=[8, 2, 2], data='AAAA')), 'bytes'),
                           (dict(latents=dict(shape=[3, 1, 1], data=base64.b64encode(b'\0' * 12).decode())), 'channels'),
                           (dict(latents=dict(shape=[8, 1, 1], data=base64.b64encode(struct.pack('<8f', *[float('nan')] * 8)).decode())), 'finite')):
            status, err = SERVER.post('/v1/latents', body)
            self.assertEqual(status, 400, (body, err))
            self.assertIn(word, err['error']['message'])


class BadInput(unittest.TestCase):
    # (field, value, word that the message must hold)
    CASES = [
        ('prompt', None, 'prompt'), ('prompt', 7, 'string'), ('prompt', ['a'], 'string'),
        ('n', 0, '1 to 4'), ('n', 5, '1 to 4'), ('n', -1, '1 to 4'), ('n', 1.5, 'integer'), ('n', '2', 'integer'),
        ('n', 10 ** 18, '1 to 4'), ('n', True, 'integer'), ('n', {}, 'integer'),
        ('steps', 0, '1 to'), ('steps', -5, '1 to'), ('steps', 10 ** 9, '1 to'), ('steps', 'many', 'integer'),
        ('guidance_scale', -1, '0 to 100'), ('guidance_scale', 101, '0 to 100'), ('guidance_scale', 'x', 'number'),
        ('guidance_rescale', 2, '0 to 1'), ('cfg_scale', 1e300, '0 to 100'),
        ('size', '100x100', '8'), ('size', '0x0', 'size'), ('size', '-8x8', 'size'), ('size', 'big', 'WIDTHxHEIGHT'),
        ('size', '99999999x8', 'width'), ('size', '8x8x8', 'size'), ('size', 512, 'string'), ('size', '100000x8', ''),
        ('width', 12, '8'), ('height', -8, ''),
        ('partial_images', -1, ''), ('partial_images', 3, 'partial_images'),
        ('sampler', 'nonsense', 'euler'), ('sampler', 5, 'string'), ('schedule', 'nonsense', 'karras'),
        ('timestep_spacing', 'sideways', 'linspace'), ('rng', 'dice', 'gpu'), ('seed', -2, ''), ('seed', 'x', 'integer'),
        ('seed', 1.5, 'integer'), ('model', 'nonsense', 'emoji'), ('model', 5, 'string'), ('model', '../../etc', 'emoji'),
        ('output_format', 'gif', 'png'), ('response_format', 'xml', 'b64_json'), ('output_compression', 101, '0 to 100'),
        ('stream', 'yes', 'true'), ('priority', 99, '-10 to 10'), ('deadline_ms', -1, ''), ('user', 5, 'string'),
        ('prompt', 'x' * 20000, '16384'), ('clip_skip', -1, ''),
    ]

    def test_every_bad_value_is_named(self):
        for field, value, word in self.CASES:
            with self.subTest(field=field, value=str(value)[:20]):
                status, body = SERVER.post('/v1/images/generations', dict(QUICK, **{field: value}))
                self.assertIn(status, (400, 404), body)
                e = body['error']
                self.assertEqual(set(e), {'message', 'type', 'param', 'code'})
                self.assertEqual(e['type'], 'invalid_request_error')
                self.assertIn(word, e['message'])
                self.assertIn(e['param'], (field, 'size') if field in ('width', 'height') else (field,))

    def test_not_found_is_404(self):
        for field in ('model', 'sampler'):
            status, body = SERVER.post('/v1/images/generations', dict(QUICK, **{field: 'nonsense'}))
            self.assertEqual(status, 404)
        status, body = SERVER.post('/v1/images/generations', dict(QUICK, model='nonsense'))
        self.assertEqual(body['error']['code'], 'model_not_found')
        status, body = SERVER.post('/sdapi/v1/txt2img', dict(prompt='x', sampler_name='nonsense'))
        self.assertEqual((status, body['error']['param']), (404, 'sampler_name'))

    def test_bad_json(self):
        for text in (b'', b'{', b'[]', b'"x"', b'{"prompt":"a","prompt":"b"}', b'{"prompt":NaN}', b'{"prompt":"a","seed":1e999}',
                     b'{"prompt":"\xff"}', b'{"prompt":"a\\u0000b"}', b'{"prompt":"a"} x', b'{"a":' * 100000,
                     b'{"prompt":"a","seed":99999999999999999999999}', b'\x00', b'{"prompt":"\\ud800"}'):
            status, body = SERVER.post('/v1/images/generations', text)
            self.assertEqual(status, 400, text[:40])
            self.assertEqual(body['error']['type'], 'invalid_request_error')

    def test_too_large_body_is_seen(self):
        status, body = SERVER.post('/v1/images/generations', b'{"prompt":"' + b'a' * (40 << 20) + b'"}')
        self.assertEqual(status, 413)
        self.assertIn('limit', body['error']['message'])

    def test_chunked_body_over_the_limit(self):
        c = SERVER.connect()
        c.putrequest('POST', '/v1/images/generations')
        c.putheader('Transfer-Encoding', 'chunked')
        c.endheaders()
        block = b'a' * 65536
        for _ in range(600):
            c.send(b'%x\r\n%s\r\n' % (len(block), block))
        c.send(b'0\r\n\r\n')
        self.assertEqual(c.getresponse().status, 413)

    def test_methods_and_paths(self):
        status, headers, _ = SERVER.raw('GET', '/v1/images/generations')
        self.assertEqual((status, headers['allow']), (405, 'POST, OPTIONS'))
        self.assertEqual(SERVER.get('/nowhere')[0], 404)
        self.assertEqual(SERVER.get('/v1/jobs/../../etc/passwd')[0], 404)

    def test_broken_http(self):
        for data in (b'GET / HTTP/9.9\r\n\r\n', b'\x16\x03\x01\x00\x00', b'POST /v1/jobs HTTP/1.1\r\nContent-Length: -1\r\n\r\n',
                     b'POST /v1/jobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n-2\r\n', b'GET /' + b'a' * 200000):
            s = socket.create_connection(('127.0.0.1', SERVER.port), timeout=patience(10))
            try:
                s.sendall(data)
                s.settimeout(2)
                s.recv(1000)
            except (socket.timeout, ConnectionError):
                pass
            s.close()
        self.assertEqual(SERVER.get('/health')[0], 200)

    def test_others_are_not_harmed(self):
        expected = SERVER.images(**dict(APPLE, steps=6))
        stop, bad = threading.Event(), []

        def nuisance():
            while not stop.is_set():
                try:
                    bad.append(SERVER.post('/v1/images/generations', dict(APPLE, size='7x7'))[0])
                    SERVER.post('/v1/images/generations', b'{"prompt":')
                except OSError:
                    pass
        threads = [threading.Thread(target=nuisance) for _ in range(3)]
        for t in threads:
            t.start()
        try:
            must_come(lambda: bad, 'they are at it')
            got = [SERVER.images(**dict(APPLE, steps=6)) for _ in range(3)]
        finally:
            stop.set()
            for t in threads:
                t.join()
        self.assertEqual(set(bad), {400})
        self.assertTrue(all(g == expected for g in got))


class Status(unittest.TestCase):
    def test_models(self):
        status, body = SERVER.get('/v1/models')
        self.assertEqual(body['data'][0]['id'], 'emoji')
        self.assertEqual(SERVER.get('/v1/models/emoji')[1]['size'], '128x128')
        self.assertEqual(SERVER.get('/v1/models/nope')[0], 404)

    def test_metrics(self):
        SERVER.images(**QUICK)
        values = SERVER.metrics()
        self.assertGreater(values['anneal_images_total'], 0)
        self.assertGreater(values['anneal_request_seconds_count'], 0)
        self.assertEqual(values['anneal_request_seconds_bucket{le="+Inf"}'], values['anneal_request_seconds_count'])
        self.assertIn('anneal_jobs_total{state="refused"}', values)


class Stopping(unittest.TestCase):
    def test_what_ran_is_not_asked_elsewhere(self):
        """503 says to proxies that nothing was computed. A job that the server's end cut in the middle is 500."""
        s = Server('--grace', '0', '--max-running', '1', '--max-batch', '1')
        ask = json.dumps(dict(prompt='owl', size='512x512', steps=150, n=10, seed=1))
        clients = []
        for counted, most in (('running', 1), ('queued', 1)):
            c = s.connect()
            c.request('POST', '/v1/images/generations', ask, {'Content-Type': 'application/json'})
            clients.append(c)
            until = time.time() + patience(20)
            while s.get('/health')[1][counted] < most:
                self.assertLess(time.time(), until)
                time.sleep(.01)
        s.process.send_signal(signal.SIGTERM)
        said = []
        for c in clients:
            r = c.getresponse()
            said.append((r.status, json.loads(r.read())['error']['code'], r.getheader('Retry-After')))
            c.close()
        self.assertEqual(said, [(500, 'shutting_down', None), (503, 'shutting_down', '1')])
        self.assertEqual(s.process.wait(patience(30)), 0)


class Keys(unittest.TestCase):
    def test_api_key(self):
        s = Server('--api-key', 'sesame', '--cors-origin', 'https://example.org', '--device', 'cpu')
        try:
            self.assertEqual(s.get('/health')[0], 200)
            self.assertEqual(s.get('/v1/models')[0], 401)
            self.assertEqual(s.get('/v1/models', {'Authorization': 'Bearer wrong'})[0], 401)
            status, headers, _ = s.raw('GET', '/v1/models', headers={'Authorization': 'Bearer sesame', 'Origin': 'https://example.org'})
            self.assertEqual((status, headers['access-control-allow-origin']), (200, 'https://example.org'))
            self.assertEqual(s.raw('OPTIONS', '/v1/models')[0], 204)
        finally:
            self.assertEqual(s.stop(), 0)


if __name__ == '__main__':
    unittest.main(verbosity=1)
