"""A server that speaks the hub's API, and the 'CDN' on another port that it sends large files to. What goes
wrong on the way is in `faults`: path -> a list of faults, each met by one request for the file's bytes."""
import hashlib, http.server, json, os, re, ssl, threading, urllib.parse

COMMIT = '0123456789abcdef0123456789abcdef01234567'


def git_sha1(data):
    return hashlib.sha1(b'blob %d\0' % len(data) + data).hexdigest()


class Hub:
    def __init__(self, large=4096, certificate=None, cdn_certificate=None):
        self.repos, self.faults, self.log, self.large = {}, {}, [], large
        self.token = None        # who may read, if not everybody
        self.listing = None      # (status, headers, body) in place of the true one
        self.listing_faults = []
        self.lock = threading.Lock()
        self.released = threading.Event()  # what lets a held answer go on
        self.held = threading.Event()
        self.hub, self.cdn = self.serve(True, certificate), self.serve(False, cdn_certificate)
        self.url = f'{"https" if certificate else "http"}://127.0.0.1:{self.hub.server_port}'
        self.cdn_url = f'{"https" if cdn_certificate else "http"}://localhost:{self.cdn.server_port}'

    def serve(self, is_hub, certificate):
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = 'HTTP/1.1'

            def log_message(self, *args):
                pass

            def do_GET(self):
                try:
                    owner.answer(self, is_hub)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True
        s = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        s.handle_error = lambda *args: None  # clients that hang up are expected
        if certificate:  # a PEM file with its key; shaken hands on by the connection's own thread
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            s.socket = context.wrap_socket(s.socket, server_side=True, do_handshake_on_connect=False)
        s.daemon_threads = True
        threading.Thread(target=s.serve_forever, kwargs=dict(poll_interval=0.05), daemon=True).start()
        return s

    def close(self):
        self.released.set()
        for s in (self.hub, self.cdn):
            s.shutdown()
            s.server_close()

    def add(self, repo, files, commit=COMMIT):
        self.repos[repo] = (commit, files)

    def add_folder(self, repo, folder, commit=COMMIT):
        files = {}
        for at, _, names in os.walk(folder):
            for name in names:
                with open(os.path.join(at, name), 'rb') as f:
                    files[os.path.relpath(os.path.join(at, name), folder)] = f.read()
        self.add(repo, files, commit)

    def wants(self, path, is_hub=None):
        """The requests for the bytes of a file so far."""
        return [r for r in self.log if r['file'] == path and (is_hub is None or r['hub'] == is_hub)]

    # ------------------------------------------------------------- answers

    def send(self, h, status, body=b'', **headers):
        h.send_response(status)
        for k, v in headers.items():
            h.send_header(k.replace('_', '-'), v)
        if 'Content_Length' not in headers:
            h.send_header('Content-Length', str(len(body)))
        h.end_headers()
        h.wfile.write(body)

    def answer(self, h, is_hub):
        path = urllib.parse.unquote(urllib.parse.urlsplit(h.path).path)
        auth = h.headers.get('Authorization')
        api = re.fullmatch(r'/api/models/([^/]+/[^/]+)/revision/(.+)', path)
        file = re.fullmatch(r'(?:/cdn)?/([^/]+/[^/]+)/resolve/([0-9a-f]{40})/(.+)', path)
        with self.lock:
            self.log.append(dict(path=h.path, file=file and file[3], hub=is_hub, auth=auth, range=h.headers.get('Range'),
                                 if_range=h.headers.get('If-Range')))
        if is_hub and self.token and auth != 'Bearer ' + self.token:
            return self.send(h, 403 if auth else 401, b'no', X_Error_Code='GatedRepo', X_Error_Message='Access is restricted')
        if api:
            return self.answer_listing(h, api[1], api[2])
        commit, files = self.repos.get(file[1] if file else '', (None, {}))
        if not file or file[2] != commit or file[3] not in files:
            return self.send(h, 404, b'no', X_Error_Code='EntryNotFound')
        data = files[file[3]]
        if is_hub and len(data) >= self.large:
            return self.send(h, 302, b'elsewhere', Location=f'{self.cdn_url}/cdn{path}')
        self.answer_bytes(h, file[3], data)

    def answer_listing(self, h, repo, revision):
        if self.listing_faults:
            status, headers = self.listing_faults.pop(0)
            return self.send(h, status, b'wait', **headers)
        if self.listing:
            return self.send(h, 200, self.listing)
        if repo not in self.repos:
            return self.send(h, 404, b'{}', X_Error_Code='RepoNotFound')
        commit, files = self.repos[repo]
        if revision not in ('main', 'refs/pr/1', commit):
            return self.send(h, 404, b'{}', X_Error_Code='RevisionNotFound')
        self.send(h, 200, json.dumps(dict(id=repo, sha=commit, siblings=[self.sibling(*f) for f in files.items()])).encode())

    def sibling(self, path, data):
        s = dict(rfilename=path, size=len(data), blobId=git_sha1(data))
        if len(data) >= self.large:
            s['blobId'] = git_sha1(b'pointer')
            s['lfs'] = dict(sha256=hashlib.sha256(data).hexdigest(), size=len(data), pointerSize=134)
        return s

    def answer_bytes(self, h, path, data):
        with self.lock:
            fault = self.faults.get(path, [])
            fault = fault.pop(0) if fault else None
        start, status, tag = 0, 200, '"tag-of-%s"' % hashlib.md5(data).hexdigest()
        wanted = re.fullmatch(r'bytes=(\d+)-', h.headers.get('Range') or '')
        if isinstance(fault, tuple):  # (status, headers)
            return self.send(h, fault[0], b'not now', **fault[1])
        if wanted and fault != 'no ranges' and h.headers.get('If-Range', tag) == tag:
            start, status = int(wanted[1]), 206
        if fault == 'wrong range':
            start += 1
        body = data[start:]
        if fault == 'wrong bytes':
            body = bytes(len(body))
        if fault == 'too long':
            body += b'more'
        headers = dict(ETag=tag)
        if status == 206:
            headers['Content_Range'] = f'bytes {start}-{len(data) - 1}/{len(data)}'
        if fault == 'cut':  # half of what it said, then the end of the connection
            h.close_connection = True
            self.send(h, status, body[:len(body) // 2], Content_Length=str(len(body)), **headers)
            return
        if fault == 'short':  # half of it, and says that this is all
            return self.send(h, status, body[:len(body) // 2], **headers)
        if fault == 'hold':  # half of it, and the rest when it is released
            self.send(h, status, body[:len(body) // 2], Content_Length=str(len(body)), **headers)
            h.wfile.flush()
            self.held.set()
            self.released.wait(600)
            h.wfile.write(body[len(body) // 2:])
            return
        self.send(h, status, body, **headers)
