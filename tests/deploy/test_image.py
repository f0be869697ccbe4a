"""docker/Dockerfile without Docker: buildah builds the image from a Debian that mmdebstrap made of Debian's packages (as
debian:12-slim is), podman runs it as README says. Everything lies below the build folder; the base is kept there for
the next time. Takes root, namespaces and a package registry: what lacks is said, and the suite skips."""
from proxy import *
import atexit

for program, package in (('buildah', 'buildah'), ('podman', 'podman'), ('mmdebstrap', 'mmdebstrap'), ('curl', 'curl'), ('jq', 'jq')):
    need(program, package)
HOME = os.path.join(os.path.dirname(os.path.abspath(ANNEAL)), 'image')
BASE, IMAGE = 'localhost/debian:12-slim', 'localhost/anneal:test'
# what debian:12-slim leaves out, and one /usr from the start (else the package usrmerge brings Perl)
SLIM = [f'--dpkgopt=path-exclude=/usr/share/{d}/*' for d in ('man', 'locale', 'doc', 'info', 'lintian')]
MERGED = ['--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr', '--include=usr-is-merged']


def skip(why):
    print('SKIP:', why, flush=True)
    sys.exit(77)


def sh(*command, **more):
    return subprocess.run(command, capture_output=True, text=True, **more)


def own_mounts():
    """This program once more, with mounts of its own: crun wants /sys/fs/cgroup to be version 2."""
    if os.geteuid() != 0:
        skip('not root: an image cannot be built')
    if not os.environ.get('AN_OWN_MOUNTS'):
        if sh('unshare', '-m', 'true').returncode:
            skip('no mount namespace can be made')
        os.execvpe('unshare', ['unshare', '-m', sys.executable, *sys.argv], {**os.environ, 'AN_OWN_MOUNTS': '1'})
    if sh('stat', '-fc', '%T', '/sys/fs/cgroup').stdout.strip() != 'cgroup2fs':
        sh('sh', '-c', 'umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup')


def configure():
    """Storage of its own, and limits that a root without CAP_SYS_RESOURCE may set."""
    os.makedirs(HOME, exist_ok=True)
    files = dict(storage=f'[storage]\ndriver = "vfs"\ngraphroot = "{HOME}/storage"\nrunroot = "{HOME}/run"\n',
                 containers='[containers]\ndefault_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]\n')
    for name, text in files.items():
        with open(os.path.join(HOME, name + '.conf'), 'w') as f:
            f.write(text)
    os.environ.update(CONTAINERS_STORAGE_CONF=os.path.join(HOME, 'storage.conf'), CONTAINERS_CONF=os.path.join(HOME, 'containers.conf'))


def bootstrap():
    tar = os.path.join(HOME, 'base.tar')
    if not os.path.exists(tar):
        try:
            p = sh('mmdebstrap', '--quiet', '--variant=apt', '--mode=root', *MERGED, *SLIM, 'bookworm', tar + '.part.tar', timeout=900)
        except subprocess.TimeoutExpired:
            skip('no base could be made of Debian packages in 15 minutes')
        if p.returncode:
            skip('no base could be made of Debian packages: ' + p.stderr[-500:])
        os.rename(tar + '.part.tar', tar)
    p = sh('podman', 'import', '-q', tar, BASE)
    if p.returncode:
        skip('podman cannot keep images here: ' + p.stderr[-500:])
    p = sh('podman', 'run', '--rm', '--network=host', '--cgroups=disabled', '--read-only', BASE, 'true')
    if p.returncode:
        skip('podman cannot run containers here: ' + p.stderr[-500:])
    p = sh('buildah', 'build', '--isolation', 'chroot', '--pull=never', '-t', 'localhost/probe', '-', input=f'FROM {BASE}\nRUN true\n')
    if p.returncode:
        skip('buildah cannot run commands here: ' + p.stderr[-500:])
    # a base that was kept says nothing of today's network
    update = 'apt-get -o APT::Update::Error-Mode=any -o Acquire::Retries=2 update'
    p = sh('buildah', 'build', '--isolation', 'chroot', '--pull=never', '-t', 'localhost/probe', '-', input=f'FROM {BASE}\nRUN {update}\n')
    if p.returncode:
        skip('no package registry can be reached: ' + (p.stdout + p.stderr)[-500:])


def setUpModule():
    start = time.time()
    atexit.register(clean)  # however it ends: a skip is no exception that unittest knows
    bootstrap()
    middle = time.time()
    p = sh('buildah', 'build', '--isolation', 'chroot', '--format', 'docker', '--pull=never', '--build-arg', 'BUILD_BASE=' + BASE,
           '--build-arg', 'BASE=' + BASE, '--build-arg', 'REVISION=tested', '-f', 'docker/Dockerfile', '-t', IMAGE, '.', cwd=ROOT, timeout=1800)
    if p.returncode and 'Failed to fetch' in p.stdout + p.stderr:
        skip('the package registry went away: ' + p.stderr[-500:])
    assert p.returncode == 0, p.stdout[-2000:] + p.stderr[-4000:]
    print(f'base {middle - start:.0f} s, image {time.time() - middle:.0f} s', flush=True)


def clean():
    sh('buildah', 'rm', '--all')
    sh('podman', 'rmi', '--all', '--force')
    shutil.rmtree(os.path.join(HOME, 'storage'), ignore_errors=True)
    shutil.rmtree(os.path.join(HOME, 'run'), ignore_errors=True)


class Container:
    """`podman run` of the image as README and docker/compose.yaml run it."""

    def __init__(self, *args, env=()):
        self.name, self.port = f'anneal-test-{os.getpid()}-{free_port()}', free_port()
        self.log = tempfile.TemporaryFile('w+')
        env = [a for e in (f'ANNEAL_PORT={self.port}', *env) for a in ('-e', e)]
        self.process = subprocess.Popen(
            ['podman', 'run', '--rm', '--name', self.name, '--network=host', '--cgroups=disabled', '--read-only', '--tmpfs=/tmp',
             '--cap-drop=all', '--security-opt=no-new-privileges', *env, *args, IMAGE], stdout=self.log, stderr=subprocess.STDOUT)

    def output(self):
        return os.pread(self.log.fileno(), 1 << 24, 0).decode(errors='replace')  # seek would move where the container writes

    def get(self, path):
        c = http.client.HTTPConnection('127.0.0.1', self.port, timeout=patience(60))
        try:
            c.request('GET', path)
            r = c.getresponse()
            return r.status, json.loads(r.read())
        except OSError:
            return 0, None
        finally:
            c.close()

    def post(self, path, body):
        return self.request('POST', path, json.dumps(body))

    def request(self, method, path, body=None):
        c = http.client.HTTPConnection('127.0.0.1', self.port, timeout=patience(120))
        c.request(method, path, body, {'Content-Type': 'application/json'})
        r = c.getresponse()
        data = r.read()
        c.close()
        return r.status, data

    def ready(self):
        must_come(lambda: self.process.poll() is not None or self.get('/health')[0] == 200, 'the container is ready')
        assert self.process.poll() is None, self.output()
        return self

    def exec(self, *command, user=None):
        return sh('podman', 'exec', *(['--user', user] if user else []), self.name, *command)

    def stop(self):
        if self.process.poll() is None:
            sh('podman', 'kill', self.name)
            self.process.wait()
        self.log.close()


OPEN = 'ANNEAL_ALLOW_PUBLIC_WITHOUT_KEY=1'


class Image(unittest.TestCase):
    def test_size_and_labels(self):
        i = json.loads(sh('podman', 'image', 'inspect', IMAGE).stdout)[0]
        print(f'{i["Size"] / 1e6:.0f} MB', flush=True)
        self.assertLess(i['Size'], 150e6)
        self.assertEqual(i['User'], '10001:10001')
        self.assertEqual(i['Config']['StopSignal'], 'SIGTERM')
        labels = {k.rsplit('.', 1)[1]: v for k, v in i['Labels'].items() if k.startswith('org.opencontainers.image.')}
        version = sh(ANNEAL, '--version').stdout.split()[1]
        self.assertEqual((labels['title'], labels['licenses'], labels['version'], labels['revision']), ('anneal', 'Apache-2.0', version, 'tested'))

    def test_without_a_key_it_does_not_listen_for_everybody(self):
        c = Container()
        self.addCleanup(c.stop)
        self.assertNotEqual(c.process.wait(patience(60)), 0)
        self.assertIn('key', c.output())

    def test_as_readme_says(self):
        folder = tempfile.mkdtemp(prefix='anneal-image-')
        self.addCleanup(shutil.rmtree, folder)
        os.chmod(folder, 0o755)
        shutil.copytree(os.path.join(LLM, 'llama', 'model'), os.path.join(folder, 'models', 'bare'))
        c = Container('-v', f'{folder}/models:/models:ro', env=[OPEN])
        self.addCleanup(c.stop)
        c.ready()
        self.assertEqual({m['id'] for m in c.get('/v1/models')[1]['data']}, {'emoji', 'bare'})
        with open(os.path.join(ROOT, 'README.md')) as f:
            curl = re.search(r'curl -s localhost:8080/v1/images/generations.*?> apple\.png', f.read(), re.S)[0]
        p = sh('bash', '-c', curl.replace('localhost:8080', f'127.0.0.1:{c.port}'), cwd=folder)
        self.assertEqual(p.returncode, 0, p.stderr)
        with open(os.path.join(folder, 'apple.png'), 'rb') as f:
            self.assertEqual(png_pixels(f.read())[:2], (128, 128))
        # nobody, nothing to write to, nothing that is not needed
        self.assertEqual(c.exec('id', '-u').stdout.strip(), '10001')
        p = c.exec('touch', '/opt/anneal/x', user='0')
        self.assertIn('Read-only file system', p.stderr)
        self.assertIn('CapEff:\t0000000000000000', c.exec('cat', '/proc/1/status').stdout)
        for absent in ('curl', 'gcc', 'perl5.36', 'python3'):
            self.assertNotEqual(c.exec('which', absent).returncode, 0, absent)
        # the image's own check of its health, well and ill
        self.assertEqual(sh('podman', 'healthcheck', 'run', c.name).returncode, 0)
        check = json.loads(sh('podman', 'image', 'inspect', IMAGE).stdout)[0]['Healthcheck']['Test']
        self.assertEqual(check[0], 'CMD')
        self.assertNotEqual(c.exec('env', 'ANNEAL_PORT=1', *check[1:]).returncode, 0)

    def test_sigterm_drains(self):
        c = Container(env=[OPEN, f'ANNEAL_GRACE={patience(100)}']).ready()
        self.addCleanup(c.stop)
        answer = []
        # a job of minutes comes first, until it is cancelled: nothing else ends before
        status, job = c.post('/v1/jobs', dict(PICTURE, kind='image', size='512x512', steps=150, n=4))
        self.assertEqual(status, 202, job)
        t = threading.Thread(target=lambda: answer.append(c.post('/v1/images/generations', dict(PICTURE, priority=-1))))
        t.start()
        must_come(lambda: (lambda h: h['running'] + h['queued'] == 2)(c.get('/health')[1]), 'a picture is asked for')
        self.assertEqual(sh('podman', 'kill', '--signal', 'TERM', c.name).returncode, 0)
        must_come(lambda: c.get('/health')[0] == 503, 'it drains')
        self.assertEqual(c.post('/v1/images/generations', PICTURE)[0], 503)
        self.assertEqual(c.request('DELETE', '/v1/jobs/' + json.loads(job)['id'])[0], 200)
        t.join()
        self.assertEqual(answer[0][0], 200)
        self.assertTrue(base64.b64decode(json.loads(answer[0][1])['data'][0]['b64_json']).startswith(b'\x89PNG'))
        self.assertEqual(c.process.wait(patience(60)), 0, c.output())


if __name__ == '__main__':
    own_mounts()
    configure()
    unittest.main(verbosity=2)
