"""docker/packages.sh, as ./run and ./test source it: what is missing is installed, and no daemon starts by that. apt-get and
sudo are played, dpkg-query is the machine's own."""
import os, shutil, subprocess, sys, tempfile, unittest

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..')
if not shutil.which('dpkg-query'):
    print('SKIP: no dpkg-query: this is not Debian or Ubuntu', flush=True)
    sys.exit(77)


class Packages(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix='anneal-packages-')
        self.addCleanup(shutil.rmtree, self.folder)
        self.policy = os.path.join(self.folder, 'policy')
        self.play('sudo', 'exec "$@"')
        self.play('apt-get', f'echo "$*" >> {self.folder}/asked; case "$*" in *install*) ls {self.policy}; sh {self.policy}; '
                             f'echo $? >> {self.folder}/policy.said; exit ${{APT:-0}};; esac')

    def play(self, name, script):
        path = os.path.join(self.folder, name)
        with open(path, 'w') as f:
            f.write('#!/bin/sh\n' + script + '\n')
        os.chmod(path, 0o755)

    def told(self, name):
        with open(os.path.join(self.folder, name)) as f:
            return f.read().splitlines()

    def need(self, *packages, **env):
        script = f'set -euo pipefail; . docker/packages.sh; POLICY={self.policy}; need_packages "to test" {" ".join(packages)}; echo reached'
        return subprocess.run(['bash', '-c', script], cwd=ROOT, capture_output=True, text=True,
                              env={**os.environ, 'PATH': self.folder + ':' + os.environ['PATH'], **env})

    def test_what_dpkg_never_heard_of_is_installed(self):
        p = self.need('dpkg', 'anneal-never-heard-of')
        self.assertEqual((p.returncode, p.stdout), (0, 'reached\n'), p.stderr)
        self.assertIn('Installing anneal-never-heard-of (to test)', p.stderr)
        self.assertEqual(self.told('asked')[-1].split()[-1], 'anneal-never-heard-of')
        self.assertNotEqual(self.told('policy.said'), ['101'])

    def test_what_is_there_is_left_alone(self):
        p = self.need('dpkg', 'bash')
        self.assertEqual((p.returncode, p.stderr), (0, ''))
        self.assertFalse(os.path.exists(os.path.join(self.folder, 'asked')))

    def test_no_daemon_starts(self):
        for apt, code in (('0', 0), ('100', 100)):
            p = self.need('anneal-never-heard-of', NO_SERVICES='yes', APT=apt)
            self.assertEqual(p.returncode, code, p.stderr)
            self.assertEqual(self.told('policy.said')[-1], '101')
            self.assertFalse(os.path.exists(self.policy), 'it goes when the packages are there')

    def test_a_machines_own_policy_stays(self):
        with open(self.policy, 'w') as f:
            f.write('exit 104\n')
        self.assertEqual(self.need('anneal-never-heard-of', NO_SERVICES='yes').returncode, 0)
        self.assertEqual((self.told('policy.said'), self.told('policy')), (['104'], ['exit 104']))


if __name__ == '__main__':
    unittest.main(verbosity=2)
