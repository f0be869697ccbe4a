"""The device that AN_TEST_DEVICE names, under the whole server: a small picture and a chat, as the CPU
makes them and the same bytes in company. And what start-up says where a device is not to be had."""
import json, os, shutil, subprocess, sys, threading, unittest
sys.path.insert(0, os.path.dirname(__file__))
from text_models import *

PICTURE = dict(model='sd1', prompt='owl', seed=2, size='32x32', steps=3)
CHAT = dict(model='tiny', max_tokens=6, temperature=0, messages=[dict(role='user', content='Hi')])
GPU = os.path.exists('/dev/nvidia0') or os.path.exists('/dev/nvidiactl')


def start(*args, env=None):
    """(exit code, what it said) of a server that is expected not to start."""
    r = subprocess.run([ANNEAL, 'serve', '--port', '0', *args], capture_output=True, text=True, timeout=patience(30),
                       env={**os.environ, 'HOME': '/nonexistent', **(env or {})})
    return r.returncode, r.stderr.strip()


class StartUp(unittest.TestCase):
    def refused(self, *args, env=None):
        code, text = start('--device', *args, env=env)
        print(f'  {" ".join(args)}: {text}')
        self.assertEqual(code, 1 if 'unknown' not in text else code, text)
        self.assertNotEqual(code, 0)
        self.assertEqual(len(text.splitlines()), 1, text)  # no traces, no half a start
        return text

    def test_no_gpu(self):
        """The device's name, what was found, what is needed."""
        if GPU:
            self.skipTest('this machine has a GPU')
        for name in ('cuda', 'cuda:0', 'cuda:7'):
            text = self.refused(name)
            self.assertIn('cuda', text)
            if 'no CUDA backend' in text:  # built without: how to build one, and what there is
                self.assertIn(f"'{name}'", text)
                self.assertIn('ANNEAL_CUDA=on', text)
                self.assertIn('cpu', text)
            else:
                self.assertRegex(text, r'no NVIDIA driver.* for CUDA \d+\.\d+ or later is needed|driver is for CUDA|no NVIDIA GPU')

    def test_no_gpu_is_visible(self):
        text = self.refused('cuda', env={'CUDA_VISIBLE_DEVICES': ''})
        if GPU:
            self.assertIn("CUDA_VISIBLE_DEVICES is ''", text)

    def test_a_gpu_that_does_not_exist(self):
        text = self.refused('cuda:99')
        if GPU:
            self.assertRegex(text, r"device 'cuda:99': there (is|are) \d+ GPUs?, the last is cuda:\d+")
        self.assertIn('colon', self.refused('cuda:one') + ('' if GPU else ' colon'))

    def test_unknown(self):
        self.assertIn('there are auto, cpu, cuda', self.refused('tpu'))

    def test_auto_says_why(self):
        server = Server('--device', 'auto')
        line = next(l for l in server.output().splitlines() if ' on c' in l)
        print(' ', line)
        if GPU and 'no CUDA backend' not in line:
            self.assertIn('on cuda:0: ', line)
        else:
            self.assertIn(' on cpu: ', line)
            self.assertRegex(line, r'no GPU: (this build has no CUDA backend|.*(driver|GPU).*)')
        self.assertEqual(server.stop(), 0)


class Small(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = models()
        os.symlink(os.path.join(GOLDEN, 'sd1', 'model'), os.path.join(cls.folder, 'sd1'))
        cls.server = Server('--models', cls.folder, '--dtype', 'f32')

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0
        shutil.rmtree(cls.folder)

    def chat(self, server):
        status, answer = server.post('/v1/chat/completions', CHAT)
        self.assertEqual(status, 200, answer)
        return answer['choices'][0]['message']['content']

    def test_as_the_cpu(self):
        cpu = Server('--models', self.folder, '--dtype', 'f32', '--device', 'cpu')
        self.assertIn(f' on {DEVICE}', self.server.output())
        self.assertEqual(self.chat(self.server), self.chat(cpu))
        worst, mean = compare(*(png_pixels(s.images(**PICTURE)[0])[2] for s in (self.server, cpu)))
        print(f'  picture on {DEVICE} and on the CPU: worst {worst}, mean {mean:.4f}')
        self.assertLessEqual(worst, 1)
        self.assertLess(mean, .1)
        self.assertEqual(cpu.stop(), 0)

    def test_in_company(self):
        asks = [PICTURE, dict(PICTURE, seed=5), dict(PICTURE, prompt='rocket', sampler='euler_a', guidance_scale=1)]
        alone = [self.server.images(**a) for a in asks]
        got = [None] * len(asks)
        threads = [threading.Thread(target=lambda i=i: got.__setitem__(i, self.server.images(**asks[i]))) for i in range(len(asks))]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(got, alone)


if __name__ == '__main__':
    unittest.main(verbosity=1)
