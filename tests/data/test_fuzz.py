"""Any input at all: data functions give usable data sets and masks, or the documented
one-line error.

``FUZZ_EXAMPLES=5000 python tests/data/test_fuzz.py`` runs a long campaign and prints,
for every function, how many cases were answered and how many refused.
"""

import ast
import gzip
import io
import pathlib
import sys
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from support.fuzzing import anything, call, campaign, fuzz, mostly

from unlearn_jax import audit, data
from unlearn_jax.types import Dataset

NO_FUNCTIONS = {
    audit: (  # results, options, and a table of the functions
        "Discriminator Estimate Features ForgetAucs Interval KlomSummary KodgeResult"
        " KodgeMiaResult MeanVariance Memorization MiaNN MisResult Neighbor Reading"
        " RocCurve ULira Vulnerability WeightedCurves SIGNALS device"
    ),
    # a result, a type, a table of the functions, and columns for from_iterable
    data: "Splits Augmentation AUGMENTATIONS from_huggingface",
}
"""Public names that take no data: they are made by functions that are tested."""

SEEDS = mostly([0, 1, 2, 3, 2**32 - 1], [-1, 2**32, 2**70])
COUNTS = st.integers(-2, 14)
FRACTIONS = st.none() | st.floats() | st.sampled_from([0.1, 0.5, 0.999])
GENERATORS = mostly(["default", "legacy"], ["other"])


def usable(splits):
    """What everything that follows relies on."""
    for images, labels in (splits.train, splits.test):
        assert images.ndim == 4
        assert images.dtype == np.uint8 or (
            images.dtype == np.float32 and np.isfinite(images).all()
        )
        assert images.size
        assert images.min() >= 0
        assert images.dtype == np.uint8 or images.max() <= 1
        assert labels.dtype == np.int32
        assert labels.shape == images.shape[:1]
        assert 0 <= labels.min() <= labels.max() < splits.num_classes
    assert splits.num_classes == len(splits.class_names) >= 2


def half(mask, num_samples):
    """A forget set forgets something and keeps something."""
    assert mask.shape == (num_samples,)
    assert mask.dtype == bool
    assert 0 < mask.sum() < num_samples


@pytest.mark.parametrize("room", [audit, data], ids=lambda module: module.__name__)
def test_every_public_function_is_fuzzed(room):
    used, here = set(), pathlib.Path(__file__).parents[1]
    for file in here.rglob("test_fuzz*.py"):
        nodes = [
            node
            for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.Attribute)
        ]
        short = room.__name__.rpartition(".")[2]
        used |= {
            node.attr
            for node in nodes
            if isinstance(node.value, ast.Name) and node.value.id == short
        }
    assert set(room.__all__) - set(NO_FUNCTIONS[room].split()) == used & set(
        room.__all__
    ) - {"AUGMENTATIONS", "SIGNALS"}


@fuzz()
@given(st.integers(15, 3000) | COUNTS, COUNTS, FRACTIONS, SEEDS, GENERATORS)
def test_random_forget_sets(num_samples, count, fraction, seed, generator):
    for chosen in (
        {"count": count},
        {"fraction": fraction},
        {"count": count, "fraction": fraction},
    ):
        found = call(
            data.forget_random, num_samples, **chosen, seed=seed, generator=generator
        )
        if found is not None:
            half(found, num_samples)
    indices = call(data.legacy_indices, num_samples, count, seed=seed)
    if indices is not None:
        assert np.unique(indices).size == count
        assert indices.max() < num_samples


@fuzz()
@given(mostly([2, 4, 6], [-2, 0, 3]), st.integers(-1, 9), SEEDS, GENERATORS)
def test_membership_designs(num_models, num_samples, seed, generator):
    member = call(
        data.membership_design, num_models, num_samples, seed=seed, generator=generator
    )
    if member is not None:
        assert member.shape == (num_models, num_samples)
        assert (member.sum(0) == num_models // 2).all()


FEW = st.lists(st.integers(0, 4), min_size=1, max_size=4, unique=True)
INDICES = (
    FEW | st.lists(st.integers(-1, 6), max_size=4) | st.lists(st.integers(), max_size=3)
)
BOOLEANS = st.lists(st.booleans(), min_size=5, max_size=6)


@fuzz()
@given(
    anything()
    | FEW
    | BOOLEANS
    | INDICES
    | arrays(np.uint8, 3, elements=st.integers(0, 6)),
    mostly([5, 6], [-1, 0, 1, 2]),
)
def test_masks_indices_and_classes(values, num_samples):
    for found in (
        call(data.check_forget_mask, values, num_samples),
        call(data.forget_indices, values, num_samples),
    ):
        if found is not None:
            half(found, num_samples)
    labels = np.arange(max(num_samples, 0)) % 3
    for found in (
        call(data.forget_class, labels, values),
        call(data.forget_class, values, 1),
    ):
        if found is not None:
            half(found, len(found))


LINES = FEW.map(lambda values: "\n".join(["# mine", *map(str, values), ""]).encode())
TEXTS = (
    LINES
    | st.text("0123456789-#, \n\r\té\x00", max_size=12).map(str.encode)
    | st.binary(max_size=12)
)


@fuzz()
@given(
    TEXTS,
    anything() | (BOOLEANS | INDICES).map(np.asarray),
    st.sampled_from(
        [
            ".txt text",
            ".csv text",
            ".npy array",
            ".NPZ archive",
            ".npz archive",
            ".npy cut",
            ".npy text",
        ]
    )
    | st.tuples(
        st.sampled_from([".txt", ".npy", ".npz", ".bin", ""]),
        st.sampled_from(["text", "array"]),
    ).map(" ".join),
    mostly([5, 6], [0, 1]),
)
def test_forget_files(text, array, kind, num_samples):
    suffix, _, kind = kind.rpartition(" ")
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / f"forget{suffix}"
        content = io.BytesIO()
        if kind == "archive":
            np.savez(content, array, **({"more": array} if num_samples == 1 else {}))
        elif kind != "text":
            np.save(content, array)
        stored = content.getvalue()
        path.write_bytes(
            text
            if kind == "text"
            else stored[: len(stored) - 3]
            if kind == "cut"
            else stored
        )
        found = call(data.forget_file, path, num_samples)
        call(data.forget_file, path.with_name("none.txt"), num_samples)
    if found is not None:
        half(found, num_samples)


@st.composite
def labeled_images(draw):
    """Images and labels, half of them usable."""
    if draw(st.booleans()):
        samples, kind = (
            draw(st.integers(1, 4)),
            draw(st.sampled_from([np.uint8, np.float32])),
        )
        images = draw(
            arrays(
                kind,
                (samples, 1, 2, 1),
                elements=None if kind == np.uint8 else st.floats(0, 1, width=32),
            )
        )
        return images, draw(
            arrays(np.int64, samples, elements=st.integers(0, 1), fill=st.nothing())
        )
    samples = draw(st.integers(0, 4))
    shape = (samples, *draw(st.lists(st.integers(0, 2), min_size=1, max_size=3)))
    kind = draw(
        st.sampled_from(
            [np.uint8, np.float32, np.float64, np.float16, np.int64, np.bool_]
        )
    )
    floating = st.floats(0, 1, width=16) | st.sampled_from([-1e-3, 1.5, np.nan, np.inf])
    images = draw(
        arrays(kind, shape, elements=floating if np.dtype(kind).kind == "f" else None)
    )
    labels = arrays(
        draw(st.sampled_from([np.int64, np.int32, np.uint8])),
        samples,
        elements=st.integers(0, 2),
    )
    odd = arrays(
        np.int64, samples, elements=st.integers(-1, 2) | st.sampled_from([2**31, 2**62])
    )
    return images, draw(
        labels | odd | arrays(np.float32, samples) | arrays(np.int64, (samples, 1))
    )


CLASSES = mostly([None, 2, 3], [-1, 1])
NAMES = mostly([None, ["cat", "dog"]], [[], ["cat"], ["cat", "dog", "0", "0"]])


@fuzz()
@given(labeled_images(), labeled_images(), CLASSES, NAMES, st.booleans())
def test_arrays(train, test, num_classes, names, same):
    test = train if same else test
    splits = call(
        data.load_arrays, *train, *test, num_classes=num_classes, class_names=names
    )
    if splits is not None:
        usable(splits)
        assert len(splits.digest) == 64
    one = call(
        data.validate, Dataset(*train), 2 if num_classes is None else num_classes
    )
    if one is not None:
        assert one.labels.dtype == np.int32
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "set.npz"
        given_ = dict(
            zip(
                ("x_train", "y_train", "x_test", "y_test"), (*train, *test), strict=True
            )
        )
        np.savez(
            path,
            **given_,
            **({} if names is None else {"class_names": np.array(names)}),
        )
        splits = call(data.load_npz, path)
    if splits is not None:
        usable(splits)


@fuzz()
@given(
    labeled_images(),
    labeled_images(),
    mostly([0.2, 0.5], [0.0, 1.0, float("nan")]),
    SEEDS,
    NAMES,
    st.booleans(),
)
def test_iterables(train, test, fraction, seed, names, is_split):
    splits = call(
        data.from_iterable,
        list(zip(*train, strict=False)),
        None if is_split else list(zip(*test, strict=False)),
        test_fraction=fraction,
        seed=seed,
        class_names=names,
    )
    if splits is not None:
        usable(splits)


@fuzz()
@given(
    st.binary(max_size=30),
    st.integers(0, 400),
    st.sampled_from(["train_images", "x_train", "other"]),
    anything(),
)
def test_damaged_archives_of_arrays(junk, cut, name, array):
    with tempfile.TemporaryDirectory() as folder:
        path, content = pathlib.Path(folder) / "set.npz", io.BytesIO()
        np.savez(
            content,
            **dict.fromkeys(
                (name, "train_labels", "test_images", "test_labels"), array
            ),
        )
        path.write_bytes(content.getvalue()[:cut] + junk)
        splits = call(data.load_npz, path)
        call(data.load_npz, path.with_name("none.npz"))
    if splits is not None:
        usable(splits)


@fuzz()
@given(anything(), anything())
def test_arrays_of_any_shape_and_type(a, b):
    for splits in (
        call(data.load_arrays, a, b, a, b),
        call(data.load_arrays, a, b, b, a, class_names=["x", "y"]),
    ):
        if splits is not None:
            usable(splits)
    call(data.validate, Dataset(a, b), 3)


@fuzz()
@given(st.data())
def test_resplit(draw):
    samples = draw.draw(st.integers(2, 12))
    labels = draw.draw(arrays(np.int32, samples, elements=st.integers(0, 2)))
    images = np.linspace(0, 1, samples * 4, dtype=np.float32).reshape(samples, 2, 2, 1)
    splits = call(data.load_arrays, images, labels, images, labels)
    if splits is not None:
        pooled = data.pool(splits)
        assert len(pooled.images) == len(pooled.labels) == 2 * len(splits.train.labels)
        assert data.pool_mask(splits).sum() == len(splits.train.labels)
    if splits is None:
        return
    chosen = draw.draw(st.lists(st.integers(-1, 3), max_size=3))
    selected = call(data.select_classes, splits, chosen)
    if selected is not None:
        usable(selected)
        assert selected.num_classes == len(chosen)
    num_train, num_test = draw.draw(st.integers(-1, 13)), draw.draw(st.integers(-1, 13))
    balanced, seed = draw.draw(st.booleans()), draw.draw(SEEDS)
    again = call(
        data.resplit,
        splits,
        num_train=num_train,
        num_test=num_test,
        seed=seed,
        balanced=balanced,
    )
    if again is not None:
        usable(again)
        assert (len(again.train.labels), len(again.test.labels)) == (
            num_train,
            num_test,
        )
        if balanced:
            assert (
                np.unique(
                    np.bincount(again.train.labels, minlength=splits.num_classes)
                ).size
                == 1
            )


@fuzz(0.2)
@given(st.integers(-2, 2000), SEEDS)
def test_digits(num_train, seed):
    splits = call(data.load_digits, num_train=num_train, seed=seed)
    if splits is not None:
        usable(splits)
        assert len(splits.train.labels) == num_train


@st.composite
def image_bytes(draw):
    """A small image file of some mode, perhaps cut short, perhaps none at all."""
    mode = draw(
        st.sampled_from(["L", "1", "RGB", "RGBA", "P", "LA", "I;16", "F", "CMYK"])
    )
    kind = {"F": "TIFF", "CMYK": "JPEG"}.get(mode, "PNG")
    content = io.BytesIO()
    Image.new(mode, draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))).save(
        content, kind
    )
    stored = content.getvalue()
    return draw(
        st.just(stored)
        | st.integers(0, 80).map(lambda n: stored[:n])
        | st.binary(max_size=8)
    )


WHITE = b"P5 2 1 255 \xff\xff"
"""An image of two pixels, as PGM."""


@fuzz()
@given(
    st.fixed_dictionaries(
        dict.fromkeys(["a/1.png", "b/1.png", "b/2.png"], st.just(WHITE))
    )
    | st.dictionaries(
        st.sampled_from(
            [
                "a/1.png",
                "a/2.png",
                "b/1.png",
                "b/deep/2.JPG",
                "c/notes.txt",
                "1.png",
                ".git/1.png",
            ]
        ),
        image_bytes(),
        max_size=5,
    ),
    mostly(["", "train test"], ["train", "train other"]),
    mostly([0.2, 0.9999], [0.0, 1.0, np.nan]),
    mostly([None, (2, 1), (3, 3)], [(0, 3), (-1, 3)]),
    SEEDS,
)
def test_folders(files, parts, test_fraction, size, seed):
    with tempfile.TemporaryDirectory() as folder:
        for part in parts.split() or ["."]:
            for name, content in files.items():
                path = pathlib.Path(folder) / part / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        splits = call(
            data.load_folder, folder, test_fraction=test_fraction, seed=seed, size=size
        )
        call(data.load_folder, pathlib.Path(folder) / "none")
    if splits is not None:
        usable(splits)


IMAGES = [(2, 3, 5, 3), (0, 1, 1, 1), (1, 2, 2, 2)]
"""Few shapes, since each is compiled."""


@pytest.mark.parametrize(
    ("augment", "chosen"),
    [
        (data.crop, {"padding": st.sampled_from([-1, 0, 9])}),
        (data.crop_flip, {"padding": st.sampled_from([-1, 4]), "flip": st.booleans()}),
        (data.identity, {}),
        (data.trivial_augment, {"num_bins": st.sampled_from([31, 1, -1])}),
        (
            data.rand_augment,
            {
                "num_ops": st.sampled_from([0, 2]),
                "magnitude": st.sampled_from([-1, 9, 31]),
            },
        ),
        (data.auto_augment, {}),
        (data.aug_mix, {"severity": st.sampled_from([0, 3, 11])}),
        (
            data.random_erasing,
            {
                "probability": st.sampled_from([0.0, 1.0, 1.1, np.nan]),
                "area": st.sampled_from(
                    [(0.02, 0.33), (1.0, 1.0), (0.5, 0.1), (np.nan, 1.0), (1e-9, 1e-9)]
                ),
                "ratio": st.sampled_from(
                    [
                        (0.3, 3.3),
                        (1e-9, 1e9),
                        (0.0, 1.0),
                        (1.0, np.inf),
                        (np.nan, np.nan),
                    ]
                ),
            },
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
@fuzz(0.1)
@given(st.data())
def test_augmentations(augment, chosen, draw):
    shape, kind = (
        draw.draw(st.sampled_from(IMAGES)),
        draw.draw(st.sampled_from([np.uint8, np.float32])),
    )
    own = {name: draw.draw(values) for name, values in chosen.items()}
    rng = np.random.default_rng(draw.draw(st.integers(0, 9)))
    images = (
        rng.integers(0, 256, shape, np.uint8)
        if kind == np.uint8
        else rng.random(shape, np.float32)
    )
    count = shape[0] + draw.draw(st.sampled_from([0, 0, 0, 1]))
    keys = jax.random.split(jax.random.key(draw.draw(st.integers(0, 9))), count)
    found = call(augment, keys, jnp.asarray(images), **own)
    if found is not None:
        assert found.shape == shape
        assert found.dtype == kind
        assert (
            kind == np.uint8
            or ((np.asarray(found) >= 0) & (np.asarray(found) <= 1)).all()
        )


@fuzz(0.2)
@given(
    st.sampled_from([-1, 0, 9]),
    st.sampled_from([(3, 5, 1), (1, 1, 3)]),
    st.integers(0, 9),
)
def test_one_crop_and_one_flip(padding, shape, seed):
    image = np.random.default_rng(seed).integers(1, 256, shape, np.uint8)
    found = call(
        data.random_crop, jax.random.key(seed), jnp.asarray(image), padding=padding
    )
    if found is not None:
        assert set(np.unique(found)) <= {0, *np.unique(image)}
    mirrored = np.asarray(
        call(data.random_flip, jax.random.key(seed), jnp.asarray(image))
    )
    assert (mirrored == image).all() or (mirrored == image[:, ::-1]).all()


@fuzz()
@given(
    st.lists(
        st.sampled_from([*data.AUGMENTATIONS, "", "mixup", " crop"]), max_size=3
    ).map("+".join)
    | st.text()
)
def test_names_of_augmentations(name):
    found = call(data.augmentation, name)
    assert found is None or callable(found)


NAMED = st.sampled_from(
    ["mnist", "my/small", "my", "mnist:3.0.1", "my:9.9.9", "../x", "", ":", "a b"]
)
PREPARED = st.sampled_from(
    [
        "my/1.0.0",
        "my/small/1.0.0",
        "my/one/1.0.0 my/two/1.0.0",
        "mnist/3.0.1.incomplete",
        "",
    ]
)


@fuzz()
@given(NAMED | st.text(max_size=8), PREPARED)
def test_data_sets_that_are_not_prepared(name, prepared):
    with tempfile.TemporaryDirectory() as folder:
        for version in prepared.split():
            (pathlib.Path(folder) / version).mkdir(parents=True)
        assert call(data.load_tfds, name, data_dir=folder, cache_dir=folder) is None


@fuzz(0.2)
@given(st.binary(max_size=20) | st.just(b"{}"), st.binary(max_size=20) | st.just(b"{}"))
def test_descriptions_that_are_damaged(info, features):
    with tempfile.TemporaryDirectory() as folder:
        version = pathlib.Path(folder) / "my" / "1.0.0"
        version.mkdir(parents=True)
        (version / "dataset_info.json").write_bytes(info)
        (version / "features.json").write_bytes(features)
        assert call(data.load_tfds, "my", data_dir=folder, cache_dir=folder) is None


@fuzz()
@given(
    st.sampled_from(["cifar10", "cifar100", "mnist", "imagenet", ""]),
    st.binary(max_size=40),
    st.sampled_from(["plain", "zipped", "cut", "none"]),
)
def test_archives_that_are_none(name, content, kind):
    with tempfile.TemporaryDirectory() as folder:
        archive, zipped = pathlib.Path(folder) / "archive", gzip.compress(content)
        if name == "mnist" and kind != "none":
            archive.mkdir()
        file = archive / "train-images-idx3-ubyte.gz" if name == "mnist" else archive
        if kind != "none":
            file.write_bytes(
                {"plain": content, "zipped": zipped, "cut": zipped[:-4]}[kind]
            )
        assert (
            call(
                data.prepare,
                name,
                archive=archive,
                data_dir=pathlib.Path(folder) / "data",
            )
            is None
        )
        assert not list(pathlib.Path(folder).glob("data/*"))


if __name__ == "__main__":
    sys.exit(campaign(__file__))
