"""What is plotted and alerted on: promtool takes the rules and plays their situations, every name in them is one that
the live server tells, and a real Prometheus evaluates every line of the dashboard to numbers."""
from proxy import *
import urllib.parse

need('promtool', 'prometheus')
need('prometheus', 'prometheus')
DEPLOY = os.path.join(ROOT, 'deploy')
ALERTS = os.path.join(DEPLOY, 'prometheus', 'alerts.yml')
SERVER = FOLDER = None


def setUpModule():
    global SERVER, FOLDER
    FOLDER = models()
    SERVER = Server('--models', os.path.join(ROOT, 'weights', 'demo'), '--models', FOLDER, '--dtype', 'f32')


def tearDownModule():
    assert SERVER.stop() == 0
    shutil.rmtree(FOLDER)


def promtool(*args, cwd=None):
    return subprocess.run(['promtool', *args], capture_output=True, text=True, cwd=cwd)


def dashboard():
    """[(panel's title, expression)]"""
    with open(os.path.join(DEPLOY, 'grafana', 'anneal.json')) as f:
        board = json.load(f)
    return [(p['title'], t['expr']) for p in board['panels'] for t in p.get('targets', [])]


def names(text):
    return set(re.findall(r'\b(?:anneal|process|vllm:)[a-z_:]*_[a-z_]+\b', text))


class Rules(unittest.TestCase):
    def test_promtool(self):
        folder = os.path.dirname(ALERTS)
        for args in (('check', 'rules', 'alerts.yml'), ('test', 'rules', 'alerts_test.yml')):
            p = promtool(*args, cwd=folder)
            self.assertEqual(p.returncode, 0, p.stdout + p.stderr)

    def test_every_alert_is_played(self):
        with open(ALERTS) as f, open(os.path.join(DEPLOY, 'prometheus', 'alerts_test.yml')) as g:
            alerts, played = re.findall(r'- alert: (\w+)', f.read()), g.read()
        self.assertGreater(len(alerts), 8)
        for a in alerts:
            self.assertIn(f'alertname: {a}}}', played)  # quiet
            self.assertIn(f'{{alertname="{a}"}}', played)  # and loud

    def test_a_wrong_rule_is_found(self):
        with open(ALERTS) as f:
            text = f.read()
        self.assertIn('anneal_queue_oldest_seconds > 30', text)
        with tempfile.TemporaryDirectory() as folder:
            with open(os.path.join(folder, 'alerts.yml'), 'w') as f:
                f.write(text.replace('anneal_queue_oldest_seconds > 30', 'anneal_queue_oldest_seconds > 300'))
            shutil.copy(os.path.join(DEPLOY, 'prometheus', 'alerts_test.yml'), folder)
            self.assertNotEqual(promtool('test', 'rules', 'alerts_test.yml', cwd=folder).returncode, 0)

    def test_configurations(self):
        for name in ('prometheus.yml', 'prometheus.keys.yml'):
            with open(os.path.join(ROOT, 'docker', name)) as f:
                text = f.read()
            with tempfile.TemporaryDirectory() as folder:
                key = os.path.join(folder, 'key')
                open(key, 'w').close()
                path = os.path.join(folder, name)
                with open(path, 'w') as f:
                    f.write(text.replace('/etc/prometheus/alerts.yml', ALERTS).replace('/run/secrets/prometheus_key', key))
                p = promtool('check', 'config', path)
                self.assertEqual(p.returncode, 0, p.stdout + p.stderr)
                self.assertIn('10 rules', p.stdout)


class Names(unittest.TestCase):
    def test_they_are_the_servers(self):
        there = {k.split('{')[0] for k in SERVER.metrics()}
        with open(ALERTS) as f:
            asked = names(f.read())
        board = set().union(*(names(e) for _, e in dashboard()))
        self.assertGreater(len(asked), 10)
        self.assertGreater(len(board), 35)
        self.assertEqual((asked | board) - there, set())

    def test_labels_are_the_servers(self):
        page = '\n'.join(SERVER.metrics())
        for label in ('stage="forward"', 'code="429"', 'state="refused"', 'name="', 'version="'):
            self.assertIn(label, page)


class Prometheus(unittest.TestCase):
    def query(self, port, expr):
        c = http.client.HTTPConnection('127.0.0.1', port, timeout=patience(30))
        c.request('GET', '/api/v1/query?' + urllib.parse.urlencode(dict(query=expr)))
        r = c.getresponse()
        body = json.loads(r.read())
        c.close()
        self.assertEqual((r.status, body['status']), (200, 'success'), (expr, body))
        return [float(x['value'][1]) for x in body['data']['result']]

    def test_every_line_of_the_dashboard(self):
        folder = tempfile.mkdtemp(prefix='anneal-prometheus-')
        self.addCleanup(shutil.rmtree, folder)
        with open(os.path.join(folder, 'p.yml'), 'w') as f:
            f.write(f'global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{ALERTS}]\nscrape_configs:\n'
                    f'  - {{job_name: anneal, static_configs: [{{targets: ["127.0.0.1:{SERVER.port}"]}}]}}\n')
        port = free_port()
        prometheus = Proxy(['prometheus', '--config.file', os.path.join(folder, 'p.yml'), '--storage.tsdb.path', os.path.join(folder, 'data'),
                            '--web.listen-address', f'127.0.0.1:{port}', '--log.level', 'warn'], port)
        self.addCleanup(prometheus.stop)
        lines = [(title, e.replace('$__rate_interval', '1m').replace('$instance', '.*')) for title, e in dashboard()]
        lacking = dict((e, title) for title, e in lines)
        until = time.time() + patience(60)
        while lacking and time.time() < until:  # work, so that rates have something to divide
            list(SERVER.events('POST', '/v1/images/generations', dict(PICTURE, stream=True, partial_images=1), {'Content-Type': 'application/json'}))
            self.assertEqual(SERVER.post('/v1/completions', dict(model='tiny', prompt=list(range(20, 60)), max_tokens=5, ignore_eos=True))[0], 200)
            for e in list(lacking):
                values = self.query(port, e)
                if any(v == v for v in values):
                    del lacking[e]
        self.assertEqual(lacking, {})
        self.assertEqual(self.query(port, 'ALERTS{alertstate="firing"}'), [])
        print(f'{len(lines)} lines of the dashboard have numbers', flush=True)


if __name__ == '__main__':
    unittest.main(verbosity=2)
