"""Page of the study of the cost of reference models."""

from collections.abc import Sequence

import numpy as np

from unlearn_jax.audit import summarize_runs
from unlearn_jax.pipeline import (
    Check,
    Page,
    Table,
)
from unlearn_jax.studies.common import Arrays, Artifacts
from unlearn_jax.studies.references.resnet18 import PUBLISHED, Config, _blocks
from unlearn_jax.targets import peak_flops


def make_page(config: Config, artifacts: Artifacts) -> Page:
    """Return the page: a table with a row per number of models."""
    rows = []
    sentences = []
    for count in config.counts:
        names = [name for name in artifacts if int(name.split("-")[2]) < count]
        parts = [artifacts[name] for name in names]
        hours = _device_seconds(parts) / 3600
        flops = _total(parts, "images") * float(parts[0]["flops"])
        outside = summarize_runs(100 * _accuracy(parts, member=False))
        inside = summarize_runs(100 * _accuracy(parts, member=True))
        used = utilization(config, parts)
        share = "unknown" if used is None else 100 * used
        rate = flops / 3600 / hours
        compiling = sum(float(p["compile_seconds"] * p["devices"]) for p in parts)
        compiling /= 3600
        speed = _total(parts, "images") / 3600 / hours
        rows.append(
            [str(count), outside, inside, hours, compiling, speed, rate / 1e12, share]
        )
        utilized = "unknown" if used is None else f"{100 * used:.3g}%"
        sentences.append(
            f"{count} models took {hours:.3g} device hours, at {outside.mean:.2f}%"
            " accuracy on held-out samples and a model FLOP utilization of"
            f" {utilized}."
        )
    kinds = ", ".join(sorted({str(part["device"]) for part in artifacts.values()}))
    columns = [
        "models",
        "accuracy, held out (%)",
        "accuracy, members (%)",
        "device hours",
        "compiling, device hours",
    ]
    columns += ["images/s per device", "TFLOP/s per device", "utilization (%)"]
    caption = (
        f"On {kinds}, {config.model.dtype}. Accuracy: mean ± std over models and 95%"
        " interval. Device hours are those of training without compilation."
        " Operations: three times the forward pass's products,"
        f" {float(next(iter(artifacts.values()))['flops']) / 1e9:.4g} GFLOP per image;"
        f" utilization: of the device's peak, unknown where that is. {PUBLISHED}."
    )
    table = Table("Reference models", columns, rows, caption)
    return Page(" ".join(sentences), [table, *_checks(config, artifacts)])


def _total(parts: Sequence[Arrays], name: str) -> float:
    return float(sum(part[name] for part in parts))


def _device_seconds(parts: Sequence[Arrays]) -> float:
    return float(sum(part["seconds"] * part["devices"] for part in parts))


def _accuracy(parts: Sequence[Arrays], *, member: bool) -> np.ndarray:
    """Return each model's accuracy ``[M]`` on its members or on all other samples."""
    each = []
    for part in parts:
        right = part["logits"].argmax(-1) == part["labels"][None]
        chosen = part["member"] == member
        each.append((right & chosen).sum(1) / chosen.sum(1))
    return np.concatenate(each)


def utilization(config: Config, parts: Sequence[Arrays]) -> float | None:
    """Return operations as a fraction of the devices' peak; None if it is unknown."""
    peak_operations = 0.0
    for part in parts:
        peak = peak_flops(str(part["device"]), config.model.dtype)
        peak = config.peak_tflops * 1e12 if config.peak_tflops else peak
        if peak is None:
            return None
        peak_operations += float(part["seconds"] * part["devices"]) * peak
    return _total(parts, "images") * float(parts[0]["flops"]) / peak_operations


def _checks(config: Config, artifacts: Artifacts) -> list[Check]:
    member = np.concatenate([part["member"] for part in artifacts.values()])
    halves = all(
        (member[start:stop].sum(0) * 2 == stop - start).all()
        for start, stop in _blocks(config)
    )
    losses = np.concatenate([part["losses"] for part in artifacts.values()])
    chance = np.log(next(iter(artifacts.values()))["logits"].shape[-1])
    return [
        Check(
            "every sample is in half of the models",
            bool(halves),
            f"{len(member)} models, {member.shape[1]} samples",
        ),
        Check(
            "models learned",
            bool((losses < chance).all()),
            f"largest last loss {losses.max():.3g}, {chance:.3g} is chance",
        ),
    ]
