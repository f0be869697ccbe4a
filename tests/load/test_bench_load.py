"""`anneal bench --load`: what it sends, what it counts, and that no server slows it down."""
import json, os, shutil, socket, subprocess, sys, tempfile, threading, time, unittest
import xml.etree.ElementTree as xml
sys.path.insert(0, os.path.join(os.path.dirname(__file__), '..', 'http'))
from text_models import *

FOLDER = None


def setUpModule():
    global FOLDER
    FOLDER = tempfile.mkdtemp(prefix='anneal-text-')
    add_model(FOLDER, 'tiny', template=CHATML)


def tearDownModule():
    shutil.rmtree(FOLDER)


def bench(url, *args, fails=False):
    p = subprocess.run([ANNEAL, 'bench', '--load', url, *args], capture_output=True, text=True, timeout=patience(120))
    assert (p.returncode != 0) == fails, (p.returncode, p.stdout, p.stderr)
    return p.stderr if fails else json.loads(p.stdout) if '--json' in args else p.stdout


def url_of(server):
    return f'http://127.0.0.1:{server.port}'


class Stalls(threading.Thread):
    """Accepts everybody and says nothing for a while, then answers all at once, each with a finished picture."""

    def __init__(self, seconds):
        super().__init__(daemon=True)
        self.listener = socket.create_server(('127.0.0.1', 0), backlog=1000)
        self.port, self.seconds, self.asked = self.listener.getsockname()[1], seconds, 0
        self.opens = None  # when it begins to answer
        self.lock = threading.Lock()
        self.start()

    def run(self):
        while True:
            k, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(k,), daemon=True).start()

    def serve(self, k):
        f = k.makefile('rwb')
        while line := f.readline():
            length = 0
            while (header := f.readline()) not in (b'\r\n', b''):
                if header.lower().startswith(b'content-length:'):
                    length = int(header.split(b':')[1])
            f.read(length)
            if line.startswith(b'POST'):
                with self.lock:
                    self.asked += 1
                    self.opens = self.opens or time.time() + self.seconds
                time.sleep(max(0, self.opens - time.time()))
                body, kind = b'event: image_generation.completed\ndata: {"type":"image_generation.completed"}\n\n', b'text/event-stream'
            else:
                body, kind = b'{"data":[]}', b'application/json'
            f.write(b'HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s' % (kind, len(body), body))
            f.flush()


class Bench(unittest.TestCase):
    def test_pictures_and_chats(self):
        s = Server('--models', os.path.join(ROOT, 'weights', 'demo'), '--models', FOLDER)
        args = ('--rate', '2,6', '--seconds', '3', '--steps', '2', '--size', '32x32', '--prompt-words', '4',
                '--max-tokens', '200', '--json')  # a few tokens may be there, and told, all at once
        with tempfile.TemporaryDirectory() as d:
            svg = os.path.join(d, 'load.svg')
            j = bench(url_of(s) + '/', '--svg', svg, *args)
            text = open(svg).read()
        self.assertEqual([r['offered'] for r in j['rates']], [2, 6])
        for r in j['rates']:
            self.assertEqual(r['status'], {'200': r['sent']})
            self.assertEqual((r['done'], r['image']['sent'] + r['chat']['sent']), (r['sent'], r['sent']))
            self.assertIsNotNone(r['queue']['p99'])
        r = j['rates'][1]
        self.assertGreater(min(r['image']['sent'], r['chat']['sent']), 0)
        for kind in ('image', 'chat'):
            for p in ('p50', 'p95', 'p99'):
                self.assertGreater(r[kind]['first'][p], 0)
                self.assertLessEqual(r[kind]['first'][p], r[kind]['total'][p])
            self.assertLessEqual(r[kind]['total']['p50'], r[kind]['total']['p99'])
        self.assertGreater(r['tokens_per_second'], 0)
        self.assertIsNotNone(r['chat']['gap']['p50'])
        tree = xml.fromstring(text)
        ns = '{http://www.w3.org/2000/svg}'
        words = [t.text for t in tree.iter(ns + 'text')]
        for word in ('total p50', 'total p99', 'first preview p50', 'first token p99', '2', '6'):
            self.assertIn(word, words)
        self.assertIn('prefers-color-scheme:dark', text)
        self.assertEqual(len(list(tree.iter(ns + 'path'))), 12)
        # arrivals are the seed's, not the server's
        again = bench(url_of(s), '--mix', '1:1', *args)
        self.assertEqual([(r['image']['sent'], r['chat']['sent']) for r in again['rates']],
                         [(r['image']['sent'], r['chat']['sent']) for r in j['rates']])
        other = bench(url_of(s), '--mix', '1:0', '--seed', '2', '--rate', '2', *args[2:])
        self.assertEqual(other['rates'][0]['chat']['sent'], 0)
        self.assertEqual(s.stop(), 0)

    def test_a_stall_is_seen_in_all_that_it_delayed(self):
        """A closed loop would send one request, wait, and tell of one slow answer."""
        seconds = 4 if SLOW else 2
        s = Stalls(seconds)
        j = bench(url_of(s), '--mix', '1:0', '--rate', '40', '--seconds', str(seconds), '--json')['rates'][0]
        print(f"stalled for {seconds} s: {j['sent']} requests, p50 {j['image']['total']['p50']:.2f} s, p99 {j['image']['total']['p99']:.2f} s",
              flush=True)
        self.assertEqual(j['sent'], s.asked)
        self.assertGreater(j['sent'], 20 * seconds)
        self.assertEqual(j['done'], j['sent'])
        self.assertGreater(j['image']['total']['p50'], 0.25 * seconds)  # evenly from 0 to all of it
        self.assertGreater(j['image']['total']['p99'], 0.8 * seconds)

    def test_a_sweep_ends_where_the_server_falls_behind(self):
        s = Server('--max-queue', '2', '--max-running', '1', '--max-batch', '1')
        j = bench(url_of(s), '--sweep', '--rate', '1', '--seconds', '2', '--mix', '1:0', '--size', '128x128', '--steps', '10', '--json')
        rates = [r['offered'] for r in j['rates']]
        self.assertEqual(rates, [2.0 ** i for i in range(len(rates))])
        self.assertLess(len(rates), 16)
        last = j['rates'][-1]
        print('a sweep ended at', last['offered'], 'a second:', last['status'], flush=True)
        self.assertTrue(last['done'] < .9 * last['sent'] or last['seconds'] > 2)
        self.assertLessEqual(set(last['status']), {'200', '429'})
        self.assertEqual(s.stop(), 0)

    def test_errors_are_counted(self):
        s = Server('--api-key', 'secret', '--max-queue', '1', '--max-running', '1', '--max-batch', '1')
        self.assertIn('--key', bench(url_of(s), fails=True))
        j = bench(url_of(s), '--key', 'secret', '--mix', '1:0', '--rate', '100', '--seconds', '1', '--json')['rates'][0]
        self.assertGreater(j['status'].get('429', 0), 0)
        self.assertEqual(sum(j['status'].values()), j['sent'])
        text = bench(url_of(s), '--key', 'secret', '--mix', '1:0', '--rate', '100', '--seconds', '1')
        self.assertIn('answered 429', text)
        j = bench(url_of(s), '--key', 'secret', '--mix', '0:1', '--rate', '20', '--seconds', '1', '--json')['rates'][0]
        self.assertEqual(j['status'], {'404': j['sent']})  # no language model is served
        self.assertEqual(s.stop(), 0)
        self.assertIn('connect', bench(url_of(s), fails=True))

    def test_bad_input(self):
        for args, word in ((['ftp://x'], 'http://'), (['http://x', '--rate', '0'], '--rate'), (['http://x', '--mix', '0:0'], '--mix'),
                           (['http://x', '--rate', '1,,2'], '--rate'), (['http://x', '--timeout', '-1'], '--timeout'),
                           (['http://x', '--max-tokens', '0'], '--max-tokens')):
            self.assertIn(word, bench(*args, fails=True))


if __name__ == '__main__':
    unittest.main(verbosity=1)
