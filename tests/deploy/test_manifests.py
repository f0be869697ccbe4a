"""deploy/kubernetes and docker/compose*.yaml: Kubernetes' own schemas (PyPI's kubernetes-validate carries them) take what
the overlays render to, what refers to something finds it, and the server takes the settings they give it."""
from proxy import *
from test_clients import python_with

FOLDER = os.path.join(ROOT, 'deploy', 'kubernetes')
PYTHON = None


def setUpModule():
    global PYTHON
    try:
        PYTHON = python_with('kubernetes-validate==1.37.0')
    except unittest.SkipTest:
        sys.exit(77)  # it has said why


def render(folder):
    p = subprocess.run([PYTHON, os.path.join(os.path.dirname(os.path.abspath(__file__)), 'render.py'), folder], capture_output=True, text=True)
    assert p.returncode == 0, p.stderr
    return json.loads(p.stdout)


def documents(text):
    """Those of a YAML text, as objects."""
    script = 'import json,sys,yaml; print(json.dumps([d for d in yaml.safe_load_all(sys.stdin) if d]))'
    return json.loads(subprocess.run([PYTHON, '-c', script], input=text, capture_output=True, text=True, check=True).stdout)


def load(path):
    """A YAML file as an object; compose's own tag !override is dropped."""
    with open(path) as f:
        (document,) = documents(f.read().replace('!override', ''))
    return document


def old_kustomize(folder):
    """The manifests as kustomize 2.0.3 is told of them, which Debian's kubectl has: folders are `bases`, merges `patchesStrategicMerge`."""
    script = """
import os, sys, yaml
for at, _, files in os.walk(sys.argv[1]):
    if 'kustomization.yaml' not in files: continue
    path = os.path.join(at, 'kustomization.yaml')
    k = yaml.safe_load(open(path))
    k['bases'] = [r for r in k['resources'] if os.path.isdir(os.path.join(at, r))]
    k['resources'] = [r for r in k['resources'] if r not in k['bases']]
    k['patchesStrategicMerge'] = [p['path'] for p in k.pop('patches', [])]
    yaml.safe_dump(k, open(path, 'w'))
"""
    shutil.copytree(FOLDER, folder)
    subprocess.run([PYTHON, '-c', script, folder], check=True)


def by_name(objects):
    """Objects by kind and name, in them lists of named things by their names: kustomize puts what a patch adds first."""
    def plain(x):
        if isinstance(x, dict):
            return {k: plain(v) for k, v in x.items()}
        if isinstance(x, list):
            named = x and all(isinstance(y, dict) and 'name' in y for y in x)
            return [plain(y) for y in (sorted(x, key=lambda y: y['name']) if named else x)]
        return x
    return {(o['kind'], o['metadata']['name']): plain(o) for o in objects}


def options():
    """The environment variables that the server knows."""
    text = subprocess.run([ANNEAL, 'serve', '--help'], capture_output=True, text=True).stdout
    return {'ANNEAL_' + f[2:].upper().replace('-', '_') for f in re.findall(r'^ +(--[a-z0-9-]+)', text, re.M)}


class Kubernetes(unittest.TestCase):
    def overlay(self, name):
        r = render(os.path.join(FOLDER, name))
        self.assertEqual((r['findings'], r['unchecked']), ([], []))
        kinds = {o['kind']: o for o in r['objects']}
        self.assertEqual(set(kinds), {'Deployment', 'Service', 'PodDisruptionBudget', 'NetworkPolicy', 'HorizontalPodAutoscaler', 'PersistentVolumeClaim'})
        return kinds

    def test_overlays(self):
        for name in ('cpu', 'gpu'):
            kinds = self.overlay(name)
            d = kinds['Deployment']
            pod = d['spec']['template']
            (c,) = pod['spec']['containers']
            labels = pod['metadata']['labels']
            for selector in (d['spec']['selector']['matchLabels'], kinds['Service']['spec']['selector'],
                             kinds['PodDisruptionBudget']['spec']['selector']['matchLabels'], kinds['NetworkPolicy']['spec']['podSelector']['matchLabels']):
                self.assertLessEqual(selector.items(), labels.items())
            target = kinds['HorizontalPodAutoscaler']['spec']['scaleTargetRef']
            self.assertEqual((target['kind'], target['name']), ('Deployment', d['metadata']['name']))
            self.assertEqual({o['metadata']['namespace'] for o in kinds.values()}, {'anneal'})
            ports = {p['name']: p['containerPort'] for p in c['ports']}
            self.assertEqual(ports[kinds['Service']['spec']['ports'][0]['targetPort']], 8080)
            for probe in ('startupProbe', 'readinessProbe', 'livenessProbe'):
                self.assertEqual(c[probe]['httpGet'], dict(path='/health', port='http'))
            start = c['startupProbe']['periodSeconds'] * c['startupProbe']['failureThreshold']
            self.assertGreaterEqual(start, 3600)  # weights from a slow disk
            self.assertGreater(d['spec']['progressDeadlineSeconds'], start)
            env = {e['name']: e['value'] for e in c['env']}
            self.assertLessEqual(set(env), options())
            drain = c['lifecycle']['preStop']['exec']['command']
            self.assertEqual(drain[0], 'sleep')
            self.assertGreater(pod['spec']['terminationGracePeriodSeconds'], int(env['ANNEAL_GRACE']) + int(drain[1]) + 5)
            alive = c['livenessProbe']
            self.assertGreater(alive['periodSeconds'] * alive['failureThreshold'], int(env['ANNEAL_GRACE']) + int(drain[1]))
            self.assertEqual({m['name'] for m in c['volumeMounts']}, {v['name'] for v in pod['spec']['volumes']})
            claims = {v['persistentVolumeClaim']['claimName'] for v in pod['spec']['volumes'] if 'persistentVolumeClaim' in v}
            self.assertEqual(claims, {kinds['PersistentVolumeClaim']['metadata']['name']})
            gpus = c['resources']['limits'].get('nvidia.com/gpu')
            self.assertEqual((env['ANNEAL_DEVICE'], gpus, c['image']), ('cpu', None, 'anneal') if name == 'cpu' else ('cuda', '1', 'anneal:cuda'))

    def test_what_comes_with_crds(self):
        gateway = {o['kind']: o for o in render(os.path.join(FOLDER, 'gateway'))['objects']}
        pool, route = gateway['InferencePool'], gateway['HTTPRoute']
        (monitor,) = render(os.path.join(FOLDER, 'monitoring'))['objects']
        kinds = self.overlay('gpu')
        self.assertEqual(set(gateway), set(kinds) | {'InferencePool', 'HTTPRoute'})
        labels = kinds['Deployment']['spec']['template']['metadata']['labels']
        self.assertLessEqual(pool['spec']['selector']['matchLabels'].items(), labels.items())
        self.assertEqual(pool['spec']['targetPorts'], [dict(number=8080)])
        self.assertEqual(labels['inference.networking.k8s.io/engine-type'], 'vllm')
        back = [b for r in route['spec']['rules'] for b in r['backendRefs']]
        self.assertEqual([(b.get('kind', 'Service'), b['name']) for b in back], [('InferencePool', 'anneal')] + [('Service', 'anneal')] * 3)
        self.assertLessEqual(max(len(r['matches']) for r in route['spec']['rules']), 8)
        service = kinds['Service']
        self.assertLessEqual(monitor['spec']['selector']['matchLabels'].items(), service['metadata']['labels'].items())
        self.assertEqual((monitor['spec']['endpoints'][0]['port'], monitor['spec']['jobLabel']), (service['spec']['ports'][0]['name'], 'app.kubernetes.io/name'))
        print('SKIP: no schemas of InferencePool, HTTPRoute and ServiceMonitor here: checked for what they refer to only', flush=True)

    def test_the_gateway_lets_numbers_out_to_nobody(self):
        """/metrics has no key there: its policy names who comes in, and the route leads to every path of the server but that."""
        rendered = render(os.path.join(FOLDER, 'gateway'))
        self.assertEqual((rendered['findings'], sorted(rendered['unchecked'])), ([], ['HTTPRoute', 'InferencePool']))
        objects = {o['kind']: o for o in rendered['objects']}
        (c,) = objects['Deployment']['spec']['template']['spec']['containers']
        env = {e['name']: e['value'] for e in c['env']}
        self.assertLessEqual({'ANNEAL_METRICS_WITHOUT_KEY': '1', 'ANNEAL_API_KEY_FILE': '/etc/anneal/keys'}.items(), env.items())
        self.assertLessEqual(set(env), options())
        self.assertNotIn('ANNEAL_METRICS_WITHOUT_KEY', [e['name'] for e in self.overlay('gpu')['Deployment']['spec']['template']['spec']['containers'][0]['env']])
        (rule,) = objects['NetworkPolicy']['spec']['ingress']
        who = [label for peer in rule['from'] for label in peer['podSelector']['matchLabels'].items()]
        gateway, picker = objects['HTTPRoute']['spec']['parentRefs'][0]['name'], objects['InferencePool']['spec']['endpointPickerRef']['name']
        self.assertEqual(who, [('gateway.networking.k8s.io/gateway-name', gateway), ('inferencepool', picker), ('app.kubernetes.io/name', 'prometheus')])

        def led(path):
            """As the Gateway API says: a prefix ends where a part of the path does."""
            return any(path == m['value'] or m['type'] == 'PathPrefix' and path.startswith(m['value'] + '/')
                       for r in objects['HTTPRoute']['spec']['rules'] for m in (x['path'] for x in r['matches']))
        server = Server()
        contract = json.loads(server.raw('GET', '/openapi.json')[2])
        self.assertEqual(server.stop(), 0)
        paths = set(contract['paths'])
        self.assertGreater(len(paths), 25)
        self.assertEqual({p for p in paths if not led(p)}, {'/metrics'})

    def test_an_apply_leaves_the_autoscaler_alone(self):
        kinds = self.overlay('gpu')
        self.assertNotIn('replicas', kinds['Deployment']['spec'])
        self.assertGreaterEqual(kinds['HorizontalPodAutoscaler']['spec']['minReplicas'], 2)
        self.assertEqual(kinds['Service']['spec']['sessionAffinity'], 'ClientIP')

    def test_kustomize_makes_the_same(self):
        if not shutil.which('kubectl'):
            skip('no kubectl (Debian: kubernetes-client): what kustomize makes of the manifests is not looked at')
        version = subprocess.run(['kubectl', 'version', '--client'], capture_output=True, text=True).stdout
        minor = int(re.search(r'v1\.(\d+)', version)[1])
        with tempfile.TemporaryDirectory() as folder:
            home = FOLDER
            if minor < 21:  # from there on it has kustomize 4
                home = os.path.join(folder, 'k')
                old_kustomize(home)
            for name in ('cpu', 'gpu', 'gateway', 'monitoring'):
                p = subprocess.run(['kubectl', 'kustomize', os.path.join(home, name)], capture_output=True, text=True, env={**os.environ, 'HOME': folder})
                self.assertEqual((p.returncode, p.stderr), (0, ''))
                self.assertEqual(by_name(documents(p.stdout)), by_name(render(os.path.join(FOLDER, name))['objects']))

    def test_what_is_wrong_is_found(self):
        for wrong in ('terminationGracePeriodSeconds: sixty', 'terminationGracePeriodSecondsss: 60'):
            folder = tempfile.mkdtemp(prefix='anneal-kustomize-')
            self.addCleanup(shutil.rmtree, folder)
            shutil.copytree(FOLDER, os.path.join(folder, 'k'))
            path = os.path.join(folder, 'k', 'base', 'deployment.yaml')
            with open(path) as f:
                text = f.read()
            self.assertIn('terminationGracePeriodSeconds: 60\n', text)
            with open(path, 'w') as f:
                f.write(text.replace('terminationGracePeriodSeconds: 60\n', wrong + '\n'))
            self.assertEqual(len(render(os.path.join(folder, 'k', 'cpu'))['findings']), 1)

    def test_its_settings_and_numbers(self):
        """The server starts with the CPU's settings, wants the key of the secret, and tells what the autoscaler and the
        inference extension's picker ask for."""
        kinds = self.overlay('cpu')
        env = {e['name']: e['value'] for e in kinds['Deployment']['spec']['template']['spec']['containers'][0]['env']}
        with tempfile.TemporaryDirectory() as folder:
            keys = os.path.join(folder, 'keys')
            p = subprocess.run([ANNEAL, 'key', 'prometheus', '--append', keys], capture_output=True, text=True)
            self.assertEqual(p.returncode, 0, p.stderr)
            secret = p.stdout.split()[1]
            os.chmod(keys, 0o440)
            mine = models()
            self.addCleanup(shutil.rmtree, mine)
            server = Server('--models', mine, '--dtype', 'f32', env={**env, 'ANNEAL_API_KEY_FILE': keys, 'ANNEAL_THREADS': '1', 'ANNEAL_MEMORY': '1G'})
            self.assertEqual(server.raw('GET', '/metrics')[0], 401)
            page = server.raw('GET', '/metrics', headers={'Authorization': 'Bearer ' + secret})[2].decode()
            self.assertEqual(server.stop(), 0)
        asked = [m['pods']['metric']['name'] for m in kinds['HorizontalPodAutoscaler']['spec']['metrics']]
        rule = load(os.path.join(FOLDER, 'monitoring', 'prometheus-adapter-values.yaml'))['rules']['custom'][0]
        self.assertEqual([rule['name']['as']], asked)
        for name in asked + ['vllm:num_requests_waiting', 'vllm:num_requests_running', 'vllm:kv_cache_usage_perc', 'vllm:cache_config_info']:
            self.assertRegex(page, f'(?m)^{name}[ {{]')


class Compose(unittest.TestCase):
    def test_files(self):
        home = os.path.join(ROOT, 'docker')
        main = load(os.path.join(home, 'compose.yaml'))
        self.assertEqual(set(main['services']), {'anneal', 'prometheus', 'grafana'})
        for name in ('compose.yaml', 'compose.gpu.yaml', 'compose.keys.yaml'):
            file = load(os.path.join(home, name))
            self.assertLessEqual(set(file['services']), set(main['services']))
            self.assertLessEqual(set(file['services'].get('anneal', {}).get('environment', {})), options())
            for service in file['services'].values():
                for source in (v.split(':')[0] for v in service.get('volumes', []) if v.startswith('.')):
                    made = source.startswith('./secrets/')  # by whoever has the keys
                    self.assertTrue(made or os.path.exists(os.path.join(home, source)), source)
                for secret in service.get('secrets', []):
                    self.assertIn(secret, file['secrets'])
        self.assertTrue(all(p.startswith('127.0.0.1:') for s in main['services'].values() for p in s['ports']))  # no key: this machine only
        # a folder is mounted: a file alone would stay the old one, and a key that is taken away would go on
        keys = os.path.join(home, 'compose.keys.yaml')
        (mount,) = load(keys)['services']['anneal']['volumes']
        source, target, mode = mount.split(':')
        self.assertEqual((os.path.dirname(load(keys)['services']['anneal']['environment']['ANNEAL_API_KEY_FILE']), mode), (target, 'ro'))
        with open(keys) as f:
            head = f.read()
        self.assertIn(f'#   mkdir -p docker/{source[2:]}\n', head)
        self.assertIn(f'--append docker/{source[2:]}/keys\n', head)
        build = load(os.path.join(home, 'compose.gpu.yaml'))['services']['anneal']['build']['args']
        with open(os.path.join(home, 'Dockerfile')) as f:
            dockerfile = f.read()
        for arg, value in build.items():
            self.assertIn(f'ARG {arg}', dockerfile)
            self.assertIn(f'{arg}={value}', dockerfile)  # as its head tells people
        print('SKIP: no Docker Compose here: the files are checked for what they refer to only', flush=True)


if __name__ == '__main__':
    unittest.main(verbosity=2)
