"""A web server on loopback that plays a mirror of MNIST, with every fault that a mirror can have.

A fault is a function of (the request's handler, the good gzip file) that answers in its own way.
`Mirror` takes one for all of its files, or sends the good file where it has none.
"""

import gzip
import socket
import struct
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Mirror(ThreadingHTTPServer):
    """Serve files {name: bytes, unzipped} under their names with .gz, on a port of its own.

    `url` is its address, `asked` lists the names that were asked for.
    """

    daemon_threads = True

    def __init__(self, files, fault=None):
        """Start to listen, and to serve in a thread."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = {f"{name}.gz": gzip.compress(data, mtime=0) for name, data in files.items()}
        self.fault = fault or send
        self.asked, self.closing = [], threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/"
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def __exit__(self, *_):
        """Let go of clients that are being kept waiting, and stop."""
        self.closing.set()
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


def send(handler, body, status=200, length=None, kind="application/gzip"):
    """Answer as a web server should, or claim another length."""
    handler.send_response(status)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(body) if length is None else length))
    handler.end_headers()
    handler.wfile.write(body)


def forbidden(handler, body):
    """Refuse, as a storage bucket does that is no longer public."""
    send(handler, b"no", status=403)


def not_found(handler, body):
    """Know nothing of the file."""
    send(handler, b"no", status=404)


def overloaded(handler, body):
    """Ask the client to come again."""
    send(handler, b"no", status=503)


def redirected_in_a_circle(handler, body):
    """Send the client back to where it already is."""
    handler.send_response(302)
    handler.send_header("Location", handler.path)
    handler.send_header("Content-Length", "0")
    handler.end_headers()


def web_page(handler, body):
    """Send the page of a hotel's network, with status 200."""
    send(handler, b"<!DOCTYPE html>\n<html><body>Please log in</body></html>", kind="text/html")


def zipped_web_page(handler, body):
    """Send a page in the right wrapping."""
    send(handler, gzip.compress(b"<html><body>Please log in</body></html>"))


def empty(handler, body):
    """Send nothing, with status 200."""
    send(handler, b"")


def cut_short(handler, body):
    """Hang up half-way through the length that was promised."""
    send(handler, body[:len(body) // 2], length=len(body))


def cut_short_unnoticed(handler, body):
    """Hang up half-way, where no length was promised."""
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(body[:len(body) // 2])


def other_bytes(handler, body):
    """Send a whole file of the right size, with one byte changed."""
    data = bytearray(gzip.decompress(body))
    data[-1] ^= 1
    send(handler, gzip.compress(data))


def damaged_zip(handler, body):
    """Send a gzip file whose checksum does not fit its content."""
    send(handler, body[:-8] + b"\0\0\0\0" + body[-4:])


def far_too_long(handler, body):
    """Send a small file that unzips to a very large one."""
    send(handler, gzip.compress(gzip.decompress(body) + bytes(1 << 22)))


def no_http(handler, body):
    """Answer in another protocol."""
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
    handler.send_response(200)
    handler.end_headers()
    for byte in body:
        handler.wfile.write(bytes([byte]))
        if handler.server.closing.wait(0.02):
            return


def unzipped(handler, body):
    """Send the file unzipped, as some servers and proxies do; this is no fault."""
    send(handler, gzip.decompress(body))
