"""The ``rnnkern`` command: info, a tiny demo end to end, Ctrl-C, and what bad arguments and missing packages get."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import rnnkern as rk
from rnnkern.cli import app
from rnnkern.cli.charlm.corpus import Corpus, TextError, encode, python_topics
from rnnkern.cli.charlm.loop import learning_rate

TINY = ["--hidden", "24", "--embedding", "8", "--batch", "4", "--seq-len", "16", "--length", "60", "--minutes", "0.05"]


def rnnkern(*args: str | Path) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args], env={"COLUMNS": "200"})


def refused(option: str, *args: str | Path) -> str:
    """The message of a usage error that names ``option``, on one line."""
    result = rnnkern(*args)
    assert result.exit_code == 2, result.output
    message = " ".join(result.stderr.replace("│", " ").split())
    assert f"Invalid value for {option}" in message
    return message


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("The cat [sat] on the “mat”; the rat sat on the hat.\n" * 80, encoding="utf-8")
    return path


def test_the_commands_are_there():
    result = rnnkern("--help")
    assert result.exit_code == 0
    assert all(name in result.output for name in ("info", "bench", "demo"))


def test_info_lists_every_kernel_and_why_it_cannot_run():
    result = rnnkern("info")
    assert result.exit_code == 0
    assert rk.info()["version"] in result.output
    for kernel in rk.kernels():
        assert kernel.name in result.output
        first_words = " ".join(kernel.unavailable.split()[:2])  # a table may wrap the rest
        assert (first_words or "available") in result.output


def test_info_as_json_is_what_the_library_says():
    result = rnnkern("info", "--json")
    assert result.exit_code == 0
    facts = json.loads(result.output)
    assert [(k["name"], k["reason"]) for k in facts["kernels"]] == [(k.name, k.unavailable) for k in rk.kernels()]
    assert facts["threads"] == rk.get_num_threads() and facts["version"] == rk.info()["version"]


def test_demo_trains_saves_plots_and_samples(text, tmp_path):
    out = tmp_path / "out"
    result = rnnkern("demo", "--text", text, "--out", out, "--prompt", "The “", *TINY)
    assert result.exit_code == 0, result.output
    assert "on text never trained on" in result.output
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    nats = float(result.output.split("Held-out loss: ")[1].split()[0])
    vocabulary = sorted(set(text.read_text(encoding="utf-8")))
    assert nats < np.log(len(vocabulary)), "no better than guessing every character alike"
    written = result.output.split("loss.png\n\n")[1].removesuffix("\n")
    assert written.startswith("The “") and len(written) == len("The “") + 60

    checkpoint = out / "model.safetensors"
    assert json.loads(rk.io.metadata(checkpoint)["config"])["vocabulary"] == "".join(vocabulary)
    again = ["demo", "--load", checkpoint, "--prompt", "the ", "--length", "80", "--temperature"]
    first, second, other = (rnnkern(*again, "5", "--seed", seed) for seed in "112")
    assert first.exit_code == 0 and first.output.startswith("the ") and len(first.output) == len("the ") + 80 + 1
    assert first.output == second.output != other.output
    greedy = [rnnkern(*again, "0", "--seed", seed).output for seed in "12"]
    assert greedy[0] == greedy[1]


def test_demo_runs_on_pythons_own_topics_without_any_framework(tmp_path):
    program = (
        "import sys; from rnnkern.cli import app\n"
        "try: app(sys.argv[1:])\n"
        "finally: print('frameworks:', sorted({'torch', 'jax', 'tensorflow', 'onnxruntime'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", program, "demo", "--out", tmp_path, *TINY]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "frameworks: []" in done.stdout and "\nThe " in done.stdout
    assert (tmp_path / "model.safetensors").exists()


@pytest.mark.skipif(os.name == "nt", reason="sends a POSIX signal")
def test_ctrl_c_ends_the_training_and_keeps_everything(tmp_path):
    command = [sys.executable, "-u", "-m", "rnnkern.cli", "demo", "--out", tmp_path, *TINY, "--minutes", "10"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert "characters to train on" in process.stdout.readline()
        time.sleep(1.0)  # some steps in
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate()
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert "Stopped after" in output and "Traceback" not in errors
    assert "\nThe " in output  # sampled
    assert (tmp_path / "model.safetensors").exists() and (tmp_path / "loss.png").exists()
    assert rnnkern("demo", "--load", tmp_path / "model.safetensors", "--length", "5").exit_code == 0


def test_demo_refuses_a_bad_text_by_name(tmp_path):
    assert "cannot be read: No such file" in refused("--text", "demo", "--text", tmp_path / "none.txt")
    assert "cannot be read" in refused("--text", "demo", "--text", tmp_path)
    path = tmp_path / "short.txt"
    path.write_text("too short")
    message = refused("--text", "demo", "--text", path, "--batch", "4", "--seq-len", "16")
    assert "at least 65 characters to train on" in message and "got 9 in all" in message
    path.write_bytes(b"latin \xe9\n" * 1000)
    assert "expected UTF-8, got byte 0xe9 at 6" in refused("--text", "demo", "--text", path)


def test_demo_refuses_other_bad_arguments_by_name_before_training(text, tmp_path):
    start = ["demo", "--text", text, "--minutes", "60"]  # none of these may begin to train
    assert "got '[é'" not in refused("--prompt", *start, "--prompt", "[é")  # "[" is in the text
    assert "got 'é'" in refused("--prompt", *start, "--prompt", "[é")
    assert "got none" in refused("--prompt", *start, "--prompt", "")
    (tmp_path / "file").touch()
    assert "cannot be made a directory" in refused("--out", *start, "--out", tmp_path / "file")
    refused("'--temperature'", *start, "--temperature", "-1")
    refused("'--minutes'", *start, "--minutes", "0")
    refused("'--dropout'", *start, "--dropout", "1.5")


def test_demo_refuses_a_file_that_is_no_checkpoint_of_its_own(text, tmp_path):
    assert "cannot be read" in refused("--load", "demo", "--load", tmp_path / "none")
    assert "cannot be read" in refused("--load", "demo", "--load", text)
    other = tmp_path / "other.safetensors"
    rk.save(other, {"weight": np.zeros(3, np.float32)})
    assert "expected a checkpoint of format 'rnnkern-charlm-1', got None" in refused("--load", "demo", "--load", other)
    config = json.dumps({"vocabulary": "ab", "embedding_dim": 2, "hidden_size": 2, "num_layers": 1, "dropout": 0})
    rk.save(other, {"weight": np.zeros(3, np.float32)}, {"format": "rnnkern-charlm-1", "config": config})
    assert "its parts do not fit together" in refused("--load", "demo", "--load", other)


def test_demo_says_when_the_training_diverges(text, tmp_path):
    result = rnnkern("demo", "--text", text, "--out", tmp_path / "out", *TINY, "--lr", "1e39")
    assert result.exit_code == 1
    assert "became nan after" in result.stderr and "smaller --lr" in result.stderr


@pytest.mark.parametrize(
    ("missing", "arguments"), [("typer", ["info"]), ("rich", ["demo"]), ("matplotlib", ["demo", "--minutes", "60"])]
)
def test_a_missing_package_is_named_with_what_to_install(missing, arguments):
    program = f"import sys; sys.modules[{missing!r}] = None\nfrom rnnkern.cli import app; app({arguments!r})"
    if missing == "typer":
        program = program.replace(f"app({arguments!r})", "app()")  # what the entry point calls
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert missing in done.stderr and "pip install 'rnnkern[cli]'" in done.stderr and "Traceback" not in done.stderr


# --- the parts of the demo -----------------------------------------------------------------------------------------


def test_windows_are_contiguous_streams_of_the_training_part_alone():
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 1000)))  # every character once: a code is its own place
    corpus = Corpus.from_text(text, batch=3, seq_len=50)
    assert len(corpus.held_out) == 100 and len(corpus.train) == 900
    assert not set(corpus.held_out) & set(corpus.train)
    windows = corpus.windows(3, 50, np.random.default_rng(0))
    starts = 0
    end = None
    for _ in range(12):
        x, y, anew = next(windows)
        assert x.shape == y.shape == (50, 3)
        assert np.array_equal(y, (x + 1) % 900), "the target is the next character, around the end of the text"
        assert np.array_equal(x[1:], y[:-1])
        assert anew == (end is None or not np.array_equal(x[0], end))
        starts, end = starts + anew, y[-1]
    assert starts == 3  # 899 // 3 = 299 steps: five whole windows a pass


def test_topics_have_no_paragraph_twice():
    paragraphs = [" ".join(paragraph.split()) for paragraph in python_topics().split("\n\n")]
    assert len(set(paragraphs)) == len(paragraphs) > 1000


def test_encode_refuses_unknown_characters():
    assert encode("baz", "abz").tolist() == [1, 0, 2]
    with pytest.raises(TextError, match="expected characters of the model's 3, got '!c~'"):
        encode("a~b!cz~", "abz")


def test_the_learning_rate_warms_up_and_falls_to_nearly_nothing():
    rates = [learning_rate(1.0, 1000, share) for share in np.linspace(0, 1, 11)]
    assert rates[0] == 1.0 and np.all(np.diff(rates) < 0) and 0 < rates[-1] < 0.05
    assert learning_rate(1.0, 0, 0.0) < learning_rate(1.0, 10, 0.0) < 1.0
