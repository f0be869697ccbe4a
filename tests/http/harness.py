"""What the HTTP suites share: a server of their own, requests, PNG pixels, golden tensors.
Only Python's standard library, so that a bare Debian runs it."""
import atexit, base64, http.client, json, os, re, signal, socket, struct, subprocess, sys, tempfile, threading, time, unittest, venv, zlib

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), '..', '..'))
ANNEAL = os.environ.get('ANNEAL_BINARY', os.path.join(ROOT, 'build', 'anneal'))
DEVICE = os.environ.get('AN_TEST_DEVICE') or 'cpu'  # or simt, cuda: what the server is to use
SLOW = os.environ.get('AN_SLOW', '') != ''  # sanitizers: everything takes longer
GOLDEN = os.path.join(ROOT, 'tests', 'golden')


def patience(seconds):
    """How long to wait before calling it a hang; a sanitizer on a busy machine is 10 times slower."""
    return seconds * (10 if SLOW or DEVICE == 'simt' else 3)


def skip(why):
    print('SKIP:', why, flush=True)
    raise unittest.SkipTest(why)


def python_with(*packages):
    """A Python that has the packages, in a virtual environment beside the binary, made once."""
    name = 'venv-' + '-'.join(packages).replace('==', '-')
    home = os.path.join(os.path.dirname(os.path.abspath(ANNEAL)), name)
    python = os.path.join(home, 'bin', 'python')
    done = os.path.join(home, 'complete')
    if os.path.exists(done):
        return python
    try:
        venv.create(home, with_pip=True, clear=True)
        subprocess.run([python, '-m', 'pip', 'install', '-q', '--disable-pip-version-check',
                        '--retries', '1', '--timeout', '20', *packages],
                       check=True, capture_output=True, text=True, timeout=240)
    except (OSError, subprocess.SubprocessError) as e:
        skip(f'{" ".join(packages)} could not be installed: {getattr(e, "stderr", None) or e}')
    open(done, 'w').close()
    return python


def wait_for(what, seconds=20):
    """What what() says as soon as that is true; what it says is false when patience has ended."""
    until = time.time() + patience(seconds)
    while True:
        got = what()
        if got or time.time() >= until:
            return got
        time.sleep(0.02)


def must_come(what, why='it must come', seconds=60):
    """wait_for, and a failure of the test when it is in vain."""
    got = wait_for(what, seconds)
    assert got, 'in vain: ' + why
    return got


class Server:
    """`anneal serve` on a free port; stop() sends SIGTERM and returns the exit code. limits() is called in the new process,
    before the server: a place for setrlimit."""

    def __init__(self, *args, env=None, wait=True, limits=None):
        self.log = tempfile.NamedTemporaryFile('w+', suffix='.log', delete=False)
        device = ['--device', DEVICE] if '--device' not in args else []
        self.process = subprocess.Popen([ANNEAL, 'serve', '--port', '0', *device, *args], stderr=self.log, preexec_fn=limits,
                                        env={**os.environ, 'HOME': '/nonexistent', 'XDG_CACHE_HOME': '', **(env or {})})
        atexit.register(self.kill)
        self.port = self.wait_for_port()
        if wait:
            self.wait_ready()

    def output(self):
        with open(self.log.name, errors='replace') as f:
            return f.read()

    def wait_for_port(self):
        until = time.time() + patience(30)
        while time.time() < until and self.process.poll() is None:
            found = re.search(r'listening on http.*:(\d+)\n', self.output())  # the whole line
            if found:
                return int(found[1])
            time.sleep(0.02)
        raise RuntimeError('the server did not start:\n' + self.output())

    def wait_ready(self):
        until = time.time() + patience(60)
        while time.time() < until:
            if self.get('/health')[0] == 200:
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise RuntimeError('the server did not become ready:\n' + self.output())

    def connect(self, timeout=patience(60), room=None, source=None):
        """A connection, from an address of this machine; with room, of whose answer the system keeps no more than about so many
        bytes until they are read."""
        c = http.client.HTTPConnection('127.0.0.1', self.port, timeout=timeout, source_address=source and (source, 0))
        if room:
            c.sock = socket.socket()
            c.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
            c.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)  # as far away as the server's buffer is small
            c.sock.settimeout(timeout)
            c.sock.connect(('127.0.0.1', self.port))
        return c

    def raw(self, method, path, body=None, headers=None, timeout=patience(60)):
        """(status, headers, bytes)"""
        c = self.connect(timeout)
        try:
            c.request(method, path, body, headers or {})
            r = c.getresponse()
            return r.status, dict((k.lower(), v) for k, v in r.getheaders()), r.read()
        finally:
            c.close()

    def get(self, path, headers=None):
        status, _, data = self.raw('GET', path, headers=headers)
        return status, json.loads(data)

    def post(self, path, body, headers=None, timeout=patience(60)):
        data = body if isinstance(body, (bytes, str)) else json.dumps(body)
        status, _, out = self.raw('POST', path, data, {'Content-Type': 'application/json', **(headers or {})}, timeout)
        return status, json.loads(out)

    def delete(self, path, headers=None):
        status, _, data = self.raw('DELETE', path, headers=headers)
        return status, json.loads(data)

    def images(self, **fields):
        """Pictures (PNG bytes) of one request; fails unless it is answered 200."""
        status, body = self.post('/v1/images/generations', fields)
        assert status == 200, (status, body)
        return [base64.b64decode(d['b64_json']) for d in body['data']]

    def events(self, method, path, body=None, headers=None, timeout=patience(60)):
        """Yields (event, data) of a server-sent event stream; comments as ('', text)."""
        c = self.connect(timeout)
        c.request(method, path, json.dumps(body) if body is not None else None, headers or {})
        r = c.getresponse()
        assert r.status == 200, (r.status, r.read())
        assert r.getheader('Content-Type').startswith('text/event-stream')
        name = None
        try:
            for line in r:
                line = line.decode().rstrip('\n')
                if line.startswith('event: '):
                    name = line[7:]
                elif line.startswith('data: '):
                    yield name, json.loads(line[6:])
                    name = None
                elif line.startswith(':'):
                    yield '', line
        finally:
            c.close()

    def metrics(self):
        """{name{labels}: value}"""
        status, _, data = self.raw('GET', '/metrics')
        assert status == 200, status
        lines = [l.rsplit(' ', 1) for l in data.decode().splitlines() if not l.startswith('#')]
        return {name: float(value) for name, value in lines}

    def rss(self):
        with open(f'/proc/{self.process.pid}/status') as f:
            return next(int(l.split()[1]) * 1024 for l in f if l.startswith('VmRSS'))

    def stop(self, timeout=patience(30)):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout)
        finally:
            self.kill()

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if os.path.exists(self.log.name):
            os.unlink(self.log.name)


def png_pixels(data):
    """(width, height, bytes RGB) of an 8-bit RGB PNG."""
    assert data[:8] == b'\x89PNG\r\n\x1a\n'
    at, idat, size = 8, b'', None
    while at < len(data):
        n, kind = struct.unpack('>I4s', data[at:at + 8])
        body = data[at + 8:at + 8 + n]
        assert zlib.crc32(kind + body) == struct.unpack('>I', data[at + 8 + n:at + 12 + n])[0]
        if kind == b'IHDR':
            w, h, depth, color = struct.unpack('>IIBB', body[:10])
            assert depth == 8 and color == 2, (depth, color)
        elif kind == b'IDAT':
            idat += body
        at += 12 + n
    raw, out, stride = zlib.decompress(idat), bytearray(), 3 * w
    previous = bytearray(stride)
    for y in range(h):
        f, line = raw[y * (stride + 1)], bytearray(raw[y * (stride + 1) + 1:(y + 1) * (stride + 1)])
        for x in range(stride):
            a = line[x - 3] if x >= 3 else 0
            b = previous[x]
            c = previous[x - 3] if x >= 3 else 0
            if f == 1:
                line[x] = (line[x] + a) & 255
            elif f == 2:
                line[x] = (line[x] + b) & 255
            elif f == 3:
                line[x] = (line[x] + (a + b) // 2) & 255
            elif f == 4:
                p = a + b - c
                pa, pb, pc = abs(p - a), abs(p - b), abs(p - c)
                line[x] = (line[x] + (a if pa <= pb and pa <= pc else b if pb <= pc else c)) & 255
        out += line
        previous = line
    return w, h, bytes(out)


def together(*calls):
    """What they return when they are made at the same time."""
    out = [None] * len(calls)

    def run(i):
        out[i] = calls[i]()
    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(calls))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return out


def safetensors(path):
    """{name: (dtype, shape, bytes)}"""
    with open(path, 'rb') as f:
        n = struct.unpack('<Q', f.read(8))[0]
        header, data = json.loads(f.read(n)), f.read()
    return {k: (v['dtype'], v['shape'], data[v['data_offsets'][0]:v['data_offsets'][1]])
            for k, v in header.items() if k != '__metadata__'}


def compare(a, b):
    """(largest, mean) absolute difference of two byte strings of pixels."""
    assert len(a) == len(b), (len(a), len(b))
    d = [abs(x - y) for x, y in zip(a, b)]
    return max(d), sum(d) / len(d)


TINY = dict(prompt='owl', steps=1, size='32x32', guidance_scale=1, seed=1)

# A job for servers with MAY_BE_LONG. It takes minutes, so that it is still there after whatever else a test does, on a fast
# machine and with a test that stands still for a while; and its ticks are short, so that it is cancelled soon.
MAY_BE_LONG = ['--max-steps', '1000']
LONG = dict(prompt='owl', steps=1000, n=4, size='128x128' if SLOW else '256x256')
LONG_ALONE = dict(LONG, n=1, size='128x128' if SLOW else '512x512')

APPLE = dict(prompt='red apple on a blue background', seed=1)
