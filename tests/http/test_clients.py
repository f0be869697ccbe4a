"""The clients people have: OpenAI's Python package, and curl as README shows it."""
import base64, os, re, shutil, subprocess, sys, textwrap, unittest
sys.path.insert(0, os.path.dirname(__file__))
from text_models import *

OPENAI = 'openai==3.54.0'
SERVER = TEXT = FOLDER = None


def setUpModule():
    global SERVER, TEXT, FOLDER
    FOLDER = models()
    SERVER = Server('--api-key', 'sesame', '--models', os.path.join(ROOT, 'weights', 'demo'))
    TEXT = Server('--api-key', 'sesame', '--models', FOLDER, '--dtype', 'f32', '--keepalive', '3600')  # curl's output is compared


def tearDownModule():
    assert SERVER.stop() == 0 and TEXT.stop() == 0
    shutil.rmtree(FOLDER)


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
                           capture_output=True, text=True, timeout=patience(120))
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


class OpenAIText(unittest.TestCase):
    def client(self, script):
        head = f'''
            import json, math, openai
            client = openai.OpenAI(base_url='http://127.0.0.1:{TEXT.port}/v1', api_key='sesame', max_retries=0,
                                   _strict_response_validation=True)
            hi = [dict(role='user', content='Hi')]
            chat = dict(model='tiny', messages=hi, max_tokens=12, temperature=0, seed=1)
            time = dict(type='function', function=dict(name='get_time', description='The time', parameters=dict(
                type='object', properties=dict(zone=dict(type='string', enum=['utc', 'cet'])), required=['zone'],
                additionalProperties=False)))
            '''
        p = subprocess.run([python_with(OPENAI), '-W', 'error', '-c', textwrap.dedent(head) + textwrap.dedent(script)],
                           capture_output=True, text=True, timeout=patience(120))
        self.assertEqual(p.returncode, 0, p.stderr)
        return p.stdout

    def test_completions(self):
        self.client('''
            ask = dict(model='tiny', prompt=['the', 'rain'], max_tokens=6, temperature=0, n=2, logprobs=2)
            r = client.completions.create(**ask)
            assert r.object == 'text_completion' and r.model == 'tiny' and r.created > 1e9 and r.system_fingerprint
            assert [c.index for c in r.choices] == [0, 1, 2, 3]
            assert r.choices[0].finish_reason in ('length', 'stop')
            l = r.choices[0].logprobs
            assert len(l.tokens) == len(l.token_logprobs) == len(l.top_logprobs) == len(l.text_offset)
            assert all(x <= 0 for x in l.token_logprobs) and len(l.top_logprobs[0]) >= 2
            # null where OpenAI has null and the package's types have not: the logprob of a prompt's first
            # token, and finish_reason of a stream that goes on
            loose = client.with_options()
            loose._strict_response_validation = False
            e = loose.completions.create(**ask, echo=True)
            assert e.choices[0].text == 'the' + r.choices[0].text and e.choices[0].logprobs.token_logprobs[0] is None
            u = r.usage
            assert u.total_tokens == u.prompt_tokens + u.completion_tokens and u.prompt_tokens_details.cached_tokens >= 0
            assert u.completion_tokens_details.reasoning_tokens == 0
            r = client.completions.create(model='bare', prompt=[1, 2, 3], max_tokens=4, extra_body=dict(return_token_ids=True))
            assert r.choices[0].text == '' and r.choices[0].prompt_token_ids == [1, 2, 3]
            whole = client.completions.create(model='tiny', prompt='the', max_tokens=30, seed=3, stop=['zq'], logit_bias={'5': -100},
                                              presence_penalty=0.5, frequency_penalty=0.5, top_p=0.9, user='u')
            text, last = '', None
            for c in loose.completions.create(model='tiny', prompt='the', max_tokens=30, seed=3, stop=['zq'], logit_bias={'5': -100},
                                               presence_penalty=0.5, frequency_penalty=0.5, top_p=0.9, stream=True,
                                               stream_options=dict(include_usage=True)):
                text += ''.join(x.text for x in c.choices)
                last = c
            assert text == whole.choices[0].text and last.usage == whole.usage, (text, whole)
            ''')

    def test_chat(self):
        self.client('''
            r = client.chat.completions.create(**chat, logprobs=True, top_logprobs=3, n=2)
            assert r.object == 'chat.completion' and r.service_tier == 'default' and r.system_fingerprint
            m = r.choices[0].message
            assert m.role == 'assistant' and isinstance(m.content, str) and m.refusal is None and m.tool_calls is None
            assert r.choices[0].finish_reason in ('stop', 'length') and r.choices[1].index == 1
            t = r.choices[0].logprobs.content[0]
            assert len(t.top_logprobs) == 3 and t.logprob == t.top_logprobs[0].logprob and isinstance(t.bytes, list)
            assert r.usage.prompt_tokens > 3
            text, roles, ends, usage = '', [], [], None
            for c in client.chat.completions.create(**chat, stream=True, stream_options=dict(include_usage=True)):
                assert c.object == 'chat.completion.chunk'
                for x in c.choices:
                    text += x.delta.content or ''
                    roles += [x.delta.role] if x.delta.role else []
                    ends += [x.finish_reason] if x.finish_reason else []
                usage = c.usage
            assert text == m.content and roles == ['assistant'] and ends == [r.choices[0].finish_reason]
            assert usage.completion_tokens == len(r.choices[0].logprobs.content)
            ''')

    def test_tools(self):
        self.client('''
            for model in ('tools', 'tiny'):
                ask = dict(chat, model=model, max_tokens=60, tools=[time], tool_choice=dict(type='function', function=dict(name='get_time')))
                r = client.chat.completions.create(**ask)
                call = r.choices[0].message.tool_calls[0]
                assert r.choices[0].finish_reason == 'tool_calls' and call.type == 'function' and call.function.name == 'get_time'
                assert json.loads(call.function.arguments)['zone'] in ('utc', 'cet')
                with client.chat.completions.stream(**ask) as s:
                    final = s.get_final_completion()
                again = final.choices[0].message.tool_calls[0].function
                assert (again.name, again.arguments) == ('get_time', call.function.arguments)
                # and the way back
                client.chat.completions.create(model=model, max_tokens=3, tools=[time], messages=hi + [
                    r.choices[0].message, dict(role='tool', tool_call_id=call.id, content='12:00')])
            r = client.chat.completions.create(**dict(chat, max_tokens=60, tools=[time], tool_choice='required', parallel_tool_calls=False))
            assert r.choices[0].message.tool_calls
            ''')

    def test_structured_output(self):
        self.client('''
            schema = dict(type='object', properties=dict(ok=dict(type='boolean')), required=['ok'], additionalProperties=False)
            r = client.chat.completions.create(**dict(chat, max_tokens=100), response_format=dict(
                type='json_schema', json_schema=dict(name='x', schema=schema, strict=True)))
            if r.choices[0].finish_reason == 'stop':
                assert isinstance(json.loads(r.choices[0].message.content)['ok'], bool)
            ''')

    def test_errors(self):
        self.client('''
            def fails(how, code, word, **changes):
                try:
                    client.chat.completions.create(**{**chat, **changes})
                except how as e:
                    assert word in e.message and e.code == code, (e.message, e.code)
                    assert e.type == 'invalid_request_error'
                else:
                    raise SystemExit('no error')
            fails(openai.NotFoundError, 'model_not_found', 'tiny', model='gpt-4o')
            fails(openai.BadRequestError, 'context_length_exceeded', '512', messages=[dict(role='user', content='w ' * 2000)])
            fails(openai.BadRequestError, 'invalid_value', 'empty', messages=[])
            fails(openai.BadRequestError, 'invalid_value', 'role', messages=[dict(role='king', content='x')])
            fails(openai.BadRequestError, 'invalid_value', 'role', messages=[dict(role='king', content='x')], stream=True)
            client.api_key = 'wrong'
            try:
                client.chat.completions.create(**chat)
            except openai.AuthenticationError as e:
                assert 'Bearer' in e.message
            ''')

    def test_models(self):
        self.client('''
            m = {m.id: m for m in client.models.list()}
            assert {'bare', 'tiny', 'tools', 'loops'} <= set(m) and m['tiny'].max_model_len == 512
            ''')


class Crowded(unittest.TestCase):
    """A queue of one: what is too much is RateLimitError, and asking again helps."""

    @classmethod
    def setUpClass(cls):
        cls.server = Server('--api-key', 'sesame', '--models', os.path.join(ROOT, 'weights', 'demo'), '--max-queue', '1',
                            '--max-running', '1', *MAY_BE_LONG)

    @classmethod
    def tearDownClass(cls):
        assert cls.server.stop() == 0

    def start(self, script, retries):
        head = f'''
            import openai
            client = openai.OpenAI(base_url='http://127.0.0.1:{self.server.port}/v1', api_key='sesame', max_retries={retries})
            ask = dict(model='emoji', prompt='owl', size='32x32', extra_body=dict(seed=1, steps=1))
            '''
        return subprocess.Popen([python_with(OPENAI), '-W', 'error', '-c', textwrap.dedent(head) + textwrap.dedent(script)],
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def job(self, state):
        """A job that takes long, once it is in that state."""
        key = {'Authorization': 'Bearer sesame'}
        job = self.server.post('/v1/jobs', dict(LONG_ALONE, kind='image'), key)[1]['id']
        until = time.time() + patience(30)
        while self.server.get('/v1/jobs/' + job, key)[1]['state'] != state:
            self.assertLess(time.time(), until)
            time.sleep(.02)
        return lambda: self.server.delete('/v1/jobs/' + job, key)

    def refused(self):
        _, _, text = self.server.raw('GET', '/metrics', headers={'Authorization': 'Bearer sesame'})
        return int(re.search(r'anneal_http_requests_total\{code="429"\} (\d+)', text.decode()).group(1))

    def test_rate_limit(self):
        stop_running, stop_waiting = self.job('running'), self.job('queued')
        p = self.start('''
            try:
                client.images.generate(**ask)
            except openai.RateLimitError as e:
                assert e.status_code == 429 and e.code == 'queue_full' and e.type == 'rate_limit_error', e.body
                assert int(e.response.headers['retry-after']) >= 1
            else:
                raise SystemExit('no error')
            ''', 0)
        out = p.communicate(timeout=patience(60))[0]
        self.assertEqual(p.returncode, 0, out)
        before = self.refused()
        p = self.start("print(len(client.images.generate(**ask).data))", 100)
        until = time.time() + patience(60)
        while self.refused() == before:  # until it was refused once
            self.assertLess(time.time(), until)
            self.assertIsNone(p.poll())
            time.sleep(.02)
        stop_waiting()
        stop_running()
        out = p.communicate(timeout=patience(60))[0]
        self.assertEqual((p.returncode, out), (0, '1\n'))

    def test_deadline_and_stopping(self):
        """504 and 503 are InternalServerError, with the server's words."""
        stop_running = self.job('running')
        p = self.start('''
            try:
                client.images.generate(**dict(ask, extra_body=dict(steps=150, deadline_ms=50)))
            except openai.InternalServerError as e:
                assert e.status_code == 504 and e.code == 'deadline_exceeded' and 'deadline' in e.message, e.body
            else:
                raise SystemExit('no error')
            ''', 0)
        out = p.communicate(timeout=patience(60))[0]
        stop_running()
        self.assertEqual(p.returncode, 0, out)


class Curl(unittest.TestCase):
    def test_chat_of_readme(self):
        if not shutil.which('curl'):
            skip('curl is not installed')
        with open(os.path.join(ROOT, 'README.md')) as f:
            command = re.search(r'^ *(curl -N localhost:8080/v1/chat/completions(?:.*\\\n)*.*)$', f.read(), re.M).group(1)
        command = command.replace('localhost:8080', f"-sH 'Authorization: Bearer sesame' 127.0.0.1:{TEXT.port}")
        command = command.replace('{"messages"', '{"model":"tiny","max_tokens":5,"messages"')
        out = subprocess.run(['bash', '-c', command], check=True, timeout=patience(120), capture_output=True, text=True).stdout
        self.assertTrue(out.startswith('data: {') and out.endswith('data: [DONE]\n\n'), out)

    def test_readme(self):
        """The command of README, word for word but for the address and the key."""
        for tool in ('curl', 'jq', 'base64'):
            if not shutil.which(tool):
                skip(f'{tool} is not installed')
        with open(os.path.join(ROOT, 'README.md')) as f:
            command = re.search(r'^ *(curl -s localhost:8080/v1/images/generations(?:.*\\\n)*.*)$', f.read(), re.M).group(1)
        command = command.replace('localhost:8080', f"-H 'Authorization: Bearer sesame' 127.0.0.1:{SERVER.port}")
        with tempfile.TemporaryDirectory() as d:
            subprocess.run(['bash', '-c', 'set -o pipefail; ' + command], cwd=d, check=True, timeout=patience(120))
            with open(os.path.join(d, 'apple.png'), 'rb') as f:
                w, h, pixels = png_pixels(f.read())
        middle, corner = pixels[(h // 2 * w + w // 2) * 3:][:3], pixels[:3]
        self.assertGreater(middle[0], middle[2])  # an apple
        self.assertGreater(corner[2], corner[0])  # on blue


if __name__ == '__main__':
    unittest.main(verbosity=1)
