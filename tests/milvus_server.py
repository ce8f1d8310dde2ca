"""A real Milvus for the tests, from the PyPI package `milvus` 2.3.5, which nobody outside this machine can reach.

It listens on all interfaces, so it runs in a network namespace of its own; a socket in the file system leads in.

    python -m venv /opt/milvus-venv && /opt/milvus-venv/bin/pip install milvus==2.3.5 'setuptools<70'
    VIREID_MILVUS_VENV=/opt/milvus-venv pytest tests/test_gallery_engines.py
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

PORT = 19530


class Unavailable(Exception):
    """Why no Milvus can be started here."""


@contextlib.contextmanager
def milvus_uri():
    """Yield the URI of `$VIREID_MILVUS_URI`, or of a server started from `$VIREID_MILVUS_VENV`."""
    if uri := os.environ.get("VIREID_MILVUS_URI"):
        yield uri
        return
    venv = Path(os.environ.get("VIREID_MILVUS_VENV", "/nowhere"))
    if not (venv / "bin" / "milvus-server").exists():
        raise Unavailable("set VIREID_MILVUS_URI, or VIREID_MILVUS_VENV to a venv with milvus==2.3.5")
    if subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False).returncode:
        raise Unavailable("this user may not make a network namespace, and Milvus listens on all interfaces")
    with (
        tempfile.TemporaryDirectory(prefix="milvus") as folder,
        _server(venv, Path(folder)) as socket,
        _listen_here(socket) as port,
    ):
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def _server(venv, folder):
    socket = folder / "in.sock"
    inside = (
        f"ip link set lo up && {venv}/bin/milvus-server --data {folder}/data & "
        f"exec {sys.executable} {Path(__file__).resolve()} {socket} {PORT}"
    )
    command = ["unshare", "--net", "--pid", "--fork", "--kill-child", "sh", "-c", inside]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait(socket, process)
        yield socket
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait(socket, process, patience=180):
    from pymilvus import MilvusClient, MilvusException

    deadline = time.monotonic() + patience
    while time.monotonic() < deadline and process.poll() is None:
        if socket.exists():
            with _listen_here(socket) as port, contextlib.suppress(MilvusException):
                client = MilvusClient(f"http://127.0.0.1:{port}", timeout=5)
                client.list_collections()
                client.close()
                return
        time.sleep(1)
    raise Unavailable("the Milvus server did not answer in time")


@contextlib.contextmanager
def _listen_here(socket):
    """Lead a port of this machine's loopback into the namespace."""
    loop = asyncio.new_event_loop()
    handler = _pipe_to(lambda: asyncio.open_unix_connection(socket))
    server = loop.run_until_complete(asyncio.start_server(handler, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        asyncio.run_coroutine_threadsafe(_cancel_others(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


async def _cancel_others():
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _pipe_to(connect):
    async def handle(reader, writer):
        with contextlib.suppress(OSError):
            far_reader, far_writer = await connect()
            await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))

    return handle


async def _copy(reader, writer):
    with contextlib.suppress(OSError):
        while data := await reader.read(2**16):
            writer.write(data)
            await writer.drain()
    writer.close()


async def _relay(path, port):
    server = await asyncio.start_unix_server(_pipe_to(lambda: asyncio.open_connection("127.0.0.1", port)), path)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_relay(sys.argv[1], int(sys.argv[2])))
