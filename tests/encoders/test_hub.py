"""The hub: fetched for real from a local server, and never a hang without one."""

import hashlib
import os
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import timm
from safetensors.torch import save

LOAD = "import sys, sdclr; encoder = sdclr.load_encoder(sys.argv[1]); print(encoder.origin.sentence)"
TINY = "test_resnet.r160_in1k"


def load(spec: str, endpoint: str, cache) -> subprocess.CompletedProcess[str]:
    """Load an encoder in a fresh process, as a user does, with a hub of our own."""
    environment = {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "PATH": "/usr/bin:/bin", "HF_HUB_DISABLE_XET": "1"}
    measured = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE")}
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOAD, spec],
        env=environment | measured,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


class Hub(BaseHTTPRequestHandler):
    """Gives one file of weights as the hub does."""

    weights = b""

    def _head(self) -> bool:
        known = self.path.endswith("/model.safetensors")
        self.send_response(200 if known else 404)
        if known:
            self.send_header("ETag", f'"{hashlib.sha256(self.weights).hexdigest()}"')
            self.send_header("X-Repo-Commit", "1" * 40)
        else:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("Content-Length", str(len(self.weights) if known else 0))
        self.end_headers()
        return known

    def do_HEAD(self) -> None:
        self._head()

    def do_GET(self) -> None:
        if self._head():
            self.wfile.write(self.weights)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub():
    """A hub on this machine."""
    handler = type("Handler", (Hub,), {"weights": save(timm.create_model(TINY).state_dict())})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.slow
def test_weights_are_fetched_once_and_then_come_from_the_cache(hub, tmp_path):
    first = load(f"timm:{TINY}", hub, tmp_path)
    assert f"hub repository timm/{TINY}" in first.stdout, first.stderr
    again = load(f"timm:{TINY}", "http://127.0.0.1:9", tmp_path)  # nothing listens there
    assert again.stdout == first.stdout, again.stderr


def test_a_hub_that_refuses_ends_in_one_line(tmp_path):
    done = load(f"timm:{TINY}", "http://127.0.0.1:9", tmp_path)
    assert done.returncode
    assert "the hub cannot be reached" in done.stderr.splitlines()[-1]
    assert "sdclr[weights]" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_a_hub_that_never_answers_is_given_up(tmp_path):
    """The limit is seconds, not the minute that retries take."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begun = time.monotonic()
        done = load(f"timm:{TINY}", f"http://127.0.0.1:{silent.getsockname()[1]}", tmp_path)
        took = time.monotonic() - begun
    assert "InputError" in done.stderr
    assert "hub" in done.stderr.splitlines()[-1]
    assert took < 60  # start-up included, on a busy machine
