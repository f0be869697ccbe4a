"""Same request, same bytes: alone, in a crowd of mixed samplers, steps, guidance and sizes, joining
late, beside cancelled jobs. AN_TEST_SECONDS bounds it (default 20)."""
import base64, json, os, random, sys, threading, time, unittest
sys.path.insert(0, os.path.dirname(__file__))
from harness import *

SECONDS = float(os.environ.get('AN_TEST_SECONDS', '20'))
SAMPLERS = [None, 'euler', 'euler_a', 'heun', 'ddim', 'dpmpp_2m', 'dpmpp_2m_sde', 'uni_pc', 'lms', 'ddpm', 'dpm_2_a', 'DPM++ 2M Karras']
PROMPTS = ['owl', 'red apple on a blue background', '', 'pattern of tulip on a pink background', 'small rocket', 'grinning face']


def random_request(rng):
    q = dict(prompt=rng.choice(PROMPTS), seed=rng.randrange(1000), steps=rng.choice([1, 2, 3, 5, 8, 13]),
             guidance_scale=rng.choice([0, 1, 1.5, 4, 7.5]), size=rng.choice(['128x128'] * 4 + ['64x64', '72x136']),
             rng=rng.choice(['cpu', 'gpu']), n=rng.choice([1, 1, 2]))
    if rng.random() < .3:
        q['negative_prompt'] = rng.choice(['blue', 'night'])
    if rng.random() < .2:
        q['guidance_rescale'] = .7
    sampler = rng.choice(SAMPLERS)
    if sampler:
        q['sampler'] = sampler
    return q


class Invariance(unittest.TestCase):
    def crowd(self, dtype):
        server = Server('--dtype', dtype)
        rng = random.Random(7)
        asks = [random_request(rng) for _ in range(12)]
        alone = [server.images(**q) for q in asks]  # one after the other: nobody shares a tick
        names = [f'anneal_{what}_total{{stage="denoise"}}' for what in ('rows', 'ticks')]
        before = [server.metrics()[n] for n in names]
        bad, counts, until = [], [0, 0], time.time() + SECONDS / 2

        def client(k):
            r = random.Random(k)
            while not bad and (time.time() < until or (counts[0] < 24 and time.time() < until + patience(60))):
                i = r.randrange(len(asks))
                if r.random() < .25:  # somebody who changes their mind
                    status, job = server.post('/v1/jobs', dict(asks[i], kind='image'))
                    time.sleep(r.random() * .3)
                    server.delete('/v1/jobs/' + job['id'])
                    counts[1] += 1
                elif server.images(**asks[i]) != alone[i]:
                    bad.append(asks[i])
                counts[0] += 1
        threads = [threading.Thread(target=client, args=(k,)) for k in range(16)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        rows, ticks = (server.metrics()[n] - b for n, b in zip(names, before))
        batch = rows / ticks
        print(f'{dtype}: {counts[0]} requests, {counts[1]} cancelled, mean batch {batch:.2f} rows', flush=True)
        self.assertEqual(bad, [])
        self.assertGreater(batch, 2.0, 'the crowd was not batched, so the test proves nothing')
        self.assertEqual(server.stop(), 0)

    def test_f32(self):
        self.crowd('f32')

    def test_bf16(self):
        self.crowd('bf16')


if __name__ == '__main__':
    unittest.main(verbosity=1)
