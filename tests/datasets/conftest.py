"""A web server on this machine that stands in for the mirrors of the data sets."""

import hashlib
import http.server
import threading
import urllib.request

import pytest

from datasets.download import Source

SERVED = {}  # {file name: bytes} of the current test


class Handler(http.server.BaseHTTPRequestHandler):
    """Serve /<kind>/<file name>. The kind determines how the mirror fails."""

    def do_GET(self):
        _, kind, name = self.path.split('/')
        content = SERVED[name]
        if kind == 'absent':
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header('Content-Length', len(content))
        self.end_headers()
        if kind == 'truncated':
            content = content[:len(content) // 2]
        if kind == 'wrong':
            content = content[::-1]
        self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture(scope='session')
def server():
    """Start the server and return its URL."""
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}'
        server.shutdown()


@pytest.fixture
def direct(monkeypatch):
    """Bypass the dead proxy that keeps the other tests off the network."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    monkeypatch.setattr(urllib.request, 'urlopen', opener.open)


@pytest.fixture
def serve(server, direct, monkeypatch):
    """Serve files {name: bytes} from mirrors of these kinds, or at these URLs, and return their Source."""
    def serve_files(files, *mirrors):
        for name, content in files.items():
            monkeypatch.setitem(SERVED, name, content)
        urls = tuple(mirror if '://' in mirror else f'{server}/{mirror}/' for mirror in mirrors)
        return Source(urls, 'sha256', {name: hashlib.sha256(content).hexdigest() for name, content in files.items()})
    return serve_files
