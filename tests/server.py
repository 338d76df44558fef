"""A real uvicorn in a thread, for tests: `with running(app) as url`."""

import socket
import threading
from contextlib import contextmanager

import uvicorn


@contextmanager
def running(app, *, port=0):
    """Serve an application on a free port, or a given one; yields its URL."""
    with socket.create_server(("127.0.0.1", port)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
