"""/metrics: the page is what Prometheus asks for, its numbers move with what happens, and a job that waits shows."""
import os, re, shutil, subprocess, sys, unittest
sys.path.insert(0, os.path.join(os.path.dirname(__file__), '..', 'http'))
from text_models import *

SERVER = FOLDER = None
PICTURE = dict(model='emoji', prompt='owl', size='64x64', seed=1)


def setUpModule():
    global SERVER, FOLDER
    FOLDER = models()
    SERVER = Server('--models', os.path.join(ROOT, 'weights', 'demo'), '--models', FOLDER, '--max-running', '1',
                    '--max-batch', '1', '--dtype', 'f32')


def tearDownModule():
    assert SERVER.stop() == 0
    shutil.rmtree(FOLDER)


def page():
    status, headers, data = SERVER.raw('GET', '/metrics')
    assert status == 200 and headers['content-type'].startswith('text/plain; version=0.0.4'), headers
    return data.decode()


class Page(unittest.TestCase):
    def test_families(self):
        """Every sample stands below its family's own two lines, and no family comes twice."""
        seen, family = set(), None
        for line in page().splitlines():
            words = line.split()
            if words[:2] == ['#', 'HELP']:
                family = words[2]
                self.assertNotIn(family, seen)
                seen.add(family)
            elif words[:2] == ['#', 'TYPE']:
                self.assertEqual(words[2], family)
            else:
                name = re.match(r'[a-zA-Z_:][a-zA-Z0-9_:]*', line)[0]
                self.assertIn(name, [family + end for end in ('', '_bucket', '_sum', '_count')])
                float(words[-1])
        self.assertGreater(len(seen), 50)

    def test_names_are_prometheus_own(self):
        promtool = shutil.which('promtool')
        if not promtool:
            print('SKIP: no promtool (Debian package prometheus), so names are not checked', flush=True)
            self.skipTest('no promtool')
        p = subprocess.run([promtool, 'check', 'metrics'], input=page(), capture_output=True, text=True)
        # the names under vllm: are vLLM's own, colons and all
        found = [l for l in p.stderr.splitlines() if l and not l.startswith('vllm:')]
        self.assertEqual(found, [])
        self.assertIn(p.returncode, (0, 3), p.stderr)  # 3: there were findings


class Numbers(unittest.TestCase):
    def test_they_move(self):
        before = SERVER.metrics()
        list(SERVER.events('POST', '/v1/images/generations', dict(PICTURE, steps=6, stream=True, partial_images=2),
                           {'Content-Type': 'application/json'}))
        self.assertEqual(SERVER.post('/v1/completions', dict(model='bare', prompt=[1, 2, 3], max_tokens=5, ignore_eos=True))[0], 200)
        self.assertEqual(SERVER.post('/v1/images/generations', dict(PICTURE, steps='six'))[0], 400)
        after = SERVER.metrics()
        moved = {k: after[k] - before.get(k, 0) for k in after}
        for name, n in (('anneal_first_preview_seconds_count', 1), ('anneal_first_token_seconds_count', 1),
                        ('anneal_inter_token_seconds_count', 4), ('anneal_queue_seconds_count', 2),
                        ('anneal_generated_tokens_total', 5), ('anneal_prompt_tokens_total', 3),
                        ('anneal_http_requests_total{code="400"}', 1), ('anneal_images_total', 1),
                        ('anneal_batch_rows_count{stage="denoise"}', 6), ('anneal_step_seconds_count', 6),
                        ('anneal_batch_rows_bucket{stage="denoise",le="1"}', 6)):
            self.assertEqual(moved[name], n, name)
        self.assertGreaterEqual(moved['anneal_http_requests_total{code="200"}'], 2)
        for stage in ('text', 'denoise', 'decode', 'forward'):
            for a, b in (('batch_rows_sum', 'rows_total'), ('batch_rows_count', 'ticks_total')):
                self.assertEqual(after['anneal_%s{stage="%s"}' % (a, stage)], after['anneal_%s{stage="%s"}' % (b, stage)])
        self.assertGreater(moved['process_cpu_seconds_total'], 0)
        self.assertEqual(after['anneal_jobs_queued_max'], 256)
        version = subprocess.run([ANNEAL, '--version'], capture_output=True, text=True).stdout.split()[1]
        self.assertIn(f'anneal_build_info{{version="{version}",device="{DEVICE}"}}', after)

    def test_a_job_that_waits(self):
        self.assertEqual(SERVER.metrics()['anneal_queue_oldest_seconds'], 0)
        ask = dict(PICTURE, kind='image', steps=150, size='128x128' if SLOW else '512x512', n=4)  # of minutes
        jobs = [SERVER.post('/v1/jobs', dict(ask, seed=i))[1]['id'] for i in range(3)]
        seen = []
        until = time.time() + patience(60)
        while time.time() < until and len(seen) < 2:
            m = SERVER.metrics()
            if m['anneal_jobs_queued'] and m['anneal_queue_oldest_seconds'] > (seen[-1] if seen else 0):
                seen.append(m['anneal_queue_oldest_seconds'])
        self.assertEqual(len(seen), 2, 'the age of what waits grows')
        for j in jobs:
            SERVER.delete('/v1/jobs/' + j)
        must_come(lambda: (lambda m: m['anneal_jobs_queued'] + m['anneal_jobs_running'] == 0)(SERVER.metrics()), 'they are cancelled')
        self.assertEqual(SERVER.metrics()['anneal_queue_oldest_seconds'], 0)


if __name__ == '__main__':
    unittest.main(verbosity=2)
