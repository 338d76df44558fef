"""A real uvicorn in a thread, for tests: `with running(app) as url`."""

import asyncio
import socket
import threading
from contextlib import contextmanager

import uvicorn


class QuickServer(uvicorn.Server):
    """Looks whether it is to end 200 times a second instead of ten times: hundreds of tests wait for that."""

    async def main_loop(self):
        await self.on_tick(0)  # sets the headers of all answers
        while not self.should_exit:
            await asyncio.sleep(0.005)

    async def shutdown(self, sockets=None):
        for one in (*self.servers, *(sockets or ())):
            one.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        while self.server_state.connections or self.server_state.tasks:
            await asyncio.sleep(0.005)
        await self.lifespan.shutdown()


@contextmanager
def running(app, *, port=0):
    """Serve an application on a free port, or a given one; yields its URL."""
    with socket.create_server(("127.0.0.1", port)) as listening:
        server = QuickServer(uvicorn.Config(app, log_level="critical"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
