"""What a file declares is looked at before memory is spent on it."""

import io
import logging
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest
from PIL import Image

from temper.data import arrays, decode, files, load
from temper.errors import DataError

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)
LABELS = np.arange(6) % 2


def header(shape, dtype="|u1", content=b""):
    """A .npy file that declares one thing and holds another."""
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": dtype, "fortran_order": False, "shape": shape})
    return out.getvalue() + content


@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((10**6, 1000, 1000, 3), "|u1"), ((2**40,), "<i8"), ((-6, 4, 5, 3), "|u1"), ((5, 4, 5, 3), "|u1")],
)
def test_an_array_that_declares_another_size_than_it_has(tmp_path, kind, shape, dtype):
    with zipfile.ZipFile(tmp_path / "x.npz", "w", kind) as out:
        out.writestr("images.npy", header(shape, dtype, IMAGES.tobytes()))
        out.writestr("labels.npy", header((6,), "<i8", LABELS.tobytes()))
    with pytest.raises(DataError, match=r"x.npz: array images.npy declares -?[\d,]+ bytes, the archive has 360 for it"):
        load(str(tmp_path / "x.npz"))


def test_a_compressed_array_beyond_the_limit_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "UNPACKED", 10**6)
    path = str(tmp_path / "bomb.npz")
    np.savez_compressed(path, images=np.zeros((40, 512, 512, 3), np.uint8), labels=np.zeros(40, int))
    tracemalloc.start()
    with pytest.raises(DataError, match=r"images.npy declares 31,457,280 bytes, compressed ones may have 1,000,000"):
        load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10**6


@pytest.mark.parametrize("fortran", [False, True])
def test_a_large_array_is_mapped_and_equal(tmp_path, monkeypatch, fortran):
    path = str(tmp_path / "x.npz")
    np.savez(path, images=np.asfortranarray(IMAGES) if fortran else IMAGES, labels=LABELS)
    read = load(path)
    monkeypatch.setattr(arrays, "MAPPED", 10)
    mapped = load(path)
    assert isinstance(mapped.images.array.base, np.memmap)
    assert mapped.fingerprint() == read.fingerprint()
    assert np.array_equal(mapped.images.array, IMAGES)
    assert np.array_equal(mapped.limit(3, 0).images.array, read.limit(3, 0).images.array)


def test_limit_reads_little_of_a_mapped_array(tmp_path, monkeypatch):
    path = str(tmp_path / "x.npz")
    np.savez(path, images=np.zeros((400, 128, 128, 3), np.uint8), labels=np.arange(400) % 2)
    monkeypatch.setattr(arrays, "MAPPED", 10**6)
    tracemalloc.start()
    load(path).limit(10, 0).fingerprint()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * 10**6


@pytest.mark.parametrize(
    ("images", "labels"), [("x", "y"), ("X", "y"), ("data", "targets"), ("x_test", "y_test"), ("image", "label")]
)
def test_the_usual_names_of_arrays_are_known(tmp_path, images, labels):
    np.savez(tmp_path / "a.npz", **{images: IMAGES, labels: LABELS})
    np.savez(tmp_path / "b.npz", images=IMAGES, labels=LABELS)
    assert load(str(tmp_path / "a.npz")).fingerprint() == load(str(tmp_path / "b.npz")).fingerprint()


@pytest.mark.parametrize(
    "named", [["x", "y", "x_test", "y_test"], ["pixels", "truth"], ["x_train", "y_train", "x_test"], ["images", "y"]]
)
def test_other_names_are_said(tmp_path, named):
    np.savez(tmp_path / "a.npz", **dict.fromkeys(named, IMAGES))
    with pytest.raises(DataError, match=rf"has no array '(images|labels)' \(it has {', '.join(named)}\): add it"):
        load(str(tmp_path / "a.npz"))


@pytest.mark.parametrize("packed", [True, False])
def test_an_image_file_that_is_too_large_is_refused_before_it_is_read(tmp_path, monkeypatch, packed):
    for name in ("a", "b"):
        (tmp_path / "in" / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "in" / name / "0.png")
    (tmp_path / "in" / "b" / "9.png").write_bytes(bytes(20_000_000))
    source = tmp_path / "in"
    if packed:
        source = tmp_path / "in.zip"
        with zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED) as out:
            for path in sorted((tmp_path / "in").rglob("*.png")):
                out.write(path, str(path.relative_to(tmp_path / "in")))
    monkeypatch.setattr(files, "MAX_BYTES", 10**6)
    tracemalloc.start()
    with pytest.raises(DataError, match=r"b/9.png: has 20,000,000 bytes, an image may have 1,000,000"):
        load(str(source))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * 10**6


def test_a_large_picture_is_one_line(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    out = io.BytesIO()
    Image.new("L", (9, 9)).save(out, "PNG")
    with warnings.catch_warnings(record=True) as seen, caplog.at_level(logging.WARNING, "temper"):
        decode.quiet_pillow()
        out.seek(0)
        decode.check_header(io.BytesIO(out.getvalue()), "some.png")
        assert decode.decode(out, "some.png").shape == (9, 9, 1)
    assert not seen
    assert [record.message for record in caplog.records] == ["some.png: has 81 pixels, more than 50: is it meant?"]
