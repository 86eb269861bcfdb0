"""Tokens per second and memory of our engine and of others on the same model folder and the same texts.

    python benchmarks/encode.py [--lengths short|mixed|long] [--model FOLDER] [--rounds 5] [--texts N] [--threads N]

The others: sentence-transformers, and ONNX Runtime and OpenVINO with what is converted on the spot from the folder that
sentence-transformers loads. Who isn't installed is listed as absent. Every engine lives in a process of its own. They
take turns, one at work at a time, on texts that no round has seen before; a first round warms up and gives the vectors
that are compared. Texts are docstrings of the standard library: short of 5-32 tokens, mixed of 5-512, long of about
8,000 (joined), so nothing is cut or windowed. Without --model the folder is made on the spot: 12.6M random weights, a
tokenizer trained on the docstrings.

Needs the extra `st`; for the others onnxruntime, onnx, onnxscript, openvino, nncf. A table for people comes first; the
last line of stdout is one JSON object.
"""

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from converted import FILES, ONNX, OPENVINO, convert_all
from engines import BARE, OURS, PEERS, RIVAL, Place, Spec, Worker
from texts import KINDS, Rounds, fresh_texts, make_model

CHECK_TEXTS = ["A short text.", "Returns the number of bytes that were written.\n\n  Raises OSError 28.", "x"]
DTYPES = ("bfloat16", "float32")
LEAST_COSINE = 0.995
TEXTS = {"short": 400, "mixed": 200, "long": 2}
# The fastest of 1, 2, 4, 8, 16, 32 and 64 on two cores of a Zen 5; --batches tries others.
BATCHES: dict[str, dict[str, Sequence[int]]] = {
    "short": {RIVAL: (32,), ONNX: (16,), OPENVINO: (32,)},
    "mixed": {RIVAL: (4, 8), ONNX: (2,), OPENVINO: (4,)},
    "long": {RIVAL: (1,), ONNX: (1,), OPENVINO: (1,)},
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", choices=tuple(KINDS), default="mixed")
    parser.add_argument("--model", type=Path, help="a folder that Embedder.save wrote; made on the spot when absent")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--texts", type=int, help=f"texts a round; {TEXTS}")
    parser.add_argument("--threads", type=int, help="default: the CPUs this process may use")
    parser.add_argument(
        "--streams",
        type=int,
        help="batches side by side in ONNX Runtime and OpenVINO; as many as threads, but 1 of long texts",
    )
    parser.add_argument("--batches", type=int, nargs="+", help="texts a batch, of every peer; else the best of a sweep")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.texts = TEXTS[args.lengths] if args.texts is None else args.texts
    if min(args.rounds, args.texts, *(args.batches or [1])) < 1:
        parser.error("--rounds, --texts and --batches must be at least 1")
    if find_spec("sentence_transformers") is None:
        print("error: sentence-transformers isn't installed\nhint: pip install 'diffembed[st]'", file=sys.stderr)
        return 1

    from diffembed.errors import DiffembedError

    try:
        with tempfile.TemporaryDirectory() as temporary:
            result = run(args, Path(temporary))
    except DiffembedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print_table(result)
    print(json.dumps(result))
    return 0


def run(args: argparse.Namespace, temporary: Path) -> dict[str, Any]:
    """Convert the model, start the engines, let them take turns, and sum up."""
    from diffembed.hardware import cpu_quota, describe

    folder = args.model or make_model(temporary / "model", args.lengths, args.seed)
    rounds = fresh_texts(folder, args.lengths, args.rounds + 1, args.texts, args.seed)
    converted = temporary / "converted"
    converted.mkdir()
    reasons = convert_all(folder, converted, rounds.calibration)
    threads = args.threads or cpu_quota()
    # One after another where there are few texts and each takes gigabytes (ONNX Runtime: 8 for 8,000 tokens).
    streams = min(args.streams or (1 if args.lengths == "long" else threads), threads)
    place = Place(folder=str(folder), converted=str(converted), threads=threads, streams=streams)
    specs = all_specs(args.batches, args.lengths, reasons)
    seconds, peaks, vectors = take_turns(specs, place, rounds)
    tokens = rounds.tokens[1:]
    rates = {spec: [n / s for n, s in zip(tokens, seconds[spec], strict=True)] for spec in specs}
    exact = next(spec for spec in specs if (spec.engine, spec.dtype) == (RIVAL, "float32"))
    machine = describe()
    machine.pop("threads")  # this process's own; the engines' stand above
    return {
        "benchmark": "encode",
        "lengths": args.lengths,
        "model": str(args.model) if args.model else "random, 12.6M parameters",
        "rounds": args.rounds,
        "texts": args.texts,
        "tokens": sum(tokens),
        "threads": threads,
        "streams": place.streams,
        "seed": args.seed,
        **compare(rates, {spec: least_cosine(vectors[spec], vectors[exact]) for spec in vectors}, peaks),
        "absent": [
            {"engine": engine, "dtype": dtype, "reason": reasons[file]}
            for (engine, dtype), file in FILES.items()
            if file in reasons
        ],
        "machine": machine | versions(),
    }


def all_specs(batches: Sequence[int] | None, lengths: str, reasons: Mapping[str, str]) -> list[Spec]:
    kinds = [(RIVAL, dtype) for dtype in DTYPES] + [key for key, file in FILES.items() if file not in reasons]
    peers = [
        Spec(engine=engine, dtype=dtype, batch=size)
        for engine, dtype in kinds
        for size in batches or BATCHES[lengths][engine]
    ]
    return [Spec(engine=engine, dtype=dtype) for engine in (OURS, BARE) for dtype in DTYPES] + peers


def take_turns(specs: list[Spec], place: Place, rounds: Rounds) -> tuple[dict[Spec, list[float]], dict, dict]:
    """Seconds of each counted round, peak memory in MB, and the warm-up round's vectors."""
    workers: dict[Spec, Worker] = {}
    try:
        # The first round is not counted: engines make kernels for the shapes that they meet.
        warm = CHECK_TEXTS + rounds.texts[0]
        vectors, seconds, peaks = {}, {spec: [] for spec in specs}, {}
        for spec in specs:
            workers[spec] = Worker(spec, place)
            vectors[spec] = workers[spec].ask(warm, with_vectors=True)["vectors"]
        for number, texts in enumerate(rounds.texts[1:]):
            # Whoever goes first meets the coldest caches: the order moves on with every round.
            for spec in specs[number % len(specs) :] + specs[: number % len(specs)]:
                answer = workers[spec].ask(texts)
                # The bare products answer with seconds per token.
                num_tokens = rounds.tokens[number + 1]
                seconds[spec].append(answer["seconds"] * (num_tokens if spec.engine == BARE else 1))
                peaks[spec] = answer["peak_mb"]
            print(f"round {number + 1} of {len(rounds.texts) - 1}: {len(texts)} texts", file=sys.stderr)
    finally:
        for worker in workers.values():
            worker.stop()
    return seconds, peaks, {spec: found for spec, found in vectors.items() if found is not None}


def compare(
    rates: Mapping[Spec, Sequence[float]], cosines: Mapping[Spec, float], peaks: Mapping[Spec, float]
) -> dict[str, Any]:
    """A row for each engine, and our best against the best of the others, round by round.

    Args:
        rates: Tokens per second of each round.
        cosines: Least cosine of each engine with the exact vectors; who stays below LEAST_COSINE is no one's best.
        peaks: Peak memory in MB.
    """
    bare = {spec.dtype: rates[spec] for spec in rates if spec.engine == BARE}
    rows = []
    for spec, found in rates.items():
        row: dict[str, Any] = {"engine": spec.engine, "dtype": spec.dtype, "batch": spec.batch}
        row |= {"tokens_per_s": round(median(found)), "low": round(min(found)), "high": round(max(found))}
        if spec.engine != BARE:
            # torch has no fast int8 product on every CPU: int8 is held against bf16.
            shares = [a / b for a, b in zip(found, bare.get(spec.dtype, bare["bfloat16"]), strict=True)]
            row |= {"products_share": round(median(shares), 6), "peak_mb": round(peaks[spec])}
            row |= {"cosine": round(cosines[spec], 6), "exact_enough": cosines[spec] >= LEAST_COSINE}
        rows.append(row)
    exact_enough = [spec for spec in cosines if cosines[spec] >= LEAST_COSINE]
    ours, peer = (
        max((spec for spec in exact_enough if spec.engine in engines), key=lambda spec: median(rates[spec]))
        for engines in ((OURS,), PEERS)
    )
    ratios = sorted(a / b for a, b in zip(rates[ours], rates[peer], strict=True))
    order = list(rates)
    return {
        "ratio": round(median(ratios), 3),
        "ratio_low": round(ratios[0], 3),
        "ratio_high": round(ratios[-1], 3),
        "best": {"ours": rows[order.index(ours)], "peer": rows[order.index(peer)]},
        "engines": rows,
    }


def least_cosine(ours: list[list[float]], theirs: list[list[float]]) -> float:
    return min(
        sum(a * b for a, b in zip(x, y, strict=True)) / (math.hypot(*x) * math.hypot(*y))
        for x, y in zip(ours, theirs, strict=True)
    )


def versions() -> dict[str, str]:
    from importlib.metadata import version

    packages = ("transformers", "sentence_transformers", ONNX, OPENVINO, "nncf")
    return {package: version(package) for package in packages if find_spec(package) is not None}


def print_table(result: Mapping[str, Any]) -> None:
    print(f"{'engine':<22} {'dtype':<12} {'batch':>5}", end="")
    print(f" {'tokens/s':>9} {'low':>8} {'high':>8} {'products':>9} {'peak MB':>8} {'cosine':>9}")
    for row in result["engines"]:
        print(f"{row['engine']:<22} {row['dtype']:<12} {row['batch'] or '-':>5}", end="")
        print(f" {row['tokens_per_s']:>9,} {row['low']:>8,} {row['high']:>8,}", end="")
        if "cosine" in row:
            print(f" {row['products_share']:>9.0%} {row['peak_mb']:>8,} {row['cosine']:>9.6f}", end="")
            print("" if row["exact_enough"] else f"  below {LEAST_COSINE}: never the best", end="")
        print()
    for row in result["absent"]:
        print(f"{row['engine']:<22} {row['dtype']:<12} absent: {row['reason']}")
    best = {side: f"{row['engine']} {row['dtype']}" for side, row in result["best"].items()}
    print(
        f"\n{result['lengths']} texts: {result['rounds']} rounds of {result['texts']}, {result['tokens']:,} tokens in "
        f"all; {result['threads']} threads, {result['streams']} batches side by side in {ONNX} and {OPENVINO}.\n"
        "products: share of the time that the bare products of the linear layers would take (int8: those in bf16).\n"
        "cosine: least of the warm-up round's texts, against sentence-transformers in float32.\n"
        f"Our best ({best['ours']}) against theirs ({best['peer']}), round by round: {result['ratio']:.2f}x "
        f"({result['ratio_low']:.2f} to {result['ratio_high']:.2f})\n"
    )


if __name__ == "__main__":
    sys.exit(main())
