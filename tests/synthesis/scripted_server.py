"""An OpenAI-compatible server on loopback that answers as a test says, and what a run wrote."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def good(prompt):
    """A well-formed reply that depends on the prompt alone."""
    if "<verdict>" in prompt:
        return "It is supported. <verdict>yes</verdict>"
    if prompt.startswith("Answer this question from what you know"):
        return "I do not know."
    words = re.search(r"<(text|part 1)>\n(.*?)\n</\1>", prompt, re.DOTALL)[2].split()
    quotes = re.findall(r"<part \d>\n(.*?)\n</part", prompt, re.DOTALL) or [" ".join(words)]
    evidence = "".join(f"<quote>{' '.join(quote.split()[:5])}</quote>" for quote in quotes)
    return f"<question>What follows {words[0]!r}?</question>\n<answer>{' '.join(words[1:4])}</answer>{evidence}"


class Scripted:
    """``answer(prompt, number)`` returns a reply's text, or (status, headers, body), or "cut" or "hang"."""

    def __init__(self):
        self.requests, self.headers, self.answer = [], [], lambda prompt, number: good(prompt)
        self._lock = threading.Lock()
        self.most_open = self._open = 0
        self.release = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                outer.serve(self)

            def log_message(self, *_):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"

    def serve(self, handler):
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self._lock:
            self.requests.append(body)
            self.headers.append({name.lower(): value for name, value in handler.headers.items()})
            number = len(self.requests)
            self._open += 1
            self.most_open = max(self.most_open, self._open)
        try:
            self._send(handler, self.answer(body["messages"][0]["content"], number))
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            with self._lock:
                self._open -= 1

    def _send(self, handler, answer):
        if answer == "hang":
            self.release.wait(30)
            return
        status, headers, content = answer if isinstance(answer, tuple) else (200, {}, completion(answer))
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        handler.send_response(status)
        length = len(raw) + 100 if answer == "cut" else len(raw)
        for name, value in {"Content-Type": "application/json", "Content-Length": length, **headers}.items():
            handler.send_header(name, str(value))
        handler.end_headers()
        handler.wfile.write(raw)
        if answer == "cut":
            handler.close_connection = True

    def close(self):
        self.release.set()
        self._http.shutdown()
        self._http.server_close()


def completion(text, finish="stop"):
    return {
        "id": "c",
        "object": "chat.completion",
        "created": 0,
        "model": "scripted",
        "choices": [{"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
    }


def rows(output):
    """All rows of a run's output, over its shards."""
    return [json.loads(line) for file in sorted(Path(output).glob("data/*.jsonl")) for line in file.open()]
