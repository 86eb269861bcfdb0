"""Time and peak memory of one document of 256 to 32,768 tokens: our engine and sentence-transformers on one folder.

    python benchmarks/scaling.py [--lengths 256 512 ...] [--rounds 3] [--threads N] [--ours-only]

The model has the shape of the built-in one with random weights, and room for the longest document: each is read whole,
in one window. Every measurement is a process of its own, so its peak is its own; engines take turns. The document is
made of docstrings of the standard library. Needs the extra `st`, except for --ours-only, and Linux, which tells a
process its peak. A table for people comes first; the last line of stdout is one JSON object.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

LENGTHS = [2**power for power in range(8, 16)]
OURS, RIVAL = "diffembed", "sentence-transformers"
DTYPES = ("bfloat16", "float32")
# Shorter documents take less memory than what a process has at hand anyway.
FIT_FROM = 4_096
WARM_UP = "A short text, so that whatever is set up once has been."


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, help="tokens of the documents")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="default: the CPUs this process may use")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ours-only", action="store_true")
    parser.add_argument("--layers", type=int, help="default: those of the built-in model")
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return work(*args.worker)
    if args.rounds < 1 or min(args.lengths) < 8:
        parser.error("--rounds must be at least 1 and --lengths at least 8")

    from diffembed.hardware import cpu_quota

    threads = args.threads or cpu_quota()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        make_model(folder, max(args.lengths), args.layers, args.seed)
        documents = write_documents(folder, Path(temporary), sorted(set(args.lengths)))
        engines = [(engine, dtype) for engine in (OURS, RIVAL)[: 1 if args.ours_only else 2] for dtype in DTYPES]
        result = run(engines, folder, documents, args.rounds, threads)
    print_table(result)
    print(json.dumps(result))
    return 0


def run(
    engines: list[tuple[str, str]], folder: Path, documents: dict[int, Path], rounds: int, threads: int
) -> dict[str, Any]:
    """Measure each engine on each document, `rounds` times, and sum up."""
    answers: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for number in range(rounds):
        for length, document in documents.items():
            turn = (number + length.bit_length()) % len(engines)
            for engine, dtype in engines[turn:] + engines[:turn]:
                found = ask(engine, dtype, folder, document, threads)
                answers.setdefault((engine, dtype, length), []).append(found)
            print(f"round {number + 1} of {rounds}: {length:,} tokens", file=sys.stderr)
    rows = [summary(*key, found) for key, found in answers.items()]
    for row in rows:
        reference = answers.get((RIVAL, "float32", row["length"]), answers[(OURS, "float32", row["length"])])
        vector = answers[(row["engine"], row["dtype"], row["length"])][0]["vector"]
        row["cosine"] = round(cosine(vector, reference[0]["vector"]), 6)
    rows.sort(key=lambda row: (engines.index((row["engine"], row["dtype"])), row["length"]))
    return {
        "benchmark": "scaling",
        "rounds": rounds,
        "threads": threads,
        "fits": [fits(rows, engine, dtype) for engine, dtype in engines],
        "rows": rows,
        "machine": machine(),
    }


def summary(engine: str, dtype: str, length: int, found: list[dict[str, Any]]) -> dict[str, Any]:
    seconds = sorted(each["seconds"] for each in found)
    return {
        "engine": engine,
        "dtype": dtype,
        "length": length,
        "seconds": round(median(seconds), 4),
        "low": round(seconds[0], 4),
        "high": round(seconds[-1], 4),
        "peak_mb": round(median(each["peak_mb"] for each in found)),
        "growth_mb": round(median(each["growth_mb"] for each in found), 1),
    }


def fits(rows: list[dict[str, Any]], engine: str, dtype: str) -> dict[str, Any]:
    """Exponents of growth with length, of documents from FIT_FROM tokens on; None with fewer than two of them."""
    long = [row for row in rows if (row["engine"], row["dtype"]) == (engine, dtype) and row["length"] >= FIT_FROM]
    exponents = {f"{name}_exponent": exponent(long, name) for name in ("growth_mb", "seconds")}
    return {"engine": engine, "dtype": dtype, **exponents}


def exponent(rows: list[dict[str, Any]], name: str) -> float | None:
    """Slope of the least-squares line through the logarithms."""
    points = [(math.log(row["length"]), math.log(row[name])) for row in rows if row[name] > 0]
    if len(points) < 2:
        return None
    x_mean, y_mean = (sum(values) / len(points) for values in zip(*points, strict=True))
    return round(sum((x - x_mean) * (y - y_mean) for x, y in points) / sum((x - x_mean) ** 2 for x, _ in points), 3)


def cosine(x: list[float], y: list[float]) -> float:
    return sum(a * b for a, b in zip(x, y, strict=True)) / (math.hypot(*x) * math.hypot(*y))


def print_table(result: dict[str, Any]) -> None:
    print(f"{'engine':<22} {'dtype':<9} {'tokens':>7} {'seconds':>9} {'low':>8} {'high':>8}", end="")
    print(f" {'peak MB':>8} {'growth MB':>10} {'cosine':>9}")
    for row in result["rows"]:
        print(f"{row['engine']:<22} {row['dtype']:<9} {row['length']:>7,} {row['seconds']:>9.3f}", end="")
        print(f" {row['low']:>8.3f} {row['high']:>8.3f} {row['peak_mb']:>8,} {row['growth_mb']:>10,.1f}", end="")
        print(f" {row['cosine']:>9.6f}")
    print(
        f"\n{result['rounds']} rounds, {result['threads']} threads.\n"
        "peak: the most that the process ever had; growth: what reading the document added to what it had.\n"
        "cosine: against sentence-transformers in float32, or ours where it is not measured."
    )
    for fit in result["fits"]:
        if fit["growth_mb_exponent"] is not None:
            print(
                f"{fit['engine']} {fit['dtype']}, from {FIT_FROM:,} tokens: growth ~ tokens^{fit['growth_mb_exponent']}"
                f", time ~ tokens^{fit['seconds_exponent']}"
            )
    print()


def make_model(folder: Path, longest: int, num_layers: int | None, seed: int) -> None:
    """The built-in model's shape with random weights: neither speed nor memory depends on their values."""
    from dataclasses import replace

    import torch

    from diffembed import Embedder
    from diffembed.backbone import Backbone
    from diffembed.data.docstrings import read_docstrings
    from diffembed.recipes.pretrain import BUILTIN_SHAPE
    from diffembed.text.tokenizer import Tokenizer

    config = replace(BUILTIN_SHAPE, max_positions=longest)
    config = replace(config, num_layers=num_layers or config.num_layers)
    tokenizer = Tokenizer.train((passage.text for passage in read_docstrings()), config.vocab_size)
    backbone = Backbone(config)
    backbone.init_weights(torch.Generator().manual_seed(seed))
    Embedder.from_backbone(backbone, tokenizer, max_tokens=longest, dtype="float32").save(folder)


def write_documents(folder: Path, to: Path, lengths: Sequence[int]) -> dict[int, Path]:
    """A text file for each length, EOS included; a tokenizer may read the cut end as a token fewer."""
    from diffembed.data.docstrings import read_docstrings
    from diffembed.text.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(folder)
    text = ""
    for passage in read_docstrings():
        if len(text) > 8 * lengths[-1]:  # docstrings have 3 to 5 characters per token
            break
        text += passage.text + "\n\n"
    [(ids, spans)] = tokenizer.encode_with_offsets([text])
    assert len(ids) >= lengths[-1]
    paths = {}
    for length in lengths:
        room = length - len(tokenizer.suffix)
        end = spans[room - 1][1]
        while len(tokenizer.encode([text[:end]])[0]) > room:
            end -= 1
        paths[length] = to / f"{length}.txt"
        paths[length].write_text(text[:end], encoding="utf-8")
    return paths


def ask(engine: str, dtype: str, folder: Path, document: Path, threads: int) -> dict[str, Any]:
    """Run one measurement in a new process."""
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "RAYON_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, __file__, "--worker", engine, dtype, str(folder), str(document)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(
            f"error: {engine} in {dtype} ended with {done.returncode} on {document.stem} tokens; its message is above\n"
            "hint: pip install 'diffembed[st]', or --ours-only"
        )
    return json.loads(done.stdout)


def work(engine: str, dtype: str, folder: str, document: str) -> int:
    """Read one document and print what that took."""
    answer_to = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints goes to stderr
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    text = Path(document).read_text(encoding="utf-8")
    if engine == OURS:
        from diffembed import Embedder

        embedder = Embedder.load(folder, device="cpu", dtype=dtype)

        def encode(one: str) -> Any:
            return embedder.embed([one], overflow="error").vectors[0]
    else:
        from sentence_transformers import SentenceTransformer

        options = {"dtype": getattr(torch, dtype), "attn_implementation": "sdpa"}
        model = SentenceTransformer(folder, device="cpu", model_kwargs=options, local_files_only=True)

        def encode(one: str) -> Any:
            return model.encode_document([one], show_progress_bar=False)[0]

    encode(WARM_UP)
    peak_of_loading = status_mb("VmHWM")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew (Linux, man 5 proc)
    before = status_mb("VmRSS")
    started = time.perf_counter()
    vector = encode(text)
    seconds = time.perf_counter() - started
    peak = status_mb("VmHWM")
    answer = {
        "seconds": seconds,
        "peak_mb": max(peak, peak_of_loading),
        "growth_mb": peak - before,
        "vector": [float(x) for x in vector],
    }
    with os.fdopen(answer_to, "w") as answers:
        answers.write(json.dumps(answer))
    return 0


def status_mb(name: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def machine() -> dict[str, Any]:
    from diffembed.hardware import describe

    facts = describe()
    facts.pop("threads")  # this process's own; the engines' stand above
    return facts


if __name__ == "__main__":
    sys.exit(main())
