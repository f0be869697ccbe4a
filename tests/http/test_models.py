"""Models as people have them: a single-file checkpoint draws the very picture of its diffusers folder;
a broken file harms nobody; the least used model makes room for the next."""
import base64, json, os, shutil, struct, subprocess, sys, tempfile, threading, time, unittest
sys.path.insert(0, os.path.dirname(__file__))
from harness import *

VOCAB = 49408  # OpenAI's CLIP vocabulary, which a single file takes for granted
SD1 = os.path.join(GOLDEN, 'sd1', 'model')


def write_safetensors(path, tensors):
    header, at = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = dict(dtype=dtype, shape=shape, data_offsets=[at, at + len(data)])
        at += len(data)
    head = json.dumps(header).encode()
    with open(path, 'wb') as f:
        f.write(struct.pack('<Q', len(head)) + head + b''.join(t[2] for t in tensors.values()))


def with_whole_vocabulary(source, path):
    """The tiny models have 2,530 tokens: their embeddings, repeated until there are 49,408."""
    tensors = safetensors(source)
    for name, (dtype, shape, data) in tensors.items():
        if name.endswith('token_embedding.weight'):
            width = shape[1] * 2
            tensors[name] = (dtype, [VOCAB, shape[1]], (data * (VOCAB // shape[0] + 1))[:VOCAB * width])
    write_safetensors(path, tensors)


def clip_vocabulary():
    """vocab.json as OpenAI numbered it: 256 bytes, the same at a word's end, merges, two specials."""
    kept = [*range(ord('!'), ord('~') + 1), *range(ord('¡'), ord('¬') + 1), *range(ord('®'), ord('ÿ') + 1)]
    letters = [chr(b) for b in kept] + [chr(256 + i) for i in range(256 - len(kept))]
    with open(os.path.join(ROOT, 'weights', 'clip', 'merges.txt'), encoding='utf-8') as f:
        merges = [line.split() for line in f.read().split('\n')[1:] if line.strip()]
    tokens = letters + [c + '</w>' for c in letters] + [a + b for a, b in merges[:48894]]
    return tokens + ['<|startoftext|>', '<|endoftext|>']


def make_models(folder):
    single = os.path.join(folder, 'one.v1.safetensors')  # a dot in the name stays in the id
    with tempfile.TemporaryDirectory() as made:
        subprocess.run([sys.executable, os.path.join(GOLDEN, 'make', 'single.py'), 'file', 'sd1', made], check=True)
        with_whole_vocabulary(os.path.join(made, 'sd1.safetensors'), single)
        shutil.copy(os.path.join(made, 'sd1.json'), os.path.join(folder, 'one.v1.json'))
    parts = os.path.join(folder, 'parts')
    shutil.copytree(SD1, parts)
    with_whole_vocabulary(os.path.join(SD1, 'text_encoder', 'model.safetensors'),
                          os.path.join(parts, 'text_encoder', 'model.safetensors'))
    config = os.path.join(parts, 'text_encoder', 'config.json')
    with open(config) as f:
        text = json.load(f)
    text.update(vocab_size=VOCAB, bos_token_id=VOCAB - 2, eos_token_id=VOCAB - 1, pad_token_id=VOCAB - 1)
    with open(config, 'w') as f:
        json.dump(text, f)
    tokens = clip_vocabulary()
    assert len(tokens) == VOCAB, len(tokens)
    os.unlink(os.path.join(parts, 'tokenizer', 'tokenizer.json'))
    with open(os.path.join(parts, 'tokenizer', 'vocab.json'), 'w') as f:
        json.dump({t: i for i, t in enumerate(tokens)}, f)
    shutil.copy(os.path.join(ROOT, 'weights', 'clip', 'merges.txt'), os.path.join(parts, 'tokenizer'))
    with open(os.path.join(folder, 'torn.safetensors'), 'wb') as f:
        f.write(struct.pack('<Q', 1 << 40) + b'{}')
    os.symlink('nowhere.safetensors', os.path.join(folder, 'dangling.safetensors'))
    shutil.copytree(SD1, os.path.join(folder, 'half'))
    os.unlink(os.path.join(folder, 'half', 'unet', 'diffusion_pytorch_model.safetensors'))


class Models(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)
        make_models(self.folder)

    def test_single_file_is_its_folder(self):
        s = Server('--models', self.folder, '--dtype', 'f32')
        ids = {m['id'] for m in s.get('/v1/models')[1]['data']}
        self.assertLessEqual({'one.v1', 'parts'}, ids)
        self.assertNotIn('torn', ids)
        for ask in (dict(prompt='a red apple, éclair ☀', steps=3), dict(prompt='owl ' * 90, steps=2, sampler='euler')):
            ask.update(seed=5, size='64x64')
            one, parts = (s.post('/v1/images/generations', dict(ask, model=m)) for m in ('one.v1', 'parts'))
            self.assertEqual((one[0], parts[0]), (200, 200), (one[1], parts[1]))
            a, b = (png_pixels(base64.b64decode(x[1]['data'][0]['b64_json'])) for x in (one, parts))
            self.assertEqual(a, b)
            self.assertEqual(a[:2], (64, 64))
            self.assertEqual(one[1].get('warnings'), parts[1].get('warnings'))
            self.assertGreater(len(set(a[2])), 16)  # a picture, not a plain colour
        # what cannot be served says why in the log, and costs its own requests only
        for model, word in (('torn', 'header'), ('dangling', ''), ('half', 'unet')):
            status, body = s.post('/v1/images/generations', dict(prompt='x', model=model))
            self.assertIn(status, (404, 500, 400), body)
            self.assertIn(word, s.output())
        self.assertEqual(s.post('/v1/images/generations', dict(prompt='owl', steps=1, model='parts'))[0], 200)
        self.assertEqual(s.stop(), 0)

    def test_the_least_used_makes_room(self):
        s = Server('--models', self.folder, '--dtype', 'f32', '--memory', '20M')
        ask = dict(prompt='owl', steps=1, size='64x64', seed=1)
        first = {}
        for _ in range(2):
            for model in ('one.v1', 'parts'):
                png = s.images(**dict(ask, model=model))[0]
                self.assertEqual(first.setdefault(model, png), png)
        self.assertEqual(s.output().count(': unloaded'), 3, s.output())
        self.assertEqual(s.stop(), 0)

    def test_too_small_for_a_model(self):
        """Nobody is told to come again in a second for what will never fit."""
        s = Server('--models', self.folder, '--dtype', 'f32', '--memory', '2M')
        for _ in range(2):
            status, headers, data = s.raw('POST', '/v1/images/generations', json.dumps(dict(prompt='owl', steps=1, size='64x64', model='one.v1')))
            e = json.loads(data)['error']
            self.assertEqual((status, e['code'], e['param'], headers.get('retry-after')), (503, 'no_memory', 'model', None), e)
        self.assertEqual(s.stop(), 0)

    @unittest.skipIf(SLOW, 'SKIP: hundreds of pictures take too long under a sanitizer')
    def test_caches_make_way(self):
        """A size that fits an idle server fits one whose caches are full, too."""
        s = Server('--models', os.path.join(ROOT, 'weights', 'demo'), '--dtype', 'f32', '--memory', '90M')
        big = dict(prompt='owl', steps=1, seed=1, size='224x224')
        first = s.images(**big)
        for i in range(300):
            s.post('/v1/jobs', dict(prompt=f'owl number {i}', kind='image', steps=1, size='16x16'))
            if i % 100 == 99:
                s.images(prompt='owl', steps=1, size='64x64', n=8)
        self.assertEqual(s.images(**big), first)
        status, body = s.post('/v1/images/generations', dict(big, size='1024x1024'))
        self.assertEqual((status, body['error']['param']), (400, 'size'), body)
        self.assertEqual(s.stop(), 0)

    def test_waiting_uploads_are_bounded(self):
        s = Server('--models', os.path.join(ROOT, 'weights', 'demo'), '--max-result-bytes', '120K', *MAY_BE_LONG)
        png = base64.b64encode(s.images(prompt='owl', steps=1, size='128x128')[0]).decode()
        first = s.post('/v1/jobs', dict(LONG, kind='image', n=8, priority=10))[1]['id']
        seen, lock = [], threading.Lock()

        def encode():
            answer = s.post('/v1/latents', dict(image=png))[0]
            with lock:
                seen.append(answer)
        threads = [threading.Thread(target=encode) for _ in range(5)]  # 48 KiB of pixels each
        for t in threads:
            t.start()
        must_come(lambda: len(seen) >= 3, 'three find no room')
        s.delete('/v1/jobs/' + first)
        for t in threads:
            t.join()
        self.assertIn(503, seen)
        self.assertIn(200, seen)
        self.assertEqual(s.post('/v1/latents', dict(image=png))[0], 200)  # nothing stays counted
        self.assertEqual(s.stop(), 0)


if __name__ == '__main__':
    unittest.main(verbosity=1)
