"""Tokens per second and memory: our engine and sentence-transformers on the same model folder and the same texts.

    python benchmarks/encode.py [--model FOLDER] [--rounds 5] [--texts 300] [--threads N]

Every engine lives in a process of its own, so its peak memory is its own. They take turns, one at work at a time, on
texts that no round has seen before: docstrings of the standard library of 5-512 tokens, so nothing is cut or windowed.
Without --model the folder is made on the spot: 12.6M random weights, a tokenizer trained on the docstrings. Needs the
extra `st`. A table for people comes first; the last line of stdout is one JSON object.
"""

import argparse
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

SHORTEST, LONGEST = 5, 512
CHECK_TEXTS = ["A short text.", "Returns the number of bytes that were written.\n\n  Raises OSError 28.", "x"]
ROWS = (512, 2048, 8192)
OURS, RIVAL, BARE = "diffembed", "sentence-transformers", "bare products"
DTYPES = ("bfloat16", "float32")
BATCH_SIZES = (8, 32)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a folder that Embedder.save wrote; made on the spot when absent")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--texts", type=int, default=300, help="texts a round")
    parser.add_argument("--threads", type=int, help="default: the CPUs this process may use")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return work(*args.worker)
    if args.rounds < 1 or args.texts < 1:
        parser.error("--rounds and --texts must be at least 1")

    from diffembed.errors import DiffembedError
    from diffembed.hardware import cpu_quota

    try:
        with tempfile.TemporaryDirectory() as temporary:
            folder = args.model or make_model(Path(temporary) / "model", args.seed)
            result = run(folder, args.rounds, args.texts, args.threads or cpu_quota(), args.seed)
    except DiffembedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    result["model"] = str(args.model) if args.model else "random, 12.6M parameters"
    print_table(result)
    print(json.dumps(result))
    return 0


def run(folder: Path, rounds: int, texts_per_round: int, threads: int, seed: int) -> dict[str, Any]:
    """Start an engine of each kind, let them take turns, and sum up."""
    batches, tokens = fresh_texts(folder, rounds, texts_per_round, seed)
    names = [(OURS, dtype, "-") for dtype in DTYPES]
    names += [(RIVAL, dtype, str(size)) for dtype in DTYPES for size in BATCH_SIZES]
    names += [(BARE, dtype, "-") for dtype in DTYPES]
    workers = {name: Worker(folder, name, threads) for name in names}
    try:
        check = {name: worker.ask(CHECK_TEXTS)["vectors"] for name, worker in workers.items()}
        seconds: dict[Any, list[float]] = {name: [] for name in names}
        peak: dict[Any, float] = {}
        for number, texts in enumerate(batches):
            # Whoever goes first meets the coldest caches: the order moves on with every round.
            for name in names[number % len(names) :] + names[: number % len(names)]:
                answer = workers[name].ask(texts)
                # The bare products answer with seconds per token.
                seconds[name].append(answer["seconds"] * (tokens[number] if name[0] == BARE else 1))
                peak[name] = answer["peak_mb"]
            print(f"round {number + 1} of {rounds}: {len(texts)} texts, {tokens[number]} tokens", file=sys.stderr)
    finally:
        for worker in workers.values():
            worker.stop()
    rates = {name: [n / s for n, s in zip(tokens, seconds[name], strict=True)] for name in names}
    rows = [summary(name, rates, peak, check) for name in names]
    best = {
        kind: max((row for row in rows if row["engine"] == kind), key=lambda r: r["tokens_per_s"])
        for kind in (OURS, RIVAL)
    }
    ours, rival = (rates[key(best[kind])] for kind in (OURS, RIVAL))
    ratios = sorted(a / b for a, b in zip(ours, rival, strict=True))
    return {
        "benchmark": "encode",
        "rounds": rounds,
        "texts": texts_per_round,
        "tokens": sum(tokens),
        "threads": threads,
        "ratio": round(median(ratios), 3),
        "ratio_low": round(ratios[0], 3),
        "ratio_high": round(ratios[-1], 3),
        "best": {kind: {k: row[k] for k in ("dtype", "batch", "tokens_per_s")} for kind, row in best.items()},
        "engines": rows,
        "machine": machine(),
    }


def summary(name: Any, rates: Any, peak: Any, check: Any) -> dict[str, Any]:
    engine, dtype, batch = name
    ordered = sorted(rates[name])
    row = {
        "engine": engine,
        "dtype": dtype,
        "batch": batch,
        "tokens_per_s": round(median(ordered)),
        "low": round(ordered[0]),
        "high": round(ordered[-1]),
    }
    if engine != BARE:
        bare = rates[(BARE, dtype, "-")]
        row["products_share"] = round(median(a / b for a, b in zip(rates[name], bare, strict=True)), 3)
        row["peak_mb"] = round(peak[name])
        row["cosine"] = round(least_cosine(check[name], check[(RIVAL, "float32", str(BATCH_SIZES[0]))]), 6)
    return row


def least_cosine(ours: list[list[float]], theirs: list[list[float]]) -> float:
    return min(
        sum(a * b for a, b in zip(x, y, strict=True)) / (math.hypot(*x) * math.hypot(*y))
        for x, y in zip(ours, theirs, strict=True)
    )


def key(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["engine"], row["dtype"], row["batch"]


def print_table(result: dict[str, Any]) -> None:
    print(f"{'engine':<22} {'dtype':<9} {'batch':>5}", end="")
    print(f" {'tokens/s':>9} {'low':>8} {'high':>8} {'products':>9} {'peak MB':>8} {'cosine':>9}")
    for row in result["engines"]:
        print(f"{row['engine']:<22} {row['dtype']:<9} {row['batch']:>5}", end="")
        print(f" {row['tokens_per_s']:>9,} {row['low']:>8,} {row['high']:>8,}", end="")
        print(f" {row['products_share']:>9.0%} {row['peak_mb']:>8,} {row['cosine']:>9.6f}" if "peak_mb" in row else "")
    print(
        f"\n{result['rounds']} rounds of {result['texts']} texts, {result['tokens']:,} tokens in all, "
        f"{result['threads']} threads.\n"
        "products: share of the time that the bare products of the linear layers would take.\n"
        "cosine: least of a few texts, against sentence-transformers in float32.\n"
        f"Our best against their best, round by round: {result['ratio']:.2f}x "
        f"({result['ratio_low']:.2f} to {result['ratio_high']:.2f})\n"
    )


def fresh_texts(folder: Path, rounds: int, count: int, seed: int) -> tuple[list[list[str]], list[int]]:
    """Texts of each round, none twice, and their tokens with EOS."""
    from diffembed.data.docstrings import read_docstrings
    from diffembed.embedder.folder import read_model
    from diffembed.errors import DataError

    model = read_model(folder)
    longest = min(LONGEST, model.max_tokens)
    texts = [passage.text for passage in read_docstrings()]
    lengths = [len(ids) + 1 for ids in model.tokenizer.encode(texts)]
    pool = [(text, n) for text, n in zip(texts, lengths, strict=True) if SHORTEST <= n <= longest]
    if len(pool) < rounds * count:
        raise DataError(
            f"{rounds} rounds of {count} texts need {rounds * count}; this Python has {len(pool)} of the right length",
            hint="fewer rounds or texts",
        )
    random.Random(seed).shuffle(pool)
    parts = [pool[i * count : (i + 1) * count] for i in range(rounds)]
    return [[text for text, _ in part] for part in parts], [sum(n for _, n in part) for part in parts]


def make_model(folder: Path, seed: int) -> Path:
    """The shape of the built-in model with random weights: speed does not depend on their values."""
    import torch

    from diffembed import Embedder
    from diffembed.backbone import Backbone
    from diffembed.data.docstrings import read_docstrings
    from diffembed.recipes.pretrain import builtin
    from diffembed.text.tokenizer import Tokenizer

    config = builtin().backbone
    tokenizer = Tokenizer.train((passage.text for passage in read_docstrings()), config.vocab_size)
    backbone = Backbone(config)
    backbone.init_weights(torch.Generator().manual_seed(seed))
    embedder = Embedder.from_backbone(
        backbone, tokenizer, max_tokens=min(LONGEST, config.max_positions), dtype="float32"
    )
    embedder.save(folder)
    return folder


class Worker:
    """An engine in its own process; it sleeps while others work."""

    def __init__(self, folder: Path, name: tuple[str, str, str], threads: int) -> None:
        environment = os.environ | {
            "OMP_NUM_THREADS": str(threads),
            "RAYON_NUM_THREADS": str(threads),
            "OMP_WAIT_POLICY": "PASSIVE",  # else idle threads of one engine spin while another works
            "HF_HUB_OFFLINE": "1",
        }
        command = [sys.executable, __file__, "--worker", *name, str(folder)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ask(self, texts: list[str]) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(texts) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("error: an engine ended early; its message is above\nhint: pip install 'diffembed[st]'")
        return json.loads(line)

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)


def work(engine: str, dtype: str, batch: str, folder: str) -> int:
    """Answer each line of texts with seconds, vectors of few texts, and the peak so far."""
    answer_to = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints goes to stderr
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if engine == OURS:
        from diffembed import Embedder

        encode = Embedder.load(folder, device="cpu", dtype=dtype).encode_document
    elif engine == RIVAL:
        encode = rival(folder, dtype, int(batch))
    else:
        encode = bare(folder, getattr(torch, dtype))
    with os.fdopen(answer_to, "w") as answers:
        for texts in lines():
            started = time.perf_counter()
            out = encode(texts)
            answer = {"seconds": out if engine == BARE else time.perf_counter() - started, "peak_mb": peak_mb()}
            answer["vectors"] = out.tolist() if engine != BARE and len(texts) == len(CHECK_TEXTS) else None
            answers.write(json.dumps(answer) + "\n")
            answers.flush()
    return 0


def lines() -> Iterator[list[str]]:
    for line in sys.stdin:
        yield json.loads(line)


def rival(folder: str, dtype: str, batch_size: int) -> Any:
    import torch
    from sentence_transformers import SentenceTransformer

    options = {"dtype": getattr(torch, dtype), "attn_implementation": "sdpa"}
    model = SentenceTransformer(folder, device="cpu", model_kwargs=options, local_files_only=True)
    return lambda texts: model.encode_document(texts, batch_size=batch_size, show_progress_bar=False)


def bare(folder: str, dtype: Any) -> Any:
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


def peak_mb() -> float:
    """The process's largest resident set. VmHWM, since ru_maxrss starts at that of the parent."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024
    except (OSError, StopIteration):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def machine() -> dict[str, Any]:
    from diffembed.hardware import describe

    facts = describe()
    facts.pop("threads")  # this process's own; the engines' stand above
    return facts


if __name__ == "__main__":
    sys.exit(main())
