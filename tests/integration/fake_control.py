"""A control socket that answers what a test wants: canned results, errors, garbage, silence.

answers: method -> a result object, an Error, a Raw, or a function of the params that returns one of
them. Everything that was asked is in `calls`, as (method, params)."""

import json
import os
import socket
import threading


class Error:
    def __init__(self, code, kind, detail, path=None):
        self.value = {"code": code, "message": kind, "data": {"kind": kind, "detail": detail}}
        if path is not None:
            self.value["data"]["path"] = path


class Raw:
    """Bytes to send as they are; then the connection closes, unless it stays open."""

    def __init__(self, data, stay=False):
        self.data, self.stay = data, stay


class FakeControl:
    def __init__(self, folder, answers=None):
        self.path = os.path.join(str(folder), "fake.sock")
        self.answers = answers or {}
        self.calls = []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(16)
        self.connections = []
        self.thread = threading.Thread(target=self._accept, daemon=True)
        self.thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for connection in self.connections:
            connection.close()

    def _accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        try:
            with connection, connection.makefile("rb") as lines:
                for line in lines:
                    if not self._answer(connection, json.loads(line)):
                        return
        except OSError:
            pass

    def _answer(self, connection, request):
        method, params = request["method"], request.get("params")
        self.calls.append((method, params))
        answer = self.answers.get(method, Error(-32601, "method-not-found", f"no {method}"))
        if callable(answer):
            answer = answer(params)
        if isinstance(answer, Raw):
            connection.sendall(answer.data)
            if answer.stay:
                connection.recv(1)
            return False
        message = {"jsonrpc": "2.0", "id": request["id"]}
        if isinstance(answer, Error):
            message["error"] = answer.value
        else:
            message["result"] = answer
        connection.sendall(json.dumps(message).encode() + b"\n")
        return True
