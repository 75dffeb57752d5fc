"""Arrays of an audit: one line for every bad one, files that return the same."""

import errno
import re

import numpy as np
import pytest

from unlearn_jax.pipeline.arrays import AuditArrays
from unlearn_jax.types import InputError

N, C, M = 12, 3, 4
RNG = np.random.default_rng(0)


def good():
    return {
        "target": RNG.normal(size=(N, C)),
        "labels": np.arange(N) % C,
        "train": np.arange(N) < 8,
        "forget": np.arange(N) < 2,
        "references": RNG.normal(size=(M, N, C)),
        "member": np.arange(M * N).reshape(M, N) % 2 == np.arange(M)[:, None] % 2,
    }


def whole_classes():
    forget = (np.arange(N) < 8) & (np.arange(N) % C == 0)
    twice = RNG.normal(size=(2, N, C))
    given = good() | {"forget": forget, "retrained": twice[0]}
    return given | {"retrained_again": twice[1]}


def test_single_models_and_masks_count_for_every_run():
    given = good() | {"target": RNG.normal(size=(3, N, C))}
    arrays = AuditArrays(**given, original=RNG.normal(size=(N, C)))
    assert arrays.original.shape == arrays.target["target"].shape == (3, N, C)
    assert arrays.forget.shape == (3, N)
    assert arrays.runs.tolist() == [[0, 0], [1, 0], [2, 0]]
    masks = np.stack([given["forget"], np.arange(N) == 5, given["forget"]])
    sets = AuditArrays(**given | {"forget": masks}).runs[:, 1]
    assert sets[0] == sets[2] != sets[1]


def test_files_return_the_arrays(tmp_path):
    rows = {"amun": RNG.normal(size=(N, C)), "finetune": RNG.normal(size=(N, C))}
    arrays = AuditArrays(**good() | {"target": rows}, class_names=["a", "b", "c"])
    path = arrays.save(tmp_path / "logits.npz")
    with np.load(path) as stored:
        assert {"target_amun", "target_finetune", "member"} <= set(stored.files)
    loaded = AuditArrays.load(path)
    assert loaded.digest == arrays.digest
    assert list(loaded.target) == ["amun", "finetune"]
    assert loaded.class_names == ("a", "b", "c")
    with pytest.raises(InputError, match="exists"):
        arrays.save(path)


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    def fill_the_disk(file, **arrays):
        file.write(b"PK")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", fill_the_disk)
    with pytest.raises(OSError, match=r"No space left .*logits\.npz"):
        AuditArrays(**good()).save(tmp_path / "logits.npz")
    assert not list(tmp_path.iterdir())


def test_numbers_beyond_32_bits_are_refused():
    """They would be others after the cast."""
    given = good()
    labels = given["labels"] + 2**32
    with pytest.raises(InputError, match="labels has numbers beyond 32 bits"):
        AuditArrays(**given | {"labels": labels})


def test_whole_classes_with_two_retrained_models_are_class_forgetting():
    given = whole_classes()
    assert AuditArrays(**given).is_class
    assert not AuditArrays(**given | {"retrained_again": None}).is_class
    assert not AuditArrays(**given | {"forget": np.arange(N) < 1}).is_class
    assert AuditArrays(**given | {"references": None, "member": None}).member is None


BAD = {
    "target has no row": {"target": {}},
    "target has shape (12,): pass logits [N, C]": {"target": np.zeros(N)},
    "target has shape (11, 3): pass logits [N, C] = (12, 3)": {
        "target": np.zeros((11, C))
    },
    "target has dtype <U1": {"target": np.full((N, C), "a")},
    "target has dtype |V2: pass or save float32": {"target": np.zeros((N, C), "V2")},
    "target has NaN": {"target": np.full((N, C), np.nan)},
    "target has 1 class": {"target": np.zeros((N, 1)), "labels": np.zeros(N, int)},
    "labels has shape (12,) and dtype float64": {"labels": np.zeros(N)},
    "labels must lie in 0..2": {"labels": np.arange(N)},
    "train has dtype int64": {"train": np.arange(N)},
    "train has shape (2, 12)": {"train": np.ones((2, N), bool)},
    "train has 5 samples": {"train": np.arange(5) < 3},
    "train must mark some": {"train": np.ones(N, bool)},
    "forget has 5 samples": {"forget": np.arange(5) < 3},
    "forget marks test samples": {"forget": np.arange(N) > 6},
    "forget must mark some": {"forget": np.zeros(N, bool)},
    "target has 2 runs, another array 3": {
        "target": np.zeros((2, N, C)),
        "forget": np.tile(np.arange(N) < 2, (3, 1)),
    },
    "references is missing": {"references": None, "member": None},
    "references is given alone": {"member": None},
    "member is given alone": {"references": None},
    "references has shape (4, 12, 2)": {"references": np.zeros((M, N, 2))},
    "references has NaN": {"references": np.full((M, N, C), np.inf)},
    "member has shape (3, 12)": {"member": np.zeros((3, N), bool)},
    "member has dtype float64": {"member": np.zeros((M, N))},
    "member of sample 0 is equal": {"member": np.zeros((M, N), bool)},
    "runs has shape (2, 2)": {"runs": np.zeros((2, 2), int)},
    "runs has shape (12,)": {"runs": np.zeros(N, int)},
    "runs of forget set 0 have unequal": {
        "target": np.zeros((2, N, C)),
        "forget": np.stack([np.arange(N) < 2, np.arange(N) < 3]),
        "runs": np.array([[0, 0], [1, 0]]),
    },
    "target has a row 'retrained'": {
        "target": {"retrained": np.zeros((N, C))},
    },
    "retrained has shape": {"retrained": np.zeros((N, C + 1))},
    "class_names has 2 names": {"class_names": ["a", "b"]},
}


@pytest.mark.parametrize("message", BAD)
def test_every_bad_array_is_one_line(message):
    with pytest.raises(InputError, match=re.escape(message)) as error:
        AuditArrays(**good() | BAD[message])
    assert "\n" not in str(error.value)


def test_bad_files_are_one_line(tmp_path):
    with pytest.raises(InputError, match="no file of logits"):
        AuditArrays.load(tmp_path / "absent.npz")
    (tmp_path / "bad.npz").write_bytes(b"no zip")
    with pytest.raises(InputError, match="cannot read"):
        AuditArrays.load(tmp_path / "bad.npz")
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(InputError, match=r"one array without a name; .*savez"):
        AuditArrays.load(tmp_path / "one.npy")
    (tmp_path / "text.json").write_text("{}")
    with pytest.raises(InputError, match="cannot read") as caught:
        AuditArrays.load(tmp_path / "text.json")
    assert "unsafely" not in str(caught.value)
    np.savez(tmp_path / "few.npz", labels=np.arange(3))
    with pytest.raises(InputError, match="target, train, forget is missing"):
        AuditArrays.load(tmp_path / "few.npz")
    np.savez(tmp_path / "odd.npz", **good(), extra=np.arange(3))
    with pytest.raises(InputError, match="unknown array extra"):
        AuditArrays.load(tmp_path / "odd.npz")
    np.savez(tmp_path / "nan.npz", **good() | {"train": np.ones(N, bool)})
    with pytest.raises(InputError, match=r"nan\.npz: train must mark"):
        AuditArrays.load(tmp_path / "nan.npz")
