"""Behind a proxy: --trusted-proxy. Who the client is in the log, to the scheduler and to its jobs, by which scheme links lead
back, and how many connections the proxy may have."""
import contextlib, os, shutil, sys, tempfile
sys.path.insert(0, os.path.dirname(__file__))
from harness import *

SERVER = None
TMP = tempfile.mkdtemp(prefix='anneal-proxied-')
LOG = os.path.join(TMP, 'access.log')
PROXY, STRANGER, CROWD = '127.0.0.2', '127.0.0.3', '127.0.0.4'  # every address of 127/8 is this machine's


def setUpModule():
    global SERVER
    SERVER = Server('--trusted-proxy', PROXY + ',10.0.0.0/8', '--max-connections-per-ip', '8', '--access-log', LOG)


def tearDownModule():
    code = SERVER.stop()
    shutil.rmtree(TMP, ignore_errors=True)
    assert code == 0, code


def ask(source, method, path, body=None, forwarded=(), **headers):
    """(status, object) of a request from an address; forwarded: its lines of X-Forwarded-For."""
    with contextlib.closing(SERVER.connect(source=source)) as c:
        c.putrequest(method, path)
        for line in forwarded:
            c.putheader('X-Forwarded-For', line)
        data = json.dumps(body).encode() if body is not None else b''
        for name, value in {**headers, 'Content-Type': 'application/json', 'Content-Length': len(data)}.items():
            c.putheader(name.replace('_', '-'), value)
        c.endheaders(data)
        r = c.getresponse()
        return r.status, json.loads(r.read())


class Proxied(unittest.TestCase):
    def logged(self, name):
        def lines():
            with open(LOG) as f:
                return [l for l in map(json.loads, f) if l['id'] == name]
        return must_come(lines)[0]['address']

    def test_whom_the_log_names(self):
        cases = [(PROXY, ['198.51.100.7'], '198.51.100.7'), (PROXY, [], PROXY), (STRANGER, ['198.51.100.7'], STRANGER),
                 (PROXY, ['192.0.2.66, 198.51.100.7, 10.9.9.9'], '198.51.100.7'), (PROXY, ['192.0.2.66', '2001:db8::7', '10.9.9.9'], '2001:db8::7'),
                 (PROXY, ['198.51.100.7'] + ['10.0.0.1'] * 8, '10.0.0.1'), (PROXY, ['not an address'], PROXY)]
        for i, (source, forwarded, client) in enumerate(cases):
            status, _ = ask(source, 'GET', '/health', forwarded=forwarded, X_Request_Id=f'case-{i}')
            self.assertEqual((status, self.logged(f'case-{i}')), (200, client), (source, forwarded))

    def test_jobs_are_their_clients(self):
        alice, bob = ['198.51.100.7'], ['198.51.100.8']
        status, job = ask(PROXY, 'POST', '/v1/jobs', dict(TINY, kind='image'), alice)
        self.assertEqual(status, 202, job)

        def ids(*who):
            return [j['id'] for j in ask(*who)[1]['data']]
        self.assertIn(job['id'], ids(PROXY, 'GET', '/v1/jobs', None, alice))
        self.assertNotIn(job['id'], ids(PROXY, 'GET', '/v1/jobs', None, bob))
        self.assertNotIn(job['id'], ids(STRANGER, 'GET', '/v1/jobs', None, alice))  # says that he is Alice
        self.assertEqual(ask(STRANGER, 'DELETE', '/v1/jobs/' + job['id'], None, alice)[0], 404)
        self.assertEqual(ask(PROXY, 'DELETE', '/v1/jobs/' + job['id'], None, bob)[0], 404)
        self.assertEqual(ask(PROXY, 'DELETE', '/v1/jobs/' + job['id'], None, alice)[0], 200)

    def test_links_lead_back_as_the_client_came(self):
        for source, proto, scheme in ((PROXY, 'https', 'https'), (PROXY, 'http', 'http'), (PROXY, 'gopher', 'http'), (STRANGER, 'https', 'http')):
            status, answer = ask(source, 'POST', '/v1/images/generations', dict(TINY, response_format='url'), ['198.51.100.7'], X_Forwarded_Proto=proto)
            self.assertEqual(status, 200, answer)
            self.assertTrue(answer['data'][0]['url'].startswith(f'{scheme}://127.0.0.1:{SERVER.port}/v1/files/'), answer)

    def test_a_proxy_has_many_connections(self):
        for source, served in ((PROXY, 20), (CROWD, 8)):
            with contextlib.ExitStack() as open_ones:
                answers = []
                for _ in range(20):
                    c = open_ones.enter_context(contextlib.closing(SERVER.connect(source=source)))
                    c.request('GET', '/health')
                    answers.append(c.getresponse().status)
                self.assertEqual(answers, [200] * served + [429] * (20 - served), source)

    def test_what_is_no_address(self):
        for wrong in ('proxy.lan', '10.0.0.0/33', '10.0.0.1:80'):
            p = subprocess.run([ANNEAL, 'serve', '--port', '0', '--trusted-proxy', '10.0.0.1,' + wrong], capture_output=True, text=True, timeout=patience(60))
            self.assertNotEqual(p.returncode, 0)
            self.assertIn(f"--trusted-proxy: '{wrong}' is neither an address", p.stderr)


if __name__ == '__main__':
    unittest.main()
