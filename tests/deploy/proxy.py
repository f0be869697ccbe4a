"""What the suites of proxies share: three servers, a proxy of this repository's own configuration before them,
and a crowd that asks through it and writes down who answered."""
import os, re, shutil, socket, subprocess, sys, tempfile, threading, time, unittest
sys.path.insert(0, os.path.join(os.path.dirname(__file__), '..', 'http'))
from text_models import *
from endless import ENDLESS, ROOM, make_endless

ADDRESSES = ['10.0.0.11:8080', '10.0.0.12:8080', '10.0.0.13:8080']  # of deploy/'s examples


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def need(program, package):
    if not shutil.which(program):
        print(f'SKIP: no {program} (Debian package {package})', flush=True)
        sys.exit(77)


class Fleet:
    """Three servers of one folder of models, one thread of the CPU each."""

    def __init__(self, *args):
        self.folder = models()
        make_endless(os.path.join(self.folder, 'tiny'), os.path.join(self.folder, 'endless'))
        self.args = ['--models', os.path.join(ROOT, 'weights', 'demo'), '--models', self.folder, '--threads', '1',
                     '--dtype', 'f32', *ENDLESS, '--grace', str(patience(60)), '--trusted-proxy', '127.0.0.1', *args]
        self.servers = [Server(*self.args, wait=False) for _ in ADDRESSES]
        for s in self.servers:
            s.wait_ready()

    def configure(self, text):
        """An example's text with these servers' addresses; each of the example's must be there."""
        for address, server in zip(ADDRESSES, self.servers):
            assert address in text, address
            text = text.replace(address, f'127.0.0.1:{server.port}')
        return text

    def stop(self):
        for s in self.servers:
            s.kill()
        shutil.rmtree(self.folder)


class Proxy:
    """A process that listens on port; its standard output and error are kept in a file."""

    def __init__(self, command, port):
        self.port = port
        self.log = tempfile.NamedTemporaryFile('w+', suffix='.log')
        self.process = subprocess.Popen(command, stdout=self.log, stderr=subprocess.STDOUT)
        atexit.register(self.stop)
        must_come(self.listens, 'the proxy listens: ' + self.output())

    def listens(self):
        assert self.process.poll() is None, self.output()
        with socket.socket() as s:
            return s.connect_ex(('127.0.0.1', self.port)) == 0

    def output(self):
        with open(self.log.name, errors='replace') as f:
            return f.read()

    def ask(self, path, body=None, headers=None, method=None, source=None):
        """(status, headers, bytes); status 0 and the reason if no whole answer came."""
        c = http.client.HTTPConnection('127.0.0.1', self.port, timeout=patience(120), source_address=source and (source, 0))
        try:
            c.request(method or ('GET' if body is None else 'POST'), path, None if body is None else json.dumps(body),
                      {'Content-Type': 'application/json', **(headers or {})})
            r = c.getresponse()
            heads = {k.lower(): v for k, v in r.getheaders()}
            try:
                return r.status, heads, r.read()
            except (OSError, http.client.HTTPException) as e:
                return 0, heads, repr(e).encode()
        except (OSError, http.client.HTTPException) as e:
            return 0, {}, repr(e).encode()
        finally:
            c.close()

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait()


PICTURE = dict(model='emoji', prompt='red apple', size='64x64', steps=12)
MINUTES = dict(PICTURE, kind='image', steps=150, size='512x512', n=4)  # a job of so many
CHAT = dict(model='tiny', messages=[dict(role='user', content='hello')], max_tokens=100, ignore_eos=True, stream=True)


class Crowd:
    """Clients that ask for pictures and streamed chats, one after the other, until they are told to stop."""

    def __init__(self, proxy, clients=12):
        self.proxy, self.lock, self.end = proxy, threading.Lock(), False
        self.answers = []  # (request id, kind, status, who answered, body)
        self.threads = [threading.Thread(target=self.client, args=(i,)) for i in range(clients)]
        for t in self.threads:
            t.start()

    def client(self, me):
        turn = 0
        while not self.end:
            turn += 1
            name = f'client-{me}-{turn}'
            if (me + turn) % 2:
                kind, path, body = 'picture', '/v1/images/generations', dict(PICTURE, seed=me)
            else:
                kind, path, body = 'chat', '/v1/chat/completions', dict(CHAT, seed=me)
            session = {'X-Session-Id': f'client-{me}'} if me % 3 == 0 else {}
            status, heads, data = self.proxy.ask(path, body, {'X-Request-Id': name, **session})
            if kind == 'chat' and status == 200 and not data.rstrip().endswith(b'data: [DONE]'):
                status = 0  # cut
            with self.lock:
                self.answers.append((name, kind, status, heads.get('x-served-by'), data))

    def count(self, who=None):
        with self.lock:
            return sum(a[2] == 200 and who in (None, a[3]) for a in self.answers)

    def kinds(self):
        with self.lock:
            return {a[1] for a in self.answers if a[2] == 200}

    def stop(self):
        self.end = True
        for t in self.threads:
            t.join()
        return self.answers


def page_finds_its_jobs(test, proxy, servers):
    """What the page at / asks in a tab: jobs are sent in, listened to together, looked at, listed and cancelled. Each
    server knows its own only, so each answer is from the tab's one. Tabs until every server has been some tab's."""
    homes = set()
    for tab in range(40):
        if tab >= 5 and len(homes) == len(servers):
            return
        heads, ids = {'X-Session-Id': f'{tab:032x}'}, []
        ask = lambda path, body=None, method=None: proxy.ask(path, body, heads, method)
        for job in (dict(seed=1), dict(seed=2), dict(size='512x512', steps=150, priority=-1)):  # the last after the others, for minutes
            answer = ask('/v1/jobs', dict(PICTURE, kind='image', **job))
            while answer[0] == 429:  # as the page does
                answer = ask('/v1/jobs', dict(PICTURE, kind='image', **job))
            test.assertEqual(answer[0], 202, answer)
            ids.append(json.loads(answer[2])['id'])
        knows = [[s.get('/v1/jobs/' + i)[0] == 200 for s in servers] for i in ids]
        test.assertEqual((knows[0].count(True), knows[1:]), (1, knows[:1] * 2), 'one server has them all')
        homes.add(knows[0].index(True))
        status, _, data = ask('/v1/events?previews=small&jobs=' + ','.join(ids[:2]))
        test.assertEqual((status, data.count(b'event: done')), (200, 2), data[-500:])
        for i in ids:
            status, _, data = ask('/v1/jobs/' + i)
            test.assertEqual((status, json.loads(data)['id']), (200, i), data)
        listed = {j['id'] for j in json.loads(ask('/v1/jobs')[2])['data']}
        test.assertLessEqual(set(ids), listed)
        status, _, data = ask('/v1/jobs/' + ids[2], method='DELETE')
        test.assertEqual(status, 200, data)
        status, _, data = ask('/v1/events?jobs=' + ','.join(ids))
        test.assertEqual((status, data.count(b'event: cancelled')), (200, 1), data[-500:])
    test.fail(f'of {len(servers)} servers only {homes} were some tab\'s')


def clients_are_told_apart(test, proxy):
    """The servers trust this proxy: whoever asks through it sees jobs of its own alone, whatever it says of itself."""
    jobs = lambda source, body=None, said=None: proxy.ask(
        '/v1/jobs', body, {'X-Session-Id': 'apart', **({'X-Forwarded-For': said} if said else {})}, source=source)
    status, _, data = jobs('127.0.0.7', dict(PICTURE, kind='image', steps=1))
    test.assertEqual(status, 202, data)
    job = json.loads(data)['id']
    ids = lambda *who: [j['id'] for j in json.loads(jobs(*who)[2])['data']]
    test.assertIn(job, ids('127.0.0.7'))
    test.assertNotIn(job, ids('127.0.0.8'))
    test.assertNotIn(job, ids('127.0.0.8', None, '127.0.0.7'))
    test.assertIn(job, ids('127.0.0.7', None, '127.0.0.8'))
    look = lambda: json.loads(proxy.ask('/v1/jobs/' + job, headers={'X-Session-Id': 'apart'})[2])
    must_come(lambda: look()['state'] == 'done', 'the job ends: what comes next counts jobs')


def stream_passes(test, proxy, servers, where='/v1/chat/completions'):
    """The first token is here while the answer still grows, for minutes: a server's own count says so. It ends when its
    reader has gone; of a shorter one the rest comes too."""
    def begin(**ask):
        c = http.client.HTTPConnection('127.0.0.1', proxy.port, timeout=patience(120))
        c.request('POST', where, json.dumps(dict(CHAT, **ask)), {'Content-Type': 'application/json'})
        r = c.getresponse()
        test.assertEqual((r.status, r.getheader('Content-Type').split(';')[0]), (200, 'text/event-stream'))
        return c, r, next(l for l in r if b'"content"' in l)
    growing = lambda: sum(s.metrics()['anneal_sequences_running'] for s in servers)
    c, r, _ = begin(model='endless', max_tokens=ROOM)
    test.assertGreater(growing(), 0, 'the whole answer was there before its first token was let through')
    r.close()
    c.close()
    must_come(lambda: growing() == 0, 'nobody reads it any more')
    c, r, first = begin(max_tokens=400, n=8, temperature=1, seed=1)
    rest = r.read()
    c.close()
    test.assertTrue(rest.rstrip().endswith(b'data: [DONE]'))
    test.assertGreater(rest.count(b'data: '), 100)
    return first
