import dataclasses
import gc
import itertools
import threading
from collections import Counter

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import skimage.data
import torch
from PIL import Image

from controlnet.trainer.batch import DrawOptions, StoredRow, decode_image, decode_map, draw
from controlnet.trainer.index import scan
from controlnet.trainer.loader import Loader
from pipeline.batch import encode_image
from schemas.dataset import open_dataset
from schemas.errors import ConfigError
from schemas.latents import LatentInfo
from schemas.pixels import decode_stored_map, decode_stored_rgb, encode_bilevel_png, encode_map_png
from schemas.records import key_of
from tests.pipeline.every_kind import EVERY_KIND, person, row_of_every_kind
from tests.pipeline.handmade import encoded, photograph, row_of, without_map, write_dataset

ALWAYS = DrawOptions(prompt_dropout=0.0, flip=1.0)
NEVER = DrawOptions(prompt_dropout=0.0)
LATENTS = LatentInfo(
    base="nano",
    vae_sha256="5a" * 32,
    channels=4,
    factor=8,
    scaling_factor=0.18215,
    shift_factor=None,
    flips=True,
    precision="fp32",
)


def marked(number, width=64, height=64):
    """A picture that no other equals and whose mirror image is another one."""
    rgb = photograph("coffee", 96)[number % 16 : number % 16 + height, number // 16 :][:, :width]
    return np.ascontiguousarray(rgb)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """57 rows in row groups of 5: square ones, nine wide ones, two without a map."""
    root = tmp_path_factory.mktemp("set")
    rows = []
    for number in range(57):
        rgb = marked(number, width=64 if number % 7 else 72)
        row = row_of(rgb, f"{number}.jpg", text=f"number {number}" if number % 5 else None)
        row |= {"crop_x": number, "crop_y": 2, "original_width": 300, "original_height": 200}
        rows.append(without_map(row) if number in {3, 31} else row)
    write_dataset(root, {"train": rows}, row_group_rows=5)
    return root


@pytest.fixture
def index(folder):
    return scan(str(folder), split="train", condition="canny", wants_latents=False)


def loader_of(index, **changes):
    usual = {
        "seed": 3,
        "batch_size": 4,
        "options": DrawOptions(),
        "latent_channels": 4,
        "latent_factor": 8,
        "shuffle_groups": 3,
    }
    return Loader(index, **(usual | changes))


def equal(first, second):
    """Whether two batches are the same to the bit."""
    pairs = [
        (getattr(first, field.name), getattr(second, field.name))
        for field in dataclasses.fields(first)
    ]
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)


def threads():
    return [one.name for one in threading.enumerate() if one.name.startswith("controlset-")]


def test_pixels_texts_and_sizes_are_those_that_are_stored(folder, index):
    stored = {one.key: one for one in open_dataset(str(folder))}
    seen = Counter()
    for batch in loader_of(index, options=NEVER).iterate(0):
        assert batch.hint_BCHW.dtype == batch.image_BHWC.dtype == torch.uint8
        assert batch.hint_BCHW.min() >= 0
        for n, key in enumerate(batch.keys):
            one = stored[key]
            assert np.array_equal(batch.image_BHWC[n].numpy(), one.image)
            assert np.array_equal(batch.hint_BCHW[n].numpy(), one.maps["canny"][None])
            assert batch.texts[n] == (one.text or "")
            assert batch.original_size_B2[n].tolist() == [200, 300]
            assert batch.crop_B2[n].tolist() == [2, one.fields["crop_x"]]
            assert batch.size_B2[n].tolist() == list(one.image.shape[:2])
        seen.update(batch.keys)
        assert len(batch) == 4
    assert set(seen.values()) == {1}
    assert sum(seen.values()) == 4 * (47 // 4 + 8 // 4)  # full batches of each size
    assert "" in {one.text or "" for one in stored.values() if one.key in seen}


def test_draws_are_those_of_the_key(index):
    batch = next(loader_of(index).iterate(2))
    height, width = (side // 8 for side in batch.image_BHWC.shape[1:3])
    for n, key in enumerate(batch.keys):
        one = draw(3, 2, key, latent_shape=(4, height, width), options=DrawOptions())
        assert np.array_equal(batch.noise_BCHW[n].numpy(), one.noise_CHW)
        assert np.array_equal(batch.posterior_BCHW[n].numpy(), one.posterior_CHW)
        assert batch.timestep_B[n] == one.timestep
        assert one.drop_prompt <= (batch.texts[n] == "")
    assert batch.offset_BC11 is None
    offset = DrawOptions(offset_noise=True)
    assert next(loader_of(index, options=offset).iterate(0)).offset_BC11.shape == (4, 4, 1, 1)


def test_an_epoch_can_be_repeated_and_the_next_one_is_another(index):
    loader = loader_of(index, workers=3)
    once, twice, other = (list(loader.iterate(epoch)) for epoch in (1, 1, 2))
    assert all(equal(a, b) for a, b in zip(once, twice, strict=True))
    assert [one.index for one in once] == list(range(len(loader.plan(1))))
    assert [one.keys for one in once] != [one.keys for one in other]


@pytest.mark.parametrize("world", [2, 4])
def test_parts_of_all_processes_together_are_the_batch_of_one(index, world):
    whole = list(loader_of(index).iterate(1))
    ranks = [list(loader_of(index, rank=rank, world=world).iterate(1)) for rank in range(world)]
    for number, batch in enumerate(whole):
        parts = [rank[number] for rank in ranks]
        assert [key for part in parts for key in part.keys] == batch.keys
        for name in ("hint_BCHW", "image_BHWC", "noise_BCHW", "timestep_B", "size_B2"):
            joined = torch.cat([getattr(part, name) for part in parts])
            assert torch.equal(joined, getattr(batch, name))
        assert {part.index for part in parts} == {number}
        assert not torch.equal(parts[0].noise_BCHW, parts[1].noise_BCHW)


@pytest.mark.parametrize("world", [1, 3])
def test_a_row_that_waited_over_epochs_comes_with_the_noise_of_its_own(index, world):
    # Nine wide rows and batches of twelve: the first is full in the second epoch.
    parts = [loader_of(index, batch_size=12, rank=rank, world=world) for rank in range(world)]
    assert all(len(part.plan(0)) == 3 for part in parts)
    *usual, few = zip(*(part.iterate(1) for part in parts), strict=True)
    assert all(part.size_B2[0].tolist() == [64, 64] for batch in usual for part in batch)
    drawn_in = parts[0].plan(1).drawn_in[-1].tolist()
    assert drawn_in == [0] * 9 + [1] * 3
    keys = [key for part in few for key in part.keys]
    assert sorted(Counter(keys).values()) == [1] * 6 + [2] * 3
    noise_BCHW = torch.cat([part.noise_BCHW for part in few])
    for number, (key, turn) in enumerate(zip(keys, drawn_in, strict=True)):
        wanted = draw(3, turn, key, latent_shape=(4, 8, 9), options=DrawOptions())
        assert np.array_equal(noise_BCHW[number].numpy(), wanted.noise_CHW)
    assert {(part.epoch, part.index) for part in few} == {(1, 3)}


@pytest.mark.parametrize("batch_size", [4, 12])
@pytest.mark.parametrize("epoch", [0, 3])
def test_a_start_in_the_middle_continues_exactly(index, epoch, batch_size):
    loader = loader_of(index, batch_size=batch_size)
    whole = list(loader.iterate(epoch))
    for start in range(len(whole) + 1):
        rest = list(loader.iterate(epoch, start))
        assert all(equal(a, b) for a, b in zip(whole[start:], rest, strict=True))


def test_prompts_and_conditions_are_dropped_as_drawn_and_anew_in_every_epoch(index):
    options = DrawOptions(prompt_dropout=0.5, condition_dropout=0.5)
    dropped = []
    for epoch in range(4):
        for batch in loader_of(index, options=options).iterate(epoch):
            for n, key in enumerate(batch.keys):
                gone = bool(batch.drop_condition_B[n])
                assert (batch.hint_BCHW[n].max() == 0) == gone
                dropped.append((key, epoch, gone, batch.texts[n] == ""))
    conditions = [gone for _, _, gone, _ in dropped]
    assert abs(np.mean(conditions) - 0.5) < 5 * np.sqrt(0.25 / len(conditions))
    prompts = np.mean([empty for *_, empty in dropped])  # a fifth has no text anyway
    assert abs(prompts - 0.6) < 5 * np.sqrt(0.24 / len(dropped))
    by_epoch = [{key for key, e, gone, _ in dropped if e == epoch and gone} for epoch in (0, 1)]
    assert by_epoch[0] != by_epoch[1]


def test_a_flip_mirrors_image_and_map_together(index):
    plain = {
        key: (batch.image_BHWC[n], batch.hint_BCHW[n])
        for batch in loader_of(index, options=NEVER).iterate(0)
        for n, key in enumerate(batch.keys)
    }
    for batch in loader_of(index, options=ALWAYS).iterate(0):
        for n, key in enumerate(batch.keys):
            image_HWC, hint_CHW = plain[key]
            assert torch.equal(batch.image_BHWC[n], image_HWC.flip(1))
            assert torch.equal(batch.hint_BCHW[n], hint_CHW.flip(2))
            assert not torch.equal(image_HWC, image_HWC.flip(1))


def test_a_marker_pixel_stays_on_its_place_of_the_image(tmp_path):
    rgb = np.zeros((64, 64, 3), np.uint8)
    rgb[10:18, 40:48] = 255
    edges = np.zeros((64, 64), np.uint8)
    edges[10:18, 40:48] = 255
    cell = {"bytes": encode_bilevel_png(edges), "path": None}
    stored = encoded(rgb, "PNG")
    rows = [row_of(rgb, f"{n}.png", stored=stored, canny=cell) for n in range(32)]
    write_dataset(tmp_path, {"train": rows})
    one = scan(str(tmp_path), split="train", condition="canny", wants_latents=False)
    batch = next(loader_of(one, batch_size=32, options=DrawOptions(flip=0.5)).iterate(0))
    places = {tuple(np.argwhere(hint.numpy())[0][1:]) for hint in batch.hint_BCHW}
    assert places == {(10, 40), (10, 16)}
    assert torch.equal(batch.image_BHWC[..., 0], batch.hint_BCHW[:, 0])


@pytest.fixture
def with_latents(folder, index, tmp_path):
    """The same rows with moments whose values say which row they belong to."""
    (path,) = folder.glob("data/*.parquet")
    table = pq.read_table(path)
    sizes = zip(table["width"].to_pylist(), table["height"].to_pylist(), strict=True)
    counts = [8 * (width // 8) * (height // 8) for width, height in sizes]
    for name, sign in (("latent_moments", 1), ("latent_moments_flipped", -1)):
        cells = [np.full(c, sign * (n + 1), "<f2").tobytes() for n, c in enumerate(counts)]
        table = table.append_column(name, pa.array(cells, pa.binary()))
    copy = tmp_path / path.name
    pq.write_table(table.drop_columns("image"), copy, row_group_size=5, compression="NONE")
    keys = table["key"].to_pylist()
    return dataclasses.replace(index, files=(str(copy),), latents=LATENTS), keys


def test_moments_are_read_instead_of_images_and_flipped_ones_where_mirrored(with_latents):
    index, keys = with_latents
    for batch in loader_of(index, options=DrawOptions(flip=0.5)).iterate(0):
        assert batch.image_BHWC is None
        height, width = batch.size_B2[0].tolist()
        assert batch.moments_BCHW.dtype == torch.float16
        assert batch.moments_BCHW.shape == (4, 8, height // 8, width // 8)
        for n, key in enumerate(batch.keys):
            coin = draw(3, 0, key, latent_shape=(4, 8, 8), options=DrawOptions(flip=0.5)).flip
            assert batch.moments_BCHW[n].unique().tolist() == [
                (-1 if coin else 1) * (keys.index(key) + 1)
            ]


def test_moments_of_another_size_name_file_and_key(with_latents):
    index, _ = with_latents
    wrong = dataclasses.replace(index, latents=dataclasses.replace(LATENTS, channels=5))
    loader = loader_of(wrong, latent_channels=5, options=NEVER)
    with pytest.raises(
        ConfigError, match=r"0001.parquet: row [0-9a-f]{32}: .*need \d+ bytes for 5 channels"
    ):
        list(loader.iterate(0))


def test_maps_of_every_kind_have_their_own_type(tmp_path):
    people = [person(18)]
    rows = [row_of_every_kind(photograph("coffee"), f"{n}.jpg", people=people) for n in range(2)]
    write_dataset(tmp_path, {"train": rows}, annotators=EVERY_KIND)
    kinds = {}
    for name in EVERY_KIND:
        index = scan(str(tmp_path), split="train", condition=name, wants_latents=False)
        batch = loader_of(index, options=NEVER).rows([1, 0])
        stored = open_dataset(str(tmp_path))[1].maps[name]
        hint_CHW = batch.hint_BCHW[0]
        kinds[name] = (hint_CHW.dtype, hint_CHW.shape[0])
        if name == "depth":
            assert torch.equal(hint_CHW[0], torch.from_numpy(stored.astype("f4") / 65535))
            assert 0.5 < hint_CHW.max() <= 1
        else:
            expected = stored if stored.ndim == 3 else stored[..., None]
            assert np.array_equal(hint_CHW.permute(1, 2, 0).numpy(), expected)
    grey, rgb, deep = (torch.uint8, 1), (torch.uint8, 3), (torch.float32, 1)
    assert kinds == {
        "canny": grey,
        "softedge": grey,
        "mlsd": grey,
        "depth": deep,
        "tile": rgb,
        "pose": rgb,
    }


def stored_row(**cells):
    usual = {
        "file": "shard.parquet",
        "key": "k",
        "text": None,
        "map_png": b"",
        "image": None,
        "moments": None,
        "moments_flipped": None,
        "original_size": (1, 1),
        "crop": (0, 0),
        "size": (512, 512),
    }
    return StoredRow(**(usual | cells))


def pictures():
    for name, size in itertools.product(("astronaut", "coffee"), ((512, 512), (301, 77), (8, 9))):
        picture = Image.fromarray(getattr(skimage.data, name)()).resize(size[::-1])
        yield np.asarray(picture), size


def test_images_are_equal_to_the_bit_to_what_pillow_decodes():
    turned = Image.Exif()
    turned[0x0112] = 6  # an orientation that must not be applied a second time
    for rgb, size in pictures():
        files = [
            encode_image(rgb, image_format=kind, quality=quality)
            for kind in ("jpeg", "png", "webp")
            for quality in (60, 95)
        ]
        for subsampling, progressive in itertools.product((0, 1, 2), (False, True)):
            options = {"subsampling": subsampling, "progressive": progressive, "quality": 80}
            files.append(encoded(rgb, **options))
        files += [encoded(rgb[..., 0], kind) for kind in ("JPEG", "PNG")]
        files.append(encoded(rgb, exif=turned))
        for stored in files:
            batch = np.full((3, *size, 3), 7, np.uint8)
            pixels = decode_image(stored_row(image=stored, size=size), into=batch[1])
            assert np.array_equal(pixels, decode_stored_rgb(stored))
            assert np.array_equal(pixels, batch[1])
            assert (batch[[0, 2]] == 7).all()
            assert pixels.shape == (*size, 3)


def test_maps_are_equal_to_the_bit_to_what_pillow_decodes():
    for rgb, size in pictures():
        grey = np.ascontiguousarray(rgb[..., 0])
        for stored in (
            encode_bilevel_png(cv2.Canny(rgb, 100, 200)),
            encode_map_png(grey),
            encode_map_png(grey.astype(np.uint16) * 257 + 3),
            encode_map_png(rgb),
        ):
            pixels = decode_map(stored_row(map_png=stored, size=size))
            expected = decode_stored_map(stored)
            assert pixels.dtype == expected.dtype
            assert np.array_equal(pixels, expected)


@pytest.mark.parametrize(
    ("stored", "found"),
    [
        (b"", "got nothing"),
        (b"no picture", "got 10 bytes that do not decode"),
        (encoded(np.zeros((8, 16, 3), np.uint8), "PNG"), "got 16x8 px"),
    ],
)
def test_a_cell_that_is_no_picture_names_file_key_and_column(stored, found):
    with pytest.raises(ConfigError, match=rf"shard.parquet: row k: need a readable map .*{found}"):
        decode_map(stored_row(map_png=stored))


def test_a_cut_picture_is_not_half_decoded():
    stored = encode_image(marked(1), image_format="jpeg", quality=95)[:-40]
    with pytest.raises(ConfigError, match=r"need a readable image .* that do not decode"):
        decode_image(stored_row(image=stored, size=(64, 64)))


def test_a_broken_cell_reaches_the_reader_after_the_batches_before_it(folder, tmp_path):
    broken = {"bytes": b"no picture", "path": None}
    rows = [row_of(marked(n), f"{n}.jpg") for n in range(24)]
    rows[7] |= {"canny": broken}
    write_dataset(tmp_path, {"train": rows}, row_group_rows=5)
    index = scan(str(tmp_path), split="train", condition="canny", wants_latents=False)
    batches = loader_of(index).iterate(0)
    before = int(np.argwhere(loader_of(index).plan(0).batches == 7)[0][0])
    assert len(list(itertools.islice(batches, before))) == before
    with pytest.raises(ConfigError, match=rf"train-00000.*parquet: row {rows[7]['key']}: need"):
        next(batches)
    assert not threads()


def test_a_shard_that_goes_away_or_changes_meanwhile_is_named(folder, index, tmp_path):
    gone = dataclasses.replace(index, files=(str(tmp_path / "gone.parquet"),))
    with pytest.raises(ConfigError, match=r"gone.parquet: need a whole shard, got .*; run `contr"):
        next(loader_of(gone).iterate(0))
    other = dataclasses.replace(index, keys=np.roll(index.keys, 1))
    with pytest.raises(ConfigError, match="need the shard that was opened, got another one"):
        next(loader_of(other).iterate(0))


def test_leaving_early_ends_all_threads(index):
    batches = loader_of(index, workers=3).iterate(0)
    next(batches)
    assert threads()
    batches.close()
    assert not threads()
    for _ in loader_of(index).iterate(0):
        break
    gc.collect()
    assert not threads()


def test_nothing_runs_before_the_first_batch_is_asked_for(index):
    loader_of(index).iterate(0)
    assert not threads()


def test_rows_held_are_bounded_by_a_block_however_long_the_epoch(tmp_path, monkeypatch):
    row = row_of(marked(0), "0.jpg")
    rows = [row | {"key": key_of(f"{n}.jpg")} for n in range(400)]
    write_dataset(tmp_path, {"train": rows}, row_group_rows=10)
    index = scan(str(tmp_path), split="train", condition="canny", wants_latents=False)
    read, read_rows = [], Loader._read
    monkeypatch.setattr(
        Loader,
        "_read",
        lambda self, numbers: (read.append(len(numbers)), read_rows(self, numbers))[1],
    )
    bound = 8 * 10 + 10 + 3 * 4  # a block, the group that fills it, batches under way
    for batch in loader_of(index, shuffle_groups=8, prefetch=2).iterate(0):
        assert sum(read) - 4 * (batch.index + 1) <= bound
        if batch.index % 9 == 0:
            assert sum(type(one) is StoredRow for one in gc.get_objects()) <= bound
    assert sum(read) == 400
    assert len(read) == 40  # every row group once


def test_given_rows_come_in_their_order_and_untouched(folder, index):
    loader = loader_of(index, options=DrawOptions(prompt_dropout=1.0, condition_dropout=1.0))
    numbers = np.flatnonzero(index.widths == 64)[[30, 1, 20]].tolist()
    batch = loader.rows(numbers, epoch=5)
    assert batch.keys == [index.keys[number].decode() for number in numbers]
    assert batch.hint_BCHW.amax((1, 2, 3)).min() == 255
    assert not batch.drop_condition_B.any()
    assert any(batch.texts)
    assert not torch.equal(batch.noise_BCHW, loader.rows(numbers).noise_BCHW)
    with pytest.raises(ConfigError, match=r"rows: need rows of one size, got \[\(64, 64\), \(72"):
        loader.rows(range(20))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"world": 3}, "need a multiple of 3 processes"),
        ({"world": 2, "rank": 2}, "a rank below that, got 4 and rank 2"),
        ({"workers": 0}, "need workers >= 1 and prefetch >= 1, got 0 and 4"),
        ({"latent_factor": 16}, r"need sizes divisible by the latent factor 16, got \(72, 64\)"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(index, changes, message):
    with pytest.raises(ConfigError, match=message):
        loader_of(index, **changes)


def test_flips_that_would_lie_are_refused(index):
    for name in ("pose", "normal"):
        with pytest.raises(ConfigError, match=rf"need 0 for the condition {name}, whose colours"):
            loader_of(dataclasses.replace(index, condition=name), options=ALWAYS)
    unmirrored = dataclasses.replace(index, latents=dataclasses.replace(LATENTS, flips=False))
    with pytest.raises(ConfigError, match="need latents of the mirrored images"):
        loader_of(unmirrored, options=ALWAYS)


def test_latents_of_another_base_are_refused(index):
    other = dataclasses.replace(index, latents=dataclasses.replace(LATENTS, channels=16))
    with pytest.raises(ConfigError, match="need latents of 4 channels and factor 8, got 16 and 8"):
        loader_of(other)
