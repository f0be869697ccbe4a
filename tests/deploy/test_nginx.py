"""deploy/nginx/anneal.conf before three servers: streams flow, sessions have a home, a refused connection, a full and a
draining server are asked around."""
from proxy import *

need('nginx', 'nginx-light')
FLEET = PROXY = None


def setUpModule():
    global FLEET, PROXY
    FLEET = Fleet('--max-queue', '2', '--max-running', '1', '--max-batch', '1')
    with open(os.path.join(ROOT, 'deploy', 'nginx', 'anneal.conf')) as f:
        text = FLEET.configure(f.read())
    port, home = free_port(), os.path.join(FLEET.folder, '.nginx')
    os.mkdir(home)
    assert 'listen 8080;' in text
    text = text.replace('listen 8080;', f'listen 127.0.0.1:{port};')
    with open(os.path.join(home, 'anneal.conf'), 'w') as f:
        f.write(text)
    with open(os.path.join(home, 'nginx.conf'), 'w') as f:  # what a distribution's nginx.conf is to conf.d/
        temps = ''.join(f'{kind}_temp_path {home}/{kind};' for kind in ('client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'))
        f.write(f'daemon off; pid {home}/pid; error_log stderr; worker_processes 1; events {{}}\n'
                f"http {{ {temps} log_format l '$http_x_request_id $status $upstream_addr $upstream_status';\n"
                f'access_log {home}/log l; include {home}/anneal.conf; }}\n')
    config = os.path.join(home, 'nginx.conf')
    p = subprocess.run(['nginx', '-t', '-q', '-c', config, '-p', home], capture_output=True, text=True)
    assert p.returncode == 0, p.stderr
    PROXY = Proxy(['nginx', '-c', config, '-p', home], port)


def tearDownModule():
    PROXY.stop()
    FLEET.stop()


def answered(server):
    return sum(v for k, v in server.metrics().items() if k.startswith('anneal_jobs_total{state="done"'))


def complete(session=None):
    status, _, data = PROXY.ask('/v1/completions', dict(model='bare', prompt=[1, 2, 3], max_tokens=1),
                                {'X-Session-Id': session} if session else {})
    assert status == 200, (status, data)


class A_Quiet(unittest.TestCase):
    def test_stream(self):
        stream_passes(self, PROXY, FLEET.servers)

    def test_sessions_have_a_home(self):
        for session in ('one', 'two', 'three'):
            before = [answered(s) for s in FLEET.servers]
            for _ in range(5):
                complete(session)
            self.assertEqual(sorted(answered(s) - b for s, b in zip(FLEET.servers, before)), [0, 0, 5])
        before = [answered(s) for s in FLEET.servers]
        for _ in range(30):
            complete()
        self.assertTrue(all(answered(s) > b for s, b in zip(FLEET.servers, before)))

    def test_the_page_finds_its_jobs(self):
        page_finds_its_jobs(self, PROXY, FLEET.servers)

    def test_clients_are_told_apart(self):
        clients_are_told_apart(self, PROXY)

    def test_numbers_are_not_let_through(self):
        self.assertEqual(PROXY.ask('/metrics')[0], 404)


class B_Retries(unittest.TestCase):
    def fill(self, server):
        """Until its queue is full, with jobs that take minutes, and one of them runs: one that began or ended later would
        leave a place."""
        def full():
            status, _ = server.post('/v1/jobs', MINUTES)
            self.assertIn(status, (202, 429))
            health = server.get('/health')[1]
            return (status, health['running'], health['queued']) == (429, 1, 2)
        must_come(full, 'the server is full')

    def test_1_full_servers_are_asked_around(self):
        two, third = FLEET.servers[:2], FLEET.servers[2]
        for s in two:
            self.fill(s)
        before = third.metrics()['anneal_images_total']
        for seed in range(6):
            status, _, data = PROXY.ask('/v1/images/generations', dict(PICTURE, seed=seed))
            self.assertEqual(status, 200, data[:300])
        self.assertEqual(third.metrics()['anneal_images_total'], before + 6)
        refused = sum(s.metrics()['anneal_http_requests_total{code="429"}'] for s in two)
        self.assertGreater(refused, 2, 'some were asked in vain first')
        # a session's job is not: elsewhere nobody would find it
        answers = set()
        for i in range(40):
            tab = {'X-Session-Id': f'tab {i}'}
            status, heads, data = PROXY.ask('/v1/jobs', dict(PICTURE, kind='image'), tab)
            answers.add(status)
            if status == 429:
                self.assertIn('retry-after', heads)
                continue
            self.assertEqual(status, 202, data[:300])
            self.assertEqual(PROXY.ask(heads['location'], headers=tab)[0], 200)
            self.assertIn(b'event: done', PROXY.ask('/v1/events?jobs=' + heads['location'].split('/')[-1], headers=tab)[2])
        self.assertEqual(answers, {202, 429})
        for _ in range(6):  # one without a session is
            status, heads, data = PROXY.ask('/v1/jobs', dict(PICTURE, kind='image', steps=1))
            self.assertEqual(status, 202, data[:300])
            must_come(lambda: third.get(heads['location'])[1]['state'] == 'done', 'it is the third\'s')
        self.fill(third)
        status, heads, data = PROXY.ask('/v1/images/generations', dict(PICTURE))
        self.assertEqual(status, 429, data[:300])  # nobody has room: the server's own words
        self.assertIn('retry-after', heads)
        for s in FLEET.servers:
            for j in s.get('/v1/jobs')[1]['data']:
                s.delete('/v1/jobs/' + j['id'])
        must_come(lambda: all(s.metrics()['anneal_jobs_running'] == 0 for s in FLEET.servers), 'the queues are empty')

    def test_2_a_dead_and_a_draining_one(self):
        FLEET.servers[0].process.kill()
        FLEET.servers[0].process.wait()
        for i in range(12):
            complete(f'session {i}')
        slow = FLEET.servers[1]
        job = slow.post('/v1/jobs', MINUTES)[1]['id']
        must_come(lambda: slow.metrics()['anneal_jobs_running'], 'a job that keeps it from ending')
        slow.process.terminate()
        must_come(lambda: slow.get('/health')[0] == 503, 'it drains')
        for i in range(12):
            complete(f'session {i}')
        self.assertIsNone(slow.process.poll(), 'it was there all the while')
        slow.delete('/v1/jobs/' + job)
        self.assertEqual(slow.process.wait(patience(60)), 0)


if __name__ == '__main__':
    unittest.main(verbosity=2)
