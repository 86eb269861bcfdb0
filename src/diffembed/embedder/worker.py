"""Both ends of one worker: a process that loads a model and embeds what it is sent, and the handle that the pool has.

The process is this module, started anew, so that nothing of the user's script is imported again. The ends talk over its
stdin and stdout: two lengths, a JSON object, the bytes of an array. Nothing is pickled.
"""

import json
import os
import queue
import signal
import struct
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import asdict
from typing import IO, TYPE_CHECKING, Any, Literal

from diffembed import errors
from diffembed.errors import DiffembedError

if TYPE_CHECKING:
    from diffembed.embedder.core import Embedder

LENGTHS = struct.Struct("<QQ")
"""Bytes of the JSON object and of the array behind it."""
# How long a process whose output has ended may take to end itself, so that it's seen what it died of.
LAST_WORDS_S = 5

State = Literal["loading", "idle", "busy", "torn", "gone"]
"""`loading` and `busy`: it owes an answer. `torn`: to be started anew, as a message to or from it was broken off."""


class Worker:
    """A process, and what it is at.

    Args:
        load: Arguments of `Embedder.load`.
        environment: Of the process.
    """

    def __init__(self, load: dict[str, Any], environment: dict[str, str]) -> None:
        self.device: str = load["device"]
        self.may_restart = True
        self._load = load
        self._environment = environment
        self.start()

    def start(self) -> None:
        # -P: a file in the working folder must not pass for a module.
        command = [sys.executable, "-P", "-m", __name__]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, bufsize=0, env=self._environment)
        with suppress(BrokenPipeError):  # its answer will tell
            self.send(self._load, "loading")
        self.state = "loading"

    def send(self, message: dict[str, Any], then: State = "busy") -> None:
        """Raises BrokenPipeError when it is dead."""
        assert self.process.stdin is not None
        self.state: State = "torn"
        write_message(self.process.stdin, message)
        self.state = then

    def receive(self) -> tuple[dict[str, Any], bytearray]:
        """Raises EOFError when it is dead."""
        assert self.process.stdout is not None
        self.state = "torn"
        answer = read_message(self.process.stdout)
        self.state = "idle"
        return answer

    def stop(self, then: State = "gone") -> None:
        """There is nothing in it to be saved."""
        self.state = then
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

    def cause_of_death(self) -> str:
        """Clear away what is left of a process that ended, and say what it ended with."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(LAST_WORDS_S)
        self.stop("torn")
        status = self.process.returncode
        names = {each.value: f", {each.name}" for each in signal.Signals}
        return f"exit status {status}{names.get(-status, '')}"


def write_message(file: IO[bytes], message: dict[str, Any], body: bytes = b"") -> None:
    """Write to an unbuffered file, whole."""
    header = json.dumps(message, ensure_ascii=False).encode("utf-8", "surrogatepass")
    left = memoryview(LENGTHS.pack(len(header), len(body)) + header + body)
    while left:
        left = left[file.write(left) :]


def read_message(file: IO[bytes]) -> tuple[dict[str, Any], bytearray]:
    """Read what `write_message` wrote. Raises EOFError when the other end is closed."""
    header_bytes, body_bytes = LENGTHS.unpack(_read_bytes(file, LENGTHS.size))
    return json.loads(_read_bytes(file, header_bytes)), _read_bytes(file, body_bytes)


def _read_bytes(file: IO[bytes], size: int) -> bytearray:
    data = bytearray(size)
    left = memoryview(data)
    while left:
        count = file.readinto(left)  # type: ignore[attr-defined]
        if not count:
            raise EOFError
        left = left[count:]
    return data


def serve() -> int:
    """Load a model, then answer each request, until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal; the parent decides
    stdout = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints goes to stderr
    requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    # Torch takes seconds to import, in which the parent may end: only now.
    from diffembed.embedder.core import Embedder

    with open(stdout, "wb", buffering=0) as answers:
        try:
            embedder = Embedder.load(**requests.get())
        except DiffembedError as error:
            write_message(answers, _as_message(error))
            return 1
        write_message(answers, {})
        latest, reading = embedder, {}
        while True:
            request = requests.get()
            try:
                if (wanted := request.pop("reading")) != reading:
                    latest, reading = _read_as(embedder, wanted), wanted
                latest._has_warned = True  # of texts that were cut: the parent has the sum
                encoded = latest.embed(**request)
            except DiffembedError as error:
                write_message(answers, _as_message(error))
                continue
            counts = asdict(encoded.report)
            del counts["seconds"]
            vectors = encoded.vectors
            shape = {"dtype": vectors.dtype.str, "shape": vectors.shape}
            write_message(answers, {**shape, "counts": counts}, vectors.tobytes())


def _read_as(embedder: "Embedder", reading: dict[str, Any]) -> "Embedder":
    from diffembed.readout.spec import Readout

    readout = reading.get("readout")
    return embedder.with_readout(
        None if readout is None else Readout.from_dict(readout),
        prompts=reading.get("prompts"),
        template=reading.get("template"),
    )


def _listen(requests: "queue.SimpleQueue[dict[str, Any]]") -> None:
    """Pass requests on. When the parent ends, however it does, so does this process, even amid its work."""
    try:
        with open(0, "rb", buffering=0, closefd=False) as stdin:
            while True:
                requests.put(read_message(stdin)[0])
    finally:
        os._exit(0)


def _as_message(error: DiffembedError) -> dict[str, Any]:
    kind = next(kind for kind in type(error).__mro__ if kind.__module__ == errors.__name__)
    return {"error": kind.__name__, "message": error.message, "hint": error.hint}


if __name__ == "__main__":
    sys.exit(serve())
