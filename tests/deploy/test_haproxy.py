"""deploy/haproxy/haproxy.cfg before three servers: streams flow, sessions have a home, and of a server that is killed
or drained under load no request suffers that it had not got."""
from proxy import *

need('haproxy', 'haproxy')
FLEET = PROXY = None
NUMBERS = 0


def setUpModule():
    global FLEET, PROXY, NUMBERS
    FLEET = Fleet()
    with open(os.path.join(ROOT, 'deploy', 'haproxy', 'haproxy.cfg')) as f:
        text = FLEET.configure(f.read())
    port, NUMBERS = free_port(), free_port()
    for a, b in (('bind :8080\n', f'bind 127.0.0.1:{port}\n'), ('bind 127.0.0.1:8405', f'bind 127.0.0.1:{NUMBERS}')):
        assert a in text
        text = text.replace(a, b)
    config = os.path.join(FLEET.folder, 'haproxy.cfg')
    with open(config, 'w') as f:
        f.write(text)
    p = subprocess.run(['haproxy', '-c', '-f', config], capture_output=True, text=True)
    assert p.returncode == 0 and 'WARNING' not in p.stderr, p.stderr
    PROXY = Proxy(['haproxy', '-db', '-f', config], port)
    must_come(lambda: PROXY.ask('/health')[0] == 200, 'HAProxy finds the servers')


def tearDownModule():
    PROXY.stop()
    FLEET.stop()


def homes(session, n=6, **fields):
    """Who answered n requests of a session."""
    ask = dict(model='bare', prompt=[1, 2, 3], max_tokens=1, **fields)
    heads = {'X-Session-Id': session} if session else {}
    return {PROXY.ask('/v1/completions', ask, heads)[1]['x-served-by'] for _ in range(n)}


class A_Quiet(unittest.TestCase):
    def test_stream(self):
        stream_passes(self, PROXY, FLEET.servers)

    def test_sessions_have_a_home(self):
        for i in range(4):
            self.assertEqual(len(homes(f'session-{i}')), 1)
            self.assertEqual(len(homes(None, user=f'user "{i}"')), 1)
        self.assertEqual(set().union(*(homes(f's{i}', 1) for i in range(24))), {'gpu1', 'gpu2', 'gpu3'})
        self.assertEqual(homes(None, 24), {'gpu1', 'gpu2', 'gpu3'})  # without one anywhere

    def test_a_job_is_found_again(self):
        for seed in range(6):
            status, heads, data = PROXY.ask('/v1/jobs', dict(PICTURE, kind='image', seed=seed))
            self.assertEqual(status, 202, data)
            for _ in range(3):
                status, again, data = PROXY.ask(heads['location'])
                self.assertEqual((status, again['x-served-by']), (200, heads['x-served-by']), data)
            one = heads['location'].split('/')[-1]
            for path in (heads['location'] + '/events', '/v1/events?jobs=' + one, f'/v1/events?previews=small&jobs={one},{one}'):
                status, again, data = PROXY.ask(path)
                self.assertEqual((status, again['x-served-by']), (200, heads['x-served-by']), data)
            # also for one who has a session, and it is at home elsewhere
            for session in range(6):
                status, again, data = PROXY.ask(heads['location'], headers={'X-Session-Id': f'other {session}'})
                self.assertEqual((status, again['x-served-by']), (200, heads['x-served-by']), data)

    def test_the_page_finds_its_jobs(self):
        page_finds_its_jobs(self, PROXY, FLEET.servers)

    def test_clients_are_told_apart(self):
        clients_are_told_apart(self, PROXY)

    def test_jobs_of_a_session_have_a_home(self):
        for fields, heads in ((dict(user='user "7"'), {}), ({}, {'X-Session-Id': 'session-2'})):
            home = homes(heads.get('X-Session-Id'), **fields)
            for _ in range(3):
                status, answer, data = PROXY.ask('/v1/jobs', dict(PICTURE, kind='image', **fields), heads)
                self.assertEqual((status, {answer['x-served-by']}), (202, home), data)
                self.assertEqual(PROXY.ask(answer['location'])[0], 200)

    def test_numbers(self):
        self.assertEqual(PROXY.ask('/metrics')[0], 404)
        c = http.client.HTTPConnection('127.0.0.1', NUMBERS, timeout=patience(30))
        c.request('GET', '/metrics')
        self.assertIn('haproxy_server_http_responses_total{proxy="servers",server="gpu1"', c.getresponse().read().decode())
        c.close()


class B_Loss(unittest.TestCase):
    def test_kill_and_drain_under_load(self):
        crowd = Crowd(PROXY)
        self.addCleanup(crowd.stop)  # else a failure would wait for the clients for ever
        must_come(lambda: all(crowd.count(g) > 3 for g in ('gpu1', 'gpu2', 'gpu3')) and len(crowd.kinds()) == 2, 'all three answer')
        victim = FLEET.servers[0]
        must_come(lambda: victim.metrics()['anneal_rows_running'] > 0, 'gpu1 is at work')
        victim.process.kill()
        others = crowd.count('gpu2') + crowd.count('gpu3')
        must_come(lambda: crowd.count('gpu2') + crowd.count('gpu3') > others + 30, 'the others go on')
        # and one that is told to end: it finishes what it has, what it refuses is asked elsewhere
        drained = FLEET.servers[1]
        must_come(lambda: drained.metrics()['anneal_rows_running'] > 0, 'gpu2 is at work')
        drained.process.terminate()
        self.assertEqual(drained.process.wait(patience(60)), 0)
        others = crowd.count('gpu3')
        must_come(lambda: crowd.count('gpu3') > others + 15, 'the last goes on')
        # a server that comes back is used again
        FLEET.servers[0] = Server(*FLEET.args, '--port', str(victim.port))
        crowd_before = crowd.count('gpu1')
        must_come(lambda: crowd.count('gpu1') > crowd_before + 3, 'gpu1 is back')
        answers = crowd.stop()
        failed = [a for a in answers if a[2] != 200]
        log = PROXY.output()
        for name, kind, status, _, data in failed:
            lines = [l for l in log.splitlines() if f' {name} ' in l]
            self.assertEqual(len(lines), 1, (name, kind, status, data[:200]))
            self.assertRegex(lines[0], ' (servers|sessions)/gpu1 ', (kind, status, data[:300]))
            connect = lines[0].split()[lines[0].split().index(f'{name}') + 4].split('/')[2]
            self.assertGreaterEqual(int(connect), 0, 'it was on the server: ' + lines[0])
        self.assertLessEqual(len(failed), 12, 'only what the dead one had when it died')
        print(f'{len(answers)} answers, {len(failed)} lost with the server that was killed, '
              f'{len(re.findall(r" rc=[+]?[1-9]", log))} asked again elsewhere', flush=True)


if __name__ == '__main__':
    unittest.main(verbosity=2)
