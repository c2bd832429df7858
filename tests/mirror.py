"""A web server on loopback that plays a mirror of MNIST, with every fault that a mirror can have.

A fault is a function of (the request's handler, the good gzip file) that answers in its own way.
"""

import gzip
import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PAGE = b"<!DOCTYPE html>\n<html><body>Please log in</body></html>"  # of a hotel's network


class Mirror(ThreadingHTTPServer):
    """Serves {name: bytes, unzipped} under name.gz at its `url`; `asked` lists what was asked for.

    All of them with one fault, or the good files where it has none.
    """

    daemon_threads = True

    def __init__(self, files, fault=None):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = {f"{name}.gz": gzip.compress(data, mtime=0) for name, data in files.items()}
        self.fault = fault or send
        self.asked, self.closing = [], threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/"
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def __exit__(self, *_):
        self.closing.set()  # lets go of clients that are being kept waiting
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        """Keep quiet about clients that hang up: the tests make them do it."""


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        name = self.path.lstrip("/")
        self.server.asked.append(name)
        self.server.fault(self, self.server.files[name])

    def log_message(self, *_):
        pass


def start(handler, status=200, **headers):
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), str(value))
    handler.end_headers()


def send(handler, body, status=200, length=None):
    """Answer as a web server should, or claim another length."""
    start(handler, status, Content_Length=len(body) if length is None else length)
    handler.wfile.write(body)


def sends(change=bytes, status=200):
    """The fault of sending something else in the place of the file."""
    return lambda handler, body: send(handler, change(body), status)


def redirected_in_a_circle(handler, body):
    start(handler, 302, Location=handler.path, Content_Length=0)


def cut_short(handler, body):
    send(handler, body[:len(body) // 2], length=len(body))


def cut_short_unnoticed(handler, body):
    """Hang up half-way, where no length was promised."""
    start(handler)
    handler.wfile.write(body[:len(body) // 2])


def no_http(handler, body):
    handler.wfile.write(b"220 mail.example.org ESMTP\r\n")


def reset(handler, body):
    """Reset the connection."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def silent(handler, body):
    """Accept the connection and never answer."""
    handler.server.closing.wait()


def stuck(handler, body):
    """Send one half, and then nothing more."""
    cut_short(handler, body)
    handler.server.closing.wait()


def dripping_header(handler, body):
    """Send a header without end, a letter at a time, each soon enough."""
    handler.wfile.write(b"HTTP/1.0 200 OK\r\nX-Slow: ")
    while not handler.server.closing.wait(0.02):
        handler.wfile.write(b"z")


def dripping_body(handler, body):
    """Send the file a byte at a time, each soon enough."""
    start(handler)
    for byte in body:
        handler.wfile.write(bytes([byte]))
        if handler.server.closing.wait(0.02):
            return


FAULTS = {  # what a mirror does, and the words for it
    "forbidden": (sends(status=403), "HTTP Error 403"),  # a storage bucket no longer public
    "redirected in a circle": (redirected_in_a_circle, "HTTP Error 302"),
    "web page": (sends(lambda body: PAGE), "found 55 bytes with md5 [0-9a-f]{32}"),
    "cut short": (cut_short, "found [0-9,]+ bytes with md5"),
    "cut short unnoticed": (cut_short_unnoticed, "found [0-9,]+ bytes with md5"),
    "no http": (no_http, "BadStatusLine"),
    "reset": (reset, "Connection(Reset|Aborted)Error|RemoteDisconnected"),
    "silent": (silent, "TimeoutError: timed out"),
    "stuck": (stuck, "TimeoutError: timed out"),
    "dripping header": (dripping_header, "no answer within 0.2 s"),
    "dripping body": (dripping_body, "found [0-9,]+ bytes after 0.2 s"),
}
LIMITS = {silent: "SILENCE", stuck: "SILENCE",  # what ends the wait
          dripping_header: "FIRST_BYTE", dripping_body: "WHOLE_FILE"}
