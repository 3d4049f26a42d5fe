import errno
import os
import threading
import unicodedata
import warnings
import weakref
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from asic3d import collection as collection_module
from asic3d import decoding, photo_folder, scratch
from asic3d.collection import Collection, load_collection, load_photo
from asic3d.errors import CollectionError, CollectionWarning, MemoryLimitError

DATA = Path(__file__).parents[2] / "shared" / "data"


def scene(seed: int = 0, size: tuple[int, int] = (60, 40)) -> Image.Image:
    """Coarse noise, another for each seed, of this (width, height)."""
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize(size, Image.Resampling.BICUBIC)


def put(folder: Path, *names: str, size: tuple[int, int] = (60, 40)) -> Path:
    """A photo of each name, no two the same."""
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        scene(seed, size).save(folder / name)
    return folder


def disc(size: tuple[int, int] = (60, 40)) -> np.ndarray:
    """(h, w) bool: a disc left of the middle."""
    y, x = np.mgrid[: size[1], : size[0]]
    return (x - size[0] * 0.3) ** 2 + (y - size[1] * 0.5) ** 2 < (min(size) * 0.25) ** 2


def put_mask(path: Path, mask: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask.astype(np.uint8) * 255).save(path)


def refused(*args, **options) -> str:
    with pytest.raises(CollectionError) as caught:
        load_collection(*args, **options)
    return str(caught.value)


def warned(*args, **options) -> tuple[Collection, list[str]]:
    """The collection and what it warned of, by both ways."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loaded = load_collection(*args, **options)
    assert [warning.category for warning in caught] == [CollectionWarning] * len(caught)
    assert [warning.filename for warning in caught] == [__file__] * len(caught)
    assert [str(warning.message) for warning in caught] == list(loaded.warnings)
    return loaded, list(loaded.warnings)


# --- photos and their names


def test_photos_of_different_sizes_in_natural_order(tmp_path):
    put(tmp_path, "IMG_10.jpg", "IMG_9.JPG", "img_1.PNG", "b/2.webp", "b/10.tif")
    scene(9, (1600, 900)).save(tmp_path / "large.bmp")
    loaded = load_collection(tmp_path)
    assert loaded.names == ("b/2.webp", "b/10.tif", "img_1.PNG", "IMG_9.JPG", "IMG_10.jpg", "large.bmp")
    assert loaded.warnings == ()
    assert loaded.left_out == {}
    assert loaded.root == tmp_path
    assert loaded.sizes[-2:] == ((60, 40), (1600, 900))
    assert [photo.pixels.shape for photo in loaded][-2:] == [(40, 60, 3), (576, 1024, 3)]
    assert loaded["b/10.tif"].path == tmp_path / "b" / "10.tif"
    assert loaded[-1].read().shape == (900, 1600, 3)
    assert loaded[-1].read(160).shape == (90, 160, 3)
    assert all(photo.mask is None and photo.read_mask() is None for photo in loaded)


def test_odd_names(tmp_path):
    names = {"a b.jpg", "ünï/cödé 写真.jpg", "line\nbreak.jpg", "12:30.jpg", "a..b.jpg", "#%&'\".jpg"}
    put(tmp_path, *(names - {"line\nbreak.jpg"}))
    scene(7).save(str(tmp_path / "line\nbreak.jpg"))
    assert set(load_collection(tmp_path).names) == names


def test_a_name_in_either_unicode_form(tmp_path):
    apart = unicodedata.normalize("NFD", "é.jpg")
    put(tmp_path, apart, "b.jpg")
    loaded = load_collection(tmp_path)
    assert loaded.index(unicodedata.normalize("NFC", "é.jpg")) == loaded.names.index(apart)
    assert loaded["b.jpg"].name == "b.jpg"


def test_unknown_name(tmp_path):
    loaded = load_collection(put(tmp_path, "left/IMG_1.jpg", "left/IMG_2.jpg", "x.jpg"))
    with pytest.raises(CollectionError) as caught:
        loaded.index("IMG_1.jpg")
    assert str(caught.value) == "There is no photo 'IMG_1.jpg' in the collection. Did you mean 'left/IMG_1.jpg'?"
    with pytest.raises(CollectionError) as caught:
        loaded["zebra"]
    assert str(caught.value) == (
        "There is no photo 'zebra' in the collection. The photos are 'left/IMG_1.jpg', 'left/IMG_2.jpg', 'x.jpg'."
    )


def test_a_name_that_is_no_text(tmp_path):
    put(tmp_path, "a.jpg", "b.jpg")
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg")).write_bytes((tmp_path / "a.jpg").read_bytes())
    except OSError:
        pytest.skip("this file system takes only names that are valid UTF-8")
    loaded, texts = warned(tmp_path)
    assert texts == [r"'caf\udce9.jpg' is left out: its name is not valid UTF-8; rename it."]
    assert loaded.left_out == {r"caf\udce9.jpg": "its name is not valid UTF-8; rename it"}


def test_a_name_that_leaves_no_room_for_the_mask(tmp_path):
    put(tmp_path, "a.jpg", f"{'b' * 247}.jpg")
    try:
        put(tmp_path, f"{'c' * 248}.jpg")
    except OSError:
        pytest.skip("this file system takes no such names")
    loaded, _ = warned(tmp_path)
    assert loaded.names == ("a.jpg", f"{'b' * 247}.jpg")
    why = "its name is too long for its mask, which ends in .png; at most 251 bytes fit"
    assert loaded.left_out == {f"{'c' * 248}.jpg": why}


def test_photos_that_changed_since_they_were_loaded_are_known(tmp_path):
    put(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    loaded = load_collection(tmp_path)
    assert loaded.changed() == ()
    (tmp_path / "a.jpg").unlink()
    (tmp_path / "b.jpg").write_bytes((tmp_path / "c.jpg").read_bytes() + b"0")
    assert loaded.changed() == ("a.jpg", "b.jpg")


def test_what_is_not_a_photo_is_passed_over(tmp_path):
    put(tmp_path, "a.jpg", "b.jpg", ".hidden.jpg", "._a.jpg", ".cache/c.jpg", "__MACOSX/a.jpg", "@eaDir/a.jpg/s.jpg")
    put(tmp_path, "asic3d_out/figures/f.png", "other_run/masks/z.png")
    (tmp_path / "asic3d_out" / "run.json").write_text("{}")
    (tmp_path / "other_run" / ".asic3d").write_text("")
    (tmp_path / "notes.txt").write_text("x")
    assert load_collection(tmp_path).names == ("a.jpg", "b.jpg")


def test_masks_beside_the_photos_are_not_photos(tmp_path):
    put(tmp_path, "images/a.jpg", "images/b.jpg", "masks/a.jpg.png", "masks/b.png", "masks/carnival.jpg")
    loaded, texts = warned(tmp_path)
    assert loaded.names == ("images/a.jpg", "images/b.jpg", "masks/carnival.jpg")
    assert texts == [
        "Taken for masks, not photos: 'masks/a.jpg.png', 'masks/b.png'. Give their folder with --masks (masks= in "
        "Python) to use them."
    ]


def test_raw_files_are_named_unless_they_come_with_a_photo(tmp_path):
    put(tmp_path, "a.jpg", "b.jpg")
    for name in ("a.CR2", "c.nef"):
        (tmp_path / name).write_bytes(b"raw")
    loaded, _ = warned(tmp_path)
    assert loaded.left_out == {"c.nef": "it is a camera's raw file; export it as JPEG first"}


def test_links(tmp_path):
    put(tmp_path / "elsewhere", "c.jpg", "d.jpg")
    photos = put(tmp_path / "photos", "a.jpg", "sub/b.jpg")
    (photos / "loop").symlink_to(photos)
    (photos / "sub" / "up").symlink_to(tmp_path)
    (photos / "itself.jpg").symlink_to(photos / "itself.jpg")
    (photos / "nowhere.jpg").symlink_to(tmp_path / "gone.jpg")
    (photos / "linked").symlink_to(tmp_path / "elsewhere")
    loaded, _ = warned(photos)
    assert sorted(loaded.names) == ["a.jpg", "linked/c.jpg", "linked/d.jpg", "sub/b.jpg"]
    why = "it is a link that leads nowhere, or no ordinary file"
    assert loaded.left_out == {"itself.jpg": why, "nowhere.jpg": why}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are not known here")
def test_a_named_pipe_does_not_block(tmp_path):
    os.mkfifo(put(tmp_path, "a.jpg", "b.jpg") / "pipe.jpg")
    assert "pipe.jpg" in warned(tmp_path)[0].left_out


# --- folders that don't do


def test_folder_that_is_missing_or_a_file(tmp_path):
    assert refused(tmp_path / "gone") == (
        f"There is no folder '{tmp_path / 'gone'}'. Give the folder that holds the photos."
    )
    photo = put(tmp_path, "a.jpg") / "a.jpg"
    assert refused(photo) == f"'{photo}' is a file. Give the folder that holds the photos."
    assert refused(tmp_path, masks=tmp_path / "m") == (
        f"There is no folder '{tmp_path / 'm'}'. Give the folder that holds the masks."
    )
    assert refused("a\0b") == r"There is no folder 'a\x00b'. Give the folder that holds the photos."
    assert refused("a" * 5000) == (
        f"The folder '{'a' * 5000}' can't be reached (File name too long). Give the folder that holds the photos."
    )


def test_empty_folder(tmp_path):
    assert refused(tmp_path) == (
        f"There is no photo in '{tmp_path}' that can be used; at least 2 photos of one object are needed."
    )


def test_one_photo(tmp_path):
    put(tmp_path, "a.jpg")
    (tmp_path / "b.jpg").write_bytes(b"")
    assert refused(tmp_path) == (
        f"There is only one photo, 'a.jpg', in '{tmp_path}' that can be used; at least 2 photos of one object are "
        "needed. Left out: 'b.jpg': the file is empty."
    )


def test_folder_without_permission(tmp_path, monkeypatch):
    put(tmp_path, "a.jpg", "b.jpg", "locked/c.jpg")
    scandir = os.scandir
    locked = {tmp_path / "locked"}

    def guarded(path):
        if Path(path) in locked:
            raise PermissionError(errno.EACCES, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(photo_folder.os, "scandir", guarded)
    assert warned(tmp_path)[0].left_out == {"locked/": "the folder can't be read (Permission denied)"}
    locked.add(tmp_path)
    assert refused(tmp_path) == f"The folder '{tmp_path}' can't be read: Permission denied."


# --- photos that don't do


def test_unreadable_photos_are_named_and_left_out(tmp_path):
    put(tmp_path, "a.jpg", "b.png")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text\n.jpg").write_text("not a photo")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:-300])
    Image.new("L", (1, 1)).save(tmp_path / "dot.png")
    Image.new("L", (1, 5000)).save(tmp_path / "line.png")
    loaded, texts = warned(tmp_path)
    assert loaded.names == ("a.jpg", "b.png")
    assert loaded.left_out == {
        "cut.jpg": "the file is cut off or damaged",
        "dot.png": "it is 1 x 1 pixels; each side needs at least 16",
        "empty.jpg": "the file is empty",
        "line.png": "it is 1 x 5000 pixels; each side needs at least 16",
        "text\n.jpg": "it is not a photo: its content is none of JPEG, PNG, WebP, TIFF, BMP, GIF, HEIC",
    }
    assert texts[2] == "'empty.jpg' is left out: the file is empty."
    assert texts[4].startswith(r"'text\n.jpg' is left out: it is not a photo")
    assert refused(tmp_path, strict=True) == (
        "'cut.jpg' can't be used: the file is cut off or damaged. Repair or remove it, or leave out "
        "--strict (strict=True in Python)."
    )


def test_duplicates_stay_and_are_named(tmp_path):
    put(tmp_path, "a.jpg", "b.jpg")
    for name in ("c.jpg", "d.png"):
        (tmp_path / name).write_bytes((tmp_path / "a.jpg").read_bytes())
    loaded, texts = warned(tmp_path)
    assert [photo.duplicate_of for photo in loaded] == [None, None, "a.jpg", "a.jpg"]
    assert texts == ["The same file as 'a.jpg': 'c.jpg', 'd.png'."]
    assert loaded["c.jpg"].sha256 == loaded["a.jpg"].sha256 != loaded["b.jpg"].sha256


def test_all_photos_identical(tmp_path):
    for name in ("a.png", "b.bmp", "c.jpg"):
        scene(0).save(tmp_path / name, quality=100)
    loaded, texts = warned(tmp_path)
    assert len(loaded) == 3
    assert texts == ["All 3 photos show the same picture: nothing can be learned by comparing them."]


def test_black_photos(tmp_path):
    put(tmp_path, "a.jpg")
    for name in ("b.jpg", "c.jpg"):
        Image.new("RGB", (50, 60)).save(tmp_path / name)
    assert warned(tmp_path)[1] == [
        "The same file as 'b.jpg': 'c.jpg'.",
        "Of one colour all over, so that nothing can be matched in it: 'b.jpg', 'c.jpg'.",
    ]


def test_noise_is_not_the_same_picture(tmp_path):
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(0, 256, (400, 600, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{seed}.png")
    wanted = "Nothing but grain, without a shape that could be matched: '0.png', '1.png', '2.png'."
    assert warned(tmp_path)[1] == [wanted]


def test_a_smooth_gradient_is_not_called_grain(tmp_path):
    x, y = np.meshgrid(np.linspace(0, 255, 320), np.linspace(0, 255, 240))
    for name, pixels in (("a.png", [x, y, 0 * x]), ("b.jpg", [255 - x, 0 * x, y]), ("c.png", [0.2 * y, x, 0.3 * x])):
        Image.fromarray(np.dstack(pixels).astype(np.uint8)).save(tmp_path / name)
    wanted = "Nothing but smooth shading, without a shape that could be matched: 'a.png', 'b.jpg', 'c.png'."
    assert warned(tmp_path)[1] == [wanted]


def test_coloured_photos_are_flat_too(tmp_path):
    for name, colour in (("a.png", (200, 30, 30)), ("b.png", (20, 250, 0)), ("c.png", (20, 20, 20))):
        Image.new("RGB", (60, 50), colour).save(tmp_path / name)
    wanted = "Of one colour all over, so that nothing can be matched in it: 'a.png', 'b.png', 'c.png'."
    assert warned(tmp_path)[1] == [wanted]


def test_a_small_thing_that_moves_is_not_the_same_picture(tmp_path):
    for place in range(3):
        photo = Image.new("RGB", (600, 400), (240, 240, 240))
        photo.paste((60, 60, 120), (100 + 150 * place, 200, 114 + 150 * place, 214))
        photo.save(tmp_path / f"{place}.png")
    assert warned(tmp_path)[1] == []


def test_many_photos(tmp_path):
    put(tmp_path, *(f"{i}.png" for i in range(101)), size=(20, 16))
    loaded, texts = warned(tmp_path)
    assert len(loaded) == 101
    assert texts == ["There are 101 photos: aligning more than 100 takes minutes."]
    scene(200, (20, 16)).save(tmp_path / "new.png")
    assert list(loaded.with_photo(load_photo(tmp_path / "new.png")).warnings) == texts  # adding one does not


# --- masks


def test_masks_under_both_names_and_in_sub_folders(tmp_path):
    photos = put(tmp_path / "photos", "a.JPG", "b.jpg", "sub/ü.jpg", "c.jpg")
    put_mask(tmp_path / "masks" / "a.png", disc())
    put_mask(tmp_path / "masks" / "b.jpg.png", disc())
    put_mask(tmp_path / "masks" / "b.png", np.ones((40, 60)))  # the longer name is the better match
    put_mask(tmp_path / "masks" / "sub" / (unicodedata.normalize("NFD", "ü") + ".PNG"), disc())
    loaded, texts = warned(photos, masks=tmp_path / "masks")
    for name in ("a.JPG", "b.jpg", "sub/ü.jpg"):
        mask = loaded[name].mask
        assert mask.dtype == np.uint8
        assert not mask.flags.writeable
        assert (mask == disc() * 255).all(), name
        assert (loaded[name].read_mask() == disc() * 255).all()
    assert loaded["c.jpg"].mask is None
    assert texts == ["Without a mask, so that the object is found from the photos alone: 'c.jpg'."]


def test_mask_folder_inside_the_photo_folder(tmp_path):
    put(tmp_path, "a.jpg", "b.jpg")
    for name in ("a", "b"):
        put_mask(tmp_path / "cut" / f"{name}.jpg.png", disc())
    loaded = load_collection(tmp_path, masks=tmp_path / "cut")
    assert loaded.names == ("a.jpg", "b.jpg")
    assert all((photo.mask == disc() * 255).all() for photo in loaded)
    assert refused(tmp_path, masks=tmp_path) == ("The masks lie among the photos. Put them in a folder of their own.")


def test_mask_is_of_the_upright_photo(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for seed, name in enumerate(("a", "b")):
        scene(seed).rotate(90, expand=True).save(tmp_path / f"{name}.jpg", exif=exif)
        put_mask(tmp_path / "masks" / f"{name}.png", disc())
    loaded = load_collection(tmp_path, masks=tmp_path / "masks")
    assert loaded.sizes == ((60, 40), (60, 40))
    assert (loaded[0].mask == disc() * 255).all()
    put_mask(tmp_path / "masks" / "a.png", np.rot90(disc()))
    assert refused(tmp_path, masks=tmp_path / "masks") == (
        f"The mask '{tmp_path / 'masks' / 'a.png'}' is 40 x 60 pixels, but the photo 'a.jpg' is 60 x 40 upright. "
        "It seems to show the photo as stored, before its EXIF orientation. "
        "Make the mask in the size of the upright photo."
    )


def test_a_turned_mask_of_a_photo_that_was_not_turned_is_not_laid_to_exif(tmp_path):
    put(tmp_path, "a.png", "b.png")
    put_mask(tmp_path / "masks" / "a.png", np.rot90(disc()))
    message = refused(tmp_path, masks=tmp_path / "masks")
    assert "is 40 x 60 pixels, but the photo 'a.png' is 60 x 40 upright. Make the mask" in message
    assert "EXIF" not in message


@pytest.mark.parametrize("factor", [0.25, 0.5, 2])
def test_mask_of_another_resolution_is_resized(tmp_path, factor):
    put(tmp_path, "a.png", "b.png", size=(1200, 800))
    size = (int(1200 * factor), int(800 * factor))
    for name in ("a", "b"):
        put_mask(tmp_path / "m" / f"{name}.png", disc(size))
    photo = load_collection(tmp_path, masks=tmp_path / "m")[0]
    assert photo.mask.shape == photo.pixels.shape[:2] == (683, 1024)
    assert (photo.mask != disc((1024, 683)) * 255).mean() < 0.002
    assert set(np.unique(photo.mask)) == {0, 255}
    assert photo.read_mask().shape == (800, 1200)
    assert (photo.read_mask() != disc((1200, 800)) * 255).mean() < 0.002


def test_a_tiny_object_stays_in_the_mask(tmp_path):
    put(tmp_path, "a.bmp", "b.bmp", size=(2500, 200))
    mask = np.zeros((200, 2500))
    mask[100, 1200] = 1
    for name in ("a", "b"):
        put_mask(tmp_path / "m" / f"{name}.png", mask)
    assert load_collection(tmp_path, masks=tmp_path / "m")[0].mask.any()


def test_masks_that_do_not_fit(tmp_path):
    photos, masks = put(tmp_path / "photos", "a.jpg", "b.jpg"), tmp_path / "masks"
    masks.mkdir()
    assert refused(photos, masks=masks) == (
        f"No mask in '{masks}' belongs to a photo. The mask of 'a.jpg' is looked for there as 'a.jpg.png' or 'a.png'."
    )
    put_mask(masks / "a.png", disc((60, 41)))
    assert refused(photos, masks=masks) == (
        f"The mask '{masks / 'a.png'}' is 60 x 41 pixels, but the photo 'a.jpg' is 60 x 40 upright. "
        "Make the mask in the size of the upright photo."
    )
    put_mask(masks / "a.png", np.zeros((40, 60)))
    assert refused(photos, masks=masks) == (
        f"The mask '{masks / 'a.png'}' of the photo 'a.jpg' is black everywhere. Paint the object white, or remove "
        "the mask."
    )
    (masks / "a.png").write_bytes(b"")
    assert refused(photos, masks=masks) == (
        f"The mask '{masks / 'a.png'}' of the photo 'a.jpg' can't be used: the file is empty."
    )


def test_one_mask_for_two_photos(tmp_path):
    photos = put(tmp_path / "photos", "a.jpg", "a.png")
    put_mask(tmp_path / "masks" / "a.png", disc())
    assert refused(photos, masks=tmp_path / "masks") == (
        "The mask 'a.png' belongs to two photos, 'a.jpg' and 'a.png'. Name the masks 'a.jpg.png' and 'a.png.png'."
    )


def test_alpha_is_a_mask_and_a_mask_file_comes_first(tmp_path):
    for seed, name in enumerate(("a.png", "b.png")):
        image = scene(seed, (1500, 1000))
        image.putalpha(Image.fromarray(disc((1500, 1000)).astype(np.uint8) * 255))
        image.save(tmp_path / name)
    photo = load_collection(tmp_path)["a.png"]
    assert photo.mask.shape == (683, 1024)
    assert (photo.mask != disc((1024, 683)) * 255).mean() < 0.002
    assert (photo.read_mask() == disc((1500, 1000)) * 255).all()
    other = ~disc((1500, 1000))
    for name in ("a.png", "b.png"):
        put_mask(tmp_path / "m" / name, other)
    assert (load_collection(tmp_path, masks=tmp_path / "m")["a.png"].read_mask() == other * 255).all()


# --- one photo, and reading again


def test_load_photo(tmp_path):
    put(tmp_path, "a.jpg")
    put_mask(tmp_path / "m.png", disc())
    photo = load_photo(tmp_path / "a.jpg", name="left/a.jpg", mask=tmp_path / "m.png")
    assert (photo.name, photo.size) == ("left/a.jpg", (60, 40))
    assert (photo.mask == disc() * 255).all()
    assert load_photo(str(tmp_path / "a.jpg")).name == "a.jpg"
    with pytest.raises(CollectionError) as caught:
        load_photo(tmp_path / "b.jpg")
    assert str(caught.value) == f"There is no file '{tmp_path / 'b.jpg'}'. Give the path of a photo."
    with pytest.raises(CollectionError) as caught:
        load_photo(tmp_path)
    assert str(caught.value) == (
        f"'{tmp_path}' is a folder. Give the photos in it, file by file: 'FOLDER/*.jpg' in a shell."
    )


def test_photo_that_changed_or_went_since(tmp_path):
    photo = load_collection(put(tmp_path, "a.png", "b.png"))["a.png"]
    assert (photo.read() == photo.pixels).all()
    scene(5).save(tmp_path / "a.png")
    with pytest.raises(CollectionError) as caught:
        photo.read()
    assert str(caught.value) == "The photo 'a.png' has changed since it was loaded; load it again."
    (tmp_path / "a.png").unlink()
    with pytest.raises(CollectionError) as caught:
        photo.read()
    assert str(caught.value) == "The photo 'a.png' can't be read any more: No such file or directory."


# --- how it is loaded


def test_two_threads_at_most_and_progress(tmp_path, monkeypatch):
    put(tmp_path, *(f"{i}.png" for i in range(6)), size=(20, 16))
    decode, threads = collection_module.decode, set()

    def watched(*args):
        threads.add(threading.get_ident())
        return decode(*args)

    monkeypatch.setattr(collection_module, "decode", watched)
    seen = []
    load_collection(tmp_path, progress=lambda step: seen.append((step.stage, step.done, step.total)))
    assert seen == [("photos", done, 6) for done in range(1, 7)]
    assert 1 <= len(threads) <= 2


def test_interrupt_stops_loading(tmp_path, monkeypatch):
    put(tmp_path, *(f"{i}.png" for i in range(12)), size=(20, 16))
    decode, decoded = collection_module.decode, []

    def interrupted(step):
        raise KeyboardInterrupt

    def counted(*args):
        decoded.append(args)
        threading.Event().wait(0.01)
        return decode(*args)

    monkeypatch.setattr(collection_module, "decode", counted)
    with pytest.raises(KeyboardInterrupt):
        load_collection(tmp_path, progress=interrupted)
    assert len(decoded) < 12


def test_real_photos():
    folder = DATA / "inthewild" / "robot_toy"
    if not folder.is_dir():
        pytest.skip(f"the development photos are not there: {folder}")
    loaded = load_collection(folder)
    assert len(loaded) == len(list(folder.iterdir()))
    assert loaded.warnings == ()


def test_a_collection_shows_itself_in_one_line(tmp_path):
    put(tmp_path, "a.png", "b.png")
    (tmp_path / "c.png").write_bytes(b"")
    with pytest.warns(CollectionWarning):
        loaded = load_collection(tmp_path)
    assert repr(loaded) == f"<Collection: 2 photos, 'a.png' to 'b.png' in '{tmp_path}', 1 left out, 1 warning>"


def test_a_large_photo_that_can_not_be_decoded_within_max_memory_is_named(tmp_path, monkeypatch):
    put(tmp_path, "a.png", "b.png")
    (tmp_path / "c").mkdir()
    scene(9, (300, 200)).save(tmp_path / "c" / "large.png")
    monkeypatch.setattr(decoding, "_LARGE", 10_000)
    assert len(load_collection(tmp_path, max_memory=100)) == 3
    with pytest.raises(MemoryLimitError) as caught:
        load_collection(tmp_path, max_memory=0.01)
    said = str(caught.value)
    assert said.startswith("'c/large.png' is too large: it has 0 megapixels: to decode them may take ")
    assert said.endswith(" GB of memory, and max_memory allows 0.01. Reduce the photo, or allow more.")


def test_few_decoded_photos_are_held_at_a_time(tmp_path, monkeypatch):
    put(tmp_path, *(f"{number:02d}.png" for number in range(40)))
    decoded, most = [], []

    def decode(*arguments):
        found = decoding.decode(*arguments)
        decoded.append(weakref.ref(found.pixels))
        most.append(sum(one() is not None for one in decoded))
        return found

    monkeypatch.setattr(collection_module, "decode", decode)
    monkeypatch.setattr(scratch, "LARGE", 0)
    loaded = load_collection(tmp_path)
    assert len(loaded) == len(decoded) == 40 and loaded["39.png"].pixels.any()
    assert max(most) <= collection_module._AHEAD + 3
    assert not any(one() is not None for one in decoded)


def test_a_photo_for_which_there_is_no_memory_is_not_left_out(tmp_path, monkeypatch):
    put(tmp_path, "a.png", "b.png", "c.png")

    def load(image):
        raise MemoryError

    monkeypatch.setattr(decoding, "_eight_bit", load)
    with pytest.raises(MemoryLimitError, match=r"^'a.png' is too large: there is not enough memory to decode it\. "):
        load_collection(tmp_path)


def test_a_large_mask_counts_for_max_memory(tmp_path, monkeypatch):
    put(tmp_path / "photos", "a.png", "b.png")
    put_mask(tmp_path / "masks" / "b.png", disc((600, 400)))
    monkeypatch.setattr(decoding, "_LARGE", 10_000)
    with pytest.raises(MemoryLimitError, match=r"^The mask '.*b\.png' is too large: "):
        load_collection(tmp_path / "photos", masks=tmp_path / "masks", max_memory=0.01)
