"""deploy/anneal.service and its drop-in for GPUs: systemd reads them without a word, their exposure is small, and what
they close the server does not need: the settings are run, and its system calls are among the allowed."""
from proxy import *

need('systemd-analyze', 'systemd')
UNIT = os.path.join(ROOT, 'deploy', 'anneal.service')
GPU = os.path.join(ROOT, 'deploy', 'anneal-gpu.conf')


def settings(path):
    """[(name, value)] of a unit file."""
    with open(path) as f:
        return [tuple(l.strip().split('=', 1)) for l in f if '=' in l and not l.startswith('#')]


def analyze(*args, **env):
    return subprocess.run(['systemd-analyze', *args], capture_output=True, text=True, env={**os.environ, **env})


class Unit(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix='anneal-unit-')
        self.addCleanup(shutil.rmtree, self.folder)
        with open(UNIT) as f:
            text = f.read()
        self.assertIn('ExecStart=/opt/anneal/bin/anneal serve\n', text)
        # verify wants a program that is there
        with open(os.path.join(self.folder, 'anneal.service'), 'w') as f:
            f.write(text.replace('/opt/anneal/bin/anneal ', os.path.abspath(ANNEAL) + ' '))

    def add_gpu(self):
        os.mkdir(os.path.join(self.folder, 'anneal.service.d'))
        shutil.copy(GPU, os.path.join(self.folder, 'anneal.service.d', 'gpu.conf'))

    def verify(self):
        p = analyze('verify', '--man=no', '--recursive-errors=no', os.path.join(self.folder, 'anneal.service'), SYSTEMD_UNIT_PATH=self.folder + ':')
        self.assertEqual((p.returncode, [l for l in p.stderr.splitlines() if 'anneal' in l or self.folder in l]), (0, []), p.stderr)

    def exposure(self, most):
        p = analyze('security', '--offline=true', '--no-pager', f'--threshold={int(10 * most)}', os.path.join(self.folder, 'anneal.service'),
                    SYSTEMD_UNIT_PATH=self.folder + ':')
        line = p.stdout.strip().splitlines()[-1] if p.stdout else ''
        self.assertEqual(p.returncode, 0, p.stdout[-300:] + p.stderr)
        print(line.encode('ascii', 'ignore').decode(), flush=True)

    def test_cpu(self):
        self.verify()
        self.exposure(1.3)

    def test_gpu(self):
        self.add_gpu()
        self.verify()
        self.exposure(2.0)

    def test_a_wrong_unit_is_found(self):
        path = os.path.join(self.folder, 'anneal.service')
        with open(path, 'a') as f:
            f.write('[Service]\nProtectSystem=perhaps\nPrivateUsers=no\nSystemCallFilter=\nCapabilityBoundingSet=CAP_SYS_ADMIN\n')
        with self.assertRaises(AssertionError):
            self.verify()
        with self.assertRaises(AssertionError):
            self.exposure(1.3)


class Service(unittest.TestCase):
    def environment(self, folder):
        got = dict(v.split('=', 1) for k, v in settings(UNIT) if k == 'Environment')
        demo, _ = got['ANNEAL_MODELS'].split(',')
        self.assertTrue(demo.endswith('/share/anneal/demo'))
        return {**got, 'ANNEAL_MODELS': os.path.join(ROOT, 'weights', 'demo') + ',' + folder}

    def test_settings_and_system_calls(self):
        """As the unit says, under strace where it is: the calls it makes are those that the filter lets through."""
        folder = models()
        self.addCleanup(shutil.rmtree, folder)
        trace = os.path.join(folder, '.trace')
        # a sanitizer makes calls of its own, and looks for leaks by ptrace itself
        strace = None if SLOW else shutil.which('strace')
        program, own = ANNEAL, sys.modules['harness']
        if strace:
            script = os.path.join(folder, '.traced')
            with open(script, 'w') as f:
                f.write(f'#!/bin/sh\nexec {strace} -D -f -qq -o {trace} {os.path.abspath(ANNEAL)} "$@"\n')
            os.chmod(script, 0o755)
            own.ANNEAL = script
        try:
            server = Server('--threads', '1', '--dtype', 'f32', env=self.environment(folder))
        finally:
            own.ANNEAL = program
        self.assertEqual(len(server.images(**PICTURE)), 1)
        self.assertEqual(server.post('/v1/chat/completions', dict(CHAT, stream=False))[0], 200)
        self.assertIn('http://127.0.0.1:', server.output())
        self.assertEqual(server.stop(), 0)
        if not strace:
            print('SKIP: no strace, or a sanitizer, so system calls are not compared with the filter', flush=True)
            return
        with open(trace) as f:
            used = {m[1] for m in (re.match(r'\d+ +([a-z_0-9]+)\(', l) for l in f) if m}
        allowed = set()
        for value in (v for k, v in settings(UNIT) if k == 'SystemCallFilter'):
            names = set().union(*(self.calls(v) for v in value.lstrip('~').split()))
            allowed = allowed - names if value.startswith('~') else allowed | names
        self.assertTrue({'futex', 'accept4', 'epoll_wait'} <= used, used)
        # asked for more open files, the kernel may say no: LimitNOFILE= has given them
        self.assertEqual(used - allowed - self.calls('@default') - {'setrlimit', 'prlimit64'}, set())

    def calls(self, name):
        if not name.startswith('@'):
            return {name}
        p = analyze('syscall-filter', '--no-pager', name)
        self.assertEqual(p.returncode, 0, p.stderr)
        words = [l.strip() for l in p.stdout.splitlines()[1:] if l.strip() and not l.strip().startswith('#')]
        return set().union(*(self.calls(w) for w in words))

    def test_what_is_installed_is_what_the_unit_names(self):
        with tempfile.TemporaryDirectory() as folder:
            p = subprocess.run(['cmake', '--install', os.path.dirname(os.path.abspath(ANNEAL)), '--prefix', folder], capture_output=True, text=True)
            self.assertEqual(p.returncode, 0, p.stderr)
            unit = dict(settings(UNIT))
            named = [unit['ExecStart'].split()[0], unit['Documentation'].split('://')[1],
                     dict(v.split('=', 1) for k, v in settings(UNIT) if k == 'Environment')['ANNEAL_MODELS'].split(',')[0]]
            for path in named:
                self.assertTrue(path.startswith('/opt/anneal/'))
                self.assertTrue(os.path.exists(path.replace('/opt/anneal', folder)), path)

    def test_it_may_end_in_peace(self):
        grace = re.search(r'--grace SECONDS.*?\[(\d+)\]', subprocess.run([ANNEAL, 'serve', '--help'], capture_output=True, text=True).stdout, re.S)
        self.assertGreater(int(dict(settings(UNIT))['TimeoutStopSec']), int(grace[1]) + 5)


if __name__ == '__main__':
    unittest.main(verbosity=2)
