"""Lanes of the emulated GPU under the whole server: a picture and a chat stream at once, each with the
bytes it has alone; a device that is lost while both run."""
import json, os, shutil, sys, threading, unittest
sys.path.insert(0, os.path.dirname(__file__))
from text_models import *

PICTURE = dict(model='sd1', prompt='owl', seed=2, size='32x32', steps=6)
CHAT = dict(model='tiny', max_tokens=40, seed=5, temperature=0.8, ignore_eos=True, stream=True,
            messages=[dict(role='user', content='Hi')])


def folder():
    path = models()
    os.symlink(os.path.join(GOLDEN, 'sd1', 'model'), os.path.join(path, 'sd1'))
    return path


def chat(server):
    """The words of a stream."""
    status, _, data = server.raw('POST', '/v1/chat/completions', json.dumps(CHAT))
    assert status == 200, (status, data)
    pieces = [l[6:] for l in data.decode().split('\n') if l.startswith('data: ')]
    assert pieces.pop() == '[DONE]'
    return ''.join(json.loads(p)['choices'][0]['delta'].get('content') or '' for p in pieces)


def in_background(call):
    out = []
    thread = threading.Thread(target=lambda: out.append(call()))
    thread.start()
    return thread, out


class Lanes(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.models = folder()

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.models)

    def serve(self, simt):
        return Server('--device', 'simt', '--models', self.models, env={'ANNEAL_SIMT': simt})

    def test_at_once(self):
        server = self.serve('memory=256M')
        picture, words = server.images(**PICTURE), chat(server)
        self.assertTrue(words)
        thread, out = in_background(lambda: server.images(**PICTURE))
        self.assertEqual(chat(server), words)
        thread.join()
        self.assertEqual(out, [picture])
        self.assertEqual(server.stop(), 0)

    def test_lost(self):
        """Some launch fails for good, in a picture or in a text. What ran is not to be tried on other servers: 500."""
        server = self.serve('memory=256M,fail=2000')
        ask = dict(CHAT, stream=False)
        jobs = [in_background(lambda path=path, body=body: server.post(path, body)) for path, body in
                [('/v1/images/generations', dict(PICTURE, steps=100)), ('/v1/chat/completions', dict(ask, max_tokens=200))]]
        seen = set()
        for thread, out in jobs:
            thread.join()
            status, answer = out[0]
            seen.add(status)
            self.assertEqual(answer['error']['code'], 'device')
            self.assertTrue(answer['error']['message'].startswith('device lost: '), answer)
            self.assertIn('ECC', answer['error']['message'])
        self.assertIn(500, seen)
        self.assertLessEqual(seen, {500, 503})  # one of them may have come too late
        status, headers, data = server.raw('GET', '/health')
        health = json.loads(data)
        self.assertEqual((status, health['status'], headers.get('retry-after')), (503, 'device_failed', None))
        self.assertTrue(health['error']['message'].startswith('device lost: '), health)
        for path, body in (('/v1/images/generations', PICTURE), ('/v1/chat/completions', ask)):
            status, answer = server.post(path, body)
            self.assertEqual(status, 503, answer)
            self.assertIn('device lost: ', answer['error']['message'])
        self.assertEqual(server.stop(), 0)


if __name__ == '__main__':
    unittest.main(verbosity=1)
