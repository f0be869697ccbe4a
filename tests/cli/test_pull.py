"""`anneal pull` against a server that speaks the hub's API: choice, checks, resuming, refusals, and what was
pulled makes pictures."""
import hashlib, json, os, random, shutil, signal, subprocess, sys, tempfile, time, unittest
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from test_cli import *
from hub import *

LM = {'config.json': b'{"model_type":"nothing"}', 'tokenizer.json': b'{}', 'README.md': b'hello', '.gitattributes': b'x'}


def noise(size, seed=1):
    return random.Random(seed).randbytes(size)


class Pull(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)
        self.hub = Hub()
        self.addCleanup(lambda: self.hub.close())

    def env(self, **more):
        keep = {k: v for k, v in ENV.items() if k.lower() not in ('https_proxy', 'http_proxy', 'all_proxy', 'no_proxy', 'hf_token')}
        return {**keep, 'HF_ENDPOINT': self.hub.url + '/', **more}

    def args(self, *args):
        return ['pull', '--models', self.folder, '--retry-wait', '0.01', *args]

    def pull(self, *args, **env):
        return anneal(*self.args(*args), env=self.env(**env))

    def ok(self, *args, **env):
        p = self.pull(*args, '--json', **env)
        self.assertEqual((p.returncode, p.stderr), (0, ''))
        return json.loads(p.stdout)

    def fails(self, code, *words, args=(), what='hf:o/n', **env):
        p = self.pull(what, *args, **env)
        self.assertEqual((p.returncode, p.stdout), (code, ''), p.stderr)
        for w in words:
            self.assertIn(w, p.stderr)
        return p.stderr

    def tree(self, name=''):
        top = os.path.join(self.folder, name)
        return {os.path.relpath(os.path.join(at, f), top) for at, _, files in os.walk(top) for f in files} - {'.anneal-pull.json'}

    def chosen(self, files, *args, what='hf:o/n'):
        self.hub.add('o/n', files)
        return {f['path'] for f in self.ok(what, '--dry-run', *args)['files']}

    # ------------------------------------------------------------- from the hub to a picture

    def test_a_pipeline_makes_a_picture(self):
        self.hub.add_folder('anneal/emoji', DEMO + '/emoji')
        t = Terminal(ANNEAL, *self.args('hf:anneal/emoji'), env=self.env())
        shown = t.read(None)
        self.assertEqual(t.wait(), 0, shown)
        self.assertIn('left out: 1 that anneal does not read', shown)  # README.md
        self.assertIn('\u2588', shown)
        self.assertIn('/s', shown)
        self.assertEqual(self.tree('emoji'), {f for f in self.hub.repos['anneal/emoji'][1] if f != 'README.md'})
        self.assertEqual(sorted(os.listdir(self.folder)), ['emoji'])
        ours, theirs = (subprocess.run([ANNEAL, 'generate', '--models', m, *FAST[2:], '-p', 'owl', '-o', '-'], capture_output=True,
                                       env=ENV) for m in (self.folder, DEMO))
        self.assertEqual((ours.returncode, ours.stdout), (0, theirs.stdout), ours.stderr)
        self.assertTrue(ours.stdout.startswith(b'\x89PNG'))
        for r in self.hub.log:  # nobody said who asks
            self.assertIsNone(r['auth'])
        before = len(self.hub.log)
        p = self.pull('hf:anneal/emoji')  # again: nothing comes
        self.assertEqual((p.returncode, p.stdout), (0, 'emoji\n'), p.stderr)
        self.assertIn('there already', p.stderr)
        self.assertNotIn('\r', p.stderr)
        self.assertEqual(len(self.hub.log), before + 1)

    def test_a_language_model_answers(self):
        sys.path.insert(0, os.path.join(ROOT, 'tests', 'http'))
        from text_models import models
        made = models()
        self.addCleanup(shutil.rmtree, made)
        self.hub.add_folder('o/tiny', os.path.join(made, 'tiny'))
        v = self.ok('hf:o/tiny@refs/pr/1')
        self.assertTrue(v['served'], v)
        asks = ['chat', '-m', 'tiny', '-t', '0', '-n', '5', '--dtype', 'f32', '--models']
        ours, theirs = (subprocess.run([ANNEAL, *asks, m], input=b'Hi', capture_output=True, env=ENV) for m in (self.folder, made))
        self.assertEqual((ours.returncode, ours.stdout), (0, theirs.stdout), ours.stderr)
        self.assertTrue(ours.stdout)

    # ------------------------------------------------------------- the choice

    def test_choice(self):
        w = noise(5000)
        lm = {**LM, 'model.safetensors': w, 'pytorch_model.bin': w, 'model.fp16.safetensors': w, 'consolidated.safetensors': w,
              'original/model.pth': w, 'onnx/model.onnx': w}
        texts = {'config.json', 'tokenizer.json'}
        self.assertEqual(self.chosen(lm), texts | {'model.safetensors'})
        self.assertEqual(self.chosen(lm, '--variant', 'fp16'), texts | {'model.fp16.safetensors'})
        self.assertEqual(self.chosen(lm, '--include', '*.bin', '--include', 'c*.json'), {'config.json', 'pytorch_model.bin'})
        self.assertEqual(self.chosen(lm, '--exclude', 'tok*'), {'config.json', 'model.safetensors'})
        self.assertEqual(self.chosen(lm, what='hf:o/n:consolidated.safetensors'), {'consolidated.safetensors'})
        shards = {'model.safetensors.index.json': b'{}', 'model-00001-of-00002.safetensors': w, 'model-00002-of-00002.safetensors': w}
        self.assertEqual(self.chosen({**LM, **shards}), texts | set(shards))
        self.assertEqual(self.chosen({**lm, **shards}), texts | {'model.safetensors'})
        net = 'diffusion_pytorch_model'
        pipe = {'model_index.json': b'{}', 'v1-5-pruned.safetensors': w, 'unet/config.json': b'{}', f'unet/{net}.safetensors': w,
                f'unet/{net}.fp16.safetensors': w, f'unet/{net}.non_ema.safetensors': w, f'unet/{net}.bin': w, 'vae/config.json': b'{}',
                f'vae/{net}.fp16.safetensors': w, 'text_encoder/config.json': b'{}', 'text_encoder/model.safetensors': w,
                'tokenizer/vocab.json': b'{}', 'tokenizer/merges.txt': b'', 'scheduler/scheduler_config.json': b'{}',
                'safety_checker/config.json': b'{}', 'safety_checker/model.safetensors': w}
        rest = {'model_index.json', 'unet/config.json', 'vae/config.json', 'text_encoder/config.json', 'tokenizer/vocab.json',
                'tokenizer/merges.txt', 'scheduler/scheduler_config.json', 'text_encoder/model.safetensors', f'vae/{net}.fp16.safetensors'}
        self.assertEqual(self.chosen(pipe), rest | {f'unet/{net}.safetensors'})
        self.assertEqual(self.chosen(pipe, '--variant', 'fp16'), rest | {f'unet/{net}.fp16.safetensors'})
        gguf = {**LM, 'm-Q4_K_M.gguf': w, 'm-Q4_K_S.gguf': w, 'm-Q8_0.gguf': w, 'mmproj-m-f16.gguf': w,
                'big/m-F16-00001-of-00002.gguf': w, 'big/m-F16-00002-of-00002.gguf': w}
        self.assertEqual(self.chosen(gguf), {'m-Q4_K_M.gguf'})
        self.assertEqual(self.chosen(gguf, what='hf:o/n:q8_0'), {'m-Q8_0.gguf'})
        self.assertEqual(self.chosen(gguf, what='hf:o/n@main:F16'), {'big/m-F16-00001-of-00002.gguf', 'big/m-F16-00002-of-00002.gguf'})
        self.fails(1, 'm-Q4_K_M.gguf', 'm-Q8_0.gguf', what='hf:o/n:Q4_K')
        self.hub.add('o/n', {**LM, 'pytorch_model.bin': w})
        self.fails(1, 'pickles', 'safetensors')
        self.hub.add('o/n', LM)
        self.fails(1, 'no weights')
        self.fails(1, 'none is wanted', args=['--include', 'nothing*'])
        self.assertEqual(os.listdir(self.folder), [])

    def test_files_that_are_models(self):
        w = {'m-F16-0000%d-of-00002.gguf' % i: noise(5000 + i, i) for i in (1, 2)}
        self.hub.add('o/n', {'big/' + k: v for k, v in w.items()})
        v = self.ok('hf:o/n')
        self.assertEqual((v['model'], v['path'], v['served']), ('m-F16', self.folder + '/m-F16-00001-of-00002.gguf', False))
        self.assertEqual(self.tree(), {*w, '.m-F16.anneal-pull.json'})
        self.assertEqual(self.ok('hf:o/n')['fetched'], 0)
        self.assertEqual(self.ok('hf:o/n', '--name', 'other')['path'], self.folder + '/other-00001-of-00002.gguf')
        self.hub.add('p/n', {k: noise(6000) for k in w})
        self.fails(1, 'came from hf:o/n', '--name', what='hf:p/n')
        os.mkdir(self.folder + '/n')
        self.hub.add('o/n', {**LM, 'model.safetensors': noise(5000)})
        self.fails(1, 'was not pulled from anywhere', '--name')

    # ------------------------------------------------------------- the net as it is

    def test_faults_of_the_net(self):
        """Each fault once; what comes in the end is right, and nothing is asked for that was there."""
        w = noise(300000)
        for fault in ('cut', 'short', 'no ranges', 'wrong bytes', (429, dict(Retry_After='0')), (503, {}), (500, {}), (403, {})):
            with self.subTest(fault=fault):
                self.hub.add('o/n', {**LM, 'model.safetensors': w})
                self.hub.faults = {'model.safetensors': [fault], 'tokenizer.json': ['cut', (503, dict(Retry_After='0'))]}
                if fault == 'no ranges':
                    self.hub.faults['model.safetensors'].insert(0, 'cut')
                self.hub.log.clear()
                self.ok('hf:o/n')
                with open(self.folder + '/n/model.safetensors', 'rb') as f:
                    self.assertEqual(f.read(), w)
                bytes_asked = self.hub.wants('model.safetensors', False)
                self.assertEqual(len(bytes_asked), 2)
                if fault in ('cut', 'short'):
                    self.assertEqual(bytes_asked[1]['range'], 'bytes=150000-')
                    self.assertTrue(bytes_asked[1]['if_range'].startswith('"tag-of-'))
                    self.assertIsNone(self.hub.wants('model.safetensors', True)[1]['if_range'])
                shutil.rmtree(self.folder + '/n')
        self.hub.listing_faults = [(503, {}), (429, dict(Retry_After='0')), (429, dict(Retry_After='Thu, 01 Jan 1970 00:00:00 GMT'))]
        self.ok('hf:o/n')

    def test_what_does_not_get_better(self):
        w = noise(300000)
        self.hub.add('o/n', {**LM, 'model.safetensors': w})
        for fault, word in (('wrong bytes', 'SHA-256'), ('too long', 'more than its 300000 bytes'), ((404, {}), '404'), ((500, {}), '500')):
            self.hub.faults = {'model.safetensors': [fault] * 10}
            self.fails(1, 'model.safetensors', word, args=['--retries', '2'])
            self.assertNotIn('n', os.listdir(self.folder))
        self.hub.faults = {'model.safetensors': ['cut', 'wrong range']}
        self.fails(1, 'were asked for', args=['--retries', '2'])
        part = os.path.join(self.folder, '.pull-n', 'parts', hashlib.sha256(w).hexdigest())
        size = os.path.getsize(part)
        self.assertGreaterEqual(size, 150000)
        self.hub.faults = {'tokenizer.json': ['wrong bytes'] * 2}
        self.fails(1, "git's SHA-1", args=['--name', 'm'])
        self.hub.faults = {}
        self.hub.log.clear()
        self.ok('hf:o/n')  # the part is still good
        self.assertEqual(self.hub.wants('model.safetensors', False)[0]['range'], f'bytes={size}-')

    def test_retry_after_is_kept(self):
        self.hub.add('o/n', {**LM, 'model.safetensors': noise(5000)})
        self.hub.faults = {'model.safetensors': [(429, dict(Retry_After='1'))]}
        begun = time.time()
        self.ok('hf:o/n')
        self.assertGreaterEqual(time.time() - begun, 1)

    def start_and_hold(self, name='model.safetensors', *more):
        """A pull that has half of the file on disk."""
        self.hub.faults = {name: ['hold']}
        p = subprocess.Popen([ANNEAL, *self.args('hf:o/n', *more)], env=self.env(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.addCleanup(p.communicate)
        self.addCleanup(p.kill)
        part = os.path.join(self.folder, '.pull-n', 'parts', hashlib.sha256(self.hub.repos['o/n'][1][name]).hexdigest())
        half = len(self.hub.repos['o/n'][1][name]) // 2
        end = time.time() + patience(30)
        while time.time() < end and not (os.path.exists(part) and os.path.getsize(part) == half):
            time.sleep(0.02)
        self.assertEqual(os.path.getsize(part), half)
        return p

    def test_killed_and_resumed(self):
        w = noise(400000)
        self.hub.add('o/n', {**LM, 'model.safetensors': w})
        p = self.start_and_hold()
        self.fails(1, 'another')  # one at a time
        p.send_signal(signal.SIGKILL)
        p.wait()
        self.assertEqual(anneal('models', '--models', self.folder, '--names').stdout, '')
        self.hub.log.clear()
        self.assertEqual(self.ok('hf:o/n')['fetched'], 200000)
        self.assertEqual([r['range'] for r in self.hub.wants('model.safetensors')], ['bytes=200000-'] * 2)
        self.assertEqual(self.tree('n'), {'config.json', 'tokenizer.json', 'model.safetensors'})
        with open(self.folder + '/n/model.safetensors', 'rb') as f:
            self.assertEqual(f.read(), w)
        self.assertEqual(os.listdir(self.folder), ['n'])

    def test_interrupted(self):
        self.hub.add('o/n', {**LM, 'model.safetensors': noise(400000)})
        p = self.start_and_hold()
        p.send_signal(signal.SIGINT)
        out, err = p.communicate(timeout=patience(30))
        self.assertEqual((p.returncode, out), (-signal.SIGINT, ''))
        self.assertIn('the same command goes on', err)
        self.hub.log.clear()
        self.ok('hf:o/n')
        self.assertEqual(self.hub.wants('model.safetensors')[0]['range'], 'bytes=200000-')

    def test_a_damaged_part(self):
        self.hub.add('o/n', {**LM, 'model.safetensors': noise(400000)})
        p = self.start_and_hold()
        p.kill()
        p.wait()
        part = os.path.join(self.folder, '.pull-n', 'parts', hashlib.sha256(noise(400000)).hexdigest())
        with open(part, 'r+b') as f:
            f.write(b'damaged')
        self.ok('hf:o/n')
        with open(self.folder + '/n/model.safetensors', 'rb') as f:
            self.assertEqual(f.read(), noise(400000))

    def test_another_revision(self):
        """Only what changed comes; until it is whole the old model stays."""
        w, x = noise(300000, 1), noise(300000, 2)
        self.hub.add('o/n', {**LM, 'model-00001-of-00002.safetensors': w, 'model-00002-of-00002.safetensors': w})
        self.assertEqual(self.ok('hf:o/n')['fetched'], 300000 + 26)  # equal files come once
        self.hub.add('o/n', {**LM, 'model-00001-of-00002.safetensors': w, 'model-00002-of-00002.safetensors': x}, '1' * 40)
        self.hub.faults = {'model-00002-of-00002.safetensors': [(404, {})]}
        self.fails(1, '404')
        with open(self.folder + '/n/model-00002-of-00002.safetensors', 'rb') as f:
            self.assertEqual(f.read(), w)
        self.hub.log.clear()
        self.assertEqual(self.ok('hf:o/n')['commit'], '1' * 40)
        self.assertEqual({r['file'] for r in self.hub.log} - {None}, {'model-00002-of-00002.safetensors'})
        for i, want in ((1, w), (2, x)):
            with open(self.folder + f'/n/model-0000{i}-of-00002.safetensors', 'rb') as f:
                self.assertEqual(f.read(), want)
        self.assertEqual(os.listdir(self.folder), ['n'])

    def test_the_users_files_stay(self):
        """What was laid beside the weights outlives another revision; what the old revision had alone goes."""
        self.hub.add('o/n', {**LM, 'model.safetensors': noise(5000), 'old/config.json': b'{}'})
        self.ok('hf:o/n', '--include', '*.json', '--include', '*.safetensors')
        mine = {'anneal.json': b'{"description":"mine"}', 'loras/deep/my.safetensors': noise(300, 7), 'old/note': b'n'}
        for name, data in mine.items():
            os.makedirs(os.path.dirname(os.path.join(self.folder, 'n', name)), exist_ok=True)
            with open(os.path.join(self.folder, 'n', name), 'wb') as f:
                f.write(data)
        os.symlink('../elsewhere', self.folder + '/n/link')
        new = {'config.json': b'{"model_type":"nobody"}', 'tokenizer.json': b'{}', 'model.safetensors': noise(6000)}

        def mine_are_there():
            for name in mine:
                with open(os.path.join(self.folder, 'n', name), 'rb') as f:
                    self.assertEqual(f.read(), mine[name], name)
            self.assertEqual(os.readlink(self.folder + '/n/link'), '../elsewhere')
        for commit in ('1' * 40, '2' * 40):  # what was kept once is kept again
            new['model.safetensors'] += commit.encode()
            self.hub.add('o/n', new, commit)
            self.assertEqual(self.ok('hf:o/n')['commit'], commit)
            mine_are_there()
            self.assertEqual(self.tree('n'), {*new, *mine, 'link'})
            with open(self.folder + '/n/model.safetensors', 'rb') as f:
                self.assertEqual(f.read(), new['model.safetensors'])
            self.assertEqual(os.listdir(self.folder), ['n'])
        # a file of theirs under a name of mine is refused before a byte of it comes, unless it is the same
        self.hub.add('o/n', {**new, 'anneal.json': b'{"description":"theirs"}'}, '3' * 40)
        self.hub.log.clear()
        self.fails(1, self.folder + '/n/anneal.json', 'was not pulled', 'move it away', args=['--include', '*'])
        self.assertEqual(self.hub.wants('anneal.json'), [])
        mine_are_there()
        self.ok('hf:o/n', '--include', '*', '--exclude', 'anneal.json')
        mine_are_there()
        self.hub.add('o/n', {**new, 'anneal.json': mine['anneal.json']}, '4' * 40)
        self.ok('hf:o/n', '--include', '*')
        mine_are_there()
        # a folder of theirs where a file of mine is
        with open(self.folder + '/n/extra', 'wb') as f:
            f.write(b'mine')
        self.hub.add('o/n', {**new, 'extra/config.json': b'[]'}, '5' * 40)
        self.fails(1, self.folder + '/n/extra', 'move it away', args=['--include', '*'])
        mine_are_there()
        with open(self.folder + '/n/extra', 'rb') as f:
            self.assertEqual(f.read(), b'mine')
        os.remove(self.folder + '/n/extra')
        # a pull that was killed between the two steps of a file system that cannot swap
        os.makedirs(self.folder + '/.pull-n', exist_ok=True)
        os.rename(self.folder + '/n', self.folder + '/.pull-n/old')
        self.hub.add('o/n', {**new, 'anneal.json': mine['anneal.json'], 'model.safetensors': noise(7000)}, '6' * 40)
        self.ok('hf:o/n', '--include', '*')
        mine_are_there()
        self.assertEqual(os.listdir(self.folder), ['n'])

    # ------------------------------------------------------------- who may, and who may not

    def test_token(self):
        self.hub.token = 'hf_secret'
        self.hub.add('o/n', {**LM, 'model.safetensors': noise(5000)})
        self.fails(1, '401', 'gated', 'HF_TOKEN', self.hub.url + '/o/n')
        self.assertNotIn('hf_wrong', self.fails(1, '403', 'gated', HF_TOKEN='hf_wrong'))
        self.hub.log.clear()
        self.ok('hf:o/n', HF_TOKEN='hf_secret')
        self.assertEqual({r['auth'] for r in self.hub.log if r['hub']}, {'Bearer hf_secret'})
        self.assertEqual({r['auth'] for r in self.hub.log if not r['hub']}, {None})  # not to the other host
        shutil.rmtree(self.folder + '/n')
        with tempfile.NamedTemporaryFile('w') as f:
            f.write('hf_secret\n')
            f.flush()
            self.ok('hf:o/n', '--token-file', f.name)
        self.fails(2, '/nonexistent', args=['--token-file', '/nonexistent'])
        self.fails(2, 'no token', HF_TOKEN='two words')
        self.fails(2, 'https', HF_TOKEN='hf_secret', HF_ENDPOINT='http://hub.invalid')

    def test_refusals(self):
        self.fails(1, '404', 'no such model', what='hf:o/nobody')
        self.hub.add('o/n', {**LM, 'model.safetensors': noise(5000)})
        self.fails(1, 'revision', what='hf:o/n@nowhere')
        self.fails(1, '--max-files', args=['--max-files', '4'])
        self.fails(1, '--max-bytes', args=['--max-bytes', '4K'])
        self.fails(1, '--max-listing', args=['--max-listing', '100'])
        for what in ('o/n', 'hf:n', 'hf:../n', 'hf:o/..', 'hf:o/n@', 'hf:o/n@../x', 'hf:o/n:', 'hf:o/n:../x', 'hf:o/n?x', 'hf:o/-n', 'hf:o/n/m'):
            self.fails(2, 'hf:OWNER/NAME', what=what)
        self.fails(1, 'cannot be the name', args=['--name', '../x'])
        self.fails(1, 'cannot be the name', args=['--name', '.x'])
        for name in ('$(touch${IFS}x)', '`x`', 'a;b', 'a|b', 'a&b', "a'b", 'a"b', 'a>b', 'a*', '~a'):
            self.fails(1, 'cannot be the name', args=['--name', name])
        self.hub.add('o/gguf', {'$(touch${IFS}x).gguf': noise(5000)})
        self.fails(1, 'cannot be the name', '--name', what='hf:o/gguf')
        self.fails(2, 'HF_ENDPOINT', HF_ENDPOINT='ftp://x')
        self.fails(2, '--parallel', args=['--parallel', '0'])
        self.fails(2, 'one of them', what='hf:o/n:x.gguf', args=['--include', '*'])
        self.assertIn('cannot be reached', self.fails(1, 'HF_ENDPOINT', HF_ENDPOINT='http://127.0.0.1:1'))
        self.assertEqual(os.listdir(self.folder), [])

    def test_evil_listings(self):
        good = dict(rfilename='config.json', size=2, blobId='a' * 40)
        for bad in ('../x', '/etc/x', 'a/../../x', 'a//b', 'a\\b', 'a\nb', '', '.', 'a/', 'x' * 2000, 'a/' + 'y' * 300):
            self.hub.listing = json.dumps(dict(sha='b' * 40, siblings=[good, dict(good, rfilename=bad)])).encode()
            self.fails(1, 'refused')
        for change, word in ((dict(blobId='no hash'), 'checksum'), (dict(blobId=None), 'checksum'), (dict(size=-1), 'how large'),
                             (dict(size='2'), 'how large'), (dict(lfs=dict(size=2)), 'checksum'), (dict(rfilename=7), 'refused')):
            self.hub.listing = json.dumps(dict(sha='b' * 40, siblings=[dict(good, **change)])).encode()
            self.fails(1, word)
        huge = [dict(rfilename=n, size=1 << 62, blobId='a' * 40) for n in ('config.json', 'model.safetensors')]
        self.hub.listing = json.dumps(dict(sha='b' * 40, siblings=huge)).encode()
        self.fails(1, '--max-bytes')
        huge[1]['size'] = 1 << 50
        self.hub.listing = json.dumps(dict(sha='b' * 40, siblings=[good, huge[1]])).encode()
        self.fails(1, 'are free', args=['--max-bytes', '8192T'])
        for body in (b'', b'{', b'[]', b'{"sha":"x","siblings":[]}', b'{"sha":"' + b'b' * 40 + b'"}', b'\xff', b'[' * 10000):
            self.hub.listing = body
            self.fails(1, 'hf:o/n@main')
        both = [dict(rfilename=n, size=0, blobId=git_sha1(b'')) for n in ('a', 'a/b')]  # a file and a folder
        self.hub.add('o/n', {'a': b'', 'a/b': b''})
        self.hub.listing = json.dumps(dict(sha=COMMIT, siblings=both)).encode()
        self.fails(1, 'a', args=['--include', '*'])
        self.assertNotIn('n', os.listdir(self.folder))

    def test_redirects(self):
        self.hub.add('o/n', {**LM, 'model.safetensors': noise(5000)})
        self.hub.faults = {'config.json': [(302, dict(Location='/o/n/resolve/' + COMMIT + '/config.json'))]}
        self.ok('hf:o/n')  # a relative one
        shutil.rmtree(self.folder + '/n')
        for to, word in (('/o/n/resolve/' + COMMIT + '/config.json', 'sent on more than'), ('file:///etc/passwd', 'not an http'),
                         ('http://[', 'not an http')):
            self.hub.faults = {'config.json': [(302, dict(Location=to))] * 20}
            self.fails(1, word)

    def test_tls(self):
        """Certificates are checked, and https stays https."""
        if not shutil.which('openssl'):
            skip('openssl is not installed')
        with tempfile.TemporaryDirectory() as keys:
            pem = os.path.join(keys, 'both.pem')
            subprocess.run(['openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', '-subj', '/CN=localhost', '-addext',
                            'subjectAltName=IP:127.0.0.1,DNS:localhost', '-keyout', pem, '-out', keys + '/cert.pem'],
                           check=True, capture_output=True)
            with open(pem, 'a') as f, open(keys + '/cert.pem') as cert:
                f.write(cert.read())
            self.addCleanup(self.hub.close)
            self.hub = Hub(certificate=pem, cdn_certificate=pem)
            self.hub.token = 'hf_secret'
            self.hub.add('o/n', {**LM, 'model.safetensors': noise(5000)})
            trust = dict(SSL_CERT_FILE=keys + '/cert.pem', HF_TOKEN='hf_secret')
            self.fails(1, 'not trusted', 'SSL_CERT_FILE', HF_TOKEN='hf_secret')
            self.assertEqual(self.hub.log, [])  # nobody heard the token
            self.ok('hf:o/n', **trust)
            self.assertEqual({r['auth'] for r in self.hub.log if not r['hub']}, {None})
            self.addCleanup(self.hub.close)
            self.hub = Hub(certificate=pem)
            self.hub.add('o/n', {**LM, 'model.safetensors': noise(6000)})
            self.fails(1, 'from https to http://localhost', 'not followed', args=['--name', 'm'], **trust)
            self.assertEqual(self.hub.wants('model.safetensors', False), [])

    def test_proxy(self):
        """Names that nobody can look up are reached through a proxy, unless no_proxy says otherwise."""
        self.hub.add('o/n', {**LM, 'model.safetensors': noise(100)})
        self.hub.large = 1 << 20
        proxy = dict(http_proxy=self.hub.url, HF_ENDPOINT='http://hub.invalid')
        self.assertTrue(self.ok('hf:o/n', **proxy)['path'])
        self.assertTrue(all(r['path'].startswith('http://hub.invalid/') for r in self.hub.log))
        self.fails(1, 'cannot be reached', no_proxy='hub.invalid', args=['--name', 'm'], **proxy)

    def test_no_proxy_hears_a_token_for_this_machine(self):
        """What is on this machine is asked without a proxy: plain http would show it the token."""
        self.hub.token = 'hf_secret'
        self.hub.add('o/n', {**LM, 'model.safetensors': noise(5000)})  # its bytes are on http://localhost
        proxy = Hub()
        self.addCleanup(proxy.close)
        for n, variable in enumerate(('http_proxy', 'all_proxy')):
            for host in ('127.0.0.1', 'localhost'):
                at = dict(HF_ENDPOINT=f'http://{host}:{self.hub.hub.server_port}', HF_TOKEN='hf_secret', **{variable: proxy.url})
                self.assertTrue(self.ok('hf:o/n', '--name', f'{host}-{n}', **at)['path'])
        self.assertEqual(proxy.log, [])
        self.pull('hf:o/n', http_proxy=proxy.url, HF_ENDPOINT='http://hub.invalid')
        self.assertEqual([r['auth'] for r in proxy.log], [None])  # it does hear what is elsewhere

    def test_output(self):
        self.hub.add('o/n', {**LM, 'model.safetensors': noise(5000), 'pytorch_model.bin': noise(5000)})
        p = self.pull('hf:o/n', '--dry-run')
        self.assertEqual((p.returncode, p.stderr), (0, ''))
        self.assertIn('model.safetensors', p.stdout)
        self.assertIn('1 pickles', p.stdout)
        self.assertEqual(os.listdir(self.folder), [])
        p = self.pull('hf:o/n', '--quiet')
        self.assertEqual(p.returncode, 0)
        self.assertIn('cannot be served', p.stderr)  # "nothing" is no architecture
        v = self.ok('hf:o/n', '--name', 'm')
        self.assertEqual((v['repo'], v['commit'], v['served'], v['bytes']), ('o/n', COMMIT, False, 5026))
        self.assertEqual({f['path']: f.get('sha256') or f['git_sha1'] for f in v['files']},
                         {'config.json': git_sha1(LM['config.json']), 'tokenizer.json': git_sha1(b'{}'),
                          'model.safetensors': hashlib.sha256(noise(5000)).hexdigest()})

    def test_without_a_folder(self):
        self.hub.add('o/n', {**LM, 'model.safetensors': noise(100)})
        p = anneal('pull', 'hf:o/n', '--json', env=self.env(XDG_CACHE_HOME=self.folder))
        self.assertEqual(json.loads(p.stdout)['path'], self.folder + '/anneal/models/n')
        p = anneal('pull', 'hf:o/n', env=self.env(HOME=''))
        self.assertEqual(p.returncode, 2)
        self.assertIn('--models', p.stderr)


del ExitCodes, Output, Manual, Completions  # test_cli.py runs them

if __name__ == '__main__':
    unittest.main(verbosity=1)
