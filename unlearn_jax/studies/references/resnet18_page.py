"""Page of the price of reference models."""

from collections.abc import Mapping, Sequence

import numpy as np

from unlearn_jax.models.flops import peak_flops
from unlearn_jax.pipeline import (
    Check,
    Page,
    Table,
)
from unlearn_jax.studies.norms.page import over_seeds
from unlearn_jax.studies.references.resnet18 import PUBLISHED, Config, Found, _blocks


def make_page(config: Config, found: Found) -> Page:
    """A row per number of models."""
    rows, told = [], []
    for count in config.counts:
        parts = [
            part for name, part in found.items() if int(name.split("-")[2]) < count
        ]
        hours, flops = (
            _device_seconds(parts) / 3600,
            _total(parts, "images") * float(parts[0]["flops"]),
        )
        outside, inside = (
            over_seeds(100 * _accuracy(parts, member)) for member in (False, True)
        )
        used = utilization(config, parts)
        share = "unknown" if used is None else 100 * used
        rate = flops / 3600 / hours
        compiling = (
            sum(float(part["compile_seconds"] * part["devices"]) for part in parts)
            / 3600
        )
        speed = _total(parts, "images") / 3600 / hours
        rows.append(
            [str(count), outside, inside, hours, compiling, speed, rate / 1e12, share]
        )
        utilized = "unknown" if used is None else f"{100 * used:.3g}%"
        told.append(
            f"{count} models took {hours:.3g} device hours, at {outside.mean:.2f}%"
            " accuracy on samples they had not seen and a model FLOP utilization of"
            f" {utilized}."
        )
    kinds = ", ".join(sorted({str(part["device"]) for part in found.values()}))
    columns = [
        "models",
        "accuracy, not seen (%)",
        "accuracy, members (%)",
        "device hours",
        "compiling, device hours",
    ]
    columns += ["images/s per device", "TFLOP/s per device", "utilization (%)"]
    caption = (
        f"On {kinds}, {config.model.dtype}. Accuracy: mean ± std over models and 95%"
        " interval. Device hours are those of training, compilation apart. Operations:"
        " three times the forward pass's products,"
        f" {float(next(iter(found.values()))['flops']) / 1e9:.4g} GFLOP per image;"
        f" utilization: of the device's peak, unknown where that is. {PUBLISHED}."
    )
    table = Table("Reference models", columns, rows, caption)
    return Page(" ".join(told), [table, *_checks(config, found)])


def _total(parts: Sequence[Mapping[str, np.ndarray]], name: str) -> float:
    return float(sum(part[name] for part in parts))


def _device_seconds(parts: Sequence[Mapping[str, np.ndarray]]) -> float:
    return float(sum(part["seconds"] * part["devices"] for part in parts))


def _accuracy(parts: Sequence[Mapping[str, np.ndarray]], member: bool) -> np.ndarray:
    """``[M]``, each model's on its members, or on all other samples."""
    each = []
    for part in parts:
        right, chosen = (
            part["logits"].argmax(-1) == part["labels"][None],
            part["member"] == member,
        )
        each.append((right & chosen).sum(1) / chosen.sum(1))
    return np.concatenate(each)


def utilization(
    config: Config, parts: Sequence[Mapping[str, np.ndarray]]
) -> float | None:
    """Operations done over those that the devices could have done; None where a device's peak is not known."""
    could = 0.0
    for part in parts:
        peak = peak_flops(str(part["device"]), config.model.dtype)
        peak = config.peak_tflops * 1e12 if config.peak_tflops else peak
        if peak is None:
            return None
        could += float(part["seconds"] * part["devices"]) * peak
    return _total(parts, "images") * float(parts[0]["flops"]) / could


def _checks(config: Config, found: Found) -> list[Check]:
    member = np.concatenate([part["member"] for part in found.values()])
    halves = all(
        (member[start:stop].sum(0) * 2 == stop - start).all()
        for start, stop in _blocks(config)
    )
    losses = np.concatenate([part["losses"] for part in found.values()])
    chance = np.log(next(iter(found.values()))["logits"].shape[-1])
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
