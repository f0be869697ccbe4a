"""`anneal bench --roofline`: the launches and bytes of real ticks, of models of which there are only configs."""
import json, os, subprocess, unittest
from harness import ANNEAL, ROOT, patience

LAUNCHES_SD15 = 341  # of a denoising tick
SHAPES = os.path.join(ROOT, 'kernels', 'bench', 'shapes')


def roofline(*args):
    p = subprocess.run([ANNEAL, 'bench', '--roofline', '--json', *args], capture_output=True, timeout=patience(120))
    if p.returncode:
        raise AssertionError(p.stderr.decode())
    return {t['tick']: t for t in json.loads(p.stdout)['ticks']}


class Roofline(unittest.TestCase):
    def test_stable_diffusion(self):
        """What is known of SD 1.5: 859.5 M weights, 0.803 TFLOP a row; and how many launches a tick is allowed."""
        ticks = roofline('--made-up-weights', '-m', os.path.join(SHAPES, 'sd15'), '--rows', '1,2')
        one, two = ticks['denoise 512x512, 1 row']['total'], ticks['denoise 512x512, 2 rows']['total']
        self.assertAlmostEqual(one['flops'] / 1e12, 0.803, delta=0.002)
        self.assertAlmostEqual(two['flops'], 2 * one['flops'], delta=1e-3 * two['flops'])
        self.assertEqual(two['launches'], one['launches'])
        self.assertLess(one['bytes'], two['bytes'])
        self.assertGreater(one['bytes'], 2 * 859.5e6)
        self.assertLessEqual(two['launches'], LAUNCHES_SD15)

    def test_llama(self):
        """A decode tick reads every weight once, whatever the number of rows."""
        ticks = roofline('--made-up-weights', '-m', os.path.join(SHAPES, 'llama-3.2-1b'), '--rows', '1,8', '--context', '128',
                         '--limits', '1000,4000')
        ops = {t: {o['op']: o for o in ticks[t]['ops']} for t in ticks}
        one, many = ops['decode, 1 sequence of 128+1 tokens'], ops['decode, 8 sequences of 128+1 tokens']
        self.assertAlmostEqual(one['gemm']['bytes'], 2 * 1.2358e9, delta=0.01e9)
        self.assertLess(many['gemm']['bytes'], 1.01 * one['gemm']['bytes'])
        self.assertAlmostEqual(one['gemm']['floor_seconds'], one['gemm']['bytes'] / 4e12, delta=1e-6)
        self.assertEqual(many['gemm']['launches'], one['gemm']['launches'])

    def test_a_shipped_model(self):
        ticks = roofline('--rows', '1')
        self.assertGreater(next(t for name, t in ticks.items() if name.startswith('denoise'))['total']['launches'], 50)

    def test_bad_input(self):
        for args, word in ((['--limits', 'fast'], '--limits'), (['-m', '/nonexistent/x'], '/nonexistent/x'), (['--context', '0'], '--context')):
            p = subprocess.run([ANNEAL, 'bench', '--roofline', *args], capture_output=True, timeout=patience(60))
            self.assertNotEqual(p.returncode, 0)
            self.assertIn(word, p.stderr.decode())


if __name__ == '__main__':
    unittest.main()
