"""Load of language models: wrk, and 256 streams that come and go; fair shares; nothing is left behind."""
import json, os, random, shutil, sys, tempfile, threading, time, unittest
sys.path.insert(0, os.path.dirname(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(__file__), '..', 'http'))
from text_models import *
from test_load import HERE, SECONDS, wrk, wrk_script

FOLDER = None


def setUpModule():
    global FOLDER
    FOLDER = models()


def tearDownModule():
    shutil.rmtree(FOLDER)


def serve(*args):
    return Server('--dtype', 'f32', '--models', FOLDER, *args)


class Streams:
    """Clients that ask again and again; every fifth hangs up in the middle."""

    def __init__(self, server, count, seconds):
        self.server, self.until = server, time.time() + seconds
        self.done, self.refused, self.bad = [0] * count, 0, []
        self.threads = [threading.Thread(target=self.run, args=(i,)) for i in range(count)]
        for t in self.threads:
            t.start()
        for t in self.threads:
            t.join()

    def run(self, i):
        rnd = random.Random(i)
        while time.time() < self.until or (not self.done[i] and not self.bad and time.time() < self.until + patience(20)):
            try:
                self.ask(i, rnd)
            except Exception as e:  # whatever it is, the test must tell
                self.bad.append(repr(e))

    def ask(self, i, rnd):
        c = self.server.connect()
        try:
            c.request('POST', '/v1/chat/completions', json.dumps(dict(
                model='tiny', messages=[dict(role='user', content='x' * rnd.randrange(200))], stream=True,
                max_tokens=rnd.randrange(1, 100), n=rnd.randrange(1, 3))))
            r = c.getresponse()
            if r.status == 429:
                assert r.getheader('Retry-After')
                r.read()
                self.refused += 1
                time.sleep(0.05)
                return
            assert r.status == 200, (r.status, r.read())
            if rnd.random() < 0.2:
                r.read(100)
                return
            data = r.read()
            assert data.endswith(b'data: [DONE]\n\n') and b'"error"' not in data, data[-300:]
            self.done[i] += 1
        finally:
            c.close()


class Load(unittest.TestCase):
    def idle(self, s):
        """Every block is free again, nobody is left."""
        until = time.time() + patience(20)
        names = ('anneal_kv_blocks_used', 'anneal_sequences_running', 'anneal_sequences_waiting', 'anneal_http_streams')
        while time.time() < until and any(s.metrics()[n] for n in names):
            time.sleep(0.05)
        self.assertEqual([s.metrics()[n] for n in names], [0] * len(names))

    def test_256_streams(self):
        s = serve()
        Streams(s, 256, min(SECONDS, 5))
        before = s.rss()
        t = Streams(s, 256, SECONDS)
        print('256 streams:', sum(t.done), 'answers,', t.refused, 'refused; RSS', before >> 20, '->', s.rss() >> 20, 'MiB', flush=True)
        self.assertEqual(t.bad, [])
        self.assertGreater(min(t.done), 0)  # nobody starves
        self.idle(s)
        self.assertLess(s.rss(), before + (48 << 20) * (4 if SLOW else 1))
        self.assertEqual(s.stop(), 0)

    def test_small_pool(self):
        """Blocks for a few sequences only: others wait or are computed again, none fails."""
        s = serve('--kv-bytes', '1M', '--max-queue', '64')
        t = Streams(s, 48, min(SECONDS, 15))
        m = s.metrics()
        print('small pool:', sum(t.done), 'answers,', t.refused, 'refused,',
              [v for k, v in m.items() if k.startswith('vllm:num_preemptions_total')][0], 'preemptions of', m['anneal_kv_blocks'], 'blocks', flush=True)
        self.assertEqual(t.bad, [])
        self.assertGreater(sum(t.done), 10)
        self.idle(s)
        self.assertEqual(s.stop(), 0)

    def test_fair_shares(self):
        """One key with 60 requests at once, another with one after the other: the second does not wait for the first."""
        s = serve('--max-sequences', '4')
        long = dict(model='tiny', prompt='a', max_tokens=100, n=4, ignore_eos=True)
        crowd = [threading.Thread(target=s.post, args=('/v1/completions', long, {'Authorization': 'Bearer crowd'})) for _ in range(60)]
        for t in crowd:
            t.start()
        must_come(lambda: s.metrics()['anneal_sequences_waiting'] >= 120, 'half of the crowd waits')
        start = time.time()
        self.assertEqual(s.post('/v1/completions', dict(long, max_tokens=20, n=1), {'Authorization': 'Bearer one'})[0], 200)
        alone = time.time() - start
        for t in crowd:
            t.join()
        whole = time.time() - start
        print(f'one request beside 60 of another key: {alone:.2f} s of {whole:.2f} s', flush=True)
        self.assertLess(alone, whole / 2)
        self.assertEqual(s.stop(), 0)

    @unittest.skipUnless(shutil.which('wrk'), 'SKIP: wrk is not installed')
    def test_chat_script(self):
        with tempfile.TemporaryDirectory() as folder:
            add_model(folder, 'tiny', template=CHATML)
            s = Server('--dtype', 'f32', '--models', folder)
            counts, errors, out = wrk_script(s, os.path.join(HERE, 'chat.lua'), 16, 2)
            print('wrk, chats:', counts, flush=True)
            self.assertEqual((set(counts), errors[:3]), ({200}, [0, 0, 0]), out)
            self.assertEqual(s.stop(), 0)

    @unittest.skipUnless(shutil.which('wrk'), 'SKIP: wrk is not installed')
    def test_wrk(self):
        s = serve('--max-queue', '32')
        counts, errors, out = wrk(s, '/v1/completions', dict(model='tiny', prompt='the rain', max_tokens=16), 256, SECONDS)
        print('wrk, 256 connections:', counts, 'errors', errors, flush=True)
        self.assertEqual(set(counts) - {200, 429}, set(), out)
        self.assertGreater(counts.get(200, 0), 100)
        self.assertEqual(errors[:3], [0, 0, 0])
        self.idle(s)
        self.assertEqual(s.stop(), 0)


if __name__ == '__main__':
    unittest.main(verbosity=1)
