"""Checks of what a model does on this machine."""

import re
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from diffembed.doctor.facts import Doubt, Facts, Verdict
from diffembed.embedder import Embedder
from diffembed.embedder.export import VERSIONS
from diffembed.embedder.golden import TEXTS, least_cosine
from diffembed.embedder.locate import fingerprint as fingerprint_of
from diffembed.embedder.placement import number_format, place
from diffembed.errors import CheckpointError
from diffembed.hardware import BF16_FLAGS, cpu_flags

# fp32 repeats a vector to 1e-6 on any CPU, and it was written with seven decimals.
LEAST_COSINE = 0.999
PACKAGES = ("torch", "tokenizers", "safetensors")
OPTIONAL_PACKAGES = ("transformers", "sentence-transformers", "peft")


def vectors(facts: Facts) -> Verdict:
    """All texts that were saved with the model have the vectors that they had then."""
    if facts.has_failed or not facts.replays:
        return None
    embedder = Embedder.load(facts.folder, device="cpu", dtype="float32", adapter=facts.adapter_folder)
    if not facts.golden:
        for role, text in TEXTS:
            embedder.embed([text], role)  # raises where there is no vector
        return Doubt(
            "texts get vectors, and none were saved with the model to compare them with",
            "Embedder.load(...).save(...) writes some, once you trust the model",
        )
    cosines = [least_cosine(embedder.embed([text], role).vectors[0], saved) for role, text, saved in facts.golden]
    worst = int(np.argmin(cosines))  # a NaN counts as the least
    if not cosines[worst] >= LEAST_COSINE:
        raise CheckpointError(
            f"the text {facts.golden[worst][1][:40]!r} has another vector than it was saved with "
            f"(cosine {cosines[worst]:.4f}, in fp32)",
            hint="its files were changed or mixed up; copy the folder again",
        )
    return f"{len(cosines)} texts have the vectors that were saved with them (least cosine {cosines[worst]:.6f}, fp32)"


def dtype(facts: Facts) -> Verdict:
    """What would be used here."""
    device = place(None)
    name = str(number_format(None, device)).removeprefix("torch.")
    flags = sorted(BF16_FLAGS & cpu_flags())
    why = f", which multiplies it in hardware ({', '.join(flags)})" if device.type == "cpu" and flags else ""
    return f"{name} on {device}{why}"


def versions(facts: Facts) -> Verdict:
    """Installed packages, and whether other libraries here are recent enough for our folders."""
    installed = {}
    for package in (*PACKAGES, *OPTIONAL_PACKAGES):
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    least = {name.replace("_", "-"): release for name, release in VERSIONS.items()}
    old = [name for name, release in installed.items() if name in least and _numbers(release) < _numbers(least[name])]
    said = ", ".join(f"{name} {release}" for name, release in installed.items())
    if old:
        return Doubt(
            f"{said}; too old to know where a model looks: {', '.join(old)}",
            f"upgrade: pip install {' '.join(f'{name}>={least[name]}' for name in old)}",
        )
    return said


def fingerprint(facts: Facts) -> Verdict:
    """What an index keeps of the model, to know it again."""
    of_adapter = "" if facts.adapter_folder is None else f", its adapter {fingerprint_of(facts.adapter_folder)}"
    return f"{fingerprint_of(facts.folder)}{of_adapter}"


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", release)[:3])
