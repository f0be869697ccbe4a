"""Several devices behind one server, on the GPU's emulation: the same bytes from whichever of them, jobs
spread over both; /health, /metrics and the log tell them apart; one that is lost fails its own jobs only."""
import json, os, shutil, sys, unittest
sys.path.insert(0, os.path.dirname(__file__))
from text_models import *

PICTURE = dict(model='sd1', prompt='owl', size='32x32', steps=4)
CHAT = dict(model='tiny', max_tokens=20, temperature=0.8, ignore_eos=True, messages=[dict(role='user', content='Hi')])


class Devices(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.models = models()
        os.symlink(os.path.join(GOLDEN, 'sd1', 'model'), os.path.join(cls.models, 'sd1'))

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.models)

    def serve(self, device, simt):
        return Server('--device', device, '--models', self.models, env={'ANNEAL_SIMT': simt})

    def chat(self, server, seed):
        status, answer = server.post('/v1/chat/completions', dict(CHAT, seed=seed))
        self.assertEqual(status, 200, answer)
        return answer['choices'][0]['message']['content']

    def health(self, server):
        status, headers, data = server.raw('GET', '/health')
        return status, json.loads(data)

    def metrics(self, server, name):
        """The metric's value of each device."""
        lines = server.raw('GET', '/metrics')[2].decode().splitlines()
        return [float(l.split()[1]) for l in lines if l.startswith(f'anneal_device_{name}{{device=')]

    def test_one_queue(self):
        seeds = range(4)
        one = self.serve('simt', 'memory=256M')
        self.assertEqual(self.metrics(one, 'up'), [1])
        self.assertNotIn('devices', self.health(one)[1])
        want = [one.images(**PICTURE, seed=s) for s in seeds], [self.chat(one, s) for s in seeds]
        self.assertEqual(one.stop(), 0)
        server = self.serve('simt,simt', 'memory=256M')
        self.assertIn('2 devices', server.output())
        self.assertIn('device 2: simt: ', server.output())
        got = together(*[lambda s=s: server.images(**PICTURE, seed=s) for s in seeds], *[lambda s=s: self.chat(server, s) for s in seeds])
        self.assertEqual((got[:4], got[4:]), want)
        status, health = self.health(server)
        self.assertEqual((status, [d['status'] for d in health['devices']]), (200, ['ok', 'ok']), health)
        self.assertTrue(all(t > 0 for t in self.metrics(server, 'ticks_total')), self.metrics(server, 'ticks_total'))
        self.assertEqual(self.metrics(server, 'rows_running'), [0, 0])
        for m in server.get('/v1/models')[1]['data']:
            if m['default']:
                self.assertEqual((m['loaded'], m['devices']), (True, 2), m)
        self.assertEqual(server.stop(), 0)

    def test_one_is_lost(self):
        server = self.serve('simt:0,simt:1', 'memory=256M,devices=2,fail=1500@1')
        picture = server.images(**PICTURE, seed=7)
        lost = done = 0
        for _ in range(50):  # until the second device has had its 1500 launches
            for status, answer in together(*[lambda: server.post('/v1/images/generations', dict(PICTURE, seed=7, response_format='b64_json'))] * 3):
                self.assertIn(status, (200, 500), answer)  # one that is bound to the device has begun there
                if status == 500:
                    self.assertRegex(answer['error']['message'], '^device lost: 2 of 2: .*ECC')
                lost += status == 500
                done += status == 200
            if lost:
                break
        self.assertGreater(lost, 0)
        self.assertGreater(done, 0)
        status, health = self.health(server)
        self.assertEqual((status, health['status']), (200, 'ok'), health)
        self.assertEqual([d['status'] for d in health['devices']], ['ok', 'device_failed'])
        self.assertIn('ECC', health['devices'][1]['error'])
        self.assertEqual(self.metrics(server, 'up'), [1, 0])
        self.assertEqual(server.images(**PICTURE, seed=7), picture)
        self.assertTrue(self.chat(server, 1))
        self.assertEqual(server.stop(), 0)


if __name__ == '__main__':
    unittest.main(verbosity=1)
