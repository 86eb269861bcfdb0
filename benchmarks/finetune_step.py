"""A step of LoRA fine-tuning on a 7B shape: ours, and with transformers and peft on padded batches as the paper trains.

    python benchmarks/finetune_step.py [--shape dream|tiny] [--pairs 16] [--lengths 4096] [--rounds 5] [--cached 1024]

Random weights, LoRA of rank 16 on all seven matrices, a hard negative for each query, layers checkpointed, bf16: tokens
a second, the share of what this device's matrix products reach, peak memory. Both take turns on the same token ids, in
processes of their own that hold their weights. --lengths 0 draws lengths like Public E5's. With --cached N the time of
one step of N pairs, each chunk run twice (GradCache). `--shape tiny --device cpu` shows that it runs.

Work is counted as 4 x parameters x tokens: forward, and backward to the states; frozen weights have no gradient. What
is run again is not counted, nor is attention. The last line of stdout is one JSON object.
"""

import argparse
import json
import random
import sys
import time
from functools import partial
from statistics import median
from typing import Any

from gpu_shape import PADDED, Worker, backbone_config, bare, machine, present, stock_model, weight

OURS = "diffembed"
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
RANK, ALPHA, DROPOUT, TEMPERATURE = 16, 32, 0.05, 0.02
# Tokens of Public E5 (recipes/paper.py): mean and standard deviation of queries and of documents.
QUERY, DOCUMENT = (39, 19), (366, 1062)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=("dream", "tiny"), default="dream")
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--lengths", type=int, default=4_096, help="tokens of every text; 0: like Public E5")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cached", type=int, default=0, help="pairs of one large step of ours; 0: none")
    parser.add_argument("--chunk-tokens", type=int, default=16_384)
    parser.add_argument("--engines", nargs="+", choices=(OURS, PADDED), default=[OURS, PADDED])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return work(args)
    if args.rounds < 1 or args.pairs < 2 or args.lengths < 0 or args.lengths == 1:
        parser.error("--rounds from 1, --pairs from 2, --lengths 0 or from 2")
    result = run(args)
    print_table(result)
    print(json.dumps(result))
    return 0


def run(args: argparse.Namespace) -> dict[str, Any]:
    names = list(dict.fromkeys(engine for engine, _ in present([OURS, *([PADDED] if PADDED in args.engines else [])])))
    names = [name for name in names if name in args.engines]
    workers = {name: Worker(name, __file__) for name in names}
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    try:
        for number in range(args.rounds + 1):  # the first warms up
            question = {"texts": make_texts(args, args.pairs, number), "recompute": False}
            for name in names[number % len(names) :] + names[: number % len(names)]:
                answers[name].append(workers[name].ask(question))
            print(f"round {number} of {args.rounds}", file=sys.stderr)
        large = None
        if args.cached and OURS in workers:
            texts = make_texts(args, args.cached, args.rounds + 1)
            large = workers[OURS].ask({"texts": texts, "recompute": True}) | {"pairs": args.cached}
        rates = workers[names[0]].ask({"bare": True})["flops"]
    finally:
        for worker in workers.values():
            worker.stop()
    rows = [{"engine": name} | summary(answers[name][1:], rates, args) for name in names]
    given = {name: getattr(args, name) for name in ("shape", "pairs", "lengths", "device", "dtype", "rounds")}
    found = {"benchmark": "finetune_step", **given, "matrix_tflops": rates / 1e12, "rows": rows}
    if large:
        found["cached"] = {"pairs": large["pairs"]} | summary([large], rates, args)
    return found | {"machine": machine()}


def summary(found: list[dict[str, Any]], rate: float, args: argparse.Namespace) -> dict[str, Any]:
    if error := next((answer["error"] for answer in found if "error" in answer), None):
        return {"error": error}
    rates = sorted(answer["tokens"] / answer["seconds"] for answer in found)
    flops_a_token = 4.0 * matrix_parameters(backbone_config(args.shape))
    return {
        "seconds": round(median(answer["seconds"] for answer in found), 4),
        "tokens_per_s": round(median(rates), 1),
        "low": round(rates[0], 1),
        "high": round(rates[-1], 1),
        "share": round(median(rates) * flops_a_token / rate, 6),
        "peak_gb": round(max(answer["peak_gb"] for answer in found), 3),
        "losses": [answer["loss"] for answer in found],
    }


def matrix_parameters(config: Any) -> int:
    """Of the layers; the embedding table multiplies nothing."""
    queries, keys = config.num_heads * config.head_width, config.num_kv_heads * config.head_width
    return config.num_layers * config.width * (2 * queries + 2 * keys + 3 * config.mlp_width)


def print_table(result: dict[str, Any]) -> None:
    print(f"{'engine':<14} {'s a step':>9} {'tokens/s':>10} {'low':>10} {'high':>10} {'share':>6} {'peak GB':>8}")
    cached = result.get("cached")
    rows = result["rows"] + ([cached | {"engine": f"{cached['pairs']:,} cached"}] if cached else [])
    for row in rows:
        if "error" in row:
            print(f"{row['engine']:<14} {row['error']}")
            continue
        print(f"{row['engine']:<14} {row['seconds']:>9.3f} {row['tokens_per_s']:>10,.0f} {row['low']:>10,.0f}", end="")
        print(f" {row['high']:>10,.0f} {row['share']:>6.0%} {row['peak_gb']:>8.2f}")
    print(f"\nbare products: {result['matrix_tflops']:.2f} TFLOP/s; tokens: of texts, padding not counted\n")


def make_texts(args: argparse.Namespace, pairs: int, number: int) -> list[list[int]]:
    """Token ids of all queries, all passages, all negatives."""
    draw = random.Random(f"{args.seed} {pairs} {number}")
    vocab = backbone_config(args.shape).vocab_size

    def length(mean: int, deviation: int) -> int:
        if args.lengths:
            return args.lengths
        return min(4_096, max(4, round(draw.gauss(mean, deviation))))

    lengths = [length(*QUERY) for _ in range(pairs)] + [length(*DOCUMENT) for _ in range(2 * pairs)]
    return [[draw.randrange(vocab) for _ in range(count)] for count in lengths]


def work(args: argparse.Namespace) -> int:
    """Answer each line of texts with the seconds of a step, its loss and the peak."""
    import os

    answer_to = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints goes to stderr
    import torch

    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    step = {OURS: ours, PADDED: padded}[args.worker](backbone_config(args.shape), device, dtype, args)
    with os.fdopen(answer_to, "w") as answers:
        for line in sys.stdin:
            question = json.loads(line)
            if "bare" in question:
                answer = {"flops": bare(backbone_config(args.shape), device, dtype)([], 0)}
            else:
                answer = timed(step, question, device)
            answers.write(json.dumps(answer) + "\n")
            answers.flush()
    return 0


def timed(step: Any, question: dict[str, Any], device: Any) -> dict[str, Any]:
    import torch

    is_gpu = device.type == "cuda"
    if is_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    try:
        started = time.perf_counter()
        loss = step(question["texts"], question["recompute"])  # a number: the device has finished
        seconds = time.perf_counter() - started
    except torch.OutOfMemoryError:
        return {"error": "out of memory"}
    finally:
        peak = torch.cuda.max_memory_allocated(device) if is_gpu else 0
        if is_gpu:
            torch.cuda.empty_cache()
    tokens = sum(len(ids) for ids in question["texts"])
    return {"seconds": seconds, "loss": loss, "tokens": tokens, "peak_gb": peak / 1e9}


def ours(config: Any, device: Any, dtype: Any, args: argparse.Namespace) -> Any:
    import numpy as np
    import torch

    from diffembed.backbone import Backbone
    from diffembed.training.gradcache import BatchLoss, Laid, loss_in_parts
    from diffembed.training.lora import LoraConfig, attach
    from diffembed.training.optimizer import MasterOptimizer, OptimizerConfig

    with torch.device("meta"):
        shapes = {name: parameter.shape for name, parameter in Backbone(config).named_parameters()}
    weights = {name: weight(name, shape, device, dtype) for name, shape in shapes.items()}
    backbone = Backbone.from_weights(config, weights).train()
    attach(backbone, LoraConfig(rank=RANK, alpha=float(ALPHA), dropout=DROPOUT), seed=0)
    backbone.checkpoint_layers = True
    optimizer = MasterOptimizer(backbone, OptimizerConfig(peak_lr=1e-4, warmup_steps=0, weight_decay=0.0))
    generator = torch.Generator().manual_seed(0)

    def loss_of(means_VD: torch.Tensor) -> BatchLoss:
        return BatchLoss(contrast(means_VD), {})

    def step(texts: list[list[int]], recompute: bool) -> float:
        laid = [Laid(ids, np.zeros(len(ids), np.int64)) for ids in texts]
        total = 0.0
        parts = partial(loss_in_parts, backbone, laid, loss_of, chunk_tokens=args.chunk_tokens, generator=generator)
        for part in parts(recompute=recompute, device=device):
            part.loss.backward()
            optimizer.accumulate()
            total += float(part.loss.detach())
        optimizer.clip()
        optimizer.step(1e-4)
        return total

    return step


def padded(config: Any, device: Any, dtype: Any, args: argparse.Namespace) -> Any:
    """As the paper's code does it, with its padding masked: all texts of a side in one padded batch, a loss, a step."""
    import peft
    import torch

    model = stock_model(config, device, dtype).train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.enable_input_require_grads()
    lora = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=DROPOUT, target_modules=TARGETS)
    model = peft.get_peft_model(model, lora)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0)

    def means(texts: list[list[int]]) -> torch.Tensor:
        longest = max(len(ids) for ids in texts)
        ids_BL = torch.tensor([ids + [0] * (longest - len(ids)) for ids in texts], device=device)
        lengths_B1 = torch.tensor([[len(ids)] for ids in texts], device=device)
        is_real_BL = torch.arange(longest, device=device) < lengths_B1
        states_BLD = model(input_ids=ids_BL, attention_mask=is_real_BL.long(), use_cache=False).last_hidden_state
        return (states_BLD * is_real_BL[..., None]).sum(1, dtype=torch.float32) / lengths_B1

    def step(texts: list[list[int]], recompute: bool) -> float:
        pairs = len(texts) // 3
        sides = [texts[start : start + pairs] for start in range(0, 3 * pairs, pairs)]
        loss = contrast(torch.cat([means(side) for side in sides]))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step


def contrast(means_VD: Any) -> Any:
    """HardNegativeNLLLoss: a query's own passage among all passages and negatives."""
    import torch
    import torch.nn.functional as F

    query_BE, passage_BE, negative_BE = F.normalize(means_VD.float(), dim=-1).chunk(3)
    scores = query_BE @ torch.cat([passage_BE, negative_BE]).T / TEMPERATURE
    return F.cross_entropy(scores, torch.arange(len(query_BE), device=scores.device))


if __name__ == "__main__":
    sys.exit(main())
