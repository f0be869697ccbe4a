"""HTTP itself, on bare sockets: what a careless or hostile client does to a connection, and what the
server holds against it. No test here needs a good picture, so all are small."""
import base64, contextlib, json, os, re, socket, subprocess, sys, threading, time, unittest
sys.path.insert(0, os.path.dirname(__file__))
from harness import *

SERVER = None


def setUpModule():
    global SERVER
    SERVER = Server('--max-body-bytes', '1M', *MAY_BE_LONG, '--keepalive', '0.2', '--max-sse', '8', '--allow-host', '*')


def tearDownModule():
    assert SERVER.stop() == 0


class Wire:
    """A connection that sends exactly what it is told and reads whole answers."""

    def __init__(self, server=None, timeout=patience(60)):
        self.sock = socket.create_connection(('127.0.0.1', (server or SERVER).port), timeout=timeout)
        self.rest = b''

    def send(self, data):
        self.sock.sendall(data if isinstance(data, bytes) else data.encode('latin-1'))

    def request(self, method, path, body=b'', *headers):
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        lines = [f'{method} {path} HTTP/1.1', 'Host: x', f'Content-Length: {len(body)}', *headers]
        self.send('\r\n'.join(lines) + '\r\n\r\n')
        self.send(body)

    def fill(self):
        data = self.sock.recv(65536)
        self.rest += data
        return bool(data)

    def head(self):
        """(status, {header: value}); None when the server hung up before it said anything."""
        while b'\r\n\r\n' not in self.rest:
            if not self.fill():
                return None
        head, self.rest = self.rest.split(b'\r\n\r\n', 1)
        lines = head.decode('latin-1').split('\r\n')
        return int(lines[0].split()[1]), {k.lower(): v.strip() for k, v in (l.split(':', 1) for l in lines[1:])}

    def answer(self, body=True):
        """(status, headers, body)"""
        status, headers = self.head()
        n = int(headers.get('content-length', 0)) if body else 0
        while len(self.rest) < n:
            assert self.fill(), 'the answer is cut off'
        out, self.rest = self.rest[:n], self.rest[n:]
        return status, headers, out

    def close(self):
        self.sock.close()


class Connections(unittest.TestCase):
    def test_keep_alive_after_every_kind_of_answer(self):
        w = Wire()
        cases = [('GET', '/health', b'', 200), ('POST', '/v1/images/generations', TINY, 200),
                 ('POST', '/v1/images/generations', dict(TINY, n=0), 400), ('GET', '/nowhere', b'', 404),
                 ('POST', '/sdapi/v1/png-info', dict(image='!'), 400), ('PUT', '/health', b'x', 405),
                 ('POST', '/v1/images/generations', b'{', 400), ('POST', '/sdapi/v1/txt2img', dict(TINY), 200),
                 ('POST', '/v1/images/generations', b' ' * (1 << 20) + b' ', 413), ('GET', '/health', b'', 200)]
        for method, path, body, status in cases:
            w.request(method, path, body)
            got = w.answer()
            self.assertEqual(got[0], status, (path, got))
            self.assertNotEqual(got[1].get('connection', '').lower(), 'close', path)
        w.close()

    def test_pipelined_requests_are_answered_in_order(self):
        w = Wire()
        for seed in (1, 2, 3):
            w.request('POST', '/v1/images/generations', dict(TINY, seed=seed))
        w.request('GET', '/health')
        self.assertEqual([json.loads(w.answer()[2])['data'][0]['seed'] for _ in range(3)], [1, 2, 3])
        self.assertEqual(w.answer()[0], 200)
        w.close()

    def test_body_in_many_pieces(self):
        w, body = Wire(), json.dumps(TINY).encode()
        w.send(f'POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n')
        for byte in body:
            w.send(bytes([byte]))
        self.assertEqual(w.answer()[0], 200)
        w.send('POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n')
        for i in range(0, len(body), 7):
            w.send(b'%x;ext=1\r\n%s\r\n' % (len(body[i:i + 7]), body[i:i + 7]))
        w.send('0\r\nTrailer: x\r\n\r\n')
        self.assertEqual(w.answer()[0], 200)
        w.close()

    def test_head_and_options(self):
        w = Wire()
        for path in ('/health', '/v1/models', '/'):
            w.request('HEAD', path)
            status, headers, _ = w.answer(body=False)
            self.assertEqual(status, 200)
            self.assertGreater(int(headers['content-length']), 10)
        w.request('OPTIONS', '/v1/images/generations')
        status, headers, _ = w.answer()
        self.assertEqual((status, headers['allow']), (204, 'POST, OPTIONS'))
        self.assertNotIn('access-control-allow-origin', headers)
        w.request('OPTIONS', '/nowhere')
        self.assertEqual(w.answer()[0], 404)
        w.close()

    def test_http_1_0(self):
        w = Wire()
        w.send('GET /health HTTP/1.0\r\n\r\n')
        self.assertEqual(w.answer()[0], 200)
        self.assertFalse(w.fill())  # closed
        w.close()


class Bodies(unittest.TestCase):
    def test_expect_continue(self):
        w, body = Wire(), json.dumps(TINY).encode()
        w.send(f'POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n')
        self.assertEqual(w.head()[0], 100)
        w.send(body)
        self.assertEqual(w.answer()[0], 200)
        w.close()

    def test_what_will_be_refused_need_not_be_sent(self):
        for path, length, status in (('/v1/images/generations', 2 << 20, 413), ('/nowhere', 100, 404), ('/health', 5, 405)):
            w = Wire()
            w.send(f'POST {path} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n')
            self.assertEqual(w.answer()[0], status)
            w.close()

    def test_a_body_past_all_bounds_is_not_read(self):
        w = Wire()
        w.send(f'POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nContent-Length: {1 << 40}\r\n\r\n')
        self.assertEqual(w.answer()[0], 413)
        w.close()
        w = Wire()
        w.send('POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n')
        with self.assertRaises(OSError):
            for _ in range(10000):  # 640 MB
                w.send(b'10000\r\n' + b'a' * 65536 + b'\r\n')
        w.close()

    def test_clients_that_die_or_stop_while_sending(self):
        """libmicrohttpd may miss the farewell of a client that sends; the idle time-out does not."""
        s = Server('--idle-timeout', '2')
        ws = []
        for k in range(40):
            w = Wire(s)
            with contextlib.suppress(ConnectionError):  # where this test stood still for longer than the time-out
                w.send('POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n' + 'a' * 100000)
            if k % 2:
                w.close()
            else:
                ws.append(w)
        self.assertTrue(wait_for(lambda: s.metrics()['anneal_http_body_bytes_total'] > 1000000, 10))
        self.assertTrue(wait_for(lambda: s.metrics()['anneal_http_held_bytes'] == 0, 10))
        for w in ws:
            w.close()
        self.assertEqual(s.stop(), 0)

    def test_memory_of_all_bodies_together_is_bounded(self):
        s = Server('--max-held-bytes', '2M', '--max-body-bytes', '512K')
        ws = []
        for _ in range(16):  # sixteen halves of a body, of which two megabytes hold a few
            w = Wire(s)
            w.send('POST /v1/images/generations HTTP/1.1\r\nHost: x\r\nContent-Length: 500000\r\n\r\n' + ' ' * 250000)
            ws.append(w)
        self.assertTrue(wait_for(lambda: s.metrics()['anneal_http_body_bytes_total'] >= 16 * 250000, 10))
        self.assertLess(s.metrics()['anneal_http_held_bytes'], 1 << 20)
        for w in ws:
            w.send(b' ' * 250000)
        statuses = [w.answer()[0] for w in ws]
        self.assertEqual(set(statuses), {400, 503})  # blanks are no JSON; the others had no room
        for w in ws:
            w.close()
        self.assertEqual(s.post('/v1/images/generations', TINY)[0], 200)
        self.assertEqual(s.stop(), 0)

    def test_json_that_is_dear_to_parse(self):
        for body in (b'{"a":[' + b'[],' * 300000 + b'1]}', b'{"a":' + b'[' * 500000, b'{"a":"' + b'\\u0041' * 150000 + b'"}'):
            status, answer = SERVER.post('/v1/images/generations', body)
            self.assertEqual(status, 400, answer)

    def test_large_and_small_bodies_alike(self):
        small = SERVER.post('/v1/images/generations', TINY)
        large = SERVER.post('/v1/images/generations', dict(TINY, ignored='x' * 500000))
        self.assertEqual(large[0], 200)
        self.assertEqual(large[1]['data'], small[1]['data'])
        events = [n for n, _ in SERVER.events('POST', '/v1/images/generations', dict(TINY, stream=True, ignored='x' * 500000)) if n]
        self.assertEqual(events, ['image_generation.completed'])


class HangUps(unittest.TestCase):
    def cancelled(self):
        return SERVER.metrics()['anneal_jobs_total{state="cancelled"}']

    def test_in_every_state(self):
        """Queued, running and streaming: the job goes with its client."""
        blocker = SERVER.post('/v1/jobs', dict(LONG, kind='image', n=10))[1]['id']
        key = 'Authorization: Bearer hanger'
        before = self.cancelled()
        ws = []
        for k in range(6):
            w = Wire()
            w.request('POST', '/v1/images/generations', dict(LONG, stream=k % 2 == 1), key)
            ws.append(w)
        listed = lambda: SERVER.get('/v1/jobs', {'Authorization': 'Bearer hanger'})[1]['data']
        self.assertTrue(wait_for(lambda: len(listed()) == 6, 10))
        for k, w in enumerate(ws):
            if k % 3 == 0:  # reset instead of a farewell
                w.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b'\1\0\0\0\0\0\0\0')
            w.close()
        self.assertTrue(wait_for(lambda: not listed(), 10))
        self.assertEqual(self.cancelled(), before + 6)
        SERVER.delete('/v1/jobs/' + blocker)
        self.assertTrue(wait_for(lambda: SERVER.metrics()['anneal_http_waiting'] == 0, 10))

    def test_while_the_answer_is_made(self):
        for _ in range(30):
            w = Wire()
            w.request('POST', '/v1/images/generations', dict(TINY, size='256x256'))
            time.sleep(.002)
            w.close()
        self.assertTrue(wait_for(lambda: SERVER.metrics()['anneal_http_waiting'] == 0, 10))
        self.assertEqual(SERVER.post('/v1/images/generations', TINY)[0], 200)

    def test_links_of_a_stream_nobody_reads(self):
        """The pictures of a stream are made after its client has gone."""
        for _ in range(20):
            w = Wire()
            w.request('POST', '/v1/images/generations', dict(TINY, n=4, stream=True, response_format='url'))
            w.head()
            w.close()
        self.assertTrue(wait_for(lambda: SERVER.metrics()['anneal_http_streams'] == 0, 10))


class Streams(unittest.TestCase):
    def test_keep_alives(self):
        job = SERVER.post('/v1/jobs', dict(LONG, kind='image', n=10))[1]['id']
        queued = SERVER.post('/v1/jobs', dict(LONG, kind='image', n=10, priority=-10))[1]['id']
        w = Wire()
        w.request('GET', f'/v1/jobs/{queued}/events')
        self.assertEqual(w.head()[0], 200)
        self.assertTrue(wait_for(lambda: w.fill() and (b'keep-alive' in w.rest or b'event: step' in w.rest), 10))
        w.close()
        SERVER.delete('/v1/jobs/' + job)
        SERVER.delete('/v1/jobs/' + queued)

    def test_too_many(self):
        job = SERVER.post('/v1/jobs', dict(LONG, kind='image', n=10))[1]['id']
        ws = []
        for _ in range(8):
            w = Wire()
            w.request('GET', f'/v1/jobs/{job}/events')
            self.assertEqual(w.head()[0], 200)
            ws.append(w)
        w = Wire()
        w.request('GET', f'/v1/jobs/{job}/events')
        status, headers, body = w.answer()
        self.assertEqual((status, headers['retry-after']), (429, '1'))
        for k in ws + [w]:
            k.close()
        SERVER.delete('/v1/jobs/' + job)
        self.assertTrue(wait_for(lambda: SERVER.metrics()['anneal_http_streams'] == 0, 10))

    def test_a_slow_reader_costs_bounded_memory(self):
        """Previews of every step, none of which is read: the job ends, the buffer stays small."""
        s = Server('--idle-timeout', '3600')
        w = Wire(s)
        w.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
        w.request('POST', '/v1/images/generations',
                  dict(TINY, size='128x128', steps=60, partial_images=60, stream=True))
        self.assertEqual(w.head()[0], 200)
        held = []

        def done():
            m = s.metrics()
            held.append(m['anneal_http_held_bytes'])
            return m['anneal_jobs_total{state="done"}'] == 1
        must_come(done, 'the job does not wait for its reader')
        self.assertLess(max(held), 4 << 20)
        w.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        while b'image_generation.completed' not in w.rest[-100000:]:
            self.assertTrue(w.fill(), 'the stream was cut off')
        w.close()
        self.assertEqual(s.stop(), 0)


class Words(unittest.TestCase):
    """Where a client's words appear again."""

    def test_odd_paths(self):
        for path, status in (('/v1/models/emoji', 200), ('/v1/models/%65moji', 200), ('/v1/models/%00', 404), ('/v1/jobs/%2e%2e%2f', 404),
                             ('/v1/models/%ff%fe', 404), ('/%', 404), ('//', 404), ('/v1/models/' + 'a' * 300, 404),
                             ('/v1/jobs/x/events', 404), ('/v1/files/zzz', 404), ('/v1/files/%0d%0aX:%20y', 404)):
            w = Wire()
            w.request('GET', path)
            got = w.answer()
            self.assertEqual(got[0], status, (path, got))
            json.loads(got[2])
            self.assertNotIn('x', got[1])
            w.close()

    def test_odd_methods(self):
        for method in ('BREW', 'G\xc4T', 'A' * 100):
            w = Wire()
            w.send(f'{method} /health HTTP/1.1\r\nHost: x\r\n\r\n')
            got = w.head()
            self.assertIn(got and got[0], (None, 400, 405, 501))
            w.close()

    def test_messages_are_utf8_wherever_they_are_cut(self):
        for n in range(4):
            name = 'x' * n + '\u20ac' * 80
            for fields in (dict(TINY, model=name), dict(TINY, sampler=name), dict(TINY, size=name[:20]), dict(TINY, rng=name)):
                status, body = SERVER.post('/v1/images/generations', fields)
                self.assertIn(status, (400, 404))
                self.assertIn('\u20ac', body['error']['message'])
            warnings = SERVER.post('/v1/images/generations', dict(TINY, **{name: 1}))[1]['warnings']
            self.assertIn('\u20ac', warnings[0])

    def test_links_take_no_strange_hosts(self):
        own = f'http://127.0.0.1:{SERVER.port}/v1/files/'
        for host, prefix in (('a.example:8080', 'http://a.example:8080/v1/files/'), ('[::1]:80', 'http://[::1]:80/v1/files/'),
                             ('a.example/x?', own), ('a"b', own), ('u@h', own), ('a' * 300, own), ('\xff', own)):
            w, body = Wire(), json.dumps(dict(TINY, response_format='url')).encode()
            w.send(f'POST /v1/images/generations HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n')
            w.send(body)
            status, _, answer = w.answer()
            self.assertEqual(status, 200, host)
            self.assertTrue(json.loads(answer)['data'][0]['url'].startswith(prefix), (host, answer))
            w.close()

    def test_the_log_has_one_line_a_request(self):
        s = Server('--log-level', 'debug')
        w = Wire(s)
        w.request('GET', '/v1/models/%0a12:00:00.000%20error%20forged%1b%5b31m')
        self.assertEqual(w.answer()[0], 404)
        w.close()
        log = s.output()
        self.assertIn('forged', log)
        self.assertFalse([l for l in log.splitlines() if l.startswith('12:00:00.000 error')])
        self.assertNotIn('\x1b', log)
        self.assertEqual(s.stop(), 0)


class Keys(unittest.TestCase):
    def test_without_a_key(self):
        s = Server('--api-key', 'sesame,other', '--cors-origin', 'https://example.org', '--max-body-bytes', '64K')
        for header, status in ((None, 401), ('Bearer sesam', 401), ('Bearer sesamesesame', 401), ('Bearer  sesame ', 200),
                               ('bearer other', 200), ('Bearer', 401), ('Basic sesame', 401), ('Bearer \xff', 401)):
            w = Wire(s)
            w.request('GET', '/v1/models', b'', *([f'Authorization: {header}'] if header else []))
            got = w.answer()
            self.assertEqual(got[0], status, header)
            self.assertEqual(got[1]['vary'], 'Origin')
            w.close()
        # the other header is looked at where there is no token
        for headers, status in ((['X-Api-Key: sesame'], 200), (['x-api-key:  other '], 200), (['X-Api-Key: sesam'], 401), (['X-Api-Key:'], 401),
                                (['Authorization: Basic sesame', 'X-Api-Key: sesame'], 200),
                                (['Authorization: Bearer wrong', 'X-Api-Key: sesame'], 401)):
            w = Wire(s)
            w.request('GET', '/v1/models', b'', *headers)
            got = w.answer()
            self.assertEqual(got[0], status, headers)
            if status == 401:
                self.assertIn(b'X-Api-Key', got[2])
            w.close()
        # nothing of a stranger's body is kept, and nothing is told of paths
        w = Wire(s)
        w.send('POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n' + ' ' * 50000)
        self.assertTrue(wait_for(lambda: 'anneal_http_body_bytes_total 50000\n' in s.raw('GET', '/metrics', headers={'Authorization': 'Bearer other'})[2].decode(), 10))
        self.assertIn('anneal_http_held_bytes 0\n', s.raw('GET', '/metrics', headers={'Authorization': 'Bearer other'})[2].decode())
        w.send(b' ' * 10000)
        self.assertEqual(w.answer()[0], 401)
        w.request('GET', '/nowhere')
        self.assertEqual(w.answer()[0], 401)
        w.request('OPTIONS', '/v1/jobs', b'', 'Origin: https://example.org', 'Access-Control-Request-Method: POST',
                  'Access-Control-Request-Headers: authorization,x-stainless-os')
        status, headers, _ = w.answer()
        self.assertEqual((status, headers['access-control-allow-headers']), (204, 'authorization,x-stainless-os'))
        self.assertEqual(headers['access-control-allow-origin'], 'https://example.org')
        w.close()
        self.assertEqual(s.stop(), 0)


class Starting(unittest.TestCase):
    def run_binary(self, *args, timeout=patience(60)):
        p = subprocess.run([ANNEAL, *args], capture_output=True, text=True, timeout=timeout)
        return p.returncode, p.stdout, p.stderr

    def test_a_taken_port_is_an_error_at_once(self):
        code, _, err = self.run_binary('serve', '--port', str(SERVER.port))
        self.assertEqual(code, 1)
        self.assertIn('Address already in use', err)
        self.assertIn('--port', err)
        self.assertNotIn('loaded', err)

    def test_wrong_addresses_and_options(self):
        for args, word in ((('--host', 'no.such.host.invalid'), 'no.such.host.invalid'), (('--host', '192.0.2.1'), '192.0.2.1'),
                           (('--nonsense', '1'), '--help'), (('--port', '99999'), '65535')):
            code, _, err = self.run_binary('serve', *args)
            self.assertIn(code, (1, 2))
            self.assertIn(word, err)

    def test_help(self):
        for args in (('--help',), ('serve', '--help')):
            code, out, _ = self.run_binary(*args)
            self.assertEqual(code, 0)
            self.assertIn('serve', out)
        self.assertIn('ANNEAL_MAX_QUEUE', out)
        self.assertIn('curl', SERVER.raw('GET', '/')[2].decode())


if __name__ == '__main__':
    unittest.main(verbosity=1)
