import gzip
import io
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import smilax as sx
from smilax.datasets import image_sets, tables

pytestmark = pytest.mark.once


@pytest.fixture
def folder(tmp_path):
    table = np.random.default_rng(0).normal(3.0, 5.0, size=(40, 6))
    table[:, 0] = np.arange(40)
    np.savez(tmp_path / "uci_tabular.npz", airfoil=table)
    return tmp_path, table


def test_splits_are_disjoint_complete_and_standardised(folder):
    parts = sx.datasets.uci("airfoil", folder[0], seed=2)
    # 0.7 + 0.1 is a little below 0.8 in binary, and the paper's splits are cut that way.
    assert [len(y) for _, y in parts] == [28, 3, 9]
    together = np.concatenate([np.column_stack([x, y]) for x, y in parts])
    np.testing.assert_allclose(together.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(together.std(0), 1, rtol=1e-5)
    table = folder[1]
    np.testing.assert_allclose(
        np.sort(together[:, 5]), np.sort((table[:, 5] - table[:, 5].mean()) / table[:, 5].std()), atol=1e-5
    )
    assert together.dtype == np.float32


def test_the_papers_permutations_are_used_where_they_are(folder):
    permutation = np.arange(40)[::-1]
    np.savez(folder[0] / "smile_permutations.npz", airfoil_rng1=permutation)
    first = sx.datasets.uci("airfoil", folder[0], seed=1).train[0][:, 0]
    assert (np.diff(first) < 0).all()


def test_an_openml_table_becomes_numbers(monkeypatch):
    frame = pd.DataFrame({f"x{i}": [1.0, 2.0, 3.0] for i in range(10)})
    frame["season"] = pd.Categorical(["spring", "fall", "spring"])
    frame["year"], frame["count"] = [0, 0, 1], [5, 6, 7]
    table = tables._to_table(frame, tables._OPENML["bikesharing"])
    assert table.shape == (3, 12)
    np.testing.assert_array_equal(table[:, 10], [1, 0, 1])
    np.testing.assert_array_equal(table[:, -1], [5, 6, 7])
    with pytest.raises(OSError, match="10 features, not 11"):
        tables._to_table(frame.drop(columns="season"), tables._OPENML["bikesharing"])


def test_without_network_and_files_the_error_says_what_to_do(monkeypatch, tmp_path):
    def refuse(**kwargs):
        raise ConnectionError("no route")

    monkeypatch.setattr("sklearn.datasets.fetch_openml", refuse)
    with pytest.raises(OSError, match="could not be fetched from OpenML .*give data_dir"):
        sx.datasets.uci("energy")
    with pytest.raises(FileNotFoundError, match="holds no uci_tabular.npz"):
        sx.datasets.uci("energy", tmp_path)
    with pytest.raises(ValueError, match="name must be one of .* got 'boston'"):
        sx.datasets.uci("boston")


def random_images(rows, seed=0, shape=(8, 6, 3)):
    return np.random.default_rng(seed).integers(0, 256, (rows, *shape), dtype=np.uint8)


def together(*parts):
    return np.concatenate([part[1] for part in parts])


@pytest.mark.parametrize(
    "name, sizes",
    [
        ("mnist", (49_000, 11_000, 10_000)),
        ("fashion_mnist", (49_000, 11_000, 10_000)),
        ("cifar10", (45_000, 5_000, 10_000)),
        ("imagenette", (8_706, 763, 3_925)),
    ],
)
def test_images_are_split_in_the_papers_sizes(name, sizes, tmp_path):
    train, test = np.arange(sizes[0] + sizes[1]), np.arange(sizes[2])
    # Images of one pixel, which tell their row.
    x_train, x_test = ((y % 251).astype(np.uint8).reshape(-1, 1, 1) for y in (train, test))
    np.savez(tmp_path / f"{name}.npz", x_train=x_train, y_train=train, x_test=x_test, y_test=test)
    split = sx.datasets.images(name, tmp_path, seed=3)
    assert tuple(len(y) for _, y in split) == sizes
    np.testing.assert_array_equal(np.sort(together(split.train, split.valid)), train)
    np.testing.assert_array_equal(split.test[1], test)
    for x, y in split:
        np.testing.assert_array_equal(x[:, 0, 0], y % 251)
    again, other = (sx.datasets.images(name, tmp_path, seed=seed).valid[1] for seed in (3, 4))
    np.testing.assert_array_equal(again, split.valid[1])
    assert not np.array_equal(other, again)


def test_image_files_within_an_npz(tmp_path):
    x, y = random_images(20), np.arange(20)
    files = []
    for image in x:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "png")
        files.append(buffer.getvalue())
    offsets = np.cumsum([0, *map(len, files)])
    data = np.frombuffer(b"".join(files), np.uint8)
    parts = {f"{name}_{part}": a for part in ("train", "test") for name, a in [("jpeg", data), ("offsets", offsets)]}
    np.savez(tmp_path / "cifar10_files.npz", y_train=y, y_test=y, **parts)
    split = sx.datasets.images("cifar10", tmp_path, num_valid=5)
    np.testing.assert_array_equal(split.train[0], x[split.train[1]])
    np.testing.assert_array_equal(split.test[0], x)
    assert len(split.valid[1]) == 5
    np.testing.assert_array_equal(sx.datasets.test_images("cifar10", tmp_path)[0], x)
    np.savez(tmp_path / "cifar10.npz", y_train=y, **parts | {"jpeg_train": data[1:], "offsets_train": offsets[:-1]})
    with pytest.raises(ValueError, match="image 0 of the part 'train' cannot be read"):
        sx.datasets.images("cifar10", tmp_path)
    np.savez(tmp_path / "cifar10.npz", y_train=y, **parts | {"jpeg_train": data[1:]})
    with pytest.raises(ValueError, match="offsets of the part 'train' do not fit"):
        sx.datasets.images("cifar10", tmp_path)


def test_images_in_folders(tmp_path):
    colours = {"a": (255, 0, 0), "b": (0, 0, 255)}
    for part, count in (("train", 10), ("val", 3)):
        for name, colour in colours.items():
            folder = tmp_path / "imagenette2-160" / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                # A stripe of another colour at either end, which the square in the middle leaves out.
                image = np.full((20, 40, 3), 255, np.uint8)
                image[:, 10:30] = colour
                Image.fromarray(image).save(folder / f"{i}.png")
            (folder / "notes.txt").write_text("no image")
    split = sx.datasets.images("imagenette", tmp_path, num_valid=4, image_size=10)
    assert [x.shape for x, _ in split] == [(16, 10, 10, 3), (4, 10, 10, 3), (6, 10, 10, 3)]
    for x, y in split:
        inner = x[:, :, 1:-1]
        np.testing.assert_array_equal(inner, np.broadcast_to(inner[:, :1, :1], inner.shape))
        np.testing.assert_array_equal(inner[:, 0, 0], np.array(list(colours.values()), np.uint8)[y])
    loaded = sx.datasets.image_folder(tmp_path / "imagenette2-160" / "val", 20, grey=True)
    assert loaded.classes == ("a", "b") and loaded.x.shape == (6, 20, 20)
    np.testing.assert_array_equal(loaded.y, [0, 0, 0, 1, 1, 1])

    with pytest.raises(ValueError, match="image_size must be given"):
        sx.datasets.images("imagenette", tmp_path)
    (tmp_path / "imagenette2-160" / "val" / "a" / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"broken.jpg cannot be read as an image"):
        sx.datasets.test_images("imagenette", tmp_path, image_size=10)
    (tmp_path / "imagenette2-160" / "val" / "b").rename(tmp_path / "imagenette2-160" / "val" / "c")
    with pytest.raises(ValueError, match="has other classes than"):
        sx.datasets.test_images("imagenette", tmp_path, image_size=10)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        sx.datasets.image_folder(tmp_path / "nowhere", 10)
    with pytest.raises(FileNotFoundError, match="holds no folders with images"):
        sx.datasets.image_folder(tmp_path / "imagenette2-160" / "train" / "a", 10)


def test_openml_images_become_arrays_once(monkeypatch, tmp_path):
    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(tmp_path))
    source = image_sets._Source(1, (3, 4, 5), 40, 10, 5)
    monkeypatch.setitem(image_sets._SOURCES, "cifar10", source)
    x, calls = random_images(50, shape=(4, 5, 3)), []

    def openml(**arguments):
        calls.append(arguments)
        flat = x.transpose(0, 3, 1, 2).reshape(50, 60).astype(np.float64)
        return SimpleNamespace(data=flat, target=np.array([str(i % 10) for i in range(50)]))

    monkeypatch.setattr("sklearn.datasets.fetch_openml", openml)
    for _ in range(2):
        split = sx.datasets.images("cifar10")
    assert len(calls) == 1 and calls[0]["data_id"] == 1
    np.testing.assert_array_equal(split.test[0], x[40:])
    np.testing.assert_array_equal(split.test[1], np.arange(40, 50) % 10)
    assert [len(y) for _, y in split] == [35, 5, 10]
    assert [file.name for file in (tmp_path / "smilax").iterdir()] == ["cifar10.npz"]
    with pytest.raises(OSError, match="has changed"):
        image_sets._to_arrays("cifar10", source, np.zeros((49, 60)), np.zeros(49))


def test_images_without_network_and_files(monkeypatch, tmp_path):
    def refuse(**arguments):
        raise ConnectionError("no route")

    def no_pandas(**arguments):
        raise ImportError("no pandas")

    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(tmp_path / "home"))
    monkeypatch.setattr("sklearn.datasets.fetch_openml", refuse)
    with pytest.raises(OSError, match=r"mnist could not be fetched .*give data_dir, a folder with mnist\*\.npz"):
        sx.datasets.images("mnist")
    monkeypatch.setattr("sklearn.datasets.fetch_openml", no_pandas)
    with pytest.raises(ImportError, match=r"pip install smilax\[openml\]"):
        sx.datasets.images("fashion_mnist")
    with pytest.raises(FileNotFoundError, match="imagenette is not on OpenML"):
        sx.datasets.images("imagenette")
    with pytest.raises(FileNotFoundError, match=r"holds no cifar10\*\.npz"):
        sx.datasets.images("cifar10", tmp_path)
    with pytest.raises(ValueError, match="name must be one of .* got 'svhn'"):
        sx.datasets.images("svhn")
    x = random_images(6, shape=(8, 8))
    np.savez(tmp_path / "mnist_test.npz", x_test=x, y_test=np.arange(6))
    np.testing.assert_array_equal(sx.datasets.test_images("mnist", tmp_path)[0], x)
    with pytest.raises(ValueError, match="holds no x_train .* sx.datasets.test_images reads"):
        sx.datasets.images("mnist", tmp_path)
    np.savez(tmp_path / "mnist_b.npz", x_test=x, y_test=np.arange(6))
    with pytest.raises(ValueError, match=r"mnist_b.npz and mnist_test.npz; call the one to be read mnist.npz"):
        sx.datasets.test_images("mnist", tmp_path)
    np.savez(tmp_path / "mnist.npz", x_train=x, y_train=np.arange(6), x_test=x / 255, y_test=np.arange(6))
    with pytest.raises(ValueError, match="x_test must be uint8 images, got shape .* float64"):
        sx.datasets.images("mnist", tmp_path)
    np.savez(tmp_path / "mnist.npz", x_train=x, y_train=np.arange(6), x_test=x, y_test=np.arange(6))
    with pytest.raises(ValueError, match="num_valid = 6 leaves none of the 6 training images"):
        sx.datasets.images("mnist", tmp_path, num_valid=6)
    with pytest.raises(ValueError, match="image_size = 28, but .* 8 by 8 pixels"):
        sx.datasets.images("mnist", tmp_path, image_size=28)
    with pytest.raises(ValueError, match="seed must not be negative"):
        sx.datasets.images("mnist", tmp_path, seed=-1)


def test_npz_keeps_its_own_parts_and_makes_the_others(tmp_path):
    file, x, y = tmp_path / "mine.npz", np.random.default_rng(0).normal(size=(40, 2)), np.arange(40)
    np.savez(file, x=x, y=y)
    split = sx.datasets.npz(file, valid=0.25, test=0.5)
    assert [len(y) for _, y in split] == [10, 10, 20]
    np.testing.assert_array_equal(np.sort(together(*split)), y)
    for part in split:
        np.testing.assert_array_equal(part[0], x[part[1]])
    np.savez(file, x_train=x, y_train=y, x_test=x[:3], y_test=y[:3])
    split = sx.datasets.npz(file, valid=0.25)
    assert [len(y) for _, y in split] == [30, 10, 3]
    np.savez(file, x_train=x, y_train=y, x_test=x[:3], y_test=y[:3], x_valid=x[:5], y_valid=y[:5])
    split = sx.datasets.npz(file)
    np.testing.assert_array_equal(split.train[0], x)
    np.testing.assert_array_equal(split.valid[1], y[:5])


def test_npz_says_what_is_wrong(tmp_path):
    file, x = tmp_path / "mine.npz", np.zeros((40, 2))
    with pytest.raises(FileNotFoundError, match="there is no file .*mine.npz"):
        sx.datasets.npz(file)
    for arrays, message in (
        ({"a": x}, r"holds neither x and y nor x_train and y_train, only \['a'\]"),
        ({"x": x}, "holds no y, only"),
        ({"x": x, "y": x[1:]}, "need the same rows, got shapes"),
        ({"x": x[:3], "y": x[:3]}, "valid = 0.1 leaves a part of the 3 rows"),
    ):
        np.savez(file, **arrays)
        with pytest.raises(ValueError, match=message):
            sx.datasets.npz(file)
    np.savez(file, x=x, y=x)
    for arguments, message in (
        ({"valid": 0.5, "test": 0.5}, "leave none of the 40 rows"),
        ({"test": 0}, "test must be a share of the rows, between 0 and 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            sx.datasets.npz(file, **arguments)
    file.write_text("no archive")
    with pytest.raises(ValueError, match="is no .npz file of NumPy arrays"):
        sx.datasets.npz(file)
    np.savez(tmp_path / "uci_tabular.npz", airfoil=x)
    with pytest.raises(ValueError, match=r"holds no array 'energy', only \['airfoil'\]"):
        sx.datasets.uci("energy", tmp_path)


@pytest.mark.parametrize("packed", [False, True])
def test_text_is_predicted_once(packed, tmp_path):
    content = "".join(np.random.default_rng(0).choice(list("abc\r\né😀"), 1000))
    file = tmp_path / ("mine.txt.gz" if packed else "mine.txt")
    file.write_bytes(gzip.compress(content.encode()) if packed else content.encode())
    text = sx.datasets.text(file, context=16)
    assert text.vocabulary == "".join(sorted(set("abc\r\né😀")))
    for (x, y), (begin, end) in zip(text[:3], [(0, 900), (900, 950), (950, 1000)], strict=True):
        assert x.dtype == np.uint8 and x.shape == y.shape == ((end - begin - 1) // 16, 16)
        assert text.decode(x.ravel()) == content[begin : begin + x.size]
        assert text.decode(y.ravel()) == content[begin + 1 : begin + 1 + x.size]
    np.testing.assert_array_equal(text.encode(content[:16]), text.train[0][0])
    with pytest.raises(ValueError, match="the character 'z', which is not in the vocabulary"):
        text.encode("abz")


def test_overlapping_windows_count_every_character_once(tmp_path):
    (tmp_path / "mine.txt").write_text("".join(np.random.default_rng(0).choice(list("ab"), 1000)))
    text = sx.datasets.text(tmp_path / "mine.txt", context=16, stride=4)
    x, y, weight = text.train
    assert len(x) == len(weight) == (900 - 17) // 4 + 1
    np.testing.assert_array_equal(x[1][:12], x[0][4:])
    np.testing.assert_array_equal(y[:, :-1], x[:, 1:])
    # But for the ends.
    assert float(weight.sum()) * 16 == pytest.approx(900, abs=16)
    plain = sx.datasets.text(tmp_path / "mine.txt", context=16)
    np.testing.assert_array_equal(text.valid[0], plain.valid[0])
    np.testing.assert_array_equal(plain.train[0], x[::4])


def test_text_says_what_is_wrong(tmp_path):
    file = tmp_path / "mine.txt"
    with pytest.raises(FileNotFoundError, match="there is no file"):
        sx.datasets.text(file)
    file.write_text("abc" * 100)
    for arguments, message in (
        ({"context": 20}, "the valid part of .* has 15 characters, and needs 21"),
        ({"context": 4, "stride": 5}, "stride must be from 1 to context = 4"),
        ({"fractions": (0.9, 0.1)}, "leave no text for testing"),
        ({"fractions": 0.9}, "fractions must be two shares"),
    ):
        with pytest.raises(ValueError, match=message):
            sx.datasets.text(file, **arguments)
    file.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ValueError, match="is no text in UTF-8"):
        sx.datasets.text(file)
    file.write_bytes(b"")
    with pytest.raises(ValueError, match="the train part of .* has 0 characters"):
        sx.datasets.text(file)


def test_images_are_turned_as_they_were_held_and_deep_ones_refused(tmp_path):
    (tmp_path / "a").mkdir()
    halves = np.zeros((8, 8, 3), np.uint8)
    halves[4:] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(halves).save(tmp_path / "a" / "held.png", exif=exif)
    loaded = sx.datasets.image_folder(tmp_path, 8)
    np.testing.assert_array_equal(loaded.x[0], halves[::-1])
    Image.fromarray(np.full((8, 8), 65535, np.uint16)).save(tmp_path / "a" / "deep.png")
    with pytest.raises(ValueError, match="deep.png has more than 8 bits a pixel"):
        sx.datasets.image_folder(tmp_path, 8)


def test_damaged_files_are_named(tmp_path):
    good = tmp_path / "good.npz"
    np.savez_compressed(good, x=np.zeros((50, 3)), y=np.arange(50))
    content = good.read_bytes()
    flipped = bytearray(content)
    flipped[60] ^= 255
    for name, data in (("empty", b""), ("short", content[: len(content) // 2]), ("flipped", bytes(flipped))):
        path = tmp_path / f"{name}.npz"
        path.write_bytes(data)
        with pytest.raises(ValueError, match=f"{name}.npz is no .npz file of NumPy arrays, or damaged"):
            sx.datasets.npz(path)
    np.savez(tmp_path / "objects.npz", x=np.array([None] * 50), y=np.arange(50))
    with pytest.raises(ValueError, match="objects.npz is no .npz file"):
        sx.datasets.npz(tmp_path / "objects.npz")


def test_cifar100_is_not_cifar10(tmp_path):
    np.savez(tmp_path / "cifar100.npz", x=1)
    with pytest.raises(FileNotFoundError, match=r"holds no cifar10"):
        sx.datasets.images("cifar10", tmp_path)


def test_tables_are_looked_at(folder):
    directory, table = folder
    with pytest.raises(ValueError, match="fractions must be the shares of training and validation rows"):
        sx.datasets.uci("airfoil", directory, fractions=(0.6, 0.1, 0.1))
    with pytest.raises(ValueError, match="seed must not be negative"):
        sx.datasets.uci("airfoil", directory, seed=-1)
    np.savez(directory / "smile_permutations.npz", airfoil_rng3=np.arange(40) // 2)
    with pytest.raises(ValueError, match="airfoil_rng3 is no order of the 40 rows"):
        sx.datasets.uci("airfoil", directory, seed=3)
    np.savez(directory / "uci_tabular.npz", airfoil=np.where(np.arange(6) == 2, 1.0, table))
    assert not np.any(sx.datasets.uci("airfoil", directory).train[0][:, 2])
    table = table.copy()
    table[3, 1] = np.nan
    np.savez(directory / "uci_tabular.npz", airfoil=table)
    with pytest.raises(ValueError, match="the table must be finite"):
        sx.datasets.uci("airfoil", directory)


def test_files_of_the_system_and_damaged_images(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (20, 10), "red").save(tmp_path / name / "1.png")
        (tmp_path / name / "._1.png").write_bytes(b"resource fork")
    assert sx.datasets.image_folder(tmp_path, 8).x.shape == (2, 8, 8, 3)
    whole = (tmp_path / "dog" / "1.png").read_bytes()
    (tmp_path / "dog" / "1.png").write_bytes(whole[:40])
    with pytest.raises(ValueError, match="dog/1.png cannot be read as an image"):
        sx.datasets.image_folder(tmp_path, 8)


def test_images_to_test_on_need_no_training_images(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "imagenette2" / "val" / name).mkdir(parents=True)
        Image.new("RGB", (20, 10), "red").save(tmp_path / "imagenette2" / "val" / name / "1.png")
    x, y = sx.datasets.test_images("imagenette", tmp_path, image_size=8)
    assert x.shape == (2, 8, 8, 3) and y.tolist() == [0, 1]
