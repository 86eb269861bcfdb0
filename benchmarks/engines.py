"""The engines of `encode.py`, each in a process of its own, so that its peak memory is its own."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from converted import FILES, ONNX, OPENVINO, encoder, runner

OURS, RIVAL, BARE = "diffembed", "sentence-transformers", "bare products"
PEERS = (RIVAL, ONNX, OPENVINO)
ROWS = (512, 2048, 8192)


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """One engine in one setting."""

    engine: str
    dtype: str
    batch: int | None = None
    """Texts a batch; None for engines that choose."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """What all engines share."""

    folder: str
    converted: str
    """Folder of the converted models."""
    threads: int
    streams: int
    """Batches side by side in ONNX Runtime and OpenVINO."""


class Worker:
    """An engine in its own process; it sleeps while others work."""

    def __init__(self, spec: Spec, place: Place) -> None:
        # No OMP_WAIT_POLICY=PASSIVE, which would cost 20-40% with two threads: what waits inside a run should spin.
        # Between runs it stops by itself: libgomp's idle threads fall asleep after milliseconds.
        environment = os.environ | {
            "OMP_NUM_THREADS": str(place.threads),
            "RAYON_NUM_THREADS": str(place.threads),
            "HF_HUB_OFFLINE": "1",
        }
        command = [sys.executable, __file__, json.dumps(asdict(spec)), json.dumps(asdict(place))]
        self._spec = spec
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ask(self, texts: list[str], with_vectors: bool = False) -> dict[str, Any]:
        """Seconds for the texts (bare products: for one token), the peak so far, vectors on demand."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"texts": texts, "with_vectors": with_vectors}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"error: {self._spec} ended early; its message is above\nhint: fewer texts or threads")
        return json.loads(line)

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)


def work(spec: Spec, place: Place) -> None:
    """Answer each line of texts as `Worker.ask` says."""
    answer_to = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints goes to stderr
    encode = _load(spec, place)
    with os.fdopen(answer_to, "w") as answers:
        for question in _lines():
            started = time.perf_counter()
            out = encode(question["texts"])
            seconds = out if spec.engine == BARE else time.perf_counter() - started
            vectors = out.tolist() if question["with_vectors"] and spec.engine != BARE else None
            answers.write(json.dumps({"seconds": seconds, "peak_mb": _peak_mb(), "vectors": vectors}) + "\n")
            answers.flush()


def _lines() -> Iterator[dict[str, Any]]:
    for line in sys.stdin:
        yield json.loads(line)


def _load(spec: Spec, place: Place) -> Callable[[list[str]], Any]:
    if spec.engine in (ONNX, OPENVINO):
        file = Path(place.converted) / FILES[spec.engine, spec.dtype]
        run = runner(file, spec.dtype, place.threads, place.streams)
        return encoder(run, Path(place.folder), spec.batch or 1)
    import torch

    torch.set_num_threads(place.threads)
    if spec.engine == BARE:
        return _bare(place.folder, getattr(torch, spec.dtype))
    if spec.engine == OURS:
        from diffembed import Embedder

        return Embedder.load(place.folder, device="cpu", dtype=spec.dtype).encode_document  # type: ignore[arg-type]
    from sentence_transformers import SentenceTransformer

    options = {"dtype": getattr(torch, spec.dtype), "attn_implementation": "sdpa"}
    model = SentenceTransformer(place.folder, device="cpu", model_kwargs=options, local_files_only=True)
    return lambda texts: model.encode_document(texts, batch_size=spec.batch or 1, show_progress_bar=False)


def _bare(folder: str, dtype: Any) -> Callable[[list[str]], float]:
    """Seconds per token of the linear layers' products alone, each at its best number of rows."""
    import torch

    from diffembed.backbone import load_backbone

    config = load_backbone(folder).config
    heads = config.num_heads * config.head_width
    both = 2 * config.num_kv_heads * config.head_width
    shapes = [
        (config.width, heads + both),
        (heads, config.width),
        (config.width, 2 * config.mlp_width),
        (config.mlp_width, config.width),
    ]
    cases = []
    for rows in ROWS:
        for shape in shapes:
            x, weight = torch.randn(rows, shape[0], dtype=dtype), torch.randn(shape[1], shape[0], dtype=dtype)
            cases.append((shape, x, weight.t(), torch.empty(rows, shape[1], dtype=dtype)))

    def measure(texts: list[str]) -> float:
        best = dict.fromkeys(shapes, float("inf"))
        with torch.inference_mode():
            for shape, x, weight, out in cases:
                torch.mm(x, weight, out=out)  # warm
                repeats = max(1, 2 * ROWS[-1] // len(x) // 4)
                started = time.perf_counter()
                for _ in range(repeats):
                    torch.mm(x, weight, out=out)
                best[shape] = min(best[shape], (time.perf_counter() - started) / repeats / len(x))
        return config.num_layers * sum(best.values())

    return measure


def _peak_mb() -> float:
    """The process's largest resident set. VmHWM, since ru_maxrss starts at that of the parent."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024
    except (OSError, StopIteration):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    work(Spec(**json.loads(sys.argv[1])), Place(**json.loads(sys.argv[2])))
