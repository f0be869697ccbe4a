"""The clients people have: OpenAI's Python package, and curl as README shows it."""
import base64, os, re, shutil, subprocess, sys, textwrap, unittest, venv
sys.path.insert(0, os.path.dirname(__file__))
from harness import *

OPENAI = 'openai==3.54.0'
SERVER = None


def setUpModule():
    global SERVER
    SERVER = Server('--api-key', 'sesame')


def tearDownModule():
    assert SERVER.stop() == 0


def skip(why):
    print('SKIP:', why, flush=True)
    raise unittest.SkipTest(why)


def python_with(package):
    """A Python that has the package, in a virtual environment beside the binary, made once."""
    home = os.path.join(os.path.dirname(os.path.abspath(ANNEAL)), 'venv-' + package.replace('==', '-'))
    python = os.path.join(home, 'bin', 'python')
    done = os.path.join(home, 'complete')
    if os.path.exists(done):
        return python
    try:
        venv.create(home, with_pip=True, clear=True)
        subprocess.run([python, '-m', 'pip', 'install', '-q', '--disable-pip-version-check',
                        '--retries', '1', '--timeout', '20', package],
                       check=True, capture_output=True, text=True, timeout=240)
    except (OSError, subprocess.SubprocessError) as e:
        skip(f'{package} could not be installed: {getattr(e, "stderr", None) or e}')
    open(done, 'w').close()
    return python


class OpenAI(unittest.TestCase):
    def client(self, script):
        """Runs the script with a client; its standard output."""
        head = f'''
            import base64, openai, urllib.request
            client = openai.OpenAI(base_url='http://127.0.0.1:{SERVER.port}/v1', api_key='sesame', max_retries=0)
            ask = dict(model='emoji', prompt='red apple on a blue background', size='64x64',
                       extra_body=dict(seed=1, steps=4))
            def is_png(b64):
                return base64.b64decode(b64).startswith(b'\\x89PNG')
            '''
        p = subprocess.run([python_with(OPENAI), '-W', 'error', '-c', textwrap.dedent(head) + textwrap.dedent(script)],
                           capture_output=True, text=True, timeout=120)
        self.assertEqual(p.returncode, 0, p.stderr)
        return p.stdout

    def test_pictures(self):
        out = self.client('''
            r = client.images.generate(n=2, **ask)
            assert len(r.data) == 2 and all(is_png(d.b64_json) for d in r.data)
            assert r.size == '64x64' and r.output_format == 'png' and r.created > 1e9
            assert r.usage.total_tokens == r.usage.input_tokens_details.text_tokens > 3
            again = client.images.generate(n=2, **ask)
            assert again.data == r.data
            jpeg = client.images.generate(**ask, output_format='jpeg', output_compression=80)
            assert base64.b64decode(jpeg.data[0].b64_json).startswith(b'\\xff\\xd8')
            print(r.data[0].b64_json)
            ''')
        mine = SERVER.post('/v1/images/generations', dict(
            prompt='red apple on a blue background', size='64x64', seed=1, steps=4), {'Authorization': 'Bearer sesame'})[1]
        self.assertEqual(out.strip(), mine['data'][0]['b64_json'])

    def test_links(self):
        self.client('''
            r = client.images.generate(**ask, response_format='url')
            assert urllib.request.urlopen(r.data[0].url).read().startswith(b'\\x89PNG')
            ''')

    def test_stream(self):
        out = self.client('''
            for e in client.images.generate(**ask, stream=True, partial_images=2):
                assert is_png(e.b64_json) and e.size == '64x64' and e.created_at > 1e9
                print(e.type, getattr(e, 'partial_image_index', e.to_dict().get('usage', {}).get('output_tokens')))
            ''')
        self.assertEqual(out.split(), ['image_generation.partial_image', '0', 'image_generation.partial_image', '1',
                                       'image_generation.completed', '0'])

    def test_errors(self):
        self.client('''
            def fails(how, word, **changes):
                try:
                    client.images.generate(**{**ask, **changes})
                except how as e:
                    assert word in e.message, e.message
                    assert e.body['type'] and e.body['code'], e.body
                else:
                    raise SystemExit('no error')
            fails(openai.BadRequestError, 'multiple of', size='65x64')
            fails(openai.BadRequestError, '1 to', n=0)
            fails(openai.NotFoundError, 'emoji', model='dall-e-3')
            client.api_key = 'wrong'
            fails(openai.AuthenticationError, 'Bearer')
            ''')

    def test_models(self):
        self.client('''
            assert [m.id for m in client.models.list()] == ['emoji']
            assert client.models.retrieve('emoji').owned_by == 'anneal'
            ''')


class Curl(unittest.TestCase):
    def test_readme(self):
        """The command of README, word for word but for the address and the key."""
        for tool in ('curl', 'jq', 'base64'):
            if not shutil.which(tool):
                skip(f'{tool} is not installed')
        with open(os.path.join(ROOT, 'README.md')) as f:
            command = re.search(r'^ *(curl -s localhost:8080/v1/images/generations(?:.*\\\n)*.*)$', f.read(), re.M).group(1)
        command = command.replace('localhost:8080', f"-H 'Authorization: Bearer sesame' 127.0.0.1:{SERVER.port}")
        with tempfile.TemporaryDirectory() as d:
            subprocess.run(['bash', '-c', 'set -o pipefail; ' + command], cwd=d, check=True, timeout=120)
            with open(os.path.join(d, 'apple.png'), 'rb') as f:
                w, h, pixels = png_pixels(f.read())
        middle, corner = pixels[(h // 2 * w + w // 2) * 3:][:3], pixels[:3]
        self.assertGreater(middle[0], middle[2])  # an apple
        self.assertGreater(corner[2], corner[0])  # on blue


if __name__ == '__main__':
    unittest.main(verbosity=1)
