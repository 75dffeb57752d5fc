"""Claims of the sources: their numbers are stored ones, their verdicts fit them."""

import dataclasses
import pathlib
from decimal import Decimal

import pytest

from unlearn_jax import InputError
from unlearn_jax.pipeline import published
from unlearn_jax.pipeline.claims import Claim, read_claims, stored_number
from unlearn_jax.pipeline.pages import claims_table
from unlearn_jax.pipeline.published import Result, ResultTable, Value

TABLES = (
    ResultTable(
        title="First",
        columns=("row", "Accuracy", "Gap"),
        units=("", "%", "points"),
        rows=(
            ("AMUN", Value(mean=Decimal("97.5"), std=Decimal("0.3")), None),
            ("Other", None, Value(mean=Decimal("1.2"))),
        ),
    ),
    ResultTable(
        title="Second",
        columns=("row", "Gap"),
        units=("", "points"),
        rows=(
            (
                "AMUN",
                Value(mean=Decimal("0.5"), low=Decimal("-1.0"), high=Decimal("2.0")),
            ),
        ),
    ),
)
RESULTS = {
    "measured": Result(name="measured", group="", title="", date="2026", tables=TABLES),
    "planned": Result(name="planned", group="", title=""),
}
CLAIM = Claim(
    claim="AMUN is near",
    source="a | b",
    published="1.0",
    ours="Gap {measured :: AMUN :: Gap}.",
    verdict="holds",
    regime="Small",
    results=("measured",),
)


def test_numbers_have_units_and_intervals():
    assert stored_number("measured :: AMUN :: Accuracy", RESULTS) == "97.5%"
    assert stored_number("measured :: Other :: Gap", RESULTS) == "1.2 points"
    place = "measured :: AMUN :: Gap :: Second"
    assert stored_number(place, RESULTS) == "0.5 [-1.0, 2.0] points"


@pytest.mark.parametrize(
    "place",
    [
        "absent :: AMUN :: Gap",
        "measured :: AMUN",
        "measured :: Nobody :: Gap",
        "measured :: AMUN :: Nothing",
        "measured :: AMUN :: Gap :: First",
    ],
)
def test_missing_numbers_are_named(place):
    with pytest.raises(InputError, match="no number"):
        stored_number(place, RESULTS)


def test_table_fills_in_numbers_and_escapes_bars():
    last = claims_table([CLAIM], RESULTS).splitlines()[-1]
    assert "Gap 0.5 [-1.0, 2.0] points. [measured](#measured)" in last
    assert "a \\| b" in last
    assert "**holds**" in last


def test_untested_means_that_nothing_is_measured():
    untested = dataclasses.replace(CLAIM, verdict="untested")
    with pytest.raises(InputError, match="measured"):
        claims_table([untested], RESULTS)
    planned = dataclasses.replace(CLAIM, ours="", results=("planned",))
    with pytest.raises(InputError, match="nothing is measured"):
        claims_table([planned], RESULTS)
    row = claims_table([dataclasses.replace(planned, verdict="untested")], RESULTS)
    assert "**untested**" in row


def test_odd_claims_are_refused():
    with pytest.raises(InputError, match="verdict 'true'"):
        dataclasses.replace(CLAIM, verdict="true")
    with pytest.raises(InputError, match="names no result"):
        dataclasses.replace(CLAIM, results=())
    with pytest.raises(InputError, match="no result absent"):
        claims_table([dataclasses.replace(CLAIM, results=("absent",))], RESULTS)


def test_negative_verdicts_say_where():
    folder = pathlib.Path(published.folder()).parent
    for claim in read_claims(folder / "claims.json"):
        if claim.verdict in ("does not hold", "undecided", "untested"):
            assert len(claim.regime) > 10, claim.claim
