"""The server and its document, /openapi.json: every example is accepted, every answer and every event is as
documented, and schemathesis finds no request that is answered otherwise. That the document has every route
and the options' limits is the business of tests/unit/server_contract.c."""
import os, re, shutil, subprocess, sys, unittest
sys.path.insert(0, os.path.dirname(__file__))
from text_models import *

PACKAGES = ('schemathesis==4.32.5', 'hypothesis==6.170.15', 'jsonschema_rs==0.60.3')
HERE = os.path.dirname(os.path.abspath(__file__))
# small limits, so that what goes to them takes no time; the document tells them
LIMITS = ('--max-width', '128', '--max-height', '128', '--max-steps', '2', '--max-n', '2', '--max-tokens', '16',
          '--max-completions', '2', '--max-prompt-bytes', '2048', '--max-text-bytes', '2K', '--max-grammar-bytes', '2K',
          '--max-queue', '16', '--max-stop', '4', '--max-logit-bias', '8')
SEED, EXAMPLES = 1, 10
CONFIG = '''
seed = {seed}
continue-on-failure = true
suppress-health-check = ["too_slow"]  # of a busy machine
request-timeout = 300  # pictures wait behind the jobs of /v1/jobs
color = false
[output.sanitization]
enabled = false
[auth.openapi.key]
api_key = "sesame"
[generation]
allow-x00 = false
database = "none"
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", "504"]  # deadline_ms
[checks.positive_data_acceptance]
enabled = false  # contract_hooks.py has a milder one
[checks.use_after_free]
enabled = false  # DELETE cancels a job: it is there for a while yet
[[operations]]
include-path = "/v1/status"
checks.negative_data_rejection.enabled = false  # an odd `since` is no reason to show nothing
'''
FOLDER = None


def setUpModule():
    global FOLDER
    FOLDER = tempfile.mkdtemp(prefix='anneal-contract-')
    models = os.path.join(FOLDER, 'models')
    os.mkdir(models)
    add_model(models, 'tiny', template=CHATML)
    config = os.path.join(models, 'tiny', 'config.json')
    with open(config) as f:
        values = json.load(f)
    os.unlink(config)  # a link
    with open(config, 'w') as f:
        json.dump({**values, 'max_position_embeddings': 8192}, f)  # what the text limits allow fits the context


def tearDownModule():
    shutil.rmtree(FOLDER)


def server(*options):
    return Server('--models', os.path.join(ROOT, 'weights', 'demo'), '--models', os.path.join(FOLDER, 'models'),
                  '--api-key', 'sesame', *options)


class Contract(unittest.TestCase):
    def run_in_venv(self, *command, **env):
        p = subprocess.run([python_with(*PACKAGES), *command], capture_output=True, text=True, timeout=patience(300),
                           cwd=FOLDER, env={**os.environ, 'PYTHONPATH': HERE, **env})
        self.assertEqual(p.returncode, 0, p.stdout[-400000:] + p.stderr[-5000:])
        return p.stdout

    def test_limits_are_those_of_the_server(self):
        s = server('--max-steps', '7', '--max-tokens', '9', '--max-stop', '3')
        status, headers, data = s.raw('GET', '/openapi.json')  # no key
        self.assertEqual((status, headers['content-type']), (200, 'application/json'))
        schemas = json.loads(data)['components']['schemas']
        self.assertEqual(schemas['Steps']['maximum'], 7)
        self.assertEqual(schemas['StopTokenIds']['maxItems'], 3)
        completion = next(p['properties'] for p in schemas['CompletionRequest']['allOf'] if 'properties' in p)
        self.assertEqual((completion['max_tokens']['maximum'], completion['max_tokens']['default']), (9, 9))
        ask = lambda n: s.post('/v1/completions', dict(prompt='the', max_tokens=n), {'X-Api-Key': 'sesame'})[0]
        self.assertEqual([ask(9), ask(10), ask(None)], [200, 400, 200])
        self.assertEqual(s.stop(), 0)

    def test_examples(self):
        s = server()
        out = self.run_in_venv(os.path.join(HERE, 'contract.py'), 'examples', f'http://127.0.0.1:{s.port}', 'sesame')
        self.assertGreater(int(re.search(r'(\d+) answers held to the document, 0 wrong', out).group(1)), 100, out)
        self.assertEqual(s.stop(), 0)

    def test_schemathesis(self):
        s = server(*LIMITS)
        url, document, config = f'http://127.0.0.1:{s.port}', os.path.join(FOLDER, 'openapi.json'), os.path.join(FOLDER, 'st.toml')
        self.run_in_venv(os.path.join(HERE, 'contract.py'), 'document', url, 'sesame', document)
        with open(config, 'w') as f:
            f.write(CONFIG.format(seed=SEED))
        out = self.run_in_venv('-m', 'schemathesis.cli', '--config-file', config, 'run', document, '--url', url,
                               '--phases', 'examples,coverage,fuzzing,stateful', '-n', str(EXAMPLES),
                               SCHEMATHESIS_HOOKS='contract_hooks')
        counts = re.search(r'Selected: (\d+)/(\d+)\s+Tested: (\d+)', out).groups()
        self.assertEqual(len(set(counts)), 1, out)  # other names of a route are routes, too
        self.assertGreater(int(re.search(r'(\d+) generated, (\d+) passed', out).group(2)), 3000, out)
        print(re.search(r'.* generated, .*', out).group(0).strip(), flush=True)
        self.assertEqual(s.get('/health')[0], 200)
        self.assertEqual(s.stop(), 0)


if __name__ == '__main__':
    unittest.main(verbosity=1)
