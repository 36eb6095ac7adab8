import os
import re
import signal
import subprocess
import sys
import time

import pytest
from beartype.door import die_if_unbearable
from hypothesis import given, settings
from hypothesis import strategies as st

from controlset.cli import COMMANDS, main
from controlset.commands import leaving_at_once
from controlset.commands.generate import parse_config
from controlset.parse import option_kinds, typed
from pipeline.config import GenerateConfig
from schemas.errors import ConfigError

# What pyarrow does when it imports pandas: an exception inside is dropped.
SWALLOWED = "import time; type('', (), {'__del__': lambda _: time.sleep(20)})()"
NEEDED = ["photos", "--output", "out", "--conditions", "canny"]


# Ten to the ninth names, if they are written out.
ALIASES = "conditions: [&a [x, x], &b [*a, *a], &c [*b, *b], " + "".join(
    f"&{new} [{', '.join([f'*{old}'] * 10)}], "
    for old, new in zip("cdefghij", "defghijk", strict=True)
)
ALIASES += "*k]"


def in_process(capsys, *arguments):
    status = main(arguments)
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_the_command_line_becomes_the_configuration():
    config = parse_config(
        [*NEEDED, "--resolution", "256", "--fit", "bucket", "--overwrite", "--limit", "7"]
    )
    assert config == GenerateConfig(
        source="photos",
        output="out",
        conditions=("canny",),
        resolution=256,
        fit="bucket",
        overwrite=True,
        limit=7,
    )


def words(value):
    if isinstance(value, tuple):
        return value
    return [] if value is True else [str(value)]


def test_every_option_has_a_flag():
    values = {
        "caption": "fixed",
        "caption_text": "a cat",
        "caption_list": "join",
        "caption_column": "prompt",
        "image_column": "picture",
        "source_format": "parquet",
        "source_split": "train",
        "resolution": 128,
        "fit": "pad",
        "pad_color": "black",
        "import_condition": ("lines=maps/{name}.png",),
        "keep_columns": ("id", "score:float32"),
        "image_format": "webp",
        "quality": 80,
        "keep_metadata": True,
        "max_pixels": 1000,
        "min_side": 9,
        "max_aspect": 2.5,
        "canny_thresholds": "1-2,3-4",
        "device": "cuda:1",
        "precision": "fp32",
        "weights": "weights",
        "offline": True,
        "compile": True,
        "depth_model": "midas",
        "depth_bits": 16,
        "pose": ("hands", "face"),
        "pose_model": "vit",
        "pose_detector": "detr",
        "keep_empty_pose": True,
        "hed_mode": "safe",
        "softedge_mode": "scribble",
        "lineart_coarse": True,
        "mlsd_thresholds": "0.2,0.3",
        "segmentation_model": "segformer",
        "tile_factor": 8,
        "caption_model": "blip2",
        "caption_prompt": "a photo of",
        "caption_beams": 5,
        "caption_top_p": 0.9,
        "caption_max_tokens": 12,
        "shard_rows": 5,
        "validation": 0.25,
        "limit": 3,
        "seed": 11,
        "num_workers": 4,
        "keep_copies_together": True,
        "overwrite": True,
        "dry_run": True,
    }
    assert option_kinds(GenerateConfig).keys() == {"source", "output", "conditions", *values}
    flags = [
        part
        for name, value in values.items()
        for part in [f"--{name.replace('_', '-')}", *words(value)]
    ]
    config = parse_config([*NEEDED, *flags])
    assert {**{name: getattr(config, name, None) for name in values}, **config.options} == values


def test_the_home_folder_is_meant_by_a_tilde_that_the_shell_left(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    job = tmp_path / "job.yaml"
    job.write_text("output: ~/there\ncaption: fixed\ncaption_text: ~/ is home\n")
    config = parse_config(["~/photos", "--conditions", "canny", f"--config={job}"])
    assert config.source == f"{tmp_path}/photos"
    assert (config.output, config.caption_text) == (f"{tmp_path}/there", "~/ is home")
    (tmp_path / "~").mkdir()
    assert parse_config(["a", "--output=~/b", "--conditions", "canny"]).output == "~/b"


def test_options_of_beam_are_handed_on():
    config = parse_config([*NEEDED, "--runner=PortableRunner", "--job_endpoint", "localhost:9"])
    assert config.beam_args == ("--runner=PortableRunner", "--job_endpoint", "localhost:9")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "need SOURCE, --output; see controlset generate --help"),
        (["photos"], "need --output; see controlset generate --help"),
        ([*NEEDED, "--resolution", "big"], "--resolution: need a whole number, got 'big'; see"),
        ([*NEEDED, "--resolution", "500"], "--resolution: need a multiple of 8 from 8 to 8192"),
        (
            [*NEEDED, "--fit", "squash"],
            "--fit: need crop, pad, stretch or bucket, got 'squash'; see",
        ),
        ([*NEEDED, "--resolutoin", "8"], "unknown option --resolutoin; did you mean --resolution?"),
        ([*NEEDED, "--seed"], "--seed: need a value; see controlset generate --help"),
        ([*NEEDED, "--limit", "few"], "--limit: need a whole number, got 'few'; see"),
        ([*NEEDED, "--max-aspect", "big"], "--max-aspect: need a number, got 'big'; see"),
        (["photos", "--ouput", "out"], "unknown option --ouput; did you mean --output?"),
        (["a.jpg", "b.jpg", *NEEDED[1:]], "unexpected argument b.jpg; names with spaces and globs"),
        (NEEDED[1:], "--conditions: need SOURCE and at least one NAME, got 'canny'"),
        (NEEDED[:-1], "--conditions: need SOURCE and at least one NAME, got 'photos'"),
        ([*NEEDED, "--beam-args", "x"], "unknown option --beam-args\n"),
        ([*NEEDED, "--runner"], "Apache Beam: argument --runner: expected one argument"),
        ([*NEEDED, "--runner", "Nope"], "--runner Nope: Unexpected pipeline runner: Nope."),
        (
            [*NEEDED, "--direct_num_workers=x"],
            "Apache Beam: argument --direct_num_workers: invalid int value: 'x'",
        ),
        (["--streaming", *NEEDED], "need SOURCE before --streaming, which is no option of"),
        ([*NEEDED[:-1], "detph"], "--conditions detph: no such annotator; available: canny, depth"),
        ([*NEEDED[:-1], "cany"], "--conditions cany: no such annotator; available: canny"),
        ([*NEEDED, "--canny-thresholds", "9"], "--canny-thresholds: need LOW,HIGH or LOW-LOW,HIGH"),
        ([*NEEDED, "--canny-thresholds", "9,9"], "canny: need low < high, got low=(9, 9)"),
        ([*NEEDED, "--validation", "1"], "--validation: need 0 <= fraction < 1, got 1.0"),
        ([*NEEDED, "--caption", "fixed"], "--caption fixed: need --caption-text TEXT"),
        ([*NEEDED, "--caption-text", "x"], "--caption-text: need --caption fixed, got 'auto'"),
        ([*NEEDED, "--config", "none.yaml"], "--config none.yaml: need a file that can be read"),
        ([*NEEDED, "--num-workers", "0"], "--num-workers: need 1 or more, got 0"),
        (["/nowhere/at/all", *NEEDED[1:]], "/nowhere/at/all: need a path that exists, got none"),
    ],
)
def test_wrong_use_is_one_line_and_status_2(capsys, arguments, line):
    status, out, err = in_process(capsys, "generate", *arguments)
    assert status == 2
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith(f"controlset generate: {line}")


def test_unknown_commands_and_flags_of_other_commands_are_one_line(capsys):
    assert in_process(capsys, "genrate")[::2] == (
        2,
        "controlset: unknown command 'genrate'; did you mean generate?\n",
    )
    assert in_process(capsys, "verify", "x", "--adit", "1")[::2] == (
        2,
        "controlset verify: unknown option --adit; did you mean --audit?\n",
    )
    assert in_process(capsys, "verify", "x", "--audit", "2")[::2] == (
        2,
        "controlset verify: --audit: need a fraction from 0 to 1, got 2.0\n",
    )
    assert in_process(capsys, "--verison")[::2] == (
        2,
        "controlset: unknown option '--verison'; did you mean --version?\n",
    )
    status, _, err = in_process(capsys, "inspect", "/nowhere")
    assert status == 2
    assert err.startswith("controlset inspect: /nowhere: need a complete data set, found no")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["verify", "x", "--num-workers", "0"], "--num-workers: need 1 or more, got 0"),
        (["inspect", "x", "--num-workers", "-1"], "--num-workers: need 1 or more, got -1"),
        (["inspect", "x", "--sample", "0"], "--sample: need 1 or more, got 0"),
        (["inspect", "x", "--html", "/no/x"], "--html: need a file in a folder that exists, got"),
        (["inspect", "x", "--json", "/"], "--json: need a file in a folder that exists, got '/'"),
        (
            ["demo", "--output", "/dev/null/x"],
            "/dev/null/x: need to write here, got not a directory",
        ),
    ],
)
def test_what_cannot_be_done_is_said_before_any_work(capsys, arguments, line):
    status, _, err = in_process(capsys, *arguments)
    assert status == 2
    assert err.count("\n") == 1
    assert err.startswith(f"controlset {arguments[0]}: {line}")


def test_without_arguments_the_help_goes_to_stderr_with_status_2(capsys):
    status, out, err = in_process(capsys)
    assert (status, out) == (2, "")
    assert "usage: controlset COMMAND" in err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_has_an_example(capsys, command):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code in {0, None}
    out = capsys.readouterr().out
    assert f"example:\n  controlset {command} " in out
    assert max(map(len, out.splitlines())) <= 80
    assert "None" not in out
    assert "──" not in out
    assert "\n\n\n" not in out


def test_the_help_of_an_option_flows_whatever_the_line_breaks_of_the_source(capsys):
    with pytest.raises(SystemExit):
        main(["generate", "--help"])
    out = capsys.readouterr().out
    heading = "  --fit {crop,pad,stretch,bucket}\n"
    assert heading in out
    text = out.split(heading)[1].split("\n  --")[0].splitlines()
    assert " ".join(line.strip() for line in text).endswith("(default: crop)")
    assert all(len(line) > 60 for line in text[:-1])  # filled, not broken where the source is


def test_the_help_says_what_has_to_be_given_and_which_switches_are_on(capsys):
    for command, said in (
        ("evaluate", "runs are compared with the first. (required) --data"),
        (
            "evaluate",
            "--no-report Write the report, report.html. (on by default; this turns it off)",
        ),
        ("sample", "Which sampler draws the pictures. (default: ddim)"),
    ):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert said in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("command", ["evaluate --data x --output y", "sample --hint y"])
def test_an_option_that_may_be_repeated_has_to_be_given_once(capsys, command):
    name = command.split()[0]
    status, _, err = in_process(capsys, *command.split())
    assert (status, err) == (
        2,
        f"controlset {name}: need --run; see controlset {name} --help\n",
    )


def test_help_and_version_answer_in_half_a_second():
    for arguments in (["--help"], ["--version"]):
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            command = [sys.executable, "-m", "controlset", *arguments]
            subprocess.run(command, check=True, capture_output=True)
            seconds.append(time.perf_counter() - start)
        assert min(seconds) < 0.5


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from controlset.cli import main; main(['--help']);"
        "heavy = {'apache_beam', 'cv2', 'pyarrow', 'numpy', 'torch', 'rich', 'tyro'};"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_file_of_options_is_read_and_the_command_line_wins(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(
        "source: photos\noutput: out\nconditions: [canny]\nresolution: 256\nfit: pad\n"
        "overwrite: true\nlimit: null\n"
    )
    config = parse_config(["--config", str(path), "--resolution", "128"])
    assert (config.source, config.resolution, config.fit) == ("photos", 128, "pad")
    assert config.overwrite
    assert config.limit is None
    other = parse_config(["other", f"--config={path}", "--output", "there"])
    assert (other.source, other.output, other.resolution) == ("other", "there", 256)
    after = parse_config(["--config", str(path), "other", "--runner=FnApiRunner"])
    assert (after.source, after.beam_args) == ("other", ("--runner=FnApiRunner",))


def test_values_in_a_file_may_look_like_flags(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text("conditions: canny\ncaption: fixed\ncaption_text: -- a cat\n")
    config = parse_config(["photos", "--output", "out", "--config", str(path)])
    assert (config.conditions, config.caption_text) == (("canny",), "-- a cat")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("resolutoin: 8", "unknown option resolutoin; did you mean resolution?"),
        ("- a list", "need a mapping of options, got ['a list']"),
        ("a: [", "need YAML, got"),
        ("limit: [1, 2]", "limit: need one value, got [1, 2]"),
        ("conditions: {a: 1}", "conditions: need names, got {'a': 1}"),
        ("overwrite: 'yes'", "overwrite: need true or false, got 'yes'"),
        ("[" * 100_000, "need YAML, got"),
        (f"limit: {'9' * 5000}", "need YAML, got"),
        (f"limit: 1{' ' * 1_100_000}", "need YAML of 1 MB or less, got 1,100,008 bytes"),
        (ALIASES, "conditions: need names, got [['x', 'x'], [[...], [...]], [[...], [...]], "),
    ],
)
def test_a_wrong_file_of_options_is_named(tmp_path, text, message):
    path = tmp_path / "job.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(f"--config {path}: {message}")):
        parse_config([*NEEDED, "--config", str(path)])


def test_ctrl_c_is_one_line_and_status_130(capsys, monkeypatch):
    def interrupted(_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("controlset.commands.generate.run", interrupted)
    assert in_process(capsys, "generate")[::2] == (
        130,
        "controlset generate: interrupted; the same command goes on from here\n",
    )


def test_ctrl_c_promises_to_go_on_only_where_it_does(capsys, monkeypatch):
    def interrupted(_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("controlset.commands.verify.run", interrupted)
    assert in_process(capsys, "verify")[::2] == (130, "controlset verify: interrupted\n")


@pytest.mark.parametrize("inside", ["import time; time.sleep(20)", SWALLOWED])
def test_ctrl_c_during_imports_ends_at_once_even_where_the_exception_would_be_lost(inside):
    code = (
        "from controlset.commands import leaving_at_once\n"
        "with leaving_at_once('inspect'):\n"
        "    print('ready', flush=True)\n"
        f"    {inside}\n"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert err == "controlset inspect: interrupted\n"


def test_after_imports_ctrl_c_is_an_exception_again():
    outside = signal.signal(signal.SIGINT, signal.default_int_handler)  # nohup ignores it
    try:
        with leaving_at_once("inspect"):
            assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, outside)


def test_without_docstrings_it_starts_all_the_same():
    command = [sys.executable, "-OO", "-m", "controlset", "verify", "/nowhere"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("controlset verify: /nowhere: need a complete data set")


def test_who_ignores_ctrl_c_goes_on_ignoring_it(monkeypatch):
    monkeypatch.setattr(signal, "getsignal", lambda _number: signal.SIG_IGN)
    monkeypatch.setattr(signal, "signal", lambda *_: pytest.fail("the handler was replaced"))
    with leaving_at_once("inspect"):
        pass


def test_a_bug_keeps_its_traceback(monkeypatch):
    def broken(_arguments):
        raise RuntimeError("a bug")

    monkeypatch.setattr("controlset.commands.generate.run", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["generate"])


def test_output_into_a_closed_pipe_is_quiet(tmp_path):
    command = f"{sys.executable} -m controlset generate --help | head -1"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=True, env=os.environ
    )
    assert done.stderr == ""


# Without numbers so small that a processor may take them for zero, as trainings tell it to.
FLOATS = st.floats(allow_subnormal=False)
SCALARS = st.none() | st.booleans() | st.integers() | FLOATS | st.text(max_size=9)
YAML = st.recursive(
    SCALARS,
    lambda part: (
        st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=3), part, max_size=3)
    ),
    max_leaves=6,
)


def typed_or_rule(kind, value):
    try:
        return typed(kind, value)
    except ValueError as rule:
        return rule


@settings(max_examples=300, derandomize=True, deadline=None)
@given(name=st.sampled_from(sorted(option_kinds(GenerateConfig))), value=YAML)
def test_any_value_of_a_file_has_its_options_type_or_is_refused_with_the_rule(name, value):
    kind = option_kinds(GenerateConfig)[name]
    found = typed_or_rule(kind, value)
    if isinstance(found, ValueError):
        assert str(found)
        assert "\n" not in str(found)
        return
    die_if_unbearable(found, kind)
    again = list(found) if isinstance(found, tuple) else found
    assert typed(kind, again) == found or found != found  # what is not a number never is equal
