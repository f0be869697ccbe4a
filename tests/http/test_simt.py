"""The device simt: the GPU's kernels, emulated, under the whole server. The golden pictures, the same
bytes alone and in company, text as the CPU computes it, and too little memory. The host's hand in
device memory is caught (guard=1)."""
import base64, json, math, os, shutil, sys, unittest
sys.path.insert(0, os.path.dirname(__file__))
from text_models import *
from test_golden import goldens

GUARD = {'ANNEAL_SIMT': 'guard=1'}
SMALL = dict(prompt='owl', seed=2, size='64x64', steps=3, guidance_scale=4)
OTHER = dict(prompt='pizza', seed=9, size='64x64', steps=2, guidance_scale=1, sampler='euler_a')


class Pictures(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server('--device', 'simt', env=GUARD)

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0

    def test_golden(self):
        """bf16, as the CPU's picture must be. All seven with AN_TEST_SECONDS over 60."""
        several = list(goldens())
        if float(os.environ.get('AN_TEST_SECONDS', '20')) <= 60:
            several = [several[5]]
        for ask, want in several:
            with self.subTest(**ask):
                got = png_pixels(self.server.images(**ask)[0])[2]
                mse = sum((x - y) ** 2 for x, y in zip(got, want)) / len(want)
                psnr = 10 * math.log10(255 ** 2 / max(mse, 1e-9))
                print(f"simt {ask['prompt'][:32]:34} {psnr:.1f} dB")
                self.assertGreaterEqual(psnr, 38)

    def test_company(self):
        alone = [self.server.images(**q) for q in (SMALL, OTHER)]
        crowd = together(*[lambda q=q: self.server.images(**q) for q in (OTHER, SMALL, dict(SMALL, n=2), OTHER)])
        self.assertEqual(crowd[1], alone[0])
        self.assertEqual(crowd[2][0], alone[0][0])
        self.assertEqual(crowd[0], alone[1])
        self.assertEqual(crowd[3], alone[1])

    def test_what_it_says(self):
        self.assertIn("simt: the GPU's kernels on the CPU", self.server.output())


class Text(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = models()
        args = ('--dtype', 'f32', '--models', cls.folder)
        cls.cpu = Server('--device', 'cpu', *args)
        cls.simt = Server('--device', 'simt', *args, env=GUARD)

    @classmethod
    def tearDownClass(cls):
        assert cls.cpu.stop() == 0 and cls.simt.stop() == 0
        shutil.rmtree(cls.folder)

    def complete(self, server, prompt, **more):
        body = dict(model='bare', prompt=prompt, max_tokens=4, temperature=0, ignore_eos=True,
                    return_token_ids=True, logprobs=2, seed=1)
        status, answer = server.post('/v1/completions', dict(body, **more))
        self.assertEqual(status, 200, answer)
        return answer['choices'][0]

    def test_as_the_cpu(self):
        for prompt in ([1, 17, 300, 42, 5], [7] * 40):
            a, b = self.complete(self.cpu, prompt), self.complete(self.simt, prompt)
            for x, y in zip(a['logprobs']['token_logprobs'][:1], b['logprobs']['token_logprobs'][:1]):
                self.assertAlmostEqual(x, y, delta=1e-3)

    def test_company(self):
        prompts = [[1, 17, 300, 42, 5], [7] * 40, [3]]
        alone = [self.complete(self.simt, p) for p in prompts]
        crowd = together(*[lambda p=p: self.complete(self.simt, p) for p in prompts])
        self.assertEqual(crowd, alone)

    def test_chat(self):
        status, answer = self.simt.post('/v1/chat/completions', dict(
            model='tiny', max_tokens=4, messages=[dict(role='user', content='Hi')]))
        self.assertEqual(status, 200, answer)
        self.assertEqual(answer['usage']['completion_tokens'], 4)


class Memory(unittest.TestCase):
    def test_too_little(self):
        """A request that does not fit is refused, and the server goes on."""
        server = Server('--device', 'simt', env={'ANNEAL_SIMT': 'memory=120M'})
        status, answer = server.post('/v1/images/generations', dict(prompt='owl', size='1024x1024', steps=1))
        self.assertIn(status, (400, 413, 503), answer)
        self.assertIn('MiB', answer['error']['message'])
        self.assertEqual(len(server.images(**OTHER)), 1)
        self.assertEqual(server.stop(), 0)


if __name__ == '__main__':
    unittest.main(verbosity=1)
