"""Tokens per second of a Dream-7B-shaped model on a GPU, and the share of what its matrix products can do.

    python benchmarks/gpu_shape.py [--shape dream|tiny] [--lengths 256 4096 32768] [--spread 0] [--rounds 5]

Our engine, transformers with padded batches (Qwen2's class that looks both ways, sdpa) and sentence-transformers over
it, each in a process of its own with the same random weights, made on the device. They take turns on texts of one
length, or with --spread 0.5 of half that length up to all of it. Whoever isn't installed is left out. `--shape tiny
--device cpu` shows that it runs. A table for people comes first; the last line of stdout is one JSON object.
"""

import argparse
import importlib.util
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from statistics import median
from types import SimpleNamespace
from typing import Any

OURS, PADDED, RIVAL, BARE = "diffembed", "transformers", "sentence-transformers", "bare products"
PACKAGES = {PADDED: "transformers", RIVAL: "sentence_transformers"}
# Tokens of the others' batches, padding included; ours finds its own.
PEER_TOKENS = (16_384, 65_536)
ROWS = (2_048, 8_192, 32_768)
DREAM = "Dream-org/Dream-v0-Instruct-7B"
TINY: dict[str, Any] = dict(
    vocab_size=4_096, width=64, num_layers=2, num_heads=4, num_kv_heads=2, head_width=16, mlp_width=128
)
# Words of the texts; each is one token.
NUM_WORDS = 4_000

Encode = Callable[[list[str], int], Any]
Name = tuple[str, int]
"""An engine, and the tokens of its batches; 0 where it finds them itself."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=("dream", "tiny"), default="dream")
    parser.add_argument("--lengths", type=int, nargs="+", default=[256, 4_096, 32_768], help="tokens of a text")
    parser.add_argument("--spread", type=float, default=0.0, help="texts are shorter by up to this share (0 to 0.9)")
    parser.add_argument("--tokens", type=int, default=262_144, help="of a round: so many full texts")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--engines", nargs="+", choices=(OURS, PADDED, RIVAL), default=[OURS, PADDED, RIVAL])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return work(args)
    if args.rounds < 1 or min(args.lengths) < 2 or not 0 <= args.spread <= 0.9 or args.tokens < max(args.lengths):
        parser.error("--rounds from 1, --lengths from 2, --spread 0 to 0.9, --tokens no fewer than the longest text")
    result = run(args)
    print_table(result)
    print(json.dumps(result))
    return 0


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Start an engine of each kind, let them take turns, and sum up."""
    names = list(present(args.engines))
    order = [*names, (BARE, 0)]
    workers = {engine: Worker(engine) for engine in dict.fromkeys(engine for engine, _ in order)}
    rows, matrix = [], []
    try:
        for length in args.lengths:
            answers: dict[Name, list[dict[str, Any]]] = {name: [] for name in order}
            for number in range(args.rounds + 1):  # the first warms up
                texts = make_texts(args, length, number)
                # Whoever goes first finds the coolest device: the order moves on with every round.
                for engine, batch in order[number % len(order) :] + order[: number % len(order)]:
                    answers[engine, batch].append(workers[engine].ask({"texts": texts, "batch": batch}))
                print(f"{length:,} tokens: round {number} of {args.rounds}", file=sys.stderr)
            work_done = [total_work(args, lengths_of(args, length, i)) for i in range(args.rounds + 1)]
            reference = next((answers[name][0]["vector"] for name in names[::-1] if "vector" in answers[name][0]), None)
            for name in names:
                row = {"engine": name[0], "batch": name[1], "length": length}
                rows.append(row | summary(answers[name][1:], answers[BARE, 0][1:], work_done[1:]))
                if reference and "vector" in answers[name][0]:
                    rows[-1]["cosine"] = round(cosine(reference, answers[name][0]["vector"]), 6)
            matrix += [answer["flops"] for answer in answers[BARE, 0][1:]]
    finally:
        for worker in workers.values():
            worker.stop()
    given = {name: getattr(args, name) for name in ("shape", "device", "dtype", "spread", "rounds")}
    rate = round(median(matrix) / 1e12, 3)
    return {"benchmark": "gpu_shape", **given, "matrix_tflops": rate, "rows": rows, "machine": machine()}


def present(engines: list[str]) -> Iterator[Name]:
    if OURS in engines:
        yield OURS, 0
    for engine, package in PACKAGES.items():
        if engine in engines and importlib.util.find_spec(package) is None:
            print(f"{engine} is not installed and left out", file=sys.stderr)
        elif engine in engines:
            yield from ((engine, tokens) for tokens in PEER_TOKENS)


def total_work(args: argparse.Namespace, lengths: list[int]) -> tuple[int, float, float]:
    """Tokens, operations of the linear layers, and operations with attention's products."""
    config = backbone_config(args.shape)
    queries, keys = config.num_heads * config.head_width, config.num_kv_heads * config.head_width
    weights = config.num_layers * config.width * (2 * queries + 2 * keys + 3 * config.mlp_width)
    linear = 2.0 * weights * sum(lengths)
    return sum(lengths), linear, linear + 4.0 * config.num_layers * queries * sum(n * n for n in lengths)


def summary(
    found: list[dict[str, Any]], bare: list[dict[str, Any]], work_done: list[tuple[int, float, float]]
) -> dict[str, Any]:
    """Rates of an engine at one length, and their share of what the bare products made of the same round."""
    if error := next((answer["error"] for answer in found if "error" in answer), None):
        return {"error": error}
    rounds = list(zip(found, bare, work_done, strict=True))
    rates = sorted(tokens / answer["seconds"] for answer, _, (tokens, *_) in rounds)
    return {
        "tokens_per_s": round(median(rates), 1),
        "low": round(rates[0], 1),
        "high": round(rates[-1], 1),
        "tflops": round(median(done / answer["seconds"] for answer, _, (*_, done) in rounds) / 1e12, 3),
        "share": round(median(done / answer["seconds"] / b["flops"] for answer, b, (*_, done) in rounds), 6),
        "products_share": round(median(done / a["seconds"] / b["flops"] for a, b, (_, done, _) in rounds), 6),
        "batch_tokens": found[-1]["batch_tokens"],
        "peak_gb": round(max(answer["peak_gb"] for answer in found), 2),
    }


def print_table(result: dict[str, Any]) -> None:
    print(f"{'engine':<22} {'batch':>7} {'length':>7} {'tokens/s':>10} {'low':>10} {'high':>10}", end="")
    print(f" {'TFLOP/s':>8} {'share':>6} {'products':>9} {'peak GB':>8} {'cosine':>9}")
    for row in result["rows"]:
        print(f"{row['engine']:<22} {row.get('batch_tokens', row['batch']):>7,} {row['length']:>7,}", end="")
        if "error" in row:
            print(f"  {row['error']}")
            continue
        print(
            f" {row['tokens_per_s']:>10,.0f} {row['low']:>10,.0f} {row['high']:>10,.0f} {row['tflops']:>8.2f}", end=""
        )
        print(f" {row['share']:>6.0%} {row['products_share']:>9.0%} {row['peak_gb']:>8.2f} {row['cosine']:>9.6f}")
    print(
        f"\n{result['rounds']} rounds, {result['dtype']} on {result['device']}; bare products of the layers, each at "
        f"its best of {', '.join(f'{rows:,}' for rows in ROWS)} rows: {result['matrix_tflops']:.1f} TFLOP/s.\n"
        "share: of that rate, by the products of linear layers and attention; products: by those of linear layers "
        "alone.\npeak: of torch's allocations on a GPU. cosine: of one text, against the last engine measured.\n"
    )


def backbone_config(shape: str) -> Any:
    from diffembed.backbone import BackboneConfig
    from diffembed.backbone.known import KNOWN

    if shape == "tiny":
        return BackboneConfig(**TINY, max_positions=32_768, qk_norm=False, qkv_bias=True)
    return next(known.shape for known in KNOWN if known.id == DREAM)


def lengths_of(args: argparse.Namespace, length: int, number: int) -> list[int]:
    """Tokens of the texts of a round."""
    draw = random.Random(f"{args.seed} {length} {number}")
    least = max(1, round((1 - args.spread) * length))
    return [draw.randint(least, length) for _ in range(args.tokens // length)]


def make_texts(args: argparse.Namespace, length: int, number: int) -> list[str]:
    draw = random.Random(f"words {args.seed} {length} {number}")
    return [" ".join(f"w{draw.randrange(1, NUM_WORDS)}" for _ in range(n)) for n in lengths_of(args, length, number)]


class Worker:
    """An engine in its own process; it sleeps while others work."""

    def __init__(self, engine: str, script: str = __file__) -> None:
        command = [sys.executable, script, *sys.argv[1:], "--worker", engine]
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._engine = engine

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError):
            raise SystemExit(
                f"error: {self._engine} ended early; its message is above\nhint: --engines leaves one out"
            ) from None

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)


def work(args: argparse.Namespace) -> int:
    """Answer each line of texts with seconds, a vector and the peak."""
    answer_to = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints goes to stderr
    import torch

    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    make = {OURS: ours, PADDED: padded, RIVAL: rival, BARE: bare}[args.worker]
    encode = make(backbone_config(args.shape), device, dtype)
    with os.fdopen(answer_to, "w") as answers:
        for line in sys.stdin:
            question = json.loads(line)
            answers.write(json.dumps(answer_one(encode, question["texts"], question["batch"], device)) + "\n")
            answers.flush()
    return 0


def answer_one(encode: Encode, texts: list[str], batch: int, device: Any) -> dict[str, Any]:
    import torch

    is_gpu = device.type == "cuda"
    if is_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    try:
        started = time.perf_counter()
        out = encode(texts, batch)
        seconds = time.perf_counter() - started
    except torch.OutOfMemoryError:
        out = None
    peak = torch.cuda.max_memory_allocated(device) if is_gpu else 0
    if is_gpu:
        torch.cuda.empty_cache()  # the others need it
    if out is None:
        return {"error": "out of memory"}
    if isinstance(out, float):
        return {"flops": out}
    vectors_ND, batch_tokens = out
    return {
        "seconds": seconds,
        "peak_gb": peak / 1e9,
        "vector": [float(x) for x in vectors_ND[0]],
        "batch_tokens": batch_tokens,
    }


def weight(name: str, shape: Any, device: Any, dtype: Any) -> Any:
    """A random weight that is the same in every process on such a device."""
    import torch

    generator = torch.Generator(device).manual_seed(zlib.crc32(name.encode()))
    drawn = torch.randn(shape, generator=generator, device=device, dtype=dtype).mul_(0.02)
    return drawn.add_(1) if name.endswith("norm.weight") else drawn


def raw_tokenizer() -> Any:
    """A word is a token."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit

    tokenizer = Tokenizer(WordLevel({f"w{i}": i for i in range(NUM_WORDS)}, unk_token="w0"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return tokenizer


def read_sorted(tokenizer: Any, texts: list[str]) -> tuple[list[list[int]], list[int]]:
    """Token ids, the shortest text first, and the number of each text."""
    ids = [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]
    order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
    return [ids[row] for row in order], order


def ours(config: Any, device: Any, dtype: Any) -> Encode:
    import torch

    from diffembed.backbone.fused import FusedBackbone
    from diffembed.backbone.packed import split_by_tokens
    from diffembed.embedder.budget import Budget
    from diffembed.readout.pooling import MeanPool, to_vectors

    tokenizer, engine = raw_tokenizer(), FusedBackbone(random_backbone(config, device, dtype))
    budget = Budget(engine)

    @torch.inference_mode()
    def encode(texts: list[str], _: int) -> Any:
        sequences, order = read_sorted(tokenizer, texts)
        lengths = [len(ids) for ids in sequences]
        tokens = budget.tokens_for(lengths)
        pool = MeanPool(len(texts), config.width, device)
        for part in split_by_tokens(lengths, tokens):
            rows_T = torch.tensor(order[part]).repeat_interleave(torch.tensor(lengths[part])).to(device)
            for cut, states_TD in budget.states(sequences[part]):
                pool.add(states_TD, rows_T[cut])
        return to_vectors(pool.means()).cpu(), tokens

    return encode


def random_backbone(config: Any, device: Any, dtype: Any) -> Any:
    """What `FusedBackbone` reads of a `Backbone`, one layer at a time: the whole is never there twice."""
    import torch

    from diffembed.backbone.layers import Layer

    def layers() -> Iterator[Layer]:
        for number in range(config.num_layers):
            with torch.device("meta"):
                layer = Layer(config)
            shapes = {name: parameter.shape for name, parameter in layer.named_parameters()}
            weights = {n: weight(f"layers.{number}.{n}", shape, device, dtype) for n, shape in shapes.items()}
            layer.load_state_dict(weights, assign=True)
            yield layer

    table = weight("embed_tokens.weight", (config.vocab_size, config.width), device, dtype)
    norm = weight("norm.weight", (config.width,), device, dtype)
    return SimpleNamespace(
        config=config, embed_tokens=SimpleNamespace(weight=table), norm=SimpleNamespace(weight=norm), layers=layers()
    )


def stock_model(config: Any, device: Any, dtype: Any) -> Any:
    import torch
    from transformers import AutoConfig, AutoModel

    from diffembed.backbone.config_files import to_hugging_face

    own = AutoConfig.for_model(**to_hugging_face(config))
    own.is_causal = config.direction == "forward"
    with torch.device(device):
        model = AutoModel.from_config(own, dtype=dtype, attn_implementation="sdpa").eval()
    for name, parameter in model.named_parameters():
        parameter.data.copy_(weight(name, parameter.shape, device, dtype))
    return model


def padded(config: Any, device: Any, dtype: Any) -> Encode:
    import torch

    tokenizer, model = raw_tokenizer(), stock_model(config, device, dtype)

    @torch.inference_mode()
    def encode(texts: list[str], batch: int) -> Any:
        sequences, order = read_sorted(tokenizer, texts)
        count = max(1, batch // len(sequences[-1]))
        vectors_ND = torch.empty(len(texts), config.width)
        for start in range(0, len(texts), count):
            part = sequences[start : start + count]
            longest = len(part[-1])
            ids_BL = torch.tensor([ids + [0] * (longest - len(ids)) for ids in part]).to(device)
            lengths_B1 = torch.tensor([[len(ids)] for ids in part]).to(device)
            is_real_BL = torch.arange(longest, device=device) < lengths_B1
            states_BLD = model(input_ids=ids_BL, attention_mask=is_real_BL.long(), use_cache=False).last_hidden_state
            means_BD = (states_BLD * is_real_BL[..., None]).sum(1, dtype=torch.float32) / lengths_B1
            vectors_ND[order[start : start + count]] = torch.nn.functional.normalize(means_BD).cpu()
        return vectors_ND, batch

    return encode


def rival(config: Any, device: Any, dtype: Any) -> Encode:
    from dataclasses import replace

    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw_tokenizer(), pad_token="w0", padding_side="right")
    with tempfile.TemporaryDirectory() as folder:
        # It only loads from a folder; one with hardly any weights spares writing those of the whole model.
        small = replace(config, num_layers=1, width=8, mlp_width=8, vocab_size=NUM_WORDS, head="tied")
        stock_model(small, torch.device("cpu"), torch.float32).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        module = Transformer(folder, model_kwargs={"attn_implementation": "sdpa"})
    module.model = stock_model(config, device, dtype)
    module.processor = tokenizer  # the one that it made of the folder cuts words as Qwen does
    module.max_seq_length = config.max_positions
    model = SentenceTransformer(modules=[module, Pooling(config.width, "mean")], device=str(device))

    def encode(texts: list[str], batch: int) -> Any:
        count = max(1, batch // max(text.count(" ") + 1 for text in texts))
        options = dict(show_progress_bar=False, normalize_embeddings=True)
        return model.encode(texts, batch_size=count, **options), batch  # type: ignore[arg-type]

    return encode


def bare(config: Any, device: Any, dtype: Any) -> Encode:
    """Operations per second of the linear layers' products alone, each at its best number of rows."""
    import torch

    queries, keys = config.num_heads * config.head_width, config.num_kv_heads * config.head_width
    width, mlp = config.width, config.mlp_width
    shapes = [(width, queries + 2 * keys), (queries, width), (width, 2 * mlp), (mlp, width)]

    def wait() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    @torch.inference_mode()
    def encode(texts: list[str], batch: int) -> Any:
        seconds = 0.0
        for shape in shapes:
            best = float("inf")
            right = torch.randn(shape[1], shape[0], device=device, dtype=dtype).t()
            for rows in ROWS:
                left = torch.randn(rows, shape[0], device=device, dtype=dtype)
                out = torch.empty(rows, shape[1], device=device, dtype=dtype)
                for _ in range(3):  # warm
                    torch.mm(left, right, out=out)
                repeats = 4 * ROWS[-1] // rows if device.type == "cuda" else 1
                started = wait()
                for _ in range(repeats):
                    torch.mm(left, right, out=out)
                best = min(best, (wait() - started) / repeats / rows)
            seconds += best
        return 2.0 * sum(a * b for a, b in shapes) / seconds

    return encode


def cosine(x: list[float], y: list[float]) -> float:
    return sum(a * b for a, b in zip(x, y, strict=True)) / (math.hypot(*x) * math.hypot(*y))


def machine() -> dict[str, Any]:
    from diffembed.hardware import describe

    return describe()


if __name__ == "__main__":
    sys.exit(main())
