"""The stages of check.sh. Python's standard library only."""
import argparse, concurrent.futures, datetime, json, os, platform, re, shutil, signal, subprocess, sys, time

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), '..', '..'))
CARRIED = os.path.join(ROOT, 'build-carry')
# The suites that run on any device; those with a name filter are what --quick runs of them.
KERNELS = ['attention', 'conv', 'fp8', 'gemm', 'hopper', 'lane', 'lm', 'norm', 'ops', 'paged', 'paged_split', 'quant', 'repeat',
           'sample', 'step', 'tiles']
QUICK_KERNELS = [('norm', 'rms'), ('ops', 'add'), ('step', 'latent')]
RACES = ['attention', 'conv', 'gemm', 'lm', 'norm', 'paged', 'quant', 'sample']  # kernels that use shared memory
GPU = 'GPU (name, driver, memory, capability, most MHz of SM and memory, ECC)'
RESERVE = 5  # seconds kept for writing the end


def parse_arguments():
    p = argparse.ArgumentParser(prog='check.sh')
    p.add_argument('out', help='folder for the results')
    p.add_argument('--device', choices=['cuda', 'simt'], default='cuda')
    p.add_argument('--quick', action='store_true', help='a rehearsal: the smallest of every stage')
    p.add_argument('--minutes', type=float, default=9.5, help='for everything')
    p.add_argument('--build', help='build folder; one that is configured is taken as it is')
    p.add_argument('--stages', help='only these, with commas between')
    a = p.parse_args()
    a.out = os.path.abspath(a.out)
    a.build = os.path.abspath(a.build or os.path.join(ROOT, 'build-gpu'))
    return a


class Stage:
    """A step of the check: what it ran, how it ended, what it counted."""

    def __init__(self, name):
        self.name, self.status, self.seconds, self.why = name, 'not reached', 0.0, ''
        self.counts, self.numbers, self.failures = {}, {}, []

    def add(self, **counts):
        for k, v in counts.items():
            self.counts[k] = self.counts.get(k, 0) + v

    def summary(self):
        return dict(stage=self.name, status=self.status, why=self.why, seconds=round(self.seconds, 2),
                    counts=self.counts, numbers=self.numbers, failures=self.failures[:40])


class Check:
    def __init__(self, a):
        self.a, self.start, self.stages, self.machine = a, time.time(), [], {}
        self.cpus = len(os.sched_getaffinity(0))
        os.makedirs(a.out, exist_ok=True)
        self.log = open(os.path.join(a.out, 'logs.txt'), 'w')
        self.env = dict(os.environ, AN_TEST_DEVICE=a.device, ANNEAL_BINARY=self.program('anneal'),
                        ANNEAL_FETCH='0', HOME=os.environ.get('HOME', a.out))
        if a.device == 'simt':
            self.env.setdefault('ANNEAL_SIMT', 'threads=0')

    def program(self, name):
        return os.path.join(self.a.build, name)

    def left(self):
        return self.start + self.a.minutes * 60 - RESERVE - time.time()

    # ---- running

    def run(self, command, limit, env=None, cwd=None):
        """(exit code or None, output): killed with all of its children when its time is up."""
        limit = max(1, min(limit, self.left()))
        began = time.time()
        try:
            p = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                 env={**self.env, **(env or {})}, cwd=cwd or ROOT, start_new_session=True)
        except OSError as e:
            return 127, f'{command[0]}: {e.strerror}\n'
        try:
            output, code = p.communicate(timeout=limit)[0], p.returncode
        except subprocess.TimeoutExpired:
            os.killpg(p.pid, signal.SIGKILL)
            output, code = p.communicate()[0], None
        text = output.decode(errors='replace')
        if code is None:
            text += f'\n[ended after {time.time() - began:.0f} s, its limit]\n'
        self.log.write(f'\n$ {" ".join(command)}\n{text}[{"no" if code is None else code} exit code, {time.time() - began:.1f} s]\n')
        self.log.flush()
        return code, text

    def judge(self, s, what, code, text, may_be_cut=False):
        """Counts what a suite printed; notes it as failed unless it ended well, or was cut short and may be."""
        for checks, failed, skipped in re.findall(r'^(?:ok|FAILED|\w+): (\d+) checks, (\d+) failed, (\d+) skipped', text, re.M):
            s.add(checks=int(checks), failed=int(failed), skipped=int(skipped))
        for cases, comparisons, failed in re.findall(r'^(\d+) cases, (\d+) comparisons, (\d+) failed', text, re.M):
            s.add(cases=int(cases), checks=int(comparisons), failed=int(failed))
        for ran in re.findall(r'^Ran (\d+) tests? in', text, re.M):
            s.add(tests=int(ran))
        left = len(re.findall(r'^  left to a GPU:', text, re.M))
        if left:
            s.add(left_to_a_gpu=left)
        if code == 0:
            return True
        if code == 77:
            s.add(suites_skipped=1)
            return True
        every = [l.strip() for l in text.splitlines() if l.strip()]
        lines = [l for l in every if re.search(r'FAIL|[Ee]rror|ERROR|^========= ', l)] or every[-1:]
        lines = list(dict.fromkeys(lines))  # one of many
        if code is None and may_be_cut and not re.search(r'FAIL|ERROR SUMMARY: [1-9]', text):
            s.add(cut_short=1)
            return True
        ended = 'took longer than its limit' if code is None else f'exit code {code}'
        s.failures += [f'{what}: {ended}'] + [f'{what}: {l[:300]}' for l in lines[:6]]
        return False

    def run_suites(self, s, suites, limit, env=None, may_be_cut=False):
        """Suites (name, command) side by side; the GPU or the machine's cores are shared by them."""
        until = time.time() + limit
        def one(suite):
            name, command = suite
            if until - time.time() < 1 or self.left() < 1:
                return name, None, 'no time was left\n'
            return (name, *self.run(command, until - time.time(), env))
        good = True
        with concurrent.futures.ThreadPoolExecutor(max(1, min(6, self.cpus // 2))) as pool:
            for name, code, text in pool.map(one, suites):
                fine = self.judge(s, name, code, text, may_be_cut)
                s.add(suites_failed=0 if fine else 1)
                good &= fine
        s.add(suites=len(suites))
        return good

    def stage(self, name, fn, limit):
        if self.a.stages and name not in self.a.stages.split(','):
            return
        s = Stage(name)
        self.stages.append(s)
        self.log.write(f'\n######## {name}\n')
        began = time.time()
        if self.left() < 2:
            s.status, s.why = 'no time', f'{self.a.minutes:g} minutes were over'
        else:
            try:
                ended = fn(s, limit)
                s.status = {True: 'ok', False: 'FAILED'}.get(ended, 'skipped')
                if isinstance(ended, str):
                    s.why = ended
            except Exception as e:  # a stage's own fault must not take the others with it
                s.status, s.why = 'FAILED', f'{type(e).__name__}: {e}'
        s.seconds = time.time() - began
        if s.status == 'FAILED' and not s.why and s.failures:
            s.why = s.failures[0]
        print(f'{s.name:12} {s.status:8} {s.seconds:6.1f} s  {s.why}'.rstrip())
        self.write()

    # ---- stages

    def look_around(self, s, limit):
        """What this machine is: written first, so that it is known whatever happens next."""
        def ask(*command):
            code, text = self.run(list(command), 20)
            return text.strip() if code == 0 else ''
        m = self.machine
        m['date'] = datetime.datetime.now(datetime.timezone.utc).strftime('%Y-%m-%d %H:%M UTC')
        m['device asked for'] = self.a.device
        gpu = ask('nvidia-smi', '--query-gpu=name,driver_version,memory.total,compute_cap,clocks.max.sm,clocks.max.mem,ecc.mode.current', '--format=csv,noheader')
        if not gpu:  # an nvidia-smi that does not know all of this
            gpu = ask('nvidia-smi', '--query-gpu=name,driver_version,memory.total', '--format=csv,noheader')
        m[GPU] = gpu or 'none found by nvidia-smi'
        nvcc = self.nvcc()
        m['nvcc'] = (re.findall(r'release .*', ask(nvcc, '--version')) or [''])[0] if nvcc else 'none'
        m['compiler'] = ask(os.environ.get('CC', 'cc'), '--version').split('\n')[0]
        m['cmake'] = ask('cmake', '--version').split('\n')[0]
        m['python'] = platform.python_version()
        if self.a.device == 'cuda':
            m['torch'] = ask(sys.executable, '-c', 'import torch; print(torch.__version__)') or 'none'
        m['processor'] = next((l.split(':')[1].strip() for l in open('/proc/cpuinfo') if l.startswith('model name')), platform.machine())
        m['processors'] = self.cpus
        m['system'] = f'{platform.system()} {platform.release()}'
        commit = ask('git', '-C', ROOT, 'rev-parse', 'HEAD')
        if commit and ask('git', '-C', ROOT, 'status', '--porcelain', '--untracked-files=no'):
            commit += ' and uncommitted changes'
        carried = os.path.join(CARRIED, 'commit')
        if not commit and os.path.exists(carried):
            commit = open(carried).read().strip() + ' (as carried)'
        m['commit'] = commit or 'unknown'
        s.add(facts=len(m))
        return True

    def nvcc(self):
        return shutil.which('nvcc') or next((p for p in [os.path.join(os.environ.get('CUDA_HOME', '/usr/local/cuda'), 'bin', 'nvcc')]
                                             if os.path.exists(p)), None)

    def configure(self, s, limit):
        if os.path.exists(self.program('CMakeCache.txt')):
            return 'the build folder is configured'
        command = ['cmake', '-S', ROOT, '-B', self.a.build, '-DCMAKE_BUILD_TYPE=Release', '-DANNEAL_WERROR=OFF', '-DANNEAL_ONEDNN=OFF']
        if shutil.which('ninja'):
            command += ['-G', 'Ninja']
        if shutil.which('ccache'):
            command += ['-DCMAKE_C_COMPILER_LAUNCHER=ccache', '-DCMAKE_CXX_COMPILER_LAUNCHER=ccache']
        if os.path.exists(os.path.join(CARRIED, 'carried.cmake')):
            command.append('-DANNEAL_CARRIED=' + CARRIED)
        command.append('-DANNEAL_CUDA=' + ('on' if self.a.device == 'cuda' else 'off'))
        capability = re.findall(r'MiB, (\d+)\.(\d),', self.machine.get(GPU, ''))
        if self.a.device == 'cuda' and capability:  # this GPU's code alone: a third of the compile time
            arch = ''.join(capability[0])
            command.append(f'-DANNEAL_CUDA_ARCHS={arch}' + ('a' if int(arch) >= 90 else ''))
        env = {'PATH': os.path.dirname(self.nvcc() or '/usr/bin/x') + ':' + os.environ['PATH']}
        code, text = self.run(command, limit, env)
        return self.judge(s, 'cmake', code, text)

    def suite(self, name):
        """The program of a kernel suite; those that call launchers themselves are one a device."""
        own = self.a.device == 'cuda' and name in ('hopper', 'tiles', 'paged_split')
        return 'test_kernels_' + name + ('_cuda' if own else '')

    def targets(self):
        have = {os.path.basename(f)[:-2] for f in os.listdir(os.path.join(ROOT, 'tests', 'kernels')) if f.endswith('.c')}
        kernels = [n for n, _ in QUICK_KERNELS] if self.a.quick else KERNELS
        return ['anneal', 'gpu_wrappers', 'test_models_golden', 'test_models_lm', 'test_engine_golden', 'test_engine_batching', 'test_engine_draws',
                *(self.suite(k) for k in kernels if 'kernels_' + k in have)]

    def build(self, s, limit):
        keep_going = ['-k', '0'] if os.path.exists(self.program('build.ninja')) else ['-k']
        command = ['cmake', '--build', self.a.build, '-j', str(self.cpus), '--target', *self.targets(), '--', *keep_going]
        code, text = self.run(command, limit)
        missing = [t for t in self.targets() if not os.path.exists(self.program(t))]
        s.add(programs=len(self.targets()) - len(missing))
        s.failures += [f'{t} was not built' for t in missing]
        return self.judge(s, 'build', code, text)

    def wrappers(self, s, limit):
        stored = os.path.join(ROOT, 'tests', 'golden', 'gpu_wrappers.txt')
        command = [self.program('gpu_wrappers'), '--device', self.a.device, '--vectors', stored,
                   '--write', os.path.join(self.a.out, 'gpu_wrappers.txt')]
        s.numbers['stored answers of hardware'] = 'compared' if os.path.exists(stored) else 'none yet'
        return self.judge(s, 'gpu_wrappers', *self.run(command, limit))

    def kernels(self, s, limit):
        if self.a.quick:
            suites = [(f'kernels_{n}', [self.program('test_kernels_' + n), only]) for n, only in QUICK_KERNELS]
        else:
            suites = [(f'kernels_{n}', [self.program(self.suite(n))]) for n in KERNELS
                      if os.path.exists(os.path.join(ROOT, 'tests', 'kernels', f'kernels_{n}.c'))]
        return self.run_suites(s, suites, limit)

    def models(self, s, limit):
        if self.a.quick:
            return self.run_suites(s, [('models_golden', [self.program('test_models_golden'), 'lcm'])], limit)
        return self.run_suites(s, [(f'models_golden {m}', [self.program('test_models_golden'), m]) for m in ['sd1', 'sd2', 'sdxl', 'lcm']] +
                               [('models_lm goldens', [self.program('test_models_lm'), 'goldens'])], limit)

    def engine(self, s, limit):
        if self.a.device == 'simt':
            return 'hours of an emulated GPU: http_simt does a part'
        return self.run_suites(s, [('engine_golden', [self.program('test_engine_golden')]), ('engine_draws', [self.program('test_engine_draws')])], limit)

    def http(self, s, limit):
        """Through the server: pictures and text."""
        test = lambda name, *only: (name, [sys.executable, os.path.join(ROOT, 'tests', 'http', f'test_{name}.py'), *only])
        if self.a.quick:
            return self.run_suites(s, [test('device')], limit, {'AN_TEST_SECONDS': '1'})
        if self.a.device == 'simt':
            return self.run_suites(s, [test('device'), test('simt')], limit, {'AN_TEST_SECONDS': '5'})
        return self.run_suites(s, [test('device'), test('golden')], limit)

    def invariance(self, s, limit):
        suites = [('models_lm', [self.program('test_models_lm'), 'batch_invariance'])]
        if self.a.device == 'simt':
            return 'hours of an emulated GPU: the kernels\' suites and http_simt compare bytes'
        suites.append(('http_invariance', [sys.executable, os.path.join(ROOT, 'tests', 'http', 'test_invariance.py')]))
        suites.append(('engine_batching', [self.program('test_engine_batching')]))
        return self.run_suites(s, suites, limit, {'AN_TEST_SECONDS': '30'})

    def sanitizer(self, tool, suites, options):
        def fn(s, limit):
            if self.a.device == 'simt':
                return 'a GPU\'s; tests/simt has the emulator\'s own'
            program = shutil.which('compute-sanitizer') or '/usr/local/cuda/bin/compute-sanitizer'
            if not os.path.exists(program):
                return 'compute-sanitizer is not installed'
            command = [program, '--tool', tool, '--error-exitcode', '9', *options]
            runs = [('gpu_wrappers', [*command, self.program('gpu_wrappers'), '--device', 'cuda'])]
            runs += [(f'kernels_{n}', [*command, self.program('test_kernels_' + n)]) for n in suites
                     if os.path.exists(self.program('test_kernels_' + n))]
            # Under these tools a suite may take longer than there is: what it found until then counts.
            good = self.run_suites(s, runs, limit, may_be_cut=True)
            s.numbers['suites cut short'] = s.counts.get('cut_short', 0)
            return good
        return fn

    def bench(self, s, limit):
        seconds = '0' if self.a.quick or self.a.device == 'simt' else '0.3'
        command = [self.program('anneal'), 'bench', '--device', self.a.device, '-m', 'emoji', '--seconds', seconds]
        rows = ['--rows', '1', '--stage', 'text'] if self.a.quick else ['--rows', '1,4'] if self.a.device == 'simt' else []
        code, text = self.run([*command, '--no-ops', '--json', *rows], limit / 2)
        good = self.judge(s, 'bench of ticks', code, text)
        at = text.find('{')
        if code == 0 and at >= 0:
            report = json.loads(text[at:text.rfind('}') + 1])
            with open(os.path.join(self.a.out, 'bench.json'), 'w') as f:
                json.dump(dict(machine=self.machine, ticks=report), f, indent=1)
            s.add(ticks=len(report.get('ticks', [])))
            for t in report.get('ticks', []):
                s.numbers[f"{t['stage']} {t['width']}x{t['height']}, {t['rows']} rows, ms"] = round(t['seconds'] * 1e3, 4)
        if self.a.device == 'simt':
            return good  # ops of real sizes: days
        code, text = self.run([*command, '--no-ticks'], limit / 2)
        s.add(ops=len(re.findall(r'TFLOP/s|GB/s', text)))
        return self.judge(s, 'bench of ops', code, text) and good

    # ---- the end

    def write(self):
        """After every stage, so that a killed run leaves all that it knew."""
        seconds = time.time() - self.start
        with open(os.path.join(self.a.out, 'summary.json.new'), 'w') as f:
            json.dump(dict(machine=self.machine, quick=self.a.quick, seconds=round(seconds, 1),
                           stages=[s.summary() for s in self.stages]), f, indent=1)
        os.replace(f.name, os.path.join(self.a.out, 'summary.json'))
        with open(os.path.join(self.a.out, 'summary.txt.new'), 'w') as f:
            f.write(self.table(seconds))
        os.replace(f.name, os.path.join(self.a.out, 'summary.txt'))

    def table(self, seconds):
        out = ['tests/gpu/check.sh: anneal\'s GPU backend' + (', the smallest of every stage' if self.a.quick else ''), '']
        out += [f'{k}: {v}' for k, v in self.machine.items()]
        out += ['', f'{"stage":12} {"status":11} {"seconds":>8}  what']
        for s in self.stages:
            counts = ', '.join(f'{v} {k.replace("_", " ")}' for k, v in s.counts.items())
            out.append(f'{s.name:12} {s.status:11} {s.seconds:8.1f}  {counts}{"; " if counts and s.why else ""}{s.why}')
        out.append(f'{"all":12} {"FAILED" if self.failed() else "ok":11} {seconds:8.1f}')
        numbers = [f'{s.name}: {k}: {v}' for s in self.stages for k, v in s.numbers.items()]
        failures = [f'{s.name}: {f}' for s in self.stages for f in s.failures[:12]]
        for title, lines in (('Numbers', numbers), ('What failed (all of it: logs.txt)', failures)):
            if lines:
                out += ['', title] + lines
        return '\n'.join(out) + '\n'

    def failed(self):
        return any(s.status not in ('ok', 'skipped') for s in self.stages)

    def main(self):
        self.stage('machine', self.look_around, 30)
        self.stage('configure', self.configure, 60)
        self.stage('build', self.build, 300)
        self.stage('wrappers', self.wrappers, 60)
        self.stage('kernels', self.kernels, 120 if self.a.device == 'cuda' else 900)
        self.stage('models', self.models, 60 if self.a.device == 'cuda' else 600)
        self.stage('engine', self.engine, 60)
        self.stage('http', self.http, 90 if self.a.device == 'cuda' else 900)
        self.stage('invariance', self.invariance, 90)
        self.stage('bench', self.bench, 60)
        # Last, since they take what time there is.
        self.stage('memcheck', self.sanitizer('memcheck', KERNELS, ['--leak-check', 'no']), 120)
        self.stage('racecheck', self.sanitizer('racecheck', RACES, []), 120)
        print('\n' + self.table(time.time() - self.start))
        return 1 if self.failed() else 0


if __name__ == '__main__':
    sys.exit(Check(parse_arguments()).main())
