import numpy as np
import pytest

from schemas.errors import ConfigError
from schemas.latents import LATENTS, LATENTS_FLIPPED, LatentInfo, decode_moments, encode_moments

RECORD = {
    "base": "somebody/base",
    "vae_sha256": "5a" * 32,
    "channels": 4,
    "factor": 8,
    "scaling_factor": 0.18215,
    "shift_factor": None,
    "dtype": "float16",
    "flips": True,
    "precision": "fp32",
}


def moments(channels=2, height=3, width=5):
    return np.random.default_rng(0).normal(size=(2 * channels, height, width)).astype(np.float32)


def test_what_is_decoded_is_what_was_encoded_in_float16():
    values = moments()
    again = decode_moments(encode_moments(values), channels=2, height=3, width=5)
    assert again.dtype == np.float16
    assert np.array_equal(again, values.astype(np.float16))
    assert again.flags.writeable


def test_the_bytes_are_little_endian_halves_in_c_order():
    values = np.array([[[1.0, -2.0]], [[0.5, 65504.0]]])
    assert encode_moments(values) == bytes.fromhex("003c 00c0 0038 ff7b")
    assert encode_moments(np.asfortranarray(moments())) == encode_moments(moments())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 65520.0])
def test_what_float16_cannot_hold_is_refused(value):
    values = moments()
    values[1, 2, 3] = value
    with pytest.raises(ValueError, match="need finite values within float16's range"):
        encode_moments(values)


def test_another_length_is_refused():
    stored = encode_moments(moments())
    with pytest.raises(ValueError, match="need 120 bytes for 2 channels of 5x3, got 118"):
        decode_moments(stored[:-2], channels=2, height=3, width=5)


def test_the_record_comes_back_and_names_its_columns():
    info = LatentInfo.from_json(RECORD)
    assert info.to_json() == RECORD
    assert info.columns == (LATENTS, LATENTS_FLIPPED)
    assert LatentInfo.from_json(RECORD | {"flips": False}).columns == (LATENTS,)
    assert LatentInfo.from_json(RECORD | {"scaling_factor": 1}).scaling_factor == 1.0
    with pytest.raises(ConfigError, match="factor"):
        LatentInfo.from_json({name: RECORD[name] for name in RECORD if name != "factor"})
