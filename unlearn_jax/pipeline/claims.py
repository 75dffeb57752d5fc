"""Claims of the sources: the published result, the measured result, and a verdict.

``experiments/claims.json`` holds the sentences. They refer to a number by its place in
the stored results, ``{digits :: AMUN :: FT AUC}``, so a new measurement also updates
the claim.
"""

import dataclasses
import json
import pathlib
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from unlearn_jax.types import InputError

if TYPE_CHECKING:
    from unlearn_jax.pipeline.published import Result

VERDICTS = ("holds", "holds in part", "undecided", "does not hold", "untested")
"""Verdicts on a claim; "untested" has no measured result."""

HEADS = ("claim", "published", "here", "verdict", "tested where")
"""Columns of :func:`claim_cells`."""

_PLACE = re.compile(r"\{([^{}]+ :: [^{}]+)\}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim of a source.

    Attributes:
      claim: claim in one sentence.
      source: paper, in Markdown.
      published: result that the source reports.
      ours: result measured here; ``{RESULT :: ROW :: COLUMN}`` or
        ``{RESULT :: ROW :: COLUMN :: TABLE}`` is replaced by a stored number.
      verdict: one of :data:`VERDICTS`.
      regime: conditions of the test, and differences from the source.
      results: names of the stored results, measured or to be measured.
    """

    claim: str
    source: str
    published: str
    ours: str
    verdict: str
    regime: str
    results: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check the verdict, and that the claim names a result."""
        if self.verdict not in VERDICTS:
            raise InputError(
                f"verdict {self.verdict!r} of claim {self.claim!r}: choose one of"
                f" {', '.join(VERDICTS)}"
            )
        if not self.results:
            raise InputError(f"claim {self.claim!r} names no result")


def read_claims(path: pathlib.Path) -> tuple[Claim, ...]:
    """Read the claims.

    Args:
      path: path of ``claims.json``.

    Raises:
      InputError: an unknown verdict, or a claim that names no result.
    """
    claims = []
    for item in json.loads(path.read_text(encoding="utf-8")):
        claims.append(Claim(**{**item, "results": tuple(item["results"])}))
    return tuple(claims)


def stored_number(place: str, results: Mapping[str, "Result"]) -> str:
    """Return a stored number with its interval and unit, without the deviation.

    Args:
      place: ``RESULT :: ROW :: COLUMN`` for the first table with that row and column,
        or ``RESULT :: ROW :: COLUMN :: TABLE`` for the table with that title.
      results: all published results, by name.

    Raises:
      InputError: no such number.
    """
    name, label, column, title = (*place.split(" :: "), "", "")[:4]
    tables = results[name].tables if name in results else ()
    for table in tables:
        if title and title != table.title:
            continue
        labels = [row[0] for row in table.rows]
        if label not in labels or column not in table.columns:
            continue
        position = table.columns.index(column)
        cell = table.rows[labels.index(label)][position]
        if cell is None:
            continue
        if not isinstance(cell, str):
            cell = dataclasses.replace(cell, std=None)
        unit = table.units[position]
        return f"{cell}{unit}" if unit == "%" else f"{cell} {unit}".strip()
    raise InputError(f"claims.json: no number {{{place}}} in the stored results")


def claim_cells(claim: Claim, results: Mapping[str, "Result"]) -> list[str]:
    """Return a claim's row under :data:`HEADS`, in Markdown.

    Args:
      claim: claim to show.
      results: all published results, by name.

    Raises:
      InputError: a number or result that is not stored, the verdict "untested" with a
        measured result, or another verdict without a measured result.
    """
    missing = [name for name in claim.results if name not in results]
    if missing:
        raise InputError(f"claim {claim.claim!r}: no result {missing[0]}")
    measured = [name for name in claim.results if results[name].date]
    if (claim.verdict == "untested") == bool(measured):
        raise InputError(
            f"claim {claim.claim!r} is {claim.verdict}, but"
            f" {', '.join(measured) or 'nothing'} is measured"
        )
    ours = _PLACE.sub(lambda match: stored_number(match[1], results), claim.ours)
    links = ", ".join(f"[{name}](#{name})" for name in claim.results)
    return [
        f"{claim.claim} ({claim.source})",
        claim.published,
        f"{ours} {links}".strip(),
        f"**{claim.verdict}**",
        claim.regime,
    ]
