"""The same picture as diffusers, through HTTP: rng cpu, f32; and bf16 within 38 dB."""
import base64, json, math, os, sys, unittest
sys.path.insert(0, os.path.dirname(__file__))
from harness import *


def goldens():
    asks = json.load(open(os.path.join(GOLDEN, 'emoji', 'images.json')))
    pictures = safetensors(os.path.join(GOLDEN, 'emoji', 'images.safetensors'))
    for i, a in enumerate(asks):
        ask = dict(prompt=a['prompt'], seed=a['seed'], rng='cpu', steps=a['num_inference_steps'],
                   guidance_scale=a['guidance_scale'])
        if a['sampler']:
            ask['sampler'] = a['sampler']
        yield ask, pictures[f'image{i}'][2]


class Golden(unittest.TestCase):
    def test_f32(self):
        server = Server('--dtype', 'f32')
        for ask, want in goldens():
            with self.subTest(**ask):
                worst, mean = compare(png_pixels(server.images(**ask)[0])[2], want)
                print(f"f32  {ask['prompt'][:32]:34} worst {worst}, mean {mean:.4f}")
                self.assertLessEqual(worst, 1)
                self.assertLess(mean, .1)
        self.assertEqual(server.stop(), 0)

    def test_bf16(self):
        server = Server('--dtype', 'bf16')
        for ask, want in goldens():
            with self.subTest(**ask):
                got = png_pixels(server.images(**ask)[0])[2]
                mse = sum((x - y) ** 2 for x, y in zip(got, want)) / len(want)
                psnr = 10 * math.log10(255 ** 2 / max(mse, 1e-9))
                print(f"bf16 {ask['prompt'][:32]:34} {psnr:.1f} dB")
                self.assertGreaterEqual(psnr, 38)
        self.assertEqual(server.stop(), 0)


if __name__ == '__main__':
    unittest.main(verbosity=1)
