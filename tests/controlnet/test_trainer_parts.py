"""Small parts of the trainer: averages, captions, the journal, the display, signals, recipes."""

import dataclasses
import json
import os
import signal
import threading

import cv2
import numpy as np
import pytest
import torch

from controlnet.architecture.backbone import load_base
from controlnet.trainer.config import nano_recipe
from controlnet.trainer.log import Display, Journal, read_lines, write_png
from controlnet.trainer.run_folder import same_run
from controlnet.trainer.step import Average, Texts, fits_in_memory, new_optimizer
from controlnet.trainer.train import StopRequest
from schemas.errors import ConfigError
from tests.controlnet.tiny_runs import base, config_for, trained


@pytest.fixture
def layer():
    module = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.constant_(module.weight, 1.0)
    return module


def test_an_average_forgets_quickly_at_first_and_slowly_later(layer):
    average = Average(layer, 0.9)
    torch.nn.init.constant_(layer.weight, 0.0)
    expected = 1.0
    for step in range(200):
        average.update(step)
        expected *= min(0.9, (1 + step) / (10 + step))
        assert average.weights["weight"].tolist()[0] == pytest.approx([expected] * 2, rel=1e-4)
        if step == 0:
            assert expected == 0.1


def test_averaged_weights_are_inside_for_a_while_and_the_own_ones_after(layer):
    average = Average(layer, 0.5)
    torch.nn.init.constant_(layer.weight, 3.0)
    own = layer.weight.data_ptr()
    with average.applied():
        assert layer(torch.ones(1, 2)).item() == 2.0
    assert layer(torch.ones(1, 2)).item() == 6.0
    assert layer.weight.data_ptr() == own
    with pytest.raises(RuntimeError, match="on the way"), average.applied():
        raise RuntimeError("on the way")
    assert layer(torch.ones(1, 2)).item() == 6.0


def test_an_average_goes_on_from_what_was_stored(layer):
    average = Average(layer, 0.5)
    average.restore({"weight": torch.full((1, 2), 7.0)})
    with average.applied():
        assert layer(torch.ones(1, 2)).item() == 14.0


CAPTIONS = ["a red circle on a blue background", "", "a green star on a gray background"]


@pytest.fixture(scope="module")
def encoder():
    return load_base(str(base()), vae=False).text


def test_captions_come_back_in_the_order_in_which_they_are_asked_for(encoder):
    known = Texts(encoder, CAPTIONS)
    assert known.cached
    asked = [CAPTIONS[2], CAPTIONS[0], CAPTIONS[2]]
    text_BLD = known(asked).text_BLD
    for row, caption in zip(text_BLD, asked, strict=True):
        assert torch.allclose(row, encoder([caption]).text_BLD[0], atol=1e-5)
    assert torch.equal(text_BLD[0], text_BLD[2])
    assert not torch.allclose(text_BLD[0], text_BLD[1], atol=1e-2)


def test_an_embedding_does_not_depend_on_how_many_captions_there_are(encoder):
    many = [f"a {colour} ring on a {other} background" for colour in "abcdefgh" for other in "xyz"]
    few, all_of_them = Texts(encoder, CAPTIONS), Texts(encoder, [*CAPTIONS, *many * 2])
    assert torch.equal(few(CAPTIONS).text_BLD, all_of_them(CAPTIONS).text_BLD)


def test_captions_that_are_too_many_are_embedded_batch_by_batch(encoder, monkeypatch, tmp_path):
    lazy = Texts(encoder, None)
    assert not lazy.cached
    asked = [CAPTIONS[2], CAPTIONS[0], CAPTIONS[2]]
    known = Texts(encoder, CAPTIONS)
    assert torch.allclose(lazy(asked).text_BLD, known(asked).text_BLD, atol=1e-5)
    assert fits_in_memory(CAPTIONS, encoder)
    monkeypatch.setattr("controlnet.trainer.step.CACHE_BYTES", 2 * 24 * 64 * 4)
    assert fits_in_memory(CAPTIONS[:2] * 9, encoder)
    assert not fits_in_memory(CAPTIONS, encoder)
    trained(tmp_path / "run", steps=2)  # trains that way, too


class _Nobody:
    def log(self, values, step):
        self.seen = (values, step)


def test_the_journal_writes_lines_and_tells_trackers_numbers_alone(tmp_path):
    nobody = _Nobody()
    journal = unchecked(Journal, tmp_path, nobody)
    journal.metrics({"step": 3, "loss": 0.5})
    assert read_lines(tmp_path / "metrics.jsonl") == [{"step": 3, "loss": 0.5}]
    assert nobody.seen == ({"train/loss": 0.5}, 3)
    picture = np.full((4, 4, 3), (200, 10, 20), np.uint8)
    journal.probe({"step": 3, "bins": [0.1, 0.2], "adherence": None}, [picture, picture])
    assert nobody.seen == ({"probe/bins/0": 0.1, "probe/bins/1": 0.2}, 3)
    stored = cv2.imread(str(tmp_path / "samples" / "step-00000003.png"))
    assert stored.shape == (4, 8, 3)
    assert stored[0, 0].tolist() == [20, 10, 200]  # OpenCV reads BGR: red it is


def unchecked(kind, *arguments):
    """An object made without the checks of argument types, so that a fake will do."""
    made = object.__new__(kind)
    made._folder, made._accelerator = arguments
    return made


def test_lines_of_steps_that_will_be_done_again_are_forgotten(tmp_path):
    journal = unchecked(Journal, tmp_path, _Nobody())
    for step in (0, 2, 4):
        journal.metrics({"step": step, "loss": 0.5})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')  # killed here
    journal.forget_after(2)
    kept = [{"step": 0, "loss": 0.5}, {"step": 2, "loss": 0.5}]
    assert read_lines(tmp_path / "metrics.jsonl") == kept
    assert read_lines(tmp_path / "nowhere.jsonl") == []
    text = (tmp_path / "metrics.jsonl").read_text()
    assert text == "".join(f"{json.dumps(line)}\n" for line in kept)


def test_a_picture_is_there_whole_or_not_at_all(tmp_path):
    write_png(tmp_path / "a.png", np.zeros((2, 2, 3), np.uint8))
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_where_there_is_no_terminal_lines_are_plain_and_few(capsys):
    with Display(100, done=0, visible=True) as display:
        display.say("hello")
        for step in range(1, 101):
            display.step(step, loss=0.25, samples_per_s=12.345)
            if step == 50:
                display.probed(0.5, 0.01)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "hello"
    assert said[1] == "step 1/100  loss 0.2500  12.3 samples/s"
    assert said[-1] == "step 100/100  loss 0.2500  12.3 samples/s  adherence 0.50"
    assert len(said) == 3


def test_without_a_judge_the_gain_is_shown(capsys):
    with Display(1, done=0, visible=True) as display:
        display.probed(None, 0.0123)
        display.step(1, loss=1.0, samples_per_s=1.0)
    assert capsys.readouterr().err.endswith("gain 0.0123\n")


def test_other_processes_are_silent(capsys):
    with Display(1, done=0, visible=False) as display:
        display.say("hello")
        display.step(1, loss=1.0, samples_per_s=1.0)
    printed = capsys.readouterr()
    assert printed.out + printed.err == ""


@pytest.fixture
def as_in_a_terminal():
    """Signals as a shell in the foreground leaves them, wherever the tests were started."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_DFL) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("as_in_a_terminal")
def test_who_ignores_a_signal_goes_on_ignoring_it():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # `nohup`
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.signal is None


@pytest.mark.usefixtures("as_in_a_terminal")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_first_signal_is_noted_and_a_second_one_ends_at_once(number):
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert stop.signal is None
        os.kill(os.getpid(), number)
        assert stop.signal == number
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_outside_the_main_thread_no_signal_is_asked_for():
    failed = []

    def run():
        try:
            with StopRequest() as stop:
                failed.append(stop.signal)
        except ValueError as error:  # what `signal.signal` says there
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert failed == [None]


def test_adamw_takes_its_numbers_from_the_configuration(tmp_path, layer):
    config = config_for(tmp_path, beta2=0.95, weight_decay=0.2, learning_rate=0.5)
    group = new_optimizer(layer.parameters(), config).param_groups[0]
    assert (group["lr"], group["betas"], group["weight_decay"]) == (0.5, (0.9, 0.95), 0.2)


def test_a_run_is_the_same_whatever_does_not_change_its_numbers(tmp_path):
    usual = config_for(tmp_path)
    free = {"steps": 9, "device": "auto", "loader_workers": 7, "log_every": 3, "keep_last": 5}
    free |= {"probe_every": 4, "probe_steps": 7, "tracker": "tensorboard", "offline": False}
    free["batch_size"] = 5  # of one process; `world_batch` beside it is that of all together
    assert dataclasses.replace(usual, **free).identity() == usual.identity()
    for name, value in {
        "seed": 1,
        "learning_rate": 0.1,
        "ema": 0.9,
        "accumulation": 2,
        "condition": "depth",
        "prompt_dropout": 0.1,
        "schedule": "cosine",
    }.items():
        assert dataclasses.replace(usual, **{name: value}).identity() != usual.identity()


def test_the_end_of_the_schedule_belongs_to_the_run_only_where_the_rate_depends_on_it(tmp_path):
    constant, cosine = config_for(tmp_path), config_for(tmp_path, schedule="cosine")
    assert dataclasses.replace(constant, steps=7).identity() == constant.identity()
    assert dataclasses.replace(cosine, steps=7).identity() != cosine.identity()


def test_every_difference_between_two_runs_is_named(tmp_path):
    same_run({"a": 1, "b": [1, 2]}, {"a": 1, "b": (1, 2)}, tmp_path)
    with pytest.raises(ConfigError, match=r"got a 1 -> 2; c None -> 'x'; use those"):
        same_run({"a": 1, "b": 3}, {"a": 2, "b": 3, "c": "x"}, tmp_path)


def test_a_recipe_is_a_whole_configuration():
    names = {"data": "d", "condition": "canny", "output": "o"}
    nano = nano_recipe(**names)
    assert nano.base == "nano"
    assert nano.steps < 5000
    assert json.loads(json.dumps(dataclasses.asdict(nano)))["condition"] == "canny"
