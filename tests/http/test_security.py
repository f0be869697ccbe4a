"""What docs/SECURITY.md promises, asked of a real server: keys and their limits, TLS, pages of other sites, names of
this machine, requests that proxies could read otherwise, request ids, and what logs hold."""
import base64, calendar, fcntl, json, os, pty, re, select, shutil, signal, socket, ssl, stat, struct, subprocess, sys, tempfile, termios, threading, time, unittest
sys.path.insert(0, os.path.dirname(__file__))
from harness import *
from test_wire import Wire

SERVER = None
TMP = tempfile.mkdtemp(prefix='anneal-security-')
JSON = 'Content-Type: application/json'
LET_IN = 404  # what POST /tokenize answers where there is no language model: it was read and understood


def setUpModule():
    global SERVER
    SERVER = Server('--allow-host', 'gpu.lan', '--max-body-bytes', '64K', '--max-header-bytes', '16K')


def tearDownModule():
    code = SERVER.stop()
    shutil.rmtree(TMP, ignore_errors=True)
    assert code == 0, code


END = 'GET /health HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: the-end\r\nConnection: close\r\n\r\n'


def ask(server, data):
    """What comes back to these bytes on a connection of their own: (statuses, headers of the first, everything). One
    request more ends the dialogue, where the server does not: so nobody waits for a time-out."""
    w = Wire(server, patience(30))
    w.send(data + END.encode())
    try:
        while w.fill():
            pass
    except ConnectionError:  # it did not read to the end
        pass
    w.close()
    answers = re.split(rb'(?=HTTP/1\.1 \d{3} )', w.rest)[1:]
    if answers and b'X-Request-Id: the-end\r' in answers[-1]:
        answers.pop()
    lines = answers[0].split(b'\r\n\r\n', 1)[0].decode('latin-1').split('\r\n') if answers else []
    headers = {k.lower(): v.strip() for k, v in (l.split(':', 1) for l in lines[1:] if ':' in l)}
    return [int(a[9:12]) for a in answers], headers, b''.join(answers)


def request(method, path, *headers, body=b'', host='x'):
    lines = [f'{method} {path} HTTP/1.1', *([f'Host: {host}'] if host is not None else []), *headers]
    if body:
        lines.append(f'Content-Length: {len(body)}')
    return ('\r\n'.join(lines) + '\r\n\r\n').encode('latin-1') + body


def run_binary(*args, env=None, timeout=patience(60)):
    p = subprocess.run([ANNEAL, *args], capture_output=True, text=True, timeout=timeout, env={**os.environ, **(env or {})})
    return p.returncode, p.stdout, p.stderr


def write(name, text, mode=0o644):
    """A file put in place whole, as editors and orchestrators do it."""
    path = os.path.join(TMP, name)
    with open(path + '.new', 'w') as f:
        f.write(text)
    os.chmod(path + '.new', mode)
    os.replace(path + '.new', path)
    return path


def make_key(name, *args):
    """(secret, line)"""
    code, out, err = run_binary('key', name, *args)
    assert code == 0, err
    found = re.fullmatch(r'secret: (sk-anneal-[\w-]{43})\nline:   (.*)\n', out)
    assert found, out
    return found.groups()


def bearer(secret):
    return {'Authorization': 'Bearer ' + secret}


class Framing(unittest.TestCase):
    """Where a request ends must be beyond doubt."""
    BODY = b'{"content":"a"}'
    CHUNKED = b'f\r\n{"content":"a"}\r\n0\r\n\r\n'

    def test_shapes(self):
        """Each is followed by a second request, which must not be answered once the first was refused: nobody knows
        whose bytes those are."""
        second = request('GET', '/v1/models/x')

        def post(*headers, body=self.BODY, version='1.1'):
            return ('\r\n'.join([f'POST /tokenize HTTP/{version}', 'Host: x', *headers]) + '\r\n\r\n').encode('latin-1') + body
        cl, te = 'Content-Length: 15', 'Transfer-Encoding: chunked'
        cases = [
            ('one length', post(cl), [LET_IN, 404]),
            ('chunked', post(te, body=self.CHUNKED), [LET_IN, 404]),
            ('chunked, by tab', post('Transfer-Encoding:\tChunked', body=self.CHUNKED), [LET_IN, 404]),
            ('lengths that agree', post(cl, cl), [400]),
            ('lengths that do not', post('Content-Length: 3', cl), [400]),
            ('lengths in a list', post('Content-Length: 15, 15'), [400]),
            ('a sign', post('Content-Length: +15'), [400]),
            ('less than nothing', post('Content-Length: -1'), [400]),
            ('hexadecimal', post('Content-Length: 0x0f'), [400]),
            ('no digits', post('Content-Length: '), [400]),
            ('past 2^64', post('Content-Length: 99999999999999999999999'), [413]),
            ('length and coding', post('Content-Length: 5', te, body=self.CHUNKED), [400]),
            ('coding and length', post(te, 'Content-Length: 5', body=self.CHUNKED), [400]),
            ('another coding', post('Transfer-Encoding: xchunked', body=self.CHUNKED), [501]),
            ('two codings', post('Transfer-Encoding: gzip, chunked', body=self.CHUNKED), [501]),
            ('two codings, apart', post('Transfer-Encoding: identity', te, body=self.CHUNKED), [501]),
            ('a vertical tab', post('Transfer-Encoding: \x0bchunked', body=self.CHUNKED), [501]),
            ('a blank before the colon', post('Content-Length : 15'), [400]),
            ('and with the coding', post('Transfer-Encoding : chunked', body=self.CHUNKED), [400]),
            ('an odd name', post('X\x01Y: 1', cl), [400]),
            ('HTTP/1.0 and chunks', post('Connection: keep-alive', te, body=self.CHUNKED, version='1.0'), [400]),
            ('no chunk', post(te, body=b'zz\r\n' + self.CHUNKED), [400]),
            ('a chunk of less than nothing', post(te, body=b'-' + self.CHUNKED), [400]),
            ('a chunk past 2^64', post(te, body=b'ffffffffffffffff0\r\n' + self.BODY), [413]),
            ('no host', request('GET', '/health', host=None), [400]),
            ('two hosts', request('GET', '/health', 'Host: y'), [400]),
            ('a header without a colon', request('GET', '/health', 'nonsense'), [400]),
            ('HTTP/2', b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', [505]),
            ('HTTP/0.9', b'GET /health\r\n\r\n', [400]),
        ]
        for name, data, statuses in cases:
            with self.subTest(name):
                got, headers, text = ask(SERVER, data + second)
                if b'wrong value for <b>Content-Length' in text or b'too large value for <b>Content-Length' in text:
                    self.assertEqual(got, 2 * statuses)  # libmicrohttpd's own; 0.9.75 writes the head twice, and closes
                    got = statuses
                self.assertEqual(got, statuses, text)
                if len(statuses) == 1 and got != [LET_IN]:
                    self.assertEqual(headers.get('connection', '').lower(), 'close')
        got, _, _ = ask(SERVER, b'GET /health HTTP/1.0\r\n\r\n')  # needs no Host
        self.assertEqual(got, [200])

    def test_what_is_refused_here_speaks(self):
        for data, word in ((request('GET', '/health', host=None), b'Host'), (request('POST', '/tokenize', 'Transfer-Encoding: zip'), b'chunked'),
                           (request('POST', '/tokenize', 'Content-Length: 1', 'Content-Length: 1'), b'Content-Length')):
            _, headers, text = ask(SERVER, data)
            error = json.loads(text.split(b'\r\n\r\n', 1)[1])['error']
            self.assertEqual((error['type'], error['code']), ('invalid_request_error', 'malformed_request'))
            self.assertIn(word.decode(), error['message'])
            self.assertEqual(len(headers['x-request-id']), 32)

    def test_sizes(self):
        for data, status in ((request('GET', '/health', 'X: ' + 'a' * 40000), 431), (request('GET', '/health', *['X: a'] * 5000), 431),
                             (request('GET', '/' + 'a' * 40000), 414), (request('GET', '/health', 'X: ' + 'a' * 8000), 200),
                             (request('POST', '/tokenize', JSON, body=b' ' * 70000), 413)):
            got, _, _ = ask(SERVER, data)
            self.assertEqual(got, [status], data[:60])


class Requests(unittest.TestCase):
    def test_paths(self):
        for path, status in (('/health', 200), ('/health?x=1', 200), ('/health?%00=%00&&=%', 200), ('http://x/health', 200), ('HTTP://x:80/health?a', 200),
                             ('http://x', 200), ('/health/', 404), ('//health', 404), ('/./health', 404), ('/v1/../health', 404), ('/health%00', 404),
                             ('/health%00x', 404), ('/%68ealth', 404), ('/v1%2Fmodels', 404), ('/v1/models/%65moji', 200), ('/v1/models/emoji%00', 404),
                             ('/v1/models/%2e%2e%2femoji', 404), ('/v1/models/emoji/', 404), ('/v1/models/', 404), ('/v1/models/%zz', 404),
                             ('/v1/models/emoji%', 404), ('/health;x', 404), ('health', 404), ('/HEALTH', 404), ('/props?model=%65moji', 404),
                             ('/%0d%0aX-Injected:%201', 404), ('/health#x', 404)):
            with self.subTest(path):
                got, headers, text = ask(SERVER, request('GET', path))
                self.assertEqual(got, [status], text)
                self.assertNotIn('x-injected', headers)
        _, _, text = ask(SERVER, request('GET', '/v1/models/'))
        self.assertIn(b'without the slash', text)
        _, _, text = ask(SERVER, request('GET', '/nowhere/'))
        self.assertNotIn(b'without the slash', text)

    def test_queries_are_decoded_once(self):
        ask_for = lambda q: ask(SERVER, request('GET', '/props?' + q))[2].decode()
        self.assertIn("'a b/c%'", ask_for('model=a+b%2Fc%25'))
        self.assertNotIn("'a", ask_for('model=a%00'))

    def test_methods(self):
        for method, path, status, allow in (('HEAD', '/health', 200, None), ('HEAD', '/v1/models', 200, None), ('HEAD', '/metrics', 200, None),
                                            ('HEAD', '/', 200, None), ('HEAD', '/v1/images/generations', 405, 'POST, OPTIONS'),
                                            ('OPTIONS', '/v1/models', 204, 'GET, HEAD, OPTIONS'), ('OPTIONS', '/v1/jobs', 204, 'POST, GET, HEAD, OPTIONS'),
                                            ('OPTIONS', '/v1/jobs/x', 204, 'GET, HEAD, DELETE, OPTIONS'), ('OPTIONS', '/nowhere', 404, None),
                                            ('OPTIONS', '*', 204, 'GET, HEAD, POST, DELETE, OPTIONS'), ('GET', '*', 404, None),
                                            ('PUT', '/v1/jobs', 405, 'POST, GET, HEAD, OPTIONS'), ('PATCH', '/health', 405, 'GET, HEAD, OPTIONS'),
                                            ('TRACE', '/health', 405, 'GET, HEAD, OPTIONS'), ('DELETE', '/health', 405, 'GET, HEAD, OPTIONS'),
                                            ('POST', '/health', 405, 'GET, HEAD, OPTIONS'), ('CONNECT', 'x:443', 501, None), ('BREW', '/health', 501, None),
                                            ('get', '/health', 501, None), ('PROPFIND', '/nowhere', 501, None)):
            with self.subTest((method, path)):
                got, headers, text = ask(SERVER, request(method, path))
                self.assertEqual((got, headers.get('allow')), ([status], allow), text)
                if method == 'HEAD':
                    self.assertTrue(text.endswith(b'\r\n\r\n'))
                    self.assertGreater(int(headers['content-length']), 0)
                    if status == 200 and path != '/metrics':  # the same length as GET's
                        self.assertAlmostEqual(int(headers['content-length']), int(ask(SERVER, request('GET', path))[1]['content-length']), delta=20)

    def test_every_route(self):
        """HEAD answers what GET does, and OPTIONS knows the methods; by the server's own list of routes."""
        routes = SERVER.get('/openapi.json')[1]['paths']
        self.assertGreater(len(routes), 30)
        for path, methods in routes.items():
            path = re.sub(r'\{\w+\}', 'emoji' if path.startswith('/v1/models') else 'x', path)
            known = {m.upper() for m in methods} & {'GET', 'POST', 'DELETE', 'PUT'}
            with self.subTest(path):
                got, headers, text = ask(SERVER, request('OPTIONS', path))
                self.assertEqual((got, set(headers['allow'].split(', '))), ([204], known | {'OPTIONS'} | ({'HEAD'} if 'GET' in known else set())))
                head, get = (ask(SERVER, request(m, path)) for m in ('HEAD', 'GET'))
                self.assertEqual(head[0], get[0])
                self.assertEqual(head[2].split(b'\r\n\r\n', 1)[1], b'')
                self.assertEqual(head[1].get('content-type'), get[1].get('content-type'))

    def test_head_of_a_stream(self):
        job = SERVER.post('/v1/jobs', dict(TINY, kind='image'))[1]['id']
        got, headers, text = ask(SERVER, request('HEAD', f'/v1/jobs/{job}/events'))
        self.assertEqual(got, [200])
        self.assertTrue(headers['content-type'].startswith('text/event-stream') and text.endswith(b'\r\n\r\n'))
        self.assertTrue(wait_for(lambda: SERVER.metrics()['anneal_http_streams'] == 0))

    def test_media_types(self):
        body = b'{"content":"a"}'
        for headers, status in ((['Content-Type: application/json'], LET_IN), (['Content-Type: application/json; charset=utf-8'], LET_IN), ([], LET_IN),
                                (['Content-Type: application/x-www-form-urlencoded'], 415), (['Content-Type: text/plain'], 415),
                                (['Content-Type: multipart/form-data; boundary=x'], 415), (['Content-Type: '], 415),
                                (['Content-Type: application/json', 'Content-Encoding: gzip'], 415)):
            got, answer, text = ask(SERVER, request('POST', '/tokenize', *headers, body=body))
            self.assertEqual(got, [status], headers)
            if status == 415:
                self.assertEqual(answer['accept-encoding'], 'identity')
                self.assertIn(b'application/json' if len(headers) == 1 else b'Content-Encoding', text)
        # no body, no type needed; and refused before it is sent
        self.assertEqual(ask(SERVER, request('POST', '/sdapi/v1/interrupt', 'Content-Type: text/plain', 'Content-Length: 0'))[0], [200])
        w = Wire(SERVER)
        w.send(request('POST', '/tokenize', 'Content-Type: text/plain', 'Content-Length: 5', 'Expect: 100-continue'))
        self.assertEqual(w.answer()[0], 415)
        w.close()

    def test_request_ids(self):
        for sent, kept in (('abc', True), ('A-1_b.c', True), ('a' * 64, True), ('a' * 65, False), ('a b', False), ('a"b', False), ('\xe4', False), ('', False)):
            for path, status in (('/health', 200), ('/nowhere', 404)):
                got, headers, _ = ask(SERVER, request('GET', path, 'X-Request-Id: ' + sent))
                self.assertEqual(got, [status])
                self.assertEqual(headers['x-request-id'] == sent, kept, sent)
                self.assertRegex(headers['x-request-id'], r'^[\w.-]{1,64}$')
        ids = {ask(SERVER, request('GET', '/health'))[1]['x-request-id'] for _ in range(20)}
        self.assertEqual(len(ids), 20)


class Browsers(unittest.TestCase):
    """A page of any site can send requests to this machine."""

    def test_changing(self):
        host = f'127.0.0.1:{SERVER.port}'
        own, evil = 'Origin: http://' + host, 'Origin: http://evil.example'
        cases = [([], True), ([own], True), ([evil], False), (['Origin: null'], False), (['Sec-Fetch-Site: same-origin', own], True),
                 (['Sec-Fetch-Site: none'], True), (['Sec-Fetch-Site: cross-site', evil], False), (['Sec-Fetch-Site: same-site', 'Origin: http://localhost:3000'], False),
                 (['Sec-Fetch-Site: cross-site'], False), (['Sec-Fetch-Site: same-origin', 'Origin: https://public.example'], True)]
        for headers, fine in cases:
            for method, path, status in (('POST', '/sdapi/v1/interrupt', 200), ('POST', '/detokenize', 400), ('DELETE', '/v1/jobs/x', 404), ('PUT', '/health', 405)):
                got, answer, text = ask(SERVER, request(method, path, *headers, host=host))
                self.assertEqual(got, [status if fine else 403], (headers, method, path))
                self.assertNotIn('access-control-allow-origin', answer)
                if not fine:
                    self.assertIn(b'--cors-origin', text)
            # looking does no harm, and what is seen cannot be read by the page
            self.assertEqual(ask(SERVER, request('GET', '/v1/models', *headers, host=host))[0], [200])

    def test_a_page_cannot_make_pictures(self):
        """All that a page may send without being asked for leave."""
        body = json.dumps(TINY).encode()
        before = SERVER.metrics()['anneal_images_total']
        for kind in ('text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data; boundary=x'):
            for site in (['Origin: http://evil.example'], []):
                got, _, _ = ask(SERVER, request('POST', '/v1/images/generations', 'Content-Type: ' + kind, *site, body=body))
                self.assertEqual(got, [403 if site else 415])
        self.assertEqual(ask(SERVER, request('OPTIONS', '/v1/images/generations', 'Origin: http://evil.example', 'Access-Control-Request-Method: POST',
                                             'Access-Control-Request-Headers: content-type'))[1].get('access-control-allow-methods'), None)
        self.assertEqual(SERVER.metrics()['anneal_images_total'], before)

    def test_names_of_this_machine(self):
        for host, status in (('localhost', 200), (f'localhost:{SERVER.port}', 200), ('127.0.0.1', 200), ('[::1]:80', 200), ('x', 200), ('a.localhost', 200), ('gpu.lan:1', 200),
                             ('evil.example', 403), (f'evil.example:{SERVER.port}', 403), ('127.0.0.1.evil.example', 403), ('localhost.evil.example', 403)):
            for method, path in (('GET', '/health'), ('GET', '/v1/jobs'), ('OPTIONS', '/v1/jobs')):
                got, _, text = ask(SERVER, request(method, path, host=host))
                self.assertEqual(got, [status if method == 'GET' or status == 403 else 204], host)
                if status == 403:
                    self.assertIn(b'--allow-host', text)
        # DNS takes any byte, and names of up to 255: what is no usual name is not let in as if it were none
        long = '.'.join(['a' * 62] * 4)
        for host in (long[:245] + '.evil.io', long + '.evil.io', 'a' * 300, 'a!.evil.io', 'a!', 'u@evil.example', 'a%2eb', 'a b.evil.io', '\xff.evil.io', 'evil.io\\'):
            for data in (request('GET', '/v1/jobs', host=host), request('GET', f'http://{host}/v1/jobs', host='localhost')):
                if ' ' not in host or data.startswith(b'GET /v1'):
                    self.assertEqual(ask(SERVER, data)[0], [403], host)
        self.assertEqual(ask(SERVER, request('GET', 'http://evil.example/health', host='localhost'))[0], [403])
        self.assertEqual(ask(SERVER, request('GET', 'http://localhost/health', host='evil.example'))[0], [200])

    def test_cors(self):
        s = Server('--cors-origin', 'https://a.example,http://b.example:81', '--cors-origin', 'http://c.example')
        for origin, fine in (('https://a.example', True), ('http://b.example:81', True), ('http://c.example', True), ('http://a.example', False), ('null', False),
                             ('https://a.example.evil.example', False)):
            for data in (request('GET', '/health', 'Origin: ' + origin), request('POST', '/tokenize', 'Origin: ' + origin, 'Sec-Fetch-Site: cross-site', JSON, body=b'{"content":""}')):
                got, headers, _ = ask(s, data)
                self.assertEqual(got, [200 if data.startswith(b'GET') else LET_IN if fine else 403], origin)
                self.assertEqual((headers.get('access-control-allow-origin'), headers['vary']), (origin if fine else None, 'Origin'))
                self.assertEqual('X-Request-Id' in headers.get('access-control-expose-headers', ''), fine)
                self.assertNotIn('access-control-allow-credentials', headers)
            got, headers, _ = ask(s, request('OPTIONS', '/v1/jobs', 'Origin: ' + origin, 'Access-Control-Request-Method: POST', 'Access-Control-Request-Headers: authorization, x-b'))
            self.assertEqual((got, headers.get('access-control-allow-origin')), ([204], origin if fine else None))
            self.assertEqual(headers.get('access-control-allow-methods'), 'POST, GET, HEAD, OPTIONS' if fine else None)
            self.assertEqual(headers.get('access-control-allow-headers'), 'authorization, x-b' if fine else None)
        _, headers, _ = ask(s, request('OPTIONS', '/v1/jobs', 'Origin: http://c.example', 'Access-Control-Request-Method: POST', 'Access-Control-Request-Headers: a"b'))
        self.assertEqual(headers['access-control-allow-headers'], 'Authorization, X-Api-Key, Content-Type')
        self.assertEqual(s.stop(), 0)
        s = Server('--cors-origin', '*')
        _, headers, _ = ask(s, request('POST', '/tokenize', 'Origin: http://evil.example', JSON, body=b'{"content":""}'))
        self.assertEqual((headers['access-control-allow-origin'], headers.get('vary')), ('*', None))
        self.assertEqual(s.stop(), 0)

    def test_wrong_origins_do_not_start(self):
        for origin in ('example.org', 'https://example.org/', 'https://', 'https://*.example.org', 'null', 'https://a b'):
            code, _, err = run_binary('serve', '--cors-origin', origin)
            self.assertEqual(code, 2)
            self.assertIn('scheme://host', err)


class Addresses(unittest.TestCase):
    def test_others_need_a_key(self):
        for host in ('0.0.0.0', '::'):
            code, _, err = run_binary('serve', '--host', host, '--port', '0')
            if 'Address family not supported' in err:
                continue
            self.assertEqual(code, 1, err)
            for word in ('--api-key', 'ANNEAL_API_KEY', '--api-key-file', '--allow-public-without-key', 'ANNEAL_ALLOW_PUBLIC_WITHOUT_KEY=1', '127.0.0.1'):
                self.assertIn(word, err)
        for name in ('ANNEAL_API_KEY', 'ANNEAL_API_KEY_FILE'):  # `docker run -e ANNEAL_API_KEY=$UNSET`
            code, _, err = run_binary('serve', '--host', '0.0.0.0', '--port', '0', env={name: ''})
            self.assertEqual(code, 2, err)
            self.assertIn(name, err)

    def test_those_who_say_so(self):
        s = Server('--host', '0.0.0.0', '--allow-public-without-key', '1')
        self.assertIn('whoever can may ask', s.output())
        self.assertEqual(ask(s, request('GET', '/health', host='any.example'))[0], [200])
        self.assertEqual(s.stop(), 0)
        s = Server('--host', '0.0.0.0', env={'ANNEAL_API_KEY': 'sesame'})
        self.assertEqual(s.get('/v1/models')[0], 401)
        self.assertNotIn('only this machine', s.output())
        self.assertEqual(s.stop(), 0)
        self.assertIn('only this machine', SERVER.output())


class Metrics(unittest.TestCase):
    def test_key_or_none(self):
        for said, status in ((None, 401), ('0', 401), ('1', 200)):
            s = Server('--api-key', 'sesame', *(['--metrics-without-key', said] if said else []))
            self.assertEqual([s.raw(m, '/metrics')[0] for m in ('GET', 'HEAD')], [status] * 2)
            self.assertEqual(s.raw('GET', '/metrics', headers=bearer('sesame'))[0], 200)
            self.assertEqual(s.raw('GET', '/metrics', headers=bearer('wrong'))[0], status)
            for path in ('/v1/status', '/v1/models', '/v1/events', '/metrics/', '//metrics', '/metrics/x', '/%6detrics'):  # nothing else
                self.assertEqual(s.raw('GET', path)[0], 401, path)
            self.assertEqual(s.raw('GET', '/metrics?x=1')[0], status)
            self.assertEqual(s.stop(), 0)


class KeyFile(unittest.TestCase):
    def test_limits(self):
        alice, alice_line = make_key('alice', '--rpm', '6')
        bob, bob_line = make_key('bob', '--jobs', '2')
        carol, carol_line = make_key('carol')
        s = Server('--api-key-file', write('limits', '\n'.join(['# people', alice_line, bob_line, carol_line])), '--api-key', 'plain', '--key-rpm', '1000', *MAY_BE_LONG)
        self.assertEqual(s.get('/v1/models')[0], 401)
        self.assertEqual(s.get('/v1/models', bearer('alice'))[0], 401)
        self.assertEqual(s.get('/v1/models', bearer(alice_line.split(':')[1].split()[0]))[0], 401)  # the hash is no key
        self.assertEqual(s.get('/v1/models', {'X-Api-Key': carol})[0], 200)

        def post(key, path='/sdapi/v1/interrupt', body=b''):
            return s.raw('POST', path, body, {'Content-Type': 'application/json', **bearer(key)})
        begun = time.time()
        for left in range(5, -1, -1):
            status, headers, _ = post(alice)
            self.assertEqual((status, headers['x-ratelimit-limit-requests']), (200, '6'))
            self.assertIn(int(headers['x-ratelimit-remaining-requests']), range(left, left + 1 + int((time.time() - begun) / 10)))
            self.assertRegex(headers['x-ratelimit-reset-requests'], r'^(\d+m)?\d+(ms|s)$')
        while (asked := post(alice))[0] == 200:  # one more for every ten seconds that went by
            self.assertGreaterEqual(time.time() - begun, 10)
        status, headers, body = asked
        self.assertEqual((status, headers['x-ratelimit-remaining-requests']), (429, '0'))
        self.assertIn(int(headers['retry-after']), range(1, 11))
        self.assertEqual(json.loads(body)['error']['code'], 'rate_limit_exceeded')
        self.assertEqual(s.get('/v1/models', bearer(alice))[0], 200)  # looking is free
        # nobody else's limit is touched, and those without one of their own have the option's
        status, headers, _ = post(carol)
        self.assertEqual((status, headers['x-ratelimit-limit-requests'], headers['x-ratelimit-remaining-requests']), (200, '1000', '999'))
        self.assertEqual(post('plain')[1]['x-ratelimit-remaining-requests'], '999')
        # many at once get no more than one after another: a request every 60 ms comes free
        begun = time.time()
        got = together(*[lambda: [post(carol)[0] for _ in range(90)]] * 12)
        passed = sum(g.count(200) for g in got)
        self.assertGreaterEqual(passed, 999)
        self.assertLessEqual(passed, 999 + (time.time() - begun) / .06 + 1)

        # two jobs at once, however they are asked for
        long = json.dumps(dict(LONG, kind='image'))
        jobs = [json.loads(post(bob, '/v1/jobs', long)[2]) for _ in range(2)]
        status, headers, body = post(bob, '/v1/jobs', long)
        self.assertEqual((status, headers['retry-after']), (429, '1'))
        error = json.loads(body)['error']
        self.assertEqual((error['code'], error['type'], error['param']), ('rate_limit_exceeded', 'rate_limit_error', None))
        self.assertIn('2 jobs', error['message'])
        self.assertEqual(post(bob, '/v1/images/generations', json.dumps(TINY))[0], 429)
        self.assertEqual(post(bob, '/sdapi/v1/txt2img', json.dumps(TINY))[0], 429)
        self.assertEqual(post('plain', '/v1/jobs', json.dumps(dict(TINY, kind='image')))[0], 202)
        self.assertEqual(s.delete('/v1/jobs/' + jobs[0]['id'], bearer(carol))[0], 404)  # not hers
        for job in jobs:
            s.delete('/v1/jobs/' + job['id'], bearer(bob))
        self.assertTrue(wait_for(lambda: post(bob, '/v1/images/generations', json.dumps(TINY))[0] == 200))
        self.assertNotIn(alice, s.output())
        self.assertEqual(s.stop(), 0)

    def test_read_again(self):
        old, old_line = make_key('dave', '--rpm', '1')
        new, new_line = make_key('dave', '--rpm', '1')
        eve, eve_line = make_key('eve')
        path = write('again', old_line + '\n')
        s = Server('--api-key-file', path)
        works = lambda key: s.get('/v1/models', bearer(key))[0] == 200
        spend = lambda key: s.raw('POST', '/sdapi/v1/interrupt', b'', bearer(key))[0]
        self.assertTrue(works(old) and not works(new))
        begun = time.time()
        self.assertEqual([spend(old) for _ in range(2)], [200, 429])
        write('again', new_line + '\n')  # by itself, within seconds
        self.assertTrue(wait_for(lambda: works(new)))
        self.assertFalse(works(old))
        self.assertTrue(spend(new) == 429 or time.time() - begun > 59)  # a new secret is no new account
        write('again', new_line + '\n' + eve_line + '\nnonsense\n')  # wrong: told, and nothing changes
        self.assertTrue(wait_for(lambda: 'line 3' in s.output()))
        self.assertTrue(works(new) and not works(eve))
        self.assertEqual(s.output().count('line 3'), 1)
        os.unlink(path)
        s.process.send_signal(signal.SIGHUP)
        self.assertTrue(wait_for(lambda: 'stay as they were' in s.output().split('line 3')[1]))
        self.assertTrue(works(new))
        write('again', eve_line + '\n')
        s.process.send_signal(signal.SIGHUP)
        self.assertTrue(wait_for(lambda: works(eve)))
        self.assertFalse(works(new))
        write('again', new_line + '\n', 0o666)  # eve's is gone, but the file is refused: told once, and tried until it does
        self.assertTrue(wait_for(lambda: 'chmod o-w' in s.output()))
        time.sleep(2.5)  # so long that it was tried again
        os.chmod(path, 0o600)
        self.assertTrue(wait_for(lambda: not works(eve)))
        self.assertTrue(works(new))
        self.assertEqual(s.output().count('chmod o-w'), 1)
        write('again', '')  # nobody's: not everybody's
        self.assertTrue(wait_for(lambda: not works(new)))
        self.assertEqual(s.get('/v1/models')[0], 401)
        self.assertEqual(s.stop(), 0)

    def test_wrong_files_do_not_start(self):
        _, line = make_key('alice')
        for text, word in (('alice\n', 'line 1'), (line + '\n' + line, 'line 2'), ('alice secret', 'anneal key alice')):
            code, _, err = run_binary('serve', '--port', '0', '--api-key-file', write('wrong', text))
            self.assertEqual(code, 1)
            self.assertIn(word, err)
        code, _, err = run_binary('serve', '--port', '0', '--api-key-file', '/no/such/file')
        self.assertEqual(code, 1)
        self.assertIn('/no/such/file', err)
        path = write('open', line)
        os.chmod(path, 0o666)
        code, _, err = run_binary('serve', '--port', '0', '--api-key-file', path)
        self.assertEqual(code, 1)
        self.assertIn('chmod', err)

    def test_the_tool(self):
        path = os.path.join(TMP, 'appended')
        code, out, _ = run_binary('key', 'alice', '--append', path)
        self.assertEqual((code, out.count('\n')), (0, 1))
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)
        code, _, err = run_binary('key', 'alice', '--append', path)
        self.assertEqual(code, 1)
        self.assertIn('comes twice', err)
        with open(path, 'a') as f:
            f.write('# no newline at the end')
        self.assertEqual(run_binary('key', 'bob', '--append', path, '--rpm', '5', '--jobs', '0')[0], 0)
        with open(path) as f:
            text = f.read()
        self.assertRegex(text, r'^alice sha256:[0-9a-f]{64}\n# no newline at the end\nbob sha256:[0-9a-f]{64} rpm=5 jobs=0\n$')
        self.assertNotIn(out.split()[1], text)
        for args in ((), ('a b',), ('x' * 48,), ('a', '--rpm', '-1'), ('a', '--jobs', 'many')):
            self.assertEqual(run_binary('key', *args)[0], 2, args)
        self.assertEqual(len({make_key('x')[0] for _ in range(8)}), 8)


def certificate(name, key=None):
    """Paths of a self-signed certificate for localhost and its key."""
    cert, key = os.path.join(TMP, name + '.pem'), key or os.path.join(TMP, name + '.key')
    subprocess.run(['openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '30', '-keyout', key, '-out', cert,
                    '-subj', '/CN=' + name, '-addext', 'subjectAltName=DNS:localhost,IP:127.0.0.1'], check=True, capture_output=True)
    return cert, key


def hello(version, suites):
    """A ClientHello of TLS `version` (2 = 1.1, 3 = 1.2) with these cipher suites; the first record that comes back."""
    def block(kind, data):
        return struct.pack('>HH', kind, len(data)) + data
    groups, points, hashes = block(10, b'\0\4\0\x17\0\x1d'), block(11, b'\1\0'), block(13, b'\0\6\4\3\4\1\2\3')
    extensions = groups + points + hashes
    body = struct.pack('>BB', 3, version) + os.urandom(32) + b'\0' + struct.pack('>H', 2 * len(suites)) + b''.join(struct.pack('>H', s) for s in suites)
    body += b'\1\0' + struct.pack('>H', len(extensions)) + extensions
    message = b'\1' + struct.pack('>I', len(body))[1:] + body
    return b'\x16\3\1' + struct.pack('>H', len(message)) + message


@unittest.skipUnless(shutil.which('openssl'), 'SKIP: no openssl to make certificates with')
class Tls(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.cert, cls.key = certificate('first')
        cls.links = [os.path.join(TMP, n) for n in ('tls.pem', 'tls.key')]
        cls.use(cls.cert, cls.key)
        cls.server = Server('--tls-cert', cls.links[0], '--tls-key', cls.links[1], wait=False)

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0

    @classmethod
    def use(cls, *files):
        for link, file in zip(cls.links, files):
            if os.path.lexists(link):
                os.unlink(link)
            os.symlink(file, link)

    def connect(self, trusted):
        context = ssl.create_default_context(cafile=trusted)
        return context.wrap_socket(socket.create_connection(('127.0.0.1', self.server.port), timeout=patience(30)), server_hostname='localhost')

    def ask(self, trusted, data):
        with self.connect(trusted) as c:
            c.sendall(data)
            out = b''
            while True:
                got = c.recv(65536)
                if not got:
                    return out
                out += got

    def first_record(self, version, suites):
        with socket.create_connection(('127.0.0.1', self.server.port), timeout=patience(30)) as c:
            c.sendall(hello(version, suites))
            return c.recv(65536)

    def test_1_requests(self):
        self.assertIn(f'listening on https://127.0.0.1:{self.server.port}', self.server.output())
        self.assertIn('CN=first is good until', self.server.output())
        close = 'Connection: close'
        self.assertTrue(wait_for(lambda: self.ask(self.cert, request('GET', '/health', close)).startswith(b'HTTP/1.1 200'), 30))
        out = self.ask(self.cert, request('POST', '/v1/images/generations', close, JSON, host='localhost', body=json.dumps(dict(TINY, response_format='url')).encode()))
        self.assertIn('"url":"https://localhost/v1/files/', out.decode())
        out = self.ask(self.cert, request('POST', '/v1/images/generations', close, JSON, body=json.dumps(dict(TINY, stream=True, steps=8, partial_images=3)).encode()))
        self.assertIn(b'image_generation.completed', out)
        with self.assertRaises(ssl.SSLCertVerificationError):
            self.connect(None).close()
        with socket.create_connection(('127.0.0.1', self.server.port), timeout=patience(30)) as c:  # no TLS at all
            c.sendall(request('GET', '/health'))
            self.assertNotIn(b'HTTP', c.recv(65536) or b'')

    def test_2_versions_and_ciphers(self):
        ecdsa_gcm, ecdsa_cbc, rsa_gcm = 0xc02b, 0xc009, 0x009c
        self.assertEqual(self.first_record(3, [ecdsa_gcm])[0], 0x16)  # a ServerHello: the hello itself is right
        for version, suites in ((2, [ecdsa_gcm, ecdsa_cbc]), (3, [ecdsa_cbc]), (3, [rsa_gcm])):
            self.assertNotEqual(self.first_record(version, suites)[:1], b'\x16', (version, suites))
        with self.connect(self.cert) as c:
            self.assertEqual(c.version(), 'TLSv1.3')

    def test_3_renewal(self):
        second, second_key = certificate('second')
        before = self.connect(self.cert)
        log = self.server.output()
        self.use(second, self.key)  # not a pair: the old one stays
        self.server.process.send_signal(signal.SIGHUP)
        self.assertTrue(wait_for(lambda: 'is not that of the first certificate' in self.server.output()[len(log):]))
        self.connect(self.cert).close()
        self.use(second, second_key)
        self.server.process.send_signal(signal.SIGHUP)
        self.assertTrue(wait_for(lambda: 'CN=second' in self.server.output()))
        self.connect(second).close()
        with self.assertRaises(ssl.SSLCertVerificationError):
            self.connect(self.cert).close()
        before.sendall(request('GET', '/health'))  # whoever was connected stays so
        self.assertTrue(before.recv(65536).startswith(b'HTTP/1.1 200'))
        before.close()

    def test_4_errors_speak(self):
        _, other_key = certificate('other')
        locked, text = os.path.join(TMP, 'locked.key'), write('text.pem', 'no certificate\n')
        subprocess.run(['openssl', 'pkey', '-in', self.key, '-aes256', '-passout', 'pass:x', '-out', locked], check=True, capture_output=True)
        for cert, key, code, word in ((self.cert, other_key, 1, 'is not that of'), (self.cert, locked, 1, 'password'), (text, self.key, 1, 'no certificate'),
                                      (self.cert, text, 1, '--tls-key'), (self.cert, '/no/such', 1, '/no/such'), ('/no/such', self.key, 1, '/no/such'),
                                      (self.cert, '', 2, '--tls-key'), ('', self.key, 2, '--tls-cert'), (self.key, self.key, 1, '--tls-cert')):
            got, _, err = run_binary('serve', '--port', '0', '--tls-cert', cert, '--tls-key', key)
            self.assertEqual(got, code, err)
            self.assertIn(word, err)


class Terminal(unittest.TestCase):
    """SIGHUP renews where a terminal is, too; a terminal that closes ends what runs in it."""

    def serve(self, controlling):
        master, slave = pty.openpty()

        def own():
            os.setsid()
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        p = subprocess.Popen([ANNEAL, 'serve', '--port', '0', '--device', DEVICE], stdout=slave, stderr=slave, stdin=subprocess.DEVNULL,
                             preexec_fn=own if controlling else None)
        self.addCleanup(lambda: (p.kill(), p.wait()))
        os.close(slave)
        return p, master

    def read_until(self, master, word):
        said, until = b'', time.time() + patience(30)
        while word not in said and time.time() < until:
            if select.select([master], [], [], 1)[0]:
                said += os.read(master, 65536)
        self.assertIn(word, said)

    def test_renewed_or_ended(self):
        for controlling in (True, False):
            p, master = self.serve(controlling)
            self.read_until(master, b'listening on')
            for _ in range(2):
                p.send_signal(signal.SIGHUP)
                self.read_until(master, b'reading keys')
            self.assertIsNone(p.poll())
            os.close(master)
            if not controlling:  # nobody tells but a shell that does
                p.send_signal(signal.SIGHUP)
            self.assertEqual(p.wait(patience(30)), 0)


class Logs(unittest.TestCase):
    FIELDS = ['time', 'id', 'key', 'address', 'method', 'path', 'status', 'bytes_in', 'bytes_out', 'ms', 'complete']
    WORK = ['jobs', 'queue_ms', 'steps', 'prompt_tokens', 'completion_tokens']

    def lines(self, path):
        with open(path) as f:
            return [json.loads(l) for l in f if l.endswith('\n')]  # one may be on its way

    def test_what_is_written_and_what_is_not(self):
        path = os.path.join(TMP, 'access.log')
        secret, line = make_key('alice')
        s = Server('--access-log', path, '--api-key-file', write('log-keys', line), '--log-level', 'debug', *MAY_BE_LONG)
        key = 'Authorization: Bearer ' + secret
        body = json.dumps(dict(TINY, prompt='xyzzy-prompt', steps=3)).encode()
        stream = json.dumps(dict(TINY, prompt='xyzzy-prompt', steps=3, stream=True)).encode()
        close = 'Connection: close'
        sent = [(request('POST', '/v1/images/generations', key, JSON, 'X-Request-Id: first', body=body), 200), (request('POST', '/v1/images/generations', key, close, JSON, body=stream), 200),
                (request('POST', '/v1/images/generations', key, JSON, body=b'{"prompt":"xyzzy-prompt","steps":"xyzzy-steps"}'), 400),
                (request('GET', '/v1/models?xyzzy-query=1', 'X-Api-Key: ' + secret), 200), (request('HEAD', '/health'), 200), (request('GET', '/v1/models', 'Authorization: Bearer xyzzy-key'), 401),
                (request('GET', '/x"},{"forged":1,%0a%22\x1b[31m\xe4'), 401), (request('BR\xc4W"\\', '/health'), 501), (request('GET', '/health', host=None), 400)]
        answers = []
        for data, status in sent:
            got, headers, text = ask(s, data)
            self.assertEqual(got, [status], data)
            answers.append((headers, text))
        self.assertTrue(wait_for(lambda: len([l for l in self.lines(path) if l['id'] != 'the-end']) >= len(sent)))
        logged = {l['id']: l for l in self.lines(path)}
        for headers, _ in answers[:2]:  # the server's own log has the whole time too, also of a stream
            found = must_come(lambda: re.search(headers['x-request-id'] + r' .* 200 ([\d.]+) ms', s.output()))
            if headers is answers[1][0]:
                self.assertGreaterEqual(float(found[1]), logged[headers['x-request-id']]['ms'] - .1)
        for (data, status), (headers, text) in zip(sent, answers):
            l = logged[headers['x-request-id']]
            worked = status == 200 and data.startswith(b'POST')
            self.assertEqual(list(l), self.FIELDS + (self.WORK if worked else []))
            self.assertEqual((l['status'], l['address'], l['complete']), (status, '127.0.0.1', True))
            self.assertEqual(l['key'], 'alice' if secret.encode() in data else None)
            self.assertLessEqual(abs(time.time() - calendar.timegm(time.strptime(l['time'][:19], '%Y-%m-%dT%H:%M:%S'))), patience(60))
            self.assertIn(headers['x-request-id'], s.output())
            if 'content-length' in headers and not data.startswith(b'HEAD'):
                self.assertEqual(l['bytes_out'], int(headers['content-length']))
        first, streamed = logged['first'], logged[answers[1][0]['x-request-id']]
        self.assertEqual((first['steps'], first['jobs'], first['bytes_in']), (3, 1, len(body)))
        self.assertEqual(streamed['steps'], 3)
        self.assertGreater(streamed['bytes_out'], 500)
        self.assertGreaterEqual(first['ms'], first['queue_ms'])
        with open(path) as f:
            text = f.read()
        for word in ('xyzzy', secret, '\x1b', '\\'):
            self.assertNotIn(word, text)
        self.assertEqual(text, ''.join(c for c in text if c == '\n' or ' ' <= c <= '~'))
        for word in ('xyzzy-prompt', 'xyzzy-steps', 'xyzzy-query', 'xyzzy-key', secret, '\x1b'):
            self.assertNotIn(word, s.output())
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode) & 0o007, 0)

        # who hangs up is told apart; and logrotate's way
        w = Wire(s)
        w.send(request('POST', '/v1/images/generations', key, JSON, 'X-Request-Id: gone', body=json.dumps(LONG).encode()))
        self.assertTrue(wait_for(lambda: s.raw('GET', '/metrics', headers=bearer(secret))[2].decode().find('anneal_jobs_running 1') >= 0))
        w.close()
        self.assertTrue(wait_for(lambda: any(l['id'] == 'gone' and (l['status'] == 499 or not l['complete']) for l in self.lines(path))))
        os.rename(path, path + '.1')
        s.process.send_signal(signal.SIGHUP)
        must_come(lambda: ask(s, request('GET', '/health')) and os.path.exists(path) and self.lines(path), 'the new file is in use')
        ask(s, request('GET', '/health', 'X-Request-Id: rotated'))
        self.assertTrue(wait_for(lambda: any(l['id'] == 'rotated' for l in self.lines(path))))
        self.assertFalse(any(l['id'] == 'rotated' for l in self.lines(path + '.1')))
        self.assertEqual(s.stop(), 0)

    def test_names_that_are_keys(self):
        path = os.path.join(TMP, 'names.log')
        s = Server('--access-log', path, '--log-level', 'debug', '--url-ttl', '100')
        link = s.post('/v1/images/generations', dict(TINY, response_format='url'))[1]['data'][0]['url']
        name = link.rsplit('/', 1)[1]
        status, headers, _ = s.raw('GET', '/v1/files/' + name)
        self.assertEqual(status, 200)
        age = int(re.fullmatch(r'private, max-age=(\d+)', headers['cache-control']).group(1))
        self.assertLess(age, 100)  # a browser's copy ends with the link
        job = s.post('/v1/jobs', dict(TINY, kind='image'))[1]['id']
        self.assertEqual(s.get('/v1/jobs/' + job)[0], 200)
        self.assertEqual(s.raw('POST', '/v1/files/' + name)[0], 405)
        self.assertEqual(s.delete('/v1/jobs/' + job)[0], 200)
        paths = lambda: [l['path'] for l in self.lines(path)]
        must_come(lambda: [p[:10] for p in paths()].count('/v1/files/') == 2 and [p[:9] for p in paths()].count('/v1/jobs/') == 2)
        paths = paths()
        self.assertIn('/v1/files/' + name[:6] + '...', paths)
        self.assertIn('/v1/jobs/' + job[:10] + '...', paths)
        for text in (json.dumps(paths), s.output()):
            self.assertNotIn(name[:12], text)
            self.assertNotIn(job[:14], text)
        self.assertEqual(s.stop(), 0)

    def test_lines_of_many_at_once_do_not_mix(self):
        path = os.path.join(TMP, 'many.log')
        s = Server('--access-log', path)

        def some(n):
            w = Wire(s)
            for k in range(50):
                w.send(request('GET', '/v1/models/' + 'm' * 150, f'X-Request-Id: r{n}-{k}'))
                w.answer()
            w.close()
        together(*[lambda n=n: some(n) for n in range(8)])
        self.assertEqual(s.stop(), 0)
        ids = [l['id'] for l in self.lines(path)]
        self.assertEqual(len([i for i in ids if i.startswith('r')]), 400)
        self.assertEqual(len(set(ids)), len(ids))

    def test_standard_output(self):
        p = subprocess.Popen([ANNEAL, 'serve', '--port', '0', '--access-log', '-', '--device', DEVICE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            for line in p.stderr:
                if 'listening on http' in line:
                    port = int(line.rsplit(':', 1)[1])
                    break
            threading.Thread(target=p.stderr.read, daemon=True).start()
            with socket.create_connection(('127.0.0.1', port), timeout=patience(30)) as c:
                c.sendall(request('GET', '/nowhere', 'Connection: close'))
                while c.recv(65536):
                    pass
            self.assertEqual(json.loads(p.stdout.readline())['path'], '/nowhere')
            p.send_signal(signal.SIGHUP)
            p.terminate()
            self.assertEqual(p.wait(patience(30)), 0)
        finally:
            p.kill()
            p.stdout.close()

    def test_a_file_that_cannot_be_made(self):
        code, _, err = run_binary('serve', '--port', '0', '--access-log', '/no/such/folder/log')
        self.assertEqual(code, 1)
        self.assertIn('/no/such/folder/log', err)


if __name__ == '__main__':
    unittest.main(verbosity=1)
