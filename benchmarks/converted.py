"""ONNX Runtime and OpenVINO on the model that sentence-transformers loads, converted on the spot.

Each runs batches side by side, as the documentation of both advises for throughput: `streams` at a time, each on its
share of the threads.
"""

# pyright: reportMissingImports=false
# (the engines are nobody's dependency: who has none of them can still check the types of the rest)

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ONNX, OPENVINO = "onnxruntime", "openvino"
FILES = {
    (ONNX, "float32"): "model.onnx",
    (ONNX, "int8"): "int8.onnx",
    (OPENVINO, "float32"): "model.xml",
    (OPENVINO, "bfloat16"): "model.xml",
    (OPENVINO, "int8 weights"): "int8_weights.xml",
    (OPENVINO, "int8"): "int8.xml",
}
# What makes which files, and the packages that it needs.
STEPS = {
    "onnx": (("model.onnx", "int8.onnx"), ("onnxruntime", "onnx", "onnxscript")),
    "openvino": (("model.xml",), ("openvino",)),
    "nncf": (("int8_weights.xml", "int8.xml"), ("openvino", "nncf")),
}
TEXTS_FILE = "calibration.json"
OPSET = 18  # of 23 torch writes RotaryEmbedding nodes that ONNX Runtime 1.32 refuses when a batch has several texts
SAMPLE_SHAPE = (3, 17)  # texts, tokens: neither 1 (which would stay fixed) nor equal to the other

Batch = tuple[list[int], Any, Any]
"""Rows of the texts, their tokens and the mask."""
Run = Callable[[Iterator[Batch], Any], None]
"""Fills the rows of the vectors."""


def convert_all(folder: Path, target: Path, calibration: list[str]) -> dict[str, str]:
    """Make every file that the installed packages can make, each step in a process of its own.

    Returns:
        Why not, for the files that were not made.
    """
    (target / TEXTS_FILE).write_text(json.dumps(calibration), encoding="utf-8")
    reasons = {}
    for step, (files, packages) in STEPS.items():
        missing = [package for package in packages if find_spec(package) is None]
        reason = f"{', '.join(missing)} not installed" if missing else ""
        if not missing:
            print(f"converting: {step}", file=sys.stderr)
            command = [sys.executable, __file__, step, str(folder), str(target)]
            done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            if done.returncode != 0:
                reason = f"conversion failed: {(done.stderr.strip() or 'no message').splitlines()[-1]}"
        reasons |= dict.fromkeys(files, reason)
    return {file: reason for file, reason in reasons.items() if reason}


def convert(step: str, folder: Path, target: Path) -> None:
    # OpenVINO's converters send usage data unless this package is absent.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    if step == "onnx":
        _convert_onnx(folder, target)
    elif step == "openvino":
        import openvino

        openvino.save_model(_openvino_model(folder), target / "model.xml", compress_to_fp16=False)
    else:
        _convert_int8(folder, target)


def _sentence_module(folder: Path) -> Any:
    """The stock transformers model with the mean and the length 1 in the graph, and an example of its inputs."""
    import torch
    from transformers import AutoModel

    class Sentence(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            hidden_BLD = self.model(
                input_ids=input_ids, attention_mask=attention_mask, use_cache=False
            ).last_hidden_state
            mask_BL1 = attention_mask.unsqueeze(-1).to(hidden_BLD.dtype)
            return torch.nn.functional.normalize((hidden_BLD * mask_BL1).sum(1) / mask_BL1.sum(1), dim=-1)

    ids_BL = torch.arange(4, 4 + SAMPLE_SHAPE[0] * SAMPLE_SHAPE[1]).reshape(SAMPLE_SHAPE)
    mask_BL = torch.ones_like(ids_BL)
    mask_BL[1, 9:] = 0
    return Sentence().eval(), {"input_ids": ids_BL, "attention_mask": mask_BL}


def _convert_onnx(folder: Path, target: Path) -> None:
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic

    module, example = _sentence_module(folder)
    dynamic = {name: {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC} for name in example}
    torch.onnx.export(
        module,
        (),
        target / "model.onnx",
        kwargs=example,
        dynamic_shapes=dynamic,
        dynamo=True,
        opset_version=OPSET,
        external_data=False,
    )
    # Signed weights with a scale for each column are both faster and more exact than the defaults.
    quantize_dynamic(target / "model.onnx", target / "int8.onnx", weight_type=QuantType.QInt8, per_channel=True)


def _openvino_model(folder: Path) -> Any:
    import openvino
    import torch

    module, example = _sentence_module(folder)
    with torch.inference_mode():
        return openvino.convert_model(module, example_input=example, input=[(name, [-1, -1]) for name in example])


def _convert_int8(folder: Path, target: Path) -> None:
    import nncf
    import numpy as np
    import openvino

    tokenizer = _tokenizer(folder)
    longest = min(512, json.loads((folder / "config.json").read_text(encoding="utf-8"))["max_position_embeddings"])
    samples = []
    for text in json.loads((target / TEXTS_FILE).read_text(encoding="utf-8")):
        ids_1L = np.array([tokenizer.encode(text).ids[:longest]])
        samples.append({"input_ids": ids_1L, "attention_mask": np.ones_like(ids_1L)})
    weights_only = nncf.compress_weights(_openvino_model(folder), mode=nncf.CompressWeightsMode.INT8_SYM)
    openvino.save_model(weights_only, target / "int8_weights.xml", compress_to_fp16=False)
    # Without the smoothing that nncf does by default it is up to a fifth faster, but its cosine falls below 0.995.
    whole = nncf.quantize(
        _openvino_model(folder), nncf.Dataset(samples), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(samples)
    )
    openvino.save_model(whole, target / "int8.xml", compress_to_fp16=False)


def encoder(run: Run, folder: Path, batch_size: int) -> Callable[[Sequence[str]], Any]:
    """What turns texts into vectors: tokens, batches of like length, the engine, vectors in the order of the texts."""
    import numpy as np

    tokenizer = _tokenizer(folder)
    width = json.loads((folder / "config.json").read_text(encoding="utf-8"))["hidden_size"]
    settings = json.loads((folder / "config_sentence_transformers.json").read_text(encoding="utf-8"))
    prompt = settings.get("prompts", {}).get("document", "")

    def batches(texts: Sequence[str]) -> Iterator[Batch]:
        ids = [encoding.ids for encoding in tokenizer.encode_batch([prompt + text for text in texts])]
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            ids_BL = np.zeros((len(rows), len(ids[rows[0]])), np.int64)  # what pads stand for does not matter
            mask_BL = np.zeros_like(ids_BL)
            for b, i in enumerate(rows):
                ids_BL[b, : len(ids[i])] = ids[i]
                mask_BL[b, : len(ids[i])] = 1
            yield rows, ids_BL, mask_BL

    def encode(texts: Sequence[str]) -> Any:
        vectors_ND = np.empty((len(texts), width), np.float32)
        run(batches(texts), vectors_ND)
        return vectors_ND

    return encode


def _tokenizer(folder: Path) -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def runner(file: Path, dtype: str, threads: int, streams: int) -> Run:
    """Load a converted model."""
    if file.suffix == ".onnx":
        return _onnx_runner(file, threads, streams)
    return _openvino_runner(file, dtype, threads, streams)


def _onnx_runner(file: Path, threads: int, streams: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads // streams  # 1: the thread that asks does the work
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # would be planned anew for every length
    # Threads spin while their run lasts, which is faster, and stop with it: other engines work next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    pool = ThreadPoolExecutor(streams)

    def run(batches: Iterator[Batch], vectors_ND: Any) -> None:
        def work(batch: Batch) -> None:
            rows, ids_BL, mask_BL = batch
            vectors_ND[rows] = session.run(None, {"input_ids": ids_BL, "attention_mask": mask_BL})[0]

        list(pool.map(work, batches))

    return run


def _openvino_runner(file: Path, dtype: str, threads: int, streams: int) -> Run:
    import openvino

    from diffembed.hardware import has_fast_bf16

    # OpenVINO's threads (TBB) sleep between runs. What int8 leaves over runs in bf16 where the CPU is fast at it.
    in_bf16 = dtype == "bfloat16" or (dtype.startswith("int8") and has_fast_bf16())
    options = {
        "INFERENCE_PRECISION_HINT": "bf16" if in_bf16 else "f32",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": streams,
    }
    queue = openvino.AsyncInferQueue(openvino.Core().compile_model(str(file), "CPU", options), streams)
    target: list[Any] = [None]

    def keep(request: Any, rows: list[int]) -> None:
        target[0][rows] = request.get_output_tensor(0).data

    queue.set_callback(keep)

    def run(batches: Iterator[Batch], vectors_ND: Any) -> None:
        target[0] = vectors_ND
        for rows, ids_BL, mask_BL in batches:
            queue.start_async({"input_ids": ids_BL, "attention_mask": mask_BL}, rows)
        queue.wait_all()

    return run


if __name__ == "__main__":
    convert(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
