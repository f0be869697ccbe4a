"""The command line: exit codes, help, output for people and for machines, man page, completions, installation."""
import json, os, pty, re, select, shutil, signal, subprocess, sys, tempfile, time, unittest
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'http'))
from text_models import *

DEMO = os.path.join(ROOT, 'weights', 'demo')
ENV = {**os.environ, 'HOME': '/nonexistent', 'XDG_CACHE_HOME': '', 'LC_ALL': 'C.UTF-8'}
COMMANDS = ['serve', 'generate', 'chat', 'key', 'pull', 'models', 'info', 'schedule', 'bench', 'help', 'completions']
PAINT = re.compile('\x1b\\[[0-9;?]*[A-Za-z]|[^\x08]\x08')  # colours, cursor, a letter that is written over
FAST = ['--models', DEMO, '--size', '32x32', '--steps', '2', '--seed', '1']


def skip(why):
    print('SKIP:', why, flush=True)
    raise unittest.SkipTest(why)


def anneal(*args, **more):
    more.setdefault('env', ENV)
    return subprocess.run([ANNEAL, *args], capture_output=True, text=True, stdin=subprocess.DEVNULL,
                          timeout=patience(120), **more)


class Terminal:
    """A program at a terminal of 100 columns."""

    def __init__(self, *argv, env=ENV, stdout=None):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            try:
                if stdout is not None:
                    os.dup2(stdout, 1)
                os.execvpe(argv[0], argv, {**env, 'TERM': 'xterm'})
            finally:
                os._exit(127)
        self.seen = ''

    def read(self, until):
        """Reads on until the text has come; or, with None, to the end."""
        end = time.time() + patience(60)
        while time.time() < end and (until is None or until not in self.seen):
            if not select.select([self.fd], [], [], 0.1)[0]:
                continue
            try:
                data = os.read(self.fd, 65536)
            except OSError:  # it has ended
                data = b''
            if not data:
                break
            self.seen = PAINT.sub('', self.seen + data.decode(errors='replace'))
        if until is not None and until not in self.seen:
            os.kill(self.pid, signal.SIGKILL)
            raise AssertionError((until, self.seen))
        return self.seen

    def type(self, text):
        os.write(self.fd, text.encode())

    def wait(self):
        """As subprocess says it: the exit code, or minus the signal."""
        end = time.time() + patience(60)
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        while not pid and time.time() < end:
            time.sleep(0.02)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        if not pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            raise AssertionError('it does not end: ' + self.seen)
        os.close(self.fd)
        return os.waitstatus_to_exitcode(status)


class ExitCodes(unittest.TestCase):
    def test_table(self):
        with tempfile.TemporaryDirectory() as tmp:
            png = os.path.join(tmp, 'x.png')
            for args, code, word in (
                    ([], 2, 'usage'), (['--version'], 0, ''), (['-V'], 0, ''), (['--help'], 0, ''), (['-h'], 0, ''),
                    (['help'], 0, ''), (['help', 'nothing'], 2, 'nothing'), (['nothing'], 2, 'nothing'),
                    (['help', 'a', 'b'], 2, "'b'"), (['models', '--models', DEMO], 0, ''),
                    (['models', 'surplus'], 2, "'surplus'"), (['models', '--json=1'], 2, '--json=1'),
                    (['models', '--port', 'x'], 2, '--port'), (['models', '--port'], 2, '--port'),
                    (['info'], 2, 'FILE'), (['info', DEMO + '/emoji'], 0, ''), (['info', '/nonexistent'], 1, '/nonexistent'),
                    (['info', '--device', 'cpu', 'x'], 2, '--device'),
                    (['schedule'], 2, 'sampler'), (['schedule', '-s', 'euler'], 0, ''),
                    (['schedule', '-s', 'nobody'], 1, 'nobody'), (['schedule', '-s', 'euler', '-n', '0'], 2, '--steps'),
                    (['generate'], 2, 'draw'), (['generate', *FAST, '-o', png, 'owl'], 0, ''),
                    (['generate', *FAST, '-o', png, '--', '-owl'], 0, ''),
                    (['generate', '-p', 'x', '-o', 'x.bmp'], 2, '.png'), (['generate', '-p', 'x', '-o', tmp + '/no/x.png'], 2, 'no'),
                    (['generate', '-p', 'x', '-n', 'many'], 2, '-n'), (['generate', '-p', 'x', '--seed', '1e3'], 2, '--seed'),
                    (['generate', '-p', 'x', '--json', '-o', '-'], 2, '--json'),
                    (['generate', *FAST, '-p', 'x', '-m', 'nobody'], 1, 'nobody'),
                    (['generate', '-p', 'x', '--rng', 'dice'], 2, 'dice'),
                    (['chat', '--seed', '1.5', 'Hi'], 2, '--seed'), (['chat', '--top-k', '1.5', 'Hi'], 2, 'whole'),
                    (['chat', '--system', '\udcff', 'Hi'], 2, 'UTF-8'), (['chat', '-m', '\udcff', 'Hi'], 2, 'UTF-8'),
                    (['chat', '-t', 'hot'], 2, 'hot'), (['chat', '--models', DEMO], 1, 'asked'),
                    (['chat', '--models', DEMO, '--json'], 1, 'asked'), (['chat', '--models', DEMO, '--json', ''], 1, 'asked'),
                    (['chat', '--models', DEMO, '--json', 'Hi'], 1, 'text'), (['chat', 'a', 'b'], 2, "'b'"),
                    (['chat', '--models', DEMO, '--json', '-m', 'nobody', 'Hi'], 1, 'nobody'),
                    (['serve', '--port', '-1'], 2, '--port'), (['serve', 'surplus'], 2, 'surplus'),
                    (['serve', '--host', '256.0.0.1'], 1, '256'),
                    (['bench', '--rows', '0'], 2, '--rows'), (['bench', '--stage', 'x'], 2, '--stage'),
                    (['key'], 2, 'name'), (['key', '--json'], 2, 'name'), (['key', 'ann', '--json', '--append', tmp], 1, tmp), (['key', 'a/b'], 2, 'name'), (['key', 'ann', '--rpm', 'x'], 2, '--rpm'),
                    (['completions'], 2, 'bash'), (['completions', 'tcsh'], 2, 'tcsh')):
                p = anneal(*args)
                self.assertEqual(p.returncode, code, (args, p.stdout[-300:], p.stderr))
                self.assertIn(word, p.stderr)
                if code:
                    self.assertEqual(p.stdout, '', args)
                else:
                    self.assertEqual(p.stderr, '', args)

    def test_suggestions(self):
        for args, word in ((['genrate'], '`anneal generate`'), (['sevre'], '`anneal serve`'), (['help', 'shedule'], '`anneal schedule`'),
                           (['generate', '--stpes', '3'], '--steps'), (['serve', '--max-qeue', '3'], '--max-queue'),
                           (['chat', '--thread', '3'], '--threads'), (['info', '--jsn', 'x'], '--json')):
            p = anneal(*args)
            self.assertEqual(p.returncode, 2)
            self.assertIn('did you mean', p.stderr)
            self.assertIn(word, p.stderr)
        for args in (['zzzzzz'], ['generate', '--zzzzzz']):
            p = anneal(*args)
            self.assertEqual(p.returncode, 2)
            self.assertNotIn('did you mean', p.stderr)

    def test_interrupt(self):
        """A shell sees 130; nothing half-made is left."""
        with tempfile.TemporaryDirectory() as tmp:
            t = Terminal(ANNEAL, 'generate', '--models', DEMO, '--size', '128x128' if SLOW else '256x256', '--steps', '150', '-n', '8', '-p', 'owl', '-o', tmp + '/x.png')
            t.read(' s left')
            t.type('\x03')
            t.read(None)
            self.assertEqual(t.wait(), -signal.SIGINT)
            self.assertEqual(os.listdir(tmp), [])

    def test_full_disk(self):
        with open('/dev/full', 'w') as full:
            p = subprocess.run([ANNEAL, 'models', '--models', DEMO], stdout=full, stderr=subprocess.PIPE, text=True, env=ENV)
        self.assertEqual(p.returncode, 1)
        self.assertIn('No space', p.stderr)


class Output(unittest.TestCase):
    def test_terminal_and_pipe(self):
        with tempfile.TemporaryDirectory() as tmp:
            args = ['generate', *FAST, '-p', 'owl', '-o', tmp + '/x.png']
            t = Terminal(ANNEAL, *args)
            shown = t.read(None)
            self.assertEqual(t.wait(), 0)
            self.assertIn('\u2588', shown)
            self.assertIn('step 2/2', shown)
            self.assertIn('seed 1', shown)
            with open(tmp + '/x.png', 'rb') as f:
                at_terminal = f.read()
            p = anneal(*args)
            self.assertEqual((p.returncode, p.stdout, p.stderr), (0, '', ''))
            with open(tmp + '/x.png', 'rb') as f:
                self.assertEqual(f.read(), at_terminal)
            for env, more in (({**ENV, 'LC_ALL': 'C'}, []), (ENV, ['--quiet'])):
                t = Terminal(ANNEAL, *args, *more, env=env)
                shown = t.read(None)
                self.assertEqual(t.wait(), 0)
                self.assertNotIn('\u2588', shown)
                self.assertEqual('###' in shown, not more)

    def test_json(self):
        with tempfile.TemporaryDirectory() as tmp:
            p = anneal('generate', *FAST, '-p', 'owl', '-n', '2', '-o', tmp + '/x.png', '--json', '--negative-prompt', 'cat')
            v = json.loads(p.stdout)
            self.assertEqual([f['seed'] for f in v['files']], [1, 2])
            for f in v['files']:
                self.assertTrue(os.path.getsize(f['path']) > 0)
            self.assertEqual((v['model'], v['width'], v['height'], v['steps'], v['negative_prompt']), ('emoji', 32, 32, 2, 'cat'))
            broken = os.path.join(tmp, 'torn.safetensors')
            with open(broken, 'wb') as f:
                f.write(b'\0' * 16)
            v = {m['id']: m for m in json.loads(anneal('models', '--models', DEMO, '--models', tmp, '--json').stdout)['data']}
            self.assertEqual((v['emoji']['served'], v['emoji']['kind'], v['torn']['served']), (True, 'image', False))
            self.assertTrue(v['torn']['error'])
            self.assertEqual(anneal('models', '--models', DEMO, '--models', tmp, '--names').stdout, 'emoji\n')
        v = json.loads(anneal('info', DEMO + '/emoji', '--json').stdout)
        self.assertTrue(v)
        v = json.loads(anneal('schedule', '-s', 'euler', '-n', '5', '--json').stdout)
        self.assertEqual(len(v['timesteps']), 5)
        v = json.loads(anneal('bench', '--models', DEMO, '--json', '--seconds', '0', '--rows', '1', '--stage', 'text').stdout)
        self.assertEqual([t['stage'] for t in v['ticks']], ['text'])

    def test_json_key(self):
        """The same key as for people: the line's hash is the secret's, and with --append the file has it."""
        v = json.loads(anneal('key', 'ann', '--json', '--rpm', '5').stdout)
        self.assertEqual(set(v), {'name', 'secret', 'line'})
        self.assertRegex(v['secret'], '^sk-anneal-[A-Za-z0-9_-]{43}$')
        self.assertEqual((v['name'], v['line'].split()[0]), ('ann', 'ann'))
        with tempfile.TemporaryDirectory() as tmp:
            told = json.loads(anneal('key', 'bob', '--json', '--append', tmp + '/keys').stdout)
            with open(tmp + '/keys', 'a') as f:
                f.write(v['line'] + '\n')
            s = Server('--models', DEMO, '--api-key-file', tmp + '/keys')
            asked = [s.get('/v1/models', {'X-Api-Key': k})[0] for k in (v['secret'], told['secret'], 'sk-anneal-nobody')]
            self.assertEqual((set(told), asked, s.stop()), ({'name', 'secret'}, [200, 200, 401], 0))
            with open('/dev/full', 'w') as full:
                p = subprocess.run([ANNEAL, 'key', 'lost', '--append', tmp + '/keys'], stdout=full, stderr=subprocess.PIPE, text=True, env=ENV, timeout=patience(60))
            self.assertEqual(p.returncode, 1)
            self.assertIn("remove the line of 'lost'", p.stderr)


class Chat(unittest.TestCase):
    """What a machine reads of `anneal chat --json`: answers, a line each, and nothing else."""

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix='anneal-cli-')
        add_model(cls.folder, 'tiny', template=CHATML)
        cls.args = ['chat', '--models', cls.folder, '--dtype', 'f32', '-n', '5', '--seed', '7']

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.folder)

    def test_one_question(self):
        p = anneal(*self.args, '--json', 'Hi')
        self.assertEqual((p.returncode, p.stderr, p.stdout.count('\n')), (0, '', 1))
        v = json.loads(p.stdout)
        choice = v['choices'][0]
        self.assertEqual((v['object'], v['model'], len(v['choices'])), ('chat.completion', 'tiny', 1))
        self.assertEqual((choice['message']['role'], choice['seed'], choice['finish_reason']), ('assistant', 7, 'length'))
        self.assertEqual(v['usage']['completion_tokens'], 5)
        self.assertGreater(v['usage']['prompt_tokens'], 5)
        # people read the same answer, whether they asked on the command line or through a pipe
        text = choice['message']['content'] + '\n'
        self.assertEqual(anneal(*self.args, 'Hi').stdout, text)
        for args in (['--json'], []):
            p = subprocess.run([ANNEAL, *self.args, *args], input='Hi\n', capture_output=True, text=True, env=ENV, timeout=patience(60))
            said = json.loads(p.stdout)['choices'][0]['message']['content'] + '\n' if args else p.stdout
            self.assertEqual((p.returncode, p.stderr, said), (0, '', text))

    def test_a_pipe_is_text(self):
        """Lines of another system's end are the same question; a NUL is no end of it."""
        ask = lambda data: subprocess.run([ANNEAL, *self.args], input=data, capture_output=True, env=ENV, timeout=patience(60))
        self.assertEqual(ask(b'Hi\r\n').stdout, ask(b'Hi').stdout)
        p = ask(b'Hi\0there')
        self.assertEqual((p.returncode, p.stdout), (1, b''))
        self.assertIn(b'byte 3', p.stderr)

    def test_conversation(self):
        """At a terminal each answer is a line at once; prompts and help go to standard error."""
        out, into = os.pipe()
        t = Terminal(ANNEAL, *self.args, '--json', stdout=into)
        os.close(into)
        t.read('> ')
        t.type('/help\n')
        t.read('in the next.\r\n> ')
        answers = []
        for text in ('Hi', 'And now?'):
            t.type(text + '\n')
            t.read(text + '\r\n> ')
            self.assertTrue(select.select([out], [], [], 0)[0], 'the next prompt came before the answer')
            answers.append(json.loads(os.read(out, 65536)))
        t.type('\x04')
        t.read(None)
        self.assertEqual((t.wait(), os.read(out, 65536)), (0, b''))
        os.close(out)
        self.assertEqual([a['choices'][0]['seed'] for a in answers], [7, 7])
        prompts = [a['usage']['prompt_tokens'] for a in answers]
        self.assertGreater(prompts[1], prompts[0] + answers[0]['usage']['completion_tokens'])  # it knows what was said
        self.assertNotIn('choices', t.seen)


class Manual(unittest.TestCase):
    def flags(self, text):
        return set(re.findall(r'(?m)^  (?:-\w, )?(--?[a-z][a-z-]*)', text))

    def test_help(self):
        listed = re.findall(r'(?m)^  (\w+) ', anneal('help').stdout)
        self.assertEqual(listed, COMMANDS)
        for c in COMMANDS:
            text = anneal('help', c).stdout
            self.assertTrue(text.startswith(f'usage: anneal {c}'), text)
            self.assertEqual(anneal(c, '--help').stdout, text)
            self.assertIn('Exit codes:', text)
            self.assertIn('130', text)
            for line in text.splitlines():
                self.assertLessEqual(len(line), 101, line)

    def test_man_page(self):
        page = anneal('help', '--man').stdout
        plain = page.replace('\\-', '-')
        for c in COMMANDS:
            self.assertIn('.SS ' + c + '\n', page)
            for f in self.flags(anneal('help', c).stdout) - {'--help', '-h'}:
                self.assertIn('\\fB' + f + '\\fR', plain, (c, f))
        self.assertIn('ANNEAL_MAX_QUEUE', page.replace('\\_', '_'))
        self.assertEqual(anneal('help', '--man', env={**ENV, 'SOURCE_DATE_EPOCH': '0'}).stdout.splitlines()[1].split()[3], '"1970-01-01"')
        checked = 0
        with tempfile.NamedTemporaryFile('w', suffix='.1') as f:
            f.write(page)
            f.flush()
            for tool, args in (('mandoc', ['-T', 'lint', '-W', 'warning', f.name]),
                               ('man', ['--warnings', '-E', 'UTF-8', '-l', '-Tutf8', '-Z', f.name])):
                if not shutil.which(tool):
                    print('SKIP:', tool, 'is not installed', flush=True)
                    continue
                p = subprocess.run([tool, *args], capture_output=True, text=True, env={**ENV, 'LC_ALL': 'C.UTF-8'})
                said = p.stderr + (p.stdout if tool == 'mandoc' else '')
                self.assertEqual((p.returncode, said), (0, ''), tool)
                checked += 1
        if not checked:
            skip('neither mandoc nor man is installed')

    def test_installation(self):
        build = os.path.dirname(os.path.abspath(ANNEAL))
        with tempfile.TemporaryDirectory() as tmp:
            p = subprocess.run(['cmake', '--install', build, '--prefix', tmp], capture_output=True, text=True)
            self.assertEqual(p.returncode, 0, p.stderr)
            for path, word in (('share/man/man1/anneal.1', '.TH ANNEAL 1'), ('share/bash-completion/completions/anneal', 'complete -F'),
                               ('share/zsh/site-functions/_anneal', '#compdef anneal'),
                               ('share/fish/vendor_completions.d/anneal.fish', 'complete -c anneal')):
                with open(os.path.join(tmp, path)) as f:
                    self.assertIn(word, f.read())
            p = subprocess.run([tmp + '/bin/anneal', 'models', '--names'], capture_output=True, text=True, env=ENV)
            self.assertEqual(p.stdout, 'emoji\n')


class Completions(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.env = {**ENV, 'PATH': os.path.dirname(os.path.abspath(ANNEAL)) + ':' + os.environ['PATH']}
        cls.folder = tempfile.mkdtemp()
        for name in ('_anneal:zsh', 'anneal.fish:fish', 'anneal.bash:bash'):
            file, shell = name.split(':')
            with open(os.path.join(cls.folder, file), 'w') as f:
                f.write(anneal('completions', shell).stdout)
        os.mkdir(os.path.join(cls.folder, 'a folder'))
        open(os.path.join(cls.folder, 'a file.png'), 'w').close()

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.folder)

    def bash(self, *words):
        script = '''. "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
            f=$(complete -p anneal | sed 's/.*-F \\([^ ]*\\) .*/\\1/'); "$f"; printf '%s\\n' "${COMPREPLY[@]}"'''
        p = subprocess.run(['bash', '-c', script, 'bash', self.folder + '/anneal.bash', *words], capture_output=True, text=True,
                           env=self.env, cwd=self.folder)
        self.assertEqual(p.stderr, '')
        return set(p.stdout.split('\n')) - {''}

    def test_bash(self):
        self.assertEqual(self.bash('anneal', ''), {*COMMANDS, '--help', '--version'})
        self.assertEqual(self.bash('anneal', 'ge'), {'generate'})
        self.assertEqual(self.bash('anneal', 'generate', '--guid'), {'--guidance-scale', '--guidance-rescale'})
        self.assertEqual(self.bash('anneal', 'generate', '--max-q'), {'--max-queue'})
        self.assertEqual(self.bash('anneal', 'info', '--'), {'--json', '--help'})
        self.assertEqual(self.bash('anneal', 'generate', '--rng', ''), {'gpu', 'cpu'})
        self.assertEqual(self.bash('anneal', 'generate', '--rng', '=', 'g'), {'gpu'})
        self.assertEqual(self.bash('anneal', 'serve', '--dtype', '='), {'auto', 'bf16', 'f32'})
        self.assertEqual(self.bash('anneal', 'serve', '--models', 'a'), {'a folder'})
        self.assertEqual(self.bash('anneal', 'info', 'a'), {'a folder', 'a file.png', 'anneal.bash', 'anneal.fish'})
        self.assertEqual(self.bash('anneal', 'generate', '--prompt', ''), set())
        self.assertEqual(self.bash('anneal', 'chat', '-m', 'em'), {'emoji'})
        self.assertEqual(self.bash('anneal', 'help', 'che'), set())
        self.assertEqual(self.bash('anneal', 'completions', ''), {'bash', 'zsh', 'fish'})
        self.assertEqual(self.bash('anneal', 'nothing', ''), set())

    def evil(self):
        """A folder with models whose names a shell would run, and what is served of it."""
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        names = ['$(touch${IFS}PWNED)', '`touch${IFS}PWNED`', 'a;touch PWNED', "it's", 'plain']
        for name in names:
            os.symlink(os.path.join(DEMO, 'emoji'), os.path.join(folder, name))
        self.env = {**self.env, 'ANNEAL_MODELS': folder}
        served = anneal('models', '--names', env=self.env).stdout.splitlines()
        self.assertEqual(set(served), set(names))
        return served

    def not_run(self):
        self.assertFalse(os.path.exists(os.path.join(self.folder, 'PWNED')), 'the name of a model was run')

    def test_evil_names_bash(self):
        """A name is text: TAB does not run it, and what TAB puts on the line is that name, quoted."""
        names = self.evil()
        for words in (('chat', '-m'), ('generate', '--model'), ('generate', '--model', '=')):
            offered = self.bash('anneal', *words, '')
            self.not_run()
            p = subprocess.run(['bash', '-c', "printf '%s\\n' " + ' '.join(offered)], capture_output=True, text=True, cwd=self.folder)
            self.assertEqual(set(p.stdout.splitlines()), set(names))
            self.not_run()
        self.assertEqual(self.bash('anneal', 'chat', '-m', '$(t'), {r'\$\(touch\$\{IFS\}PWNED\)'})
        self.assertEqual(self.bash('anneal', 'chat', '-m', r'\$\(t'), {r'\$\(touch\$\{IFS\}PWNED\)'})
        self.assertEqual(self.bash('anneal', 'chat', '-m', 'p*'), set())
        self.not_run()

    def test_evil_names_fish(self):
        if not shutil.which('fish'):
            skip('fish is not installed')
        names = self.evil()
        home = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, home)
        p = subprocess.run(['fish', '--no-config', '-c', f'source {self.folder}/anneal.fish; complete -C "anneal chat -m "'],
                           capture_output=True, text=True, env={**self.env, 'HOME': home}, cwd=self.folder)
        self.assertEqual(({l.split('\t')[0] for l in p.stdout.splitlines()}, p.stderr), (set(names), ''))
        self.not_run()

    def test_evil_names_zsh(self):
        if not shutil.which('zsh'):
            skip('zsh is not installed')
        self.evil()
        for typed, want in (('\\$', r'\$\(touch\$\{IFS\}PWNED\)'), ('\\`', r'\`touch\$\{IFS\}PWNED\`'), ('a', r'a\;touch\ PWNED')):
            t = Terminal('zsh', '-f', '-i', env={**self.env, 'HOME': self.folder, 'ZDOTDIR': self.folder})
            t.type(f"PS1='g''o> '; cd {self.folder}; fpath=({self.folder} $fpath); autoload -Uz compinit; compinit -u -D\n")
            t.read('go> ')
            t.type('anneal chat -m ' + typed + '\t')
            t.read('-m ' + want)
            self.not_run()
            os.kill(t.pid, signal.SIGKILL)
            t.wait()

    def test_fish(self):
        if not shutil.which('fish'):
            skip('fish is not installed')
        home = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, home)

        def fish(line):
            p = subprocess.run(['fish', '--no-config', '-c', f'source {self.folder}/anneal.fish; complete -C "$argv[1]"', line],
                               capture_output=True, text=True, env={**self.env, 'HOME': home}, cwd=self.folder)
            self.assertEqual(p.stderr, '')
            return {l.split('\t')[0] for l in p.stdout.splitlines()}
        self.assertEqual(fish('anneal '), set(COMMANDS))
        self.assertEqual(fish('anneal generate --guid'), {'--guidance-scale', '--guidance-rescale'})
        self.assertEqual(fish('anneal serve --max-q'), {'--max-queue'})
        self.assertEqual(fish('anneal info --max-q'), set())
        self.assertEqual(fish('anneal generate --rng '), {'gpu', 'cpu'})
        self.assertEqual(fish('anneal generate --prompt '), set())
        self.assertEqual(fish('anneal chat -m '), {'emoji'})
        self.assertEqual(fish('anneal serve --models a'), {'a folder/'})
        self.assertIn('a file.png', fish('anneal info a'))

    def test_zsh(self):
        if not shutil.which('zsh'):
            skip('zsh is not installed')
        for typed, want in (('anneal gene', 'anneal generate'), ('anneal generate --rn', '--rng  -- noise'),
                            ('anneal serve --max-que', '--max-queue='),
                            ('anneal chat -m em', '-m emoji'), ('anneal help comp', 'help completions'),
                            ('anneal serve --dtype b', '--dtype bf16')):
            t = Terminal('zsh', '-f', '-i', env={**self.env, 'HOME': self.folder, 'ZDOTDIR': self.folder})
            t.type(f"PS1='g''o> '; cd {self.folder}; fpath=({self.folder} $fpath); autoload -Uz compinit; compinit -u -D\n")
            t.read('go> ')  # what is typed before the prompt is not completed
            t.type(typed + '\t')
            t.read(want)
            os.kill(t.pid, signal.SIGKILL)
            t.wait()


if __name__ == '__main__':
    unittest.main(verbosity=1)
